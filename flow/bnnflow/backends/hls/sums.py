"""Sums and maxima over the taps of windows, or over the last axis: the kernels of nnet_flow_window.h."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.folding import Folding, groups_of
from bnnflow.backends.hls.kernel_call import (
    WORD,
    BorderAxis,
    FusedKernel,
    KernelCall,
    Rom,
    int32,
    pack_fields,
    signed_bits,
)
from bnnflow.backends.hls.types import IntType, Native, Type, code_int, code_type, word_of
from bnnflow.ir import Domain, Node, Weights, Window
from bnnflow.ir.nodes import Int
from bnnflow.ir.verify import at_borders

__all__ = ["ARRAYS", "border_classes", "dot", "image", "maximum", "positions"]

WINDOWS, ARRAYS = "nnet_flow_window.h", "nnet_flow_array.h"
FEW = 2  # values besides the base that are counted each by itself


def image(node: Node, source: Node, groups: int, folding: Folding | None = None) -> dict[str, int]:
    """Members that say which taps a sum or maximum reads, a WINDOW's or the last axis of any tensor, and its folding.

    Without a `folding` all outputs and taps of a position are computed at once.
    """
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
    taps = source.shape[-1] // groups
    folding = folding or Folding(outputs, taps, outputs, taps)
    return members | {"n_rows": rows, "n_cols": cols, "n_group": groups, "n_out": outputs, "field": source.domain.bits,
                      "pe": folding.pe, "simd": folding.simd, "at_once": folding.at_once, "apart": int(folding.apart)}


def _rows(values: Int, folding: Folding, width: int) -> NDArray[np.uint64]:
    """Constants of taps, (outputs, taps) or (outputs, values, taps), as the kernels read them: (cycles, words).

    A cycle reads the words of its lanes, of each value by value those of its chunk; fields are `width` bits wide.
    """
    f = folding
    cycles = values.reshape(f.passes, f.pe, -1, f.chunks, f.simd).transpose(0, 3, 1, 2, 4)
    return pack_fields(cycles.reshape(-1, f.simd), width).reshape(f.passes * f.chunks, -1)


def _word(folding: Folding, width: int) -> Native:
    """The type of these words: no wider than needed where they are in a memory."""
    return Native.WORD if folding.folds == 1 else word_of(min(WORD, folding.simd * width))


def _fields(levels: Int, source: Node, groups: int) -> Int:
    """Levels (outputs, taps of an output) in the kernel's order.

    Where the sum's groups are not the window's, every output reads all channels, with zeros for those of other groups.
    """
    window = source.params
    if not isinstance(window, Window) or window.groups == groups:
        return levels.T
    inputs, outputs = source.shape[-1], levels.shape[1]
    whole = np.zeros((inputs, outputs), np.int64)
    for j in range(outputs):
        first = j * groups // outputs * len(levels)
        whole[first : first + len(levels), j] = levels[:, j]
    return whole.reshape(window.groups, window.taps, -1, outputs).transpose(3, 1, 0, 2).reshape(outputs, inputs)


@dataclass(frozen=True)
class _Taps:
    """A sum for its kernels: `levels` (outputs, taps of an output), of `groups`; its folding and `members`.

    `constant` (classes of borders or 1, outputs) is what the domain's offset adds, `gain` its scale, both in its unit.
    """

    node: Node
    levels: Int
    groups: int
    folding: Folding
    members: dict[str, int]
    gain: int
    constant: Int

    @cached_property
    def gains(self) -> int:
        """Magnitudes of the levels that are not 0."""
        return int(np.unique(np.abs(self.levels[self.levels != 0])).size)

    @property
    def all_bits(self) -> int:
        """Bits of the popcounts that all outputs of a group have in common."""
        return int(self.groups * self.levels.shape[1])


def dot(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    """A sum: codes of one bit are counted, all others are multiplied with their levels and added."""
    (source,), p = sources, node.params
    assert isinstance(p, Weights)
    levels, groups = _fields(p.effective, source, p.groups), groups_of(node, source)
    a, b = source.domain.numerator
    present = p.effective.sum(axis=0)[None]
    borders: tuple[BorderAxis, ...] = ()
    if isinstance(source.params, Window) and source.params.padded and b:
        present = at_borders(p.effective, p.groups, source.params)
        borders = border_classes(source.params)
    members = image(node, source, groups, folding) | {"n_border": len(present)}
    taps = _Taps(node, levels, groups, folding, members, a, b * present.astype(object))
    one_bit = source.domain.lo >= 0 and source.domain.hi <= 1
    core = _counted(taps) if one_bit else _multiplied(taps, source.domain)
    if folding.folds > 1:
        chunk = IntType(min(WORD, folding.simd * source.domain.bits), signed=False)
        core = replace(core, types=core.types | {"chunk_t": chunk})
    return positions(node, core, folding, borders)


def _counted(taps: _Taps) -> KernelCall:
    """Codes of one bit are counted.

    Where the levels are -g, 0 and g, a popcount of XNORs does. Else there is a popcount for each value of the levels,
    or, where an output has many, for each of their binary digits. A codebook is taken if fewer bits enter adders then;
    where outputs share lanes, there is nothing that they could share.
    """
    values = None if taps.gains <= 1 else _values(taps.levels) or _digits(taps.levels)
    bits = np.count_nonzero(taps.levels) if values is None else values.mask.sum() + taps.all_bits
    book = _codebook(taps)
    if book is not None and book.bits < bits:
        return _shared(taps, book)
    return _xnor(taps) if values is None else _valued(taps, values)


def _xnor(taps: _Taps) -> KernelCall:
    """sum g*s*(a*c + b) = g*a*(agreeing - negative taps) + b*(sum of g*s over the taps inside the image)."""
    signs = np.sign(taps.levels)
    gain = int(np.abs(taps.levels).max(initial=0) or 1) * taps.gain
    offset = taps.constant - gain * (signs < 0).sum(axis=1).astype(object)
    f, masked = taps.folding, not signs.all()
    members = taps.members | {"gain": gain, "n_acc": f.pe, "masked": int(masked)}
    sign, mask = (Rom(name, _word(f, 1), _rows(bits.astype(np.int64), f, 1))
                  for name, bits in (("sign", signs > 0), ("mask", signs != 0)))
    sums = IntType(max(2, taps.node.domain.bits + (not taps.node.domain.signed)))
    types = _types(taps, sums) | ({"acc_t": sums} if f.folds == 1 else {})
    return KernelCall("flow_count", WINDOWS, members, types, (sign, *[mask] * masked, _offset(taps, offset)))


def _types(taps: _Taps, sum_type: Type) -> dict[str, Type]:
    """Types of a kernel that counts: of its sums, its counts and the words of its ROMs."""
    counts = IntType(taps.levels.shape[1].bit_length(), signed=False)
    return {"sum_t": sum_type, "acc_t": counts, "word_t": _word(taps.folding, 1)}


def _offset(taps: _Taps, offset: NDArray[Any]) -> Rom:
    """The ROM with what is added in the end: a row for every class of borders and pass."""
    return Rom("offset", Native.INT, int32(offset, taps.node).reshape(-1, taps.folding.pe))


@dataclass(frozen=True)
class _Values:
    """Levels written as a base and values on top of it: level = base + the sum of those `value` whose `mask` is True.

    `base` is int64 (owners,), `value` int64 (owners, values), `mask` bool (outputs, values, taps). All outputs share
    one owner, or each output is its own.
    """

    base: Int
    value: Int
    mask: NDArray[np.bool_]


def _values(levels: Int, lowest: bool = False) -> _Values | None:
    """Levels (outputs, taps) as the commonest one, or the lowest, and few others; None where an output has more."""
    owners = levels.reshape(1, -1) if np.unique(levels).size <= FEW + 1 else levels
    found = [np.unique(owned, return_counts=True) for owned in owners]
    if max(len(kinds) for kinds, _ in found) > FEW + 1:
        return None
    base = np.array([kinds[0 if lowest else counts.argmax()] for kinds, counts in found])
    value = np.zeros((len(owners), max(1, *(len(kinds) - 1 for kinds, _ in found))), np.int64)
    for k, (kinds, _) in enumerate(found):
        value[k, : len(kinds) - 1] = kinds[kinds != base[k]] - base[k]
    mask = (levels[:, None, :] == (base[:, None] + value)[:, :, None]) & (value != 0)[:, :, None]
    return _Values(base, value, mask)


def _digits(levels: Int) -> _Values:
    """Levels (outputs, taps) in two's complement: base 0, and a value for the place of each binary digit."""
    place = np.arange(signed_bits(int(levels.min()), int(levels.max())) - (levels.min() >= 0))
    value = 1 << place
    if levels.min() < 0:
        value[-1] = -value[-1]
    return _Values(np.zeros(1, np.int64), value[None], (levels[:, None, :] >> place[:, None] & 1).astype(bool))


def _valued(taps: _Taps, values: _Values) -> KernelCall:
    """sum l*(a*c + b) = a*base*#(c) + a*value*#(c where l = base + value), summed + b*(sum of l inside the image)."""
    f, count, own = taps.folding, values.mask.shape[1], len(values.base) > 1
    groups = max(1, f.pe * taps.groups // f.outputs) if taps.groups > 1 else 1  # that a pass reads
    members = taps.members | {"n_value": count, "n_gain": f.pe if own else 1, "n_row": f.passes if own else 1,
                              "n_acc": f.pe * count + groups}
    return KernelCall("flow_values", WINDOWS, members, _types(taps, _sum_type(taps, values)), (
        Rom("mask", _word(f, 1), _rows(values.mask.astype(np.int64), f, 1)), *_weighed(taps, values),
    ))


@dataclass(frozen=True)
class _Codebook:
    """Kernels of two values, each channel of which is one of few patterns.

    `patterns` (int64, bit t for tap t) say which taps have the second value; `index` (outputs, channels) is the pattern
    of every output and channel; `bits` enter adders at a position.
    """

    values: _Values
    patterns: Int
    index: Int
    bits: int


def _codebook(taps: _Taps) -> _Codebook | None:
    """The codebook of all outputs' kernels; None where levels are more than two, a pattern does not fit a word, or
    there are several passes.

    `bits` are to be compared with those of a popcount an output, into whose adders go all its taps (XNOR), or those
    that have the second value. With a codebook the taps of every pattern are counted once a channel; then each output
    adds, channel by channel, the count of its pattern.
    """
    f, size = taps.folding, taps.members.get("k_rows", 1) * taps.members.get("k_cols", 1)
    if not 1 < size < WORD or f.passes * f.chunks > 1:
        return None
    values = _values(taps.levels, lowest=True)
    if values is None or values.mask.shape[1] > 1:
        return None
    outputs, fields = taps.levels.shape
    second = values.mask.reshape(outputs, size, fields // size).astype(np.int64)
    patterns, index = np.unique((second << np.arange(size)[:, None]).sum(axis=1), return_inverse=True)
    index = index.reshape(outputs, -1)
    every = taps.levels.all() and taps.gains == 1
    ones = np.array([size if every else int(p).bit_count() for p in patterns])
    widths = np.array([int(n).bit_length() for n in ones])
    counted = int(ones.sum()) * taps.groups * index.shape[1]
    return _Codebook(values, patterns, index, counted + int(widths[index].sum()) + taps.all_bits)


def _shared(taps: _Taps, book: _Codebook) -> KernelCall:
    """The sum of `_valued`, its second popcount added up from the counts of a codebook, channel by channel."""
    width = max(1, (len(book.patterns) - 1).bit_length())
    members = taps.members | {"n_pattern": len(book.patterns), "n_gain": len(book.values.base), "index_bits": width,
                              "index_words": -(-book.index.shape[1] // (WORD // width)), "n_acc": taps.groups}
    return KernelCall("flow_shared", WINDOWS, members, _types(taps, _sum_type(taps, book.values)), (
        Rom("pattern", Native.WORD, book.patterns), Rom("index", Native.WORD, pack_fields(book.index, width).ravel()),
        *_weighed(taps, book.values),
    ))


def _sum_type(taps: _Taps, values: _Values) -> Type:
    """The type that holds every partial sum."""
    base, value, ones = (np.abs(x).astype(object) for x in (values.base, values.value, values.mask.sum(axis=2)))
    reach = taps.gain * int((base * taps.levels.shape[1] + (value * ones).sum(axis=1)).max())
    return IntType((reach + int(np.abs(taps.constant).max())).bit_length() + 1)


def _weighed(taps: _Taps, values: _Values) -> tuple[Rom, ...]:
    """The ROMs with what popcounts are multiplied with, and with what is added in the end."""
    rows = taps.folding.passes if len(values.base) > 1 else 1
    return (Rom("base", Native.LONG, taps.gain * values.base.reshape(rows, -1)),
            Rom("value", Native.LONG, taps.gain * values.value.reshape(rows, -1)), _offset(taps, taps.constant))


def _multiplied(taps: _Taps, domain: Domain) -> KernelCall:
    """Level times code, tap by tap."""
    width = signed_bits(int(taps.levels.min()), int(taps.levels.max()))
    # Partial sums of level*code, of a*that, and the result all fit in this.
    reach = max(abs(domain.lo), abs(domain.hi)) * int(np.abs(taps.levels).sum(axis=1).max()) * taps.gain
    reach += int(np.abs(taps.constant).max())
    f = taps.folding
    words = -(-f.simd // (WORD // width))
    members = taps.members | {"gain": taps.gain, "level_bits": width, "level_words": words, "n_acc": f.pe}
    sums = IntType(reach.bit_length() + 1)
    types: dict[str, Type] = {"sum_t": sums, "acc_t": sums, "word_t": _word(f, width), "code_t": code_int(domain)}
    return KernelCall("flow_mac", WINDOWS, members, types, (
        Rom("levels", _word(f, width), _rows(taps.levels, f, width)), _offset(taps, taps.constant),
    ))


def positions(node: Node, core: KernelCall, folding: Folding, borders: tuple[BorderAxis, ...] = ()) -> KernelCall:
    """The call that applies a kernel, which reads the words of a position, at every position of an array."""
    cell = FusedKernel(node.name, core, code_type(node.domain), folding.pe, True, borders)
    return KernelCall("flow_positions" if folding.cycles == 1 else "flow_turns", ARRAYS, fused=(cell,))


def border_classes(window: Window) -> tuple[BorderAxis, ...]:
    """The classes of borders along each axis of an image, numbered as in `Window.borders`."""
    axes = [np.unique(inside, axis=0, return_inverse=True) for inside in window.inside]
    return tuple(BorderAxis(name, classes, len(rows))
                 for name, (rows, classes) in zip(("rows", "cols")[-len(axes):], axes))


def maximum(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    """The largest code of every channel's taps."""
    (source,) = sources
    members = image(node, source, node.shape[-1], folding) | {"fill": source.domain.lo}
    core = KernelCall("flow_max", WINDOWS, members, {"code_t": code_int(source.domain)})
    return positions(node, core, folding)
