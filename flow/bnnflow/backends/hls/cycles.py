"""The loops of the kernels as data: the sizes that follow from a configuration, cycles, reads and writes.

One place for what nnet_flow_stream.h and nnet_flow_array.h do in time: stream depths, estimates and the balance of a
whole network read it here. A loop takes one cycle an iteration (PIPELINE II=1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.ir.nodes import Int

__all__ = ["SCHEDULES", "Axis", "Schedule", "Sizes", "cycles_of", "schedule_of"]


@dataclass(frozen=True)
class Axis:
    """A window along an axis of `size` pixels: `kernel` taps, `pad` absent pixels first, `count` positions."""

    size: int
    kernel: int
    stride: int
    dilation: int
    pad: int
    count: int

    @property
    def span(self) -> int:
        """Pixels from the first tap of a position to its last one."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def steps(self) -> int:
        """Pixels, absent ones included, as far as positions reach or pixels are."""
        return max((self.count - 1) * self.stride + self.span, self.pad + self.size)

    @property
    def ends(self) -> Int:
        """Of every position the place of its last tap, absent pixels counted."""
        return np.arange(self.count) * self.stride + self.span - 1


@dataclass(frozen=True)
class Sizes:
    """The sizes of a kernel over windows that follow from its `members`: flow_sizes of nnet_flow_window.h."""

    members: Mapping[str, int]

    def _member(self, name: str) -> int:
        return self.members.get(name, 0 if name.startswith("p_") or name == "apart" else 1)

    def _axis(self, name: str) -> Axis:
        return Axis(*(self._member(f"{key}_{name}") for key in "nksdpo"))

    @cached_property
    def rows(self) -> Axis:
        """The window from row to row; one row where there is no such axis."""
        return self._axis("rows")

    @cached_property
    def cols(self) -> Axis:
        """The window along a row."""
        return self._axis("cols")

    @property
    def channels(self) -> int:
        """Codes of a pixel."""
        return self._member("n_chan")

    @property
    def field(self) -> int:
        """Bits of a code."""
        return self._member("field")

    @property
    def taps(self) -> int:
        """Taps of an output, all channels of its group."""
        return self.rows.kernel * self.cols.kernel * self.channels // self._member("n_group")

    @property
    def pe(self) -> int:
        """Outputs of a pass."""
        return self._member("pe")

    @property
    def simd(self) -> int:
        """Taps of a cycle."""
        return self._member("simd")

    @property
    def passes(self) -> int:
        """Passes over the outputs of a position."""
        return self._member("n_out") // self.pe

    @property
    def chunks(self) -> int:
        """Chunks of taps of a pass."""
        return self.taps // self.simd

    @property
    def folds(self) -> int:
        """Cycles of a position."""
        return 1 if self._member("apart") else self.passes * self.chunks

    @property
    def groups(self) -> int:
        """Groups of channels that a pass reads."""
        whole = self._member("n_group")
        return 1 if whole == 1 else max(1, self.pe * whole // self._member("n_out"))

    @property
    def parts(self) -> int:
        """Chunks of a pixel."""
        return max(1, self.channels // self.simd)

    @property
    def positions(self) -> int:
        """Positions of the image."""
        return self.rows.count * self.cols.count

    @property
    def turns(self) -> int:
        """How often the hardware is used for the positions of an image."""
        return self.positions // self._member("at_once")


@dataclass(frozen=True, eq=False)
class Schedule:
    """The reads and writes of a kernel for one image, in order, and the cycle of each where it never waits.

    `write` says of each whether it is one, `stream` which input or output it is, `at` its cycle, from 0. `cycles` are
    those of all loops, one after the other.
    """

    cycles: int
    write: NDArray[np.bool_]
    stream: Int
    at: Int

    @property
    def first_write(self) -> int:
        """The cycle of the first pixel of the result."""
        return int(self.at[self.write.argmax()])


def _rows(read: Int, written: Int) -> Schedule:
    """The schedule of a loop that reads input 0 at the cycles `read`, and writes output 0 at the cycles `written`."""
    at = np.concatenate([read, written])
    order = np.argsort(at, kind="stable")  # an iteration reads before it writes
    write = np.arange(len(at)) >= len(read)
    return Schedule(0, write[order], np.zeros(len(at), np.int64), at[order])


# --- kernels that take every pixel by itself -------------------------------------------------------------------------


def _pixels(call: KernelCall) -> int:
    return call.members["n_pixel"]


def _pixel_by_pixel(call: KernelCall, writes: int = 1) -> Schedule:
    """A pixel of every input, then one of every output, each cycle."""
    pixels, reads = _pixels(call), len(call.reads)
    row = [*((False, k) for k in range(reads)), *((True, k) for k in range(writes))]
    write, stream = (np.tile([step[k] for step in row], pixels) for k in (0, 1))
    return Schedule(pixels, write.astype(bool), stream.astype(np.int64), np.repeat(np.arange(pixels), len(row)))


def _shuffled(call: KernelCall) -> list[tuple[int, int]]:
    """(pixels, codes of a pixel) of every input, and of the output."""
    names = [("n_first", "c_first"), ("n_second", "c_second")][: len(call.reads)]
    return [(call.members[n], call.members[c]) for n, c in [*names, ("n_pixel", "n_chan")]]


def _shuffle_cycles(call: KernelCall) -> int:
    """One for every code that is stored, or that is picked: one image is stored while another is picked."""
    *stored, picked = (pixels * codes for pixels, codes in _shuffled(call))
    return max(sum(stored), picked)


def _all_then_all(call: KernelCall) -> Schedule:
    """One input after the other, whole, then the output, a code a cycle."""
    sides = _shuffled(call)
    pixels, codes = (np.array([side[k] for side in sides]) for k in (0, 1))
    stream = np.repeat([*range(len(call.reads)), 0], pixels)
    write = np.repeat([False] * len(call.reads) + [True], pixels)
    length = np.repeat(codes, pixels)  # cycles of every pixel
    end = np.cumsum(length)
    return Schedule(int(end[-1]), write, stream, np.where(write, end - 1, end - length))


# --- kernels over windows -------------------------------------------------------------------------------------------


def _window(call: KernelCall) -> Sizes:
    return Sizes(call.fused[0].call.members)


def _slide_cycles(call: KernelCall) -> int:
    """One for every pixel, absent ones included, and those of a position behind the first."""
    s = _window(call)
    return s.rows.steps * s.cols.steps + s.positions * (s.folds - 1)


def _slide(call: KernelCall) -> Schedule:
    """Row by row: a pixel of the image, absent ones around it left out, then the position whose last tap it is."""
    s = _window(call)
    ends, inside = [], []
    for axis in (s.rows, s.cols):
        place = np.arange(axis.steps)
        ends.append(np.isin(place, axis.ends))
        inside.append((place >= axis.pad) & (place < axis.pad + axis.size))
    whole, there = (np.logical_and.outer(*masks).ravel() for masks in (ends, inside))
    length = np.where(whole, s.folds, 1)  # cycles of every pixel
    end = np.cumsum(length)
    made = _rows((end - length)[there], end[whole] - 1)
    return Schedule(_slide_cycles(call), made.write, made.stream, made.at)


def _fold_cycles(call: KernelCall) -> int:
    """One for every chunk of every pixel that comes in, and those of all positions."""
    s = _window(call)
    return s.rows.size * s.cols.size * s.parts + s.positions * s.folds


def _fold(call: KernelCall) -> Schedule:
    """Pixels up to the last tap in the image of the next position, then that position; in the end all other pixels."""
    s = _window(call)
    # An absent pixel is not waited for; a row of them before the image ends with its pixel -1.
    last_row, last_col = (np.clip(axis.ends - axis.pad, -1, axis.size - 1) for axis in (s.rows, s.cols))
    needed = np.maximum.accumulate((last_row[:, None] * s.cols.size + last_col + 1).ravel().clip(0))
    pixel, position = np.arange(s.rows.size * s.cols.size), np.arange(s.positions)
    done = np.searchsorted(needed, pixel, side="right")  # positions before a pixel comes in
    written = needed * s.parts + (position + 1) * s.folds - 1
    made = _rows(pixel * s.parts + done * s.folds, written)
    return Schedule(_fold_cycles(call), made.write, made.stream, made.at)


# --- the table ------------------------------------------------------------------------------------------------------

SCHEDULES: dict[str, Callable[[KernelCall], Schedule]] = {
    "flow_each": _pixel_by_pixel, "flow_pair": _pixel_by_pixel, "flow_split": lambda call: _pixel_by_pixel(call, 2),
    "flow_shuffle": _all_then_all, "flow_shuffle_two": _all_then_all, "flow_slide": _slide, "flow_fold": _fold,
}

CYCLES: dict[str, Callable[[KernelCall], int]] = {
    "flow_each": _pixels, "flow_pair": _pixels, "flow_split": _pixels,
    "flow_shuffle": _shuffle_cycles, "flow_shuffle_two": _shuffle_cycles,
    "flow_slide": _slide_cycles, "flow_fold": _fold_cycles,
    "flow_turns": lambda call: _window(call).turns * _window(call).folds,
    "flow_positions": lambda call: 1, "flow_all": lambda call: 1, "flow_all_two": lambda call: 1,
    "flow_fork": lambda call: 1,
}


def schedule_of(call: KernelCall) -> Schedule:
    """The reads and writes of a kernel on streams."""
    return SCHEDULES[call.kernel](call)


def cycles_of(call: KernelCall) -> int:
    """Cycles from an image to the next of the loops of a kernel that never waits; one where all is computed at once."""
    return CYCLES[call.kernel](call)
