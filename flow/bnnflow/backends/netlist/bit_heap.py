"""Weighted sums of bits as LUTs and short carry chains: the columns of a bit heap, compressed until nothing is left.

A chain adds, at each of up to three columns, one bit (free: it feeds the carry multiplexer) to a function of five
others, and takes one more as its carry: nine bits become four with three LUTs. Counters of LUTs alone, 6:3 or 3:2, take
a LUT for every bit that goes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from functools import lru_cache
from math import gcd

from bnnflow.backends.netlist.netlist import FALSE, INPUTS, TRUE, Netlist

__all__ = ["Term", "at_least", "counted_bits", "digits", "divided", "merged", "number", "total"]

Term = tuple[int, int]  # (literal, weight)
GROUP = INPUTS - 1  # the literals of a chain's function
LANE = 40  # bits of a column for which one sum is begun: more of them make flatter trees and a few more LUTs


class BitHeap:
    """Columns of literals: column k holds those of weight 2^k, and `constant` is added; everything modulo 2^width."""

    def __init__(self, net: Netlist, terms: Sequence[Term], constant: int, width: int):
        self.net, self.width = net, width
        # (level, literal), ascending; plain ones can feed a carry multiplexer, inverted ones only a function.
        self.plain: list[list[tuple[int, int]]] = [[] for _ in range(width)]
        self.inverted: list[list[tuple[int, int]]] = [[] for _ in range(width)]
        for literal, weight in merged(terms):
            if weight < 0:
                literal, weight, constant = literal ^ 1, -weight, constant + weight
            if literal <= TRUE:
                constant += weight * literal
                continue
            for k, digit in digits(weight):
                if digit < 0:
                    constant -= 1 << k
                self.put(k, literal ^ (digit < 0))
        self.constant = constant % (1 << width)

    def put(self, column: int, literal: int) -> None:
        """Add a literal to a column."""
        if column < self.width and literal != FALSE:
            if literal == TRUE:
                self.constant = (self.constant + (1 << column)) % (1 << self.width)
                return
            side = self.inverted if literal & 1 else self.plain
            insort(side[column], (self.net.arrival(literal), literal))

    def height(self, column: int) -> int:
        """Literals of a column."""
        return len(self.plain[column]) + len(self.inverted[column])

    def take(self, column: int, count: int = 1, plain: bool = False) -> list[int]:
        """Remove the earliest literals of a column: inverted ones first, or plain ones only."""
        taken: list[int] = []
        for side in ([self.plain] if plain else [self.inverted, self.plain]):
            part = side[column][: count - len(taken)]
            del side[column][: len(part)]
            taken += [literal for _, literal in part]
        return taken

    def step(self, column: int, shape: tuple[int, ...], adds: tuple[bool, ...], carried: bool) -> None:
        """One chain from `column` on: `shape` literals of every column through functions, `adds` and a carry."""
        carry = self.take(column, plain=True)[0] if carried else FALSE
        a = [self.take(column + k, plain=True)[0] if add else FALSE for k, add in enumerate(adds)]
        literals, weights = [], []
        for k, count in enumerate(shape):
            literals += self.take(column + k, count)
            weights += [1 << k] * count
        positions = len(adds)
        most = sum(weights)
        constant = self.constant >> column & ((1 << positions) - 1)
        if constant > (1 << positions) - 1 - most:  # the function has no room for it
            constant = 0
        self.constant -= constant << column
        most += constant + sum(1 << k for k, add in enumerate(adds) if add)
        if not carried and self.constant >> column & 1:
            self.constant -= 1 << column
            carry = TRUE
        most += carry != FALSE
        b = [self.net.sum_bit(literals, weights, constant, k) for k in range(positions)]
        if not any(adds) and carry == FALSE:
            sums = b
        else:
            sums = self.net.chain(a, b, carry)
        for k in range(min(len(sums), most.bit_length())):
            self.put(column + k, sums[k])

    def ready(self, column: int, shape: tuple[int, ...], adds: tuple[bool, ...], carried: bool) -> int:
        """The level at which all literals of a step are there."""
        levels = [0]
        for k, (count, add) in enumerate(zip(shape, adds)):
            free = count - len(self.inverted[column + k]) + add + (carried and k == 0)
            levels += [level for level, _ in self.inverted[column + k][:count][-1:]]
            levels += [level for level, _ in self.plain[column + k][: max(free, add)][-1:]]
        return max(levels)

    def left(self, column: int) -> list[int]:
        """Remove all of a column, its bit of the constant too."""
        constant = self.constant >> column & 1
        self.constant -= constant << column
        return [*self.take(column, self.height(column)), *[TRUE] * constant]

    def add(self, column: int, literals: Sequence[int]) -> None:
        """A full adder."""
        for k in range(2):
            self.put(column + k, self.net.sum_bit(literals, (1,) * len(literals), 0, k))

    def lanes(self) -> None:
        """Begin several sums of a high column, so that the chains that go on with them are not all in one row."""
        for column in range(self.width):
            if column + 1 == self.width or self.height(column + 1):
                continue
            for _ in range(-(-self.height(column) // LANE)):
                room = min(3, self.width - column)
                alone = (*self.profile(column, 1), *[(0, 0)] * (room - 1))
                found = best(alone, room)
                if found is None or found[0] < 1:
                    break
                self.step(column, *found[1])

    def profile(self, column: int, room: int) -> list[tuple[int, int]]:
        """(plain, all) literals of the next columns, more than ten counted_bits as ten."""
        return [(min(len(self.plain[k]), 10), min(len(self.plain[k]) + len(self.inverted[k]), 10))
                for k in range(column, column + room)]

    def compress(self, least: float) -> bool:
        """The chain that removes the most bits a LUT; False where none removes at least so many."""
        choice = None
        for column in range(self.width):
            if self.height(column) < 2:
                continue
            room = min(3, self.width - column)
            found = best(tuple(self.profile(column, room)), room)
            if found is not None and found[0] >= least:
                rank = (-found[0], self.ready(column, *found[1]))
                if choice is None or rank < choice[0]:
                    choice = (rank, column, found[1])
        if choice is None:
            return False
        self.step(choice[1], *choice[2])
        return True


Plan = tuple[tuple[int, ...], tuple[bool, ...], bool]


@lru_cache(maxsize=2**16)
def best(profile: tuple[tuple[int, int], ...], room: int) -> tuple[float, Plan] | None:
    """(bits removed a LUT, plan) of the best chain on columns with (plain, all) literals; None where none helps."""
    found: tuple[float, Plan] | None = None
    for positions in range(1, room + 1):
        for carried in (True, False):
            free = [list(part) for part in profile[:positions]]
            if carried:
                if free[0][0] < 1:
                    continue
                free[0] = [free[0][0] - 1, free[0][1] - 1]
            adds = []
            for part in free:
                adds.append(part[0] > 0)
                if part[0]:
                    part[0] -= 1
                    part[1] -= 1
            for shape in shapes(positions):
                if any(n > part[1] for n, part in zip(shape, free)):
                    continue
                most = sum(n << k for k, n in enumerate(shape)) + sum(add << k for k, add in enumerate(adds)) + carried
                taken = sum(shape) + sum(adds) + carried
                rate = (taken - most.bit_length()) / positions
                if rate > 0 and (found is None or rate > found[0]):
                    found = (rate, (shape, tuple(adds), carried))
    return found


@lru_cache
def shapes(positions: int) -> list[tuple[int, ...]]:
    """How many literals of each column a function of so many output bits can take."""
    if positions == 1:
        return [(1,)]
    if positions == 2:
        return [(3, 0), (1, 1), (2, 0), (1, 0)]
    return [(a, b, c) for c in range(2) for b in range(4) for a in range(6)
            if 2 <= a + b + c <= GROUP and a + 2 * b + 4 * c <= 7 and a > 0]


def digits(weight: int) -> list[tuple[int, int]]:
    """(power, +1 or -1) of the fewest signed powers of two that add up to a positive weight."""
    result, k = [], 0
    while weight:
        if weight & 1:
            digit = 2 - (weight & 3)
            result.append((k, digit))
            weight -= digit
        weight >>= 1
        k += 1
    return result


def merged(terms: Sequence[Term]) -> list[Term]:
    """Terms with each signal once."""
    weights: dict[int, int] = {}
    constant = 0
    for literal, weight in terms:
        if literal & 1:  # ~x = 1 - x
            constant += weight
            weight = -weight
        weights[literal & ~1] = weights.get(literal & ~1, 0) + weight
    result = [(literal, weight) for literal, weight in weights.items() if weight and literal != FALSE]
    return [*result, (TRUE, constant)] if constant else result


def number(word: Sequence[int]) -> list[Term]:
    """The terms of a number that is never negative, its bits least significant first."""
    return [(literal, 1 << k) for k, literal in enumerate(word)]


def counted_bits(net: Netlist, terms: Sequence[Term], most: int | None = None) -> tuple[list[Term], int]:
    """The same sum as the bits of one number and a constant; `most` is the sum's largest value, where that is known."""
    parts = merged(terms)
    constant = sum(weight for literal, weight in parts if literal == TRUE)
    parts = [(literal, weight) for literal, weight in parts if literal != TRUE]
    low = sum(weight for _, weight in parts if weight < 0)
    if most is None:
        most = constant + sum(weight for _, weight in parts if weight > 0)
    bits = total(net, parts, -low, (most - constant - low).bit_length()) if parts else []
    return number(bits), constant + low


def gathered(net: Netlist, terms: Sequence[Term]) -> list[Term]:
    """Terms whose weights have an odd factor in common are counted_bits once, rather than each times every digit of it."""
    groups: dict[int, list[Term]] = {}
    for literal, weight in merged(terms):
        odd = abs(weight) // (weight & -weight)
        groups.setdefault(odd, []).append((literal, weight // odd))
    result = []
    for odd, group in groups.items():
        if odd > 1 and len(group) > 3:
            if 2 * sum(weight < 0 for _, weight in group) > len(group):  # fewer inverted literals
                group, odd = [(literal, -weight) for literal, weight in group], -odd
            group, constant = counted_bits(net, group)
            group = [*group, (TRUE, constant)]
        result += [(literal, odd * weight) for literal, weight in group]
    return result


def total(net: Netlist, terms: Sequence[Term], constant: int, width: int) -> list[int]:
    """The literals of the sum of terms and constant modulo 2^width, least significant first."""
    heap = BitHeap(net, gathered(net, terms), constant, width)
    heap.lanes()
    while heap.compress(1.01):
        pass
    return ripple(heap)


def ripple(heap: BitHeap) -> list[int]:
    """What is left, from the lowest column to the highest: full adders until two rows remain, then one chain."""
    while max(map(heap.height, range(heap.width)), default=0) > 2 and heap.compress(0.01):
        pass
    result: list[int] = []
    rows: list[list[int]] = [[], []]
    for column in range(heap.width):
        while len(left := heap.left(column)) > 2:
            heap.add(column, left[:3])
            for literal in left[3:]:
                heap.put(column, literal)
        left.sort(key=lambda literal: literal & 1)  # the plain one can feed the carry multiplexer
        if not rows[0] and len(left) == 2 and TRUE in left:  # x + 1 = ~x, and x carried
            heap.put(column + 1, left[0] if left[1] == TRUE else left[1])
            result.append((left[0] if left[1] == TRUE else left[1]) ^ 1)
        elif not rows[0] and len(left) < 2:
            result.append(left[0] if left else FALSE)
        else:
            for row, literal in zip(rows, [*left, FALSE, FALSE]):
                row.append(literal)
    return [*result, *heap.net.chain(rows[0], rows[1], FALSE)[:-1]] if rows[0] else result


def at_least(net: Netlist, terms: Sequence[Term], threshold: int) -> int:
    """The literal of [sum of terms >= threshold]."""
    parts = merged(terms)
    threshold -= sum(weight for literal, weight in parts if literal == TRUE)
    parts = [(literal, weight) for literal, weight in parts if literal != TRUE]
    common = gcd(*(weight for _, weight in parts)) or 1
    parts, threshold = [(literal, weight // common) for literal, weight in parts], -(-threshold // common)
    negative = [weight for _, weight in parts if weight < 0]
    if 2 * len(negative) > len(parts):  # fewer inverted literals: not [-sum >= 1 - threshold]
        return at_least(net, [(literal, -weight) for literal, weight in parts], 1 - threshold) ^ 1
    need = threshold - sum(negative)  # of a sum of literals, inverted where their weight is negative
    most = sum(abs(weight) for _, weight in parts)
    if need <= 0:
        return TRUE
    if need > most:
        return FALSE
    if len(parts) <= INPUTS:  # whatever the weights, one function: bit `width` of sum + 2^width - need, shifted up
        shift = max(need, most - need + 1).bit_length()
        literals = [literal ^ (weight < 0) for literal, weight in parts]
        return net.sum_bit(literals, [abs(weight) for _, weight in parts], (1 << shift) - need, shift)
    grouped = gathered(net, parts)
    if len(grouped) < len(parts):
        return at_least(net, grouped, threshold)
    width = 0
    while (1 << width) < need or most - need >= (1 << width):
        width += 1
    # sum + 2^width - need is below 2^(width + 1), and its highest bit is the answer.
    heap = BitHeap(net, parts, (1 << width) - threshold, width + 1)
    done = carry_out(heap)
    if done is None:
        heap.lanes()
    while done is None:
        if not heap.compress(0.01):
            return ripple(heap)[-1]
        done = carry_out(heap)
    return done


def divided(net: Netlist, word: Sequence[int], divisor: int) -> tuple[list[int], list[int]]:
    """(quotient, remainder) of the number `word`, least significant first, by a divisor above 1: long division, whose
    digits are functions of the last remainder and one more bit.
    """
    quotient: list[int] = []
    rest: list[int] = []
    most, width = 0, (divisor - 1).bit_length()
    for bit in reversed(word):
        rest, most = [bit, *rest], 2 * most + 1
        if most < divisor:
            continue
        if len(rest) <= INPUTS + 1:
            codes = [min(code, 2 * divisor - 1) for code in range(1 << len(rest))]
            quotient.insert(0, net.function(rest, sum((code >= divisor) << row for row, code in enumerate(codes))))
            rest = [net.function(rest, sum((code % divisor >> k & 1) << row for row, code in enumerate(codes)))
                    for k in range(width)]
        else:
            quotient.insert(0, at_least(net, number(rest), divisor))
            rest = total(net, [*number(rest), (quotient[0], -divisor)], 0, width)
        most = divisor - 1
    return quotient, rest


def carry_out(heap: BitHeap) -> int | None:
    """Take the lowest columns away by functions of their carry; the highest bit once nothing else is left."""
    column = 0
    while column < heap.width - 1:
        if heap.height(column) == 0 and not heap.constant >> column & 1:
            column += 1
            continue
        # As many columns as one LUT can read, while their carry is one bit.
        taken, most, end, best_end = 0, 0, column, column
        constant = heap.constant >> column
        while end < heap.width - 1:
            taken += heap.height(end)
            most += heap.height(end) << (end - column)
            if taken > INPUTS:
                break
            end += 1
            if most + (constant & ((1 << (end - column)) - 1)) < 2 << (end - column):
                best_end = end
        if best_end < heap.width - 1 and sum(map(heap.height, range(column, best_end))) < 4:
            if heap.height(column) > 1:
                return None
            best_end = column + 1  # one bit and a constant make no function: the carry is the bit, or none
        literals, weights = [], []
        for k in range(column, best_end):
            weights += [1 << (k - column)] * heap.height(k)
            literals += heap.take(k, heap.height(k))
        part = constant & ((1 << (best_end - column)) - 1)
        heap.constant -= part << column
        carry = heap.net.sum_bit(literals, weights, part, best_end - column)
        column = best_end
        heap.put(column, carry)
    last = heap.take(column, heap.height(column))
    return heap.net.parity(last) ^ (heap.constant >> column & 1)
