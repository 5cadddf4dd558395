from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.train import LearnedThermometer
from tests.contracts import dense


def built(planes: int, channels: int = 3, **options: object) -> LearnedThermometer:
    layer = LearnedThermometer(planes, **options)
    layer.build((None, channels))
    return layer


def test_uniform_start():
    assert built(3).thresholds().numpy().tolist() == [[0.25, 0.5, 0.75]]
    assert built(1, low=-2.0, high=6.0).thresholds().numpy().tolist() == [[2.0]]


def test_quantile_start_orders_and_uses_distinct_values():
    rng = np.random.default_rng(0)
    x = np.where(rng.random((500, 3)) < 0.8, 0, rng.random((500, 3)) * [1, 0.5, 0.25])
    layer = built(7, per_channel=True)
    layer.adapt(x)
    t = layer.thresholds().numpy()
    assert t.shape == (3, 7) and (np.diff(t, axis=1) > 0).all() and t.min() > 0 and t.max() < 1
    assert np.abs(t[0] - np.quantile(np.unique(x[:, 0]), np.arange(1, 8) / 8)).max() < 0.01
    shared = built(4)
    shared.adapt(np.zeros((10, 3)))
    assert np.isfinite(shared.thresholds().numpy()).all()


def test_thresholds_stay_ordered_after_training():
    x = keras.Input((5,))
    model = keras.Model(x, dense(2)(LearnedThermometer(6, name="t")(x)))
    model.compile(keras.optimizers.Adam(0.3), "mse")
    before = model.get_layer("t").thresholds().numpy()
    data = np.random.default_rng(0).random((64, 5))
    model.fit(data, data[:, :2] * 10, epochs=20, verbose=0)
    after = model.get_layer("t").thresholds().numpy()
    assert not np.array_equal(before, after) and (np.diff(after) >= 0).all() and after.min() >= 0 and after.max() <= 1


def test_forward_is_hard_and_channel_major():
    layer = built(3)
    y = layer(tf.constant([[0.0, 0.5, 0.8]])).numpy()
    assert y.tolist() == [[-1, -1, -1, 1, 1, -1, 1, 1, 1]]
    assert layer.compute_output_shape((None, 4, 4, 3)) == (None, 4, 4, 9)


def test_gradients_are_the_documented_triangle():
    layer = built(2, 1)
    x = tf.Variable([[0.3], [0.9]])
    with tf.GradientTape() as tape:
        y = layer(x)
        loss = tf.reduce_sum(y * tf.constant([[1.0, 2.0], [3.0, 4.0]]))
    t, width = layer.thresholds().numpy()[0], 1.0  # 2 (high - low) / planes
    slope = np.maximum(0, 1 - np.abs(np.array([[0.3], [0.9]]) - t) / width) / width * [[1, 2], [3, 4]]
    gradient = tape.gradient(loss, x).numpy()
    assert np.allclose(gradient[:, 0], slope.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("progress, halvings", [(0.0, 0), (0.3, 0), (0.34, 1), (0.67, 2), (1.0, 2)])
def test_the_triangle_narrows_with_the_training(progress, halvings):
    layer = built(4, 1)
    layer.progress.assign(progress)
    x = tf.Variable(np.linspace(0, 1, 101)[:, None].astype(np.float32))
    with tf.GradientTape() as tape:
        y = layer(x)
    width = 0.5 / 2**halvings
    distance = np.abs(x.numpy() - layer.thresholds().numpy())
    slope = np.maximum(0, 1 - distance / width) / width
    assert np.allclose(tape.gradient(y, x).numpy()[:, 0], slope.sum(axis=1), rtol=1e-4, atol=1e-5)


def test_fixed_starts():
    x = np.random.default_rng(0).normal([0.5, 0.4], [0.1, 0.02], (4000, 2))
    layer = built(3, 2, per_channel=True, learned=False)
    assert not layer.trainable_weights
    layer.adapt(x, "uniform")
    assert np.allclose(layer.thresholds(), [[0.25, 0.5, 0.75]] * 2, atol=1e-4)
    layer.adapt(x, "gaussian")
    deviations = np.array([-0.67449, 0, 0.67449])
    assert np.allclose(layer.thresholds(), x.mean(axis=0)[:, None] + x.std(axis=0)[:, None] * deviations, atol=2e-3)
    with pytest.raises(InputError, match="start 'log'; use one of uniform, gaussian, quantile"):
        layer.adapt(x, "log")
    with pytest.raises(InputError, match="finite data of 2 channels"):
        layer.adapt(x[:, :1], "gaussian")


@pytest.mark.parametrize("input_type", ["ufixed<8,0>", "ufixed<3,0>", "fixed<6,2>"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_lowered_thresholds_are_the_ceilings(input_type, per_channel):
    """x >= t is code >= ceil(t * 2^f), in exact rationals, for every code; planes that coincide are merged."""
    x = keras.Input((3,))
    model = keras.Model(x, LearnedThermometer(5, -1.5, 1.5, per_channel=per_channel, name="t")(x))
    model.get_layer("t").gaps.assign(np.random.default_rng(1).normal(0, 2, model.get_layer("t").gaps.shape))
    graph = bf.lower(model, input_type)
    d = graph.input.domain
    codes = np.repeat(np.arange(d.lo, d.hi + 1)[:, None], 3, axis=1)
    t = np.broadcast_to(model.get_layer("t").thresholds().numpy(), (3, 5))
    thresholds = [[ceil(Fraction(float(v)) / d.scale) for v in row] for row in t]
    expected = [[int(c >= threshold) for c, row in zip(sample, thresholds) for threshold in row]
                for sample in codes.tolist()]
    assert graph(codes).tolist() == expected
    assert np.array_equal(graph.decode(graph(codes)), model.predict(codes * float(d.scale), verbose=0))
    merged = sum(len(row) - len({min(max(c, d.lo), d.hi + 1) for c in row}) for row in thresholds)
    assert (f"{merged} of 15 planes" in " ".join(graph.notes)) == (merged > 0)


@pytest.mark.parametrize("arguments", [(0,), (2, 1.0, 1.0), (2, 0.0, float("nan")), (2.5,), (2, float("-inf"), 0.0)])
def test_refuses(arguments):
    with pytest.raises(InputError, match="thermometer"):
        LearnedThermometer(*arguments)


def test_planes_of_an_image_that_coincide_are_merged():
    """Nine thresholds on a grid of four codes: at most five different planes a colour, at every pixel."""
    x = keras.Input((3, 2, 2))
    layer = LearnedThermometer(9, 0.0, 4.0)
    model = keras.Model(x, layer(x))
    graph = bf.lower(model, "ufixed<2,2>")
    planes = next(node for node in graph if node.op is bf.ir.Op.STEP)
    assert planes.shape[:2] == (3, 2) and planes.shape[2] <= 10 and graph.output.shape == (3, 2, 18)
    assert any("of 18 planes coincide with another and are merged" in note for note in graph.notes)
    codes = np.random.default_rng(0).integers(0, 4, (50, 3, 2, 2))
    assert np.array_equal(graph.decode(graph(codes)), model.predict(codes.astype(float), verbose=0))
