"""What a node becomes in C++, as data: a call of a kernel in hls_templates/nnet_utils, its configuration and ROMs.

Streams, estimates and kernel models read these numbers; `cpp` makes text of them, when the project is written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.types import CodeType, Native, Type
from bnnflow.backends.netlist.lower import Logic
from bnnflow.errors import InputError
from bnnflow.ir import Node
from bnnflow.ir.nodes import Int

__all__ = ["WORD", "BorderAxis", "FusedKernel", "KernelCall", "Rom", "int32", "pack_fields", "signed_bits"]

WORD = 64  # bits of a ROM word: the widest integer literal of C++11


@dataclass(frozen=True, eq=False)
class Rom:
    """A constant array `name` of integers, held as C++'s `type`: a row (the last axes) for every pass that reads it.

    `values` is a NumPy array; where it has one axis, that is the only row. `shared` is True of a long row of which
    several lanes read any word in the same cycle.
    """

    name: str
    type: Native
    values: NDArray[Any]
    shared: bool = False

    @property
    def rows(self) -> NDArray[Any]:
        """The values as (rows, words of a row)."""
        return self.values.reshape(len(self.values), -1) if self.values.ndim > 1 else self.values[None]


@dataclass(frozen=True)
class KernelCall:
    """One kernel call: `kernel<...>(in..., out)`, the numbers and types of its configuration, and its ROMs.

    `reads` are the positions of the node's inputs that the call takes. A kernel with a `fused` list goes over an array,
    pixels or positions, and its configuration has a function `cell` that makes a pass of the output by these kernels in
    a row, which take their ROMs as arguments. `logic` is the netlist that the kernel computes, where it is
    none of the templates' but made for this node alone.
    """

    kernel: str
    header: str
    members: dict[str, int] = field(default_factory=dict)
    types: dict[str, Type] = field(default_factory=dict)
    roms: tuple[Rom, ...] = ()
    reads: tuple[int, ...] = (0,)
    fused: tuple[FusedKernel, ...] = ()
    logic: Logic | None = None

    @property
    def calls(self) -> Iterator[KernelCall]:
        """This call and those of the kernels in its cell."""
        yield self
        for kernel in self.fused:
            yield from kernel.call.calls

    @property
    def over_positions(self) -> bool:
        """True where the call is a loop over positions, each computed from packed words."""
        return bool(self.fused) and self.fused[0].takes_words

    def of_pass(self, passes: int) -> KernelCall:
        """The call of a kernel that works element by element, for the elements of one of several passes.

        Where every channel has constants of its own, every pass has a row of them.
        """
        members = self.members | {"n_in": self.members["n_in"] // passes}
        if self.members.get("n_chan", 1) == 1 or passes == 1:
            return replace(self, members=members)
        members |= {"n_chan": self.members["n_chan"] // passes, "n_row": passes}
        roms = tuple(replace(rom, values=rom.values.reshape(passes, -1)) for rom in self.roms)
        return replace(self, members=members, roms=roms)


@dataclass(frozen=True)
class FusedKernel:
    """One kernel of a cell: the `node` whose ROMs it reads, the type and number of the codes that it makes.

    `takes_words`: it reads the packed words of a position, and the number of the position's class of borders, by which
    it chooses a constant: one along each of `borders` where there are several classes.
    """

    node: str
    call: KernelCall
    code_type: CodeType
    size: int
    takes_words: bool = False
    borders: tuple[BorderAxis, ...] = ()


@dataclass(frozen=True, eq=False)
class BorderAxis:
    """The classes of borders along an axis of an image, "rows" or "cols".

    `classes` has the class of every position along the axis; `count` is the number of different ones.
    """

    name: str
    classes: Int
    count: int


def int32(values: NDArray[Any], node: Node) -> NDArray[Any]:
    """Values that fit C's int; raises InputError for others."""
    if any(abs(int(v)) >= 2**31 for v in np.asarray(values).ravel()):
        raise InputError(f"node {node.name!r}: constants past 32 bits; its input's domain has too large an offset")
    return values


def signed_bits(lo: int, hi: int) -> int:
    """Bits of two's complement that hold lo..hi."""
    return max(max(hi, 0).bit_length(), (-lo - 1).bit_length() if lo < 0 else 0) + 1


def pack_fields(values: Int, width: int) -> NDArray[np.uint64]:
    """Rows of integers -> rows of 64-bit words, `width`-bit two's complement fields, none across a word's end."""
    per_word = WORD // width
    rows, count = values.shape
    words = -(-count // per_word)
    fields = np.zeros((rows, words * per_word), np.uint64)
    fields[:, :count] = values.astype(np.uint64) & np.uint64((1 << width) - 1)
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(width)
    packed: NDArray[np.uint64] = np.bitwise_or.reduce(fields.reshape(rows, words, per_word) << shifts, axis=2)
    return packed
