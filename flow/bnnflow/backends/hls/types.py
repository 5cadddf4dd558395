"""Types of C++ as data, and the dialects that make text of them.

A kernel call says of a number how many bits it has; only a `Dialect` knows what such a type is called in the C++ of a
family of HLS compilers, and how its pragmas are written. Another family, say one with `ac_int`, is another `Dialect`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from bnnflow.ir import Domain

__all__ = ["AP_TYPES", "DIALECTS", "CodeType", "Dialect", "IntType", "Native", "Type", "code_int", "code_type",
           "literal", "word_of"]


class Native(Enum):
    """Integers that C++ has by itself; the value is the type's name."""

    INT = "int"
    LONG = "long long"
    WORD = "unsigned long long"  # packed bits, and fewer of them
    WORD32 = "unsigned int"
    WORD16 = "unsigned short"
    WORD8 = "unsigned char"


@dataclass(frozen=True)
class IntType:
    """An integer of `bits`, in two's complement where it is signed."""

    bits: int
    signed: bool = True


@dataclass(frozen=True)
class CodeType:
    """A fixed-point number of `bits`, of which `fraction` stand behind the point: how tensors hold their codes."""

    bits: int
    signed: bool
    fraction: int


Type = Native | IntType | CodeType
LITERALS = {Native.INT: "{}", Native.LONG: "{}LL", Native.WORD: "0x{:x}ULL"}  # of others as packed bits
WORDS = {8: Native.WORD8, 16: Native.WORD16, 32: Native.WORD32, 64: Native.WORD}


def code_type(domain: Domain) -> CodeType:
    """The type of a tensor's elements: its bits are the code, its value the real one where that is fixed-point."""
    return CodeType(domain.bits, domain.signed, domain.fraction_bits or 0)


def code_int(domain: Domain) -> IntType:
    """The type of a code as an integer."""
    return IntType(domain.bits, domain.signed)


def literal(value: int, kind: Native) -> str:
    """An integer as C++11 writes it."""
    return LITERALS.get(kind, "0x{:x}U").format(value)


def word_of(bits: int) -> Native:
    """The narrowest integer of C++ that holds so many packed bits.

    Constants are in these, not in `ap_uint`: g++ would construct every word at run time, in gigabytes of code.
    """
    return next(kind for width, kind in WORDS.items() if bits <= width)


@dataclass(frozen=True)
class Dialect:
    """The C++ of a family of HLS compilers: names of its types, and its pragmas.

    `integer` and `fixed` are (unsigned, signed) names with places for `bits`, and for the bits `before` the point.
    Pragmas: `inline` dissolves a function in its callers, `apart` keeps it a block of its own; `every_cycle` lets it
    take new inputs in every cycle; `unroll` makes copies of a loop's body; `registers` keeps every element of the array
    `variable` by itself; `copies` gives every two readers of a ROM `variable` one of their own.
    """

    integer: tuple[str, str]
    fixed: tuple[str, str]
    inline: str
    apart: str
    every_cycle: str
    unroll: str
    registers: str
    copies: str

    def type(self, kind: Type) -> str:
        """The name of a type."""
        if isinstance(kind, Native):
            return kind.value
        if isinstance(kind, IntType):
            return self.integer[kind.signed].format(bits=kind.bits)
        return self.fixed[kind.signed].format(bits=kind.bits, before=kind.bits - kind.fraction)


AP_TYPES = Dialect(
    integer=("ap_uint<{bits}>", "ap_int<{bits}>"), fixed=("ap_ufixed<{bits},{before}>", "ap_fixed<{bits},{before}>"),
    inline="#pragma HLS INLINE", apart="#pragma HLS INLINE off", every_cycle="#pragma HLS PIPELINE II=1",
    unroll="#pragma HLS UNROLL", registers="#pragma HLS ARRAY_PARTITION variable={variable} complete",
    copies="#pragma HLS BIND_STORAGE variable={variable} type=rom_np",
)
DIALECTS = {  # by the name of the backend, which is hls4ml's
    "Vitis": AP_TYPES,
    "Vivado": replace(AP_TYPES, copies="#pragma HLS RESOURCE variable={variable} core=ROM_nP_BRAM"),
}
