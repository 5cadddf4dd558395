"""MNIST through LUTs: neurons of six one-bit inputs, so that each is one LUT, and a count of neurons for every class.

Each of the 784 pixels has one plane, at half intensity, which is the pixel's highest bit. The neurons have six inputs,
to which dense layers are pruned while they train. The last layer's neurons belong to the classes in turn, and the score
of a class is the sum of its neurons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from qkeras import QDense, binary

from bnnflow.generation import keras
from bnnflow.models.mnist import INPUT_TYPE, data
from bnnflow.train import Binarize, LearnedThermometer, Masked, MultiBranch
from bnnflow.train.saving import with_input_type

__all__ = ["INPUT_TYPE", "TRAINING", "build", "data"]

TRAINING = {"epochs": 24, "batch_size": 500, "learning_rate": 2e-2,
            "prune": {"method": "fan_in", "inputs": 6, "start": 0.05, "end": 0.5, "layers": ["dense1", "dense2"]}}
SCALE = 0.125  # of the scores: a softmax of sums over some hundred neurons would saturate


def build(widths: Sequence[int] = (2000, 1000), planes: int = 1, seed: int = 0) -> keras.Model:
    """784 pixels x `planes` - widths - 10 scores; the layers dense1, dense2, ... are to be pruned to a fan-in of 6."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((784,), name="pixels")
    h = LearnedThermometer(planes, learned=False, name="thermometer")(x)
    for k, width in enumerate(widths, 1):
        # Pruning by size needs weights of several sizes, and they cost a LUT nothing.
        h = QDense(width, kernel_quantizer=Masked(MultiBranch(3)), use_bias=False, name=f"dense{k}")(h)
        h = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{k}")(h)
        h = Binarize("ste", name=f"act{k}")(h)
    groups = Masked(binary(alpha=SCALE))
    groups.set_mask(np.arange(widths[-1])[:, None] % 10 == np.arange(10))
    h = QDense(10, kernel_quantizer=groups, kernel_initializer="ones", use_bias=False, trainable=False,
               name="scores")(h)
    return with_input_type(keras.Model(x, h, name="mnist_lut"), INPUT_TYPE)
