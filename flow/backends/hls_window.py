"""Sums and maxima over the taps of windows, or over the last axis: the kernels of nnet_flow_window.h."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from flow.backends.emission import WORD, Cell, Emission, Roms, code_type, int32, ints, pack_fields, signed_bits
from flow.ir import Domain, Node, Op, Weights, Window
from flow.ir.graph import Int
from flow.ir.verify import at_borders

__all__ = ["dot", "maximum", "passes"]

WINDOWS = "nnet_flow_window.h"


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


def dot(node: Node, sources: Sequence[Node]) -> list[Emission]:
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
        widest = signed_bits(min(node.domain.lo, int(offset.min())), max(node.domain.hi, int(offset.max())))
        widest = max(widest, (g * a * fields.shape[1]).bit_length() + 1)
        return _positions(node, Emission("flow_count", WINDOWS, members, {"sum_t": f"ap_int<{widest + 1}>"}, (
            ("unsigned long long", "sign", pack_fields((signs > 0).astype(np.int64), 1)),
            ("unsigned long long", "mask", pack_fields((signs != 0).astype(np.int64), 1)),
            ("int", "offset", int32(offset, node)),
        )), border, borders)
    width = signed_bits(int(levels.min()), int(levels.max()))
    # Partial sums of level*code, of a*that, and the result all fit in this.
    reach = max(abs(source.domain.lo), abs(source.domain.hi)) * p.reach * abs(a)
    offset = b * present.astype(object)
    reach += int(np.abs(offset).max())
    members |= {"gain": str(a), "level_bits": str(width), "level_words": str(-(-fields.shape[1] // (WORD // width)))}
    types = {"sum_t": f"ap_int<{reach.bit_length() + 1}>", "code_t": _integer(source.domain)}
    return _positions(node, Emission("flow_mac", WINDOWS, members, types, (
        ("unsigned long long", "levels", pack_fields(fields, width)), ("int", "offset", int32(offset, node)),
    )), border, borders)


def _positions(node: Node, core: Emission, border: str = "0", borders: Roms = ()) -> list[Emission]:
    """A kernel of the words of a position, at every position."""
    cell = Cell(node.name, core, code_type(node.domain), node.shape[-1], border, borders)
    return [Emission("flow_positions", WINDOWS, cell=(cell,))]


def _borders(node: Node, window: Window) -> tuple[str, Roms]:
    """The class of borders of a position, in the order of `Window.borders`: a C expression, and its ROMs."""
    axes = [np.unique(inside, axis=0, return_inverse=True) for inside in window.inside]
    names = ("rows", "cols")[-len(axes):]
    roms = tuple(("int", f"border_{name}", ints(classes)) for name, (_, classes) in zip(names, axes))
    parts = [f"flow_{node.name}_border_{name}[{name[:-1]}]" for name in names]
    return f" * {len(axes[-1][0])} + ".join(parts), roms


def maximum(node: Node, sources: Sequence[Node]) -> list[Emission]:
    """The largest code of every channel's taps."""
    (source,) = sources
    members = _image(node, source, node.shape[-1]) | {"fill": f"{source.domain.lo}LL"}
    return _positions(node, Emission("flow_max", WINDOWS, members, {"code_t": _integer(source.domain)}))


def passes(node: Node) -> list[int]:
    """The reuse factors that a sum or maximum in a loop can have: they share its positions evenly, or then the outputs
    of a position; empty for other ops, which take any.
    """
    if node.op not in (Op.DOT, Op.MAX):
        return []
    positions, outputs = prod(node.shape[:-1]), node.shape[-1]
    return [n for n in range(1, positions + 1) if positions % n == 0] + [
        positions * n for n in range(2, outputs + 1) if outputs % n == 0]
