"""Kernel quantizers of ours. Each is called with the latent weights and returns the weights that ship."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from qkeras.quantizers import get_quantizer

from bnnflow.errors import InputError
from bnnflow.generation import keras, leaf_layers, quantized_kernels, serialized
from bnnflow.train.proximal import Scheduled

__all__ = ["Binary", "Kernel", "KernelQuantizer", "Masked", "kernels_of", "snap", "unwrapped"]


class KernelQuantizer(keras.layers.Layer):
    """A kernel quantizer with everything that QKeras' layers read of it; subclasses add `call(weights)`.

    Exact lowering needs values that are integers times a power of two (`snap`).
    """

    alpha: Any = None  # no scale of QKeras' own
    bits: int = 1

    @property
    def unfinished(self) -> str:
        """Why the weights are not levels yet, or ""; see Scheduled."""
        return ""

    def max(self) -> float:
        """Latent weights are clipped to [-max, max]: QKeras makes a constraint and an initializer of this number."""
        return 1.0


def snap(values: tf.Tensor, bits: int = 6, axis: Any = None) -> tf.Tensor:
    """Round to integers of up to 2^bits times one power of two, over all or along `axis`; straight-through gradient.

    Real numbers that are learned go through this function, so that they train as they ship.
    """
    largest = tf.reduce_max(tf.abs(values), axis=axis, keepdims=axis is not None)
    # The power of two at or above the largest, by the bits of its float32: a logarithm may round to another one.
    stored = tf.bitcast(tf.maximum(tf.stop_gradient(largest), 2.0**-60), tf.int32)
    exponent = tf.bitwise.right_shift(stored + 0x7FFFFF, 23) - bits
    unit = tf.bitcast(tf.bitwise.left_shift(exponent, 23), tf.float32)
    return values + tf.stop_gradient(tf.round(values / unit) * unit - values)


@keras.utils.register_keras_serializable(package="bnnflow")
class Binary(Scheduled, KernelQuantizer):
    """Weights in {-1, +1} with any pair of forward and backward quantizers (`bnnflow.train.proximal.PAIRS`)."""

    def call(self, weights: Any) -> Any:
        """Binarise."""
        return self.binarize(weights)


@keras.utils.register_keras_serializable(package="bnnflow")
class Masked(KernelQuantizer):
    """A kernel quantizer with a pruning mask: `quantizer(w) * mask`, so a pruned connection stays 0.

    QKeras' own `binary` sends pruned zeros to +1 (w = 0 is the high level), which loses the mask.

    The mask is a non-trainable float32 weight of the kernel's shape, 1 where a connection exists and 0 where not; it is
    saved and loaded with the model. It is all ones until `set_mask`, which may be called before or after building.
    Gradients reach only the connections that exist.
    """

    def __init__(self, quantizer: Any, **kwargs: Any):
        """`quantizer` is any QKeras kernel quantizer: an object, a string or a serialised dict."""
        super().__init__(**kwargs)
        self.quantizer = get_quantizer(quantizer)
        if not callable(self.quantizer):
            raise InputError(f"Masked needs a kernel quantizer, got {quantizer!r}")
        # QKeras gives its own kernel quantizers this call when a layer takes them; do the same for a wrapped one.
        if hasattr(self.quantizer, "_set_trainable_parameter"):
            self.quantizer._set_trainable_parameter()
        self._pending: np.ndarray | None = None

    def build(self, input_shape: Any) -> None:
        """Make the mask weight; `input_shape` is the kernel's shape."""
        self.mask = self.add_weight(name="mask", shape=input_shape, initializer="ones", trainable=False)
        if isinstance(self.quantizer, keras.layers.Layer) and not self.quantizer.built:
            self.quantizer.build(input_shape)
        super().build(input_shape)
        if self._pending is not None:
            self.set_mask(self._pending)

    def set_mask(self, mask: np.ndarray) -> None:
        """Set which connections exist: array of the kernel's shape, of 0 and 1 or bool.

        Raises InputError for another shape or other values.
        """
        mask = np.asarray(mask)
        if not np.isin(mask, (0, 1)).all():
            raise InputError(f"mask: values must be 0 or 1, got {mask[~np.isin(mask, (0, 1))].flat[0]}")
        if not self.built:
            self._pending = mask
            return
        if mask.shape != tuple(self.mask.shape):
            raise InputError(f"mask: shape {mask.shape}, the kernel has {tuple(self.mask.shape)}")
        self.mask.assign(mask.astype(np.float32))

    def call(self, weights: Any) -> Any:
        """Quantise, then make the pruned connections 0."""
        return self.quantizer(weights) * self.mask

    def max(self) -> float:
        """Largest weight. QKeras reads this, `bits` and `alpha` to make the layer's constraint and initializer."""
        return float(self.quantizer.max()) if hasattr(self.quantizer, "max") else 1.0

    @property
    def unfinished(self) -> str:
        """That of the wrapped quantizer."""
        return str(getattr(self.quantizer, "unfinished", ""))

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Bits of a weight of the wrapped quantizer."""
        return int(getattr(self.quantizer, "bits", 1))

    @property
    def alpha(self) -> Any:
        """Scale of the wrapped quantizer."""
        return getattr(self.quantizer, "alpha", None)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments; the mask itself is a weight."""
        return {**super().get_config(), "quantizer": serialized(self.quantizer)}


def unwrapped(quantizer: Any) -> tuple[Any, Any]:
    """(quantizer, mask): of a `Masked` the kernel quantizer inside and, once it is built, its mask; of any other
    quantizer itself and None.
    """
    if isinstance(quantizer, Masked):
        return quantizer.quantizer, getattr(quantizer, "mask", None)
    return quantizer, None


class Kernel(NamedTuple):
    """A quantised kernel of a model: the layer, its latent weights, what quantises them."""

    layer: keras.layers.Layer
    weights: tf.Variable
    quantizer: Any


def kernels_of(model: keras.Model) -> Iterator[Kernel]:
    """Every kernel of a model (nested ones too) that has a quantizer, in the order of its layers."""
    for layer in leaf_layers(model):
        if layer.built:
            yield from (Kernel(layer, weights, quantizer) for _, weights, quantizer in quantized_kernels(layer))
