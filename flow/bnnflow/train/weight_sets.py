"""Kernel quantizers with weights of two values a filter, of balanced, one-sided or ternary ones, or of odd integers.

All yield integers times one power of two, so that they lower exactly and train as they ship. Where the papers have real
scales, ours are snapped inside the forward pass (`snap`). A scale that all weights of a filter share could also move
behind the sum, as a real number (the real-scaled class of docs/architecture.md); that is not done here.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt, pi, prod
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.train.proximal import Pair, Scheduled
from bnnflow.train.quantizers import KernelQuantizer, kernels_of, snap, unwrapped
from bnnflow.train.schedules import HARD_FROM, Annealed

__all__ = ["RBNN", "TTQ", "TWN", "AdaBin", "BiPer", "MultiBranch", "Rotations", "SiMaN", "SignedBinary"]

TINY = 1e-12  # added to a variance, so that a filter of equal weights has a gradient


class _PerFilter(KernelQuantizer):
    """A quantizer that treats every filter of a kernel by itself.

    The last `axes` axes number the filters: 1 for dense layers and convolutions; 2 for depthwise kernels, of shape
    (rows, columns, channels, multiplier), with a filter for each channel and multiplier; 0 makes it one filter.
    """

    bits = 8  # only QKeras' initializer reads it, which spreads the weights of coarser quantizers

    def __init__(self, axes: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        if axes not in (0, 1, 2):
            raise InputError(f"{type(self).__name__}: axes must be 0, 1 or 2, got {axes!r}")
        self.axes = int(axes)

    def build(self, input_shape: Any) -> None:
        """Check the kernel's shape; raises InputError where `axes` leaves no weights in a filter."""
        if len(input_shape) <= self.axes:
            raise InputError(f"{type(self).__name__}: axes={self.axes} leaves no weights in a filter of a kernel of "
                             f"shape {tuple(input_shape)}; use 1, or 2 for depthwise kernels")
        super().build(input_shape)

    def _mean(self, values: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(values, axis=self._within(values), keepdims=True)

    def _within(self, values: tf.Tensor) -> list[int]:
        return list(range(len(values.shape) - self.axes))

    def _columns(self, values: tf.Tensor) -> tf.Tensor:
        """A kernel as (weights of a filter, filters)."""
        return tf.reshape(values, (-1, prod(values.shape[len(values.shape) - self.axes:])))

    def _moments(self, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Mean and standard deviation (population) of every filter."""
        mean = self._mean(weights)
        return mean, tf.sqrt(self._mean((weights - mean) ** 2) + TINY)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "axes": self.axes}


class _Scaled(_PerFilter):
    """A per-filter quantizer with scales: integers of up to 2^snapped times one power of two for the whole kernel."""

    def __init__(self, snapped: int = 5, **kwargs: Any):
        super().__init__(**kwargs)
        if not (isinstance(snapped, int) and 1 <= snapped <= 8):
            raise InputError(f"{type(self).__name__}: snapped must be 1 to 8 bits, got {snapped!r}")
        self.snapped = snapped

    def _snap(self, scales: tf.Tensor, offsets: tf.Tensor | None = None) -> tf.Tensor:
        """Positive scales, at least one unit each, stacked with offsets of the same unit; straight-through gradient."""
        both = scales[None] if offsets is None else tf.stack([scales, offsets])
        least = tf.reduce_max(tf.abs(both)) * 1.25 * 2.0**-self.snapped  # between 0.6 and 1.25 units
        raised = scales + tf.stop_gradient(tf.maximum(scales, least) - scales)
        return snap(tf.concat([raised[None], both[1:]], axis=0), self.snapped)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "snapped": self.snapped}


def _through(weights: tf.Tensor, hard: tf.Tensor, slope: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
    """`hard` with the gradient slope(g) to `weights`."""

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def forward(w: tf.Tensor) -> Any:
        return tf.stop_gradient(hard), slope

    return forward(tf.convert_to_tensor(weights))


@keras.utils.register_keras_serializable(package="bnnflow")
class AdaBin(Scheduled, _Scaled):
    """Two values a filter, beta - alpha and beta + alpha: alpha * F((w - beta) / alpha) + beta.

    beta is the mean of the filter's latent weights, alpha their standard deviation. Both are snapped outside F, where
    they make the values, and real inside.
    Backward: B of `gradient` (EDE in the authors' code) between the derivatives of mean and deviation.
    Source: AdaBin (ECCV 2022), the authors' code (huawei-noah/Efficient-Computing); the snapping is ours. Its
    activations are not built.
    """

    def __init__(self, gradient: str = "ede", snapped: int = 5, axes: int = 1, **kwargs: Any):
        """Raises InputError for an unknown gradient (PAIRS), `snapped` other than 1 to 8 bits, `axes` not 0, 1 or 2."""
        super().__init__(gradient=gradient, snapped=snapped, axes=axes, **kwargs)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> the same shape."""
        beta, alpha = self._moments(weights)
        scale, offset = tf.unstack(self._snap(alpha, beta))
        return scale * self.binarize((weights - beta) / alpha) + offset


@keras.utils.register_keras_serializable(package="bnnflow")
class SiMaN(_PerFilter):
    """+1 for the half of a filter whose standardised weights are largest in magnitude, -1 for the other half.

    Every filter is balanced, the odd weight being +1; of equal magnitudes the later one is the larger. Backward:
    straight-through from the binary weight to the magnitude of the standardised one, and through the standardisation.
    Source: SiMaN, the authors' code (lmbxmu/SiMaN). A batch norm takes the place of its learned scale a filter; its
    standardised inputs are not built, see docs/training.md.
    """

    def __init__(self, axes: int = 1, **kwargs: Any):
        """Raises InputError for `axes` other than 0, 1 or 2."""
        super().__init__(axes=axes, **kwargs)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> {-1, +1} of the same shape."""
        mean, deviation = self._moments(weights)
        standard = (weights - mean) / deviation
        columns = self._columns(tf.abs(standard))
        rank = tf.argsort(tf.argsort(columns, axis=0, stable=True), axis=0, stable=True)
        hard = tf.where(rank >= columns.shape[0] // 2, 1.0, -1.0)
        return _through(standard, tf.reshape(hard, weights.shape), lambda g: g * tf.sign(standard))


@keras.utils.register_keras_serializable(package="bnnflow")
class RBNN(Scheduled, _PerFilter):
    """Signs of rotated weights: F(w + |sin(theta)| (R1' w R2 - w)) of standardised filters w, reshaped to (a, b).

    R1 (a, a) and R2 (b, b) are orthogonal, shared by all filters of a kernel and not trained: they are the identity
    until `solve`, which the callback `Rotations` calls once an epoch, and are saved with the model. a*b is the size of
    a filter, a the largest divisor up to its root. `theta` is learned, one a filter, from pi/2, as in the authors'
    code; there its gradient is 0 but for float32's rounding of pi.

    Backward: B of `gradient` ("rbnn") and the derivatives of rotation and standardisation. At inference a rotation
    costs nothing. Source: RBNN (NeurIPS 2020), the authors' code (lmbxmu/RBNN). A batch norm takes the place of its
    learned scale a filter.
    """

    def __init__(self, gradient: str = "rbnn", axes: int = 1, **kwargs: Any):
        """Raises InputError for an unknown gradient (PAIRS), or `axes` other than 0, 1 or 2."""
        super().__init__(gradient=gradient, axes=axes, **kwargs)

    def build(self, input_shape: Any) -> None:
        """Make R1, R2 and theta."""
        super().build(input_shape)
        filters = prod(input_shape[len(input_shape) - self.axes:])
        size = prod(input_shape) // filters
        a = max(k for k in range(1, isqrt(size) + 1) if size % k == 0)
        self.left, self.right = (self.add_weight(name=name, shape=(n, n), initializer="identity", trainable=False)
                                 for name, n in (("left", a), ("right", size // a)))
        self.theta = self.add_weight(name="theta", shape=(filters,), initializer=keras.initializers.Constant(pi / 2))

    def _matrices(self, weights: tf.Tensor) -> tf.Tensor:
        """Standardised filters as matrices: (filters, a, b)."""
        mean, deviation = self._moments(weights)
        columns = self._columns((weights - mean) / deviation)
        return tf.reshape(tf.transpose(columns), (-1, self.left.shape[0], self.right.shape[0]))

    def call(self, weights: Any) -> Any:
        """float32 kernel -> {-1, +1} of the same shape."""
        w = self._matrices(weights)
        rotated = tf.matmul(tf.matmul(self.left, w, transpose_a=True), self.right)
        u = w + tf.abs(tf.sin(self.theta))[:, None, None] * (rotated - w)
        signs = tf.transpose(tf.reshape(self.binarize(u), (u.shape[0], -1)))
        return tf.reshape(signs, weights.shape)

    def solve(self, weights: Any, rounds: int = 3) -> None:
        """Turn R1 and R2 so that sum |R1' w R2 - sign(R1' w R2)|^2 falls: `rounds` of signs, R1, R2 in turn.

        With the signs and one of them fixed, the other is the orthogonal factor of a polar decomposition, by SVD.
        """
        w = np.asarray(self._matrices(tf.convert_to_tensor(weights)), np.float64)
        left, right = self.left.numpy().astype(np.float64), self.right.numpy().astype(np.float64)
        for _ in range(rounds):
            signs = np.where(left.T @ w @ right >= 0, 1.0, -1.0)
            left = _polar((w @ right @ signs.transpose(0, 2, 1)).sum(axis=0))
            right = _polar((w.transpose(0, 2, 1) @ left @ signs).sum(axis=0))
        self.left.assign(left)
        self.right.assign(right)


def _polar(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The orthogonal R with the largest trace(R' matrix)."""
    u, _, v = np.linalg.svd(matrix)
    return np.asarray(u @ v)


class Rotations(keras.callbacks.Callback):
    """Solves the rotations of all RBNN kernels every `steps` steps, before a step; in the authors' code once an epoch.

    It counts the optimizer's steps, so that a resumed run solves them at the same steps.
    """

    def __init__(self, steps: int):
        """Raises InputError for fewer than one step."""
        super().__init__()
        if steps < 1:
            raise InputError(f"Rotations: steps must be 1 or more, got {steps!r}")
        self.steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Solve."""
        if int(self.model.optimizer.iterations) % self.steps:
            return
        for kernel in kernels_of(self.model):
            quantizer, _ = unwrapped(kernel.quantizer)
            if isinstance(quantizer, RBNN):
                quantizer.solve(kernel.weights)


def _sine_pair(omega: float) -> Pair:
    """The pair sin(omega u) and its derivative.

    Its hard form, the sign of the sine, is computed from the number of the half wave: the last bit of a sine could
    change a sign.
    """

    def forward(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
        return tf.sin(omega * u)

    def backward(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
        return omega * tf.cos(omega * u)

    def hard(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
        return 1.0 - 2.0 * tf.math.floormod(tf.floor(u * (omega / pi)), 2.0)

    return Pair(forward, backward, True, "BiPer (arXiv 2404.01278)", soft=True, hard=hard)


@keras.utils.register_keras_serializable(package="bnnflow")
class BiPer(Scheduled, KernelQuantizer):
    """Signs of a sine, sign(sin(omega w)): sin(omega w) itself until HARD_FROM of the training, then its sign.

    Backward, in both stages: omega cos(omega w). Source: BiPer (arXiv 2404.01278), the authors' code, which changes
    stages at 600 of 900 epochs. In the first stage it adds tau * mean(sin^2(omega w)) to the loss, tau = .037 or .0468;
    as coded that pulls the sines to 0, away from the signs, so `tau` is 0 here unless given. A batch norm takes the
    place of its learned scale a filter.
    """

    bits = 8  # as _PerFilter

    def __init__(self, omega: float = 20.0, tau: float = 0.0, **kwargs: Any):
        """Raises InputError for an omega that is not in (0, 1000], or a negative or infinite tau."""
        super().__init__(gradient="ste", **kwargs)
        if not 0 < omega <= 1000 or not 0 <= tau < float("inf"):
            raise InputError(f"BiPer: needs 0 < omega <= 1000 and tau of 0 or more, got {omega} and {tau}")
        self.omega, self.tau = float(omega), float(tau)
        self.gradient, self._pair = "biper", _sine_pair(self.omega)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> the same shape."""
        if self.tau:
            soft = tf.cast(self.progress < HARD_FROM, weights.dtype)
            self.add_loss(soft * self.tau * tf.reduce_mean(tf.sin(self.omega * weights) ** 2))
        return self.binarize(weights)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = {**super().get_config(), "omega": self.omega, "tau": self.tau}
        del config["gradient"]
        return config


@keras.utils.register_keras_serializable(package="bnnflow")
class SignedBinary(_PerFilter):
    """Weights {0, +1} in the first half of the filters (the larger one), {0, -1} in the second.

    With d = threshold * max|w| of the filter: 1 where w >= d, or -1 where w <= -d. Backward: the gradient clipped to
    [-1, 1], 0 where |w| > 1. A weight takes one bit and a filter one more, and a sum is a masked popcount.
    Source: signed-binary networks, PLUM (arXiv 2211.13838), the authors' code.
    """

    def __init__(self, threshold: float = 0.05, axes: int = 1, **kwargs: Any):
        """Raises InputError for a threshold outside (0, 1) or `axes` other than 0, 1 or 2."""
        super().__init__(axes=axes, **kwargs)
        self.threshold = _fraction(self, threshold)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> {-1, 0, +1} of the same shape."""
        w = self._columns(weights)
        cut = self.threshold * tf.reduce_max(tf.abs(w), axis=0)
        first = tf.range(w.shape[1]) < (w.shape[1] + 1) // 2
        hard = tf.where(first, tf.cast(w >= cut, w.dtype), -tf.cast(w <= -cut, w.dtype))
        inside = tf.cast(tf.abs(weights) <= 1.0, weights.dtype)
        return _through(weights, tf.reshape(hard, weights.shape), lambda g: tf.clip_by_value(g, -1.0, 1.0) * inside)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "threshold": self.threshold}


def _fraction(quantizer: KernelQuantizer, threshold: float) -> float:
    if not 0 < threshold < 1:
        raise InputError(f"{type(quantizer).__name__}: threshold must lie between 0 and 1, got {threshold}")
    return float(threshold)


@keras.utils.register_keras_serializable(package="bnnflow")
class TWN(_Scaled):
    """Ternary weights {-a, 0, a}, one a a filter: 0 where |w| <= d = threshold * mean|w|, a the mean |w| of the others.

    a is snapped; backward: straight-through, all of it to w. Source: ternary weight networks (arXiv 1605.04711), whose
    formulas have threshold .7; the snapping is ours. `axes=0` takes one a for the layer.
    """

    def __init__(self, threshold: float = 0.7, snapped: int = 5, axes: int = 1, **kwargs: Any):
        """Raises InputError for a threshold outside (0, 1), `snapped` other than 1 to 8, `axes` not 0, 1 or 2."""
        super().__init__(snapped=snapped, axes=axes, **kwargs)
        self.threshold = _fraction(self, threshold)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> the same shape."""
        size = tf.abs(weights)
        used = tf.cast(size > self.threshold * self._mean(size), weights.dtype)
        scale = tf.math.divide_no_nan(self._mean(size * used), self._mean(used))
        hard = self._snap(scale)[0] * used * tf.sign(weights)
        return _through(weights, hard, lambda g: g)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "threshold": self.threshold}


@keras.utils.register_keras_serializable(package="bnnflow")
class TTQ(Annealed, _Scaled):
    """Ternary weights {-Wn, 0, Wp} with two learned scales a layer; 0 where |w| <= d = threshold * max|w|.

    Both scales are snapped, at least one unit, start at 1 and are not trained in the last fifth of a training.
    Backward: to w, the gradient times Wp, 1 and Wn in the three zones; to Wp, its sum over the positive weights; to Wn,
    minus its sum over the negative ones, as the derivative demands (a public re-implementation has no minus there).
    Source: trained ternary quantization (arXiv 1612.01064). In hardware unequal scales need two popcounts.
    """

    def __init__(self, threshold: float = 0.05, snapped: int = 5, **kwargs: Any):
        """Raises InputError for a threshold outside (0, 1) or `snapped` other than 1 to 8."""
        super().__init__(snapped=snapped, axes=0, **kwargs)
        self.threshold = _fraction(self, threshold)

    def build(self, input_shape: Any) -> None:
        """Make Wp and Wn, as `scales`: float32 (2,)."""
        self.scales = self.add_weight(name="scales", shape=(2,), initializer="ones",
                                      constraint=keras.constraints.NonNeg())
        super().build(input_shape)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> the same shape."""
        size = tf.abs(weights)
        used = size > self.threshold * tf.reduce_max(size)
        above, below = (tf.cast(used & side, weights.dtype) for side in (weights > 0, weights < 0))

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def forward(w: tf.Tensor, high: tf.Tensor, low: tf.Tensor) -> Any:
            def backward(g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
                slope = above * high + below * low + (1.0 - above - below)
                return g * slope, tf.reduce_sum(g * above), -tf.reduce_sum(g * below)

            return above * high - below * low, backward

        return forward(tf.convert_to_tensor(weights), *tf.unstack(self._snap(self.settling(self.scales))[0]))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = {**super().get_config(), "threshold": self.threshold}
        del config["axes"]
        return config


@keras.utils.register_keras_serializable(package="bnnflow")
class MultiBranch(KernelQuantizer):
    """M-bit weights without 0, the odd integers up to 2^M - 1 times 2^-M: a sum of M branches of {-1, +1} with weights
    2^m, so that a product with M-bit data is M*M popcounts.

    Forward: the nearest level; of two equally near levels the one with the even place. Backward: straight-through,
    0 where |w| > 1. Source: the {-1, +1} encoding decomposition (arXiv 1905.13389), of which we read only the abstract;
    it divides by 2^M - 1, which is no power of two. The graph holds the integers, not the branches.
    """

    def __init__(self, branches: int = 2, **kwargs: Any):
        """Raises InputError for other than 1 to 8 branches."""
        super().__init__(**kwargs)
        if not (isinstance(branches, int) and 1 <= branches <= 8):
            raise InputError(f"MultiBranch: branches must be 1 to 8, got {branches!r}")
        self.branches = self.bits = branches

    def _place(self, weights: tf.Tensor) -> tf.Tensor:
        """Place of the nearest level, 0 to 2^M - 1."""
        top = 2.0**self.branches - 1.0
        return tf.clip_by_value(tf.round((weights * (top + 1.0) + top) / 2.0), 0.0, top)

    def call(self, weights: Any) -> Any:
        """float32 kernel -> the same shape."""
        top = 2.0**self.branches - 1.0
        hard = (2.0 * self._place(weights) - top) / (top + 1.0)
        inside = tf.cast(tf.abs(weights) <= 1.0, weights.dtype)
        return _through(weights, hard, lambda g: g * inside)

    def planes(self, weights: Any) -> tf.Tensor:
        """The branches c_m: float32 (M, *shape) in {-1, +1}; the quantised weights are sum_m 2^m c_m / 2^M."""
        place = tf.cast(self._place(weights), tf.int32)
        bits = [tf.bitwise.bitwise_and(tf.bitwise.right_shift(place, m), 1) for m in range(self.branches)]
        return tf.cast(2 * tf.stack(bits) - 1, tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "branches": self.branches}
