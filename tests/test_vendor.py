"""Runs of the vendors' tools: every script under a real Tcl interpreter, everything else against stand-ins."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import bnnflow as bf
from bnnflow.backends.project import Project
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.toolchains import process as tools
from bnnflow.toolchains import vitis as vendor
from tests.conftest import plain_environment
from tests.test_facts import COSIM, CSYNTH_XML, TIMING, UTILISATION
from tests.test_hls import net

PART = "xc7a35t-cpg236-1"
STANDARD = "-std=c++0x"
CONFIG = bf.BuildConfig(part=PART, clock_period=4.0, project_name="toy")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    bf.build(net(), replace(CONFIG, output_dir=tmp_path / "prj"))
    return tmp_path / "prj"


# --- the scripts ----------------------------------------------------------------------------------------------------


class Recorder:
    """A Tcl interpreter in which the vendors' commands only write down how they were called."""

    COMMANDS = ("open_project", "set_top", "add_files", "open_solution", "config_array_partition", "config_compile",
                "config_schedule", "set_part", "create_clock", "set_clock_uncertainty", "csim_design", "csynth_design",
                "cosim_design", "export_design", "synth_design", "opt_design", "report_utilization",
                "report_timing_summary", "read_xdc")

    def __init__(self) -> None:
        self.tcl = pytest.importorskip("tkinter").Tcl()
        self.calls: list[tuple[str, ...]] = []
        self.on: dict[str, Callable[[], None]] = {}
        for name in (*self.COMMANDS, "exit"):
            self.tcl.createcommand(name, self._recorder(name))

    def _recorder(self, name: str) -> Callable[..., str]:
        def record(*arguments: str) -> str:
            self.calls.append((name, *map(str, arguments)))
            self.on.get(name, lambda: None)()
            return ""

        return record

    def run(self, script: Path, argv: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        back = Path.cwd()
        os.chdir(script.parent)
        try:
            self.tcl.setvar("argv", argv)
            self.tcl.eval(f"source {{{script.name}}}")
        finally:
            os.chdir(back)
        return self.calls



@pytest.mark.parametrize(("backend", "words"), [("Vitis", False), ("Vivado", False), ("Vivado", True)])
@pytest.mark.parametrize("step", ["csim", "csynth", "cosim", "export"])
def test_hls_scripts_under_tcl(backend, words, step, tmp_path, monkeypatch):
    """`words`: where the switches come as one word each, and not as the one argument that they were."""
    prj = tmp_path / "a folder"
    bf.build(net(), replace(CONFIG, output_dir=prj, backend=backend))
    program, path = {"Vitis": (vendor.VITIS, "/x/vitis_hls"), "Vivado": (vendor.VIVADO, "/x/vivado_hls")}[backend]
    monkeypatch.setattr(tools, "find", lambda program, via="": path)
    _, *arguments = vendor._hls(program, step, prj, "")
    recorder = Recorder()

    def simulation_files() -> None:
        for name, text in (("verilog/toy.tcl", "log_wave -r /\nquit\n"), ("verilog/run_sim.tcl", "set simulated 1"),
                           ("report/toy_cosim.rpt", "")):
            file = prj / "toy_prj/solution1/sim" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    recorder.on["cosim_design"] = simulation_files
    argv = tuple(" ".join(arguments).split()) if words else tuple(arguments)
    calls = recorder.run(prj / "build_prj.tcl", argv)
    fresh = ("-reset",) if step in ("csim", "csynth") else ()
    bench = ("add_files", "-tb", "toy_test.cpp", "-cflags")
    assert calls == [
        ("open_project", *fresh, "toy_prj"), ("set_top", "toy"), ("add_files", "firmware/toy.cpp", "-cflags", STANDARD),
        (*bench, STANDARD), ("add_files", "-tb", "firmware/weights"), ("add_files", "-tb", "tb_data"),
        ("open_solution", *fresh, "solution1"), ("config_array_partition", "-maximum_size", "4096"),
        ("config_compile", "-name_max_length", "80"), ("set_part", PART),
        ("config_schedule", "-enable_dsp_full_reg=false"), ("create_clock", "-period", "4.0", "-name", "default"),
        ("set_clock_uncertainty", "27%" if backend == "Vitis" else "12.5%", "default"),
        *{"csim": [("csim_design",)], "csynth": [("csynth_design",)],
          "cosim": [(*bench, f"{STANDARD} -DRTL_SIM"), ("cosim_design", "-trace_level", "all", "-setup")],
          "export": [("export_design", "-format", "ip_catalog", "-version", "1.0.0")]}[step],
        ("exit",)]
    for call in calls:
        if call[0] == "add_files":
            assert (prj / call[-3 if "-cflags" in call else -1]).exists(), call
    if step == "cosim":
        assert int(recorder.tcl.getvar("simulated")) == 1
        assert "log_wave" not in (prj / "toy_prj/solution1/sim/verilog/toy.tcl").read_text()


def test_logic_script_under_tcl(project):
    (project / vendor.LOGIC).write_text(vendor.LOGIC_TCL)
    recorder = Recorder()
    calls = recorder.run(project / vendor.LOGIC)
    assert (project / "flow_clock.xdc").read_text() == "create_clock -period 4.0 -name ap_clk [get_ports ap_clk]\n"
    assert calls == [
        ("add_files", "toy_prj/solution1/syn/verilog"), ("read_xdc", "-mode", "out_of_context", "flow_clock.xdc"),
        ("synth_design", "-top", "toy", "-part", PART, "-mode", "out_of_context"),
        ("opt_design", "-retarget", "-propconst", "-sweep", "-bram_power_opt", "-shift_register_opt"),
        ("report_utilization", "-file", "flow_utilization.rpt"),
        ("report_timing_summary", "-file", "flow_timing.rpt")]
    (project / "flow_clock.xdc").unlink()
    stock = Recorder()
    stock.run(project / "vivado_synth.tcl")
    assert ("synth_design", "-top", "toy", "-part", PART) in stock.calls


# --- stand-ins ------------------------------------------------------------------------------------------------------

# A program that does what the switches in its folder say, as the tools do: log on standard output, reports in files.
TOOL = """#!{python}
import pathlib, re, sys, time
with open({calls!r}, "a") as calls: calls.write(" ".join(sys.argv) + "\\n")
if sys.argv[1:] == ["-version"]: print("stand-in 2023.1"); raise SystemExit
on = {{k for k, v in re.findall(r"(\\w+) (\\d)", pathlib.Path("build_opt.tcl").read_text()) if v == "1"}}
if sys.argv[0].endswith("/vivado"): on = {{"logic"}}
print("INFO: [HLS 200-10] starting", *sorted(on), flush=True)
{body}
reports = {reports!r}
for name, text in reports.items():
    step, _, place = name.partition(":")
    if step in on:
        file = pathlib.Path(place); file.parent.mkdir(parents=True, exist_ok=True); file.write_text(text)
"""
REPORTS = {
    "synth:toy_prj/solution1/syn/report/csynth.xml": CSYNTH_XML.format(latency=6),
    "cosim:toy_prj/solution1/sim/report/toy_cosim.rpt": COSIM.format(status="Pass"),
    "export:toy_prj/solution1/impl/export.zip": "",
    "logic:flow_utilization.rpt": UTILISATION.format(state="Synthesized"), "logic:flow_timing.rpt": TIMING,
}


@pytest.fixture
def install(tmp_path, monkeypatch) -> Callable[..., Path]:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, body: str = "", reports: dict[str, str] = REPORTS) -> Path:
        program = folder / name
        calls = str(tmp_path / "calls")
        program.write_text(TOOL.format(python=sys.executable, body=body, reports=reports, calls=calls))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        return tmp_path / "calls"

    return make


@pytest.mark.parametrize(("tool", "name", "arguments"), [
    ("vitis", "vitis-run", "--mode hls --tcl build_prj.tcl"), ("vitis", "vitis_hls", "-f build_prj.tcl"),
    ("vivado", "vivado_hls", "-f build_prj.tcl reset=1 csim=0 synth=1 cosim=0"),
])
def test_every_step(tool, name, arguments, project, install, tmp_path):
    calls = install(name)
    install("vivado")
    lines: list[str] = []
    facts = bf.synthesize(project, tool, say=lines.append)
    assert (facts.lut, facts.source, facts.version) == (300, "C synthesis", "2023.2")
    assert (facts.part, facts.name) == (PART, "toy")
    assert calls.read_text().startswith(f"{tmp_path}/bin/{name} {arguments}")
    runs = Project.open(project).runs / tool
    assert lines == [f"bnnflow: csynth, step 1 of 1, log {runs}/csynth.log", "INFO: [HLS 200-10] starting reset synth"]
    facts = bf.synthesize(project, tool, steps=["logic", "cosim", "export"])
    assert (facts.lut, facts.source, facts.clock_estimated) == (211, "logic synthesis", 4.25)
    assert len(calls.read_text().splitlines()) == 4  # C synthesis was done
    again = bf.synthesize(Project.open(project), tool, steps="cosim")
    assert again.latency == (7, 9) and again.source == "co-simulation"
    assert len(calls.read_text().splitlines()) == 4  # and so was all else
    assert {f.name for f in runs.glob("*.log")} == {"csynth.log", "cosim.log", "export.log", "logic.log"}
    assert "starting" in (runs / "cosim.log").read_text()


def test_a_rebuilt_project_keeps_its_runs(project, install):
    calls = install("vitis-run")
    bf.synthesize(project)
    bf.build(net(), replace(CONFIG, output_dir=project))
    bf.synthesize(project)
    assert len(calls.read_text().splitlines()) == 1
    bf.build(net(), replace(CONFIG, output_dir=project, clock_period=5.0))
    bf.synthesize(project)  # another clock
    (project / "firmware/toy.cpp").open("a").write("// other sources\n")
    bf.synthesize(project)
    assert len(calls.read_text().splitlines()) == 3


@pytest.mark.parametrize(("body", "message"), [
    ("print(\"ERROR: [Common 17-345] A valid license was not found for feature 'HLS'\"); raise SystemExit(1)",
     r"exit code 1:\nERROR: \[Common 17-345\] A valid license was not found for feature 'HLS'\nno licence: let XIL"),
    ("print('INFO: a\\nERROR: [HLS 200-1023] Part \\'xc9\\' is not installed.'); raise SystemExit(1)",
     r"Part 'xc9' is not installed\.\nthis tool does not know the part: install its device family, or build"),
    ("print('ERROR: [Coretcl 2-106] Specified part could not be found.'); raise SystemExit(1)", "not know the part"),
    ("print('ERROR: write failed: No space left on device'); raise SystemExit(2)", "the disk is full: free some"),
    ("print('std::bad_alloc'); raise SystemExit(134)", "not enough memory: strategy Resource"),
    ("print('ERROR: [XFORM 203-504] Stop unrolling loop Fold'); raise SystemExit(1)", "too much to unroll: use"),
    ("print('ERROR: [HLS 200-70] Compilation errors found'); raise SystemExit(1)", "Compilation errors found"),
    ("print('quiet end'); raise SystemExit(7)", "exit code 7:\n.*\nquiet end"),
    ("raise SystemExit", r"csynth ended without toy_prj/solution1/syn/report/toy_csynth.xml[^$]*runs csynth again"),
    ("import time; time.sleep(30)", r"did not finish in 2.16 s:\n.*\n.*longer time: hours="),
])
def test_failures_say_what_matters(body, message, project, install):
    install("vitis_hls", body)
    with pytest.raises(ToolError, match=message):
        bf.synthesize(project, hours=0.0006)
    log = Project.open(project).runs / "vitis/csynth.log"
    assert log.exists() and not list(log.parent.glob("facts-*.json"))


@pytest.mark.parametrize(("name", "text", "message"), [
    ("synth:toy_prj/solution1/syn/report/csynth.xml", "<profile",
     r"left a report that cannot be read[^$]*runs csynth again"),
    ("synth:toy_prj/solution1/syn/report/csynth.xml", CSYNTH_XML.format(latency=1).replace(PART, "xc7z007s-clg225-2"),
     "vitis synthesised for xc7z007s-clg225-2, not for xc7a35t-cpg236-1"),
    ("export:toy_prj/solution1/impl/export.zip", None, r"export ended without an archive of the IP[^$]*exports again"),
    ("logic:flow_timing.rpt", None, r"logic ended without flow_timing.rpt[^$]*runs logic again"),
])
def test_bad_reports(name, text, message, project, install):
    reports = {key: value for key, value in REPORTS.items() if key != name} | ({} if text is None else {name: text})
    for program in ("vitis-run", "vivado"):
        install(program, reports=reports)
    with pytest.raises(ToolError, match=message):
        bf.synthesize(project, steps=["export", "logic"])


def test_a_step_that_failed_goes_on(project, install):
    calls = install("vitis-run", "if 'cosim' in on: print('ERROR: interrupted'); raise SystemExit(1)")
    with pytest.raises(ToolError, match="goes on with cosim"):
        bf.synthesize(project, steps=["cosim"])
    install("vitis-run")
    assert bf.synthesize(project, steps=["cosim"]).latency == (7, 9)
    assert len(calls.read_text().splitlines()) == 3  # C synthesis ran once


def test_cosimulation_that_differs_is_a_mismatch(project, install):
    failed = {"cosim:toy_prj/solution1/sim/report/toy_cosim.rpt": COSIM.format(status="Fail")}
    install("vitis-run", reports={**REPORTS, **failed})
    with pytest.raises(Mismatch, match=r"Verilog: Fail[^$]*try another version"):
        bf.synthesize(project, steps=["cosim"])


def test_missing_tools_and_bad_options(project, install, monkeypatch, tmp_path):
    with pytest.raises(ToolError, match=r"vitis-run or vitis_hls not found .*source settings64\.sh"):
        bf.synthesize(project)
    with pytest.raises(InputError, match="tool 'quartus': use one of yosys, nextpnr, clang, bambu, vitis, vivado"):
        bf.synthesize(project, "quartus")
    with pytest.raises(InputError, match="steps place: use some of csynth, cosim, export, logic"):
        bf.synthesize(project, steps=["place"])
    with pytest.raises(InputError, match="vitis has no option family, layers; use some of say, steps, via, hours"):
        bf.synthesize(project, family="xc7", layers=True)
    with pytest.raises(InputError, match="hours=0"):
        bf.synthesize(project, hours=0)
    install("vitis-run")
    with pytest.raises(ToolError, match="vivado not found"):
        bf.synthesize(project, steps=["logic"])
    monkeypatch.setenv("BNNFLOW_VITIS", "/nowhere/vitis_hls")
    with pytest.raises(ToolError, match="is not an executable file; name one, or unset it"):
        bf.synthesize(project, steps=["cosim"])
    monkeypatch.delenv("BNNFLOW_VITIS")
    (tmp_path / "bin/vitis-run").write_text("\x7fELF, or so")
    with pytest.raises(ToolError, match="cannot run .*Exec format error; it must be a program that this system starts"):
        bf.simulate(project, tool="vitis")


# --- behind a prefix ------------------------------------------------------------------------------------------------

SSH = """#!/bin/sh
# What ssh does: all arguments after the host are one line for the shell there.
host=$1; shift; cd /; [ "$host" = up ] || {{ echo "ssh: connect to host $host: no route" >&2; exit 255; }}
exec sh -c "$*"
"""
DOCKER = """#!/bin/sh
# What docker run does: the arguments after the image are the command.
shift 3; cd /; exec "$@"
"""


@pytest.mark.parametrize(("via", "name", "text"), [
    ("{bin}/ssh up", "ssh", SSH), ("{bin}/docker run --rm image", "docker", DOCKER)])
def test_a_prefix(via, name, text, project, install, tmp_path):
    folder = tmp_path / "bin"
    calls = install("vitis_hls")
    install("vivado")
    (folder / name).write_text(text.format())
    (folder / name).chmod(0o755)
    facts = bf.synthesize(project, via=via.format(bin=folder), steps=["csynth", "logic"])
    assert facts.lut == 211
    assert [line.split()[0] for line in calls.read_text().splitlines()] == [f"{folder}/vitis_hls", f"{folder}/vivado"]
    if name == "ssh":
        with pytest.raises(ToolError, match="exit code 255: ssh: connect to host down"):
            bf.synthesize(project, "vivado", via=f"{folder}/ssh down")
    with pytest.raises(ToolError, match=r"vivado_hls not found behind "):
        bf.synthesize(project, "vivado", via=via.format(bin=folder))
    with pytest.raises(ToolError, match="cannot run '/nowhere/ssh x'"):
        bf.synthesize(project, "vivado", via="/nowhere/ssh x")
    with pytest.raises(InputError, match="No closing quotation"):
        bf.synthesize(project, "vivado", via='ssh "x')
    with pytest.raises(InputError, match="via=' ': name a command"):
        bf.synthesize(project, "vivado", via=" ")
    with pytest.raises(InputError, match="a prefix is for vitis or vivado"):
        bf.simulate(project, via="ssh up")


def test_a_prefix_that_does_not_answer(project, install, tmp_path, monkeypatch):
    monkeypatch.setattr(tools, "LOOK_UP_SECONDS", 0.3)
    silent = tmp_path / "bin/ssh"
    silent.write_text("#!/bin/sh\nsleep 30\n")
    silent.chmod(0o755)
    start = time.monotonic()
    for verb in (bf.synthesize, bf.simulate):
        with pytest.raises(ToolError, match=r"'ssh up' did not answer in 0\.3 s: try `ssh up true`"):
            verb(project, tool="vitis", via="ssh up")
    assert time.monotonic() - start < 20


def test_one_run_of_a_tool_at_a_time(project, install, tmp_path):
    """A second one would begin by throwing away what the first has done."""
    install("vitis-run", f"import pathlib; pathlib.Path({str(tmp_path / 'runs')!r}).touch(); time.sleep(60)")
    first = subprocess.Popen([sys.executable, "-m", "bnnflow.cli", "synth", str(project)], stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL, env=plain_environment())
    try:
        wait_for((tmp_path / "runs").exists)
        with pytest.raises(ToolError, match="vitis: another bnnflow runs the tool there; wait until it is done"):
            bf.synthesize(project)
    finally:
        first.kill()
        first.wait()
    install("vitis-run")
    assert bf.synthesize(project).lut == 300  # one that was killed holds nothing


def test_a_project_that_cannot_be_written_to(project, install, monkeypatch):
    """A file in the place of its runs stands for it: root may write anywhere."""
    (project / "runs").touch()
    install("vitis-run")
    with pytest.raises(InputError, match=r"cannot write \S*/vitis: .*; runs are kept in the project: free some room"):
        bf.synthesize(project)
    monkeypatch.setattr("bnnflow.synthesis.synthesized_cost", lambda *_: None)  # the table's
    facts = bf.estimate(project, synthesize=True)
    assert facts.lut is not None and facts.notes[-1].startswith("not kept for the report: ")
    assert len(bf.report(project)["projects"][0]["facts"]) == 2


def test_copies_can_be_written_to(project, install, tmp_path):
    for path in (project / "firmware/toy.cpp", project / "build_prj.tcl", project / "firmware"):
        path.chmod(path.stat().st_mode & ~0o222)
    copy = Project.open(project).copied(tmp_path / "copy")
    assert all(path.stat().st_mode & 0o200 for path in copy.rglob("*"))


def test_lines_are_passed_on_as_they_come(tmp_path):
    heard: list[tuple[float, str]] = []
    script = "echo one; sleep 1; printf 'two\\nthree'"
    tools.call(["sh", "-c", script], tmp_path, tmp_path / "log", 30,
               say=lambda line: heard.append((time.monotonic(), line)))
    assert [line for _, line in heard] == ["one", "two", "three"] and heard[1][0] - heard[0][0] > 0.5
    with pytest.raises(ToolError, match="did not finish in 1 s"):
        tools.call(["sleep", "20"], tmp_path, tmp_path / "log", 1, say=print)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_tool_too(number, project, install, tmp_path):
    install("vitis-run", f"import os; print(os.getpid(), file=open({str(tmp_path / 'pid')!r}, 'w'), flush=True); "
                         "time.sleep(60)")
    command = [sys.executable, "-m", "bnnflow.cli", "synth", str(project)]
    # Under nohup this process ignores SIGHUP, and what it starts would, too.
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=plain_environment(),
                           preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
        tool = int((tmp_path / "pid").read_text())
        run.send_signal(number)
        assert run.wait(20) == 128 + number
    finally:
        run.kill()
    wait_for(lambda: not Path(f"/proc/{tool}").exists())
    install("vitis-run")
    assert bf.synthesize(project).lut == 300  # and what was cut off starts again


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_handlers_of_others_are_left_alone(tmp_path):
    before, hangup = signal.signal(signal.SIGTERM, lambda *_: None), signal.getsignal(signal.SIGHUP)
    try:
        tools.call(["sh", "-c", f"kill -TERM {os.getpid()}; exit 0"], tmp_path, tmp_path / "log", 20)
        assert signal.getsignal(signal.SIGHUP) is hangup
    finally:
        signal.signal(signal.SIGTERM, before)
    tools.call(["true"], tmp_path, tmp_path / "log", 20)
    assert signal.getsignal(signal.SIGTERM) == before


def test_command_line(cli, project, install, tmp_path):
    install("vitis-run")
    done = cli("synth", "prj")
    assert done.returncode == 0 and "C synthesis, Vitis HLS 2023.2" in done.stdout and "300" in done.stdout
    assert "starting" in done.stderr
    assert cli("synth", "prj", "--tool", "vivado").returncode == 3
    assert cli("synth", "prj", "--steps", "fly").returncode == 2
    state = Project.open(project).runs / "vitis/facts-csynth.json"
    assert json.loads(state.read_text())["facts"][0]["lut"] == 300
    state.write_text("{")
    assert cli("synth", "prj").returncode == 2


def test_the_first_that_fails_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    commands = [["touch", "first"], ["sh", "-c", "echo error: no room; exit 3"], ["sleep", "3"], ["touch", "last"]]
    with pytest.raises(ToolError, match="sh failed with exit code 3:\nerror: no room"):
        tools.side_by_side(commands, tmp_path, 30)
    assert (tmp_path / "first").exists() and not (tmp_path / "last").exists()


def test_a_silent_program_is_said_to_run(tmp_path, monkeypatch, caplog):
    """Its name, its seconds, the last line of its log; where somebody hears its lines, nothing is added."""
    monkeypatch.setattr(tools, "BEAT", 0.3)
    command = ["sh", "-c", "echo pass 7; sleep 1", "work/design.v"]
    with caplog.at_level("INFO", "bnnflow"):
        tools.call(command, tmp_path, tmp_path / "log", 30)
        said, heard = [record.getMessage() for record in caplog.records], []
        tools.call(command, tmp_path, tmp_path / "log", 30, say=heard.append)
    assert said and set(said) <= {f"sh ... design.v: {second} s, pass 7" for second in (0, 1)}
    assert heard == ["pass 7"] and len(caplog.records) == len(said)
