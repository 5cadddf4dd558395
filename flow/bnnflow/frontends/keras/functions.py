"""What TensorFlow computes on tensors as functions of arrays, which the exact core takes; the only place for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.exact.functions import ArrayFunction, Uncomputable

__all__ = ["on_arrays", "shape_of"]


def on_arrays(function: Callable[[tf.Tensor], Any]) -> ArrayFunction:
    """A Keras call, quantizer or function of a tensor as a function of float32 arrays, computed on the CPU.

    It raises Uncomputable where TensorFlow or Keras refuses the tensor.
    """

    def apply(x: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            with tf.device("CPU:0"):
                return np.asarray(function(tf.constant(x)))
        except (tf.errors.OpError, ValueError, TypeError, ArithmeticError) as error:
            raise Uncomputable(str(error)) from error

    return apply


def shape_of(function: Callable[[tf.Tensor], Any], shape: Sequence[int]) -> tuple[int, ...]:
    """The shape that a function makes of one sample of this shape; raises Uncomputable."""
    return on_arrays(function)(np.zeros((1, *shape), np.float32)).shape[1:]
