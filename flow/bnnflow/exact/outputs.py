"""Outputs: quantised codes as they are, an affine epilogue rounded once, another epilogue as a table."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import as_given
from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import TABLE, Epilogue, FloatTensor, Stage
from bnnflow.exact.functions import Refusal
from bnnflow.exact.levels import Levels, dyadic
from bnnflow.exact.noise import Lines, lines_of
from bnnflow.ir import Affine, Domain, Index, Node, Op, Table

__all__ = ["output"]

HEAD_BITS = 24  # width of a rounded output: what a float32 carries
HEAD_TABLE = 2**16  # entries of all channels of an output that needs a table


def output(builder: GraphBuilder, value: FloatTensor, wanted: Domain | None, taken: Sequence[str]) -> str:
    """Name of an output node of its own: never an input, never twice the same."""
    node = _head(builder, value, wanted)
    if node.traits.outside or node.name in taken:
        node = builder.add(f"{node.name}_out", Op.GATHER, [node], node.shape, node.domain, Index(np.arange(node.size)))
    return node.name


def _head(builder: GraphBuilder, value: FloatTensor, wanted: Domain | None) -> Node:
    """The node of an output: quantised codes as they are, an affine epilogue as AFFINE, another as LUT."""
    value = _without_heads(builder, value)
    stages, reduced = value.epilogue, value.reduced
    codes = not value.floats and not (value.node.traits.adds and wanted is not None)
    if not codes and any(stage.affine is None and stage.index is None for stage in stages):
        return _rounded_table(builder, value, wanted)
    if codes or (value.floats and _changes_nothing(reduced, lines_of(reduced, stages))):
        return builder.gathered(value.node, value.source, value.shape, f"{value.node.name}_out")
    return _affine(builder, value, lines_of(reduced, stages), wanted)


def _without_heads(builder: GraphBuilder, value: FloatTensor) -> FloatTensor:
    """The value before the softmax or sigmoid at its end; a note says what was dropped."""
    stages: list[Stage] = list(value.epilogue)
    while stages and stages[-1].head:
        stage = stages.pop()
        builder.notes.append(f"{stage.layer}: {stage.head} dropped, the outputs are its logits (same order, same "
                             "argmax)")
    return FloatTensor(value.node, value.shape, tuple(stages))


def _changes_nothing(value: FloatTensor, lines: Lines) -> bool:
    """True where the lines are that of the codes themselves, and float32 holds them."""
    domain = value.node.domain
    same = all((row.scale, row.offset) == (domain.scale, domain.offset) for row in lines.rows)
    return same and not _float_noise(value, lines)


def _float_noise(value: FloatTensor, lines: Lines) -> float:
    """How far the model's float32 output is from the exact line, over all sums or 4,096 of them."""
    d = value.node.domain
    sums = np.unique(np.linspace(d.lo, d.hi, min(d.size, 4096)).astype(np.int64))
    reals = Epilogue(value, Levels(d, ()), "output").reals(sums[:, None])
    scale, offset = np.array([(float(row.scale), float(row.offset)) for row in lines.rows])[lines.which].T
    exact = scale * sums[:, None] + offset
    return float(np.abs(reals - exact).max())


def _affine(builder: GraphBuilder, value: FloatTensor, lines: Lines, wanted: Domain | None) -> Node:
    """value = scale * code + offset, rounded once to a fixed-point type."""
    layer = value.floats[-1] if value.floats else value.node.name
    noise = _output_noise(builder, value, lines, layer)
    source, mul, add = _codes_and_lines(value.node.domain, lines)
    ends = [m * e + a for m, a in zip(mul, add) for e in (source.lo, source.hi)]
    out, exact = _head_type([*mul, *add], min(ends), max(ends), wanted, layer)
    few, shift = _integers(mul, add, source, out, exact)
    reach = [(int(m) * e + int(a)) >> shift for m, a in few for e in (source.lo, source.hi)]
    if not (out.lo <= min(reach) and max(reach) <= out.hi):
        raise Refusal(f"layer {layer!r}: outputs reach {float(max(ends)):g}, past {out.type_name}")
    _note_rounding(builder, layer, out, exact, noise)

    def params(rows: NDArray[np.int64]) -> Affine:
        return Affine(rows[:, 0].copy(), rows[:, 1].copy(), shift)

    return builder.apply(value, few[lines.which], Op.AFFINE, out, f"{layer}_out", params)


def _integers(mul: list[Fraction], add: list[Fraction], source: Domain, out: Domain,
              exact: bool) -> tuple[NDArray[np.int64], int]:
    """(rows of m, a; shift) such that floor((m*x + a) / 2^shift) is the code in `out` of mul*x + add, x in `source`.

    Where `exact`, shift is 0; else m and a are rounded to 2^-shift of a unit, and half a unit is in `a`.
    """
    shift = 0 if exact else 8 + max(abs(source.lo), abs(source.hi)).bit_length()
    half = Fraction(0) if exact else Fraction(1, 2)
    unit = out.scale / 2**shift
    rows = [(round(m / unit), round(a / unit + half * 2**shift)) for m, a in zip(mul, add)]
    return np.array(rows, np.int64), shift


def _output_noise(builder: GraphBuilder, value: FloatTensor, lines: Lines, layer: str) -> float:
    """How far the model's float32 output may be from the real value: as measured, and what its sum was off."""
    noise, d = _float_noise(value.reduced, lines), value.node.domain
    if not np.isfinite(noise):
        raise Refusal(f"layer {layer!r}: {builder.framework.genitive} own output is not finite; its variance, epsilon "
                      "or gamma is out of range")
    if value.real:
        noise += float(max(row.off_by(end) for row in lines.rows for end in (d.lo, d.hi)))
    return noise


def _codes_and_lines(domain: Domain, lines: Lines) -> tuple[Domain, list[Fraction], list[Fraction]]:
    """(domain of the codes, scales, offsets); of a constant, whatever its scale, all is offset."""
    mul, add = [row.scale for row in lines.rows], [row.offset for row in lines.rows]
    if domain.lo != domain.hi:
        return domain, mul, add
    return Domain(0, 0), [Fraction(0)] * len(mul), [m * domain.lo + a for m, a in zip(mul, add)]


def _rounded_table(builder: GraphBuilder, value: FloatTensor, wanted: Domain | None) -> Node:
    """An output behind a float activation: the model's float32 values over the whole range, rounded once."""
    layer, d = value.floats[-1], value.node.domain
    value, whole = value.reduced, value
    entries = d.size * value.shape[-1]
    if d.size > TABLE or entries > HEAD_TABLE:
        raise Refusal(f"layer {layer!r}: an output behind a float activation needs a table of {entries} entries, at "
                      f"most {HEAD_TABLE}; quantise it, or end the model before it")
    reals = Epilogue(value, Levels(d, ()), layer).reals(np.arange(d.lo, d.hi + 1)[:, None])
    if not np.isfinite(reals).all():
        raise Refusal(f"layer {layer!r}: an output is not finite; end the model before it")
    found = dyadic(reals)
    fractions = [Fraction(1)] if found is None else [found[1]]
    out, exact = _head_type(fractions if found is not None else [Fraction(1, 3)], Fraction(float(reals.min())),
                            Fraction(float(reals.max())), wanted, layer)
    codes = np.rint(reals / float(out.scale)).astype(np.int64).T
    ulps = max(stage.ulps for stage in value.epilogue)
    noise = ulps * float(np.spacing(np.float32(np.abs(reals).max())))
    _note_rounding(builder, layer, out, exact and not ulps, noise)
    return builder.apply(whole, codes, Op.LUT, out, f"{layer}_out", Table)


def _note_rounding(builder: GraphBuilder, layer: str, out: Domain, exact: bool, noise: float) -> None:
    """Say how far an output is from the real value, and how far the model's own float32 is (`noise`, as measured)."""
    text = f"outputs are exact in {out.type_name}"
    if not exact:
        bound = float(out.scale) * (0.5 + 2**-7)
        text = f"outputs are rounded to {out.type_name}: within {bound:.3g} of the real value"
    off = f"; {builder.framework.genitive} float32 is up to {noise:.3g} off that" if noise else ""
    builder.notes.append(f"{layer}: {text}{off}")


def _head_type(numbers: list[Fraction], low: Fraction, high: Fraction, wanted: Domain | None,
               layer: str) -> tuple[Domain, bool]:
    """The fixed-point type of an output of this range, and whether integer multiples of `numbers` need no rounding."""
    binary = all(x.denominator & (x.denominator - 1) == 0 for x in numbers)
    if wanted is None:
        return _smallest_type(max(x.denominator for x in numbers), binary, low, high)
    if not (wanted.scale * wanted.lo <= low and high <= wanted.scale * wanted.hi):
        raise Refusal(f"layer {layer!r}: outputs span {float(low):g} to {float(high):g}, which {wanted.type_name} does "
                      f"not hold; use more integer bits, {as_given(output_type=_wider(wanted, low, high))}")
    return wanted, binary and all((x / wanted.scale).denominator == 1 for x in numbers)


def _wider(wanted: Domain, low: Fraction, high: Fraction) -> str:
    """The type with enough integer bits for a range, and as many fraction bits as before or as HEAD_BITS leave."""
    integer = max(_integer_bits(low), _integer_bits(high))
    fraction = min(wanted.fraction_bits or 0, HEAD_BITS - integer)
    return f"fixed<{max(1, integer + fraction)},{integer}>"


def _smallest_type(finest: int, binary: bool, low: Fraction, high: Fraction) -> tuple[Domain, bool]:
    """The smallest type with the unit 1/finest, a power of two where `binary`, that holds a range; where it has more
    than HEAD_BITS bits, one that rounds. And whether it needs no rounding.
    """
    integer, fraction = max(_integer_bits(low), _integer_bits(high)), finest.bit_length() - 1
    exact = binary and integer + fraction <= HEAD_BITS
    scale = Fraction(1, finest) if exact else Fraction(2) ** (integer - HEAD_BITS)
    width = max(1, integer + fraction) if exact else HEAD_BITS
    return Domain(-(2 ** (width - 1)), 2 ** (width - 1) - 1, scale), exact


def _integer_bits(x: Fraction) -> int:
    """I of a signed fixed<W,I> whose range, one unit short of 2^(I-1) at the top, holds x; at least 1."""
    whole = abs(x.numerator) // x.denominator
    return max(1, (whole + 1).bit_length() + 1)
