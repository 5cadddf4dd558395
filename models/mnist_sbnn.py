"""MNIST with sparse binary weights in {alpha, beta}: 784-256-256-10 behind one plane, 97 % of the weights alpha.

In the manner of SBNN (Schiavone et al., arXiv 2306.13515): one budget of ones for the whole network. In hardware each
neuron is a masked count, beside one count that all neurons of a layer share.
"""

from __future__ import annotations

from qkeras import QDense

from bnnflow.generation import keras
from bnnflow.models.mnist import INPUT_TYPE, data
from bnnflow.train import AlphaBeta, Binarize, LearnedThermometer
from bnnflow.train.saving import with_input_type

__all__ = ["INPUT_TYPE", "TRAINING", "build", "data"]

TRAINING = {"epochs": 25, "batch_size": 200, "learning_rate": 5e-3, "budget": {"target": 0.03, "gamma": 0.8}}


def build(width: int = 256, layers: int = 2, planes: int = 1, seed: int = 0) -> keras.Model:
    """784 pixels x `planes` - layers x width - 10 scores, which are sums without a batch norm."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((784,), name="pixels")
    h = LearnedThermometer(planes, learned=False, name="thermometer")(x)
    for k in range(1, layers + 1):
        h = QDense(width, kernel_quantizer=AlphaBeta(), use_bias=False, name=f"dense{k}")(h)
        h = keras.layers.BatchNormalization(momentum=0.9, name=f"norm{k}")(h)
        h = Binarize("ste", name=f"act{k}")(h)
    h = QDense(10, kernel_quantizer=AlphaBeta(tau=0.125), use_bias=False, name="scores")(h)
    return with_input_type(keras.Model(x, h, name="mnist_sbnn"), INPUT_TYPE)
