"""Estimates without tools: what they follow from, how long they take, and how far the baseline is from the truth."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls.cycles import schedule_of
from bnnflow.backends.hls.fusion import prepared
from bnnflow.backends.hls.loops import loop_of
from bnnflow.backends.netlist.counts import netlist_counts
from bnnflow.backends.netlist.goals import GOALS
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.verilog import to_verilog
from bnnflow.devices.parts import PARTS, part_of
from bnnflow.errors import InputError
from bnnflow.estimates.balance import fitting
from bnnflow.estimates.baseline import LUT_PER_ACTIVATION, LUT_PER_NONZERO, baseline_facts, estimate_baseline
from bnnflow.estimates.costs import COST, LUT_PER_BIT, Cost, Work, table_cost
from bnnflow.estimates.estimate import START, estimate
from bnnflow.estimates.netlists import USABLE, front, timing
from bnnflow.facts.readers import read_report
from bnnflow.ir import BIPOLAR, TERNARY, Domain, Graph, Index, Node, Op, Steps, Weights, Window, fixed
from bnnflow.ir.verify import dot_domain
from tests.conftest import union
from tests.random_graphs import random_codes, random_graph
from tests.test_hls import net


def layer(source: Node, outputs: int, levels: np.ndarray, mask: np.ndarray | None = None, name: str = "d") -> Node:
    weights = Weights(levels, np.ones(levels.shape, bool) if mask is None else mask)
    domain = dot_domain(source.domain, weights)
    return Node(name, Op.DOT, (source.name,), (*source.shape[:-1], outputs), domain, weights)


def dense(inputs: int = 64, outputs: int = 32, domain: Domain = BIPOLAR, seed: int = 0, kept: float = 1.0) -> Graph:
    rng = np.random.default_rng(seed)
    x = Node("x", Op.INPUT, (), (inputs,), domain)
    d = layer(x, outputs, rng.choice([-1, 1], (inputs, outputs)), rng.random((inputs, outputs)) < kept)
    thresholds = Steps(np.zeros(outputs, np.int64), np.ones(outputs, np.int64), np.zeros((outputs, 1), np.int64))
    return Graph((x, d, Node("a", Op.STEP, ("d",), (outputs,), BIPOLAR, thresholds)), ("a",))


def conv(size: int = 16, channels: int = 8) -> Graph:
    x = Node("x", Op.INPUT, (), (size, size, channels), BIPOLAR)
    window = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1, (size, size))
    w = Node("w", Op.WINDOW, ("x",), (size, size, 9 * channels), BIPOLAR, window)
    rng = np.random.default_rng(0)
    weights = Weights(rng.choice([-1, 1], (9 * channels, channels)), np.ones((9 * channels, channels), bool))
    d = Node("d", Op.DOT, ("w",), (size, size, channels), Domain(-9 * channels, 9 * channels), weights)
    return Graph((x, w, d), ("d",))


def test_every_op_has_a_cost():
    assert set(COST) == set(Op)


def test_what_a_layer_costs():
    facts = estimate(dense())
    d, a = facts.modules
    assert d.lut == pytest.approx(64 * 32 * LUT_PER_BIT, abs=1) and d.weight_bits == 64 * 32
    assert a.lut == 32 * 2  # a threshold on 8 bits
    assert facts.lut == d.lut + a.lut and facts.source == "table estimate" and facts.tool == "bnnflow"
    assert facts.interval == (1, 1) and facts.fits and "not yet measured with vendor tools" in facts.notes[0]
    assert facts.latency_ns == facts.latency[1] * 5.0 and facts.throughput == 2e8


def test_absent_connections_cost_nothing():
    half, whole = estimate(dense(kept=0.5)), estimate(dense())
    assert 0.4 < half.modules[0].lut / whole.modules[0].lut < 0.6
    wide = estimate(dense(domain=fixed("ufixed<8,0>")))
    assert wide.modules[0].lut > 4 * whole.modules[0].lut
    assert estimate(dense(domain=TERNARY)).modules[0].lut > whole.modules[0].lut


def test_faster_parts_and_slower_clocks_need_fewer_cycles():
    slow = estimate(dense(), bf.BuildConfig(part="xc7a35t-cpg236-1", clock_period=3.0))
    fast = estimate(dense(), bf.BuildConfig(clock_period=10.0))
    assert slow.latency[0] > fast.latency[0]


def test_no_clock_is_faster_than_a_lut():
    """A design is pipelined as deep as can be, for the clock that this allows; a netlist's carry chain is never cut."""
    for backend, least, what in (("Vitis", 0.685, "a level of logic"), ("Verilog", 1.08, "the longest path")):
        fastest, fast, slow = (estimate(dense(), bf.BuildConfig(clock_period=clock, backend=backend))
                               for clock in (0.1, 0.2, 1.1))
        assert fastest.latency_ns == fast.latency_ns and fastest.throughput == fast.throughput < 1.5e9
        assert (fastest.clock_target, fastest.clock_estimated, slow.clock_estimated) == (0.1, least, None)
        assert f"{what} takes {least} ns, longer than the clock asked for" in fastest.notes
        assert all(module.clock_estimated == least for module in fastest.modules)
        assert not any("longer than the clock" in note for note in slow.notes)


def test_loops():
    config = bf.BuildConfig(strategy="Resource", reuse_factor=8)
    looped, flat = estimate(dense(256, 64), config), estimate(dense(256, 64))
    assert looped.interval == (8, 8) and looped.lut < flat.lut and looped.latency[1] > flat.latency[1]
    one = bf.BuildConfig(layers={"d": {"strategy": "Resource", "reuse_factor": 16}})
    assert estimate(dense(256, 64), one).interval == (16, 16)
    kernel, = estimate(dense(256, 64), bf.BuildConfig(strategy="Resource", layers={"d": {"pe": 8, "simd": 32}})).modules
    assert (kernel.pe, kernel.simd, kernel.cycles, kernel.interval) == (8, 32, 64, (64, 64))
    assert kernel.notes == ("computes d, a",) and estimate(dense(256, 64)).modules[0].simd == 256


def test_streams():
    stream = bf.BuildConfig(io_type="io_stream")
    facts = estimate(conv(), stream)
    assert facts.interval == (18 * 18, 18 * 18)  # a pixel a cycle, those around the image too
    assert facts.buffer_bits == 2 * 18 * 8 + 9 * 8  # two rows and a window
    assert facts.lut < estimate(conv()).lut / 50
    # A position takes its cycles when its last pixel is there; in a memory every chunk of a pixel takes one.
    lanes = replace(stream, layers={"d": {"pe": 2, "simd": 72}})
    assert estimate(conv(), lanes).interval == (18 * 18 + 3 * 16 * 16,) * 2
    chunks = estimate(conv(), replace(stream, layers={"d": {"pe": 8, "simd": 4}}))
    assert chunks.interval == (2 * 16 * 16 + 18 * 16 * 16,) * 2 and chunks.buffer_bits == 3 * 16 * 8
    assert chunks.lut < estimate(conv(), lanes).lut < facts.lut
    assert estimate(conv(64, 64), stream).bram == 0 < estimate(conv(256, 64), stream).bram  # rows of LUTs, of blocks


def test_constants_of_folded_sums_are_in_memories():
    """Of 64 lanes of 16 taps, deep enough for blocks: signs, and where some taps are absent, masks beside them."""
    config = bf.BuildConfig(strategy="Resource", layers={"d": {"pe": 64, "simd": 16}})
    whole, masked = (estimate(dense(4096, 128, kept=kept), config) for kept in (1.0, 0.5))
    assert whole.bram == 64 and masked.bram == 128 and whole.lut < masked.lut
    shallow = estimate(dense(4096, 128), replace(config, layers={"d": {"pe": 64, "simd": 64}}))
    assert shallow.bram == 0 and shallow.lut > whole.lut


def by_cycle(graph: Graph, config: bf.BuildConfig) -> int:
    """Cycles until the last pixel of the output of a chain of kernels is there, one cycle after the other."""
    known = {node.name: node for node in prepared(graph, config)}
    modules = {m.name: m for m in estimate(graph, config).modules}
    loops = [(nodes, loop_of(nodes, known, config)) for nodes, _ in config.target.kernels(graph, config)
             if not nodes[0].traits.outside]
    waiting = [[0] * int(np.prod(graph.input.shape[:-1]))]  # when each pixel of a stream is there
    for nodes, loop in loops:
        schedule = schedule_of(loop)
        steps = modules[nodes[-1].name].latency[1] + 1 - schedule.cycles
        now, made, events = START, [], list(zip(schedule.at.tolist(), schedule.write.tolist()))
        for cycle in range(schedule.cycles):
            here = [write for at, write in events if at == cycle]
            while not all(write or waiting[-1][0] <= now for write in here):
                now += 1
            for write in here:
                made.append(now + steps + 1) if write else waiting[-1].pop(0)
            now += 1
        waiting.append(made)
    return max(waiting[-1])


@pytest.mark.parametrize("layers", [{}, {"d": {"pe": 2, "simd": 72}}, {"d": {"pe": 1, "simd": 4}}])
def test_latency_of_a_stream(layers):
    """A pooled convolution and one behind it, which waits for pixels or lets them wait."""
    first = conv(8, 8)
    step = Steps(np.zeros(8, np.int64), np.ones(8, np.int64), np.zeros((8, 1), np.int64))
    a = Node("a", Op.STEP, ("d",), (8, 8, 8), BIPOLAR, step)
    window = Window((2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), 8, (8, 8))
    pool = [Node("p_taps", Op.WINDOW, ("a",), (4, 4, 32), BIPOLAR, window),
            Node("p", Op.MAX, ("p_taps",), (4, 4, 8), BIPOLAR)]
    below = Window((3, 3), (1, 1), (1, 1), ((1, 1), (1, 1)), 1, (4, 4))
    taps = Node("e_taps", Op.WINDOW, ("p",), (4, 4, 72), BIPOLAR, below)
    weights = Weights(np.ones((72, 4), np.int64), np.ones((72, 4), bool))
    e = Node("e", Op.DOT, ("e_taps",), (4, 4, 4), dot_domain(BIPOLAR, weights, below), weights)
    graph = Graph((*first, a, *pool, taps, e), ("e",))
    for more in ({}, {"e": {"pe": 1, "simd": 8}}, {"e": {"pe": 4, "simd": 4}}):
        config = bf.BuildConfig(io_type="io_stream", layers={**layers, **more})
        facts = estimate(graph, config)
        assert facts.latency == (by_cycle(graph, config),) * 2
        assert facts.interval == (max(m.cycles for m in facts.modules),) * 2


TICKS = """
#include <cstdio>
#include <map>
#include <string>
struct flow_ticks {
    std::map<std::string, long> of;
    ~flow_ticks() {
        FILE *file = std::fopen("@FILE@", "w");
        for (auto &row : of) std::fprintf(file, "%ld %s\\n", row.second, row.first.c_str());
        std::fclose(file);
    }
};
inline void flow_tick(const char *where) { static flow_ticks ticks; ticks.of[where]++; }
namespace nnet {
"""


@pytest.mark.hls
@pytest.mark.parametrize("options", [{"io_type": "io_stream"}, {"io_type": "io_stream", "reuse_factor": 7},
                                     {"strategy": "Resource", "reuse_factor": 11}])
def test_cycles_are_the_iterations_of_the_loops(options, tmp_path):
    """Every pipelined loop of the written C++ counts its iterations for one sample."""
    graph = union({f"g{seed}": random_graph(seed) for seed in range(8)})
    config = bf.BuildConfig(output_dir=tmp_path / "prj", **options)
    model = bf.to_hls4ml(graph, config)
    names = {f"config{layer.index}_0": layer.get_attr("flow_node").name for layer in model.get_layers()
             if layer.get_attr("flow_calls")}
    bf.build(graph, config)
    headers = tmp_path / "prj/firmware/nnet_utils"
    common = headers / "nnet_flow_common.h"
    ticks = TICKS.replace("@FILE@", str(tmp_path / "ticks.txt"))
    common.write_text(common.read_text().replace("namespace nnet {", ticks, 1))
    for name in ("array", "stream"):
        text = (headers / f"nnet_flow_{name}.h").read_text()
        (headers / f"nnet_flow_{name}.h").write_text(re.sub("#pragma HLS PIPELINE.*", "flow_tick(__PRETTY_FUNCTION__);",
                                                            text))
    bf.simulate(tmp_path / "prj", random_codes(graph, 0, 1))
    cycles = {module.name: module.cycles for module in estimate(graph, config).modules}
    rows = [row.split(" ", 1) for row in (tmp_path / "ticks.txt").read_text().splitlines()]
    found = {}
    stored = {int(count) for count, where in rows if "flow_store(" in where}  # codes, the same for all kernels alike
    for count, where in rows:
        kernel = re.search(r"nnet::(\w+)\(.*CONFIG_T = (config\d+_0)", where)
        if kernel and kernel[1] not in ("flow_split", "flow_fork"):
            found[names[kernel[2]]] = kernel[1], int(count)
    assert set(found) >= set(cycles)
    for name, count in cycles.items():
        kernel, counted = found[name]
        assert counted == count or (kernel == "flow_picked" and counted < count and count in stored), (name, kernel)
    assert {kernel for kernel, _ in found.values()} >= ({"flow_turns"} if "strategy" in options else {
        "flow_slide", "flow_each", "flow_picked"} | ({"flow_fold"} if "reuse_factor" in options else set()))


def test_any_graph_and_options():
    for seed in range(40):
        graph = random_graph(seed)
        for options in ({}, {"strategy": "Resource"}, {"io_type": "io_stream"}, {"reuse_factor": 4}):
            facts = estimate(graph, bf.BuildConfig(**options))
            assert facts.lut == sum(m.lut for m in facts.modules) and facts.latency[1] >= 0
            assert estimate(graph, bf.BuildConfig(**options)) == facts


def test_a_large_network_takes_no_second():
    rng, x = np.random.default_rng(0), Node("x", Op.INPUT, (), (2048,), BIPOLAR)
    nodes = [x, *(layer(x, 1024, rng.choice([-1, 1], (2048, 1024)), name=f"d{k}") for k in range(2))]
    graph = Graph(tuple(nodes), tuple(n.name for n in nodes[1:]))
    start = time.process_time()
    facts = estimate(graph)
    assert time.process_time() - start < 1  # four million weights
    assert facts.lut == pytest.approx(2 * 2048 * 1024 * LUT_PER_BIT, rel=1e-6)


def test_verilog():
    """Its sums are smaller than the table's; without registers the latency is one cycle as long as the path."""
    graph = dense(160, 64, kept=0.25)
    wide, config = estimate(graph), bf.BuildConfig(backend="Verilog")
    facts = estimate(graph, config)
    assert 1339 <= facts.lut < wide.lut / 2 and facts.interval == (1, 1) and facts.source == "netlist count"
    assert facts.notes == ("not yet measured with vendor tools: 1 of 1 kernels counted in their netlists",)
    flat = estimate(graph, replace(config, pipelined=False))
    assert flat.ff == 0 and flat.latency == (1, 1) and flat.latency_ns == max(flat.clock_estimated, 5.0)
    assert fitting(graph, replace(config, part="ice40hx1k"))[0] == []
    netlist = estimate(graph, bf.BuildConfig(strategy="distributed_arithmetic", clock_period=5.0 / USABLE))
    assert netlist.lut == facts.lut and len(netlist.modules) == len(wide.modules) - 1, "one for a sum and thresholds"
    deeper = estimate(dense(4096, 64), replace(config, pipelined=False))
    assert deeper.clock_estimated > flat.clock_estimated


@pytest.mark.parametrize("pipelined", [True, False])
def test_verilog_is_counted_gate_by_gate(pipelined):
    """The kernels add up to the whole netlist, however they are connected, and its cycles are the design's."""
    for seed in range(30):
        graph = random_graph(seed)
        counts, cycles = netlist_counts(to_logic(graph), 2.0 if pipelined else None)
        facts = estimate(graph, bf.BuildConfig(backend="Verilog", clock_period=2.0, pipelined=pipelined))
        whole = [sum(getattr(count, kind) for count in counts.values()) for kind in ("lut", "ff")]
        assert [facts.lut, facts.ff, facts.latency] == [*whole, (cycles or 1,) * 2]
        assert to_verilog(to_logic(graph), "top", 2.0 if pipelined else None).latency == (cycles or None)


@pytest.mark.parametrize(("graph", "options", "message"), [
    (dense(64, 6), {"strategy": "Resource", "layers": {"d": {"pe": 4}}},
     "'d': pe=4 does not divide its outputs and taps evenly; for pe use 3 or 6"),
    (dense(64, 6), {"strategy": "distributed_arithmetic", "reuse_factor": 2}, "a netlist takes an input every cycle"),
    (dense(64, 6), {"layers": {"e": {"reuse_factor": 2}}}, "layers names 'e', which is no node; the nodes are x, d, a"),
    (dense(4097, 2), {}, "'x' has 4097 elements; the vendor tools partition at most 4096"),
    (dense(4097, 2), {"io_type": "io_stream"}, "a pixel of 4097 codes is 4097 bits wide"),
    (dense(4096, 520), {"backend": "Verilog"}, "'d' unrolls to 2,129,920 one-bit terms"),
])
def test_what_a_build_refuses_has_no_estimate(graph, options, message, tmp_path):
    config = bf.BuildConfig(output_dir=tmp_path / "prj", **options)
    with pytest.raises(InputError, match=message) as refused:
        bf.estimate(graph, config)
    with pytest.raises(InputError) as unbuilt:
        bf.build(graph, config)
    assert str(unbuilt.value) == str(refused.value)


def test_the_encoder_outside_is_not_counted(tmp_path):
    config = bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", encoder="outside")
    facts = bf.estimate(net(), config)
    bf.build(net(), config)
    assert facts == bf.estimate(tmp_path / "prj", config)
    assert facts.lut == bf.estimate(tmp_path / "prj").lut
    assert facts.lut < bf.estimate(net(), replace(config, encoder="inside")).lut


def test_another_cost_can_be_given():
    def measured(kernel: Sequence[Work]) -> Cost:
        return replace(table_cost(kernel), lut=7)

    assert estimate(dense(), cost=measured).lut == 14


def test_the_latency_of_verilog_is_the_one_it_states(tmp_path):
    graph, folder = random_graph(8), tmp_path / "prj"
    project = bf.build(graph, bf.BuildConfig(output_dir=folder, backend="Verilog", clock_period=0.6))
    facts = bf.estimate(project)
    assert facts.latency == (project.cycles, project.cycles) and project.cycles > 3
    assert bf.report(folder)["projects"][0]["facts"][0]["latency"] == [project.cycles, project.cycles]
    bf.build(graph, bf.BuildConfig(output_dir=folder, backend="Verilog", pipelined=False))
    assert bf.estimate(folder).latency == (1, 1)
    (folder / "rtl/myproject.v").write_text("")
    with pytest.raises(InputError, match="does not state its latency"):
        bf.estimate(folder)


# --- parts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "device"), [
    ("xcvu9p-flga2104-2-e", "xcvu9p"), ("xc7z020clg400-1", "xc7z020"), ("XC7A35T-CPG236-1", "xc7a35t"),
    ("xczu3eg-sbva484-1-e", "xczu3"), ("xcu55c-fsvh2892-2L-e", "xcu55"), ("xcu50-fsvh2104-2-e", "xcu50"),
    ("xcu250-figd2104-2L-e", "xcu250"), ("LFE5U-25F-6BG256C", "lfe5u-25"), ("iCE40HX8K-CT256", "ice40hx8k"),
    ("xczu28dr-ffvg1517-2-e", "xczu28"), ("xck26-sfvc784-2LV-c", "xck26"),
])
def test_parts_by_their_names(name, device):
    assert part_of(name).device == device


def test_parts():
    assert part_of("xc9z999") is None and part_of("xczu300") is None
    facts = estimate(dense(), bf.BuildConfig(part="xc9z999"))
    assert facts.fits is None and any("not in the table" in note for note in facts.notes)
    families = {part.family.name for part in PARTS.values()}
    assert len(families) == 8
    small = estimate(dense(512, 64), bf.BuildConfig(part="ice40hx1k"))
    assert small.fits is False and small.used["lut"] > 100


def test_parts_as_real_reports_have_them(shared):
    for name in ("argykokk_hls4ml36/mnist/LUT_reuse1/csynth.xml", "bnn_mnist_marlyn/csynth.xml",
                 "hls4ml_tutorial/pruned_cnn/vivado_synth.rpt", "da4ml_vivado/lc=2/vmodel_post_route_util.rpt",
                 "kebl_cnn/latency_analysis/core/model16/csynth/model16_rf4_core.rpt",
                 "vitis_accel_jsc_u55c/impl_1_full_util_routed.rpt"):
        facts = read_report(shared(f"reports/{name}"))
        assert dict(facts.available) == part_of(facts.part).available, name


def test_foldings_that_fit():
    graph = dense(1024, 128)
    config = bf.BuildConfig(part="xc7z020clg400-1")
    assert not estimate(graph, config).fits
    (found,), devices = fitting(graph, config)
    assert "xcvu9p" in devices and "xc7z020" not in devices
    assert found.strategy == "Resource" and found.part == config.part and estimate(graph, found).fits
    (found,), devices = fitting(conv(64, 64), replace(config, io_type="io_stream", part="ice40hx8k"))
    assert found.io_type == "io_stream" and estimate(conv(64, 64), found).fits and "xc7z030" in devices
    assert fitting(graph, replace(config, backend="Verilog"))[0] == []


@pytest.mark.hls
def test_what_fits_can_be_built(tmp_path):
    found, _ = fitting(net(), bf.BuildConfig(part="xc7z020clg400-1", output_dir=tmp_path / "prj"))
    bf.build(net(), found[-1])


# --- the baseline: stock hls4ml -------------------------------------------------------------------------------------


PREFIX = {"multiclass": "multiclass_", "qg_vs_wzt": "", "qg_vs_top": "topqg_"}


@pytest.fixture(scope="module")
def results(shared):
    """(nonzero weights of every layer, elements of every ReLU, LUTs of C synthesis) of the 20 networks."""
    h5py = pytest.importorskip("h5py")
    found = {}
    for row in csv.DictReader(shared("models/nairods/csynth.csv").open()):
        if row["model"] not in ("QKeras binary", "QKeras ternary"):
            continue
        kind = row["model"].split()[1]
        name = f"{row['epochs']}-epochs/{PREFIX[row['task']]}qkeras_{kind}_{row['architecture'].replace('-', '_')}"
        with h5py.File(shared(f"models/nairods/{name}__seed42.weights.h5")) as file:
            stored = file["_layer_checkpoint_dependencies"]
            kernels = [stored[f"{n}/vars/0"][:] for n in stored if n.startswith("q_dense")]
        nonzeros = [k.size if kind == "binary" else int((np.abs(k) >= np.float32(1 / 3)).sum()) for k in kernels]
        relus = [int(width) for width in row["architecture"].split("-")]
        found[name] = (nonzeros, relus, int(row["lut"]))
    return found


def test_baseline_leaving_each_design_out(results):
    """The ratio of estimate and C synthesis, of a model that has not seen the design."""
    rows = np.array([[sum(nonzeros), sum(relus)] for nonzeros, relus, _ in results.values()], float)
    truth = np.array([lut for _, _, lut in results.values()], float)

    def fitted(chosen: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(rows[chosen] / truth[chosen, None], np.ones(chosen.sum()), rcond=None)[0]

    everything = np.ones(len(truth), bool)
    assert fitted(everything) == pytest.approx([LUT_PER_NONZERO, LUT_PER_ACTIVATION], abs=5e-4)
    ratios = np.array([rows[k] @ fitted(np.arange(len(truth)) != k) / truth[k] for k in range(len(truth))])
    for name, ratio in zip(results, ratios):
        print(f"{name} {ratio:.3f}")
    print(f"median {np.median(ratios):.3f}, worst {ratios.min():.3f} and {ratios.max():.3f}")
    assert len(ratios) == 20 and 0.95 < np.median(ratios) < 1.05 and ratios.min() > 0.7 and ratios.max() < 1.35


def test_baseline_of_a_graph():
    graph = dense(64, 32, kept=0.5)
    weights = graph["d"].params
    facts = estimate_baseline(graph)
    assert facts == baseline_facts([int(weights.mask.sum())], [32])
    assert facts.ff is None and facts.latency is None and facts.source == "table estimate"
    x = Node("x", Op.INPUT, (), (2,), BIPOLAR)
    wires = Node("y", Op.GATHER, ("x",), (1,), BIPOLAR, Index(np.array([0])))
    with pytest.raises(InputError, match="no sums"):
        estimate_baseline(Graph((x, wires), ("y",)))


@pytest.mark.parametrize("pipelined", [True, False])
def test_the_front_is_what_each_goal_is_estimated_as(pipelined):
    config = bf.BuildConfig(backend="Verilog", pipelined=pipelined, clock_period=2.0)
    graph = dense(40, 8)
    found = front(graph, config)
    assert list(found) == list(GOALS) and found["area"][0] <= found["balanced"][0]
    for goal, (luts, cycles, ns) in found.items():
        one = replace(config, netlist=goal)
        assert estimate(graph, one).lut == luts and timing(graph, one) == (cycles, ns)
