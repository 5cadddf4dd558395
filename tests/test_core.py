"""What works where only NumPy and small friends are installed, and what is said where an extra is missing."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.errors import ToolError, needed_for
from bnnflow.recipe import OPTIMIZERS
from tests.conftest import ROOT, plain_environment
from tests.test_cli import GRAPH

# What extras install, and what that brings along.
OTHERS = ("absl", "h5py", "hls4ml", "keras", "matplotlib", "qkeras", "quantizers", "scipy", "sklearn", "tensorflow",
          "tensorflow_model_optimization", "tf_keras")
# Every command in one process that lacks these packages: its exit code, and what it wrote.
COMMANDS = f"""
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys({OTHERS}))
from bnnflow.cli import main

def run(arguments):
    sys.argv, said, code = ["bnnflow", *arguments], io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    return code, said.getvalue()

print(json.dumps([run(arguments) for arguments in json.loads(sys.argv[1])]))
"""
HLS = "the Python package hls4ml is not installed (needed for writing HLS C++): pip install 'bnnflow[hls]'"
KERAS = ("the Python package qkeras is not installed (needed for reading and training Keras models): "
         "pip install 'bnnflow[keras]'")
ROWS = [  # arguments, exit code, what is said; files are those of the fixture
    ("--help", 0, "Binary, ternary"), ("--version", 0, bf.__version__), ("ops", 0, "DOT"),
    ("doctor", 0, "numpy"), ("lower net.npz --argmax -o class.npz", 0, "digest"),
    ("build net.npz --backend Verilog -o rtl", 0, "Verilog project"),
    ("run net.npz x.npy -o y.npy --engine numpy", 0, "y.npy: 5 samples"),
    ("sim hls --data x.npy -o y.npy", 0, "equal: 5 samples"), ("estimate hls", 0, "total"),
    ("estimate rtl", 0, "total"), ("estimate net.npz --strategy Resource --fit", 0, "total"),
    ("report hls rtl -o report.html", 0, "2 projects"), ("report rtl -o report.md", 0, "1 project"),
    ("synth hls --tool vitis", 3, "vitis"),
    ("build net.npz -o other", 3, HLS), ("demo", 3, HLS), ("demo --backend Verilog", 3, KERAS),
    ("lower net.keras", 3, KERAS), ("build net.h5 --backend Verilog -o other", 3, KERAS),
    ("build net.h5 -o other", 3, HLS), ("estimate net.keras", 3, KERAS), ("quantize net.keras", 3, KERAS),
    ("compare net.keras hls x.npy", 3, KERAS), ("train digits -o run", 3, KERAS),
    # What can be known without TensorFlow is refused without it.
    ("train digits --config unknown.yaml", 2, "unknown.yaml: unknown key 'epoch'; known are epochs, batch_size"),
    ("train digits --config value.yaml", 2, "optimizer 'sgd'; use one of adam, bop, bop2"),
    ("train digit", 2, "network 'digit'; use one of"), ("lower net.keras --input-type fixed<8", 2, "fixed<8"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, tuple[int, str]]:
    """The exit code and words of every command of ROWS."""
    folder = tmp_path_factory.mktemp("core")
    bf.save(GRAPH, folder / "net.npz")
    bf.build(GRAPH, bf.BuildConfig(output_dir=folder / "hls"))
    np.save(folder / "x.npy", np.zeros((5, *GRAPH.input.shape), np.float32))
    for name in ("net.keras", "net.h5"):
        (folder / name).write_bytes(b"a model")
    (folder / "unknown.yaml").write_text("epoch: 3")
    (folder / "value.yaml").write_text("optimizer: sgd")
    commands = [arguments.split() for arguments, _, _ in ROWS]
    done = subprocess.run([sys.executable, "-c", COMMANDS, json.dumps(commands)], cwd=folder, text=True, check=True,
                          capture_output=True, env={**plain_environment(), "COLUMNS": "200"})
    assert not (folder / "other").exists() and not (folder / "run").exists()
    return dict(zip((row[0] for row in ROWS), json.loads(done.stdout)))


@pytest.mark.hls
@pytest.mark.parametrize(("arguments", "code", "words"), ROWS)
def test_commands(arguments, code, words, said):
    found, text = said[arguments]
    assert found == code and words in text, text
    assert "Traceback" not in text


@pytest.fixture
def blocked(monkeypatch) -> Iterator[pytest.MonkeyPatch]:
    """`blocked(package, *modules)`: as if the package were not installed, and the modules of ours not imported yet."""
    def block(package: str, *modules: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)
        for name in [name for name in sys.modules if name.startswith(modules)]:
            monkeypatch.delitem(sys.modules, name)

    return block


def test_verbs_of_python(blocked):
    blocked("hls4ml", "bnnflow.backends.hls.hls4ml_model")
    blocked("qkeras", "bnnflow.frontends", "bnnflow.train", "bnnflow.generation")
    with pytest.raises(ToolError) as error:
        bf.to_hls4ml(GRAPH)
    assert str(error.value) == HLS
    with pytest.raises(ToolError) as error:
        bf.lower("net.keras")
    assert str(error.value) == KERAS


@pytest.mark.parametrize(("package", "module", "what"), [
    ("matplotlib", "bnnflow.train.plots", "plots of a training"),
    ("sklearn.datasets", "bnnflow.models.digits", "the digits"),
    ("h5py", "bnnflow.frontends.keras.reading", "model files"),
])
def test_one_package_is_missing(package, module, what, blocked):
    from bnnflow.generation import EXTRA

    blocked(package, module)
    with pytest.raises(ToolError) as error:
        importlib.import_module(module)
    assert str(error.value) == (f"the Python package {package} is not installed (needed for {what}): "
                                f"pip install 'bnnflow[{EXTRA}]'")


def test_scipy_is_missing(blocked):
    from bnnflow.train.codebooks import assign

    blocked("scipy.optimize")
    with pytest.raises(ToolError, match="scipy.optimize is not installed .needed for codebooks of kernels"):
        assign(np.eye(3))


def test_only_a_missing_package_is_turned_into_an_error_of_ours():
    with pytest.raises(ImportError, match="cannot import name"), needed_for("a test", "keras"):
        from numpy import nothing_of_this_name  # noqa: F401


def test_optimizers_of_a_recipe():
    from bnnflow.train import fit

    assert tuple(fit.OPTIMIZERS) == OPTIMIZERS


def test_extras():
    """Every extra that a message names is one."""
    text = (ROOT / "pyproject.toml").read_text()
    extras = set(re.findall(r"^([a-z-]+) = \[", text, re.MULTILINE))
    named = {extra for file in (ROOT / "flow").rglob("*.py") for extra in
             re.findall(r"bnnflow\[([a-z-]+)\]", file.read_text())}
    assert named <= extras, named - extras
