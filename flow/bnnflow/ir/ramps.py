"""Ramps: many thresholds of a STEP as a few clipped lines, proven equal to them.

A quantiser of many bits has thresholds at even distances. How many of them x reaches is then floor(a*x + b), clipped:
a ramp, which needs one product or shift and no comparators. Ties that are rounded to even, and the slopes of a leaky
relu, are ramps too. Behind a batch norm float32 moves some thresholds to the next integer: exceptions of the line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bnnflow.ir.domain import Domain
from bnnflow.ir.nodes import Int, Steps

__all__ = ["MANY", "NO_TIE", "ChannelRamps", "Ramp", "Ramps", "grid", "ramps_of", "ramps_of_channel"]

MANY = 32  # thresholds of a channel that ramps may take the place of
MOST_RAMPS = 4  # of a channel
FEW = 8  # thresholds for one of which, at least, a line may have an exception
NO_TIE = 2  # the parity that no number has
PRODUCT_BITS = 60  # of the numbers that a ramp shifts
EXCHANGES = 200  # steps to the line that is nearest to the points; mostly ten suffice


@dataclass(frozen=True)
class Ramp:
    """clip(q, 0, count) where q = floor(v / 2^shift), v = mul*x + add, mul > 0.

    Where v is a multiple of 2^shift and q has the parity `tie`, q is one less: ties are rounded to the other parity.
    """

    mul: int
    add: int
    shift: int
    count: int
    tie: int = NO_TIE

    def __call__(self, x: Int) -> Int:
        """The ramp at integers x."""
        v = self.mul * x + self.add
        q = v >> self.shift
        clipped: Int = np.clip(q - (((q << self.shift) == v) & (q & 1 == self.tie)), 0, self.count)
        return clipped


@dataclass(frozen=True)
class ChannelRamps:
    """How many thresholds x reaches: `first` and the sum of the ramps, and at each exception (x, how many more)."""

    first: int
    ramps: tuple[Ramp, ...]
    exceptions: tuple[tuple[int, int], ...]

    def __call__(self, x: Int) -> Int:
        """The number for integers x."""
        result = self.first + sum((ramp(x) for ramp in self.ramps), np.zeros(x.shape, np.int64))
        for at, more in self.exceptions:
            result += more * (x == at)
        return result


@dataclass(frozen=True, eq=False)
class Ramps:
    """The ramps of all channels of a STEP, with one shift: int64 (channels, ramps) and (channels, exceptions).

    Channels with fewer have ramps of count 0, and exceptions of 0 more at an x past the domain; there is at least one.
    """

    shift: int
    first: Int
    mul: Int
    add: Int
    count: Int
    tie: Int
    at: Int
    more: Int


@lru_cache(maxsize=64)
def ramps_of(steps: Steps, domain: Domain) -> Ramps | None:
    """The thresholds of a STEP on codes of a domain as ramps; None where they are few, or no lines in some channel."""
    if steps.thresholds.shape[1] < MANY:
        return None
    rows, which = np.unique(steps.thresholds, axis=0, return_inverse=True)
    found: list[ChannelRamps] = []
    for row in rows:
        channel = ramps_of_channel(row, domain)
        if channel is None:
            return None
        found.append(channel)
    return _together([found[k] for k in which.ravel().tolist()], domain)


def _together(channels: Sequence[ChannelRamps], domain: Domain) -> Ramps | None:
    """The ramps of all channels with one shift; None where a product is too wide for that."""
    ramps = max(1, *(len(channel.ramps) for channel in channels))
    exceptions = max(1, *(len(channel.exceptions) for channel in channels))
    shift = max((ramp.shift for channel in channels for ramp in channel.ramps), default=0)
    mul, add, count, tie = (np.full((len(channels), ramps), fill, np.int64) for fill in (0, 0, 0, NO_TIE))
    at, more = (np.full((len(channels), exceptions), fill, np.int64) for fill in (domain.hi + 1, 0))
    for c, channel in enumerate(channels):
        for r, ramp in enumerate(channel.ramps):
            scaled = (ramp.mul << shift - ramp.shift, ramp.add << shift - ramp.shift)
            if _reach(*scaled, domain).bit_length() > PRODUCT_BITS:
                return None
            mul[c, r], add[c, r] = scaled
            count[c, r], tie[c, r] = ramp.count, ramp.tie
        for e, exception in enumerate(channel.exceptions):
            at[c, e], more[c, e] = exception
    return Ramps(shift, np.array([channel.first for channel in channels]), mul, add, count, tie, at, more)


def _reach(mul: int, add: int, domain: Domain) -> int:
    """The largest size of mul * x + add, whatever its sign."""
    return mul * max(abs(domain.lo), abs(domain.hi)) + abs(add)


def ramps_of_channel(thresholds: Int, domain: Domain) -> ChannelRamps | None:
    """Ascending thresholds as ramps, for codes of a domain; None where they are not few lines."""
    inside = thresholds[(thresholds > domain.lo) & (thresholds <= domain.hi)]
    return _ramps(inside.tobytes(), int((thresholds <= domain.lo).sum()), domain)


@lru_cache(maxsize=1024)
def _ramps(inside: bytes, first: int, domain: Domain) -> ChannelRamps | None:
    rest = inside_all = np.frombuffer(inside, np.int64)
    ramps: list[Ramp] = []
    more: dict[int, int] = {}
    while len(rest):
        piece = _longest(rest)
        ramps += piece
        if len(ramps) > MOST_RAMPS or any(_reach(r.mul, r.add, domain).bit_length() > PRODUCT_BITS for r in piece):
            return None
        taken = sum(ramp.count for ramp in piece)
        for k, ramp in enumerate(piece):
            for at, one in _exceptions(ramp, rest[k:taken:len(piece)]):
                more[at] = more.get(at, 0) + one
        rest = rest[taken:]
    found = ChannelRamps(first, tuple(ramps), tuple((at, n) for at, n in sorted(more.items()) if n))
    return found if _proven(found, inside_all, domain) else None


def _proven(found: ChannelRamps, thresholds: Int, domain: Domain) -> bool:
    """True where the number of thresholds is that of the ramps at every code of the domain.

    Ramps rise, and exceptions apart so does their sum. Where it is right at both ends of a stretch without thresholds
    and exceptions, it is right inside. So the ends, thresholds, exceptions and their neighbours are looked at.
    """
    at = np.array([at for at, _ in found.exceptions], np.int64)
    x = np.concatenate([[domain.lo, domain.hi], thresholds - 1, thresholds, at - 1, at, at + 1])
    x = x[(x >= domain.lo) & (x <= domain.hi)]
    return np.array_equal(found(x), found.first + np.searchsorted(thresholds, x, side="right"))


def _longest(t: Int) -> list[Ramp]:
    """One ramp, or two in turn, for as many of the first thresholds as possible."""
    piece = _piece(t)
    if piece is not None:
        return piece
    piece, good, bad = _piece(t[:2]) or [], min(2, len(t)), len(t)
    while bad - good > 1:
        middle = (good + bad) // 2
        longer = _piece(t[:middle])
        good, bad = (middle, bad) if longer else (good, middle)
        piece = longer or piece
    return piece


def _piece(t: Int) -> list[Ramp] | None:
    """Thresholds as a ramp; or those of even and of odd number as a ramp each, which are ties of any distances."""
    one = grid(t) or _line(t)
    if one is not None:
        return [one]
    even, odd = _line(t[::2]), _line(t[1::2])
    return [even, odd] if even is not None and odd is not None else None


def grid(t: Int) -> Ramp | None:
    """Thresholds at distances of 2^shift, or of 2^shift - 1 and 2^shift + 1 in turn (rounding to even); or None."""
    distances = np.diff(t)
    if len(distances) < 2 or (distances[2:] != distances[:-2]).any():
        return None
    first, count = int(t[0]), len(t)
    step, uneven = int(distances[0] + distances[1]) // 2, int(distances[1] - distances[0])
    if step < 1 or step & (step - 1) or uneven not in (-2, 0, 2) or (uneven and step < 2):
        return None
    # A threshold that follows a short distance is at the tie itself, the one before it an integer later.
    at_tie = first - (uneven > 0)
    return Ramp(1, step - at_tie, step.bit_length() - 1, count, {-2: 0, 0: NO_TIE, 2: 1}[uneven])


def _line(t: Int) -> Ramp | None:
    """Thresholds as a line with few exceptions: that with the fewest, of them the one with the smallest shift."""
    count = len(t)
    if t[0] == t[-1]:
        return Ramp(count, count - count * int(t[0]), 0, count)
    slope, offset = _nearest_line(t)
    # A threshold is the first integer from the line on, so that the line is half an integer below it on average.
    middle, best, fewest = (count - 1) / 2, None, count // FEW + 1
    at_middle = offset + slope * middle - 0.5
    for shift in range(max(0, int(np.floor(np.log2(slope)))), 62 - count.bit_length()):
        mul = round(2.0**shift / slope)
        if mul >= 2**31:
            break
        if mul > 0:
            ramp = Ramp(mul, round(2.0**shift * (1 + middle) - mul * at_middle), shift, count)
            off = np.abs(t - _thresholds(ramp))
            wrong = int(np.count_nonzero(off))
            if off.max() <= 1 and wrong < fewest:
                best, fewest = ramp, wrong
            if not fewest or mul > 2 * count**2 * max(1, slope):  # more digits move no threshold
                break
    return best


def _thresholds(ramp: Ramp) -> Int:
    """The first x at which a ramp without ties is 1, 2, ... count: ceil((k * 2^shift - add) / mul)."""
    return -((ramp.add - (np.arange(1, ramp.count + 1) << ramp.shift)) // ramp.mul)


def _exceptions(ramp: Ramp, t: Int) -> list[tuple[int, int]]:
    """Where a ramp is off thresholds t, by one x each: (x, how many more are reached there)."""
    if ramp.tie != NO_TIE:
        return []
    made = _thresholds(ramp)
    late, early = t > made, t < made
    return [*((x, -1) for x in made[late].tolist()), *((x, 1) for x in t[early].tolist())]


def _nearest_line(t: Int) -> tuple[float, float]:
    """(slope, offset) of the line of which the points (k, t[k]) are off as little as possible, by exchange.

    It is level between three points, of which the middle one is as far on the other side; the worst point takes the
    place of one of them until none is worse (Remez).
    """
    y, k = (t - t[0]).astype(np.float64), np.arange(len(t))
    if len(t) == 2:
        return float(y[1]), float(t[0])
    i, j, m = 0, len(t) // 2, len(t) - 1
    for _ in range(EXCHANGES):
        slope = (y[m] - y[i]) / (m - i)
        offset = (y[i] - slope * i + y[j] - slope * j) / 2
        off = y - slope * k - offset
        worst = int(np.abs(off).argmax())
        if abs(off[worst]) <= abs(off[j]) + 1e-7:
            break
        above = off[worst] > 0
        outer = off[i] > 0 if off[i] else above != (i < worst < m)  # the side of the outer two
        if worst < i:
            i, j, m = (worst, j, m) if above == outer else (worst, i, j)
        elif worst > m:
            i, j, m = (i, j, worst) if above == outer else (j, m, worst)
        elif worst < j:
            i, j = (worst, j) if above == outer else (i, worst)
        else:
            j, m = (j, worst) if above == outer else (worst, m)
    return float(slope), float(offset + t[0])
