"""Layers of ours. All of them lower exactly (`bnnflow.frontends.keras`: activations.py and merges.py)."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.train.schedules import Annealed

__all__ = ["ChannelSelect", "LearnedThermometer", "LogicAnd", "LogicOr"]

# Thresholds are multiples of (high - low) * 2^-16 in the forward pass. The last bits of softmax and cumsum differ
# between eager and graph execution; rounded away, they cannot move a threshold across an input code.
GRID_BITS = 16
FLOOR = 1e-3  # smallest relative gap of a start; without it coinciding quantiles give log(0)
HALVINGS = 2  # of the surrogate's half-width, evenly over the training
STARTS = ("uniform", "gaussian", "quantile")


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _compare(x: tf.Tensor, thresholds: tf.Tensor, width: tf.Tensor) -> Any:
    """+1 where x >= threshold, else -1; x (..., C, 1), thresholds (C or 1, T).

    Backward: a triangle of half-width `width` around each threshold. The gradient of a threshold is minus the sum over
    all pixels that use it, scaled by 1/sqrt(#pixels * T) so that it does not grow with image and batch.
    """
    distance = x - thresholds
    y = tf.where(distance >= 0, tf.ones_like(distance), -tf.ones_like(distance))

    def backward(g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None]:
        slope = g * tf.nn.relu(1.0 - tf.abs(distance) / width) / width
        to_x = tf.reduce_sum(slope, axis=-1, keepdims=True)
        summed = tf.reduce_sum(slope, axis=list(range(len(x.shape) - 2)))  # (C, T)
        pixels = tf.cast(tf.size(x) * tf.shape(thresholds)[1], slope.dtype)
        to_t = -tf.reduce_sum(summed, axis=0, keepdims=True) if thresholds.shape[0] == 1 else -summed
        return to_x, to_t / tf.sqrt(pixels), None

    return y, backward


@keras.utils.register_keras_serializable(package="bnnflow")
class LearnedThermometer(Annealed):
    """Compare every input with T learned, ordered thresholds: (..., C) float -> (..., C*T) in {-1, +1}.

    Plane k of channel c is output channel c*T + k and is +1 where x >= t[c, k]. Thresholds are
    t_k = low + (high - low) * sum_{j<=k} softmax(a)_j with a learned `gaps` a of T+1 entries, so they are strictly
    ordered inside (low, high) by construction, then rounded to a grid of (high - low) * 2^-16, straight-through.

    Our own form of a generic learned thermometer (Nguyen and Guicquero, arXiv 2505.13462, whose text gives no
    parametrisation). The gradient's triangle starts with a half-width of 2 (high - low)/T, which is halved twice over
    the training (`bnnflow.train.Progress`). With `learned=False`, and `adapt` where data decide, it is one of the fixed
    thermometers of DWN (uniform, Gaussian, distributive).
    """

    def __init__(self, planes: int, low: float = 0.0, high: float = 1.0, per_channel: bool = False,
                 learned: bool = True, **kwargs: Any):
        """`planes` T >= 1; inputs are expected in [low, high]; `per_channel` learns one set of T per channel.

        Raises InputError for another number of planes or a range that float32 does not hold.
        """
        super().__init__(**kwargs)
        if not (isinstance(planes, int) and 1 <= planes <= 4096):
            raise InputError(f"thermometer: planes must be an integer from 1 to 4096, got {planes!r}")
        if not (np.isfinite(low) and np.isfinite(high) and low < high and max(-low, high) < 2.0**100):
            raise InputError(f"thermometer: needs low < high, both below 2^100, got {low} and {high}")
        self.planes, self.low, self.high = planes, float(low), float(high)
        self.per_channel, self.learned = bool(per_channel), bool(learned)

    def build(self, input_shape: Any) -> None:
        """Make the gaps, uniform: (channels or 1, T + 1)."""
        channels = int(input_shape[-1]) if self.per_channel else 1
        self.gaps = self.add_weight(name="gaps", shape=(channels, self.planes + 1), initializer="zeros",
                                    trainable=self.learned)
        super().build(input_shape)

    def adapt(self, x: np.ndarray, start: str = "quantile") -> None:
        """Place the thresholds by the data x (n, ..., C), per channel or over all, with i = 1..T (STARTS).

        uniform: evenly in [low, high]; gaussian: mean + std * Phi^-1(i/(T+1)); quantile: the i/(T+1) quantiles of the
        distinct values, because in sparse images most pixels are one value and plain quantiles coincide. Thresholds
        keep a distance of at least 0.1 % of the range. Raises InputError for another start or other channels.
        """
        x = np.asarray(x, np.float64)
        if start not in STARTS:
            raise InputError(f"thermometer {self.name!r}: start {start!r}; use one of {', '.join(STARTS)}")
        if not self.built:
            self.build((None, *x.shape[1:]))
        columns = x.reshape(-1, x.shape[-1]).T if self.per_channel else x.reshape(1, -1)
        if len(columns) != self.gaps.shape[0] or not x.size or not np.isfinite(x).all():
            raise InputError(f"thermometer {self.name!r}: needs finite data of {self.gaps.shape[0]} channels to start "
                             f"from, got {x.shape}")
        t = np.stack([self._placed(column, start) for column in columns])
        edges = np.concatenate([np.full((len(t), 1), self.low), t, np.full((len(t), 1), self.high)], axis=1)
        gaps = np.maximum(np.diff(np.clip(edges, self.low, self.high), axis=1) / (self.high - self.low), FLOOR)
        self.gaps.assign(np.log(gaps / gaps.sum(axis=1, keepdims=True)).astype(np.float32))

    def _placed(self, x: np.ndarray, start: str) -> np.ndarray:
        """Thresholds (T,) for values (n,)."""
        shares = np.arange(1, self.planes + 1) / (self.planes + 1)
        if start == "uniform":
            return np.asarray(self.low + (self.high - self.low) * shares)
        if start == "gaussian":
            return np.asarray(x.mean() + x.std() * np.array([NormalDist().inv_cdf(p) for p in shares]))
        return np.asarray(np.quantile(np.unique(x), shares))

    def thresholds(self) -> tf.Tensor:
        """The thresholds in use, ascending: float32 (channels or 1, T)."""
        relative = tf.cumsum(tf.nn.softmax(self.gaps, axis=-1), axis=-1)[:, :-1]
        snapped = tf.round(relative * 2.0**GRID_BITS) * 2.0**-GRID_BITS
        relative += tf.stop_gradient(snapped - relative)
        return self.low + (self.high - self.low) * relative

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Compare: hard in the forward pass, with a triangle as surrogate gradient in the backward pass."""
        halvings = tf.floor(tf.minimum(self.progress, 0.999) * (HALVINGS + 1))
        width = 2.0 * (self.high - self.low) / self.planes * 2.0**-halvings
        planes = _compare(x[..., None], self.thresholds(), width)
        shape = tf.concat([tf.shape(x)[:-1], [x.shape[-1] * self.planes]], axis=0)
        return tf.ensure_shape(tf.reshape(planes, shape), self.compute_output_shape(x.shape))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """(..., C) -> (..., C*T)."""
        return (*input_shape[:-1], input_shape[-1] * self.planes)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "planes": self.planes, "low": self.low, "high": self.high,
                "per_channel": self.per_channel, "learned": self.learned}


class _Merge(keras.layers.Layer):
    """A layer that merges two or more inputs of one shape."""

    def build(self, input_shape: Any) -> None:
        """Check the inputs; raises InputError for fewer than two, or different shapes."""
        shapes = [tuple(s) for s in input_shape] if isinstance(input_shape, (list, tuple)) else []
        if len(shapes) < 2 or not all(isinstance(s, tuple) and s[1:] == shapes[0][1:] for s in shapes):
            raise InputError(f"{type(self).__name__} {self.name!r}: needs a list of two or more inputs of one shape, "
                             f"got {input_shape}")
        super().build(input_shape)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """That of the first input."""
        return tuple(input_shape[0])


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _highest(*xs: tf.Tensor) -> Any:
    """Elementwise maximum; backward, every input gets the gradient."""
    y = xs[0]
    for x in xs[1:]:
        y = tf.maximum(y, x)
    return y, lambda g: (g,) * len(xs)


@keras.utils.register_keras_serializable(package="bnnflow")
class LogicOr(_Merge):
    """OR of inputs of the same two values, the higher of which means true: [(..., C)] * n -> (..., C).

    The result is the inputs' maximum. The gradient goes straight through to every input.
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """True where any input is true."""
        return _highest(*inputs)


@keras.utils.register_keras_serializable(package="bnnflow")
class LogicAnd(_Merge):
    """AND of inputs of the same two values, the higher of which means true: [(..., C)] * n -> (..., C).

    The result is the inputs' minimum. The gradient goes straight through to every input.
    """

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """True where all inputs are true."""
        return -_highest(*(-x for x in inputs))


@keras.utils.register_keras_serializable(package="bnnflow")
class ChannelSelect(_Merge):
    """Each channel is taken from one of the inputs, and which one is learned: [(..., C)] * n -> (..., C).

    Channel c is that of input argmax(scores[:, c]), the first of equal ones; `scores` (n, C) starts small and random.
    The gradient of the scores is that of their softmax.
    """

    def build(self, input_shape: Any) -> None:
        """Make the scores."""
        super().build(input_shape)
        self.scores = self.add_weight(name="scores", shape=(len(input_shape), int(input_shape[0][-1])),
                                      initializer=keras.initializers.RandomNormal(stddev=0.1))

    def choice(self) -> tf.Tensor:
        """The number of the input that each channel is taken from: int64 (C,)."""
        return tf.argmax(self.scores, axis=0)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Select channels: hard in the forward pass, by the softmax of the scores in the backward pass."""
        soft = tf.nn.softmax(self.scores, axis=0)
        hard = tf.one_hot(self.choice(), len(inputs), axis=0, dtype=soft.dtype)
        parts = tf.unstack(hard + (soft - tf.stop_gradient(soft)))
        return tf.add_n([x * part for x, part in zip(inputs, parts)])
