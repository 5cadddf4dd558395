"""EMIT_HLS: how each op becomes a call of a kernel in hls_templates/nnet_utils, with its configuration and ROMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flow.errors import InputError
from flow.ir import Affine, Domain, Index, Node, Op, Steps, Sum, Table, Weights, Window
from flow.ir.evaluate import EVAL
from flow.ir.graph import Int
from flow.ir.verify import at_borders

__all__ = ["EMIT_HLS", "Cell", "Emission", "code_type", "passes", "rom_text"]

WINDOWS = "nnet_flow_window.h"
Roms = tuple[tuple[str, str, list[str]], ...]
WORD = 64  # bits of a ROM word: the widest integer literal of C++11


@dataclass(frozen=True)
class Emission:
    """One kernel call: `kernel<...>(in..., out, roms...)`, the members of its configuration, and its ROMs.

    `reads` are the positions of the node's inputs that the call takes. `roms` are (C type, field name, literals);
    arrays are named flow_<node>_<field>. A kernel with a `cell` takes no ROMs: it goes over pixels or positions, and
    its configuration has a function `cell` that makes one of the output by these kernels in a row.
    """

    kernel: str
    header: str
    members: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    roms: Roms = ()
    reads: tuple[int, ...] = (0,)
    cell: tuple[Cell, ...] = ()

    def config_text(self, name: str, node: str) -> str:
        """The configuration struct of this call; `node` names its ROMs."""
        base = f"nnet::{self.header.removeprefix('nnet_').removesuffix('.h')}_config"
        first = [cell.emission.config_text(f"{name}_{k}", cell.node) for k, cell in enumerate(self.cell)]
        if self.cell and self.cell[0].border:
            base = f"{name}_0"
        lines = [f"    static const int {key} = {value};" for key, value in self.members.items()]
        lines += [f"    typedef {value} {key};" for key, value in self.types.items()]
        if self.cell:
            lines += _cell_text(name, self.cell)
        return "\n".join([*first, f"struct {name} : {base} {{", *lines, "};"])

    def arguments(self, node: str) -> str:
        """The ROMs as trailing arguments of the call."""
        return "" if self.cell else "".join(f", flow_{node}_{name}" for _, name, _ in self.roms)


@dataclass(frozen=True)
class Cell:
    """One kernel of a cell: whose ROMs it reads, and the C type and number of the codes that it makes.

    `border` is set for kernels that take the words of a position: the C expression of its class of borders, whose ROMs
    are `border_roms`.
    """

    node: str
    emission: Emission
    code_type: str
    size: int
    border: str = ""
    border_roms: Roms = ()


def _cell_text(name: str, cell: Sequence[Cell]) -> list[str]:
    """The functions `border` and `cell` of a configuration."""
    given = len(cell[0].emission.reads)
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
        lines.append(f"        nnet::{part.emission.kernel}<{', '.join([*known, kind, f'{name}_{k}'])}>"
                     f"({', '.join(values)}{place}, {target}{part.emission.arguments(part.node)});")
        values, types = [target], [kind]
    return [*lines, "    }"]


def rom_text(node: str, emissions: Sequence[Emission]) -> str:
    """The header file with the ROMs of a node's kernels."""
    guard = f"FLOW_{node.upper()}_H_"
    roms = [(node, rom) for emission in emissions for rom in emission.roms]
    roms += [(cell.node, rom) for emission in emissions for cell in emission.cell
             for rom in (*cell.emission.roms, *cell.border_roms)]
    arrays = [f"static const {kind} flow_{owner}_{name}[{len(values)}] = {{{', '.join(values)}}};"
              for owner, (kind, name, values) in roms]
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", "", *arrays, "", "#endif", ""]) if arrays else ""


def code_type(domain: Domain) -> str:
    """The C type of a tensor's elements: bits are the code; where values are fixed-point numbers, they are its too."""
    return f"ap_{'' if domain.signed else 'u'}fixed<{domain.bits},{domain.bits - (domain.fraction_bits or 0)}>"


def _ints(values: NDArray[Any]) -> list[str]:
    return [str(int(v)) for v in np.asarray(values).ravel()]


def _int32(values: NDArray[Any], node: Node) -> list[str]:
    """Literals of C's int; refuses what does not fit."""
    if any(abs(int(v)) >= 2**31 for v in np.asarray(values).ravel()):
        raise InputError(f"node {node.name!r}: constants past 32 bits; its input's domain has too large an offset")
    return _ints(values)


def _wide(values: NDArray[Any]) -> list[str]:
    return [f"{int(v)}LL" for v in np.asarray(values).ravel()]


def _signed_bits(lo: int, hi: int) -> int:
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


def _gather(node: Node, sources: Sequence[Node]) -> list[Emission]:
    """One input: wires. Several: every input places its part."""
    assert isinstance(node.params, Index)
    flat, header = node.params.flat, "nnet_flow_gather.h"
    if len(sources) == 1:
        return [Emission("flow_gather", header, {"n_in": str(sources[0].size), "n_out": str(node.size)},
                         roms=(("int", "index", _ints(flat)),))]
    first, second = sources
    members = {"n_in": str(first.size), "n_in1": str(second.size), "n_out": str(node.size)}
    return [Emission("flow_join", header, members, roms=(("int", "index", _ints(flat)),), reads=(0, 1))]


def _add(node: Node, sources: Sequence[Node]) -> list[Emission]:
    p = node.params
    assert isinstance(p, Sum)
    largest = [max(abs(x.domain.lo), abs(x.domain.hi), 1) for x in sources]
    reach = abs(p.constant) + sum(abs(int(s)) * x for s, x in zip(p.scale, largest))
    kernel, reads = ("flow_add", (0, 1)) if len(sources) == 2 else ("flow_scale", (0,))
    types = {"sum_t": f"ap_int<{reach.bit_length() + 1}>"}
    roms = (("long long", "scale", _wide(p.scale)), ("long long", "constant", [f"{p.constant}LL"]))
    return [Emission(kernel, "nnet_flow_add.h", {"n_in": str(node.size)}, types, roms, reads)]


def _lut(node: Node, sources: Sequence[Node]) -> list[Emission]:
    p, (source,) = node.params, sources
    assert isinstance(p, Table)
    members = {"n_in": str(node.size), "n_chan": str(len(p.codes)), "n_code": str(source.domain.size),
               "lowest": str(source.domain.lo)}
    return [Emission("flow_lut", "nnet_flow_lut.h", members, roms=(("int", "table", _ints(p.codes)),))]


def _window(node: Node, sources: Sequence[Node]) -> list[Emission]:
    """Taps that are read otherwise than by sums and maxima: wires."""
    (source,) = sources
    places = EVAL[Op.WINDOW](node, [np.arange(source.size).reshape(1, *source.shape)], [source])
    return _gather(replace(node, params=Index(places.ravel())), sources)


def _image(node: Node, source: Node, groups: int) -> dict[str, str]:
    """Members that say which taps a sum or maximum reads: a WINDOW's, or the last axis of any tensor."""
    rows, cols, outputs = 1, prod(source.shape[:-1]), node.shape[-1]
    members: dict[str, int] = {"n_chan": source.shape[-1]}
    if isinstance(source.params, Window):
        w, rank = source.params, len(source.params.kernel)
        rows, cols = (1, *w.size)[-2:]
        values = (("k", w.kernel), ("s", w.strides), ("d", w.dilation), ("p", [pad[0] for pad in w.pads]),
                  ("o", w.positions))
        for key, value in values:
            members |= {f"{key}_{axis}": n for axis, n in zip(("rows", "cols")[-rank:], value)}
        members["n_chan"] //= w.taps
    else:
        members["o_cols"] = cols
    members |= {"n_rows": rows, "n_cols": cols, "n_group": groups, "n_out": outputs, "field": source.domain.bits}
    return {key: str(value) for key, value in members.items()}


def _fields(levels: Int, source: Node, groups: int) -> tuple[Int, int]:
    """(levels (outputs, taps of an output) in the kernel's order, groups).

    Where the sum's groups are not the window's, every output reads all channels, with zeros for those of other groups.
    """
    window = source.params
    if not isinstance(window, Window) or window.groups == groups:
        return levels.T, groups
    inputs, outputs = source.shape[-1], levels.shape[1]
    whole = np.zeros((inputs, outputs), np.int64)
    for j in range(outputs):
        first = j * groups // outputs * len(levels)
        whole[first : first + len(levels), j] = levels[:, j]
    return whole.reshape(window.groups, window.taps, -1, outputs).transpose(3, 1, 0, 2).reshape(outputs, inputs), 1


def _integer(domain: Domain) -> str:
    return f"ap_{'' if domain.signed else 'u'}int<{domain.bits}>"


def _dot(node: Node, sources: Sequence[Node]) -> list[Emission]:
    """Bits times -g, 0, +g are counted (XNOR and popcount); anything else is multiplied and added."""
    (source,), p = sources, node.params
    assert isinstance(p, Weights)
    levels = p.effective
    fields, groups = _fields(levels, source, p.groups)
    a, b = source.domain.numerator
    members = _image(node, source, groups)
    present, border = levels.sum(axis=0)[None], "0"
    borders: Roms = ()
    if isinstance(source.params, Window) and source.params.padded and b:
        present = at_borders(levels, p.groups, source.params)
        border, borders = _borders(node, source.params)
    used = np.unique(np.abs(levels[levels != 0]))
    if source.domain.lo >= 0 and source.domain.hi <= 1 and used.size <= 1:
        g = int(used[0]) if used.size else 1
        # sum g*s*(a*c + b) = g*a*(agreeing - negative taps) + b*(sum of g*s over the taps inside the image)
        signs = np.sign(fields)
        offset = b * present.astype(object) - g * a * (signs < 0).sum(axis=1).astype(object)
        members |= {"gain": str(g * a)}
        widest = _signed_bits(min(node.domain.lo, int(offset.min())), max(node.domain.hi, int(offset.max())))
        widest = max(widest, (g * a * fields.shape[1]).bit_length() + 1)
        return _positions(node, Emission("flow_count", WINDOWS, members, {"sum_t": f"ap_int<{widest + 1}>"}, (
            ("unsigned long long", "sign", pack_fields((signs > 0).astype(np.int64), 1)),
            ("unsigned long long", "mask", pack_fields((signs != 0).astype(np.int64), 1)),
            ("int", "offset", _int32(offset, node)),
        )), border, borders)
    width = _signed_bits(int(levels.min()), int(levels.max()))
    # Partial sums of level*code, of a*that, and the result all fit in this.
    reach = max(abs(source.domain.lo), abs(source.domain.hi)) * p.reach * abs(a)
    offset = b * present.astype(object)
    reach += int(np.abs(offset).max())
    members |= {"gain": str(a), "level_bits": str(width), "level_words": str(-(-fields.shape[1] // (WORD // width)))}
    types = {"sum_t": f"ap_int<{reach.bit_length() + 1}>", "code_t": _integer(source.domain)}
    return _positions(node, Emission("flow_mac", WINDOWS, members, types, (
        ("unsigned long long", "levels", pack_fields(fields, width)), ("int", "offset", _int32(offset, node)),
    )), border, borders)


def _positions(node: Node, core: Emission, border: str = "0", borders: Roms = ()) -> list[Emission]:
    """A kernel of the words of a position, at every position."""
    cell = Cell(node.name, core, code_type(node.domain), node.shape[-1], border, borders)
    return [Emission("flow_positions", WINDOWS, cell=(cell,))]


def _borders(node: Node, window: Window) -> tuple[str, Roms]:
    """The class of borders of a position, in the order of `Window.borders`: a C expression, and its ROMs."""
    axes = [np.unique(inside, axis=0, return_inverse=True) for inside in window.inside]
    names = ("rows", "cols")[-len(axes):]
    roms = tuple(("int", f"border_{name}", _ints(classes)) for name, (_, classes) in zip(names, axes))
    parts = [f"flow_{node.name}_border_{name}[{name[:-1]}]" for name in names]
    return f" * {len(axes[-1][0])} + ".join(parts), roms


def _max(node: Node, sources: Sequence[Node]) -> list[Emission]:
    (source,) = sources
    members = _image(node, source, node.shape[-1]) | {"fill": f"{source.domain.lo}LL"}
    return _positions(node, Emission("flow_max", WINDOWS, members, {"code_t": _integer(source.domain)}))


def _step(node: Node, sources: Sequence[Node]) -> list[Emission]:
    p, (source,) = node.params, sources
    assert isinstance(p, Steps)
    members = {"n_in": str(node.size), "n_chan": str(len(p.start)), "n_cut": str(p.cuts.shape[1])}
    if p.cuts.shape[1] == 0:
        return [Emission("flow_constant", "nnet_flow_step.h", members, roms=(("int", "start", _ints(p.start)),))]
    # A cut past the input's range is never reached; clipping keeps the comparators as narrow as the input.
    cuts = np.clip(p.cuts, source.domain.lo, source.domain.hi + 1)
    kind = "int" if np.abs(cuts).max() < 2**31 else "long long"
    values = _ints(cuts) if kind == "int" else _wide(cuts)
    return [Emission("flow_step", "nnet_flow_step.h", members, {"cut_t": kind}, (
        ("int", "start", _ints(p.start)), ("int", "sign", _ints(p.sign)), (kind, "cuts", values),
    ))]


def _affine(node: Node, sources: Sequence[Node]) -> list[Emission]:
    p, (source,) = node.params, sources
    assert isinstance(p, Affine)
    reach = max(abs(int(m)) * max(abs(source.domain.lo), abs(source.domain.hi)) + abs(int(a))
                for m, a in zip(p.mul, p.add))
    members = {"n_in": str(node.size), "n_chan": str(len(p.mul)), "shift": str(p.shift)}
    return [Emission("flow_affine", "nnet_flow_affine.h", members, {"product_t": f"ap_int<{reach.bit_length() + 1}>"},
                     (("long long", "mul", _wide(p.mul)), ("long long", "add", _wide(p.add))))]


def passes(node: Node) -> list[int]:
    """The reuse factors that a sum or maximum in a loop can have: they share its positions evenly, or then the outputs
    of a position; empty for other ops, which take any.
    """
    if node.op not in (Op.DOT, Op.MAX):
        return []
    positions, outputs = prod(node.shape[:-1]), node.shape[-1]
    return [n for n in range(1, positions + 1) if positions % n == 0] + [
        positions * n for n in range(2, outputs + 1) if outputs % n == 0]


# INPUT is hls4ml's own Input layer.
EMIT_HLS: dict[Op, Callable[[Node, Sequence[Node]], list[Emission]] | None] = {
    Op.INPUT: None, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine,
}
