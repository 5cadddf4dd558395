"""LLVM's code as text: functions and blocks, loops, what pointers point into."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

__all__ = ["ADDRESS", "GLOBAL", "NAME", "VALUE", "Array", "Block", "Function", "Loop", "called", "functions",
           "given_arrays", "last_value", "operation", "owned", "source_name"]

NAME = r'(?:[\w.$-]+|"[^"]*")'
DEFINITION = re.compile(rf"define .*?(@{NAME})\((.*)\)[^)]*\{{$")
LABEL = re.compile(rf"({NAME}):")
OPERATION = re.compile(rf"  (?:(%{NAME}) = )?(?:(?:tail|musttail|notail) )?(\w+)")
SUCCESSOR = re.compile(rf"label %({NAME})")
CALL = re.compile(rf" call .*?(@{NAME})\((.*)\)")
VALUE = re.compile(rf"[%@]{NAME}")
GLOBAL = re.compile(rf"(@{NAME}) = .*?\b(constant|global) (\[[\d x\[]*)?")
ADDRESS = re.compile(rf"\bptr (?:\w+ )*?([%@]{NAME}|getelementptr.*?(?=@)@{NAME})")

Array = tuple[str, str]  # a function and its array or parameter, as the code calls them; "" and a global


@dataclass(frozen=True)
class Block:
    """Lines without a branch among them, which begin at line `start` of the text. A switch has several lines."""

    name: str
    start: int
    lines: tuple[str, ...]

    @property
    def instructions(self) -> Iterator[tuple[int, str]]:
        """(Number of the line, the line) of each instruction."""
        return ((self.start + k, line) for k, line in enumerate(self.lines)
                if not line.startswith("   ") and line != "  ]")

    @cached_property
    def next(self) -> tuple[str, ...]:
        """The blocks that may follow."""
        last = max((k for k, line in enumerate(self.lines) if OPERATION.match(line)), default=0)
        return tuple(SUCCESSOR.findall(" ".join(self.lines[last:])))

    @property
    def end(self) -> int:
        """The number of its last line."""
        return self.start + len(self.lines) - 1


@dataclass(frozen=True)
class Loop:
    """A loop: the block that it enters by, the one that it goes back from, and all its blocks."""

    header: str
    latch: str
    blocks: frozenset[str]


@dataclass(frozen=True)
class Function:
    """A function: its parameters' names, its blocks with the entry first, the numbers of its first and last line."""

    name: str
    parameters: tuple[str, ...]
    blocks: Mapping[str, Block]
    start: int
    end: int

    @property
    def instructions(self) -> Iterator[str]:
        """Its instructions, a line each."""
        return (line for block in self.blocks.values() for _, line in block.instructions)

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Its loops; each edge back to a block on the way from the entry makes one."""
        before = defaultdict(list)
        for block in self.blocks.values():
            for name in block.next:
                before[name].append(block.name)
        return tuple(Loop(header, latch, _between(header, latch, before)) for latch, header in self._edges_back())

    def _edges_back(self) -> Iterator[tuple[str, str]]:
        """Edges to a block that a search in depth is still in."""
        entry = next(iter(self.blocks))
        seen, path, stack = {entry}, {entry}, [(entry, iter(self.blocks[entry].next))]
        while stack:
            name, following = stack[-1]
            after = next(following, None)
            if after is None:
                path.discard(name)
                stack.pop()
            elif after in path:
                yield name, after
            elif after not in seen:
                seen.add(after)
                path.add(after)
                stack.append((after, iter(self.blocks[after].next)))

    def innermost(self, block: str) -> Loop | None:
        """The smallest loop around a block."""
        around = (loop for loop in self.loops if block in loop.blocks)
        return min(around, key=lambda loop: len(loop.blocks), default=None)

    def array(self, address: str) -> tuple[str, bool]:
        """(The array, parameter or global that an address lies in, True where only the run tells which place)."""
        line = self._made.get(address, "")
        what = operation(line)
        if what == "alloca" and address in self._kept:  # where a parameter's value is kept
            return self.array(self._kept[address])
        base = ADDRESS.search(line) if what in ("getelementptr", "load") else None
        if base is None:
            return last_value(address), False
        name, varies = self.array(base[1])
        return name, varies or (what == "getelementptr" and "%" in line[base.end():])

    def dimensions(self, array: str) -> int:
        """How many dimensions an array of this function has; 0 for what is none, or not of this function."""
        return self._made.get(array, "").count(" x ")

    @cached_property
    def _made(self) -> dict[str, str]:
        """The instruction that makes each address."""
        return {found[1]: line for line in self.instructions if (found := OPERATION.match(line)) and found[1]
                and found[2] in ("alloca", "getelementptr", "load")}

    @cached_property
    def _kept(self) -> dict[str, str]:
        """The parameter that is stored at each address."""
        return {addresses[1]: addresses[0] for line in self.instructions if line.startswith("  store ptr ")
                and len(addresses := ADDRESS.findall(line)) == 2 and addresses[0] in self.parameters}


def _between(header: str, latch: str, before: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The blocks on ways from the header to the latch."""
    found, todo = {header}, [latch]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += before[name]
    return frozenset(found)


def functions(lines: Sequence[str]) -> dict[str, Function]:
    """The functions that a module defines, by name."""
    found: dict[str, Function] = {}
    blocks: dict[str, tuple[int, list[str]]] = {}
    head, start, label = None, 0, ""
    for place, line in enumerate(lines):
        if head is None:
            head, start, label = DEFINITION.match(line), place, ""
            blocks = {"": (place + 1, [])}
        elif line == "}":
            parameters = tuple(last_value(part) for part in _arguments(head[2]) if "%" in part)
            found[head[1]] = Function(head[1], parameters, {
                name: Block(name, first, tuple(body)) for name, (first, body) in blocks.items() if body}, start, place)
            head = None
        elif line.startswith("  "):
            blocks[label][1].append(line)
        elif named := LABEL.match(line):
            label = named[1]
            blocks[label] = (place + 1, [])
    return found


def owned(function: str, array: str) -> Array:
    """An array, parameter or global by the name that it has in a function."""
    return ("" if array.startswith("@") else function, array)


def given_arrays(found: Mapping[str, Function]) -> dict[Array, set[Array]]:
    """What each parameter is given in the calls among these functions: arrays, globals, parameters of the callers."""
    given: dict[Array, set[Array]] = defaultdict(set)
    for caller in found.values():
        for line in caller.instructions:
            if (call := called(line)) and call[0] in found:
                for parameter, argument in zip(found[call[0]].parameters, call[1]):
                    if argument.startswith("ptr ") and (value := last_value(argument)):
                        given[call[0], parameter].add(owned(caller.name, caller.array(value)[0]))
    return given


def operation(line: str) -> str:
    """What an instruction does, as LLVM calls it."""
    found = OPERATION.match(line)
    return found[2] if found else ""


def called(line: str) -> tuple[str, list[str]] | None:
    """(The function, the arguments) of a call; None where a line is none."""
    found = CALL.search(line) if " call " in line else None
    return (found[1], _arguments(found[2])) if found else None


def _arguments(text: str) -> list[str]:
    """The arguments of a call or a definition, one text each."""
    parts, depth = [""], 0
    for piece in re.findall(r'"[^"]*"|[^"]', text):
        depth += {"(": 1, "[": 1, "{": 1, "<": 1, ")": -1, "]": -1, "}": -1, ">": -1}.get(piece, 0)
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts if part.strip()]


def last_value(text: str) -> str:
    """The last name of a value in a text; "" where there is none."""
    values = VALUE.findall(text)
    return values[-1] if values else ""


CONSTANT = re.compile(r"L(?:[a-z]|S[0-9A-Z]*_)n?\d+E|L(\d+)")  # as a template argument
PIECE = re.compile(r"[ST][0-9A-Z]*_|(?P<length>\d+)|(?P<mark>.)", re.DOTALL)


def source_name(name: str) -> str:
    """The name that a value or function has in the C++; of template arguments the last class only."""
    name = name[1:].strip('"')
    if not name.startswith("_Z"):
        return name.split(".")[0]
    if name.startswith("_ZZ"):  # inside a function
        return next(name[n.end():] for n in re.finditer(r"\d+", name) if int(n[0]) == len(name) - n.end())
    words: dict[int, list[str]] = defaultdict(list)  # by how deep they stand
    first = depth = int(name[2] == "N")
    place = 2 + first
    while place < len(name):
        if depth > first and (constant := CONSTANT.match(name, place)):
            place = name.index("E", constant.end() - 1 + int(constant[1] or 0)) + 1
        elif piece := PIECE.match(name, place):
            place = piece.end()
            if piece["length"]:
                words[depth].append(name[place : place + int(piece["length"])])
                place += int(piece["length"])
            depth += {"I": 1, "N": 1, "X": 1, "J": 1, "E": -1}.get(piece["mark"], 0)
        if depth == 0 and words[first] and not name.startswith("I", place):
            break
    return "::".join(words[first]) + (f"<{words[first + 1][-1]}>" if words[first + 1] else "")
