"""Models of the kernels of hls_templates/nnet_utils in plain Verilog, whose size logic synthesis can say.

Nothing of it goes into a project. A model computes some lanes of a kernel: outputs of one position, or elements. It
adds, counts and compares what the C++ adds, counts and compares, with `+` in balanced trees. Words of ROMs are
constants where a kernel is unrolled. A kernel that is folded is one lane in one cycle, a processing element: its chunk
of taps, the words of ROMs and its partial sums are inputs of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bnnflow.backends.hls.cycles import Sizes
from bnnflow.backends.hls.kernel_call import WORD, KernelCall, signed_bits
from bnnflow.backends.netlist.bit_heap import signed_digits
from bnnflow.ir import Domain

__all__ = ["KERNEL_MODELS", "SHARED", "kernel_model"]


class Expression(NamedTuple):
    """A signed expression of Verilog and its bounds."""

    text: str
    lo: int
    hi: int


class Module:
    """The Verilog module of some `lanes` of a kernel, while it is made.

    The kernel has inputs of `domains`: the taps group by group, or a code a lane. A folded kernel has
    the only lane 0, and the taps of one chunk.
    """

    def __init__(self, call: KernelCall, domains: Sequence[Domain], lanes: Sequence[int]):
        self.call, self.domains, self.lanes = call, domains, lanes
        self.ports: dict[str, int] = {}
        self.lines: list[str] = []
        self.roms = {rom.name: [int(value) for value in rom.values.ravel()] for rom in call.roms}
        sizes = Sizes(call.members)
        over_taps = "pe" in call.members
        self.folded = sizes.folds > 1 if over_taps else self.number("n_row") > 1
        self.chunks = sizes.chunks if over_taps else 1
        self.groups = 1 if self.folded else self.number("n_group")
        self.taps = self.number("k_rows") * self.number("k_cols")
        self.fields = sizes.simd if self.folded else sizes.taps  # taps of an output, all channels
        self.partial: list[tuple[Expression, int]] = []  # sums for the next chunk, and their bits

    def number(self, name: str) -> int:
        """A member of the kernel's configuration."""
        return self.call.members.get(name, 1)

    def group(self, lane: int) -> int:
        """The group of channels that an output reads."""
        return lane * self.groups // self.number("n_out")

    # --- what is read -----------------------------------------------------------------------------------------------

    def given(self, name: str, width: int, index: int) -> str:
        """Field `index` of an input of the module."""
        self.ports[name] = max(self.ports.get(name, 0), (index + 1) * width)
        return f"{name}[{index * width} +: {width}]"

    def code(self, index: int, source: int = 0) -> Expression:
        """A code."""
        domain = self.domains[source]
        text = self.given(f"x{source}", domain.bits, index)
        return Expression(f"$signed({text})" if domain.signed else f"$signed({{1'b0, {text}}})", domain.lo, domain.hi)

    def field(self, name: str, row: int, index: int, width: int, count: int) -> int:
        """Field `index` of a row of `count` packed fields of a ROM."""
        per_word = WORD // width
        word = self.roms[name][row * -(-count // per_word) + index // per_word]
        return word >> index % per_word * width & ((1 << width) - 1)

    def bit(self, name: str, row: int, index: int) -> str:
        """Bit `index` of a row of `fields` bits: a constant, or an input."""
        if self.folded:
            return self.given(name, 1, row * self.fields + index)
        return f"1'b{self.field(name, row, index, 1, self.fields)}"

    def word(self, name: str, index: int) -> Expression:
        """An integer of a ROM: a constant, or an input as wide as the widest of them."""
        lo, hi = min(self.roms[name]), max(self.roms[name])
        if self.folded and lo != hi:
            return Expression(f"$signed({self.given(name, signed_bits(lo, hi), index)})", lo, hi)
        return constant(self.roms[name][index])

    # --- what is made -----------------------------------------------------------------------------------------------

    def wire(self, text: str, lo: int, hi: int) -> Expression:
        """A name for an expression."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"wire signed [{signed_bits(lo, hi) - 1}:0] {name} = {text};")
        return Expression(name, lo, hi)

    def count(self, bits: Sequence[str]) -> Expression:
        """Ones among bits, by threes and halves as flow_tree."""
        if len(bits) <= 3:
            ones = [f"$signed({{1'b0, {bit}}})" for bit in bits if bit != "1'b0"]
            if not ones:
                return constant(0)
            return Expression(ones[0], 0, 1) if len(ones) == 1 else self.wire(" + ".join(ones), 0, len(ones))
        low = (len(bits) // 2 + 2) // 3 * 3
        return self.total([(1, self.count(bits[:low])), (1, self.count(bits[low:]))])

    def total(self, terms: Sequence[tuple[int, Expression]]) -> Expression:
        """The sum of integers times values, in pairs; an integer is as many shifts as it has signed digits."""
        parts = [(sign, Expression(f"({v.text} <<< {k})" if k else v.text, v.lo << k, v.hi << k))
                 for factor, v in terms for k, sign in signed_digits(factor) if v.lo or v.hi]
        while len(parts) > 1:
            pairs = [self._pair(*pair) for pair in zip(parts[::2], parts[1::2])]
            parts = pairs + parts[2 * len(pairs):]
        if not parts:
            return constant(0)
        (sign, v), = parts
        return v if sign > 0 else self.wire(f"-{v.text}", -v.hi, -v.lo)

    def _pair(self, one: tuple[int, Expression], other: tuple[int, Expression]) -> tuple[int, Expression]:
        (s, a), (r, b) = (one, other) if one[0] > 0 else (other, one)
        if s == r:
            return s, self.wire(f"{a.text} + {b.text}", a.lo + b.lo, a.hi + b.hi)
        return s, self.wire(f"{a.text} - {b.text}", a.lo - b.hi, a.hi - b.lo)

    def gathered(self, value: Expression) -> Expression:
        """The sum of a chunk and of those before it, which is the input of the next one, too."""
        if self.chunks == 1:
            return value
        lo, hi = (self.chunks * min(0, value.lo), self.chunks * max(0, value.hi))
        width = signed_bits(lo, hi)
        before = self.given("acc", width, len(self.partial))
        made = self.wire(f"{self.given('first', 1, 0)} ? {value.text} : $signed({before}) + {value.text}", lo, hi)
        self.partial.append((made, width))
        return made

    def chosen(self, bit: str, value: Expression) -> Expression:
        """The value where the bit is set, else 0."""
        return self.wire(f"{bit} ? {value.text} : 1'sb0", min(0, value.lo), max(0, value.hi))

    def text(self, outputs: Sequence[tuple[Expression, int]]) -> str:
        """The module, its outputs (value, bits) laid end to end."""
        ends = [sum(width for _, width in outputs[:k]) for k in range(len(outputs) + 1)]
        inputs = "".join(f"input [{width - 1}:0] {name}, " for name, width in self.ports.items())
        made = [f"assign y[{start} +: {width}] = {value.text};" for (value, width), start in zip(outputs, ends)]
        return "\n".join([f"module cell({inputs}output [{ends[-1] - 1}:0] y);", *self.lines, *made, "endmodule", ""])


def constant(value: int) -> Expression:
    """An integer as a literal."""
    width = signed_bits(value, value)
    return Expression(f"{width}'sd{value & ((1 << width) - 1)}", value, value)


# --- kernels --------------------------------------------------------------------------------------------------------

# (values that all lanes share, a value a lane)
Made = tuple[list[Expression], list[Expression]]


def _count(m: Module) -> Made:
    """gain * #(taps that agree) + offset."""
    result = []
    for j in m.lanes:
        first, bits = m.group(j) * m.fields, []
        for i in range(m.fields):
            x, sign = m.given("x0", 1, first + i), m.bit("sign", j, i)
            mask = m.bit("mask", j, i) if m.number("masked") else "1'b1"
            agree = {"1'b1": x, "1'b0": f"~{x}"}.get(sign, f"~({x} ^ {sign})")
            bits.append({"1'b1": agree, "1'b0": mask}.get(mask, f"({agree}) & {mask}"))
        result.append(m.total([(m.number("gain"), m.gathered(m.count(bits))), (1, m.word("offset", j))]))
    return [], result


def _ones(m: Module) -> list[Expression]:
    """Ones among the taps of every group."""
    return [m.gathered(m.count([m.given("x0", 1, g * m.fields + i) for i in range(m.fields)])) for g in range(m.groups)]


def _values(m: Module) -> Made:
    """base * #(ones) + value * #(ones whose level is base + value), summed + offset."""
    ones, values = _ones(m), m.number("n_value")
    result = []
    for j in m.lanes:
        own, first, terms = j % len(m.roms["base"]), m.group(j) * m.fields, [(1, m.word("offset", j))]
        terms.append((m.roms["base"][own], ones[m.group(j)]))
        for v in range(values):
            bits = []
            for i in range(m.fields):
                x, mask = m.given("x0", 1, first + i), m.bit("mask", j * values + v, i)
                bits.append({"1'b1": x, "1'b0": mask}.get(mask, f"{x} & {mask}"))
            terms.append((m.roms["value"][own * values + v], m.gathered(m.count(bits))))
        result.append(m.total(terms))
    return ones, result


def _shared(m: Module) -> Made:
    """base * #(ones) + value * #(ones in the pattern of every channel) + offset; nothing is folded.

    The ones in each pattern are counted once a position, for all outputs.
    """
    ones, share, width = _ones(m), m.fields // m.taps, m.number("index_bits")
    counts = _pattern_counts(m, share)
    result = []
    for j in m.lanes:
        g, own = m.group(j), j % len(m.roms["base"])
        parts = [counts[g, c, m.field("index", j, c, width, share)] for c in range(share)]
        result.append(m.total([(m.roms["base"][own], ones[g]), (m.roms["value"][own], m.total([(1, p) for p in parts])),
                               (1, m.word("offset", j))]))
    return [*ones, *counts.values()], result


def _pattern_counts(m: Module, share: int) -> dict[tuple[int, int, int], Expression]:
    """{(group, channel, pattern): the ones among those taps of the channel that the pattern has}."""
    def taps(g: int, c: int, pattern: int) -> list[str]:
        return [m.given("x0", 1, g * m.fields + t * share + c) for t in range(m.taps) if pattern >> t & 1]

    return {(g, c, k): m.count(taps(g, c, pattern)) for g in range(m.groups) for c in range(share)
            for k, pattern in enumerate(m.roms["pattern"])}


def _mac(m: Module) -> Made:
    """gain * (level * code, summed) + offset."""
    width, result = m.number("level_bits"), []
    place = [1 << k for k in range(width - 1)] + [-(1 << (width - 1))]
    for j in m.lanes:
        terms: list[tuple[int, Expression]] = []
        for i in range(m.fields):
            code = m.code(m.group(j) * m.fields + i)
            if m.folded:
                first = (j * m.fields + i) * width
                terms += [(place[k], m.chosen(m.given("levels", 1, first + k), code)) for k in range(width)]
            else:
                level = m.field("levels", j, i, width, m.fields)
                terms.append((level - (level >> (width - 1) << width), code))
        result.append(m.total([(m.number("gain"), m.gathered(m.total(terms))), (1, m.word("offset", j))]))
    return [], result


def _max(m: Module) -> Made:
    """The largest code of a channel's taps."""
    result = []
    for j in m.lanes:
        most = m.code(j * m.fields)
        for i in range(1, m.fields):
            code = m.code(j * m.fields + i)
            most = m.wire(f"{code.text} > {most.text} ? {code.text} : {most.text}", most.lo, most.hi)
        result.append(most)
    return [], result


def _step(m: Module) -> Made:
    """start + sign * #(thresholds reached)."""
    thresholds, result = m.number("n_threshold"), []
    for k, j in enumerate(m.lanes):
        x, reached = m.code(k), []
        for threshold in (m.word("thresholds", j * thresholds + i) for i in range(thresholds)):
            sure = "1'b1" if threshold.hi <= x.lo else "1'b0" if threshold.lo > x.hi else ""
            reached.append(sure or f"({x.text} >= {threshold.text})")
        start, sign, count = m.word("start", j), m.word("sign", j), m.count(reached)
        if sign.lo == sign.hi:
            result.append(m.total([(1, start), (sign.lo, count)]))
        else:
            less = m.total([(1, start), (-1, count)])
            more = m.total([(1, start), (1, count)])
            result.append(m.wire(f"{sign.text} < 0 ? {less.text} : {more.text}", less.lo, more.hi))
    return [], result


def _add(m: Module) -> Made:
    """The sum of scale * code over the inputs + constant."""
    added = constant(m.roms["constant"][0])
    return [], [m.total([*((scale, m.code(k, s)) for s, scale in enumerate(m.roms["scale"])), (1, added)])
                for k in range(len(m.lanes))]


KERNEL_MODELS: dict[str, Callable[[Module], Made]] = {
    "flow_count": _count, "flow_values": _values, "flow_shared": _shared, "flow_mac": _mac, "flow_max": _max,
    "flow_step": _step, "flow_add": _add, "flow_scale": _add,
}
SHARED = ("flow_values", "flow_shared")  # what all lanes share is made once


def kernel_model(call: KernelCall, domains: Sequence[Domain], bits: int, lanes: Sequence[int],
                 shared: bool = False) -> str:
    """The module `cell` that makes the codes, `bits` wide, of some outputs `lanes` of a position, or of elements.

    `call` is a kernel of KERNEL_MODELS (that of a position, where it has one), `domains` are those of its inputs. Where
    it is folded, `lanes` are [0] or none. Partial sums are outputs behind the codes, and with `shared` what all lanes
    have in common is an output, too.
    """
    module = Module(call, domains, lanes)
    common, values = KERNEL_MODELS[call.kernel](module)
    kept = [(v, signed_bits(v.lo, v.hi)) for v in common] if shared else []
    return module.text([*((v, bits) for v in values), *module.partial, *kept])
