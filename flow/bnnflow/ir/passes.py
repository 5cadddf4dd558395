"""PASSES: pure functions Graph -> Graph that change the form and never the meaning; and what makes other graphs of one:
`split_encoder` and `argmax`.
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
    stands_for: dict[str, str] = {}
    for node in graph.nodes:
        node = replace(node, inputs=tuple(stands_for.get(name, name) for name in node.inputs))
        if isinstance(node.params, Index):
            node = _through(node, done)
            assert isinstance(node.params, Index)
            source, flat = done[node.inputs[0]], node.params.flat
            same = len(node.inputs) == 1 and node.shape == source.shape and np.array_equal(flat, np.arange(source.size))
            if same and node.name not in graph.outputs:
                stands_for[node.name] = source.name
                if node.origin and not source.origin:
                    done[source.name] = replace(source, origin=node.origin)
                continue
        done[node.name] = node
    return Graph(tuple(done.values()), graph.outputs, graph.notes)


def _through(node: Node, done: dict[str, Node]) -> Node:
    """A GATHER that reads what its GATHER inputs read; one that is a Keras layer's output (origin) stays readable."""
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
    by_name = graph.by_name
    for node in graph.nodes:
        source = by_name[node.inputs[0]] if node.inputs else None
        steps = node.params
        if not (isinstance(steps, Steps) and source and isinstance(source.params, Index)):
            nodes.append(node)
            continue
        flat = source.params.flat.reshape(-1, node.shape[-1])  # (pixels, channels)
        margin = np.zeros((len(steps.start), 0)) if steps.margin is None else steps.margin.reshape(len(steps.start), -1)
        rows = np.column_stack([flat[0], steps.start, steps.sign, steps.thresholds, margin])
        _, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        alike = (flat - flat[:, :1] == flat[0] - flat[0, 0]).all()
        if len(first) == len(rows) or not alike:
            nodes.append(node)
            continue
        order = np.argsort(first)  # keep the planes in their order of first appearance
        keep, rank = first[order], np.argsort(order)
        taken = {*by_name, *(n.name for n in nodes)}
        shape = (*node.shape[:-1], len(keep))
        wires = Node(clean_name(f"{node.name}_in", taken), Op.GATHER, source.inputs, shape, source.domain,
                     Index(flat[:, keep].ravel()))
        planes = Node(clean_name(f"{node.name}_planes", taken), Op.STEP, (wires.name,), shape, node.domain,
                      Steps(steps.start[keep], steps.sign[keep], steps.thresholds[keep],
                            None if steps.margin is None else steps.margin[keep]))
        back = np.arange(len(flat))[:, None] * len(keep) + rank[inverse.ravel()]
        copies = replace(node, op=Op.GATHER, inputs=(planes.name,), params=Index(back.ravel()))
        nodes += [wires, planes, copies]
        notes.append(f"{node.name}: {len(rows) - len(keep)} of {len(rows)} planes coincide with another and are merged")
    return Graph(tuple(nodes), graph.outputs, (*graph.notes, *notes))


def drop_unread(graph: Graph) -> Graph:
    """Nodes that no output depends on go; inputs stay."""
    wanted = set(graph.outputs)
    for node in reversed(graph.nodes):
        if node.name in wanted:
            wanted.update(node.inputs)
    return replace(graph, nodes=tuple(n for n in graph.nodes if n.name in wanted or n.traits.outside))


def split_encoder(graph: Graph) -> tuple[Graph, Graph]:
    """(front, core): the STEPs that compare an input itself (a thermometer's planes), and the network behind them.

    `front` takes the graph's inputs and yields the planes, `core` takes the planes; core after front is the graph.
    Raises InputError where an input is also read without a comparison.
    """
    raw = {node.name for node in graph.inputs}  # inputs and their wires
    planes: list[str] = []
    for node in graph.nodes:
        if node.op is Op.GATHER and set(node.inputs) <= raw:
            raw.add(node.name)
        elif node.op is Op.STEP and node.inputs[0] in raw:
            planes.append(node.name)
        elif set(node.inputs) & raw:
            raise InputError(f"node {node.name!r} ({node.op.value}) reads the input itself, not planes of a "
                             "thermometer: the encoder cannot be outside; put a LearnedThermometer first")
    if not planes or raw & set(graph.outputs):
        raise InputError("the graph has no thermometer, so there is no encoder to put outside")
    core = tuple(
        replace(node, op=Op.INPUT, inputs=(), params=None) if node.name in planes else node
        for node in graph.nodes if node.name not in raw
    )
    return drop_unread(replace(graph, outputs=tuple(planes))), Graph(core, graph.outputs, graph.notes)


def argmax(graph: Graph) -> Graph:
    """The graph whose outputs are classes: the place of the largest value along the last axis, the first of equal ones.

    Logits that are rounded are compared before that where all channels have one scale, so that rounding makes no ties.
    Raises InputError where an output has one channel.
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
    """All passes in their order."""
    for step in PASSES:
        graph = step(graph)
    return graph
