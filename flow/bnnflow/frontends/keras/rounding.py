"""How Keras and TensorFlow round in float32: the bounds of it that the exact core is given with every stage."""

from __future__ import annotations

from fractions import Fraction

from bnnflow.exact.epilogues import Rounding
from bnnflow.exact.noise import UNIT_ROUNDOFF

__all__ = ["ADDITION", "FLUSHED", "LAST_BITS", "SAFE", "scaling"]

LAST_BITS = 4  # units in the last place that a vectorised function may be off; sigmoid, softplus and exp showed up to 2
SAFE = 16  # roundings relative to the result of a batch norm, those of its scale too, with room to spare
FLUSHED = 2.0**-120  # more than what TensorFlow, which flushes denormals, loses of one product
_TINY = Fraction(1, 2**100)  # more than what it loses below 2^-126 in any stage
_GROWTH = 1 + 2 * SAFE * UNIT_ROUNDOFF

ADDITION = Rounding(of_result=UNIT_ROUNDOFF, growth=_GROWTH, flushed=_TINY)  # x + offset: one rounding of the result


def scaling(size: Fraction = Fraction(0), late: Fraction = Fraction(0), noise: Fraction = Fraction(0)) -> Rounding:
    """The rounding of scale * x + offset, in any of the forms in which Keras computes a batch norm or a Rescaling.

    A batch norm is x*s + (late - m*s), or (x - m)*s + late, where s is rounded itself. The error of s is the same in
    both products, so relative to (x - m)*s = result - late, as is what the second form rounds. The first rounds x*s
    once and m*s twice, however large, even where they cancel; late once, and the result, at most
    |result - late| + |late|. `size` bounds |m*s| + |late|.

    `noise` is what the result is off by besides, because the sum before it is.
    """
    absolute = _GROWTH * 2 * UNIT_ROUNDOFF * size + noise
    return Rounding(UNIT_ROUNDOFF, SAFE * UNIT_ROUNDOFF, late=late, growth=_GROWTH, absolute=absolute, flushed=_TINY)
