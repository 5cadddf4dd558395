"""How many additions outputs share where all weights are constants: the sums of flow_tree, value by value."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnnflow.ir.nodes import Int

__all__ = ["SharedSums"]

NARROW = 8  # bits of the narrowest integers that LLVM adds in; the next are twice as wide


@dataclass
class SharedSums:
    """Values that are made of wires, each once: what a compiler is left with of many popcounts.

    A value is a number: 0 is nothing, `2w + 1` wire w, `2w + 2` its complement; those behind are sums. `own` says that
    a compiler finds nothing equal between outputs.
    """

    wires: int
    own: bool = False
    adds: int = 0
    lost: int = 0  # additions that are equal to another
    masks: int = 0  # of sums that would be too wide
    made: dict[tuple[int, int], int] = field(default_factory=dict)
    widened: set[int] = field(default_factory=set)
    unshared: int = 0  # wires that are widened, and complements of wires, for one output each
    bits: list[int] = field(default_factory=list)  # of the sums

    def count(self, wires: Int, sign: NDArray[np.bool_], mask: NDArray[np.bool_]) -> Int:
        """The sums (outputs,) of wires (outputs, taps): complements without `sign`, nothing without `mask`."""
        return self._tree(np.where(mask, 2 * wires + np.where(sign, 1, 2), 0))

    def _tree(self, values: Int) -> Int:
        """The sums (outputs,) of values (outputs, taps), as flow_tree adds them."""
        taps = values.shape[1]
        if taps == 1:
            return values[:, 0]
        low = (taps // 2 + 2) // 3 * 3 if taps > 3 else (taps + 1) // 2
        return self._added(self._tree(values[:, :low]), self._tree(values[:, low:]), taps.bit_length())

    def _added(self, left: Int, right: Int, width: int) -> Int:
        pairs, place, times = np.unique(np.stack([left, right], 1), axis=0, return_inverse=True, return_counts=True)
        sums = np.empty(len(pairs), np.int64)
        for k, ((a, b), n) in enumerate(zip(pairs.tolist(), times.tolist())):
            sums[k] = self._sum(a, b, width, n if self.own else 1) if a and b else a or b
            self.lost += (n - 1) * bool(a and b)
        return sums[place.ravel()]

    def _sum(self, a: int, b: int, width: int, times: int) -> int:
        known = self.made.get((a, b))
        if known is not None and not self.own:
            return known
        wide = max(self._width(a), self._width(b)) + 1
        self.adds += times
        self.masks += times * (wide > width)
        for value in (a, b):
            if self._width(value) == 1:
                self.unshared += times * (2 - value % 2)
                self.widened.add(value)
            elif self._width(value) <= NARROW < min(wide, width):
                self.widened.add(value)
        self.bits.append(min(wide, width))
        self.made[a, b] = 2 * self.wires + len(self.bits)
        return self.made[a, b]

    def _width(self, value: int) -> int:
        return 1 if value <= 2 * self.wires else self.bits[value - 2 * self.wires - 1]

    @property
    def complements(self) -> int:
        """Wires whose complement is read."""
        return sum(value <= 2 * self.wires and value % 2 == 0 for value in self.widened)

    @property
    def instructions(self) -> int:
        """All that make the sums, beside reading the wires."""
        widened = self.unshared if self.own else len(self.widened) + self.complements
        return self.adds + self.masks + widened
