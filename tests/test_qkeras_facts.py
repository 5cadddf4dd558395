"""What QKeras computes, in both generations: the facts that lowering rests on (docs/keras.md)."""

from __future__ import annotations

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.frontends.keras.reading import custom_objects
from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import LEGACY, keras

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
GRID = np.sort(np.concatenate([np.linspace(-8, 8, 4097), np.random.default_rng(0).normal(0, 2, 4000)])).astype("f4")
LEVELS = {  # number of levels, the lowest, the next, the value at 0; all of them rise
    "binary(alpha=1)": (2, -1, 1, 1), "binary(alpha=.5)": (2, -.5, .5, .5), "binary()": (2, -1, 1, 1),
    "stochastic_binary(alpha=1)": (2, -1, 1, 1), "binary(use_01=True,alpha=1)": (2, 0, 1, 1),
    "ternary(alpha=1)": (3, -1, 0, 0), "ternary(threshold=.2,alpha=1)": (3, -1, 0, 0), "ternary()": (3, -1, 0, 0),
    "stochastic_ternary(alpha=1)": (3, -1, 0, 0), "quantized_relu(2,1)": (4, 0, .5, 0),
    "quantized_relu(4,1)": (16, 0, .125, 0), "quantized_relu(3,1,negative_slope=.25)": (5, -.5, 0, 0),
    "quantized_relu(4,2,use_sigmoid=1)": (9, 0, .5, 0), "quantized_bits(4,1,alpha=1)": (16, -2, -1.75, 0),
    "quantized_bits(3,0,alpha=1)": (8, -1, -.75, 0), "quantized_bits(4,1,keep_negative=0,alpha=1)": (16, 0, .125, 0),
    "quantized_tanh(3)": (8, -1, -.75, 0), "quantized_sigmoid(3)": (8, 0, .125, .5),
    "quantized_po2(4)": (16, -8, -4, .0625), "quantized_relu_po2(4)": (12, 2**-8, 2**-7, 2**-8),
    **({} if LEGACY else {"quantized_linear(4,1,alpha=1)": (15, -1.75, -1.5, 0)}),
}


def quantizer(text: str) -> object:
    return eval(text, vars(qkeras))


@pytest.mark.parametrize("text", LEVELS)
def test_the_levels_of_an_activation(text):
    y = np.asarray(quantizer(text)(tf.constant(GRID)))
    zeros = np.asarray(quantizer(text)(tf.constant([0.0, -0.0])))
    levels = np.unique(y)
    assert (len(levels), *levels[:2]) == LEVELS[text][:3]
    assert (zeros == LEVELS[text][3]).all() and (np.diff(y) >= 0).all()


@pytest.mark.parametrize(("text", "dyadic", "monotone"), [
    ("quantized_hswish(4,2)", True, False), ("binary(alpha=.3)", False, False), ("quantized_ulaw(4)", False, True)])
def test_activations_that_are_no_dyadic_thresholds(text, dyadic, monotone):
    y = np.asarray(quantizer(text)(tf.constant(GRID)))
    assert bool((y * 2**16 == np.rint(y * 2**16)).all()) == dyadic and bool((np.diff(y) >= 0).all()) == monotone


def test_values_past_float32():
    """x + (-x + q) is q up to 2^24 steps only."""
    assert np.asarray(qkeras.binary(alpha=1)(tf.constant([3e7, 1e6]))).tolist() == [0, 1]
    assert np.isnan(np.asarray(qkeras.quantized_bits(4, 1, alpha=1)(tf.constant([np.inf])))).all()


@pytest.mark.parametrize("make", [qkeras.binary, qkeras.ternary, lambda: qkeras.quantized_bits(4, 0)])
def test_a_kernel_without_alpha_is_scaled_by_powers_of_two(make):
    layer = qkeras.QDense(3, kernel_quantizer=make())
    layer.build((None, 4))
    assert layer.kernel_quantizer_internal.alpha == "auto_po2"


def test_means_are_divided():
    """By the number of taps, not multiplied by its inverse; outside of the image there is nothing."""
    rng = np.random.default_rng(0)
    for taps in (3, 5, 7, 9, 11):
        x = rng.integers(-500, 500, (200, taps, 1)).astype(np.float32)
        y = np.asarray(keras.layers.GlobalAveragePooling1D()(x))[:, 0]
        assert (y == x.sum(axis=(1, 2)) / np.float32(taps)).all()
    ones = -np.ones((1, 3, 3, 1), np.float32)
    for layer in (keras.layers.AveragePooling2D, keras.layers.MaxPooling2D):
        assert (np.asarray(layer(2, padding="same")(ones)) == -1).all()


def test_the_quantizers_of_a_batch_norm():
    """Powers of two; a negative gamma becomes a tiny positive one."""
    norm = qkeras.QBatchNormalization()
    norm.build((None, 3))
    gamma = np.asarray(norm.gamma_quantizer_internal(tf.constant([-1.0, -0.3, 0.7])))
    assert gamma[2] == 0.5 and (gamma[:2] == 2.0**-32).all()


def test_ties_of_the_sign():
    assert np.asarray(qkeras.binary_tanh(tf.constant([0.0, -0.0, 1e-6]))).tolist() == [-1, -1, 1]
    assert np.asarray(qkeras.binary_sigmoid(tf.constant([0.0, -0.0, 1e-6]))).tolist() == [0, 0, 1]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_quantizer_as_an_object_in_a_file(suffix, tmp_path):
    """QKeras 0.9 cannot read one back from an archive."""
    x = keras.Input((4,))
    layer = qkeras.QActivation(qkeras.quantized_relu(4, 1))
    keras.Model(x, layer(x)).save(tmp_path / f"net{suffix}")

    def read() -> keras.Model:
        return keras.models.load_model(tmp_path / f"net{suffix}", custom_objects=custom_objects(), compile=False)

    if LEGACY and suffix == ".keras":
        with pytest.raises(TypeError):
            read()
    else:
        data = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
        assert np.array_equal(read()(data), layer(data))


def test_predict_takes_no_xla():
    """Whose batch norms have other last bits, so that codes at ties would flip; `compile` can still ask for it."""
    rng, x = np.random.default_rng(0), keras.Input((16,))
    norm = keras.layers.BatchNormalization()
    h = norm(qkeras.QDense(32, kernel_quantizer="ternary(alpha=1)", use_bias=False)(x))
    model = keras.Model(x, [h, qkeras.QActivation("quantized_bits(5,2,alpha=1)")(h)])
    norm.set_weights([rng.normal(1, .3, 32), rng.normal(0, .3, 32), rng.normal(0, 1, 32), rng.uniform(.5, 2, 32)])
    data = (rng.integers(-16, 16, (500, 16)) / 8).astype(np.float32)
    eager = [np.asarray(y) for y in model(data, training=False)]
    model.compile("adam", "mse")
    assert all(np.array_equal(y, z) for y, z in zip(model.predict(data, verbose=0), eager))
    compiled = tf.function(lambda t: model(t, training=False), jit_compile=True)(data)
    assert (np.asarray(compiled[0]) != eager[0]).any()


@pytest.mark.parametrize("name", ["hard_sigmoid", "sigmoid", "tanh", "elu", "softplus", "relu"])
def test_the_reference_is_layer_by_layer(name):
    """The hard_sigmoid of Keras 3 divides by 6, of which TensorFlow's optimizer would make a product."""
    x = keras.Input((1,))
    model = keras.Model(x, keras.layers.Activation(name, name="a")(x))
    data = np.linspace(-4, 4, 4096, dtype=np.float32)[:, None]  # whole vectors, of which no last bit differs
    assert np.array_equal(keras_activations(model, ["a"], data, 4096)["a"], np.asarray(model.layers[-1](data)))


@pytest.mark.skipif(LEGACY, reason="QKeras 0.9 has no quantized_linear")
@pytest.mark.parametrize("alpha", ["1", "'auto_po2'"])
def test_quantized_linear_of_qkeras_v3(alpha):
    """As kernel and, with a fixed scale, as activation."""
    rng, x = np.random.default_rng(0), keras.Input((8,))
    layer = qkeras.QDense(5, kernel_quantizer=f"quantized_linear(4,0,alpha={alpha})", use_bias=False)
    model = keras.Model(x, qkeras.QActivation("quantized_linear(4,1,alpha=1)")(layer(x)))
    layer.set_weights([rng.normal(0, .5, (8, 5))])
    check_equal(bf.lower(model, "fixed<6,2>"), model, rng.integers(-32, 32, (500, 8)) / 16)
