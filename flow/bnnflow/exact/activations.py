"""Quantised activations: what closes an epilogue becomes a STEP, integer thresholds, or a LUT."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import TABLE, Epilogue, FloatTensor
from bnnflow.exact.functions import Refusal
from bnnflow.exact.levels import MAX_LEVELS, Levels
from bnnflow.exact.reals import real_steps
from bnnflow.ir import Domain, Node, Op, Steps, Table
from bnnflow.ir.ramps import ramps_of

__all__ = ["close", "step_rows"]

WIDE_TABLE = 2**12  # sums up to which a wide activation that is no ramp becomes a table


def close(builder: GraphBuilder, key: str, value: FloatTensor, levels: Levels) -> Node:
    """The codes of a value whose last stage is a quantised activation, the layer `key`, with these levels.

    A STEP where they rise or fall with the sum, else a LUT. As many thresholds as MAX_LEVELS must be ramps, or of few
    sums; of more levels than that a sum may reach few.
    """
    epilogue = Epilogue(value.reduced, levels, key)
    steps = real_steps(epilogue) if value.real else epilogue.steps()
    if steps is None:
        return _tabulated(builder, key, value, epilogue)
    if steps.thresholds.shape[1] >= MAX_LEVELS and ramps_of(steps, value.node.domain) is None:
        return _wide_table(builder, key, value, epilogue, steps)
    columns = [steps.start[:, None], steps.sign[:, None], steps.thresholds]
    if steps.margin is not None:
        columns.append(steps.margin.reshape(len(steps.thresholds), -1))
        _note_ambiguous(builder, key, steps.margin)
    rows, params = np.concatenate(columns, axis=1), step_rows(steps.thresholds.shape[1])
    if levels.even:
        rows[:, 0] += levels.domain.lo
        return builder.apply(value, rows, Op.STEP, levels.domain, key, params, origin=key)
    places = builder.apply(value, rows, Op.STEP, Domain(0, len(levels.codes) - 1), f"{key}_place", params)
    table = Table(np.array([levels.codes]))
    return builder.add(key, Op.LUT, [places], places.shape, levels.domain, table, origin=key)


def step_rows(count: int) -> Callable[[NDArray[np.int64]], Steps]:
    """How rows of start, sign, `count` thresholds and, for a real-scaled sum, the margin below and above each become
    the parameters of a STEP.
    """

    def params(rows: NDArray[np.int64]) -> Steps:
        thresholds, margin = rows[:, 2 : 2 + count].copy(), rows[:, 2 + count :].copy()
        margins = margin.reshape(-1, count, 2) if margin.size else None
        return Steps(rows[:, 0].copy(), rows[:, 1].copy(), thresholds, margins)

    return params


def _note_ambiguous(builder: GraphBuilder, key: str, margin: NDArray[np.int64]) -> None:
    """Say how many thresholds have sums near them that float32 may put on the other side."""
    ambiguous, framework = margin.any(axis=2), builder.framework
    builder.notes.append(f"{key}: {int(ambiguous.sum())} of {ambiguous.size} thresholds lie within "
                         f"{framework.genitive} float32 noise of a sum; {framework.name} may differ at samples that "
                         "reach such a sum, and only there")


def _wide_table(builder: GraphBuilder, key: str, value: FloatTensor, epilogue: Epilogue, steps: Steps) -> Node:
    """Codes of more thresholds than can be compared, which lie on no line: a table."""
    entries, count = epilogue.hi - epilogue.lo + 1, steps.thresholds.shape[1]
    if entries > WIDE_TABLE or steps.margin is not None:
        raise Refusal(f"layer {key!r}: its {count} thresholds are not at even distances{_bent(value)}, and too many to "
                      f"be compared one by one (at most {MAX_LEVELS - 1}); use at most 8 bits")
    builder.notes.append(f"{key}: thresholds at uneven distances, kept as a table of {entries} entries a channel")
    sums = np.arange(epilogue.lo, epilogue.hi + 1)[:, None]
    codes = np.array(epilogue.levels.codes)[steps.start + steps.sign * steps.reached(sums)].T.copy()
    return builder.apply(value, codes, Op.LUT, epilogue.levels.domain, key, Table, origin=key)


def _bent(value: FloatTensor) -> str:
    """What makes them uneven, where float32 does: an affine stage that rounds."""
    stages = [stage for stage in value.epilogue[:-1] if stage.index is None]
    if not stages or any(stage.affine is None for stage in stages):
        return ""
    layers = ", ".join(repr(stage.layer) for stage in stages)
    return f", because float32 rounds {layers} to other sides of them"


def _tabulated(builder: GraphBuilder, key: str, value: FloatTensor, epilogue: Epilogue) -> Node:
    entries = epilogue.hi - epilogue.lo + 1
    if not epilogue.small:
        raise Refusal(f"layer {key!r}: its codes do not rise or fall with the sum, whose {entries} values are too many "
                      f"for a table ({TABLE}); use a monotone activation")
    builder.notes.append(f"{key}: not monotone, kept as a table of {entries} entries a channel")
    codes = np.array(epilogue.levels.codes)[epilogue.table()].T
    return builder.apply(value, codes, Op.LUT, epilogue.levels.domain, key, Table, origin=key)
