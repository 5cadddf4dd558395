"""Outputs: quantised codes as they are, an affine epilogue rounded once, another as a table; softmax, sigmoid dropped."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import SHAKE, TABLE, Epilogue, FloatTensor
from bnnflow.exact.levels import Levels, Refusal, dyadic
from bnnflow.exact.reals import Lines, lines_of
from bnnflow.ir import Affine, Domain, Index, Node, Op, Table

__all__ = ["output"]

HEAD_BITS = 24  # width of a rounded output: what a float32 carries
HEAD_TABLE = 2**16  # entries of all channels of an output that needs a table


def output(state: GraphBuilder, value: FloatTensor, wanted: Domain | None, taken: Sequence[str]) -> str:
    """Name of an output node of its own: never an input, never twice the same."""
    node = _head(state, value, wanted)
    if node.op is Op.INPUT or node.name in taken:
        node = state.add(f"{node.name}_out", Op.GATHER, [node], node.shape, node.domain, Index(np.arange(node.size)))
    return node.name


def _head(state: GraphBuilder, value: FloatTensor, wanted: Domain | None) -> Node:
    """An output: quantised codes as they are, an affine epilogue as AFFINE, another as LUT; softmax, sigmoid dropped."""
    epilogue = list(value.epilogue)
    while epilogue and epilogue[-1].head:
        stage = epilogue.pop()
        state.notes.append(f"{stage.layer}: {stage.head} dropped, the outputs are its logits (same order, same argmax)")
    value = FloatTensor(value.node, value.shape, tuple(epilogue))
    if value.node.op in (Op.DOT, Op.ADD) and not value.floats and wanted is not None:
        return _affine(state, value, lines_of(value.reduced, epilogue), wanted)
    if not value.floats:
        return state.gathered(value.node, value.source, value.shape, f"{value.node.name}_out")
    if any(stage.affine is None and stage.index is None for stage in epilogue):
        return _rounded_table(state, value, wanted)
    lines, domain = lines_of(value.reduced, epilogue), value.node.domain
    same = all((row.scale, row.offset) == (domain.scale, domain.offset) for row in lines.rows)
    if same and not _float_noise(value.reduced, lines):
        return state.gathered(value.node, value.source, value.shape, f"{value.node.name}_out")
    return _affine(state, value, lines, wanted)


def _float_noise(value: FloatTensor, lines: Lines) -> float:
    """How far Keras' float32 output is from the exact line, over all sums or 4,096 of them."""
    d = value.node.domain
    sums = np.unique(np.linspace(d.lo, d.hi, min(d.size, 4096)).astype(np.int64))
    reals = Epilogue(value, Levels(d, ()), "output").reals(sums[:, None])
    scale, offset = np.array([(float(row.scale), float(row.offset)) for row in lines.rows])[lines.which].T
    exact = scale * sums[:, None] + offset
    return float(np.abs(reals - exact).max())


def _affine(state: GraphBuilder, value: FloatTensor, lines: Lines, wanted: Domain | None) -> Node:
    """value = scale * code + offset, rounded once to a fixed-point type."""
    source, layer = value.node.domain, value.floats[-1] if value.floats else value.node.name
    noise = _float_noise(value.reduced, lines)
    if not np.isfinite(noise):
        raise Refusal(f"layer {layer!r}: Keras' own output is not finite; its variance, epsilon or gamma is out of "
                      "range")
    if value.real:
        noise += float(max(row.off_by(end) for row in lines.rows for end in (source.lo, source.hi)))
    mul, add = [row.scale for row in lines.rows], [row.offset for row in lines.rows]
    if source.lo == source.hi:  # a constant: whatever its scale, it is all offset
        add, mul = [m * source.lo + a for m, a in zip(mul, add)], [Fraction(0)] * len(mul)
        source = Domain(0, 0)
    ends = [m * e + a for m, a in zip(mul, add) for e in (source.lo, source.hi)]
    out, exact = _head_type([*mul, *add], min(ends), max(ends), wanted, layer)
    # code = floor((m*x + a) / 2^shift) with m, a rounded to 2^-shift of a unit; half a unit is in `a`.
    shift = 0 if exact else 8 + max(abs(source.lo), abs(source.hi)).bit_length()
    half = Fraction(0) if exact else Fraction(1, 2)
    unit = out.scale / 2**shift
    few = np.array([(round(m / unit), round(a / unit + half * 2**shift)) for m, a in zip(mul, add)], np.int64)
    reach = [(int(m) * e + int(a)) >> shift for m, a in few for e in (source.lo, source.hi)]
    if not (out.lo <= min(reach) and max(reach) <= out.hi):
        raise Refusal(f"layer {layer!r}: outputs reach {float(max(ends)):g}, past {out.type_name}")
    rows = few[lines.which]
    _note_rounding(state, layer, out, exact, noise)

    def params(rows: NDArray[np.int64]) -> Affine:
        return Affine(rows[:, 0].copy(), rows[:, 1].copy(), shift)

    return state.apply(value, rows, Op.AFFINE, out, f"{layer}_out", params)


def _rounded_table(state: GraphBuilder, value: FloatTensor, wanted: Domain | None) -> Node:
    """An output behind a float activation: Keras' float32 values over the whole range, rounded once."""
    layer, d = value.floats[-1], value.node.domain
    value, whole = value.reduced, value
    entries = d.size * value.shape[-1]
    if d.size > TABLE or entries > HEAD_TABLE:
        raise Refusal(f"layer {layer!r}: an output behind a float activation needs a table of {entries} entries, at "
                      f"most {HEAD_TABLE}; quantise it, or end the model before it")
    reals = Epilogue(value, Levels(d, ()), layer).reals(np.arange(d.lo, d.hi + 1)[:, None])
    if not np.isfinite(reals).all():
        raise Refusal(f"layer {layer!r}: an output is not finite")
    found = dyadic(reals)
    fractions = [Fraction(1)] if found is None else [found[1]]
    out, exact = _head_type(fractions if found is not None else [Fraction(1, 3)], Fraction(float(reals.min())),
                            Fraction(float(reals.max())), wanted, layer)
    codes = np.rint(reals / float(out.scale)).astype(np.int64).T
    shaky = any(stage.shaky for stage in value.epilogue)
    _note_rounding(state, layer, out, exact and not shaky, SHAKE * float(np.spacing(np.float32(np.abs(reals).max())))
                   if shaky else 0.0)
    return state.apply(whole, codes, Op.LUT, out, f"{layer}_out", Table)


def _note_rounding(state: GraphBuilder, layer: str, out: Domain, exact: bool, noise: float) -> None:
    """Say how far an output is from the real value, and how far Keras' own float32 is (`noise`, as measured)."""
    text = f"outputs are exact in {out.type_name}"
    if not exact:
        bound = float(out.scale) * (0.5 + 2**-7)
        text = f"outputs are rounded to {out.type_name}: within {bound:.3g} of the real value"
    state.notes.append(f"{layer}: {text}" + (f"; Keras' float32 is up to {noise:.3g} off that" if noise else ""))


def _head_type(numbers: list[Fraction], low: Fraction, high: Fraction, wanted: Domain | None,
               layer: str) -> tuple[Domain, bool]:
    """The fixed-point type of an output of this range, and whether integer multiples of `numbers` need no rounding."""
    finest = max(x.denominator for x in numbers)
    dyadic_numbers = all(x.denominator & (x.denominator - 1) == 0 for x in numbers)
    if wanted is None:
        integer = max(_integer_bits(low), _integer_bits(high))
        fraction = finest.bit_length() - 1
        exact = dyadic_numbers and integer + fraction <= HEAD_BITS
        alpha = Fraction(1, finest) if exact else Fraction(2) ** (integer - HEAD_BITS)
        width = max(1, integer + fraction) if exact else HEAD_BITS
        return Domain(-(2 ** (width - 1)), 2 ** (width - 1) - 1, alpha), exact
    if not (wanted.scale * wanted.lo <= low and high <= wanted.scale * wanted.hi):
        raise Refusal(f"layer {layer!r}: outputs span {float(low):g} to {float(high):g}, which {wanted.type_name} does "
                      "not hold; use more integer bits")
    return wanted, dyadic_numbers and all((x / wanted.scale).denominator == 1 for x in numbers)


def _integer_bits(x: Fraction) -> int:
    """I of a signed fixed<W,I> whose range, one unit short of 2^(I-1) at the top, holds x; at least 1."""
    whole = abs(x.numerator) // x.denominator
    return max(1, (whole + 1).bit_length() + 1)
