"""Weights in {alpha, beta}: the binary domain that survives pruning (SBNN, Schiavone et al., arXiv 2306.13515).

A weight is beta where its latent weight is 0 or more (a connection, "one") and alpha elsewhere. With few ones a sum is
(beta - alpha) * (sum over the ones) + alpha * (sum over all), and the second part is common to all outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.generation import keras, qkeras
from bnnflow.train.proximal import Scheduled
from bnnflow.train.quantizers import Kernel, KernelQuantizer, kernels_of, snap, unwrapped
from bnnflow.train.saving import input_type_of, with_input_type

__all__ = ["AlphaBeta", "Budget", "TwoValued", "closed_form", "ones_share", "two_valued"]

LATENT = 1.5  # latent weights are clamped to [-1.5, 1.5], as in the authors' code
ENOUGH = 1e-4  # an excess of ones below this is none, as in the authors' code


@keras.utils.register_keras_serializable(package="bnnflow")
class AlphaBeta(Scheduled, KernelQuantizer):
    """Weights tau * sign(w) + phi with two learned scalars a layer: alpha = phi - tau, beta = phi + tau.

    alpha and beta are snapped to integers of up to 2^snapped times a power of two, straight-through, so that every sum
    is exact, and are not trained in the last fifth of a training; both are our additions to the authors' code. The
    gradient of the sign is `gradient` (PAIRS), EDE as theirs. `tau` and `phi` are the values at the start.
    Source: the authors' code (robustml-eurecom/SBNN).
    """

    def __init__(self, gradient: str = "ede", snapped: int = 5, tau: float = 1.0, phi: float = 0.0, **kwargs: Any):
        """Raises InputError for values that are not finite, or for bits other than 1 to 8."""
        super().__init__(gradient=gradient, **kwargs)
        if not (isinstance(snapped, int) and 1 <= snapped <= 8):
            raise InputError(f"AlphaBeta: snapped must be 1 to 8 bits, got {snapped!r}")
        if not (np.isfinite(tau) and np.isfinite(phi)):
            raise InputError(f"AlphaBeta: tau and phi must be finite, got {tau} and {phi}")
        self.snapped, self.start = snapped, (float(tau), float(phi))

    def build(self, input_shape: Any) -> None:
        """Make tau and phi."""
        self.tau, self.phi = (self.add_weight(name=name, shape=(), initializer=keras.initializers.Constant(value))
                              for name, value in zip(("tau", "phi"), self.start))
        super().build(input_shape)

    def values(self) -> tf.Tensor:
        """alpha and beta as they ship: float32 (2,)."""
        return snap(self.settling(tf.stack([self.phi - self.tau, self.phi + self.tau])), self.snapped)

    def call(self, weights: Any) -> Any:
        """alpha or beta for every weight, float32; exact, as both are small integers times one power of two."""
        alpha, beta = tf.unstack(self.values())
        return (beta + alpha) / 2.0 + (beta - alpha) / 2.0 * self.binarize(weights)

    def max(self) -> float:
        """Clamp of the latent weights."""
        return LATENT

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "snapped": self.snapped, "tau": self.start[0], "phi": self.start[1]}


@dataclass(frozen=True)
class TwoValued:
    """Weights in {alpha, beta}: `ones` says where beta is, `error` is the squared distance to the given weights."""

    ones: NDArray[np.bool_]
    alpha: float
    beta: float
    error: float


def closed_form(weights: NDArray[Any], zeros: float | None = None) -> TwoValued:
    """The {alpha, beta} weights nearest to real ones, any shape, in the sum of squares; all in float64.

    For a set S of ones, the best beta is the mean of the weights in S and the best alpha that of the others. The best S
    of a given size holds the largest weights, or the smallest ones (beta is then below alpha). So one sort finds the
    best. `zeros` prescribes the share of weights that are alpha, rounded to a whole number of weights. The derivation
    is ours: the paper claims a closed form, but we do not have its text.

    Raises InputError for no weights, weights that are not finite, or a share outside 0 to 1.
    """
    w = np.asarray(weights, np.float64)
    if not w.size or not np.isfinite(w).all():
        raise InputError(f"closed_form: needs finite weights, got {w.size}, {int((~np.isfinite(w)).sum())} not finite")
    if zeros is not None and not 0 <= zeros <= 1:
        raise InputError(f"closed_form: zeros must be from 0 to 1, got {zeros}")
    order = np.argsort(-w.ravel(), kind="stable")
    sizes = np.arange(w.size + 1)
    inside = np.concatenate([[0.0], np.cumsum(w.ravel()[order])])
    outside = inside[-1] - inside
    # Error = sum w^2 - |S| beta^2 - (n - |S|) alpha^2 with the means as values, S the largest weights.
    explained = inside**2 / np.maximum(sizes, 1) + outside**2 / np.maximum(w.size - sizes, 1)
    size = int(np.argmax(explained)) if zeros is None else round((1 - zeros) * w.size)
    smallest = explained[w.size - size] > explained[size]  # S the smallest ones: the complement of the largest
    flat = np.zeros(w.size, bool)
    flat[order[w.size - size :] if smallest else order[:size]] = True
    ones = flat.reshape(w.shape)
    beta, alpha = (float(w[part].mean()) if part.any() else 0.0 for part in (ones, ~ones))
    return TwoValued(ones, alpha, beta, float(np.sum((w - np.where(ones, beta, alpha)) ** 2)))


def _budgeted(model: keras.Model) -> list[Kernel]:
    """The kernels in {alpha, beta} of a model, masked ones too."""
    return [kernel for kernel in kernels_of(model) if isinstance(unwrapped(kernel.quantizer)[0], AlphaBeta)]


def ones_share(model: keras.Model) -> tf.Tensor:
    """(weights at beta) / (weights) over all kernels in {alpha, beta} of a model; gradient 1/(2 #weights) to each.

    A pruned connection counts among the weights, and is not at beta. Raises InputError where there is no such kernel.
    """
    kernels = _budgeted(model)
    if not kernels:
        raise InputError(f"model {model.name!r} has no kernel in {{alpha, beta}}; use kernel_quantizer=AlphaBeta()")
    ones: Any = 0.0
    for kernel in kernels:
        w = kernel.weights
        hard = tf.cast(w >= 0, w.dtype)
        counted = hard + (w - tf.stop_gradient(w)) / 2.0
        mask = unwrapped(kernel.quantizer)[1]
        ones += tf.reduce_sum(counted if mask is None else counted * mask)
    return ones / float(sum(prod(kernel.weights.shape) for kernel in kernels))


class Budget(keras.losses.Loss):
    """A task loss plus the push towards `target` ones in all of a model: L + lambda * relu(share - target).

    lambda = gamma * L / (excess * (1 - gamma)), without gradient, and 0 where the excess is below 1e-4: the penalty's
    value is always gamma/(1 - gamma) * L, and only its direction comes from the excess. The budget is one for the whole
    model. Source: the authors' code; their pairs (target, gamma) for CIFAR-10 are in docs/training.md.
    """

    def __init__(self, task: Callable[[Any, Any], Any], model: keras.Model, target: float, gamma: float):
        """`task(y, predictions)` is any Keras loss. Raises InputError for a target or gamma outside [0, 1)."""
        super().__init__(name="budget")
        if not (0 <= target <= 1 and 0 <= gamma < 1):
            raise InputError(f"budget: needs a target in [0, 1] and a gamma in [0, 1), got {target} and {gamma}")
        self.task, self.model, self.target, self.gamma = task, model, float(target), float(gamma)
        ones_share(model)  # there must be something to count

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Scalar loss."""
        loss = tf.reduce_mean(self.task(y_true, y_pred))
        excess = tf.nn.relu(ones_share(self.model) - self.target)
        weight = self.gamma * loss / (tf.maximum(excess, ENOUGH) * (1.0 - self.gamma))
        return loss + tf.where(excess > ENOUGH, tf.stop_gradient(weight), 0.0) * excess


# Layers that `two_valued` quantises, and the layers that they become.
QUANTISED: dict[type, Any] = {
    keras.layers.Dense: qkeras.QDense, keras.layers.Conv1D: qkeras.QConv1D, keras.layers.Conv2D: qkeras.QConv2D,
    qkeras.QDense: qkeras.QDense, qkeras.QConv1D: qkeras.QConv1D, qkeras.QConv2D: qkeras.QConv2D,
}


def two_valued(model: keras.Model, zeros: float | None = None, keep: Collection[str] = (), snapped: int = 5
               ) -> tuple[keras.Model, dict[str, TwoValued]]:
    """A model whose dense and convolution kernels are the nearest in {alpha, beta} (`closed_form`), without training.

    Layers that have a kernel quantizer and those in `keep` stay as they are. `zeros` is each layer's share of alpha.
    Returns the new model and, by the layer's name, its weights as they ship (snapped) and their squared error. Raises
    InputError for a layer to keep that is not there, and where nothing is left to quantise.
    """
    wanted = _to_quantise(model, keep)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        return _quantised(layer, snapped) if layer in wanted else type(layer).from_config(layer.get_config())

    copy, found = keras.models.clone_model(model, clone_function=clone), {}
    for layer in model.layers:
        if layer in wanted:
            found[layer.name] = _take_nearest(copy.get_layer(layer.name), layer, zeros)
        elif layer.weights:
            copy.get_layer(layer.name).set_weights(layer.get_weights())
    said = input_type_of(model)
    return copy if said is None else with_input_type(copy, said), found


def _to_quantise(model: keras.Model, keep: Collection[str]) -> list[keras.layers.Layer]:
    """The dense and convolution layers without a kernel quantizer that are not in `keep`; InputError without any."""
    unknown = set(keep) - {layer.name for layer in model.layers}
    if unknown:
        raise InputError(f"keep: no layer {sorted(unknown)[0]!r} in model {model.name!r}; it has "
                         f"{', '.join(layer.name for layer in model.layers)}")
    wanted = [layer for layer in model.layers if type(layer) in QUANTISED and layer.name not in keep
              and getattr(layer, "kernel_quantizer", None) is None]
    if not wanted:
        raise InputError(f"model {model.name!r}: no dense or convolution layer without a kernel quantizer to quantise")
    return wanted


def _quantised(layer: keras.layers.Layer, snapped: int) -> keras.layers.Layer:
    """The layer of QKeras' that `layer` becomes, with a kernel in {alpha, beta} and without weights yet."""
    plain = {"kernel_constraint": None, "kernel_regularizer": None, "kernel_quantizer": AlphaBeta(snapped=snapped)}
    return QUANTISED[type(layer)].from_config({**layer.get_config(), **plain})


def _take_nearest(target: keras.layers.Layer, layer: keras.layers.Layer, zeros: float | None) -> TwoValued:
    """Give `target` the weights in {alpha, beta} nearest to those of `layer`, and its bias; what ships, snapped."""
    kernel = layer.kernel.numpy()
    best, quantizer = closed_form(kernel, zeros), target.kernel_quantizer_internal
    target.kernel.assign(np.where(best.ones, 1.0, -1.0))
    if layer.use_bias:
        target.bias.assign(layer.bias)
    quantizer.tau.assign((best.beta - best.alpha) / 2)
    quantizer.phi.assign((best.beta + best.alpha) / 2)
    alpha, beta = (float(v) for v in quantizer.values())
    error = float(np.sum((kernel - np.where(best.ones, beta, alpha)) ** 2))
    return TwoValued(best.ones, alpha, beta, error)
