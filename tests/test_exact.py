"""The exact core by itself, with functions of NumPy in the place of a framework."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from bnnflow.exact.activations import close
from bnnflow.exact.builder_state import Framework, GraphBuilder
from bnnflow.exact.epilogues import FloatTensor, Line, Rounding, Stage
from bnnflow.exact.functions import Refusal, Uncomputable
from bnnflow.exact.levels import NoLevels, Reason, levels_of
from bnnflow.exact.noise import UNIT_ROUNDOFF, NoisyLine
from bnnflow.exact.outputs import output
from bnnflow.ir import Domain, Graph, Node, Op, Steps
from bnnflow.ir.evaluate import ambiguous
from tests.conftest import ROOT, plain_environment

Array = np.ndarray
SUMS = Domain(-9, 9)
RANDOM = np.random.default_rng(0)


def sign(x: Array) -> Array:
    return np.where(x >= 0, np.float32(1), np.float32(-1))


def steps_of_three(x: Array) -> Array:
    return np.clip(np.rint(x), -1, 1).astype(np.float32)


def builder() -> GraphBuilder:
    return GraphBuilder(Framework("NumPy", "a call of sign"))


def closed(*stages: Stage, last: Stage, channels: int = 1, domain: Domain = SUMS) -> tuple[GraphBuilder, Node]:
    """A graph of one input and the activation `last` behind some stages."""
    graph = builder()
    value = FloatTensor(graph.add("x", Op.INPUT, [], (channels,), domain), (channels,))
    for stage in (*stages, last):
        value = value.then(stage)
    return graph, close(graph, last.layer, value, levels_of(last.apply))


def test_thresholds_of_float_functions():
    scale, shift = np.array([1, -0.5], np.float32), np.array([-2.5, 1], np.float32)
    norm = Stage("norm", lambda x: x * scale + shift, alike=True)
    graph, node = closed(norm, last=Stage("act", steps_of_three, alike=True), channels=2)
    assert isinstance(node.params, Steps)
    # x - 2.5 rounds to even: 0 at 2 and 3, 1 from 4 on; 1 - x/2 falls: 1 up to 1 (.5 rounds to 0), 0 up to 3.
    assert node.params.thresholds.tolist() == [[2, 4], [1, 4]]
    assert node.params.start.tolist() == [-1, 1] and node.params.sign.tolist() == [1, -1]
    x = np.stack([np.arange(-9, 10)] * 2, axis=1)
    expected = steps_of_three(x.astype(np.float32) * scale + shift)
    assert np.array_equal(Graph(tuple(graph.nodes), (node.name,))(x), expected)


@pytest.mark.parametrize("reach", [2**15 - 1, 2**20])
def test_many_thresholds_are_found_together(reach):
    """Functions of a framework are called as often for 255 thresholds as for 15: the call is what costs."""
    calls = {}
    for levels in (16, 256):
        def act(x, levels=levels):
            calls[levels] = calls.get(levels, 0) + 1
            return np.clip(np.floor(x), 0, levels - 1).astype(np.float32)

        scale = np.float32(levels / reach)
        _, node = closed(Stage("norm", lambda x: x * scale, alike=True), channels=8,  # noqa: B023
                         last=Stage("act", act, alike=True), domain=Domain(-reach, reach))
        found = calls[levels]
        assert node.params.thresholds.shape == (8, levels - 1)
        sums = np.arange(-reach, reach + 1, 97)
        assert np.array_equal(node.params.reached(sums[:, None])[:, 0], act(sums.astype(np.float32) * scale))
        calls[levels] = found
    assert calls[256] < 2 * calls[16] and calls[256] < 80


def test_a_real_scale_has_exact_thresholds_and_a_margin():
    third, tenth = Fraction(float(np.float32(1 / 3))), Fraction(float(np.float32(0.1)))
    rounding = Rounding(of_result=UNIT_ROUNDOFF)
    scaled = Stage("scale", lambda x: x * np.float32(third) - np.float32(tenth), [Line(third, -tenth, rounding)],
                   ideal=True, alike=True)
    graph, node = closed(scaled, last=Stage("act", sign, alike=True))
    assert node.params.thresholds.tolist() == [[1]] and not node.params.margin.any()
    off = Line(third, Fraction(0), Rounding(absolute=tenth))
    tie = Stage("scale", lambda x: x * np.float32(third), [off], ideal=True, alike=True)
    graph, node = closed(tie, last=Stage("act", sign, alike=True))
    assert node.params.thresholds.tolist() == [[0]] and node.params.margin.tolist() == [[[0, 1]]]
    assert graph.notes == ["act: 1 of 1 thresholds lie within NumPy's float32 noise of a sum; NumPy may differ at "
                           "samples that reach such a sum, and only there"]


def test_noise_of_two_lines():
    """What was off is scaled and grows, and each error is relative to its own part."""
    line = NoisyLine(Fraction(2), Fraction(3), noise=Fraction(1, 8), relative=Fraction(1, 16)).then(Line(
        Fraction(-4), Fraction(5), Rounding(of_product=Fraction(1, 100), of_shifted=Fraction(1, 10), late=Fraction(1),
                                            growth=Fraction(2), absolute=Fraction(7), flushed=Fraction(1, 3))))
    assert (line.scale, line.offset) == (-8, -7)
    assert line.noise == 2 * (4 * (Fraction(1, 8) + Fraction(3, 100)) + Fraction(8, 10)) + 7 + Fraction(1, 3)
    assert line.relative == 2 * (Fraction(1, 16) + Fraction(1, 100) + Fraction(1, 10))
    assert line.off_by(-3) == line.noise + 24 * line.relative


def test_bits_that_are_not_sure():
    """A function off by up to an ulp is fine where no code depends on it; where one does, its sum is in the margin."""
    half = Stage("half", lambda x: x + np.float32(0.5), alike=True, output_ulps=1)
    _, node = closed(half, last=Stage("act", sign, alike=True))
    assert node.params.thresholds.tolist() == [[0]]
    assert node.params.margin is None
    # x + 1.5 is -.5 at -2, which rounds to 0, or to -1 if it is a bit less; at -1 it is .5: 0, or 1 if it is more.
    one = Stage("one", lambda x: x + np.float32(1.5), alike=True, output_ulps=1)
    graph, node = closed(one, last=Stage("act", steps_of_three, alike=True))
    assert node.params.thresholds.tolist() == [[-2, 0]] and node.params.margin.tolist() == [[[0, 1], [1, 0]]]
    assert "act: 2 of 2 thresholds lie within NumPy's float32 noise of a sum" in graph.notes[-1]
    made = Graph(tuple(graph.nodes), (node.name,))
    sums = np.arange(-9, 10)[:, None]
    assert sums[ambiguous(made, sums)].tolist() == [[-2], [-1]]
    # At the lowest sum of all, too.
    _, node = closed(one, last=Stage("act", steps_of_three, alike=True), domain=Domain(-1, 9))
    assert node.params.thresholds.tolist() == [[0]] and node.params.margin.tolist() == [[[1, 0]]]
    bump = Stage("bump", lambda x: np.abs(x) + np.float32(1.5), alike=True, output_ulps=1)
    with pytest.raises(Refusal, match="'act': a code of it depends on the last bits of 'bump'.*; use relu, hard_sig"):
        closed(bump, last=Stage("act", lambda x: np.clip(np.rint(x), -4, 4).astype(np.float32), alike=True))


def test_an_error_of_the_framework_names_the_layer():
    def broken(x: Array) -> Array:
        raise Uncomputable("no such kernel")

    with pytest.raises(Refusal, match="layer 'b': cannot be computed: no such kernel"):
        closed(Stage("b", broken, alike=True), last=Stage("act", sign, alike=True))


@pytest.mark.parametrize(("function", "reason"), [
    (lambda x: np.full_like(x, np.nan), Reason.NOT_FINITE),
    (lambda x: sign(x + RANDOM.normal(size=x.shape).astype(np.float32)), Reason.RANDOM),
    (lambda x: sign(x) * np.abs(x).max(), Reason.BATCH),
    (np.tanh, Reason.MANY),
    (lambda x: sign(x) * np.float32(0.1), Reason.INEXACT),
])
def test_functions_without_levels(function, reason):
    with pytest.raises(NoLevels) as caught:
        levels_of(function)
    assert caught.value.reason is reason


def test_outputs_and_floats_before_a_sum():
    graph = builder()
    value = FloatTensor(graph.add("x", Op.INPUT, [], (1,), SUMS), (1,)).then(
        Stage("third", lambda x: x / np.float32(3), [Line(Fraction(1, 3), Fraction(0))], alike=True))
    with pytest.raises(Refusal, match="layer 'sum': its input is not quantised: 'third' yields floats; put a call of "):
        graph.codes(value, "sum")
    name = output(graph, value, None, [])
    made = Graph(tuple(graph.nodes), (name,))
    assert abs(made.decode(made(np.array([[7]]))) - 7 / 3).max() < 1e-6
    assert "NumPy's float32 is up to" in graph.notes[-1]


def test_the_exact_core_loads_no_framework():
    code = """
import sys, pkgutil, importlib, bnnflow.exact
for module in pkgutil.iter_modules(bnnflow.exact.__path__):
    importlib.import_module(f"bnnflow.exact.{module.name}")
assert not {"tensorflow", "tf_keras", "keras", "qkeras", "bnnflow.frontends", "bnnflow.train"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=plain_environment())
