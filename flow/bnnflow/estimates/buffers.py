"""What the loop of a kernel keeps beside its arithmetic, by a table: rows and windows of images, streams, counters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from bnnflow.backends.hls.cycles import Sizes, cycles_of
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.backends.hls.types import IntType
from bnnflow.estimates.costs import ram, rom

__all__ = ["Buffer", "buffer_of", "stream_buffer"]

MUX = 0.5  # LUTs of a choice of two bits: one LUT makes two of them
# LUTs of a bit of a counter that begins again, is compared, and moves others, where it is as narrow as its values:
# flow_fold and flow_slide by hand in Verilog have .85 to 1.1 and .6 to .7 (yosys, UltraScale+).
COUNTER_BIT = 1.0
SHIFTED = 32  # pixels of a stream that one LUT holds a bit of (SRL32)
MOST_SHIFTED = 1024  # bits of a stream in shift registers (config_storage of Vitis HLS)


@dataclass(frozen=True)
class Buffer:
    """Hardware in the units of `Cost`; `bits` are those of the state between pixels."""

    lut: float = 0
    ff: int = 0
    bram: int = 0
    bits: int = 0

    def __add__(self, other: Buffer) -> Buffer:
        return Buffer(self.lut + other.lut, self.ff + other.ff, self.bram + other.bram, self.bits + other.bits)


def _registers(bits: int, choices: float = 0) -> Buffer:
    """Flip-flops, and LUTs that choose what each bit takes next."""
    return Buffer(choices * bits, bits)


def _memory(width: int, depth: int) -> Buffer:
    lut, bram = ram(width, depth)
    return Buffer(lut, bram=bram, bits=width * depth)


def _counters(*counts: int) -> Buffer:
    """Counters up to so many."""
    bits = sum((max(1, count) - 1).bit_length() for count in counts)
    return Buffer(COUNTER_BIT * bits, bits)


def _sizes(loop: KernelCall) -> Sizes:
    return Sizes(loop.fused[0].call.members)


def _result(loop: KernelCall) -> int:
    """Bits of the codes of a position that are collected pass by pass."""
    s = _sizes(loop)
    return s.passes * s.pe * loop.fused[-1].code_type.bits * (s.passes > 1)


def _folded(s: Sizes) -> Buffer:
    """The counters of folds, passes, chunks and groups."""
    return _counters(s.folds, s.passes, s.chunks, s.groups) if s.folds > 1 else Buffer()


def _slide(loop: KernelCall) -> Buffer:
    """flow_slide: the rows before the last one in a memory each, the window and the words of a position."""
    s = _sizes(loop)
    pixel = s.channels * s.field
    rows = sum([_memory(pixel, s.cols.steps)] * (s.rows.span - 1), Buffer())
    window = s.rows.span * s.cols.span * pixel * (s.rows.span * s.cols.span > 1)
    turning = _registers(s.rows.kernel * s.cols.kernel * pixel * (s.folds > 1), MUX)
    # Rows, columns, positions and their ends.
    counted = _counters(*[s.rows.steps, s.cols.steps] * 3, cycles_of(loop))
    return rows + Buffer(0, window, bits=window) + turning + _registers(_result(loop)) + counted + _folded(s)


def _fold(loop: KernelCall) -> Buffer:
    """flow_fold: rows as chunks in one memory, the pixel that comes in, and the codes of a position."""
    s = _sizes(loop)
    memory = _memory(s.simd * s.field, s.rows.span * s.cols.size * s.parts)
    pixel = _registers(s.channels * s.field * (s.parts > 1), MUX)
    line = s.cols.size * s.parts
    # The pixel that comes in and its place; the next position, its first tap and place; the tap that is read.
    counted = _counters(s.rows.size, s.cols.size, s.parts, s.rows.span * line, s.rows.count, s.cols.count, s.rows.steps,
                        s.cols.steps, s.rows.span * line, line, s.rows.kernel, s.cols.kernel, s.parts, s.rows.steps,
                        s.rows.span * line, line, cycles_of(loop))
    absent = Buffer(s.simd * s.field * MUX)
    return memory + pixel + _registers(_result(loop)) + counted + absent + _folded(s)


def _turns(loop: KernelCall) -> Buffer:
    """flow_turns: the image and the results in registers that are moved past the hardware."""
    s = _sizes(loop)
    pixel, at_once = s.channels * s.field, s.positions // s.turns
    image = _registers(s.rows.steps * s.cols.steps * pixel * (s.turns > 1), 1)  # loaded, or of one of two neighbours
    taps = _registers(at_once * s.rows.kernel * s.cols.kernel * pixel * (s.folds > 1), MUX)
    made = s.passes * s.pe * loop.fused[-1].code_type.bits
    results = _registers(at_once * made * (s.passes > 1) + s.positions * made * (s.turns > 1))
    return image + taps + results + _counters(s.rows.count, s.cols.count, cycles_of(loop)) + _folded(s)


def _pixel(loop: KernelCall) -> Buffer:
    """flow_each, flow_pair: pixels are counted."""
    return _counters(cycles_of(loop))


def _shuffle(loop: KernelCall) -> Buffer:
    """flow_shuffle: two memories of all codes in turns, pixels that come in and go out, and which code is picked."""
    m, kind = loop.members, loop.types["x_t"]
    assert isinstance(kind, IntType)
    stored = sum(m[n] * m[c] for n, c in (("n_first", "c_first"), ("n_second", "c_second")) if n in m)
    pixels = m["n_chan"] + m["c_first"] + m.get("c_second", 0)
    lut, bram = rom((stored - 1).bit_length(), m["n_pixel"] * m["n_chan"])
    memory = _memory(kind.bits, stored)
    return memory + memory + _registers(pixels * kind.bits, MUX) + Buffer(lut, bram=bram) + _counters(
        stored, m["n_pixel"] * m["n_chan"], m["n_chan"], m["c_first"])


BUFFERS: dict[str, Callable[[KernelCall], Buffer]] = {
    "flow_slide": _slide, "flow_fold": _fold, "flow_turns": _turns, "flow_each": _pixel, "flow_pair": _pixel,
    "flow_shuffle": _shuffle, "flow_shuffle_two": _shuffle,
}


def buffer_of(loop: KernelCall) -> Buffer:
    """What a loop keeps, its counters included; nothing where all is computed at once."""
    return BUFFERS[loop.kernel](loop) if loop.kernel in BUFFERS else Buffer()


def stream_buffer(bits: int, depth: int) -> Buffer:
    """A stream of so many pixels of so many `bits`: shift registers or a memory, and a register of the next pixel."""
    shifted = bits * depth <= MOST_SHIFTED
    kept = Buffer(bits * ceil(depth / SHIFTED)) if shifted else replace(_memory(bits, depth), bits=0)
    return kept + _registers(bits) + _counters(*[depth] * (1 if shifted else 2))
