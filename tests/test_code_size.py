"""Instructions that an HLS compiler is left with, before a project is written: against clang, and what is refused."""

from __future__ import annotations

import re
from ast import literal_eval
from typing import Any

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls import code_size as model
from bnnflow.backends.hls.fusion import check, code_size
from bnnflow.backends.hls.shared_sums import SharedSums
from bnnflow.errors import InputError
from bnnflow.ir import BIPOLAR, BIT, Domain, Graph, Node, Op, Steps, Weights, Window
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains import process
from bnnflow.toolchains.clang import CLANG, design_sizes

needs_clang = pytest.mark.skipif(process.find(CLANG) is None, reason=f"no clang: {CLANG.remedy}")
LOOPED = {"strategy": "Resource"}
STREAM = {"io_type": "io_stream"}


def summed(inputs: int, outputs: int, kernel: int = 0, size: int = 0, domain: Domain = BIPOLAR, zeros: float = 0.0,
           values: tuple[int, ...] = (-1, 1)) -> Graph:
    """A sum of `inputs` channels, of a vector or, with a `kernel`, of an image of `size` x `size`, and thresholds."""
    rng = np.random.default_rng(5)
    nodes, taps = [Node("x", Op.INPUT, (), (size, size, inputs) if kernel else (inputs,), domain)], inputs
    if kernel:
        taps, pad = inputs * kernel**2, kernel // 2
        window = Window((kernel, kernel), (1, 1), (1, 1), ((pad, pad), (pad, pad)), 1, (size, size))
        nodes.append(Node("w", Op.WINDOW, ("x",), (size, size, taps), domain, window))
    weights = Weights(rng.choice(values, (taps, outputs)), rng.random((taps, outputs)) >= zeros)
    sums = dot_domain(domain, weights, nodes[-1].params)
    shape = (*nodes[-1].shape[:-1], outputs)
    nodes.append(Node("d", Op.DOT, (nodes[-1].name,), shape, sums, weights))
    middle = (sums.lo + sums.hi) // 2
    cuts = np.full((outputs, 1), middle) + rng.integers(-3, 4, (outputs, 1))
    nodes.append(Node("a", Op.STEP, ("d",), shape, BIT, Steps(np.zeros(outputs, int), np.ones(outputs, int), cuts)))
    return Graph(tuple(nodes), ("a",))


def ramps(ties: bool) -> Graph:
    """A sum and a relu of 8 bits: a shift with ties to even, or products with exceptions."""
    head = summed(2, 24, domain=Domain(-128, 127), values=tuple(range(-500, 500))).nodes[:-1]
    rng, k = np.random.default_rng(0), np.arange(255)
    lines = [np.floor(rng.uniform(90, 150) * k + rng.uniform(-99, 99) + rng.normal(0, 0.02, 255)) for _ in range(24)]
    cuts = [128 * k - 64 + k % 2] * 24 if ties else lines
    steps = Steps(np.zeros(24, int), np.ones(24, int), np.sort(np.array(cuts, np.int64), axis=1))
    return Graph((*head, Node("a", Op.STEP, ("d",), (24,), Domain(0, 255), steps)), ("a",))


DESIGNS: dict[str, tuple[Graph, dict[str, Any]]] = {
    "wires": (summed(64, 16), {}),
    "many wires": (summed(192, 48), {}),
    "ternary wires": (summed(64, 16, zeros=0.5), STREAM),
    "values": (summed(64, 16, domain=BIT, values=(-3, 5)), {}),
    "image": (summed(4, 8, 3, 5), {}),
    "passes apart": (summed(8, 16, 3, 6), {}),
    "image of loops": (summed(4, 8, 3, 5), LOOPED),
    "lanes": (summed(192, 64), {**LOOPED, "reuse_factor": 8}),
    "lanes of a window": (summed(16, 32, 3, 8), {**LOOPED, "reuse_factor": 512}),
    "stream": (summed(16, 32, 3, 8), STREAM),
    "lanes of a stream": (summed(16, 32, 3, 8), {**STREAM, "reuse_factor": 8}),
    "memory of a stream": (summed(64, 32, 3, 8), {**STREAM, "reuse_factor": 288}),
    "products": (summed(16, 16, domain=Domain(-8, 7)), {**LOOPED, "reuse_factor": 64}),
    "netlist": (summed(64, 16), {"strategy": "distributed_arithmetic"}),
    "ramps": (ramps(ties=True), {}),
    "ramps of lanes": (ramps(ties=False), {**LOOPED, "layers": {"d": {"pe": 6, "simd": 2}}}),
}


@needs_clang
@pytest.mark.hls
@pytest.mark.parametrize("name", DESIGNS)
def test_as_clang_counts(name, tmp_path):
    graph, options = DESIGNS[name]
    config = bf.BuildConfig(output_dir=tmp_path / "prj", **options)
    sizes = design_sizes(bf.build(graph, config))
    found = code_size(graph, config)
    assert found.instructions == pytest.approx(sum(size.instructions for size in sizes), rel=0.1)
    assert found.largest[0] == pytest.approx(max(size.instructions for size in sizes), rel=0.1)


def test_without_clang():
    """These numbers were compared with clang's."""
    found = {name: code_size(graph, bf.BuildConfig(**options)).instructions for name, (graph, options) in
             DESIGNS.items()}
    assert found == PINNED


PINNED = {
    "wires": 1226, "many wires": 5695, "ternary wires": 1788, "values": 818, "image": 7238, "passes apart": 7612,
    "image of loops": 11878, "lanes": 7446, "lanes of a window": 14240, "stream": 3568, "lanes of a stream": 2683,
    "memory of a stream": 818, "products": 303, "netlist": 3829, "ramps": 747, "ramps of lanes": 1227,
}


def test_sums_are_shared():
    """Of two bits there are four sums however many outputs read them; what is masked is no sum, and costs nothing."""
    sign = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [0, 0]], bool)
    all_of_them = SharedSums(2)
    sums = all_of_them.count(np.arange(2), sign, np.ones_like(sign))
    assert all_of_them.adds == 4 and sums[0] == sums[4] and all_of_them.lost == 1 and len({*sums.tolist()}) == 4
    assert all_of_them.instructions == 4 + 2 * 2 + 2  # both wires and their complements are widened
    masked = SharedSums(2)
    assert masked.count(np.arange(2), sign, np.zeros_like(sign)).tolist() == [0] * 5 and masked.instructions == 0
    each = SharedSums(2, own=True)
    each.count(np.arange(2), sign, np.ones_like(sign))
    assert each.adds == 5


def test_what_stays_a_loop_does_not_grow():
    """Cycles are no instructions: an image of more rows has as many, half of the lanes have fewer."""
    def size(pixels: int, lanes: int) -> int:
        config = bf.BuildConfig(**STREAM, layers={"d": {"pe": lanes, "simd": 16}})
        return code_size(summed(16, 32, 3, pixels), config).instructions

    assert size(8, 16) == size(64, 16) < 0.8 * size(8, 32)


TOO_LARGE = {
    "a function": (summed(16, 4, 3, 16), LOOPED),
    "the top function": (summed(1024, 256), {}),
    "a sum in a stream": (summed(1024, 256), STREAM),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_refused_with_a_folding_that_is_not(name, monkeypatch):
    """The remedy is followed to the letter; to be quick, a function may have a tenth of what compilers take."""
    monkeypatch.setitem(model.MOST, "function", 16_000)
    graph, options = TOO_LARGE[name]
    with pytest.raises(InputError, match="HLS compilers stop unrolling at 16,000: use ") as refused:
        check(graph, bf.BuildConfig(**options))
    text = str(refused.value)
    assert "node 'd'" in text or "node 'a'" in text
    said = re.search(r"use (.*)$", text)[1]
    assert re.match(r"layers=|strategy=|io_type=", said), said
    folded = {key: literal_eval(value) for key, value in re.findall(r"(\w+)=({.*}|'\w+'|\d+)(?:, |$)", said)}
    config = bf.BuildConfig(**{**options, **folded})
    check(graph, config)
    assert code_size(graph, config).largest[0] <= 16_000


def test_an_estimate_says_the_size(monkeypatch):
    graph = summed(192, 48)
    facts = bf.estimate(graph)
    found = code_size(graph, bf.BuildConfig())
    assert facts.instructions == found.instructions
    assert [module.instructions for module in facts.modules] == [kernel.instructions for kernel in found.kernels]
    assert f"{found.instructions:,} instructions for an HLS compiler, {found.inside:,} of them in the top function" in (
        facts.notes)
    assert not any("more than" in note for note in facts.notes)
    monkeypatch.setitem(model.LIMITS, "function", 1000)
    assert any("the top function has" in note and "more than 1,000: HLS" in note for note in bf.estimate(graph).notes)
    assert bf.estimate(graph, bf.BuildConfig(backend="Verilog")).instructions is None


@pytest.mark.parametrize("options", [LOOPED, STREAM, {**STREAM, "reuse_factor": 8},
                                     {**STREAM, "layers": {"d": {"pe": 32, "simd": 1024}}}])
def test_an_estimate_names_options_that_do_no_harm(options):
    """They are followed to the letter; without a note of harm there is no such note."""
    graph = summed(1024, 256)
    notes = " ".join(bf.estimate(graph, bf.BuildConfig(**options)).notes)
    assert "take hours" in notes or "stop unrolling" in notes
    said = re.search(r"use (.*?)( without options of nodes)? for at most 60,000 instructions a function", notes)
    followed = options | eval(f"dict({said[1]})") | ({"layers": {}} if said[2] else {})
    assert "HLS compilers" not in " ".join(bf.estimate(graph, bf.BuildConfig(**followed)).notes)
    assert code_size(graph, bf.BuildConfig(**followed)).largest[0] <= 60_000


def test_what_has_no_remedy_is_given_none(monkeypatch):
    monkeypatch.setitem(model.LIMITS, "function", 10)
    notes = " ".join(bf.estimate(summed(64, 16), bf.BuildConfig(**STREAM)).notes)
    assert "more than 10: HLS" in notes and "use " not in notes
