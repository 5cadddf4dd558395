"""Programs of external tools: found, needed, called. The only place that starts processes."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
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
from typing import Any

from bnnflow.errors import InputError, ToolError

__all__ = ["GXX", "Program", "Say", "call", "command", "find", "machine", "need",
           "side_by_side", "through", "version"]

Say = Callable[[str], None]  # gets every line of a tool's output

LOOK_UP_SECONDS = 120.0  # a container may have to start
BEAT = 10.0  # seconds between two lines that say that a program still runs
LOG = logging.getLogger(__name__)


def _itself(path: str) -> list[str]:
    """A file that is started as it is."""
    return [path]


@dataclass(frozen=True)
class Program:
    """An external program and how it is found: `commands` are tried in order.

    `override` is an environment variable that may hold a path instead, `package` a file in an installed Python package
    that carries the program and is preferred to the commands. `enables` and `remedy` say, in messages, what it is
    needed for and how to get it; `version_flag` makes it print its version, in the first line that begins with
    `version_begins`. `start` gives the arguments that start the file that was found.
    """

    name: str
    commands: tuple[str, ...]
    override: str
    enables: str
    remedy: str
    version_flag: str = "--version"
    version_begins: str = ""
    package: str = ""
    start: Callable[[str], list[str]] = _itself


# Here, because not only projects need it: the engine is compiled by it.
GXX = Program("gxx", ("g++",), "BNNFLOW_GXX", "bit-accurate C simulation, hls4ml compile() and predict()",
              "install g++ (Debian: apt-get install g++), or set BNNFLOW_GXX")


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


def _find_behind(program: Program, via: str) -> str | None:
    """The first of a program's commands that the other side has."""
    words = _behind(via, " || ".join(f"command -v {command}" for command in program.commands))
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


def find(program: Program, via: str = "") -> str | None:
    """Path of a program, or None; with `via`, behind that prefix.

    Raises ToolError where the override variable names no executable, or the prefix itself fails.
    """
    given = os.environ.get(program.override)
    if via:
        return given or _find_behind(program, via)
    if given:
        path = shutil.which(given)
        if path is None:
            raise ToolError(f"{program.override}={given!r} is not an executable file; name one, or unset it")
        return path
    beside = Path(sys.executable).parent  # programs of Python packages, also where the environment is not activated
    return _carried(program) or next((path for command in program.commands for path in
                                      (shutil.which(command), shutil.which(command, path=beside)) if path), None)


def _carried(program: Program) -> str | None:
    """The file of an installed Python package that carries a program; the package is not imported."""
    package, _, inside = program.package.partition("/")
    found = importlib.util.find_spec(package) if package else None
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / inside
        if path.is_file():
            return str(path)
    return None


def need(program: Program, via: str = "") -> str:
    """Path of a program; raises ToolError that says what it is for and how to get it."""
    path = find(program, via)
    if path is None:
        where = f" behind {via!r}" if via else ""
        raise ToolError(f"{' or '.join(program.commands)} not found{where} (needed for {program.enables}): "
                        f"{program.remedy}")
    return path


def command(program: Program) -> list[str]:
    """The arguments that start a program; raises ToolError where it is missing."""
    return program.start(need(program))


def version(program: Program) -> str:
    """The line of what a program says of its version; empty where it is absent or silent."""
    if find(program) is None:
        return ""
    try:
        done = subprocess.run([*command(program), program.version_flag], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    lines = [line for line in lines if line.startswith(program.version_begins)]
    return next((line for line in lines if line and not line.endswith("...")), "")  # "Preparing to run ..." of yowasp


def call(arguments: Sequence[str], cwd: Path, log: Path, timeout: float, ok: Sequence[int] = (0,),
         say: Say | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Run a tool without a shell, output to `log` and, line by line as it comes, to `say`; `environment` is added to
    ours; returns its exit code.

    Where nobody hears its lines, the logger of this module says every ten seconds what runs, for how long, and the last
    line of the log.

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
            code = _wait(process, timeout, log, say)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ToolError(f"{arguments[0]} did not finish in {timeout:g} s:\n{_tail(log)}") from error
            raise
    if code not in ok:
        raise ToolError(f"{Path(arguments[0]).name} failed with exit code {code}:\n{_tail(log)}")
    return code


def machine(flags: Sequence[str], folder: Path) -> str:
    """The macros of g++ with these flags: its version and, with -march=native, every extension of the processor.

    What is kept of its programs may meet another processor. Raises ToolError where g++ is missing.
    """
    log = folder / "macros.log"
    call([need(GXX), *flags, "-E", "-dM", "-x", "c++", os.devnull], folder, log, LOOK_UP_SECONDS)
    return log.read_text()


def side_by_side(commands: Sequence[Sequence[str]], cwd: Path, timeout: float, ok: Sequence[int] = (0,)) -> list[int]:
    """Run the commands, as many at a time as there are processors, their output in <number>.log of `cwd`.

    Returns their exit codes. Raises as `call` does, for the first that fails; those that have not begun by then are
    left out.
    """
    with _endable(), ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            return list(pool.map(lambda k: call(commands[k], cwd, cwd / f"{k}.log", timeout, ok), range(len(commands))))
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


def _wait(process: subprocess.Popen[bytes], timeout: float, log: Path, say: Say | None) -> int:
    """Wait, and pass on whole lines of the log as they come, or say now and then that the program runs."""
    start, rest, last, beats = time.monotonic(), "", "", 1
    with log.open(encoding="utf-8", errors="replace") as file:
        while True:
            spent = time.monotonic() - start
            try:
                code: int | None = process.wait(min(0.2, max(0.0, timeout - spent)))
            except subprocess.TimeoutExpired as error:
                if spent >= timeout:
                    raise subprocess.TimeoutExpired(process.args, timeout) from error
                code = None
            *lines, rest = (rest + file.read()).split("\n")
            lines += [rest] if rest and code is not None else []
            for line in lines:
                last = line.strip() or last
                if say is not None:
                    say(line)
            if code is not None:
                return code
            if say is None and spent > beats * BEAT:
                LOG.info("%s: %.0f s%s", _title(process.args), spent, f", {last[:100]}" if last else "")
                beats += 1


def _title(arguments: Any) -> str:
    """A command in few words: the program and the last of its arguments."""
    return f"{Path(arguments[0]).name} ... {Path(arguments[-1]).name}"


def _tail(log: Path, lines: int = 15) -> str:
    """The lines of a log that matter: its errors, else its end."""
    text = log.read_text(errors="replace").splitlines()
    errors = [line for line in text if "error" in line.lower()]
    return "\n".join(errors[:lines] or text[-lines:])
