from __future__ import annotations

import os
import re
import stat

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.ir import fixed
from bnnflow.toolchains import process as tools
from bnnflow.toolchains.yosys import YOSYS
from tests.conftest import union
from tests.random_graphs import random_codes
from tests.test_estimate import dense

GRAPH = dense(16, 4, fixed("ufixed<8,0>"))
VERBS = ("train", "quantize", "lower", "build", "sim", "compare", "estimate", "synth", "report", "demo", "ops",
         "doctor")


def test_help_and_version(cli):
    assert all(verb in cli("--help").stdout for verb in VERBS)
    assert cli("--version").stdout == f"bnnflow {bf.__version__}\n"
    for verb in VERBS:
        done = cli(verb, "--help")
        assert done.returncode == 0 and "Usage" in done.stdout and not done.stderr


def test_usage_errors_are_2(cli):
    for arguments in (["nonsense"], ["lower"], ["build", "x.npz", "--clock-period", "fast"]):
        assert cli(*arguments).returncode == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["lower", "no.keras"], "no model file no.keras"), (["train", "no.py"], "no Python file no.py"),
    (["build", "no.npz"], "no graph file no.npz"),
    (["sim", "."], "is not a bnnflow project"), (["build", "net.npz", "--part", "a b"], "letters, digits and dashes"),
    (["build", "net.npz", "-o", "net.npz"], "is a file; name a folder"),
    (["build", "net.npz", "--vectors", "no.npy"], "no.npy: not a readable .npy array"),
    (["build", "net.npz", "--vectors", "bad.npy"], "value 999999999.0 at index"),
    (["build", "net.npz", "--combinational"], "--combinational: only backend Verilog can be"),
    (["build", "net.npz", "--backend", "Verilog", "--reuse-factor", "2"], "Verilog is fully unrolled"),
    (["estimate", "net.npz", "--clock-period", "auto"],
     "--clock-period auto: only a pipelined project of backend Verilog has a clock to find; give a number of ns"),
    (["build", "net.npz", "--backend", "Verilog", "--layer", "d:pe=4"],
     "--layer d:pe=4: Verilog is fully unrolled; leave it out"),
    (["build", "net.npz", "--reuse-factor", "1048577"], "--reuse-factor 1048577: a whole number of cycles, from 1 to "
     "1048576"),
    (["build", "net.npz", "--layer", "d:pe=²"], "--layer d: pe='²': a whole number, from 1 to 1048576"),
    (["build", "net.npz", "-o", "."], "a build replaces this folder, and you are in it"),
    (["synth", "."], "is not a bnnflow project"),
    (["build", "net.npz", "--layer", "d1"], "--layer 'd1': write NODE:reuse_factor=4"),
    (["build", "net.npz", "--layer", "d1:reuse_factor=x"], "--layer d1: reuse_factor='x': a whole number"),
    (["build", "net.npz", "--layer", "nope:strategy=Resource"], "--layer nope:... names 'nope', which is no node"),
])
def test_bad_input_is_2_with_one_message(arguments, message, cli, tmp_path):
    graph = GRAPH
    bf.save(graph, tmp_path / "net.npz")
    np.save(tmp_path / "bad.npy", np.full((1, *graph.input.shape), 999999999.0))
    done = cli(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_ops_and_doctor(cli):
    assert all(op.name in cli("ops").stdout for op in bf.ir.Op)
    done = cli("doctor", env={"BNNFLOW_YOSYS": "/nowhere"})
    assert "missing yosys: BNNFLOW_YOSYS='/nowhere' is not an executable file; name one, or unset it" in done.stdout
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("gxx", "vitis", "vivado", "not found", "hls4ml", "none yet"))


@pytest.mark.hls
def test_build_and_sim(cli, tmp_path):
    graph = GRAPH
    bf.save(graph, tmp_path / "net.npz")
    codes = random_codes(graph, 0, 7)[0]
    np.save(tmp_path / "codes.npy", codes)
    np.save(tmp_path / "real.npy", codes * float(graph.input.domain.scale))
    assert cli("build", "net.npz").returncode == 0
    for data in ("codes.npy", "real.npy"):
        done = cli("sim", "prj", "--data", data, "-o", "out.npy")
        assert done.returncode == 0 and "equal: 7 samples" in done.stdout, done.stderr
        assert np.array_equal(np.load(tmp_path / "out.npy"), graph(codes))
    assert cli("sim", "prj", "--tool", "vivado").returncode == 3
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\necho 'fatal error: disk full'; exit 4\n")
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    done = cli("sim", "prj", env={"BNNFLOW_GXX": str(broken)})
    assert done.returncode == 3 and "disk full" in done.stderr
    with (tmp_path / "prj/firmware/weights" / next(
            f for f in sorted(os.listdir(tmp_path / "prj/firmware/weights")))).open("a") as rom:
        rom.write("// changed\n")
    done = cli("sim", "prj")
    assert done.returncode == 0, "a comment changes nothing"


@pytest.mark.hls
def test_several_inputs_and_outputs(cli, tmp_path):
    """Files of several arrays, by name: codes or real values."""
    graph = union({"a": dense(6, 4), "b": dense(3, 2, fixed("ufixed<8,0>"))})
    bf.save(graph, tmp_path / "net.npz")
    codes = dict(zip((node.name for node in graph.inputs), random_codes(graph, 0, 7)))
    np.savez(tmp_path / "x.npz", **{**codes, "b__x": codes["b__x"] * float(graph["b__x"].domain.scale)})
    assert cli("build", "net.npz", "--vectors", "x.npz").returncode == 0
    done = cli("sim", "prj", "-o", "y.npz")
    assert done.returncode == 0 and "equal: 7 samples, 42 outputs" in done.stdout, done.stderr
    found, expected = np.load(tmp_path / "y.npz"), graph(codes)
    assert list(found) == ["a__a", "b__a"] and all(np.array_equal(found[n], y) for n, y in zip(found, expected))
    assert cli("sim", "prj", "--data", "x.npz").returncode == 0
    np.save(tmp_path / "y.npy", np.zeros(7, int))
    for arguments, message in ((["sim", "prj", "-o", "y.npy"], "y.npy: write an .npz file"),
                               (["sim", "prj", "--data", "y.npz"], "inputs are a__x, b__x; got a__a, b__a"),
                               (["report", "prj", "--data", "x.npz", "--labels", "y.npy"], "2 outputs; labels"),
                               (["report", "prj", "--data", "x.npz", "--labels", "y.npz"], "holds several arrays")):
        done = cli(*arguments)
        assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr


def test_options_that_would_be_ignored(cli, tmp_path):
    bf.build(GRAPH, bf.BuildConfig(output_dir=tmp_path / "hls"))
    bf.build(GRAPH, bf.BuildConfig(output_dir=tmp_path / "rtl", backend="Verilog"))
    for arguments, message in (
            (["estimate", "hls", "--reuse-factor", "4", "--part", "xc7"],
             "--reuse-factor, --part: a project has its own options; for others estimate hls/flow.npz"),
            (["synth", "hls", "--family", "xc7"], "--family: not of this tool and project, which take --steps, --via"),
            (["synth", "rtl", "--via", "ssh x"], "--via: not of this tool and project, which take --family, --layers"),
            (["synth", "rtl", "--tool", "nextpnr", "--layers"], "--layers: not of this tool and project, which take"),
            (["estimate", "."], "is not a bnnflow project (no flow.json)")):
        done = cli(*arguments)
        assert done.returncode == 2 and message in " ".join(done.stderr.split()), done.stderr
    assert cli("estimate", "hls/flow.npz", "--reuse-factor", "4", "--part", "xc7a35t-cpg236-1").returncode == 0


def test_argmax(cli, tmp_path):
    graph = GRAPH
    bf.save(graph, tmp_path / "net.npz")
    assert cli("lower", "net.npz", "--argmax", "-o", "class.npz").returncode == 0
    assert bf.load(tmp_path / "class.npz").digest == bf.argmax(graph).digest


@pytest.mark.rtl
@pytest.mark.skipif(tools.find(YOSYS) is None, reason=YOSYS.remedy)
def test_build_and_synth(cli, tmp_path):
    bf.save(GRAPH, tmp_path / "net.npz")
    done = cli("build", "net.npz", "--backend", "Verilog", "--clock-period", "auto")
    assert done.returncode == 0 and re.search(r"^latency: \d+ cycles of \S+ ns, \S+ ns$", done.stdout, re.M)
    done = cli("synth", "prj", "--layers", env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.returncode == 0 and "total" in done.stdout and "lut_packed" in done.stdout, done.stderr
    done = cli("sim", "prj", "--tool", "gxx")
    assert done.returncode == 2 and "is a Verilog project" in done.stderr
    broken = tmp_path / "broken-yosys"
    broken.write_text("#!/bin/sh\necho 'ERROR: out of memory'; exit 4\n")
    broken.chmod(broken.stat().st_mode | stat.S_IEXEC)
    done = cli("synth", "prj", "--family", "xc7",
                   env={"BNNFLOW_YOSYS": str(broken), "XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.returncode == 3 and "out of memory" in done.stderr


@pytest.mark.hls
def test_a_mismatch_is_1(cli, tmp_path):
    bf.save(GRAPH, tmp_path / "net.npz")
    assert cli("build", "net.npz").returncode == 0
    top = tmp_path / "prj/firmware/myproject.cpp"
    text = top.read_text()
    last = text.rindex("}")
    name = next(line.split()[1].split("[")[0] for line in text.splitlines() if line.strip().startswith("result_t"))
    top.write_text(text[:last] + f"    {name}[0] = {name}[0] == 0 ? 1 : 0;\n}}\n")
    done = cli("sim", "prj")
    assert done.returncode == 1 and "C simulation (gxx) and graph differ: sample" in done.stderr


@pytest.mark.hls
@pytest.mark.training
def test_demo_and_a_model_file(cli, tmp_path):
    done = cli("demo")
    assert done.returncode == 0, done.stderr
    assert "C simulation  0.9" in done.stdout and "Traceback" not in done.stderr
    import bnnflow.train  # noqa: F401
    from bnnflow.models import digits

    digits.build().save(tmp_path / "digits.h5")
    done = cli("lower", "digits.h5", "-o", "d.npz")  # the file says its inputs' type
    assert done.returncode == 0 and "act_dense2" in done.stdout, done.stderr
    assert cli("build", "digits.h5", "-o", "prj2").returncode == 0
