"""EMIT_HLS: how each op becomes a call of a kernel in hls_templates/nnet_utils, with its configuration and ROMs.

Sums and maxima become loops over positions, folded as they are told; all others the kernel of a cell, of all elements.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bnnflow.backends.hls.folding import Folding
from bnnflow.backends.hls.kernel_call import KernelCall, Rom
from bnnflow.backends.hls.sums import dot, maximum
from bnnflow.backends.hls.types import IntType, Native, Type, code_int
from bnnflow.ir import Affine, Index, Node, Op, Steps, Sum, Table
from bnnflow.ir.evaluate import EVAL
from bnnflow.ir.ramps import NO_TIE, Ramps, ramps_of

__all__ = ["EMIT_HLS"]

FEW_CODES = 128  # of a table that every lane has in LUTs, see nnet_flow_lut.h


def _gather(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    """One input is rewired; of two inputs each writes its elements of the result."""
    assert isinstance(node.params, Index)
    flat, header = node.params.flat, "nnet_flow_gather.h"
    if len(sources) == 1:
        members = {"n_in": sources[0].size, "n_out": node.size}
        return KernelCall("flow_gather", header, members, roms=(Rom("index", Native.INT, flat),))
    first, second = sources
    members = {"n_in": first.size, "n_out": node.size}
    return KernelCall("flow_join", header, members, roms=(Rom("index", Native.INT, flat),), reads=(0, 1))


def _codes(sources: Sequence[Node]) -> dict[str, Type]:
    """The types of the codes that a kernel reads."""
    return {f"{name}_t": code_int(source.domain) for name, source in zip("xy", sources)}


def _holding(reach: int) -> IntType:
    """The type of integers from -reach to reach."""
    return IntType(reach.bit_length() + 1)


def _add(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    p = node.params
    assert isinstance(p, Sum)
    largest = [max(abs(x.domain.lo), abs(x.domain.hi), 1) for x in sources]
    reach = abs(p.constant) + sum(abs(int(s)) * x for s, x in zip(p.scale, largest))
    kernel, reads = ("flow_add", (0, 1)) if len(sources) == 2 else ("flow_scale", (0,))
    roms = (Rom("scale", Native.LONG, p.scale), Rom("constant", Native.LONG, np.array([p.constant])))
    return KernelCall(kernel, "nnet_flow_add.h", {"n_in": node.size},
                      {"sum_t": _holding(reach)} | _codes(sources), roms, reads)


def _lut(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    p, (source,) = node.params, sources
    assert isinstance(p, Table)
    members = {"n_in": node.size, "n_chan": len(p.codes), "n_code": source.domain.size, "lowest": source.domain.lo}
    table = Rom("table", Native.INT, p.codes.ravel(), shared=len(p.codes) == 1 and source.domain.size > FEW_CODES)
    return KernelCall("flow_lut", "nnet_flow_lut.h", members, _codes(sources), (table,))


def _window(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    """The taps of a WINDOW as a tensor, for a reader that is no sum or maximum: wires."""
    (source,) = sources
    places = EVAL[Op.WINDOW](node, [np.arange(source.size).reshape(1, *source.shape)], [source])
    return _gather(replace(node, params=Index(places.ravel())), sources, folding)


def _step(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    p, (source,) = node.params, sources
    assert isinstance(p, Steps)
    members = {"n_in": node.size, "n_chan": len(p.start), "n_threshold": p.thresholds.shape[1]}
    start = Rom("start", Native.INT, p.start)
    if p.thresholds.shape[1] == 0:
        return KernelCall("flow_constant", "nnet_flow_step.h", members, roms=(start,))
    ramps = ramps_of(p, source.domain)
    if ramps is not None:
        return _ramp(node, source, p, ramps)
    # A threshold past the input's range is never reached; clipping keeps the comparators as narrow as the input.
    thresholds = np.clip(p.thresholds, source.domain.lo, source.domain.hi + 1)
    kind = Native.INT if np.abs(thresholds).max() < 2**31 else Native.LONG
    roms = (start, Rom("sign", Native.INT, p.sign), Rom("thresholds", kind, thresholds.ravel()))
    return KernelCall("flow_step", "nnet_flow_step.h", members, {"threshold_t": kind} | _codes(sources), roms)


def _ramp(node: Node, source: Node, p: Steps, ramps: Ramps) -> KernelCall:
    """A STEP whose thresholds are ramps: a product or a shift each, and a comparator for every exception."""
    members = {"n_in": node.size, "n_chan": len(p.start), "n_ramp": ramps.mul.shape[1],
               "n_exception": ramps.at.shape[1], "shift": ramps.shift, "ties": int((ramps.tie != NO_TIE).any())}
    largest = max(abs(source.domain.lo), abs(source.domain.hi))
    types: dict[str, Type] = {"mul_t": _holding(int(ramps.mul.max())),
                              "product_t": _holding(int((ramps.mul * largest + abs(ramps.add)).max()))}
    roms = (Rom("start", Native.INT, p.start + p.sign * ramps.first), Rom("sign", Native.INT, p.sign),
            *(Rom(name, Native.LONG, values.ravel()) for name, values in (("mul", ramps.mul), ("add", ramps.add))),
            *(Rom(name, Native.INT, values.ravel()) for name, values in (
                ("most", ramps.count), ("tie", ramps.tie), ("exception", ramps.at), ("more", ramps.more))))
    return KernelCall("flow_ramp", "nnet_flow_ramp.h", members, types | _codes([source]), roms)


def _affine(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    p, (source,) = node.params, sources
    assert isinstance(p, Affine)
    reach = max(abs(int(m)) * max(abs(source.domain.lo), abs(source.domain.hi)) + abs(int(a))
                for m, a in zip(p.mul, p.add))
    members = {"n_in": node.size, "n_chan": len(p.mul), "shift": p.shift}
    roms = (Rom("mul", Native.LONG, p.mul), Rom("add", Native.LONG, p.add))
    return KernelCall("flow_affine", "nnet_flow_affine.h", members, {"product_t": _holding(reach)} | _codes(sources),
                      roms)


def _argmax(node: Node, sources: Sequence[Node], folding: Folding) -> KernelCall:
    members = {"n_in": node.size, "n_chan": sources[0].shape[-1]}
    return KernelCall("flow_argmax", "nnet_flow_argmax.h", members, _codes(sources))


# INPUT is hls4ml's own Input layer.
EMIT_HLS: dict[Op, Callable[[Node, Sequence[Node], Folding], KernelCall] | None] = {
    Op.INPUT: None, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: dot, Op.ADD: _add, Op.MAX: maximum, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}
