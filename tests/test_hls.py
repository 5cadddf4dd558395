"""Projects through hls4ml: what is written, that it computes the graph, and that failure is seen."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

import bnnflow as bf
from bnnflow import files
from bnnflow.backends.hls.fusion import fusion_groups
from bnnflow.backends.hls.kernel_call import pack_fields
from bnnflow.backends.hls.ops import EMIT_HLS
from bnnflow.backends.project import EXPECTED, RUNS, Project, read_vectors
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.ir import BIPOLAR, Domain, Graph, Index, Node, Op, Steps, Weights
from bnnflow.ir.vectors import default_vectors
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains.gxx import compile_project
from bnnflow.toolchains.toolchain import TOOLCHAINS
from tests.conftest import ROOT, union
from tests.random_graphs import outputs, random_codes, random_foldings, random_graph

PREDICTED = [next(s for s in range(99) if (len(random_graph(s).inputs), len(random_graph(s).outputs)) == form and all(
    n.domain.bits < 25 for n in random_graph(s))) for form in ((1, 1), (2, 2))]  # hls4ml's floats carry 24 bits
HEADERS = sorted((ROOT / "hls_templates/nnet_utils").glob("nnet_flow_*.h"))


def net() -> Graph:
    """A graph of every op but AFFINE, small."""
    x = Node("int", Op.INPUT, (), (6,), Domain(0, 15))
    wires = Node("wires", Op.GATHER, ("int",), (8,), x.domain, Index(np.array([0, 0, 1, 2, 3, 4, 5, 5])))
    thresholds = Steps(np.zeros(8, np.int64), np.ones(8, np.int64), np.arange(1, 9)[:, None])
    planes = Node("template", Op.STEP, ("wires",), (8,), BIPOLAR, thresholds)
    levels = np.random.default_rng(0).choice([-1, 1], (8, 5))
    weights = Weights(levels, np.indices((8, 5)).sum(axis=0) % 3 > 0)
    return Graph((x, wires, planes, Node("NULL", Op.DOT, ("template",), (5,), dot_domain(BIPOLAR, weights), weights)),
                 ("NULL",))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hls") / "prj"
    bf.build(net(), bf.BuildConfig(output_dir=path))
    return path


# --- call -------------------------------------------------------------------------------------------------------


def test_every_op_has_an_emitter():
    assert set(EMIT_HLS) == set(Op)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 12, 33, 64])
def test_packed_fields_read_back(width):
    rng = np.random.default_rng(width)
    half = 2 ** (width - 1) if width > 1 else 1
    values = rng.integers(-half if width > 1 else 0, half, (3, 41), endpoint=width == 1)
    words = pack_fields(values, width).ravel().tolist()
    per_word, row = 64 // width, -(-41 // (64 // width))
    for (r, i), value in np.ndenumerate(values):
        got = words[r * row + i // per_word] >> (i % per_word * width) & (1 << width) - 1
        assert got == int(value) & (1 << width) - 1


@pytest.mark.hls
@pytest.mark.parametrize("backend", ["Vitis", "Vivado"])
@pytest.mark.parametrize("first", range(0, 60, 20))
def test_random_domains_and_parameters_in_c(first, backend, simulated):
    """Twenty graphs in one project; a difference names the seed in front of the node."""
    graphs = {f"seed{seed}": random_graph(seed) for seed in range(first, first + 20)}
    simulated(union(graphs), [c for graph in graphs.values() for c in random_codes(graph, 0)], backend)


@pytest.mark.hls
@pytest.mark.parametrize("first", [100, *(pytest.param(k, marks=pytest.mark.long) for k in (120, 140))])
def test_streams_of_random_domains_in_c(first, tmp_path):
    """The same as streams; one sample after the other, so that state left behind by one would show in the next.

    Sums and maxima are not folded in the first project, and in the others they have some folding.
    """
    graphs = {f"seed{seed}": random_graph(seed) for seed in range(first, first + 20)}
    graph, backend = union(graphs), ("Vitis", "Vivado")[first // 20 % 2]
    layers = random_foldings(graph, "io_stream", first) if first > 100 else {}
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream", backend=backend, layers=layers))
    bf.simulate(tmp_path / "prj", [c for g in graphs.values() for c in random_codes(g, 0)])


@pytest.mark.hls
@pytest.mark.parametrize("first", [60, 80])
def test_loops_of_random_domains_in_c(first, tmp_path):
    """The same with every sum and maximum in a loop that may take some number of cycles, or with some folding."""
    graphs = {f"seed{seed}": random_graph(seed) for seed in range(first, first + 20)}
    graph, rng = union(graphs), np.random.default_rng(first)
    layers = random_foldings(graph, "io_parallel", first) if first > 60 else {
        node.name: {"reuse_factor": int(rng.integers(1, 2 ** rng.integers(1, 9)))} for node in graph
        if node.traits.taps}
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", strategy="Resource", layers=layers))
    bf.simulate(tmp_path / "prj", [c for g in graphs.values() for c in random_codes(g, 0)])
    top = (tmp_path / "prj/firmware/myproject.cpp").read_text()
    assert "nnet::flow_turns<" in top and "nnet::flow_positions<" in top


# --- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["Vitis", "Vivado"])
def test_written_project(backend, tmp_path):
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj", backend=backend, part="xc7z020clg400-1",
                                       clock_period=4, reuse_factor=3, project_name="net"))
    read = lambda name: (tmp_path / "prj" / name).read_text()  # noqa: E731
    top = read("firmware/net.cpp")
    assert "#pragma HLS PIPELINE II=3" in top and "DATAFLOW" not in top
    assert top.count("nnet::flow_") == 3 and "load_weights" not in top
    project = read("project.tcl")
    assert 'set part "xc7z020clg400-1"' in project and re.search(r"set clock_period 4(\.0)?\n", project)
    assert f'set backend "{backend.lower()}"' in project
    assert "-std=c++0x" in read("build_prj.tcl")
    parameters = read("firmware/parameters.h")
    assert parameters.count("static const int interval = 3;") == 3 == len(re.findall("flow_(?:all|positions)<", top))
    assert str(tmp_path / "prj") in read("hls4ml_config.yml") and ".build-" not in read("hls4ml_config.yml")
    for rom in (tmp_path / "prj/firmware/weights").iterdir():
        assert rom.suffix == ".h" and "static const" in rom.read_text()
        assert all(int(word, 16) < 2**64 for word in re.findall(r"0x([0-9a-f]+)ULL", rom.read_text()))


# Of every function of a header: how far it is indented, its name, its parameters, its body.
FUNCTIONS = re.compile(r"^( *)(?:static |inline |template <[^(]*> )*"
                       r"(?:void|int|unsigned(?: long long)?|typename [\w:]+) (\w+)"
                       r"\(([^{]*?)\) {\n((?s:.*?)\n)\1}\n", re.M)


def synthesised(header: Path) -> str:
    """A header without what g++ alone runs."""
    return re.sub(r"#ifdef FLOW_MACHINE\n(?s:.*?)#(?:else|endif)\n", "", header.read_text())


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.stem)
def test_every_kernel_pipelines_one_loop_and_unrolls_what_is_in_it(header):
    """Or it is a pipeline as a whole; what a pipeline calls is inlined and unrolled."""
    text = synthesised(header)
    functions = FUNCTIONS.findall(text)
    assert sum(body.count("for (") for *_, body in functions) == text.count("for (")
    for _, name, _, body in functions:
        loops, unrolled = body.count("for ("), body.count("#pragma HLS UNROLL")
        pipelines = re.findall(r"\n( *)#pragma HLS PIPELINE", "\n" + body)
        assert len(pipelines) <= 1 and unrolled == loops - (pipelines == [" " * 8]), name
        if "#pragma HLS DATAFLOW" in body:  # its loops are those of the functions that it calls
            assert not loops and len(re.findall(r"^    flow_\w+<", body, re.M)) == 2, name
        elif not pipelines and re.match("flow_", name) and "    #pragma HLS INLINE\n" not in body:
            assert re.fullmatch(r"( *flow_store<.*\n)+", body), name


@pytest.mark.parametrize("header", HEADERS, ids=lambda header: header.stem)
def test_every_loop_has_a_label_and_a_pragma(header):
    """By labels a vendor's reports and directives name loops. Only a loop around another one may have no pragma."""
    for function in synthesised(header).split("\n}\n"):
        lines = [line.strip() for line in function.splitlines()]
        loops = [k for k, line in enumerate(lines) if line.startswith("for (")]
        assert all(re.fullmatch(r"\w+:", lines[k - 1]) for k in loops)
        assert len({lines[k - 1] for k in loops}) == len(loops) == function.count("for (")
        assert all(re.match(r"#pragma HLS (UNROLL|PIPELINE)|\w+:$", lines[k + 1]) for k in loops)


def dense_layers(widths: list[int]) -> Graph:
    """Sums of -1, 0 and 1, each with a threshold a channel."""
    rng, nodes = np.random.default_rng(0), [Node("x", Op.INPUT, (), (widths[0],), BIPOLAR)]
    for k, (n_in, n_out) in enumerate(pairwise(widths)):
        weights = Weights(rng.choice([-1, 0, 1], (n_in, n_out)), np.ones((n_in, n_out), bool))
        dot = Node(f"d{k}", Op.DOT, (nodes[-1].name,), (n_out,), dot_domain(nodes[-1].domain, weights), weights)
        thresholds = Steps(np.zeros(n_out, np.int64), np.ones(n_out, np.int64), rng.integers(-4, 5, (n_out, 1)))
        nodes += [dot, Node(f"a{k}", Op.STEP, (dot.name,), (n_out,), BIPOLAR, thresholds)]
    return Graph(tuple(nodes), (nodes[-1].name,))


def test_every_rom_of_every_kernel_has_its_banks(tmp_path):
    """Lanes that read one ROM would wait for its ports. Where all its places are constants, it is only wires.

    ROMs are the arrays with a row for every pass that a kernel has as parameters.
    """
    config = bf.BuildConfig(output_dir=tmp_path / "prj", strategy="Resource", reuse_factor=4)
    bf.build(dense_layers([40, 64, 16]), config)
    plain, found = r"const (?:int|(?:unsigned )?long long|typename CONFIG_T::\w+) (\w+)\[[^,]*?\]\[", set()
    for header in (tmp_path / "prj/firmware/nnet_utils").glob("nnet_flow_*.h"):
        for _, name, parameters, body in FUNCTIONS.findall(synthesised(header)):
            for rom in re.findall(plain, parameters):
                found.add(rom)
                rows = re.findall(rf"\b{rom}\[([^\]]*)\]", body)
                loop = "#pragma HLS PIPELINE" in body  # a place that it counts is no constant
                if all(row == "0" for row in rows) and not loop or re.search(rf"\b{name}<.*\b{rom}\b", body):
                    continue
                banks = rf"#pragma HLS ARRAY_PARTITION variable={rom} (cyclic|block) factor=[\w:<> *]+ dim=2\n"
                one = loop and len(rows) == 1 and f"{rom}[0][i]" in body  # one place a cycle needs one port
                assert re.search(banks, body) or one, (name, rom)
    kinds = {rom.name for seed in range(40) for group in fusion_groups(random_graph(seed), bf.BuildConfig())
             for call in group.calls for inner in call.calls for rom in inner.roms}
    assert kinds <= found and {"sign", "offset", "thresholds", "levels", "mul", "scale", "index"} <= kinds


def numbers(project: Path, expressions: list[str], declared: str = "", flags: Sequence[str] = ()) -> list[int]:
    """Integer expressions over a written project's headers and configurations, computed by g++."""
    (project / "numbers.cpp").write_text("\n".join([
        "#include <iostream>", '#include "parameters.h"', '#include "nnet_utils/nnet_flow_lut.h"', declared,
        "int main() {", *(f"    std::cout << ({text}) << std::endl;" for text in expressions), "}", ""]))
    firmware = [f"-I{project / 'firmware' / folder}" for folder in ("", "ap_types")]
    command = ["g++", "-std=c++0x", "-w", *firmware, *flags, "numbers.cpp", "-o", "numbers"]
    subprocess.run(command, cwd=project, check=True)
    return [int(line) for line in subprocess.check_output([project / "numbers"], text=True).split()]


def settings(name: str, kernel: str, **members: int) -> str:
    """A kernel's configuration in C++."""
    lines = [f"static const int {key} = {value};" for key, value in members.items()]
    return f"struct {name} : nnet::flow_{kernel}_config {{ {' '.join(lines)} }};"


@pytest.mark.hls
def test_popcounts_are_as_wide_as_the_taps(project, tmp_path):
    """Words of ones only, also past the taps: exactly the taps are counted, by the machine and by trees of adders."""
    shutil.copytree(project, tmp_path / "prj")
    taps = [1, 2, 3, 31, 32, 33, 63, 64, 65, 100, 128, 150]
    declared = ["static const unsigned long long ones[3] = {~0ULL, ~0ULL, ~0ULL};", *(
        settings(f"of{n}", "window", n_chan=n, simd=n, packed=1) + f" struct taps{n} : of{n} {{ typedef int acc_t; }};"
        for n in taps)]
    counted = [f"nnet::flow_agreeing<taps{n}>(ones, ones, ones)" for n in taps]
    for flags in ([], ["-DFLOW_SLOW"]):
        assert numbers(tmp_path / "prj", counted, "\n".join(declared), flags) == taps


@pytest.mark.hls
def test_banks_are_the_words_of_one_pass(project, tmp_path):
    """As many banks as a pass reads words, counted here one by one; of a table words, or long rows."""
    shutil.copytree(project, tmp_path / "prj")
    declared, expected = [], {f"nnet::flow_banks<{words}>::count": banks for words, banks in (
        (1, 1), (4096, 4096), (4097, 2049), (4608, 2304), (9216, 3072))}
    for k, (n_chan, n_code, banks) in enumerate([(1, 128, 128), (4, 16, 64), (4, 200, 4), (40, 128, 40)]):
        declared.append(settings(f"lut{k}", "lut", n_chan=n_chan, n_code=n_code))
        expected[f"nnet::flow_lut_banks<lut{k}>::count"] = banks
    for k, (pe, simd) in enumerate(product([1, 2, 3, 6], [1, 35, 70, 140])):  # two taps of 70 channels, six outputs
        gains = {1, pe} if k % 2 else {1}
        for n_gain in gains:
            name = f"sum{k}_{n_gain}"
            declared.append(settings(name, "window", n_cols=4, o_cols=3, k_cols=2, n_chan=70, n_out=6, n_value=3, pe=pe,
                                     n_border=2, simd=simd, n_gain=n_gain, level_words=2))
            lanes, words = range(pe), range(-(-simd // 64))
            own = {j % n_gain for j in lanes}
            for rom, places in (("mask", product(lanes, range(3), words)), ("level", product(lanes, range(2))),
                                ("base", own), ("gain", product(own, range(3))), ("offset", lanes)):
                expected[f"nnet::flow_sizes<{name}>::{rom}_banks"] = len(set(places))
            expected[f"nnet::flow_sizes<{name}>::folds"] = 6 // pe * 140 // simd
    assert numbers(tmp_path / "prj", list(expected), "\n".join(declared)) == list(expected.values())


@pytest.mark.hls
@pytest.mark.parametrize("reuse_factor", [2, 4, 16])
def test_reuse_factors_give_equal_codes(reuse_factor, tmp_path):
    """Loops as asked (Resource) and a pipeline with that interval (Latency); the C simulation equals the graph."""
    # a0 is an output and is read: DATAFLOW needs a copy of it.
    graph = Graph(tuple(dense_layers([40, 64, 32, 16])), ("a2", "a0"))
    for strategy in ("Latency", "Resource"):
        project = tmp_path / strategy
        bf.build(graph, bf.BuildConfig(output_dir=project, strategy=strategy, reuse_factor=reuse_factor))
        bf.simulate(project)
        top = (project / "firmware/myproject.cpp").read_text()
        parameters = (project / "firmware/parameters.h").read_text()
        if strategy == "Resource":
            assert "#pragma HLS DATAFLOW" in top and "#pragma HLS PIPELINE" not in top
            # Three sums, each with its thresholds; the copy of a0 is made at once.
            assert Counter(re.findall(r"nnet::(flow_\w+)<", top)) == {"flow_turns": 3, "flow_fork": 1, "flow_all": 1}
            sizes = [dict(re.findall(r"int (\w+) = (\d+);", struct)) for struct in parameters.split("struct ")]
            folds = [int(s["n_out"]) // int(s["pe"]) * int(s["n_chan"]) // int(s["simd"]) for s in sizes if "pe" in s]
            assert folds == [reuse_factor] * 3 and parameters.count("interval = 1;") == 4
            calls = [line for line in top.splitlines() if "nnet::flow" in line]
            for array in ["x_in", *re.findall(r"\b(layer\d+_\w+)\[", top)]:  # written once and read once
                assert sum(bool(re.search(rf"\b{array}\b", line.split(">(")[1])) for line in calls) in (1, 2), array
        else:
            assert f"#pragma HLS PIPELINE II={reuse_factor}\n" in top and "DATAFLOW" not in top
            assert parameters.count(f"interval = {reuse_factor};") == 6 and "flow_turns" not in top


def test_one_layer_apart(tmp_path):
    layers = {"NULL": {"strategy": "Resource", "reuse_factor": 2}}
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj", layers=layers))
    top = (tmp_path / "prj/firmware/myproject.cpp").read_text()
    assert "#pragma HLS DATAFLOW" in top
    assert re.findall(r"nnet::(flow_\w+)<", top) == ["flow_all", "flow_all", "flow_turns"]
    assert "simd = 4;" in (tmp_path / "prj/firmware/parameters.h").read_text()  # of 8 taps


@pytest.mark.parametrize(("options", "message"), [
    ({"strategy": "resource", "layers": {"NULL": {"pe": 3}}},
     "node 'NULL': pe=3 does not divide its outputs and taps evenly; for pe use 1 or 5, of 1, 5$"),
    ({"layers": {"int": {"reuse_factor": 2}}}, "layers names 'int', which has no kernel of its own"),
    ({"io_type": "io_stream", "layers": {"template": {"reuse_factor": 2}}},
     "layers names 'template', which is computed by the kernel of 'wires'; name that node"),
    ({"layers": {"nope": {"reuse_factor": 2}}}, "layers names 'nope', which is no node; the nodes are int, "),
])
def test_folding_refused_at_build(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj", **options))
    assert not list(tmp_path.iterdir())


def test_files_are_the_same_every_time(tmp_path):
    for name in "ab":
        bf.build(net(), bf.BuildConfig(output_dir=tmp_path / name))
    files = {f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()}
    own = {f for f in files if f.suffix in (".cpp", ".h", ".dat", ".json", ".tcl")}
    assert own and all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in own)


@pytest.mark.parametrize(("options", "message"), [
    ({"backend": "Quartus"}, "backend='Quartus': use Vitis, Vivado or Verilog"),
    ({"io_type": "io_serial"}, "use io_parallel or"),
    ({"part": 'x"; exec rm'}, "letters, digits and dashes"), ({"clock_period": "5"}, "clock_period"),
    ({"clock_period": 0}, "clock_period"), ({"clock_period": float("nan")}, "clock_period"),
    ({"strategy": "fast"}, "strategy='fast': use Latency, Resource or distributed_arithmetic"),
    ({"layers": 3}, "layers=3"),
    ({"layers": {"d": {"reuse": 3}}}, r"layers\['d'\]: no option 'reuse'"), ({"layers": {"d": 1}}, "'d' needs"),
    ({"layers": {"d": {"reuse_factor": True}}}, r"layers\['d'\]: reuse_factor=True: a whole number"),
    ({"output_dir": None}, "output_dir=None: use a path"), ({"part": None}, "part=None"),
    ({"reuse_factor": 0}, "reuse_factor=0"), ({"reuse_factor": 1.5}, "reuse_factor"),
    ({"project_name": "int"}, "C\\+\\+ name"), ({"project_name": "a b"}, "C\\+\\+ name"),
])
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        bf.BuildConfig(**options)


def test_arrays_past_the_vendors_limit(tmp_path):
    x = Node("x", Op.INPUT, (), (4097,), BIPOLAR)
    out = Node("y", Op.GATHER, ("x",), (1,), BIPOLAR, Index(np.array([0])))
    with pytest.raises(InputError, match="node 'x' has 4097 elements.*at most 4096"):
        bf.build(Graph((x, out), ("y",)), bf.BuildConfig(output_dir=tmp_path / "prj"))
    assert not list(tmp_path.iterdir())


def test_pixels_past_the_vendors_limit(tmp_path):
    x = Node("x", Op.INPUT, (), (2, 4097), BIPOLAR)
    out = Node("y", Op.GATHER, ("x",), (2, 1), BIPOLAR, Index(np.array([0, 4097])))
    with pytest.raises(InputError, match="node 'x': a pixel of 4097 codes is 4097 bits wide, a stream at most 4096"):
        bf.build(Graph((x, out), ("y",)), bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    assert not list(tmp_path.iterdir())



# --- hls4ml ---------------------------------------------------------------------------------------------------------


@pytest.mark.hls
@pytest.mark.parametrize("seed", PREDICTED)
def test_hls4ml_compile_and_predict(seed, tmp_path):
    graph = random_graph(seed)
    model = bf.to_hls4ml(graph, bf.BuildConfig(output_dir=tmp_path / "prj"))
    model.compile()
    codes = random_codes(graph, 1, 200)

    def values(nodes: list[Node], arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Codes as hls4ml's types hold them: real values where the domain is a fixed-point type."""
        return [np.ascontiguousarray(a * 2.0 ** -(node.domain.fraction_bits or 0)) for node, a in zip(nodes, arrays)]

    x, want = values(graph.inputs, codes), values([graph[n] for n in graph.outputs], outputs(graph, codes))
    got = model.predict(x if len(x) > 1 else x[0])
    for g, w in zip(got if len(want) > 1 else [got], want):
        assert np.array_equal(np.reshape(g, w.shape), w)
    kept = [layer.name.rsplit("_", 1)[0] for layer in model.get_layers()]
    assert kept == [node.name for node in graph if node.op is not Op.WINDOW or node.name in kept]
    bf.to_hls4ml(graph, bf.BuildConfig(output_dir=tmp_path / "prj2"))  # registering twice does nothing


@pytest.mark.hls
def test_the_encoder_outside(tmp_path):
    graph = net()
    front, core = bf.split_encoder(graph)
    codes = random_codes(graph, 0, 40)[0]
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", encoder="outside"), codes)
    assert np.array_equal(bf.simulate(tmp_path / "prj"), graph(codes))
    assert np.array_equal(bf.simulate(tmp_path / "prj", front(codes)), core(front(codes)))
    rows = (tmp_path / "prj/thermometer.csv").read_text().splitlines()
    assert rows[0] == "node,plane,input,element,code,value,direction"
    assert rows[1] == "template,0,int,0,1,1.0,rising" and rows[8] == "template,7,int,5,8,8.0,rising" and len(rows) == 9


# --- simulation -----------------------------------------------------------------------------------------------------


@pytest.mark.hls
def test_simulation_equals_and_repeats(project):
    graph = net()
    assert np.array_equal(bf.simulate(project), graph(default_vectors(graph)))
    (codes,) = random_codes(graph, 0, 3)
    assert np.array_equal(bf.simulate(project, codes), graph(codes))
    with pytest.raises(InputError, match="no samples"):
        bf.simulate(project, codes[:0])
    with pytest.raises(InputError, match="value 16 at index"):
        bf.simulate(project, codes + 16)


@pytest.mark.hls
def test_changed_sources_are_compiled_and_refused(project, tmp_path):
    """A ROM of the project changed by one bit is a Mismatch: the ROM that ships is the one that runs."""
    copy = tmp_path / "prj"
    subprocess.run(["cp", "-r", project, copy], check=True)
    rom = copy / "firmware/weights/flow_NULL.h"
    text = rom.read_text()
    word = re.search(r"flow_NULL_sign\[1\]\[5\] = \{\{0x([0-9a-f]+)ULL", text)
    mask = re.search(r"flow_NULL_mask\[1\]\[5\] = \{\{0x([0-9a-f]+)ULL", text)
    lowest = int(mask[1], 16) & -int(mask[1], 16)
    rom.write_text(text.replace(word[0], word[0].replace(word[1], f"{int(word[1], 16) ^ lowest:x}"), 1))
    with pytest.raises(Mismatch, match=r"sample \d+, node 'NULL', element \(0,\): graph -?\d+, C simulation -?\d+"):
        bf.simulate(copy)
    rom.write_text("not C++")
    with pytest.raises(ToolError, match="exit code 1"):
        bf.simulate(copy)


@pytest.mark.hls
def test_the_bench_itself_fails(project, tmp_path):
    """main returns 1 for one or 256 wrong outputs, for no samples and for missing files."""
    program = tmp_path / "bench"
    compile_project(Project.open(project), program, tmp_path / "log")

    def bench(inputs: str | None, expected: str) -> int:
        (tmp_path / "tb_data").mkdir(exist_ok=True)
        (tmp_path / "tb_data/flow_inputs.dat").unlink(missing_ok=True)
        if inputs is not None:
            (tmp_path / "tb_data/flow_inputs.dat").write_text(inputs)
        (tmp_path / "tb_data/flow_expected.dat").write_text(expected)
        return subprocess.run([program], cwd=tmp_path, capture_output=True, check=False).returncode

    graph, zeros = net(), np.zeros((1, 6), np.int64)
    right = " ".join(map(str, graph(zeros)[0])) + "\n"
    wrong = " ".join(str(v + 1) for v in graph(zeros)[0][:4]) + f" {graph(zeros)[0][4]}\n"
    line = "0 0 0 0 0 0\n"
    assert bench(line, right) == 0 and bench(line * 64, right * 64) == 0
    assert bench(line, wrong) == 1 and bench(line * 64, wrong * 64) == 1  # 256 errors
    assert bench("", "") == 1 and bench(None, right) == 1 and bench(line * 2, right) == 1 and bench("0 0\n", right) == 1


def test_compiled_programs_are_kept_while_others_throw_away(tmp_path, monkeypatch):
    """Eight at once fill and empty one cache: none trips over a file that is gone; then what was used last is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(files, "KEPT", 3)

    def keep(name):
        return files.kept(f"csim-{name}", tmp_path, lambda program: program.write_text("made"))

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(keep, range(500)))) == 500
    for name in ("one", "two", "three", "one", "four", "five"):  # kept: three, one, four; then five
        keep(name)
        time.sleep(.02)  # a file system's clock ticks in steps
    kept = {file.name for file in (tmp_path / "bnnflow").iterdir()}
    assert kept == {"csim-three", "csim-one", "csim-four", "csim-five"}
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc")
    assert keep("six") == tmp_path / "csim-six"


def test_no_compiler(project, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match=r"g\+\+ not found .*apt-get install g\+\+"):
        bf.simulate(project)
    monkeypatch.setenv("BNNFLOW_GXX", "/nowhere/g++")
    with pytest.raises(ToolError, match="BNNFLOW_GXX='/nowhere/g\\+\\+' is not an executable"):
        bf.simulate(project)


def test_unknown_tool_and_project(project, tmp_path):
    with pytest.raises(InputError, match="tool 'modelsim': use one of gxx, verilator, clang, bambu, vitis, vivado"):
        bf.simulate(project, tool="modelsim")
    with pytest.raises(InputError, match="not a bnnflow project"):
        bf.simulate(tmp_path)
    copy = tmp_path / "prj"
    subprocess.run(["cp", "-r", project, copy], check=True)
    bf.save(random_graph(1), copy / "flow.npz")
    with pytest.raises(InputError, match="not the graph this project was built from"):
        bf.simulate(copy)
    (copy / "flow.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        bf.simulate(copy)
    data = json.loads((project / "flow.json").read_text())
    (copy / "flow.json").write_text(json.dumps({**data, "top": "../../x"}))
    with pytest.raises(InputError, match="is not a name"):
        bf.simulate(copy)
    for changed in ({"backend": ["Vitis"]}, {"backend": "Verilog"}, {"top": "other"}, {"options": {}}, {"options": [1]},
                    {"top": ["a"]}):
        (copy / "flow.json").write_text(json.dumps({**data, **changed}))
        with pytest.raises(InputError, match="flow.json(: .* is not a name| is damaged: .*; build the project again)"):
            bf.estimate(copy)
    options = {**data["options"], "backend": "Foo"}
    (copy / "flow.json").write_text(json.dumps({**data, "backend": "Foo", "options": options}))
    with pytest.raises(InputError, match="backend 'Foo' is none of Vitis, .*; build the project again with one of"):
        bf.simulate(copy)
    (copy / "flow.json").write_text(json.dumps(data))
    (copy / "flow.npz").unlink()
    with pytest.raises(InputError, match="no flow.npz, the graph it was built from; build the project again"):
        bf.simulate(copy)


# Stand-ins for the vendors' programs: they compile the project as its Tcl would have it, and log as the tools do.
VENDOR = """#!/bin/sh
echo "****** {name} stand-in: $@"
echo "$@" > {calls}
{body}
"""
CSIM = """mkdir -p myproject_prj/solution1/csim/build && cp -r tb_data myproject_prj/solution1/csim/build/
g++ -std=c++0x -w -Ifirmware/ap_types -I. myproject_test.cpp firmware/myproject.cpp -o csim.exe || exit 1
cd myproject_prj/solution1/csim/build && ../../../../csim.exe"""
LICENCE = """echo "ERROR: [Common 17-345] A valid license was not found for feature 'HLS'"; exit 1"""


def vendor(folder: Path, name: str, body: str) -> Path:
    program = folder / name
    program.write_text(VENDOR.format(name=name, calls=folder / "calls", body=body))
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    return program


@pytest.mark.hls
@pytest.mark.parametrize(("tool", "name", "arguments"), [
    ("vitis", "vitis-run", "--mode hls --tcl build_prj.tcl"), ("vitis", "vitis_hls", "-f build_prj.tcl"),
    ("vivado", "vivado_hls", "-f build_prj.tcl reset=1 csim=1 synth=0 cosim=0"),
])
def test_vendor_simulation_with_a_stand_in(tool, name, arguments, project, tmp_path, monkeypatch):
    vendor(tmp_path, name, CSIM)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    codes, lines = random_codes(net(), 3, 9), []
    assert np.array_equal(bf.simulate(project, codes, tool=tool, say=lines.append), net()(codes))
    assert lines[0] == (Project.open(project).runs / f"sim-{tool}.log").read_text().splitlines()[0] and name in lines[0]
    assert (tmp_path / "calls").read_text().startswith(arguments)


@pytest.mark.hls
def test_vendor_simulation_behind_a_prefix(project, tmp_path, monkeypatch):
    vendor(tmp_path, "vitis_hls", CSIM)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    codes = random_codes(net(), 3, 5)
    assert np.array_equal(bf.simulate(project, codes, tool="vitis", via="env FAR=1"), net()(codes))
    assert (tmp_path / "calls").read_text() == "-f build_prj.tcl\n"
    with pytest.raises(ToolError, match="'false' failed|not found behind 'false'"):
        bf.simulate(project, codes, tool="vitis", via="false")


def test_a_bench_that_is_not_ours(project, monkeypatch):
    """It says errors although the outputs are right, or stops before the last sample."""
    expected = read_vectors(project / EXPECTED, [net()[name] for name in net().outputs])[0]

    def stand_in(samples: int, failed: bool):
        def simulator(opened, run, via, say):
            np.savetxt(run / "out", expected[:samples].reshape(samples, -1), fmt="%d")
            return run / "out", failed
        return simulator

    monkeypatch.setitem(TOOLCHAINS, "gxx", replace(TOOLCHAINS["gxx"], simulate=stand_in(len(expected), True)))
    with pytest.raises(Mismatch, match="the bench was changed, build the project again"):
        bf.simulate(project)
    monkeypatch.setitem(TOOLCHAINS, "gxx", replace(TOOLCHAINS["gxx"], simulate=stand_in(len(expected) - 1, False)))
    with pytest.raises(ToolError, match="255 samples of 256; it stopped early"):
        bf.simulate(project)


def test_vendor_failures(project, tmp_path, monkeypatch):
    monkeypatch.delenv("BNNFLOW_VITIS", raising=False)
    for tool, message in (("vitis", "vitis-run or vitis_hls not found"), ("vivado", "vivado_hls not found")):
        with pytest.raises(ToolError, match=message):
            bf.simulate(project, tool=tool)
    vendor(tmp_path, "vitis-run", LICENCE)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ToolError, match=r"A valid license was not found for feature 'HLS'\nno licence: let XIL"):
        bf.simulate(project, tool="vitis")
    # What a run by hand has left is nobody's result.
    shutil.copyfile(project / EXPECTED, project / "tb_data/csim_results.log")
    vendor(tmp_path, "vitis-run", "exit 0")
    with pytest.raises(ToolError, match=r"vitis gave no C simulation \(exit code 0\)"):
        bf.simulate(project, tool="vitis")
    monkeypatch.setattr("bnnflow.toolchains.vitis.HOURS", 0.5 / 3600)
    vendor(tmp_path, "vitis-run", "echo INFO: compiling; sleep 60")
    with pytest.raises(ToolError, match=r"did not finish in 0\.5 s:\n[^$]*compiling\n.*sim-vitis.log; where it is only "
                                        "slow give fewer samples"):
        bf.simulate(project, tool="vitis")


# --- output folders -------------------------------------------------------------------------------------------------


def test_output_folders(tmp_path):
    config = bf.BuildConfig(output_dir=tmp_path / "prj")
    (tmp_path / "prj").write_text("a file")
    with pytest.raises(InputError, match="is a file; name a folder"):
        bf.build(net(), config)
    (tmp_path / "prj").unlink()
    (tmp_path / "prj").mkdir()
    (tmp_path / "prj/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="exists and is not a bnnflow project"):
        bf.build(net(), config)
    assert (tmp_path / "prj/thesis.tex").read_text() == "years of work"
    (tmp_path / "prj/thesis.tex").unlink()
    bf.build(net(), config)  # an empty folder is fine
    bf.build(random_graph(1), config)  # and so is replacing a project
    assert Project.open(tmp_path / "prj").graph_digest == random_graph(1).digest
    assert [p.name for p in tmp_path.iterdir()] == ["prj"]
    with pytest.raises(InputError, match="vectors: no samples"):
        bf.build(net(), config, np.zeros((0, 6), np.int64))
    with pytest.raises(InputError, match="cannot write in /proc"):
        bf.build(net(), replace(config, output_dir="/proc/prj"))
    with pytest.raises(InputError, match="cannot write"):
        bf.build(net(), replace(config, output_dir=tmp_path / "prj/flow.json/deeper"))
    assert Project.open(tmp_path / "prj").graph_digest == random_graph(1).digest


KILLED = """
import sys, time, bnnflow
from pathlib import Path
import bnnflow.builder as builder
from tests.test_hls import net
save = builder.save
def slow(graph, path):
    save(graph, path); Path(sys.argv[2]).touch(); time.sleep(60)
builder.save = slow
bnnflow.build(net(), bnnflow.BuildConfig(output_dir=sys.argv[1]))
"""


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_build_leaves_what_was_there(existing, tmp_path):
    target, ready = tmp_path / "prj", tmp_path / "ready"
    before = None
    if existing:
        bf.build(random_graph(1), bf.BuildConfig(output_dir=target))
        before = random_graph(1).digest
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(target), str(ready)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert target.exists() == existing
    assert len([p for p in tmp_path.iterdir() if ".build-" in p.name]) == 1
    if existing:
        assert Project.open(target).graph_digest == before
    bf.build(net(), bf.BuildConfig(output_dir=target))
    assert Project.open(target).graph_digest == net().digest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prj", "ready"]


def test_a_build_killed_between_its_two_moves_is_recovered(tmp_path):
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj"))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / f".prj.build-{dead.pid}-x"
    left.mkdir()
    (tmp_path / "prj").rename(left / "old")
    with pytest.raises(InputError, match="no samples"):  # any use recovers; even one that fails
        bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj"), np.zeros((0, 6), np.int64))
    bf.build(random_graph(1), bf.BuildConfig(output_dir=tmp_path / "prj"))
    assert Project.open(tmp_path / "prj").graph_digest == random_graph(1).digest and not left.exists()


def test_what_a_process_left_whose_number_another_one_has(tmp_path):
    """It began later than the folder was made: not so this process, when it builds in another thread."""
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj"))
    for age, stays in ((0, True), (10 * 365 * 86400, False)):
        left = tmp_path / f".prj.build-{os.getpid()}-x{age}"
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
        bf.build(random_graph(1), bf.BuildConfig(output_dir=tmp_path / "prj"))
        assert left.exists() == stays
    (tmp_path / f".prj.build-{10**30}-x").mkdir()
    bf.build(net(), bf.BuildConfig(output_dir=tmp_path / "prj"))
    assert len(list(tmp_path.glob(".prj.build-1000*"))) == 0


@pytest.mark.parametrize("existing", [False, True])
def test_two_builds_at_the_same_time(existing, tmp_path, monkeypatch):
    """The one that comes second says so, and leaves what the other one wrote."""
    config = bf.BuildConfig(output_dir=tmp_path / "prj")
    if existing:
        bf.build(net(), config)
    rename, others = os.rename, [random_graph(1)]

    def late(source, target):
        if Path(source).name == "new" and others:
            bf.build(others.pop(), config)
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(InputError, match="prj cannot be replaced .*at the same time build again"):
        bf.build(net(), config)
    assert Project.open(tmp_path / "prj").graph_digest == random_graph(1).digest
    assert [p.name for p in tmp_path.iterdir()] == ["prj"]
    bf.build(net(), config)


def test_the_folder_that_one_is_in_is_not_replaced(tmp_path, monkeypatch):
    """Else a shell would be in a folder that is no more."""
    (tmp_path / "prj" / "inside").mkdir(parents=True)
    for here, there in (("prj", "."), ("prj/inside", ".."), ("prj/inside", tmp_path / "prj")):
        monkeypatch.chdir(tmp_path / here)
        with pytest.raises(InputError, match="a build replaces this folder, and you are in it; name another"):
            bf.build(net(), bf.BuildConfig(output_dir=there))
    bf.build(net(), bf.BuildConfig(output_dir="new"))
    assert Project.open(tmp_path / "prj/inside/new").graph_digest == net().digest


@pytest.mark.parametrize("moves", [1, 2])
def test_a_build_interrupted_between_its_moves_loses_nothing(moves, tmp_path, monkeypatch):
    """The project and its runs are there, be it the old one or the one that replaces it."""
    config = bf.BuildConfig(output_dir=tmp_path / "prj")
    bf.build(net(), config)
    run = tmp_path / "prj" / RUNS / "run.json"
    run.parent.mkdir(exist_ok=True)
    run.write_text("hours of work")
    rename, seen = os.rename, []

    def interrupted(source, target):
        rename(source, target)
        seen.append(target)
        if len(seen) == moves:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bf.build(random_graph(1), config)
    assert Project.open(tmp_path / "prj").graph_digest == (net(), random_graph(1))[moves - 1].digest
    assert run.read_text() == "hours of work" and [p.name for p in tmp_path.iterdir()] == ["prj"]
