"""Random integer graphs, without Keras: domains and parameters that no layer yields today, for every emitter."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.hls.folding import Folding, foldings
from bnnflow.backends.hls.fusion import prepared
from bnnflow.ir import BIPOLAR, Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window
from bnnflow.ir.verify import dot_domain

INPUTS = (
    BIPOLAR, Domain(0, 1), Domain(-1, 1), Domain(0, 255, Fraction(1, 256)), Domain(-8, 7, Fraction(1, 4)),
    Domain(0, 1, Fraction(3), Fraction(-1)), Domain(-3, 12, Fraction(2), Fraction(1)), Domain(5, 9), Domain(-9, -4),
    Domain(0, 0), Domain(-(2**23), 2**23 - 1),
)


def random_steps(rng: np.random.Generator, source: Domain, channels: int, target: Domain) -> Steps:
    """Any thresholds, also outside the range and equal ones, rising and falling."""
    count = target.size - 1
    thresholds = np.sort(rng.integers(source.lo - 2, source.hi + 3, (channels, count)), axis=1)
    sign = rng.choice([-1, 1], channels)
    return Steps(np.where(sign > 0, target.lo, target.hi).astype(np.int64), sign.astype(np.int64), thresholds)


def random_window(rng: np.random.Generator, shape: tuple[int, ...], groups: int, pads: bool) -> Window | None:
    """Any kernel, stride, dilation and padding that fits; None where these do not."""
    rank = len(shape) - 1
    kernel, strides, dilation = (tuple(rng.integers(1, top, rank).tolist()) for top in (4, 4, 3))
    around = tuple(tuple(rng.integers(0, 3, 2).tolist()) if pads else (0, 0) for _ in range(rank))
    window = Window(kernel, strides, dilation, around, groups, shape[:-1])
    fits = min(window.positions) > 0 and int(np.prod(window.positions)) * window.taps * shape[-1] <= 3000
    return window if fits else None


def random_weights(rng: np.random.Generator, inputs: int, outputs: int, groups: int, wide: bool) -> Weights:
    """Few-valued or, if `wide`, sometimes integer levels, most connections there."""
    form = (inputs // groups, outputs * groups)
    kinds = [[-1, 1], [-1, 0], [-3, 3], [0, 1], [-7, 5], [2, 5], [-4, 0, 1], [0, 0]]
    levels = rng.choice(kinds[int(rng.integers(len(kinds)))], form)
    if wide and rng.random() < 0.1:  # every output its own two
        levels = levels * rng.integers(1, 4, form[1]) + rng.integers(-2, 3, form[1])
    if wide and rng.random() < 0.3:
        levels = rng.integers(-9, 10, form)
    return Weights(levels.astype(np.int64), rng.random(form) < rng.choice([0.2, 0.9, 1.0]), groups)


def codebook_levels(rng: np.random.Generator, form: tuple[int, int], taps: int, count: int,
                    pair: list[int]) -> np.ndarray:
    """Levels of `form` (taps * channels of a group, outputs): every kernel is one of `count` patterns of a pair."""
    book = rng.permutation(2**taps - 1 if taps < 20 else 2**19)[:count] + 1
    patterns = np.array(pair)[book[:, None] >> np.arange(taps) & 1]
    picked = rng.integers(0, count, (form[0] // taps, form[1]))
    picked.flat[:count] = np.arange(count)[: picked.size]
    return patterns[picked].transpose(2, 0, 1).reshape(form)


def random_graph(seed: int) -> Graph:
    """One or two inputs, then nodes that read any node before them, then sometimes AFFINE; one or two outputs."""
    rng = np.random.default_rng(seed)
    nodes: list[Node] = []

    def shape() -> tuple[int, ...]:
        if rng.random() < 0.4:
            return (int(rng.integers(1, 70)),)
        return tuple(rng.integers(1, 9, int(rng.integers(2, 4))).tolist())

    def add(op: Op, sources: list[Node], shape: tuple[int, ...], domain: Domain, params: object) -> None:
        names = tuple(n.name for n in sources)
        nodes.append(Node(f"n{len(nodes)}", op, names, shape, domain, params))  # type: ignore[arg-type]

    for k in range(1 if rng.random() < 0.7 else 2):
        add(Op.INPUT, [], shape(), INPUTS[(seed + 3 * k) % len(INPUTS)], None)
    while len(nodes) < 3 + seed % 5:
        whole = [n for n in nodes if not (isinstance(n.params, Window) and n.params.padded)]
        last = whole[-1] if rng.random() < 0.7 else whole[int(rng.integers(len(whole)))]
        d, channels = last.domain, last.shape[-1]
        kind = rng.choice(["gather", "dot", "add", "step", "lut", "convolution", "pool", "argmax"])
        divisors = [g for g in range(1, channels + 1) if channels % g == 0]
        if kind == "gather":
            sources = [last, *(n for n in whole if n.domain == d and n is not last and rng.random() < 0.5)]
            target, total = shape(), sum(n.size for n in sources)
            add(Op.GATHER, sources, target, d, Index(rng.integers(0, total, int(np.prod(target)))))
        elif kind == "dot" and d.bits < 25:
            groups = int(rng.choice(divisors)) if rng.random() < 0.3 else 1
            weights = random_weights(rng, channels, -(-int(rng.integers(1, 40)) // groups), groups, d.bits < 12)
            sums = dot_domain(d, weights, last.params if isinstance(last.params, Window) else None)
            if sums.bits <= 31:
                add(Op.DOT, [last], (*last.shape[:-1], weights.levels.shape[1]), sums, weights)
        elif kind == "convolution" and d.bits < 25 and len(last.shape) > 1:
            groups = int(rng.choice(divisors))
            window = random_window(rng, last.shape, groups, rng.random() < 0.7)
            if window is not None:
                taps = window.taps * channels
                weights = random_weights(rng, taps, int(rng.integers(1, 5)), groups, d.bits < 12)
                if window.taps > 2 and rng.random() < (0.8 if d.bits == 1 else 0.1):
                    form = (taps // groups, groups * int(rng.integers(8, 20)))
                    levels = codebook_levels(rng, form, window.taps, 3, [[-1, 1], [-7, 5]][int(rng.integers(2))])
                    weights = Weights(levels, np.ones(form, bool), groups)
                sums = dot_domain(d, weights, window)
                if sums.bits <= 31:
                    add(Op.WINDOW, [last], (*window.positions, taps), d, window)
                    add(Op.DOT, [nodes[-1]], (*window.positions, weights.levels.shape[1]), sums, weights)
        elif kind == "pool" and len(last.shape) > 1:
            window = random_window(rng, last.shape, channels, rng.random() < 0.5)
            if window is not None and window.valid.any(axis=1).all():
                add(Op.WINDOW, [last], (*window.positions, window.taps * channels), d, window)
                add(Op.MAX, [nodes[-1]], (*window.positions, channels), d, None)
            elif window is not None and not window.padded:
                add(Op.WINDOW, [last], (*window.positions, window.taps * channels), d, window)
        elif kind == "add":
            sources = [last, *[n for n in whole if n.shape == last.shape][: int(rng.integers(0, 2))]]
            scale, constant = rng.integers(-5, 6, len(sources)), int(rng.integers(-99, 100))
            ends = [sorted((int(c) * n.domain.lo, int(c) * n.domain.hi)) for c, n in zip(scale, sources)]
            sums = Domain(constant + sum(e[0] for e in ends), constant + sum(e[1] for e in ends), Fraction(1, 8))
            if sums.bits <= 31:
                add(Op.ADD, sources, last.shape, sums, Sum(scale, constant))
        elif kind == "lut" and d.size < 5000:
            target_domain = [BIPOLAR, Domain(-9, 300, Fraction(1, 4))][int(rng.integers(2))]
            form = (channels if rng.random() < 0.5 else 1, d.size)
            table = Table(rng.integers(target_domain.lo, target_domain.hi, form, endpoint=True))
            add(Op.LUT, [last], last.shape, target_domain, table)
        elif kind == "argmax" and channels > 1:
            add(Op.ARGMAX, [last], (*last.shape[:-1], 1), Domain(0, channels - 1), None)
        elif kind == "step":
            target_domain = [BIPOLAR, Domain(-1, 1), Domain(0, 6, Fraction(1, 4)), Domain(2, 3)][int(rng.integers(4))]
            add(Op.STEP, [last], last.shape, target_domain, random_steps(rng, d, channels, target_domain))
    last = nodes[-1]
    outputs = [last.name]
    if rng.random() < 0.3:
        outputs += [n.name for n in nodes if n.op not in (Op.INPUT, Op.WINDOW) and n is not last][:1]
    if rng.random() < 0.4 and last.domain.bits < 25:
        channels, shift = last.shape[-1], int(rng.integers(0, 30))
        mul, bias = rng.integers(-(2**30), 2**30, channels), rng.integers(-(2**40), 2**40, channels)
        add(Op.AFFINE, [last], last.shape, Domain(-(2**61), 2**61 - 1, Fraction(1, 16)), Affine(mul, bias, shift))
        outputs[0] = nodes[-1].name
        if rng.random() < 0.5:
            add(Op.ARGMAX, [nodes[-1]], (*last.shape[:-1], 1), Domain(0, channels - 1), None)
            outputs[0] = nodes[-1].name
    return Graph(tuple(nodes), tuple(outputs))


def all_foldings(graph: Graph, io_type: str) -> dict[str, list[Folding]]:
    """Of every sum and maximum the foldings that it can have, the fastest first."""
    config = BuildConfig(io_type=io_type)
    known = {node.name: node for node in prepared(graph, config)}
    return {node.name: foldings(node, known[node.inputs[0]], config.stream) for node in graph if node.traits.taps}


def random_foldings(graph: Graph, io_type: str, seed: int) -> dict[str, dict[str, int]]:
    """`layers` of a build in which every sum and maximum has some folding."""
    rng = np.random.default_rng(seed)
    chosen = {name: made[int(rng.integers(len(made)))] for name, made in all_foldings(graph, io_type).items()}
    return {name: {"pe": f.pe, "simd": f.simd} for name, f in chosen.items()}


def random_codes(graph: Graph, seed: int, count: int = 64) -> list[np.ndarray]:
    """Codes of the whole range for each input, the ends included."""
    rng, result = np.random.default_rng(seed), []
    for node in graph.inputs:
        codes = rng.integers(node.domain.lo, node.domain.hi, (count, *node.shape), endpoint=True)
        codes[0], codes[1:2] = node.domain.lo, node.domain.hi
        result.append(codes)
    return result


def outputs(graph: Graph, codes: list[np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs as a list, also for one."""
    got = graph(codes)
    return got if isinstance(got, list) else [got]


def plain_taps(window: Window, x: list[int], channels: int) -> list[int | None]:
    """The taps of every position; None for an absent one."""
    size, result = (1, 1, *window.size)[-2:], []
    kernel, strides, dilation = ((1, 1, *part)[-2:] for part in (window.kernel, window.strides, window.dilation))
    before = (0, *[pad[0] for pad in window.pads])[-2:]
    rows, columns = (1, *window.positions)[-2:]
    share = channels // window.groups
    for row, column in product(range(rows), range(columns)):
        for group, i, j, c in product(range(window.groups), range(kernel[0]), range(kernel[1]), range(share)):
            y = row * strides[0] + i * dilation[0] - before[0]
            z = column * strides[1] + j * dilation[1] - before[1]
            inside = 0 <= y < size[0] and 0 <= z < size[1]
            result.append(x[(y * size[1] + z) * channels + group * share + c] if inside else None)
    return result


def plain_run(graph: Graph, samples: list[np.ndarray]) -> list[list[int]]:
    """The specification in Python integers, one sample, written apart from EVAL."""
    values: dict[str, list] = {}
    given = list(samples)
    for node in graph.nodes:
        if node.op is Op.INPUT:
            values[node.name] = [int(v) for v in given.pop(0).ravel()]
            continue
        source, x, p = graph[node.inputs[0]], values[node.inputs[0]], node.params
        if isinstance(p, Index):
            together = [v for name in node.inputs for v in values[name]]
            values[node.name] = [together[int(i)] for i in p.flat]
        elif isinstance(p, Sum):
            values[node.name] = [
                p.constant + sum(int(s) * values[name][i] for s, name in zip(p.scale, node.inputs))
                for i in range(len(x))
            ]
        elif isinstance(p, Table):
            channels = source.shape[-1]
            values[node.name] = [
                int(p.codes[i % channels if len(p.codes) > 1 else 0][v - source.domain.lo]) for i, v in enumerate(x)
            ]
        elif isinstance(p, Weights):
            (a, b), (n, m) = source.domain.numerator, p.levels.shape
            whole = source.shape[-1]
            values[node.name] = [
                sum(int(p.levels[i, j]) * (a * x[r * whole + j * p.groups // m * n + i] + b) for i in range(n)
                    if p.mask[i, j] and x[r * whole + j * p.groups // m * n + i] is not None)
                for r in range(len(x) // whole) for j in range(m)
            ]
        elif isinstance(p, Window):
            values[node.name] = plain_taps(p, x, source.shape[-1])
        elif node.op is Op.MAX:
            taps = len(x) // node.size
            values[node.name] = [
                max(v for v in x[i * taps : i * taps + taps] if v is not None) for i in range(node.size)
            ]
        elif node.op is Op.ARGMAX:
            rows = [x[i : i + source.shape[-1]] for i in range(0, len(x), source.shape[-1])]
            values[node.name] = [row.index(max(row)) for row in rows]
        elif isinstance(p, Steps):
            channels = len(p.start)
            passed = [sum(v >= int(threshold) for threshold in p.thresholds[i % channels]) for i, v in enumerate(x)]
            values[node.name] = [
                int(p.start[i % channels]) + int(p.sign[i % channels]) * count for i, count in enumerate(passed)
            ]
        elif isinstance(p, Affine):
            channels = len(p.mul)
            values[node.name] = [
                (int(p.mul[i % channels]) * v + int(p.add[i % channels])) // 2**p.shift for i, v in enumerate(x)
            ]
    return [values[name] for name in graph.outputs]
