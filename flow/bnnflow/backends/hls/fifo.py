"""Depths of the streams between kernels, and the proof that a design does not deadlock at them.

g++ gives every hls::stream endless room; an FPGA does not. A kernel is seen as its sequence of reads and writes of
pixels. Such networks are determinate (Kahn 1974; Parks 1995, 3: also with bounded channels): if one order of execution
finishes at some depths, every order does. So a simulation that pulls pixels from the outputs, and so keeps little in
the streams, gives sufficient depths, and another that runs ahead as far as these let it must finish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnnflow.backends.hls.kernel_call import KernelCall
from bnnflow.errors import InputError

__all__ = ["check_depths", "depths"]

MARGIN = 2  # pixels more than needed, so that kernels that work at the same time wait less for each other

Step = tuple[bool, int]  # (True to write, which output) or (False to read, which input)


def _steps(call: KernelCall) -> Iterator[Step]:
    """The reads and writes of a kernel, in the order of its loops (nnet_flow_stream.h)."""
    m = {key: int(value) for key, value in call.members.items() if value.lstrip("-").isdigit()}
    if call.kernel in ("flow_each", "flow_pair", "flow_split"):
        reads, writes = len(call.reads), 2 if call.kernel == "flow_split" else 1
        for _ in range(m["n_pixel"]):
            yield from ((False, k) for k in range(reads))
            yield from ((True, k) for k in range(writes))
    elif call.kernel in ("flow_shuffle", "flow_shuffle_two"):
        for k, _ in enumerate(call.reads):
            yield from ((False, k) for _ in range(m[("n_first", "n_second")[k]]))
        yield from ((True, 0) for _ in range(m["n_pixel"]))
    else:
        assert call.kernel == "flow_slide", call.kernel
        yield from _slide(call.fused[0].call.members)


def _slide(members: Mapping[str, str]) -> Iterator[Step]:
    usual = {"p_rows": 0, "p_cols": 0}
    axes = []
    for axis in ("rows", "cols"):
        n, k, s, d, p, o = (int(members.get(f"{key}_{axis}", usual.get(f"{key}_{axis}", 1))) for key in "nksdpo")
        span = (k - 1) * d + 1
        last = (o - 1) * s + span
        axes.append([(p <= at < p + n, span - 1 <= at < last and (at - span + 1) % s == 0)
                     for at in range(max(last, p + n))])
    for in_rows, row_done in axes[0]:
        for in_cols, col_done in axes[1]:
            if in_rows and in_cols:
                yield False, 0
            if row_done and col_done:
                yield True, 0


class _Process:
    """A kernel at its next step."""

    def __init__(self, layer: dict[str, Any]):
        (call,) = layer["flow_calls"]
        self.inputs, self.outputs = layer["inputs"], layer.get("outputs", [layer["name"]])
        self.steps = _steps(call)
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


def depths(layers: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Depth in pixels of every stream that is written and read inside: {hls4ml tensor: depth}."""
    processes = [_Process(layer) for layer in layers if layer.get("flow_calls")]
    writers = {name: process for process in processes for name in process.outputs}
    readers = {name for process in processes for name in process.inputs}
    held = dict.fromkeys(writers, 0)
    most = dict.fromkeys(writers, 1)
    for process in reversed(processes):  # those that nothing waits for first; each pulls what it needs
        waiting = [process]
        while waiting:
            now = waiting[-1].stream
            if now is None:
                waiting.pop()
                continue
            write, name = now
            if not write and name in held:
                if not held[name]:
                    waiting.append(writers[name])
                    continue
                held[name] -= 1
            waiting[-1].go()
            if write:
                held[name] += 1
                most[name] = max(most[name], held[name])
                if len(waiting) > 1:  # back to who asked, who takes it or asks again
                    waiting.pop()
    return {name: most[name] + MARGIN for name in writers if name in readers}


def check_depths(layers: Sequence[dict[str, Any]], room: Mapping[str, int]) -> None:
    """Run every kernel as far as its streams let it; raises InputError where all wait before the image is done."""
    processes = [_Process(layer) for layer in layers if layer.get("flow_calls")]
    written = {name for process in processes for name in process.outputs}
    held = dict.fromkeys(written, 0)
    moved = True
    while moved:
        moved = False
        for process in processes:
            while (now := process.stream) is not None:
                write, name = now
                if (write and held[name] >= room.get(name, 2**62)) or (not write and name in held and not held[name]):
                    break
                if name in held:
                    held[name] += 1 if write else -1
                process.go()
                moved = True
    stuck = [process.stream for process in processes if process.stream is not None]
    full = sorted({name for write, name in stuck if write})
    if stuck:
        raise InputError(f"the design deadlocks: {', '.join(f'{name} (depth {room[name]})' for name in full)} "
                         "full while its reader waits for another stream; deepen it")
    left = sorted(name for name, count in held.items() if count and name in room)
    if left:
        raise InputError(f"pixels stay in {', '.join(left)} after an image: the next one would not be alone")
