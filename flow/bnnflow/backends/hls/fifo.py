"""Depths of the streams between kernels, and the proof that a design does not deadlock at them.

g++ gives every hls::stream endless room; an FPGA does not. A kernel is seen as its sequence of reads and writes of
pixels. Such networks are determinate (Kahn 1974; Parks 1995, 3: also with bounded channels): if one order of execution
finishes at some depths, every order does. So a simulation that pulls pixels from the outputs, and so keeps little in
the streams, gives sufficient depths, and another that runs ahead as far as these let it must finish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bnnflow.backends.hls.cycles import schedule_of
from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.errors import InputError

__all__ = ["StreamKernel", "check_depths", "depths"]

MARGIN = 2  # pixels more than needed, so that kernels that work at the same time wait less for each other
ENDLESS = 2**62  # pixels: the room of streams at the edge of the design

Step = tuple[bool, int]  # (True to write, which output) or (False to read, which input)


@dataclass(frozen=True)
class StreamKernel:
    """A kernel call with the names of the streams that it reads and writes."""

    call: KernelCall
    inputs: Sequence[str]
    outputs: Sequence[str]


def _steps(call: KernelCall) -> Iterator[Step]:
    """The reads and writes of a kernel, in the order of its loops."""
    schedule = schedule_of(call)
    return iter(zip(schedule.write.tolist(), schedule.stream.tolist()))


class _Process:
    """A kernel at its next step."""

    def __init__(self, kernel: StreamKernel):
        self.inputs, self.outputs = kernel.inputs, kernel.outputs
        self.steps = _steps(kernel.call)
        self.next = next(self.steps, None)

    @property
    def stream(self) -> tuple[bool, str] | None:
        """(True to write, stream) of the next step; None at the end."""
        if self.next is None:
            return None
        write, k = self.next
        return write, (self.outputs if write else self.inputs)[k]

    def go(self) -> None:
        """One step done."""
        self.next = next(self.steps, None)


class _Network:
    """Kernels while they run: how many pixels every stream inside the design holds, and the most that it ever held."""

    def __init__(self, kernels: Sequence[StreamKernel]):
        self.processes = [_Process(kernel) for kernel in kernels]
        self.writers = {name: process for process in self.processes for name in process.outputs}
        self.held = dict.fromkeys(self.writers, 0)
        self.most = dict.fromkeys(self.writers, 1)

    def empty(self, write: bool, name: str) -> bool:
        """True where a step reads a stream inside the design that holds nothing."""
        return not write and self.held.get(name) == 0

    def step(self, process: _Process) -> bool:
        """The next step of a kernel, which can take it; True where it has written."""
        assert process.stream is not None
        write, name = process.stream
        if name in self.held:
            self.held[name] += 1 if write else -1
            self.most[name] = max(self.most[name], self.held[name])
        process.go()
        return write

    def pull(self, last: _Process) -> None:
        """Run a kernel to its end, and of those before it only what it needs."""
        waiting = [last]
        while waiting:
            now = waiting[-1].stream
            if now is None:
                waiting.pop()
            elif self.empty(*now):
                waiting.append(self.writers[now[1]])
            elif self.step(waiting[-1]) and len(waiting) > 1:
                waiting.pop()  # back to who asked, who takes the pixel or asks again

    def push(self, process: _Process, room: Mapping[str, int]) -> bool:
        """Run a kernel as far as its streams let it; True where it took a step."""
        moved = False
        while (now := process.stream) is not None:
            write, name = now
            full = write and self.held[name] >= room.get(name, ENDLESS)
            if full or self.empty(write, name):
                break
            self.step(process)
            moved = True
        return moved

    @property
    def stuck(self) -> list[tuple[bool, str]]:
        """The next steps of kernels that are not at their end."""
        return [process.stream for process in self.processes if process.stream is not None]


def depths(kernels: Sequence[StreamKernel]) -> dict[str, int]:
    """Depth in pixels of every stream that is written and read inside: {stream: depth}."""
    network = _Network(kernels)
    for process in reversed(network.processes):  # those that nothing waits for first; each pulls what it needs
        network.pull(process)
    readers = {name for kernel in kernels for name in kernel.inputs}
    return {name: most + MARGIN for name, most in network.most.items() if name in readers}


def check_depths(kernels: Sequence[StreamKernel], room: Mapping[str, int]) -> None:
    """Run every kernel as far as its streams let it; raises InputError where all wait before the image is done."""
    network = _Network(kernels)
    moved = True
    while moved:
        moved = sum(network.push(process, room) for process in network.processes) > 0
    if stuck := network.stuck:
        full = [f"{name} (depth {room[name]})" for name in sorted({name for write, name in stuck if write})]
        raise InputError(f"the design deadlocks: {', '.join(full)} full while its reader waits for another stream; "
                         "deepen it")
    if left := sorted(name for name in room if network.held.get(name)):
        raise InputError(f"pixels stay in {', '.join(left)} after an image: the next one would not be alone")
