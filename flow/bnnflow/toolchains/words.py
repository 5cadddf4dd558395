"""A C++ design behind ports of words: the function that calls it, and codes as such words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.project import Project
from bnnflow.errors import ToolError
from bnnflow.ir import Graph, Node
from bnnflow.ir.nodes import Int

__all__ = ["Port", "Words"]

WORD = 64
CALL = """#include "flow_words.h"
#include "{source}"

extern "C" void {name}({arguments}) {{
{before}
    {top}({tensors});
{after}
}}
"""


@dataclass(frozen=True)
class Port:
    """A tensor at the ports: its elements of `bits`, in words of which the first is number `first` of all."""

    node: Node
    first: int

    @property
    def bits(self) -> int:
        return self.node.domain.bits

    @property
    def fields(self) -> int:
        """Elements in a word."""
        return WORD // self.bits

    @property
    def words(self) -> range:
        """The numbers of its words."""
        return range(self.first, self.first + -(-self.node.size // self.fields))

    def packed(self, codes: Int) -> NDArray[np.uint64]:
        """Codes (n, *shape) in words (n, words)."""
        flat = codes.reshape(len(codes), -1).astype(np.uint64) & np.uint64((1 << self.bits) - 1)
        room = np.zeros((len(codes), len(self.words) * self.fields), np.uint64)
        room[:, :flat.shape[1]] = flat
        shifted = room.reshape(len(codes), -1, self.fields) << (np.arange(self.fields, dtype=np.uint64)
                                                                * np.uint64(self.bits))
        packed: NDArray[np.uint64] = np.bitwise_or.reduce(shifted, axis=2)
        return packed

    def codes(self, words: NDArray[np.uint64]) -> Int:
        """The codes (n, *shape) in words (n, words)."""
        shifts = np.arange(self.fields, dtype=np.uint64) * np.uint64(self.bits)
        flat = (words[:, :, None] >> shifts) & np.uint64((1 << self.bits) - 1)
        flat = flat.reshape(len(words), -1)[:, :self.node.size].astype(np.int64)
        if self.node.domain.signed:
            flat = np.where(flat >> (self.bits - 1), flat - (1 << self.bits), flat)
        return flat.reshape(len(words), *self.node.shape)


class Words:
    """The ports of a project's design: `inputs`, `outputs`, and the names P0, P1, ... of all words, inputs first."""

    def __init__(self, project: Project, graph: Graph):
        self.project = project
        self.inputs = _ports(graph.inputs, 0)
        self.taken = self.inputs[-1].words.stop
        self.outputs = _ports([graph[name] for name in graph.outputs], self.taken)
        self.count = self.outputs[-1].words.stop

    @property
    def names(self) -> list[str]:
        return [f"P{k}" for k in range(self.count)]

    def source(self, name: str, design: str) -> str:
        """C++ of a function that is called `name`, around the design in the file `design`.

        Raises ToolError where the design's top function is not that of the graph.
        """
        tensors = _arguments(self.project)
        ports = [*self.inputs, *self.outputs]
        if len(tensors) != len(ports):
            raise ToolError(f"{self.project.path}: the top function has {len(tensors)} tensors, the graph "
                            f"{len(ports)}; build the project again")
        before, after = [], []
        for port, (kind, tensor) in zip(ports, tensors):
            given = ", ".join(f"P{k}" for k in port.words)
            before.append(f"    {kind} {tensor}[{port.node.size}];")
            if port in self.inputs:
                before += [f"    const unsigned long long words_{tensor}[] = {{{given}}};",
                           f"    flow_from_words<{port.bits}>(words_{tensor}, {tensor});"]
            else:
                after += [f"    unsigned long long words_{tensor}[{len(port.words)}];",
                          f"    flow_to_words<{port.bits}>({tensor}, words_{tensor});",
                          *(f"    *P{k} = words_{tensor}[{i}];" for i, k in enumerate(port.words))]
        arguments = [f"unsigned long long {'' if k < self.taken else '*'}{p}" for k, p in enumerate(self.names)]
        return CALL.format(source=design, name=name, arguments=", ".join(arguments), before="\n".join(before),
                           top=self.project.top, tensors=", ".join(t for _, t in tensors), after="\n".join(after))


def _ports(nodes: Sequence[Node], first: int) -> list[Port]:
    ports: list[Port] = []
    for node in nodes:
        ports.append(Port(node, ports[-1].words.stop if ports else first))
    return ports


def _arguments(project: Project) -> list[tuple[str, str]]:
    """(Type of an element, name) of every array that the design's top function takes."""
    text = (project.path / "firmware" / f"{project.top}.h").read_text(errors="replace")
    found = re.search(rf"void {project.top}\((.*?)\);", text, re.DOTALL)
    if not found:
        raise ToolError(f"{project.path}: firmware/{project.top}.h declares no {project.top}; build the project again")
    return re.findall(r"(\w+) (\w+)\[", found[1])
