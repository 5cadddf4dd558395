"""Text of kernel calls: configuration structs, the lines of the top function, and headers with ROMs.

The one place where the data of `kernel_call` become C++; types and pragmas are a `Dialect`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bnnflow.backends.hls.kernel_call import FusedKernel, KernelCall, Rom
from bnnflow.backends.hls.netlist_kernel import to_cpp
from bnnflow.backends.hls.types import Dialect, Native, literal

__all__ = ["call_text", "config_text", "has_constants", "rom_text"]

# Members that the templates hold as `long long`: the code of an absent tap.
LONG_MEMBERS = ("fill",)


def config_text(call: KernelCall, name: str, dialect: Dialect) -> str:
    """The configuration struct `name` of a call."""
    base = f"nnet::{call.header.removeprefix('nnet_').removesuffix('.h')}_config"
    first = [config_text(kernel.call, f"{name}_{k}", dialect) for k, kernel in enumerate(call.fused)]
    if call.over_positions:
        base = f"{name}_0"
    lines = [f"    static const int {key} = {literal(value, Native.LONG if key in LONG_MEMBERS else Native.INT)};"
             for key, value in call.members.items()]
    lines += [f"    typedef {dialect.type(kind)} {key};" for key, kind in call.types.items()]
    if call.fused:
        lines += _cell_text(name, call.fused, dialect)
    return "\n".join([*first, f"struct {name} : {base} {{", *lines, "};"])


def _cell_text(name: str, cell: Sequence[FusedKernel], dialect: Dialect) -> list[str]:
    """The functions `border` and `cell` of a configuration: the class of a position, and the codes of one."""
    positions, given = cell[0].takes_words, len(cell[0].call.reads)
    kinds = [f"in{k}_T" for k in range(given)]
    data = ", ".join([*(f"const {kind} in{k}[]" for k, kind in enumerate(kinds)), "const nnet::flow_at &at",
                      *["acc_t acc[]"] * positions])
    lines = [f"    static int border(int row, int col) {{ return {_border(cell[0])}; }}"] if positions else []
    lines += [f"    template <{', '.join(f'class {kind}' for kind in [*kinds, 'res_T'])}>",
              f"    static void cell({data}, res_T res[]) {{",
              f"        {dialect.inline}"]
    lines += [f"        {dialect.copies.format(variable=f'flow_{kernel.node}_{rom.name}')}" for kernel in cell
              for rom in kernel.call.roms if rom.shared]
    values, types = [f"in{k}" for k in range(given)], kinds
    for k, kernel in enumerate(cell):
        target, kind = "res", "res_T"
        if k < len(cell) - 1:
            target, kind = f"value{k}", dialect.type(kernel.code_type)
            lines += [f"        {kind} {target}[{kernel.size}];",
                      f"        {dialect.registers.format(variable=target)}"]
        known, sums = ([], ["acc"]) if kernel.takes_words else (types, [])
        given_to = ", ".join([*values, "at", *sums, target, *_roms_of(kernel)])
        lines.append(f"        {_function(kernel.call)}<{', '.join([*known, kind, f'{name}_{k}'])}>({given_to});")
        values, types = [target], [kind]
    return [*lines, "    }"]


def _border(kernel: FusedKernel) -> str:
    """The number of a position's class of borders, in the order of `Window.borders`."""
    places = [f"flow_{kernel.node}_border_{axis.name}[0][{axis.name.removesuffix('s')}]" for axis in kernel.borders]
    return f" * {kernel.borders[-1].count} + ".join(places) if places else "0"


def _function(call: KernelCall) -> str:
    """The C++ function of a kernel; one that is made for a node has a namespace of its own."""
    return f"nnet::{call.kernel}" + ("::position" if call.logic else "")


def _roms_of(kernel: FusedKernel) -> list[str]:
    """The names of a kernel's ROMs."""
    return [f"flow_{kernel.node}_{rom.name}" for rom in kernel.call.roms]


def call_text(call: KernelCall, config: str, types: Sequence[str], arrays: Sequence[str],
              roms: Sequence[str] = ()) -> str:
    """The line of the top function that calls a kernel with the struct `config`.

    `arrays` are those that it reads, then those that it makes; `types` are the types of their elements, that of the
    result once; `roms` are what a kernel without a cell reads.
    """
    return f"{_function(call)}<{', '.join([*types, config])}>({', '.join([*arrays, *roms])});"


def rom_text(node: str, calls: Sequence[KernelCall], dialect: Dialect) -> str:
    """The header file of a node: the ROMs of its kernels, and those kernels that are made for it alone.

    Empty where there are neither.
    """
    if not has_constants(calls):
        return ""
    guard = f"FLOW_{node.upper()}_H_"
    arrays = [_array(f"flow_{owner}_{rom.name}", rom, dialect) for owner, rom in _roms(node, calls)]
    kernels = [to_cpp(inner.logic, inner.kernel, dialect) for call in calls for inner in call.calls if inner.logic]
    return "\n".join([f"#ifndef {guard}", f"#define {guard}", "", '#include "../nnet_utils/nnet_flow_common.h"', "",
                      *arrays, *kernels, "", "#endif", ""])


def has_constants(calls: Sequence[KernelCall]) -> bool:
    """True where kernels have a header of their own: for ROMs, or for what is made for them alone."""
    return any(inner.logic or inner.roms for call in calls for inner in call.calls)


def _roms(node: str, calls: Sequence[KernelCall]) -> Iterator[tuple[str, Rom]]:
    """(the node that names it, ROM) of all ROMs of a node's kernels."""
    for call in calls:
        yield from ((node, rom) for rom in call.roms)
    for kernel in (kernel for call in calls for kernel in call.fused):
        yield from ((kernel.node, rom) for rom in kernel.call.roms)
        yield from ((kernel.node, Rom(f"border_{axis.name}", Native.INT, axis.classes)) for axis in kernel.borders)


def _array(name: str, rom: Rom, dialect: Dialect) -> str:
    """A ROM: rows of words."""
    rows = [f"{{{', '.join(literal(word, rom.type) for word in row)}}}" for row in rom.rows.tolist()]
    size = "".join(f"[{n}]" for n in rom.rows.shape)
    return f"static const {dialect.type(rom.type)} {name}{size} = {{{', '.join(rows)}}};"
