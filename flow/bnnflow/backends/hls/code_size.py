"""How many instructions an HLS compiler is left with, function by function, before anything is written.

It inlines and unrolls, then schedules what is left as LLVM's instructions (`toolchains/clang` counts them). Here they
are computed from kernel calls. Of sums of bits with known constants every value is counted (`shared_sums`); all else
grows with elements, lanes, taps and words: there is a count of each, and `EACH` says how many instructions one is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.cycles import Sizes
from bnnflow.backends.hls.kernel_call import WORD, KernelCall
from bnnflow.backends.hls.netlist_kernel import PART
from bnnflow.backends.hls.shared_sums import SharedSums
from bnnflow.backends.netlist.bdd import decision_diagram
from bnnflow.backends.netlist.gates import Chain, Lut
from bnnflow.backends.netlist.lower import Logic
from bnnflow.ir.nodes import Int

__all__ = ["EACH", "LIMITS", "MOST", "DesignSize", "KernelSize", "counted", "design_size", "kernel_size",
           "too_much"]

# Instructions of a function and of a design that are known to do no harm.
LIMITS = {"function": 60_000, "design": 400_000}
# Public logs of Vivado HLS and Vitis HLS warn at 166,825 that they "may cause large runtime", and end beyond with XFORM
# 203-504, "stop unrolling". Functions are scheduled one after the other: a design may have as many as ten such.
MOST = {"function": 166_825, "design": 1_668_250}

# Instructions of one of each that is counted: by least squares over 421 designs (docs/reports.md), the first four
# but by their definition.
EACH = {
    # Arrays of codes: an address, and a load or a store.
    "address": 1, "access": 1,
    # Sums of bits whose constants are known: additions; masks, and wires that are widened or complemented; additions
    # that are equal to another, of which LLVM finds nine in ten.
    "add": 1, "wire": 1, "lost": 0.1,
    # Outputs of a sum with known constants: gain, offset and casts; of values, and of counts that are looked up.
    "count output": 3.3, "values output": 5, "value": 3.9, "looked up": 2.15,
    # Products with known levels: terms, some of which outputs share, codes that are widened, and outputs.
    "term": 0.7, "factor": 3.1, "mac output": 7.3,
    # Comparisons of maxima; tests of classes and places.
    "larger code": 0.95, "larger bit": 3.1, "rival": 2.9,
    # Elements with known constants: a comparison alone, one of several, and other functions.
    "cut alone": 0.87, "cut": 3, "added": 1, "affine element": 4.9, "lut element": 4.9, "table of all element": 5.9,
    "ramp": 13, "tie": 7, "exception": 3,
    # The same where constants are read in every pass.
    "row ramps": 20, "row ramp": 31, "row tie": 10, "row exception": 8.75,
    "row cut alone": 27, "row cut": 9.8, "row lut element": 30, "row affine element": 61,
    "row table of all element": 22,
    # A cell that reads its constants: a bit is moved to its place and masked; words of ROMs; codes and their levels.
    "read bit": 2.2, "read word": 19, "read mask": 8, "read term": 4.8, "read code": 2.9, "window code": 16.8,
    # The class of a position.
    "border": 30,
    # Loops over an array: each has counters; images and results are moved along, wires or words of codes.
    "turns": 10, "packed word": 2.2, "turned word": 4, "moved register": 6.2, "moved word": 3.5, "moved wire": 0.7,
    "chosen wire": 1.1, "kept": 1.5, "moved bytes": 37, "absent": 2.9,
    # Loops over a stream, or a single pixel of one: counters, pixels that come in, lines, words that are turned.
    "slide": 32, "once": 18, "came wire": 3.2, "came word": 2, "line wire": 6.8, "line word": 23, "rotated word": 4.5,
    "moved code": 2, "fold": 114, "pixel": 4.6, "shuffle": 15.5, "shuffled": 4,
    # Passes that are functions of their own: what is handed to them, what they hand back, and each of them.
    "handed": 0.62, "lane": 0.35, "function": 36,
    # Netlists: parts of functions, positions of carry chains, and codes that are taken out.
    "gate": 0.87, "choice": 1.86, "position": 4.33, "netlist code": 2.2,
    # What calls other functions.
    "call": 1,
}

COUNTED = 10**6  # taps of all outputs together that are counted; where there are more, outputs are alike
Counts = Counter[str]


@dataclass(frozen=True)
class KernelSize:
    """What the kernel of `node` becomes: instructions in the top function, and those of functions of its own."""

    node: str
    inside: int
    own: tuple[int, ...]

    @property
    def instructions(self) -> int:
        """All of them."""
        return self.inside + sum(self.own)


@dataclass(frozen=True)
class DesignSize:
    """The kernels of a design; `top` are the instructions of the top function that are no kernel's."""

    kernels: tuple[KernelSize, ...]
    top: int

    @property
    def inside(self) -> int:
        """Instructions of the top function."""
        return self.top + sum(kernel.inside for kernel in self.kernels)

    @property
    def largest(self) -> tuple[int, str]:
        """(Instructions of the largest function, the node that it computes, "" for the top function)."""
        own = [(size, kernel.node) for kernel in self.kernels for size in kernel.own]
        return max([(self.inside, ""), *own])

    @property
    def instructions(self) -> int:
        """Those of all functions."""
        return self.top + sum(kernel.instructions for kernel in self.kernels)

    def past(self, limits: Mapping[str, int]) -> bool:
        """True where a function, or all of them together, are more than that."""
        return self.largest[0] > limits["function"] or self.instructions > limits["design"]


def kernel_size(node: str, calls: Sequence[KernelCall], inlined: bool) -> KernelSize:
    """The size of a kernel and of those that copy its tensor; `inlined`: it is a part of the top function."""
    inside, own = 0, list[int]()
    for call in calls:
        first, *others = (_instructions(counts) for counts in counted(call, inlined))
        own += others if inlined else [first, *others]
        inside += first if inlined else 0
    return KernelSize(node, inside, tuple(own))


def design_size(kernels: Sequence[KernelSize], inlined: bool, codes: int) -> DesignSize:
    """The size of a design that reads and makes so many `codes`; `inlined`: the top function is one pipeline."""
    return DesignSize(tuple(kernels), _instructions(_codes(codes)) if inlined else len(kernels) + 1)


def too_much(design: int, functions: Sequence[tuple[str, int]]) -> Iterator[str]:
    """What to say of a design with so many instructions, and with functions (what each is, its instructions)."""
    if design > LIMITS["design"]:
        yield f"{design:,} instructions, more than {LIMITS['design']:,}: HLS compilers stop unrolling"
    for name, count in functions:
        if count > LIMITS["function"]:
            yield (f"{name} has {count:,} instructions, more than {LIMITS['function']:,}: HLS compilers take hours "
                   "over it, or stop")


def _instructions(counts: Mapping[str, int]) -> int:
    return max(1, round(sum(EACH[name] * count for name, count in counts.items())))


# --- kernels --------------------------------------------------------------------------------------------------------


def counted(call: KernelCall, inlined: bool) -> list[Counts]:
    """What a call becomes: a function, or a part of the top function where it is `inlined`; then others it calls."""
    if call.kernel in ("flow_all", "flow_all_two"):
        cell = _elements(call.fused[0].call)
        return [cell if inlined else cell + _arrays(call)]
    if call.kernel == "flow_positions":
        return _positions(call, inlined)
    if call.kernel in ("flow_shuffle", "flow_shuffle_two"):
        m = call.members
        stored = m["c_first"] + (m["c_second"] if len(call.reads) > 1 else 0)
        return [Counter({"call": 4}), Counter({"shuffle": len(call.reads), "shuffled": stored}),
                Counter({"shuffle": 1, "shuffled": m["n_chan"]})]
    parts = [part for cell in call.fused if cell.call.logic for part in _netlist(cell.call.logic)]
    return [LOOPS[call.kernel](call), *parts]


def _codes(codes: int) -> Counts:
    """Codes of an array that are read or written."""
    return Counter({"address": codes, "access": codes})


def _arrays(call: KernelCall) -> Counts:
    """The arrays of a kernel that computes all elements at once."""
    m = call.members
    read = m["n_in"] + (m["n_in1"] if len(call.reads) > 1 else 0)
    if call.fused[0].call.kernel in ("flow_gather", "flow_join"):  # a read for each that is written
        return Counter({"address": min(read, m["n_out"]) + m["n_out"], "access": 2 * m["n_out"]})
    return _codes(read + m["n_out"])


def _elements(call: KernelCall) -> Counts:
    """A kernel that works element by element; where every pass has constants of its own, they are read."""
    m, kernel = call.members, call.kernel.removeprefix("flow_")
    row = "row " if m.get("n_row", 1) > 1 else ""
    elements = m["n_in"]
    if kernel == "step":
        cuts = m["n_threshold"]
        return Counter({f"{row}cut alone": elements} if cuts == 1 else {f"{row}cut": elements * cuts})
    if kernel == "ramp":
        return _ramps(call, row)
    if kernel == "argmax":
        return Counter({"rival": elements * (m["n_chan"] - 1)})
    if kernel in ("gather", "join", "constant"):
        return Counter()
    if kernel in ("add", "scale"):
        scale, constant = _rom(call, "scale"), _rom(call, "constant")
        each = 2 * scale.size - 1 + np.count_nonzero(np.abs(scale) != 1) + bool(constant.any())
        return Counter({"added": elements * int(each)})
    if kernel == "lut" and m["n_chan"] == 1:
        kernel = "table of all"
    return Counter({f"{row}{kernel} element": elements})


def _ramps(call: KernelCall, row: str) -> Counts:
    """The elements of a STEP of ramps: what clips them, tests for ties, and exceptions that are none are left out."""
    m, elements = call.members, call.members["n_in"]
    more, ramps = np.count_nonzero(_rom(call, "more")), elements * m["n_ramp"]
    if row:
        return Counter({"row ramps": elements, "row ramp": ramps, "row tie": ramps * m["ties"],
                        "row exception": elements * m["n_exception"] * bool(more)})
    return Counter({"ramp": ramps, "tie": ramps * m["ties"], "exception": more * elements // m["n_chan"]})


def _positions(call: KernelCall, inlined: bool) -> list[Counts]:
    """All positions at once."""
    core = call.fused[0].call
    s, own = Sizes(core.members), list[Counts]()
    outputs, codes = s.positions * call.fused[-1].size * _passes_apart(s), s.rows.size * s.cols.size * s.channels
    wires, places = _places(s)
    if core.logic is not None:
        top = Counter({"packed word": codes, "netlist code": outputs})
        own = _netlist(core.logic)
    elif _passes_apart(s) > 1 or core.members.get("apart"):
        handed = s.groups * s.taps
        top = Counter({"handed": 2 * s.positions * s.passes * handed, "lane": outputs})
        one = _known(core, np.arange(handed)[None], handed, False) + _codes(handed + s.pe) + Counter({"function": 1})
        own = [one] * s.passes  # alike
    else:
        top = _known(core, places, wires, inlined)
    for rest in call.fused[1:]:
        top.update({name: count * s.positions for name, count in _elements(rest.call).items()})
    inside, absent = _read(s, places)
    # What nothing reads is not loaded, or not even computed.
    top.update(_codes(inside - codes if inlined else inside + outputs))
    top["absent"] += absent
    return [top, *own]


def _passes_apart(s: Sizes) -> int:
    return s.passes if s.members.get("apart") else 1


def _places(s: Sizes) -> tuple[int, Int]:
    """(codes of the image, absent ones around it included; of every position the codes of its taps, group by group)."""
    rows, cols, groups = s.rows, s.cols, s.members.get("n_group", 1)
    y = np.arange(rows.count)[:, None] * rows.stride + np.arange(rows.kernel) * rows.dilation
    x = np.arange(cols.count)[:, None] * cols.stride + np.arange(cols.kernel) * cols.dilation
    pixel = y[:, None, :, None] * cols.steps + x[None, :, None, :]  # (rows, columns, rows and columns of the kernel)
    channel = np.arange(s.channels).reshape(groups, 1, -1)
    places = pixel.reshape(s.positions, 1, -1, 1) * s.channels + channel
    return rows.steps * cols.steps * s.channels, places.reshape(s.positions, -1)


def _read(s: Sizes, places: Int) -> tuple[int, int]:
    """(Codes of the image that a position reads, absent ones that one reads)."""
    pixel = np.unique(places) // s.channels
    y, x = pixel // s.cols.steps - s.rows.pad, pixel % s.cols.steps - s.cols.pad
    inside = int(((y >= 0) & (y < s.rows.size) & (x >= 0) & (x < s.cols.size)).sum())
    return inside, len(pixel) - inside


# --- cells with known constants -------------------------------------------------------------------------------------


def _rom(call: KernelCall, name: str) -> NDArray[np.int64]:
    """The rows of a ROM; none where the kernel has no such ROM."""
    return next((rom.rows for rom in call.roms if rom.name == name), np.zeros((0, 0), np.int64))


def _bits(words: NDArray[np.int64], taps: int) -> NDArray[np.bool_]:
    """Words -> bits, rows of so many taps, each beginning with a word."""
    rows = words.astype(np.uint64).reshape(-1, ceil(taps / WORD))
    return np.unpackbits(rows.view(np.uint8), axis=1, bitorder="little")[:, :taps].astype(bool)


def _known(core: KernelCall, places: Int, wires: int, shared: bool) -> Counts:
    """A cell at positions that read the wires `places`, with the constants of the first row.

    `shared`: what positions have in common is made once. In other functions it is not, because the compiler does not
    know that what it writes is not what it reads; and with masks it does not find what outputs have in common there.
    """
    s, outputs, positions = Sizes(core.members), core.members["pe"], len(places)
    if core.kernel == "flow_max":
        return Counter({f"larger {'bit' if s.field == 1 else 'code'}": positions * outputs * (s.taps - 1)})
    if core.kernel == "flow_mac":
        terms = Counter({"term": _terms(_levels(core)), "factor": s.groups * s.simd, "mac output": outputs})
        return Counter({name: positions * count for name, count in terms.items()})
    masked = core.kernel == "flow_count" and _rom(core, "mask").size > 0
    found, each = SharedSums(wires, own=masked and not shared), positions if not shared else 1
    counted = min(outputs, max(1, COUNTED // s.simd))
    for place in places if shared else places[:1]:
        _sums(core, s, place.reshape(s.groups, -1), counted, found)
    each = each * outputs // counted
    counts = Counter({"add": found.adds * each, "wire": (found.instructions - found.adds) * each,
                      "lost": 0 if masked else found.lost * each})
    if core.kernel == "flow_shared":
        counts["looked up"] = positions * outputs * s.channels // core.members["n_group"]
        return counts
    counts[f"{core.kernel.removeprefix('flow_')} output"] = positions * outputs
    if core.kernel == "flow_values":
        counts["value"] = positions * outputs * core.members["n_value"]
    return counts


def _sums(core: KernelCall, s: Sizes, place: Int, outputs: int, found: SharedSums) -> None:
    """The sums of bits of a position whose groups read the wires `place`, for the first `outputs`."""
    group = np.arange(outputs) * s.groups // s.pe  # of an output
    sums = outputs * core.members.get("n_value", 1)
    if core.kernel == "flow_count":
        sign = _bits(_rom(core, "sign")[0], s.simd)[:sums]
        mask = _bits(_rom(core, "mask")[0], s.simd)[:sums] if _rom(core, "mask").size else np.ones_like(sign)
        found.count(place[group], sign, mask)
        return
    every = np.ones((s.groups, s.simd), bool)
    found.count(place, every, every)
    if core.kernel == "flow_values":
        mask = _bits(_rom(core, "mask")[0], s.simd)[:sums]
        found.count(place[np.repeat(group, core.members["n_value"])], np.ones_like(mask), mask)
        return
    pattern = _bits(_rom(core, "pattern"), _kernel(s))
    for taps in place.reshape(s.groups, _kernel(s), -1):
        for channel in taps.T:
            found.count(np.broadcast_to(channel, pattern.shape), np.ones_like(pattern), pattern)


def _kernel(s: Sizes) -> int:
    """Pixels of a window."""
    return s.rows.kernel * s.cols.kernel


def _levels(core: KernelCall) -> Int:
    """The levels (outputs, taps) in the first row."""
    width, words = core.members["level_bits"], core.members["level_words"]
    shifts = np.arange(WORD // width, dtype=np.uint64) * np.uint64(width)
    packed = _rom(core, "levels")[0].astype(np.uint64).reshape(-1, words, 1)
    fields = (packed >> shifts & np.uint64((1 << width) - 1)).astype(np.int64)
    levels = fields.reshape(len(packed), -1)[:, : core.members["simd"]]
    signed: Int = np.where(levels >> (width - 1), levels - (1 << width), levels)
    return signed


def _terms(levels: Int) -> int:
    """Additions of rows of terms, from the first on: rows that begin alike share them."""
    found, rows = 0, np.zeros(len(levels), np.int64)
    for column in levels.T:
        pairs, place = np.unique(np.stack([rows, column], 1), axis=0, return_inverse=True)
        rows = place.ravel()
        found += int(np.count_nonzero(pairs[:, 1]))
    return found


# --- loops ----------------------------------------------------------------------------------------------------------


def _cell(call: KernelCall) -> Counts:
    """The cell of a loop over positions, of one position, with what follows in it."""
    core = call.fused[0].call
    s = Sizes(core.members)
    if core.logic is not None:
        counts = Counter({"netlist code": call.fused[-1].size})
    elif s.folds == 1:
        taps = s.taps * s.groups
        counts = _known(core, np.arange(taps)[None], taps, False)
    else:
        counts = _folded(core, s)
    for rest in call.fused[1:]:
        counts.update(_elements(rest.call))
    return counts + Counter({"border": bool(call.fused[0].borders)})


def _folded(core: KernelCall, s: Sizes) -> Counts:
    """A cell whose constants are read in every cycle."""
    lanes = s.pe
    if core.kernel == "flow_max":
        larger = "larger bit" if s.field == 1 else "larger code"
        return Counter({larger: lanes * (s.taps - 1), "window code": lanes * s.taps})
    if core.kernel == "flow_mac":
        return Counter({"read term": lanes * s.simd, "read code": s.groups * s.simd,
                        "read word": lanes * core.members["level_words"]})
    values = core.kernel == "flow_values"
    sums, words = lanes * core.members.get("n_value", 1), ceil(s.simd / WORD)
    every = np.ones((1, s.simd), bool)
    one = SharedSums(s.simd)
    one.count(np.arange(s.simd)[None], every, every)
    popcounts = sums + s.groups * values
    masks = lanes * words * (not values and _rom(core, "mask").size > 0)
    return Counter({"read bit": popcounts * s.simd, "add": popcounts * (one.adds + one.masks),
                    "read word": sums * words, "read mask": masks})


def _per_word(call: KernelCall, s: Sizes) -> int:
    """Codes of a word; one where codes are wires."""
    return 1 if s.folds == 1 and not call.fused[0].call.members.get("packed") else WORD // s.field


def _moved(call: KernelCall, codes: int, name: str) -> Counts:
    """Codes of passes that are moved along, then stored; where each is some bytes they are moved in one piece."""
    if call.fused[-1].code_type.bits in (8, 16, 32, 64):
        return Counter({"moved bytes": 1})
    return _codes(codes) + Counter({name: codes})


def _turns(call: KernelCall) -> Counts:
    """An image of registers that is moved along."""
    s = Sizes(call.fused[0].call.members)
    once, per_word = s.members["at_once"], _per_word(call, s)
    wire = per_word == 1
    pixel, pixels = ceil(s.channels / per_word), s.rows.steps * s.cols.steps
    codes, made = s.rows.size * s.cols.size * s.channels, s.positions * s.members["n_out"]
    counts = Counter({name: count * once for name, count in _cell(call).items()})
    counts += _codes(codes) + Counter({"turns": 1})
    words = s.members["n_group"] * s.chunks * ceil(s.simd / per_word)
    if wire:
        counts["absent"] += (pixels - s.rows.size * s.cols.size) * pixel
    else:
        counts.update({"packed word": codes, "turned word": once * words})
    if s.turns == 1:
        return counts + _moved(call, made, "moved register")
    moved = Counter({f"moved {'wire' if wire else 'word'}": pixels * pixel, "kept": made})
    if wire and s.cols.count > once and s.rows.count > 1:  # the next turn is in this row or in the next one
        moved["chosen wire"] = pixels * pixel
    return counts + moved + _codes(made)


def _written(call: KernelCall, s: Sizes) -> Counts:
    """A pixel of a stream that passes make."""
    codes = call.fused[-1].size * (s.passes if s.folds > 1 else 1)
    return _moved(call, codes, "moved code") if s.folds > 1 and s.passes > 1 else _codes(codes)


def _slide(call: KernelCall) -> Counts:
    """A window in registers."""
    s = Sizes(call.fused[0].call.members)
    per_word = _per_word(call, s)
    kind = "wire" if per_word == 1 else "word"
    looped = s.rows.steps * s.cols.steps + s.positions * (s.folds - 1) > 1
    words = s.members["n_group"] * s.chunks * ceil(s.simd / per_word)
    return _cell(call) + _written(call, s) + _codes(s.channels) + Counter({
        "slide" if looped else "once": 1, f"came {kind}": s.channels,
        f"line {kind}": (s.rows.span - 1) * ceil(s.channels / per_word), "rotated word": words * (s.folds > 1)})


def _fold(call: KernelCall) -> Counts:
    """A window in a memory."""
    s = Sizes(call.fused[0].call.members)
    return _cell(call) + _written(call, s) + _codes(s.channels) + Counter({"fold": 1, "packed word": s.channels})


def _each(call: KernelCall) -> Counts:
    """Pixel by pixel."""
    m, counts = call.members, Counter({"pixel": 1})
    for cell in call.fused:
        counts.update(_elements(cell.call))
    return counts + _codes(m["n_chan"] + m["c_first"] + (m["c_second"] if len(call.reads) > 1 else 0))


def _split(call: KernelCall) -> Counts:
    """A pixel twice."""
    return _codes(3 * call.members["n_chan"]) + Counter({"pixel": 1})


def _fork(call: KernelCall) -> Counts:
    """An array twice, each time read anew."""
    elements = call.members["n_in"]
    return Counter({"address": 3 * elements, "access": 4 * elements})


LOOPS: dict[str, Callable[[KernelCall], Counts]] = {
    "flow_turns": _turns, "flow_slide": _slide, "flow_fold": _fold, "flow_each": _each, "flow_pair": _each,
    "flow_split": _split, "flow_fork": _fork,
}


# --- netlists -------------------------------------------------------------------------------------------------------


def _netlist(logic: Logic) -> list[Counts]:
    """The functions into which a netlist is divided, all alike."""
    net = logic.net
    gates = [net.gates[gate] for gate, used in enumerate(net.reached(logic.wanted)) if used]
    counts: Counts = Counter()
    for gate in gates:
        if isinstance(gate, Lut):
            counts.update(_diagram(gate.table, len(gate.inputs)))
        elif isinstance(gate, Chain):
            counts["position"] += len(gate.a)
    parts = max(1, ceil(sum(isinstance(gate, (Lut, Chain)) for gate in gates) / PART))
    return [Counter({name: ceil(count / parts) for name, count in counts.items()})] * parts


@lru_cache(maxsize=2**14)
def _diagram(table: int, inputs: int) -> Counts:
    """The parts of a function: choices by a signal, and gates."""
    lines, _ = decision_diagram(table, [f"a{k}" for k in range(inputs)], "!", ("0", "1"))
    choices = sum("?" in line for line in lines)
    return Counter({"choice": choices, "gate": len(lines) - choices})
