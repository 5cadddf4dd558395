"""Epilogues: what a model computes in float32 between an integer and the next quantised activation, by evaluation.

An epilogue is a list of stages, each a layer (or a part of one) that works on every element by itself or moves
elements. It is called on integer candidates at its real rank; the codes it yields become thresholds, or a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import prod
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from bnnflow.exact.functions import ArrayFunction, Refusal, Uncomputable
from bnnflow.exact.levels import Levels
from bnnflow.ir import Node, Steps

__all__ = ["Epilogue", "FloatTensor", "Line", "Rounding", "Stage"]

Int = NDArray[np.int64]
Float = NDArray[np.float32]

TABLE = 2**16  # ranges up to this many sums are evaluated whole, larger ones bisected and sampled
CHUNK = 2**22  # elements of one evaluation
MAX_NUDGED = 6  # stages whose last bits are not sure: all 2^n ways to be off are tried


@dataclass(frozen=True)
class Rounding:
    """How far the float32 result of scale * x + offset may be off, in a form that a front end can fill in.

    Three errors are relative: `of_product` to |scale * x|, `of_shifted` to |scale * x + offset - late|, `of_result` to
    |scale * x + offset|; `late` is the part of the offset that is added last, after a product with a rounded scale.
    They, and what x itself was off, count `growth` times, which covers errors of the second order. `absolute` is added
    to that whatever x is, and `flushed` unless the scale is 0: it is what a framework loses that flushes tiny numbers.
    """

    of_product: Fraction = Fraction(0)
    of_shifted: Fraction = Fraction(0)
    of_result: Fraction = Fraction(0)
    late: Fraction = Fraction(0)
    growth: Fraction = Fraction(1)
    absolute: Fraction = Fraction(0)
    flushed: Fraction = Fraction(0)


@dataclass(frozen=True)
class Line:
    """scale * x + offset, exactly, and how far the float32 result is off it. The front end knows the rounding."""

    scale: Fraction
    offset: Fraction
    rounding: Rounding = Rounding()


@dataclass(frozen=True)
class Stage:
    """One stage of an epilogue: `layer` names it in messages, `apply` computes it.

    `affine` gives a Line per element of the last axis, or one for all, where the stage is affine; `which`, where the
    positions differ, the number of the Line of every element. `ideal` marks the stage that stands for the real scale of
    a sum (reals.py). `sums` says that a sum may follow with no activation between (a Rescaling, an average, the batch
    norm of codes); behind a bias, or the batch norm of a sum, that is an oversight, and refused.

    `alike` says that all positions of a channel (all but the last axis) are treated alike, `rising` that no output
    falls where its input rises. `index` (flat, output -> input) marks a stage that only moves elements; `planes` > 1
    one that makes so many outputs of every input (a thermometer), next to each other. `head` names a function that
    keeps the order of its inputs (softmax, sigmoid) and is dropped at an output; `mixes` says that it is no function of
    one element, so that it can only be dropped.

    `input_ulps` and `output_ulps` are units in the last place by which what the stage reads or yields may be off,
    because its last bits depend on the element's place in the tensor (a sigmoid in the body and in the remainder of a
    vector). A quantiser that computes such a function before it rounds has `input_ulps`. `steady` names a function
    that could stand there instead and whose bits are sure.
    """

    layer: str
    apply: ArrayFunction
    affine: Sequence[Line] | None = None
    which: Int | None = None
    ideal: bool = False
    sums: bool = False
    alike: bool = False
    rising: bool = False
    index: Int | None = None
    planes: int = 1
    head: str = ""
    mixes: bool = False
    input_ulps: int = 0
    output_ulps: int = 0
    steady: str = ""

    @property
    def ulps(self) -> int:
        """Units in the last place that the stage adds; 0 where its bits are the same wherever an element lies."""
        return max(self.input_ulps, self.output_ulps)

    def __call__(self, x: Float, nudge: int = 0) -> Float:
        """The values (k, *shape') of inputs (k, *shape), where these or those are moved by `nudge` units in the last
        place, if the stage may be off there.

        Raises Refusal where the framework cannot compute them.
        """
        try:
            y = self.apply(_nudged(x, nudge) if self.input_ulps else x)
        except Uncomputable as error:
            raise Refusal(f"layer {self.layer!r}: cannot be computed: {error}") from error
        return _nudged(y, nudge) if self.output_ulps else y


def _nudged(x: Float, ulps: int) -> Float:
    """`x` moved by units in the last place; zeros stay, so that a sign is never made up."""
    moved = x
    for _ in range(abs(ulps)):
        moved = np.nextafter(moved, np.float32(np.inf if ulps > 0 else -np.inf))
    return np.where(x == 0, x, moved) if ulps else x


@dataclass(frozen=True)
class FloatTensor:
    """What a tensor of the model means: the integer codes of `node`, then `epilogue`, giving a tensor of `shape`."""

    node: Node
    shape: tuple[int, ...]
    epilogue: tuple[Stage, ...] = ()

    def then(self, stage: Stage, shape: tuple[int, ...] | None = None) -> FloatTensor:
        """This value after one more stage."""
        return FloatTensor(self.node, self.shape if shape is None else shape, (*self.epilogue, stage))

    @property
    def floats(self) -> list[str]:
        """The layers of the epilogue that compute, in order."""
        return [stage.layer for stage in self.epilogue if stage.index is None]

    @property
    def real(self) -> bool:
        """True where the sum is real-scaled: its float32 value is noise around scale * code."""
        return any(stage.ideal for stage in self.epilogue)

    @cached_property
    def reduced(self) -> FloatTensor:
        """One position of the value, of the same rank, where the epilogue treats all alike; else the value itself."""
        positions = self.shape[:-1]
        if self.node.shape[:-1] != positions or not all(stage.alike for stage in self.epilogue):
            return self
        one = (1,) * len(positions)
        return FloatTensor(replace(self.node, shape=(*one, self.node.shape[-1])), (*one, self.shape[-1]), self.epilogue)

    @cached_property
    def source(self) -> Int:
        """For every element of the value the flat index of the node's element it is made from."""
        source = np.arange(self.node.size)
        for stage in self.epilogue:
            if stage.index is not None:
                source = source[stage.index]
            elif stage.planes > 1:
                source = np.repeat(source, stage.planes)
        return source


@dataclass(frozen=True)
class Epilogue:
    """The codes that the model computes from integers of `value.node`, for every element of the value; `layer` is the
    quantised activation that gives them.
    """

    value: FloatTensor
    levels: Levels
    layer: str

    def __post_init__(self) -> None:
        for stage in self.value.epilogue:
            if stage.mixes:
                raise Refusal(f"layer {stage.layer!r}: {stage.head} mixes the elements of a tensor and can only end a "
                              f"model; remove it (it stands before {self.layer!r})")

    @property
    def lo(self) -> int:
        """Lowest candidate."""
        return self.value.node.domain.lo

    @property
    def hi(self) -> int:
        """Highest candidate."""
        return self.value.node.domain.hi

    @property
    def size(self) -> int:
        """Elements of the value."""
        return prod(self.value.shape)

    @property
    def small(self) -> bool:
        """True where the whole table is evaluated."""
        return self.hi - self.lo < TABLE and (self.hi - self.lo + 1) * self.size <= 2**28

    def reals(self, candidates: Int, nudges: Sequence[int] | None = None) -> NDArray[np.float64]:
        """Candidates (k, elements of the node or 1) -> the model's values (k, elements of the value).

        `nudges` moves what each stage computes by so many units in the last place.
        """
        step = max(1, CHUNK // max(self.size, self.value.node.size))
        return np.concatenate([self._reals(candidates[i : i + step], nudges) for i in range(0, len(candidates), step)])

    def _reals(self, candidates: Int, nudges: Sequence[int] | None) -> NDArray[np.float64]:
        node, stages = self.value.node, self.value.epilogue
        # Exact: scale and offset are dyadic and the sum is below 2^24 units.
        real = (candidates * float(node.domain.scale) + float(node.domain.offset)).astype(np.float32)
        x = np.broadcast_to(real, (len(real), node.size)).reshape(-1, *node.shape)
        for stage, nudge in zip(stages, nudges or [0] * len(stages), strict=True):
            x = stage(x, nudge)
        return x.astype(np.float64).reshape(len(real), self.size)

    def codes(self, candidates: Int, nudges: Sequence[int] | None = None) -> Int:
        """As `reals`, but the positions of the codes in `levels.codes`; refuses a value that is no level."""
        y = self.reals(candidates, nudges)
        places, bad = self.places(y)
        if bad is not None:
            k, i = bad
            total = int(np.broadcast_to(candidates, (len(candidates), self.value.node.size))[k, self.value.source[i]])
            self.refuse_value(y[k, i], f"the sum {total} of element {i}")
        return places

    def places(self, y: NDArray[np.float64]) -> tuple[Int, tuple[int, int] | None]:
        """Values (k, elements) -> positions in `levels.codes`, and where the first value that is no level is."""
        domain = self.levels.domain
        codes = (y - float(domain.offset)) / float(domain.scale)
        known = np.array(self.levels.codes)
        place = np.clip(np.searchsorted(known, codes), 0, len(known) - 1)
        bad = ~(known[place] == codes)
        first = np.argwhere(bad)[0] if bad.any() else None
        return place.astype(np.int64), None if first is None else (int(first[0]), int(first[1]))

    def refuse_value(self, y: float, of: str) -> NoReturn:
        """Refuse the value `y`, which is no level."""
        raise Refusal(f"layer {self.layer!r}: yields {y} for {of}, which is none of its levels {self.levels.domain}; "
                      "the values before it are too large for float32, or the quantizer's levels are not exact")

    def table(self) -> Int:
        """Positions of the codes over the whole range: (candidates, elements)."""
        sums = np.arange(self.lo, self.hi + 1)[:, None]
        codes = self.codes(sums)
        if not all(np.array_equal(self.codes(sums, nudges), codes) for nudges in self._nudges()):
            self._refuse_last_bits()
        return codes

    def steps(self) -> Steps | None:
        """The thresholds, per element of the value, checked against evaluation; None where codes neither rise nor
        fall. Their margin has the sums whose code depends on bits that are not sure.
        """
        start, last = self.codes(np.array([[self.lo], [self.hi]]))
        sign = np.where(last >= start, 1, -1).astype(np.int64)
        count = int(np.abs(last - start).max())
        thresholds = self._from_table(start, sign, count) if self.small else self._bisected(start, sign, count)
        steps = Steps(start, sign, thresholds)
        if not self._agrees(steps, self._probe()):
            return None
        near = [np.clip(thresholds.T + d, self.lo, self.hi) for d in (-2, -1, 0, 1)] if count else []
        if not (self.small or self._agrees_near(steps, near)):
            return None
        unsure = [nudges for nudges in self._nudges() if not self._agrees_near(steps, near, nudges)]
        if unsure:
            moved = np.array([thresholds, *(self._bisected(start, sign, count, nudges) for nudges in unsure)])
            margin = np.stack([thresholds - moved.min(axis=0), moved.max(axis=0) - thresholds], axis=-1)
            steps = Steps(start, sign, thresholds, margin)
        return steps

    def _probe(self) -> Int:
        """The sums at which thresholds are checked: all of them, or a sample."""
        if self.small:
            return np.arange(self.lo, self.hi + 1)[:, None]
        return np.random.default_rng(0).integers(self.lo, self.hi, (4096, 1), endpoint=True)

    def _nudges(self) -> list[tuple[int, ...]]:
        """All ways for the stages to be off, up or down, by the units in the last place that they may be off by."""
        ulps = [stage.ulps for stage in self.value.epilogue]
        moving = sum(u > 0 for u in ulps)
        if moving > MAX_NUDGED:
            raise Refusal(f"layer {self.layer!r}: {moving} functions such as sigmoid before it, whose last bits cannot "
                          "all be checked together; quantise between them")
        return list(product(*((-u, u) if u else (0,) for u in ulps))) if moving else []

    def _refuse_last_bits(self) -> NoReturn:
        unsure = [stage for stage in self.value.epilogue if stage.ulps]
        instead = dict.fromkeys(f"{stage.steady} in {stage.layer!r}" for stage in unsure if stage.steady)
        raise Refusal(f"layer {self.layer!r}: a code of it depends on the last bits of "
                      f"{', '.join(repr(s.layer) for s in unsure)}, which are computed differently in the body and the "
                      f"remainder of a vector; use {' and '.join(instead) or 'relu, hard_sigmoid or hard_tanh there'}")

    def _from_table(self, start: Int, sign: Int, count: int) -> Int:
        """thresholds[i, k]: the first sum at which |code - start| exceeds k; hi + 1 where it never does."""
        thresholds = np.full((self.size, count), self.hi + 1, np.int64)
        step = max(1, CHUNK // self.size)
        largest = np.zeros((1, self.size), np.int64)  # level so far
        for first in range(self.lo, self.hi + 1, step):
            sums = np.arange(first, min(first + step, self.hi + 1))
            level = np.concatenate([largest, np.minimum((self.codes(sums[:, None]) - start) * sign, count)])
            level = np.maximum.accumulate(level)
            rise = np.diff(level, axis=0)
            for k in range(int(rise.max())):
                sum_of, element = np.nonzero(rise > k)
                thresholds[element, level[sum_of, element] + k] = sums[sum_of]
            largest = level[-1:]
        return thresholds

    def _bisected(self, start: Int, sign: Int, count: int, nudges: Sequence[int] | None = None) -> Int:
        """As `_from_table`, by bisection: right where the codes rise or fall."""
        k = np.arange(count)[:, None]
        below, above = (np.full((count, self.size), end) for end in (self.lo - 1, self.hi + 1))
        while (above - below > 1).any():
            middle = (below + above) // 2
            passed = (self.codes_at(middle, nudges) - start) * sign > k
            above, below = np.where(passed, middle, above), np.where(passed, below, middle)
        return above.T.copy()

    @cached_property
    def _rank(self) -> Int:
        """For every element of the value how many before it are made from the same source."""
        source = self.value.source
        order = np.argsort(source, kind="stable")
        rank = np.empty(len(source), np.int64)
        rank[order] = np.arange(len(source)) - np.searchsorted(source[order], source[order])
        return rank

    def codes_at(self, wanted: Int, nudges: Sequence[int] | None = None) -> Int:
        """As `codes`, with a candidate of its own for every element of the value: (k, elements) -> (k, elements).

        Elements made from one source (a thermometer's planes) are evaluated one after the other.
        """
        source = self.value.source
        result = np.empty(wanted.shape, np.int64)
        for r in range(int(self._rank.max()) + 1):
            mine = self._rank == r
            candidates = np.full((len(wanted), self.value.node.size), self.lo)
            candidates[:, source[mine]] = wanted[:, mine]
            result[:, mine] = self.codes(candidates, nudges)[:, mine]
        return result

    def _agrees(self, steps: Steps, candidates: Int) -> bool:
        chunk = max(1, CHUNK // self.size)
        return all(
            np.array_equal(self.codes(part), _apply(steps, part))
            for part in (candidates[i : i + chunk] for i in range(0, len(candidates), chunk))
        )

    def _agrees_near(self, steps: Steps, near: Sequence[Int], nudges: Sequence[int] | None = None) -> bool:
        """True where the codes at sums (1, elements) around the thresholds are those of the steps."""
        return all(np.array_equal(self.codes_at(wanted, nudges), _apply(steps, wanted)) for wanted in near)


def _apply(steps: Steps, candidates: Int) -> Int:
    result: Int = steps.start + steps.sign * steps.reached(candidates)
    return result
