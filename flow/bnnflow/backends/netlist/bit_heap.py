"""Weighted sums of bits as LUTs and short carry chains: a bit heap, and the compressor tree that adds it up.

A bit heap has a column of literals for every power of two. A compressor takes literals out of neighbouring columns and
puts the fewer bits of their sum back, until a final addition makes one number of what is left.

A compressor is a carry chain of up to three positions. Each position adds one literal, which costs nothing because it
feeds the carry multiplexer, to a function of five others, and the chain takes one more literal as its carry: nine bits
become four with three LUTs. Compressors of LUTs alone, 6:3 or 3:2, take a LUT for every bit that goes.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple

from bnnflow.backends.netlist import lut_trees
from bnnflow.backends.netlist.gates import FALSE, TRUE
from bnnflow.backends.netlist.netlist import Netlist
from bnnflow.devices.fabric import ULTRASCALE

__all__ = [
    "Term", "added_up", "at_least", "compressed", "divided", "merged", "number", "signed_digits", "total",
    "unsigned_terms", "without_constant",
]

Term = tuple[int, int]  # (literal, weight)
Profile = tuple[tuple[int, int], ...]  # of neighbouring columns: (literals that are not inverted, all literals)

MOST_POSITIONS = 3  # of a compressor
FUNCTION = ULTRASCALE.beside  # literals of the function at a position; no other fabric has chains that compress
SEEN = 10  # literals of a column that the choice of a compressor tells apart: more are as good as ten
LANE = 40  # literals of a column for which one sum is begun: fewer make flatter trees, and a few more LUTs
GOOD = 1.01  # bits that a compressor removes with a LUT, at least, while there may be better ones
ANY = 0.01  # the same where every compressor that removes bits will do


# --- terms ----------------------------------------------------------------------------------------------------------


def signed_digits(value: int) -> list[tuple[int, int]]:
    """The canonical signed digits of an integer: (power, +1 or -1) of the fewest powers of two that add up to it."""
    digits, power = [], 0
    while value:
        if value & 1:
            digit = 2 - (value & 3)
            digits.append((power, digit))
            value -= digit
        value >>= 1
        power += 1
    return digits


def merged(terms: Sequence[Term]) -> list[Term]:
    """The same sum with every signal once and not inverted; a constant is the weight of TRUE, at the end."""
    weights: dict[int, int] = {}
    constant = 0
    for literal, weight in terms:
        if literal & 1:  # ~x = 1 - x
            constant += weight
            weight = -weight
        weights[literal & ~1] = weights.get(literal & ~1, 0) + weight
    result = [(literal, weight) for literal, weight in weights.items() if weight and literal != FALSE]
    return [*result, (TRUE, constant)] if constant else result


def without_constant(terms: Sequence[Term]) -> tuple[list[Term], int]:
    """The same sum as (merged terms, constant)."""
    parts = merged(terms)
    if parts and parts[-1][0] == TRUE:
        return parts[:-1], parts[-1][1]
    return parts, 0


def unsigned_terms(word: Sequence[int]) -> list[Term]:
    """The terms of a number that is never negative, its literals least significant first."""
    return [(literal, 1 << k) for k, literal in enumerate(word)]


def _negated(terms: Sequence[Term]) -> list[Term]:
    return [(literal, -weight) for literal, weight in terms]


def _mostly_negative(terms: Sequence[Term]) -> bool:
    """True where the negated sum has fewer negative weights, which would be inverted literals in a bit heap."""
    return 2 * sum(weight < 0 for _, weight in terms) > len(terms)


# --- sums -----------------------------------------------------------------------------------------------------------


def total(net: Netlist, terms: Sequence[Term], constant: int, width: int) -> list[int]:
    """The literals of the sum of terms and constant modulo 2^width, least significant first."""
    bits, constant = _bits(_factored(net, terms), constant)
    if net.trees:
        return _final_addition(BitHeap(net, *lut_trees.in_two_rows(net, bits, constant, width), width))
    heap = BitHeap(net, bits, constant, width)
    heap.begin_lanes()
    while heap.compress(GOOD):
        pass
    return _final_addition(heap)


def _bits(terms: Sequence[Term], constant: int) -> tuple[list[tuple[int, int]], int]:
    """The same sum as (bits (power of two, literal) that are added, a constant)."""
    bits = []
    for literal, weight in merged(terms):
        if weight < 0:
            literal, weight, constant = literal ^ 1, -weight, constant + weight
        if literal <= TRUE:
            constant += weight * literal
            continue
        for k, digit in signed_digits(weight):
            if digit < 0:
                constant -= 1 << k
            bits.append((k, literal ^ (digit < 0)))
    return bits, constant


def added_up(net: Netlist, terms: Sequence[Term], most: int | None = None) -> tuple[list[Term], int]:
    """The same sum as (the terms of one number, a constant), see `number`."""
    word, low = number(net, terms, most)
    return unsigned_terms(word), low


def compressed(net: Netlist, terms: Sequence[Term]) -> tuple[list[Term], int]:
    """The same sum as (terms, a constant), of fewer bits, which a tree of LUTs has ready before their sum would be."""
    bits, constant = lut_trees.added(net, *_bits(terms, 0))
    return [(literal, 1 << k) for k, literal in bits], constant


def number(net: Netlist, terms: Sequence[Term], most: int | None = None) -> tuple[list[int], int]:
    """The same sum as (a number that is never negative, its lowest literal first, a constant).

    `most` is the sum's largest value where that is known to be less than the weights allow.
    """
    parts, constant = without_constant(terms)
    low = sum(weight for _, weight in parts if weight < 0)
    if most is None:
        most = constant + sum(weight for _, weight in parts if weight > 0)
    return total(net, parts, -low, (most - constant - low).bit_length()) if parts else [], constant + low


def _factored(net: Netlist, terms: Sequence[Term]) -> list[Term]:
    """The same sum with odd factors taken out: of 3a + 3b + 6c + 3d, the sum a + b + 2c + d is made and multiplied.

    Else every digit of the factor would put all of its terms into the bit heap again.
    """
    groups: dict[int, list[Term]] = {}
    for literal, weight in merged(terms):
        odd = abs(weight) // (weight & -weight)
        groups.setdefault(odd, []).append((literal, weight // odd))
    result = []
    for odd, group in groups.items():
        if odd > 1 and len(group) > 3:
            if _mostly_negative(group):
                group, odd = _negated(group), -odd
            group, constant = (compressed if net.trees else added_up)(net, group)
            group = [*group, (TRUE, constant)]
        result += [(literal, odd * weight) for literal, weight in group]
    return result


def at_least(net: Netlist, terms: Sequence[Term], threshold: int) -> int:
    """The literal of [sum of terms >= threshold]."""
    parts, constant = without_constant(terms)
    parts, threshold = _reduced(parts, threshold - constant)
    if _mostly_negative(parts):
        return at_least(net, _negated(parts), 1 - threshold) ^ 1
    # With literals inverted where their weight is negative, all weights are positive, and `need` is the threshold.
    need = threshold - sum(weight for _, weight in parts if weight < 0)
    most = sum(abs(weight) for _, weight in parts)
    if need <= 0:
        return TRUE
    if need > most:
        return FALSE
    if len(parts) <= net.fabric.inputs:
        return _at_least_in_one_lut(net, parts, need, most)
    factored = _factored(net, parts)
    if len(factored) < len(parts):
        return at_least(net, factored, threshold)
    if net.trees:
        return lut_trees.reached(net, *_bits(parts, -threshold))
    # sum + 2^width - need is below 2^(width + 1), and its highest bit is the answer.
    width = max((need - 1).bit_length(), (most - need).bit_length())
    return _highest_bit(BitHeap(net, *_bits(parts, (1 << width) - threshold), width + 1))


def _reduced(terms: Sequence[Term], threshold: int) -> tuple[list[Term], int]:
    """Terms and a threshold, divided by what the weights have in common; the threshold is rounded up."""
    common = gcd(*(weight for _, weight in terms)) or 1
    return [(literal, weight // common) for literal, weight in terms], -(-threshold // common)


def _at_least_in_one_lut(net: Netlist, parts: Sequence[Term], need: int, most: int) -> int:
    """The literal of [sum of |weight| * literal >= need] of literals, as many as a LUT has inputs.

    They are inverted where their weight is negative.

    It is bit `width` of sum + 2^width - need, of which no value may have higher bits.
    """
    width = max(need, most - need + 1).bit_length()
    literals = [literal ^ (weight < 0) for literal, weight in parts]
    return net.sum_bit(literals, [abs(weight) for _, weight in parts], (1 << width) - need, width)


def divided(net: Netlist, word: Sequence[int], divisor: int) -> tuple[list[int], list[int]]:
    """(quotient, remainder) of the number `word` by a divisor above 1, all of them least significant literal first.

    It is a long division: a digit of the quotient is a function of the remainder so far and one more bit.
    """
    quotient: list[int] = []
    rest: list[int] = []
    most, width = 0, (divisor - 1).bit_length()
    for bit in reversed(word):
        rest, most = [bit, *rest], 2 * most + 1
        if most < divisor:
            continue
        digit, rest = _division_step(net, rest, divisor, width)
        quotient.insert(0, digit)
        most = divisor - 1
    return quotient, rest


def _division_step(net: Netlist, rest: Sequence[int], divisor: int, width: int) -> tuple[int, list[int]]:
    """([rest >= divisor], the remainder in `width` bits) of a number below twice the divisor."""
    if len(rest) > net.fabric.inputs + 1:
        digit = at_least(net, unsigned_terms(rest), divisor)
        return digit, total(net, [*unsigned_terms(rest), (digit, -divisor)], 0, width)
    numbers = [min(number, 2 * divisor - 1) for number in range(1 << len(rest))]
    digit = net.function(rest, sum((number >= divisor) << row for row, number in enumerate(numbers)))
    return digit, [net.function(rest, sum((number % divisor >> k & 1) << row for row, number in enumerate(numbers)))
                   for k in range(width)]


# --- compressors ----------------------------------------------------------------------------------------------------


class Compressor(NamedTuple):
    """A carry chain over neighbouring columns, one position a column.

    `shape` has how many literals of every column go through functions of LUTs, `adds` whether a position also adds a
    literal of its column that is not inverted, and `carried` whether another one of the first column is the carry.
    """

    shape: tuple[int, ...]
    adds: tuple[bool, ...]
    carried: bool

    @property
    def most(self) -> int:
        """The largest sum of its literals."""
        return sum((n + add) << k for k, (n, add) in enumerate(zip(self.shape, self.adds))) + self.carried

    @property
    def rate(self) -> float:
        """Bits that it removes with every LUT."""
        return (sum(self.shape) + sum(self.adds) + self.carried - self.most.bit_length()) / len(self.shape)


@lru_cache(maxsize=2**16)
def _best_compressor(profile: Profile) -> tuple[float, Compressor] | None:
    """(its rate, the compressor) that removes the most bits a LUT from columns; None where none removes any."""
    found: tuple[float, Compressor] | None = None
    for compressor in _compressors(profile):
        rate = compressor.rate
        if rate > 0 and (found is None or rate > found[0]):
            found = (rate, compressor)
    return found


def _compressors(profile: Profile) -> Iterator[Compressor]:
    """The compressors for which columns have enough literals."""
    for positions in range(1, len(profile) + 1):
        for carried in (True, False) if profile[0][0] else (False,):
            (plain, height), *others = profile[:positions]
            free = [(plain - carried, height - carried), *others]
            adds = tuple(plain > 0 for plain, _ in free)
            left = [height - add for (_, height), add in zip(free, adds)]
            for shape in _shapes(positions):
                if all(n <= there for n, there in zip(shape, left)):
                    yield Compressor(shape, adds, carried)


@lru_cache
def _shapes(positions: int) -> list[tuple[int, ...]]:
    """How many literals of each column can go through functions whose sum has no more bits than there are positions."""
    if positions == 1:
        return [(1,)]
    if positions == 2:
        return [(3, 0), (1, 1), (2, 0), (1, 0)]
    return [(a, b, c) for c in range(2) for b in range(4) for a in range(6)
            if 2 <= a + b + c <= FUNCTION and a + 2 * b + 4 * c <= 7 and a > 0]


class BitHeap:
    """Columns of literals: column k holds those of weight 2^k, and `constant` is added; everything modulo 2^width."""

    def __init__(self, net: Netlist, bits: Sequence[tuple[int, int]], constant: int, width: int):
        self.net, self.width = net, width
        # Of every column (level, literal), ascending. A literal that is not inverted can feed a carry multiplexer, an
        # inverted one only a function.
        self.plain: list[list[tuple[int, int]]] = [[] for _ in range(width)]
        self.inverted: list[list[tuple[int, int]]] = [[] for _ in range(width)]
        self.constant = constant % (1 << width)
        for k, literal in bits:
            self.put(k, literal)

    def put(self, column: int, literal: int) -> None:
        """Add a literal to a column; one beyond the width, or 0, is nothing."""
        if column < self.width and literal != FALSE:
            if literal == TRUE:
                self.constant = (self.constant + (1 << column)) % (1 << self.width)
                return
            side = self.inverted if literal & 1 else self.plain
            insort(side[column], (self.net.arrival(literal), literal))

    def height(self, column: int) -> int:
        """How many literals a column has."""
        return len(self.plain[column]) + len(self.inverted[column])

    def take(self, column: int, count: int) -> list[int]:
        """Remove so many literals from a column, inverted ones first, of each kind those that arrive first."""
        taken: list[int] = []
        for side in (self.inverted, self.plain):
            part = side[column][: count - len(taken)]
            del side[column][: len(part)]
            taken += [literal for _, literal in part]
        return taken

    def take_from(self, column: int, shape: Sequence[int]) -> tuple[list[int], list[int]]:
        """(literals, weights) after removing shape[k] literals, of weight 2^k, from every `column` + k."""
        literals, weights = [], []
        for k, count in enumerate(shape):
            literals += self.take(column + k, count)
            weights += [1 << k] * count
        return literals, weights

    def take_plain(self, column: int) -> int:
        """Remove the literal that arrives first of those of a column that are not inverted."""
        return self.plain[column].pop(0)[1]

    def take_constant(self, column: int, count: int, at_most: int) -> int:
        """Remove so many bits of the constant from `column` on; 0 where they say more than `at_most`, which stay."""
        part = self.constant >> column & ((1 << count) - 1)
        if part > at_most:
            return 0
        self.constant -= part << column
        return part

    def take_column(self, column: int) -> list[int]:
        """Remove all literals of a column, and TRUE for its bit of the constant."""
        constant = self.take_constant(column, 1, 1)
        return [*self.take(column, self.height(column)), *[TRUE] * constant]

    def apply(self, column: int, compressor: Compressor) -> None:
        """Replace literals from `column` on by the bits of their sum, with as much of the constant as is free."""
        shape, adds, carried = compressor
        positions = len(shape)
        carry = self.take_plain(column) if carried else FALSE
        a = [self.take_plain(column + k) if add else FALSE for k, add in enumerate(adds)]
        literals, weights = self.take_from(column, shape)
        constant = self.take_constant(column, positions, (1 << positions) - 1 - sum(weights))
        if not carried and self.take_constant(column, 1, 1):
            carry = TRUE
        b = [self.net.sum_bit(literals, weights, constant, k) for k in range(positions)]
        sums = self.net.chain(a, b, carry) if carry != FALSE or any(adds) else b
        most = compressor.most + constant + (carry == TRUE)
        for k, literal in enumerate(sums[: most.bit_length()]):
            self.put(column + k, literal)

    def ready(self, column: int, compressor: Compressor) -> int:
        """The level of the last literal that a compressor would take."""
        shape, adds, carried = compressor
        levels = [0]
        for k, (count, add) in enumerate(zip(shape, adds)):
            free = count - len(self.inverted[column + k]) + add + (carried and k == 0)
            levels += [level for level, _ in self.inverted[column + k][:count][-1:]]
            levels += [level for level, _ in self.plain[column + k][: max(free, add)][-1:]]
        return max(levels)

    def profile(self, column: int) -> Profile:
        """The profile of the columns that a compressor at `column` may take from."""
        columns = range(column, min(column + MOST_POSITIONS, self.width))
        return tuple([(min(len(self.plain[k]), SEEN), min(len(self.plain[k]) + len(self.inverted[k]), SEEN))
                      for k in columns])

    def begin_lanes(self) -> None:
        """Apply a compressor for every `LANE` literals of a column without another one above it.

        Each begins a sum of its own, so that the compressors which go on with these are not all in one row.
        """
        for column in range(self.width):
            if column + 1 == self.width or self.height(column + 1):
                continue
            for _ in range(-(-self.height(column) // LANE)):
                first, *others = self.profile(column)
                found = _best_compressor((first, *[(0, 0)] * len(others)))
                if found is None or found[0] < 1:
                    break
                self.apply(column, found[1])

    def compress(self, least: float) -> bool:
        """Apply the compressor that removes the most bits a LUT, of several the one that can begin first.

        False, and nothing is done, where none removes at least so many.
        """
        choice = None
        for column in range(self.width):
            if self.height(column) < 2:
                continue
            found = _best_compressor(self.profile(column))
            if found is not None and found[0] >= least:
                rank = (-found[0], self.ready(column, found[1]))
                if choice is None or rank < choice[0]:
                    choice = (rank, column, found[1])
        if choice is None:
            return False
        self.apply(choice[1], choice[2])
        return True


# --- what is left of a bit heap -------------------------------------------------------------------------------------


def _final_addition(heap: BitHeap) -> list[int]:
    """The literals of the whole sum, from the lowest column to the highest: two rows of bits, added by one chain.

    Columns below the first one with two literals are the sum's bits themselves.
    """
    while max(map(heap.height, range(heap.width)), default=0) > 2 and heap.compress(ANY):
        pass
    result: list[int] = []
    a: list[int] = []
    b: list[int] = []
    for column in range(heap.width):
        left = _at_most_two(heap, column)
        if a or (len(left) == 2 and TRUE not in left):
            one, other = [*left, FALSE, FALSE][:2]
            a.append(one)
            b.append(other)
        elif len(left) == 2:  # x + 1 = ~x, and x is the carry
            (literal,) = set(left) - {TRUE}
            heap.put(column + 1, literal)
            result.append(literal ^ 1)
        else:
            result += left or [FALSE]
    places = heap.net.fabric.inputs // 2
    if heap.net.trees and 0 < len(a) < 2 * places:  # two rows of LUTs
        return [*result, *_short_addition(heap.net, a, b)]
    return [*result, *heap.net.chain(a, b, FALSE)[:-1]] if a else result


def _short_addition(net: Netlist, a: Sequence[int], b: Sequence[int]) -> list[int]:
    """The literals of a + b modulo 2^len(a): LUTs, of which a carry out of the lowest places is one."""
    low = min(net.fabric.inputs // 2, len(a))
    literals, weights = [*a[:low], *b[:low]], [1 << k for k in range(low)] * 2
    result = [net.sum_bit(literals, weights, 0, k) for k in range(low)]
    if high := len(a) - low:
        literals, weights = [net.sum_bit(literals, weights, 0, low), *a[low:], *b[low:]], [
            1, *[1 << k for k in range(high)] * 2]
        result += [net.sum_bit(literals, weights, 0, k) for k in range(high)]
    return result


def _at_most_two(heap: BitHeap, column: int) -> list[int]:
    """Remove a column after full adders have left at most two of its literals, an inverted one last.

    The first one can feed the carry multiplexer of a chain, for which it must not be inverted.
    """
    while len(left := heap.take_column(column)) > 2:
        for k in range(2):
            heap.put(column + k, heap.net.sum_bit(left[:3], (1, 1, 1), 0, k))
        for literal in left[3:]:
            heap.put(column, literal)
    return sorted(left, key=lambda literal: literal & 1)


def _highest_bit(heap: BitHeap) -> int:
    """The literal of the highest bit of the sum, of which the other bits are not made.

    Compressors are applied until the columns that are left have carries of few enough literals.
    """
    highest = _carried_to_the_top(heap)
    if highest is None:
        heap.begin_lanes()
    while highest is None:
        if not heap.compress(ANY):
            return _final_addition(heap)[-1]
        highest = _carried_to_the_top(heap)
    return highest


def _carried_to_the_top(heap: BitHeap) -> int | None:
    """Replace columns, the lowest first, by their carry into the next one, and return the literal of the highest bit.

    None once the carry of a column is no function of few enough literals; the columns below it are gone.
    """
    column = 0
    while column < heap.width - 1:
        if heap.height(column) == 0 and not heap.constant >> column & 1:
            column += 1
            continue
        end = _end_of_carry(heap, column)
        if end is None:
            return None
        literals, weights = heap.take_from(column, [heap.height(k) for k in range(column, end)])
        constant = heap.take_constant(column, end - column, 1 << (end - column))
        heap.put(end, heap.net.sum_bit(literals, weights, constant, end - column))
        column = end
    last = heap.take(column, heap.height(column))
    return heap.net.parity(last) ^ (heap.constant >> column & 1)


def _end_of_carry(heap: BitHeap, column: int) -> int | None:
    """The column into which columns from `column` on have a carry of one bit, a function of as many literals as a
    LUT has inputs, at most.

    It is the highest such column; None where it would be made of too few literals to be worth a LUT.
    """
    taken, most, end, best = 0, 0, column, column
    constant = heap.constant >> column
    while end < heap.width - 1:
        taken += heap.height(end)
        most += heap.height(end) << (end - column)
        if taken > heap.net.fabric.inputs:
            break
        end += 1
        if most + (constant & ((1 << (end - column)) - 1)) < 2 << (end - column):
            best = end
    if best == heap.width - 1 or sum(map(heap.height, range(column, best))) >= 4:
        return best
    if heap.height(column) > 1:
        return None
    return column + 1  # of one literal and a constant the carry is the literal or nothing
