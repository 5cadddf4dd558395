"""A C++ design behind ports of words: the function around it, its test bench, and codes as such words."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.project import Project
from bnnflow.errors import ToolError
from bnnflow.ir import Graph
from bnnflow.ir.nodes import Int
from bnnflow.toolchains.clang import FIRMWARE

__all__ = ["GIVEN", "LIMIT", "STREAM", "TAKEN", "TOP", "Block", "Packing", "Range", "WordPorts", "cycles_said",
           "rows_of", "verilog"]

WORD = 64
TOP = "flow_top"  # the module that a test bench drives
LIMIT = 1_000_000  # cycles in which a design must do something
# Kinds of ports, words of 64 bits: a value, a register with a bit that says when it is written, and an end of a FIFO.
GIVEN, TAKEN, STREAM = "given", "taken", "stream"
CALL = """#include "flow_words.h"
#include "{design}"

extern "C" void {name}({arguments}) {{
{before}
    {top}({tensors});
{after}
}}
"""


Range = tuple[int, int]  # (fewest, most) cycles


class _Text(string.Template):
    """A template whose fields are @{name}: in Verilog `$` begins the names of system tasks."""

    delimiter = "@"


def verilog(template: str, **values: str | int | Iterable[str]) -> str:
    """The Verilog of a template; of several texts each is a line."""
    text = (files("bnnflow.hls_templates") / template).read_text()
    return _Text(text).substitute({key: value if isinstance(value, (str, int)) else "\n".join(value)
                                   for key, value in values.items()})


@dataclass(frozen=True)
class Block:
    """A C++ function `name` that becomes a module; `ports` has the kind of each of its arguments P0, P1, ..."""

    name: str
    source: str
    ports: tuple[str, ...]


@dataclass(frozen=True)
class Packing:
    """`size` codes of `bits` in words: the first in the lowest bits of the first word, none across a word's end."""

    bits: int
    size: int

    @property
    def fields(self) -> int:
        """Codes in a word."""
        return WORD // self.bits

    @property
    def words(self) -> int:
        """Words of all codes."""
        return -(-self.size // self.fields)

    @property
    def shifts(self) -> NDArray[np.uint64]:
        """Where the fields of a word begin."""
        return np.arange(self.fields, dtype=np.uint64) * np.uint64(self.bits)

    def packed(self, codes: Int) -> NDArray[np.uint64]:
        """Codes (n, size) in words (n, words)."""
        room = np.zeros((len(codes), self.words * self.fields), np.uint64)
        room[:, :self.size] = codes.astype(np.uint64) & np.uint64((1 << self.bits) - 1)
        fields = room.reshape(-1, self.words, self.fields) << self.shifts
        words: NDArray[np.uint64] = np.bitwise_or.reduce(fields, axis=2)
        return words

    def codes(self, words: NDArray[np.uint64], signed: bool) -> Int:
        """The codes (n, size) in words (n, words)."""
        fields = (words[:, :, None] >> self.shifts) & np.uint64((1 << self.bits) - 1)
        codes = fields.reshape(len(words), -1)[:, :self.size].astype(np.int64)
        return codes - ((codes >> (self.bits - 1)) << self.bits) if signed else codes


def rows_of(file: Path) -> NDArray[np.uint64]:
    """The words in the lines of a file, in hexadecimal."""
    return np.array([[int(word, 16) for word in line.split()] for line in file.read_text().splitlines()], np.uint64)


def cycles_said(said: str) -> tuple[Range, Range]:
    """Cycles of a sample, and to the next one, as a test bench prints them; raises ToolError where it has given up."""
    found = re.search(r"^cycles (\d+) (\d+) (\d+) (\d+)$", said, re.MULTILINE)
    if not found:
        raise ToolError(f"the Verilog has not answered in {LIMIT:,} cycles:\n{said[-500:]}")
    return (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))


class WordPorts:
    """A design of arrays as one block that takes and gives all its tensors at once, in words P0, P1, ...

    Raises ToolError where the design's top function is not that of the graph.
    """

    def __init__(self, project: Project, graph: Graph):
        self.project, self.inputs = project, graph.inputs
        self.outputs = [graph[name] for name in graph.outputs]
        self.packings = [Packing(node.domain.bits, node.size) for node in (*self.inputs, *self.outputs)]
        ends = list(accumulate(packing.words for packing in self.packings))
        self.words = [range(end - packing.words, end) for packing, end in zip(self.packings, ends)]  # of every tensor
        self.given = ends[len(self.inputs) - 1]
        self.names = [f"P{k}" for k in range(ends[-1])]

    @property
    def blocks(self) -> list[Block]:
        """The one block."""
        tensors = self._tensors()
        before, after = [], []
        for place, ((kind, name), packing, words) in enumerate(zip(tensors, self.packings, self.words)):
            before.append(f"    {kind} {name}[{packing.size}];")
            if place < len(self.inputs):
                given = ", ".join(self.names[k] for k in words)
                before += [f"    const unsigned long long {name}_words[] = {{{given}}};",
                           f"    flow_from_words<{packing.bits}>({name}_words, {name});"]
            else:
                after += [f"    unsigned long long {name}_words[{packing.words}];",
                          f"    flow_to_words<{packing.bits}>({name}, {name}_words);",
                          *(f"    *{self.names[k]} = {name}_words[{i}];" for i, k in enumerate(words))]
        pointers = ["" if k < self.given else "*" for k in range(len(self.names))]
        source = CALL.format(
            design=f"{FIRMWARE}/{self.project.top}.cpp", name=TOP, top=self.project.top, before="\n".join(before),
            arguments=", ".join(f"unsigned long long {pointer}{name}" for pointer, name in zip(pointers, self.names)),
            tensors=", ".join(name for _, name in tensors), after="\n".join(after))
        return [Block(TOP, source, (GIVEN,) * self.given + (TAKEN,) * (len(self.names) - self.given))]

    def _tensors(self) -> list[tuple[str, str]]:
        """(Type of an element, name) of every array that the design's top function takes."""
        header = self.project.path / FIRMWARE / f"{self.project.top}.h"
        found = re.search(rf"void {self.project.top}\((.*?)\);", header.read_text(errors="replace"), re.DOTALL)
        tensors: list[tuple[str, str]] = re.findall(r"(\w+) (\w+)\[", found[1]) if found else []
        if len(tensors) != len(self.packings):
            raise ToolError(f"{header} declares {len(tensors)} tensors, the graph has {len(self.packings)}; build the "
                            "project again")
        return tensors

    def bench(self, codes: Sequence[Int], pipelined: bool) -> Mapping[str, str]:
        """The test bench, and the words that it gives for the codes of all inputs: texts of files, by name.

        It gives a sample in every cycle where the block is `pipelined`, else when the one before is done.
        """
        words = np.concatenate([packing.packed(array.reshape(len(array), -1))
                                for packing, array in zip(self.packings, codes)], axis=1)
        given, taken = self.names[:self.given], self.names[self.given:]
        pins = ["clock", "reset", "start_port", "done_port", *self.names]
        pins += [] if pipelined else [f"{name}_vld" for name in taken]
        return {
            "words.txt": "\n".join(" ".join(f"{word:x}" for word in row) for row in words.tolist()) + "\n",
            "bench.v": verilog(
                "flow_words_tb.v", top=TOP, samples=len(words), limit=LIMIT,
                every_cycle=int(pipelined), pins=", ".join(f".{p}({p})" for p in pins),
                declarations=[
                    *(f"    reg [63:0] {name} = 0;" for name in given),
                    *(f"    wire [63:0] {name};\n    wire {name}_vld{' = done_port' if pipelined else ''};\n"
                      f"    reg [63:0] got_{name} [0:SAMPLES-1];\n    integer count_{name} = 0;" for name in taken)],
                gives=(f'            found = $fscanf(words, "%h", {name});' for name in given),
                takes=(f"        if ({name}_vld) begin\n            got_{name}[count_{name}] = {name};\n"
                       f"            count_{name} = count_{name} + 1;\n        end" for name in taken),
                says=(f'            $fwrite(results, "%h ", got_{name}[k]);' for name in taken))}

    def results(self, folder: Path) -> list[Int]:
        """The codes (n, *shape) of every output, after the test bench has run."""
        rows = rows_of(folder / "results.txt")
        codes = []
        for node, packing, words in zip(self.outputs, self.packings[len(self.inputs):], self.words[len(self.inputs):]):
            found = packing.codes(rows[:, words.start - self.given:words.stop - self.given], node.domain.signed)
            codes.append(found.reshape(-1, *node.shape))
        return codes
