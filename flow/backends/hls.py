"""The graph through hls4ml: layers of ours in its ModelGraph, its project layout and scripts, our test bench.

hls4ml's Keras parser is not used: the layer list comes from the integer graph, with an explicit type on every edge.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import hls4ml
import numpy as np
import yaml
from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
from hls4ml.model import ModelGraph
from hls4ml.model.layers import Layer, layer_map, register_layer
from hls4ml.model.types import FixedPrecisionType
from numpy.typing import NDArray

from flow.backends.hls_ops import EMIT_HLS, Emission
from flow.backends.project import BuildConfig, write_vectors
from flow.errors import InputError
from flow.ir import Domain, Graph, Node, Op, Steps
from flow.ir.vectors import default_vectors

__all__ = ["FlowModelGraph", "check", "to_hls4ml"]

MAX_PARTITIONED = 4096  # elements of a completely partitioned array that the vendor tools accept
BACKENDS = ("Vitis", "Vivado")


class FlowLayer(Layer):  # type: ignore[misc]
    """An op of the integer graph inside hls4ml; what to write is in its `flow_node` and `flow_emission`."""

    def initialize(self) -> None:
        """Declare the output with its exact type."""
        node: Node = self.get_attr("flow_node")
        self.add_output_variable(list(node.shape), precision=_precision(node.domain))
        self.set_attr("result_t", self.get_output_variable().type)


class FlowGather(FlowLayer):
    """GATHER."""


class FlowDot(FlowLayer):
    """DOT."""


class FlowStep(FlowLayer):
    """STEP."""


class FlowAffine(FlowLayer):
    """AFFINE."""


LAYERS: dict[Op, type[FlowLayer]] = {
    Op.GATHER: FlowGather, Op.DOT: FlowDot, Op.STEP: FlowStep, Op.AFFINE: FlowAffine,
}


class FlowConfigTemplate(LayerConfigTemplate):  # type: ignore[misc]
    """The configuration struct of a kernel call."""

    def __init__(self) -> None:
        super().__init__(tuple(LAYERS.values()))

    def format(self, node: Any) -> str:
        """Text for parameters.h."""
        emission: Emission = node.get_attr("flow_emission")
        return emission.config_text(f"config{node.index}") + "\n"


class FlowCallTemplate(FunctionCallTemplate):  # type: ignore[misc]
    """The kernel call."""

    def __init__(self) -> None:
        super().__init__(tuple(LAYERS.values()))

    def transform(self, model: Any, node: Any) -> Any:
        """Name the headers, then format."""
        emission: Emission = node.get_attr("flow_emission")
        self.include_header = [f"nnet_utils/{emission.header}", f"weights/{_rom_file(node.get_attr('flow_node').name)}"]
        return super().transform(model, node)

    def format(self, node: Any) -> str:
        """Text for the top function."""
        p, emission = self._default_function_params(node), node.get_attr("flow_emission")
        return (f"nnet::{emission.kernel}<{p['input_t']}, {p['output_t']}, {p['config']}>"
                f"({p['input']}, {p['output']}{emission.arguments(node.get_attr('flow_node').name)});")


def _hls_name(node: Node) -> str:
    """The name inside hls4ml (the input's is a C++ variable): no keyword, no macro, none that hls4ml makes itself."""
    return f"{node.name}_{'in' if node.op is Op.INPUT else 'op'}"


def _rom_file(node: str) -> str:
    return f"flow_{node}.h"


def _precision(domain: Domain) -> FixedPrecisionType:
    """The edge's type: bits are the code; where values are fixed-point numbers, they are the type's values too."""
    fraction = domain.fraction_bits or 0
    return FixedPrecisionType(domain.bits, domain.bits - fraction, domain.signed)


def _register() -> None:
    """Teach hls4ml our layers, templates and headers; again does nothing."""
    for kind in LAYERS.values():
        known = layer_map.get(kind.__name__)
        if known is None:
            register_layer(kind.__name__, kind)
        elif known is not kind:
            raise InputError(f"hls4ml has another layer {kind.__name__} registered")
    headers = files("flow.hls_templates") / "nnet_utils"
    for name in BACKENDS:
        backend = hls4ml.backends.get_backend(name)
        registered = [f"{name.lower()}:{t().get_name()}" for t in (FlowConfigTemplate, FlowCallTemplate)]
        if not set(registered) <= set(hls4ml.model.optimizer.get_available_passes()):
            backend.register_template(FlowConfigTemplate)
            backend.register_template(FlowCallTemplate)
        for header in sorted(headers.iterdir(), key=lambda f: f.name):
            if header.name.endswith(".h"):
                with as_file(header) as path:
                    backend.register_source(path.resolve())


def check(graph: Graph, config: BuildConfig) -> None:
    """Refuse what g++ would accept and the vendor tools would not: all nodes at once, with the remedy."""
    problems = [
        f"node {node.name!r} has {node.size} elements; the vendor tools partition at most {MAX_PARTITIONED} in "
        "io_parallel: use fewer inputs, planes or neurons"
        for node in graph if node.size > MAX_PARTITIONED
    ]
    problems += [f"node {node.name!r}: {node.domain.bits}-bit codes, the kernels hold at most {most}"
                 for node in graph
                 for most in [15 if isinstance(node.params, Steps) else 62 if node.op is Op.AFFINE else 31]
                 if node.domain.bits > most]
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        problems.append(f"{len(graph.inputs)} inputs and {len(graph.outputs)} outputs; one of each is supported")
    if problems:
        raise InputError("this graph cannot become an HLS project:\n  - " + "\n  - ".join(problems))


@contextmanager
def _without_keras() -> Iterator[None]:
    """hls4ml's writer tries `import keras` only to know a class. That would load Keras 3 and TensorFlow (seconds), and
    QKeras needs the legacy Keras in this process.
    """
    if "keras" in sys.modules:
        yield
        return
    sys.modules["keras"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["keras"]


class FlowModelGraph(ModelGraph):  # type: ignore[misc]
    """hls4ml's ModelGraph of an integer graph; `write` adds ROMs and our test bench to hls4ml's project."""

    flow_graph: Graph
    flow_vectors: NDArray[np.int64]

    def write(self) -> None:
        """Write the project to OutputDir, with the vectors in `flow_vectors`."""
        with _without_keras():
            super().write()
        folder, graph = Path(self.config.get_output_dir()), self.flow_graph
        for layer in self.get_layers():
            emission = layer.get_attr("flow_emission")
            if emission is not None:
                name = layer.get_attr("flow_node").name
                (folder / "firmware/weights" / _rom_file(name)).write_text(emission.rom_text(name))
        template = string.Template((files("flow.hls_templates") / "flow_test.cpp").read_text())
        bench = template.substitute(
            top=self.config.get_project_name(), n_in=graph.input.size, n_out=graph.output.size,
            input_t=self.get_input_variables()[0].type.name, output_t=self.get_output_variables()[0].type.name,
        )
        (folder / f"{self.config.get_project_name()}_test.cpp").write_text(bench)
        write_vectors(folder, graph, self.flow_vectors)

    def relocate(self, folder: Path) -> None:
        """Make the configuration that hls4ml wrote name the final folder."""
        path = Path(self.config.get_output_dir()) / "hls4ml_config.yml"
        data = yaml.safe_load(path.read_text())
        data["OutputDir"] = str(folder)
        path.write_text(yaml.safe_dump(data))


def to_hls4ml(graph: Graph, config: BuildConfig, vectors: NDArray[np.int64] | None = None) -> FlowModelGraph:
    """An hls4ml ModelGraph whose `compile()`, `predict()` and `build()` equal the graph.

    `predict` takes and returns real values; an output whose domain is not a fixed-point type (bipolar) comes as codes.
    Raises InputError for a graph that the backend cannot take.
    """
    check(graph, config)
    _register()
    settings = hls4ml.utils.config.create_config(
        output_dir=str(config.output_dir), project_name=config.project_name, backend=config.backend, part=config.part,
        clock_period=config.clock_period, io_type=config.io_type, write_weights_txt=False,
    )
    settings["HLSConfig"] = {
        "Model": {"Precision": "fixed<16,6>", "ReuseFactor": config.reuse_factor, "Strategy": "Latency",
                  "PipelineStyle": "pipeline", "PipelineInterval": config.reuse_factor},
        "LayerName": {_hls_name(n): {"Precision": {"result": _text(n.domain)}} for n in graph.inputs},
    }
    layers = [_layer(graph, node, config) for node in graph]
    model: FlowModelGraph = FlowModelGraph.from_layer_list(
        settings, layers, inputs=[_hls_name(graph.input)], outputs=[_hls_name(graph.output)])
    _check_kept(graph, model)
    model.flow_graph = graph
    model.flow_vectors = default_vectors(graph) if vectors is None else vectors
    return model


def _text(domain: Domain) -> str:
    p = _precision(domain)
    return f"{'' if p.signed else 'u'}fixed<{p.width},{p.integer}>"


def _layer(graph: Graph, node: Node, config: BuildConfig) -> dict[str, Any]:
    emit = EMIT_HLS[node.op]
    if emit is None:
        return {"class_name": "InputLayer", "name": _hls_name(node), "input_shape": list(node.shape)}
    emission = emit(node, graph[node.inputs[0]])
    if emission.kernel != "flow_gather":
        emission.members["reuse_factor"] = str(config.reuse_factor)
    return {"class_name": LAYERS[node.op].__name__, "name": _hls_name(node),
            "inputs": [_hls_name(graph[name]) for name in node.inputs], "flow_node": node, "flow_emission": emission}


def _check_kept(graph: Graph, model: ModelGraph) -> None:
    """hls4ml's passes must have left every node, in order, with the type we gave it."""
    kept, ours = [layer.name for layer in model.get_layers()], [_hls_name(node) for node in graph]
    if kept != ours:
        raise InputError(f"hls4ml changed the graph: {kept} instead of {ours}")
    for layer, node in zip(model.get_layers(), graph):
        got, want = layer.get_output_variable().type.precision, _precision(node.domain)
        if (got.width, got.integer, got.signed) != (want.width, want.integer, want.signed):
            raise InputError(f"hls4ml changed the type of {layer.name!r} to {got} from {want}")
