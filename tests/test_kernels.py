"""Estimates by logic synthesis: what is synthesised computes what the kernel does, and how its size becomes a total."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.hls.folding import Folding, groups_of
from bnnflow.backends.hls.kernel_call import KernelCall, signed_bits
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.verilog import to_verilog
from bnnflow.errors import InputError, ToolError
from bnnflow.estimates import kernels
from bnnflow.estimates.costs import Cost, Work, parameter_cost
from bnnflow.estimates.estimate import estimate
from bnnflow.estimates.kernel_models import KERNEL_MODELS, kernel_model
from bnnflow.estimates.kernels import _kernel_call, synthesized_cost
from bnnflow.ir import BIPOLAR, BIT, Domain, Graph, Node, Op, Steps, Sum, Weights, Window
from bnnflow.ir.verify import RULES
from bnnflow.toolchains import process as tools
from bnnflow.toolchains.yosys import YOSYS, Size, synthesize
from tests.random_graphs import random_codes, random_graph
from tests.test_estimate import conv, dense
from tests.test_rtl import needs_yosys

pytestmark = [pytest.mark.rtl, needs_yosys]


def weights(values: list[int], shape: tuple[int, int], groups: int = 1, seed: int = 0) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(rng.choice(values, shape), rng.random(shape) < 0.8 if 0 in values else np.ones(shape, bool), groups)


def steps(channels: int, thresholds: int, reach: int) -> Steps:
    rng = np.random.default_rng(1)
    return Steps(rng.integers(-2, 3, channels), rng.choice([-1, 1], channels),
                 np.sort(rng.integers(-reach - 2, reach + 3, (channels, thresholds)), axis=1))


def one(op: Op, domain: Domain, shape: tuple[int, ...], params: object, inputs: int = 1, below: Window | None = None,
        out: Domain | None = None) -> Graph:
    """A node on inputs, or on a window."""
    nodes = [Node(f"x{k}", Op.INPUT, (), shape, domain) for k in range(inputs)]
    if below:
        taps = Node("w", Op.WINDOW, ("x0",), (1, 1, below.taps * shape[-1]), domain, below)
        nodes.append(taps)
    reads = nodes[-inputs:]
    node = Node("n", op, tuple(r.name for r in reads), (1,), out or domain, params)
    size, found = RULES[op](node, reads)
    return Graph((*nodes, replace(node, shape=size, domain=found)), ("n",))


def image(groups: int) -> Window:
    return Window((3, 3), (1, 1), (1, 1), ((0, 0), (0, 0)), groups, (3, 3))


def codebook() -> Weights:
    kernels = np.random.default_rng(0).choice([-1, 1], (4, 9))
    chosen = np.random.default_rng(1).integers(0, 4, (2, 24))  # of every channel and output
    return Weights(kernels[chosen].transpose(2, 0, 1).reshape(18, 24), np.ones((18, 24), bool))


GRAPHS = {
    "flow_count": lambda: one(Op.DOT, BIPOLAR, (11,), weights([-2, 0, 2], (11, 4))),
    "flow_count words": lambda: one(Op.DOT, BIPOLAR, (150,), weights([-1, 0, 1], (150, 2))),
    "flow_count chunks": lambda: one(Op.DOT, BIPOLAR, (90,), weights([-1, 1], (90, 4))),
    "flow_count groups": lambda: one(Op.DOT, BIT, (12,), weights([-1, 1], (6, 4), 2)),
    "flow_values": lambda: one(Op.DOT, BIT, (9,), weights([2, 5], (9, 4))),
    "flow_values each": lambda: one(Op.DOT, BIPOLAR, (40,), Weights(
        np.where(weights([0, 1], (40, 4)).mask, [1, 2, 3, 4], [-3, 7, 9, 2]), np.ones((40, 4), bool))),
    "flow_shared": lambda: one(Op.DOT, BIPOLAR, (3, 3, 2), codebook(), below=image(1)),
    "flow_mac": lambda: one(Op.DOT, Domain(-8, 7), (7,), weights([-4, -1, 0, 3], (7, 4))),
    "flow_mac unsigned": lambda: one(Op.DOT, Domain(0, 5), (7,), weights([-1, 1], (7, 3))),
    "flow_max": lambda: one(Op.MAX, Domain(-3, 3), (3, 3, 3), None, below=image(3)),
    "flow_step": lambda: one(Op.STEP, Domain(-9, 9), (5,), steps(5, 3, 9), out=Domain(-8, 8)),
    "flow_step one": lambda: one(Op.STEP, Domain(-9, 9), (5,), steps(5, 1, 9), out=Domain(-8, 8)),
    "flow_add": lambda: one(Op.ADD, Domain(-4, 3), (3,), Sum(np.array([3, -2]), 5), 2),
    "flow_scale": lambda: one(Op.ADD, Domain(0, 7), (3,), Sum(np.array([-7]), -1)),
}


# (outputs, taps) of a cycle of those that are folded; elements of a pass of a STEP.
FOLDED = {
    "flow_count": (2, 11), "flow_count words": (1, 75), "flow_count chunks": (2, 30), "flow_count groups": (2, 6),
    "flow_values": (2, 3), "flow_mac": (4, 1), "flow_mac unsigned": (1, 7), "flow_max": (1, 9), "flow_step": (1, 1),
    "flow_step one": (1, 1),
}


def work(graph: Graph, pe: int = 0, simd: int = 0, name: str = "n") -> Work:
    """A node, unfolded, or so many of its outputs and taps in a cycle."""
    node, source = graph[name], graph[graph[name].inputs[0]]
    outputs, taps = node.shape[-1], source.shape[-1] // groups_of(node, source) if node.traits.taps else 1
    return Work(node, tuple(graph[name] for name in node.inputs), Folding(outputs, taps, pe or outputs, simd or taps))


def packed(values: list[int], width: int) -> int:
    """Integers as two's complement fields, the first one lowest."""
    return sum((value & ((1 << width) - 1)) << (k * width) for k, value in enumerate(values))


def words(call: KernelCall, fold: int, row: int, lane: int) -> dict[str, int]:
    """What a lane's inputs get of the ROMs in a cycle and pass."""
    bits = {}
    for rom in call.roms:
        rows, m = [[int(v) for v in values] for values in rom.rows.tolist()], call.members
        lanes = m.get("pe") or m["n_in"]
        if rom.name in ("sign", "mask", "levels") and "simd" in m:
            width = m["level_bits"] if rom.name == "levels" else 1
            each, per_word = len(rows[0]) // lanes, 64 // width
            own = rows[fold][lane * each : (lane + 1) * each]
            counts = m.get("n_value", 1)  # of one after the other, each of its own words
            fields = [own[v * each // counts + i // per_word] >> i % per_word * width & ((1 << width) - 1)
                      for v in range(counts) for i in range(m["simd"])]
            bits[rom.name] = packed(fields, width)
        elif rom.name not in ("base", "value"):
            each = len(rows[0]) // lanes
            flat = [value for values in rows for value in values]
            bits[rom.name] = packed(rows[row][lane * each : (lane + 1) * each], signed_bits(min(flat), max(flat)))
    return bits


def evaluated(text: str, given: list[dict[str, int]], folder: Path) -> list[int]:
    """The output `y` of the module `cell` for every row of inputs, by yosys."""
    ports = {name: int(high) + 1 for high, name in re.findall(r"input \[(\d+):0\] (\w+)", text)}
    folder.mkdir(exist_ok=True)
    (folder / "cell.v").write_text(text)
    sets = [" ".join(f"-set {name} {width}'b{row[name] & ((1 << width) - 1):0{width}b}"
                     for name, width in ports.items()) for row in given]
    (folder / "run.ys").write_text("\n".join(["read_verilog cell.v", "proc", *(
        f"tee -a out.txt eval {line} -show y" for line in sets)]) + "\n")
    tools.call([*tools.command(YOSYS), "run.ys"], folder, folder / "yosys.log", 120)
    found = re.findall(r"y = (?:\d+'([01]+)|(\d+))\.", (folder / "out.txt").read_text())  # 32 bits may be decimal
    assert len(found) == len(given)
    return [int(bits, 2) if bits else int(number) for bits, number in found]


def test_every_kernel_is_here():
    assert {name.split()[0] for name in GRAPHS} == set(KERNEL_MODELS)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_synthesised_computes_the_kernel(name, tmp_path):
    graph = GRAPHS[name]()
    node = graph["n"]
    call = _kernel_call(work(graph))
    assert call.kernel == name.split()[0]
    domains = [source.domain for source in work(graph).sources]
    text = kernel_model(call, domains, node.domain.bits, list(range(node.shape[-1])))
    codes, expected = traced(graph)
    given = [{f"x{k}": packed(row, domains[k].bits) for k, row in enumerate(rows)} for rows in zip(*codes)]
    assert evaluated(text, given, tmp_path) == [packed(row, node.domain.bits) for row in expected]


def traced(graph: Graph) -> tuple[list[list[list[int]]], list[list[int]]]:
    """(codes of every source of the node n for 16 samples, its own codes)."""
    codes, node = random_codes(graph, 3, 16), graph["n"]
    found = bf.trace(graph, codes if len(graph.inputs) > 1 else codes[0])
    rows = {name: found[name].reshape(16, -1).tolist() for name in (*node.inputs, "n")}
    return [rows[name] for name in node.inputs], rows["n"]


@pytest.mark.parametrize("name", FOLDED)
def test_a_processing_element_computes_its_lane(name, tmp_path):
    """Chunk by chunk, of every lane and pass, with the words of the kernel's own ROMs."""
    graph = GRAPHS[name]()
    node, folded = graph["n"], work(graph, *FOLDED[name])
    call, f = _kernel_call(folded), folded.folding
    domain, bits = folded.sources[0].domain, node.domain.bits
    text = kernel_model(call, [domain], bits, [0])
    (codes,), expected = traced(graph)
    taps, groups = f.taps, groups_of(node, folded.sources[0]) if node.traits.taps else f.outputs
    places = [(row, lane) for row in range(f.passes) for lane in range(f.pe)]
    partial = {(sample, row, lane): 0 for sample in range(16) for row, lane in places}
    for chunk in range(f.chunks):
        given = []
        for sample, row, lane in partial:
            first = (row * f.pe + lane) * groups // f.outputs * taps + chunk * f.simd
            given.append(words(call, row * f.chunks + chunk, row, lane) | {
                "x0": packed(codes[sample][first : first + f.simd], domain.bits), "first": int(chunk == 0),
                "acc": partial[sample, row, lane]})
        found = evaluated(text, given, tmp_path / str(chunk))
        partial = {key: value >> bits for key, value in zip(partial, found)}
    made = {key: value & ((1 << bits) - 1) for key, value in zip(partial, found)}
    for sample in range(16):
        assert [made[sample, row, lane] for row, lane in places] == [code & ((1 << bits) - 1)
                                                                     for code in expected[sample]]


# --- from sizes to estimates ----------------------------------------------------------------------------------------


def counted(graph: Graph, lanes: list[int], shared: bool = False, pe: int = 0, simd: int = 0) -> Size:
    found = work(graph, pe, simd, "d")
    text = kernel_model(_kernel_call(found), [s.domain for s in found.sources], graph["d"].domain.bits, lanes, shared)
    return synthesize({"cell.v": text}, "cell")


def test_an_unrolled_kernel():
    graph = dense(24, 6)
    facts = estimate(graph, None, synthesized_cost(graph, bf.BuildConfig()))
    d, a = facts.modules
    size = counted(graph, list(range(6)))
    assert (d.lut, d.lut_packed, d.carry) == (size.raw, size.packed, size.carry)
    assert facts.lut == d.lut + a.lut and 6 <= a.lut <= 12
    assert facts.source == d.source == "kernel synthesis" and "yosys" in d.tool and d.version == size.tool
    assert "2 of 2 kernels by logic synthesis" in facts.notes[0] and "d: LUTs by yosys, all of it" in d.notes
    table = estimate(graph)
    assert (facts.ff, facts.latency, facts.weight_bits) == (table.ff, table.latency, table.weight_bits)
    assert 0.5 < d.lut / table.modules[0].lut < 2


def test_large_kernels_are_sampled(monkeypatch):
    monkeypatch.setattr(kernels, "BITS", 24 * 2)
    d = estimate(dense(24, 6), None, synthesized_cost(dense(24, 6), bf.BuildConfig())).modules[0]
    assert d.lut == counted(dense(24, 6), [0, 3]).raw * 3 and d.notes[-1] == "d: LUTs by yosys, 2 of 6 outputs"
    # What all outputs share is counted once, however many are sampled.
    x = Node("x", Op.INPUT, (), (24,), BIT)
    node = replace(one(Op.DOT, BIT, (24,), weights([2, 5], (24, 6)))["n"], name="d", inputs=("x",))
    graph = Graph((x, node), ("d",))
    common, some = counted(graph, [], True).raw, counted(graph, [0, 3], True).raw
    d = estimate(graph, None, synthesized_cost(graph, bf.BuildConfig())).modules[0]
    assert d.lut == common + (some - common) * 3 and common > 20


def test_a_folded_kernel_is_one_processing_element(monkeypatch):
    """So many of them, and by the table what they share: ROMs, and what the loop keeps."""
    graph = dense(96, 8)
    config = bf.BuildConfig(strategy="Resource", layers={"d": {"pe": 2, "simd": 32}})
    (d,), (table,) = (estimate(graph, config, cost).modules for cost in (synthesized_cost(graph, config), None))
    element = counted(graph, [0], pe=2, simd=32)
    assert element.raw > counted(graph, [0]).raw / 3  # the weights are chosen, too
    steps = estimate(graph, config, lambda kernel: synthesized_cost(graph, config)(kernel[1:])).modules[0]
    roms = estimate(graph, config, lambda kernel: parameter_cost(kernel[0])).modules[0]
    kept = estimate(graph, config, lambda kernel: Cost()).modules[0].lut
    assert d.lut == 2 * element.raw + (steps.lut - kept) + (roms.lut - kept) + kept
    assert "d: LUTs by yosys, a processing element" in d.notes and "a: LUTs by yosys, a processing element" in d.notes
    assert (d.bram, d.ff, d.cycles) == (table.bram, table.ff, table.cycles) and 0.7 < table.lut / d.lut < 1.4


def test_positions_that_are_computed_at_once():
    image = conv(4, 2)
    config = bf.BuildConfig(strategy="Resource", layers={"d": {"reuse_factor": 8}})
    d = estimate(image, config, synthesized_cost(image, config)).modules[0]
    kept = estimate(image, config, lambda kernel: Cost()).modules[0].lut
    assert d.lut == 2 * counted(image, [0, 1]).raw + kept and d.cycles == 8  # two positions, eight times


def test_a_stream_has_one_position():
    """A cell and, by the table, what its loop keeps."""
    config, graph = bf.BuildConfig(io_type="io_stream"), conv(8, 2)
    facts, table = estimate(graph, config, synthesized_cost(graph, config)), estimate(graph, config)
    kept = estimate(graph, config, lambda kernel: Cost()).lut
    assert facts.lut == counted(graph, [0, 1]).raw + kept and kept > 0
    assert (facts.buffer_bits, facts.latency, facts.bram) == (table.buffer_bits, table.latency, table.bram)


@pytest.mark.parametrize("pipelined", [True, False])
def test_a_netlist_is_that_of_the_project(pipelined, tmp_path):
    """Of a network of one layer: the very numbers that `bnnflow.synthesize` has of the whole."""
    graph = dense(24, 6)
    config = bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", pipelined=pipelined, clock_period=2.0)
    bf.build(graph, config)
    whole = bf.synthesize(tmp_path / "prj")
    facts = bf.estimate(tmp_path / "prj", synthesize=True)
    # The whole has registers for `valid`, too.
    assert (facts.lut, facts.carry) == (whole.lut, None) and facts.modules[0].carry == whole.carry
    valid = to_verilog(to_logic(graph), "x", 2.0 if pipelined else None).latency or 0
    assert facts.ff <= whole.ff and facts.latency[1] == max(1, valid)
    found = bf.estimate(tmp_path / "prj")
    assert (found.ff, found.latency) == (whole.ff, facts.latency) and .9 < found.lut / whole.lut < 1.1
    assert pipelined or .8 < found.clock_estimated / whole.clock_estimated < 1.3
    found = bf.report(tmp_path / "prj", tmp_path / "report.html")["projects"][0]
    assert {f["source"] for f in found["facts"]} >= {"netlist count", "kernel synthesis", "logic synthesis"}
    assert "LUTs and FFs by yosys" in (tmp_path / "report.html").read_text()


def test_any_graph_and_options(monkeypatch):
    """Sizes by a stand-in for yosys."""
    def stand_in(files, top, family):
        assert f"module {top}" in "".join(files.values())
        lines = sum(text.count("\n") for text in files.values())
        return Size(family, "stand-in", {6: lines}, 1, 0, 2, None, None, 1, 0)

    monkeypatch.setattr(kernels, "synthesize", stand_in)
    for seed in range(40):
        graph = random_graph(seed)
        for options in ({}, {"strategy": "Resource"}, {"strategy": "Resource", "reuse_factor": 4},
                        {"io_type": "io_stream"}, {"backend": "Verilog"}, {"part": "ice40hx8k-ct256"}):
            config = bf.BuildConfig(**options)
            facts = estimate(graph, config, synthesized_cost(graph, config))
            assert facts.lut == sum(m.lut for m in facts.modules)
            for module, table in zip(facts.modules, estimate(graph, config).modules):
                assert (module.source == "kernel synthesis") == (module.version == "stand-in")
                assert module.source == "kernel synthesis" or module == table


def test_errors(monkeypatch):
    with pytest.raises(InputError, match="give baseline or synthesize"):
        bf.estimate(dense(4, 2), baseline=True, synthesize=True)
    monkeypatch.setattr(tools, "find", lambda name, via="": None)
    with pytest.raises(ToolError, match=r"yosys .*not found .*pip install 'bnnflow\[rtl\]'"):
        bf.estimate(dense(4, 2), synthesize=True)


def test_command_line(cli, tmp_path):
    bf.save(dense(12, 3), tmp_path / "net.npz")
    done = cli("estimate", "net.npz", "--synth")
    assert done.returncode == 0 and "2 of 2 kernels by logic synthesis" in done.stdout, done.stderr
    assert cli("build", "net.npz").returncode == 0
    assert cli("estimate", "prj", "--synth").returncode == 0
    size = bf.report(tmp_path / "prj")["projects"][0]["summary"]["size"]
    assert size["source"] == "kernel synthesis" and size["lut"] > 0
    done = cli("estimate", "net.npz", "--synth", env={"BNNFLOW_YOSYS": "/nowhere"})
    assert done.returncode == 3 and "is not an executable file" in done.stderr
