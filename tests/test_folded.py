"""Folded layers of QKeras: a batch norm within the kernel and the bias of a sum, which are quantised then."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.frontends.keras.kernels import parameters
from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import depthwise_kernel, keras, layers_here, leaf_layers
from bnnflow.ir import Op
from bnnflow.ir.ramps import ramps_of
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


def anomalies(bias_quantizer: Any) -> keras.Model:
    """The shape of autoencoders that find anomalies: 128-72-72-8-72-72-128, relus of 10 bits, folded batch norms.

    The legacy Keras has no folded dense layers, there the batch norms stand behind.
    """
    h = x = keras.Input((128,))
    for units in (72, 72, 8, 72, 72):
        if layers_here("QDenseBatchnorm"):
            h = qkeras.QDenseBatchnorm(units, kernel_quantizer=bits(6, 1), bias_quantizer=bias_quantizer)(h)
        else:
            h = qkeras.QDense(units, kernel_quantizer=bits(6, 1), bias_quantizer=bias_quantizer)(h)
            h = keras.layers.BatchNormalization()(h)
        h = qkeras.QActivation("quantized_relu(10,3)")(h)
    model = keras.Model(x, qkeras.QDense(128, kernel_quantizer=bits(6, 1), bias_quantizer=bits(10, 3))(h))
    rng = np.random.default_rng(0)
    for layer in leaf_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([rng.uniform(.5, 1.5, n), rng.normal(0, .5, n), rng.normal(0, 1, n),
                               rng.uniform(.5, 4, n)])
        elif hasattr(layer, "kernel"):
            layer.kernel.assign(rng.normal(0, .25, layer.kernel.shape))
    return model


@pytest.mark.hls
@pytest.mark.parametrize(("bias_quantizer", "options"), [
    (bits(10, 3), {"io_type": "io_stream"}), (None, {"io_type": "io_parallel", "strategy": "Resource"})])
def test_the_anomaly_detector(bias_quantizer, options, tmp_path):
    model = anomalies(bias_quantizer)
    x = np.random.default_rng(0).integers(-128, 128, (200, 128)).astype(np.float32) / 64
    graph = bf.lower(model, "fixed<8,2>")
    compared = check_equal(graph, model, x)
    assert sum(compared.values()) == 200 * (4 * 72 + 8)
    last = model.layers[-1].name
    assert np.array_equal(graph.decode(graph(graph.encode(x))), keras_activations(model, [last], x)[last])
    # Nearly all thresholds are ramps: as a list, a relu of 10 bits would have 1,023 of them.
    assert all(ramps_of(node.params, graph[node.inputs[0]].domain) for node in graph if node.op is Op.STEP)
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", reuse_factor=72, **options))
    codes = graph.encode(x)
    assert np.array_equal(bf.simulate(tmp_path / "prj", codes), graph(codes))
    facts = bf.estimate(tmp_path / "prj")
    assert facts.interval == (72, 72) and 0 < facts.lut < 100_000
