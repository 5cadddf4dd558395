"""Vitis HLS, Vivado HLS and Vivado: C simulation, C synthesis, co-simulation, export, logic synthesis of a project.

The scripts are hls4ml's own (`build_prj.tcl`), but for logic synthesis out of context. Every step runs in a copy of the
project under `runs/<digest of the sources>/<tool>`, leaves its log there and, last, its facts: a step whose facts are
there is done, so that a run that was cut off goes on, and a repeated one costs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bnnflow.backends.backend import CPP
from bnnflow.backends.project import EXPECTED, INPUTS, RESULTS, Project
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.facts.facts import Facts, load_facts, save_facts
from bnnflow.facts.kept import facts_file
from bnnflow.facts.readers import read_report
from bnnflow.toolchains import process
from bnnflow.toolchains.process import Program, Say
from bnnflow.toolchains.toolchain import VIA, Option, Toolchain

__all__ = ["STEPS", "VENDORS", "VITIS", "VIVADO", "simulate", "synthesize"]

VITIS = Program(
    "vitis", ("vitis-run", "vitis_hls"), "BNNFLOW_VITIS", "C simulation, synthesis, co-simulation, Vitis HLS",
    "put vitis-run (2024.2 on) or vitis_hls on PATH (source settings64.sh), or set BNNFLOW_VITIS", "-version")
VIVADO = Program(
    "vivado", ("vivado_hls",), "BNNFLOW_VIVADO_HLS", "C simulation, synthesis, co-simulation, Vivado HLS",
    "put vivado_hls (2019.2 or 2020.1) on PATH (source settings64.sh), or set BNNFLOW_VIVADO_HLS", "-version")
VIVADO_LOGIC = Program(
    "vivado_logic", ("vivado",), "BNNFLOW_VIVADO", "logic synthesis out of context, resources and timing",
    "put vivado on PATH (source settings64.sh), or set BNNFLOW_VIVADO", "-version")

ANY_CODE = range(-64, 256)  # exit codes: what a tool leaves behind says more
STEPS = ("csynth", "cosim", "export", "logic")
HOURS = 4.0
# What hls4ml's script does in each step.
SWITCHES: dict[str, dict[str, int]] = {
    "csim": {"reset": 1, "csim": 1}, "csynth": {"reset": 1, "synth": 1}, "cosim": {"cosim": 1}, "export": {"export": 1},
}
# Off in Vivado HLS' script; named to it, "vsynth=0" would switch off "synth" too where the words are taken one by one.
OFF = {"vsynth": 0, "fifo_opt": 0}
# What a line of a log means, and what to do about it; the first that a log has is told.
CAUSES = (
    (r"licen[sc]e", "no licence: let XILINXD_LICENSE_FILE or LM_LICENSE_FILE name the file or server that has it, or "
                    "choose a part of the free edition"),
    (r"\bpart\b.*(not (installed|found|supported|valid)|could not be found|invalid)|invalid part|no parts matched",
     "this tool does not know the part: install its device family, or build the project for another part"),
    (r"no space left", "the disk is full: free some, the run goes on where it stopped"),
    (r"bad_alloc|out of memory|cannot allocate", "not enough memory: strategy Resource with a larger reuse_factor, "
                                                 "or io_stream, makes less to unroll"),
    (r"stop unrolling|unroll.*too large|large runtime", "too much to unroll: use strategy Resource with a larger "
                                                        "reuse_factor, or io_stream"),
)
LOGIC = "flow_logic.tcl"
# Out of context: no pins, so that what is counted is the design alone. The rest is as in hls4ml's vivado_synth.tcl.
LOGIC_TCL = """set here [file dirname [info script]]
source [file join $here project.tcl]
set xdc [open flow_clock.xdc w]
puts $xdc "create_clock -period $clock_period -name ap_clk \\[get_ports ap_clk\\]"
close $xdc
add_files ${project_name}_prj/solution1/syn/verilog
read_xdc -mode out_of_context flow_clock.xdc
synth_design -top $project_name -part $part -mode out_of_context
opt_design -retarget -propconst -sweep -bram_power_opt -shift_register_opt
report_utilization -file flow_utilization.rpt
report_timing_summary -file flow_timing.rpt
"""


def simulate(program: Program, project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
    """C simulation by one of the programs, in a copy of the project, with the vectors that are in the folder `run`."""
    copy = project.copied(run / "project")
    for name in (INPUTS, EXPECTED):
        shutil.copyfile(run / name, copy / name)
    command = _hls(program, "csim", copy, via)
    log = _simulation_log(project, program.name, run)
    try:
        # A bench that finds errors makes csim_design fail; the outputs tell which, so look before giving up.
        code = process.call(command, copy, log, HOURS * 3600, ok=ANY_CODE, say=say)
    except ToolError as error:
        raise ToolError(f"{error}\n(log: {log}; where it is only slow give fewer samples, or simulate with "
                        "tool='gxx', which compiles the same C++)") from error
    found = sorted(copy.rglob(RESULTS), key=lambda f: f.stat().st_mtime)
    if not found:
        raise ToolError(f"{program.name} gave no C simulation (exit code {code}):\n{_cause(log)}\nThe same command "
                        "simulates again once that is mended; tool='gxx' needs no vendor's tool.")
    return found[-1], code != 0


def _simulation_log(project: Project, tool: str, run: Path) -> Path:
    """The log of a simulation, in the project where it can be written to, else in the folder `run`."""
    log = project.runs / f"sim-{tool}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    except OSError:
        return run / "vendor.log"
    return log


def synthesize(program: Program, project: Project, steps: str | Sequence[str] = "csynth", via: str = "",
               hours: float = HOURS, say: Say | None = None) -> Facts:
    """Run the steps that are not done yet, each at most `hours`; returns the facts of the last step asked for.

    `steps` are some of STEPS, in a list or with commas between. `via`: a prefix such as "ssh host" or "docker run -v
    /data:/data image"; the project must have the same path there. `say` gets every line of the tools' output.

    Raises ToolError with the line of the log that matters and what to do, Mismatch where co-simulation finds that the
    hardware computes something else, InputError for steps that are not known.
    """
    asked = _in_order(steps)
    if not hours > 0:
        raise InputError(f"hours={hours!r}: a number above 0")
    wanted = [step for step in STEPS if step in asked or step == "csynth"]  # all others start from C synthesis
    runs = _Runs(project, program, project.runs / program.name, via, hours, say)
    if not all(facts_file(runs.folder, step).exists() for step in wanted):
        with _alone(runs.folder):
            for place, step in enumerate(wanted, 1):
                done = facts_file(runs.folder, step)
                if not done.exists():
                    if say:
                        say(f"bnnflow: {step}, step {place} of {len(wanted)}, log {runs.log(step)}")
                    runs.run(step)
                    save_facts([runs.facts(step)], done)
    return load_facts(facts_file(runs.folder, asked[-1]))[0]


def _in_order(steps: str | Sequence[str]) -> list[str]:
    """The steps asked for, in the order in which they run; raises InputError for unknown ones, or none at all."""
    names = [step.strip() for step in steps.split(",")] if isinstance(steps, str) else list(steps)
    unknown = [step for step in names if step not in STEPS]
    if unknown or not names:
        raise InputError(f"steps {', '.join(unknown) or 'none'}: use some of {', '.join(STEPS)}")
    return [step for step in STEPS if step in names]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hours of a tool's work in `folder`, for one process at a time; the system gives it free when that one ends."""
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder.with_suffix(".lock"), "wb"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ToolError(f"{folder}: another bnnflow runs the tool there; wait until it is done, or copy the "
                            "project") from error
        except OSError as error:
            raise InputError(_not_written(folder, error)) from error
        yield


def _not_written(folder: Path, error: OSError) -> str:
    return (f"cannot write {folder}: {error.strerror or error}; runs are kept in the project: free some room, or copy "
            "the project to where it can be written")


def _hls(program: Program, step: str, folder: Path, via: str) -> list[str]:
    """The command of a step, and its switches in the folder: all versions read one or the other."""
    path = process.need(program, via)
    switches = dict.fromkeys(("reset", "csim", "synth", "cosim", "validation", "export"), 0) | SWITCHES[step]
    (folder / "build_opt.tcl").write_text(
        "array set opt {\n" + "".join(f"    {key} {value}\n" for key, value in {**switches, **OFF}.items()) + "}\n")
    arguments = {
        "vitis-run": ["--mode", "hls", "--tcl", "build_prj.tcl"],
        "vitis_hls": ["-f", "build_prj.tcl"],
    }.get(Path(path).name, ["-f", "build_prj.tcl", " ".join(f"{key}={value}" for key, value in switches.items())])
    return process.through(via, [path, *arguments], folder)


def _logic(folder: Path, via: str) -> list[str]:
    """The command of logic synthesis, and its script in the folder."""
    (folder / LOGIC).write_text(LOGIC_TCL)
    return process.through(via, [process.need(VIVADO_LOGIC, via), "-mode", "batch", "-source", LOGIC], folder)


def _cause(log: Path) -> str:
    """The line of a log that matters and what to do; else its errors, else its end."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if re.match(r"\s*(ERROR|CRITICAL WARNING|@E|FATAL)\b|.*\berror:", line)]
    for pattern, remedy in CAUSES:
        for line in errors or lines[-15:]:
            if re.search(pattern, line, re.I):
                return f"{line.strip()[:500]}\n{remedy}\n(log: {log})"
    return "\n".join([*(errors[:15] or lines[-15:]), f"(log: {log})"])


@dataclass(frozen=True)
class _Runs:
    """The steps of one program on a project, in a copy of it in `folder`."""

    project: Project
    program: Program
    folder: Path
    via: str
    hours: float
    say: Say | None

    @property
    def tool(self) -> str:
        return self.program.name

    @property
    def solution(self) -> Path:
        """Where the tool leaves its reports."""
        return self.folder / f"{self.project.top}_prj/solution1"

    def log(self, step: str) -> Path:
        return self.folder / f"{step}.log"

    def run(self, step: str) -> None:
        """Run a step; C synthesis starts from a fresh copy of the sources: what failed before is only a log."""
        if step == "csynth":
            shutil.rmtree(self.folder, ignore_errors=True)
            try:
                self.project.copied(self.folder)
            except OSError as error:
                raise InputError(_not_written(self.folder, error)) from error
        command = (_logic(self.folder, self.via) if step == "logic"
                   else _hls(self.program, step, self.folder, self.via))
        log = self.log(step)
        try:
            code = process.call(command, self.folder, log, self.hours * 3600, ok=ANY_CODE, say=self.say)
        except ToolError as error:
            raise ToolError(f"{error}\n(a longer time: hours={2 * self.hours:g}; the log: {log})") from error
        if code:
            raise ToolError(f"{self.tool}: {step} failed with exit code {code}:\n{_cause(log)}\nThe same command goes "
                            f"on with {step} once that is mended.")

    def facts(self, step: str) -> Facts:
        """What the reports of a step say; raises ToolError where one is missing or says what cannot be."""
        facts = {"csynth": self._csynth, "cosim": self._cosim, "export": self._export, "logic": self._logic}[step]()
        return replace(facts, name=self.project.top, part=self._part)

    @property
    def _part(self) -> str:
        return str(self.project.options.get("part", ""))

    def _csynth(self) -> Facts:
        reports = self.solution / "syn/report"
        facts = self._report("csynth", reports / "csynth.xml", reports / f"{self.project.top}_csynth.xml")
        if facts.part.lower() != self._part.lower():
            raise ToolError(f"{self.tool} synthesised for {facts.part}, not for {self._part}: it does not know that "
                            "part; install its device family, or build the project for another part")
        return facts

    def _cosim(self) -> Facts:
        facts = self._report("cosim", self.solution / f"sim/report/{self.project.top}_cosim.rpt")
        if any(note.endswith("Fail") for note in facts.notes):
            raise Mismatch(f"{self.project.path}: co-simulation failed ({', '.join(facts.notes)}): the hardware of "
                           f"{self.tool} computes something else than the C++; its log is {self.log('cosim')}. Where "
                           "`bnnflow sim` finds the C++ equal to its graph the fault is the tool's: try another "
                           "version of it")
        return facts

    def _export(self) -> Facts:
        """An archive has no facts; they are still those of C synthesis."""
        if not list((self.solution / "impl").rglob("*.zip")):
            raise ToolError(f"{self.tool}: export ended without an archive of the IP under {self.solution / 'impl'}:\n"
                            f"{_cause(self.log('export'))}\nThe same command exports again once that is mended.")
        return load_facts(facts_file(self.folder, "csynth"))[0]

    def _logic(self) -> Facts:
        utilisation = self._report("logic", self.folder / "flow_utilization.rpt")
        return utilisation.merged(self._report("logic", self.folder / "flow_timing.rpt"))

    def _report(self, step: str, *places: Path) -> Facts:
        """What the first report says that is there."""
        place = next((place for place in places if place.exists()), None)
        if place is None:
            missing = places[-1].relative_to(self.folder)
            raise ToolError(f"{self.tool}: {step} ended without {missing}:\n{_cause(self.log(step))}\nThe same command "
                            f"runs {step} again once that is mended.")
        try:
            return read_report(place)
        except InputError as error:
            raise ToolError(f"{self.tool}: {step} left a report that cannot be read: {error}\nThe same command runs "
                            f"{step} again; if it stays so, this version of {self.tool} writes others: send us the "
                            "file") from error


OPTIONS = (Option("steps", "csynth", "csynth, cosim, export, logic (out of context); with commas"), VIA,
           Option("hours", HOURS, "most hours of a step"))
VENDORS = tuple(Toolchain(program, CPP, simulate=partial(simulate, program), synthesize=partial(synthesize, program),
                          options=OPTIONS, helpers=(VIVADO_LOGIC,), vendor=True) for program in (VITIS, VIVADO))
