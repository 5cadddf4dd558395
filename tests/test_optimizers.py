"""Bop and its second-order form: against NumPy step by step, saved and resumed, learning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.frontends.keras.reading import custom_objects
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import LEGACY, WITHOUT_XLA, keras
from bnnflow.train import Binary, Bop, Bop2ndOrder, Masked
from tests.contracts import dense, masked

Float = np.ndarray
KINDS: dict[str, tuple[type[Bop], dict[str, Any]]] = {
    "bop": (Bop, {"gamma": 0.3, "threshold": 1e-3}),
    "second": (Bop2ndOrder, {"gamma": 0.3, "sigma": 0.2, "threshold": 0.4}),
}


def network(seed: int = 0) -> keras.Model:
    """A binary kernel, a masked one, one with latent weights (ternary), batch norm and bias."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((12,))
    h = dense(9, kernel_quantizer=Binary("bc"), name="flipped")(x)
    h = qkeras.QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h))
    h = keras.layers.Concatenate()([h, h, h])
    h = dense(9, kernel_quantizer=qkeras.ternary(alpha=1), name="latent")(h)
    h = keras.layers.Concatenate()([h, x])
    h = keras.layers.BatchNormalization()(keras.layers.Dense(12)(h))
    return keras.Model(x, dense(9, kernel_quantizer=masked(Binary("ste")), use_bias=True, name="masked")(h))


def kernels(model: keras.Model) -> list[tf.Variable]:
    return [model.get_layer(name).kernel for name in ("flipped", "masked")]


def gradients(model: keras.Model, step: int) -> list[Float]:
    rng = np.random.default_rng(step)
    return [rng.normal(0, 1, v.shape).astype(np.float32) for v in model.trainable_weights]


def bop_numpy(w: Float, steps: list[Float], gamma: float, threshold: float, sigma: float | None = None) -> list[Float]:
    """The weights after every step, float64."""
    m, v, found = np.zeros(w.shape), np.zeros(w.shape), []
    for g in steps:
        m = (1 - gamma) * m + gamma * g
        if sigma is not None:
            v = v + sigma * (g.astype(float) ** 2 - v)
        pull = m if sigma is None else m / (np.sqrt(v) + 1e-10)
        w = np.where(w * pull > threshold, -w, w)
        found.append(w)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_binary_kernels_flip_as_in_numpy_and_the_rest_is_adams(kind):
    cls, options = KINDS[kind]
    model = network()
    twin = keras.models.clone_model(model)
    optimizer = cls.of(model, learning_rate=0.01, **options)
    twin.set_weights(model.get_weights())
    adam = keras.optimizers.Adam(0.01, **WITHOUT_XLA)
    variables = model.trainable_weights
    places = [next(i for i, v in enumerate(variables) if v is kernel) for kernel in kernels(model)]
    steps = [gradients(model, k) for k in range(12)]
    wanted = {i: bop_numpy(variables[i].numpy(), [g[i] for g in steps], **options) for i in places}
    assert all(set(np.unique(variables[i])) == {-1, 1} for i in places), "of() takes the signs"
    flips = 0
    for k, g in enumerate(steps):
        before = [variables[i].numpy() for i in places]
        optimizer.apply_gradients(zip(map(tf.constant, g), variables))
        adam.apply_gradients(zip(map(tf.constant, g), twin.trainable_weights))
        for i, old in zip(places, before):
            assert np.array_equal(variables[i], wanted[i][k])
            flips += (variables[i].numpy() != old).sum()
        for i, (ours, theirs) in enumerate(zip(variables, twin.trainable_weights)):
            assert i in places or np.array_equal(ours, theirs)
    assert 100 < flips < 12 * 2 * 108 * 0.9, "some flip, some do not"


def test_gamma_may_follow_a_schedule():
    model = network()
    decay = keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.1, staircase=True)
    optimizer = Bop.of(model, gamma=decay, threshold=1e-3)
    (kernel, _), m = kernels(model), 0.0
    w = kernel.numpy()
    place = next(i for i, v in enumerate(model.trainable_weights) if v is kernel)
    for k in range(6):
        g = gradients(model, k)
        gamma = 0.5 * 0.1 ** (k // 2)
        m = (1 - gamma) * m + gamma * g[place].astype(float)
        w = np.where(w * m > 1e-3, -w, w)
        optimizer.apply_gradients(zip(map(tf.constant, g), model.trainable_weights))
        assert np.array_equal(kernel, w)


def data(count: int = 64) -> tuple[Float, Float]:
    rng = np.random.default_rng(1)
    return (rng.integers(0, 16, (count, 12)) / 16).astype(np.float32), rng.normal(0, 1, (count, 9)).astype(np.float32)


def train(model: keras.Model, steps: range) -> None:
    x, y = data()
    for k in steps:
        model.train_on_batch(*(a[k * 8 % 64: k * 8 % 64 + 8] for a in (x, y)))


@pytest.mark.filterwarnings("ignore::UserWarning")
# Keras 3 does not read the state of any optimizer from an .h5 file.
@pytest.mark.parametrize("way", ["checkpoint", ".keras", *([".h5"] if LEGACY else [])])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_bit_identical(kind, way, tmp_path):
    cls, options = KINDS[kind]

    def fresh() -> keras.Model:
        model = network()
        model.compile(cls.of(model, **options), keras.losses.MeanSquaredError(), jit_compile=False)
        return model

    whole, first = fresh(), fresh()
    train(whole, range(17))
    train(first, range(6))
    if way == "checkpoint":
        path = tf.train.Checkpoint(model=first, optimizer=first.optimizer).write(str(tmp_path / "at6"))
        second = fresh()
        second.optimizer.build(second.trainable_variables)
        tf.train.Checkpoint(model=second, optimizer=second.optimizer).read(path).assert_existing_objects_matched()
    else:
        first.save(tmp_path / f"at6{way}")
        second = keras.models.load_model(tmp_path / f"at6{way}", custom_objects=custom_objects())
        assert second.optimizer.get_config() == first.optimizer.get_config()
    assert int(second.optimizer.iterations) == 6
    train(second, range(6, 17))
    for a, b in zip(whole.weights, second.weights, strict=True):
        assert np.array_equal(a, b), a.name


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_round_trips_with_schedules(kind):
    cls, options = KINDS[kind]
    decay = keras.optimizers.schedules.CosineDecay(1e-2, 100)
    optimizer = cls([True, False], **{**options, "gamma": decay}, learning_rate=decay)
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert type(again) is cls and keras.optimizers.serialize(again) == config
    assert float(again.gamma(50)) == float(decay(50))


def test_trained_kernels_are_binary_and_masks_hold():
    model = network()
    model.compile(Bop.of(model, gamma=0.1, threshold=1e-4), "mse", jit_compile=False)
    starts = [k.numpy() for k in kernels(model)]
    train(model, range(30))
    for kernel, start in zip(kernels(model), starts):
        assert set(np.unique(kernel)) == {-1, 1} and not np.array_equal(kernel, start)
    mask = model.get_layer("masked").kernel_quantizer_internal.mask.numpy() != 0
    assert np.array_equal(kernels(model)[1].numpy()[~mask], starts[1][~mask]), "a pruned weight flipped"


def test_bad_use_is_refused():
    model = network()
    with pytest.raises(bf.InputError, match="no kernel to train of this model has a Binary quantizer"):
        Bop.of(keras.Sequential([keras.Input((4,)), dense(2)]))
    for options, message in [({"gamma": 0.0}, "gamma must be positive"), ({"gamma": 1.5}, "at most 1"),
                             ({"threshold": -1.0}, "threshold must be positive"), ({"weight_decay": 0.1}, "omit them"),
                             ({"threshold": float("nan")}, "threshold must be"), ({"use_ema": True}, "omit them")]:
        with pytest.raises(bf.InputError, match=message):
            Bop.of(model, **options)
    with pytest.raises(bf.InputError, match="sigma must be positive"):
        Bop2ndOrder.of(model, sigma=0.0)
    optimizer = Bop.of(model)
    model.get_layer("flipped").trainable = False
    with pytest.raises(bf.InputError, match="made for 10 variables, got gradients of 9"):
        optimizer.build(model.trainable_variables)
    assert sum(Bop.of(model).flips) == 1


def digits() -> tuple[Float, Float, Float, Float]:
    """scikit-learn's digits, 4-bit pixels; every fourth is for testing."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, test = np.minimum(x, 15).astype(np.float32) / 16, np.arange(len(x)) % 4 == 0
    return x[~test], y[~test], x[test], y[test]


def classifier() -> keras.Model:
    x = h = keras.Input((64,))
    for k in range(2):
        h = dense(64, kernel_quantizer=Binary("bc"), name=f"binary{k}")(h)
        h = qkeras.QActivation("binary(alpha=1)")(keras.layers.BatchNormalization(momentum=0.9)(h))
    h = dense(10, kernel_quantizer=Masked(Binary("bc")), name="last")(h)
    return keras.Model(x, keras.layers.BatchNormalization(momentum=0.9)(h))


@pytest.mark.training
@pytest.mark.parametrize(("kind", "options"), [
    pytest.param(Bop, {"gamma": 1e-2, "threshold": 1e-3}, marks=pytest.mark.long),
    (Bop2ndOrder, {"gamma": 1e-3, "sigma": 1e-2, "threshold": 1e-2}),
])
def test_digits_are_learned_without_latent_weights(kind, options):
    """Flipping weights learns: for every seed the network is better than the same one whose binary kernels stay random,
    while Adam trains the rest of both, and by far better on average.

    One run tells little: on another processor, which adds in another order, other weights flip.
    """
    x, y, x_test, y_test = digits()
    gains = []
    for seed in range(3):
        found = {}
        for flips in (False, True):
            keras.utils.set_random_seed(seed)
            model = classifier()
            optimizer = kind.of(model, learning_rate=1e-2, **{**options, **({} if flips else {"threshold": 1e9})})
            model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
            model.fit(x, y, batch_size=64, epochs=30, verbose=0)
            found[flips] = float((model.predict(x_test, verbose=0).argmax(axis=1) == y_test).mean())
            for k in range(2):
                assert set(np.unique(model.get_layer(f"binary{k}").kernel)) == {-1, 1}
        print(kind.__name__, seed, found)
        gains.append(found[True] - found[False])
    check_equal(bf.lower(model, "ufixed<4,0>"), model, x_test)
    assert min(gains) > 0.05 and np.mean(gains) > 0.15
