"""Where stock hls4ml 1.3.0 computes another network, case by case; each test is named after the letter of its cause.

Every case must be exact here: graph = Keras at every activation, C simulation = graph.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from tests.contracts import conv, dense, half_mask, shake

pytestmark = pytest.mark.hls


def jets(kernel: Callable[[], object], act: object, widths: tuple[int, ...] = (64, 32, 32, 5), inputs: int = 16,
         norm: bool = True, seed: int = 0, **options: object) -> keras.Model:
    """16-64-32-32-5: sum, batch norm, activation, and a sum with a batch norm at the end."""
    x = h = keras.Input((inputs,))
    for k, width in enumerate(widths):
        h = qkeras.QDense(width, kernel_quantizer=kernel(), **{"use_bias": False, **options})(h)
        h = keras.layers.BatchNormalization()(h) if norm else h
        h = qkeras.QActivation(act)(h) if k < len(widths) - 1 else h
    model = keras.Model(x, h)
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([np.abs(rng.normal(1, 0.3, n)), rng.normal(0, 0.3, n), rng.normal(0, 2, n),
                               rng.uniform(5, 20, n)])
        elif isinstance(layer, qkeras.QDense):
            layer.kernel.assign(rng.normal(0, 0.7, layer.kernel.shape))
            if layer.use_bias:
                layer.bias.assign(rng.normal(0, 1, layer.bias.shape))
    return model


def norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]


def binary() -> object:
    return qkeras.binary(alpha=1)


def ternary() -> object:
    return qkeras.ternary(alpha=1)


@pytest.fixture
def exact(simulated):
    """2,000 inputs on the ap_fixed<16,6> grid (or codes of another type) through Keras, graph and C."""

    def check(model: keras.Model, input_type: str = "fixed<16,6>") -> bf.ir.Graph:
        graph = bf.lower(model, input_type)
        d, rng = graph.input.domain, np.random.default_rng(1)
        spread = min(1024, d.hi)
        codes = np.clip(np.rint(rng.normal(0, spread, (2000, *graph.input.shape))), d.lo, d.hi).astype(np.int64)
        check_equal(graph, model, codes * float(d.scale))
        simulated(graph, codes)
        return graph

    return check


BIN, TER = "binary(alpha=1)", "ternary(alpha=1)"


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_negative_gammas(share, exact):
    model = jets(binary, BIN)
    rng = np.random.default_rng(2)
    for layer in norms(model):
        layer.gamma.assign(np.where(rng.random(layer.gamma.shape) < share, -1, 1) * layer.gamma.numpy())
    exact(model)


def test_a_zero_gammas(exact):
    model = jets(binary, BIN)
    for layer in norms(model)[:3]:
        gamma = layer.gamma.numpy()
        gamma[:2] = 0
        layer.gamma.assign(gamma)
    exact(model)


def test_b_ternary_weights_binary_activation(exact):
    exact(jets(ternary, BIN))


def test_c_sums_past_32_inputs(exact):
    exact(jets(binary, BIN))
    exact(jets(binary, BIN, (128, 128, 128, 10), 784), "ufixed<8,0>")


def test_d_quantized_bits_activation(exact):
    exact(jets(binary, "quantized_bits(4,1,alpha=1)"))
    exact(jets(binary, "quantized_bits(4,1)", norm=False))


def test_e_bias_in_binary_layers(exact):
    exact(jets(binary, BIN, use_bias=True))
    exact(jets(binary, BIN, norm=False, use_bias=True, bias_quantizer="quantized_bits(6,3,alpha=1)"))


def test_f_quantized_relu_behind_batch_norm(exact):
    exact(jets(binary, "quantized_relu(4,1)"))


def test_g_zero_variance(exact):
    model = jets(ternary, TER)
    for layer in norms(model):
        variance = layer.moving_variance.numpy()
        variance[::3] = 0
        layer.moving_variance.assign(variance)
    exact(model)


def test_h_use_01_and_alpha(exact):
    exact(jets(lambda: qkeras.binary(use_01=True, alpha=1), BIN))
    exact(jets(binary, "binary(use_01=True, alpha=1)"))
    exact(jets(binary, "binary(alpha=.5)"))


def test_i_stochastic_binary_activation(exact):
    exact(jets(lambda: qkeras.stochastic_binary(alpha=1), "stochastic_binary(alpha=1)"))
    exact(jets(lambda: qkeras.stochastic_ternary(alpha=1), "stochastic_ternary(alpha=1)"))


def test_j_softmax_layer(exact):
    for head in (keras.layers.Softmax(), keras.layers.Activation("softmax")):
        model = jets(binary, BIN)
        graph = exact(keras.Model(model.input, head(model.output)))
        assert "softmax dropped" in " ".join(graph.notes)


def test_k_mixed_weights_and_activations(exact):
    """What distributed arithmetic computed wrong or refused: binary activations, and binary weights with a relu."""
    exact(jets(binary, TER))
    exact(jets(binary, "quantized_relu(4,1)", norm=False))
    exact(jets(ternary, "quantized_relu(4,1)"))


def image(first: keras.layers.Layer, *then: keras.layers.Layer, channels: int = 4) -> keras.Model:
    """8x8 images: an activation, the layers, batch norm, activation, and a dense sum."""
    x = keras.Input((8, 8, channels))
    h = first(x)
    for layer in then:
        h = layer(h)
    h = qkeras.QActivation(BIN)(keras.layers.BatchNormalization()(h))
    return shake(keras.Model(x, dense(5)(keras.layers.Flatten()(h))))


@pytest.fixture
def same_as_keras():
    """2,000 inputs on the ap_fixed<16,6> grid through Keras and graph."""

    def check(model: keras.Model) -> bf.ir.Graph:
        graph, rng = bf.lower(model, "fixed<16,6>"), np.random.default_rng(1)
        codes = np.rint(rng.normal(0, 1024, (2000, *graph.input.shape))).clip(-(2**15), 2**15 - 1)
        check_equal(graph, model, codes / 1024)
        return graph

    return check


@pytest.mark.parametrize("act", [BIN, TER])
def test_l_depthwise(act, same_as_keras):
    for quantizer in (binary, ternary):
        same_as_keras(image(qkeras.QActivation(act), qkeras.QDepthwiseConv2D(
            3, depthwise_quantizer=quantizer(), use_bias=False), channels=8))


def test_m_groups(same_as_keras):
    same_as_keras(image(qkeras.QActivation(BIN), conv(8, 3, groups=4), channels=16))


@pytest.mark.parametrize("strides", [1, 2])
def test_n_padding_same_of_binary_data(strides, same_as_keras):
    same_as_keras(image(qkeras.QActivation(BIN), conv(8, 3, padding="same", strides=strides)))


def test_o_ternary_convolutions(same_as_keras):
    same_as_keras(image(qkeras.QActivation(TER), conv(8, 3, kernel_quantizer=ternary()), qkeras.QActivation(TER),
                        conv(8, 3, kernel_quantizer=ternary())))


@pytest.mark.parametrize("act", [BIN, TER, "quantized_relu(4,1)"])
def test_p_residual_adds_and_global_pools(act, same_as_keras):
    x = keras.Input((8, 8, 4))
    first = qkeras.QActivation(act)(keras.layers.BatchNormalization()(conv(8, 3, padding="same")(x)))
    second = qkeras.QActivation(act)(keras.layers.BatchNormalization()(conv(8, 3, padding="same")(first)))
    added = keras.layers.Add()([first, second])
    after = qkeras.QActivation(act)(keras.layers.BatchNormalization()(conv(8, 3)(added)))
    pooled = keras.layers.GlobalAveragePooling2D()(after)  # of 36 positions
    h = qkeras.QActivation(BIN)(keras.layers.BatchNormalization()(pooled))
    same_as_keras(shake(keras.Model(x, [dense(5)(h), qkeras.QActivation(TER)(dense(5)(pooled))])))


def test_q_pruned_binary_weights(exact):
    def masked() -> object:
        return bf.train.Masked(qkeras.binary(alpha=1))

    model = jets(masked, BIN)
    for layer in model.layers:
        if isinstance(layer, qkeras.QDense):
            layer.kernel_quantizer_internal.set_mask(half_mask(layer.kernel.shape))
    graph = exact(model)
    weights = [node.params for node in graph if node.op is bf.ir.Op.DOT]
    assert all((w.effective[~half_mask(w.levels.shape)] == 0).all() for w in weights)


def test_r_one_bit_inputs(exact):
    """ap_uint<1> data are bits here, not -1 and +1."""
    exact(jets(binary, "binary(use_01=True, alpha=1)"), "ufixed<1,1>")
    exact(jets(ternary, BIN), "fixed<1,1>")
