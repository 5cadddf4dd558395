"""Runs of the vendors' tools on a project: C simulation, C synthesis, co-simulation, export, logic synthesis.

The scripts are hls4ml's own (`build_prj.tcl`), but for logic synthesis out of context. Every step runs in a copy of the
project under `runs/<digest of the sources>/<tool>`, leaves its log there and, last, its facts: a step whose facts are
there is done, so that a run that was cut off goes on, and a repeated one costs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bnnflow.backends.project import EXPECTED, INPUTS, RESULTS, Project
from bnnflow.errors import InputError, Mismatch, ToolError
from bnnflow.facts.facts import Facts, load_facts, save_facts
from bnnflow.facts.readers import read_report
from bnnflow.toolchains import process as tools

__all__ = ["STEPS", "simulator", "synthesize"]

Say = Callable[[str], None]  # gets every line of a tool's output

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
     "this tool does not know the part: install its device family, or build the project for another (part=...)"),
    (r"no space left", "the disk is full: free some, the run goes on where it stopped"),
    (r"bad_alloc|out of memory|cannot allocate", "not enough memory: strategy='Resource' with a larger reuse_factor, "
                                                 "or io_stream, makes less to unroll"),
    (r"stop unrolling|unroll.*too large|large runtime", "too much to unroll: use strategy='Resource' with a larger "
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


def simulator(tool: str) -> Callable[[Project, Path, str, Say | None], tuple[Path, bool]]:
    """C simulation by a vendor's tool: (log of its outputs, did the bench report errors), with the vectors in `run`."""

    def run_it(project: Project, run: Path, via: str, say: Say | None) -> tuple[Path, bool]:
        copy = project.copied(run / "project")
        for name in (INPUTS, EXPECTED):
            shutil.copyfile(run / name, copy / name)
        command = _hls(tool, "csim", copy, via)
        log = project.runs / f"sim-{tool}.log"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
        except OSError:  # a project that cannot be written to
            log = run / "vendor.log"
        try:
            # A bench that finds errors makes csim_design fail; the outputs tell which, so look before giving up.
            code = tools.call(command, copy, log, HOURS * 3600, ok=range(-64, 256), say=say)
        except ToolError as error:
            raise ToolError(f"{error}\n(log: {log}; where it is only slow give fewer samples, or simulate with "
                            "tool='gxx', which compiles the same C++)") from error
        found = sorted(copy.rglob(RESULTS), key=lambda f: f.stat().st_mtime)
        if not found:
            raise ToolError(f"{tool} gave no C simulation (exit code {code}):\n{_cause(log)}\nThe same command "
                            "simulates again once that is mended; tool='gxx' needs no vendor's tool.")
        return found[-1], code != 0

    return run_it


def synthesize(project: Project, tool: str, steps: Sequence[str] = ("csynth",), via: str = "", hours: float = HOURS,
               say: Say | None = None) -> Facts:
    """Run the steps that are not done yet, each at most `hours`; the facts of the last step asked for.

    `via`: a prefix such as "ssh host" or "docker run -v /data:/data image"; the project must have the same path there.
    `say` gets every line of the tools' output.

    Raises ToolError with the line of the log that matters and what to do, Mismatch where co-simulation finds that the
    hardware computes something else, InputError for steps that are not known.
    """
    steps = [steps] if isinstance(steps, str) else steps
    unknown = [step for step in steps if step not in STEPS]
    if unknown or not steps:
        raise InputError(f"steps {', '.join(unknown) or 'none'}: use some of {', '.join(STEPS)}")
    if not hours > 0:
        raise InputError(f"hours={hours!r}: a number above 0")
    wanted = [step for step in STEPS if step in steps or step == "csynth"]  # all others start from C synthesis
    folder = project.runs / tool
    if not all(_kept(folder, step).exists() for step in wanted):
        with _alone(folder):
            for place, step in enumerate(wanted, 1):
                done = _kept(folder, step)
                if not done.exists():
                    if say:
                        say(f"bnnflow: {step}, step {place} of {len(wanted)}, log {folder / step}.log")
                    _fresh(project, folder, step)
                    _run(project, tool, step, folder, via, hours, say)
                    save_facts([_facts(project, step, folder, tool)], done)
    return load_facts(_kept(folder, [step for step in STEPS if step in steps][-1]))[0]


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


def _kept(folder: Path, step: str) -> Path:
    return folder / f"facts-{step}.json"


def _fresh(project: Project, folder: Path, step: str) -> None:
    """C synthesis starts from a copy of the sources; what failed before is only a log."""
    if step == "csynth":
        shutil.rmtree(folder, ignore_errors=True)
        try:
            project.copied(folder)
        except OSError as error:
            raise InputError(_not_written(folder, error)) from error


def _hls(tool: str, step: str, folder: Path, via: str) -> list[str]:
    """The command of a step, and its switches in the folder: all versions read one or the other."""
    program = tools.need(tool, via)
    switches = dict.fromkeys(("reset", "csim", "synth", "cosim", "validation", "export"), 0) | SWITCHES[step]
    (folder / "build_opt.tcl").write_text(
        "array set opt {\n" + "".join(f"    {key} {value}\n" for key, value in {**switches, **OFF}.items()) + "}\n")
    arguments = {
        "vitis-run": ["--mode", "hls", "--tcl", "build_prj.tcl"],
        "vitis_hls": ["-f", "build_prj.tcl"],
    }.get(Path(program).name, ["-f", "build_prj.tcl", " ".join(f"{key}={value}" for key, value in switches.items())])
    return tools.through(via, [program, *arguments], folder)


def _run(project: Project, tool: str, step: str, folder: Path, via: str, hours: float,
         say: Say | None) -> None:
    if step == "logic":
        (folder / LOGIC).write_text(LOGIC_TCL)
        program = tools.need("vivado_logic", via)
        command = tools.through(via, [program, "-mode", "batch", "-source", LOGIC], folder)
    else:
        command = _hls(tool, step, folder, via)
    log = folder / f"{step}.log"
    try:
        code = tools.call(command, folder, log, hours * 3600, ok=range(-64, 256), say=say)
    except ToolError as error:
        raise ToolError(f"{error}\n(a longer time: hours={2 * hours:g}; the log: {log})") from error
    if code:
        raise ToolError(f"{tool}: {step} failed with exit code {code}:\n{_cause(log)}\nThe same command goes on with "
                        f"{step} once that is mended.")


def _cause(log: Path) -> str:
    """The line of a log that matters and what to do; else its errors, else its end."""
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if re.match(r"\s*(ERROR|CRITICAL WARNING|@E|FATAL)\b|.*\berror:", line)]
    for pattern, remedy in CAUSES:
        for line in errors or lines[-15:]:
            if re.search(pattern, line, re.I):
                return f"{line.strip()[:500]}\n{remedy}\n(log: {log})"
    return "\n".join([*(errors[:15] or lines[-15:]), f"(log: {log})"])


def _facts(project: Project, step: str, folder: Path, tool: str) -> Facts:
    """What a step's reports say."""
    solution = folder / f"{project.top}_prj/solution1"
    reports: dict[str, list[list[Path]]] = {
        "csynth": [[solution / "syn/report/csynth.xml", solution / f"syn/report/{project.top}_csynth.xml"]],
        "cosim": [[solution / f"sim/report/{project.top}_cosim.rpt"]],
        "export": [],
        "logic": [[folder / "flow_utilization.rpt"], [folder / "flow_timing.rpt"]],
    }
    found = [_report(places, step, folder, tool) for places in reports[step]]
    if step == "export":
        if not list((solution / "impl").rglob("*.zip")):
            raise ToolError(f"{tool}: export ended without an archive of the IP under {solution / 'impl'}:\n"
                            f"{_cause(folder / 'export.log')}\nThe same command exports again once that is mended.")
        return load_facts(_kept(folder, "csynth"))[0]
    facts = found[0] if len(found) == 1 else found[0].merged(found[1])
    if step == "cosim" and any(note.endswith("Fail") for note in facts.notes):
        raise Mismatch(f"{project.path}: co-simulation failed ({', '.join(facts.notes)}): the hardware of {tool} "
                       f"computes something else than the C++; its log is {folder / 'cosim.log'}. Where `bnnflow sim` "
                       "finds the C++ equal to its graph the fault is the tool's: try another version of it")
    asked = str(project.options.get("part", ""))
    if step == "csynth" and facts.part.lower() != asked.lower():
        raise ToolError(f"{tool} synthesised for {facts.part}, not for {asked}: it does not know that part; install "
                        "its device family, or build the project for another (part=...)")
    return replace(facts, name=project.top, part=asked)


def _report(places: Sequence[Path], step: str, folder: Path, tool: str) -> Facts:
    place = next((place for place in places if place.exists()), None)
    if place is None:
        missing = places[-1].relative_to(folder)
        raise ToolError(f"{tool}: {step} ended without {missing}:\n{_cause(folder / f'{step}.log')}\nThe same command "
                        f"runs {step} again once that is mended.")
    try:
        return read_report(place)
    except InputError as error:
        raise ToolError(f"{tool}: {step} left a report that cannot be read: {error}\nThe same command runs {step} "
                        f"again; if it stays so, this version of {tool} writes others: send us the file") from error

