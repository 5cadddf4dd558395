"""From the integer graph to a netlist of LUT-sized functions and short carry chains, exactly.

A tensor is a row of words, the literals of its codes in two's complement. Sums stay open (terms and a constant) until
something reads them: a comparison folds its cut into the counter tree and never makes the sum's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.netlist.bit_heap import Term, added_up, at_least, divided, merged, total, unsigned_terms
from bnnflow.backends.netlist.netlist import FALSE, INPUTS, TRUE, Netlist
from bnnflow.backends.netlist.subexpressions import Plan, plan
from bnnflow.errors import InputError
from bnnflow.ir import Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window
from bnnflow.ir.nodes import Int

__all__ = ["EMIT_LOGIC", "Logic", "check", "to_logic"]

LEAST_CHANNELS = 4  # that pay for the division of what their sums have in common
MAX_TAPS = 2**21  # terms of all sums of a graph that is unrolled

Word = list[int]  # literals of a code, least significant first
Form = tuple[list[Term], int]  # a sum: terms and a constant
ABSENT: Word = []  # a tap outside the image


@dataclass(frozen=True)
class Logic:
    """A graph as a netlist: `outputs` has the words of every output of the graph, in its order."""

    graph: Graph
    net: Netlist
    outputs: tuple[tuple[Word, ...], ...]

    @property
    def wanted(self) -> list[int]:
        """The literals of all outputs, laid end to end."""
        return [literal for words in self.outputs for word in words for literal in word]

    def __call__(self, codes: Sequence[Int]) -> list[Int]:
        """Evaluate the netlist: codes (n, *shape), one array an input -> codes, one array an output."""
        count = len(codes[0])
        given = [_pack(c.reshape(count, -1), node.domain) for c, node in zip(codes, self.graph.inputs)]
        values = self.net.evaluate(given, given[0].shape[1], self.wanted)
        result, start = [], 0
        for name in self.graph.outputs:
            node = self.graph[name]
            width = node.domain.bits
            part = values[start : start + node.size * width]
            result.append(_unpack(part, node.domain, count).reshape(count, *node.shape))
            start += node.size * width
        return result


def _pack(codes: Int, domain: Domain) -> NDArray[np.uint64]:
    """Codes (n, elements) -> words of 64 samples (elements * bits, words)."""
    bits = (codes[:, :, None] >> np.arange(domain.bits) & 1).astype(np.uint8).reshape(len(codes), -1)
    padded = np.zeros((-(-len(codes) // 64) * 64, bits.shape[1]), np.uint8)
    padded[: len(codes)] = bits
    return np.ascontiguousarray(np.packbits(padded.T, axis=1, bitorder="little")).view(np.uint64)


def _unpack(words: NDArray[np.uint64], domain: Domain, count: int) -> Int:
    """Words (elements * bits, words) -> codes (n, elements)."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")[:, :count]
    bits = bits.reshape(-1, domain.bits, count).astype(np.int64)
    place = np.int64(1) << np.arange(domain.bits)
    if domain.signed:
        place[-1] = -place[-1]
    codes: Int = np.einsum("ebn,b->ne", bits, place)
    return codes


class NetlistBuilder:
    """What is known of every node while the netlist is made: its words, or its open sums."""

    def __init__(self, graph: Graph, share: bool):
        self.graph, self.share, self.net = graph, share, Netlist()
        self.words: dict[str, list[Word]] = {}
        self.forms: dict[str, list[Form]] = {}
        self.plans: dict[tuple[tuple[int, ...], int, bytes], Plan] = {}
        self.reads = {node.name: len(graph.readers(node.name)) + graph.outputs.count(node.name) for node in graph}

    def word(self, name: str) -> list[Word]:
        """The words of a node; an open sum is added up now."""
        if name not in self.words:
            domain = self.graph[name].domain
            self.words[name] = [total(self.net, terms, constant, domain.bits) for terms, constant in self.forms[name]]
        return self.words[name]

    def form(self, name: str) -> list[Form]:
        """A node as sums: open ones that only one node reads, else those of its bits."""
        if name in self.forms and name not in self.words and self.reads[name] == 1:
            return self.forms[name]
        domain = self.graph[name].domain
        return [(_terms(word, domain), 0) for word in self.word(name)]


def _terms(word: Word, domain: Domain) -> list[Term]:
    weights = [1 << k for k in range(len(word))]
    if domain.signed and word:
        weights[-1] = -weights[-1]
    return list(zip(word, weights))


def _constant(code: int, width: int) -> Word:
    """The word of a known code."""
    return [code >> k & 1 for k in range(width)]


def _input(node: Node, state: NetlistBuilder) -> None:
    width, source = node.domain.bits, [n.name for n in state.graph.inputs].index(node.name)
    state.words[node.name] = [[state.net.given(source, e * width + k) for k in range(width)] for e in range(node.size)]


def _gather(node: Node, state: NetlistBuilder) -> None:
    assert isinstance(node.params, Index)
    together = [word for name in node.inputs for word in state.word(name)]
    state.words[node.name] = [together[i] for i in node.params.flat]


def _window(node: Node, state: NetlistBuilder) -> None:
    p, source = node.params, state.graph[node.inputs[0]]
    assert isinstance(p, Window)
    words, channels = state.word(source.name), source.shape[-1]
    share = channels // p.groups
    state.words[node.name] = [
        words[place * channels + group * share + c] if place >= 0 else ABSENT
        for places in p.places for group in range(p.groups) for place in places for c in range(share)]


def _dot(node: Node, state: NetlistBuilder) -> None:
    p, source = node.params, state.graph[node.inputs[0]]
    assert isinstance(p, Weights)
    a, b = source.domain.numerator
    levels, words = p.effective, state.word(source.name)
    size, whole = len(levels), source.shape[-1]
    forms: list[Form] = []
    parts = []
    for part in np.split(levels, p.groups, axis=1):
        few = np.count_nonzero(part, axis=0) * source.domain.bits <= INPUTS  # a LUT whatever their levels
        parts.append((part, few, np.where(few, 0, part)))
    for position in range(prod(source.shape[:-1])):
        for group, (part, few, many) in enumerate(parts):
            key = (many.shape, source.domain.bits, many.tobytes())
            if key not in state.plans:
                state.plans[key] = plan(many, source.domain.bits, state.share)
            start = position * whole + group * size
            taps = words[start : start + size]
            present = np.array([word is not ABSENT for word in taps], np.int64)
            constants = b * (present @ part)
            rows = _rows(state, state.plans[key], taps, source.domain)
            for column, narrow, (terms, constant), offset in zip(part.T, few, rows, constants):
                if narrow:
                    terms, constant = _scaled([((_terms(taps[i], source.domain), 0), int(column[i]))
                                               for i in np.flatnonzero(column)])
                forms.append(([(literal, a * weight) for literal, weight in terms], a * constant + int(offset)))
    state.forms[node.name] = forms


def _rows(state: NetlistBuilder, plan: Plan, taps: Sequence[Word], domain: Domain) -> list[Form]:
    """The open sums of the codes `taps` by a plan."""
    known: list[Form] = [(_terms(word, domain), 0) for word in taps]
    ends = [(domain.lo, domain.hi) if word else (0, 0) for word in taps]  # of the values that are really taken
    for entries, uses in zip(plan.rows, plan.uses):
        form = _scaled([(known[s], sign) for s, sign in entries])
        both = [ends[s] if sign > 0 else (-ends[s][1], -ends[s][0]) for s, sign in entries]
        ends.append((sum(low for low, _ in both), sum(high for _, high in both)))
        known.append(_plus(added_up(state.net, form[0], ends[-1][1] - form[1]), form[1]) if uses > 1 else form)
    return [_scaled([(known[plan.inputs + row], multiplier) for row, multiplier in output]) for output in plan.outputs]


def _scaled(parts: Sequence[tuple[Form, int]]) -> Form:
    """The sum of forms times integers."""
    terms = [(literal, factor * weight) for (form, _), factor in parts for literal, weight in form]
    return terms, sum(factor * constant for (_, constant), factor in parts)


def _add(node: Node, state: NetlistBuilder) -> None:
    p = node.params
    assert isinstance(p, Sum)
    forms = [state.form(name) for name in node.inputs]
    state.forms[node.name] = [([], p.constant) if not parts else _plus(
        _scaled([(part, int(s)) for part, s in zip(parts, p.scale)]), p.constant) for parts in zip(*forms)]


def _plus(form: Form, constant: int) -> Form:
    return form[0], form[1] + constant


def _step(node: Node, state: NetlistBuilder) -> None:
    p, source, net = node.params, state.graph[node.inputs[0]], state.net
    assert isinstance(p, Steps)
    domain, width = source.domain, node.domain.bits
    small = domain.bits <= INPUTS and source.name in state.words
    forms = [] if small else state.form(source.name)
    common: Common | None = None
    result = []
    for element in range(node.size):
        c = element % len(p.start)
        thresholds, start, sign = p.thresholds[c], int(p.start[c]), int(p.sign[c])
        if small:
            codes = [start + sign * int((thresholds <= code).sum()) for code in _patterns(domain)]
            result.append(_table(net, state.words[source.name][element], codes, width))
            continue
        form, grid = forms[element], _grid(thresholds)
        if grid is not None:
            count = _rounded(net, form, domain, grid)
            terms = [(literal, sign << k) for k, literal in enumerate(count)]
            result.append(total(net, terms, start, width))
            continue
        if len(thresholds) > 1:  # the bits of the sum once
            form = _terms(total(net, *form, domain.bits), domain), 0
        elif c == 0:
            common = _common(net, forms[element : element + len(p.start)])
        result.append(_compared(net, form, domain, thresholds, start, sign, width, common))
    state.words[node.name] = result


@dataclass(frozen=True)
class Common:
    """What the sums of all channels have in common, V = d Q + R: `terms` add up to V - low, d divides all others."""

    terms: frozenset[Term]
    low: int
    divisor: int
    quotient: list[Term]
    remainder: list[Term]

    def at_least(self, net: Netlist, terms: Sequence[Term], threshold: int) -> int:
        """[d P + V >= d C + E] = [P + Q + [R >= E] >= C + 1] where 0 <= E < d; equal E share their comparison."""
        rest = [(literal, weight) for literal, weight in merged(terms) if (literal, weight) not in self.terms]
        threshold -= self.low + sum(weight for literal, weight in rest if literal == TRUE)
        whole, part = divmod(threshold, self.divisor)
        parts = [(literal, weight // self.divisor) for literal, weight in rest if literal != TRUE]
        reached = at_least(net, self.remainder, part)
        return at_least(net, [*parts, *self.quotient, (reached, 1)], whole + 1)


def _common(net: Netlist, forms: Sequence[Form]) -> Common | None:
    """The common part of sums, divided by the weights of the rest; None where that saves nothing."""
    sums = [[term for term in merged(terms) if term[0] != TRUE] for terms, _ in forms]
    shared = frozenset.intersection(*map(frozenset, sums))
    divisor = gcd(*(weight for terms in sums for literal, weight in terms if (literal, weight) not in shared))
    if len(forms) < LEAST_CHANNELS or not shared or divisor & (divisor - 1) == 0:
        return None
    bits, low = added_up(net, sorted(shared))
    word = [literal for literal, _ in bits]
    return Common(shared, low, divisor, *map(unsigned_terms, divided(net, word, divisor)))


def _compared(net: Netlist, form: Form, domain: Domain, thresholds: Int, start: int, sign: int, width: int,
              common: Common | None) -> Word:
    """The word of start + sign * (number of thresholds reached): every bit changes at some of the thresholds."""
    terms, constant = form
    reach = at_least if common is None else common.at_least
    now = start + sign * int((thresholds <= domain.lo).sum())
    base = _constant(now, width)
    flips: list[list[int]] = [[] for _ in range(width)]
    for threshold in np.unique(thresholds[(thresholds > domain.lo) & (thresholds <= domain.hi)]):
        reached = reach(net, terms, int(threshold) - constant)
        after = start + sign * int((thresholds <= threshold).sum())
        for k in range(width):
            if (now ^ after) >> k & 1:
                flips[k].append(reached)
        now = after
    return [net.parity(flips[k]) ^ base[k] for k in range(width)]


@dataclass(frozen=True)
class Grid:
    """Cuts that are a shift: with u = x - origin, #{thresholds <= x} = clip(u / 2^shift - skipped, 0, count), rounded down
    or, if `even`, to the nearest whole number, ties to even.
    """

    origin: int
    shift: int
    even: bool
    skipped: int
    count: int


def _grid(thresholds: Int) -> Grid | None:
    """The grid of evenly spaced thresholds, or of those whose distances alternate by one about a power of two; else None."""
    steps = np.diff(thresholds)
    if len(steps) < 2 or (steps[::2] != steps[0]).any() or (steps[1::2] != steps[1]).any():
        return None
    first, second = int(thresholds[0]), int(steps[1] - steps[0])
    step = int(steps[0] + steps[1]) // 2
    if step < 1 or step & (step - 1) or second not in (-2, 0, 2) or (second and step < 2):
        return None
    shift, count = step.bit_length() - 1, len(thresholds)
    if second == 0:
        return Grid(first - step, shift, False, 0, count)
    # m is reached at (m - 1/2) steps where m is even, and one later where m is odd.
    skipped = 0 if second > 0 else 1
    return Grid(first - step // 2 - (1 if second > 0 else step), shift, True, skipped, count)


def _rounded(net: Netlist, form: Form, domain: Domain, grid: Grid) -> Word:
    """The word of the number of thresholds reached."""
    terms, constant = form
    shifted = Domain(min(domain.lo - grid.origin, 0), max(domain.hi - grid.origin, 0))
    u = total(net, terms, constant - grid.origin, max(shifted.bits, grid.shift + 2))
    whole = Domain(shifted.lo >> grid.shift, shifted.hi >> grid.shift)
    parts = list(zip(u[grid.shift :], (weight >> grid.shift for _, weight in _terms(u, shifted)[grid.shift :])))
    if grid.even:  # one more from a half on, at a half itself only if that makes it even
        below = FALSE
        for literal in u[: grid.shift - 1]:
            below = net.lut([below, literal], 0b1110)
        parts.append((net.lut([u[grid.shift - 1], below, u[grid.shift]], 0b10101000), 1))
    bounds = Domain(whole.lo - grid.skipped, max(whole.hi + grid.even - grid.skipped, 0))
    word = total(net, parts, -grid.skipped, bounds.bits)
    negative = word[-1] if bounds.signed else FALSE
    over = at_least(net, _terms(word, bounds), grid.count + 1) if bounds.hi > grid.count else FALSE
    word += [negative] * (grid.count.bit_length() - len(word))
    return [net.lut([literal, negative, over], 0b00110010 if grid.count >> k & 1 else 0b00000010)
            for k, literal in enumerate(word[: grid.count.bit_length()])]


def _patterns(domain: Domain) -> list[int]:
    """The code of every pattern of a word's bits; the nearest one where a pattern is no code."""
    size = 1 << domain.bits
    codes = [p - size if domain.signed and p >= size // 2 else p for p in range(size)]
    return [min(max(code, domain.lo), domain.hi) for code in codes]


def _table(net: Netlist, word: Word, codes: Sequence[int], width: int) -> Word:
    """The word of codes[pattern of `word`]."""
    return [net.function(word, sum((code >> k & 1) << row for row, code in enumerate(codes))) for k in range(width)]


def _lut(node: Node, state: NetlistBuilder) -> None:
    p, source = node.params, state.graph[node.inputs[0]]
    assert isinstance(p, Table)
    patterns, channels = _patterns(source.domain), source.shape[-1]
    result = []
    for element, word in enumerate(state.word(source.name)):
        table = p.codes[element % channels if len(p.codes) > 1 else 0]
        result.append(_table(state.net, word, [int(table[c - source.domain.lo]) for c in patterns], node.domain.bits))
    state.words[node.name] = result


def _max(node: Node, state: NetlistBuilder) -> None:
    source = state.graph[node.inputs[0]]
    window = source.params
    assert isinstance(window, Window)
    words = state.word(source.name)
    result = []
    for element in range(node.size):
        taps = [word for word in words[element * window.taps : (element + 1) * window.taps] if word is not ABSENT]
        while len(taps) > 1:  # in pairs, for a shallow tree
            pairs = [_larger(state.net, one, other, node.domain) for one, other in zip(taps[::2], taps[1::2])]
            taps = pairs + taps[len(pairs) * 2 :]
        result.append(taps[0])
    state.words[node.name] = result


def _larger(net: Netlist, one: Word, other: Word, domain: Domain) -> Word:
    """The larger of two codes."""
    if domain.size == 2 and domain.lo in (0, -1):
        keep = domain.lo == 0  # the code with its lowest bit set is the larger: or; else and
        return [net.lut(pair, 0b1110 if keep else 0b1000) for pair in zip(one, other)]
    first = _not_less(net, one, other, domain)
    return [net.lut([b, a, first], 0b11001010) for a, b in zip(one, other)]


def _not_less(net: Netlist, one: Word, other: Word, domain: Domain) -> int:
    """The literal of [one >= other]."""
    return at_least(net, [*_terms(one, domain), *((bit, -weight) for bit, weight in _terms(other, domain))], 0)


def _affine(node: Node, state: NetlistBuilder) -> None:
    p = node.params
    assert isinstance(p, Affine)
    result = []
    for element, form in enumerate(state.form(node.inputs[0])):
        c = element % len(p.mul)
        terms, constant = _plus(_scaled([(form, int(p.mul[c]))]), int(p.add[c]))
        result.append(total(state.net, terms, constant, node.domain.bits + p.shift)[p.shift :])
    state.words[node.name] = result


def _argmax(node: Node, state: NetlistBuilder) -> None:
    """A tournament; where two are equal the earlier one stays. Comparisons are carries, no difference is made."""
    source, width, words = state.graph[node.inputs[0]], node.domain.bits, state.word(node.inputs[0])
    channels = source.shape[-1]
    state.words[node.name] = []
    for first in range(0, source.size, channels):
        players = [(words[first + c], _constant(c, width)) for c in range(channels)]
        while len(players) > 1:
            left = players[len(players) & ~1 :]
            players = [_winner(state.net, *pair, source.domain) for pair in zip(players[::2], players[1::2])] + left
        state.words[node.name].append(players[0][1])


def _winner(net: Netlist, one: tuple[Word, Word], other: tuple[Word, Word], domain: Domain) -> tuple[Word, Word]:
    """The (code, place) whose code is larger, the first where they are equal."""
    first = _not_less(net, one[0], other[0], domain)
    code, place = ([net.lut([b, a, first], 0b11001010) for a, b in zip(*pair)] for pair in zip(one, other))
    return code, place


EMIT_LOGIC: dict[Op, Callable[[Node, NetlistBuilder], None]] = {
    Op.INPUT: _input, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


def to_logic(graph: Graph, share: bool = True) -> Logic:
    """The netlist of a graph; without `share` every output of a sum is made by itself.

    Raises InputError where the graph unrolls to more than 2^21 terms, naming the largest sum.
    """
    check(graph)
    state = NetlistBuilder(graph, share)
    for node in graph:
        state.net.layer = node.name
        EMIT_LOGIC[node.op](node, state)
        if node.name in graph.outputs:
            state.word(node.name)
    return Logic(graph, state.net, tuple(tuple(state.word(name)) for name in graph.outputs))


def check(graph: Graph) -> None:
    """Refuse what unrolls to more than a netlist can have."""
    taps = {}
    for node in graph:
        if isinstance(node.params, Weights):
            source = graph[node.inputs[0]]
            taps[node.name] = (int(np.count_nonzero(node.params.effective)) * prod(source.shape[:-1])
                               * source.domain.bits)
    if sum(taps.values()) > MAX_TAPS:
        largest = max(taps, key=lambda name: taps[name])
        raise InputError(f"node {largest!r} unrolls to {taps[largest]:,} one-bit terms, the graph to "
                         f"{sum(taps.values()):,}; at most {MAX_TAPS:,}: prune it, or build it as C++ with "
                         "io_type='io_stream' or strategy='Resource'")
