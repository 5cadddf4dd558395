"""PASSES: pure functions Graph -> Graph that change the form and never the meaning.

Beside them, `split_encoder` and `argmax` make graphs of another meaning out of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from bnnflow.errors import InputError
from bnnflow.ir.domain import Domain
from bnnflow.ir.graph import Graph
from bnnflow.ir.nodes import Affine, Index, Int, Node, Op, Steps, clean_name

__all__ = ["PASSES", "argmax", "compose_gathers", "drop_unread", "merge_planes", "optimise", "split_encoder"]


def compose_gathers(graph: Graph) -> Graph:
    """A GATHER of GATHERs is one GATHER; a GATHER that changes nothing is its input."""
    done: dict[str, Node] = {}
    renamed: dict[str, str] = {}  # a GATHER that is gone: the node that is read in its place
    for node in graph.nodes:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        node = _through(node, done) if isinstance(node.params, Index) else node
        if node.name in graph.outputs or not _is_identity(node, done):
            done[node.name] = node
            continue
        source = done[node.inputs[0]]
        renamed[node.name] = source.name
        done[source.name] = replace(source, origin=source.origin or node.origin)
    return Graph(tuple(done.values()), graph.outputs, graph.notes)


def _is_identity(node: Node, done: dict[str, Node]) -> bool:
    """True for a GATHER that yields its only input as it is."""
    if not isinstance(node.params, Index) or len(node.inputs) != 1:
        return False
    source = done[node.inputs[0]]
    return node.shape == source.shape and np.array_equal(node.params.flat, np.arange(source.size))


def _through(node: Node, done: dict[str, Node]) -> Node:
    """A GATHER that reads what its GATHER inputs read.

    Inputs that are the output of a Keras layer (`origin`) are still read themselves, so that they can be compared.
    """
    assert isinstance(node.params, Index)
    offsets: dict[str, int] = {}

    def place(name: str) -> Int:
        offsets.setdefault(name, sum(done[other].size for other in offsets))
        return offsets[name] + np.arange(done[name].size)

    pieces = []
    for name in node.inputs:
        source = done[name]
        if isinstance(source.params, Index) and not source.origin:
            pieces.append(np.concatenate([place(below) for below in source.inputs])[source.params.flat])
        else:
            pieces.append(place(name))
    return replace(node, inputs=tuple(offsets), params=Index(np.concatenate(pieces)[node.params.flat]))


def merge_planes(graph: Graph) -> Graph:
    """Channels of a STEP that compare the same element with the same thresholds are computed once, then copied (wires).

    In an image every pixel must take its channels from the same places of a pixel, as a thermometer's planes do.
    """
    nodes: list[Node] = []
    notes: list[str] = []
    for node in graph.nodes:
        source = graph[node.inputs[0]] if node.inputs else node
        merged = None
        if isinstance(node.params, Steps) and isinstance(source.params, Index):
            merged = _merged(node, node.params, source, source.params, {*graph.by_name, *(n.name for n in nodes)})
        nodes += merged or [node]
        if merged:
            count, left = node.shape[-1], merged[1].shape[-1]
            notes.append(f"{node.name}: {count - left} of {count} planes coincide with another and are merged")
    return Graph(tuple(nodes), graph.outputs, (*graph.notes, *notes))


def _merged(node: Node, steps: Steps, source: Node, index: Index, taken: set[str]) -> list[Node] | None:
    """Wires, a STEP of the different planes, and copies of them, in place of the STEP `node` behind GATHER `source`.

    None where all planes differ, or where pixels take their channels from different places. `taken` are names.
    """
    flat = index.flat.reshape(-1, node.shape[-1])  # (pixels, channels)
    margin = np.zeros((len(steps.start), 0)) if steps.margin is None else steps.margin.reshape(len(steps.start), -1)
    rows = np.column_stack([flat[0], steps.start, steps.sign, steps.thresholds, margin])
    _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    pixels_alike = (flat - flat[:, :1] == flat[0] - flat[0, 0]).all()
    if len(first) == len(rows) or not pixels_alike:
        return None
    order = np.argsort(first)  # keep the planes in their order of first appearance
    keep, rank = first[order], np.argsort(order)
    shape = (*node.shape[:-1], len(keep))
    wires = Node(clean_name(f"{node.name}_in", taken), Op.GATHER, source.inputs, shape, source.domain,
                 Index(flat[:, keep].ravel()))
    planes = Node(clean_name(f"{node.name}_planes", taken), Op.STEP, (wires.name,), shape, node.domain,
                  Steps(steps.start[keep], steps.sign[keep], steps.thresholds[keep],
                        None if steps.margin is None else steps.margin[keep]))
    back = np.arange(len(flat))[:, None] * len(keep) + rank[inverse.ravel()]
    return [wires, planes, replace(node, op=Op.GATHER, inputs=(planes.name,), params=Index(back.ravel()))]


def drop_unread(graph: Graph) -> Graph:
    """Remove the nodes that no output depends on, but for the inputs."""
    wanted = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(node.inputs)
    return replace(graph, nodes=tuple(n for n in graph.nodes if n.name in wanted or n.traits.outside))


def split_encoder(graph: Graph) -> tuple[Graph, Graph]:
    """(front, core): the STEPs that compare an input itself (a thermometer's planes), and the network behind them.

    `front` takes the graph's inputs and yields the planes; `core` takes the planes. Running core on the result of front
    is running the graph. Raises InputError where an input is also read without a comparison.
    """
    raw, planes = _raw_and_planes(graph)
    if not planes or raw & set(graph.outputs):
        raise InputError("the graph has no thermometer, so there is no encoder to put outside")
    core = tuple(
        replace(node, op=Op.INPUT, inputs=(), params=None) if node.name in planes else node
        for node in graph.nodes if node.name not in raw
    )
    return drop_unread(replace(graph, outputs=tuple(planes))), Graph(core, graph.outputs, graph.notes)


def _raw_and_planes(graph: Graph) -> tuple[set[str], list[str]]:
    """Names of the inputs and their wires, and of the STEPs that read them; InputError where anything else does."""
    raw = {node.name for node in graph.inputs}
    planes: list[str] = []
    for node in graph.nodes:
        if isinstance(node.params, Index) and set(node.inputs) <= raw:
            raw.add(node.name)
        elif isinstance(node.params, Steps) and node.inputs[0] in raw:
            planes.append(node.name)
        elif set(node.inputs) & raw:
            raise InputError(f"node {node.name!r} ({node.op.value}) reads the input itself, not planes of a "
                             "thermometer: the encoder cannot be outside; put a LearnedThermometer first")
    return raw, planes


def argmax(graph: Graph) -> Graph:
    """The graph with classes as outputs: the place of the largest value along the last axis, the first of equal ones.

    Where an AFFINE rounds the logits and all channels have one scale, the sums in front of it are compared, so that
    rounding makes no ties. Raises InputError where an output has one channel.
    """
    nodes, outputs, notes = list(graph.nodes), [], list(graph.notes)
    for name in graph.outputs:
        source = graph[name]
        if source.shape[-1] < 2:
            raise InputError(f"output {name!r} has one channel, so there is no largest; argmax needs two or more")
        p = source.params
        if isinstance(p, Affine) and (p.mul == p.mul[0]).all() and (p.add == p.add[0]).all() and p.mul[0] > 0:
            source = graph[source.inputs[0]]
        elif isinstance(p, Affine) and p.shift:
            notes.append(f"{name}: classes are those of the rounded outputs, whose channels have scales of their own")
        shape, channels = (*source.shape[:-1], 1), source.shape[-1]
        outputs.append(clean_name(f"{name}_class", {node.name for node in nodes}))
        nodes.append(Node(outputs[-1], Op.ARGMAX, (source.name,), shape, Domain(0, channels - 1)))
    return drop_unread(Graph(tuple(nodes), tuple(outputs), tuple(notes)))


PASSES: tuple[Callable[[Graph], Graph], ...] = (compose_gathers, merge_planes, compose_gathers, drop_unread)


def optimise(graph: Graph) -> Graph:
    """The graph after all PASSES, in their order."""
    for step in PASSES:
        graph = step(graph)
    return graph
