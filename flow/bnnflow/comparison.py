"""Keras, graph and C simulation side by side, layer by layer: the first divergence, or "equal"."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import bnnflow.train  # noqa: F401  # isort: skip  (before TensorFlow, for which it chooses the legacy Keras)
import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.project import Project
from bnnflow.errors import InputError
from bnnflow.frontends.keras.calls import Call, model_calls
from bnnflow.frontends.keras.reading import read_model
from bnnflow.frontends.keras.reference import activations_of, codes_of, nothing_compared
from bnnflow.generation import keras
from bnnflow.ir import Graph, Node, Window
from bnnflow.ir.evaluate import ambiguities, encode, parts, per_input, trace
from bnnflow.simulation import tracing
from bnnflow.tables import html_table

__all__ = ["Comparison", "NodeComparison", "compare"]

Codes = NDArray[Any]  # int64; of Keras float64, so that values off the levels show
Flags = NDArray[np.bool_]  # one a sample


@dataclass(frozen=True)
class NodeComparison:
    """One node: how many codes were compared with Keras and with the C simulation, and how many differ.

    `layer` is the Keras layer whose codes these are, empty where the node is none's output; None where a node was not
    compared (no Keras layer has its codes, all samples are ambiguous, or a kernel computes it on the way to another).
    """

    node: str
    layer: str
    codes: int
    keras_differ: int | None
    csim_differ: int | None


@dataclass(frozen=True)
class Comparison:
    """Rows in order of evaluation, `first` the first divergence in words (empty where all are equal), and notes.

    `left_out` of `samples` were not compared with Keras, whose float32 sums are too near a threshold there.
    """

    rows: tuple[NodeComparison, ...]
    first: str
    notes: tuple[str, ...]
    samples: int = 0
    left_out: int = 0

    @property
    def equal(self) -> bool:
        """True where nothing differs."""
        return not self.first

    def _repr_html_(self) -> str:
        rows = [(row.node, row.layer, row.codes, row.keras_differ, row.csim_differ) for row in self.rows]
        head = ("node", "Keras layer", "codes", "Keras differs", "C-sim differs")
        return html_table(str(self), head, rows, self.notes)

    def __str__(self) -> str:
        left = f"; {self.left_out:,} of {self.samples:,} samples were not compared with Keras" if self.left_out else ""
        return self.first or f"equal{left}"


def compare(model: keras.Model | str | os.PathLike[str], project: str | os.PathLike[str], x: Any) -> Comparison:
    """Compare a Keras model, the graph of a project and the project's own C++ on inputs `x` (n, *shape; real values).

    At every quantised activation the codes of Keras and the graph are compared, at every node those of the graph and
    the C simulation. `notes` says where the model's plain `predict` differs from its own layers, and why.

    `x` may be memory-mapped files; it is compared in parts that fit into memory.

    Raises InputError where the model is not the one the project was made from (another structure), ToolError as
    `simulate` does.
    """
    if isinstance(model, (str, os.PathLike)):
        model = read_model(model)
    graph = Project.open(project).graph()
    arrays, comparing = per_input(graph, x), _Comparing(graph, model, project)
    with tracing(project) as traced:
        found = [comparing.part(first, part, traced) for first, part in parts(graph, arrays, comparing.nodes)]
    rows = tuple(_added([part.rows[k] for part in found]) for k in range(len(graph.nodes)))
    samples, left_out = sum(part.samples for part in found), sum(part.left_out for part in found)
    notes = (*_ambiguity_notes(graph, sum((part.near for part in found), Counter()), samples, left_out),
             *_predict_notes(sum((part.plain for part in found), Counter()),
                             sum((part.outputs for part in found), Counter())))
    return Comparison(rows, next((part.first for part in found if part.first), ""), notes, samples, left_out)


@dataclass(frozen=True)
class _Part:
    """What was found in a part of the samples: a row a node, the first divergence in words, ambiguous samples by node,
    and of the outputs how many differ from plain `predict`, of how many, by their keys.
    """

    rows: list[NodeComparison]
    first: str
    near: Counter[str]
    plain: Counter[str]
    outputs: Counter[str]
    samples: int
    left_out: int


class _Comparing:
    """What is compared with what, for any part of the samples."""

    def __init__(self, graph: Graph, model: keras.Model, project: str | os.PathLike[str]):
        self.graph, self.model, self.project = graph, model, project
        # Taps of a window are codes of the image; they would take most of the memory.
        self.nodes = [node.name for node in graph if not isinstance(node.params, Window)]
        self.codes_of = codes_of(graph, model)
        self.keys = [call.key for call in _last_calls(model)]
        self.outputs_of = activations_of(model, self.keys)

    def part(self, first: int, x: dict[str, NDArray[Any]], traced: Callable[[Any], dict[str, NDArray[np.int64]]]
             ) -> _Part:
        """Compare the samples `x` of each input, whose first has the number `first`."""
        graph, arrays = self.graph, [*x.values()]
        codes = encode(graph, x, first=first)
        try:
            theirs = self.codes_of(arrays)
        except KeyError as error:
            raise InputError(f"the model has no layer {error}: it is not the one {self.project} was made "
                             "from") from error
        ours, hardware, near = trace(graph, codes, self.nodes), traced(codes), ambiguities(graph, codes)
        left_out = np.any([np.zeros(len(arrays[0]), bool), *near.values()], axis=0)
        found = [_row(node, ours.get(node.name), theirs.get(node.name), hardware.get(node.name), left_out, first)
                 for node in graph]
        plain, outputs = self._plain(arrays)
        return _Part([row for row, _ in found], next((words for _, words in found if words), ""),
                     Counter({name: int(flags.sum()) for name, flags in near.items()}), plain, outputs, len(left_out),
                     int(left_out.sum()))

    def _plain(self, x: Sequence[NDArray[Any]]) -> tuple[Counter[str], Counter[str]]:
        """How many outputs of the user's own `predict` are not what the layers give one by one, of how many."""
        arrays = [np.asarray(array, np.float32) for array in x]
        plain = self.model.predict(arrays if len(arrays) > 1 else arrays[0], verbose=0)
        plain, layers = plain if isinstance(plain, list) else [plain], self.outputs_of(arrays)
        return (Counter({key: int((values != layers[key]).sum()) for key, values in zip(self.keys, plain)}),
                Counter({key: values.size for key, values in zip(self.keys, plain)}))


def _added(rows: Sequence[NodeComparison]) -> NodeComparison:
    """The rows of one node as one; a node that was compared in some part was compared."""
    differ = [[n for n in counts if n is not None]
              for counts in ([row.keras_differ for row in rows], [row.csim_differ for row in rows])]
    keras_differ, csim_differ = (sum(counts) if counts else None for counts in differ)
    return replace(rows[0], codes=sum(row.codes for row in rows), keras_differ=keras_differ, csim_differ=csim_differ)


def _ambiguity_notes(graph: Graph, near: Counter[str], samples: int, left_out: int) -> list[str]:
    """Which samples are not compared with Keras, and why."""
    if samples and left_out == samples:
        return [nothing_compared(graph, near, samples)]
    if not left_out:
        return []
    return [f"{left_out} of {samples} samples bring a sum within float32 noise of a threshold; what Keras gives there "
            "depends on its order of addition and is not compared"]


def _row(node: Node, ours: Codes | None, theirs: Codes | None, hardware: Codes | None, left_out: Flags,
         first: int) -> tuple[NodeComparison, str]:
    """The counts of one node, and its first divergence in words, empty where there is none.

    `theirs` and `hardware` are the codes of Keras and of the C simulation, None where they have none; (n, *shape) each.
    Where both are None, so may `ours` be. `first` is the number of the first sample.
    """
    keras_differ, words = _difference(node, "Keras", ours, theirs, ~left_out, first)
    csim_differ, others = _difference(node, "C simulation", ours, hardware, np.ones(len(left_out), bool), first)
    codes = len(left_out) * node.size
    return NodeComparison(node.name, node.origin, codes, keras_differ, csim_differ), words or others


def _difference(node: Node, name: str, ours: Codes | None, other: Codes | None, sure: Flags,
                first: int) -> tuple[int | None, str]:
    """How many codes differ in the samples that are `sure`, None where none is compared; and the first one in words."""
    if ours is None or other is None or (len(sure) and not sure.any()):
        return None, ""
    if other.shape != ours.shape:
        raise InputError(f"layer {node.origin!r} gives {other.shape[1:]}, the graph {ours.shape[1:]}: the model is not "
                         "the one the project was made from")
    wrong = (ours != other) & sure.reshape(-1, *(1,) * (ours.ndim - 1))
    if not wrong.any():
        return 0, ""
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    layer = f" (layer {node.origin!r})" if node.origin else ""
    return int(wrong.sum()), (
        f"{name} and graph differ first at node {node.name!r}{layer}: sample {at[0] + first}, element {at[1:]}: graph "
        f"{ours[at]}, {name} {other[at]:g}; {int(wrong.sum())} of {wrong.size} codes")


def _predict_notes(plain: Counter[str], outputs: Counter[str]) -> list[str]:
    """That the user's own `predict` does not give what the layers give one by one, and why."""
    return [f"the model's plain predict differs from its own layers at {wrong} of {outputs[key]} outputs of {key!r}: "
            "TensorFlow's graph optimiser reorders float32 arithmetic (an Add before a batch norm, two batch norms in "
            "a row) or XLA is on (jit_compile=True); the layers one by one are the reference"
            for key, wrong in plain.items() if wrong]


def _last_calls(model: keras.Model) -> list[Call]:
    walk = model_calls(model)
    return [next(call for call in walk.calls if key in call.outputs) for key in walk.outputs]
