"""The real-scaled class: thresholds of sums whose float32 value in Keras is noise around a real number.

A kernel with `alpha="auto"`, or pixels/255 that go into a sum, give real numbers scale*S that float32 does not hold;
Keras' own sums depend on the order of addition. Here the graph has the ideal meaning: the epilogue is exact rational
arithmetic of the float32 parameters as long as it is affine, and a threshold is where that line crosses a threshold. Sums so
near a threshold that Keras' float32 may fall on its other side are counted by `Steps.margin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.exact.epilogues import CHUNK, Epilogue, FloatTensor, Int, Line, Stage
from bnnflow.exact.levels import Refusal
from bnnflow.ir import Steps

__all__ = ["Lines", "lines_of", "real_steps", "sum_noise"]

Float = NDArray[np.float32]
Float64 = NDArray[np.float64]
ROUNDING = Fraction(1, 2**24)  # relative error of one float32 operation
TINY = Fraction(1, 2**100)  # more than what TensorFlow, which flushes denormals, loses below 2^-126 in any stage
LARGEST = 2.0**100  # of the values in a epilogue: far from float32's infinity
SAFE = 16  # roundings relative to the result of a batch norm, those of its scale too, with room to spare
GROWTH = 1 + 2 * SAFE * ROUNDING  # of noise that goes through a stage: what is of second order


@dataclass(frozen=True)
class NoisyLine:
    """value = scale * code + offset; Keras' float32 value is off by at most noise + relative * |scale * code|."""

    scale: Fraction
    offset: Fraction
    noise: Fraction
    relative: Fraction

    def then(self, line: Line) -> NoisyLine:
        """One more line: what was off is scaled, and computing it rounds.

        A bias rounds once, relative to its result. A batch norm is x*s + (late - m*s), or (x - m)*s + late, where s is
        rounded itself. The error of s is the same in both products, so relative to (x - m)*s = result - late, as is
        what the second form rounds. The first rounds x*s once and m*s twice, however large, even where they cancel;
        late once, and the result, at most |result - late| + |late|. `size` bounds |m*s| + |late|.
        """
        scale, offset = self.scale * line.scale, self.offset * line.scale + line.offset
        tiny = TINY if scale else 0
        if line.plain:
            noise = GROWTH * (self.noise + ROUNDING * abs(offset)) + tiny
            return NoisyLine(scale, offset, noise, GROWTH * (self.relative + ROUNDING))
        noise = abs(line.scale) * (self.noise + ROUNDING * abs(self.offset)) + 2 * ROUNDING * line.size
        noise = GROWTH * (noise + SAFE * ROUNDING * abs(offset - line.late)) + line.noise + tiny
        return NoisyLine(scale, offset, noise, GROWTH * (self.relative + (SAFE + 1) * ROUNDING))

    def off_by(self, code: int) -> Fraction:
        """How far Keras' float32 value may be from the line at a code."""
        return self.noise + self.relative * abs(self.scale * code)


@dataclass(frozen=True)
class Lines:
    """The line of every element of a tensor: few different ones, and `which` each has."""

    rows: list[NoisyLine]
    which: Int


def lines_of(value: FloatTensor, stages: Sequence[Stage]) -> Lines:
    """The lines from the codes of the value's node through affine and moving stages."""
    domain = value.node.domain
    rows = [NoisyLine(domain.scale, domain.offset, Fraction(0), Fraction(0))]
    which = np.zeros(value.node.size, np.int64)
    for stage in stages:
        if stage.index is not None:
            which = which[stage.index]
            continue
        assert stage.affine is not None
        channels = len(stage.affine)
        own = np.arange(len(which)) % channels if stage.which is None else stage.which
        pairs, which = np.unique(which * channels + own, return_inverse=True)
        rows = [rows[pair // channels].then(stage.affine[pair % channels]) for pair in pairs]
    return Lines(rows, which)


def sum_noise(weights: Float64, ideal: Float64, largest: Float64, off: Float64) -> list[Fraction]:
    """What Keras' float32 sum over the first axis may be off by, per channel; its inputs are at most `largest` in size
    and off by `off` (one number a channel each).

    In any order of n additions |error| <= n*u/(1 - n*u) * sum |w||x| (Higham, Accuracy and Stability, 4.2), u = 2^-24;
    the float32 weights are not quite the ideal ones, and Keras may make them with another last bit than we did.
    """
    nu = (len(weights) + SAFE) * float(ROUNDING)
    size, apart = np.abs(weights).sum(axis=0), np.abs(weights - ideal).sum(axis=0)
    flushed = len(weights) * (1 + largest) * 2.0**-120
    noise = 1.01 * (nu / (1 - nu) * largest * size + largest * apart + off * size) + flushed
    return [Fraction(n) for n in noise.tolist()]


def real_steps(epilogue: Epilogue) -> Steps:
    """The thresholds of a real-scaled epilogue, per element of the value; raises Refusal where codes are not monotone."""
    stages = epilogue.value.epilogue
    first = next(i for i, stage in enumerate(stages) if stage.affine is None and stage.index is None)
    lines, rest = lines_of(epilogue.value, stages[:first]), stages[first:]
    home = np.arange(len(lines.which))  # of every element of the value, where it is in the tensor that `rest` gets
    for stage in rest:
        moves = stage.index is not None and not (len(stage.index) == len(home) == len(np.unique(stage.index)))
        if stage.shaky or stage.planes > 1 or moves:
            raise Refusal(f"layer {epilogue.layer!r}: {stage.layer!r} stands before it on a real-scaled sum; only batch "
                          "norm, relu and what moves all elements may; quantise before it, or use a power-of-two alpha")
        home = home if stage.index is None else home[stage.index]
    which = lines.which[home]
    reach = max(abs(row.scale * end + row.offset) + row.off_by(end) for row in lines.rows for end in (epilogue.lo, epilogue.hi))
    if reach > LARGEST:
        raise Refusal(f"layer {epilogue.layer!r}: values up to {float(min(reach, Fraction(10) ** 300)):.3g} reach it, past "
                      "what float32 holds safely; use scales near 1")
    shape = epilogue.value.node.shape
    for stage in stages[:first]:
        shape = tuple(stage.apply(tf.zeros((1, *shape))).shape[1:])
    own = np.arange(len(home))  # of every element of the value, where its switches are
    if all(stage.alike for stage in rest):  # one position has those of all
        own, shape = own % shape[-1], (*(1,) * (len(shape) - 1), shape[-1])
        home = np.arange(shape[-1])
    switches = _Switches(epilogue, shape, rest, home, float(reach))
    keys = np.column_stack([which, *(part[own] for part in (switches.low, switches.high, switches.bits))])
    _, first_seen, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    rows = [_thresholds(epilogue, lines.rows[which[i]], switches, int(own[i])) for i in first_seen]
    start, sign, thresholds, margin = (np.array([row[k] for row in rows], np.int64)[inverse.ravel()] for k in range(4))
    return Steps(start, sign, thresholds.reshape(len(thresholds), -1), margin.reshape(len(thresholds), -1, 2))


class _Switches:
    """Where the rest of a epilogue, a function of one float32 per element of a tensor of `shape`, changes its code; by
    bisection over float32. `home` says where each element of the value is in that tensor.

    `low`, `high` are the places of the codes at the ends; `passed[i, k]` is the first float32 beyond `-reach` at which
    element i has left its low code by more than k, `failed[i, k]` the one before.
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
        self.bits = above.T
        # An element with fewer codes than others never passes the last switches.
        self.passed = np.where(k < np.abs(self.high - self.low), _float(above), np.float32(np.inf)).T
        self.failed = _float(above - 1).T
        self._check(end)

    def _places(self, x: Float) -> Int:
        """(k, elements of the value) of float32 -> the places of their codes."""
        given = np.empty_like(x)
        given[:, self.home] = x
        with tf.device("CPU:0"):
            y = tf.constant(given.reshape(-1, *self.shape))
            for stage in self.rest:
                y = stage.apply(y)
        values = y.numpy().astype(np.float64).reshape(x.shape)
        places, bad = self.epilogue.places(values)
        if bad is not None:
            self.epilogue.refuse_value(values[bad], f"the value {x[bad]} of element {bad[1]}")
        return places

    def _check(self, end: np.float32) -> None:
        """Between the switches codes must be what they say: a function that turns back is refused."""
        rng = np.random.default_rng(0)
        probe = np.unique(np.concatenate([np.linspace(-end, end, 1001), rng.uniform(-end, end, 1000),
                                          rng.normal(0, 1, 1000)]).astype(np.float32))
        probe = probe[np.abs(probe) <= end]
        step = max(1, CHUNK // (len(self.home) * max(1, self.count)))
        for part in (probe[i : i + step, None] for i in range(0, len(probe), step)):
            want = self.low + self.sign * (self.passed <= part[..., None]).sum(axis=-1)
            if not np.array_equal(self._places(np.broadcast_to(part, want.shape)), want):
                raise Refusal(f"layer {self.epilogue.layer!r}: its codes do not rise or fall with the real-scaled sum "
                              "before it; use a monotone activation, or a power-of-two alpha")

    def of(self, element: int, k: int) -> tuple[Fraction, bool]:
        """(threshold, whether it passes itself): of the two floats around a change the shorter decimal is meant."""
        failed, passed = self.failed[element, k], self.passed[element, k]
        inclusive = len(str(abs(passed))) <= len(str(abs(failed)))
        return Fraction(float(passed if inclusive else failed)), inclusive


def _ordered(x: Float) -> Int:
    """float32 -> integers in the same order, neighbours one apart; both zeros are 0."""
    bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def _float(order: Int) -> Float:
    bits = np.where(order >= 0, order, -order | 0x80000000).astype(np.uint32)
    return bits.view(np.float32)


Thresholds = tuple[int, int, list[int], list[tuple[int, int]]]


def _thresholds(epilogue: Epilogue, row: NoisyLine, switches: _Switches, element: int) -> Thresholds:
    """start, sign, thresholds and margin of one element.

    scale*S + offset >= t is S >= ceil((t - offset)/scale) for a positive scale; for a negative one codes start high and
    fall where it ceases to hold. `margin` counts the sums below and from the threshold that are within the noise of t.
    """
    scale, offset = row.scale, row.offset
    low, high = int(switches.low[element]), int(switches.high[element])
    found, passing = [], 0
    for k in range(abs(high - low)):
        t, inclusive = switches.of(element, k)
        if scale == 0:
            passing += offset > t or (inclusive and offset == t)
            near = row.noise > 0 and abs(offset - t) <= row.noise
            found.append((epilogue.hi + 1, (epilogue.hi + 1 - epilogue.lo, 0) if near else (0, 0)))
            continue
        # The first S on the far side: x >= t or x > t where codes rise with S, x < t or x <= t where they fall.
        at = (t - offset) / scale
        threshold = ceil(at) if inclusive == (scale > 0) else floor(at) + 1
        spread = (row.noise + row.relative * abs(t - offset)) / abs(scale)
        below, above = (threshold - ceil(at - spread), floor(at + spread) + 1 - threshold) if spread else (0, 0)
        limit = epilogue.hi - epilogue.lo + 1
        found.append((min(max(threshold, epilogue.lo), epilogue.hi + 1), (min(max(below, 0), limit), min(max(above, 0), limit))))
    rising = 1 if high >= low else -1
    start, sign = (low, rising) if scale > 0 else (high, -rising)
    if scale == 0:
        start, sign = low + rising * passing, 1
    found.sort(key=lambda pair: pair[0])
    found += [(epilogue.hi + 1, (0, 0))] * (switches.count - len(found))
    return start, sign, [threshold for threshold, _ in found], [margin for _, margin in found]
