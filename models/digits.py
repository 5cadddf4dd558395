"""scikit-learn's digits (8x8 pixels of 0..16, 10 classes): thermometer input, a binary and a pruned binary layer.

The data come with scikit-learn's wheel, so this network trains anywhere in well under a minute.
"""

from __future__ import annotations

import numpy as np
from qkeras import QActivation, QDense, binary

from bnnflow.errors import needed_for
from bnnflow.generation import EXTRA, keras
from bnnflow.train import LearnedThermometer, Masked
from bnnflow.train.fit import Arrays
from bnnflow.train.saving import with_input_type

with needed_for("the digits", EXTRA):
    from sklearn.datasets import load_digits

__all__ = ["INPUT_TYPE", "TRAINING", "build", "data"]

INPUT_TYPE = "ufixed<5,1>"  # pixels 0, 1/16, ..., 1
TRAINING = {"epochs": 40, "batch_size": 32, "learning_rate": 5e-3}


def data(seed: int = 0) -> Arrays:
    """x (n, 64) float32 in [0, 1], labels (n,); 1,437 images to train with and 360 to test."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(x))
    cut = len(x) - 360
    return x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]]


def build(planes: int = 3, width: int = 64, keep: float = 0.5, seed: int = 0) -> keras.Model:
    """64 pixels x `planes` - width - width - 10; the second layer keeps a random `keep` of its connections."""
    keras.utils.set_random_seed(seed)
    pruned = Masked(binary(alpha=1))
    pruned.set_mask(np.random.default_rng(seed).random((width, width)) < keep)
    x = keras.Input((64,), name="pixels")
    h = LearnedThermometer(planes, name="thermometer")(x)
    for name, quantizer in (("dense1", binary(alpha=1)), ("dense2", pruned)):
        h = QDense(width, kernel_quantizer=quantizer, use_bias=False, name=name)(h)
        h = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{name}")(h)
        h = QActivation("binary(alpha=1)", name=f"act_{name}")(h)
    h = QDense(10, kernel_quantizer=binary(alpha=1), use_bias=False, name="dense3")(h)
    h = keras.layers.BatchNormalization(momentum=0.9, name="norm_dense3")(h)
    return with_input_type(keras.Model(x, h, name="digits"), INPUT_TYPE)
