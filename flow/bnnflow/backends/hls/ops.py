"""EMIT_HLS: how each op becomes a call of a kernel in hls_templates/nnet_utils, with its configuration and ROMs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from bnnflow.backends.hls.kernel_call import KernelCall, ints, wide
from bnnflow.backends.hls.sums import dot, maximum
from bnnflow.ir import Affine, Index, Node, Op, Steps, Sum, Table
from bnnflow.ir.evaluate import EVAL

__all__ = ["EMIT_HLS"]


def _gather(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    """One input: wires. Several: every input places its part."""
    assert isinstance(node.params, Index)
    flat, header = node.params.flat, "nnet_flow_gather.h"
    if len(sources) == 1:
        return [KernelCall("flow_gather", header, {"n_in": str(sources[0].size), "n_out": str(node.size)},
                         roms=(("int", "index", ints(flat)),))]
    first, second = sources
    members = {"n_in": str(first.size), "n_in1": str(second.size), "n_out": str(node.size)}
    return [KernelCall("flow_join", header, members, roms=(("int", "index", ints(flat)),), reads=(0, 1))]


def _add(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    p = node.params
    assert isinstance(p, Sum)
    largest = [max(abs(x.domain.lo), abs(x.domain.hi), 1) for x in sources]
    reach = abs(p.constant) + sum(abs(int(s)) * x for s, x in zip(p.scale, largest))
    kernel, reads = ("flow_add", (0, 1)) if len(sources) == 2 else ("flow_scale", (0,))
    types = {"sum_t": f"ap_int<{reach.bit_length() + 1}>"}
    roms = (("long long", "scale", wide(p.scale)), ("long long", "constant", [f"{p.constant}LL"]))
    return [KernelCall(kernel, "nnet_flow_add.h", {"n_in": str(node.size)}, types, roms, reads)]


def _lut(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    p, (source,) = node.params, sources
    assert isinstance(p, Table)
    members = {"n_in": str(node.size), "n_chan": str(len(p.codes)), "n_code": str(source.domain.size),
               "lowest": str(source.domain.lo)}
    return [KernelCall("flow_lut", "nnet_flow_lut.h", members, roms=(("int", "table", ints(p.codes)),))]


def _window(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    """Taps that are read otherwise than by sums and maxima: wires."""
    (source,) = sources
    places = EVAL[Op.WINDOW](node, [np.arange(source.size).reshape(1, *source.shape)], [source])
    return _gather(replace(node, params=Index(places.ravel())), sources)


def _step(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    p, (source,) = node.params, sources
    assert isinstance(p, Steps)
    members = {"n_in": str(node.size), "n_chan": str(len(p.start)), "n_threshold": str(p.thresholds.shape[1])}
    if p.thresholds.shape[1] == 0:
        return [KernelCall("flow_constant", "nnet_flow_step.h", members, roms=(("int", "start", ints(p.start)),))]
    # A threshold past the input's range is never reached; clipping keeps the comparators as narrow as the input.
    thresholds = np.clip(p.thresholds, source.domain.lo, source.domain.hi + 1)
    kind = "int" if np.abs(thresholds).max() < 2**31 else "long long"
    values = ints(thresholds) if kind == "int" else wide(thresholds)
    return [KernelCall("flow_step", "nnet_flow_step.h", members, {"threshold_t": kind}, (
        ("int", "start", ints(p.start)), ("int", "sign", ints(p.sign)), (kind, "thresholds", values),
    ))]


def _affine(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    p, (source,) = node.params, sources
    assert isinstance(p, Affine)
    reach = max(abs(int(m)) * max(abs(source.domain.lo), abs(source.domain.hi)) + abs(int(a))
                for m, a in zip(p.mul, p.add))
    members = {"n_in": str(node.size), "n_chan": str(len(p.mul)), "shift": str(p.shift)}
    return [KernelCall("flow_affine", "nnet_flow_affine.h", members, {"product_t": f"ap_int<{reach.bit_length() + 1}>"},
                     (("long long", "mul", wide(p.mul)), ("long long", "add", wide(p.add))))]


def _argmax(node: Node, sources: Sequence[Node]) -> list[KernelCall]:
    members = {"n_in": str(node.size), "n_chan": str(sources[0].shape[-1])}
    return [KernelCall("flow_argmax", "nnet_flow_argmax.h", members)]


# INPUT is hls4ml's own Input layer.
EMIT_HLS: dict[Op, Callable[[Node, Sequence[Node]], list[KernelCall]] | None] = {
    Op.INPUT: None, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: dot, Op.ADD: _add, Op.MAX: maximum, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}
