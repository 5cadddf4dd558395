"""The top function of a C++ project, and the lines with which it prints the codes of every array or stream."""

from __future__ import annotations

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from bnnflow.backends.backend import BuildConfig, TracedTop
from bnnflow.backends.hls.hls4ml_model import to_hls4ml
from bnnflow.ir import Graph

__all__ = ["traced_top"]


def traced_top(graph: Graph, config: BuildConfig, folder: Path) -> TracedTop:
    """Write the project of `graph` once more in `folder`: its top function, and the lines that print.

    Printed are the nodes of the graph that have an array: not windows, nor nodes inside a fusion group of a project
    with io_stream, which one kernel computes on its way to the group's result.
    """
    lowest = [np.full((1, *node.shape), node.domain.lo, np.int64) for node in graph.inputs]  # any vectors will do
    model = to_hls4ml(graph, replace(config, output_dir=folder), lowest)
    model.write()
    file = f"firmware/{config.project_name}.cpp"
    text = (folder / file).read_text()
    lines, arrays = text.splitlines(), model.arrays
    prints: dict[str, tuple[int, str]] = {}
    for layer in model.get_layers():
        name, array = layer.get_attr("flow_node").name, layer.get_output_variable().name
        # A fork, which copies a node for its readers, is another layer of that node: one array of a node is printed.
        if name in graph.by_name and arrays[name] == array and not graph[name].traits.outside:
            call = layer.get_attr("function_cpp")[-1]  # the last of its calls, which hls4ml has put on a line
            at = next(number for number, line in enumerate(lines) if line.lstrip().startswith(call))
            prints[name] = at, f'    flow_print_codes("{name}", {array}, {graph[name].size});'
    return TracedTop(file, text, prints, (files("bnnflow.hls_templates") / "flow_trace.h").read_text())
