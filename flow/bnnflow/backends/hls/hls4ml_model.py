"""The graph through hls4ml: layers of ours in its ModelGraph, its project layout and scripts, our test bench.

hls4ml's Keras parser is not used: the layer list comes from the integer graph, with an explicit type on every edge.
"""

from __future__ import annotations

import string
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.cpp import call_text, config_text, has_constants, rom_text
from bnnflow.backends.hls.fifo import StreamKernel, check_depths, depths
from bnnflow.backends.hls.fusion import FusionGroup, check, copied, forked, fusion_groups, is_dataflow
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.backends.hls.ops import EMIT_HLS
from bnnflow.backends.hls.types import DIALECTS, Dialect, code_type
from bnnflow.backends.project import write_vectors
from bnnflow.errors import InputError, needed_for
from bnnflow.ir import Domain, Graph, Node, Op, clean_name
from bnnflow.ir.vectors import default_vectors

with needed_for("writing HLS C++", "hls"):
    import hls4ml
    from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
    from hls4ml.model import ModelGraph
    from hls4ml.model.layers import Layer, layer_map, register_layer
    from hls4ml.model.types import FixedPrecisionType

__all__ = ["FlowModelGraph", "to_hls4ml"]


class FlowLayer(Layer):  # type: ignore[misc]
    """An op of the integer graph inside hls4ml; what to write is in its `flow_node` and `flow_calls`.

    `flow_rom` is the name of the node that names its ROMs.
    """

    def initialize(self) -> None:
        """Declare the output with its exact type."""
        node: Node = self.get_attr("flow_node")
        self.add_output_variable(list(node.shape), precision=_precision(node.domain))
        self.set_attr("result_t", self.get_output_variable().type)


class FlowFork(FlowLayer):
    """Two copies of a node for two readers."""

    def initialize(self) -> None:
        """Declare both outputs."""
        node: Node = self.get_attr("flow_node")
        for k, name in enumerate(self.outputs, 1):
            self.add_output_variable(list(node.shape), out_name=name, var_name=f"layer{{index}}_cpy{k}",
                                     precision=_precision(node.domain))


def _layer_class(op: Op) -> type[FlowLayer]:
    """The class whose name tells hls4ml which op a layer is."""
    return type(f"Flow{op.value.capitalize()}", (FlowLayer,), {"__doc__": f"{op.name}.", "__module__": __name__})


LAYERS: dict[Op, type[FlowLayer]] = {op: _layer_class(op) for op, emit in EMIT_HLS.items() if emit is not None}
KINDS = (*LAYERS.values(), FlowFork)


class FlowConfigTemplate(LayerConfigTemplate):  # type: ignore[misc]
    """The configuration struct of a kernel call."""

    def __init__(self) -> None:
        super().__init__(KINDS)

    def format(self, node: Any) -> str:
        """Text for parameters.h."""
        calls: list[KernelCall] = node.get_attr("flow_calls")
        structs = [config_text(call, f"config{node.index}_{k}", node.model.flow_dialect)
                   for k, call in enumerate(calls)]
        return "\n".join(structs) + "\n"


class FlowCallTemplate(FunctionCallTemplate):  # type: ignore[misc]
    """The kernel call."""

    def __init__(self) -> None:
        super().__init__(KINDS)

    def transform(self, model: Any, node: Any) -> Any:
        """Name the headers, then format."""
        calls: list[KernelCall] = node.get_attr("flow_calls")
        headers = sorted({inner.header for call in calls for inner in call.calls})
        self.include_header = [f"nnet_utils/{header}" for header in headers]
        if has_constants(calls):
            self.include_header.append(f"weights/{_rom_file(node.get_attr('flow_rom'))}")
        return super().transform(model, node)

    def format(self, node: Any) -> list[str]:
        """Lines for the top function, one a call."""
        outs = [node.get_output_variable(name) for name in node.outputs]
        lines = []
        for k, call in enumerate(node.get_attr("flow_calls")):
            data = [node.get_input_variable(node.inputs[i]) for i in call.reads]
            types, arrays = [v.type.name for v in (*data, outs[0])], [v.name for v in (*data, *outs)]
            roms = [f"flow_{node.get_attr('flow_rom')}_{rom.name}" for rom in call.roms]
            lines.append(call_text(call, f"config{node.index}_{k}", types, arrays, roms))
        return lines


def _hls_name(node: Node) -> str:
    """The name inside hls4ml (the input's is a C++ variable): no keyword, no macro, none that hls4ml makes itself."""
    return f"{node.name}_{'in' if node.traits.outside else 'op'}"


def _rom_file(node: str) -> str:
    return f"flow_{node}.h"


def _precision(domain: Domain) -> FixedPrecisionType:
    """The type of an edge in hls4ml's words."""
    kind = code_type(domain)
    return FixedPrecisionType(kind.bits, kind.bits - kind.fraction, kind.signed)


def _register() -> None:
    """Teach hls4ml our layers, templates and headers; again does nothing."""
    for kind in KINDS:
        known = layer_map.get(kind.__name__)
        if known is None:
            register_layer(kind.__name__, kind)
        elif known is not kind:
            raise InputError(f"hls4ml has another layer {kind.__name__} registered")
    headers = files("bnnflow.hls_templates") / "nnet_utils"
    for name in DIALECTS:
        backend = hls4ml.backends.get_backend(name)
        registered = [f"{name.lower()}:{t().get_name()}" for t in (FlowConfigTemplate, FlowCallTemplate)]
        if not set(registered) <= set(hls4ml.model.optimizer.get_available_passes()):
            backend.register_template(FlowConfigTemplate)
            backend.register_template(FlowCallTemplate)
        for header in sorted(headers.iterdir(), key=lambda f: f.name):
            if header.name.endswith(".h"):
                with as_file(header) as path:
                    backend.register_source(path.resolve())


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

    @property
    def flow_dialect(self) -> Dialect:
        """The C++ of the backend's compilers."""
        return DIALECTS[self.config.get_config_value("Backend")]

    def write(self) -> None:
        """Write the project to OutputDir, with the vectors in `flow_vectors`."""
        with _without_keras():
            super().write()
        folder, graph = Path(self.config.get_output_dir()), self.flow_graph
        for layer in self.get_layers():
            name = layer.get_attr("flow_rom")
            text = rom_text(name, layer.get_attr("flow_calls"), self.flow_dialect) if name else ""
            if text:
                (folder / "firmware/weights" / _rom_file(name)).write_text(text)
        template = string.Template((files("bnnflow.hls_templates") / "flow_test.cpp").read_text())
        ins, outs = self.get_input_variables(), self.get_output_variables()
        bench = template.substitute(
            top=self.config.get_project_name(), arguments=", ".join(v.name for v in (*ins, *outs)),
            stream=int(self.config.get_config_value("IOType") == "io_stream"),
            declarations="\n".join(f"        {v.definition_cpp()};" for v in (*ins, *outs)),
            reads=" && ".join(f"read_codes(bench_in, {v.name}, {prod(v.shape[:-1])})" for v in ins),
            checks=" && ".join(f'check_codes(bench_out, {v.name}, {prod(v.shape[:-1])}, "{v.name}", bench_log)'
                               for v in outs),
        )
        (folder / f"{self.config.get_project_name()}_test.cpp").write_text(bench)
        write_vectors(folder, graph, self.flow_vectors)

    @property
    def arrays(self) -> dict[str, str]:
        """The C array of every node in the top function."""
        return {layer.get_attr("flow_node").name: layer.get_output_variable().name for layer in self.get_layers()
                if layer.get_attr("flow_node") is not None and type(layer) is not FlowFork}

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
    if config.backend not in DIALECTS:
        raise InputError(f"backend={config.backend!r}: hls4ml writes C++; use {' or '.join(map(repr, DIALECTS))}, or "
                         "bnnflow.build")
    check(graph, config)
    groups = fusion_groups(graph, config)
    _register()
    folded = is_dataflow(graph, config)
    layers, outputs = _layers(graph, config, groups, forks=folded)
    model: FlowModelGraph = FlowModelGraph.from_layer_list(
        _settings(graph, config, folded), layers, inputs=[_hls_name(n) for n in graph.inputs], outputs=outputs)
    _check_kept(layers, model)
    if config.io_type == "io_stream":
        kernels = stream_kernels(layers)
        room = depths(kernels)
        check_depths(kernels, room)
        for layer in model.get_layers():
            for name in layer.outputs:
                layer.get_output_variable(name).pragma = ("stream", room.get(name, 2))
    model.flow_graph = graph
    model.flow_vectors = default_vectors(graph) if vectors is None else vectors
    return model


def _settings(graph: Graph, config: BuildConfig, folded: bool) -> dict[str, Any]:
    """hls4ml's configuration: DATAFLOW where nodes are `folded` into loops, else one pipeline."""
    settings: dict[str, Any] = hls4ml.utils.config.create_config(
        output_dir=str(config.output_dir), project_name=config.project_name, backend=config.backend, part=config.part,
        clock_period=config.period, io_type=config.io_type, write_weights_txt=False,
    )
    settings["HLSConfig"] = {
        "Model": {"Precision": "fixed<16,6>", "ReuseFactor": config.reuse_factor,
                  "Strategy": "Resource" if folded else "Latency",
                  "PipelineStyle": "dataflow" if folded else "pipeline",
                  "PipelineInterval": None if folded else max(config.reuse_of(node.name) for node in graph)},
        "LayerName": {_hls_name(n): {"Precision": {"result": _text(n.domain)}} for n in graph.inputs},
    }
    return settings


def _text(domain: Domain) -> str:
    """A type in hls4ml's own notation."""
    p = _precision(domain)
    return f"{'' if p.signed else 'u'}fixed<{p.width},{p.integer}>"


def _layers(graph: Graph, config: BuildConfig, groups: Sequence[FusionGroup],
            forks: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """hls4ml's layer list and the names of the layers that are outputs.

    With `forks` every tensor has one reader: a fork makes two of it, again and again where it has more.
    """
    made = _LayerList(config, forks, Counter([*(name for group in groups for name in group.reads), *graph.outputs]))
    outputs: dict[str, str] = {}
    for group in groups:
        node, name = group.result, _hls_name(group.result)
        if node.traits.outside:
            made.add_input(node, name)
        else:
            made.add(LAYERS[group.nodes[0].op].__name__, name, group)
        made.give(node, name)
        outputs[node.name] = name
        if node.name in graph.outputs and len(made.tensors[node.name]) > 1:
            outputs[node.name] = f"{name}_result"
            copy = clean_name(f"{node.name}_result", [*graph.by_name, *(group.result.name for group in groups)])
            made.add(LAYERS[Op.GATHER].__name__, outputs[node.name], copied(node, copy, made.stream))
    return made.layers, [outputs[name] for name in graph.outputs]


class _LayerList:
    """hls4ml's layers under way, and the `tensors` of every node that are still to be read; `uses` counts readers."""

    def __init__(self, config: BuildConfig, forks: bool, uses: Counter[str]):
        self.config, self.forks, self.uses = config, forks, uses
        self.stream = config.io_type == "io_stream"
        self.layers: list[dict[str, Any]] = []
        self.tensors: dict[str, list[str]] = {}

    def add_input(self, node: Node, name: str) -> None:
        """The layer of an input."""
        shape = list(node.shape)
        self.layers.append({"class_name": "InputLayer", "name": name, "input_shape": shape, "flow_node": node})

    def add(self, kind: str, name: str, group: FusionGroup, **more: Any) -> None:
        """The layer that computes a fusion group."""
        inputs = [self.tensors[read].pop() if self.forks else self.tensors[read][0] for read in group.reads]
        self.layers.append({"class_name": kind, "name": name, "inputs": inputs, "flow_node": group.result,
                            "flow_rom": group.result.name, "flow_calls": group.calls, **more})

    def give(self, node: Node, name: str) -> None:
        """The tensor `name` of a node to its readers, by as many forks as they need."""
        self.tensors[node.name] = [name]
        for k in range(1, self.uses[node.name] if self.forks else 1):
            copies = [f"{name}_copy{k}_{i}" for i in (1, 2)]
            fork = FusionGroup(node, [node.name], [forked(node, self.stream)], (node,))
            self.add(FlowFork.__name__, f"{name}_fork{k}", fork, outputs=copies)
            self.tensors[node.name] += copies


def stream_kernels(layers: Sequence[dict[str, Any]]) -> list[StreamKernel]:
    """The kernel calls of layers, with the tensors that they read and write as streams."""
    return [StreamKernel(call, layer["inputs"], layer.get("outputs", [layer["name"]]))
            for layer in layers for call in layer.get("flow_calls", ())]


def _check_kept(layers: list[dict[str, Any]], model: ModelGraph) -> None:
    """hls4ml's passes must have left every layer, in order, with the type we gave it."""
    kept, ours = [layer.name for layer in model.get_layers()], [layer["name"] for layer in layers]
    if kept != ours:
        raise InputError(f"hls4ml changed the graph: {kept} instead of {ours}")
    for layer, wanted in zip(model.get_layers(), layers):
        want = _precision(wanted["flow_node"].domain)
        for variable in layer.get_variables():
            got = variable.type.precision
            if (got.width, got.integer, got.signed) != (want.width, want.integer, want.signed):
                raise InputError(f"hls4ml changed the type of {layer.name!r} to {got} from {want}")
