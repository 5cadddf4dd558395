"""Epilogues: what Keras does in float32 between an integer and the next quantised activation, by evaluation.

A epilogue is a list of stages, each a Keras layer (or a part of one) that works on every element by itself or moves
elements. It is called on integer candidates at its real rank; the codes it yields become thresholds, or a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import product
from math import prod
from typing import NoReturn

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.exact.levels import Levels, Refusal
from bnnflow.ir import Node, Steps

__all__ = ["Line", "Stage", "Epilogue", "FloatTensor"]

Int = NDArray[np.int64]

TABLE = 2**16  # ranges up to this many sums are evaluated whole, larger ones bisected and sampled
CHUNK = 2**22  # elements of one evaluation
SHAKE = 4  # units in the last place that a vectorised function may be off; sigmoid, softplus and exp showed up to 2


@dataclass(frozen=True)
class Line:
    """scale * x + offset, exactly. `size` bounds the parts that Keras makes the offset of; `noise` is what Keras'
    float32 result is off by, beyond its roundings, where the sum before it is real-scaled. `late` is the part of the
    offset that is not multiplied by a scale that was rounded itself; `plain` marks one float32 addition, x + offset.
    """

    scale: Fraction
    offset: Fraction
    size: Fraction
    noise: Fraction = Fraction(0)
    late: Fraction = Fraction(0)
    plain: bool = False


@dataclass(frozen=True)
class Stage:
    """One stage of a epilogue.

    `affine` gives a Line per element of the last axis, or one for all, where the stage is affine; `which`, where the
    positions differ, the Line of every element. `ideal` marks the stage that stands for the real scale of a sum
    (reals.py). `sums` says that a sum may follow with no activation between (a Rescaling, an average); behind a bias or
    a batch norm that is an oversight, and refused. `alike` says that all positions of a channel (all but the last axis)
    are treated alike, `rising` that no output falls where its input rises. `index` (flat, output -> input) marks a
    stage that only moves elements;
    `head` marks softmax and sigmoid, dropped at an output; `planes` > 1 a stage that makes so many outputs of every
    input (a thermometer), next to each other. Where the last bits of a stage depend on the element's place in the
    tensor (sigmoid, exp, log: vector body and remainder) `shaky` says where they enter: "after" a float stage, "before"
    a quantiser that computes so inside.
    """

    layer: str
    apply: Callable[[tf.Tensor], tf.Tensor]
    affine: Sequence[Line] | None = None
    which: Int | None = None
    ideal: bool = False
    sums: bool = False
    alike: bool = False
    rising: bool = False
    index: Int | None = None
    head: str = ""
    planes: int = 1
    shaky: str = ""


@dataclass(frozen=True)
class FloatTensor:
    """What a Keras tensor means: the integer codes of `node`, then `epilogue`, giving a tensor of `shape`."""

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
        """True where the sum is real-scaled: Keras' float32 value is noise around scale * code."""
        return any(stage.ideal for stage in self.epilogue)

    @cached_property
    def reduced(self) -> FloatTensor:
        """One position of the value, of the same rank, where the epilogue treats all positions alike; else the value."""
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
    """The codes that Keras computes from integers of `value.node`, for every element of the value."""

    value: FloatTensor
    levels: Levels
    layer: str

    def __post_init__(self) -> None:
        for stage in self.value.epilogue:
            if stage.head == "softmax":
                raise Refusal(f"layer {stage.layer!r}: softmax mixes the elements of a tensor and can only end a "
                              f"model; remove it or quantise before it (it stands before {self.layer!r})")

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

    def reals(self, candidates: Int, nudges: Sequence[int] = ()) -> NDArray[np.float64]:
        """Candidates (k, elements of the node or 1) -> Keras' values (k, elements of the value).

        `nudges` moves what each shaky stage computes by so many units in the last place.
        """
        step = max(1, CHUNK // max(self.size, self.value.node.size))
        return np.concatenate([self._reals(candidates[i : i + step], nudges) for i in range(0, len(candidates), step)])

    def _reals(self, candidates: Int, nudges: Sequence[int]) -> NDArray[np.float64]:
        node = self.value.node
        # Exact: alpha and beta are dyadic and the sum is below 2^24 units.
        real = (candidates * float(node.domain.scale) + float(node.domain.offset)).astype(np.float32)
        full = np.broadcast_to(real, (len(real), node.size)).reshape(-1, *node.shape)
        with tf.device("CPU:0"):
            x = tf.constant(full)
            left = list(nudges)
            for stage in self.value.epilogue:
                if left and stage.shaky == "before":
                    x = _nudged(x, left.pop(0))
                x = stage.apply(x)
                if left and stage.shaky == "after":
                    x = _nudged(x, left.pop(0))
        values: NDArray[np.float64] = x.numpy().astype(np.float64).reshape(len(real), self.size)
        return values

    def codes(self, candidates: Int, nudges: Sequence[int] = ()) -> Int:
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
        """Keras gives `y`, which is no level."""
        raise Refusal(f"layer {self.layer!r}: yields {y} for {of}, which is none of its levels {self.levels.domain}; "
                      "the values before it are too large for float32, or the quantizer's levels are not exact")

    def table(self) -> Int:
        """Positions of the codes over the whole range: (candidates, elements)."""
        sums = np.arange(self.lo, self.hi + 1)[:, None]
        codes = self.codes(sums)
        if not all(np.array_equal(self.codes(sums, nudges), codes) for nudges in self._nudges()):
            self._refuse_shaky()
        return codes

    def steps(self) -> Steps | None:
        """The thresholds, per element of the value; checked against evaluation. None where codes neither rise nor fall."""
        start, last = self.codes(np.array([[self.lo], [self.hi]]))
        sign = np.where(last >= start, 1, -1).astype(np.int64)
        count = int(np.abs(last - start).max())
        if self.small:
            thresholds = self._from_table(start, sign, count)
            probe = np.arange(self.lo, self.hi + 1)[:, None]
        else:
            thresholds = self._bisected(start, sign, count)
            probe = np.random.default_rng(0).integers(self.lo, self.hi, (4096, 1), endpoint=True)
        steps = Steps(start, sign, thresholds)
        if not self._agrees(steps, probe):
            return None
        near = [np.clip(thresholds.T + d, self.lo, self.hi) for d in (-2, -1, 0, 1)] if count else []
        if not self.small and not all(self._agrees_at(steps, wanted) for wanted in near):
            return None
        for nudges in self._nudges():
            if not all(self._agrees_at(steps, wanted, nudges) for wanted in near):
                self._refuse_shaky()
        return steps

    def _nudges(self) -> list[tuple[int, ...]]:
        """All ways for the shaky stages to be off by a few units in the last place, up or down."""
        shaky = sum(stage.shaky != "" for stage in self.value.epilogue)
        if shaky > 6:
            raise Refusal(f"layer {self.layer!r}: {shaky} functions such as sigmoid before it, whose last bits cannot "
                          "all be checked together; quantise between them")
        return list(product((-SHAKE, SHAKE), repeat=shaky)) if shaky else []

    def _refuse_shaky(self) -> None:
        raise Refusal(f"layer {self.layer!r}: a code of it depends on the last bits of "
                      f"{', '.join(repr(s.layer) for s in self.value.epilogue if s.shaky)}, which TensorFlow computes "
                      "differently in the body and the remainder of a vector; use the hard_ form of the activation")

    def _from_table(self, start: Int, sign: Int, count: int) -> Int:
        """thresholds[i, k]: the first sum at which |code - start| exceeds k; hi + 1 where it never does."""
        thresholds = np.full((self.size, count), self.hi + 1, np.int64)
        step = max(1, CHUNK // self.size)
        for first in range(self.lo, self.hi + 1, step):
            sums = np.arange(first, min(first + step, self.hi + 1))
            level = (self.codes(sums[:, None]) - start) * sign
            for k in range(count):
                above = level > k
                found = above.any(axis=0) & (thresholds[:, k] > self.hi)
                thresholds[found, k] = sums[above.argmax(axis=0)[found]]
        return thresholds

    def _bisected(self, start: Int, sign: Int, count: int) -> Int:
        thresholds = np.empty((self.size, count), np.int64)
        for k in range(count):
            below, above = np.full(self.size, self.lo), np.full(self.size, self.hi + 1)
            while (above - below > 1).any():
                middle = (below + above) // 2
                passed = (self.codes_at(middle[None])[0] - start) * sign > k
                above, below = np.where(passed, middle, above), np.where(passed, below, middle)
            thresholds[:, k] = above
        return thresholds

    @cached_property
    def _rank(self) -> Int:
        """For every element of the value how many before it are made from the same source."""
        source = self.value.source
        order = np.argsort(source, kind="stable")
        rank = np.empty(len(source), np.int64)
        rank[order] = np.arange(len(source)) - np.searchsorted(source[order], source[order])
        return rank

    def codes_at(self, wanted: Int, nudges: Sequence[int] = ()) -> Int:
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
        chunk = max(1, CHUNK // (self.size * max(1, steps.thresholds.shape[1])))
        return all(
            np.array_equal(self.codes(part), _apply(steps, part))
            for part in (candidates[i : i + chunk] for i in range(0, len(candidates), chunk))
        )

    def _agrees_at(self, steps: Steps, wanted: Int, nudges: Sequence[int] = ()) -> bool:
        return np.array_equal(self.codes_at(wanted, nudges), _apply(steps, wanted))


def _nudged(x: tf.Tensor, ulps: int) -> tf.Tensor:
    """`x` moved by units in the last place; zeros stay, so that a sign is never made up."""
    values = x.numpy()
    moved = values
    for _ in range(abs(ulps)):
        moved = np.nextafter(moved, np.float32(np.inf if ulps > 0 else -np.inf))
    return tf.constant(np.where(values == 0, values, moved))


def _apply(steps: Steps, candidates: Int) -> Int:
    level = (candidates[..., None] >= steps.thresholds).sum(axis=-1)
    result: Int = steps.start + steps.sign * level
    return result
