"""What the integer graph is made of: operations and their traits, parameters, nodes, and nodes in order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.ir.domain import Domain

__all__ = [
    "PARAMS", "TRAITS", "Affine", "Dataflow", "Index", "Int", "Node", "Op", "Params", "Steps", "Sum", "Table", "Traits",
    "Weights", "Window", "clean_name", "is_clean",
]

Int = NDArray[np.int64]
COMPARED = 16  # thresholds of a channel that are compared one after the other; more are searched


class Op(Enum):
    """The operations; their meaning is RULES (shapes, domains) and EVAL (values), both in docs/ir.md."""

    INPUT = "input"
    GATHER = "gather"
    WINDOW = "window"
    DOT = "dot"
    ADD = "add"
    MAX = "max"
    STEP = "step"
    LUT = "lut"
    AFFINE = "affine"
    ARGMAX = "argmax"


@dataclass(frozen=True)
class Traits:
    """What passes, backends and estimates may rely on in an operation without knowing it by name."""

    outside: bool = False  # its codes come from outside the graph
    wires: bool = False  # it only moves codes, and computes nothing
    joins: bool = False  # it may read several tensors
    adds: bool = False  # its codes are sums, to which no activation has been applied yet
    taps: bool = False  # it reduces the last axis, say the taps of a window, and ignores absent taps; heads a kernel
    keeps_shape: bool = False  # its result has the shape of what it reads
    pixelwise: bool = False  # a position of its result needs that position of its inputs only; may follow in a kernel
    quantizes: bool = False  # its codes are those of an activation
    ends: bool = False  # it is an output of the graph, or read by ARGMAX; nothing else may read it


TRAITS: dict[Op, Traits] = {
    Op.INPUT: Traits(outside=True),
    Op.GATHER: Traits(wires=True, joins=True),
    Op.WINDOW: Traits(wires=True),
    Op.DOT: Traits(adds=True, taps=True),
    Op.ADD: Traits(joins=True, adds=True, keeps_shape=True, pixelwise=True),
    Op.MAX: Traits(taps=True),
    Op.STEP: Traits(keeps_shape=True, pixelwise=True, quantizes=True),
    Op.LUT: Traits(keeps_shape=True, pixelwise=True, quantizes=True),
    Op.AFFINE: Traits(keeps_shape=True, pixelwise=True, ends=True),
    Op.ARGMAX: Traits(pixelwise=True),
}


@dataclass(frozen=True, eq=False)
class Index:
    """GATHER: `flat` (int64, one entry per output element) indexes the flattened inputs, one after the other."""

    flat: Int


@dataclass(frozen=True, eq=False)
class Window:
    """WINDOW: the taps of a `kernel` at every position of an image of `size`, with `strides` and `dilation`.

    All of these have one integer per spatial axis (1 or 2 axes); `pads` has one pair (before, after) per axis; `groups`
    divides the channels. Tap k of position p lies at p*stride + k*dilation - before; where that is outside the image,
    the tap is absent.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    groups: int
    size: tuple[int, ...]

    @property
    def taps(self) -> int:
        """Taps of one position."""
        return prod(self.kernel)

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions along each spatial axis; 0 or less where the kernel does not fit."""
        axes = zip(self.size, self.kernel, self.strides, self.dilation, self.pads)
        return tuple((n + sum(pad) - (k - 1) * dilation - 1) // stride + 1 for n, k, stride, dilation, pad in axes)

    @cached_property
    def _along(self) -> list[Int]:
        """Coordinates of the taps axis by axis, also of those outside the image: (positions, taps) of each axis."""
        axes = zip(self.kernel, self.strides, self.dilation, self.pads, self.positions)
        return [np.arange(count)[:, None] * stride + np.arange(k) * dilation - pad[0]
                for k, stride, dilation, pad, count in axes]

    @cached_property
    def inside(self) -> list[NDArray[np.bool_]]:
        """Which taps lie in the image, axis by axis: bool (positions, taps) of each axis."""
        return [(place >= 0) & (place < n) for n, place in zip(self.size, self._along)]

    @cached_property
    def places(self) -> Int:
        """The flat position in the image of every tap: (positions, taps), in row-major order; -1 where it is absent."""
        flat = np.zeros((1, 1), np.int64)
        for n, place in zip(self.size, self._along):
            shape = (len(flat) * len(place), flat.shape[1] * place.shape[1])
            flat = (flat[:, None, :, None] * n + place[None, :, None, :]).reshape(shape)
        return np.where(self.valid, flat, -1)

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Which taps lie in the image: bool (positions, taps), both in row-major order."""
        return _together(self.inside)

    @cached_property
    def borders(self) -> NDArray[np.bool_]:
        """The different rows of `valid`: positions with the same present taps are one class. bool (classes, taps)."""
        return _together([np.unique(inside, axis=0) for inside in self.inside])

    @property
    def padded(self) -> bool:
        """True where some tap of some position is absent."""
        return not all(inside.all() for inside in self.inside)

    def present(self, channels: int) -> NDArray[np.bool_]:
        """`valid` for every element of the node's last axis, which has `channels`: bool (positions, channels)."""
        parts = (len(self.valid), self.groups, self.taps, channels // (self.groups * self.taps))
        return np.broadcast_to(self.valid[:, None, :, None], parts).reshape(len(self.valid), channels)


def _together(axes: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Combine the axes: a tap lies in the image where it lies inside along every axis.

    bool (positions, taps) of each axis -> bool (positions, taps) of the image, both in row-major order.
    """
    whole = np.ones((1, 1), bool)
    for inside in axes:
        shape = (len(whole) * len(inside), whole.shape[1] * inside.shape[1])
        whole = (whole[:, None, :, None] & inside[None, :, None, :]).reshape(shape)
    return whole


@dataclass(frozen=True, eq=False)
class Weights:
    """DOT: integer `levels` (inputs/groups, outputs), int64; a connection exists where `mask` (bool, same shape) is
    True. Outputs come group by group: output o reads the inputs of group o // (outputs/groups), a slice of the last
    axis.
    """

    levels: Int
    mask: NDArray[np.bool_]
    groups: int = 1

    @cached_property
    def effective(self) -> Int:
        """The levels with absent connections as 0: what the sum uses."""
        return np.where(self.mask, self.levels, 0)

    @cached_property
    def l1_bound(self) -> int:
        """The largest sum of |level| over the inputs of one output."""
        return int(np.abs(self.effective).sum(axis=0, dtype=object).max(initial=0))


@dataclass(frozen=True, eq=False)
class Sum:
    """ADD: sum of `scale[i]` times input i, plus `constant`; `scale` int64 (inputs,)."""

    scale: Int
    constant: int


@dataclass(frozen=True, eq=False)
class Steps:
    """STEP: per channel (last axis) code = start + sign * #{k : x >= thresholds[k]}.

    `start`, `sign` are int64 (channels,), sign +1 or -1; `thresholds` is int64 (channels, levels - 1), rows ascending.
    `margin` is the ambiguity margin, int64 (channels, levels - 1, 2), of real-scaled sums, else None: an x from
    threshold - margin[0] to threshold + margin[1] - 1 is ambiguous, because the float32 noise of the Keras model
    reaches across the threshold there. Evaluation ignores it.
    """

    start: Int
    sign: Int
    thresholds: Int
    margin: Int | None = None

    def reached(self, x: Int) -> Int:
        """How many thresholds of its channel each code x (..., channels or 1) reaches: (..., channels)."""
        channels, count = self.thresholds.shape
        result = np.zeros((*x.shape[:-1], channels), np.int64)
        if count <= COMPARED:
            for k in range(count):
                result += x >= self.thresholds[:, k]
            return result
        each = np.broadcast_to(x, result.shape)
        for c, row in enumerate(self.thresholds):
            result[..., c] = np.searchsorted(row, each[..., c], side="right")
        return result


@dataclass(frozen=True, eq=False)
class Table:
    """LUT: `codes` int64 (channels or 1, size of the input's domain): the result for each input code, lowest first."""

    codes: Int


@dataclass(frozen=True, eq=False)
class Affine:
    """AFFINE: per channel code = floor((mul * x + add) / 2^shift); `mul`, `add` int64 (channels,)."""

    mul: Int
    add: Int
    shift: int


Params = Index | Window | Weights | Sum | Steps | Table | Affine | None
PARAMS: dict[Op, type[Any]] = {
    Op.INPUT: type(None), Op.GATHER: Index, Op.WINDOW: Window, Op.DOT: Weights, Op.ADD: Sum, Op.MAX: type(None),
    Op.STEP: Steps, Op.LUT: Table, Op.AFFINE: Affine, Op.ARGMAX: type(None),
}

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def is_clean(name: str) -> bool:
    """True for a letter, then letters, digits or _, 64 at most. Emitters decorate names, so keywords are fine."""
    return bool(_NAME.fullmatch(name))


def clean_name(text: str, taken: Sequence[str] | set[str] = ()) -> str:
    """A safe node name made from any text, different (also in lower case) from all in `taken`."""
    base = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")[:48] or "node"
    base = base if base[0].isalpha() else f"n_{base}"
    used = {t.lower() for t in taken}
    name, count = base, 1
    while name.lower() in used:
        count += 1
        name = f"{base}_{count}"
    return name


@dataclass(frozen=True, eq=False)
class Node:
    """One integer tensor of `shape` (without batch), how it is made, and what its codes mean.

    `origin` is the Keras layer whose output these codes are; text for messages, never emitted into sources.
    """

    name: str
    op: Op
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    domain: Domain
    params: Params = None
    origin: str = ""

    @property
    def size(self) -> int:
        """Number of elements of one sample."""
        return prod(self.shape)

    @property
    def traits(self) -> Traits:
        """The traits of its operation."""
        return TRAITS[self.op]

    def __str__(self) -> str:
        shape = "x".join(map(str, self.shape))
        return f"{self.name} = {self.op.value}({', '.join(self.inputs)}) {shape} {self.domain}{_describe(self.params)}"


def _describe(params: Params) -> str:
    """The parameters as text: values where they are short, else their shapes; without those that go without saying."""
    if params is None:
        return ""
    values = {f.name: getattr(params, f.name) for f in fields(params)}
    return " " + " ".join(f"{name}={_short(value)}" for name, value in values.items() if not _implied(name, value))


def _implied(name: str, value: Any) -> bool:
    """True for a parameter that changes no code (margin), that inputs show (size), or that has its usual value."""
    usual = value is None or (name == "mask" and value.all()) or (name == "groups" and value == 1)
    return bool(usual) or name in ("margin", "size")


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray) and value.size > 24:
        return f"<{'x'.join(map(str, value.shape))}>"
    return str(np.asarray(value).astype(int).tolist()).replace(" ", "")


@dataclass(frozen=True, eq=False)
class Dataflow:
    """Nodes in order of evaluation, the names of the outputs, and `notes`: what lowering wants the reader to know.

    A Dataflow is unchecked; RULES have checked every `Graph`.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by their names."""
        return {node.name: node for node in self.nodes}

    def __getitem__(self, name: str) -> Node:
        if name not in self.by_name:
            raise InputError(f"no node {name!r}; the graph has {', '.join(self.by_name)}")
        return self.by_name[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The INPUT nodes."""
        return tuple(node for node in self.nodes if node.traits.outside)

    @property
    def input(self) -> Node:
        """The input of a graph with one input."""
        if len(self.inputs) != 1:
            raise InputError(f"the graph has {len(self.inputs)} inputs, this call needs exactly one")
        return self.inputs[0]

    @property
    def output(self) -> Node:
        """The output of a graph with one output."""
        if len(self.outputs) != 1:
            raise InputError(f"the graph has {len(self.outputs)} outputs, this call needs exactly one")
        return self[self.outputs[0]]

    def readers(self, name: str) -> tuple[Node, ...]:
        """The nodes that read `name`."""
        return tuple(node for node in self.nodes if name in node.inputs)

    def __str__(self) -> str:
        return "\n".join([*map(str, self.nodes), f"return {', '.join(self.outputs)}"])
