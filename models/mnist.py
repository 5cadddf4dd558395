"""MNIST, 784-128-128-128-10: binary, ternary and hybrid, as in the hls4ml binary/ternary paper (arXiv 2003.06308).

Pixels are divided by 256, not 255, so that they are fixed-point numbers and every sum is exact.
"""

from __future__ import annotations

import numpy as np

from bnnflow.generation import keras
from bnnflow.models.common import KINDS, arrays, dense_layers
from bnnflow.train import LearnedThermometer
from bnnflow.train.fit import Arrays
from bnnflow.train.saving import with_input_type

__all__ = ["INPUT_TYPE", "KINDS", "TRAINING", "build", "data"]

INPUT_TYPE = "ufixed<8,0>"
TRAINING = {"epochs": 20, "batch_size": 100, "learning_rate": 1e-2}
PIXELS, LABELS = ((784,), (np.integer, np.floating)), ((), (np.integer,))
ROWS = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS}


def data() -> Arrays:
    """x (n, 784) float32 pixels/256, labels (n,): 60,000 to train with, 10,000 to test.

    They come from `mnist.npz` in the folder FLOW_DATA where that is set, else from Keras' loader, which downloads them
    once. Raises InputError where these do not have them.
    """
    x, y, x_test, y_test = arrays("mnist.npz", "MNIST", ROWS, lambda: sum(keras.datasets.mnist.load_data(), ()))
    x, x_test = ((images / 256).astype(np.float32) for images in (x, x_test))
    return x, y.astype(np.int64), x_test, y_test.astype(np.int64)


def build(kind: str = "binary", planes: int = 0, width: int = 128, layers: int = 3, seed: int = 0) -> keras.Model:
    """784 - layers x width - 10 logits of a kind (KINDS); with `planes` > 0, behind a thermometer of so many planes."""
    keras.utils.set_random_seed(seed)
    h = x = keras.Input((784,), name="pixels")
    if planes:
        h = LearnedThermometer(planes, name="thermometer")(h)
    return with_input_type(keras.Model(x, dense_layers(h, kind, layers * [width], 10), name="mnist"), INPUT_TYPE)
