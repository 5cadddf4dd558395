"""From the integer graph to a netlist of LUT-sized functions and short carry chains, exactly.

A tensor is a list of words, one an element: the literals of its code in two's complement. A sum stays open, as terms
and a constant, until a node reads it. One that is only compared never becomes a word: its threshold goes into the
compressor tree, whose highest bit is the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.netlist.bit_heap import (
    Term,
    added_up,
    at_least,
    compressed,
    divided,
    number,
    total,
    unsigned_terms,
    without_constant,
)
from bnnflow.backends.netlist.gates import FALSE
from bnnflow.backends.netlist.goals import AREA, Goal, Plan, plans, rank
from bnnflow.backends.netlist.lut_trees import not_less
from bnnflow.backends.netlist.netlist import Netlist
from bnnflow.backends.netlist.subexpressions import UNBOUNDED, AdderGraph, adder_graph
from bnnflow.devices.fabric import PS, ULTRASCALE, Fabric
from bnnflow.errors import InputError, as_given
from bnnflow.ir import Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window
from bnnflow.ir.nodes import Int
from bnnflow.ir.ramps import MANY, ChannelRamps, Ramp, grid, ramps_of_channel

__all__ = ["EMIT_LOGIC", "Logic", "check", "to_logic", "with_goal"]

LEAST_CHANNELS = 4  # fewer do not pay for the division of what their sums have in common
MAX_TAPS = 2**21  # one-bit terms of all sums of a graph

Word = list[int]  # literals of a code, least significant first
ABSENT: Word = []  # a tap outside the image


class OpenSum(NamedTuple):
    """A sum that is not made yet: terms and a constant."""

    terms: list[Term]
    constant: int

    def plus(self, constant: int) -> OpenSum:
        """The sum and a constant more."""
        return OpenSum(self.terms, self.constant + constant)


def _weighted(parts: Sequence[tuple[OpenSum, int]]) -> OpenSum:
    """The sum of open sums times integers."""
    return OpenSum([(literal, factor * weight) for (terms, _), factor in parts for literal, weight in terms],
                   sum(factor * constant for (_, constant), factor in parts))


@dataclass(frozen=True)
class Logic:
    """A graph as a netlist: `outputs` has the words of every output of the graph, in the graph's order."""

    graph: Graph
    net: Netlist
    outputs: tuple[tuple[Word, ...], ...]

    @property
    def wanted(self) -> list[int]:
        """The literals of all outputs, laid end to end."""
        return [literal for words in self.outputs for word in words for literal in word]

    def __call__(self, codes: Sequence[Int]) -> list[Int]:
        """Evaluate the netlist: codes int64 (n, *shape), one array an input -> the same, one array an output."""
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
    """Codes (n, elements) -> uint64 (elements * bits, words), where a word has a bit of each of 64 samples."""
    bits = (codes[:, :, None] >> np.arange(domain.bits) & 1).astype(np.uint8).reshape(len(codes), -1)
    padded = np.zeros((-(-len(codes) // 64) * 64, bits.shape[1]), np.uint8)
    padded[: len(codes)] = bits
    return np.ascontiguousarray(np.packbits(padded.T, axis=1, bitorder="little")).view(np.uint64)


def _unpack(words: NDArray[np.uint64], domain: Domain, count: int) -> Int:
    """The reverse of `_pack` for `count` samples: uint64 (elements * bits, words) -> codes (n, elements)."""
    bits = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")[:, :count]
    bits = bits.reshape(-1, domain.bits, count).astype(np.int64)
    place = np.int64(1) << np.arange(domain.bits)
    if domain.signed:
        place[-1] = -place[-1]
    codes: Int = np.einsum("ebn,b->ne", bits, place)
    return codes


class NetlistBuilder:
    """The netlist while it is made, and what every node has become in it: words, or sums that are still open."""

    def __init__(self, graph: Graph, share: bool, goals: Mapping[str, Goal], fabric: Fabric):
        self.graph, self.share, self.goals, self.net = graph, share, goals, Netlist(fabric)
        self.depth = UNBOUNDED  # of common sums, in the plan that is carried out
        self._used: list[AdderGraph] = []  # by the sums that were made for it
        self.words: dict[str, list[Word]] = {}
        self.open: dict[str, list[OpenSum]] = {}
        self.reads = {node.name: len(graph.readers(node.name)) + graph.outputs.count(node.name) for node in graph}
        self._adder_graphs: dict[tuple[tuple[int, ...], int, int, bytes], AdderGraph] = {}

    def make(self, node: Node) -> None:
        """Make a node: in every way that may serve its goal, of which the best one stays.

        A sum waits for the node that reads it, as only that node's codes say what it costs, but for the goal "area".
        """
        goal = self.goal(node)
        if goal == AREA:
            self._carry_out(node, plans(goal, self.net.fabric)[0])
        elif not node.traits.adds or node.name in self.graph.outputs:
            self._carry_out(node, self._best(node, goal))

    def goal(self, node: Node) -> Goal:
        """The goal of a node, as the one that has it says."""
        return self.goals[with_goal(self.graph, node)]

    def _best(self, node: Node, goal: Goal) -> Plan:
        """The best plan of a goal: of LUTs and ps from when all that the node reads is ready."""
        first, known = len(self.net.gates), (dict(self.words), dict(self.open))
        begin = max((self.net.when[literal >> 1] for name in self._read_by(node) for word in self.words.get(name, ())
                     for literal in word), default=0)
        ranks: dict[Plan, tuple[float, ...]] = {}
        ends: dict[Plan, int] = {}  # when the node is ready
        seen: set[tuple[bool, int, tuple[int, ...]]] = set()

        def rank_plan(plan: Plan) -> None:
            """Carry out a plan, unless another one makes the same of the same common sums, and take it back."""
            self._begin(node, plan)
            way = plan.trees, plan.deadline, tuple(map(id, self._used))
            if way not in seen:
                seen.add(way)
                self._carry_out(node, plan)
                literals = [literal for word in self.word(node.name) for literal in word]
                ends[plan] = max((self.net.when[literal >> 1] for literal in literals), default=0)
                ranks[plan] = rank(goal, self.net.luts(literals, first), ends[plan] - begin)
            self.net.forget(first)
            self.words, self.open = dict(known[0]), dict(known[1])

        for plan in plans(goal, self.net.fabric):
            rank_plan(plan)
        best = min(ranks, key=lambda plan: ranks[plan])
        # What is not on the longest path has time.
        for deadline in {ends[best], ends[best] if isinstance(goal, str) else begin + round(goal * PS)}:
            rank_plan(best._replace(deadline=deadline))
        return min(ranks, key=lambda plan: ranks[plan])

    def _read_by(self, node: Node) -> Iterator[str]:
        """The names of what a node reads, and the sums that wait for it."""
        for name in node.inputs:
            yield name
            if self.graph[name].traits.adds:
                yield from self._read_by(self.graph[name])

    def _begin(self, node: Node, plan: Plan) -> None:
        """Make the sums that wait for a node, by a plan, or the node itself where it is one."""
        self.net.trees, self.depth, self.net.deadline = plan
        self._used = []
        for name in [node.name] if node.traits.adds else node.inputs:
            if self.graph[name].traits.adds:
                self._need(name)

    def _carry_out(self, node: Node, plan: Plan) -> None:
        """Make a node by a plan, and the sums that wait for it."""
        self._begin(node, plan)
        self.net.layer = node.name
        if not node.traits.adds:
            EMIT_LOGIC[node.op](node, self)
        if node.name in self.graph.outputs:
            self.word(node.name)

    def word(self, name: str) -> list[Word]:
        """The words of a node; an open sum is added up now."""
        if name not in self.words:
            self._need(name)
            width = self.graph[name].domain.bits
            self.words[name] = [total(self.net, terms, constant, width) for terms, constant in self.open[name]]
        return self.words[name]

    def _need(self, name: str) -> None:
        """Make a sum, unless it is there; its gates are its own, not those of the node that reads it."""
        if name not in self.open and name not in self.words:
            reader, self.net.layer = self.net.layer, name
            EMIT_LOGIC[self.graph[name].op](self.graph[name], self)
            self.net.layer = reader

    def sums(self, name: str) -> list[OpenSum]:
        """The elements of a node as sums: open ones that only one node reads, else those of the bits of its words."""
        self._need(name)
        if name in self.open and name not in self.words and self.reads[name] == 1:
            return self.open[name]
        domain = self.graph[name].domain
        return [OpenSum(_terms(word, domain), 0) for word in self.word(name)]

    def sum_of_taps(self, levels: Int, bits: int) -> SumOfTaps:
        """The sums of taps of so many bits times `levels` (taps, outputs), an adder graph being made only once."""
        few = np.count_nonzero(levels, axis=0) * bits <= self.net.fabric.inputs
        many = np.where(few, 0, levels)
        depth = self.depth if self.share else 0
        key = (many.shape, bits, depth, many.tobytes())
        if key not in self._adder_graphs:
            found = adder_graph(many, bits, depth)
            equal = (other for other in self._adder_graphs.values() if other == found)
            self._adder_graphs[key] = next(equal, found)
        self._used.append(self._adder_graphs[key])
        return SumOfTaps(levels, few, self._adder_graphs[key])


@dataclass(frozen=True)
class SumOfTaps:
    """The sums of taps times `levels` (taps, outputs).

    Outputs of so `few` bits that they are one LUT, whatever their levels, take no part in the adder graph.
    """

    levels: Int
    few: NDArray[np.bool_]
    adders: AdderGraph

    def sums(self, net: Netlist, taps: Sequence[Word], domain: Domain) -> list[OpenSum]:
        """The sums for such codes, absent ones with the value 0; a code x has the value scale * x + offset."""
        scale, offset = domain.numerator
        present = np.array([word is not ABSENT for word in taps], np.int64)
        constants = offset * (present @ self.levels)
        sums = _sums_of_rows(net, self.adders, taps, domain)
        for k in np.flatnonzero(self.few).tolist():
            sums[k] = _weighted([(OpenSum(_terms(taps[i], domain), 0), int(self.levels[i, k]))
                                 for i in np.flatnonzero(self.levels[:, k]).tolist()])
        return [_weighted([(open_sum, scale)]).plus(int(constant)) for open_sum, constant in zip(sums, constants)]


def _terms(word: Word, domain: Domain) -> list[Term]:
    """The terms of a code: its literals by their places, the highest one negative in a signed domain."""
    weights = [1 << k for k in range(len(word))]
    if domain.signed and word:
        weights[-1] = -weights[-1]
    return list(zip(word, weights))


def _constant(code: int, width: int) -> Word:
    """The word of a known code."""
    return [code >> k & 1 for k in range(width)]


def _input(node: Node, builder: NetlistBuilder) -> None:
    width, source = node.domain.bits, [n.name for n in builder.graph.inputs].index(node.name)
    builder.words[node.name] = [[builder.net.given(source, first + k) for k in range(width)]
                                for first in range(0, node.size * width, width)]


def _gather(node: Node, builder: NetlistBuilder) -> None:
    assert isinstance(node.params, Index)
    together = [word for name in node.inputs for word in builder.word(name)]
    builder.words[node.name] = [together[i] for i in node.params.flat]


def _window(node: Node, builder: NetlistBuilder) -> None:
    p, source = node.params, builder.graph[node.inputs[0]]
    assert isinstance(p, Window)
    words, channels = builder.word(source.name), source.shape[-1]
    share = channels // p.groups
    builder.words[node.name] = [
        words[place * channels + group * share + c] if place >= 0 else ABSENT
        for places in p.places for group in range(p.groups) for place in places for c in range(share)]


def _dot(node: Node, builder: NetlistBuilder) -> None:
    p, source = node.params, builder.graph[node.inputs[0]]
    assert isinstance(p, Weights)
    words, channels = builder.word(source.name), source.shape[-1]
    groups = [builder.sum_of_taps(levels, source.domain.bits) for levels in np.split(p.effective, p.groups, axis=1)]
    size = channels // p.groups
    sums: list[OpenSum] = []
    for position in range(prod(source.shape[:-1])):
        for k, group in enumerate(groups):
            first = position * channels + k * size
            sums += group.sums(builder.net, words[first : first + size], source.domain)
    builder.open[node.name] = sums


def _sums_of_rows(net: Netlist, adders: AdderGraph, taps: Sequence[Word], domain: Domain) -> list[OpenSum]:
    """The open sums that an adder graph makes of codes; a row that several rows or outputs read is added up once."""
    known = [OpenSum(_terms(word, domain), 0) for word in taps]
    ranges = [(domain.lo, domain.hi) if word else (0, 0) for word in taps]  # of the values that are really taken
    for row, uses in zip(adders.rows, adders.uses):
        open_sum = _weighted([(known[source], sign) for source, sign in row])
        ranges.append(_range([(ranges[source], sign) for source, sign in row]))
        if uses > 1:
            if net.trees and domain.bits == 1:  # words would leave too many bits for every reader
                terms, constant = compressed(net, open_sum.terms)
            else:
                terms, constant = added_up(net, open_sum.terms, ranges[-1][1] - open_sum.constant)
            open_sum = OpenSum(terms, constant + open_sum.constant)
        known.append(open_sum)
    return [_weighted([(known[adders.inputs + row], multiplier) for row, multiplier in output])
            for output in adders.outputs]


def _range(parts: Sequence[tuple[tuple[int, int], int]]) -> tuple[int, int]:
    """The (smallest, largest) value of a sum of values of such ranges, each with a sign."""
    ends = [part if sign > 0 else (-part[1], -part[0]) for part, sign in parts]
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def _add(node: Node, builder: NetlistBuilder) -> None:
    p = node.params
    assert isinstance(p, Sum)
    elements = zip(*(builder.sums(name) for name in node.inputs))
    builder.open[node.name] = [
        _weighted([(part, int(scale)) for part, scale in zip(parts, p.scale)]).plus(p.constant) for parts in elements]


@dataclass(frozen=True)
class Channel:
    """A channel of STEP: its code is start + sign * (number of thresholds reached)."""

    thresholds: Int
    start: int
    sign: int

    def code(self, x: int) -> int:
        """The code of a value."""
        return self.start + self.sign * int((self.thresholds <= x).sum())


def _step(node: Node, builder: NetlistBuilder) -> None:
    p, source, width = node.params, builder.graph[node.inputs[0]], node.domain.bits
    assert isinstance(p, Steps)
    channels = [Channel(*row) for row in zip(p.thresholds, p.start.tolist(), p.sign.tolist())]
    if source.domain.bits <= builder.net.fabric.inputs and source.name in builder.words:
        patterns = _patterns(source.domain)
        tables = [[channel.code(code) for code in patterns] for channel in channels]
        builder.words[node.name] = [_table(builder.net, word, tables[element % len(channels)], width)
                                    for element, word in enumerate(builder.words[source.name])]
        return
    sums = builder.sums(source.name)
    result = []
    for first in range(0, node.size, len(channels)):
        result += _step_of_sums(builder.net, sums[first : first + len(channels)], source.domain, channels, width)
    builder.words[node.name] = result


def _step_of_sums(net: Netlist, sums: Sequence[OpenSum], domain: Domain, channels: Sequence[Channel],
                  width: int) -> list[Word]:
    """The words of one position, a sum a channel."""
    single = len(channels[0].thresholds) <= 1
    common = _common(net, sums) if single else None
    result = []
    for open_sum, channel in zip(sums, channels):
        ramps = _ramps(channel.thresholds, domain)
        if ramps is not None:
            count = _reached(net, open_sum, domain, ramps)
            result.append(total(net, [(literal, channel.sign * weight) for literal, weight in count],
                                channel.start + channel.sign * ramps.first, width))
            continue
        if not single:  # several comparisons read the bits of one word
            open_sum = OpenSum(_terms(total(net, *open_sum, domain.bits), domain), 0)
        result.append(_compared(net, open_sum, domain, channel, width, common))
    return result


@dataclass(frozen=True)
class Common:
    """The part V that the sums of all channels have in common, as V = d Q + R; d divides the weights of all others.

    The `terms` of V add up to V - `low`; `quotient` and `remainder` are the terms of Q and R.
    """

    terms: frozenset[Term]
    low: int
    divisor: int
    quotient: list[Term]
    remainder: list[Term]

    def at_least(self, net: Netlist, terms: Sequence[Term], threshold: int) -> int:
        """The literal of [sum of terms >= threshold], the sum being V and others, whose weights are multiples of d.

        [d P + V >= d C + E] = [P + Q + [R >= E] >= C + 1] where 0 <= E < d; equal E have one comparison.
        """
        merged_terms, constant = without_constant(terms)
        rest = [term for term in merged_terms if term not in self.terms]
        whole, part = divmod(threshold - self.low - constant, self.divisor)
        parts = [(literal, weight // self.divisor) for literal, weight in rest]
        reached = at_least(net, self.remainder, part)
        return at_least(net, [*parts, *self.quotient, (reached, 1)], whole + 1)


def _common(net: Netlist, sums: Sequence[OpenSum]) -> Common | None:
    """The common part of sums, divided by the weights of the rest; None where that saves nothing."""
    terms = [without_constant(part.terms)[0] for part in sums]
    shared = frozenset.intersection(*map(frozenset, terms))
    divisor = gcd(*(weight for part in terms for literal, weight in part if (literal, weight) not in shared))
    power_of_two = divisor & (divisor - 1) == 0  # or 0: no sum has a rest
    if len(sums) < LEAST_CHANNELS or not shared or power_of_two:
        return None
    bits, low = number(net, sorted(shared))
    quotient, remainder = divided(net, bits, divisor)
    return Common(shared, low, divisor, unsigned_terms(quotient), unsigned_terms(remainder))


def _compared(net: Netlist, open_sum: OpenSum, domain: Domain, channel: Channel, width: int,
              common: Common | None) -> Word:
    """The word of a channel's code, of which every bit changes at some of the thresholds."""
    thresholds, compare = channel.thresholds, at_least if common is None else common.at_least
    now = channel.code(domain.lo)
    base = _constant(now, width)
    flips: list[list[int]] = [[] for _ in range(width)]
    for threshold in np.unique(thresholds[(thresholds > domain.lo) & (thresholds <= domain.hi)]).tolist():
        reached = compare(net, open_sum.terms, threshold - open_sum.constant)
        after = channel.code(threshold)
        for k in range(width):
            if (now ^ after) >> k & 1:
                flips[k].append(reached)
        now = after
    return [net.parity(flips[k]) ^ base[k] for k in range(width)]


def _ramps(thresholds: Int, domain: Domain) -> ChannelRamps | None:
    """The thresholds of a channel as ramps, few ones only where these are shifts; or None."""
    if len(thresholds) >= MANY:
        return ramps_of_channel(thresholds, domain)
    ramp = grid(thresholds)
    return ChannelRamps(0, (ramp,), ()) if ramp is not None else None


def _reached(net: Netlist, open_sum: OpenSum, domain: Domain, ramps: ChannelRamps) -> list[Term]:
    """The terms of the number of thresholds that a sum reaches, but for the `first`."""
    shifts = len(ramps.ramps) == 1 and ramps.ramps[0].mul == 1 and not ramps.exceptions
    if not shifts:  # several readers, or a product, of one word
        word = total(net, *open_sum, domain.bits)
        open_sum = OpenSum(_terms(word, domain), 0)
    terms = [term for ramp in ramps.ramps for term in unsigned_terms(_rounded(net, open_sum, domain, ramp))]
    return [*terms, *((_equal(net, word, at), more) for at, more in ramps.exceptions)]


def _rounded(net: Netlist, open_sum: OpenSum, domain: Domain, ramp: Ramp) -> Word:
    """The word of a ramp of a sum: the sum is multiplied, shifted, rounded and clipped.

    A tie is rounded in the lowest bit alone. q - 1 is q without it where q is odd; and if q - 1 is what v - 1 becomes,
    an even one is q with it, where the bits that are shifted out are all 1.
    """
    add = ramp.add - (ramp.tie == 0)
    terms, constant = _weighted([(open_sum, ramp.mul)]).plus(add)
    ends = (ramp.mul * domain.lo + add, ramp.mul * domain.hi + add)
    product = Domain(min(ends[0], 0), max(ends[1], 0))
    v = total(net, terms, constant, max(product.bits, ramp.shift + 1 + product.signed))
    low, word, bounds = v[: ramp.shift], v[ramp.shift :], Domain(product.lo >> ramp.shift, product.hi >> ramp.shift)
    if ramp.tie == 1:
        word[0] = net.lut([word[0], _any(net, low)], 0b1000)
    elif ramp.tie == 0:
        word[0] = net.lut([word[0], _any(net, [literal ^ 1 for literal in low])], 0b1011)
    negative = [word.pop()] if bounds.signed else []
    return _clipped(net, word, negative, bounds, ramp.count)


def _clipped(net: Netlist, word: Word, negative: Word, bounds: Domain, count: int) -> Word:
    """The word of a number, clipped to 0..count; `negative` is the highest literal of one that may be negative."""
    width = count.bit_length()
    over: list[int] = []  # some of them are true if it is more than `count`; of negative ones they say nothing
    if bounds.hi > count:
        if count + 1 == 1 << width:
            over = _any_of_parts(net, word[width:], net.fabric.inputs - 1 - len(negative))
        else:
            signed = [(sign, -(1 << len(word))) for sign in negative]
            over = [at_least(net, [*unsigned_terms(word), *signed], count + 1)]
    result = []
    for k, literal in enumerate([*word, *[FALSE] * (width - len(word))][:width]):
        inputs = [literal, *over, *negative]
        table = 0
        for row in range(1 << len(inputs)):
            value, exceeds = row & 1, row >> 1 & ((1 << len(over)) - 1)
            below = len(negative) and row >> (len(inputs) - 1)
            table |= (0 if below else count >> k & 1 if exceeds else value) << row
        result.append(net.lut(inputs, table))
    return result


def _any_of_parts(net: Netlist, literals: Sequence[int], most: int) -> list[int]:
    """At most so many literals, some of which are true if some of these are."""
    rest = list(literals)
    while len(rest) > most:
        size = min(net.fabric.inputs, max(2, -(-len(rest) // most)))
        part, rest = rest[:size], rest[size:]
        rest.append(net.lut(part, (1 << (1 << len(part))) - 2))
    return rest


def _any(net: Netlist, literals: Sequence[int]) -> int:
    """The literal of [some of these are true]."""
    return next(iter(_any_of_parts(net, literals, 1)), FALSE)


def _equal(net: Netlist, word: Word, code: int) -> int:
    """The literal of [a word is that of the code]."""
    return _any(net, [literal ^ bit for literal, bit in zip(word, _constant(code, len(word)))]) ^ 1


def _patterns(domain: Domain) -> list[int]:
    """The code of every pattern of a word's bits; the nearest code of the domain where a pattern is none."""
    size = 1 << domain.bits
    codes = [p - size if domain.signed and p >= size // 2 else p for p in range(size)]
    return [min(max(code, domain.lo), domain.hi) for code in codes]


def _table(net: Netlist, word: Word, codes: Sequence[int], width: int) -> Word:
    """The word of a function of a word: `codes` has its code for every pattern of the word's bits."""
    return [net.function(word, sum((code >> k & 1) << row for row, code in enumerate(codes))) for k in range(width)]


def _lut(node: Node, builder: NetlistBuilder) -> None:
    p, source = node.params, builder.graph[node.inputs[0]]
    assert isinstance(p, Table)
    patterns, channels = _patterns(source.domain), source.shape[-1]
    result = []
    for element, word in enumerate(builder.word(source.name)):
        table = p.codes[element % channels if len(p.codes) > 1 else 0]
        result.append(_table(builder.net, word, [int(table[c - source.domain.lo]) for c in patterns], node.domain.bits))
    builder.words[node.name] = result


def _max(node: Node, builder: NetlistBuilder) -> None:
    source = builder.graph[node.inputs[0]]
    window = source.params
    assert isinstance(window, Window)
    words = builder.word(source.name)
    result = []
    for element in range(node.size):
        taps = [word for word in words[element * window.taps : (element + 1) * window.taps] if word is not ABSENT]
        while len(taps) > 1:  # a tree of pairs is shallow
            pairs = [_larger(builder.net, one, other, node.domain) for one, other in zip(taps[::2], taps[1::2])]
            taps = pairs + taps[len(pairs) * 2 :]
        result.append(taps[0])
    builder.words[node.name] = result


def _larger(net: Netlist, one: Word, other: Word, domain: Domain) -> Word:
    """The larger of two codes."""
    if domain.size == 2 and domain.lo in (0, -1):  # of 0 and 1 the larger one is their or, of -1 and 0 their and
        return [net.lut(pair, 0b1110 if domain.lo == 0 else 0b1000) for pair in zip(one, other)]
    first = _not_less(net, one, other, domain)
    return [net.lut([b, a, first], 0b11001010) for a, b in zip(one, other)]


def _not_less(net: Netlist, one: Word, other: Word, domain: Domain) -> int:
    """The literal of [one >= other]."""
    if net.trees:
        signs = [0] * (len(one) - 1) + [int(domain.signed)]
        return not_less(net, *([literal ^ sign for literal, sign in zip(word, signs)] for word in (one, other)))
    return at_least(net, [*_terms(one, domain), *((bit, -weight) for bit, weight in _terms(other, domain))], 0)


def _affine(node: Node, builder: NetlistBuilder) -> None:
    p = node.params
    assert isinstance(p, Affine)
    result = []
    for element, open_sum in enumerate(builder.sums(node.inputs[0])):
        c = element % len(p.mul)
        terms, constant = _weighted([(open_sum, int(p.mul[c]))]).plus(int(p.add[c]))
        result.append(total(builder.net, terms, constant, node.domain.bits + p.shift)[p.shift :])
    builder.words[node.name] = result


def _argmax(node: Node, builder: NetlistBuilder) -> None:
    """A tournament, in which the earlier one of two equal codes stays.

    A comparison is the carry of a difference, whose other bits are not made.
    """
    source, width, words = builder.graph[node.inputs[0]], node.domain.bits, builder.word(node.inputs[0])
    channels = source.shape[-1]
    builder.words[node.name] = []
    for first in range(0, source.size, channels):
        players = [(words[first + c], _constant(c, width)) for c in range(channels)]
        while len(players) > 1:
            alone = players[len(players) & ~1 :]
            players = [_winner(builder.net, *pair, source.domain) for pair in zip(players[::2], players[1::2])] + alone
        builder.words[node.name].append(players[0][1])


def _winner(net: Netlist, one: tuple[Word, Word], other: tuple[Word, Word], domain: Domain) -> tuple[Word, Word]:
    """The (code, place) with the larger code, the first one where both codes are equal."""
    first = _not_less(net, one[0], other[0], domain)
    code, place = ([net.lut([b, a, first], 0b11001010) for a, b in zip(*pair)] for pair in zip(one, other))
    return code, place


EMIT_LOGIC: dict[Op, Callable[[Node, NetlistBuilder], None]] = {
    Op.INPUT: _input, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


def to_logic(graph: Graph, share: bool = True, goals: Mapping[str, Goal] | Goal = AREA,
             fabric: Fabric = ULTRASCALE) -> Logic:
    """The netlist of a graph for a fabric; without `share` every output of a sum is made without common subexpressions.

    `goals` is what it is to be best at: a goal, or one for every node by name.
    Raises InputError where the graph unrolls to more than 2^21 terms, with the name of the largest sum.
    """
    check(graph)
    by_node = goals if isinstance(goals, Mapping) else {node.name: goals for node in graph}
    builder = NetlistBuilder(graph, share, by_node, fabric)
    for node in graph:
        builder.make(node)
    return Logic(graph, builder.net, tuple(tuple(builder.word(name)) for name in graph.outputs))


def with_goal(graph: Graph, node: Node) -> str:
    """The name of the node whose goal is that of `node`: the sum that it reads, if it reads one and is none."""
    below = graph[node.inputs[0]] if node.inputs else node
    return below.name if below.traits.adds and not node.traits.adds else node.name


def check(graph: Graph) -> None:
    """Raise InputError for a graph that unrolls to more one-bit terms than a netlist may have."""
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
                         f"{as_given(backend='Vitis', io_type='io_stream')} or "
                         f"{as_given(backend='Vitis', strategy='Resource')}")
