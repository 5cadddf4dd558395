"""CNV, the VGG-like network of FINN (Umuroglu et al., arXiv 1612.07119) and BNN-PYNQ, for CIFAR-10.

32x32x3 - conv 64, 64, pool, 128, 128, pool, 256, 256 - dense 512, 512, 10; convolutions are 3x3 `valid`, a batch norm
is behind every sum. Pixels are divided by 256, so that they are fixed-point numbers and every sum is exact.
"""

from __future__ import annotations

from typing import Any

from qkeras import QActivation, QConv2D, QDense, binary, quantized_bits, ternary

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.models.images import INPUT_TYPE, images
from bnnflow.train.fit import Arrays
from bnnflow.train.saving import with_input_type

__all__ = ["INPUT_TYPE", "KINDS", "TRAINING", "build", "data"]

TRAINING = {"epochs": 40, "batch_size": 100, "learning_rate": 3e-3}

# name: (kernel quantizer, activation). Two bits have all four levels here, weights -1, -1/2, 0, 1/2 and activations 0,
# 1/2, 1, 3/2; those of BNN-PYNQ's Brevitas models are of a narrow range, -1, 0, 1, which is "ternary" here.
# All activations saturate: they pass no gradient outside their range.
KINDS = {
    "w1a1": (lambda: binary(alpha=1), "binary_tanh"),
    "w1a2": (lambda: binary(alpha=1), "quantized_relu(2,1)"),
    "w2a2": (lambda: quantized_bits(2, 0, alpha=1), "quantized_relu(2,1)"),
    "ternary": (lambda: ternary(alpha=1), "quantized_tanh(2,symmetric=1)"),
}


def data() -> Arrays:
    """CIFAR-10: x (n, 32, 32, 3) float32 pixels/256, labels (n,); see `images`."""
    return images("cifar10")


def build(kind: str = "w1a1", classes: int = 10, width: int = 64, seed: int = 0) -> keras.Model:
    """32x32x3 pixels/256 -> logits (classes,) of a kind (KINDS); convolutions of `width`, 2 and 4 times as many
    channels, dense layers of 8 times.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}; use one of {', '.join(KINDS)}")
    keras.utils.set_random_seed(seed)
    kernel, activation = KINDS[kind]

    def normed(h: Any, layer: keras.layers.Layer, name: str) -> Any:
        return keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{name}")(layer(h))

    h = x = keras.Input((32, 32, 3), name="pixels")
    for k, times in enumerate((1, 1, 2, 2, 4, 4), 1):
        conv = QConv2D(times * width, 3, kernel_quantizer=kernel(), use_bias=False, name=f"conv{k}")
        h = QActivation(activation, name=f"act_conv{k}")(normed(h, conv, f"conv{k}"))
        if k in (2, 4):
            h = keras.layers.MaxPooling2D(name=f"pool{k // 2}")(h)
    h = keras.layers.Flatten(name="flatten")(h)
    for k in (1, 2):
        dense = QDense(8 * width, kernel_quantizer=kernel(), use_bias=False, name=f"dense{k}")
        h = QActivation(activation, name=f"act_dense{k}")(normed(h, dense, f"dense{k}"))
    logits = QDense(classes, kernel_quantizer=kernel(), use_bias=False, name="logits")
    return with_input_type(keras.Model(x, normed(h, logits, "logits"), name=f"cnv_{kind}"), INPUT_TYPE)
