"""How many instructions an HLS compiler is left with, function by function, before anything is written.

It inlines and unrolls, then schedules what is left as LLVM's instructions (`toolchains/clang` counts them). Here they are
computed from kernel calls. Of sums of bits with known constants every value is counted (`shared_sums`); all else grows
with elements, lanes, taps and words: `counted` says how many there are of each, `EACH` how many instructions one has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.cycles import Sizes
from bnnflow.backends.hls.kernel_call import WORD, FusedKernel, KernelCall
from bnnflow.backends.hls.shared_sums import SharedSums
from bnnflow.backends.netlist.bdd import decision_diagram
from bnnflow.backends.netlist.lower import Logic
from bnnflow.backends.netlist.netlist import Chain, Lut
from bnnflow.ir.nodes import Int

__all__ = ["EACH", "LIMITS", "MOST", "FunctionSize", "counted", "function_sizes", "size_of"]

# Instructions of a function and of a design that are known to do no harm.
LIMITS = {"function": 60_000, "design": 400_000}
# Public logs of Vivado HLS and Vitis HLS warn at 166,825 that they "may cause large runtime", and end with XFORM 203-504,
# "stop unrolling", beyond. Functions are scheduled one after the other: a design may have as many as ten such.
MOST = {"function": 166_825, "design": 1_668_250}

EACH: dict[str, float] = {}

Counts = Counter[str]


@dataclass(frozen=True)
class FunctionSize:
    """The instructions of a function that the kernel of `node` becomes; "" is the top function."""

    node: str
    instructions: int


def size_of(counts: Mapping[str, float]) -> int:
    """Instructions of what is counted."""
    return round(sum(EACH.get(name, 1.0) * count for name, count in counts.items()))


# --- what is counted ------------------------------------------------------------------------------------------------


def counted(call: KernelCall, inlined: bool) -> list[Counts]:
    """What a call becomes: its own function, then those apart from it. `inlined`: it becomes part of the top function."""
    kernel = call.kernel
    if kernel in ("flow_all", "flow_all_two"):
        cell = call.fused[0].call
        return [_elements(cell) + Counter() if inlined else _elements(cell) + _arrays(call)]
    if kernel == "flow_positions":
        return _positions(call, inlined)
    if kernel in ("flow_shuffle", "flow_shuffle_two"):
        m = call.members
        stored = Counter({"shuffle": len(call.reads), "shuffled": m["c_first"] + (m["c_second"] if len(call.reads) > 1 else 0)})
        return [Counter({"call": 4}), stored, Counter({"shuffle": 1, "shuffled": m["n_chan"]})]
    made = LOOPS[kernel](call)
    return [made, *(_netlist(cell.call.logic) for cell in call.fused if cell.call.logic is not None)]


def _arrays(call: KernelCall) -> Counts:
    """Reading and writing arrays."""
    m = call.members
    cell = call.fused[0].call
    read = m["n_in"] + (m.get("n_in1", 0) if len(call.reads) > 1 else 0)
    if cell.kernel in ("flow_gather", "flow_join"):  # a read for each that is written
        return Counter({"address": min(read, m["n_out"]) + m["n_out"], "access": 2 * m["n_out"]})
    return Counter({"address": read + m["n_out"], "access": read + m["n_out"]})


def _elements(call: KernelCall) -> Counts:
    """A kernel that works element by element; where every pass has constants of its own, they are read."""
    m, kernel = call.members, call.kernel.removeprefix("flow_")
    row = "row " if m.get("n_row", 1) > 1 else ""
    n = m["n_in"]
    if kernel == "step":
        cuts = m["n_threshold"]
        if cuts == 1:
            return Counter({f"{row}cut alone": n})
        return Counter({f"{row}cut": n * cuts})
    if kernel == "argmax":
        return Counter({"rival": n * (m["n_chan"] - 1)})
    if kernel in ("gather", "join"):
        return Counter()
    if kernel == "lut" and m["n_chan"] == 1:
        kernel = "table of all"
    if kernel in ("add", "scale"):
        scale, constant = (_rom(call, name) for name in ("scale", "constant"))
        return Counter({"added": n * (2 * scale.size - 1 + np.count_nonzero(np.abs(scale) != 1) + bool(constant.any()))})
    return Counter({f"{row}{kernel} element": n})


def _positions(call: KernelCall, inlined: bool) -> list[Counts]:
    """All positions at once."""
    s, cell = Sizes(call.fused[0].call.members), call.fused[0]
    core = cell.call
    elements, places = _places(s)
    own: list[Counts] = []
    if core.logic is not None:
        codes = s.rows.size * s.cols.size * s.channels
        top = Counter({"packed word": codes, "netlist code": s.positions * s._member("n_out"),
                       })
        own = [_netlist(core.logic)]
    elif s._member("apart"):
        lanes, passes = s.pe, s.passes
        for k in range(passes):
            words = s.groups * s.taps
            own.append(_known(core, np.arange(words).reshape(1, -1), words, False, k)
                       + Counter({"address": words + lanes, "access": words + lanes, "function": 1}))
        ready = s.groups * s.taps
        top = Counter({"handed": s.positions * passes * (2 * ready), "lane": s.positions * s.passes * lanes})
    else:
        top = _known(core, places, elements, inlined, 0)
    for rest in call.fused[1:]:
        top += Counter({name: n * s.positions for name, n in _elements(rest.call).items()})
    used = np.unique(places) // s.channels
    y, x = used // s.cols.steps - s.rows.pad, used % s.cols.steps - s.cols.pad
    inside = int(((y >= 0) & (y < s.rows.size) & (x >= 0) & (x < s.cols.size)).sum())
    read = inside - s.rows.size * s.cols.size * s.channels if inlined else inside + s.positions * s._member("n_out")
    top["absent"] = len(used) - inside
    top["address"] += read
    top["access"] += read
    return [top, *own]


def _places(s: Sizes) -> tuple[int, Int]:
    """(codes of the image, absent ones around it included; of every position the codes of its taps, group by group)."""
    rows, cols, groups = s.rows, s.cols, s._member("n_group")
    y = np.arange(rows.count)[:, None] * rows.stride + np.arange(rows.kernel) * rows.dilation
    x = np.arange(cols.count)[:, None] * cols.stride + np.arange(cols.kernel) * cols.dilation
    pixel = y[:, None, :, None] * cols.steps + x[None, :, None, :]  # positions, then taps
    pixel = pixel.reshape(s.positions, 1, -1, 1)
    channel = np.arange(s.channels).reshape(1, groups, 1, -1)
    return rows.steps * cols.steps * s.channels, (pixel * s.channels + channel).reshape(s.positions, -1)


def _bits(rom: NDArray[Any], taps: int) -> NDArray[np.bool_]:
    """Words -> bits, rows of so many taps, each beginning with a word."""
    rom = rom.astype(np.uint64).reshape(-1, -(-taps // WORD))
    bits = np.unpackbits(rom.view(np.uint8).reshape(len(rom), -1), axis=1, bitorder="little")
    return bits[:, :taps].astype(bool)


def _rom(call: KernelCall, name: str) -> NDArray[Any] | None:
    return next((rom.rows for rom in call.roms if rom.name == name), None)


def _known(core: KernelCall, places: Int, wires: int, shared: bool, row: int) -> Counts:
    """A cell whose constants are known, at positions that read the wires `places`. `shared`: what is equal is found."""
    s = Sizes(core.members)
    kernel, outputs, positions = core.kernel, s.pe, len(places)
    share = 1 if s.groups == 1 else s.groups
    if kernel == "flow_max":
        one = "bit" if s.field == 1 else "code"
        return Counter({f"larger {one}": positions * outputs * (s.taps - 1)})
    if kernel == "flow_mac":
        return Counter({name: positions * n for name, n in _products(core, s, row).items()})
    owner = np.arange(outputs) * share // outputs  # the group of an output
    if kernel == "flow_count":
        sign = _bits(_rom(core, "sign")[row], s.simd)
        mask = _rom(core, "mask")
        masks = np.ones_like(sign) if mask is None else _bits(mask[row], s.simd)
        rows, extra = [(owner, sign, masks)], 0
    else:
        rows = [(np.arange(share), np.ones((share, s.simd), bool), np.ones((share, s.simd), bool))]
        if kernel == "flow_values":
            mask = _bits(_rom(core, "mask")[row], s.simd)
            rows.append((np.repeat(owner, core.members["n_value"]), np.ones_like(mask), mask))
    hidden = not shared and kernel == "flow_count" and _rom(core, "mask") is not None
    found = SharedSums(wires, own=hidden)
    many = 1 if not shared else positions
    for at in places[: many]:
        at = at.reshape(share, -1)
        for groups, sign, masks in rows:
            found.counts(np.where(masks, 2 * at[groups] + np.where(sign, 1, 2), 0))
        if kernel == "flow_shared":
            _patterns(core, s, at, found)
    times = positions // many
    counts = Counter({"add": found.adds * times, "wire": (found.instructions - found.adds) * times,
                      "lost": found.lost * times * (_rom(core, "mask") is None)})
    name = kernel.removeprefix("flow_")
    each = Counter({f"{name} output": outputs}) if kernel != "flow_shared" else Counter()
    if kernel in ("flow_values",):
        each["value"] = outputs * core.members["n_value"]
    if kernel == "flow_shared":
        each["looked up"] = outputs * s.channels // s._member("n_group")
    return counts + Counter({key: n * positions for key, n in each.items()})


def _patterns(core: KernelCall, s: Sizes, at: Int, found: SharedSums) -> None:
    """The counts of a codebook, channel by channel."""
    size = s.rows.kernel * s.cols.kernel
    pattern = _bits(_rom(core, "pattern").reshape(-1, 1), size)
    for group in at:
        for channel in group.reshape(size, -1).T:
            found.counts(np.where(pattern, 2 * channel + 1, 0))


def _products(core: KernelCall, s: Sizes, row: int) -> Counts:
    """Levels times codes: an addition for each that is not 0, and a product of each code and level, which outputs share."""
    width, words = core.members["level_bits"], core.members["level_words"]
    per_word = WORD // width
    rom = _rom(core, "levels")[row].astype(np.uint64).reshape(s.pe, words)
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(width)
    fields = (rom[:, :, None] >> shifts & np.uint64((1 << width) - 1)).reshape(s.pe, -1)[:, : s.simd].astype(np.int64)
    levels = np.where(fields >= 1 << (width - 1), fields - (1 << width), fields)
    return Counter({"term": _terms(levels), "factor": s.groups * s.simd,
                    "mac output": s.pe})


def _terms(levels: Int) -> int:
    """Additions of rows of terms, from the first on: rows that begin alike share them."""
    found, rows = 0, np.zeros(len(levels), np.int64)
    for column in levels.T:
        pairs, rows = np.unique(np.stack([rows, column], 1), axis=0, return_inverse=True)
        rows = rows.ravel()
        found += np.count_nonzero(pairs[:, 1])
    return found


# --- loops ----------------------------------------------------------------------------------------------------------


def _folded(core: KernelCall, s: Sizes) -> Counts:
    """A cell whose constants are read in every cycle."""
    kernel, lanes = core.kernel.removeprefix("flow_"), s.pe
    words = -(-s.simd // WORD)
    if core.kernel == "flow_max":
        return Counter({f"larger {'bit' if s.field == 1 else 'code'}": lanes * (s.taps - 1), "window code": lanes * s.taps})
    if core.kernel == "flow_mac":
        return Counter({"read term": lanes * s.simd, "read code": s.groups * s.simd,
                        "read word": lanes * core.members["level_words"]})
    sums = lanes if kernel == "count" else lanes * core.members["n_value"]
    one = SharedSums(s.simd)
    one.counts(one.leaves(np.arange(s.simd), np.ones((1, s.simd), bool), np.ones((1, s.simd), bool)))
    counts = Counter({"read bit": sums * s.simd, "add": sums * (one.adds + one.masks), f"read {kernel}": lanes, "read word": sums * words})
    if kernel == "values":
        counts += Counter({"read bit": s.groups * s.simd, "add": s.groups * (one.adds + one.masks)})
    if kernel == "count" and _rom(core, "mask") is not None:
        counts["read mask"] = lanes * words
    return counts


def _cell(call: KernelCall, wires: int | None = None) -> Counts:
    """The cell of a loop over positions, of one position."""
    core = call.fused[0].call
    s = Sizes(core.members)
    counts = Counter()
    if s.folds == 1:
        places = np.arange(s.taps * s._member("n_group"))[None]
        counts += _known(core, places, places.size, False, 0)
    else:
        counts += _folded(core, s)
    for rest in call.fused[1:]:
        counts += _elements(rest.call)
    if len(call.fused[0].borders):
        counts["border"] += 1
    return counts


def _words(s: Sizes, packed: bool) -> int:
    """Words of a pixel."""
    return -(-s.channels // (1 if s.folds == 1 and not packed else WORD // s.field))


def _stored(call: KernelCall, codes: int, name: str) -> Counts:
    """Codes that are moved along and stored; where each is some bytes, they are moved in one piece."""
    if call.fused[-1].code_type.bits in (8, 16, 32, 64):
        return Counter({"moved bytes": 1})
    return Counter({"address": codes, "access": codes, name: codes})


def _turns(call: KernelCall) -> Counts:
    core = call.fused[0].call
    s = Sizes(core.members)
    once = s._member("at_once")
    counts = Counter({name: n * once for name, n in _cell(call).items()})
    kind = "wire" if s.folds == 1 else "word"
    pixel = _words(s, False)
    image = s.rows.steps * s.cols.steps * pixel
    codes, outputs = s.rows.size * s.cols.size * s.channels, s._member("n_out")
    made = s.positions * outputs
    words = s._member("n_group") * s.chunks * -(-s.simd // (1 if s.folds == 1 else WORD // s.field))
    moves = s.turns > 1
    counts += Counter({"address": made, "access": made}) if moves else _stored(call, made, "moved register")
    chosen = s.cols.count > once and s.rows.count > 1  # the next turn is in this row or in the next one
    return counts + Counter({
        "turns": 1, "address": codes, "access": codes,
        f"packed {kind}": codes if kind == "word" else 0,
        f"moved {kind}": image * moves, "chosen wire": image * chosen * (kind == "wire"), "kept": made * moves,
        "turned word": once * words * (kind == "word"), "absent": (image - s.rows.size * s.cols.size * pixel) * (kind == "wire"),
        "collected": once * s._member("n_group") * s.taps * (kind == "word" and not _whole(s) and window_taps(s) > 1),
    })


def window_taps(s: Sizes) -> int:
    return s.rows.kernel * s.cols.kernel


def _whole(s: Sizes) -> bool:
    """True where words of pixels are those of chunks."""
    per_word = WORD // s.field
    return s._member("n_group") == 1 and s.channels % per_word == 0 and s.simd % per_word == 0


def _slide(call: KernelCall) -> Counts:
    core = call.fused[0].call
    s = Sizes(core.members)
    packed = bool(core.members.get("packed"))
    kind = "wire" if s.folds == 1 and not packed else "word"
    pixel = _words(s, packed)
    looped = s.rows.steps * s.cols.steps + s.positions * (s.folds - 1) > 1
    words = s._member("n_group") * s.chunks * -(-s.simd // (1 if kind == "wire" else WORD // s.field))
    counts = _cell(call) if core.logic is None else _netlist_cell(call)
    outputs = call.fused[-1].size * (s.passes if s.folds > 1 else 1)
    counts += _stored(call, outputs, "moved code") if s.passes > 1 and s.folds > 1 else Counter({"address": outputs, "access": outputs})
    return counts + Counter({
        "slide": looped, "once": not looped, "address": s.channels, "access": s.channels,
        f"came {kind}": s.channels,
        f"line {kind}": (s.rows.span - 1) * pixel,
        "collected": s._member("n_group") * s.taps * (kind == "word" and not _whole(s) and window_taps(s) > 1),
        "rotated word": words * (s.folds > 1),
    })


def _fold(call: KernelCall) -> Counts:
    core = call.fused[0].call
    s = Sizes(core.members)
    words = -(-s.simd // (WORD // s.field))
    outputs = call.fused[-1].size * s.passes
    counts = _cell(call)
    counts += _stored(call, outputs, "moved code") if s.passes > 1 else Counter({"address": outputs, "access": outputs})
    return counts + Counter({"fold": 1, "address": s.channels, "access": s.channels, "packed word": s.channels,
                             "fold part": words * s.parts})


def _netlist_cell(call: KernelCall) -> Counts:
    return Counter({"netlist code": call.fused[-1].size})


def _netlist(logic: Logic) -> Counts:
    """A netlist: of its functions the parts, of its carry chains the positions."""
    gates = [logic.net.gates[gate] for gate, used in enumerate(logic.net.reached(logic.wanted)) if used]
    parts: Counts = Counter()
    for gate in gates:
        if isinstance(gate, Lut):
            lines, _ = diagram(gate.table, len(gate.inputs))
            choices = sum("?" in line for line in lines)
            parts += Counter({"choice": choices, "gate": len(lines) - choices})
        elif isinstance(gate, Chain):
            parts["position"] += len(gate.a)
    return parts


@lru_cache(maxsize=2**14)
def diagram(table: int, inputs: int) -> tuple[list[str], str]:
    return decision_diagram(table, [f"a{k}" for k in range(inputs)], "!", ("0", "1"))


def _each(call: KernelCall) -> Counts:
    counts = sum((_elements(cell.call) for cell in call.fused), Counter())
    m = call.members
    codes = m["n_chan"] + m["c_first"] + (m.get("c_second", 0) if len(call.reads) > 1 else 0)
    return counts + Counter({"address": codes, "access": codes, "pixel": 1})


def _split(call: KernelCall) -> Counts:
    n = call.members["n_chan"]
    return Counter({"address": 3 * n, "access": 3 * n, "pixel": 1})


def _fork(call: KernelCall) -> Counts:
    n = call.members["n_in"]
    return Counter({"address": 3 * n, "access": 4 * n})


LOOPS = {"flow_turns": _turns, "flow_slide": _slide, "flow_fold": _fold, "flow_each": _each, "flow_pair": _each,
         "flow_split": _split, "flow_fork": _fork}
