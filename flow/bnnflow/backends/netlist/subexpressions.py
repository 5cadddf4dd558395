"""The common subexpressions of the outputs of a sum: integer levels -> an adder graph, whose rows are made once.

A column of levels is a sum of rows of -1, 0 and 1 times multipliers, one row for each magnitude. Two rows j and k that
agree on the taps C have the sum over C in common: j = C + (j - C) and k = C + (k - C). On the taps where one row is the
other one's opposite they have a sum in common, too, but with opposite signs. The largest sum that two rows have in
common is split off first, and it is a row like the others: two dense rows become P + Q and P - Q, and P may then have a
sum in common with the P of others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bnnflow.ir.nodes import Int

__all__ = ["UNBOUNDED", "AdderGraph", "adder_graph"]

UNBOUNDED = 2**30  # common sums one behind the other

LEAST_GAIN = 4  # bits that a common sum must take from every row that reads it, beyond those of the sum itself

Scaled = list[tuple[int, int]]  # rows or sources, each with a sign or a multiplier


@dataclass(frozen=True)
class AdderGraph:
    """Sums of sums: a row adds sources, and an output adds multiples of rows.

    `rows[r]` are (source, +1 or -1). Source i below `inputs` is an input; source `inputs` + r is row r, an earlier one.
    `outputs[j]` are (row, multiplier).
    """

    inputs: int
    rows: list[Scaled]
    outputs: list[Scaled]

    @cached_property
    def uses(self) -> list[int]:
        """How many rows and outputs read each row."""
        counts = Counter(source - self.inputs for row in self.rows for source, _ in row)
        counts.update(row for output in self.outputs for row, _ in output)
        return [counts[row] for row in range(len(self.rows))]


def adder_graph(levels: Int, bits: int, depth: int = UNBOUNDED) -> AdderGraph:
    """The adder graph of `levels` (inputs, outputs), whose inputs are words of so many bits.

    Between an input and an output lie at most `depth` common sums, one behind the other. With 0 of them no common
    subexpressions are looked for: only equal and opposite rows are one.
    """
    inputs = len(levels)
    numbers: dict[bytes, int] = {}
    rows: list[Int] = []
    outputs: list[Scaled] = []
    for column in _rows_of_columns(levels):
        output = []
        for multiplier, row in column:
            first = row[np.flatnonzero(row)[0]]
            key = (row * first).astype(np.int8).tobytes()
            if key not in numbers:
                numbers[key] = len(rows)
                rows.append((row * first).astype(np.int8))
            output.append((numbers[key], multiplier * int(first)))
        outputs.append(output)
    matrix: Int = np.array(rows, np.int64).reshape(len(rows), inputs)
    if depth and len(rows) > 1:
        matrix = _with_common_parts(matrix, depth) if bits == 1 else _with_common_pairs(matrix, bits, depth)
    return _in_order(matrix, inputs, outputs)


def _rows_of_columns(levels: Int) -> list[list[tuple[int, Int]]]:
    """Every column as (multiplier, row of -1, 0 and 1), one for each magnitude.

    If all levels have one of two values, not 0 and not opposite, then every column is a row of ones times one value,
    which all columns have in common, and the taps of the other value times the difference.
    """
    values = np.unique(levels)
    if len(values) == 2 and levels.shape[1] > 1 and 0 not in values and values[0] != -values[1]:
        base, other = values if 2 * np.count_nonzero(levels == values[1]) <= levels.size else values[::-1]
        common = (int(base), np.ones(len(levels), np.int64))
        columns = [(int(other - base), (column == other).astype(np.int64)) for column in levels.T]
        return [[common, column] if column[1].any() else [common] for column in columns]
    return [_rows_by_magnitude(column) for column in levels.T]


def _rows_by_magnitude(column: Int) -> list[tuple[int, Int]]:
    magnitudes = np.abs(column)
    return [(int(v), np.sign(column) * (magnitudes == v)) for v in np.unique(magnitudes) if v]


def _with_common_pairs(rows: Int, bits: int, most: int) -> Int:
    """Rows over words -> rows over words and over common sums of two sources; row r is the source inputs + r.

    The pair that saves the most bits in adders is split off first. At most `most` of them lie one behind the other.
    """
    count, inputs = rows.shape
    room = inputs + 4 * count  # the most sources that are made
    matrix = np.zeros((room - inputs, room), np.int64)
    matrix[:count, :inputs] = rows
    width = np.full(room, bits, np.int64)  # bits of every source
    ends = np.array([[0, 2**bits - 1]] * room, object)  # its smallest and its largest value
    depth = np.zeros(room, np.int64)  # common sums on the way to it, and itself
    together = np.zeros((2, room, room), np.int64)  # rows that have both sources, of equal and of opposite sign

    def tally(row: int, by: int) -> None:
        at = np.flatnonzero(matrix[row])
        equal = np.equal.outer(matrix[row, at], matrix[row, at])
        together[0][np.ix_(at, at)] += by * equal
        together[1][np.ix_(at, at)] += by * ~equal

    for row in range(count):
        tally(row, 1)
    together[0][np.diag_indices(room)] = 0
    while inputs + count < room:
        saved = width[:, None] + width - np.maximum(width[:, None], width) - 1
        gains = (together - 1) * saved * (np.maximum(depth[:, None], depth) < most)
        opposite, s, t = (int(i) for i in np.unravel_index(int(gains.argmax()), gains.shape))
        if gains[opposite, s, t] < LEAST_GAIN:
            break
        new, sign = inputs + count, -1 if opposite else 1
        readers = np.flatnonzero((matrix[:, s] * matrix[:, t]) == sign)
        for reader in readers.tolist():
            tally(reader, -1)
            matrix[reader, new] = matrix[reader, s]
            matrix[reader, [s, t]] = 0
            tally(reader, 1)
            together[0][np.diag_indices(room)] = 0
        matrix[count, [s, t]] = 1, sign
        tally(count, 1)
        together[0][np.diag_indices(room)] = 0
        ends[new] = ends[s] + sign * (ends[t] if sign > 0 else ends[t][::-1])
        width[new] = int(ends[new][1] - ends[new][0]).bit_length()
        depth[new] = max(depth[s], depth[t]) + 1
        count += 1
    return matrix[:count, : inputs + count]


def _with_common_parts(rows: Int, most: int) -> Int:
    """Rows over bits -> rows over bits and over common sums; row r is the source inputs + r.

    The sum of most bits that two rows have in common is split off first. At most `most` lie one behind the other.
    """
    count, inputs = rows.shape
    room = 8 * count  # the most rows that are made
    matrix = np.zeros((room, inputs + room), np.float32)
    matrix[:count, :inputs] = rows
    depths = _Depths(inputs, room, most)
    free, magnitude = matrix.copy(), np.abs(matrix)  # of sources that are not too deep to be in a common sum
    width = np.ones(inputs + room, np.float32)  # bits of every source
    largest = np.ones(inputs + room, object)  # its largest value
    agree = np.full((room, room), -1, np.float32)  # bits of the sources that two rows have with equal signs
    differ = np.full((room, room), -1, np.float32)  # and with opposite signs

    def compare(row: int) -> None:
        signed, both = free[:count] @ (free[row] * width), magnitude[:count] @ (magnitude[row] * width)
        same, other = (both + signed) / 2, (both - signed) / 2
        same[row] = other[row] = -1
        for table, values in ((agree, same), (differ, other)):
            table[row, :count] = table[:count, row] = values

    for row in range(count):
        compare(row)
    best = np.maximum(agree, differ)
    while count < room:
        j, k = (int(row) for row in np.unravel_index(int(best.argmax()), best.shape))
        sign = 1 if agree[j, k] >= differ[j, k] else -1
        common = np.where(free[j] == sign * free[k], free[j], 0)
        top = sum(largest[np.flatnonzero(common)], 0)
        if best[j, k] - top.bit_length() < LEAST_GAIN:
            break
        if (common == matrix[j]).all():  # row j is a part of row k
            new, readers = j, [(k, sign)]
        elif (common == sign * matrix[k]).all():
            new, readers = k, [(j, sign)]
        else:
            new, readers = count, [(j, 1), (k, sign)]
            matrix[new] = common
            count += 1
        width[inputs + new], largest[inputs + new] = top.bit_length(), top
        for reader, factor in readers:
            matrix[reader][common != 0] = 0
            matrix[reader, inputs + new] = factor
        for row in sorted({new, *(reader for reader, _ in readers), *depths.changed(matrix, new, readers)}):
            free[row] = matrix[row] * depths.allowed(row)
            magnitude[row] = np.abs(free[row])
            compare(row)
            best[row] = np.maximum(agree[row], differ[row])
            best[:, row] = best[row]
    return matrix[:count, : inputs + count].astype(np.int64)


class _Depths:
    """How deep the common sums of rows are, and which sources a row may still have in common with another one.

    `below[s]` is the most common sums on the way from an input to a source, itself included; `above[r]` on the way from
    a row to an output.
    """

    def __init__(self, inputs: int, room: int, most: int):
        self.inputs, self.most = inputs, most
        self.below, self.above = np.zeros(inputs + room, np.int64), np.zeros(room, np.int64)

    def allowed(self, row: int) -> NDArray[np.bool_]:
        """The sources that may be in a common sum which the row reads: bool (sources,)."""
        allowed: NDArray[np.bool_] = self.below + 1 + self.above[row] <= self.most
        return allowed

    def changed(self, matrix: NDArray[np.float32], new: int, readers: Sequence[tuple[int, int]]) -> set[int]:
        """The rows for which something else is allowed now that `readers` (row, sign) read the sum `new`."""
        if self.most == UNBOUNDED:
            return set()
        rows = len(self.above)
        below, above = self.below.copy(), self.above.copy()
        self._lift(matrix, new)
        for reader, _ in readers:
            self._lift(matrix, reader)
            self._lower(matrix, reader)
        deeper = np.flatnonzero(self.below != below)
        changed = set(np.flatnonzero(self.above != above).tolist())
        return changed | set(np.flatnonzero(matrix[:rows, deeper].any(axis=1)).tolist()) if len(deeper) else changed

    def _lift(self, matrix: NDArray[np.float32], row: int) -> None:
        """Update `below` of a row and of those that read it."""
        depth = 1 + int(self.below[np.flatnonzero(matrix[row])].max(initial=0))
        readers = np.flatnonzero(matrix[:, self.inputs + row])
        if len(readers) and depth > self.below[self.inputs + row]:
            self.below[self.inputs + row] = depth
            for reader in readers.tolist():
                self._lift(matrix, reader)

    def _lower(self, matrix: NDArray[np.float32], row: int) -> None:
        """Update `above` of the sums that a row reads."""
        for source in np.flatnonzero(matrix[row, self.inputs :]).tolist():
            if self.above[source] < self.above[row] + 1:
                self.above[source] = self.above[row] + 1
                self._lower(matrix, source)


def _in_order(matrix: Int, inputs: int, outputs: list[Scaled]) -> AdderGraph:
    """The adder graph of rows (rows, sources), every row behind those that it reads."""
    rows = [[(int(s), int(row[s])) for s in np.flatnonzero(row)] for row in matrix]
    order = _behind_what_they_read(rows, inputs)
    place = {row: k for k, row in enumerate(order)}
    source = [*range(inputs), *(inputs + place[row] for row in range(len(rows)))]
    return AdderGraph(inputs, [[(source[s], sign) for s, sign in rows[row]] for row in order],
                      [[(place[row], multiplier) for row, multiplier in output] for output in outputs])


def _behind_what_they_read(rows: list[Scaled], inputs: int) -> list[int]:
    """The numbers of rows in an order in which each comes after those that it reads, depth first from row 0 on."""
    read = [[source - inputs for source, _ in row if source >= inputs] for row in rows]
    order: list[int] = []
    done: set[int] = set()
    waiting = [(row, False) for row in reversed(range(len(read)))]
    while waiting:
        row, ready = waiting.pop()
        if row in done:
            continue
        if ready:
            done.add(row)
            order.append(row)
        else:
            waiting += [(row, True), *((below, False) for below in read[row])]
    return order
