"""What tools said of a project, kept with it: a file of facts for every run, and a record of every simulation.

They lie in `Project.runs`, a folder of these very sources and scripts, so that a project that is built again and comes
out the same finds them again, and another one does not.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from bnnflow.backends.project import Project
from bnnflow.errors import InputError
from bnnflow.facts.facts import MAX_BYTES, Facts, load_facts, save_facts
from bnnflow.files import whole_file

__all__ = ["SimulationRecord", "facts_file", "keep_facts", "keep_simulation", "kept_facts", "kept_simulations"]


def facts_file(folder: Path, run: str) -> Path:
    """Where the facts of one run lie in the folder of a tool (`project.runs / tool`); `run` names its step, family or
    device.
    """
    return folder / f"facts-{run}.json"


def keep_facts(project: Project, tool: str, run: str, facts: Facts) -> Facts:
    """Save the facts of a run; where the project cannot be written to, they are returned with a note that says so."""
    file = facts_file(project.runs / tool, run)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_facts([facts], file)
    except (OSError, InputError) as error:
        return replace(facts, notes=(*facts.notes, f"not kept for the report: {error}"))
    return facts


def kept_facts(project: Project) -> list[Facts]:
    """The facts of all runs on the project's sources, by tool and run; raises InputError for a damaged file."""
    return [facts for file in sorted(project.runs.glob(f"*/{facts_file(Path(), '*')}")) for facts in load_facts(file)]


@dataclass(frozen=True)
class SimulationRecord:
    """A simulation that was compared with the graph: how many samples and outputs there were, how many outputs differ.

    `vectors` is the SHA-256 (hex) of the input codes, `version` is empty where asking the tool for it takes too long.
    """

    tool: str
    version: str
    samples: int
    outputs: int
    differ: int
    vectors: str


def keep_simulation(project: Project, record: SimulationRecord) -> None:
    """Save the record of the last simulation by a tool; a project that cannot be written to goes without."""
    with contextlib.suppress(OSError, InputError):
        project.runs.mkdir(parents=True, exist_ok=True)
        with whole_file(project.runs / f"sim-{record.tool}.json") as path:
            path.write_text(json.dumps(asdict(record)) + "\n")


def kept_simulations(project: Project) -> list[SimulationRecord]:
    """The last simulation by every tool, of the project's sources; raises InputError for a damaged record."""
    return [_read_record(file) for file in sorted(project.runs.glob("sim-*.json"))]


def _read_record(file: Path) -> SimulationRecord:
    kinds = {field.name: {"str": str, "int": int}[str(field.type)] for field in fields(SimulationRecord)}
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError("too large")
        row = json.loads(file.read_text())
        if set(row) != set(kinds) or any(type(row[key]) is not kind for key, kind in kinds.items()):
            raise ValueError("other fields")
        if min(row["samples"], row["outputs"], row["differ"]) < 0:
            raise ValueError("counts below 0")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{file}: damaged record of a simulation: {error}; remove it, or simulate again") from error
    return SimulationRecord(**row)
