"""What goes into a real-scaled sum: codes, and the exact line by which the code of each element is a real number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd, lcm

import numpy as np

from bnnflow.exact.epilogues import FloatTensor, Int
from bnnflow.exact.noise import lines_of
from bnnflow.ir import Node, Weights, Window

__all__ = ["MAX_LEVEL", "AffineElement", "AffineInput", "affine_input_of", "offsets", "plain"]

MAX_LEVEL = 2**15  # integers wider than this are floats, not levels of weights


@dataclass(frozen=True)
class AffineElement:
    """An element whose codes have the value v stands for scale*v + offset, at most `bound` in size; the model's float32
    value is off that by at most `noise`.
    """

    scale: Fraction
    offset: Fraction
    bound: Fraction
    noise: Fraction


@dataclass(frozen=True)
class AffineInput:
    """The lines of a tensor of `shape` (channels last): few different `elements`, and `which` of them each one is."""

    elements: list[AffineElement]
    which: Int
    shape: tuple[int, ...]

    @property
    def alike(self) -> bool:
        """True where all positions of a channel are alike."""
        rows = self.which.reshape(-1, self.shape[-1])
        return bool((rows == rows[:1]).all())

    @property
    def shifted(self) -> bool:
        """True where an offset is not zero."""
        return any(element.offset for element in self.elements)

    def of_groups(self, groups: int) -> list[set[int]]:
        """Which of `elements` occur in every group of channels."""
        split = self.which.reshape(-1, groups, self.shape[-1] // groups)
        return [set(np.unique(split[:, g]).tolist()) for g in range(groups)]

    def one_scale(self, groups: int) -> bool:
        """True where all elements of a group of channels have one scale, which a sum over the group can take out."""
        return all(len({self.elements[k].scale for k in group}) == 1 for group in self.of_groups(groups))

    def factored(self, groups: int) -> tuple[Int, AffineInput] | None:
        """Integer factors, one per element, and the input that codes times these factors are: one scale a group.

        The scales 1/9, 1/6 and 1/4 (an average pool at borders) are 4, 6 and 9 times 1/36. None where the factors are
        no small integers.
        """
        elements: list[AffineElement] = []
        factors: list[int] = []
        place = np.zeros((len(self.elements), groups), np.int64)  # (old element, group) -> which of the new ones it is
        for g, group in enumerate(self.of_groups(groups)):
            common = _common(self.elements[k].scale for k in group)
            for k in group:
                place[k, g] = len(elements)
                factors.append(int(self.elements[k].scale / common))
                elements.append(replace(self.elements[k], scale=common))
        if max(map(abs, factors)) > MAX_LEVEL:
            return None
        group_of = np.arange(len(self.which)) % self.shape[-1] // (self.shape[-1] // groups)
        which = place[self.which, group_of]
        return np.array(factors, np.int64)[which], AffineInput(elements, which, self.shape)

    def moved_into(self, shape: tuple[int, ...]) -> AffineInput:
        """The same lines for an image of another size; all positions must be `alike`."""
        channels = shape[-1]
        return AffineInput(self.elements, np.resize(self.which[:channels], int(np.prod(shape))), shape)


def _common(scales: Iterable[Fraction]) -> Fraction:
    """The largest number of which all are integer multiples; 1 for zeros."""
    used = [s for s in scales if s]
    return Fraction(gcd(*(s.numerator for s in used)), lcm(*(s.denominator for s in used))) if used else Fraction(1)


def affine_input_of(value: FloatTensor) -> AffineInput:
    """The lines of a value whose epilogue only has affine stages and stages that move elements."""
    d, lines = value.node.domain, lines_of(value, value.epilogue)
    elements = []
    for row in lines.rows:
        scale = row.scale / d.scale
        reach = max(abs(row.scale * code + row.offset) for code in (d.lo, d.hi))
        elements.append(AffineElement(scale, row.offset - scale * d.offset, reach, max(map(row.off_by, (d.lo, d.hi)))))
    return AffineInput(elements, lines.which, value.shape)


def plain(node: Node) -> AffineInput:
    """The lines of codes that are values themselves."""
    d = node.domain
    reach = max(abs(d.scale * code + d.offset) for code in (d.lo, d.hi))
    element = AffineElement(Fraction(1), Fraction(0), reach, Fraction(0))
    return AffineInput([element], np.zeros(node.size, np.int64), node.shape)


def offsets(affine: AffineInput, weights: Weights, window: Window | None) -> tuple[list[list[Fraction]], Int]:
    """What the offsets add to a sum of weight levels times values: rows (patterns, outputs), and each position's row.

    A pattern says which offset lies at each tap of a position, or that none does (at the borders).
    """
    outputs, channels = weights.levels.shape[1], affine.shape[-1]
    vectors, at = np.unique(affine.which.reshape(-1, channels), axis=0, return_inverse=True)
    taps = at.reshape(-1, 1)
    if window is not None:
        taps = np.where(window.places < 0, len(vectors), at.ravel()[window.places])
    if not affine.shifted:
        return [[Fraction(0)] * outputs], np.zeros(len(taps), np.int64)
    patterns, which = np.unique(taps, axis=0, return_inverse=True)
    below = lcm(*(element.offset.denominator for element in affine.elements))
    whole = np.array([int(element.offset * below) for element in affine.elements], object)
    shift = np.concatenate([whole[vectors], np.zeros((1, channels), object)])  # the last row is an absent tap
    layout = (len(patterns), patterns.shape[1], 1 if window is None else window.groups, -1)
    # As WINDOW orders them (group, tap, channel of the group), then by the groups of the sum.
    inputs = shift[patterns].reshape(layout).swapaxes(1, 2).reshape(len(patterns), weights.groups, -1)
    levels = np.split(weights.effective.astype(object), weights.groups, axis=1)
    sums = np.concatenate([inputs[:, g] @ part for g, part in enumerate(levels)], axis=1)
    return [[Fraction(int(total), below) for total in row] for row in sums], which.ravel()
