"""How many additions outputs share where all weights are constants: the sums of flow_tree, value by value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bnnflow.ir.nodes import Int

__all__ = ["SharedSums"]

NARROW = 8  # bits of the narrowest integers that LLVM adds in; a value is widened when it first is in a wider sum


class SharedSums:
    """Values that are made of wires, each once: what a compiler is left with of many popcounts.

    A value is a number: 0 is nothing, `2w + 1` wire w, `2w + 2` its complement; those behind are sums. `own` says that
    a compiler finds nothing that is equal in two outputs.
    """

    def __init__(self, wires: int, own: bool = False):
        self.wires, self.own = wires, own
        self.adds = self.lost = 0  # additions, and those that are equal to one of them
        self.masks = 0  # of sums that would be too wide
        self.made: dict[int, int] = {}  # the sum of two values
        self.next = 2 * wires + 1
        self.bits = np.ones(self.next, np.int64)  # of every value
        self.widened = np.zeros(self.next, bool)
        self.apart = 0  # wires that are widened, and complements, for one output each

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
        """The sums of two values each, which hold so many bits."""
        sums, both = np.maximum(left, right), (left > 0) & (right > 0)
        if not both.any():
            return sums
        keys, place, times = np.unique(left[both] << 32 | right[both], return_inverse=True, return_counts=True)
        known = [self.made.get(key, 0) for key in keys.tolist()]
        found = np.array(known, np.int64)
        new = found == 0
        found[new] = self.next + np.arange(np.count_nonzero(new))
        self.made.update(zip(keys[new].tolist(), found[new].tolist()))
        self._counted(keys if self.own else keys[new], times if self.own else times[new] * 0 + 1, width)
        self._named(keys[new], width)
        self.lost += 0 if self.own else int(times.sum() - np.count_nonzero(new))
        sums[both] = found[place.ravel()]
        return sums

    def _counted(self, keys: Int, times: Int, width: int) -> None:
        """Count the sums of pairs of values, each so many times."""
        pair = np.stack([keys >> 32, keys & 0xFFFFFFFF])
        bits = self.bits[pair]
        wide = bits.max(axis=0) + 1
        self.adds += int(times.sum())
        self.masks += int(times[wide > width].sum())
        leaf = pair <= 2 * self.wires
        self.apart += int((times * leaf * (2 - pair % 2)).sum())
        self.widened[pair[leaf | ((bits <= NARROW) & (np.minimum(wide, width) > NARROW))]] = True

    def _named(self, keys: Int, width: int) -> None:
        """New values: the sums of these pairs."""
        bits = np.minimum(self.bits[np.stack([keys >> 32, keys & 0xFFFFFFFF])].max(axis=0, initial=0) + 1, width)
        self.next += len(keys)
        if self.next > len(self.bits):
            more = np.zeros(self.next, np.int64)
            self.bits, self.widened = np.append(self.bits, more), np.append(self.widened, more.astype(bool))
        self.bits[self.next - len(keys) : self.next] = bits

    @property
    def instructions(self) -> int:
        """All that make the sums, beside reading the wires."""
        complements = self.widened[2 : 2 * self.wires + 1 : 2]
        return self.adds + self.masks + (self.apart if self.own else int(self.widened.sum() + complements.sum()))
