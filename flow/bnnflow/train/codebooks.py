"""Kernel quantizers that share few 3x3 codewords: sparse kernel selection (Sparks) and its sub-bit baseline (SNN).

A codeword is one of the 512 vectors of {-1, +1}^9. A layer stores n of them and log2(n) bits per 3x3 kernel, which is
log2(n)/9 bits per weight. Kernels keep real latent weights w; each becomes the nearest codeword of its codebook.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log, log2
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.errors import InputError, needed_for
from bnnflow.generation import EXTRA, keras
from bnnflow.train.proximal import PAIRS, pair_of
from bnnflow.train.quantizers import KernelQuantizer, kernels_of, unwrapped
from bnnflow.train.schedules import HARD_FROM, Annealed

__all__ = ["CODEWORDS", "Codebook", "Codewords", "KernelCodebook", "SubBit", "assign", "codewords_of", "nearest",
           "sinkhorn"]

# float32 (512, 9): codeword k has +1 at tap t (row-major) where bit t of k is set.
CODEWORDS = np.where(np.arange(512)[:, None] >> np.arange(9) & 1, 1, -1).astype(np.float32)
# Latent weights are rounded to multiples of 2^-16 and clipped to 16 when they are compared with codewords. So sums of
# nine are exact in float32: ties are true ties, and the order of addition never decides which codeword is chosen.
GRID, LARGEST = 2.0**16, 16.0
# Of a sub-bit table: steps from one gradient to the next, and the size below which a number changes no sign.
RENEWED, HYSTERESIS = 25, 1e-3
Slope = Callable[[tf.Tensor], tf.Tensor]


def nearest(weights: tf.Tensor, codebook: tf.Tensor) -> tf.Tensor:
    """For each row of `weights` the row of `codebook` with the largest inner product: (K, 9), (n, 9) -> int64 (K,).

    It is the first of equal ones. As all rows of a codebook have one length, it is also the row at the smallest
    distance.
    """
    snapped = tf.round(tf.clip_by_value(weights, -LARGEST, LARGEST) * GRID) / GRID
    return tf.argmax(tf.matmul(snapped, codebook, transpose_b=True), axis=1)


def _selected(weights: tf.Tensor, codebook: tf.Tensor, slope: Slope) -> tf.Tensor:
    """Each row of `weights` (K, 9) replaced by its nearest codeword.

    Backward: a weight gets its own gradient times slope(w), a codeword the sum of those of the kernels that use it.
    """

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def select(weights: tf.Tensor, codebook: tf.Tensor) -> Any:
        choice, n = nearest(weights, codebook), tf.shape(codebook)[0]

        def backward(g: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return g * slope(weights), tf.math.unsorted_segment_sum(g, choice, n)

        return tf.gather(codebook, choice), backward

    return select(weights, codebook)


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _hard(soft: tf.Tensor, hard: tf.Tensor) -> Any:
    """`hard`, exactly, with its gradient passed to `soft`."""
    return hard, lambda g: (g, None)


def sinkhorn(scores: tf.Tensor, iterations: int = 20) -> tf.Tensor:
    """Soft selection of n of N candidates: scores (N, n), n <= N -> P (N, n), float32, a differentiable function.

    Every column of P sums to 1 (columns are normalised last) and, in the limit of many iterations, every row to at most
    1. Such P are the convex hull of all selections without repeats. P is n columns of a doubly stochastic N x N matrix;
    its N - n other columns, which select nothing, have scores 0. They stay equal to each other, so one spare column of
    mass N - n stands for them all, and rows sum to 1 with it. An iteration costs N(n+1).

    Log-domain normalisation of rows and columns as in Gumbel-Sinkhorn (Mena et al., arXiv 1802.08665); the spare column
    is ours.
    """
    candidates, n = scores.shape
    spare = [log(candidates - n)] if candidates > n else []
    scores = tf.pad(scores, [[0, 0], [0, len(spare)]])
    mass = tf.constant([0.0] * n + spare, scores.dtype)
    column = mass
    for _ in range(iterations):
        row = -tf.reduce_logsumexp(scores + column, axis=1, keepdims=True)
        column = mass - tf.reduce_logsumexp(scores + row, axis=0)
    return tf.exp(scores + row + column)[:, :n]


def assign(scores: NDArray[Any]) -> NDArray[np.int32]:
    """The selection without repeats that has the largest sum of scores: (N, n), n <= N -> int32 (n,).

    Entry j is the candidate of column j. The result is exact: it is a linear assignment problem, which SciPy solves.
    """
    with needed_for("codebooks of kernels", EXTRA):
        from scipy.optimize import linear_sum_assignment

    columns, chosen = linear_sum_assignment(np.asarray(scores).T, maximize=True)
    return np.asarray(chosen[np.argsort(columns)], np.int32)


class Codebook(KernelQuantizer):
    """A quantizer of 3x3 kernels: each of the a*b kernels of (3, 3, a, b) becomes its nearest row of `codebook()`.

    A QConv2D has the shape (3, 3, inputs/groups, outputs), a depthwise convolution (3, 3, inputs, multiplier).
    """

    n: int

    def codebook(self) -> tf.Tensor:
        """The codewords in use at inference: float32 (n, 9) of +-1."""
        raise NotImplementedError

    def training_codebook(self) -> tf.Tensor:
        """The codewords of a training step: float32 (n, 9) of +-1, differentiable by what is learned of them."""
        raise NotImplementedError

    def slope(self, weights: tf.Tensor) -> tf.Tensor:
        """The factor of each latent weight's gradient; elementwise."""
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Check that the kernel is one of 3x3; raises InputError."""
        shape = tuple(input_shape)
        if len(shape) != 4 or shape[:2] != (3, 3):
            raise InputError(f"{type(self).__name__}: quantises kernels of shape (3, 3, inputs, outputs), got {shape}; "
                             "use it on 2D convolutions with kernel_size 3, and bnnflow.train.Binary elsewhere")
        super().build(input_shape)

    def _weight(self, name: str, start: Any, trainable: bool = False) -> tf.Variable:
        """A weight of the shape, type and values of `start`."""
        start = np.asarray(start)
        return self.add_weight(name=name, shape=start.shape, dtype=start.dtype.name, trainable=trainable,
                               initializer=lambda shape, dtype: tf.constant(start, dtype))

    def call(self, weights: Any, training: Any = None) -> Any:
        """Quantise; a training step may choose new codewords."""
        weights = tf.convert_to_tensor(weights)
        codebook = self.training_codebook() if training else self.codebook()
        kernels = tf.reshape(tf.transpose(weights, (2, 3, 0, 1)), (-1, 9))
        chosen = tf.reshape(_selected(kernels, codebook, self.slope), (*weights.shape[2:], 3, 3))
        return tf.transpose(chosen, (2, 3, 0, 1))


def _number(what: str, value: Any, low: int, high: int) -> int:
    """An integer option in a range; raises InputError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise InputError(f"{what} must be an integer from {low} to {high}, got {value!r}")
    return int(value)


def _seeded(seed: int | None) -> int:
    """The seed, checked; if None, one from NumPy's global generator, which keras.utils.set_random_seed sets."""
    return int(np.random.randint(2**31)) if seed is None else _number("codebook: seed", seed, 0, 2**31 - 1)


@keras.utils.register_keras_serializable(package="bnnflow")
class KernelCodebook(Annealed, Codebook):
    """3x3 kernels in n codewords, which the layer selects from a candidate set without repeats: (3, 3, a, b) -> same.

    Every training step draws a selection: `assign` of the learned `scores` X (N, n) plus Gumbel noise gives each column
    j a candidate, which is codeword j. The selection is the weight `chosen` (n,), saved with the model; inference uses
    it, so it has no noise. With the training's progress the noise shrinks linearly, to 0 at HARD_FROM. From there on
    the last selection stays, while batch norms settle. Without `bnnflow.train.Progress` the noise never shrinks, and
    the last selection ships.

    Backward: to the latent weights by a hard pair of PAIRS (default: clipped straight-through); to X through the soft
    selection P = sinkhorn((X + noise) / T), as if the codewords were P^T times the candidates (the permutation
    straight-through estimator).

    The noise is a function of `seed` and of the weight `step`, so a resumed training draws what it would have drawn.

    Sparks (arXiv 2303.14470), whose abstract has the selection without repeats, the Gumbel-Sinkhorn relaxation and the
    permutation straight-through estimator. Its equations were not available to us: ours are the candidate set, the
    spare column, the start and decay of the noise, all constants, and that the gradient is taken at the soft P.
    """

    def __init__(self, n: int, candidates: int = 512, temperature: float = 1.0, noise: float = 0.1,
                 iterations: int = 10, gradient: str = "ste", seed: int | None = None, **kwargs: Any):
        """`n` codewords (2..512) are selected from `candidates` N (n..512; fewer than 512 are a random subset).

        `temperature` T > 0 and `iterations` are those of `sinkhorn`; `noise` >= 0 is the factor of the Gumbel noise at
        the start, where scores are normally distributed; `gradient` names a pair of PAIRS with a hard sign; `seed` is
        that of noise, start and subset, and where None one from NumPy's global generator. Raises InputError for
        anything else.
        """
        super().__init__(**kwargs)
        self.n = _number("codebook: n", n, 2, 512)
        self.candidates = _number("codebook: candidates", candidates, self.n, 512)
        self.iterations = _number("codebook: iterations", iterations, 1, 1000)
        if not (np.isfinite(temperature) and temperature > 0 and np.isfinite(noise) and noise >= 0):
            raise InputError(f"codebook: needs temperature > 0 and noise >= 0, got {temperature} and {noise}")
        self.temperature, self.noise, self.seed = float(temperature), float(noise), _seeded(seed)
        self.supports_jit = False  # for Keras 3: XLA knows no SciPy
        self.gradient, self._pair = gradient, pair_of(gradient)
        if self._pair.soft:
            hard = ", ".join(name for name, pair in PAIRS.items() if not pair.soft)
            raise InputError(f"codebook: gradient {gradient!r} has a forward that is no sign; use one of {hard}")

    def build(self, input_shape: Any) -> None:
        """Make `scores` float32 (N, n), `chosen` int32 (n,) and `pool` int32 (N,) of codewords 0..511, and `step`."""
        super().build(input_shape)
        rng = np.random.default_rng(self.seed)
        pool = np.sort(rng.choice(512, self.candidates, replace=False)).astype(np.int32)
        scores = rng.normal(0, 1, (self.candidates, self.n)).astype(np.float32)
        self.scores = self._weight("scores", scores, trainable=True)
        self.pool = self._weight("pool", pool)
        self.chosen = self._weight("chosen", pool[assign(scores)])
        self.step = self._weight("step", np.int64(0))

    @property
    def unfinished(self) -> str:
        """Why `chosen` is not a codebook, which a damaged file can cause; "" where it is one."""
        chosen = self.chosen.numpy() if self.built else np.zeros(1)
        wrong = chosen[(chosen < 0) | (chosen > 511)]
        return f"its codebook holds codeword {wrong[0]}, none of 0 to 511; train it again" if len(wrong) else ""

    def codebook(self) -> tf.Tensor:
        """The chosen codewords: float32 (n, 9) of +-1."""
        return tf.gather(CODEWORDS, self.chosen)

    def draw(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The selection of this step: its candidates int32 (n,), all different, and the noisy scores float32 (N, n).

        No weight is changed.
        """
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.step)])
        uniform = tf.random.stateless_uniform(self.scores.shape, seed, minval=np.finfo(np.float32).tiny)
        scale = self.noise * tf.nn.relu(1.0 - self.progress / HARD_FROM)
        scores = self.scores - scale * tf.math.log(-tf.math.log(uniform))
        rows = tf.numpy_function(assign, [scores], tf.int32, stateful=False)
        return tf.ensure_shape(rows, (self.n,)), scores

    def training_codebook(self) -> tf.Tensor:
        """A new selection before HARD_FROM, and the last one from then on."""
        return tf.cond(self.progress < HARD_FROM, self._drawn, self.codebook)

    def _drawn(self) -> tf.Tensor:
        rows, scores = self.draw()
        self.step.assign_add(1)
        self.chosen.assign(tf.gather(self.pool, rows))
        selection = self._selection(scores, tf.one_hot(rows, self.candidates, axis=0))
        return tf.matmul(selection, tf.gather(CODEWORDS, self.pool), transpose_a=True)

    def _selection(self, scores: tf.Tensor, hard: tf.Tensor) -> tf.Tensor:
        """`hard` (N, n), exactly, with the gradient of the soft selection, which only the backward pass computes."""

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def select(scores: tf.Tensor) -> Any:
            def backward(g: tf.Tensor) -> tf.Tensor:
                with tf.GradientTape() as tape:
                    tape.watch(scores)
                    soft = sinkhorn(scores / self.temperature, self.iterations)
                return tape.gradient(soft, scores, g)

            return hard, backward

        return select(scores)

    def slope(self, weights: tf.Tensor) -> tf.Tensor:
        """B of the pair `gradient`."""
        return self._pair.backward(weights, self._pair.schedule(tf.convert_to_tensor(self.progress)))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "n": self.n, "candidates": self.candidates, "temperature": self.temperature,
                "noise": self.noise, "iterations": self.iterations, "gradient": self.gradient, "seed": self.seed}


@keras.utils.register_keras_serializable(package="bnnflow")
class SubBit(Codebook):
    """3x3 kernels in n codewords, which are learned as signs of a real table: (3, 3, a, b) -> same.

    - `table` P (n, 9) starts as n different random codewords. Codewords are sign(P) where |P| >= 1e-3; elsewhere they
      stay as they were, which is `memory` (n, 9), written by training steps only.
    - Latent weights get the gradient of clip(w, -1, 1) in every step; every 25th step also gives each row of P the
      sum of the gradients of its kernels. In between, P's gradient is 0 (an optimizer's momentum may move it).
    - Every 25th step clips P to [-3, 3] and replaces codewords that repeat an earlier one by random unused ones.

    SNN (Wang et al., ICCV 2021), after its published code (yikaiw/SNN), where n = 2^tau. Other than there, repeats are
    replaced in place, and before a 25th step instead of behind it, so that a row's gradient belongs to its codeword.
    The layer's scale mean|w| per output channel is left out, as a batch norm behind the layer absorbs it.
    """

    def __init__(self, n: int, seed: int | None = None, **kwargs: Any):
        """`n` codewords (2..512); `seed` of start and replacements, if None one from NumPy's global generator.

        Raises InputError for anything else.
        """
        super().__init__(**kwargs)
        self.n, self.seed = _number("codebook: n", n, 2, 512), _seeded(seed)

    def build(self, input_shape: Any) -> None:
        """Make `table` and `memory`, float32 (n, 9), and `step`."""
        super().build(input_shape)
        start = CODEWORDS[np.random.default_rng(self.seed).choice(512, self.n, replace=False)]
        self.table = self._weight("table", start, trainable=True)
        self.memory = self._weight("memory", start)
        self.step = self._weight("step", np.int64(0))

    def codebook(self) -> tf.Tensor:
        """The codewords in use: float32 (n, 9) of +-1, where two may be equal."""
        return tf.where(tf.abs(self.table) >= HYSTERESIS, tf.sign(self.table), self.memory)

    def training_codebook(self) -> tf.Tensor:
        """Count the step; every RENEWED-th replaces repeats and lets the gradient pass to the table."""
        renewed = self.step.assign_add(1) % RENEWED == 0
        codebook = self.codebook()
        codebook = tf.cond(renewed, lambda: self._without_repeats(codebook), lambda: codebook)
        self.memory.assign(codebook)
        return _hard(tf.where(renewed, self.table, tf.stop_gradient(self.table)), codebook)

    def _without_repeats(self, codebook: tf.Tensor) -> tf.Tensor:
        """The codebook with random unused codewords in place of repeats; the table follows."""
        codes = tf.reduce_sum(tf.where(codebook > 0, 2 ** tf.range(9), 0), axis=1)
        first = tf.argmax(tf.cast(codes[:, None] == codes[None], tf.int32), axis=1, output_type=tf.int32)
        repeats = first < tf.range(self.n)
        used = tf.reduce_max(tf.one_hot(codes, 512), axis=0)
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.step)])
        unused = tf.argsort(used + tf.random.stateless_uniform((512,), seed), stable=True)  # the used ones are last
        place = tf.where(repeats, tf.cumsum(tf.cast(repeats, tf.int32)) - 1, 0)
        filled = tf.where(repeats[:, None], tf.gather(CODEWORDS, tf.gather(unused, place)), codebook)
        self.table.assign(tf.where(repeats[:, None], filled, tf.clip_by_value(self.table, -3.0, 3.0)))
        return filled

    def slope(self, weights: tf.Tensor) -> tf.Tensor:
        """1 where |w| <= 1, else 0."""
        return tf.cast(tf.abs(weights) <= 1.0, weights.dtype)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "n": self.n, "seed": self.seed}


class Codewords(NamedTuple):
    """How a layer's 3x3 kernels use its codebook: `used` different codewords of `n`; `bits` per weight, log2(n)/9."""

    used: int
    n: int
    bits: float


def codewords_of(model: keras.Model) -> dict[str, Codewords]:
    """How each layer with a codebook uses it, by the layer's name; connections that a mask prunes count too."""
    found = {}
    for layer, weights, quantizer in kernels_of(model):
        inner, _ = unwrapped(quantizer)
        if isinstance(inner, Codebook):
            kernels = np.asarray(inner(weights)).reshape(9, -1)
            found[layer.name] = Codewords(len(np.unique(kernels, axis=1).T), inner.n, log2(inner.n) / 9)
    return found
