"""What an integer code means: a range of codes and the real value of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from math import floor, gcd, lcm

from bnnflow.errors import InputError

__all__ = ["BIPOLAR", "BIT", "TERNARY", "Domain", "fixed"]


@dataclass(frozen=True)
class Domain:
    """Integer codes `lo..hi`; code c stands for the real number `scale*c + offset` (exact rationals, scale > 0)."""

    lo: int
    hi: int
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", Fraction(self.scale))
        object.__setattr__(self, "offset", Fraction(self.offset))
        if self.lo > self.hi or self.scale <= 0:
            raise InputError(f"domain {self.lo}..{self.hi}, scale {self.scale}: needs lo <= hi and scale > 0")

    @property
    def signed(self) -> bool:
        """True where a code can be negative."""
        return self.lo < 0

    @property
    def bits(self) -> int:
        """Width of the two's complement (or unsigned) word that holds every code; at least 1."""
        if self.signed:
            return max(max(self.hi, 0).bit_length(), (-self.lo - 1).bit_length()) + 1
        return max(1, self.hi.bit_length())

    @property
    def size(self) -> int:
        """Number of codes."""
        return self.hi - self.lo + 1

    @property
    def nearest_zero(self) -> int:
        """The code whose value is nearest to 0, the lower of two equally near ones. An absent tap holds this code."""
        middle = floor(-self.offset / self.scale)
        return min((min(max(c, self.lo), self.hi) for c in (middle, middle + 1)),
                   key=lambda c: abs(self.scale * c + self.offset))

    @property
    def unit(self) -> Fraction:
        """The largest rational of which every value of the domain is an integer multiple (offset included)."""
        if self.offset == 0:
            return self.scale
        common = lcm(self.scale.denominator, self.offset.denominator)
        return Fraction(gcd(int(self.scale * common), int(self.offset * common)), common)

    @property
    def numerator(self) -> tuple[int, int]:
        """(a, b) such that value = unit * (a*code + b). Sums add these integers a*code + b."""
        return int(self.scale / self.unit), int(self.offset / self.unit)

    @property
    def fraction_bits(self) -> int | None:
        """f where value = code * 2^-f, so that an `ap_[u]fixed` has the same bits; None for any other domain."""
        over, under = self.scale.numerator, self.scale.denominator
        if self.offset != 0 or over & (over - 1) or under & (under - 1):
            return None
        return under.bit_length() - over.bit_length()

    @property
    def type_name(self) -> str:
        """hls4ml's notation where values are fixed-point numbers, else the code range and its scale."""
        f = self.fraction_bits
        if f is not None:
            return f"{'fixed' if self.signed else 'ufixed'}<{self.bits},{self.bits - f}>"
        return f"codes {self.lo}..{self.hi} of {self.scale}*code{self._offset_text}"

    def __str__(self) -> str:
        return f"[{self.lo},{self.hi}]*{self.scale}{self._offset_text}"

    @property
    def _offset_text(self) -> str:
        return "" if self.offset == 0 else f"{'+' if self.offset > 0 else '-'}{abs(self.offset)}"


BIT = Domain(0, 1)
BIPOLAR = Domain(0, 1, Fraction(2), Fraction(-1))
TERNARY = Domain(-1, 1)

_FIXED = re.compile(r"^\s*(?:ap_)?(u?)fixed\s*<\s*(\d+)\s*,\s*(-?\d+)\s*>\s*$")


def fixed(text: str) -> Domain:
    """Read hls4ml's `fixed<W,I>`, `ufixed<W,I>` (also with `ap_`): W bits, I of them before the point.

    Raises InputError for anything else, and for widths outside 1..24: float32 holds 24-bit codes exactly, no more.
    """
    match = _FIXED.match(text)
    if match is None:
        raise InputError(f"type {text!r}: expected fixed<W,I> or ufixed<W,I>, for example ufixed<8,0> for pixels/256")
    width, integer = int(match[2]), int(match[3])
    if not 1 <= width <= 24 or abs(integer) > 64:
        raise InputError(f"type {text!r}: width must be 1 to 24 bits (float32 is exact up to 24), |I| at most 64")
    scale = Fraction(2) ** (integer - width)
    if match[1]:
        return Domain(0, 2**width - 1, scale)
    return Domain(-(2 ** (width - 1)), 2 ** (width - 1) - 1, scale)
