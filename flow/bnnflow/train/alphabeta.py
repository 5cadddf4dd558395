"""Weights in {alpha, beta}: the binary domain that survives pruning (SBNN, Schiavone et al., arXiv 2306.13515).

A weight is beta where its latent weight is 0 or more (a connection, "one") and alpha elsewhere. With few ones a sum is
(beta - alpha) * (sum over the ones) + alpha * (sum over all), and the second part is common to all outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import qkeras
import tensorflow as tf
import tf_keras as keras
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.train.proximal import Scheduled
from bnnflow.train.quantizers import Kernel, KernelQuantizer, Masked, kernels_of, snap

__all__ = ["AlphaBeta", "Budget", "TwoValued", "closed_form", "ones_share", "two_valued"]

LATENT = 1.5  # latent weights are clamped to [-1.5, 1.5], as in the authors' code
ENOUGH = 1e-4  # an excess of ones below this is none, as in the authors' code


@keras.utils.register_keras_serializable(package="bnnflow")
class AlphaBeta(Scheduled, KernelQuantizer):
    """Weights tau * sign(w) + phi with two learned scalars a layer: alpha = phi - tau, beta = phi + tau.

    Both are snapped to integers of up to 2^snapped times a power of two, straight-through, so that every sum is exact;
    the authors keep them real. They stay in the last fifth of a training, which is ours. `gradient` is that of the sign
    (PAIRS); theirs is EDE. `tau` and `phi` start at 1 and 0.
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
        """alpha or beta for every weight; the sums below are exact, as both are small integers times one unit."""
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

    For a set S of ones the best values are the means inside and outside, and the best S of a given size are the largest
    weights or the smallest ones (beta is then below alpha); so the best is found by one sort. `zeros` prescribes the
    share of weights that are alpha (rounded to a whole number of weights). Derived by us; the paper claims a closed
    form, whose text we have not.

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
    inner = ((k, k.quantizer.quantizer if isinstance(k.quantizer, Masked) else k.quantizer) for k in kernels_of(model))
    return [kernel for kernel, quantizer in inner if isinstance(quantizer, AlphaBeta)]


def ones_share(model: keras.Model) -> tf.Tensor:
    """(weights at beta) / (weights) over all kernels in {alpha, beta} of a model; gradient 1/(2 #weights) to each.

    Pruned connections count as weights and as none. Raises InputError where there is no such kernel.
    """
    kernels = _budgeted(model)
    if not kernels:
        raise InputError(f"model {model.name!r} has no kernel in {{alpha, beta}}; use kernel_quantizer=AlphaBeta()")
    ones: Any = 0.0
    for kernel in kernels:
        w = kernel.weights
        hard = tf.cast(w >= 0, w.dtype)
        counted = hard + (w - tf.stop_gradient(w)) / 2.0
        mask = kernel.quantizer.mask if isinstance(kernel.quantizer, Masked) else tf.ones_like(w)
        ones += tf.reduce_sum(counted * mask)
    return ones / float(sum(int(kernel.weights.shape.num_elements()) for kernel in kernels))


class Budget(keras.losses.Loss):
    """A task loss plus the push towards `target` ones in all of a model: L + lambda * relu(share - target).

    lambda = gamma * L / (excess * (1 - gamma)), without gradient, and 0 where the excess is below 1e-4: the penalty's
    value is always gamma/(1 - gamma) * L, and only its direction comes from the excess. One global budget. Source: the
    authors' code; their pairs (target, gamma) for CIFAR-10 are in docs/training.md.
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


# Layers that can take a kernel quantizer, and what they become.
QUANTISED: dict[type, Any] = {
    keras.layers.Dense: qkeras.QDense, keras.layers.Conv1D: qkeras.QConv1D, keras.layers.Conv2D: qkeras.QConv2D,
    qkeras.QDense: qkeras.QDense, qkeras.QConv1D: qkeras.QConv1D, qkeras.QConv2D: qkeras.QConv2D,
}


def two_valued(model: keras.Model, zeros: float | None = None, keep: Collection[str] = (), snapped: int = 5
               ) -> tuple[keras.Model, dict[str, TwoValued]]:
    """A model whose dense and convolution kernels are the nearest in {alpha, beta} (`closed_form`), without training.

    Layers that have a kernel quantizer and those in `keep` stay as they are. `zeros` is each layer's share of alpha.
    Returns the new model and, by layer, its values and squared error as they ship, snapped. Raises InputError for a
    layer to keep that is not there, and where nothing is left to quantise.
    """
    unknown = set(keep) - {layer.name for layer in model.layers}
    if unknown:
        raise InputError(f"keep: no layer {sorted(unknown)[0]!r} in model {model.name!r}; it has "
                         f"{', '.join(layer.name for layer in model.layers)}")
    wanted = [layer for layer in model.layers if type(layer) in QUANTISED and layer.name not in keep
              and getattr(layer, "kernel_quantizer", None) is None]
    if not wanted:
        raise InputError(f"model {model.name!r}: no dense or convolution layer without a kernel quantizer to quantise")

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer not in wanted:
            return type(layer).from_config(config)
        for key in ("kernel_constraint", "kernel_regularizer"):
            config[key] = None
        return QUANTISED[type(layer)].from_config({**config, "kernel_quantizer": AlphaBeta(snapped=snapped)})

    copy, found = keras.models.clone_model(model, clone_function=clone), {}
    for layer in model.layers:
        target = copy.get_layer(layer.name)
        if layer not in wanted:
            target.set_weights(layer.get_weights())
            continue
        kernel = layer.kernel.numpy()
        best = closed_form(kernel, zeros)
        quantizer = target.kernel_quantizer_internal
        target.kernel.assign(np.where(best.ones, 1.0, -1.0))
        if layer.use_bias:
            target.bias.assign(layer.bias)
        quantizer.tau.assign((best.beta - best.alpha) / 2)
        quantizer.phi.assign((best.beta + best.alpha) / 2)
        alpha, beta = (float(v) for v in quantizer.values())
        error = float(np.sum((kernel - np.where(best.ones, beta, alpha)) ** 2))
        found[layer.name] = TwoValued(best.ones, alpha, beta, error)
    return copy, found
