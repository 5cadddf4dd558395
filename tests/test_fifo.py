"""Depths of streams: every design finishes at the emitted ones, and one that is cut short is found."""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls.cycles import cycles_of
from bnnflow.backends.hls.fifo import StreamKernel, check_depths, depths, ends, timetable
from bnnflow.backends.hls.fusion import fusion_groups
from bnnflow.backends.hls.hls4ml_model import _layers, stream_kernels
from bnnflow.backends.project import Project
from bnnflow.errors import InputError
from bnnflow.ir import BIPOLAR, Domain, Graph, Index, Node, Op, Steps, Sum, Weights, Window
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains import gxx
from tests.conftest import union
from tests.random_graphs import random_foldings, random_graph


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


def streamed(graph: Graph, layers: dict | None = None) -> list[StreamKernel]:
    config = bf.BuildConfig(io_type="io_stream", layers=layers or {})
    return stream_kernels(_layers(graph, config, fusion_groups(graph, config), forks=True)[0])


def slowest(design: list[StreamKernel]) -> int:
    return max(cycles_of(kernel.call) for kernel in design)


def intervals(design: list[StreamKernel], room: dict[str, int], images: int = 12) -> int:
    """The most cycles from an image to the next of any kernel, when many images have gone before."""
    return max(last[-1] - last[-2] for last in ends(design, room, images))


def test_every_random_design_finishes():
    for seed in range(120):
        design = streamed(random_graph(seed))
        check_depths(design, depths(design))


def test_random_designs_are_as_fast_as_their_slowest_kernel():
    """Folded at random, and with no pixel of room more than the timetable needs."""
    short = 0
    for seed in range(60):
        graph = random_graph(seed)
        design = streamed(graph, random_foldings(graph, "io_stream", seed))
        table = timetable(design)
        check_depths(design, table.depths)
        assert intervals(design, table.depths) == table.interval == slowest(design), seed
        tight = {name: -(-held // 2) for name, held in table.depths.items()}
        try:
            short += intervals(design, tight) > table.interval
        except InputError:
            short += 1
    assert short > 2


def test_a_stream_cut_short_deadlocks():
    design = streamed(residual())
    room = depths(design)
    check_depths(design, room)
    # b needs two more rows and two more pixels of a before its first pixel: so many wait beside it.
    (waiting,) = [name for name, depth in room.items() if depth > 20]
    assert room[waiting] in range(21, 32) and "copy" in waiting
    for depth in (1, 5, 12):
        with pytest.raises(InputError, match=rf"the design deadlocks: .*{waiting} \(depth {depth}\) full"):
            check_depths(design, room | {waiting: depth})


# --- kernels at unequal rates ---------------------------------------------------------------------------------------


def chain(*outputs: int, size: int = 12) -> Graph:
    """Convolutions one behind the other."""
    nodes = [Node("x", Op.INPUT, (), (size, size, 8), BIPOLAR)]
    for k, count in enumerate(outputs):
        nodes += convolution(nodes[-1], f"c{k}", count, 3, k)
    return Graph(tuple(nodes), (nodes[-1].name,))


@pytest.mark.parametrize(("first", "second"), [
    ((1, 1), (8, 72)), ((8, 72), (1, 1)), ((2, 8), (4, 2)), ((4, 2), (2, 8))])
def test_a_slow_kernel_behind_a_fast_one_and_before_one(first, second):
    """Nothing piles up before the slow one: what waits there are rows of a window at most."""
    graph = chain(8, 8, 8)
    layers = {f"c{k}_sum": {"pe": pe, "simd": simd} for k, (pe, simd) in enumerate([(8, 72), first, second])}
    design = streamed(graph, layers)
    table = timetable(design)
    assert intervals(design, table.depths) == table.interval == slowest(design)
    assert max(table.depths.values()) < 40 < 144  # three rows and some, not an image


def test_what_a_slow_kernel_reads_at_once_waits_for_it():
    """It has no cycles to spare: two rows are there when it begins with an image. One pixel less, and it is slower."""
    graph = chain(8, 8, 8)
    design = streamed(graph, {f"c{k}_sum": {"pe": 2, "simd": 8} for k in range(3)})
    table = timetable(design)
    name, held = max(table.depths.items(), key=lambda item: item[1])
    assert held > 12 and intervals(design, table.depths) == table.interval
    assert intervals(design, table.depths | {name: held // 2}) > table.interval
    with pytest.raises(InputError, match=rf"later than at an interval of {table.interval}: .* deepen {name} \(2\)"):
        check_depths(design, table.depths | {name: 2})


@pytest.mark.parametrize("fold", [
    {}, {"a_sum": (1, 3)}, {"b_sum": (1, 1)}, {"b_sum": (4, 100)}, {"a_sum": (1, 1), "b_sum": (2, 4)}])
def test_ways_that_meet_at_unequal_rates(fold):
    """One way of a residual network is folded: the other holds what it has not finished, and its interval is kept."""
    design = streamed(residual(), {name: {"pe": pe, "simd": simd} for name, (pe, simd) in fold.items()})
    table = timetable(design)
    assert intervals(design, table.depths) == table.interval == slowest(design)
    short = max(table.depths, key=lambda name: table.depths[name])
    assert "copy" in short and table.depths[short] < 42  # pixels of an image
    with pytest.raises(InputError, match=f"the design deadlocks: .*{short}"):
        check_depths(design, table.depths | {short: 4})


def test_a_shuffle_stores_an_image_while_it_picks_the_one_before():
    x = Node("x", Op.INPUT, (), (4, 6, 5), BIPOLAR)
    turned = np.arange(120).reshape(4, 6, 5).transpose(1, 0, 2).ravel()
    moved = Node("moved", Op.GATHER, ("x",), (6, 4, 5), BIPOLAR, Index(turned))
    graph = Graph((x, moved, *convolution(moved, "c", 3, 3, 0)), ("c",))
    design = streamed(graph)
    assert [kernel.call.kernel for kernel in design] == ["flow_shuffle", "flow_slide"]
    table = timetable(design)
    assert intervals(design, table.depths) == table.interval == slowest(design) == 120 and table.latency > 240


def test_networks_of_real_size_in_time():
    """CNV's shape with folded sums: some hundred pixels of room in all, and the interval of the slowest kernel."""
    x = Node("x", Op.INPUT, (), (32, 32, 3), Domain(-128, 127))
    nodes, rng, fold = [x], np.random.default_rng(0), {}
    for k, (count, pe, simd, pool) in enumerate([(64, 16, 3, 0), (64, 16, 16, 1), (128, 8, 16, 0), (128, 8, 32, 1),
                                                 (256, 2, 32, 0), (256, 1, 32, 0)]):
        read = nodes[-1]
        window = Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), 1, read.shape[:-1])
        taps = 9 * read.shape[-1]
        nodes.append(Node(f"t{k}", Op.WINDOW, (read.name,), (*window.positions, taps), read.domain, window))
        weights = Weights(rng.choice([-1, 1], (taps, count)), np.ones((taps, count), bool))
        sums = dot_domain(read.domain, weights, window)
        nodes.append(Node(f"c{k}", Op.DOT, (f"t{k}",), (*window.positions, count), sums, weights))
        thresholds = Steps(np.zeros(count, np.int64), np.ones(count, np.int64), rng.integers(-9, 9, (count, 1)))
        nodes.append(Node(f"a{k}", Op.STEP, (f"c{k}",), nodes[-1].shape, BIPOLAR, thresholds))
        fold[f"c{k}"] = {"pe": pe, "simd": simd}
        if pool:
            window = Window((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), count, window.positions)
            nodes.append(Node(f"w{k}", Op.WINDOW, (f"a{k}",), (*window.positions, 4 * count), BIPOLAR, window))
            nodes.append(Node(f"p{k}", Op.MAX, (f"w{k}",), (*window.positions, count), BIPOLAR))
    design = streamed(Graph(tuple(nodes), (nodes[-1].name,)), fold)
    table = timetable(design)
    assert intervals(design, table.depths, 6) == table.interval == slowest(design)
    assert sum(table.depths.values()) < 300
    check_depths(design, depths(design))


TICK = "flow_cycle++;"
STREAM_LOG = """
#include <iostream>
#include <queue>
#include <string>
extern long flow_cycle;
namespace hls {
template <class T> class stream {
    std::queue<T> held;
    std::string name;
  public:
    stream() {}
    stream(const char *name) : name(name) {}
    void say(const char *what) { std::cout << what << " " << name << " " << flow_cycle << std::endl; }
    T read() { say("read"); T value = held.front(); held.pop(); return value; }
    void write(const T &value) { say("write"); held.push(value); }
    bool empty() { return held.empty(); }
    size_t size() { return held.size(); }
};
}
"""


@pytest.mark.hls
def test_schedules_are_those_of_the_loops(tmp_path, monkeypatch):
    """Streams that print every read and write with the number of iterations of all loops before it."""
    from tests.test_folding import CASES, case

    names = [name for name in CASES if name not in ("more_than_a_word", "codebook", "wide_codes", "dense", "pixels")]
    graphs = {f"{name}{k}": case(name) for name in names for k in (0, 1)} | {
        "residual": residual(), **{f"seed{k}": random_graph(k) for k in (3, 13, 21, 33)}}
    graph = union(graphs)
    layers = random_foldings(graph, "io_stream", 3)
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream", layers=layers))
    firmware = tmp_path / "prj/firmware"
    kernels = firmware / "nnet_utils/nnet_flow_stream.h"
    text, loops = re.subn("#pragma HLS PIPELINE( II=1)?\n", f"{TICK}\n", kernels.read_text())
    assert loops >= 7
    kernels.write_text(text)
    (firmware / "ap_types/hls_stream.h").write_text(f"#ifndef LOG\n#define LOG\n{STREAM_LOG}#endif\n")
    bench = tmp_path / "prj/myproject_test.cpp"
    bench.write_text("long flow_cycle = 0;\n" + bench.read_text())
    inputs = (tmp_path / "prj/tb_data/flow_inputs.dat").read_text().splitlines()
    expected = (tmp_path / "prj/tb_data/flow_expected.dat").read_text().splitlines()
    (tmp_path / "prj/tb_data/flow_inputs.dat").write_text(inputs[0] + "\n")
    (tmp_path / "prj/tb_data/flow_expected.dat").write_text(expected[0] + "\n")
    monkeypatch.setattr(gxx, "FLAGS", ("-std=c++0x", "-O0", "-w"))
    gxx.compile_project(Project.open(tmp_path / "prj"), tmp_path / "prj/bench", tmp_path / "log")
    said = subprocess.check_output([tmp_path / "prj/bench"], cwd=tmp_path / "prj", text=True)
    events = [line.split() for line in said.splitlines() if line.startswith(("read ", "write "))]

    design, wanted, start = streamed(graph, layers), [], 0
    for kernel in design:
        s = kernel.schedule
        for write, at in zip(s.write.tolist(), s.at.tolist()):
            wanted.append((("read", "write")[write], start + at))
        start += s.cycles
    # What the bench writes before, and reads behind the top function, is no kernel's.
    own = [k for k, (what, name, _) in enumerate(events) if not (what == "write" and name.endswith("_in"))]
    events = [events[k] for k in own][: len(wanted)]
    assert [(what, int(cycle) - 1) for what, _, cycle in events] == wanted
    # Every stream is the same one for its writer and its reader.
    names_of = {}
    place = iter(events)
    for kernel in design:
        s = kernel.schedule
        for write, stream in zip(s.write.tolist(), s.stream.tolist()):
            ours = (kernel.outputs if write else kernel.inputs)[stream]
            assert names_of.setdefault(ours, found := next(place)[1]) == found
    assert len(set(names_of.values())) == len(names_of)


@pytest.mark.hls
def test_depths_are_in_the_project_and_sums_are_not_stored(tmp_path):
    graph = residual()
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream", reuse_factor=2))
    top = (tmp_path / "prj/firmware/myproject.cpp").read_text()
    assert "#pragma HLS DATAFLOW" in top and "INTERFACE axis port=x_in,layer" in top
    found = dict(re.findall(r"#pragma HLS STREAM variable=(\w+) depth=(\d+)", top))
    layers = {name: {"reuse_factor": 2} for name in ("a_sum", "b_sum")}
    assert sorted(map(int, found.values())) == sorted(depths(streamed(graph, layers)).values())
    # Sums stay inside the kernels: only codes of one bit are streamed, but for the output.
    defines = (tmp_path / "prj/firmware/defines.h").read_text()  # x, a, its copies, b, sum
    assert re.findall(r"nnet::array<ap_ufixed<(\d+),", defines) == ["1", "1", "1", "1", "2"]
    folded = re.findall(r"int (?:n_out|pe|simd) = (\d+);", (tmp_path / "prj/firmware/parameters.h").read_text())
    assert folded == ["4", "2", "27", "4", "2", "100"]  # two cycles a position
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
