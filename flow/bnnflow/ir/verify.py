"""RULES: what each op accepts, and the shape and domain it yields; checked whenever a graph is made or loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from bnnflow.errors import InputError
from bnnflow.ir.domain import Domain
from bnnflow.ir.nodes import (
    PARAMS,
    Affine,
    Dataflow,
    Index,
    Int,
    Node,
    Op,
    Steps,
    Sum,
    Table,
    Weights,
    Window,
    is_clean,
)

__all__ = ["RULES", "at_borders", "dot_domain", "specification", "verify"]

# Sums, products and thresholds stay below 2^62, so that int64 arithmetic in EVAL cannot overflow.
LIMIT = 2**62
# Elements of the largest tensor that a graph may declare: an untrusted file must not make us allocate more.
MAX_ELEMENTS = 2**26
MAX_TABLE = 2**16  # entries of a LUT, per channel
MAX_BORDERS = 2**28  # classes of borders times taps times outputs of a DOT behind a padded WINDOW

Yield = tuple[tuple[int, ...], Domain]
Rule = Callable[[Node, Sequence[Node]], Yield]


def _need(condition: bool, node: Node, message: str) -> None:
    if not condition:
        raise InputError(f"graph node {node.name!r} ({node.op.value}): {message}")


def _integers(node: Node, **arrays: tuple[object, tuple[int, ...]]) -> None:
    for name, (array, shape) in arrays.items():
        _need(isinstance(array, np.ndarray) and array.dtype == np.int64, node, f"{name} must be an int64 array")
        assert isinstance(array, np.ndarray)
        _need(array.shape == shape, node, f"{name} has shape {array.shape}, expected {shape}")
        _need(not array.size or (int(array.min()) > -LIMIT and int(array.max()) < LIMIT), node, f"{name} beyond 2^62")


def _input(node: Node, ins: Sequence[Node]) -> Yield:
    """Codes from outside. Takes no input; shape and domain are declared; at most 24 bits, so float32 holds them."""
    _need(len(ins) == 0, node, "takes no inputs")
    _need(node.domain.bits <= 24, node, f"{node.domain.bits}-bit codes; at most 24")
    return node.shape, node.domain


def _gather(node: Node, ins: Sequence[Node]) -> Yield:
    """out.flat[i] = in.flat[index[i]] over all inputs, flattened and laid end to end: reshape, permute, repeat, crop,
    concatenate. All inputs have one domain, which passes through.
    """
    p, total = node.params, sum(x.size for x in ins)
    assert isinstance(p, Index)
    _integers(node, index=(p.flat, (node.size,)))
    _need(bool(np.all((p.flat >= 0) & (p.flat < total))), node, f"index outside 0..{total - 1}")
    _need(all(x.domain == ins[0].domain for x in ins), node, "its inputs have different domains")
    return node.shape, ins[0].domain


def _whole(values: object, rank: int, least: int) -> bool:
    """True for a tuple of `rank` integers from `least` to MAX_ELEMENTS."""
    return isinstance(values, tuple) and len(values) == rank and all(
        type(v) is int and least <= v <= MAX_ELEMENTS for v in values)


def _window(node: Node, ins: Sequence[Node]) -> Yield:
    """The taps of a kernel at every position of an image: (*spatial, C) -> (*positions, groups * taps * C/groups).

    The last axis is ordered (group, tap in row-major order of the kernel, channel within the group). A tap outside the
    image is absent: it holds the code nearest to 0, and only DOT and MAX, which ignore it, may read a node that has
    absent taps. The domain passes through.
    """
    (x,), p = ins, node.params
    assert isinstance(p, Window)
    rank = len(x.shape) - 1
    _need(rank in (1, 2), node, f"reads shape {x.shape}; it takes (length, channels) or (rows, columns, channels)")
    _check_axes(node, p, rank)
    _need(_whole(p.size, rank, 1) and p.size == x.shape[:-1], node, f"size {p.size} is not that of {x.shape}")
    _need(_divides(p.groups, x.shape[-1]), node, f"groups {p.groups} must divide {x.shape[-1]} channels")
    outer = [n + sum(pad) for n, pad in zip(p.size, p.pads)]
    _need(prod(outer) * x.shape[-1] <= MAX_ELEMENTS, node, f"padded to {outer}, larger than 2^26 elements")
    _need(min(p.positions) > 0, node, f"kernel {p.kernel} does not fit into {p.size} with pads {p.pads}")
    return (*p.positions, p.taps * x.shape[-1]), x.domain


def _check_axes(node: Node, p: Window, rank: int) -> None:
    """Kernel, strides, dilation and pads are whole numbers for each of `rank` spatial axes."""
    whole = _whole(p.kernel, rank, 1) and _whole(p.strides, rank, 1) and _whole(p.dilation, rank, 1)
    _need(whole, node, "kernel, strides and dilation must be positive integers, one per spatial axis")
    _need(isinstance(p.pads, tuple) and len(p.pads) == rank and all(_whole(pad, 2, 0) for pad in p.pads), node,
          "pads must be two integers from 0 on per spatial axis")


def _divides(groups: object, *counts: int) -> bool:
    """True for a positive integer that divides all of `counts`."""
    return type(groups) is int and groups > 0 and all(count % groups == 0 for count in counts)


def dot_domain(x: Domain, weights: Weights, window: Window | None = None) -> Domain:
    """The domain of a DOT: the bounds of its sums, by interval arithmetic, over all channels.

    Behind a padded `window` they are also over all classes of positions with the same present taps. Sums are made of
    Python integers where int64 could overflow.
    """
    w = weights.effective
    a, b = x.numerator
    ends = (a * x.lo + b, a * x.hi + b)
    largest = int(np.abs(w).max(initial=0)) * len(w) * max(map(abs, ends))
    kind: type = np.int64 if largest < LIMIT else object
    parts: list[Int] = [np.where(part, w, 0).astype(kind) for part in (w > 0, w < 0)]
    if window is None or not window.padded:
        up, down = (part.sum(axis=0, keepdims=True) for part in parts)
    else:
        up, down = (at_borders(part, weights.groups, window) for part in parts)
    hi = max((up * ends[1] + down * ends[0]).ravel().tolist(), default=0)
    lo = min((up * ends[0] + down * ends[1]).ravel().tolist(), default=0)
    return Domain(int(lo), int(hi), x.unit)


def at_borders(levels: Int, groups: int, window: Window) -> Int:
    """Sums of levels (inputs/groups, outputs) over the present taps only: (classes of `Window.borders`, outputs)."""
    channels = len(levels) * groups
    layout = (window.groups, window.taps, channels // (window.groups * window.taps))
    tap = np.broadcast_to(np.arange(window.taps)[:, None], layout).reshape(groups, -1)  # of every input of every group
    per_group = np.split(levels, groups, axis=1) if groups > 1 else [levels]
    classes = window.borders
    sums = []
    for taps, part in zip(tap, per_group):
        per_tap = np.zeros((window.taps, part.shape[1]), part.dtype)
        np.add.at(per_tap, taps, part)
        sums.append(classes.astype(part.dtype) @ per_tap)
    return np.concatenate(sums, axis=1)


def _dot(node: Node, ins: Sequence[Node]) -> Yield:
    """Sum over the last axis (over a slice of it where there are groups) of integers times levels.

    With the input's value = unit * (a*code + b), out[..., j] = sum_i level[i, j] * (a*code[..., i] + b). Absent
    connections and absent taps are skipped. The scale of the sum is declared: it is the input's unit times the real
    value of one level, which is (scale of the sum) / (unit of the input). The offset is 0.
    """
    (x,), p = ins, node.params
    assert isinstance(p, Weights)
    _check_weights(node, p, x.shape[-1])
    outputs, window = p.levels.shape[1], x.params if isinstance(x.params, Window) else None
    if window is not None and window.padded:
        cost = len(window.borders) * window.taps * outputs
        _need(cost <= MAX_BORDERS, node, f"{cost} level sums at borders; at most {MAX_BORDERS}")
    bound = dot_domain(x.domain, p, window)
    _need(bound.lo > -LIMIT and bound.hi < LIMIT, node, f"sum {bound.lo}..{bound.hi} beyond 2^62")
    return (*x.shape[:-1], outputs), Domain(bound.lo, bound.hi, node.domain.scale)


def _check_weights(node: Node, p: Weights, inputs: int) -> None:
    """Levels and mask fit a last axis of `inputs` elements, and the groups divide both sides."""
    _need(isinstance(p.levels, np.ndarray) and p.levels.ndim == 2, node, "levels must be (inputs/groups, outputs)")
    outputs = p.levels.shape[1]
    _need(_divides(p.groups, inputs, outputs), node,
          f"groups {p.groups} must divide {inputs} inputs and {outputs} outputs")
    _integers(node, levels=(p.levels, (inputs // p.groups, outputs)))
    _need(isinstance(p.mask, np.ndarray) and p.mask.dtype == bool and p.mask.shape == p.levels.shape, node,
          "mask must be bool, of the shape of levels")


def _max(node: Node, ins: Sequence[Node]) -> Yield:
    """The largest code over the taps of a WINDOW with one channel a group: (*positions, C * taps) -> (*positions, C).

    Absent taps are ignored; every position has one that is present. Codes order like values (scale > 0), so this is
    the largest value; the domain passes through.
    """
    (x,), window = ins, ins[0].params
    _need(isinstance(window, Window), node, "reads the taps of a window")
    assert isinstance(window, Window)
    _need(window.groups * window.taps == x.shape[-1], node, "its window must have one channel a group")
    _need(bool(window.valid.any(axis=1).all()), node, "a position of its window has no tap inside the image")
    return (*x.shape[:-1], window.groups), x.domain


def _add(node: Node, ins: Sequence[Node]) -> Yield:
    """One or two inputs of one shape: code = sum of scale[i] * code_i, plus constant.

    The scale of its domain is declared, the offset is 0.
    """
    p = node.params
    assert isinstance(p, Sum)
    _need(len(ins) <= 2 and all(x.shape == ins[0].shape for x in ins), node, "takes one or two inputs of one shape")
    _integers(node, scale=(p.scale, (len(ins),)))
    _need(isinstance(p.constant, int) and abs(p.constant) < LIMIT, node, "constant must be an integer below 2^62")
    ends = [sorted((int(s) * x.domain.lo, int(s) * x.domain.hi)) for s, x in zip(p.scale, ins)]
    lo, hi = (p.constant + sum(e[k] for e in ends) for k in (0, 1))
    _need(lo > -LIMIT and hi < LIMIT, node, f"sum {lo}..{hi} beyond 2^62")
    return ins[0].shape, Domain(lo, hi, node.domain.scale)


def _lut(node: Node, ins: Sequence[Node]) -> Yield:
    """Per channel (last axis) or for all: code = codes[channel, x - lo], a table over the input's whole domain.

    The domain is declared and holds every code of the table.
    """
    (x,), p = ins, node.params
    assert isinstance(p, Table)
    _need(x.domain.size <= MAX_TABLE, node, f"a table over {x.domain.size} codes; at most {MAX_TABLE}")
    _need(p.codes.ndim == 2 and p.codes.shape[0] in (1, x.shape[-1]), node, "codes must be (channels or 1, size)")
    _integers(node, codes=(p.codes, (p.codes.shape[0], x.domain.size)))
    lo, hi = int(p.codes.min()), int(p.codes.max())
    _need(node.domain.lo <= lo and hi <= node.domain.hi, node, f"codes {lo}..{hi} outside its domain {node.domain}")
    return x.shape, node.domain


def _step(node: Node, ins: Sequence[Node]) -> Yield:
    """Per channel (last axis): code = start + sign * #{k : x >= thresholds[k]}.

    Thresholds ascend, so codes rise with x where sign is +1 and fall where it is -1. The domain is declared and holds
    every code that the input's range reaches.
    """
    (x,), p = ins, node.params
    assert isinstance(p, Steps)
    channels, count = x.shape[-1], p.thresholds.shape[-1]
    _integers(node, start=(p.start, (channels,)), sign=(p.sign, (channels,)),
              thresholds=(p.thresholds, (channels, count)))
    if p.margin is not None:
        _integers(node, margin=(p.margin, (channels, count, 2)))
    _need(bool(np.isin(p.sign, (-1, 1)).all()), node, "sign must be +1 or -1")
    _need(bool((np.diff(p.thresholds, axis=1) >= 0).all()), node, "thresholds must ascend within each channel")
    # Codes that the input's range can reach, not those of thresholds beyond it.
    first = p.start + p.sign * (p.thresholds <= x.domain.lo).sum(axis=1)
    last = p.start + p.sign * (p.thresholds <= x.domain.hi).sum(axis=1)
    lo, hi = int(min(first.min(), last.min())), int(max(first.max(), last.max()))
    _need(node.domain.lo <= lo and hi <= node.domain.hi, node, f"codes {lo}..{hi} outside its domain {node.domain}")
    return x.shape, node.domain


def _affine(node: Node, ins: Sequence[Node]) -> Yield:
    """Per channel (last axis): code = floor((mul*x + add) / 2^shift). Lowering rounded once, when it chose mul and add.

    It is an output of the graph, or read by ARGMAX. The domain is declared and holds every code that is reached.
    """
    (x,), p = ins, node.params
    assert isinstance(p, Affine)
    channels = x.shape[-1]
    _integers(node, mul=(p.mul, (channels,)), add=(p.add, (channels,)))
    _need(isinstance(p.shift, int) and 0 <= p.shift < 62, node, "shift must be 0..61")
    ends = [int(m) * e + int(a) for m, a in zip(p.mul, p.add) for e in (x.domain.lo, x.domain.hi)]
    _need(min(ends) > -LIMIT and max(ends) < LIMIT, node, "product beyond 2^62")
    lo, hi = min(ends) >> p.shift, max(ends) >> p.shift
    _need(node.domain.lo <= lo and hi <= node.domain.hi, node, f"codes {lo}..{hi} outside its domain {node.domain}")
    return x.shape, node.domain


def _argmax(node: Node, ins: Sequence[Node]) -> Yield:
    """The place of the largest code of the last axis, the first of equal ones: (*spatial, C) -> (*spatial, 1)."""
    (x,) = ins
    return (*x.shape[:-1], 1), Domain(0, x.shape[-1] - 1)


RULES: dict[Op, Rule] = {
    Op.INPUT: _input, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


def verify(graph: Dataflow) -> None:
    """Check a graph against RULES, whatever its source; raises InputError that names the node."""
    seen: dict[str, Node] = {}
    taken: set[str] = set()  # names in lower case
    for node in graph.nodes:
        _check_declaration(node, taken)
        _check_inputs(node, seen)
        _check_rule(node, [seen[name] for name in node.inputs])
        seen[node.name] = node
        taken.add(node.name.lower())
    _check_ends(graph, seen)


def _check_declaration(node: Node, taken: set[str]) -> None:
    """What a node says of itself: a clean new name, a shape, parameters of its op."""
    _need(is_clean(node.name), node, "a name is a letter, then letters, digits or _, 64 at most")
    _need(node.name.lower() not in taken, node, "the name is taken")
    _need(bool(node.shape) and all(isinstance(n, int) and n > 0 for n in node.shape), node, f"shape {node.shape}")
    _need(prod(node.shape) <= MAX_ELEMENTS, node, f"shape {node.shape} is larger than 2^26 elements")
    _need(type(node.params) is PARAMS[node.op], node, f"parameters must be {PARAMS[node.op].__name__}")


def _check_inputs(node: Node, seen: dict[str, Node]) -> None:
    """The tensors that a node reads: as many as its op takes, defined before it, and such as it may read."""
    many, count = node.traits.joins, len(node.inputs)
    _need(node.traits.outside or count == 1 or (many and count > 0), node,
          f"takes {'at least' if many else 'exactly'} one input")
    for name in node.inputs:
        _need(name in seen, node, f"reads {name!r}, which is not defined before it")
        _need(not seen[name].traits.ends or node.op is Op.ARGMAX, node,
              f"reads {name!r}: an affine node is an output, or read by argmax")
        _need(node.traits.taps or not _has_absent_taps(seen[name]), node,
              f"reads {name!r}, which has absent taps; only dot and max ignore them")


def _check_rule(node: Node, sources: Sequence[Node]) -> None:
    """The rule of the op gives the shape and domain that the node declares."""
    shape, domain = RULES[node.op](node, sources)
    _need(shape == node.shape, node, f"declares shape {node.shape}, the rule gives {shape}")
    _need(domain == node.domain, node, f"declares {node.domain}, the rule gives {domain}")


def _check_ends(graph: Dataflow, seen: dict[str, Node]) -> None:
    """The graph has outputs, all different and without absent taps, and an input."""
    if not graph.outputs or len(set(graph.outputs)) != len(graph.outputs) or not set(graph.outputs) <= set(seen):
        raise InputError(f"graph outputs {graph.outputs} are not different nodes of the graph")
    for name in graph.outputs:
        _need(not _has_absent_taps(seen[name]), seen[name], "has absent taps and cannot be an output")
    if not graph.inputs:
        raise InputError("the graph has no input")


def _has_absent_taps(node: Node) -> bool:
    return isinstance(node.params, Window) and node.params.padded


def specification() -> str:
    """docs/ir.md: the text of the specification, made from RULES and the parameter classes."""
    lines = [
        "# The integer graph",
        "",
        "Generated from `flow/bnnflow/ir/verify.py` by `python scripts/make_docs.py`; a test compares the two.",
        "",
        "Every node is one tensor of integer codes in a domain: code `c` in `lo..hi` stands for the real number",
        "`scale*c + offset` (exact rationals). `unit` is the largest rational of which scale and offset are integer",
        "multiples, so that value = unit * (a*code + b) with integers a and b. Channels are the last axis. In",
        "evaluation a batch axis comes first. All arithmetic is on int64 and proven to stay below 2^62.",
        "",
    ]
    for op, rule in RULES.items():
        doc, params = rule.__doc__ or "", PARAMS[op]
        lines += [f"## {op.name}", "", *[line.strip() for line in doc.strip().splitlines()], ""]
        if params is not type(None):
            lines += ["Parameters: " + " ".join((params.__doc__ or "").split()), ""]
    return "\n".join(lines)
