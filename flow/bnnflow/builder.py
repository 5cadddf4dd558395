"""Builds: a project is written whole or not at all."""

from __future__ import annotations

import glob
import importlib.metadata
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.project import GRAPH, RUNS, Project, thermometer_table
from bnnflow.errors import InputError
from bnnflow.ir import Graph
from bnnflow.ir.evaluate import check_codes
from bnnflow.ir.passes import split_encoder
from bnnflow.ir.store import save

__all__ = ["build"]

CLOCKS = 10.0  # seconds by which the clocks of a file system and of processes may differ


def build(graph: Graph, config: BuildConfig, vectors: Any = None) -> Project:
    """Write the HLS or Verilog project of `graph` to `config.output_dir`.

    It is made in a folder beside it and moved into place, so that an interrupted build leaves what was there; an
    existing project of ours is replaced, anything else is left alone. `vectors`: input codes (n, *shape) for the test
    bench (a list for several inputs), by default edge, tie and random ones; with the encoder outside they are still
    those of the graph, and the project gets the planes they make.

    Raises InputError for an unusable output folder, graph or vectors, ToolError where a package that writes is missing.
    """
    config.target.ready()
    codes = None if vectors is None else check_codes(graph, vectors)
    if codes is not None and not len(codes[0]):
        raise InputError("vectors: no samples; give at least one, or none at all for the default vectors")
    front = None
    if config.encoder == "outside":
        front, graph = split_encoder(graph)
        if codes is not None:
            codes = check_codes(graph, front(codes))
    target = Path(config.output_dir).absolute()
    _check_target(target)
    config = config.clocked(graph)
    work = _work_folder(target)
    try:
        inside = work / "new"
        arrays = config.target.write(graph, replace(config, output_dir=inside), codes, target)
        save(graph, inside / GRAPH)
        if front is not None:
            (inside / "thermometer.csv").write_text(thermometer_table(front))
        project = Project(inside, config.project_name, config.backend, graph.digest, {}, arrays)
        project.write_manifest(config, {name: importlib.metadata.version(name) for name in config.target.packages})
        if target.exists():
            _move(target, work / "old", target)
        _move(inside, target, target)
    finally:
        _settle(work, target)
    return Project.open(target)


def _check_target(target: Path) -> None:
    try:
        _recover(target)
    except OSError as error:
        raise InputError(f"output_dir {str(target)[:200]}: {error.strerror}") from error
    if _is_here(target):
        raise InputError(f"output_dir {target}: a build replaces this folder, and you are in it; name another, or go "
                         "out of it")
    if target.exists() and not target.is_dir():
        raise InputError(f"output_dir {target} is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not Project.is_project(target):
        raise InputError(f"output_dir {target} exists and is not a bnnflow project; name another, or empty it")


def _is_here(target: Path) -> bool:
    """True for the folder that this process is in, and those above it."""
    try:
        return Path.cwd().resolve().is_relative_to(target.resolve())
    except OSError:  # it is in a folder that was removed
        return False


def _move(source: Path, place: Path, target: Path) -> None:
    """Move a folder; raises InputError where another build has moved something, or the system does not let it."""
    try:
        os.rename(source, place)
    except OSError as error:
        raise InputError(f"output_dir {target} cannot be replaced ({error.strerror}); where another build writes it at "
                         "the same time build again, else name another folder") from error


def _prefix(target: Path) -> str:
    return f".{target.name}.build-"


def _work_folder(target: Path) -> Path:
    """A folder beside the target, on the same file system, named after this process."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{_prefix(target)}{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise InputError(f"output_dir {target}: cannot write in {target.parent}: {error.strerror}") from error


def _settle(work: Path, target: Path) -> None:
    """Bring back the project that was being replaced, or give its runs to the one that replaced it; remove `work`."""
    old = work / "old"
    if old.is_dir() and not target.exists():
        _move(old, target, target)
    elif (old / RUNS).is_dir() and not (target / RUNS).exists():
        os.rename(old / RUNS, target / RUNS)  # hours of work, found again where the sources are the same
    shutil.rmtree(work, ignore_errors=True)


def _recover(target: Path) -> None:
    """Tidy after builds that were killed: bring back a project that was being replaced, remove half-written ones."""
    if not target.parent.is_dir():
        return
    for left in target.parent.glob(f"{glob.escape(_prefix(target))}*"):
        owner = left.name.removeprefix(_prefix(target)).split("-")[0]
        if owner.isdecimal() and not _alive(int(owner), left.stat().st_mtime):
            _settle(left, target)


def _alive(pid: int, when: float) -> bool:
    """True where the process of that number runs and had begun by then: a number is given to others again."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _began(pid) <= when + CLOCKS


def _began(pid: int) -> float:
    """When a process began, in seconds since 1970; 0 where the system does not say."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
        return int(boot.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0
