"""Who may import whom (docs/architecture.md), held here as data; imports inside functions count as well."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT, plain_environment

# room: (rooms of ours above it that it may import, outside packages beyond the standard library), from the bottom up.
# A room is a folder or a file of the package; a name with a dot is one file of a folder, with rules of its own.
ROOMS: dict[str, tuple[set[str], set[str]]] = {
    "errors": (set(), set()),
    "version": (set(), set()),
    "tables": (set(), set()),
    "files": ({"errors"}, set()),
    "toolchains.process": ({"errors"}, set()),
    "engine": ({"toolchains.process", "errors", "files"}, {"numpy"}),
    "ir": ({"engine", "errors", "files", "tables"}, {"numpy"}),
    "devices": ({"errors"}, set()),
    "recipe": ({"errors", "files"}, {"yaml"}),
    "generation": ({"errors"}, {"keras", "tf_keras", "qkeras"}),
    "exact": ({"ir", "errors"}, {"numpy"}),
    "train": ({"recipe", "generation", "ir", "errors", "files", "tables"},
              {"numpy", "scipy", "tensorflow", "qkeras", "yaml"}),
    "train.plots": ({"train", "generation", "errors", "files"}, {"matplotlib"}),
    "frontends": ({"train", "generation", "exact", "ir", "errors", "files"}, {"numpy", "tensorflow", "h5py"}),
    "backends": ({"ir", "devices", "errors", "files", "tables"}, {"numpy"}),
    "backends.hls.hls4ml_model": ({"backends", "ir", "errors"}, {"numpy", "hls4ml", "yaml"}),
    "facts": ({"backends", "devices", "errors", "files", "tables"}, set()),
    "toolchains": ({"facts", "backends", "devices", "ir", "errors", "files"}, {"numpy"}),
    "estimates": ({"toolchains.yosys", "facts", "backends", "devices", "ir", "errors", "version"}, {"numpy"}),
    "builder": ({"backends", "ir", "errors", "files"}, set()),
    "simulation": ({"toolchains", "facts", "backends", "ir", "errors", "files"}, {"numpy"}),
    "synthesis": ({"estimates", "toolchains", "facts", "backends", "ir", "errors"}, set()),
    "comparison": ({"simulation", "frontends", "train", "generation", "backends", "ir", "errors", "tables"},
                   {"numpy"}),
    "reports": ({"estimates", "facts", "backends", "devices", "ir", "errors", "files", "tables", "version"},
                {"numpy", "jinja2", "markupsafe"}),
    "models": ({"train", "generation", "errors"}, {"numpy", "tensorflow", "qkeras", "sklearn"}),
    "__init__": ({"errors", "version", "ir", "frontends", "backends", "facts", "builder", "simulation", "synthesis",
                  "comparison", "reports"}, {"numpy"}),
    "cli": ({"__init__", "errors", "files", "ir", "recipe", "train", "frontends", "backends", "facts", "toolchains",
             "estimates", "synthesis", "models"}, {"numpy", "typer", "rich", "tensorflow"}),
}
PACKAGE = ROOT / "flow/bnnflow"
MODULES = {  # dotted name below bnnflow -> file; "__init__" is the package itself
    **{".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): file
       for file in sorted(PACKAGE.rglob("*.py"))
       if not {"models", "hls_templates"} & set(file.relative_to(PACKAGE).parts)},
    **{f"models.{file.stem}".removesuffix(".__init__"): file for file in sorted((ROOT / "models").glob("*.py"))},
}


def room_of(module: str) -> str:
    """The room of a module: its own where it has rules of its own, else its folder."""
    return module if module in ROOMS else module.split(".")[0]


def imported(file: Path) -> set[str]:
    """Full names of what is imported anywhere in a file: modules, and of `from package import module` the module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {_full(str(node.module), alias.name) for alias in node.names}
    return names


def _full(module: str, name: str) -> str:
    inside = f"{module}.{name}".removeprefix("bnnflow.")
    return f"bnnflow.{inside}" if module.split(".")[0] == "bnnflow" and inside in MODULES else module


def ours(file: Path) -> set[str]:
    """The modules of ours that a file imports, named as in MODULES."""
    names = {name for name in imported(file) if name.split(".")[0] == "bnnflow"}
    return {name.removeprefix("bnnflow").removeprefix(".") or "__init__" for name in names}


@pytest.mark.parametrize("module", MODULES)
def test_rooms(module):
    room = room_of(module)
    above, outside = ROOMS[room]
    for name in ours(MODULES[module]):
        parts = name.split(".")
        prefixes = {".".join(parts[:k]) for k in range(1, len(parts) + 1)}
        assert prefixes & above or parts[0] == room.split(".")[0], f"{module} imports {name}"
    for name in imported(MODULES[module]):
        first = name.split(".")[0]
        assert first == "bnnflow" or first in sys.stdlib_module_names or first in outside, f"{module} imports {name}"


def test_no_room_may_import_one_below_it():
    order = list(ROOMS)
    for room, (above, _) in ROOMS.items():
        assert all(order.index(room_of(name)) < order.index(room) for name in above), room


def test_no_circles():
    """graphlib raises CycleError, which names the circle."""
    TopologicalSorter({module: ours(file) for module, file in MODULES.items()}).prepare()


def test_every_room_is_described():
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    described = {name for row in rows for name in re.findall(r"`(\w+)(?:\.py|/)`", row)}
    rooms = {room.split(".")[0] for room in ROOMS}
    assert described >= rooms, f"not in docs/architecture.md: {rooms - described}"


def test_only_one_module_starts_processes():
    users = {module for module, file in MODULES.items() if imported(file) & {"subprocess", "os.system", "pty"}}
    assert users == {"toolchains.process"}


def test_no_module_has_the_name_of_a_verb():
    """Importing `bnnflow.build` would replace the function `bnnflow.build` by the module."""
    import bnnflow

    assert not {module for module in MODULES if module in bnnflow.__all__}


def test_building_needs_no_tensorflow(tmp_path):
    code = f"""
import sys, bnnflow
from tests.random_graphs import random_graph
bnnflow.build(random_graph(2), bnnflow.BuildConfig(output_dir={str(tmp_path / "prj")!r}))
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
import bnnflow.train
assert "tensorflow" in sys.modules and "keras" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=plain_environment())
