"""A function of a few bits as a binary decision diagram: the expressions that Verilog and C++ write in the same way."""

from __future__ import annotations

from collections.abc import Sequence

from bnnflow.backends.netlist.netlist import sum_table

__all__ = ["decision_diagram", "function_name"]

# A node of the diagram as an expression, by what the function is where the node's signal `top` is 0 and where it is 1.
WITH_CONSTANT = {
    ("0", "1"): "{top}", ("1", "0"): "{no}{top}",
    ("0", "other"): "{top} & {high}", ("other", "0"): "{no}{top} & {low}",
    ("1", "other"): "{no}{top} | {high}", ("other", "1"): "{top} | {low}",
}
COMPLEMENT, MULTIPLEXER = "{top} ^ {low}", "{top} ? {high} : {low}"


def function_name(table: int, inputs: int) -> str:
    """A name for a table: ones<inputs>_bit<k> for bit k of the number of ones, else its entries in hexadecimal."""
    return next((f"ones{inputs}_bit{k}" for k in range(3) if table == sum_table((1,) * inputs, 0, k)),
                f"lut{inputs}_{table:0{max(1, 2**inputs // 4)}x}")


def decision_diagram(table: int, signals: Sequence[str], no: str, constants: tuple[str, str]) -> tuple[list[str], str]:
    """(the expressions of t0, t1, ..., the expression of the result) of a function; equal parts are made once.

    The function is bit sum(2^k * signals[k]) of `table`; `no` is the language's inversion of a bit, `constants` are its
    0 and 1.
    """
    lines: list[str] = []
    known: dict[tuple[int, int], str] = {}

    def expression(table: int, count: int) -> str:
        """The expression of a function of the first `count` signals."""
        if table in (0, _ones(count)):
            return constants[table & 1]
        if (table, count) in known:
            return known[table, count]
        low, high = table & _ones(count - 1), table >> (1 << (count - 1))
        if low == high:
            return expression(low, count - 1)
        text = node(low, high, count - 1)
        known[table, count] = f"t{len(lines)}"
        lines.append(text)
        return known[table, count]

    def node(low: int, high: int, top: int) -> str:
        """The function that is `low` where signal `top` is 0, else `high`, both being of the signals before it."""
        kinds = {0: "0", _ones(top): "1"}
        form = WITH_CONSTANT.get((kinds.get(low, "other"), kinds.get(high, "other")))
        if form is None:
            form = COMPLEMENT if low ^ high == _ones(top) else MULTIPLEXER
        high_text = "" if form is COMPLEMENT else expression(high, top)
        return form.format(top=signals[top], no=no, high=high_text, low=expression(low, top))

    return lines, expression(table, len(signals))


def _ones(count: int) -> int:
    """The table of the constant 1 over so many signals."""
    return (1 << (1 << count)) - 1
