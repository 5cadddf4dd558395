"""Wrappers around layers: pruned ones in models and files, whoever wrote them, and layers at each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.frontends.keras.configuration import PRUNING_WRAPPERS
from bnnflow.frontends.keras.reading import read_model
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.frontends.keras.wrappers import PruneLowMagnitude
from bnnflow.generation import LEGACY, keras
from tests.contracts import bits, conv, dense, each, shake

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
X = np.random.default_rng(0).integers(0, 16, (100, 6)).astype(np.float32) / 16
SCHEDULE = {"class_name": "PolynomialDecay", "config": {"initial_sparsity": 0.0, "final_sparsity": 0.6, "power": 3,
                                                        "begin_step": 1, "end_step": 10, "frequency": 2}}


def network(prune: Any = PruneLowMagnitude) -> keras.Model:
    """Two pruned layers, of which only one has weights to prune."""
    x = keras.Input((6,))
    h = prune(dense(5, kernel_quantizer=bits(4), use_bias=True, name="d"))(x)
    h = prune(keras.layers.BatchNormalization(name="bn"))(h)
    return shake(keras.Model(x, dense(3)(qkeras.QActivation("quantized_relu(4,1)")(h))))


def as_tfmot_writes_it(file: Path, **more: Any) -> None:
    """Put the arguments of the wrapper of TensorFlow Model Optimization into a file of ours."""
    with h5py.File(file, "a") as opened:
        config = json.loads(opened.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "PruneLowMagnitude":
                layer["config"] |= {"pruning_schedule": SCHEDULE, "block_size": [1, 1], "block_pooling_type": "AVG"}
                layer["config"] |= more
                layer["module"] = PRUNING_WRAPPERS
        opened.attrs["model_config"] = json.dumps(config)


def test_a_file_as_tensorflow_model_optimization_writes_it(tmp_path):
    model = network()
    graph = bf.lower(model, "ufixed<4,0>")
    (said,) = [note for note in graph.notes if "pruning wrapper is left out" in note]
    assert "keeps 15 of 30" in said
    model.save(tmp_path / "net.h5")
    as_tfmot_writes_it(tmp_path / "net.h5")
    assert bf.lower(tmp_path / "net.h5", "ufixed<4,0>").digest == graph.digest


def test_masks_are_multiplied_before_quantisation():
    """A binary quantizer makes +1 of a weight that is pruned, as in Keras."""
    x, pruned = keras.Input((6,)), PruneLowMagnitude(dense(4))
    model = keras.Model(x, pruned(x))
    (_, mask), = pruned.pruning_vars
    mask.assign(np.zeros((6, 4)))
    graph = bf.lower(model, "ufixed<4,0>")
    check_equal(graph, model, X)
    assert np.array_equal(graph.decode(graph(graph.encode(X))), model.predict(X, verbose=0))
    assert (graph.decode(graph(graph.encode(X))) == X.sum(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("schedule", [{"class_name": "Lambda", "config": {"function": "os.system"}}, "evil()", None])
def test_nothing_of_a_schedule_is_built(schedule, tmp_path):
    network().save(tmp_path / "net.h5")
    as_tfmot_writes_it(tmp_path / "net.h5", pruning_schedule=schedule)
    bf.lower(tmp_path / "net.h5", "ufixed<4,0>")


@pytest.mark.parametrize("wrap", [PruneLowMagnitude, each])
def test_what_is_inside_is_checked(wrap, tmp_path):
    x = keras.Input((2, 6))
    keras.Model(x, wrap(dense(4, name="d"))(x)).save(tmp_path / "net.h5")
    with h5py.File(tmp_path / "net.h5", "a") as opened:
        config = json.loads(opened.attrs["model_config"])
        inside = config["config"]["layers"][-1]["config"]["layer"]
        for changed, message in (({"class_name": "Lambda"}, "runs Python code"),
                                 ({"module": "os"}, "comes from module"),
                                 ({"class_name": "LayerNormalization"}, "not supported")):
            config["config"]["layers"][-1]["config"]["layer"] = {**inside, **changed}
            opened.attrs["model_config"] = json.dumps(config)
            opened.flush()
            with pytest.raises(bf.InputError, match=message):
                bf.lower(tmp_path / "net.h5", "ufixed<4,0>")


@pytest.mark.parametrize("place", ["dtype", "inbound_nodes", "name"])
def test_what_is_around_is_checked(place, tmp_path):
    """Whatever of a wrapper Keras would build; of a schedule it builds nothing."""
    network().save(tmp_path / "net.h5")
    trap = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": "f"}}
    with h5py.File(tmp_path / "net.h5", "a") as opened:
        config = json.loads(opened.attrs["model_config"])
        layer = config["config"]["layers"][1]
        assert layer["class_name"] == "PruneLowMagnitude"
        if place == "inbound_nodes":
            layer[place].append({"args": [], "kwargs": {"mask": trap}})
        else:
            layer["config"][place] = trap
        opened.attrs["model_config"] = json.dumps(config)
    with pytest.raises(bf.InputError, match="Lambda is not a known"):
        bf.lower(tmp_path / "net.h5", "ufixed<4,0>")


def tfmot() -> Any:
    """TensorFlow Model Optimization, which QKeras 0.9 brings."""
    if not LEGACY:
        pytest.skip("TensorFlow Model Optimization is for the legacy Keras")
    return pytest.importorskip("tensorflow_model_optimization").sparsity.keras


def trained(prune: Any) -> keras.Model:
    """A network of the real wrappers that was trained; its weights have moved since they were last pruned."""
    model = network(lambda layer: prune.prune_low_magnitude(layer, prune.PolynomialDecay(0.0, 0.6, 1, 10, frequency=2)))
    model.compile("adam", "mse")
    model.fit(X, np.zeros((len(X), 3)), epochs=4, verbose=0, callbacks=[prune.UpdatePruningStep()])
    pruned = model.layers[1]
    pruned.layer.kernel.assign_add(np.full(pruned.layer.kernel.shape, .25))
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_real_wrappers_live_and_in_files(suffix, tmp_path):
    model = trained(tfmot())
    model.save(tmp_path / f"net{suffix}")
    graph = bf.lower(model, "ufixed<4,0>")
    check_equal(graph, model, X)
    assert np.array_equal(graph.decode(graph(graph.encode(X))), model.predict(X, verbose=0))
    assert bf.lower(tmp_path / f"net{suffix}", "ufixed<4,0>").digest == graph.digest
    assert np.array_equal(read_model(tmp_path / f"net{suffix}").predict(X, verbose=0), model.predict(X, verbose=0))


def test_a_wrapper_of_what_is_not_supported():
    """The remedy is followed: the layer is replaced."""
    def net(layer: Any) -> keras.Model:
        x = keras.Input((6,))
        return keras.Model(x, dense(3)(qkeras.QActivation("binary(alpha=1)")(PruneLowMagnitude(layer)(x))))

    with pytest.raises(bf.InputError, match="wraps '.*' .LayerNormalization., which is not supported; replace that"):
        bf.lower(net(keras.layers.LayerNormalization()), "ufixed<4,0>")
    bf.lower(net(keras.layers.BatchNormalization()), "ufixed<4,0>")


def test_a_layer_at_each_time_is_the_layer():
    """The same graph as of the layer itself, which does it at every position."""
    def net(wrap: Any) -> keras.Model:
        x = keras.Input((3, 6))
        h = qkeras.QActivation("quantized_relu(4,1)", name="a")(wrap(dense(5, use_bias=True))(x))
        return shake(keras.Model(x, wrap(dense(2))(h)))

    once, at_each = (bf.lower(net(wrap), "ufixed<4,0>") for wrap in (lambda layer: layer, each))
    x = np.random.default_rng(0).integers(0, 16, (50, 3, 6)) / 16
    assert [node.op for node in once] == [node.op for node in at_each]
    assert np.array_equal(once(once.encode(x)), at_each(at_each.encode(x)))


def test_the_remedy_for_an_image_at_each_time():
    """An input for each time, and one layer for all of them, compute what the TimeDistributed did."""
    layer = conv(2, 3)
    x = keras.Input((2, 5, 5, 1))
    with pytest.raises(bf.InputError, match="applies a QConv2D at each time; give each time an input of its own, call "
                                            "the layer on each of them, and put a Concatenate behind the activations"):
        bf.lower(keras.Model(x, each(layer)(x)), "ufixed<4,0>")
    times = [keras.Input((5, 5, 1)) for _ in range(2)]
    layer, act = conv(2, 3), qkeras.QActivation("binary(alpha=1)")
    bf.lower(keras.Model(times, keras.layers.Concatenate()([act(layer(t)) for t in times])), "ufixed<4,0>")


def test_the_remedy_for_a_row_at_each_time():
    """A layer of two axes, of size 1 along the times, with the same weights."""
    x, rows = keras.Input((3, 6, 2)), conv(4, 2, rank=1)
    model = keras.Model(x, each(rows)(x))
    with pytest.raises(bf.InputError, match=r"applies a QConv1D at each time; use a QConv2D instead, of size 1 along "
                                            r"the times: \(1, k\)"):
        bf.lower(model, "ufixed<4,0>")
    plain = conv(4, (1, 2))
    followed = keras.Model(x, plain(x))
    plain.set_weights([rows.get_weights()[0][None]])
    graph, data = bf.lower(followed, "ufixed<4,0>"), np.random.default_rng(0).integers(0, 16, (20, 3, 6, 2)) / 16
    assert np.array_equal(graph.decode(graph(graph.encode(data))), model.predict(data, verbose=0))
