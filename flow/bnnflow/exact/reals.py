"""The real-scaled class: thresholds of sums whose float32 value is noise around a real number.

A kernel with a real scale, or pixels/255 that go into a sum, give real numbers scale*S that float32 does not hold;
what a framework computes then depends on its order of addition. Here the graph has the ideal meaning: the epilogue is
exact rational arithmetic of the float32 parameters as long as it is affine. The rest of it, a function of one float32,
changes its code at *switching points* (float32 numbers); an integer *threshold* is where the exact line crosses one of
them. Sums so near a threshold that the float32 value may fall on its other side are counted by `Steps.margin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np

from bnnflow.exact.epilogues import CHUNK, Epilogue, Float, Int, Stage
from bnnflow.exact.functions import Refusal
from bnnflow.exact.noise import Lines, NoisyLine, lines_of
from bnnflow.ir import Steps

__all__ = ["real_steps"]

LARGEST = 2.0**100  # of the values in an epilogue: far from float32's infinity


def real_steps(epilogue: Epilogue) -> Steps:
    """The thresholds of a real-scaled epilogue, per element; raises Refusal where its codes are not monotone."""
    stages = epilogue.value.epilogue
    first = next(i for i, stage in enumerate(stages) if stage.affine is None and stage.index is None)
    lines, rest = lines_of(epilogue.value, stages[:first]), stages[first:]
    home = _home(epilogue, rest, len(lines.which))
    which, reach = lines.which[home], _reach(epilogue, lines)
    shape = _shape_after(stages[:first], epilogue.value.node.shape)
    own = np.arange(len(home))  # of every element of the value, where its switching points are
    if all(stage.alike for stage in rest):  # one position has those of all
        own, shape = own % shape[-1], (*(1,) * (len(shape) - 1), shape[-1])
        home = np.arange(shape[-1])
    points = SwitchingPoints(epilogue, shape, rest, home, float(reach))
    keys = np.column_stack([which, *(part[own] for part in (points.low, points.high, points.order))])
    _, seen, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    rows = [_thresholds(epilogue, lines.rows[which[i]], points, int(own[i])) for i in seen]
    start, sign, thresholds, margin = (np.array([row[k] for row in rows], np.int64)[inverse.ravel()] for k in range(4))
    return Steps(start, sign, thresholds.reshape(len(thresholds), -1), margin.reshape(len(thresholds), -1, 2))


def _shape_after(stages: Sequence[Stage], shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that stages give for a tensor of `shape`."""
    x = np.zeros((1, *shape), np.float32)
    for stage in stages:
        x = stage(x)
    return x.shape[1:]


def _home(epilogue: Epilogue, rest: Sequence[Stage], size: int) -> Int:
    """For every element of the value, where it is in the tensor of `size` elements that the stages of `rest` get.

    Raises Refusal where these do more than one function per element.
    """
    home = np.arange(size)
    for stage in rest:
        moves = stage.index is not None and not (len(stage.index) == len(home) == len(np.unique(stage.index)))
        if stage.ulps or stage.planes > 1 or moves:
            raise Refusal(f"layer {epilogue.layer!r}: {stage.layer!r} stands before it on a real-scaled sum; only "
                          "batch norm, relu and what moves all elements may; put a QActivation before it, or make the "
                          "sum exact: alpha=1, and inputs that are multiples of a power of two")
        home = home if stage.index is None else home[stage.index]
    return home


def _reach(epilogue: Epilogue, lines: Lines) -> Fraction:
    """The largest float32 value that any sum may give; raises Refusal where float32 does not hold it safely."""
    ends = (epilogue.lo, epilogue.hi)
    reach = max(abs(row.scale * end + row.offset) + row.off_by(end) for row in lines.rows for end in ends)
    if reach > LARGEST:
        raise Refusal(f"layer {epilogue.layer!r}: values up to {float(min(reach, Fraction(10) ** 300)):.3g} reach it, "
                      "past what float32 holds safely; use scales near 1")
    return reach


class SwitchingPoints:
    """Where the rest of an epilogue, a function of one float32 per element of a tensor of `shape`, changes its code;
    found by bisection over float32. `home` says where each element of the value is in that tensor.

    `low` and `high` are the places of the codes at the ends, `order` (elements, count) the switching points as integers
    in the order of the floats. `passed[i, k]` is the first float32 beyond `-reach` at which element i has left its low
    code by more than k, `failed[i, k]` the one before.
    """

    def __init__(self, epilogue: Epilogue, shape: tuple[int, ...], rest: Sequence[Stage], home: Int, reach: float):
        self.epilogue, self.shape, self.rest, self.home = epilogue, shape, rest, home
        end = np.nextafter(np.float32(reach), np.float32(np.inf))
        ends = np.broadcast_to(np.array([[-end], [end]], np.float32), (2, len(home)))
        self.low, self.high = self._places(ends)
        self.sign = np.where(self.high >= self.low, 1, -1)
        self.count = int(np.abs(self.high - self.low).max())
        k = np.arange(self.count)[:, None]
        below, above = (np.broadcast_to(_ordered(x), (self.count, len(home))) for x in ends)
        while (above - below > 1).any():
            middle = (below + above) // 2
            passed = (self._places(_float(middle)) - self.low) * self.sign > k
            above, below = np.where(passed, middle, above), np.where(passed, below, middle)
        self.order = above.T
        # An element with fewer codes than others never passes the last switching points.
        self.passed = np.where(k < np.abs(self.high - self.low), _float(above), np.float32(np.inf)).T
        self.failed = _float(above - 1).T
        self._check(end)

    def _places(self, x: Float) -> Int:
        """(k, elements of the value) of float32 -> the places of their codes."""
        given = np.empty_like(x)
        given[:, self.home] = x
        y = given.reshape(-1, *self.shape)
        for stage in self.rest:
            y = stage(y)
        values = y.astype(np.float64).reshape(x.shape)
        places, bad = self.epilogue.places(values)
        if bad is not None:
            self.epilogue.refuse_value(values[bad], f"the value {x[bad]} of element {bad[1]}")
        return places

    def _check(self, end: np.float32) -> None:
        """Between the switching points codes must be what they say: a function that turns back is refused."""
        rng = np.random.default_rng(0)
        probe = np.unique(np.concatenate([np.linspace(-end, end, 1001), rng.uniform(-end, end, 1000),
                                          rng.normal(0, 1, 1000)]).astype(np.float32))
        probe = probe[np.abs(probe) <= end]
        step = max(1, CHUNK // (len(self.home) * max(1, self.count)))
        for part in (probe[i : i + step, None] for i in range(0, len(probe), step)):
            want = self.low + self.sign * (self.passed <= part[..., None]).sum(axis=-1)
            if not np.array_equal(self._places(np.broadcast_to(part, want.shape)), want):
                raise Refusal(f"layer {self.epilogue.layer!r}: its codes do not rise or fall with the real-scaled sum "
                              "before it; use a monotone activation, or make the sum exact: alpha=1, and inputs that "
                              "are multiples of a power of two")

    def of(self, element: int) -> list[tuple[Fraction, bool]]:
        """Of every change of an element's code: (the switching point, whether it has the code beyond it).

        Of the two floats around a change the one with the shorter decimal is meant.
        """
        found = []
        for k in range(abs(int(self.high[element] - self.low[element]))):
            failed, passed = self.failed[element, k], self.passed[element, k]
            inclusive = len(str(abs(passed))) <= len(str(abs(failed)))
            found.append((Fraction(float(passed if inclusive else failed)), inclusive))
        return found


def _ordered(x: Float) -> Int:
    """float32 -> integers in the same order, neighbours one apart; both zeros are 0."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _float(order: Int) -> Float:
    bits = np.where(order >= 0, order, -order | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)


@dataclass(frozen=True)
class _Crossing:
    """The first sum beyond a switching point, and how many sums below it and from it on are within the noise of it."""

    threshold: int
    margin: tuple[int, int]


Thresholds = tuple[int, int, list[int], list[tuple[int, int]]]


def _thresholds(epilogue: Epilogue, row: NoisyLine, points: SwitchingPoints, element: int) -> Thresholds:
    """start, sign, thresholds and margin of one element.

    For a positive scale codes start low and change in the direction of the switching points; for a negative one they
    start high and change back. A line of scale 0 has one code: no sum passes a threshold.
    """
    low, high = int(points.low[element]), int(points.high[element])
    rising, switches = 1 if high >= low else -1, points.of(element)
    if row.scale == 0:
        start, sign = low + rising * _passed(row.offset, switches), 1
        found = [_never(epilogue, row, point) for point, _ in switches]
    else:
        start, sign = (low, rising) if row.scale > 0 else (high, -rising)
        found = [_crossing(epilogue, row, point, inclusive) for point, inclusive in switches]
        found.sort(key=lambda crossing: crossing.threshold)
    found += [_Crossing(epilogue.hi + 1, (0, 0))] * (points.count - len(found))
    return start, sign, [crossing.threshold for crossing in found], [crossing.margin for crossing in found]


def _passed(value: Fraction, switches: Sequence[tuple[Fraction, bool]]) -> int:
    """How many switching points a value has passed."""
    return sum(value > point or (inclusive and value == point) for point, inclusive in switches)


def _never(epilogue: Epilogue, row: NoisyLine, point: Fraction) -> _Crossing:
    """The crossing of a constant, past all sums: within the noise at all sums, or at none."""
    near = row.noise > 0 and abs(row.offset - point) <= row.noise
    return _Crossing(epilogue.hi + 1, (epilogue.hi + 1 - epilogue.lo, 0) if near else (0, 0))


def _crossing(epilogue: Epilogue, row: NoisyLine, point: Fraction, inclusive: bool) -> _Crossing:
    """Where a line crosses a switching point t: scale*S + offset >= t (or > t, where t is not inclusive) is
    S >= ceil((t - offset)/scale) for a positive scale; for a negative one the first S at which it ceases to hold.
    """
    scale, offset, lo, hi = row.scale, row.offset, epilogue.lo, epilogue.hi
    at = (point - offset) / scale
    threshold = ceil(at) if inclusive == (scale > 0) else floor(at) + 1
    spread = (row.noise + row.relative * abs(point - offset)) / abs(scale)
    below, above = (threshold - ceil(at - spread), floor(at + spread) + 1 - threshold) if spread else (0, 0)
    limit = hi - lo + 1
    return _Crossing(min(max(threshold, lo), hi + 1), (min(max(below, 0), limit), min(max(above, 0), limit)))
