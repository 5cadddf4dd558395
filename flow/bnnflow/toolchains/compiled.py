"""Simulations that are programs: how long they may take, and how they are run."""

from __future__ import annotations

from pathlib import Path

from bnnflow.backends.project import RESULTS
from bnnflow.errors import ToolError
from bnnflow.toolchains import process

__all__ = ["COMPILE_SECONDS", "RUN_SECONDS", "run_bench"]

COMPILE_SECONDS, RUN_SECONDS = 1800.0, 3600.0


def run_bench(program: Path, run: Path) -> tuple[Path, bool]:
    """Run a compiled test bench in the folder `run`: (the file with its outputs, True where it reports errors)."""
    code = process.call([str(program.absolute())], run, run / "run.log", RUN_SECONDS, ok=(0, 1))
    outputs = run / "tb_data" / RESULTS
    if code and not outputs.exists():
        raise ToolError(f"the test bench failed: {(run / 'run.log').read_text()[:500]}")
    return outputs, code != 0
