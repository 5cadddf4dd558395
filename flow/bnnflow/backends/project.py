"""A written project: its folder, its manifest, its vectors."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.backend import BACKENDS, Backend, BuildConfig, is_top
from bnnflow.errors import InputError
from bnnflow.ir import Graph, Index, Node, Steps
from bnnflow.ir.nodes import is_clean
from bnnflow.ir.store import load
from bnnflow.tables import html_table

__all__ = ["MANIFEST", "Project", "read_vectors", "thermometer_table", "write_vectors"]

MANIFEST = "flow.json"
GRAPH = "flow.npz"
RUNS = "runs"  # the folder of what runs of tools leave behind
INPUTS, EXPECTED = "tb_data/flow_inputs.dat", "tb_data/flow_expected.dat"
RESULTS = "csim_results.log"  # the test bench's outputs
FORMAT = 1
MOST_TEXTS, CHUNK = 1 << 17, 1000  # values in a table of texts; rows that are written at once


@dataclass(frozen=True)
class Project:
    """A written project: its folder and what its manifest says."""

    path: Path
    top: str
    backend: str
    graph_digest: str
    options: dict[str, Any]
    arrays: dict[str, str] = field(default_factory=dict)  # C array of each node in the top function

    def __fspath__(self) -> str:
        """Its folder: every verb that takes one takes a project."""
        return str(self.path)

    def _repr_html_(self) -> str:
        rows = [*self.options.items(), ("graph", self.graph_digest)]
        return html_table(f"Project {self.path}", ("option", "value"), rows)

    @staticmethod
    def is_project(path: Path) -> bool:
        """True for a folder that holds a manifest of ours."""
        return (path / MANIFEST).is_file()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Project:
        """Read the manifest of a project; raises InputError where there is none or it is damaged."""
        folder = Path(path)
        if not cls.is_project(folder):
            raise InputError(f"{folder} is not a bnnflow project (no {MANIFEST}); make one with `bnnflow build`")
        try:
            data = json.loads((folder / MANIFEST).read_text())
            if data["bnnflow_project"] != FORMAT:
                raise InputError(f"{folder}: project format {data['bnnflow_project']!r}, not {FORMAT}; build again")
            project = cls(folder, data["top"], data["backend"], data["graph_digest"], data["options"],
                          {str(k): str(v) for k, v in data["arrays"].items()})
            project._check_names()
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{folder / MANIFEST} is damaged: {error}; build the project again") from error
        return project

    def _check_names(self) -> None:
        """Names that go into sources and folders are names, and options are those of this project."""
        for name in (self.top, *self.arrays.values()):
            if not (isinstance(name, str) and is_clean(name)) or (name == self.top and not is_top(name)):
                raise InputError(f"{self.path / MANIFEST}: {name!r} is not a name")
        if (self.top, self.backend) != tuple(self.options[key] for key in ("project_name", "backend")):
            raise ValueError("its options are those of another project")

    @property
    def target(self) -> Backend:
        """The backend that wrote it; raises InputError where this version has none of that name."""
        if self.backend not in BACKENDS:
            raise InputError(f"{self.path}: backend {self.backend!r} is none of {', '.join(BACKENDS)}; "
                             "build the project again with one of these")
        return BACKENDS[self.backend]

    @property
    def cycles(self) -> int:
        """The latency that the project's own sources state; 0 where it is combinational, or they state none.

        Raises InputError where they should and do not.
        """
        return self.target.cycles(self.path, self.top)

    def graph(self) -> Graph:
        """The graph this project was made from; raises InputError where it is not the one of the manifest."""
        if not (self.path / GRAPH).is_file():
            raise InputError(f"{self.path}: no {GRAPH}, the graph it was built from; build the project again")
        graph = load(self.path / GRAPH)
        if graph.digest != self.graph_digest:
            raise InputError(f"{self.path}: {GRAPH} is not the graph this project was built from; build it again")
        return graph

    @property
    def config(self) -> BuildConfig:
        """The options this project was built with; raises InputError where the manifest has others."""
        try:
            return BuildConfig(output_dir=self.path, **self.options)
        except (TypeError, InputError) as error:
            raise InputError(f"{self.path / MANIFEST} is damaged: {error}; build the project again") from error

    def write_manifest(self, config: BuildConfig, versions: Mapping[str, str]) -> None:
        """Write flow.json; `versions` are those of the packages that had a hand in the project."""
        options = {k: v for k, v in asdict(config).items() if k != "output_dir"}
        data = {"bnnflow_project": FORMAT, "top": self.top, "backend": self.backend, "graph_digest": self.graph_digest,
                "options": options, "arrays": self.arrays, "versions": versions}
        (self.path / MANIFEST).write_text(json.dumps(data, indent=2) + "\n")

    def copied(self, folder: Path) -> Path:
        """A copy in `folder` that can be written to, without what runs have left."""
        shutil.copytree(self.path, folder, ignore=shutil.ignore_patterns(f"{self.top}_prj", RUNS, RESULTS))
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        return folder

    @property
    def sources(self) -> list[Path]:
        """Every file that a toolchain compiles."""
        return sorted({file for pattern in self.target.sources for file in self.path.glob(pattern) if file.is_file()})

    def sources_digest(self, extra: str) -> str:
        """SHA-256 (hex) of the sources, their names and texts, and of `extra` (a compiler and its flags)."""
        h = hashlib.sha256(extra.encode())
        for file in self.sources:
            h.update(f"\0{file.relative_to(self.path).as_posix()}\0".encode())
            h.update(file.read_bytes())
        return h.hexdigest()

    @property
    def rtl(self) -> dict[str, str]:
        """The Verilog of the design, without its test bench: {name of the file: text}."""
        return {file.name: file.read_text() for file in sorted((self.path / "rtl").glob("*.v"))}

    @property
    def timing(self) -> dict[str, Any]:
        """What the sources of a design state of its timing, as fields of `Facts`: it takes an input every cycle.

        A combinational design has a latency of 0 cycles and no clock.
        """
        cycles = self.cycles
        clock = {"clock_target": self.config.period} if cycles else {}
        return {"latency": (cycles, cycles), "interval": (1, 1), **clock}

    @property
    def runs(self) -> Path:
        """The folder of the runs on these very sources and scripts, one folder a tool, its facts in facts-*.json."""
        scripts = [self.path / name for name in ("project.tcl", "build_prj.tcl")]
        text = "".join(script.read_text() for script in scripts if script.exists())
        return self.path / RUNS / self.sources_digest(text)[:16]


def thermometer_table(front: Graph) -> str:
    """The levels of an encoder that is built elsewhere, as CSV: one line for every level of every plane.

    A line has the plane, the input and its element that the plane compares, the level as a code and as a real value,
    and whether the plane is high from there on (rising) or below (falling).
    """
    lines = ["node,plane,input,element,code,value,direction"]
    for name in front.outputs:
        node = front[name]
        steps, source = node.params, front[node.inputs[0]]
        assert isinstance(steps, Steps)
        for plane in range(node.size):
            owner, element = source, plane
            while isinstance(owner.params, Index):
                element, below = int(owner.params.flat[element]), [front[n] for n in owner.inputs]
                for owner in below:
                    if element < owner.size:
                        break
                    element -= owner.size
            channel = plane % len(steps.start)
            for threshold in steps.thresholds[channel]:
                real = float(owner.domain.scale * int(threshold) + owner.domain.offset)
                direction = "rising" if steps.sign[channel] > 0 else "falling"
                lines.append(f"{name},{plane},{owner.name},{element},{threshold},{real!r},{direction}")
    return "\n".join(lines) + "\n"


def write_vectors(folder: Path, graph: Graph, codes: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
    """Write input codes (one array an input) and the graph's outputs for the test bench; returns those outputs."""
    expected = graph(list(codes))
    expected = expected if isinstance(expected, list) else [expected]
    (folder / "tb_data").mkdir(exist_ok=True)
    for name, arrays in ((INPUTS, codes), (EXPECTED, expected)):
        rows = np.concatenate([a.reshape(len(a), -1) for a in arrays], axis=1)
        with (folder / name).open("wb") as file:
            _write_rows(file, rows)
    return expected


def _write_rows(file: BinaryIO, rows: NDArray[np.int64]) -> None:
    """Rows of decimal numbers, each looked up where a table of all texts is smaller than the rows."""
    low, high = (int(rows.min()), int(rows.max())) if rows.size else (0, 0)
    if high - low > min(MOST_TEXTS, rows.size):
        np.savetxt(file, rows, fmt="%d")
        return
    width = max(len(str(low)), len(str(high)))
    texts = np.array([f"{value:{width}d} ".encode() for value in range(low, high + 1)])
    for first in range(0, len(rows), CHUNK):
        text = np.ascontiguousarray(texts[rows[first : first + CHUNK] - low]).view(np.uint8)
        text = text.reshape(-1, rows.shape[1] * (width + 1))
        text[:, -1] = ord("\n")
        file.write(text.tobytes())


def read_vectors(file: Path, nodes: Sequence[Node]) -> list[NDArray[np.int64]]:
    """Integer codes (n, *shape) of each of `nodes` from a file of the test bench.

    Raises InputError where it is missing or damaged.
    """
    try:
        rows = np.loadtxt(file, dtype=np.int64, ndmin=2)
        rows = rows.reshape(-1, sum(node.size for node in nodes))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: missing or damaged vectors: {error}") from error
    parts = np.split(rows, np.cumsum([node.size for node in nodes])[:-1], axis=1)
    return [part.reshape(-1, *node.shape) for part, node in zip(parts, nodes)]
