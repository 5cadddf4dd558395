"""A function of a few bits as a decision diagram: the expressions that Verilog and C++ write in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from bnnflow.backends.netlist.netlist import sum_table

__all__ = ["decision_diagram", "function_name"]


def function_name(table: int, inputs: int) -> str:
    """A name for a table: that of a counter, or its entries in hexadecimal."""
    return next((f"ones{inputs}_bit{k}" for k in range(3) if table == sum_table((1,) * inputs, 0, k)),
                f"lut{inputs}_{table:0{max(1, 2**inputs // 4)}x}")


def decision_diagram(table: int, signals: Sequence[str], no: str, constants: tuple[str, str]) -> tuple[list[str], str]:
    """(the expressions of t0, t1, ..., the expression of the result): equal parts once.

    Bit sum(2^k * signals[k]) of `table`; `no` is the language's inversion of a bit, `constants` its 0 and 1.
    """
    lines: list[str] = []
    known: dict[tuple[int, int], str] = {}

    def expression(table: int, count: int) -> str:
        ones = (1 << (1 << count)) - 1
        if table in (0, ones):
            return constants[table & 1]
        if (table, count) in known:
            return known[table, count]
        half = 1 << (count - 1)
        low, high, most, top = table & ((1 << half) - 1), table >> half, (1 << half) - 1, signals[count - 1]
        if low == high:
            return expression(low, count - 1)
        if low == 0 and high == most:
            text = top
        elif low == most and high == 0:
            text = f"{no}{top}"
        elif low ^ high == most:
            text = f"{top} ^ {expression(low, count - 1)}"
        elif low == 0:
            text = f"{top} & {expression(high, count - 1)}"
        elif high == 0:
            text = f"{no}{top} & {expression(low, count - 1)}"
        elif low == most:
            text = f"{no}{top} | {expression(high, count - 1)}"
        elif high == most:
            text = f"{top} | {expression(low, count - 1)}"
        else:
            text = f"{top} ? {expression(high, count - 1)} : {expression(low, count - 1)}"
        known[table, count] = f"t{len(lines)}"
        lines.append(text)
        return known[table, count]

    result = expression(table, len(signals))
    return lines, result
