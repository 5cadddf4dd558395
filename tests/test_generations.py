"""Both generations of Keras: files that one wrote are read by the other, with the same codes, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip

from bnnflow.generation import LEGACY
from bnnflow.models import digits
from tests.conftest import ROOT, plain_environment
from tests.test_contracts import INPUT_TYPE

# Where `make` puts the QKeras of the legacy Keras: what is found there first makes it the generation that is here.
QKERAS_09 = Path(sys.prefix) / "legacy-keras"
pytestmark = [
    pytest.mark.skipif(LEGACY or not QKERAS_09.is_dir(), reason=f"not both generations here: no {QKERAS_09}"),
    pytest.mark.filterwarnings("ignore::UserWarning")]
HEAD = """
import sys, warnings
warnings.simplefilter("ignore")
import bnnflow.train, bnnflow as bf
from bnnflow.generation import LEGACY
assert LEGACY
folder = sys.argv[1]
"""
# Every contract row that Keras can read back, in turns as .keras and .h5: file and digest.
ROWS = """
from tests.test_contracts import INPUT_TYPE, NETWORKS, UNREADABLE
for k, (name, make) in enumerate(NETWORKS.items()):
    suffix = (".keras", ".h5")[k // 2 % 2]
    if k % 2 == int(sys.argv[2]) and (name, suffix) not in UNREADABLE:
        model = make()
        model.save(f"{folder}/{name}{suffix}")
        print(f"{name}{suffix}", bf.lower(model, INPUT_TYPE).digest)
"""
PRUNED = """
from tests.test_contracts import INPUT_TYPE
from tests.test_wrappers import tfmot, trained
model = trained(tfmot())
for suffix in (".keras", ".h5"):
    model.save(f"{folder}/net{suffix}")
    print(f"net{suffix}", bf.lower(model, INPUT_TYPE).digest)
"""
RANDOM = """
from tests.random_cnns import network as convolutional
from tests.random_networks import network as dense
for k, make in enumerate([dense, dense, convolutional] * 3):
    case = make(7015 + k // 3)
    case.model.save(f"{folder}/net{k}{('.keras', '.h5')[k % 2]}")
    print(f"net{k}{('.keras', '.h5')[k % 2]}", case.input_type, bf.lower(case.model, case.input_type).digest)
"""
READ = """
for file in sys.argv[2:]:
    try:
        bf.lower(f"{folder}/{file}")
    except bf.InputError as error:
        print(" ".join(str(error).split()))
"""
# What Keras 3 or qkeras-v3 does not have, and a word of what is said of such files.
LACKING = {"layer-thresholded_relu": "ThresholdedReLU", "layer-conv1d_causal": "padding=CAUSAL",
           "layer-plain_separable1d": "causal"}


def run_with_qkeras_09(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program where QKeras 0.9 is found first."""
    environment = {**plain_environment(), "PYTHONPATH": os.pathsep.join([str(QKERAS_09), str(ROOT)])}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], cwd=ROOT,
                          env=environment, text=True, capture_output=True, check=False)


def in_legacy_keras(code: str, *arguments: object) -> list[str]:
    """The lines that a program prints where the legacy Keras is here."""
    done = run_with_qkeras_09(HEAD + code, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.files
@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.long)])
def test_keras_3_reads_what_the_legacy_keras_wrote(part, tmp_path):
    """The same graph, so the same weights, masks and levels."""
    written = dict(line.split() for line in in_legacy_keras(ROWS, tmp_path, part))
    assert len(written) > 50
    for file, digest in written.items():
        try:
            found = bf.lower(tmp_path / file, INPUT_TYPE).digest
        except bf.InputError as error:
            found = str(error)
        wanted = LACKING.get(Path(file).stem, digest)
        assert wanted in found, f"{file}: {found[-300:]}"


@pytest.mark.files
def test_keras_3_reads_random_networks_of_the_legacy_keras(tmp_path):
    """Among them are two hard_sigmoids of one name, and a batch norm with quantizers whose sums tie."""
    for line in in_legacy_keras(RANDOM, tmp_path):
        file, input_type, digest = line.split()
        assert bf.lower(tmp_path / file, input_type).digest == digest, file


@pytest.mark.files
def test_keras_3_reads_what_tensorflow_model_optimization_wrote(tmp_path):
    """Pruning wrappers, which Keras 3 cannot have, are read from files."""
    for line in in_legacy_keras(PRUNED, tmp_path):
        file, digest = line.split()
        assert bf.lower(tmp_path / file, INPUT_TYPE).digest == digest


def test_an_archive_that_lacks_a_mask_is_refused(tmp_path):
    """All ones instead would be another network."""
    digits.build().save(tmp_path / "whole.keras")
    weights = tmp_path / "model.weights.h5"
    with zipfile.ZipFile(tmp_path / "whole.keras") as whole, zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        weights.write_bytes(whole.read(weights.name))
        with h5py.File(weights, "a") as opened:
            del opened["layers/q_dense_1/kernel_quantizer"]
        for name in whole.namelist():
            archive.writestr(name, weights.read_bytes() if name == weights.name else whole.read(name))
    with pytest.raises(bf.InputError, match=r"the file holds no weights of 'masked\w*', a part of 'dense2'"):
        bf.lower(tmp_path / "net.keras")


def test_a_file_of_keras_3_is_refused_by_the_legacy_keras(tmp_path):
    """The message says which Keras wrote it, which is here, and what helps."""
    files = ["net.keras", "net.h5"]
    for file in files:
        digits.build().save(tmp_path / file)
    said = in_legacy_keras(READ, tmp_path, *files)
    assert len(said) == 2
    for text in said:
        assert "written by Keras 3" in text and ", and here is the legacy Keras, with QKeras 0.9: " in text
        assert "install bnnflow[keras] for models of Keras 3" in text


def test_tensorflow_before_the_choice_is_refused_clearly():
    """TensorFlow takes Keras 3 unless it is asked for the legacy Keras before it is imported."""
    done = run_with_qkeras_09("import tensorflow, bnnflow.train")
    assert done.returncode == 1 and "import bnnflow.train first, or set TF_USE_LEGACY_KERAS=1" in done.stderr
