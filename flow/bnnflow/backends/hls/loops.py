"""The loop of a kernel without its constants: what cycles and sizes follow from, at once for a network of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.folding import Folding, folding_of, groups_of, in_memory
from bnnflow.backends.hls.fusion import is_netlist, starts
from bnnflow.backends.hls.kernel_call import FusedKernel, KernelCall
from bnnflow.backends.hls.sums import image
from bnnflow.backends.hls.types import code_int, code_type
from bnnflow.ir import Node

__all__ = ["loop_of", "window_loop"]


def window_loop(node: Node, source: Node, folding: Folding, stream: bool, last: Node | None = None) -> KernelCall:
    """The loop of a sum or maximum that reads `source`, with some folding; `last` is the node that the kernel makes."""
    if stream:
        kernel = "flow_fold" if in_memory(node, source, folding) else "flow_slide"
    else:
        kernel = "flow_positions" if folding.cycles == 1 else "flow_turns"
    return _over_windows(kernel, last or node, image(node, source, groups_of(node, source), folding))


def _over_windows(kernel: str, last: Node, members: dict[str, int]) -> KernelCall:
    cell = FusedKernel(last.name, KernelCall("", "", members), code_type(last.domain), members["pe"], True)
    return KernelCall(kernel, "", fused=(cell,))


def loop_of(nodes: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> KernelCall:
    """The loop of the kernel that computes `nodes` in a row; `known` are all nodes that they read."""
    head, last, stream = nodes[0], nodes[-1], config.stream
    sources = [known[name] for name in head.inputs]
    if is_netlist(nodes, known, config):
        read = sources[0] if head.traits.taps else replace(sources[0], params=None)
        return _over_windows("flow_slide" if stream else "flow_positions", last, image(last, read, 1))
    if head.traits.taps:
        return window_loop(head, sources[0], folding_of(head, sources[0], config), stream, last)
    kernel = "flow_all" if not stream else "flow_each" if starts(head, known) else "flow_shuffle"
    two = {"flow_all": "flow_all_two", "flow_each": "flow_pair", "flow_shuffle": "flow_shuffle_two"}
    members: dict[str, int] = {}
    for node, n, c in zip((last, *sources), ("n_pixel", "n_first", "n_second"), ("n_chan", "c_first", "c_second")):
        members |= {n: prod(node.shape[:-1]), c: node.shape[-1]}
    return KernelCall(kernel if len(sources) == 1 else two[kernel], "", members, {"x_t": code_int(last.domain)},
                      reads=tuple(range(len(sources))))
