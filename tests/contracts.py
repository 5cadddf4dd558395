"""One row a kernel quantizer, activation or layer; `test_contracts.py` holds every row to the same contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import qkeras
import tf_keras as keras

from flow.train import LearnedThermometer, Masked


def half_mask(shape: tuple[int, ...]) -> np.ndarray:
    """Every other connection, in a chequered pattern."""
    return np.indices(shape).sum(axis=0) % 2 == 0


def masked(quantizer: Any) -> Masked:
    layer = Masked(quantizer)
    layer.set_mask(half_mask((12, 9)))
    return layer


@dataclass(frozen=True)
class Kernel:
    """A kernel quantizer: how to make it, its levels, and where its gradient may be zero by design."""

    make: Callable[[], Any]
    levels: tuple[float, ...]


KERNELS = {
    "binary": Kernel(lambda: qkeras.binary(alpha=1), (-1, 1)),
    "binary_half": Kernel(lambda: qkeras.binary(alpha=0.5), (-0.5, 0.5)),
    "ternary": Kernel(lambda: qkeras.ternary(alpha=1), (-1, 0, 1)),
    "masked_binary": Kernel(lambda: masked(qkeras.binary(alpha=1)), (-1, 0, 1)),
    "masked_ternary": Kernel(lambda: masked("ternary(alpha=1)"), (-1, 0, 1)),
}


@dataclass(frozen=True)
class Activation:
    """An activation in QKeras' notation and the values it takes."""

    text: str
    levels: tuple[float, ...]


ACTIVATIONS = {
    "binary": Activation("binary(alpha=1)", (-1, 1)),
    "binary_use_01": Activation("binary(use_01=True, alpha=1)", (0, 1)),
    "binary_alpha_half": Activation("binary(alpha=.5)", (-0.5, 0.5)),
    "ternary": Activation("ternary(alpha=1)", (-1, 0, 1)),
    "ternary_threshold": Activation("ternary(alpha=1, threshold=.2)", (-1, 0, 1)),
    "quantized_relu": Activation("quantized_relu(3,1)", tuple(k / 4 for k in range(8))),
}

# Layers between a thermometer and a sum, or around one: (shape of one sample) -> layers.
LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], list[keras.layers.Layer]]]] = {
    "thermometer": ((6,), lambda: [LearnedThermometer(3)]),
    "thermometer_per_channel": ((6,), lambda: [LearnedThermometer(2, per_channel=True)]),
    "thermometer_image": ((3, 2, 2), lambda: [LearnedThermometer(2), keras.layers.Flatten()]),
    "dense": ((6,), lambda: [dense(5)]),
    "dense_bias": ((6,), lambda: [dense(5, use_bias=True)]),
    "dense_rank3": ((3, 4), lambda: [dense(5)]),
    "dense_activation": ((6,), lambda: [dense(5, activation="binary(alpha=1)")]),
    "batchnorm": ((6,), lambda: [dense(5), keras.layers.BatchNormalization()]),
    "batchnorm_first": ((6,), lambda: [keras.layers.BatchNormalization(), qkeras.QActivation("binary(alpha=1)")]),
    "flatten": ((3, 4), lambda: [dense(5), keras.layers.Flatten()]),
    "batchnorm_flatten": ((3, 4), lambda: [dense(5), keras.layers.BatchNormalization(), keras.layers.Flatten()]),
    "reshape": ((6,), lambda: [keras.layers.Reshape((3, 2))]),
    "reshape_then_batchnorm": ((6,), lambda: [dense(8), keras.layers.Reshape((4, 2)),
                                               keras.layers.BatchNormalization()]),
    "dropout": ((6,), lambda: [keras.layers.Dropout(0.5)]),
    "quantised_input": ((6,), lambda: [qkeras.QActivation("ternary(alpha=1)")]),
    "softmax": ((6,), lambda: [dense(5), keras.layers.Softmax()]),
    "activation_softmax": ((6,), lambda: [dense(5), keras.layers.Activation("softmax")]),
    "sigmoid": ((6,), lambda: [dense(5, use_bias=True, activation="sigmoid")]),
}
HEADS = ("softmax", "activation_softmax", "sigmoid")  # rows that end a network


def dense(units: int, **options: Any) -> qkeras.QDense:
    """A binary QDense without bias, unless told otherwise."""
    return qkeras.QDense(units, **{"kernel_quantizer": qkeras.binary(alpha=1), "use_bias": False, **options})


def shake(model: keras.Model, seed: int = 0) -> keras.Model:
    """Random weights, with batch norms of both signs; masks and thermometers keep theirs."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([rng.normal(0, 1, n), rng.normal(0, 1, n), rng.integers(-2, 3, n), rng.uniform(0, 4, n)])
        elif isinstance(layer, qkeras.QDense):
            layer.kernel.assign(rng.normal(0, 0.7, layer.kernel.shape))
            if layer.use_bias:
                # Fixed-point, so that logits are exact.
                layer.bias.assign(np.round(rng.normal(0, 16, layer.bias.shape)) / 16)
        elif isinstance(layer, LearnedThermometer):
            layer.gaps.assign(rng.normal(0, 1, layer.gaps.shape))
    return model
