"""A graph as a program of the engine: which tensors are bits, what is fused, how each sum is computed.

A program computes what EVAL does, and says so of itself nowhere: tests compare the two.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from bnnflow.engine.program import Numbers, Program, has_bytes
from bnnflow.errors import ToolError
from bnnflow.ir.domain import Domain
from bnnflow.ir.nodes import COMPARED, Affine, Dataflow, Index, Int, Node, Op, Steps, Sum, Table, Weights, Window
from bnnflow.ir.verify import LIMIT, at_borders

__all__ = ["program", "work"]

PLANES = 4  # most bit planes that the codes of a tensor are stored in
# A multiplication takes as long as counting so many bits, in float32 or of bytes: a sum of n inputs is counted where
# its words, planes and digits are less than that (measured with AVX-512; without, both are about four times slower).
COUNTING, COUNTING_BYTES = 6, 3
TABULATED = 2**20  # entries of a table in place of thresholds that would be searched
EXACT = 2**24  # float32 holds all integers up to it
_LOADED: weakref.WeakKeyDictionary[Dataflow, Program] = weakref.WeakKeyDictionary()  # while their graphs live
NARROW = Domain(-(2**31), 2**31 - 2)  # int32, with room for a threshold past the end


def work(graph: Dataflow) -> int:
    """What the time of one sample is about proportional to, in NumPy: 10^10 of it take a second."""
    sums = sum(node.size * len(node.params.levels) for node in graph if isinstance(node.params, Weights))
    return sums + 32 * sum(node.size for node in graph)


def program(graph: Dataflow) -> Program:
    """The program of a graph, loaded once; raises ToolError where there is none, or no engine."""
    if graph not in _LOADED:
        _LOADED[graph] = Program(_Writer(graph).write())
    return _LOADED[graph]


@dataclass(frozen=True)
class _Digits:
    """Levels (inputs, outputs) as least + sum_q weights[q] * bits[q]: of every output its own numbers."""

    least: Int  # (outputs,)
    weights: Int  # (digits, outputs)
    bits: NDArray[np.bool_]  # (digits, inputs, outputs)

    @classmethod
    def of(cls, levels: Int) -> _Digits:
        """Binary digits of how much a level is above the least, or where these are more, two steps of three levels."""
        least = levels.min(axis=0)
        above = levels - least
        unit = np.maximum(np.gcd.reduce(above, axis=0), 1)
        count = max(1, int((above // unit).max()).bit_length())
        if count > 2:
            top = above.max(axis=0)
            middle = np.where(above == top, 0, above).max(axis=0)
            if ((above == 0) | (above == middle) | (above == top)).all():
                bits = np.stack([(above >= middle) & (above > 0), (above == top) & (middle > 0)])
                return cls(least, np.stack([np.where(middle > 0, middle, top), top - middle]), bits)
        place = np.arange(count)[:, None]
        return cls(least, unit << place, ((above // unit) >> place[..., None] & 1).astype(bool))


class _Writer:
    """Writes the program of a graph, in the order in which engine.cpp reads it."""

    def __init__(self, graph: Dataflow):
        self.graph, self.has_bytes = graph, has_bytes()
        wanted = set(graph.outputs)
        for node in reversed(graph.nodes):
            if node.name in wanted or node.traits.outside:
                wanted.update({node.name, *node.inputs})
        self.nodes = [node for node in graph if node.name in wanted]
        self.readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                self.readers[name].append(node)
        self.same = self._same()
        self.chains = self._chains()
        self.stored = [*self.graph.inputs, *(chain[-1] for chain in self.chains)]
        self.place = {node.name: k for k, node in enumerate(self.stored)}
        self.digits = self._digits()
        self.planes = {node.name: self._planes(node) for node in self.stored}

    def _same(self) -> dict[str, str]:
        """GATHERs that change nothing but the shape: the node that they are."""
        same: dict[str, str] = {}
        for node in self.nodes:
            if isinstance(node.params, Index) and len(node.inputs) == 1 and np.array_equal(
                    node.params.flat, np.arange(self.graph[node.inputs[0]].size)):
                same[node.name] = same.get(node.inputs[0], node.inputs[0])
        return same

    def _chains(self) -> list[list[Node]]:
        """The nodes that are computed row by row together; of each only the last is stored."""
        inside: set[str] = set()
        chains = []
        for node in self.nodes:
            if node.traits.outside or node.name in inside or node.name in self.same or self._only_taps(node):
                continue
            chain = [node]
            while (follower := self._follower(chain[-1])) is not None:
                chain.append(follower)
                inside.add(follower.name)
            chains.append(chain)
        return chains

    def _only_taps(self, node: Node) -> bool:
        """A WINDOW that sums and maxima read from the image itself."""
        taken = all(reader.traits.taps for reader in self.readers[node.name])
        return isinstance(node.params, Window) and taken and node.name not in self.graph.outputs

    def _follower(self, node: Node) -> Node | None:
        """The only reader of a node, where it changes its rows in place."""
        readers = self.readers[node.name]
        if node.name in self.graph.outputs or node.op is Op.ARGMAX or len(readers) != 1:
            return None
        return readers[0] if readers[0].traits.pixelwise and len(readers[0].inputs) == 1 else None

    def _tensor(self, name: str) -> int:
        return self.place[self.same.get(name, name)]

    def _image(self, node: Node) -> Node:
        """Where a sum or maximum takes its taps from: the image behind a WINDOW, else the tensor itself."""
        source = self.graph[node.inputs[0]]
        return self.graph[source.inputs[0]] if isinstance(source.params, Window) else source

    def _digits(self) -> dict[str, _Digits]:
        """Digits of the levels of those sums that are counted."""
        found = {}
        for node in self.nodes:
            if isinstance(node.params, Weights) and not self._depthwise(node):
                levels, codes = node.params.effective, self._image(node).domain
                planes = (codes.size - 1).bit_length()
                most = COUNTING_BYTES if self._of_bytes(node) else COUNTING
                few = planes <= PLANES and int(np.abs(levels).max()) * codes.numerator[0] < 2**31
                digits = _Digits.of(levels) if few else None
                words = -(-len(levels) // 64)
                if digits and 64 * words * max(planes, 1) * len(digits.bits) <= most * len(levels):
                    found[node.name] = digits
        return found

    def _of_bytes(self, node: Node) -> bool:
        """A sum in int32 of codes, counted from the lowest, and levels that are bytes, where the engine has such."""
        p = node.params
        assert isinstance(p, Weights)
        return bool(self.has_bytes and self._image(node).domain.size <= 256 and p.effective.min() >= -128
                    and p.effective.max() < 128 and 255 * p.l1_bound < 2**31)

    def _planes(self, node: Node) -> int:
        """Bit planes that a tensor is stored in; 0 for integers."""
        planes = max(1, (node.domain.size - 1).bit_length())
        counted = {self.same.get(name, name) for name in (self._image(self.graph[s]).name for s in self.digits)}
        return planes if planes == 1 or node.name in counted else 0

    def _depthwise(self, node: Node) -> bool:
        """A DOT whose groups are single channels of an image."""
        source, image = self.graph[node.inputs[0]], self._image(node)
        assert isinstance(node.params, Weights)
        taps = source.params.taps if isinstance(source.params, Window) else 1
        return node.params.groups == image.shape[-1] and len(node.params.levels) == taps and (
            not isinstance(source.params, Window) or source.params.groups == image.shape[-1])

    def write(self) -> Numbers:
        """The numbers of the program."""
        out = Numbers()
        out.append(len(self.stored))
        for node in self.stored:
            out += [self.planes[node.name], not _narrow(node.domain), node.domain.lo, node.size]
        out.append(len(self.graph.inputs))
        for node in self.graph.inputs:
            out += [self.place[node.name], node.domain.lo, node.domain.hi]
            out.array([float(node.domain.scale), float(node.domain.offset)], np.float64)
        out.append(len(self.graph.outputs))
        out += [self._tensor(name) for name in self.graph.outputs]
        out.append(len(self.chains))
        for chain in self.chains:
            self._chain(out, chain)
        return out

    def _chain(self, out: Numbers, chain: Sequence[Node]) -> None:
        head = chain[0]
        sources = [self.graph[name] for name in head.inputs]
        narrow = all(_narrow(node.domain) for node in (*chain, *sources))
        makes_rows = head.op in HEADS and not (head.op is Op.ADD and len(sources) == 1)
        shape = head.shape if makes_rows else sources[0].shape
        out += [not narrow, self.place[chain[-1].name], prod(shape[:-1]), shape[-1]]
        if makes_rows:
            HEADS[head.op](self, out, head)
        else:
            out += [STORED, self._tensor(head.inputs[0])]
        tails = chain[1:] if makes_rows else chain
        out.append(len(tails))
        for node in tails:
            TAILS[node.op](out, node, self.graph[node.inputs[0]])

    def _gather(self, out: Numbers, node: Node) -> None:
        flat = node.params.flat if isinstance(node.params, Index) else _tap_places(node, self._image_of(node))
        sizes = [self.graph[name].size for name in node.inputs]
        ends = np.cumsum(sizes)
        of = np.searchsorted(ends, flat, side="right")
        index = flat - (ends - sizes)[of]
        out += [GATHER, len(sizes), *(self._tensor(name) for name in node.inputs)]
        if len(sizes) > 1:
            out.array(of, np.int32)
        else:
            out.append(0)
        out.array(index, np.int32)
        starts = np.flatnonzero(np.r_[True, (np.diff(index) != 1) | (np.diff(of) != 0)])
        runs = np.column_stack([starts, of[starts], index[starts], np.diff(np.r_[starts, len(flat)])])
        runs = runs if 8 * len(runs) <= len(flat) else runs[:0]
        out.append(len(runs))
        out.array(runs)

    def _image_of(self, window: Node) -> Node:
        return self.graph[window.inputs[0]]

    def _add(self, out: Numbers, node: Node) -> None:
        p = node.params
        assert isinstance(p, Sum)
        out.append(ADD)
        for name, scale in zip(node.inputs, p.scale):
            out += [self._tensor(name), int(scale)]
        out.append(p.constant)

    def _max(self, out: Numbers, node: Node) -> None:
        out.append(MAX)
        self._taps(out, node, _whole_taps)

    def _dot(self, out: Numbers, node: Node) -> None:
        p, image = node.params, self._image(node)
        assert isinstance(p, Weights)
        a, b = image.domain.numerator
        ends = (a * image.domain.lo + b, a * image.domain.hi + b)
        if max(a, abs(b), *map(abs, ends)) >= LIMIT:
            raise ToolError(f"node {node.name!r}: integers beyond 2^62")
        if self._depthwise(node):
            out.append(DEPTHWISE)
            self._taps(out, node, _whole_taps)
            out += [p.levels.shape[1] // p.groups, a, b]
            out.array(p.effective)
        elif node.name in self.digits:
            out.append(COUNT)
            self._taps(out, node, lambda w, c: _tight_taps(w, c, p.groups, 64 * -(-len(p.levels) // 64)))
            out += [p.groups, len(p.levels)]
            self._counted(out, node, self.digits[node.name], a)
            self._constants(out, node, ends[0])
        elif self._of_bytes(node):
            out.append(BYTES)
            self._taps(out, node, lambda w, c: _tight_taps(w, c, p.groups, 4 * -(-len(p.levels) // 4)))
            out += [p.groups, len(p.levels), a, image.domain.lo]
            out.array(p.effective)
            self._constants(out, node, ends[0])
        else:
            exact = max(1, *map(abs, ends)) * max(1, p.l1_bound) < EXACT
            out.append(PRODUCT_FLOAT if exact else PRODUCT)
            self._taps(out, node, lambda w, c: _tight_taps(w, c, p.groups, len(p.levels)))
            out += [p.groups, len(p.levels), a, b]
            out.array(p.effective)

    def _counted(self, out: Numbers, node: Node, digits: _Digits, a: int) -> None:
        image = self._image(node)
        out += [len(digits.bits), self.planes[self.same.get(image.name, image.name)]]
        rows = np.packbits(digits.bits.transpose(0, 2, 1), axis=-1, bitorder="little")
        words = np.zeros((*rows.shape[:2], 8 * -(-rows.shape[2] // 8)), np.uint8)
        words[..., : rows.shape[2]] = rows
        out.array(words.view("<u8"), np.uint64)
        out.array(a * digits.least)
        out.array(a * digits.weights)

    def _constants(self, out: Numbers, node: Node, lowest: int) -> None:
        """What a sum of the lowest codes is, for every class of borders, and the class of every position."""
        p, window = node.params, self.graph[node.inputs[0]].params
        assert isinstance(p, Weights)
        if isinstance(window, Window) and window.padded:
            classes, sums = _classes(window), at_borders(p.effective, p.groups, window)
        else:
            classes, sums = np.zeros(prod(node.shape[:-1]), np.int64), p.effective.sum(axis=0)[None]
        out.array(classes, np.int32)
        out.append(len(sums))
        out.array(lowest * sums)

    def _taps(self, out: Numbers, node: Node, segments: Callable[[Window, int], list[Int]]) -> None:
        """Where a sum or maximum takes its rows from."""
        source, image = self.graph[node.inputs[0]], self._image(node)
        window = source.params
        if not isinstance(window, Window):  # one row of pixels, each a row of taps
            window = Window((1,), (1,), (1,), ((0, 0),), 1, (prod(image.shape[:-1]),))
        channels = image.shape[-1]
        (height, width), (stride_y, stride_x) = _two(window.size), _two(window.strides)
        found = segments(window, channels)
        pads = _two(tuple(before for before, _ in window.pads), 0)
        out += [self._tensor(image.name), height, width, channels, window.positions[-1], stride_y, stride_x, *pads,
                len(found)]
        for segment in found:
            out += map(int, segment)


def _narrow(domain: Domain) -> bool:
    return NARROW.lo <= domain.lo and domain.hi <= NARROW.hi


def _two(axes: tuple[int, ...], first: int = 1) -> tuple[int, ...]:
    """Of one spatial axis or two, two."""
    return (first, *axes)[-2:]


def _classes(window: Window) -> Int:
    """The row of `Window.borders` of every position."""
    classes = np.zeros(1, np.int64)
    for inside in window.inside:
        rows, which = np.unique(inside, axis=0, return_inverse=True)
        classes = (classes[:, None] * len(rows) + which.ravel()).ravel()
    return classes


def _tap_places(node: Node, image: Node) -> Int:
    """Of every element of a WINDOW without absent taps, the place in the image."""
    window, channels = node.params, image.shape[-1]
    assert isinstance(window, Window)
    within = np.arange(channels).reshape(window.groups, 1, -1)
    places: Int = (window.places[:, None, :, None] * channels + within).ravel()
    return places


def _offsets(window: Window) -> list[tuple[int, int]]:
    """Rows and columns of the taps, in row-major order."""
    kernel, dilation = _two(window.kernel), _two(window.dilation)
    return [(y * dilation[0], x * dilation[1]) for y, x in np.ndindex(*kernel)]


def _whole_taps(window: Window, channels: int) -> list[Int]:
    """A segment for every tap, with all channels."""
    return [np.array([y, x, 1, 0, channels, 0]) for y, x in _offsets(window)]


def _tight_taps(window: Window, channels: int, groups: int, room: int) -> list[Int]:
    """The segments of a row of taps; each of the `groups` of a DOT has `room` for its inputs."""
    if groups == window.groups == 1 and window.dilation[-1] == 1:  # taps of one row lie side by side
        columns = window.kernel[-1]
        return [np.array([y, 0, columns, 0, channels, k * columns * channels])
                for k, (y, _) in enumerate(_offsets(window)[::columns])]
    inputs, length, found = window.taps * channels // groups, channels // window.groups, []
    for group in range(window.groups):
        for tap, (y, x) in enumerate(_offsets(window)):
            first = (group * window.taps + tap) * length
            cuts = [first, *range((first // inputs + 1) * inputs, first + length, inputs), first + length]
            for start, end in zip(cuts, cuts[1:]):
                at = start // inputs * room + start % inputs
                found.append(np.array([y, x, 1, group * length + start - first, end - start, at]))
    return found


def _steps(out: Numbers, node: Node, source: Node) -> None:
    p, domain = node.params, source.domain
    assert isinstance(p, Steps)
    channels, count = p.thresholds.shape
    if count > COMPARED and domain.size * channels <= TABULATED:
        codes = p.start + p.sign * p.reached(np.arange(domain.lo, domain.hi + 1)[:, None])
        _tabulated(out, codes.T, domain)
        return
    thresholds = np.clip(p.thresholds, domain.lo, domain.hi + 1)
    out += [STEPS if count <= COMPARED else SEARCH, count]
    out.array(thresholds.T if count <= COMPARED else thresholds)
    out.array(p.start)
    out.array(p.sign)


def _lut(out: Numbers, node: Node, source: Node) -> None:
    assert isinstance(node.params, Table)
    _tabulated(out, node.params.codes, source.domain)


def _tabulated(out: Numbers, codes: Int, domain: Domain) -> None:
    out += [TABLE, *codes.shape, domain.lo]
    out.array(codes)


def _affine(out: Numbers, node: Node, source: Node) -> None:
    p = node.params
    assert isinstance(p, Affine)
    out.append(AFFINE)
    out.array(p.mul)
    out.array(p.add)
    out.append(p.shift)


def _scale(out: Numbers, node: Node, source: Node) -> None:
    p = node.params
    assert isinstance(p, Sum)
    out += [SCALE, int(p.scale[0]), p.constant]


def _argmax(out: Numbers, node: Node, source: Node) -> None:
    out.append(ARGMAX)


# The numbers of heads and tails in engine.cpp.
STORED, GATHER, ADD, MAX, COUNT, PRODUCT_FLOAT, PRODUCT, DEPTHWISE, BYTES = range(9)
STEPS, SEARCH, TABLE, AFFINE, SCALE, ARGMAX = range(6)

HEADS: dict[Op, Callable[[_Writer, Numbers, Node], None]] = {
    Op.GATHER: _Writer._gather, Op.WINDOW: _Writer._gather, Op.ADD: _Writer._add, Op.MAX: _Writer._max,
    Op.DOT: _Writer._dot,
}
TAILS: dict[Op, Callable[[Numbers, Node, Node], None]] = {
    Op.STEP: _steps, Op.LUT: _lut, Op.AFFINE: _affine, Op.ADD: _scale, Op.ARGMAX: _argmax,
}
