"""What the outputs of a sum have in common: levels -> rows of +-1 that are added up once.

A column of levels is a sum of rows times multipliers, one row for each magnitude. Two rows j, k that agree on the taps
C share the sum over C: j = C + (j - C), k = C + (k - C); where they disagree they share it with opposite signs. The
largest part common to two rows is split off first, and it is a row like the others: two dense rows become P + Q and
P - Q, and P goes on to be compared with the P of others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from bnnflow.ir.nodes import Int

__all__ = ["Plan", "plan"]

LEAST_GAIN = 4  # bits that a shared sum must save in every row beyond those that it puts there


@dataclass(frozen=True)
class Plan:
    """`rows[r]` are (source, +1 or -1); source i below `inputs` is an input, others are row i - inputs, made before.

    `outputs[j]` are (row, multiplier). `uses[r]` counts the rows and outputs that read row r.
    """

    inputs: int
    rows: list[list[tuple[int, int]]]
    outputs: list[list[tuple[int, int]]]
    uses: list[int] = field(default_factory=list)


def plan(levels: Int, bits: int, share: bool = True) -> Plan:
    """The rows of `levels` (inputs, outputs), whose inputs are words of so many bits."""
    inputs = len(levels)
    numbers: dict[bytes, int] = {}
    rows: list[Int] = []
    outputs: list[list[tuple[int, int]]] = []
    for column in _parts(levels):
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
    if share and len(rows) > 1:
        matrix = _split_off(matrix) if bits == 1 else _pairs(matrix, bits)
    return _ordered(matrix, inputs, outputs)


def _parts(levels: Int) -> list[list[tuple[int, Int]]]:
    """Every column as (multiplier, row of -1, 0, 1); of two values that are not -v and v: one for all, and the rest."""
    values = np.unique(levels)
    if len(values) == 2 and levels.shape[1] > 1 and 0 not in values and values[0] != -values[1]:
        base, other = values if 2 * np.count_nonzero(levels == values[1]) <= levels.size else values[::-1]
        common = (int(base), np.ones(len(levels), np.int64))
        columns = [(int(other - base), (column == other).astype(np.int64)) for column in levels.T]
        return [[common, column] if column[1].any() else [common] for column in columns]
    return [[(int(v), np.sign(column) * (np.abs(column) == v)) for v in np.unique(np.abs(column)) if v]
            for column in levels.T]


def _pairs(rows: Int, bits: int) -> Int:
    """Rows over words -> rows over words and shared sums of two, the pair that saves the most bits first."""
    count, inputs = rows.shape
    room = inputs + 4 * count  # sources at most
    matrix = np.zeros((room - inputs, room), np.int64)
    matrix[:count, :inputs] = rows
    width = np.full(room, bits, np.int64)
    ends = np.array([[0, 2**bits - 1]] * room, object)
    together = np.zeros((2, room, room), np.int64)  # rows with both sources, of equal and of opposite sign

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
        gains = (together - 1) * saved
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
        count += 1
    return matrix[:count, : inputs + count]


def _split_off(rows: Int) -> Int:
    """Rows over bits -> rows over bits and shared sums; row r is the source inputs + r."""
    count, inputs = rows.shape
    room = 8 * count  # at most so many rows in the end
    matrix = np.zeros((room, inputs + room), np.float32)
    magnitude = np.zeros_like(matrix)
    matrix[:count, :inputs], magnitude[:count, :inputs] = rows, np.abs(rows)
    width = np.ones(inputs + room, np.float32)  # bits of every source
    largest = np.ones(inputs + room, object)
    agree = np.full((room, room), -1, np.float32)
    differ = np.full((room, room), -1, np.float32)

    def compare(row: int) -> None:
        signed, both = matrix[:count] @ (matrix[row] * width), magnitude[:count] @ (magnitude[row] * width)
        same, other = (both + signed) / 2, (both - signed) / 2
        same[row] = other[row] = -1
        for table, values in ((agree, same), (differ, other)):
            table[row, :count] = table[:count, row] = values

    for row in range(count):
        compare(row)
    best = np.maximum(agree, differ)
    while count < room:
        j, k = np.unravel_index(int(best.argmax()), best.shape)
        sign = 1 if agree[j, k] >= differ[j, k] else -1
        common = np.where(matrix[j] == sign * matrix[k], matrix[j], 0)
        top = sum(largest[np.flatnonzero(common)], 0)
        if best[j, k] - top.bit_length() < LEAST_GAIN:
            break
        if (common == matrix[j]).all():  # one row is part of the other
            new, readers = int(j), [(int(k), sign)]
        elif (common == sign * matrix[k]).all():
            new, readers = int(k), [(int(j), sign)]
        else:
            new, readers = count, [(int(j), 1), (int(k), sign)]
            matrix[new] = common
            count += 1
        width[inputs + new], largest[inputs + new] = top.bit_length(), top
        for reader, factor in readers:
            matrix[reader][common != 0] = 0
            matrix[reader, inputs + new] = factor
        for row in {new, *(reader for reader, _ in readers)}:
            magnitude[row] = np.abs(matrix[row])
            compare(row)
            best[row] = np.maximum(agree[row], differ[row])
            best[:, row] = best[row]
    return matrix[:count, : inputs + count].astype(np.int64)


def _ordered(matrix: Int, inputs: int, outputs: list[list[tuple[int, int]]]) -> Plan:
    """The rows with every source before its readers."""
    reads = [[(int(s), int(matrix[r, s])) for s in np.flatnonzero(matrix[r])] for r in range(len(matrix))]
    place: dict[int, int] = {}
    rows: list[list[tuple[int, int]]] = []
    uses = [0] * len(reads)
    waiting = [(r, False) for r in reversed(range(len(reads)))]
    while waiting:
        row, ready = waiting.pop()
        if row in place:
            continue
        below = [s - inputs for s, _ in reads[row] if s >= inputs]
        if not ready:
            waiting += [(row, True), *((r, False) for r in below)]
            continue
        place[row] = len(rows)
        rows.append([(s if s < inputs else inputs + place[s - inputs], sign) for s, sign in reads[row]])
        for r in below:
            uses[place[r]] += 1
    for output in outputs:
        for row, _ in output:
            uses[place[row]] += 1
    return Plan(inputs, rows, [[(place[row], m) for row, m in output] for output in outputs], uses)
