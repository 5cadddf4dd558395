"""Folded layers of QKeras: a batch norm within the kernel and bias of a sum, which Keras quantises as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.frontends.keras.kernels import parameters
from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import depthwise_kernel, keras, layers_here
from tests.contracts import bits, shake

CHANNELS = 67
FOLDED = {
    "conv": ((5, 5, 2), lambda **options: qkeras.QConv2DBatchnorm(CHANNELS, 3, kernel_quantizer=bits(8, 1), **options)),
    "depthwise": ((4, 4, CHANNELS), lambda **options: qkeras.QDepthwiseConv2DBatchnorm(
        2, depth_multiplier=2, depthwise_quantizer=bits(8, 1), **options)),
    **({"dense": ((6,), lambda **options: qkeras.QDenseBatchnorm(CHANNELS, kernel_quantizer=bits(8, 1), **options))}
       if layers_here("QDenseBatchnorm") else {}),
}


class Recorded:
    """A quantizer that keeps what it was given last."""

    def __init__(self, quantizer: Any) -> None:
        self.quantizer = quantizer
        self.given: Any = None

    def __call__(self, x: Any) -> Any:
        self.given = np.asarray(x)
        return self.quantizer(x)


def folded(kind: str, **options: Any) -> tuple[keras.Model, Any]:
    shape, make = FOLDED[kind]
    x, layer = keras.Input(shape), make(name="folded", **options)
    model = shake(keras.Model(x, qkeras.QActivation("quantized_relu(6,2)")(layer(x))))
    rng = np.random.default_rng(1)
    layer.batchnorm.moving_variance.assign(rng.uniform(.01, 4, layer.batchnorm.moving_variance.shape))
    layer.batchnorm.moving_mean.assign(rng.normal(0, 1, layer.batchnorm.moving_mean.shape))
    return model, layer


@pytest.mark.parametrize("mode", ["ema_stats_folding", "batch_stats_folding"])
@pytest.mark.parametrize("delay", [None, -1, 0, 100])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("kind", FOLDED)
def test_what_is_quantised_is_what_keras_quantises(kind, use_bias, delay, mode):
    """Every bit of it, whatever the folding mode and however far the layer was trained."""
    model, layer = folded(kind, use_bias=use_bias, ema_freeze_delay=delay, folding_mode=mode,
                          bias_quantizer=bits(8, 2))
    what = "depthwise" if kind == "depthwise" else "kernel"
    recorded = Recorded(getattr(layer, f"{what}_quantizer_internal")), Recorded(layer.bias_quantizer_internal)
    x = np.random.default_rng(0).integers(0, 16, (20, *model.inputs[0].shape[1:])).astype(np.float32) / 16
    for steps in (-1, 0, 5000):
        layer._iteration.assign(steps)
        setattr(layer, f"{what}_quantizer_internal", recorded[0])
        layer.bias_quantizer_internal = recorded[1]
        layer(x, training=False)
        setattr(layer, f"{what}_quantizer_internal", recorded[0].quantizer)
        layer.bias_quantizer_internal = recorded[1].quantizer
        ours = parameters("folded", layer, depthwise_kernel(layer) if kind == "depthwise" else layer.kernel)
        for mine, theirs in zip(ours, recorded, strict=True):
            assert np.array_equal(np.asarray(mine), theirs.given)
        check_equal(bf.lower(model, "ufixed<4,0>"), model, x)


@pytest.mark.parametrize("kind", FOLDED)
def test_plain_predict_is_the_graph(kind):
    """Also what a user sees of it, without the options of the reference."""
    model, _ = folded(kind, bias_quantizer=bits(8, 2))
    x = np.random.default_rng(0).integers(0, 16, (200, *model.inputs[0].shape[1:])).astype(np.float32) / 16
    graph = bf.lower(model, "ufixed<4,0>")
    last = keras_activations(model, [model.layers[-1].name], x)[model.layers[-1].name]
    model.compile("adam", "mse", jit_compile=False)
    assert np.array_equal(model.predict(x, verbose=0), last)
    assert np.array_equal(graph.decode(graph(graph.encode(x))), last)
