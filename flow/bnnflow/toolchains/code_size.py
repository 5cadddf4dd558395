"""What optimised code leaves for an HLS compiler to schedule, counted function by function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bnnflow.toolchains.llvm import (
    ADDRESS,
    GLOBAL,
    Array,
    Function,
    called,
    functions,
    given_arrays,
    operation,
    owned,
    source_name,
)
from bnnflow.toolchains.unroll import REGISTERS

__all__ = ["CodeSize", "code_sizes"]

# Calls that tell the compiler something and are no operations.
HINTS = ("@llvm.dbg.", "@llvm.lifetime.", "@llvm.assume", "@llvm.experimental.noalias", "@llvm.invariant.")
DIVISIONS = ("udiv", "sdiv", "urem", "srem", "fdiv", "frem")


@dataclass(frozen=True)
class CodeSize:
    """What is left of a function: `instructions` to schedule, and what is hard to make of gates.

    `loops` are not unrolled, `divisions` are of any kind, `arrays` are in memory. The others count, array by array, the
    reads at an index that only the run tells, once in a pass of the loops that are left: of `roms`, of `registers`
    (every element of the array goes into a multiplexer) and of other `memories`.
    """

    name: str
    instructions: int
    loops: int
    divisions: int
    arrays: tuple[str, ...]
    roms: Mapping[str, int]
    registers: Mapping[str, int]
    memories: Mapping[str, int]

    @property
    def variable_reads(self) -> int:
        """All reads at an index that only the run tells."""
        return sum(count for kind in (self.roms, self.registers, self.memories) for count in kind.values())


def code_sizes(text: str, top: str) -> tuple[CodeSize, ...]:
    """The size of each function that `top` (its name in the source) leads to, itself first, in optimised code."""
    lines = text.split("\n")
    found = functions(lines)
    constants = {match[1] for line in lines if (match := GLOBAL.match(line)) and match[2] == "constant"}
    order = [name for name in found if source_name(name) == top]
    for name in order:
        calls = [call[0] for line in found[name].instructions if (call := called(line))]
        order += [other for other in dict.fromkeys(calls) if other in found and other not in order]
    given = given_arrays({name: found[name] for name in order})
    known = {parameter: next(iter(arrays)) for parameter, arrays in given.items() if len(arrays) == 1}
    return tuple(_size(found[name], constants, known) for name in order)


def _size(function: Function, constants: Collection[str], given: Mapping[Array, Array]) -> CodeSize:
    operations: Counter[str] = Counter()
    reads: Counter[str] = Counter()
    arrays = []
    for line in function.instructions:
        if any(hint in line for hint in HINTS):
            continue
        what = operation(line)
        operations[what] += 1
        if what == "alloca":
            arrays.append(source_name(line.split()[0]))
        elif (what == "load" or "@llvm.memcpy" in line) and (addresses := ADDRESS.findall(line)):
            array, varies = function.array(addresses[-1])
            reads[_end(owned(function.name, array), given)] += varies
    kinds: dict[str, dict[str, int]] = {"roms": {}, "registers": {}, "memories": {}}
    for name, count in reads.items():
        if count:
            kind = "registers" if REGISTERS in name else "roms" if name in constants else "memories"
            kinds[kind][source_name(name)] = count
    return CodeSize(source_name(function.name), sum(operations.values()),
                    len({loop.header for loop in function.loops}), sum(operations[name] for name in DIVISIONS),
                    tuple(arrays), kinds["roms"], kinds["registers"], kinds["memories"])


def _end(array: Array, given: Mapping[Array, Array]) -> str:
    """The name of what an array is in the end where it is a parameter."""
    for _ in given:  # a recursive function may give a parameter to itself
        array = given.get(array, array)
    return array[1]
