"""A C++ design of streams as blocks behind FIFOs, one for every kernel; what connects them, and their test bench."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from pathlib import Path

from bnnflow.backends.project import Project
from bnnflow.errors import ToolError
from bnnflow.ir import Graph
from bnnflow.ir.nodes import Int
from bnnflow.toolchains.clang import FIRMWARE
from bnnflow.toolchains.words import LIMIT, STREAM, TOP, Block, Packing, rows_of, verilog

__all__ = ["StreamPorts"]

KERNEL = re.compile(r"^\s*(nnet::\w+<.*>)\((.*?)\);", re.MULTILINE)
INNER = re.compile(r"hls::stream<(\w+)> (\w+)\(.*\n(?:.*#pragma HLS STREAM variable=\w+ depth=(\d+))?")
OUTER = re.compile(r"hls::stream<(\w+)> ?&(\w+)")
PIXEL = re.compile(r"typedef nnet::array<ap_u?fixed<(\d+),.*>, *([\d*]+)> (\w+);")
CALL = """#define FLOW_CHANNELS
#include "{design}"

extern "C" void {name}({arguments}) {{
{streams}
    {kernel}({given});
}}
"""
ENDS = {True: ("dout", "empty_n", "read"), False: ("din", "full_n", "write")}  # of a FIFO, as who reads it names them


@dataclass(frozen=True)
class _Stream:
    """A stream of pixels of a C++ type, with room for so many; each word of a pixel has a FIFO of its own."""

    name: str
    kind: str
    packing: Packing
    depth: int

    def fifo(self, word: int) -> str:
        return f"{self.name}_{word}"


@dataclass(frozen=True)
class _Kernel:
    """A kernel's call, with what it is given: the streams that it `reads` and `writes`, and constants."""

    call: str
    given: tuple[str, ...]
    reads: tuple[_Stream, ...]
    writes: tuple[_Stream, ...]

    @property
    def streams(self) -> tuple[_Stream, ...]:
        return (*self.reads, *self.writes)


class StreamPorts:
    """The kernels of a project's top function, in the order of their calls; raises ToolError for another function."""

    def __init__(self, project: Project, graph: Graph):
        self.project, self.outputs = project, [graph[name] for name in graph.outputs]
        text = (project.path / FIRMWARE / f"{project.top}.cpp").read_text(errors="replace")
        defines = (project.path / FIRMWARE / "defines.h").read_text(errors="replace")
        sizes = {name: Packing(int(bits), _product(size)) for bits, size, name in PIXEL.findall(defines)}
        found = [*((*outer, "2") for outer in OUTER.findall(text)), *INNER.findall(text)]
        try:
            self.streams = {name: _Stream(name, kind, sizes[kind], int(depth or 2)) for kind, name, depth in found}
        except KeyError as error:
            raise ToolError(f"{project.path}: no pixels of type {error} in {FIRMWARE}/defines.h; build the project "
                            "again") from error
        outer = [self.streams[name] for _, name in OUTER.findall(text)]
        self.first, self.last = outer[:len(graph.inputs)], outer[len(graph.inputs):]
        self.kernels = self._kernels(text)

    def _kernels(self, text: str) -> list[_Kernel]:
        """A stream that nothing before has written is one that a kernel writes."""
        written = set(self.first)
        kernels = []
        for call, arguments in KERNEL.findall(text):
            given = tuple(argument.strip() for argument in arguments.split(","))
            streams = [self.streams[name] for name in given if name in self.streams]
            reads = tuple(stream for stream in streams if stream in written)
            writes = tuple(stream for stream in streams if stream not in written)
            written |= set(writes)
            kernels.append(_Kernel(call, given, reads, writes))
        if not set(self.last) <= written:
            raise ToolError(f"{self.project.path}: the top function does not write all outputs; build the project "
                            "again")
        return kernels

    @property
    def blocks(self) -> list[Block]:
        """A block for every kernel, whose ports are the words of its streams."""
        blocks = []
        for number, kernel in enumerate(self.kernels):
            lines, ports = [], 0
            for stream in kernel.streams:
                lines.append(f"    hls::stream<{stream.kind}> {stream.name};")
                lines += [f"    {stream.name}.channel[{k}] = P{ports + k};" for k in range(stream.packing.words)]
                ports += stream.packing.words
            source = CALL.format(
                design=f"{FIRMWARE}/{self.project.top}.cpp", name=_block(number), streams="\n".join(lines),
                kernel=kernel.call, given=", ".join(kernel.given),
                arguments=", ".join(f"flow_channel *P{k}" for k in range(ports)))
            blocks.append(Block(_block(number), source, (STREAM,) * ports))
        return blocks

    def bench(self, codes: Sequence[Int], pipelined: bool = False) -> Mapping[str, str]:
        """What connects the blocks, the test bench, and the words that it gives: texts of files, by name.

        A block that was `pipelined` would not wait for its FIFOs.
        """
        lines = [f"{k:x}" for stream, array in zip(self.first, codes)
                 for k in stream.packing.packed(array.reshape(-1, stream.packing.size)).T.ravel().tolist()]
        pixels = [array[0].size // stream.packing.size for stream, array in zip(self.first, codes)]
        made = [node.size // stream.packing.size for stream, node in zip(self.last, self.outputs)]
        ins = [(stream.fifo(k), count) for stream, count in zip(self.first, pixels)
               for k in range(stream.packing.words)]
        outs = [(stream.fifo(k), count) for stream, count in zip(self.last, made)
                for k in range(stream.packing.words)]
        samples = len(codes[0])
        begins = list(accumulate((count * samples for _, count in ins), initial=0))
        return {
            "words.txt": "\n".join(lines) + "\n",
            "flow_fifo.v": (files("bnnflow.hls_templates") / "flow_fifo.v").read_text(),
            "bench.v": verilog(
                "flow_streams_tb.v", top=TOP, samples=samples, limit=LIMIT, words=begins[-1],
                declarations=[
                    *(f"    integer at_{n} = 0;\n    wire {n}_read;\n    wire {n}_empty_n = at_{n} < {k * samples};\n"
                      f"    wire [63:0] {n}_dout = words[{first} + at_{n}];" for (n, k), first in zip(ins, begins)),
                    *(f"    integer at_{n} = 0;\n    wire {n}_write;\n    wire [63:0] {n}_din;\n"
                      f"    reg [63:0] got_{n} [0:{k * samples}];" for n, k in outs)],
                connections=self._connections(),
                gives=(f"            if ({n}_read && {n}_empty_n) begin\n                at_{n} <= at_{n} + 1;\n"
                       f"                idle = 0;\n                if (begun < 0) begun = cycle;\n            end"
                       for n, _ in ins),
                takes=(f"            if ({n}_write) begin\n                got_{n}[at_{n}] = {n}_din;\n"
                       f"                at_{n} = at_{n} + 1;\n                idle = 0;\n            end"
                       for n, _ in outs),
                whole=" && ".join(f"at_{n} >= (done + 1) * {k}" for n, k in outs),
                says=(f'            for (k = 0; k < {count}; k = k + 1) begin\n' + "".join(
                    f'                $fwrite(results, "%h ", got_{stream.fifo(w)}[sample * {count} + k]);\n'
                    for w in range(stream.packing.words)) + "            end"
                    for stream, count in zip(self.last, made)))}

    def _connections(self) -> list[str]:
        """FIFOs of all inner streams, and the blocks, each of which starts again when it is done."""
        outer = {*self.first, *self.last}
        lines = [line for stream in self.streams.values() if stream not in outer
                 for word in range(stream.packing.words) for line in _fifo(stream.fifo(word), stream.depth)]
        lines += [f"    wire {stream.fifo(word)}_full_n = 1;" for stream in self.last
                  for word in range(stream.packing.words)]
        for number, kernel in enumerate(self.kernels):
            ends = [(stream.fifo(word), stream in kernel.reads) for stream in kernel.streams
                    for word in range(stream.packing.words)]
            pins = [f".P{k}_{end}({fifo}_{end})" for k, (fifo, reads) in enumerate(ends) for end in ENDS[reads]]
            lines += [f"    reg busy_{number} = 0;", f"    wire done_{number};",
                      f"    always @(posedge clock) busy_{number} <= reset && !done_{number};",
                      f"    {_block(number)} block_{number} (.clock(clock), .reset(reset), "
                      f".start_port(reset && !busy_{number}), .done_port(done_{number}), {', '.join(pins)});"]
        return lines

    def results(self, folder: Path) -> list[Int]:
        """The codes (n, *shape) of every output, after the test bench has run."""
        rows, codes, place = rows_of(folder / "results.txt"), [], 0
        for stream, node in zip(self.last, self.outputs):
            words = node.size // stream.packing.size * stream.packing.words
            pixels = rows[:, place:place + words].reshape(-1, stream.packing.words)
            codes.append(stream.packing.codes(pixels, node.domain.signed).reshape(-1, *node.shape))
            place += words
        return codes


def _block(number: int) -> str:
    return f"flow_block_{number}"


def _product(text: str) -> int:
    """The product of numbers with stars between."""
    product = 1
    for factor in text.split("*"):
        product *= int(factor)
    return product


def _fifo(name: str, depth: int) -> list[str]:
    return [f"    wire [63:0] {name}_din, {name}_dout;",
            f"    wire {name}_write, {name}_full_n, {name}_read, {name}_empty_n;",
            f"    flow_fifo #(.DEPTH({depth})) fifo_{name} (.clock(clock), .reset(reset), .din({name}_din), "
            f".write({name}_write), .full_n({name}_full_n), .dout({name}_dout), .read({name}_read), "
            f".empty_n({name}_empty_n));"]
