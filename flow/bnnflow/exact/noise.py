"""How far a model's float32 values may be off the exact line that they stand for, in the real-scaled class.

The front end says how each affine stage rounds (`Line.rounding`); here that is carried from stage to stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from bnnflow.exact.epilogues import FloatTensor, Int, Line, Stage

__all__ = ["UNIT_ROUNDOFF", "Lines", "NoisyLine", "lines_of", "sum_noise"]

Float64 = NDArray[np.float64]
UNIT_ROUNDOFF = Fraction(1, 2**24)  # relative error of one float32 operation


@dataclass(frozen=True)
class NoisyLine:
    """value = scale * code + offset; its float32 value is off by at most noise + relative * |scale * code|."""

    scale: Fraction
    offset: Fraction
    noise: Fraction = Fraction(0)
    relative: Fraction = Fraction(0)

    def then(self, line: Line) -> NoisyLine:
        """The line behind one more affine stage: what was off is scaled, and computing the stage rounds.

        With x = s*c + o, c the code, what each relative error of the stage refers to is at most |s'*c|, s' the new
        scale, and a rest: |scale*x| <= |s'*c| + |scale*o|, and so on. The error adds to `relative`, and times the rest
        to `noise`.
        """
        r = line.rounding
        scale, offset = self.scale * line.scale, self.offset * line.scale + line.offset
        noise = abs(line.scale) * (self.noise + r.of_product * abs(self.offset))
        noise += r.of_shifted * abs(offset - r.late) + r.of_result * abs(offset)
        relative = r.growth * (self.relative + r.of_product + r.of_shifted + r.of_result)
        return NoisyLine(scale, offset, r.growth * noise + r.absolute + (r.flushed if scale else 0), relative)

    def off_by(self, code: int) -> Fraction:
        """How far the float32 value may be from the line at a code."""
        return self.noise + self.relative * abs(self.scale * code)


@dataclass(frozen=True)
class Lines:
    """The line of every element of a tensor: few different ones, and `which` each has."""

    rows: list[NoisyLine]
    which: Int


def lines_of(value: FloatTensor, stages: Sequence[Stage]) -> Lines:
    """The lines from the codes of the value's node through affine and moving stages."""
    domain = value.node.domain
    rows = [NoisyLine(domain.scale, domain.offset)]
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


def sum_noise(weights: Float64, ideal: Float64, largest: Float64, off: Float64, roundings: int,
              flushed: float) -> list[Fraction]:
    """What a float32 sum of inputs times `weights` over the first axis may be off by, per channel.

    The inputs are at most `largest` in size and off by `off` (one number a channel each); `ideal` is what the weights
    stand for. In any order of n additions |error| <= n*u/(1 - n*u) * sum |w||x|, u = 2^-24 (Higham, Accuracy and
    Stability, 4.2); `roundings` are added to n for what else rounds a product, and each product loses at most
    flushed * (1 + largest) where it is flushed to zero.
    """
    nu = (len(weights) + roundings) * float(UNIT_ROUNDOFF)
    size, apart = np.abs(weights).sum(axis=0), np.abs(weights - ideal).sum(axis=0)
    lost = len(weights) * (1 + largest) * flushed
    noise = 1.01 * (nu / (1 - nu) * largest * size + largest * apart + off * size) + lost
    return [Fraction(n) for n in noise.tolist()]
