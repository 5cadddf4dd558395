"""Simulations that are programs: compiled once, kept in the user's cache, and run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from bnnflow.backends.project import RESULTS
from bnnflow.errors import ToolError
from bnnflow.files import cache_folder
from bnnflow.toolchains import process

__all__ = ["COMPILE_SECONDS", "RUN_SECONDS", "kept_program", "run_bench"]

COMPILE_SECONDS, RUN_SECONDS = 1800.0, 3600.0
KEPT = 50  # of each kind of program


def kept_program(name: str, run: Path, compile_it: Callable[[Path], None]) -> Path:
    """The program `name` ("<kind>-<digest of all that it is made of>"), compiled now where it is not in the cache.

    Where the cache cannot be written to, it is compiled into the folder `run`.
    """
    # Not in the project: a project from elsewhere must not bring the program that vouches for it.
    cache = cache_folder()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(cache, os.W_OK):
        cache = run
    program = cache / name
    try:
        os.utime(program)  # the newest now: what another process throws away meanwhile is older
    except FileNotFoundError:
        for old in sorted(cache.glob(f"{name.split('-')[0]}-*"), key=_last_used)[:-KEPT]:
            old.unlink(missing_ok=True)
        partial = cache / f".{name}.{os.getpid()}"  # hidden: not one of those thrown away
        compile_it(partial)
        os.replace(partial, program)
    return program


def _last_used(file: Path) -> float:
    """Seconds since the epoch; 0 where another process has thrown the file away meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def run_bench(program: Path, run: Path) -> tuple[Path, bool]:
    """Run a compiled test bench in the folder `run`: (the file with its outputs, True where it reports errors)."""
    code = process.call([str(program.absolute())], run, run / "run.log", RUN_SECONDS, ok=(0, 1))
    outputs = run / "tb_data" / RESULTS
    if code and not outputs.exists():
        raise ToolError(f"the test bench failed: {(run / 'run.log').read_text()[:500]}")
    return outputs, code != 0
