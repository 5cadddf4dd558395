"""Bambu: the code that it gets computes the graph, what is made of its reports, and its Verilog where it is there."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.backends.project import EXPECTED, INPUTS, Project, read_vectors
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.facts.kept import kept_facts
from bnnflow.ir import BIT, Domain, Graph, Node, Op, Steps
from bnnflow.toolchains import bambu, process, words
from bnnflow.toolchains.bambu import BAMBU, closest_device
from bnnflow.toolchains.clang import CLANG, code_of
from bnnflow.toolchains.process import GXX
from bnnflow.toolchains.streams import StreamPorts
from bnnflow.toolchains.verilator import VERILATOR
from bnnflow.toolchains.words import Packing, WordPorts
from tests.conftest import union
from tests.random_graphs import random_graph

needs_clang = pytest.mark.skipif(process.find(CLANG) is None, reason=f"no clang: {CLANG.remedy}")
needs_verilator = pytest.mark.skipif(process.find(VERILATOR) is None, reason=f"no verilator: {VERILATOR.remedy}")
needs_bambu = pytest.mark.skipif(process.find(BAMBU) is None, reason=f"no bambu: {BAMBU.remedy}")
pytestmark = [pytest.mark.hls, pytest.mark.rtl]

FOLDED: dict[str, Any] = {"strategy": "Resource", "reuse_factor": 4}
STREAM: dict[str, Any] = {"io_type": "io_stream"}
NETLIST: dict[str, Any] = {"strategy": "distributed_arithmetic"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known from other runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def signs(count: int) -> Graph:
    """Which of so many codes of four bits are not negative."""
    steps = Steps(np.zeros(count, int), np.ones(count, int), np.zeros((count, 1), int))
    return Graph((Node("x", Op.INPUT, (), (count,), Domain(-8, 7)), Node("y", Op.STEP, ("x",), (count,), BIT, steps)),
                 ("y",))


@pytest.mark.parametrize(("bits", "signed"), [(1, False), (2, True), (7, True), (24, True), (33, False), (60, True)])
@pytest.mark.parametrize("size", [1, 63, 64, 65])
def test_codes_in_words(bits, signed, size):
    packing = Packing(bits, size)
    low = -(1 << (bits - 1)) if signed else 0
    codes = np.random.default_rng(0).integers(low, low + (1 << bits), (5, size))
    packed = packing.packed(codes)
    assert packed.shape == (5, packing.words) and np.array_equal(packing.codes(packed, signed), codes)
    first = sum((int(code) % (1 << bits)) << (bits * k) for k, code in enumerate(codes[0][:64 // bits]))
    assert int(packed[0, 0]) == first


# --- the code that Bambu gets, as a program -------------------------------------------------------------------------

WORDS = """#include <cstdio>
extern "C" void flow_top({types});
int main() {{
    unsigned long long p[{count}];
    for (;;) {{
        for (int k = 0; k < {given}; k++) if (std::scanf("%llx", p + k) != 1) return 0;
        flow_top({arguments});
        for (int k = {given}; k < {count}; k++) std::printf("%llx ", p[k]);
        std::printf("\\n");
    }}
}}
"""
FIFOS = """#include <cstdio>
#include <deque>
#include <map>
template <class T> struct ac_channel { struct fifo { T _read(); bool _write(T value); } chan; };
typedef ac_channel<unsigned long long> channel;
static std::map<const void *, std::deque<unsigned long long> > queues;
template <> unsigned long long channel::fifo::_read() {
    std::deque<unsigned long long> &queue = queues[this];
    if (queue.empty()) { std::printf("read from an empty FIFO\\n"); return 0; }
    const unsigned long long word = queue.front();
    queue.pop_front();
    return word;
}
template <> bool channel::fifo::_write(unsigned long long word) { queues[this].push_back(word); return true; }
"""


def run(tmp_path: Path, ports: WordPorts | StreamPorts, driver: str, given: str) -> list[list[str]]:
    """The words that a program of all blocks and a driver prints, line by line."""
    objects = []
    for block in ports.blocks:
        code = bambu._unnamed(code_of(ports.project, block.name, block.source))
        (tmp_path / f"{block.name}.ll").write_text(code)
        objects.append(f"{block.name}.o")
        process.call([*process.command(CLANG), "-O1", "-w", "-fPIC", "-c", f"{block.name}.ll", "-o", objects[-1]],
                     tmp_path, tmp_path / "log", 600)
    (tmp_path / "driver.cpp").write_text(driver)
    process.call([process.need(GXX), "-w", "driver.cpp", *objects, "-o", "driver"], tmp_path, tmp_path / "log", 600)
    (tmp_path / "given").write_text(given)
    process.call(["sh", "-c", "./driver < given"], tmp_path, tmp_path / "out", 600)
    return [line.split() for line in (tmp_path / "out").read_text().splitlines()]


def built(tmp_path: Path, graph: Graph, **options: Any) -> tuple[Project, list[np.ndarray], list[np.ndarray]]:
    """A project, its input codes and what its graph makes of them."""
    project = bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", **options))
    return (project, read_vectors(project.path / INPUTS, graph.inputs),
            read_vectors(project.path / EXPECTED, [graph[name] for name in graph.outputs]))


@needs_clang
@pytest.mark.parametrize(("options", "count"), [({}, 2), (FOLDED, 2), (NETLIST, 1)])
def test_words_compute_the_graph(options, count, tmp_path):
    graph = union({f"g{seed}": random_graph(seed) for seed in range(count)})
    project, codes, expected = built(tmp_path, graph, **options)
    ports = WordPorts(project, graph)
    count, given = len(ports.names), ports.given
    driver = WORDS.format(count=count, given=given,
                          types=", ".join(["unsigned long long"] * given + ["unsigned long long *"] * (count - given)),
                          arguments=", ".join(f"{'' if k < given else '&'}p[{k}]" for k in range(count)))
    lines = run(tmp_path, ports, driver, ports.bench(codes, False)["words.txt"])
    (tmp_path / "results.txt").write_text("\n".join(" ".join(line) for line in lines) + "\n")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(ports.results(tmp_path), expected))


@needs_clang
@pytest.mark.parametrize("options", [{}, {"reuse_factor": 6}])
def test_streams_compute_the_graph(options, tmp_path):
    """Every block is run once a sample, in the order of their calls, with FIFOs without end between them."""
    graph = union({f"g{seed}": random_graph(seed) for seed in range(2)})
    project, codes, expected = built(tmp_path, graph, **STREAM, **options)
    ports = StreamPorts(project, graph)
    names = {stream.fifo(word) for stream in ports.streams.values() for word in range(stream.packing.words)}
    lines = [FIFOS, *(f"static channel {name};" for name in sorted(names))]
    calls, reads, writes = [], [], []
    for block, kernel in zip(ports.blocks, ports.kernels):
        fifos = [f"&{stream.fifo(word)}" for stream in kernel.streams for word in range(stream.packing.words)]
        lines.append(f'extern "C" void {block.name}({", ".join(["channel *"] * len(fifos))});')
        calls.append(f"{block.name}({', '.join(fifos)});")
    for stream, array in zip(ports.first, codes):
        pixels = f"for (int i = 0; i < {array[0].size // stream.packing.size}; i++)"
        reads += [f'{pixels} if (scanf("%llx", &w) != 1) return 0; else {stream.fifo(word)}.chan._write(w);'
                  for word in range(stream.packing.words)]
    for stream, array in zip(ports.last, expected):
        printed = "".join(f'printf("%llx ", {stream.fifo(word)}.chan._read());' for word in range(stream.packing.words))
        writes.append(f"for (int i = 0; i < {array[0].size // stream.packing.size}; i++) {{ {printed} }}")
    lines.append("int main() { unsigned long long w; for (;;) {" + "\n".join([*reads, *calls, *writes])
                 + 'printf("\\n"); } }')
    given = []
    for sample in range(len(codes[0])):
        for stream, array in zip(ports.first, codes):
            packed = stream.packing.packed(array[sample].reshape(-1, stream.packing.size))
            given += [f"{word:x}" for word in packed.T.ravel().tolist()]
    found = run(tmp_path, ports, "\n".join(lines), "\n".join(given) + "\n")
    (tmp_path / "results.txt").write_text("\n".join(" ".join(line) for line in found) + "\n")
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(ports.results(tmp_path), expected))


# --- a stand-in -----------------------------------------------------------------------------------------------------

# Makes of any block what `signs` needs: at once where it is pipelined, in three cycles, or from FIFO to FIFO.
TOOL = """#!{python}
import pathlib, re, sys
if sys.argv[1:] == ["--version"]: print("*****\\n  Bambu\\nVersion: PandA 2099.1 - Revision 1"); raise SystemExit
with open({calls!r}, "a") as calls: calls.write(" ".join(sys.argv) + "\\n")
print("Reading", sys.argv[1], flush=True)
{body}
ports = pathlib.Path("ports.xml").read_text()
name, modes = re.search('name="([a-z0-9_]+)"', ports)[1], re.findall('mode="([a-z]+)"', ports)
given = modes.count("default")
def value(k): return "{sign}P%d[%d]" % (k // 16, k % 16 * 4 + 3)
def word(first, count): return "{{64'd0, " + ", ".join(value(first + k) for k in reversed(range(count))) + "}}"
pins, lines = ["input clock", "input reset", "input start_port", "output done_port"], []
if modes[0] == "fifo":
    pins += ["input [63:0] P0_dout", "input P0_empty_n", "output P0_read", "output [63:0] P1_din", "input P1_full_n",
             "output P1_write"]
    text = "wire [63:0] P0 = P0_dout; reg on; wire go = (on || start_port) && P0_empty_n && P1_full_n;"
    text += "assign P0_read = go, P1_write = go, done_port = go, P1_din = " + word(0, {count}) + ";"
    text += "always @(posedge clock) on <= reset && (on || start_port) && !go;"
else:
    pins += ["input [63:0] P%d" % k for k in range(given)]
    pins += ["output [63:0] P%d" % k for k in range(given, len(modes))]
    text = "".join("assign P%d = %s;" % (given + k, word(64 * k, min(64, {count} - 64 * k)))
                   for k in range(len(modes) - given))
    if "pipeline_style" in ports:
        text += "assign done_port = start_port;"
    else:
        pins += ["output P%d_vld" % k for k in range(given, len(modes))]
        text += "reg [1:0] late; always @(posedge clock) late <= reset ? {{late[0], start_port}} : 2'd0;"
        text += "assign done_port = {done};"
        text += "".join("assign P%d_vld = late[0];" % k for k in range(given, len(modes)))
pathlib.Path(name + ".v").write_text("module %s(%s); %s\\nendmodule\\n" % (name, ", ".join(pins), text))
print("    Estimated max frequency (MHz): 250.0\\n    Number of states: 3\\n    Total estimated area: 99.6")
print("    Estimated number of DSPs: 0\\n    Total number of flip-flops in function " + name + ": 2")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a stand-in in Bambu's place; returns the file in which it writes how it was called."""
    def make(body: str = "", count: int = 3, sign: str = "~", done: str = "late[1]") -> Path:
        program, calls = tmp_path / "bambu", tmp_path / "calls"
        program.write_text(TOOL.format(python=sys.executable, calls=str(calls), body=body, count=count, sign=sign,
                                       done=done))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv(BAMBU.override, str(program))
        return calls

    return make


@needs_clang
@needs_verilator
@pytest.mark.parametrize(("count", "options", "latency", "interval"), [
    (3, {}, 1, 1),  # a pipeline
    (65, {}, 3, 3),  # of two words no pipeline; nor of a loop
    pytest.param(3, STREAM, 1, 1, marks=pytest.mark.long),
])
def test_what_bambu_says(count, options, latency, interval, tmp_path, install):
    calls = install(count=count)
    project, codes, _ = built(tmp_path, signs(count), part="xc7z020-clg400-1", clock_period=4.0, **options)
    lines: list[str] = []
    facts = bf.synthesize(project, "bambu", say=lines.append)
    assert (facts.source, facts.tool, facts.version) == ("C synthesis", "bambu", "2099.1")
    assert (facts.lut, facts.ff, facts.dsp, facts.clock_estimated, facts.clock_target) == (100, 2, 0, 4.0, 4.0)
    assert (facts.latency, facts.interval) == ((latency, latency), (interval, interval))
    assert facts.part == "xc7z020-1clg484-VVD" and facts.notes[-1].endswith("has 3 states")
    assert f"{len(codes[0]):,} samples simulated, all outputs those of the graph" in facts.notes[1]
    assert "module flow_" in (project.runs / "bambu/design.v").read_text() and str(project.runs) in facts.notes[2]
    assert kept_facts(project) == [facts] and lines[0] == "Reading design.ll"
    assert np.array_equal(bf.simulate(project, codes[0][:5], tool="bambu"), signs(count)(codes[0][:5]))
    assert len(calls.read_text().splitlines()) == 1  # the same code again
    arguments = calls.read_text()
    assert "--device-name=xc7z020-1clg484-VVD" in arguments and "--clock-period=4.0" in arguments
    bf.synthesize(project, "bambu", target="xcku060-3ffva1156-VVD")
    assert "--device-name=xcku060-3ffva1156-VVD" in calls.read_text().splitlines()[1]


@needs_clang
@needs_verilator
def test_verilog_that_differs_is_a_mismatch(tmp_path, install):
    install(sign="")
    project = built(tmp_path, signs(3))[0]
    with pytest.raises(Mismatch, match=r"Bambu's Verilog and the graph differ in \d+ of 768 outputs; `bnnflow sim"):
        bf.synthesize(project, "bambu")
    with pytest.raises(Mismatch, match=r"C simulation \(bambu\) and graph differ: sample 0, node 'y', element"):
        bf.simulate(project, tool="bambu")


@needs_clang
@pytest.mark.parametrize(("body", "message"), [
    ("print('error -> Front-end compiler returns an error'); raise SystemExit(11)",
     r"exit code 11:\nerror -> Front-end .*\n\(flow_top of .*prj; strategy='Resource' with a larger reuse_factor"),
    ("raise SystemExit(0)", "bambu ended without flow_top.v:\nReading design.ll"),
    ("import time; time.sleep(30)", r"did not finish in 2.16 s:[^$]*a longer time: hours=0.0012"),
])
def test_failures(body, message, tmp_path, install):
    install(body)
    with pytest.raises(ToolError, match=message):
        bf.synthesize(built(tmp_path, signs(3))[0], "bambu", hours=0.0006)


@needs_clang
@needs_verilator
def test_a_design_that_stands_still(tmp_path, install, monkeypatch):
    install(count=65, done="1'b0")
    monkeypatch.setattr(words, "LIMIT", 100)
    with pytest.raises(ToolError, match="the Verilog has not answered in 100 cycles"):
        bf.synthesize(built(tmp_path, signs(65))[0], "bambu")


def test_bad_use(tmp_path, monkeypatch):
    project = built(tmp_path, signs(3))[0]
    with pytest.raises(InputError, match="hours=0: a number above 0"):
        bf.synthesize(project, "bambu", hours=0)
    monkeypatch.setattr(bambu, "BAMBU", replace(BAMBU, commands=("no-bambu",), override="NO_BAMBU"))
    with pytest.raises(ToolError, match="no-bambu not found .*put bambu .* on PATH, or set BNNFLOW_BAMBU"):
        bf.synthesize(project, "bambu")
    header = project.path / "firmware/myproject.h"
    header.write_text(header.read_text().replace("result_t layer2_out[3]", "int *other"))
    with pytest.raises(ToolError, match="declares 1 tensors, the graph has 2; build the project again"):
        _ = WordPorts(project, signs(3)).blocks


@pytest.mark.parametrize(("part", "device"), [
    ("xc7a35t-cpg236-1", "xc7a100t-1csg324-VVD"), ("XC7Z020-clg400-1", "xc7z020-1clg484-VVD"),
    ("xcku115-flvb2104-2-i", "xcku060-3ffva1156-VVD"), ("xcvu9p-flga2104-2-e", "xcu280-2Lfsvh2892-VVD")])
def test_devices(part, device):
    assert closest_device(part) == device


# --- Bambu itself ---------------------------------------------------------------------------------------------------


@needs_bambu
@needs_clang
@needs_verilator
@pytest.mark.parametrize("options", [{}, FOLDED, STREAM, NETLIST], ids=["Latency", "Resource", "stream", "netlist"])
def test_verilog_computes_the_graph(options, tmp_path):
    project = built(tmp_path, random_graph(1), **options)[0]
    facts = bf.synthesize(project, "bambu")
    assert facts.latency and facts.latency[0] >= 1 and facts.ff is not None and facts.clock_estimated


@needs_bambu
@needs_clang
@needs_verilator
def test_verilog_of_yosys(tmp_path):
    facts = bf.synthesize(built(tmp_path, signs(3))[0], "bambu", logic=True)
    assert facts.source == "logic synthesis" and facts.lut is not None and facts.lut <= 3
