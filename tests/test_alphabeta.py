"""Weights in {alpha, beta}: closed form, counting, budget, and the conversion of a float model."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from bnnflow.ir.evaluate import trace
from bnnflow.train import AlphaBeta, Budget, Masked
from bnnflow.train.alphabeta import closed_form, ones_share, two_valued
from bnnflow.train.quantizers import snap
from bnnflow.train.schedules import HARD_FROM
from bnnflow.train.weight_sets import TTQ
from tests.contracts import dense, half_mask, shake


def brute_force(w: np.ndarray, size: int | None) -> float:
    """The least squared error over all subsets (of a size)."""
    errors = []
    for bits in itertools.product((False, True), repeat=w.size):
        ones = np.array(bits)
        if size is None or ones.sum() == size:
            errors.append(sum(float(np.sum((p - p.mean()) ** 2)) for p in (w[ones], w[~ones]) if p.size))
    return min(errors)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("zeros", [None, 0.0, 0.3, 0.8, 1.0])
def test_closed_form_is_the_optimum(seed, zeros):
    rng = np.random.default_rng(seed)
    w = rng.normal(rng.normal(), 1, 9) if seed % 3 else rng.integers(-2, 3, 9).astype(float)
    found = closed_form(w, zeros)
    size = None if zeros is None else round((1 - zeros) * 9)
    assert found.error == pytest.approx(brute_force(w, size), abs=1e-9)
    assert size is None or found.ones.sum() == size
    assert found.error == pytest.approx(np.sum((w - np.where(found.ones, found.beta, found.alpha)) ** 2))


def test_closed_form_refuses():
    cases = (([], None, "got 0"), ([1, float("nan")], None, "1 not finite"), ([1], 1.5, "got 1.5"))
    for weights, zeros, message in cases:
        with pytest.raises(InputError, match=message):
            closed_form(np.array(weights), zeros)


def test_snap_is_to_integers_times_a_power_of_two():
    values = np.random.default_rng(0).normal(0, 1, (200, 3)) * 10.0 ** np.arange(-3, 4, 3)
    snapped = snap(tf.constant(values, tf.float32), 5, axis=0).numpy().astype(float)
    unit = 2.0 ** (np.ceil(np.log2(np.abs(values.astype(np.float32)).max(axis=0))) - 5)
    assert np.array_equal(snapped / unit, np.rint(values.astype(np.float32) / unit))
    assert np.abs(snapped / unit).max() <= 32
    assert snap(tf.constant([0.5, -4.0]), 3).numpy().tolist() == [0.5, -4.0]
    assert snap(tf.zeros(3)).numpy().tolist() == [0, 0, 0]
    x = tf.Variable([0.3, -0.7])
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(snap(x, 2) * [2.0, 3.0])
    assert tape.gradient(y, x).numpy().tolist() == [2, 3]


def test_gradients_are_those_of_the_documented_form():
    quantizer = AlphaBeta("ste", tau=0.5, phi=0.125)
    w = tf.Variable([[-1.4, -0.5], [0.0, 0.9]])
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(quantizer(w) * [[1.0, 2.0], [3.0, 4.0]])
    to_w, to_tau, to_phi = tape.gradient(y, [w, quantizer.tau, quantizer.phi])
    assert quantizer(w).numpy().tolist() == [[-0.375, -0.375], [0.625, 0.625]]
    assert to_w.numpy().tolist() == [[0, 1], [1.5, 2]]  # tau times the straight-through gradient
    assert (float(to_tau), float(to_phi)) == (-1 - 2 + 3 + 4, 10)


def network() -> keras.Model:
    """A padded convolution and two dense layers in {alpha, beta}, one of them masked."""
    x = keras.Input((5, 4, 3))
    h = qkeras.QActivation("binary(alpha=1)")(x)
    h = qkeras.QConv2D(4, 3, padding="same", kernel_quantizer=AlphaBeta(tau=0.6, phi=-0.4), use_bias=False, name="c")(h)
    h = keras.layers.BatchNormalization(name="n")(h)
    h = keras.layers.Flatten()(qkeras.QActivation("binary(alpha=1)", name="a")(h))
    masked = Masked(AlphaBeta(tau=0.25, phi=0.125))
    masked.set_mask(half_mask((80, 6)))
    h = qkeras.QDense(6, kernel_quantizer=masked, use_bias=False, name="d")(h)
    h = qkeras.QActivation("ternary(alpha=1)")(keras.layers.BatchNormalization()(h))
    return shake(keras.Model(x, dense(3, kernel_quantizer=AlphaBeta(), name="e")(h)))


def test_padded_sums_are_the_shared_popcount_identity():
    """z = (beta - alpha) (2 pc(x & m) - |m|) + alpha (2 pc(x) - n), with the counts inside the image at its borders."""
    model = network()
    graph = bf.lower(model, "ufixed<4,0>")
    x = np.random.default_rng(0).integers(0, 16, (50, 5, 4, 3)) / 16
    check_equal(graph, model, x)
    values = trace(graph, graph.encode(x))
    bits = next(values[n.name] for n in graph if n.origin and n.shape == (5, 4, 3) and n.op is bf.ir.Op.STEP)
    layer = model.get_layer("c")
    alpha, beta = layer.kernel_quantizer_internal.values().numpy().astype(float)
    ones = layer.kernel.numpy() >= 0
    padded = np.pad(bits, ((0, 0), (1, 1), (1, 1), (0, 0)))
    inside = np.pad(np.ones((5, 4, 3), int), ((1, 1), (1, 1), (0, 0)))
    wanted = np.zeros((50, 5, 4, 4))
    for i, j, k in np.ndindex(5, 4, 4):
        taps, here = padded[:, i : i + 3, j : j + 3], inside[i : i + 3, j : j + 3]
        m = ones[..., k]
        wanted[:, i, j, k] = ((beta - alpha) * (2 * (taps * m).sum(axis=(1, 2, 3)) - (here * m).sum())
                              + alpha * (2 * taps.sum(axis=(1, 2, 3)) - here.sum()))
    node = graph["c"]
    assert np.array_equal(values["c"] * float(node.domain.scale) + float(node.domain.offset), wanted)


def test_ones_are_counted_over_all_layers():
    model = network()
    kernels = [model.get_layer(name).kernel for name in "cde"]
    with tf.GradientTape() as tape:
        share = ones_share(model)
    mask = half_mask((80, 6))
    count = sum(int(np.sum((k.numpy() >= 0) * (mask if k.shape == (80, 6) else 1))) for k in kernels)
    total = sum(int(np.prod(k.shape)) for k in kernels)
    assert float(share) == pytest.approx(count / total)
    gradients = tape.gradient(share, kernels)
    assert np.allclose(gradients[1], mask / (2 * total)) and np.allclose(gradients[0], 1 / (2 * total))
    with pytest.raises(InputError, match="no kernel in {alpha, beta}"):
        ones_share(keras.Sequential([dense(2, input_shape=(3,))]))


def test_budget_is_the_authors_penalty():
    model = network()
    kernel = model.get_layer("c").kernel
    y, p = tf.constant([[1.0], [3.0]]), tf.constant([[0.5], [1.0]])
    task = keras.losses.MeanSquaredError()
    share = float(ones_share(model))
    with tf.GradientTape() as tape:
        value = Budget(task, model, share - 0.2, 0.1)(y, p)
    plain = float(task(y, p))
    assert float(value) == pytest.approx(plain / 0.9)  # gamma / (1 - gamma) of the loss on top
    total = sum(int(np.prod(model.get_layer(name).kernel.shape)) for name in "cde")
    assert np.allclose(tape.gradient(value, kernel), 0.1 * plain / (0.2 * 0.9) / (2 * total), rtol=1e-4)
    assert float(Budget(task, model, share, 0.1)(y, p)) == plain
    with pytest.raises(InputError, match="target"):
        Budget(task, model, 1.5, 0.1)


@pytest.mark.training
def test_training_reaches_the_budget():
    rng = np.random.default_rng(0)
    x = rng.choice([-1.0, 1.0], (256, 20)).astype(np.float32)
    y = (x[:, :5].sum(axis=1) > 0).astype(int)
    inputs = keras.Input((20,))
    h = keras.layers.BatchNormalization()(dense(32, kernel_quantizer=AlphaBeta())(inputs))
    model = keras.Model(inputs, dense(2, kernel_quantizer=AlphaBeta())(qkeras.QActivation("binary(alpha=1)")(h)))
    before = float(ones_share(model))
    model.compile(keras.optimizers.Adam(1e-2),
                  Budget(keras.losses.SparseCategoricalCrossentropy(from_logits=True), model, 0.3, 0.5))
    model.fit(x, y, epochs=60, verbose=0, callbacks=[bf.train.Progress(60 * 8)])
    assert before > 0.4 and float(ones_share(model)) < 0.31
    graph = bf.lower(model, "fixed<2,2>")
    check_equal(graph, model, x)


def float_model() -> keras.Model:
    x = keras.Input((4, 4, 2))
    h = keras.layers.Conv2D(3, 3, padding="same", name="c")(x)
    h = qkeras.QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h))
    h = dense(5, name="kept")(keras.layers.Flatten()(h))
    h = qkeras.QActivation("ternary(alpha=1)")(h)
    return shake(keras.Model(x, keras.layers.Dense(2, name="d")(h)))


def test_a_float_model_becomes_two_valued():
    model = float_model()
    copy, found = two_valued(model, zeros=0.75)
    assert set(found) == {"c", "d"} and type(copy.get_layer("c")) is qkeras.QConv2D
    for name, values in found.items():
        best = closed_form(model.get_layer(name).kernel.numpy(), 0.75)
        assert np.array_equal(values.ones, best.ones) and values.error >= best.error - 1e-9
        weights = copy.get_layer(name).kernel_quantizer_internal(copy.get_layer(name).kernel).numpy()
        assert np.array_equal(weights, np.where(values.ones, values.beta, values.alpha).astype(np.float32))
        assert abs(values.alpha - best.alpha) <= max(abs(best.alpha), abs(best.beta)) / 32
        assert np.array_equal(copy.get_layer(name).bias, model.get_layer(name).bias)
    graph = bf.lower(copy, "ufixed<4,0>")
    check_equal(graph, copy, np.random.default_rng(0).integers(0, 16, (40, 4, 4, 2)) / 16)
    with pytest.raises(InputError, match="no layer 'x'"):
        two_valued(model, keep=["x"])
    with pytest.raises(InputError, match="without a kernel quantizer to quantise"):
        two_valued(model, keep=["c", "d"])


@pytest.mark.parametrize("make", [AlphaBeta, TTQ])
def test_scales_of_a_layer_stay_while_batch_norms_settle(make):
    """A snapped scale that moves in the last steps shifts every sum of its layer."""
    quantizer, w = make(), tf.constant(np.random.default_rng(0).normal(0, 1, (9, 4)), tf.float32)
    quantizer.build(w.shape)
    for progress, moves in ((0.0, True), (HARD_FROM - 0.01, True), (HARD_FROM, False), (1.0, False)):
        quantizer.progress.assign(progress)
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = tf.reduce_sum(quantizer(w) ** 2 * tf.range(4, dtype=tf.float32))
        *scales, weights = tape.gradient(y, [*quantizer.trainable_weights, w])
        assert any(np.abs(g).max() > 0 for g in scales) == moves and np.abs(weights).max() > 0
