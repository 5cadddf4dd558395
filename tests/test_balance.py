"""The balance of a whole network: it keeps up, is the smallest that does, fits, or says what would work."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls import code_size as sizes
from bnnflow.backends.hls.folding import all_foldings, folding_of, told
from bnnflow.backends.hls.fusion import prepared
from bnnflow.backends.project import Project
from bnnflow.devices.parts import PARTS, part_of
from bnnflow.errors import InputError
from bnnflow.estimates.balance import _Balance, balanced
from bnnflow.estimates.estimate import estimate
from bnnflow.facts.facts import Facts
from bnnflow.ir import BIPOLAR, Graph, Index, Node, Op, Steps, Weights, Window
from bnnflow.ir.verify import dot_domain
from tests.random_graphs import random_graph
from tests.test_code_size import summed
from tests.test_estimate import conv, dense
from tests.test_hls import net

STREAM, ARRAYS = bf.BuildConfig(io_type="io_stream"), bf.BuildConfig(strategy="Resource")


def network() -> Graph:
    """A convolution of 8x8x16, thresholds, a pool, a convolution of 4x4x16 and a dense layer of ten outputs."""
    rng = np.random.default_rng(0)
    nodes = list(conv(8, 16))

    def step(name: str) -> Node:
        source, channels = nodes[-1], nodes[-1].shape[-1]
        sign = rng.choice([-1, 1], channels)
        thresholds = Steps((sign < 0).astype(np.int64), sign, rng.integers(-3, 4, (channels, 1)))
        return Node(name, Op.STEP, (source.name,), source.shape, BIPOLAR, thresholds)

    def summed(name: str, source: Node, outputs: int, window: Window | None = None) -> Node:
        weights = Weights(rng.choice([-1, 1], (source.shape[-1], outputs)), np.ones((source.shape[-1], outputs), bool))
        return Node(name, Op.DOT, (source.name,), (*source.shape[:-1], outputs), dot_domain(BIPOLAR, weights, window),
                    weights)

    nodes.append(step("a"))
    pool = Window((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), 16, (8, 8))
    nodes += [Node("p_taps", Op.WINDOW, ("a",), (4, 4, 64), BIPOLAR, pool),
              Node("p", Op.MAX, ("p_taps",), (4, 4, 16), BIPOLAR)]
    window = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1, (4, 4))
    nodes.append(Node("e_taps", Op.WINDOW, ("p",), (4, 4, 144), BIPOLAR, window))
    nodes.append(summed("e", nodes[-1], 16, window))
    nodes.append(step("b"))
    nodes.append(Node("flat", Op.GATHER, ("b",), (256,), BIPOLAR, Index(np.arange(256))))
    nodes.append(summed("f", nodes[-1], 10))
    return Graph(tuple(nodes), ("f",))


@pytest.mark.parametrize("config", [STREAM, ARRAYS])
def test_every_kernel_keeps_up_at_the_interval(config):
    slower = None
    for interval in (100, 500, 2000, 40000) if config is STREAM else (1, 4, 16, 100, 500, 2000):
        options = balanced(network(), config, interval=interval)
        facts = estimate(network(), options)
        assert facts.interval[1] <= interval and all(m.cycles <= interval for m in facts.modules)
        assert set(options.layers) == {"d", "p", "e", "f"}
        assert slower is None or facts.lut < slower
        slower = facts.lut


def test_it_is_the_smallest_that_does():
    """No other folding of any one node that keeps up is smaller, blocks counted by their share of the part."""
    part = part_of(STREAM.part)

    def size(facts: Facts) -> float:
        return facts.lut + facts.bram * part.lut / part.bram

    for config, interval in ((STREAM, 900), (STREAM, 5000), (ARRAYS, 30), (ARRAYS, 600)):
        options = balanced(network(), config, interval=interval)
        known = {node.name: node for node in prepared(network(), config)}
        least = estimate(network(), options)
        for name, row in options.layers.items():
            node, source = known[name], known[known[name].inputs[0]]
            assert told(folding_of(node, source, options)) == row  # nothing else is made of it
            for folding in all_foldings(node, source, config.stream):
                other = estimate(network(), replace(options, layers={**options.layers, name: told(folding)}))
                assert other.interval[1] > interval or size(other) >= size(least) - 4, (name, folding)  # rounded up


@pytest.mark.parametrize("config", [STREAM, ARRAYS])
def test_any_graph(config):
    for seed in range(40):
        graph = random_graph(seed)
        if not any(node.traits.taps for node in graph):
            continue
        least = _Balance(graph, config).least
        for interval in (least, 2 * least + 3, 100 * least):
            options = balanced(graph, config, interval=interval)
            assert estimate(graph, options).interval[1] <= interval
            options.target.check(graph, options)
            assert balanced(graph, options, interval=interval) == options  # what is said already stays


def test_what_cannot_keep_up_is_refused_with_the_nearest_that_does():
    for config, kernel in ((STREAM, "'d'"), (replace(STREAM, layers={"e": {"pe": 1}}), "'e'"),
                           (replace(ARRAYS, layers={"f": {"pe": 2, "simd": 16}}), "'f'")):
        with pytest.raises(InputError, match=rf"interval=1: the kernel of {kernel} takes .* cycles") as refused:
            balanced(network(), config, interval=1)
        nearest = int(re.search(r"use interval=(\d+) or more", str(refused.value))[1])
        assert estimate(network(), balanced(network(), config, interval=nearest)).interval == (nearest, nearest)
        with pytest.raises(InputError, match=f"use interval={nearest} or more"):
            balanced(network(), config, interval=nearest - 1)
        with pytest.raises(InputError, match=f"throughput=1000000000, an .* the kernel of {kernel}") as refused:
            balanced(network(), config, throughput=1e9)
        highest = float(re.search(r"use throughput=([\d.]+) or less", str(refused.value))[1])
        facts = estimate(network(), balanced(network(), config, throughput=highest))
        assert facts.throughput >= highest > 0.999 * facts.throughput


@pytest.mark.parametrize("period", [10 / 3, 1e9 / 7e7, 0.7, 1 / 0.3, 5.0, 999.9])
def test_a_throughput_that_is_named_is_one(period):
    """Floats are rounded: what the message names is reached, whatever the clock and the cycles are."""
    for outputs in (1, 3, 7, 30, 90):
        config = replace(STREAM, clock_period=period, layers={"d": {"pe": 1, "simd": 64}})
        with pytest.raises(InputError, match="or less") as refused:
            balanced(dense(64, outputs), config, throughput=1e12)
        highest = float(re.search(r"use throughput=([\d.e-]+) or less", str(refused.value))[1])
        found = balanced(dense(64, outputs), config, throughput=highest)
        assert estimate(dense(64, outputs), found).throughput >= highest * (1 - 1e-12) > 0


def test_throughput_is_at_the_clock_that_there_can_be():
    slow = replace(STREAM, clock_period=0.1, part="xc7z020clg400-1")  # no level of logic is as fast
    for config in (STREAM, slow):
        facts = estimate(network(), balanced(network(), config, throughput=20000))
        assert facts.throughput >= 20000


@pytest.mark.parametrize(("config", "goal", "message", "remedy"), [
    (bf.BuildConfig(), {"interval": 99}, r"strategy='Latency': in io_parallel nothing is folded; use "
     r"strategy='Resource'$", {"strategy": "Resource"}),
    (bf.BuildConfig(layers={"d": {"strategy": "Latency"}}), {"interval": 99}, "use strategy='Resource', and none in "
     "layers", {"strategy": "Resource", "layers": {}}),
    (bf.BuildConfig(backend="Verilog", pipelined=False), {"fit": True}, "backend='Verilog': nothing of Verilog is "
     "folded; use backend='Vitis', strategy='Resource', pipelined=True",
     {"backend": "Vitis", "strategy": "Resource", "pipelined": True}),
    (replace(STREAM, strategy="distributed_arithmetic"), {"interval": 99}, "strategy='distributed_arithmetic': "
     "netlists are not folded; use strategy='Latency'", {"strategy": "Latency"}),
    (STREAM, {}, "no goal: give one of interval, throughput and fit", None),
    (STREAM, {"interval": 9, "fit": True}, "interval=9, fit=True: give one of", None),
    (STREAM, {"interval": 1.5}, r"interval=1.5: a whole number of cycles", None),
    (STREAM, {"interval": True}, r"interval=True: a whole number of cycles", None),
    (STREAM, {"interval": 10**400}, r"interval=\(a number of 401 digits\): a whole number of cycles", None),
    (STREAM, {"throughput": 10**400}, r"throughput=\(a number of 401 digits\): a number of inputs", None),
    (STREAM, {"throughput": 1e-300}, r"throughput=1e-300: a number of inputs a second", None),
    (STREAM, {"throughput": float("inf")}, r"throughput=inf: a number of inputs a second", None),
    (STREAM, {"throughput": 0}, r"throughput=0: a number of inputs a second, above 0", None),
    (replace(ARRAYS, layers={"d": {"strategy": "Latency"}}), {"interval": 99}, "nothing is folded; leave the "
     "strategies in layers out", {"layers": {}}),
    (STREAM, {"throughput": float("nan")}, r"throughput=nan: a number", None),
    (STREAM, {"throughput": "fast"}, r"throughput='fast': a number", None),
    (replace(STREAM, part="xc9z999"), {"fit": True}, "part='xc9z999' is not in the table", None),
    (replace(STREAM, layers={"d": {"pe": 3}}), {"interval": 99}, "'d': pe=3 does not divide", None),
])
def test_bad_input(config, goal, message, remedy):
    graph = dense(64, 6)
    if "pe=3" in message:
        graph = dense(64, 8)
    with pytest.raises(InputError, match=message):
        balanced(graph, config, **goal)
    if remedy:
        assert balanced(graph, replace(config, **remedy), **goal).layers["d"]


# --- what HLS compilers take ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [STREAM, ARRAYS])
def test_what_is_chosen_can_be_built(config):
    """Of 1,024 inputs and 256 outputs, foldings of two to seven cycles are too much, that of one is not."""
    graph = summed(1024, 256)
    for goal in ({"interval": 1}, {"interval": 2}, {"interval": 7}, {"interval": 8}, {"interval": 64}, {"fit": True}):
        found = bf.balanced(graph, replace(config, part="xczu7ev"), **goal)
        found.target.check(graph, found)
        assert estimate(graph, found).interval[1] <= goal.get("interval", 8)
        assert not goal.get("fit") or estimate(graph, found).fits


@pytest.mark.parametrize("config", [STREAM, ARRAYS])
@pytest.mark.parametrize("limits", [(2000, 10**9), (10**9, 6000)])
def test_the_nearest_that_can_be_built_is_named(config, limits, monkeypatch):
    """Also where compilers take less: no function, or no design, of more than so many instructions."""
    for limit, value in zip(("function", "design"), limits):
        monkeypatch.setitem(sizes.MOST, limit, value)
    some = ""
    for graph in (network(), summed(64, 30, 3, 6), summed(192, 64), random_graph(6), random_graph(9)):
        try:
            balanced(graph, config, interval=1)
        except InputError as error:
            nearest = re.search(r"use interval=(\d+) or more", str(error))
            if nearest is None:  # of all foldings
                assert "HLS compilers stop unrolling" in str(error)
                continue
            some += str(error)
            first = int(nearest[1])
            assert all(_built(graph, config, n) == (n >= first) for n in (2, 17, first - 1, first, first + 1, 5000))
    assert ("folding that HLS compilers take" if limits[0] < 10**9 else "instructions that HLS compilers take") in some


def _built(graph: Graph, config: bf.BuildConfig, interval: int) -> bool:
    """True where a goal can be built; False where a longer interval is named, InputError where none can be."""
    try:
        found = balanced(graph, config, interval=interval)
    except InputError as error:
        if "or more" in str(error):
            return False
        raise
    found.target.check(graph, found)
    assert estimate(graph, found).interval[1] <= interval
    return True


def test_what_no_folding_cures_is_said_first():
    """Not that no part is large enough, or that a kernel does not keep up."""
    for config, message in ((STREAM, "a stream at most 4096"), (ARRAYS, "the vendor tools partition at most 4096")):
        for goal in ({"fit": True}, {"interval": 1}):
            with pytest.raises(InputError, match=message):
                balanced(dense(5000, 4), replace(config, part="ice40hx1k"), **goal)


@pytest.mark.parametrize("config", [STREAM, ARRAYS, bf.BuildConfig()])
def test_nothing_to_fold(config):
    """A graph without sums and maxima is as it is."""
    thresholds = Steps(np.zeros(6, np.int64), np.ones(6, np.int64), np.zeros((6, 1), np.int64))
    x = Node("x", Op.INPUT, (), (6,), BIPOLAR)
    graph = Graph((x, Node("a", Op.STEP, ("x",), (6,), BIPOLAR, thresholds)), ("a",))
    for goal in ({"interval": 5}, {"throughput": 1000}, {"fit": True}):
        assert balanced(graph, config, **goal) == config


# --- what fits ------------------------------------------------------------------------------------------------------


def test_the_fastest_that_fits():
    for config, part in ((STREAM, "xc7a12t"), (STREAM, "ice40hx4k"), (ARRAYS, "xc7a35t")):
        options = balanced(network(), replace(config, part=part), fit=True)
        facts = estimate(network(), options)
        assert facts.fits and options.part == part
        balance = _Balance(network(), replace(config, part=part))
        faster = max([n for n in balance.intervals if n < facts.interval[1]], default=None)
        assert faster is None or not any(estimate(network(), balance.config_at(faster, weight)).fits
                                         for weight in (1.0, 8.0, 0.125))
        assert estimate(network(), balanced(network(), replace(config, part=part), interval=facts.interval[1])).fits


def test_what_fits_no_part_is_refused_with_the_nearest_that_it_fits():
    with pytest.raises(InputError, match=r"part='ice40hx1k': no folding fits; the smallest takes [\d,]+ of 1,280 LUT") \
            as refused:
        balanced(network(), replace(STREAM, part="ice40hx1k"), fit=True)
    part = re.search(r"use part='([\w-]+)' or a larger one", str(refused.value))[1]
    assert PARTS[part].family.name == "iCE40"
    assert estimate(network(), balanced(network(), replace(STREAM, part=part), fit=True)).fits


# --- builds ---------------------------------------------------------------------------------------------------------


@pytest.mark.hls
def test_a_project_says_its_folding(tmp_path):
    config = replace(STREAM, output_dir=tmp_path / "prj")
    project = bf.build(network(), config, interval=900)
    wanted = bf.balanced(network(), config, interval=900)
    assert project.config.layers == wanted.layers and wanted.layers["d"].keys() == {"pe", "simd"}
    again = bf.build(network(), replace(Project.open(tmp_path / "prj").config, output_dir=tmp_path / "again"))
    assert again.sources_digest("") == project.sources_digest("")
    assert bf.estimate(project) == bf.estimate(network(), config, interval=900)
    assert bf.estimate(network(), config, throughput=2e8 / 900).interval == bf.estimate(project).interval
    bf.simulate(project)
    with pytest.raises(InputError, match=r"interval: a project has its own folding; estimate flow\.npz"):
        bf.estimate(project, interval=900)


def test_the_encoder_outside():
    config = replace(STREAM, encoder="outside")
    options = bf.balanced(net(), config, interval=30)
    assert options.encoder == "outside" and options.layers
    assert bf.estimate(net(), options).interval[1] <= 30
    assert bf.balanced(net(), config) == config  # without a goal


def test_command_line(cli, tmp_path):
    bf.save(network(), tmp_path / "net.npz")
    done = cli("estimate", "net.npz", "--io-type", "io_stream", "--interval", "900")
    assert done.returncode == 0 and {"pe", "simd", "cycles", "interval"} <= set(done.stdout.split()), done.stderr
    done = cli("estimate", "net.npz", "--io-type", "io_stream", "--throughput", "9e8")
    assert done.returncode == 2 and "or less" in done.stderr
    done = cli("build", "net.npz", "--strategy", "Resource", "--fit", "--part", "xc7a35t-cpg236-1")
    assert done.returncode == 0 and re.search(r"folding: .*f:pe=\d+,simd=\d+", done.stdout), done.stderr
    assert bf.estimate(tmp_path / "prj").fits
    assert cli("build", "net.npz", "--interval", "9").returncode == 2
    for arguments in (["--throughput", "1e-300"], ["--interval", "9" * 400], ["--layer", "d:pe=²"],
                      ["--layer", "d:pe=" + "9" * 5000], ["--reuse-factor", "9" * 400]):
        done = cli("build", "net.npz", "--io-type", "io_stream", *arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    done = cli("estimate", "net.npz", "--io-type", "io_stream", "--part", "ice40hx8k")
    flags = re.search(r"fits with: (.*) \(an input every [\d,]+ cycles\)", done.stdout)[1]
    assert "fits (" in cli("estimate", "net.npz", "--part", "ice40hx8k", *flags.split()).stdout
    done = cli("estimate", "net.npz", "--io-type", "io_stream", "--part", "ice40hx8k", "--layer", "d:pe=16")
    assert f"fits with: {flags} without --layer (" in done.stdout
