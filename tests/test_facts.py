"""Readers of the vendors' reports: numbers written by hand from real files, and files of our own making."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import replace

import pytest

from bnnflow.errors import InputError
from bnnflow.facts.facts import SOURCES, Facts, load_facts, save_facts
from bnnflow.facts.readers import read_report

_ = None
# file under reports/: LUT, FF, DSP, 18 Kbit blocks, most cycles of latency, most cycles of interval, asked and
# estimated clock in ns; _ where the file does not say it. Read by eye from the files.
REAL = {
    "argykokk_hls4ml36/ARRYTHMIA/DSP_reuse1/csynth.xml": (31704, 34282, 177, 16, 40, 1, 3.33, 3.236),
    "argykokk_hls4ml36/ARRYTHMIA/DSP_reuse100/myproject_csynth.rpt": (30033, 22658, 31, 16, 62, 24, 3.33, 4.065),
    "argykokk_hls4ml36/ARRYTHMIA/LUT_reuse1/myproject_csynth.xml": (45814, 32315, 0, 16, 36, 1, 3.33, 7.947),
    "argykokk_hls4ml36/ARRYTHMIA/LUT_reuse2/csynth.xml": (44400, 22294, 0, 16, 32, 2, 3.33, 7.947),
    "argykokk_hls4ml36/Breast_cancer/DSP_reuse1/csynth.xml": (2098, 1957, 35, 2, 22, 1, 5.0, 4.335),
    "argykokk_hls4ml36/Breast_cancer/DSP_reuse100/myproject_csynth.rpt": (2668, 1721, 5, 2, 56, 31, 5.0, 4.670),
    "argykokk_hls4ml36/Breast_cancer/LUT_reuse2/myproject_csynth.rpt": (4824, 1632, 0, 2, 18, 2, 5.0, 7.947),
    "argykokk_hls4ml36/CARDIO/DSP_reuse2/csynth.xml": (2109, 2406, 36, 3, 27, 2, 3.33, 3.236),
    "argykokk_hls4ml36/CARDIO/DSP_reuse100/csynth.xml": (2700, 2209, 5, 3, 58, 38, 3.33, 3.270),
    "argykokk_hls4ml36/CARDIO/LUT_reuse100/myproject_csynth.rpt": (3882, 2172, 0, 3, 49, 34, 3.33, 7.947),
    "argykokk_hls4ml36/HAR/DSP_reuse1/csynth.xml": (237120, 246315, 413, 6, 229, 1, 5.0, 4.362),
    "argykokk_hls4ml36/HAR/DSP_reuse2/myproject_csynth.rpt": (216929, 192762, 413, 6, 225, 2, 5.0, 4.370),
    "argykokk_hls4ml36/HAR/LUT_reuse100/myproject_csynth.xml": (204460, 142753, 0, 6, 262, 100, 5.0, 7.947),
    "argykokk_hls4ml36/jet_tagging/DSP_reuse2/csynth.xml": (62431, 60582, 796, 5, 54, 2, 3.33, 3.236),
    "argykokk_hls4ml36/jet_tagging/LUT_reuse1/myproject_csynth.rpt": (72661, 85255, 814, 5, 58, 1, 3.33, 3.236),
    "argykokk_hls4ml36/jet_tagging/LUT_reuse100/csynth.xml": (72123, 56654, 0, 5, 150, 46, 3.33, 7.947),
    "argykokk_hls4ml36/mnist/DSP_reuse1/csynth.xml": (230334, 218745, 657, 10, 89, 1, 5.0, 4.371),
    "argykokk_hls4ml36/mnist/LUT_reuse1/myproject_csynth.rpt": (274044, 218531, 0, 10, 87, 1, 5.0, 7.947),
    "argykokk_hls4ml36/mnist/LUT_reuse2/myproject_csynth.xml": (259652, 177024, 0, 10, 83, 2, 5.0, 7.947),
    "bnn_mnist_marlyn/csynth.xml": (48560, 38815, 0, 33, 188, 64, 10.0, 8.568),
    "bnn_mnist_marlyn/bnn_csynth.rpt": (48560, 38815, 0, 33, 188, 64, 10.0, 8.568),
    "bnn_mnist_marlyn/bnn.verbose.rpt.xml": (48560, 38815, 0, 33, 188, 64, 10.0, 8.568),
    "bnn_mnist_marlyn/csynth.rpt": (48560, 38815, 0, 33, 188, 64, _, _),
    "bnn_pynq/bnn_src_network_lfcW1A1_README.md": (28360, 33470, 4, 220, _, _, _, _),
    "da4ml_vivado/lc=-1/vmodel_post_route_util.rpt": (4337, 0, 40, 0, _, _, _, _),
    "da4ml_vivado/lc=2/vmodel_post_place_util.rpt": (5804, 3420, 80, 0, _, _, _, _),
    "da4ml_vivado/lc=2/vmodel_post_route_timing.rpt": (_, _, _, _, _, _, 5.0, 4.178),
    "hls4ml_tutorial/pruned_cnn/myproject_prj/solution1/syn/report/myproject_csynth.rpt":
        (245466, 52549, 5414, 100, 1044, 1028, 5.0, 4.363),
    "hls4ml_tutorial/quantized_pruned_cnn/myproject_prj/solution1/syn/report/myproject_csynth.rpt":
        (263280, 43847, 340, 100, 1044, 1028, 5.0, 4.373),
    "hls4ml_tutorial/pruned_cnn/vivado_synth.rpt": (123948, 43435, 5386, 84, _, _, _, _),
    "hls4ml_tutorial/quantized_pruned_cnn/vivado_synth.rpt": (118931, 30702, 353, 68, _, _, _, _),
    "kebl_cnn/latency_analysis/core/model16/csynth/model16_rf4_core.rpt":
        (225438, 163333, 4962, 2473, 3300, 3201, 5.0, 4.366),
    "kebl_cnn/latency_analysis/core/model64/csynth/model64_rf72_core.rpt":
        (483093, 405571, 3713, 1119, 32020, 32001, 5.0, 4.374),
    "kebl_cnn/latency_analysis/phil/old/model16_rf2_phil.rpt": (187060, 128882, 4880, 2280, _, _, 5.0, 4.366),
    "kebl_cnn/latency_analysis/phil/model4/vsynth/myproject_timing_synth.rpt": (_, _, _, _, _, _, 5.0, 3.204),
    "kebl_cnn/latency_analysis/core/model4/vsynth/myproject_export.rpt": (60776, 49540, 2996, 121, _, _, 5.0, 3.952),
    "kebl_cnn/latency_analysis/core/model4/vsynth/myproject_utilization_synth.rpt":
        (60776, 49540, 2996, 121, _, _, _, _),
    "kebl_cnn/latency_analysis/phil/model8/vsynth/myproject_export.rpt": (40345, 39627, 2952, 20, _, _, 5.0, 5.037),
    "kebl_cnn/streaming_comparison/line_buffer/model8_latency/results/synth.rpt":
        (232202, 83566, 522, 121, 1713, 1204, 5.0, 4.336),
    "kebl_cnn/streaming_comparison/line_buffer/model32_resource_10k/results/myproject_utilization_synth.rpt":
        (66113, 78990, 648, 292, _, _, _, _),
    "vitis_accel_jsc_u55c/csynth.rpt": (52865, 19384, 34, 176, 73905, 41035, _, _),
    "vitis_accel_jsc_u55c/impl_1_full_util_synthed.rpt": (223298, 244234, 104, 1804, _, _, _, _),
    "vitis_accel_jsc_u55c/impl_1_kernel_util_routed.rpt": (76870, 59342, 100, 1400, _, _, _, _),
    "vitis_accel_jsc_u55c/impl_1_slr_util_routed.rpt": (204475, 238042, 104, 1804, _, _, _, _),
    "vitis_accel_jsc_u55c/myproject_csynth.rpt": (42082, 12513, 34, 8, 28, 3, 3.33, 2.347),
}
# Reports of other things: no resources, latency or timing in them.
OTHERS = ("power", "drc", "congestion", "clock_util", "design_size")


def numbers(facts: Facts) -> tuple[object, ...]:
    last = [pair and pair[1] for pair in (facts.latency, facts.interval)]
    return (facts.lut, facts.ff, facts.dsp, facts.bram, *last, facts.clock_target, facts.clock_estimated)


@pytest.mark.parametrize("name", REAL)
def test_real_reports(name, shared):
    assert numbers(read_report(shared(f"reports/{name}"))) == REAL[name]


def test_every_real_report_is_read(shared):
    folder = shared("reports")
    files = [f for f in sorted(folder.rglob("*"))
             if f.suffix in (".rpt", ".xml") or f.name.startswith("bnn_src_network_")]
    read = 0
    for file in files:
        if any(word in file.name for word in OTHERS) or file.name == "bnn_src_network_README.md":
            with pytest.raises(InputError, match="not a report"):
                read_report(file)
            continue
        facts = read_report(file)
        assert facts.lut is not None or facts.clock_target or facts.notes, file
        assert facts.tool, file
        read += 1
    assert read >= 280


def test_what_real_reports_say_beside_the_numbers(shared):
    facts = read_report(shared("reports/argykokk_hls4ml36/ARRYTHMIA/LUT_reuse1/csynth.xml"))
    assert (facts.tool, facts.version, facts.part) == ("Vitis HLS", "2021.1", "xc7z007s-clg225-2")
    assert facts.latency_ns == pytest.approx(286, abs=0.1)  # the file: 0.286 us, at the estimated clock
    assert facts.available == {"bram": 100, "dsp": 66, "ff": 28800, "lut": 14400, "uram": 0} and facts.fits is False
    assert len(facts.modules) == 5 and facts.modules[0].lut is not None
    routed = read_report(shared("reports/da4ml_vivado/lc=-1/vmodel_post_route_util.rpt"))
    assert (routed.source, routed.tool, routed.version) == ("routed", "Vivado", "2025.1")
    old = read_report(shared(
        "reports/hls4ml_tutorial/pruned_cnn/myproject_prj/solution1/syn/report/myproject_csynth.rpt"))
    assert (old.tool, old.version) == ("Vivado HLS", "2020.1") and len(old.modules) == 16


# --- files of our own ----------------------------------------------------------------------------------------------


CSYNTH_XML = """<profile><ReportVersion><Version>2023.2</Version></ReportVersion>
<UserAssignments><Part>xc7a35t-cpg236-1</Part><TopModelName>toy</TopModelName>
<TargetClockPeriod>5.00</TargetClockPeriod></UserAssignments>
<PerformanceEstimates><SummaryOfTimingAnalysis><EstimatedClockPeriod>3.5</EstimatedClockPeriod>
</SummaryOfTimingAnalysis><SummaryOfOverallLatency><Best-caseLatency>4</Best-caseLatency>
<Worst-caseLatency>{latency}</Worst-caseLatency><Interval-min>1</Interval-min><Interval-max>2</Interval-max>
</SummaryOfOverallLatency></PerformanceEstimates>
<AreaEstimates><Resources><BRAM_18K>3</BRAM_18K><DSP48E>1</DSP48E><FF>20</FF><LUT>300</LUT></Resources>
<AvailableResources><BRAM_18K>100</BRAM_18K><DSP48E>90</DSP48E><FF>41600</FF><LUT>20800</LUT></AvailableResources>
</AreaEstimates></profile>"""
CSYNTH_RPT = """
== Vitis HLS Report for 'toy'
* Version:        2023.2 (Build 1)
* Target device:  xc7a35t-cpg236-1
+ Timing:
    |  Clock |  Target | Estimated| Uncertainty|
    |ap_clk  |  5.00 ns|  3.500 ns|     1.35 ns|
+ Latency:
    |        4|        6|  20.0 ns|  30.0 ns|    1|    2|       no|
== Utilization Estimates
|       Name      | BRAM_18K|  DSP |   FF  |  LUT  | URAM|
|Total            |        3|     1|     20|    300|    0|
|Available        |      100|    90|  41600|  20800|    0|
"""
COSIM = """
Report time       : Thu 01 Jan 2026 12:00:00 PM UTC.
Solution          : solution1.
Simulation tool   : xsim.

+----------+----------+-----------------------------+-----------------------------+--------------+
|          |          |    Latency(Clock Cycles)    |   Interval(Clock Cycles)    | Total Time   |
+   RTL    +  Status  +-----------------------------+-----------------------------+ (Cycles)     +
|          |          |   min   |   avg   |   max   |   min   |   avg   |   max   |              |
+----------+----------+-----------------------------------------------------------+--------------+
|      VHDL|        NA|       NA|       NA|       NA|       NA|       NA|       NA|            NA|
|   Verilog|      {status}|        7|        7|        9|        1|        1|        2|           511|
+----------+----------+-----------------------------------------------------------+--------------+
"""
UTILISATION = """| Tool Version : Vivado v.2022.1 (lin64)
| Command      : report_utilization -file toy.rpt
| Design       : toy
| Device       : xc7a35tcpg236-1
| Design State : {state}
+-------------------------+------+-------+-----------+-------+
|        Site Type        | Used | Fixed | Available | Util% |
+-------------------------+------+-------+-----------+-------+
| Slice LUTs*             |  211 |     0 |     20800 |  1.01 |
| Slice Registers         |   33 |     0 |     41600 |  0.08 |
+-------------------------+------+-------+-----------+-------+
+-------------------+------+-------+-----------+-------+
|     Site Type     | Used | Fixed | Available | Util% |
| Block RAM Tile    |  1.5 |     0 |        50 |  3.00 |
+-------------------+------+-------+-----------+-------+
"""
TIMING = """| Tool Version      : Vivado v.2022.1 (lin64)
| Command           : report_timing -file toy.rpt
| Design            : toy
Slack (VIOLATED) :        -0.250ns  (required time - arrival time)
  Requirement:            4.000ns  (rise - rise)
"""


def written(tmp_path, text, name="toy.rpt"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def test_own_files(tmp_path):
    xml = read_report(written(tmp_path, CSYNTH_XML.format(latency=6), "csynth.xml"))
    assert numbers(xml) == (300, 20, 1, 3, 6, 2, 5.0, 3.5)
    rpt = read_report(written(tmp_path, CSYNTH_RPT))
    assert numbers(rpt) == numbers(xml) and (rpt.tool, rpt.version, rpt.part) == (xml.tool, xml.version, xml.part)
    assert rpt.latency == (4, 6) and rpt.latency_ns == 30 and rpt.throughput == 1e8 and rpt.fits
    assert rpt.used == {"lut": 1.442, "ff": 0.048, "dsp": 1.111, "bram": 3.0}
    for status in ("Pass", "Fail"):
        cosim = read_report(written(tmp_path, COSIM.format(status=status)))
        assert (cosim.source, cosim.latency, cosim.interval) == ("co-simulation", (7, 9), (1, 2))
        assert cosim.notes == (f"Verilog: {status}",)
    for state, source in (("Synthesized", "logic synthesis"), ("Fully Placed", "placed"), ("Routed", "routed"),
                          ("Physopt postRoute", "routed"), ("Physopt postPlace", "placed")):
        facts = read_report(written(tmp_path, UTILISATION.format(state=state)))
        assert (facts.source, facts.lut, facts.ff, facts.bram) == (source, 211, 33, 3)
        assert facts.available == {"lut": 20800, "ff": 41600, "bram": 100}
    timing = read_report(written(tmp_path, TIMING))
    assert (timing.clock_target, timing.clock_estimated) == (4.0, 4.25)
    both = facts.merged(timing)
    assert (both.lut, both.clock_estimated, both.period, both.source) == (211, 4.25, 4.25, "placed")


YOSYS = {"creator": "Yosys 0.70 (git)", "modules": {"\\toy": {}}, "design": {"num_cells_by_type": {
    "LUT2": 7, "LUT6": 20, "CARRY4": 3, "FDRE": 17, "DSP48E2": 2, "RAMB36E2": 1, "RAMB18E2": 3}}}


def test_statistics_of_yosys(tmp_path):
    facts = read_report(written(tmp_path, json.dumps(YOSYS), "stat.json"))
    assert (facts.lut, facts.ff, facts.dsp, facts.bram, facts.uram) == (27, 17, 2, 5, 0)
    assert (facts.name, facts.source, facts.tool, facts.version) == ("toy", "logic synthesis", "yosys", "0.70")
    assert (facts.carry, facts.muxf) == (3, 0)
    cells = {"LUT4": 10, "CCU2C": 3, "PFUMX": 2, "TRELLIS_FF": 5, "INV": 1, "DP16KD": 1}
    ecp5 = {**YOSYS, "design": {"num_cells_by_type": cells}}
    facts = read_report(written(tmp_path, json.dumps(ecp5), "stat.json"))
    assert (facts.lut, facts.carry, facts.muxf, facts.ff, facts.bram) == (17, 3, 2, 5, 1)
    packed = {**YOSYS, "design": {**YOSYS["design"], "estimated_num_lc": 24}}
    facts = read_report(written(tmp_path, json.dumps(packed), "stat.json"))
    assert (facts.lut, facts.lut_packed) == (27, 24)
    for damage in ({}, {"num_cells_by_type": []}, {"num_cells_by_type": {"LUT2": "x"}}):
        with pytest.raises(InputError, match="damaged report"):
            read_report(written(tmp_path, json.dumps({**YOSYS, "design": damage}), "stat.json"))


def test_undefined_latency_is_not_zero(tmp_path):
    for word in ("undef", "?", ""):
        facts = read_report(written(tmp_path, CSYNTH_XML.format(latency=word), "csynth.xml"))
        assert facts.latency is None and facts.latency_ns is None and facts.interval == (1, 2)


BOMB = '<?xml version="1.0"?><!DOCTYPE p [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><profile>&b;</profile>'


@pytest.mark.parametrize(("name", "text", "message"), [
    ("a.rpt", "", "not a report"), ("a.xml", "", "damaged report"), ("a.xml", BOMB, "declares a document type"),
    ("a.xml", "<profile/>", "no AreaEstimates/Resources"), ("a.xml", "<html/>", "its root is <html>"),
    ("a.xml", CSYNTH_XML[:400], "damaged report"), ("a.xml", "<profile><section name='x'/></profile>", "not a report"),
    ("a.rpt", CSYNTH_RPT[:300], "not whole|damaged"), ("a.rpt", "== Vitis HLS Report for 'x'\n", "no section"),
    ("a.rpt", COSIM.format(status="NA"), "no language was simulated"), ("a.json", "{}", "not facts"),
    ("a.json", "[" * 100_000, "damaged|not facts"), ("a.json", '{"bnnflow_facts": 1, "facts": []}', "no facts"),
    ("a.json", '{"bnnflow_facts": 1, "facts": [{"name": 3}]}', "name=3 cannot be"),
    ("a.rpt", "\0" * 1000, "not a report"),
])
def test_bad_files(name, text, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        read_report(written(tmp_path, text, name))
    assert str(error.value).startswith(str(tmp_path / name))


def test_missing_and_huge_files(tmp_path):
    with pytest.raises(InputError, match="no report file"):
        read_report(tmp_path / "none.rpt")
    with pytest.raises(InputError, match="not a report"):
        read_report(written(tmp_path, "\n" * 2**22 + "| " * 2**20))  # at once
    with (tmp_path / "huge.rpt").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(InputError, match="no report is that long"):
        read_report(tmp_path / "huge.rpt")


def test_damaged_reports_never_crash(tmp_path):
    """Characters removed, doubled or changed: facts or an InputError, nothing else."""
    rng = random.Random(0)
    for text, name in [(CSYNTH_XML.format(latency=6), "a.xml"), (CSYNTH_RPT, "a.rpt"), (TIMING, "a.rpt"),
                       (COSIM.format(status="Pass"), "a.rpt"), (UTILISATION.format(state="Routed"), "a.rpt")]:
        for _trial in range(60):
            at, length = rng.randrange(len(text)), rng.randrange(40)
            with_ = rng.choice(["", text[at:at + 2 * length], "|", "9" * length, "\n"])
            with contextlib.suppress(InputError):
                read_report(written(tmp_path, text[:at] + with_ + text[at + length:], name))


def test_facts_are_saved_and_checked(tmp_path):
    layer = Facts("dense", "table estimate", lut=3, weight_bits=9)
    facts = Facts("net", "C synthesis", "Vitis HLS", "2024.1", "xc7z020", *range(1, 10), (6, 7), (1, 1), 5.0, 4.5,
                  available={"lut": 10}, modules=(layer,), notes=("a note",))
    save_facts([facts, layer], tmp_path / "facts.json")
    assert load_facts(tmp_path / "facts.json") == [facts, layer]
    data = json.loads((tmp_path / "facts.json").read_text())
    for key, value in (("lut", -1), ("lut", 1.5), ("latency", [1]), ("clock_target", "fast"), ("source", "rumour"),
                       ("available", {"gold": 1}), ("notes", "x"), ("modules", {}), ("lut", True)):
        damaged = {**data, "facts": [{**data["facts"][0], key: value}]}
        (tmp_path / "bad.json").write_text(json.dumps(damaged))
        with pytest.raises(InputError, match="bad.json"):
            load_facts(tmp_path / "bad.json")
    assert replace(facts, source=SOURCES[1]).source == "table estimate"


def test_facts_of_the_first_format_are_read(tmp_path):
    """In it the positions of LUTs, also those of modules, are called sites."""
    layer = Facts("dense", "logic synthesis", lut_positions=3)
    facts = Facts("net", "logic synthesis", "yosys", "0.70", lut=9, lut_positions=7, modules=(layer,))
    save_facts([facts], tmp_path / "new.json")
    text = (tmp_path / "new.json").read_text()
    old = text.replace('"bnnflow_facts": 2', '"bnnflow_facts": 1').replace("lut_positions", "lut_sites")
    assert old != text and load_facts(written(tmp_path, old, "old.json")) == [facts]
    with pytest.raises(InputError, match="new.json: not facts of format 1 or 2"):
        load_facts(written(tmp_path, text.replace('"bnnflow_facts": 2', '"bnnflow_facts": 3'), "new.json"))
