"""The type of a model's inputs: said by the model and its file, found for data, never assumed."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip

from bnnflow.errors import InputError
from bnnflow.frontends.keras.reading import read_model
from bnnflow.generation import keras
from bnnflow.models import digits
from bnnflow.train import input_type_of, with_input_type
from tests.conftest import plain_environment
from tests.contracts import dense
from tests.test_ir import random_graph

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
RANDOM = np.random.default_rng(0)


def net() -> keras.Model:
    x = keras.Input((6,))
    return keras.Model(x, dense(3)(x))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_the_type_travels_with_the_model(suffix, tmp_path):
    file = tmp_path / f"net{suffix}"
    with_input_type(net(), "fixed<7,2>").save(file)
    assert bf.lower(file).input.domain.type_name == "fixed<7,2>"
    again = read_model(file)
    assert input_type_of(again) == "fixed<7,2>"
    with_input_type(again, "fixed<3,1>").save(file)  # the last one counts
    assert bf.lower(file).input.domain.type_name == "fixed<3,1>"
    assert bf.lower(file, "ufixed<4,0>").input.domain.type_name == "ufixed<4,0>"
    (tmp_path / "run.yaml").touch()
    if suffix == ".h5":
        file.rename(tmp_path / "model.h5")
        assert bf.lower(tmp_path).input.domain.type_name == "fixed<3,1>"  # the folder of a run


def test_nothing_is_assumed(tmp_path):
    with pytest.raises(InputError, match="does not say of which type its inputs are.*bnnflow.narrowest_type"):
        bf.lower(net())
    with pytest.raises(InputError, match="type 'float': expected fixed<W,I>"):
        with_input_type(net(), "float")
    with_input_type(net(), "fixed<7,2>").save(tmp_path / "net.h5")
    two = keras.Input((2,), name="a"), keras.Input((2,), name="b")
    both = with_input_type(keras.Model(two, [dense(1)(h) for h in two]), {"a": "fixed<4,1>", "b": "ufixed<3,0>"})
    both.save(tmp_path / "two.keras")
    assert [n.domain.type_name for n in bf.lower(tmp_path / "two.keras").inputs] == ["fixed<4,1>", "ufixed<3,0>"]
    assert input_type_of(digits.build(width=4)) == digits.INPUT_TYPE


@pytest.mark.parametrize(("x", "found"), [
    (np.arange(17) / 16, "ufixed<5,1>"), (np.arange(16, dtype=np.float32) / 16, "ufixed<4,0>"),
    (np.arange(256, dtype=np.uint8), "ufixed<8,8>"), (np.array([-1.0, 1.0]), "fixed<2,2>"),
    (np.array([-0.5]), "fixed<1,0>"), (np.array([-0.5, 0.25]), "fixed<2,0>"), (np.zeros(3), "ufixed<1,1>"),
    (np.array([512.0, 768.0]), "ufixed<2,10>"), ({"a": np.ones(2), "b": np.array([-2])}, {"a": "ufixed<1,1>",
                                                                                       "b": "fixed<2,2>"}),
])
def test_the_narrowest_type(x, found):
    assert bf.narrowest_type(x) == found
    if isinstance(found, str):
        d = bf.ir.fixed(found)
        codes = np.asarray(x, float) / float(d.scale)
        assert (codes == np.rint(codes)).all() and d.lo <= codes.min() and codes.max() <= d.hi


@pytest.mark.parametrize("x", [RANDOM.normal(size=90), RANDOM.random(90), RANDOM.integers(0, 256, 90) / 255,
                               RANDOM.normal(size=90).astype("f") * 1e6, -1e-4 * RANDOM.random(90)])
def test_data_on_no_grid_and_its_remedy(x):
    with pytest.raises(InputError) as caught:
        bf.narrowest_type(x)
    remedy = re.search(r"x = (numpy\.rint\(.*?\) [*/] [\d.e+-]+)", str(caught.value))[1]
    rounded = eval(remedy, {"numpy": np, "x": x})
    assert abs(rounded - x).max() <= abs(x).max() / 200
    said = re.search(r"types? (u?fixed<.*?>)", str(caught.value))[1]
    narrowest, wide = bf.ir.fixed(bf.narrowest_type(rounded)), bf.ir.fixed(said)
    assert narrowest.bits <= wide.bits and wide.lo * wide.scale <= rounded.min() <= wide.hi * wide.scale


@pytest.mark.parametrize("x", [np.array([1.0, np.nan]), np.zeros((0, 3)), np.array(["a"])])
def test_data_that_are_none(x):
    with pytest.raises(InputError, match="the data: "):
        bf.narrowest_type(x)


def test_the_command_line(cli, tmp_path):
    net().save(tmp_path / "net.h5")
    np.save(tmp_path / "x.npy", np.arange(12).reshape(2, 6) / 16)
    bf.save(random_graph(2), tmp_path / "net.npz")
    done = cli("lower", "net.h5", "--input-type", "from:x.npy")
    assert done.returncode == 0 and "input type ufixed<4,0>: the narrowest that holds x.npy" in done.stderr
    done = cli("lower", "net.h5")
    assert done.returncode == 2 and "--input-type from:inputs.npy" in done.stderr and "input_type=" not in done.stderr
    bf.save(random_graph(2), tmp_path / "net.npz")
    for verb in ("lower", "build", "estimate"):
        done = cli(verb, "net.npz", "--input-type", "fixed<8,3>")
        assert done.returncode == 2 and '--input-type "fixed<8,3>": net.npz is a graph' in done.stderr


@pytest.mark.parametrize("options", [
    ["lower", "net.h5", "--input-type", "fixed<8>"], ["lower", "net.h5", "--output-type", "float"],
    ["lower", "net.h5", "--input-type", "from:no.npy"], ["build", "net.h5", "--io-type", "stream"],
    ["build", "net.h5", "--vectors", "no.npy"], ["build", "net.h5", "--interval", "0"],
    ["estimate", "net.h5", "--strategy", "fast"], ["estimate", "net.h5", "--interval", "9", "--fit"],
    ["train", "digit"], ["train", "digits", "--config", "no.yaml"], ["compare", "net.h5", "prj", "no.npy"],
])
def test_options_are_checked_before_tensorflow(options, tmp_path):
    (tmp_path / "net.h5").touch()
    code = ("import sys\nsys.modules['tensorflow'] = sys.modules['tf_keras'] = None\n"
            f"sys.argv = {['bnnflow', *options]!r}\nfrom bnnflow.cli import main\nmain()")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=plain_environment(), text=True,
                          capture_output=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "tensorflow" not in done.stderr
