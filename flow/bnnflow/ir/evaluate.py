"""EVAL: what each op computes, exactly, on int64 codes; and the way from real values to codes and back.

EVAL is the meaning. Outputs of many samples are computed by the engine, which is compared with it.
"""

from __future__ import annotations

import mmap
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.engine.program import Program
from bnnflow.errors import InputError, Note, ToolError, as_given, choice
from bnnflow.ir.domain import Domain
from bnnflow.ir.nodes import Affine, Dataflow, Index, Int, Node, Op, Steps, Sum, Table, Weights, Window
from bnnflow.ir.packed import program, work

__all__ = ["ENGINE", "ENGINES", "EVAL", "ambiguities", "ambiguous", "check_codes", "decode", "encode", "given_codes",
           "parts", "per_input", "run", "run_given", "trace"]

CHUNK = 2**22  # elements of the largest tensor in one batch, to bound memory
PART = 2**24  # elements of what is kept of a part of the samples
ENGINE = "BNNFLOW_ENGINE"  # the variable that chooses one where the caller does not
ENGINES = ("auto", "native", "numpy")
# `work` from which on the engine is taken by itself: NumPy needs half a second for it, the engine to start as long.
WORTH = 2**32


def _gather(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    assert isinstance(node.params, Index)
    flat = [x.reshape(len(x), source.size) for x, source in zip(xs, sources)]
    together = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    return together[:, node.params.flat].reshape(len(together), *node.shape)


def _window(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    (x,), (source,), p = xs, sources, node.params
    assert isinstance(p, Window)
    outside = [(0, 0), *p.pads, (0, 0)]
    image = np.pad(x, outside, constant_values=source.domain.nearest_zero) if p.padded or np.any(p.pads) else x
    channels = source.shape[-1] // p.groups
    taps = np.empty((len(x), *p.positions, p.groups, p.taps, channels), np.int64)
    for tap, place in enumerate(np.ndindex(p.kernel)):
        first = [k * dilation for k, dilation in zip(place, p.dilation)]
        part = tuple(slice(f, f + (n - 1) * s + 1, s) for f, n, s in zip(first, p.positions, p.strides))
        taps[..., tap, :] = image[(slice(None), *part)].reshape(len(x), *p.positions, p.groups, channels)
    return taps.reshape(len(x), *node.shape)


def _dot(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    (x,), (source,), p = xs, sources, node.params
    assert isinstance(p, Weights)
    a, b = source.domain.numerator
    levels = p.effective
    # Products of integers in floats are exact, in any order, while every partial sum stays below 2^24 or 2^53.
    largest = max(abs(a * source.domain.lo + b), abs(a * source.domain.hi + b))
    bound = max(largest, 1) * max(p.l1_bound, 1)
    kind: Any = np.float32 if bound < 2**24 else np.float64 if bound < 2**53 else np.int64
    value, levels = (a * x + b).astype(kind), levels.astype(kind)
    if isinstance(source.params, Window) and source.params.padded:
        value *= source.params.present(source.shape[-1]).reshape(source.shape)
    if p.groups > 1:  # (groups, rows, inputs of one) @ (groups, inputs of one, outputs of one)
        value = np.ascontiguousarray(value.reshape(-1, p.groups, len(levels)).transpose(1, 0, 2))
        levels = np.ascontiguousarray(levels.reshape(len(levels), p.groups, -1).transpose(1, 0, 2))
        return (value @ levels).transpose(1, 0, 2).reshape(len(x), *node.shape).astype(np.int64)
    # One product of matrices: NumPy would compute a stack of them row by row of the image, which is much slower.
    return (value.reshape(-1, len(levels)) @ levels).reshape(len(x), *node.shape).astype(np.int64)


def _max(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    (x,), (source,) = xs, sources
    window = source.params
    assert isinstance(window, Window)
    x = x.reshape(len(x), -1, window.groups, window.taps)
    largest: Int = np.where(window.valid[:, None, :], x, source.domain.lo).max(axis=-1)
    return largest.reshape(len(x), *node.shape)


def _add(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    p = node.params
    assert isinstance(p, Sum)
    total = np.full(xs[0].shape, p.constant, np.int64)
    for scale, x in zip(p.scale, xs):
        total += scale * x
    return total


def _step(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    (x,), p = xs, node.params
    assert isinstance(p, Steps)
    return p.start + p.sign * p.reached(x)


def _lut(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    (x,), (source,), p = xs, sources, node.params
    assert isinstance(p, Table)
    channel = np.arange(x.shape[-1]) if len(p.codes) > 1 else 0
    picked: Int = p.codes[channel, x - source.domain.lo]
    return picked


def _affine(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    (x,), p = xs, node.params
    assert isinstance(p, Affine)
    return (p.mul * x + p.add) >> p.shift


def _argmax(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    place: Int = xs[0].argmax(axis=-1)[..., None]
    return place


def _input(node: Node, xs: Sequence[Int], sources: Sequence[Node]) -> Int:
    return xs[0]


EVAL: dict[Op, Callable[[Node, Sequence[Int], Sequence[Node]], Int]] = {
    Op.INPUT: _input, Op.GATHER: _gather, Op.WINDOW: _window, Op.DOT: _dot, Op.ADD: _add, Op.MAX: _max, Op.STEP: _step,
    Op.LUT: _lut, Op.AFFINE: _affine, Op.ARGMAX: _argmax,
}


def per_input(graph: Dataflow, arrays: Any) -> list[NDArray[Any]]:
    """One array for one input, a list, tuple or {name: array} for several -> arrays in the order of the inputs.

    Raises InputError where the number, the names or the numbers of samples do not fit.
    """
    result = [np.asarray(a) for a in _one_each(graph, arrays)]
    lengths = {len(a) for a in result if a.ndim}
    if len(lengths) > 1:
        raise InputError(f"inputs have different numbers of samples: {[len(a) for a in result]}")
    return result


def _one_each(graph: Dataflow, arrays: Any) -> Sequence[Any]:
    """What the caller gave for each input, in the order of the inputs."""
    names = [node.name for node in graph.inputs]
    if isinstance(arrays, dict):
        if set(arrays) != set(names):
            raise InputError(f"the graph's inputs are {', '.join(names)}; got {', '.join(map(str, arrays)) or 'none'}")
        return [arrays[name] for name in names]
    if len(names) == 1 and not _is_list_of_one(arrays, graph.input):
        return [arrays]
    if not isinstance(arrays, (list, tuple)) or len(arrays) != len(names):
        raise InputError(f"the graph has {len(names)} inputs ({', '.join(names)}); give a list of that many arrays")
    return arrays


def _is_list_of_one(arrays: Any, node: Node) -> bool:
    """True for a list that holds the array (n, *shape) of the input `node`; samples in a list are the array itself."""
    return isinstance(arrays, (list, tuple)) and len(arrays) == 1 and np.ndim(arrays[0]) == len(node.shape) + 1


def check_codes(graph: Dataflow, codes: Any) -> list[Int]:
    """Input codes as int64 (n, *shape), one array an input; raises InputError with the first index and value."""
    return [_checked(node, array) for node, array in zip(graph.inputs, _codes_only(graph, codes))]


def _codes_only(graph: Dataflow, codes: Any) -> list[NDArray[Any]]:
    """One array an input, of codes: raises InputError where one does not hold integers."""
    arrays = per_input(graph, codes)
    for node, array in zip(graph.inputs, arrays):
        if array.dtype.kind not in "iub":
            raise InputError(f"input {node.name!r}: codes must be integers, got {array.dtype}; "
                             "use g.encode(x) for values")
    return arrays


def _checked(node: Node, array: NDArray[Any], first: int = 0) -> Int:
    """Integers as codes of an input; `first` is the number of the first sample, for messages."""
    _check_numbers(node, array)
    _first_bad((array < node.domain.lo) | (array > node.domain.hi), array, node,
               f"is outside {node.domain.lo}..{node.domain.hi}", first)
    return array.astype(np.int64)


def _check_numbers(node: Node, array: NDArray[Any]) -> None:
    """Raises InputError where an array does not hold numbers, or not samples of an input."""
    if array.dtype.kind not in "fiub":
        raise InputError(f"input {node.name!r}: expected numbers, got {array.dtype}")
    if array.shape[1:] != node.shape or array.ndim != len(node.shape) + 1:
        raise InputError(f"input {node.name!r}: got shape {array.shape}, expected (n, {_dims(node.shape)})")


def given_codes(graph: Dataflow, x: Any, first: int = 0) -> list[Int]:
    """Checked input codes, int64 (n, *shape), of arrays that hold codes where they are integer arrays, and real values
    elsewhere; `first` is the number of the first sample, for messages.
    """
    return [_checked(node, array, first) if array.dtype.kind in "iub" else _encode(node, array, False, first)
            for node, array in zip(graph.inputs, per_input(graph, x))]


def encode(graph: Dataflow, x: Any, round: bool = False, first: int = 0) -> Any:
    """Real inputs (n, *shape), a list for several -> int64 codes of the graph's inputs, in the same form.

    A value between two codes raises InputError with its index unless `round` (half to even); a value outside the
    range always raises. NaN and infinities raise. `first` is the number of the first sample, for messages.
    """
    codes = [_encode(node, array, round, first) for node, array in zip(graph.inputs, per_input(graph, x))]
    return codes[0] if len(codes) == 1 else codes


def _encode(node: Node, x: NDArray[Any], round: bool, first: int = 0) -> Int:
    _check_numbers(node, x)
    real = x.astype(np.float64)
    _first_bad(~np.isfinite(real), x, node, "is not finite", first)
    scale, offset = node.domain.scale, node.domain.offset
    # scale is a power of two for every input type, so this division is exact.
    scaled = (real - float(offset)) / float(scale)
    codes = np.rint(scaled)
    if not round:
        _first_bad(codes != scaled, x, node, f"is not a multiple of {scale}; pass round=True to round to the grid",
                   first)
    outside = (codes < node.domain.lo) | (codes > node.domain.hi)
    low, high = (float(scale * c + offset) for c in (node.domain.lo, node.domain.hi))
    _first_bad(outside, x, node, f"is outside {node.domain.type_name}, which holds {low} to {high}", first)
    return codes.astype(np.int64)


def _first_bad(bad: NDArray[np.bool_], x: NDArray[Any], node: Node, why: str, first: int) -> None:
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        where = (at[0] + first, *at[1:])
        raise InputError(f"input {node.name!r}: value {x[at]} at index {where} {why} ({int(bad.sum())} such values)")


def _dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def decode(domain: Domain, codes: Int) -> NDArray[np.float64]:
    """Codes -> the float64 values scale*code + offset."""
    return np.asarray(codes, np.float64) * float(domain.scale) + float(domain.offset)


def _walk(graph: Dataflow, codes: Sequence[Int]) -> Iterator[tuple[Node, Int]]:
    """Evaluate node by node; a tensor is kept until the last node that reads it has been evaluated."""
    last = {name: node.name for node in graph.nodes for name in node.inputs}
    given = iter(codes)
    live: dict[str, Int] = {}
    for node in graph.nodes:
        xs = [next(given)] if node.traits.outside else [live[name] for name in node.inputs]
        live[node.name] = EVAL[node.op](node, xs, [graph[name] for name in node.inputs])
        yield node, live[node.name]
        for name in set(node.inputs):
            if last[name] == node.name:
                del live[name]


def _batches(graph: Dataflow, codes: Sequence[Int]) -> Iterator[list[Int]]:
    step = max(1, CHUNK // max(node.size for node in graph))
    for start in range(0, max(len(codes[0]), 1), step):
        yield [c[start : start + step] for c in codes]


def _collect(graph: Dataflow, codes: Any, names: Sequence[str]) -> dict[str, Int]:
    checked = check_codes(graph, codes)
    parts: dict[str, list[Int]] = {name: [] for name in names}
    for batch in _batches(graph, checked):
        for node, value in _walk(graph, batch):
            if node.name in parts:
                parts[node.name].append(value)
    return {name: np.concatenate(values) for name, values in parts.items()}


def run(graph: Dataflow, codes: Any, engine: str | None = None) -> Any:
    """Exact outputs, int64 (n, *shape), of a graph for input codes (n, *shape); lists where there are several.

    `engine`: "numpy", "native" (the engine, which gives the same by C++), or "auto" (that where it is worth its start
    and can be had, else NumPy); by default what the environment variable BNNFLOW_ENGINE says, or auto.

    Raises InputError for bad codes, ToolError where the engine is asked for and cannot be had.
    """
    arrays = _codes_only(graph, codes)
    results = run_given(graph, {node.name: array for node, array in zip(graph.inputs, arrays)}, engine=engine)
    return results[0] if len(results) == 1 else results


def run_given(graph: Dataflow, x: Any, out: Sequence[Int] | None = None, engine: str | None = None,
              report: Callable[[int], None] | None = None) -> list[Int]:
    """Outputs, int64 (n, *shape) each, for arrays that hold codes where they are integers and real values elsewhere.

    They are written to the arrays `out` where these are given. Arrays may be memory-mapped files: what has been read
    and written of them does not stay in memory. `report` gets the number of samples done from time to time.

    Raises as `run` does, and as `encode` does for real values.
    """
    arrays = per_input(graph, x)
    for node, array in zip(graph.inputs, arrays):
        _check_numbers(node, array)
    samples = len(arrays[0])
    results = [np.empty((samples, *graph[name].shape), np.int64) for name in graph.outputs] if out is None else [*out]
    found = _engine(graph, samples, engine)
    for first, part in parts(graph, arrays):
        end = first + len(next(iter(part.values())))
        target = [result[first:end] for result in results]
        if found is None or not found.run([*part.values()], target):
            codes = given_codes(graph, part, first)  # raises for what the engine has found
            for result, value in zip(target, _collect(graph, codes, graph.outputs).values()):
                result[...] = value
        if report is not None:
            report(end)
        _let_go(results)
    return results


def parts(graph: Dataflow, arrays: Sequence[NDArray[Any]], names: Iterable[str] | None = None
          ) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """The samples in parts that fit into memory: (number of the first sample, {input: its part}); at least one part.

    `arrays` are those of the inputs, in their order. Of the inputs and the nodes `names`, by default the outputs, a
    part has PART elements at most, or one sample.
    """
    kept = [*graph.inputs, *(graph[name] for name in names or graph.outputs)]
    step = max(1, PART // sum(node.size for node in kept))
    for first in range(0, max(len(arrays[0]), 1), step):
        yield first, {node.name: array[first : first + step] for node, array in zip(graph.inputs, arrays)}
        _let_go(arrays)


def _engine(graph: Dataflow, samples: int, engine: str | None) -> Program | None:
    """The program that computes the outputs, or None for NumPy."""
    wanted = os.environ.get(ENGINE, "auto") if engine is None else engine
    if wanted not in ENGINES:
        said = f"{ENGINE}={wanted}" if engine is None else as_given(engine=engine)
        raise InputError(f"{said}: use {choice(ENGINES)}")
    if wanted == "numpy" or (wanted == "auto" and samples * work(graph) < WORTH):
        return None
    try:
        return program(graph)
    except ToolError as error:
        if wanted == "native":
            raise
        warnings.warn(f"NumPy computes the graph, slowly: {error}", Note, stacklevel=4)
        return None


def _let_go(arrays: Iterable[NDArray[Any]]) -> None:
    """Memory-mapped files among the arrays stay on the disk; the memory that they have come to is given back."""
    for array in arrays:
        base: Any = array
        while isinstance(base, np.ndarray):
            # A private map ("c") would lose what has been written to it.
            shared = isinstance(base, np.memmap) and base.mode != "c"
            base = base.base
            if shared and isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
                base.madvise(mmap.MADV_DONTNEED)


def trace(graph: Dataflow, codes: Any, names: Iterable[str] | None = None) -> dict[str, Int]:
    """Codes of every node, or of those named, by name; int64 (n, *shape) each."""
    return _collect(graph, codes, [node.name for node in graph] if names is None else list(dict.fromkeys(names)))


def ambiguous(graph: Dataflow, codes: Any) -> NDArray[np.bool_]:
    """Samples (n,) where a real-scaled sum lies within the Keras model's float32 noise of a threshold (`Steps.margin`).

    For all others Keras computes the graph's codes. For these it may compute others, by the order in which it adds.
    """
    near = np.zeros(len(check_codes(graph, codes)[0]), bool)
    for found in ambiguities(graph, codes).values():
        near |= found
    return near


def ambiguities(graph: Dataflow, codes: Any) -> dict[str, NDArray[np.bool_]]:
    """The ambiguous samples, bool (n,), of every STEP behind a real-scaled sum, by its name."""
    checked = check_codes(graph, codes)
    steps = {node.name: node.params for node in graph
             if isinstance(node.params, Steps) and node.params.margin is not None}
    if not steps:
        return {}
    parts = [_batch_ambiguities(graph, batch, steps) for batch in _batches(graph, checked)]
    return {name: np.concatenate([part[name] for part in parts]) for name in steps}


def _batch_ambiguities(graph: Dataflow, batch: Sequence[Int], steps: dict[str, Steps]) -> dict[str, NDArray[np.bool_]]:
    """The ambiguous samples of one batch, of each of the nodes `steps`."""
    read = {graph[name].inputs[0] for name in steps}
    values = {node.name: value for node, value in _walk(graph, batch) if node.name in read}
    return {name: _in_margin(p, values[graph[name].inputs[0]]) for name, p in steps.items()}


def _in_margin(p: Steps, x: Int) -> NDArray[np.bool_]:
    """Samples (n,) of the input `x` of a STEP that have a value within the margin of a threshold."""
    assert p.margin is not None
    # It is in as many margins as have begun and not ended.
    begun, ended = (Steps(p.start, p.sign, np.sort(ends, axis=1)).reached(x) for ends in (
        p.thresholds - p.margin[..., 0], p.thresholds + p.margin[..., 1]))
    near = np.asarray(begun > ended).reshape(len(x), -1)
    return np.asarray(near.any(axis=1))
