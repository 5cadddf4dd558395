"""Shared fixtures. Data outside the repository is found through FLOW_SHARED and its absence is a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.ir import Graph, Window, clean_name
from bnnflow.ir.evaluate import run_given
from bnnflow.toolchains import gxx

ROOT = Path(__file__).parent.parent


def plain_environment() -> dict[str, str]:
    """The user's environment: without what importing bnnflow.train set in this process."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("TF_USE_", "TF_CPP_"))}


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """A file of the shared data, or a skip that names it."""
    folder = Path(os.environ.get("FLOW_SHARED", ROOT.parent / "shared"))

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"{folder / name} is missing; set FLOW_SHARED to the folder with it")
        return folder / name

    return find


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., np.ndarray]:
    """Build a project and simulate it with g++; one compilation a graph, options and session.

    Of few vectors nearly all time is the compiler's, which optimises in other tests.
    """
    folder, quick = tmp_path_factory.mktemp("projects"), tuple("-O0" if f == "-O2" else f for f in gxx.FLAGS)

    def simulate(graph: Graph, codes: np.ndarray | None = None, backend: str = "Vitis",
                 io_type: str = "io_parallel", strategy: str = "Latency") -> np.ndarray:
        project = folder / f"{backend}-{io_type}-{strategy}-{graph.digest[:16]}"
        if not project.exists():
            bf.build(graph, bf.BuildConfig(output_dir=project, backend=backend, io_type=io_type,
                                               strategy=strategy))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gxx, "FLAGS", quick)
            return bf.simulate(project, codes)

    return simulate


def union(graphs: dict[str, Graph]) -> Graph:
    """Several graphs side by side in one, so that one compilation serves them all; names get the key as a prefix."""
    nodes, outputs, taken = [], [], set()
    for key, graph in graphs.items():
        names = {}
        for node in graph:
            names[node.name] = clean_name(f"{clean_name(key)}__{node.name}", taken)
            taken.add(names[node.name])
            nodes.append(replace(node, name=names[node.name], inputs=tuple(names[name] for name in node.inputs)))
        outputs += [names[name] for name in graph.outputs]
    return Graph(tuple(nodes), tuple(outputs))


def check_engine(graph: Graph, codes: Any) -> None:
    """The engine gives what NumPy gives: the outputs, and every node where none is fused with another."""
    absent = {node.name for node in graph if isinstance(node.params, Window) and node.params.padded}
    every = replace(graph, outputs=tuple(node.name for node in graph if node.name not in absent))
    for g in (graph, every):
        ours, expected = (run_given(g, codes, engine=engine) for engine in ("native", "numpy"))
        for name, a, b in zip(g.outputs, ours, expected, strict=True):
            assert np.array_equal(a, b), name


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in an empty folder."""

    def call(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "bnnflow.cli", *map(str, arguments)], cwd=tmp_path, text=True,
                              capture_output=True, timeout=300,
                              env={**plain_environment(), "COLUMNS": "200", **(env or {})})

    return call
