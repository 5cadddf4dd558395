"""The graph through hls4ml: layers of ours in its ModelGraph, its project layout and scripts, our test bench.

hls4ml's Keras parser is not used: the layer list comes from the integer graph, with an explicit type on every edge.
"""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator, Sequence
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

from flow.backends.hls_ops import EMIT_HLS, Emission, rom_text
from flow.backends.project import BuildConfig, write_vectors
from flow.errors import InputError
from flow.ir import Domain, Graph, Node, Op, Steps
from flow.ir.vectors import default_vectors

__all__ = ["FlowModelGraph", "check", "to_hls4ml"]

MAX_PARTITIONED = 4096  # elements of a completely partitioned array that the vendor tools accept
BACKENDS = ("Vitis", "Vivado")


class FlowLayer(Layer):  # type: ignore[misc]
    """An op of the integer graph inside hls4ml; what to write is in its `flow_node` and `flow_emissions`."""

    def initialize(self) -> None:
        """Declare the output with its exact type."""
        node: Node = self.get_attr("flow_node")
        self.add_output_variable(list(node.shape), precision=_precision(node.domain))
        self.set_attr("result_t", self.get_output_variable().type)


class FlowGather(FlowLayer):
    """GATHER."""


class FlowDot(FlowLayer):
    """DOT."""


class FlowAdd(FlowLayer):
    """ADD."""


class FlowLut(FlowLayer):
    """LUT."""


class FlowStep(FlowLayer):
    """STEP."""


class FlowAffine(FlowLayer):
    """AFFINE."""


LAYERS: dict[Op, type[FlowLayer]] = {
    Op.GATHER: FlowGather, Op.DOT: FlowDot, Op.ADD: FlowAdd, Op.STEP: FlowStep, Op.LUT: FlowLut, Op.AFFINE: FlowAffine,
}


class FlowConfigTemplate(LayerConfigTemplate):  # type: ignore[misc]
    """The configuration struct of a kernel call."""

    def __init__(self) -> None:
        super().__init__(tuple(LAYERS.values()))

    def format(self, node: Any) -> str:
        """Text for parameters.h."""
        emissions: list[Emission] = node.get_attr("flow_emissions")
        return "\n".join(e.config_text(f"config{node.index}_{k}") for k, e in enumerate(emissions)) + "\n"


class FlowCallTemplate(FunctionCallTemplate):  # type: ignore[misc]
    """The kernel call."""

    def __init__(self) -> None:
        super().__init__(tuple(LAYERS.values()))

    def transform(self, model: Any, node: Any) -> Any:
        """Name the headers, then format."""
        emissions: list[Emission] = node.get_attr("flow_emissions")
        rom = f"weights/{_rom_file(node.get_attr('flow_node').name)}"
        self.include_header = [*(f"nnet_utils/{e.header}" for e in emissions), rom]
        return super().transform(model, node)

    def format(self, node: Any) -> list[str]:
        """Lines for the top function, one a call."""
        out, name = node.get_output_variable(), node.get_attr("flow_node").name
        lines = []
        for k, emission in enumerate(node.get_attr("flow_emissions")):
            data = [node.get_input_variable(node.inputs[i]) for i in emission.reads]
            types = ", ".join(v.type.name for v in (*data, out))
            values = ", ".join(v.name for v in (*data, out))
            lines.append(f"nnet::{emission.kernel}<{types}, config{node.index}_{k}>"
                         f"({values}{emission.arguments(name)});")
        return lines


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
    problems += [f"node {node.name!r} is both an input and an output; let a layer stand between"
                 for node in graph.inputs if node.name in graph.outputs]
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
    flow_vectors: Sequence[NDArray[np.int64]]

    def write(self) -> None:
        """Write the project to OutputDir, with the vectors in `flow_vectors`."""
        with _without_keras():
            super().write()
        folder, graph = Path(self.config.get_output_dir()), self.flow_graph
        for layer in self.get_layers():
            emissions = layer.get_attr("flow_emissions")
            if emissions is not None:
                name = layer.get_attr("flow_node").name
                (folder / "firmware/weights" / _rom_file(name)).write_text(rom_text(name, emissions))
        template = string.Template((files("flow.hls_templates") / "flow_test.cpp").read_text())
        ins, outs = self.get_input_variables(), self.get_output_variables()
        bench = template.substitute(
            top=self.config.get_project_name(), arguments=", ".join(v.name for v in (*ins, *outs)),
            declarations="\n".join(f"        {v.definition_cpp()};" for v in (*ins, *outs)),
            reads=" && ".join(f"read_codes(bench_in, {v.name})" for v in ins),
            checks=" && ".join(f'check_codes(bench_out, {v.name}, "{v.name}", bench_log)' for v in outs),
        )
        (folder / f"{self.config.get_project_name()}_test.cpp").write_text(bench)
        write_vectors(folder, graph, self.flow_vectors)

    def relocate(self, folder: Path) -> None:
        """Make the configuration that hls4ml wrote name the final folder."""
        path = Path(self.config.get_output_dir()) / "hls4ml_config.yml"
        data = yaml.safe_load(path.read_text())
        data["OutputDir"] = str(folder)
        path.write_text(yaml.safe_dump(data))


def to_hls4ml(graph: Graph, config: BuildConfig, vectors: Sequence[NDArray[np.int64]] | None = None) -> FlowModelGraph:
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
        settings, layers, inputs=[_hls_name(n) for n in graph.inputs],
        outputs=[_hls_name(graph[name]) for name in graph.outputs])
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
    emissions = emit(node, [graph[name] for name in node.inputs])
    if node.op is not Op.GATHER:
        for emission in emissions:
            emission.members["reuse_factor"] = str(config.reuse_factor)
    return {"class_name": LAYERS[node.op].__name__, "name": _hls_name(node),
            "inputs": [_hls_name(graph[name]) for name in node.inputs], "flow_node": node, "flow_emissions": emissions}


def _check_kept(graph: Graph, model: ModelGraph) -> None:
    """hls4ml's passes must have left every node, in order, with the type we gave it."""
    kept, ours = [layer.name for layer in model.get_layers()], [_hls_name(node) for node in graph]
    if kept != ours:
        raise InputError(f"hls4ml changed the graph: {kept} instead of {ours}")
    for layer, node in zip(model.get_layers(), graph):
        got, want = layer.get_output_variable().type.precision, _precision(node.domain)
        if (got.width, got.integer, got.signed) != (want.width, want.integer, want.signed):
            raise InputError(f"hls4ml changed the type of {layer.name!r} to {got} from {want}")
