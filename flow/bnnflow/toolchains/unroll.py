"""LLVM's code before any pass, changed so that LLVM inlines and unrolls it as an HLS compiler does."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from bnnflow.errors import ToolError
from bnnflow.toolchains.llvm import (
    GLOBAL,
    NAME,
    VALUE,
    Array,
    Function,
    Loop,
    called,
    functions,
    given_arrays,
    last_value,
    owned,
    source_name,
)

__all__ = ["REGISTERS", "as_asked"]

BELOW = ".below"  # ends the name of a function's copy that is called below a PIPELINE
REGISTERS = ".registers"  # in the name of an array whose every element is a register of its own
MARKS = {f"@flow_{kind}": kind for kind in ("pipeline", "dataflow", "apart", "unroll", "registers")}
FULL, LEFT, PARTLY = '!"llvm.loop.unroll.full"', '!"llvm.loop.unroll.disable"', '!"llvm.loop.unroll.count", i32 {}'
LOOP_MARK = re.compile(r", !llvm\.loop !\d+")
METADATA = re.compile(r"!(\d+) = ")
ATTRIBUTES = re.compile(r"attributes (#\d+) = \{ (.*) \}")
TYPE = re.compile(rf"(%{NAME}) = type \{{ (.*) \}}$")
VARIABLE = re.compile(rf"^(@(?!llvm\.){NAME} = )(?:dso_local )?(?=(?:local_unnamed_addr )?global )")
LINKAGE = re.compile(r"define (?:(?:linkonce_odr|weak_odr|internal|dso_local) )*")


def as_asked(text: str, top: str, apart: bool = True) -> str:
    """Code that LLVM inlines and unrolls as the marks in it ask (native/flow_marks.h), without the marks.

    `text` is what clang makes of a source of `hls_pragmas.marked`, no pass having run; `top` is the name of the top
    function in the source. As an HLS compiler does: every function is inlined but those of INLINE off, and those that a
    DATAFLOW calls, its processes; a loop is unrolled where UNROLL asks for it, and everywhere below a PIPELINE, in the
    functions that are called there, too. What nothing writes to is a constant. Arrays that are divided into their
    elements get REGISTERS into their names. Unless `apart`, every function is inlined.

    Raises ToolError where there is no top function.
    """
    module = _Module(_plain_integers(text.split("\n")), apart)
    found = [name for name in module.functions if source_name(name) == top]
    if len(found) != 1:
        raise ToolError(f"the design has {len(found)} functions {top!r}; build the project again")
    return "\n".join(module.asked(found[0]))


def _plain_integers(lines: Sequence[str]) -> list[str]:
    """The lines with arrays of integers for arrays of structures of a single integer, which LLVM would not take apart
    where their width is not that of bytes.
    """
    types = {found[1]: found[2] for line in lines if (found := TYPE.match(line))}
    integers: dict[str, str] = {}
    while more := {name: integer for name, inside in types.items() if name not in integers
                   and re.fullmatch(r"i\d+", integer := integers.get(inside, inside))}:
        integers |= more

    def plain(line: str) -> str:
        declared = TYPE.match(line)
        declares = " = alloca " in line or (declared is not None and declared[1] not in integers)
        return VALUE.sub(lambda found: integers.get(found[0], found[0]), line) if declares else line

    return [plain(line) for line in lines]


@dataclass(frozen=True)
class _Mark:
    """A mark: its kind, its last argument as a number, the array that it names, and the loop around it."""

    kind: str
    number: int
    array: str
    loop: Loop | None


def _marks(function: Function) -> Iterator[_Mark]:
    for block in function.blocks.values():
        for _, line in block.instructions:
            if "@flow_" in line and (call := called(line)) and call[0] in MARKS:
                number = int(call[1][-1].split()[-1]) if call[1] else 0
                array = function.array(last_value(call[1][0]))[0] if len(call[1]) > 1 else ""
                yield _Mark(MARKS[call[0]], number, array, function.innermost(block.name))


class _Module:
    """A module in which no pass has run."""

    def __init__(self, lines: Sequence[str], apart: bool):
        self.lines, self.functions, self.apart = lines, functions(lines), apart
        inside = {place for function in self.functions.values() for place in range(function.start, function.end + 1)}
        self.outside = [line for place, line in enumerate(lines) if place not in inside]
        self.marks = {name: list(_marks(function)) for name, function in self.functions.items()}
        self.registers = self._registers()
        self.attributes = {found[1]: found[2].split() for line in self.outside if (found := ATTRIBUTES.match(line))}
        self.asked_of_loops: dict[str, int] = {}
        self.new = 1 + max((int(found[1]) for line in self.outside if (found := METADATA.match(line))), default=0)

    def asked(self, top: str) -> Iterator[str]:
        """All lines as they are asked for; of functions those that the top or the start of the program reach."""
        divided = {array for owner, array in self.registers if not owner}
        copies = {(top, False): None}
        for line in self.outside:
            if not line.startswith("$"):
                copies |= {(name, False): None for name in VALUE.findall(line) if name in self.functions}
            yield _renamed(VARIABLE.sub(r"\1internal ", line), divided)
        todo = list(copies)
        for name, below in todo:
            copy = _Copy(self, self.functions[name], below)
            yield from (_renamed(line, divided) for line in copy.lines(name == top))
            todo += [other for other in copy.reached if other not in copies]
            copies |= copy.reached
        for asked, mark in self.asked_of_loops.items():
            yield from (f"!{mark} = distinct !{{!{mark}, !{mark + 1}}}", f"!{mark + 1} = !{{{asked}}}")
        yield ""

    def loop_mark(self, asked: str) -> int:
        """The number of the metadata that asks this of a loop."""
        return self.asked_of_loops.setdefault(asked, self.new + 2 * len(self.asked_of_loops))

    def said(self, function: str) -> set[str]:
        """What the source itself says of inlining a function."""
        groups = re.findall(r" (#\d+)", self.lines[self.functions[function].start])
        return {"alwaysinline", "noinline"} & {word for group in groups for word in self.attributes.get(group, ())}

    def _registers(self) -> set[Array]:
        """The arrays, parameters and globals that are divided into elements; of a parameter also what it is given."""
        divided: dict[Array, set[int]] = defaultdict(set)
        for name, marks in self.marks.items():
            for mark in marks:
                if mark.kind == "registers":
                    divided[owned(name, mark.array)].add(mark.number)
        todo, given = list(divided), given_arrays(self.functions)
        for parameter in todo:
            for array in given.get(parameter, ()):
                if not divided[parameter] <= divided[array]:
                    divided[array] |= divided[parameter]
                    todo.append(array)
        return {array for array, along in divided.items() if 0 in along or len(along) >= self._dimensions(array)}

    def _dimensions(self, array: Array) -> int:
        """How many dimensions an array has; 0 for a parameter."""
        owner, name = array
        if owner:
            return self.functions[owner].dimensions(name)
        types = (found[3] or "" for line in self.outside if (found := GLOBAL.match(line)) and found[1] == name)
        return next(types, "").count(" x ")


class _Copy:
    """A function as it is asked for where it is called, below a PIPELINE or not. `reached` are the copies it calls."""

    def __init__(self, module: _Module, function: Function, below: bool):
        self.module, self.function, self.below = module, function, below
        self.reached: dict[tuple[str, bool], None] = {}
        self.marks = module.marks[function.name]

    def lines(self, top: bool) -> Iterator[str]:
        """Its lines; the top function is inlined nowhere."""
        divided = {array for owner, array in self.module.registers if owner == self.function.name}
        latches = {loop.latch: self._asked_of(loop) for loop in self.function.loops}
        yield _renamed(self._head(top), divided)
        for block in self.function.blocks.values():
            yield self.module.lines[block.start - 1] if block.name else ""
            for line in block.lines[:-1]:
                yield _renamed(self._calling(line, block.name) if "@" in line else line, divided)
            mark = latches.get(block.name)
            yield block.lines[-1] if mark is None else f"{LOOP_MARK.sub('', block.lines[-1])}, !llvm.loop !{mark}"
        yield "}"

    def _head(self, top: bool) -> str:
        name, line = self.function.name, self.module.lines[self.function.start]
        if self.below:
            line = LINKAGE.sub("define internal ", line).replace(f"{name}(", f"{name}{BELOW}(")
            line = re.sub(r" comdat(\(.*?\))?", "", line)
        apart = self.module.apart and any(mark.kind == "apart" for mark in self.marks)
        inline = "noinline" if apart else "alwaysinline"
        return line if top or self.module.said(name) else re.sub(r"( #\d+)(?=[^#]*$)", rf" {inline}\1", line)

    def _asked_of(self, loop: Loop) -> int:
        """The metadata of a loop."""
        factors = [mark.number for mark in self.marks if mark.kind == "unroll" and mark.loop == loop]
        if 0 in factors or self._is_below(loop.header, loop):
            return self.module.loop_mark(FULL)
        return self.module.loop_mark(PARTLY.format(factors[0]) if factors else LEFT)

    def _is_below(self, block: str, itself: Loop | None = None) -> bool:
        """True where a block, or a loop itself, is inside a pipeline."""
        return self.below or any(mark.kind == "pipeline" and (mark.loop is None or (
            mark.loop != itself and block in mark.loop.blocks)) for mark in self.marks)

    def _calling(self, line: str, block: str) -> str:
        """A line that names functions, with those that are asked for; "" for a mark."""
        call = called(line)
        if call and call[0] in MARKS:
            return ""
        for name in VALUE.findall(line):
            if name in self.module.functions:
                below = bool(call and call[0] == name) and self._is_below(block)
                self.reached[name, below] = None
                line = line.replace(f"{name}(", f"{name}{BELOW}(") if below else line
        is_process = (self.module.apart and call and call[0] in self.module.functions
                      and self._is_process(call[0], block))
        return re.sub(r"^(.*\))", r"\1 noinline", line) if is_process else line

    def _is_process(self, name: str, block: str) -> bool:
        """True where a DATAFLOW calls a function itself. What our headers inline is no process."""
        loop = self.function.innermost(block)
        return any(mark.kind == "dataflow" and mark.loop == loop for mark in self.marks) and not self.module.said(name)


def _renamed(line: str, arrays: Collection[str]) -> str:
    """A line with REGISTERS behind the names of these arrays."""
    if not any(array in line for array in arrays):
        return line
    return VALUE.sub(lambda found: found[0] + REGISTERS if found[0] in arrays else found[0], line)
