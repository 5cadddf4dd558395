"""Netlists as C++ (strategy distributed_arithmetic): what is written, that it computes the graph, what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls import netlist_kernel as hls_logic
from bnnflow.backends.hls.fusion import kernels
from bnnflow.backends.hls.netlist_kernel import to_cpp
from bnnflow.backends.hls.one_position import at_one_position
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.errors import InputError, Mismatch
from bnnflow.ir import BIPOLAR, Domain, Graph, Node, Op, Steps, Table, Weights, Window
from bnnflow.ir.verify import dot_domain
from bnnflow.simulation import trace_project
from tests.conftest import union
from tests.random_graphs import random_codes, random_graph

DA = "distributed_arithmetic"


def planes(count: int, channels: int) -> Steps:
    """One threshold a channel, rising and falling."""
    rng = np.random.default_rng(count)
    sign = rng.choice([-1, 1], channels)
    return Steps((sign < 0).astype(np.int64), sign, rng.integers(-3, 4, (channels, 1)))


def image() -> Graph:
    """A padded convolution of +-1, whose borders have other constants, its thresholds, a dense layer and thresholds."""
    rng = np.random.default_rng(0)
    x = Node("x", Op.INPUT, (), (5, 4, 3), BIPOLAR)
    window = Window((3, 3), (1, 2), (1, 1), ((1, 1), (2, 1)), 1, (5, 4))
    taps = Node("taps", Op.WINDOW, ("x",), (*window.positions, 27), BIPOLAR, window)
    weights = Weights(rng.choice([-1, 1], (27, 6)), np.ones((27, 6), bool))
    conv = Node("conv", Op.DOT, ("taps",), (*window.positions, 6), dot_domain(BIPOLAR, weights, window), weights)
    codes = Node("codes", Op.STEP, ("conv",), conv.shape, BIPOLAR, planes(1, 6))
    levels = Weights(rng.choice([-1, 0, 1], (6, 7)), np.ones((6, 7), bool))
    dense = Node("dense", Op.DOT, ("codes",), (*window.positions, 7), dot_domain(BIPOLAR, levels), levels)
    return Graph((x, taps, conv, codes, dense, Node("y", Op.STEP, ("dense",), dense.shape, BIPOLAR, planes(2, 7))),
                 ("y",))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("netlists") / "prj"
    bf.build(image(), bf.BuildConfig(output_dir=path, strategy=DA))
    return path


@pytest.mark.hls
@pytest.mark.parametrize(("first", "io_type", "part"), [(200, "io_parallel", 1000), (210, "io_stream", 3)])
def test_random_domains_and_parameters_in_c(first, io_type, part, tmp_path, monkeypatch):
    """Ten graphs in one project, whole netlists and ones of many functions; a difference names the seed."""
    monkeypatch.setattr(hls_logic, "PART", part)
    graphs = {f"seed{seed}": random_graph(seed) for seed in range(first, first + 10)}
    bf.build(union(graphs), bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA, io_type=io_type))
    bf.simulate(tmp_path / "prj", [c for graph in graphs.values() for c in random_codes(graph, 0)])
    text = "".join(file.read_text() for file in (tmp_path / "prj/firmware/weights").iterdir())
    assert text.count("void position(") > 10 and ("part9(" in text) == (part == 3)


@pytest.mark.hls
def test_borders_and_every_layer(project):
    graph = image()
    codes = np.random.default_rng(0).integers(0, 2, (300, 5, 4, 3))
    assert np.array_equal(bf.simulate(project, codes), graph(codes))
    found = trace_project(project, codes[:50])
    assert set(found) == {"x", "codes", "y"}, "sums stay inside"
    assert all(np.array_equal(found[name], value[:50]) for name, value in bf.trace(graph, codes[:50]).items()
               if name in found)


@pytest.mark.hls
def test_beside_loops(tmp_path):
    """One node as a netlist in a project of loops: DATAFLOW; and thresholds apart from their sum."""
    layers = {"conv": {"strategy": DA, "reuse_factor": 1}, "codes": {"strategy": "Resource"}}
    bf.build(image(), bf.BuildConfig(output_dir=tmp_path / "prj", strategy="Resource", reuse_factor=1,
                                         layers=layers))
    assert "#pragma HLS DATAFLOW" in (tmp_path / "prj/firmware/myproject.cpp").read_text()
    names = sorted(file.name for file in (tmp_path / "prj/firmware/weights").glob("flow_*.h"))
    texts = {name: (tmp_path / "prj/firmware/weights" / name).read_text() for name in names}
    assert ["namespace logic_" in texts[name] for name in names] == [name == "flow_conv.h" for name in names]
    bf.simulate(tmp_path / "prj")


@pytest.mark.hls
def test_a_wrong_function_is_found(project, tmp_path):
    """One inversion more in the last function of a netlist."""
    bf.build(image(), bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA))
    path = tmp_path / "prj/firmware/weights/flow_y.h"
    text = path.read_text()
    *_, last = re.finditer(r"const bool (n\d+) = ((?:lut|ones)\w+\([^;]*\));", text)
    path.write_text(f"{text[:last.start(2)]}!{text[last.start(2):]}")
    with pytest.raises(Mismatch, match=r"node 'y', element .*: graph [01], C simulation [01]"):
        bf.simulate(tmp_path / "prj")


def test_written_functions(project, tmp_path):
    text = (project / "firmware/weights/flow_y.h").read_text()
    assert re.search(r"inline void part0\(.*\) \{\n    #pragma HLS INLINE off\n    #pragma HLS PIPELINE II=1\n", text)
    assert "nnet::logic_y::position<" in (project / "firmware/parameters.h").read_text()
    assert "#pragma HLS PIPELINE II=1\n" in (project / "firmware/myproject.cpp").read_text()
    assert "flow_y_" not in text and "ap_" not in re.sub(r"#include.*", "", text), "no ROM, no arbitrary widths"
    assert "border" in (project / "firmware/weights/flow_codes.h").read_text() and "int border[" not in text
    bf.build(image(), bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA))
    assert text == (tmp_path / "prj/firmware/weights/flow_y.h").read_text()


@pytest.mark.parametrize("part", [1, 2, 50])
def test_parts_hand_on_what_is_read_and_no_more(part, monkeypatch):
    monkeypatch.setattr(hls_logic, "PART", part)
    levels = np.random.default_rng(0).choice([-1, 1], (20, 6))
    weights = Weights(levels, np.ones(levels.shape, bool))
    graph = Graph((Node("x", Op.INPUT, (), (20,), BIPOLAR),
                   Node("y", Op.DOT, ("x",), (6,), dot_domain(BIPOLAR, weights), weights)), ("y",))
    text = to_cpp(to_logic(graph), "logic_y")
    for body in re.findall(r"void part\d+\(([^{]*)\) \{(.*?)\n}", text, re.S):
        declared = re.findall(r"const unsigned long long (\w+)\[(\d+)\]", body[0])
        assert all(re.search(rf"\b{name}\[", body[1]) for name, _ in declared)
        made, read = (set(re.findall(form, body[1])) for form in (r"const (?:bool|int) (n\w+)", r"\b(n\d\w*)\b"))
        assert read <= made and len(re.findall(r"const (?:bool|int) n", body[1])) == len(made)


def test_groups_begin_where_another_strategy_is_asked_for():
    def groups(**options: object) -> list[list[str]]:
        config = bf.BuildConfig(**options)
        return [[node.name for node in nodes] for nodes, _ in kernels(image(), config)]

    assert groups() == [["x"], ["conv"], ["codes"], ["dense"], ["y"]]
    assert groups(strategy=DA) == [["x"], ["conv", "codes"], ["dense", "y"]]
    assert groups(layers={"dense": {"strategy": "Distributed_Arithmetic"}})[-1] == ["dense", "y"]
    assert groups(strategy=DA, layers={"codes": {"strategy": "Latency"}})[1:3] == [["conv"], ["codes"]]


@pytest.mark.parametrize(("options", "message"), [
    ({"strategy": DA, "reuse_factor": 2},
     r"node 'conv': a netlist takes an input every cycle; reuse_factor 2 has nothing to share: use layers="
     r"\{'conv': \{'reuse_factor': 1\}\}.*\n.*node 'dense'"),
    ({"strategy": DA, "layers": {"y": {"reuse_factor": 2}}},
     "layers names 'y', which is computed by the kernel of 'dense'; name that node"),
    ({"layers": {"conv": {"strategy": DA}}, "strategy": "Resource", "reuse_factor": 5}, "node 'conv': a netlist takes"),
])
def test_refused_at_build(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        bf.build(image(), bf.BuildConfig(output_dir=tmp_path / "prj", **options))
    assert not list(tmp_path.iterdir())


def test_not_for_verilog():
    with pytest.raises(InputError, match="strategy='distributed_arithmetic': Verilog is fully unrolled"):
        bf.BuildConfig(backend="Verilog", strategy=DA)


def test_too_large_for_a_vendors_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(hls_logic, "MOST", 1500)
    message = (r"node 'conv' unrolls to \d+ functions and additions at 15 positions; .*1,500: give it another "
               r"strategy, layers=\{'conv': \{'strategy': 'Resource'\}\}, or use io_type='io_stream'")
    with pytest.raises(InputError, match=message):
        bf.build(image(), bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA))
    bf.build(image(), bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA, io_type="io_stream"))


@pytest.mark.hls
@pytest.mark.parametrize("io_type", ["io_parallel", "io_stream"])
def test_thresholds_of_a_windows_taps(io_type, tmp_path):
    """Thresholds read the tensor that a WINDOW makes; only sums and maxima read the image below it."""
    x = Node("x", Op.INPUT, (), (4, 3), Domain(0, 7))
    taps = Node("taps", Op.WINDOW, ("x",), (3, 6), x.domain, Window((2,), (1,), (1,), ((0, 0),), 1, (4,)))
    graph = Graph((x, taps, Node("y", Op.STEP, ("taps",), (3, 6), BIPOLAR, planes(3, 6))), ("y",))
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA, io_type=io_type))
    bf.simulate(tmp_path / "prj", random_codes(graph, 0, 40))


def test_a_sample_of_outputs_computes_them():
    """Some outputs at a position with all taps, also where their sums have narrower bounds than a table behind."""
    rng, some = np.random.default_rng(0), [1, 4]
    x = Node("x", Op.INPUT, (), (3, 3, 2), Domain(-2, 5))
    window = Window((2, 2), (1, 1), (2, 1), ((1, 1), (0, 0)), 1, (3, 3))
    taps = Node("taps", Op.WINDOW, ("x",), (*window.positions, 8), x.domain, window)
    weights = Weights(rng.integers(-3, 4, (8, 5)), np.ones((8, 5), bool))
    sums = Node("sums", Op.DOT, ("taps",), (*window.positions, 5), dot_domain(x.domain, weights, window), weights)
    table = Table(rng.integers(0, 4, (5, sums.domain.size)))
    codes = Node("codes", Op.LUT, ("sums",), sums.shape, Domain(0, 3), table)
    sample = at_one_position([sums, codes], [taps], outputs=some)
    given = rng.integers(-2, 6, (50, 2, 2, 2))
    totals = given.reshape(50, 8) @ weights.levels[:, some]
    assert np.array_equal(sample(given)[:, 0, 0], table.codes[some, totals - sums.domain.lo])


def test_wide_codes_and_merges_keep_their_kernels(tmp_path):
    """A graph cannot begin with 25 bits, and a merge reads two tensors."""
    x = Node("x", Op.INPUT, (), (4,), Domain(-(2**23), 2**23 - 1))
    weights = Weights(np.ones((4, 2), np.int64) * 4, np.ones((4, 2), bool))
    sums = Node("sums", Op.DOT, ("x",), (2,), dot_domain(x.domain, weights), weights)
    graph = Graph((x, sums, Node("y", Op.STEP, ("sums",), (2,), BIPOLAR, planes(1, 2))), ("y", "sums"))
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", strategy=DA))
    calls = re.findall(r"nnet::(\w+)<", (tmp_path / "prj/firmware/myproject.cpp").read_text())
    assert calls == ["flow_positions", "flow_all"]
