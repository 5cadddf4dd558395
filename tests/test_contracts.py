"""The contract of every quantizer and layer: a row in contracts.py is all that a new one needs."""

from __future__ import annotations

import numpy as np
import pytest

import flow

import flow.train  # isort: skip
import qkeras
import tensorflow as tf
import tf_keras as keras

from flow.train.lower import LEVELS, LOWERINGS
from flow.train.reading import custom_objects, read_model
from flow.train.reference import check_equal, keras_activations
from tests.contracts import ACTIVATIONS, HEADS, KERNELS, LAYERS, dense, shake

INPUT_TYPE = "ufixed<4,0>"


def inputs(shape: tuple[int, ...], count: int = 400) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 16, (count, *shape)) / 16


def kernel_network(name: str) -> keras.Model:
    x = keras.Input((12,))
    h = keras.layers.BatchNormalization()(dense(9, kernel_quantizer=KERNELS[name].make(), name="d1")(x))
    return shake(keras.Model(x, dense(3)(qkeras.QActivation("binary(alpha=1)")(h))))


def activation_network(name: str, inside: bool = False) -> keras.Model:
    x = keras.Input((12,))
    text = ACTIVATIONS[name].text
    h = dense(9, use_bias=True, activation=text if inside else None)(x)
    if not inside:
        h = qkeras.QActivation(text)(keras.layers.BatchNormalization()(h))
    return shake(keras.Model(x, dense(3)(h)))


def layer_network(name: str) -> keras.Model:
    shape, make = LAYERS[name]
    h = x = keras.Input(shape)
    for layer in make():
        h = layer(h)
    if name not in HEADS:
        h = dense(4)(qkeras.QActivation("ternary(alpha=1)")(h))
    return shake(keras.Model(x, h))


NETWORKS = {
    **{f"kernel-{k}": (lambda k=k: kernel_network(k)) for k in KERNELS},
    **{f"activation-{k}": (lambda k=k: activation_network(k)) for k in ACTIVATIONS},
    **{f"argument-{k}": (lambda k=k: activation_network(k, inside=True)) for k in ACTIVATIONS},
    **{f"layer-{k}": (lambda k=k: layer_network(k)) for k in LAYERS},
}


def check_outputs(model: keras.Model, graph: flow.ir.Graph, x: np.ndarray) -> None:
    """The outputs, before a dropped softmax or sigmoid, are equal: no row here has a batch norm at its end."""
    last = model.layers[-1]
    if type(last) in (keras.layers.Softmax, keras.layers.Activation):
        last = model.layers[-2]
    elif getattr(last, "activation", None) is keras.activations.sigmoid:
        last.activation = keras.activations.linear
    assert np.array_equal(graph.decode(graph(graph.encode(x))), keras_activations(model, [last.name], x)[last.name])


@pytest.mark.parametrize("name", NETWORKS)
def test_lowered_is_keras(name):
    model = NETWORKS[name]()
    x, graph = inputs(model.input_shape[1:]), flow.lower(model, INPUT_TYPE)
    for batch in (400, 17, 1):
        check_equal(graph, model, x[: 400 if batch > 1 else 20], batch)
    check_outputs(model, graph, x)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_and_read_is_the_same_network(name, suffix, tmp_path):
    model = NETWORKS[name]()
    model.save(tmp_path / f"net{suffix}")
    assert flow.lower(tmp_path / f"net{suffix}", INPUT_TYPE).digest == flow.lower(model, INPUT_TYPE).digest
    x = inputs(model.input_shape[1:], 50)
    again = read_model(tmp_path / f"net{suffix}")
    assert np.array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_step_changes_weights_and_stays_exact(name):
    model = NETWORKS[name]()
    x = inputs(model.input_shape[1:], 64).astype(np.float32)
    before = [w.numpy() for w in model.trainable_weights]
    model.compile("adam", "mse")
    model.fit(x, np.random.default_rng(0).normal(size=(64, *model.output_shape[1:])), epochs=2, verbose=0)
    after = [w.numpy() for w in model.trainable_weights]
    assert any(not np.array_equal(a, b) for a, b in zip(before, after))
    assert all(np.isfinite(a).all() for a in after)
    check_equal(flow.lower(model, INPUT_TYPE), model, x)


@pytest.mark.hls
@pytest.mark.parametrize("name", NETWORKS)
def test_c_simulation_is_the_graph(name, simulated):
    model = NETWORKS[name]()
    graph = flow.lower(model, INPUT_TYPE)
    codes = graph.encode(inputs(model.input_shape[1:]))
    assert np.array_equal(simulated(graph, codes), graph(codes))


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_quantizer(name):
    row = KERNELS[name]
    layer = dense(9, kernel_quantizer=row.make())
    layer.build((None, 12))
    quantizer = layer.kernel_quantizer_internal
    w = tf.Variable(np.random.default_rng(0).normal(0, 0.7, (12, 9)).astype(np.float32))
    with tf.GradientTape() as tape:
        y = quantizer(w)
    assert set(np.unique(y)) <= set(row.levels) and len(np.unique(y)) == len(row.levels)
    gradient = tape.gradient(y, w).numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    config = keras.layers.serialize(layer)
    with keras.utils.custom_object_scope(custom_objects()):
        again = keras.layers.deserialize(config)
    again.build((None, 12))
    again(np.zeros((1, 12), np.float32))
    again.set_weights(layer.get_weights() or [])
    assert np.array_equal(again.kernel_quantizer_internal(w), y)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_takes_its_levels(name):
    row, quantizer = ACTIVATIONS[name], qkeras.get_quantizer(ACTIVATIONS[name].text)
    values = quantizer(tf.constant(np.linspace(-3, 3, 4001), tf.float32)).numpy()
    assert set(np.unique(values)) == set(row.levels)
    domain = LEVELS[type(quantizer)]("row", quantizer)
    assert {float(domain.alpha * c + domain.beta) for c in range(domain.lo, domain.hi + 1)} == set(row.levels)


def test_every_lowering_and_quantizer_has_a_row():
    layers = {type(layer) for _, make in LAYERS.values() for layer in make()} | {keras.layers.InputLayer}
    assert layers >= set(LOWERINGS)
    assert {type(qkeras.get_quantizer(row.text)) for row in ACTIVATIONS.values()} == set(LEVELS)


def test_mask_keeps_its_zeros_through_training():
    model = kernel_network("masked_binary")
    quantizer = model.get_layer("d1").kernel_quantizer_internal
    zeros = quantizer.mask.numpy() == 0
    before = np.clip(model.get_layer("d1").kernel.numpy(), -1, 1)  # QKeras constrains latent weights
    model.compile("adam", "mse")
    x = inputs((12,), 64)
    model.fit(x, np.ones((64, 3)), epochs=3, verbose=0)
    kernel = model.get_layer("d1").kernel
    assert (quantizer(kernel).numpy()[zeros] == 0).all() and (quantizer(kernel).numpy()[~zeros] != 0).all()
    assert np.array_equal(kernel.numpy()[zeros], before[zeros]), "pruned latent weights got a gradient"
    assert not np.array_equal(kernel.numpy()[~zeros], before[~zeros])
    assert quantizer.mask.name not in [w.name for w in model.trainable_weights]
    weights = next(n.params for n in flow.lower(model, INPUT_TYPE) if n.name == "d1")
    assert np.array_equal(weights.mask, ~zeros)


@pytest.mark.parametrize(("mask", "message"), [
    (np.full((12, 9), 2), "0 or 1"), (np.ones((3, 3)), "shape"), (np.full((12, 9), np.nan), "0 or 1"),
])
def test_bad_masks(mask, message):
    quantizer = kernel_network("masked_binary").get_layer("d1").kernel_quantizer_internal
    with pytest.raises(flow.InputError, match=message):
        quantizer.set_mask(mask)
