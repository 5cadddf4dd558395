"""Both generations of Keras: files that one wrote are read by the other, with the same codes, or refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip

from bnnflow.generation import LEGACY
from tests.conftest import ROOT, plain_environment
from tests.test_contracts import INPUT_TYPE, NETWORKS, UNREADABLE
from tests.test_wrappers import tfmot, trained

# Where `make` puts the QKeras of Keras 3: what is found there first makes it the generation that is here.
KERAS_3 = Path(sys.prefix) / "keras3"
pytestmark = pytest.mark.skipif(not LEGACY or not KERAS_3.is_dir(), reason=f"not both generations here: no {KERAS_3}")
READ = """
import sys, warnings
warnings.simplefilter("ignore")
import bnnflow.train, bnnflow as bf
from bnnflow.generation import LEGACY
assert not LEGACY
for file in sys.argv[2:]:
    try:
        print(bf.lower(file, sys.argv[1]).digest)
    except bf.InputError as error:
        print(" ".join(str(error).split()))
"""
# What Keras 3 or qkeras-v3 does not have, and a word of what is said of such files.
LACKING = {"layer-thresholded_relu": "ThresholdedReLU", "layer-conv1d_causal": "padding=CAUSAL",
           "layer-plain_separable1d": "causal"}


def in_keras_3(code: str, *arguments: str) -> list[str]:
    """The lines that a program prints where Keras 3 is here."""
    environment = {**plain_environment(), "PYTHONPATH": os.pathsep.join([str(KERAS_3), str(ROOT)])}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, *arguments], cwd=ROOT, env=environment,
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.mark.files
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("part", range(2))
def test_keras_3_reads_what_the_legacy_keras_wrote(part, tmp_path):
    """Every contract row, in turns as .keras and .h5: the same graph, so the same weights, masks and levels."""
    expected = {}
    for k, (name, make) in enumerate(NETWORKS.items()):
        file = tmp_path / f"{name}{('.keras', '.h5')[k // 2 % 2]}"
        if k % 2 != part or (name, file.suffix) in UNREADABLE:
            continue
        model = make()
        model.save(file)
        expected[file] = bf.lower(model, INPUT_TYPE).digest
    found = dict(zip(expected, in_keras_3(READ, INPUT_TYPE, *map(str, expected)), strict=True))
    for file, digest in expected.items():
        wanted = LACKING.get(file.stem, digest)
        assert wanted in found[file], f"{file.name}: {found[file][-300:]}"


@pytest.mark.files
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_keras_3_reads_what_tensorflow_model_optimization_wrote(tmp_path):
    """Pruning wrappers, which Keras 3 cannot have, are read from files."""
    files, model = [tmp_path / f"net{suffix}" for suffix in (".keras", ".h5")], trained(tfmot())
    for file in files:
        model.save(file)
    assert set(in_keras_3(READ, INPUT_TYPE, *map(str, files))) == {bf.lower(model, INPUT_TYPE).digest}


WITHOUT_MASK = """
import sys, zipfile
import h5py
from bnnflow.models import digits
model = digits.build()
model.save(sys.argv[1])
with zipfile.ZipFile(sys.argv[1]) as archive:
    files = {name: archive.read(name) for name in archive.namelist()}
with open(sys.argv[1] + ".weights", "wb") as file:
    file.write(files["model.weights.h5"])
with h5py.File(sys.argv[1] + ".weights", "a") as weights:
    del weights["layers/q_dense_1/kernel_quantizer"]
with zipfile.ZipFile(sys.argv[1], "w") as archive:
    for name, data in files.items():
        archive.writestr(name, open(sys.argv[1] + ".weights", "rb").read() if name.endswith(".h5") else data)
"""


def test_keras_3_refuses_an_archive_that_lacks_a_mask(tmp_path):
    """All ones instead would be another network."""
    file = str(tmp_path / "net.keras")
    in_keras_3(WITHOUT_MASK, file)
    (said,) = in_keras_3(READ, "ufixed<5,1>", file)
    assert "the file holds no weights of 'masked', a part of 'dense2'" in said


def test_a_file_of_keras_3_is_refused_by_the_legacy_keras(tmp_path):
    """The message says which Keras wrote it, which is here, and what helps."""
    files = [str(tmp_path / f"net{suffix}") for suffix in (".keras", ".h5")]
    in_keras_3("import sys; from bnnflow.models import digits; [digits.build().save(f) for f in sys.argv[1:]]", *files)
    for file in files:
        with pytest.raises(bf.InputError, match=r"written by Keras 3\S+, and here is the legacy Keras, with "
                                                r"QKeras 0.9: .* install bnnflow\[keras\] for models of Keras 3"):
            bf.lower(file)
