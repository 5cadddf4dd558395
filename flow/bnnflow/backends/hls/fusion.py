"""From the graph to kernel calls: one group is one call in the top function, with the tensor that it makes.

io_parallel: an array a node; a sum or maximum takes its taps from the image, so that no WINDOW is stored. io_stream: a
group is a chain of nodes that work pixel by pixel behind a sum, a maximum or a merge, so that only codes are streamed.
With strategy "distributed_arithmetic" a group of io_parallel is such a chain, too, and its kernel a netlist. What the
vendors' tools would not take of it is refused here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from bnnflow.backends.backend import BuildConfig, Kernels
from bnnflow.backends.hls.kernel_call import FusedKernel, KernelCall, code_type
from bnnflow.backends.hls.netlist_kernel import netlist_kernel
from bnnflow.backends.hls.ops import EMIT_HLS
from bnnflow.backends.hls.sums import passes
from bnnflow.errors import InputError
from bnnflow.ir import Graph, Index, Node, Op, Steps, clean_name
from bnnflow.ir.nodes import Int

__all__ = ["ASKED", "FusionGroup", "chained", "check", "copied", "forked", "fusion_groups", "is_netlist", "kernels"]

STREAMS = "nnet_flow_stream.h"
ASKED = "distributed_arithmetic"  # the strategy, as hls4ml calls it
MAX_PARTITIONED = 4096  # elements of a completely partitioned array that the vendor tools accept
MAX_STREAM = 4096  # bits of a pixel in a stream
MAX_GIVEN = 24  # bits of a code that a graph, hence a netlist, can begin with


@dataclass(frozen=True)
class FusionGroup:
    """Calls of kernels that make `result` of the tensors `reads`; `nodes` are the graph's nodes that they compute."""

    result: Node
    reads: list[str]
    calls: list[KernelCall]
    nodes: tuple[Node, ...]


def two_by_two(graph: Graph) -> list[Node]:
    """The graph's nodes, with a GATHER of many inputs as a row of GATHERs of two."""
    nodes: list[Node] = []
    for node in graph:
        if isinstance(node.params, Index) and len(node.inputs) > 2:
            joined = graph[node.inputs[0]]
            for other in node.inputs[1:-1]:
                size = joined.size + graph[other].size
                name = clean_name(f"{node.name}_join", [*graph.by_name, *(n.name for n in nodes)])
                joined = Node(name, Op.GATHER, (joined.name, other), (size,), node.domain, Index(np.arange(size)))
                nodes.append(joined)
            node = replace(node, inputs=(joined.name, node.inputs[-1]))
        nodes.append(node)
    return nodes


def _without_windows(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[list[Node], dict[str, list[str]]]:
    """(nodes to compute, the tensors that each reads): a WINDOW that only sums and maxima read is none of them."""
    known = {node.name: node for node in nodes}
    reads = {node.name: list(node.inputs) for node in nodes}
    for node in nodes:
        if node.op in (Op.DOT, Op.MAX) and known[node.inputs[0]].op is Op.WINDOW:
            reads[node.name] = list(known[node.inputs[0]].inputs)
    used = {name for names in reads.values() for name in names} | set(outputs)
    return [node for node in nodes if node.op is not Op.WINDOW or node.name in used], reads


def _emit(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    emit = EMIT_HLS[node.op]
    assert emit is not None
    return emit(node, sources)


def in_parallel(graph: Graph, config: BuildConfig) -> list[FusionGroup]:
    """A group a node, or a netlist a chain."""
    known = {node.name: node for node in two_by_two(graph)}
    groups = []
    for chain, reads in single(graph, config):
        calls: list[KernelCall] = []
        if is_netlist(chain, known, config):
            calls = [_netlist(chain, known, prod(chain[-1].shape[:-1]))]
        elif chain[0].op is not Op.INPUT:
            calls = _emit(chain[0], [known[name] for name in chain[0].inputs])
        groups.append(FusionGroup(chain[-1], reads, calls, chain))
    return groups


def in_stream(graph: Graph, config: BuildConfig) -> list[FusionGroup]:
    """A group a chain."""
    known = {node.name: node for node in two_by_two(graph)}
    groups = []
    for chain, reads in chained(graph, config):
        if is_netlist(chain, known, config):
            calls = [replace(_netlist(chain, known, 1), kernel="flow_slide", header=STREAMS)]
        else:
            calls = _streamed(chain, known)
        groups.append(FusionGroup(chain[-1], reads, calls, chain))
    return groups


def single(graph: Graph, config: BuildConfig) -> Kernels:
    """(node, or those of a netlist in a row, the tensors that the first reads) of every kernel on arrays."""

    def joins(chain: Sequence[Node], follower: Node, known: Mapping[str, Node]) -> bool:
        own = config.layers.get(follower.name, {}).get("strategy", ASKED)  # of a node that is named
        return is_netlist((chain[0], follower), known, config) and str(own).lower() == ASKED

    return _chains(graph, joins)


def chained(graph: Graph, config: BuildConfig) -> Kernels:
    """(nodes in a row, the tensors that the first reads) of every kernel on streams."""
    return _chains(graph, lambda chain, follower, known: _starts(chain[0], known))


def _chains(graph: Graph, joins: Callable[[Sequence[Node], Node, Mapping[str, Node]], bool]
            ) -> Kernels:
    """All nodes that are computed, those in a row that `joins` puts into one kernel together."""
    nodes = two_by_two(graph)
    known = {node.name: node for node in nodes}
    kept, reads = _without_windows(nodes, graph.outputs)
    readers: dict[str, list[Node]] = {node.name: [] for node in nodes}
    for node in kept:
        for name in reads[node.name]:
            readers[name].append(node)
    chains: list[tuple[tuple[Node, ...], list[str]]] = []
    done: set[str] = set()
    for node in kept:
        if node.name in done:
            continue
        chain = [node]
        while len(readers[chain[-1].name]) == 1 and chain[-1].name not in graph.outputs:
            follower = readers[chain[-1].name][0]
            if not joins(chain, follower, known) or not _follows(follower, known):
                break
            chain.append(follower)
        done |= {n.name for n in chain}
        chains.append((tuple(chain), reads[node.name]))
    return chains


def is_netlist(chain: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> bool:
    """True where a chain's kernel is a netlist: asked for, and more than a merge of two tensors or wires."""
    head = chain[0]
    if config.strategy_of(head.name) != ASKED or len(head.inputs) != 1 or not _starts(head, known):
        return False
    wires = all(node.op is Op.GATHER for node in chain)
    return not wires and known[head.inputs[0]].domain.bits <= MAX_GIVEN


def _netlist(chain: Sequence[Node], known: Mapping[str, Node], copies: int) -> KernelCall:
    """One call for a chain: a netlist at every position, so many of them at once."""
    return netlist_kernel(chain, known[chain[0].inputs[0]], lambda node: _own_pixels(node, known), copies)


def _pixels(node: Node) -> int:
    return prod(node.shape[:-1])


def _own_pixels(node: Node, known: Mapping[str, Node]) -> Int | None:
    """Of a GATHER that takes every pixel from the same pixels of its inputs, the channels of one; else None."""
    assert isinstance(node.params, Index)
    sources, pixels = [known[name] for name in node.inputs], _pixels(node)
    if any(_pixels(source) != pixels for source in sources):
        return None
    widths = [source.shape[-1] for source in sources]
    # Of every element of the inputs, which pixel it is in, and its channel among those of all inputs.
    pixel = np.concatenate([np.repeat(np.arange(pixels), n) for n in widths])
    channel = np.concatenate([np.tile(np.arange(n) + sum(widths[:k]), pixels) for k, n in enumerate(widths)])
    flat = node.params.flat.reshape(pixels, -1)
    own = (pixel[flat] == np.arange(pixels)[:, None]).all() and (channel[flat] == channel[flat[:1]]).all()
    return channel[flat[0]] if own else None


def _local(node: Node, known: Mapping[str, Node]) -> bool:
    """True where a pixel of the result is made of the same pixel of the inputs."""
    if node.op is Op.GATHER:
        return _own_pixels(node, known) is not None
    return node.op in (Op.STEP, Op.LUT, Op.ADD, Op.AFFINE, Op.ARGMAX)


def _starts(node: Node, known: Mapping[str, Node]) -> bool:
    return node.op in (Op.DOT, Op.MAX) or _local(node, known)


def _follows(node: Node, known: Mapping[str, Node]) -> bool:
    return len(node.inputs) == 1 and _local(node, known)


def _cell(node: Node, known: Mapping[str, Node]) -> FusedKernel:
    """A local node as a kernel of one pixel."""
    sources = [replace(known[name], shape=known[name].shape[-1:]) for name in node.inputs]
    own = _own_pixels(node, known) if node.op is Op.GATHER else None
    pixel = replace(node, shape=node.shape[-1:], params=node.params if own is None else Index(own))
    (call,) = _emit(pixel, sources)
    return FusedKernel(node.name, call, code_type(node.domain), node.shape[-1])


def _streamed(chain: Sequence[Node], known: Mapping[str, Node]) -> list[KernelCall]:
    """One call for a chain."""
    head, last = chain[0], chain[-1]
    if head.op is Op.INPUT:
        return []
    sources = [known[name] for name in head.inputs]
    members = _stream_members(last, sources)
    reads = tuple(range(len(sources)))
    if not _starts(head, known):
        (call,) = _emit(head, sources)
        kernel = "flow_shuffle" if len(sources) == 1 else "flow_shuffle_two"
        return [KernelCall(kernel, STREAMS, members, roms=call.roms, reads=reads)]
    rest = [_cell(node, known) for node in chain[1:]]
    if head.op in (Op.DOT, Op.MAX):
        (call,) = _emit(head, sources)
        return [replace(call, kernel="flow_slide", header=STREAMS, fused=(*call.fused, *rest))]
    kernel = "flow_each" if len(sources) == 1 else "flow_pair"
    return [KernelCall(kernel, STREAMS, members, reads=reads, fused=(_cell(head, known), *rest))]


def _stream_members(node: Node, sources: Sequence[Node]) -> dict[str, str]:
    members = {"n_pixel": _pixels(node), "n_chan": node.shape[-1]}
    for source, place in zip(sources, ("first", "second")):
        members |= {f"n_{place}": _pixels(source), f"c_{place}": source.shape[-1]}
    return {key: str(value) for key, value in members.items()}


def forked(node: Node, stream: bool) -> KernelCall:
    """Two copies of a node, one for each of two readers."""
    if stream:
        return KernelCall("flow_split", STREAMS, _stream_members(node, []))
    return KernelCall("flow_fork", "nnet_flow_gather.h", {"n_in": str(node.size)})


def copied(node: Node, name: str, stream: bool) -> FusionGroup:
    """The node again under another name: an output that is read inside, too."""
    copy = Node(name, Op.GATHER, (node.name,), node.shape, node.domain, Index(np.arange(node.size)))
    known = {node.name: node}
    calls = _streamed([copy], known) if stream else _emit(copy, [node])
    return FusionGroup(copy, [node.name], calls, (copy,))


def kernels(graph: Graph, config: BuildConfig) -> Kernels:
    """The nodes that each kernel computes, and the tensors that it reads."""
    return (chained if config.io_type == "io_stream" else single)(graph, config)


def fusion_groups(graph: Graph, config: BuildConfig) -> list[FusionGroup]:
    """The calls of kernels that compute the graph."""
    return (in_stream if config.io_type == "io_stream" else in_parallel)(graph, config)


def check(graph: Graph, config: BuildConfig) -> None:
    """Refuse what g++ would accept and the vendor tools would not: all nodes at once, with the remedy."""
    problems, chains = [], [nodes for nodes, _ in kernels(graph, config)]
    for node in (nodes[-1] for nodes in chains):
        width = node.shape[-1] * node.domain.bits
        if config.io_type == "io_stream" and width > MAX_STREAM:
            problems.append(f"node {node.name!r}: a pixel of {node.shape[-1]} codes is {width} bits wide, a stream at "
                            f"most {MAX_STREAM}: use fewer channels, planes or neurons")
        if config.io_type == "io_parallel" and node.size > MAX_PARTITIONED:
            problems.append(f"node {node.name!r} has {node.size} elements; the vendor tools partition at most "
                            f"{MAX_PARTITIONED} in io_parallel: use fewer inputs, planes or neurons, or io_stream")
    problems += [f"node {node.name!r}: {node.domain.bits}-bit codes, the kernels hold at most {most}"
                 for node in graph
                 for most in [15 if isinstance(node.params, Steps) else 62 if node.op is Op.AFFINE else 31]
                 if node.domain.bits > most]
    problems += [f"node {node.name!r} is both an input and an output; let a layer stand between"
                 for node in graph.inputs if node.name in graph.outputs]
    problems += [f"layers names {name!r}, which is no node; the nodes are {', '.join(n.name for n in graph)}"
                 for name in config.layers if name not in graph.by_name]
    heads = {nodes[0].name: nodes for nodes in chains if nodes[0].op is not Op.INPUT}
    for name in graph.by_name:
        if name in config.layers and name not in heads:
            within = next((head for head, nodes in heads.items() if name in {n.name for n in nodes}), None)
            problems.append(f"layers names {name!r}, which is " + (
                f"computed by the kernel of {within!r}; name that node" if within else "no kernel of its own"))
    for node in graph:
        wanted, possible = config.reuse_of(node.name), passes(node)
        loops = config.strategy_of(node.name) == "resource" and config.io_type == "io_parallel"
        if loops and possible and wanted not in possible:
            problems.append(f"node {node.name!r}: reuse_factor {wanted} does not share its {node.size} outputs evenly; "
                            f"use {', '.join(map(str, possible))}, for this node alone with layers={{{node.name!r}: "
                            "{'reuse_factor': ...}}")
    problems += [f"node {name!r}: a netlist takes an input every cycle; reuse_factor {config.reuse_of(name)} has "
                 f"nothing to share: use layers={{{name!r}: {{'reuse_factor': 1}}}}, or 'Latency' or 'Resource'"
                 for name in heads if config.strategy_of(name) == ASKED and config.reuse_of(name) != 1]
    if problems:
        raise InputError("this graph cannot become an HLS project:\n  - " + "\n  - ".join(problems))
