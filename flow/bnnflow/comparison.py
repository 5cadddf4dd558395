"""Keras, graph and C simulation side by side, layer by layer: the first divergence, or "equal"."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import bnnflow.train  # noqa: F401  # isort: skip  (before TensorFlow, for which it chooses the legacy Keras)
import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.project import Project
from bnnflow.errors import InputError
from bnnflow.frontends.keras.calls import Call, model_calls
from bnnflow.frontends.keras.reading import read_model
from bnnflow.frontends.keras.reference import keras_activations, keras_codes, nothing_compared
from bnnflow.generation import keras
from bnnflow.ir import Graph, Node
from bnnflow.ir.evaluate import ambiguous, trace
from bnnflow.simulation import trace_project
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

    Raises InputError where the model is not the one the project was made from (another structure), ToolError as
    `simulate` does.
    """
    if isinstance(model, (str, os.PathLike)):
        model = read_model(model)
    graph = Project.open(project).graph()
    codes = graph.encode(x)
    try:
        theirs = keras_codes(graph, model, x)
    except KeyError as error:
        raise InputError(f"the model has no layer {error}: it is not the one {project} was made from") from error
    ours, hardware, left_out = trace(graph, codes), trace_project(project, codes), ambiguous(graph, codes)
    found = [_row(node, ours[node.name], theirs.get(node.name), hardware.get(node.name), left_out) for node in graph]
    first = next((words for _, words in found if words), "")
    notes = (*_ambiguity_notes(graph, codes, left_out), *_predict_notes(model, x))
    return Comparison(tuple(row for row, _ in found), first, notes, len(left_out), int(left_out.sum()))


def _ambiguity_notes(graph: Graph, codes: Any, left_out: Flags) -> list[str]:
    """Which samples are not compared with Keras, and why."""
    if len(left_out) and left_out.all():
        return [nothing_compared(graph, codes)]
    if not left_out.any():
        return []
    return [f"{int(left_out.sum())} of {len(left_out)} samples bring a sum within float32 noise of a "
            "threshold; what Keras gives there depends on its order of addition and is not compared"]


def _row(node: Node, ours: Codes, theirs: Codes | None, hardware: Codes | None,
         left_out: Flags) -> tuple[NodeComparison, str]:
    """The counts of one node, and its first divergence in words, empty where there is none.

    `theirs` and `hardware` are the codes of Keras and of the C simulation, None where they have none; (n, *shape) each.
    """
    keras_differ, words = _difference(node, "Keras", ours, theirs, ~left_out)
    csim_differ, others = _difference(node, "C simulation", ours, hardware, np.ones(len(left_out), bool))
    return NodeComparison(node.name, node.origin, ours.size, keras_differ, csim_differ), words or others


def _difference(node: Node, name: str, ours: Codes, other: Codes | None, sure: Flags) -> tuple[int | None, str]:
    """How many codes differ in the samples that are `sure`, None where none is compared; and the first one in words."""
    if other is None or (len(sure) and not sure.any()):
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
        f"{name} and graph differ first at node {node.name!r}{layer}: sample {at[0]}, element {at[1:]}: graph "
        f"{ours[at]}, {name} {other[at]:g}; {int(wrong.sum())} of {wrong.size} codes")


def _predict_notes(model: keras.Model, x: Any) -> list[str]:
    """Does the user's own `predict` give what the layers give one by one?"""
    arrays = [np.asarray(a, np.float32) for a in (x if isinstance(x, (list, tuple)) else [x])]
    plain = model.predict(arrays if len(arrays) > 1 else arrays[0], verbose=0)
    plain = plain if isinstance(plain, list) else [plain]
    keys = [call.key for call in _last_calls(model)]
    layers = keras_activations(model, keys, x)
    notes = []
    for key, values in zip(keys, plain):
        wrong = values != layers[key]
        if wrong.any():
            notes.append(
                f"the model's plain predict differs from its own layers at {int(wrong.sum())} of {wrong.size} outputs "
                f"of {key!r}: TensorFlow's graph optimiser reorders float32 arithmetic (an Add before a batch norm, "
                "two batch norms in a row) or XLA is on (jit_compile=True); the layers one by one are the reference")
    return notes


def _last_calls(model: keras.Model) -> list[Call]:
    walk = model_calls(model)
    return [next(call for call in walk.calls if key in call.outputs) for key in walk.outputs]
