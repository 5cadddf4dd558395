"""A fully binarised residual network behind a learned thermometer, for images of 32x32 and 96x96.

In the manner of the Generic Learned Thermometer (Nguyen and Guicquero, arXiv 2505.13462): binary planes of the pixels,
grouped convolutions, binary weights and activations, under 1 Mbit of weights. The text that we have does not describe
their topology; this one is ours, with the logic residuals of the same group's HEQ (arXiv 2501.04517). Every value
between the pixels and the logits is one bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qkeras import QActivation, QConv2D, QDense, binary

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.models.images import DATASETS, INPUT_TYPE, dataset_of, images
from bnnflow.train import ChannelSelect, LearnedThermometer, LogicAnd, LogicOr
from bnnflow.train.fit import Arrays
from bnnflow.train.saving import with_input_type

__all__ = ["DATASETS", "INPUT_TYPE", "MERGES", "TRAINING", "build", "data", "weight_bits"]

TRAINING = {"epochs": 40, "batch_size": 100, "learning_rate": 3e-3}
MERGES = {"or": LogicOr, "and": LogicAnd, "select": ChannelSelect}
# (channels as a multiple of the width, residual blocks) of each stage; between two stages is a pool.
STAGES = ((1, 1), (2, 1), (2, 2), (2, 1))
BODY = 32  # pixels on a side behind the stem
ACTIVATION = "binary_tanh"  # no gradient where it saturates


def data(dataset: str = "cifar10") -> Arrays:
    """x (n, size, size, 3) float32 pixels/256, labels (n,) of a data set (DATASETS); see `images`."""
    return images(dataset)


def build(dataset: str = "cifar10", planes: int = 8, width: int = 128, groups: int = 4,
          merges: Sequence[str] = ("or", "and", "select"), seed: int = 0) -> keras.Model:
    """size x size x 3 pixels/256 -> logits (classes,) of a data set (DATASETS).

    Each colour has `planes` thresholds. A 3x3 stem of `width` filters follows, pooled to 32x32, then residual blocks
    (STAGES). Their 3x3 convolutions have `groups` groups and their 1x1 convolutions two. The blocks take their merges
    (MERGES) from `merges` in turn.
    """
    images_of = dataset_of(dataset)
    _check(width, groups, merges)
    keras.utils.set_random_seed(seed)
    h = x = keras.Input((images_of.size, images_of.size, 3), name="pixels")
    h = LearnedThermometer(planes, per_channel=True, name="thermometer")(h)
    h = _conv(h, width, 3, 1, "stem")
    if images_of.size > BODY:
        h = keras.layers.MaxPooling2D(images_of.size // BODY, name="pool_stem")(h)
    h = _stages(h, width, groups, merges)
    h = keras.layers.GlobalAveragePooling2D(name="average")(h)
    h = QDense(images_of.classes, kernel_quantizer=binary(alpha=1), use_bias=False, name="logits")(h)
    h = keras.layers.BatchNormalization(momentum=0.9, name="norm_logits")(h)
    return with_input_type(keras.Model(x, h, name=f"glt_{dataset}"), INPUT_TYPE)


def weight_bits(model: keras.Model) -> int:
    """Bits of all kernels, one a weight."""
    return sum(int(layer.kernel.shape.num_elements()) for layer in model.layers if isinstance(layer, (QConv2D, QDense)))


def _check(width: int, groups: int, merges: Sequence[str]) -> None:
    if not merges or any(merge not in MERGES for merge in merges):
        raise InputError(f"merges {list(merges)}; use one or more of {', '.join(MERGES)}")
    if groups < 1 or width < 1 or width % groups or width % 2:
        raise InputError(f"width {width}, groups {groups}: the width must be a multiple of the groups and of 2")


def _stages(h: Any, width: int, groups: int, merges: Sequence[str]) -> Any:
    """The residual blocks of all STAGES, with pools between the stages and a convolution where channels change."""
    blocks = 0
    for k, (times, count) in enumerate(STAGES):
        if k:
            h = keras.layers.MaxPooling2D(name=f"pool{k}")(h)
        if h.shape[-1] != times * width:
            h = _conv(_shuffled(h, groups, f"widen{k}"), times * width, 3, groups, f"widen{k}")
        for _ in range(count):
            h = _block(h, groups, merges[blocks % len(merges)], f"block{blocks + 1}")
            blocks += 1
    return h


def _block(h: Any, groups: int, merge: str, name: str) -> Any:
    """Shuffle - grouped 3x3 - shuffle - grouped 1x1, merged with the input by logic: (..., C) -> (..., C)."""
    channels = h.shape[-1]
    inner = _conv(_shuffled(h, groups, f"{name}a"), channels, 3, groups, f"{name}a")
    inner = _conv(_shuffled(inner, groups, f"{name}b"), channels, 1, 2, f"{name}b")
    return MERGES[merge](name=f"{name}_{merge}")([h, inner])


def _conv(h: Any, filters: int, size: int, groups: int, name: str) -> Any:
    """Binary `same` convolution, batch norm, binary activation."""
    h = QConv2D(filters, size, padding="same", groups=groups, kernel_quantizer=binary(alpha=1), use_bias=False,
                name=f"conv_{name}")(h)
    h = keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{name}")(h)
    return QActivation(ACTIVATION, name=f"act_{name}")(h)


def _shuffled(h: Any, groups: int, name: str) -> Any:
    """Channel shuffle (ShuffleNet, arXiv 1707.01083): channel (g, c) goes to (c, g)."""
    height, width, channels = h.shape[1:]
    h = keras.layers.Reshape((height, width, groups, channels // groups), name=f"split_{name}")(h)
    h = keras.layers.Permute((1, 2, 4, 3), name=f"swap_{name}")(h)
    return keras.layers.Reshape((height, width, channels), name=f"shuffle_{name}")(h)
