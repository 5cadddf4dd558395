"""From the graph to kernel calls: a fusion group is one call in the top function, with the tensor that it makes.

io_parallel: a group is one node, its tensor an array; a sum or maximum takes its taps from the image, so that no WINDOW
is stored. io_stream: a group is a sum, a maximum or a merge with the nodes in a row behind it that work pixel by pixel,
so that only codes are streamed. With strategy "distributed_arithmetic" groups of io_parallel are such rows, too, and
the kernel of one is a netlist. What the vendors' tools would not take is refused here, before anything is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from typing import Any

import numpy as np

from bnnflow.backends.backend import BACKENDS, BuildConfig, Kernels, option_of, unknown_nodes
from bnnflow.backends.hls.code_size import LIMITS, MOST, DesignSize, KernelSize, design_size, kernel_size
from bnnflow.backends.hls.folding import Folding, folding_of, in_memory
from bnnflow.backends.hls.kernel_call import FusedKernel, KernelCall
from bnnflow.backends.hls.netlist_kernel import netlist_kernel
from bnnflow.backends.hls.ops import EMIT_HLS
from bnnflow.backends.hls.sums import ARRAYS
from bnnflow.backends.hls.types import code_type
from bnnflow.backends.netlist.goals import AREA
from bnnflow.errors import InputError, as_given, choice
from bnnflow.ir import Graph, Index, Node, Op, Weights, Window, clean_name
from bnnflow.ir.nodes import Int

__all__ = ["ASKED", "MAX_GIVEN", "FusionGroup", "check", "check_room", "code_size", "copied", "forked", "fusion_groups",
           "is_dataflow", "is_netlist", "kernels", "prepared", "quick", "row_size", "starts", "streamed_kernels",
           "two_by_two"]

STREAMS = "nnet_flow_stream.h"
ASKED = "distributed_arithmetic"  # the strategy, as hls4ml calls it
MAX_PARTITIONED = 4096  # elements of a completely partitioned array that the vendor tools accept
MAX_STREAM = 4096  # bits of a pixel in a stream
MAX_CODE = 31  # bits of a code that the kernels hold,
MAX_BITS = {Op.STEP: 17, Op.AFFINE: 62}  # and of other ones
REUSES = tuple(4**k for k in range(9))  # that are tried where something is too large
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


def prepared(graph: Graph, config: BuildConfig) -> list[Node]:
    """The nodes that kernels compute: joins two by two, and in io_stream no images that are flattened for a sum.

    Such a sum reads the image pixel by pixel, as a convolution whose kernel is as large as the image.
    """
    nodes = two_by_two(graph)
    if not config.stream:
        return nodes
    known, readers = {node.name: node for node in nodes}, Counter(name for node in nodes for name in node.inputs)
    flat = {name for node in nodes if node.op is Op.DOT and isinstance(node.params, Weights) and node.params.groups == 1
            for name in node.inputs
            if readers[name] == 1 and name not in graph.outputs and _is_flat(known[name], known)}
    return [_whole_window(node, known[node.inputs[0]]) if node.name in flat else node for node in nodes]


def _is_flat(node: Node, known: Mapping[str, Node]) -> bool:
    """True where a node is an image as one vector."""
    if not isinstance(node.params, Index) or len(node.inputs) > 1 or len(node.shape) != 1:
        return False
    source = known[node.inputs[0]]
    flat = node.params.flat
    return len(source.shape) in (2, 3) and np.array_equal(flat, np.arange(source.size))


def _whole_window(node: Node, source: Node) -> Node:
    """An image as one vector: the taps of the one position of a window as large as the image."""
    size = source.shape[:-1]
    ones = (1,) * len(size)
    window = Window(size, ones, ones, ((0, 0),) * len(size), 1, size)
    return replace(node, op=Op.WINDOW, params=window, shape=(*ones, node.size))


def _without_windows(nodes: Sequence[Node], outputs: Sequence[str]) -> tuple[list[Node], dict[str, list[str]]]:
    """(nodes to compute, the tensors that each reads).

    Sums and maxima read the image below a WINDOW; a WINDOW that nothing else reads is not computed.
    """
    windows = {node.name: node for node in nodes if isinstance(node.params, Window)}

    def tensors(node: Node) -> list[str]:
        below = windows.get(node.inputs[0]) if node.traits.taps else None
        return list((below or node).inputs)

    reads = {node.name: tensors(node) for node in nodes}
    used = {name for names in reads.values() for name in names} | set(outputs)
    return [node for node in nodes if node.name not in windows or node.name in used], reads


def _emit(node: Node, sources: Sequence[Node], folding: Folding = Folding()) -> KernelCall:  # noqa: B008
    emit = EMIT_HLS[node.op]
    assert emit is not None
    return emit(node, sources, folding)


def _folding(head: Node, known: Mapping[str, Node], config: BuildConfig) -> Folding:
    """The folding of the kernel that begins with a node."""
    return folding_of(head, known[head.inputs[0]], config) if head.traits.taps else Folding()


def _array_calls(nodes: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> list[KernelCall]:
    """The call of a kernel of io_parallel; none for an input."""
    if is_netlist(nodes, known, config):
        return [_netlist(nodes, known, config, prod(nodes[-1].shape[:-1]))]
    return [] if nodes[0].traits.outside else [_arrayed(nodes, known, config)]


def _arrayed(group: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> KernelCall:
    """One call on arrays: a loop over positions with the nodes behind it, or a node that is computed at once."""
    head, sources = group[0], [known[name] for name in group[0].inputs]
    interval = 1 if config.is_loop(head.name) else config.reuse_of(head.name)
    if head.traits.taps:
        folding = _folding(head, known, config)
        call = _emit(head, sources, folding)
        rest = [_cell(node, known, folding.passes) for node in group[1:]]
        return replace(call, members={"interval": interval}, fused=(*call.fused, *rest))
    return _at_once(head, sources, interval)


def _at_once(node: Node, sources: Sequence[Node], interval: int = 1) -> KernelCall:
    """One call that computes all elements of a node."""
    call = _emit(node, sources)
    sizes = dict(zip(("n_in", "n_in1"), (source.size for source in sources))) | {"n_out": node.size}
    cell = FusedKernel(node.name, call, code_type(node.domain), node.size)
    return KernelCall("flow_all" if len(sources) == 1 else "flow_all_two", ARRAYS, sizes | {"interval": interval},
                      reads=call.reads, fused=(cell,))


def _stream_calls(nodes: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> list[KernelCall]:
    """The call of a kernel of io_stream; none for an input."""
    if is_netlist(nodes, known, config):
        return [replace(_netlist(nodes, known, config, 1), kernel="flow_slide", header=STREAMS)]
    return _streamed(nodes, known, config)


def _calls(nodes: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> list[KernelCall]:
    """The call that computes nodes in a row; none for an input."""
    return (_stream_calls if config.stream else _array_calls)(nodes, known, config)


def array_kernels(graph: Graph, config: BuildConfig) -> Kernels:
    """The kernels on arrays: (a node, or those of a netlist or a loop in a row; the tensors that the first reads)."""
    return _fused(graph, config, _joins_array)


def streamed_kernels(graph: Graph, config: BuildConfig) -> Kernels:
    """The kernels on streams: (nodes in a row, the tensors that the first reads)."""
    return _fused(graph, config, _joins_stream)


# True where a node is computed in the kernel that another begins: (this, that node, all nodes by name, the options).
Joins = Callable[[Node, Node, Mapping[str, Node], BuildConfig], bool]


def _joins_array(head: Node, follower: Node, known: Mapping[str, Node], config: BuildConfig) -> bool:
    if not _follows(follower, known):
        return False
    if config.is_loop(head.name) and head.traits.taps:
        return follower.traits.keeps_shape and _folding(head, known, config).cycles > 1
    own = config.layers.get(follower.name, {}).get("strategy", ASKED)  # of a node that is named
    return is_netlist((head, follower), known, config) and str(own).lower() == ASKED


def _joins_stream(head: Node, follower: Node, known: Mapping[str, Node], config: BuildConfig) -> bool:
    # Passes make some outputs of a pixel each, enough for what works element by element.
    return _follows(follower, known) and starts(head, known) and (
        follower.traits.keeps_shape or _folding(head, known, config).passes == 1)


def _fused(graph: Graph, config: BuildConfig, joins: Joins) -> Kernels:
    """All nodes that are computed, as kernels: nodes in a row as long as they join the first."""
    nodes = prepared(graph, config)
    known = {node.name: node for node in nodes}
    kept, reads = _without_windows(nodes, graph.outputs)
    only_reader = _only_readers(kept, reads, graph.outputs)
    kernels: Kernels = []
    done: set[str] = set()
    for head in kept:
        if head.name in done:
            continue
        group = [head]
        while (follower := only_reader.get(group[-1].name)) and joins(head, follower, known, config):
            group.append(follower)
        done |= {node.name for node in group}
        kernels.append((tuple(group), reads[head.name]))
    return kernels


def _only_readers(nodes: Sequence[Node], reads: Mapping[str, list[str]], outputs: Sequence[str]) -> dict[str, Node]:
    """The node that reads a tensor, for every tensor that one node reads, once, and that is no output."""
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in reads[node.name]:
            readers.setdefault(name, []).append(node)
    return {name: found[0] for name, found in readers.items() if len(found) == 1 and name not in outputs}


def is_netlist(group: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> bool:
    """True where the kernel of nodes in a row is a netlist: one is asked for, and they are no merge, nor all wires."""
    head = group[0]
    if config.strategy_of(head.name) != ASKED or len(head.inputs) != 1 or not starts(head, known):
        return False
    wires = all(node.traits.wires for node in group)
    return not wires and known[head.inputs[0]].domain.bits <= MAX_GIVEN


def _netlist(group: Sequence[Node], known: Mapping[str, Node], config: BuildConfig, copies: int) -> KernelCall:
    """One call for nodes in a row: a netlist at every position, so many `copies` of it at once."""

    def own(node: Node) -> Int:
        channels = _own_pixels(node, known)
        assert channels is not None  # or the node would be in no group
        return channels

    return netlist_kernel(group, known[group[0].inputs[0]], own, config.netlist_of(group[0].name), copies)


def _pixels(node: Node) -> int:
    return prod(node.shape[:-1])


def _width(node: Node) -> int:
    """Bits of a pixel."""
    return node.shape[-1] * node.domain.bits


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
    return node.traits.pixelwise or (node.op is Op.GATHER and _own_pixels(node, known) is not None)


def starts(node: Node, known: Mapping[str, Node]) -> bool:
    """True where a kernel that works pixel by pixel can begin with the node."""
    return node.traits.taps or _local(node, known)


def _follows(node: Node, known: Mapping[str, Node]) -> bool:
    """True where the node can be computed behind another, in the same kernel."""
    return len(node.inputs) == 1 and _local(node, known)


def _cell(node: Node, known: Mapping[str, Node], passes: int = 1) -> FusedKernel:
    """A local node as a kernel of one pixel, or of one of several passes over its elements."""
    sources = [replace(known[name], shape=known[name].shape[-1:]) for name in node.inputs]
    own = _own_pixels(node, known) if node.op is Op.GATHER else None
    pixel = replace(node, shape=node.shape[-1:], params=node.params if own is None else Index(own))
    call = _emit(pixel, sources)
    call = call if passes == 1 else call.of_pass(passes)
    return FusedKernel(node.name, call, code_type(node.domain), node.shape[-1] // passes)


def _streamed(group: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> list[KernelCall]:
    """One call for nodes in a row; none for an input."""
    head, last = group[0], group[-1]
    if head.traits.outside:
        return []
    sources = [known[name] for name in head.inputs]
    members = _stream_members(last, sources)
    reads = tuple(range(len(sources)))
    if not starts(head, known):
        kernel = "flow_shuffle" if len(sources) == 1 else "flow_shuffle_two"
        return [KernelCall(kernel, STREAMS, members, roms=_emit(head, sources).roms, reads=reads)]
    folding = _folding(head, known, config)
    rest = [_cell(node, known, folding.passes) for node in group[1:]]
    if head.traits.taps:
        call = _emit(head, sources, folding)
        kernel = "flow_fold" if in_memory(head, sources[0], folding) else "flow_slide"
        return [replace(call, kernel=kernel, header=STREAMS, fused=(*call.fused, *rest))]
    kernel = "flow_each" if len(sources) == 1 else "flow_pair"
    return [KernelCall(kernel, STREAMS, members, reads=reads, fused=(_cell(head, known), *rest))]


def _stream_members(node: Node, sources: Sequence[Node]) -> dict[str, int]:
    members = {"n_pixel": _pixels(node), "n_chan": node.shape[-1]}
    for source, place in zip(sources, ("first", "second")):
        members |= {f"n_{place}": _pixels(source), f"c_{place}": source.shape[-1]}
    return members


def forked(node: Node, stream: bool) -> KernelCall:
    """Two copies of a node, one for each of two readers."""
    if stream:
        return KernelCall("flow_split", STREAMS, _stream_members(node, []))
    return KernelCall("flow_fork", ARRAYS, {"n_in": node.size})


def copied(node: Node, name: str, stream: bool) -> FusionGroup:
    """The node again under another name: an output that is read inside, too."""
    copy = Node(name, Op.GATHER, (node.name,), node.shape, node.domain, Index(np.arange(node.size)))
    known = {node.name: node}
    calls = _streamed([copy], known, BuildConfig(io_type="io_stream")) if stream else [_at_once(copy, [node])]
    return FusionGroup(copy, [node.name], calls, (copy,))


def kernels(graph: Graph, config: BuildConfig) -> Kernels:
    """The nodes that each kernel computes, and the tensors that it reads."""
    return (streamed_kernels if config.stream else array_kernels)(graph, config)


def fusion_groups(graph: Graph, config: BuildConfig) -> list[FusionGroup]:
    """The calls of kernels that compute the graph."""
    known = {node.name: node for node in prepared(graph, config)}
    return [FusionGroup(nodes[-1], reads, _calls(nodes, known, config), nodes)
            for nodes, reads in kernels(graph, config)]


def is_dataflow(graph: Graph, config: BuildConfig) -> bool:
    """True where the top function is DATAFLOW: kernels are functions of their own, and every tensor has one reader."""
    return config.stream or any(config.is_loop(node.name) for node in graph)


def code_size(graph: Graph, config: BuildConfig) -> DesignSize:
    """The instructions that an HLS compiler is left with of the project, kernel by kernel.

    A kernel has the name of its last node. Raises InputError where the graph cannot become a project.
    """
    groups, apart = fusion_groups(graph, config), is_dataflow(graph, config)
    uses = Counter([*(name for group in groups for name in group.reads), *graph.outputs])
    sizes: list[KernelSize] = []
    for group in groups:
        node = group.result
        forks = [forked(node, config.stream)] * (uses[node.name] - 1) if apart else []
        if group.calls or forks:
            sizes.append(kernel_size(node.name, [*group.calls, *forks], not apart))
    ends = [*graph.inputs, *(graph[name] for name in graph.outputs)]
    return design_size(sizes, not apart, sum(node.size for node in ends))


def row_size(nodes: Sequence[Node], known: Mapping[str, Node], config: BuildConfig) -> tuple[int, bool]:
    """(Instructions, True where nothing of it is refused) of nodes in a row, each the only reader of the one before,
    in a DATAFLOW design; `known` are all nodes that they read.
    """
    joins = _joins_stream if config.stream else _joins_array
    rows: list[list[Node]] = []
    for node in nodes:
        if rows and joins(rows[-1][0], node, known, config):
            rows[-1].append(node)
        else:
            rows.append([node])
    sizes = [kernel_size(row[-1].name, _calls(row, known, config), False) for row in rows]
    taken = all(max(size.own, default=0) <= MOST["function"] for size in sizes)
    return (sum(size.instructions + 1 for size in sizes),  # and a call of each
            taken and not (config.stream and any(_width(row[-1]) > MAX_STREAM for row in rows)))


# --- what is refused ------------------------------------------------------------------------------------------------

Problems = Iterator[str]


def check(graph: Graph, config: BuildConfig) -> None:
    """Refuse what g++ would accept and the vendor tools would not: all nodes at once, with the remedy."""
    groups = [nodes for nodes, _ in kernels(graph, config)]
    problems = [problem for find in CHECKS for problem in find(graph, config, groups)]
    _refuse(problems or list(_too_long(graph, config, groups)))


def check_room(graph: Graph, config: BuildConfig) -> None:
    """Refuse what no folding and no part can cure, as `check` does."""
    groups = [nodes for nodes, _ in kernels(graph, config)]
    _refuse([problem for find in ALWAYS for problem in find(graph, config, groups)])


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise InputError("this graph cannot become an HLS project:\n  - " + "\n  - ".join(problems))


def _too_large(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Pixels wider than a stream, arrays larger than the tools partition, and whether the other io_type has room."""
    found = list(_past_room(graph, config, groups))
    if found:
        other = replace(config, io_type="io_parallel" if config.stream else "io_stream")
        also = f", or {as_given(io_type=other.io_type)}" if _passes(graph, other) else ""
        yield from (f"{problem}{also}" for problem in found)


def _past_room(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """What the io_type has no room for."""
    for node in (nodes[-1] for nodes in groups):
        if config.stream and _width(node) > MAX_STREAM:
            yield (f"node {node.name!r}: a pixel of {node.shape[-1]} codes is {_width(node)} bits wide, a stream at "
                   f"most {MAX_STREAM}: use fewer channels, planes or neurons")
        if not config.stream and node.size > MAX_PARTITIONED:
            yield (f"node {node.name!r} has {node.size} elements; the vendor tools partition at most "
                   f"{MAX_PARTITIONED} in io_parallel: use fewer inputs, planes or neurons")


def _too_wide(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Codes that the kernels' arithmetic does not hold."""
    for node in graph:
        most = MAX_BITS.get(node.op, MAX_CODE)
        if node.domain.bits > most:
            yield (f"node {node.name!r}: {node.domain.bits}-bit codes, the kernels hold at most {most}; use fewer bits "
                   "or inputs")


def _passed_on(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Inputs that are outputs, too."""
    for node in graph.inputs:
        if node.name in graph.outputs:
            yield f"node {node.name!r} is both an input and an output; let a layer stand between"


def _no_node(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Options for nodes that are not there."""
    return unknown_nodes(graph, config)


def _no_kernel(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Options for nodes that another node's kernel computes, or none."""
    heads = {node.name: nodes[0].name for nodes in groups for node in nodes if not nodes[0].traits.outside}
    for name in graph.by_name:
        if name in config.layers and heads.get(name) != name:
            yield f"{option_of(name)} names {name!r}, which " + (
                f"is computed by the kernel of {heads[name]!r}; name that node" if name in heads else
                "has no kernel of its own; leave it out")


def _not_folded(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Foldings of nodes that are not folded, and those that a node cannot have."""
    known = {node.name: node for node in prepared(graph, config)}
    for node in graph:
        asked = [key for key in ("pe", "simd") if key in config.layers.get(node.name, {})]
        if not asked:
            continue
        if not node.traits.taps:
            yield (f"node {node.name!r}: {' and '.join(asked)} fold sums and maxima, and this node is neither; leave "
                   "them out")
        elif config.strategy_of(node.name) == ASKED or not (config.stream or config.is_loop(node.name)):
            row = config.layers[node.name]
            others = replace(config, io_type="io_stream", strategy="Latency").strategy_of(node.name) != ASKED
            yield (f"node {node.name!r}: {' and '.join(asked)} fold a loop; with "
                   f"{as_given(layers={node.name: {**row, 'strategy': 'Resource'}})}"
                   + f", or {as_given(io_type='io_stream', strategy='Latency')}" * others + ", there is one")
        else:
            try:
                folding_of(node, known[node.inputs[0]], config)
            except InputError as error:
                yield str(error)


def _reused_netlists(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Netlists with a reuse factor: nothing of them can be used again."""
    for head in (nodes[0] for nodes in groups if not nodes[0].traits.outside):
        if config.strategy_of(head.name) == ASKED and config.reuse_of(head.name) != 1:
            yield (f"node {head.name!r}: a netlist takes an input every cycle; reuse_factor "
                   f"{config.reuse_of(head.name)} has nothing to share: use "
                   f"{as_given(layers={head.name: {'reuse_factor': 1}})}, or strategy Latency or Resource")


def _no_netlists(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """What netlists are to be best at, where there are none."""
    heads = [nodes[0].name for nodes in groups if not nodes[0].traits.outside]
    strategy = as_given(strategy=ASKED)
    remedy = choice(as_given(backend=name) for name, backend in BACKENDS.items() if backend.one_netlist)
    if config.netlist != AREA and not any(config.strategy_of(name) == ASKED for name in heads):
        yield f"{as_given(netlist=config.netlist)}: no node is a netlist; use {strategy} or {remedy}"
    for name in heads:
        if "netlist" in config.layers.get(name, {}) and config.strategy_of(name) != ASKED:
            row = {**config.layers[name], "strategy": ASKED}
            yield f"node {name!r}: it is no netlist; use {as_given(layers={name: row})} or {remedy}"


def _too_long(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]]) -> Problems:
    """Functions, or designs, of which HLS compilers would not take the instructions, with a folding that they take."""
    size = code_size(graph, config)
    if not size.past(MOST):
        return
    remedy = _shorter(graph, config, groups, size) or "use fewer inputs, planes or neurons"
    large = [kernel for kernel in size.kernels if max(kernel.own, default=0) > MOST["function"]]
    for kernel in large:
        yield (f"node {kernel.node!r} becomes a function of {max(kernel.own):,} instructions; HLS compilers stop "
               f"unrolling at {MOST['function']:,}: {remedy}")
    if not large:
        in_top = size.inside > MOST["function"]
        most = max(size.kernels, key=lambda kernel: kernel.inside if in_top else kernel.instructions)
        what, count = ("the top function", size.inside) if in_top else ("the design", size.instructions)
        yield (f"{what} has {count:,} instructions, {most.inside if in_top else most.instructions:,} of them of node "
               f"{most.node!r}; HLS compilers stop unrolling at {MOST['function' if in_top else 'design']:,}: {remedy}")


def _shorter(graph: Graph, config: BuildConfig, groups: Sequence[tuple[Node, ...]], size: DesignSize) -> str:
    """What makes the project small enough, found by trying: loops of the largest kernels, of all, or streams.

    Nothing where nothing does.
    """
    heads = {nodes[-1].name: nodes[0] for nodes in groups}
    large = [heads[kernel.node].name for kernel in sorted(size.kernels, key=lambda kernel: -kernel.instructions)
             if heads[kernel.node].traits.taps]
    return _first_that_passes(graph, config, chain(_of_some(config, large), _of_all(config)), MOST)


def quick(graph: Graph, config: BuildConfig) -> str:
    """What makes a project one that is known to do HLS compilers no harm, found by trying; nothing where nothing does.
    """
    return _first_that_passes(graph, config, _of_all(config), LIMITS)


Tries = Iterator[tuple[dict[str, Any], str]]


def _first_that_passes(graph: Graph, config: BuildConfig, tries: Tries, limits: Mapping[str, int]) -> str:
    return next((said for options, said in tries if _passes(graph, replace(config, **options), limits)), "")


def _of_some(config: BuildConfig, large: Sequence[str]) -> Tries:
    """(Options that fold the first of the `large` nodes more and more, how to give them)."""
    strategy = {} if config.stream else {"strategy": "Resource"}
    for count in (1, 2, 4):
        for reuse in REUSES:
            own = {name: {**config.layers.get(name, {}), **strategy, "reuse_factor": reuse} for name in large[:count]}
            own = {name: {key: value for key, value in options.items() if key not in ("pe", "simd")}
                   for name, options in own.items()}
            if len(own) == count:
                yield {"layers": {**config.layers, **own}}, f"use {as_given(layers={**config.layers, **own})}"


def _of_all(config: BuildConfig) -> Tries:
    """(Options that fold all nodes more and more, how to give them)."""
    for io_type in dict.fromkeys((config.io_type, "io_stream")):
        for reuse in REUSES:
            options: dict[str, Any] = {"strategy": "Resource", "reuse_factor": reuse, "layers": {}}
            options |= {"io_type": io_type} if io_type != config.io_type else {}
            alone = " without options of nodes" if config.layers else ""
            yield options, f"use {as_given(**{k: v for k, v in options.items() if k != 'layers'})}{alone}"


def _passes(graph: Graph, config: BuildConfig, limits: Mapping[str, int] = MOST) -> bool:
    """True where nothing is refused, and the size of the code is within limits."""
    try:
        groups = [nodes for nodes, _ in kernels(graph, config)]
        checks = [_past_room if find is _too_large else find for find in CHECKS]
        return not any(problem for find in checks for problem in find(graph, config, groups)) and not code_size(
            graph, config).past(limits)
    except InputError:
        return False


ALWAYS = (_too_large, _too_wide, _passed_on, _no_node)  # whatever the folding is
CHECKS = (*ALWAYS, _no_kernel, _not_folded, _reused_netlists, _no_netlists)
