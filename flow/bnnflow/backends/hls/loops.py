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
from bnnflow.backends.hls.types import code_type
from bnnflow.ir import Node

__all__ = ["loop_of", "window_loop"]


def window_loop(node: Node, source: Node, folding: Folding, stream: bool) -> KernelCall:
    """The loop of a sum or maximum that reads `source`, with some folding."""
    if stream:
        kernel = "flow_fold" if in_memory(node, source, folding) else "flow_slide"
    else:
        kernel = "flow_positions" if folding.cycles == 1 else "flow_turns"
    return _over_windows(kernel, node, image(node, source, groups_of(node, source), folding))


def _over_windows(kernel: str, node: Node, members: dict[str, int]) -> KernelCall:
    cell = FusedKernel(node.name, KernelCall("", "", members), code_type(node.domain), members["pe"], True)
    return KernelCall(kernel, "", fused=(cell,))


def loop_of(nodes: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> KernelCall:
    """The loop of the kernel that computes `nodes` in a row; `known` are all nodes that they read."""
    head, last, stream = nodes[0], nodes[-1], config.stream
    sources = [known[name] for name in head.inputs]
    if is_netlist(nodes, known, config):
        read = sources[0] if head.traits.taps else replace(sources[0], params=None)
        return _over_windows("flow_slide" if stream else "flow_positions", last, image(last, read, 1))
    if head.traits.taps:
        return window_loop(head, sources[0], folding_of(head, sources[0], config), stream)
    kernel = "flow_all" if not stream else "flow_each" if starts(head, known) else "flow_shuffle"
    two = {"flow_all": "flow_all_two", "flow_each": "flow_pair", "flow_shuffle": "flow_shuffle_two"}
    members = {"n_pixel": prod(last.shape[:-1])}
    members |= {f"n_{place}": prod(source.shape[:-1]) for source, place in zip(sources, ("first", "second"))}
    return KernelCall(kernel if len(sources) == 1 else two[kernel], "", members, reads=tuple(range(len(sources))))
