"""What a node becomes in C++: a call of a kernel in hls_templates/nnet_utils, its configuration and ROMs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.ir import Domain, Node
from bnnflow.ir.nodes import Int

__all__ = ["WORD", "FusedKernel", "KernelCall", "Roms", "code_type", "int32", "ints", "pack_fields", "rom_text", "signed_bits",
           "wide"]

Roms = tuple[tuple[str, str, list[str]], ...]
WORD = 64  # bits of a ROM word: the widest integer literal of C++11


@dataclass(frozen=True)
class KernelCall:
    """One kernel call: `kernel<...>(in..., out, roms...)`, the members of its configuration, and its ROMs.

    `reads` are the positions of the node's inputs that the call takes. `roms` are (C type, field name, literals);
    arrays are named flow_<node>_<field>. A kernel with a `fused` list takes no ROMs: it goes over pixels or positions, and
    its configuration has a function `cell` that makes one of the output by these kernels in a row. `code` is C++ that
    defines the kernel, where it is none of the templates'.
    """

    kernel: str
    header: str
    members: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    roms: Roms = ()
    reads: tuple[int, ...] = (0,)
    fused: tuple[FusedKernel, ...] = ()
    code: str = ""

    def config_text(self, name: str, node: str) -> str:
        """The configuration struct of this call; `node` names its ROMs."""
        base = f"nnet::{self.header.removeprefix('nnet_').removesuffix('.h')}_config"
        first = [kernel.call.config_text(f"{name}_{k}", kernel.node) for k, kernel in enumerate(self.fused)]
        if self.fused and self.fused[0].border:
            base = f"{name}_0"
        lines = [f"    static const int {key} = {value};" for key, value in self.members.items()]
        lines += [f"    typedef {value} {key};" for key, value in self.types.items()]
        if self.fused:
            lines += _fused_text(name, self.fused)
        return "\n".join([*first, f"struct {name} : {base} {{", *lines, "};"])

    def arguments(self, node: str) -> str:
        """The ROMs as trailing arguments of the call."""
        return "" if self.fused else "".join(f", flow_{node}_{name}" for _, name, _ in self.roms)


@dataclass(frozen=True)
class FusedKernel:
    """One kernel of a cell: whose ROMs it reads, and the C type and number of the codes that it makes.

    `border` is set for kernels that take the words of a position: the C expression of its class of borders, whose ROMs
    are `border_roms`.
    """

    node: str
    call: KernelCall
    code_type: str
    size: int
    border: str = ""
    border_roms: Roms = ()


def _fused_text(name: str, cell: Sequence[FusedKernel]) -> list[str]:
    """The functions `border` and `cell` of a configuration."""
    given = len(cell[0].call.reads)
    kinds = [f"in{k}_T" for k in range(given)]
    data = ", ".join(f"const {kind} in{k}[]" for k, kind in enumerate(kinds))
    lines = [f"    static int border(int row, int col) {{ return {cell[0].border or 0}; }}",
             f"    template <{', '.join(f'class {kind}' for kind in [*kinds, 'res_T'])}>",
             f"    static void cell({data}, int pass, int border, res_T res[]) {{",
             "        #pragma HLS INLINE"]
    values, types = [f"in{k}" for k in range(given)], kinds
    for k, part in enumerate(cell):
        target, kind = "res", "res_T"
        if k < len(cell) - 1:
            target, kind = f"value{k}", part.code_type
            lines += [f"        {kind} {target}[{part.size}];",
                      f"        #pragma HLS ARRAY_PARTITION variable={target} complete"]
        place = ", pass, border" if part.border else ""
        known = [] if part.border else types
        lines.append(f"        nnet::{part.call.kernel}<{', '.join([*known, kind, f'{name}_{k}'])}>"
                     f"({', '.join(values)}{place}, {target}{part.call.arguments(part.node)});")
        values, types = [target], [kind]
    return [*lines, "    }"]


def rom_text(node: str, calls: Sequence[KernelCall]) -> str:
    """The header file with the ROMs of a node's kernels, and those kernels that are made for it alone."""
    guard = f"FLOW_{node.upper()}_H_"
    roms = [(node, rom) for call in calls for rom in call.roms]
    roms += [(cell.node, rom) for call in calls for cell in call.fused
             for rom in (*cell.call.roms, *cell.border_roms)]
    arrays = [f"static const {kind} flow_{owner}_{name}[{len(values)}] = {{{', '.join(values)}}};"
              for owner, (kind, name, values) in roms]
    code = [cell.call.code for call in calls for cell in call.fused if cell.call.code]
    includes = ['#include "../nnet_utils/nnet_flow_common.h"', ""] if code else []
    if not arrays and not code:
        return ""
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", "", *includes, *arrays, *code, "", "#endif", ""])


def code_type(domain: Domain) -> str:
    """The C type of a tensor's elements: bits are the code; where values are fixed-point numbers, they are its too."""
    return f"ap_{'' if domain.signed else 'u'}fixed<{domain.bits},{domain.bits - (domain.fraction_bits or 0)}>"


def ints(values: NDArray[Any]) -> list[str]:
    """Literals of integers that are known to fit C's int."""
    return [str(int(v)) for v in np.asarray(values).ravel()]


def int32(values: NDArray[Any], node: Node) -> list[str]:
    """Literals of C's int; refuses what does not fit."""
    if any(abs(int(v)) >= 2**31 for v in np.asarray(values).ravel()):
        raise InputError(f"node {node.name!r}: constants past 32 bits; its input's domain has too large an offset")
    return ints(values)


def wide(values: NDArray[Any]) -> list[str]:
    """Literals of C's long long."""
    return [f"{int(v)}LL" for v in np.asarray(values).ravel()]


def signed_bits(lo: int, hi: int) -> int:
    """Bits of two's complement that hold lo..hi."""
    return max(max(hi, 0).bit_length(), (-lo - 1).bit_length() if lo < 0 else 0) + 1


def pack_fields(values: Int, width: int) -> list[str]:
    """Rows of integers -> rows of 64-bit words, `width`-bit two's complement fields, none across a word's end."""
    per_word = WORD // width
    rows, count = values.shape
    words = -(-count // per_word)
    fields = np.zeros((rows, words * per_word), np.uint64)
    fields[:, :count] = values.astype(np.uint64) & np.uint64((1 << width) - 1)
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(width)
    packed = np.bitwise_or.reduce(fields.reshape(rows, words, per_word) << shifts, axis=2)
    return [f"0x{int(w):x}ULL" for w in packed.ravel()]
