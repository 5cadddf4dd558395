"""Ramps: thresholds as clipped lines, against all thresholds at every code; and what is no line stays a list."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.exact.activations import close
from bnnflow.exact.epilogues import FloatTensor, Line, Stage
from bnnflow.exact.functions import Refusal
from bnnflow.exact.levels import levels_of
from bnnflow.ir import Domain, Graph, Node, Op, Steps
from bnnflow.ir import ramps as module
from bnnflow.ir.ramps import NO_TIE, ChannelRamps, ramps_of, ramps_of_channel
from tests.test_code_size import ramps as ramp_design
from tests.test_exact import Array, builder

SUMS = Domain(-40_000, 40_000)
X = np.arange(SUMS.lo, SUMS.hi + 1)


def thresholds(codes: Array) -> Array:
    """The first sums at which rising codes of all of X have risen by 1, 2, ..."""
    return X[np.searchsorted(codes, np.arange(codes[0], codes[-1]), side="right")]


def relu(bits: int, unit: Fraction, slope: float = 0.0) -> Array:
    """Codes of a relu of so many bits, ties to even, where a sum is `unit` codes."""
    y = X * float(unit)
    return np.clip(np.rint(np.where(y < 0, slope * y, y)), -(2**bits) // 4, 2**bits - 1).astype(np.int64)


ROWS = {  # codes; how many ramps, and whether there are ties
    "a shift with ties": (relu(8, Fraction(1, 64)), 1, True),
    "more codes than sums": (relu(10, Fraction(3)), 1, False),
    "ties at some": (relu(8, Fraction(3, 128)), 2, False),
    "two slopes": (relu(8, Fraction(1, 16), 0.25), 2, True),
    "two slopes that are no shifts": (relu(7, Fraction(1, 21), 0.29), 2, False),
    "all at one sum": (np.where(X < 7, 0, 99), 1, False),
    "rounded up": (np.clip((X + 32) >> 6, 0, 255), 1, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_ramps_are_the_thresholds_at_every_code(name):
    codes, count, ties = ROWS[name]
    found = ramps_of_channel(thresholds(codes), SUMS)
    assert found is not None and np.array_equal(found(X), codes - codes[0])
    assert len(found.ramps) == count and not found.exceptions
    assert any(ramp.tie != NO_TIE for ramp in found.ramps) == ties


def test_float32_makes_exceptions_of_a_line():
    scale, far = np.float32(0.0157), np.float32(900.3)
    codes = np.clip(np.rint((X.astype(np.float32) * scale + far) - far), -512, 511).astype(np.int64)
    found = ramps_of_channel(thresholds(codes), SUMS)
    assert found is not None and len(found.ramps) == 1 and 0 < len(found.exceptions) < 64
    assert np.array_equal(found(X), codes - codes[0])


@pytest.mark.parametrize("row", [
    np.sort(np.random.default_rng(0).integers(-9000, 9000, 300)), np.arange(60) ** 2,
    thresholds(np.rint(100 * np.tanh(X / 9000)).astype(np.int64))])
def test_what_is_no_line_stays_a_list(row):
    assert ramps_of_channel(row, SUMS) is None


def test_ramps_that_are_off_by_one_are_not_taken(monkeypatch):
    """The proof looks at every threshold: a tie that is rounded to the other side, or a line half a sum beside."""
    codes, _, _ = ROWS["a shift with ties"]
    right = module.grid

    def odd(t: Array) -> module.Ramp | None:
        ramp = right(t)
        return ramp and replace(ramp, tie=1 - ramp.tie if ramp.tie != NO_TIE else NO_TIE)

    def late(t: Array) -> module.Ramp | None:
        ramp = right(t)
        return ramp and replace(ramp, add=ramp.add - 1)

    domain = replace(SUMS, scale=Fraction(2))  # another one, so that nothing is known of it
    for k, wrong in enumerate((odd, late)):
        monkeypatch.setattr(module, "grid", wrong)
        assert ramps_of_channel(thresholds(codes), replace(domain, offset=Fraction(k))) is None
    monkeypatch.setattr(module, "grid", right)
    assert ramps_of_channel(thresholds(codes), replace(domain, offset=Fraction(2))) is not None


def test_an_exception_counts_at_its_sum_only():
    found = ChannelRamps(1, (module.Ramp(1, 0, 4, 3),), ((5, 1), (20, -1)))
    assert found(np.array([4, 5, 6, 19, 20, 21])).tolist() == [1, 2, 1, 2, 1, 2]


def test_channels_with_one_shift_and_their_netlist():
    """Channels of all kinds in one STEP, falling ones too; few thresholds are no ramps."""
    rows = [thresholds(codes) for codes, _, _ in ROWS.values()]
    most = max(map(len, rows))
    padded = np.array([np.r_[row, np.full(most - len(row), SUMS.hi + 1)] for row in rows])
    sign = np.array([1, -1] * len(rows))[: len(rows)]
    steps = Steps(np.where(sign > 0, 0, most), sign, padded)
    ramps = ramps_of(steps, SUMS)
    assert ramps is not None and ramps.mul.shape == (len(rows), 2)
    assert ramps_of(Steps(steps.start, sign, padded[:, :31]), SUMS) is None
    x = Node("x", Op.INPUT, (), (len(rows),), SUMS)
    graph = Graph((x, Node("y", Op.STEP, ("x",), x.shape, Domain(0, most), steps)), ("y",))
    near = [np.clip(padded + d, SUMS.lo, SUMS.hi).T for d in (-2, -1, 0, 1)]
    codes = np.concatenate([*near, np.full((1, len(rows)), SUMS.lo), np.full((1, len(rows)), SUMS.hi)])
    assert np.array_equal(to_logic(graph)([codes])[0], graph(codes))


def wide(function, domain: Domain, *stages: Stage):
    graph = builder()
    value = FloatTensor(graph.add("x", Op.INPUT, [], (1,), domain), (1,))
    for stage in (*stages, Stage("act", function, alike=True)):
        value = value.then(stage)
    return graph, close(graph, "act", value, levels_of(function))


def round_10_bits(x: Array) -> Array:
    return np.clip(np.rint(x), -512, 511).astype(np.float32)


def test_levels_of_many_bits():
    levels = levels_of(round_10_bits)
    assert levels.domain == Domain(-512, 511) and levels.even
    sixteen = levels_of(lambda x: (np.clip(np.rint(x * 16), 0, 65535) / 16).astype(np.float32))
    assert sixteen.domain == Domain(0, 65535, Fraction(1, 16)) and sixteen.even


def test_a_wide_activation_that_is_no_line():
    """A curve of many sums is refused, one of few is a table; float32's roundings are named."""
    bent = Stage("bent", lambda x: np.sign(x) * np.sqrt(np.abs(x)) * np.float32(8), alike=True)
    with pytest.raises(Refusal, match=r"layer 'act': its 1023 thresholds are not at even distances, and too many"):
        wide(round_10_bits, Domain(-60_000, 60_000), bent)
    graph, node = wide(round_10_bits, Domain(-2000, 2000), bent)
    assert node.op is Op.LUT and "kept as a table of 4001 entries" in graph.notes[-1]
    sums = np.arange(-2000, 2001)[:, None]
    made = Graph(tuple(graph.nodes), (node.name,))
    assert np.array_equal(made(sums), round_10_bits(bent.apply(sums.astype(np.float32))))
    coarse = Stage("coarse", lambda x: x * np.float32(0.8137) + np.float32(0.4) * (x * 7 % 3 - 1),
                   [Line(Fraction(8137, 10_000), Fraction(0))], alike=True)
    with pytest.raises(Refusal, match="because float32 rounds 'coarse' to other sides of them"):
        wide(round_10_bits, Domain(-60_000, 60_000), coarse)


@pytest.mark.hls
@pytest.mark.parametrize("options", [{}, {"io_type": "io_stream"}, {"layers": {"d": {"pe": 6, "simd": 2}}}])
@pytest.mark.parametrize("ties", [True, False])
def test_ramps_in_c(ties, options, tmp_path):
    """Ties and exceptions, with constants known and read in every pass."""
    graph = ramp_design(ties)
    steps = graph["a"].params
    assert isinstance(steps, Steps)
    found = ramps_of(steps, graph["d"].domain)
    assert found is not None and bool((found.tie != NO_TIE).any()) == ties and bool(found.more.any()) != ties
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", **{"strategy": "Resource", **options}))
    bf.simulate(tmp_path / "prj", np.stack(np.meshgrid(*[np.arange(-128, 128, 5)] * 2), axis=-1).reshape(-1, 2))
