from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import bnnflow as bf
from bnnflow.errors import InputError
from bnnflow.frontends.keras.reading import read_model
from bnnflow.recipe import Recipe, config_of
from bnnflow.train import LearnedThermometer
from bnnflow.train.alphabeta import ones_share
from bnnflow.train.fit import Training
from bnnflow.train.plots import plot_tone_curves
from bnnflow.train.run import Network, network_of_file, train

import tensorflow as tf  # isort: skip
from bnnflow.generation import keras  # isort: skip
from bnnflow.models import digits  # isort: skip

from tests.conftest import plain_environment

# Everything that a step may depend on: dropout, noise, a soft quantizer, masks, a batch norm, a last small batch.
NETWORK = '''
import numpy as np
from bnnflow.generation import keras
from bnnflow.models import digits
from qkeras import QActivation, QDense

from bnnflow.train import Binarize, Binary, LearnedThermometer, Masked

INPUT_TYPE = "ufixed<5,1>"
TRAINING = {"epochs": 5, "batch_size": 32}


def data(samples=300):
    x, y, x_test, y_test = digits.data()
    return x[:samples], y[:samples], x_test, y_test


def build(noise=True, seed=0):
    keras.utils.set_random_seed(seed)
    h = x = keras.Input((64,), name="pixels")
    h = LearnedThermometer(2, name="planes")(h)
    if noise:
        h = keras.layers.Dropout(0.1)(h)
    h = QDense(32, kernel_quantizer=Masked(Binary("bnn++")), use_bias=False, name="d1")(h)
    h = keras.layers.BatchNormalization(momentum=0.9)(h)
    if noise:
        h = keras.layers.GaussianNoise(0.5)(h)
    h = Binarize("ede")(h)
    h = QDense(10, kernel_quantizer=Masked("binary(alpha=1)"), use_bias=False, name="d2")(h)
    return keras.Model(x, keras.layers.BatchNormalization(momentum=0.9)(h))
'''
CONFIG = {"validation": 0.2, "seed": 3, "prune": {"method": "n_of_m", "n": 1, "m": 4, "start": 0.2, "every": 0.05}}


class Killed(Exception):
    """A run that ends without output."""


@pytest.fixture
def network(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    return network_of_file(tmp_path / "net.py")


def run(network, folder, config=CONFIG, kill_at=None, **options):
    def report(step, steps, row):
        if step == kill_at:
            raise Killed

    return train(network, config_of(config, network.defaults), folder, report=report, **options)


def weights_of(folder):
    return read_model(folder / "model.h5").get_weights()


def same(a, b):
    return len(a) == len(b) and all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.training
def test_an_interrupted_run_ends_in_the_same_bits(network, tmp_path):
    import bnnflow.frontends.keras.reading  # noqa: F401

    whole = run(network, tmp_path / "whole")
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert sorted(files) == ["checkpoint.npz", "history.csv", "history.svg", "model.h5", "result.yaml", "run.yaml",
                             "tone_curves.svg"]
    # 240 samples: 8 steps an epoch, 40 in all. In and between epochs, before and while pruning, in the frozen part.
    for kills in ((1,), (8,), (13,), (9, 10, 26), (35,), (40,)):
        folder = tmp_path / "-".join(map(str, kills))
        for kill_at in kills:
            with pytest.raises(Killed):
                run(network, folder, kill_at=kill_at, resume=True, checkpoint_steps=3)
            assert not (folder / "model.h5").exists()
        assert run(network, folder, resume=True).accuracy == whole.accuracy
        assert same(weights_of(folder), weights_of(tmp_path / "whole")), kills
        for name in ("history.csv", "history.svg", "result.yaml", "run.yaml", "tone_curves.svg"):
            assert (folder / name).read_bytes() == files[name], (kills, name)
    before = weights_of(tmp_path / "whole")
    run(network, tmp_path / "whole", resume=True)
    assert same(weights_of(tmp_path / "whole"), before), "resuming what is done changes nothing"


@pytest.mark.training
def test_what_comes_out_is_hard_and_lowers(network, tmp_path):
    result = run(network, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run/history.csv").open()))
    assert [int(row["step"]) for row in rows] == [8, 16, 24, 32, 40]
    assert [row["ships"] for row in rows] == ["False"] * 4 + ["True"] and result.epoch == 5
    assert float(rows[-1]["zeros"]) == 0.75 and float(rows[0]["zeros"]) < 0.5
    assert yaml.safe_load((tmp_path / "run/result.yaml").read_text()) == {
        "test_accuracy": result.accuracy, "test_samples": 360, "epoch": 5}
    graph = bf.lower(result.model, network.input_type)
    x, y = network.data()[2:]
    ours = graph.decode(bf.run(graph, graph.encode(x))).argmax(axis=-1)
    assert np.mean(ours == y) == pytest.approx(result.accuracy, abs=1 / 360)
    assert (tmp_path / "run/history.svg").read_text().startswith("<?xml")


@pytest.mark.training
def test_distilling_in_a_run(network, tmp_path):
    keras.utils.set_random_seed(0)
    teacher = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)])
    x, y, *_ = network.data()
    teacher.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    teacher.fit(x, y, epochs=5, verbose=0)
    teacher.save(tmp_path / "teacher.h5")
    config = {**CONFIG, "distill": {"teacher": str(tmp_path / "teacher.h5"), "temperature": 2, "mix": 0.7}}
    before = teacher.get_weights()
    for folder, kill_at in (("whole", None), ("cut", 11)):
        if kill_at:
            with pytest.raises(Killed):
                run(network, tmp_path / folder, config, kill_at, teacher=teacher, checkpoint_steps=5)
        run(network, tmp_path / folder, config, teacher=teacher, resume=bool(kill_at))
    import bnnflow.frontends.keras.reading  # noqa: F401

    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut")) and same(before, teacher.get_weights())
    assert "kl" in (tmp_path / "whole/history.csv").read_text().splitlines()[0].split(",")
    (tmp_path / "teacher.h5").write_bytes(b"another")
    with pytest.raises(InputError, match="its run is another one: code, data or teacher differ"):
        run(network, tmp_path / "cut", config, teacher=teacher, resume=True)


@pytest.mark.training
def test_the_best_epoch_is_one_that_ships(network):
    recipe = Recipe(epochs=5, batch_size=32, validation=0.2, prune={"zeros": 0.5, "end": 0.5})
    training = Training(network.build(), network.data(), recipe)
    scores = {}
    while not training.done:
        row = training.advance()
        if row is not None and row["ships"]:
            scores[row["epoch"]] = (row["val_accuracy"], -row["val_loss"])
            assert training.measure(*training.held) == (row["val_loss"], row["val_accuracy"])
    assert min(scores) == 5, "soft until 80 %"
    accuracy = training.finish()
    assert training.best[0] == max(scores, key=scores.get) and 0 < accuracy < 1
    assert training.ships and all(float(w) == 1 for w in training.model.weights if "progress" in w.name)


@pytest.mark.training
@pytest.mark.parametrize("codebook", ["KernelCodebook(8)", "SubBit(8)"])
def test_codebooks_resume(codebook, tmp_path):
    import bnnflow.frontends.keras.reading  # noqa: F401

    code = f"""
from bnnflow.generation import keras
from bnnflow.models.digits import INPUT_TYPE, build, data
from qkeras import QActivation, QConv2D, QDense

from bnnflow.train import KernelCodebook, SubBit


def build():
    x = keras.Input((64,))
    h = keras.layers.Reshape((8, 8, 1))(x)
    h = QConv2D(4, 3, kernel_quantizer={codebook}, use_bias=False)(h)
    h = QActivation("binary_tanh")(keras.layers.BatchNormalization()(h))
    return keras.Model(x, QDense(10, kernel_quantizer="binary(alpha=1)")(keras.layers.Flatten()(h)))
"""
    (tmp_path / "net.py").write_text(code)
    network, config = network_of_file(tmp_path / "net.py"), {"epochs": 2, "batch_size": 64}
    run(network, tmp_path / "whole", config)
    with pytest.raises(Killed):
        run(network, tmp_path / "cut", config, kill_at=31, checkpoint_steps=10)
    run(network, tmp_path / "cut", config, resume=True)
    assert same(weights_of(tmp_path / "cut"), weights_of(tmp_path / "whole"))


@pytest.mark.training
def test_a_budget_and_another_optimizer(network, tmp_path):
    """Bop moves what is binary, the budget pulls weights to alpha; both come back after an interruption."""
    import bnnflow.frontends.keras.reading  # noqa: F401

    (tmp_path / "net.py").write_text(NETWORK.replace("import Binarize", "import AlphaBeta, Binarize").replace(
        'Masked(Binary("bnn++"))', "AlphaBeta()").replace('Masked("binary(alpha=1)")', 'Binary("ste")'))
    network = network_of_file(tmp_path / "net.py")
    shares = {}
    for name, config in {
        "free": {"epochs": 3, "learning_rate": 0.02},
        "budget": {"epochs": 3, "learning_rate": 0.02, "budget": {"target": 0.1, "gamma": 0.8}},
        "bop": {"epochs": 3, "optimizer": "bop", "optimizer_options": {"threshold": 1e-6}},
    }.items():
        run(network, tmp_path / name, config)
        with pytest.raises(Killed):
            run(network, tmp_path / f"{name} cut", config, kill_at=13, checkpoint_steps=4)
        run(network, tmp_path / f"{name} cut", config, resume=True)
        assert same(weights_of(tmp_path / f"{name} cut"), weights_of(tmp_path / name))
        model = read_model(tmp_path / name / "model.h5")
        shares[name] = float(ones_share(model))
    assert shares["budget"] < shares["free"] - 0.1


@pytest.mark.parametrize(("recipe", "message"), [
    (Recipe(optimizer="bop", optimizer_options={"treshold": 1}), "optimizer 'bop' cannot be made with {'treshold': 1}"),
    (Recipe(budget={"target": 0.1}), "give target"),
    (Recipe(budget={"target": 0.1, "gamma": 0.5}), "has no kernel in {alpha, beta}"),
])
def test_recipes_that_do_not_fit_the_network(network, recipe, message):
    with pytest.raises(InputError) as error:
        Training(network.build(), network.data(), recipe)
    assert message in str(error.value)


def test_tone_curves(tmp_path):
    x = keras.Input((4, 4, 3))
    layer = LearnedThermometer(3, per_channel=True, name="eye")
    model = keras.Model(x, layer(x))
    plot_tone_curves(model, tmp_path / "a.svg")
    plot_tone_curves(model, tmp_path / "b.svg")
    text = (tmp_path / "a.svg").read_text()
    assert all(f"channel {k}" in text for k in range(3)) and "channel 3" not in text and "eye" in text
    layer.gaps.assign(np.random.default_rng(0).normal(0, 2, layer.gaps.shape))
    plot_tone_curves(model, tmp_path / "c.svg")
    assert text == (tmp_path / "b.svg").read_text() != (tmp_path / "c.svg").read_text()
    with pytest.raises(InputError, match="has no LearnedThermometer"):
        plot_tone_curves(keras.Model(x, keras.layers.Flatten()(x)), tmp_path / "d.svg")


def test_hidden_random_numbers_are_found(network):
    class Loose(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.uniform(tf.shape(x))

    inputs = keras.Input((64,))
    model = keras.Model(inputs, keras.layers.Dense(10)(Loose(name="loose")(inputs)))
    assert not list(Training(network.build(noise=False), network.data(), Recipe()).hidden())
    found = list(Training(model, network.data(), Recipe()).hidden())
    assert len(found) == 1 and found[0].startswith("RandomUniform in '") and "loose" in found[0]


def test_a_stochastic_network_is_refused(network, tmp_path):
    (tmp_path / "net.py").write_text(NETWORK.replace('Masked(Binary("bnn++"))', "Masked('bernoulli(alpha=1)')"))
    with pytest.raises(InputError, match="would differ, because a step depends on (RandomUniform in|variable)"):
        run(network_of_file(tmp_path / "net.py"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("config", "message"), [
    ({"epoch": 3}, "config: unknown key 'epoch'; known are epochs, batch_size, learning_rate, seed, validation, "
                   "optimizer, build, data, prune, distill, budget, optimizer_options"),
    ({"epochs": "many"}, "config: epochs: 'many' is not a whole number"),
    ({"epochs": True}, "config: epochs: True is not a whole number"),
    ({"epochs": 0}, "epochs=0; give a whole number from 1 on"),
    ({"learning_rate": "1e-3"}, "config: learning_rate: '1e-3' is not a number"),
    ({"learning_rate": -1.0}, "learning_rate=-1.0; give a number above 0"),
    ({"seed": -1}, "seed=-1; give a whole number from 0 to 2^32 - 1"),
    ({"validation": 1.0}, "validation=1.0; give a share from 0 to below 1"),
    ({"optimizer": "sgdd"}, "optimizer 'sgdd'; use one of adam, bop, bop2"),
    ({"build": [1]}, "config: build: [1] is not a mapping"),
    ({"prune": {"zero": 0.5}}, "config: prune: unknown key 'zero'; known are method, start, end, every, layers, zeros, "
                               "n, m, shape, inputs"),
    ({"budget": {"target": "few"}}, "config: budget: target: 'few' is not a number"),
    ({"distill": {"temperature": 2}}, "config: distill needs teacher, a Keras model file (.keras, .h5)"),
])
def test_bad_config(config, message):
    with pytest.raises(InputError) as error:
        config_of(config, {"epochs": 2})
    assert str(error.value) == message


def test_bad_config_files(tmp_path):
    for text, message in (("[1, 2]", "holds list; write one `key: value` a line"),
                          ("a: [", "cannot be read as YAML"), ("epochs: 3\nbatch: 2", "unknown key 'batch'")):
        (tmp_path / "c.yaml").write_text(text)
        with pytest.raises(InputError, match=message) as error:
            config_of(tmp_path / "c.yaml", {})
        assert str(tmp_path / "c.yaml") in str(error.value)
    with pytest.raises(InputError, match="no config file"):
        config_of(tmp_path / "no.yaml", {})
    (tmp_path / "c.yaml").write_text("")
    assert config_of(tmp_path / "c.yaml", {"epochs": 7}).recipe.epochs == 7


@pytest.mark.parametrize(("code", "message"), [
    ("build = 3", "has no function build()"), ("def build(): pass", "has no function data()"),
    ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"), ("def build(:", "SyntaxError"),
    ("x = 1\n1 / 0", "ZeroDivisionError: division by zero"),
])
def test_bad_network_files(code, message, tmp_path):
    (tmp_path / "net.py").write_text(code)
    with pytest.raises(InputError) as error:
        network_of_file(tmp_path / "net.py")
    assert message in str(error.value) and str(tmp_path / "net.py") in str(error.value)


def of_functions(build=digits.build, data=digits.data):
    return Network("mine", build, data, {"epochs": 1})


def part(**changes):
    arrays = dict(zip(("x", "y", "x_test", "y_test"), digits.data()))
    return tuple({**arrays, **changes}.values())


@pytest.mark.parametrize(("network", "config", "message"), [
    (of_functions(), {"build": {"depth": 3}}, "cannot be called with {'depth': 3, 'seed': 0}"),
    (of_functions(build=lambda: 3), {},
     f"build() must give a built Keras model ({keras.__name__}) of one input and one output of two or more classes, "
     "got int"),
    (of_functions(build=lambda: 1 / 0), {}, "mine: build() failed: ZeroDivisionError: division by zero ("),
    (of_functions(data=lambda: 1), {}, "data() must give four arrays: x_train, y_train, x_test, y_test"),
    (of_functions(data=lambda: part(y=np.zeros(3, int))), {},
     "x_train (1437, 64) and y_train (3,): the model needs (n, 64) and labels (n,)"),
    (of_functions(data=lambda: part(y_test=np.full(360, 10))), {},
     "y_test: int64 labels from 10 to 10; the model has 10 classes, so integers from 0 to 9"),
    (of_functions(data=lambda: part(x=np.full((1437, 64), np.nan))), {}, "x_train holds values that are not finite"),
    (of_functions(), {"validation": 1e-5}, "validation=1e-05: holds back 0 of 1437 training samples"),
    (of_functions(), {"prune": {"zeros": 0.5, "layers": ["dense1"]}}, "prune: 'dense1' has a Masked kernel"),
])
def test_bad_runs_leave_no_folder(network, config, message, tmp_path):
    with pytest.raises(InputError) as error:
        run(network, tmp_path / "run", config)
    assert message in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.training
def test_folders_that_cannot_be_used(network, tmp_path):
    config = {"build": {"noise": False}, "epochs": 1}
    folder = tmp_path / "run"
    run(network, folder, config, resume=True)  # --resume starts one where there is none
    for changed, other, message in (
            (config, {}, f"{folder} holds a training run; --resume continues it, or name another folder"),
            ({**config, "seed": 1}, {"resume": True}, "its run is another one: seed differ; resume with "
                                                      "what it was started with, or name another folder"),
            ({**config, "data": {"samples": 200}}, {"resume": True}, "its run is another one: data differ"),
    ):
        with pytest.raises(InputError) as error:
            run(network, folder, changed, **other)
        assert message in str(error.value)
    for name, content, message in (("checkpoint.npz", b"PK broken", "damaged"), ("run.yaml", b"[]", "is damaged")):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            run(network, tmp_path / name, config, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no training run; name another folder"):
        run(network, tmp_path / "other", config, resume=True)
    with pytest.raises(InputError, match="is a file; name a folder"):
        run(network, tmp_path / "net.py", config)
    (tmp_path / "net.py").write_text(NETWORK + "\n# changed\n")
    with pytest.raises(InputError, match="code, data or teacher differ"):
        run(network_of_file(tmp_path / "net.py"), folder, config, resume=True)


@pytest.mark.training
def test_signals_through_the_command_line(network, tmp_path):
    """SIGINT, then SIGKILL, then to the end: the same bits as a run in one go, in another process."""
    import bnnflow.frontends.keras.reading  # noqa: F401

    config = {**CONFIG, "epochs": 60}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "bnnflow.cli", "train", "net.py", "--config", "config.yaml", "--output-dir", "run",
               "--resume"]

    def start(signal_at: str, number: int) -> subprocess.Popen:
        process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**plain_environment(), "COLUMNS": "200"})
        for line in process.stderr:
            if line.startswith(signal_at):
                os.kill(process.pid, number)
                break
        process.rest = process.stderr.read()
        process.wait()
        return process

    stopped = start("epoch 3/", signal.SIGINT)
    assert stopped.returncode == 130, stopped.rest
    assert "run: the same command with --resume goes on" in stopped.rest
    assert "Traceback" not in stopped.rest and not (tmp_path / "run/model.h5").exists()
    killed = start("epoch 20/", signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "run/model.h5").exists()
    done = start("never", 0)
    assert done.returncode == 0, done.rest
    text = done.stdout.read()
    whole = run(network_of_file(tmp_path / "net.py"), tmp_path / "whole", config)
    assert f"test accuracy, hard-quantised: {whole.accuracy:.4f} (weights of epoch {whole.epoch} of 60)" in text
    assert 'next: bnnflow build run/model.h5 -o prj' in text
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))
    assert (tmp_path / "run/history.csv").read_bytes() == (tmp_path / "whole/history.csv").read_bytes()


def test_the_networks_of_ours_have_what_a_run_needs():
    from importlib import import_module

    from bnnflow.cli import NETWORKS

    here = {p.stem for p in (Path(digits.__file__).parent).glob("*.py")} - {"__init__", "common", "images"}
    assert set(NETWORKS) == here
    for name in NETWORKS:
        found = Network.of(import_module(f"bnnflow.models.{name}"), name, "")
        assert config_of(None, found.defaults).recipe.epochs == found.defaults["epochs"]
