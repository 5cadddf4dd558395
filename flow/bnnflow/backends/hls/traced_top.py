"""The top function of a C++ project, and one that prints the codes of every array or stream as it goes."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from bnnflow.backends.backend import BuildConfig, TracedTop
from bnnflow.backends.hls.hls4ml_model import to_hls4ml
from bnnflow.ir import Graph, Op

__all__ = ["traced_top"]


def traced_top(graph: Graph, config: BuildConfig, folder: Path) -> TracedTop:
    """Write the project of `graph` once more in `folder`: its top function, without and with lines that print.

    Printed are the nodes of the graph that have an array: not windows, nor nodes inside a fusion group of a project
    with io_stream, which one kernel computes on its way to the group's result.
    """
    lowest = [np.full((1, *node.shape), node.domain.lo, np.int64) for node in graph.inputs]  # any vectors will do
    model = to_hls4ml(graph, replace(config, output_dir=folder), lowest)
    model.write()
    file = f"firmware/{config.project_name}.cpp"
    text = (folder / file).read_text()
    arrays, printed = model.arrays, []
    for layer in model.get_layers():
        name, array = layer.get_attr("flow_node").name, layer.get_output_variable().name
        # A fork, which copies a node for its readers, is another layer of that node: one array of a node is printed.
        if name in graph.by_name and arrays[name] == array and graph[name].op is not Op.INPUT:
            call = f'flow_print_codes("{name}", {array}, {graph[name].size});'
            layer.set_attr("function_cpp", [*layer.get_attr("function_cpp"), call])
            printed.append(name)
    model.write()
    helpers = (files("bnnflow.hls_templates") / "flow_trace.h").read_text()
    return TracedTop(file, text, helpers + (folder / file).read_text(), tuple(printed))
