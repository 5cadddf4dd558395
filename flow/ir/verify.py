"""RULES: what each op accepts, and the shape and domain it yields; checked whenever a graph is made or loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from flow.errors import InputError
from flow.ir.domain import Domain
from flow.ir.graph import PARAMS, Affine, Graph, Index, Node, Op, Steps, Sum, Table, Weights, is_clean

__all__ = ["RULES", "dot_domain", "specification", "verify"]

# Sums, products and cuts stay below 2^62, so that int64 arithmetic in EVAL cannot overflow.
LIMIT = 2**62
# The largest tensor, in elements, that a graph may name; an untrusted file must not make us allocate more.
MAX_ELEMENTS = 2**26
MAX_TABLE = 2**16  # entries of a LUT, per channel

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


def dot_domain(x: Domain, weights: Weights) -> Domain:
    """The domain of a DOT: interval bounds over all channels (Python integers, they cannot overflow)."""
    w = weights.effective
    a, b = x.numerator
    ends = (a * x.lo + b, a * x.hi + b)
    up = np.where(w > 0, w, 0).sum(axis=0, dtype=object)
    down = np.where(w < 0, w, 0).sum(axis=0, dtype=object)
    hi = max((int(u) * ends[1] + int(d) * ends[0] for u, d in zip(up, down)), default=0)
    lo = min((int(u) * ends[0] + int(d) * ends[1] for u, d in zip(up, down)), default=0)
    return Domain(lo, hi, x.unit)


def _dot(node: Node, ins: Sequence[Node]) -> Yield:
    """Sum over the last axis of integer numerators times levels, absent connections skipped.

    With the input's value = unit * (a*code + b): out[..., j] = sum_i level[i, j] * (a*code[..., i] + b), and one unit
    of the sum stands for `unit` times the declared scale of the weights (out.alpha / in.unit).
    """
    (x,), p = ins, node.params
    assert isinstance(p, Weights)
    _need(p.levels.ndim == 2, node, "levels must be (inputs, outputs)")
    _integers(node, levels=(p.levels, (x.shape[-1], p.levels.shape[1])))
    _need(p.mask.dtype == bool and p.mask.shape == p.levels.shape, node, "mask must be bool, of the shape of levels")
    bound = dot_domain(x.domain, p)
    _need(bound.lo > -LIMIT and bound.hi < LIMIT, node, f"sum {bound.lo}..{bound.hi} beyond 2^62")
    return (*x.shape[:-1], p.levels.shape[1]), Domain(bound.lo, bound.hi, node.domain.alpha)


def _add(node: Node, ins: Sequence[Node]) -> Yield:
    """One or two inputs of one shape: code = sum of scale[i] * code_i, plus constant. alpha is declared, beta is 0."""
    p = node.params
    assert isinstance(p, Sum)
    _need(len(ins) <= 2 and all(x.shape == ins[0].shape for x in ins), node, "takes one or two inputs of one shape")
    _integers(node, scale=(p.scale, (len(ins),)))
    _need(isinstance(p.constant, int) and abs(p.constant) < LIMIT, node, "constant must be an integer below 2^62")
    ends = [sorted((int(s) * x.domain.lo, int(s) * x.domain.hi)) for s, x in zip(p.scale, ins)]
    lo, hi = (p.constant + sum(e[k] for e in ends) for k in (0, 1))
    _need(lo > -LIMIT and hi < LIMIT, node, f"sum {lo}..{hi} beyond 2^62")
    return ins[0].shape, Domain(lo, hi, node.domain.alpha)


def _lut(node: Node, ins: Sequence[Node]) -> Yield:
    """Per channel (last axis) or for all: code = codes[channel, x - lo], a table over the input's whole domain."""
    (x,), p = ins, node.params
    assert isinstance(p, Table)
    _need(x.domain.size <= MAX_TABLE, node, f"a table over {x.domain.size} codes; at most {MAX_TABLE}")
    _need(p.codes.ndim == 2 and p.codes.shape[0] in (1, x.shape[-1]), node, "codes must be (channels or 1, size)")
    _integers(node, codes=(p.codes, (p.codes.shape[0], x.domain.size)))
    lo, hi = int(p.codes.min()), int(p.codes.max())
    _need(node.domain.lo <= lo and hi <= node.domain.hi, node, f"codes {lo}..{hi} outside its domain {node.domain}")
    return x.shape, node.domain


def _step(node: Node, ins: Sequence[Node]) -> Yield:
    """Per channel (last axis): code = start + sign * #{k : x >= cuts[k]}, cuts ascending; rising or falling codes."""
    (x,), p = ins, node.params
    assert isinstance(p, Steps)
    channels, count = x.shape[-1], p.cuts.shape[-1]
    _integers(node, start=(p.start, (channels,)), sign=(p.sign, (channels,)), cuts=(p.cuts, (channels, count)))
    if p.slack is not None:
        _integers(node, slack=(p.slack, (channels, count, 2)))
    _need(bool(np.isin(p.sign, (-1, 1)).all()), node, "sign must be +1 or -1")
    _need(bool((np.diff(p.cuts, axis=1) >= 0).all()), node, "cuts must ascend within each channel")
    # Codes that the input's range can reach, not those of cuts beyond it.
    first = p.start + p.sign * (p.cuts <= x.domain.lo).sum(axis=1)
    last = p.start + p.sign * (p.cuts <= x.domain.hi).sum(axis=1)
    lo, hi = int(min(first.min(), last.min())), int(max(first.max(), last.max()))
    _need(node.domain.lo <= lo and hi <= node.domain.hi, node, f"codes {lo}..{hi} outside its domain {node.domain}")
    return x.shape, node.domain


def _affine(node: Node, ins: Sequence[Node]) -> Yield:
    """Per channel (last axis): code = floor((mul*x + add) / 2^shift). Outputs only; rounding was done in lowering."""
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


RULES: dict[Op, Rule] = {
    Op.INPUT: _input, Op.GATHER: _gather, Op.DOT: _dot, Op.ADD: _add, Op.STEP: _step, Op.LUT: _lut, Op.AFFINE: _affine,
}


def verify(graph: Graph) -> None:
    """Check a graph against RULES, whatever its source; raises InputError that names the node."""
    seen: dict[str, Node] = {}
    lower: set[str] = set()
    for node in graph.nodes:
        _need(is_clean(node.name), node, "a name is a letter, then letters, digits or _, 64 at most")
        _need(node.name.lower() not in lower, node, "the name is taken")
        _need(bool(node.shape) and all(isinstance(n, int) and n > 0 for n in node.shape), node, f"shape {node.shape}")
        _need(prod(node.shape) <= MAX_ELEMENTS, node, f"shape {node.shape} is larger than 2^26 elements")
        _need(type(node.params) is PARAMS[node.op], node, f"parameters must be {PARAMS[node.op].__name__}")
        many = node.op in (Op.GATHER, Op.ADD)
        _need(node.op is Op.INPUT or len(node.inputs) == 1 or (many and len(node.inputs) > 0), node,
              f"takes {'at least' if many else 'exactly'} one input")
        for name in node.inputs:
            _need(name in seen, node, f"reads {name!r}, which is not defined before it")
            _need(seen[name].op is not Op.AFFINE, node, f"reads {name!r}: an affine node is an output only")
        shape, domain = RULES[node.op](node, [seen[name] for name in node.inputs])
        _need(shape == node.shape, node, f"declares shape {node.shape}, the rule gives {shape}")
        _need(domain == node.domain, node, f"declares {node.domain}, the rule gives {domain}")
        seen[node.name] = node
        lower.add(node.name.lower())
    if not graph.outputs or len(set(graph.outputs)) != len(graph.outputs) or not set(graph.outputs) <= set(seen):
        raise InputError(f"graph outputs {graph.outputs} are not different nodes of the graph")
    if not any(node.op is Op.INPUT for node in graph.nodes):
        raise InputError("the graph has no input")


def specification() -> str:
    """docs/ir.md: the text of the specification, made from RULES and the parameter classes."""
    lines = [
        "# The integer graph",
        "",
        "Generated from `flow/ir/verify.py` by `python scripts/make_docs.py`; a test compares the two.",
        "",
        "Every node is one tensor of integer codes in a domain: code `c` in `lo..hi` stands for the real number",
        "`alpha*c + beta` (exact rationals). `unit` is the largest rational of which alpha and beta are integer",
        "multiples: value = unit * (a*code + b). Channels are the last axis. A batch axis comes first in evaluation.",
        "All arithmetic is on int64 and proven below 2^62.",
        "",
    ]
    for op, rule in RULES.items():
        doc, params = rule.__doc__ or "", PARAMS[op]
        lines += [f"## {op.name}", "", *[line.strip() for line in doc.strip().splitlines()], ""]
        if params is not type(None):
            lines += ["Parameters: " + " ".join((params.__doc__ or "").split()), ""]
    return "\n".join(lines)
