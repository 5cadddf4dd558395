"""Depths of streams: every design finishes at the emitted ones, and one that is cut short is found."""

from __future__ import annotations

import re

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls.fifo import StreamKernel, check_depths, depths
from bnnflow.backends.hls.fusion import fusion_groups
from bnnflow.backends.hls.hls4ml_model import _layers, stream_kernels
from bnnflow.errors import InputError
from bnnflow.ir import BIPOLAR, Domain, Graph, Index, Node, Op, Steps, Sum, Weights, Window
from bnnflow.ir.verify import dot_domain
from tests.conftest import union
from tests.random_graphs import random_graph

STREAM = bf.BuildConfig(io_type="io_stream")


def convolution(x: Node, name: str, outputs: int, kernel: int, seed: int) -> list[Node]:
    """A same-padded bipolar convolution and its activation."""
    rng, channels, pad = np.random.default_rng(seed), x.shape[-1], kernel // 2
    window = Window((kernel, kernel), (1, 1), (1, 1), ((pad, pad), (pad, pad)), 1, x.shape[:-1])
    taps = Node(f"{name}_taps", Op.WINDOW, (x.name,), (*x.shape[:-1], kernel**2 * channels), x.domain, window)
    levels = rng.choice([-1, 1], (kernel**2 * channels, outputs))
    weights = Weights(levels, np.ones_like(levels, bool))
    sums = Node(f"{name}_sum", Op.DOT, (taps.name,), (*x.shape[:-1], outputs), dot_domain(x.domain, weights, window),
                weights)
    thresholds = Steps(np.zeros(outputs, np.int64), np.ones(outputs, np.int64), rng.integers(-3, 4, (outputs, 1)))
    return [taps, sums, Node(name, Op.STEP, (sums.name,), sums.shape, BIPOLAR, thresholds)]


def residual() -> Graph:
    """x, then a convolution of 3x3, one of 5x5 behind it, and the sum of both: the short way must wait for the long."""
    x = Node("x", Op.INPUT, (), (7, 6, 3), BIPOLAR)
    nodes = [x, *convolution(x, "a", 4, 3, 0)]
    a = nodes[-1]
    nodes += convolution(a, "b", 4, 5, 1)
    nodes.append(Node("sum", Op.ADD, ("b", "a"), a.shape, Domain(0, 2), Sum(np.array([1, 1]), 0)))
    return Graph(tuple(nodes), ("sum",))


def streamed(graph: Graph) -> list[StreamKernel]:
    return stream_kernels(_layers(graph, STREAM, fusion_groups(graph, STREAM), forks=True)[0])


def test_every_random_design_finishes():
    for seed in range(120):
        design = streamed(random_graph(seed))
        check_depths(design, depths(design))


def test_a_stream_cut_short_deadlocks():
    design = streamed(residual())
    room = depths(design)
    check_depths(design, room)
    # b needs two more rows and two more pixels of a before its first pixel: so many wait beside it.
    (waiting,) = [name for name, depth in room.items() if depth > 6]
    assert room[waiting] in range(14, 20) and "copy" in waiting
    for depth in (1, 5, 12):
        with pytest.raises(InputError, match=rf"the design deadlocks: .*{waiting} \(depth {depth}\) full"):
            check_depths(design, room | {waiting: depth})


@pytest.mark.hls
def test_depths_are_in_the_project_and_sums_are_not_stored(tmp_path):
    graph = residual()
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream", reuse_factor=2))
    top = (tmp_path / "prj/firmware/myproject.cpp").read_text()
    assert "#pragma HLS DATAFLOW" in top and "INTERFACE axis port=x_in,layer" in top
    found = dict(re.findall(r"#pragma HLS STREAM variable=(\w+) depth=(\d+)", top))
    assert sorted(map(int, found.values())) == sorted(depths(streamed(graph)).values())
    # Sums stay inside the kernels: only codes of one bit are streamed, but for the output.
    defines = (tmp_path / "prj/firmware/defines.h").read_text()  # x, a, its copies, b, sum
    assert re.findall(r"nnet::array<ap_ufixed<(\d+),", defines) == ["1", "1", "1", "1", "2"]
    assert "interval = 2;" in (tmp_path / "prj/firmware/parameters.h").read_text()
    codes = np.random.default_rng(0).integers(0, 2, (40, 7, 6, 3))
    together = bf.simulate(tmp_path / "prj", codes)
    for order in ([0, 1], [1, 0]):
        assert np.array_equal(bf.simulate(tmp_path / "prj", codes[order]), together[order])


@pytest.mark.hls
@pytest.mark.parametrize("options", [{"io_type": "io_stream"}, {"strategy": "Resource"}])
def test_an_output_that_is_read_beside_a_node_with_its_copys_name(options, tmp_path):
    x = Node("x", Op.INPUT, (), (2, 2, 3), BIPOLAR)
    other = Node("a_result", Op.GATHER, ("x",), (2, 2, 3), BIPOLAR, Index(np.arange(12)[::-1].copy()))
    a = Node("a", Op.GATHER, ("a_result",), (2, 2, 3), BIPOLAR, Index(np.roll(np.arange(12), 5)))
    b = Node("b", Op.GATHER, ("a",), (12,), BIPOLAR, Index(np.arange(12)))
    graph = Graph((x, other, a, b), ("a", "b"))
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", **options))
    bf.simulate(tmp_path / "prj")


@pytest.mark.hls
def test_streams_are_traced(tmp_path):
    from bnnflow.simulation import trace_project

    graph = union({"r": residual(), "g": random_graph(3)})
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    rng = np.random.default_rng(0)
    codes = [rng.integers(n.domain.lo, n.domain.hi, (9, *n.shape), endpoint=True) for n in graph.inputs]
    ours, theirs = bf.trace(graph, codes), trace_project(tmp_path / "prj", codes)
    assert {"r__a", "r__b", "r__sum"} <= set(theirs) and "r__a_sum" not in theirs
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.hls
def test_hls4ml_predicts_streams(tmp_path):
    graph = residual()
    model = bf.to_hls4ml(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    model.compile()
    codes = np.random.default_rng(0).integers(0, 2, (10, 7, 6, 3))
    assert np.array_equal(model.predict(codes.astype(float)).reshape(10, 7, 6, 4), graph(codes))
