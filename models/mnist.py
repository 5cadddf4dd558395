"""MNIST, 784-128-128-128-10 with binary weights and activations: the shape of the hls4ml binary/ternary paper.

Pixels are divided by 256, not 255, so that they are fixed-point numbers and every sum is exact.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tf_keras as keras
from qkeras import QActivation, QDense, binary

from flow.errors import InputError
from flow.train import LearnedThermometer
from flow.train.fit import Arrays

__all__ = ["INPUT_TYPE", "TRAINING", "build", "data"]

INPUT_TYPE = "ufixed<8,0>"
TRAINING = {"epochs": 20, "batch_size": 100, "learning_rate": 1e-2}


def data() -> Arrays:
    """x (n, 784) float32 pixels/256, labels (n,): 60,000 to train with, 10,000 to test.

    From `mnist.npz` in the folder FLOW_DATA where that is set, else from Keras' loader (which downloads it once).
    Raises InputError where neither has it.
    """
    folder = os.environ.get("FLOW_DATA")
    if folder:
        file = Path(folder) / "mnist.npz"
        if not file.is_file():
            raise InputError(f"no {file}; put mnist.npz there (x_train, y_train, x_test, y_test), or unset FLOW_DATA")
        with np.load(file, allow_pickle=False) as arrays:
            x, y, x_test, y_test = (arrays[k] for k in ("x_train", "y_train", "x_test", "y_test"))
    else:
        try:
            (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
        except Exception as error:  # the loader raises what its download raises
            raise InputError(f"cannot download MNIST ({error}); set FLOW_DATA to a folder with mnist.npz") from error
    flat = [(images.reshape(len(images), 784) / 256).astype(np.float32) for images in (x, x_test)]
    return flat[0], y.astype(np.int64), flat[1], y_test.astype(np.int64)


def build(planes: int = 0, width: int = 128, layers: int = 3, seed: int = 0) -> keras.Model:
    """784 - layers x width - 10; with `planes` > 0 behind a learned thermometer of so many planes."""
    keras.utils.set_random_seed(seed)
    h = x = keras.Input((784,), name="pixels")
    if planes:
        h = LearnedThermometer(planes, name="thermometer")(h)
    for k in range(layers):
        h = QDense(width, kernel_quantizer=binary(alpha=1), use_bias=False, name=f"dense{k + 1}")(h)
        h = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{k + 1}")(h)
        h = QActivation("binary(alpha=1)", name=f"act{k + 1}")(h)
    h = QDense(10, kernel_quantizer=binary(alpha=1), use_bias=False, name="logits")(h)
    h = keras.layers.BatchNormalization(momentum=0.9, name="norm_logits")(h)
    return keras.Model(x, h, name="mnist")
