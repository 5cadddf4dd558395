"""Depths of the streams between kernels, and the proof that a design neither deadlocks at them nor is slowed down.

g++ gives every hls::stream endless room; an FPGA does not. A kernel is its reads and writes of pixels, each in a cycle
of its loop (`cycles.Schedule`), image after image. A read waits for its pixel, a write for room, and with it waits all
that comes later in the loop. Such networks are determinate (Kahn 1974; Parks 1995, 3: also with bounded channels): in
whichever order kernels are executed, the same happens. Every event happens at the largest of times at which others
have happened, plus constants; so whatever delays one event makes no other one earlier.

*Timetable.* Suppose times for all events of an image, and that the same happens again every T cycles: no kernel goes
faster than its loop, every pixel is there when it is read, and a stream never holds more pixels than its depth. Then
the hardware, which does everything as soon as it can, is nowhere later than the timetable: it neither deadlocks nor
needs more than T cycles an image. `depths` makes such a timetable with T the cycles of the slowest kernel, which is as
fast as the network can be, and takes the depths from it: so no kernel waits for room where that would cost time.

A faster kernel has cycles to spare, T less its own. Before a slow one it must be late, or pixels pile up between them,
and behind a slow one early. So all kernels begin as early as their inputs let them; then, from the last one to the
first and back, each is as late as its readers let it where its streams hold less then. What room is left is what the
network needs: of two ways that meet, the short one must hold what the long one has not finished; and a kernel of a
window reads its first rows faster than all others, which must wait for it if it has no cycles to spare.

`check_depths` simulates the network at the depths, image after image, and holds it to the timetable. Not in the model:
the cycles between a loop's end and its next start, which are few, and as many for every kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.hls.cycles import Schedule, cycles_of, schedule_of
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.errors import InputError
from bnnflow.ir.nodes import Int

__all__ = ["StreamKernel", "Timetable", "check_depths", "depths", "ends", "timetable"]

LATENCY = 10  # cycles from the one that computes a pixel to that in which it can be read: stages of a pipeline, a guess
MARGIN = 2  # pixels more than needed: what other latencies than this one move
EVER = 2**50  # cycles
SWEEPS = 2  # from the last kernel to the first and back; more change little
IMAGES = 2  # that are simulated: what the first one leaves behind shows in the second


@dataclass(frozen=True)
class StreamKernel:
    """A kernel call with the names of the streams that it reads and writes."""

    call: KernelCall
    inputs: Sequence[str]
    outputs: Sequence[str]

    @cached_property
    def schedule(self) -> Schedule:
        """Its reads and writes of an image."""
        return schedule_of(self.call)

    @property
    def cycles(self) -> int:
        """Cycles from an image to the next where it never waits."""
        return cycles_of(self.call)

    def events(self, name: str) -> NDArray[np.intp]:
        """Which of them are of a stream."""
        write = name in self.outputs
        place = (self.outputs if write else self.inputs).index(name)
        return np.flatnonzero((self.schedule.write == write) & (self.schedule.stream == place))


@dataclass(frozen=True)
class Timetable:
    """An image every `interval` cycles; the first one ends in cycle `latency`. `depths` are those of streams inside."""

    interval: int
    latency: int
    depths: Mapping[str, int]


class _Row:
    """The times of a kernel's events of an image: `time`, which goes on with the next image `interval` cycles later."""

    def __init__(self, kernel: StreamKernel, interval: int):
        self.kernel, self.interval, self.at = kernel, interval, kernel.schedule.at
        self.spare = interval - kernel.cycles
        self.time = self.at

    def earliest(self, ready: Int) -> Int:
        """Times of which none is before `ready`; nor is any of another image before its own."""
        lag = ready - self.at
        lag = np.maximum(lag, lag.max() - self.spare)  # of the image before
        return np.asarray(self.at + np.maximum.accumulate(lag))

    def latest(self, due: Int) -> Int:
        """Times of which none is after `due`."""
        lead = due - self.at
        lead = np.minimum(lead, lead.min() + self.spare)  # of the next image
        return np.asarray(self.at + np.minimum.accumulate(lead[::-1])[::-1])


class _Channel:
    """A stream inside the design, between the events of two kernels."""

    def __init__(self, name: str, writer: _Row, reader: _Row):
        self.name, self.writer, self.reader = name, writer, reader
        self.written, self.read = writer.kernel.events(name), reader.kernel.events(name)
        if len(self.written) != len(self.read):
            raise InputError(f"{len(self.written)} pixels of an image are written into {name}, {len(self.read)} are "
                             "read: the next one would not be alone")

    @property
    def held(self) -> int:
        """The most pixels that it holds."""
        arrival, taken = self.writer.time[self.written] + LATENCY, self.reader.time[self.read]
        images, rest = np.divmod(arrival - taken[0], self.reader.interval)
        gone = images * len(taken) + np.searchsorted(taken, taken[0] + rest)  # read before a pixel arrives
        return int((np.arange(1, len(taken) + 1) - gone).max())


class _Table:
    """The rows of all kernels, from the first one that is fed from outside."""

    def __init__(self, kernels: Sequence[StreamKernel]):
        self.interval = max(kernel.cycles for kernel in kernels)
        self.rows = [_Row(kernel, self.interval) for kernel in kernels]
        writers = {name: row for row in self.rows for name in row.kernel.outputs}
        self.channels = [_Channel(name, writers[name], row) for row in self.rows for name in row.kernel.inputs
                         if name in writers]
        self.into: dict[int, list[_Channel]] = {id(row): [] for row in self.rows}
        self.out_of: dict[int, list[_Channel]] = {id(row): [] for row in self.rows}
        for channel in self.channels:
            self.into[id(channel.reader)].append(channel)
            self.out_of[id(channel.writer)].append(channel)

    def earliest(self, row: _Row) -> Int:
        """The earliest times of a kernel, given the others'; pixels from outside are always there."""
        ready = np.zeros(len(row.at), np.int64)
        for channel in self.into[id(row)]:
            ready[channel.read] = channel.writer.time[channel.written] + LATENCY
        return row.earliest(ready)

    def latest(self, row: _Row) -> Int:
        """The latest times of a kernel, given the others'; those that it has where nobody inside waits for it."""
        if not self.out_of[id(row)]:
            return row.time
        due = np.full(len(row.at), EVER)
        for channel in self.out_of[id(row)]:
            due[channel.written] = channel.reader.time[channel.read] - LATENCY
        return row.latest(due)

    def choose(self, row: _Row, *times: Int) -> None:
        """Give a kernel the times with which its streams hold least, the first of equal ones."""
        held = []
        for row.time in times:
            held.append(sum(channel.held for channel in (*self.into[id(row)], *self.out_of[id(row)])))
        row.time = times[held.index(min(held))]

    def settle(self) -> None:
        """Times for all kernels."""
        for row in self.rows:
            row.time = self.earliest(row)
        for _ in range(SWEEPS):
            for row in reversed(self.rows):
                self.choose(row, self.latest(row), row.time, self.earliest(row))
            for row in self.rows:
                self.choose(row, self.earliest(row), row.time, self.latest(row))


def timetable(kernels: Sequence[StreamKernel]) -> Timetable:
    """Times for all reads and writes of a design at the interval of its slowest kernel, and what streams hold then.

    `kernels` are in the order of the data. Raises InputError where pixels of an image would be left in a stream.
    """
    table = _Table(kernels)
    table.settle()
    first = min(int(row.time[0] - row.at[0]) for row in table.rows)  # a loop begins
    latency = max(int(row.time[-1]) for row in table.rows) - first + 1
    return Timetable(table.interval, latency, {channel.name: channel.held for channel in table.channels})


def depths(kernels: Sequence[StreamKernel]) -> dict[str, int]:
    """Depth in pixels of every stream that is written and read inside, for `kernels` in the order of the data.

    Raises InputError where pixels of an image would be left in a stream.
    """
    return {name: held + MARGIN for name, held in timetable(kernels).depths.items()}


# --- simulation -----------------------------------------------------------------------------------------------------


class _Stream:
    """The times at which pixels could be read, and were, of a stream with some room.

    A pixel is there `latency` cycles after the one in which it is computed; those from outside always are.
    """

    def __init__(self, room: int = EVER, latency: int = LATENCY, outside: bool = False):
        self.room, self.latency, self.outside = room, latency, outside
        self.arrived: list[int] = []
        self.taken: list[int] = []

    def when(self, write: bool) -> int | None:
        """The first cycle in which the next step can be taken; None where that is not known yet."""
        if write:
            last = len(self.arrived) - self.room  # the pixel that must have gone
            return 0 if last < 0 else self.taken[last] + 1 - self.latency if last < len(self.taken) else None
        if self.outside:
            return 0
        return self.arrived[len(self.taken)] if len(self.taken) < len(self.arrived) else None


class _Process:
    """A loop at its next step, of some image. `steps` are (whether it writes, the stream), `at` their cycles."""

    def __init__(self, steps: Sequence[tuple[bool, _Stream]], at: Int, cycles: int, images: int):
        self.steps = steps
        behind = np.diff(at, prepend=at[-1] - cycles)  # cycles behind the step before
        self.behind, self.now, self.time, self.left = behind.tolist(), 0, int(at[0] - behind[0]), images
        self.ends: list[int] = []

    def go(self) -> bool:
        """As many steps as can be taken; True where there was one."""
        moved = False
        while self.left:
            write, stream = self.steps[self.now]
            first = stream.when(write)
            if first is None:
                break
            moved, self.time = True, max(self.time + self.behind[self.now], first)
            if write:
                stream.arrived.append(self.time + stream.latency)
            else:
                stream.taken.append(self.time)
            self.now += 1
            if self.now == len(self.steps):
                self.now, self.left = 0, self.left - 1
                self.ends.append(self.time)
        return moved


def _processes(kernel: StreamKernel, streams: Mapping[str, _Stream], images: int) -> list[_Process]:
    """The loops of a kernel: one, or two of which the first stores an image while the other picks the one before."""
    s = kernel.schedule
    ends = [streams[name] for name in kernel.inputs], [streams[name] for name in kernel.outputs]
    steps = [(write, ends[write][k]) for write, k in zip(s.write.tolist(), s.stream.tolist())]
    if not kernel.call.kernel.startswith("flow_shuffle"):
        return [_Process(steps, s.at, kernel.cycles, images)]
    memories, whole = _Stream(2, latency=0), _Stream(latency=1)  # taken and given back; images that are stored
    first, picked = int(s.write.argmax()), kernel.call.members["n_pixel"] * kernel.call.members["n_chan"]
    stored = s.cycles - picked
    store = [(True, memories), *steps[:first], (True, whole)]
    pick = [(False, whole), *steps[first:], (False, memories)]
    return [_Process(store, np.array([0, *s.at[:first], stored - 1]), stored, images),
            _Process(pick, np.array([0, *s.at[first:] - stored, picked - 1]), picked, images)]


def ends(kernels: Sequence[StreamKernel], room: Mapping[str, int], images: int = IMAGES) -> list[list[int]]:
    """The cycles in which every kernel ends its work on the first images, where all begin as soon as they can.

    `room` has the depths of streams inside; raises InputError where all kernels wait before the images are done.
    """
    written = {name for kernel in kernels for name in kernel.outputs}
    streams = {name: _Stream(room.get(name, EVER), outside=name not in written)
               for kernel in kernels for name in (*kernel.inputs, *kernel.outputs)}
    processes = [_processes(kernel, streams, images) for kernel in kernels]
    running = [process for loops in processes for process in loops]
    while sum(process.go() for process in running):
        pass
    waiting = [process.steps[process.now] for process in running if process.left]
    if waiting:
        full = [f"{name} (depth {room[name]})" for name in sorted(room) if (True, streams[name]) in waiting]
        raise InputError(f"the design deadlocks: {', '.join(full)} full while its reader waits for another stream; "
                         "deepen it")
    return [loops[-1].ends for loops in processes]


def check_depths(kernels: Sequence[StreamKernel], room: Mapping[str, int]) -> None:
    """Simulate a design with streams of these depths.

    Raises InputError where all kernels wait before the images are done, where pixels of an image are left, and where an
    image is later than the timetable says.
    """
    wanted = timetable(kernels)
    for image, end in enumerate(map(max, zip(*ends(kernels, room)))):
        late = end - (wanted.latency - 1 + image * wanted.interval)
        if late > 0:
            short = [f"{name} ({room.get(name)})" for name, held in wanted.depths.items() if room.get(name, 0) < held]
            raise InputError(f"image {image + 1} ends {late} cycles later than at an interval of {wanted.interval}: "
                             f"kernels wait for room; deepen {', '.join(short)}")
