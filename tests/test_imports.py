"""Who may import whom (docs/architecture.md), held here as data."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, plain_environment

# room: (rooms of ours it may import, outside packages it may import beyond the standard library)
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "files": ({"errors"}, set()),
    "tables": (set(), set()),
    "tools": ({"errors"}, set()),
    "ir": ({"ir", "errors", "files", "tables"}, {"numpy"}),
    "train": ({"train", "errors", "files", "tables"}, {"numpy", "scipy", "tensorflow", "tf_keras", "qkeras", "yaml"}),
    "train.plots": ({"train", "errors", "files"}, {"matplotlib"}),
    "lowering": ({"lowering", "train", "ir", "errors", "files"}, {"numpy", "tensorflow", "tf_keras", "qkeras", "h5py"}),
    "backends": ({"backends", "ir", "tools", "errors", "files", "tables"}, {"numpy"}),
    "backends.hls": ({"backends", "ir", "tools", "errors"}, {"numpy", "hls4ml", "yaml"}),
    "reports": ({"reports", "ir", "backends", "errors", "files", "tables", ""}, {"numpy", "jinja2", "markupsafe"}),
    "comparison": ({"ir", "lowering", "train", "backends", "builder", "errors", "tables"}, {"numpy", "tf_keras"}),
    "vendor": ({"backends", "reports", "tools", "errors", ""}, set()),
    "builder": ({"ir", "backends", "reports", "vendor", "tools", "files", "errors", ""}, {"numpy"}),
    "__init__": ({"errors", "ir", "lowering", "train", "backends", "reports", "builder", "comparison"}, {"numpy"}),
    "cli": ({"", "errors", "files", "tools", "ir", "lowering", "train", "models", "backends", "reports"},
            {"numpy", "typer", "rich", "tensorflow"}),
    "models": ({"models", "train", "errors"}, {"numpy", "tensorflow", "tf_keras", "qkeras", "sklearn"}),
}
FILES = [*sorted((ROOT / "flow").rglob("*.py")), *sorted((ROOT / "models").glob("*.py"))]


def room_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "models":
        return "models"
    return ".".join(parts[1:]) if parts[1:] in (("backends", "hls"), ("train", "plots")) else parts[1]


def imported(file: Path) -> set[str]:
    """Full names of modules imported anywhere in a file, `from x import y` as x.y where x is `flow`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"flow.{a.name}" for a in node.names} if node.module == "flow" else {str(node.module)}
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_rooms(file):
    ours, outside = ROOMS[room_of(file)]
    for name in imported(file):
        first, *rest = name.split(".")
        if first == "flow":
            assert (rest[0] if rest else "") in ours, f"{file} imports {name}"
        elif first not in sys.stdlib_module_names:
            assert first in outside, f"{file} imports {name}"


def test_only_tools_starts_processes():
    users = {f.name for f in FILES if imported(f) & {"subprocess", "os.system", "pty"}}
    assert users == {"tools.py"}


def test_flow_works_without_tensorflow_and_hls4ml():
    code = """
import sys
for name in ("tensorflow", "tf_keras", "keras", "qkeras", "hls4ml", "sklearn"):
    sys.modules[name] = None
import bnnflow, bnnflow.cli, bnnflow.builder, numpy as np
from tests.random_graphs import random_graph, random_codes
g = random_graph(2)
assert bnnflow.run(g, random_codes(g, 0)) is not None
assert bnnflow.estimate(g, bnnflow.BuildConfig(io_type="io_stream")).lut is not None
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=plain_environment())


def test_building_needs_no_tensorflow(tmp_path):
    code = f"""
import sys, bnnflow
from tests.random_graphs import random_graph
bnnflow.build(random_graph(2), bnnflow.BuildConfig(output_dir={str(tmp_path / "prj")!r}))
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
import bnnflow.train
import tensorflow as tf
assert "tf_keras" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=plain_environment())


def test_tensorflow_first_is_refused_clearly():
    code = "import tensorflow, bnnflow.train"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=plain_environment(), text=True,
                          capture_output=True, check=False)
    assert done.returncode == 1 and "import bnnflow.train first, or set TF_USE_LEGACY_KERAS=1" in done.stderr
