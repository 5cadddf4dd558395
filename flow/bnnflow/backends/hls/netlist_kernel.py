"""A netlist as C++: functions of at most six signals, short additions, straight lines, for one position of a tensor.

The vendor's compiler schedules and registers them. Signals are `bool`, sums of carry chains `int`: g++ is fast with
them, and for the vendor's tools a bit in an int is as wide as it is used. A long netlist is divided into parts, a C++
function each (`PART`), which are scheduled alone; what a part reads of those before it is handed over in words of 64
bits. Only numbers reach the text, and the node's clean name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from bnnflow.backends.hls.kernel_call import WORD, FusedKernel, KernelCall
from bnnflow.backends.hls.one_position import at_one_position, has_borders
from bnnflow.backends.hls.sums import ARRAYS, WINDOWS, border_classes, image
from bnnflow.backends.hls.types import AP_TYPES, Dialect, Native, code_type
from bnnflow.backends.netlist.bdd import decision_diagram, function_name
from bnnflow.backends.netlist.gates import Bit, Chain, Given, Lut, sources
from bnnflow.backends.netlist.goals import Goal
from bnnflow.backends.netlist.lower import Logic, to_logic
from bnnflow.errors import InputError, as_given
from bnnflow.ir import Node, Op, Window
from bnnflow.ir.nodes import Int

__all__ = ["netlist_kernel", "to_cpp"]

PART = 1000  # functions and carry chains of one C++ function
POSITIONS = 30  # of a carry chain in one `int`
MOST = 40_000  # functions and carry chains of a kernel, at all positions that exist at once: ten instructions each
WORD_TYPE = Native.WORD.value
CODES, BORDER = 0, 1  # the inputs of a position's graph


def netlist_kernel(group: Sequence[Node], read: Node, own: Callable[[Node], Int], goal: Goal, copies: int = 1
                   ) -> KernelCall:
    """The call that computes a fusion group at every position, `copies` of them at once.

    `read` is what the group's first node reads, `own` gives the channels that a GATHER takes, `goal` is what
    the netlist is to be best at. Raises InputError where
    the netlist is too large.
    """
    head, last = group[0], group[-1]
    if not head.traits.taps:  # it reads a WINDOW's tensor, not the image below
        read = replace(read, params=None)
    logic = to_logic(at_one_position(group, [read], own), goals=goal)
    size = sum(isinstance(gate, (Lut, Chain)) for gate in logic.net.gates)
    if size * copies > MOST:
        raise InputError(f"node {head.name!r} unrolls to {size:,} functions and additions at {copies:,} positions; a "
                         f"vendor's compiler takes some {MOST:,}: give it another strategy, "
                         f"{as_given(layers={head.name: {'strategy': 'Resource'}})}, or use "
                         f"{as_given(io_type='io_stream')}, one position at a time")
    members = image(last, read, 1) | {"packed": 1}
    if head.op is Op.MAX:
        members["fill"] = read.domain.lo
    core = KernelCall(f"logic_{last.name}", WINDOWS, members, logic=logic)
    window = read.params
    borders = border_classes(window) if isinstance(window, Window) and has_borders(head, read) else ()
    cell = FusedKernel(head.name, core, code_type(last.domain), last.shape[-1], True, borders)
    return KernelCall("flow_positions", ARRAYS, fused=(cell,))


def to_cpp(logic: Logic, name: str, dialect: Dialect = AP_TYPES) -> str:
    """Namespace `name` with the kernel `position`, which makes the codes of one position of its words.

    The netlist's first input is in `word`, fields as wide as its codes, none across a word's end; a second one is the
    class of borders. It has one output.
    """
    return _Text(logic, name, dialect).text()


class _Text:
    """A netlist in parts, and where each finds its signals."""

    def __init__(self, logic: Logic, name: str, dialect: Dialect):
        self.net, self.name, self.dialect = logic.net, name, dialect
        self.width = [node.domain.bits for node in logic.graph.inputs]
        self.words = -(-logic.graph.inputs[CODES].size // (WORD // self.width[CODES]))
        (self.outputs,) = logic.outputs
        used = [gate for gate, reached in enumerate(self.net.reached(logic.wanted)) if reached]
        made = [gate for gate in used if isinstance(self.net.gates[gate], (Lut, Chain))]
        self.parts = [made[k : k + PART] for k in range(0, len(made), PART)] or [[]]
        self.last = len(self.parts) - 1
        self.part_of = {gate: part for part, gates in enumerate(self.parts) for gate in gates}
        self.bits = self._bits(used)
        self.handed = self._handed(logic.wanted)

    def _bits(self, used: Sequence[int]) -> dict[tuple[int, int], int]:
        """{(carry chain, position): the gate of its bit}, where something reads it. Bits are in their chain's part."""
        bits = {}
        for gate in used:
            if isinstance(kind := self.net.gates[gate], Bit):
                self.part_of[gate] = self.part_of[kind.chain]
                bits[kind.chain, kind.position] = gate
        return bits

    def _handed(self, wanted: Sequence[int]) -> list[dict[int, int]]:
        """Of every part the signals that later parts read: {signal: its bit among the words that the part hands on}."""
        handed: list[dict[int, int]] = [{} for _ in self.parts]
        reads = [(source, part) for gate, part in self.part_of.items() for source in sources(self.net.gates[gate])]
        for source, reader in [*reads, *((literal >> 1, self.last) for literal in wanted)]:
            owner = self.part_of.get(source, reader)
            if owner != reader:
                handed[owner].setdefault(source, len(handed[owner]))
        return handed

    def size(self, part: int) -> int:
        """Words that a part hands on; the last one's are the codes."""
        if part == self.last:
            return -(-len(self.outputs) // (WORD // len(self.outputs[0])))
        return -(-len(self.handed[part]) // WORD)

    def text(self) -> str:
        """The whole namespace."""
        functions: dict[str, str] = {}
        parts = [self.part(k, functions) for k in range(len(self.parts))]
        return "\n".join(["namespace nnet {", f"namespace {self.name} {{", "", *functions.values(),
                          *parts, *self.kernel(), f"}} // namespace {self.name}", "} // namespace nnet"])

    def kernel(self) -> list[str]:
        """The function that calls all parts and sets the codes."""
        width = len(self.outputs[0])
        lines = ["template <class res_T, typename CONFIG_T>",
                 f"void position(const {WORD_TYPE} word[], const flow_at &at, typename CONFIG_T::acc_t acc[], "
                 "res_T res[]) {",
                 f"    {self.dialect.inline}"]
        for k in range(len(self.parts)):
            if self.size(k):
                lines += [f"    {WORD_TYPE} from{k}[{self.size(k)}];",
                          f"    {self.dialect.registers.format(variable=f'from{k}')}"]
                names = ", ".join("at.border" if name == "border" else name for name, _ in self.parameters(k))
                lines.append(f"    part{k}({names});")
        return [*lines, "Code:", f"    for (int j = 0; j < {len(self.outputs)}; j++) {{",
                f"        {self.dialect.unroll}",
                f"        flow_set(res[j], flow_field(from{self.last}, 0, j, {width}));", "    }", "}", ""]

    def read(self, part: int) -> list[int]:
        """The signals from outside that a part reads: given bits and those of other parts."""
        names = {source for gate in self.parts[part] for source in sources(self.net.gates[gate])}
        if part == self.last:
            names |= {literal >> 1 for word in self.outputs for literal in word}
        return sorted(name for name in names - {0} if self.part_of.get(name, -1) != part)

    def parameters(self, part: int) -> list[tuple[str, str]]:
        """(name, C++ declaration) of what a part reads and what it writes."""
        found = []
        kinds = [self.net.gates[name] for name in self.read(part)]
        given = {kind.source for kind in kinds if isinstance(kind, Given)}
        if CODES in given:
            found.append(("word", f"const {WORD_TYPE} word[{self.words}]"))
        if BORDER in given:
            found.append(("border", "int border"))
        for k in sorted({self.part_of[name] for name in self.read(part) if name in self.part_of}):
            found.append((f"from{k}", f"const {WORD_TYPE} from{k}[{self.size(k)}]"))
        return [*found, (f"from{part}", f"{WORD_TYPE} from{part}[{self.size(part)}]")]

    def part(self, part: int, functions: dict[str, str]) -> str:
        """One part as a function; `functions` collects those that it calls."""
        lines = [f"    const bool n{name} = {self.outside(name)};" for name in self.read(part)]
        for gate in self.parts[part]:
            lines += self.gate(gate, functions)
        fields = self.fields(part)
        for word in range(self.size(part)):
            bits = [(shift, literal) for at, shift, literal in fields if at == word]
            lines.append(f"    from{part}[{word}] = {_packed(bits, WORD_TYPE)};")
        declared = ", ".join(text for _, text in self.parameters(part))
        return "\n".join([f"inline void part{part}({declared}) {{", f"    {self.dialect.apart}",
                          f"    {self.dialect.every_cycle}", *lines, "}", ""])

    def fields(self, part: int) -> list[tuple[int, int, int]]:
        """(word, place in it, literal) of every bit that a part hands on: the codes, or what later parts read."""
        if part != self.last:
            return [(slot // WORD, slot % WORD, 2 * gate) for gate, slot in self.handed[part].items()]
        per_word = WORD // len(self.outputs[0])
        return [(j // per_word, j % per_word * len(word) + k, literal)
                for j, word in enumerate(self.outputs) for k, literal in enumerate(word)]

    def outside(self, name: int) -> str:
        """A signal that a part finds in its parameters."""
        gate = self.net.gates[name]
        if name in self.part_of:
            part = self.part_of[name]
            slot = self.handed[part][name]
            return f"from{part}[{slot // WORD}] >> {slot % WORD} & 1"
        assert isinstance(gate, Given)
        if gate.source == BORDER:
            return f"border >> {gate.position} & 1"
        field, bit = divmod(gate.position, self.width[CODES])
        per_word = WORD // self.width[CODES]
        return f"word[{field // per_word}] >> {field % per_word * self.width[CODES] + bit} & 1"

    def gate(self, name: int, functions: dict[str, str]) -> list[str]:
        """The lines that make a signal, or all bits of a carry chain."""
        gate = self.net.gates[name]
        if isinstance(gate, Lut):
            called, text = _function(gate.table, len(gate.inputs), self.dialect)
            functions[called] = text
            return [f"    const bool n{name} = {called}({', '.join(f'n{source}' for source in gate.inputs)});"]
        assert isinstance(gate, Chain)
        lines, carry = [], _literal(gate.carry)
        for first in range(0, len(gate.a), POSITIONS):
            sums = f"n{name}_{first}"
            a, b = (_packed(list(enumerate(row[first : first + POSITIONS])), "int") for row in (gate.a, gate.b))
            lines.append(f"    const int {sums} = ({a}) + ({b}) + {carry};")
            end = min(POSITIONS, len(gate.a) - first)
            places = range(end + (first + end == len(gate.a)))
            lines += [f"    const bool n{bit} = {sums} >> {k} & 1;"
                      for k in places if (bit := self.bits.get((name, first + k))) is not None]
            carry = f"({sums} >> {end} & 1)"
        return lines


def _literal(literal: int) -> str:
    if literal <= 1:
        return ("false", "true")[literal]
    return f"{'!' * (literal & 1)}n{literal >> 1}"


def _packed(bits: Sequence[tuple[int, int]], kind: str) -> str:
    """Literals at their places in a word, (place, literal) of each."""
    parts = [f"({kind}){_literal(literal)} << {place}" if place else f"({kind}){_literal(literal)}"
             for place, literal in bits if literal]
    return " | ".join(parts) or "0"


@lru_cache(maxsize=2**14)
def _function(table: int, inputs: int, dialect: Dialect) -> tuple[str, str]:
    """(name, C++ function) of a table."""
    name = function_name(table, inputs)
    signals = [f"a{k}" for k in range(inputs)]
    parts, result = decision_diagram(table, signals, "!", ("false", "true"))
    lines = [f"    const bool t{k} = {part};" for k, part in enumerate(parts)]
    return name, "\n".join([f"FLOW_GATE bool {name}({', '.join(f'bool {a}' for a in signals)}) {{",
                            f"    {dialect.inline}", *lines, f"    return {result};", "}", ""])
