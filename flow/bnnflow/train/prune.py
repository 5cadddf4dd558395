"""Pruning of connections: masks by magnitude, N:M, block and fan-in, and the callback that tightens them in training.

The functions are pure: latent weights -> bool mask of the same shape, True where a connection stays. `alive` is the
mask so far: connections that it has cut stay cut. Of equal weights the one with the lower index stays, so that the same
weights always give the same mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.train.quantizers import Kernel, Masked, kernels_of, unwrapped

__all__ = ["METHODS", "Prune", "block", "cubic", "fan_in", "magnitude", "magnitude_global", "n_of_m", "zeros_of"]

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]


def magnitude(weights: Floats, zeros: float, alive: Mask | None = None) -> Mask:
    """Cut the share `zeros` (0..1) of the smallest |w|; raises InputError for another share."""
    return magnitude_global([weights], zeros, None if alive is None else [alive])[0]


def magnitude_global(weights: Sequence[Floats], zeros: float, alive: Sequence[Mask] | None = None) -> list[Mask]:
    """Cut the share `zeros` (0..1) of the smallest |w| of several kernels together; raises InputError for another."""
    scores = np.concatenate([_scores(w, None if alive is None else alive[k]).ravel() for k, w in enumerate(weights)])
    mask = _largest(scores[:, None], scores.size - _count(zeros, scores.size))[:, 0]
    pieces = np.split(mask, np.cumsum([w.size for w in weights])[:-1])
    return [piece.reshape(w.shape) for piece, w in zip(pieces, weights)]


def n_of_m(weights: Floats, n: int, m: int, alive: Mask | None = None, depthwise: bool = False) -> Mask:
    """Keep the n largest |w| of every m consecutive inputs, for each output (N:M, Zhou et al., arXiv 2102.04010).

    Inputs are counted as in `fan_in`, so where m divides the channels, m consecutive inputs belong to one tap. Raises
    InputError unless 1 <= n <= m and m divides the inputs.
    """
    _whole("n", n), _whole("m", m)
    scores = _columns(_scores(weights, alive), depthwise)
    inputs, outputs = scores.shape
    if n > m:
        raise InputError(f"n of m: n={n} is more than m={m}; give n <= m")
    if inputs % m:
        raise InputError(f"n of m: m={m} does not divide the {inputs} inputs of a neuron (kernel {weights.shape}); "
                         "choose a divisor")
    return _largest(scores.reshape(-1, m, outputs), n, axis=1).reshape(weights.shape)


def block(weights: Floats, zeros: float, shape: Sequence[int], alive: Mask | None = None,
          depthwise: bool = False) -> Mask:
    """Cut the share `zeros` of the blocks, those of the smallest mean |w|.

    A block is `shape` = (input channels, output channels) of the kernel with all their taps. Raises InputError for a
    share outside 0..1 and a shape that does not divide the kernel's (inputs, outputs).
    """
    scores = _scores(weights, alive)
    taps, inputs, outputs = _taps(weights, depthwise)
    if len(shape) != 2:
        raise InputError(f"block: shape {list(shape)}; give two numbers, input and output channels of a block")
    rows, columns = (_whole("block", size) for size in shape)
    if inputs % rows or outputs % columns:
        raise InputError(f"block: {rows}x{columns} does not divide the {inputs} inputs x {outputs} outputs of the "
                         f"kernel {weights.shape}; choose divisors")
    grid = (taps, inputs // rows, rows, outputs // columns, columns)
    means = scores.reshape(grid).mean(axis=(0, 2, 4))
    kept = _largest(means.reshape(-1, 1), means.size - _count(zeros, means.size)).reshape(1, grid[1], 1, grid[3], 1)
    return np.broadcast_to(kept, grid).reshape(weights.shape) & (scores >= 0)


def fan_in(weights: Floats, inputs: int, alive: Mask | None = None, depthwise: bool = False) -> Mask:
    """Keep the `inputs` largest |w| of every output; with 6 or fewer, a neuron that reads bits is one LUT of an FPGA.

    The inputs of a kernel (..., in, out) are all axes but the last, taps x channels of its group. Those of a depthwise
    kernel (..., channels, multiplier) are its taps. Raises InputError for less than one.
    """
    _whole("inputs", inputs)
    return _largest(_columns(_scores(weights, alive), depthwise), inputs, axis=0).reshape(weights.shape)


def cubic(progress: float) -> float:
    """The share of the target that is pruned at the share p of the pruning time: 1 - (1 - p)^3.

    Source: Zhu and Gupta (arXiv 1710.01878).
    """
    return 1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3


def zeros_of(model: keras.Model) -> float:
    """Share (0..1) of connections that masks have cut, out of all kernels that are Masked; 0 where none is."""
    found = (unwrapped(kernel.quantizer)[1] for kernel in kernels_of(model))
    masks = [np.asarray(mask) for mask in found if mask is not None]
    return float(1.0 - sum(m.sum() for m in masks) / sum(m.size for m in masks)) if masks else 0.0


METHODS: dict[str, dict[str, type]] = {
    "magnitude": {"zeros": float}, "global": {"zeros": float}, "n_of_m": {"n": int, "m": int},
    "block": {"zeros": float, "shape": list}, "fan_in": {"inputs": int},
}


class Prune(keras.callbacks.Callback):
    """Tightens the masks of a model's Masked kernels while it trains, then leaves them alone.

    Of `steps` steps, it prunes from the share `start` on, again after every share `every`, and last at the share `end`,
    where the target is reached; in between it follows `cubic`. After `end` masks are frozen, so that the network
    settles as it ships. Weights that are cut get no gradient (Masked) and never come back, even if an optimizer's
    momentum moves them. It counts `optimizer.iterations` and has no state but the masks, so a resumed training goes on.
    """

    def __init__(self, steps: int, method: str = "magnitude", start: float = 0.1, end: float = 0.8,
                 every: float = 0.01, layers: Sequence[str] = (), **options: Any):
        """`method` with its `options` is one of METHODS; `layers` names layers to prune, by default all Masked ones.

        Raises InputError for another method or option, and shares that are not 0 <= start <= end < 1, every > 0.
        """
        super().__init__()
        _check_options(method, options)
        if not (0 <= start <= end < 1 and every > 0):
            raise InputError(f"prune: start={start}, end={end}, every={every}; these are shares of the training, "
                             "0 <= start <= end < 1 and every > 0")
        self.method, self.options, self.layers = method, options, tuple(layers)
        self.first, self.last = ceil(start * steps), max(ceil(start * steps), int(end * steps))
        self.period = max(1, round(every * steps))

    def on_train_begin(self, logs: Any = None) -> None:
        """Find the kernels and try the target on them; raises InputError where it does not fit a kernel."""
        self.kernels = list(_masked(self.model, self.layers))
        self.masks(1.0)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Set new masks before a step at which pruning is due."""
        step = int(self.model.optimizer.iterations)
        if not self.first <= step <= self.last or (step != self.last and (step - self.first) % self.period):
            return
        share = cubic((step - self.first) / (self.last - self.first)) if self.last > self.first else 1.0
        for kernel, mask in zip(self.kernels, self.masks(share)):
            kernel.quantizer.set_mask(mask)

    @property
    def frozen(self) -> bool:
        """True where masks are final: the step of the last pruning has been made."""
        return int(self.model.optimizer.iterations) > self.last

    def masks(self, share: float) -> list[Mask]:
        """The masks of all kernels at a share (0..1) of the target."""
        weights = [kernel.weights.numpy() for kernel in self.kernels]
        alive = [kernel.quantizer.mask.numpy() > 0 for kernel in self.kernels]
        if self.method == "global":
            return magnitude_global(weights, share * _share(self.options["zeros"]), alive)
        return [self._mask(kernel, w, a, share) for kernel, w, a in zip(self.kernels, weights, alive)]

    def _mask(self, kernel: Kernel, weights: Floats, alive: Mask, share: float) -> Mask:
        """The mask of a kernel at a share of the target, where N:M and fan-in keep more inputs, and others cut less."""
        given = self.options
        depthwise = getattr(kernel.layer, "depthwise_quantizer_internal", None) is kernel.quantizer
        try:
            if self.method == "magnitude":
                return magnitude(weights, share * _share(given["zeros"]), alive)
            if self.method == "block":
                return block(weights, share * _share(given["zeros"]), given["shape"], alive, depthwise)
            if self.method == "n_of_m":
                n_of_m(weights, given["n"], given["m"], alive, depthwise)
                return n_of_m(weights, _between(given["m"], given["n"], share), given["m"], alive, depthwise)
            _whole("inputs", given["inputs"])
            total = _columns(weights, depthwise).shape[0]
            return fan_in(weights, _between(total, min(given["inputs"], total), share), alive, depthwise)
        except InputError as error:
            raise InputError(f"layer {kernel.layer.name!r}: {error}") from error


def _check_options(method: str, options: Mapping[str, Any]) -> None:
    if method not in METHODS:
        raise InputError(f"prune: method {method!r}; use one of {', '.join(METHODS)}")
    wanted = METHODS[method]
    if options.keys() != wanted.keys():
        raise InputError(f"prune: method {method!r} with {', '.join(sorted(options)) or 'nothing'}; needs "
                         f"{' and '.join(wanted)}, and takes start, end, every, layers")


def _masked(model: keras.Model, layers: Sequence[str]) -> Iterator[Kernel]:
    """The kernels to prune; raises InputError where a named layer has no Masked kernel, or the whole model has none."""
    found = [kernel for kernel in kernels_of(model) if isinstance(kernel.quantizer, Masked)]
    _check_layers(layers, list(dict.fromkeys(kernel.layer.name for kernel in found)))
    return (kernel for kernel in found if not layers or kernel.layer.name in layers)


def _check_layers(layers: Sequence[str], masked: Sequence[str]) -> None:
    missing = [name for name in layers if name not in masked]
    if missing or not masked:
        raise InputError(f"prune: {', '.join(map(repr, missing)) or 'no layer'} has a Masked kernel; make it with "
                         f"kernel_quantizer=Masked(...). Masked: {', '.join(masked) or 'none'}")


def _share(zeros: Any) -> float:
    if isinstance(zeros, bool) or not isinstance(zeros, (int, float)) or not 0 <= zeros <= 1:
        raise InputError(f"zeros={zeros!r}; give a share from 0 to 1")
    return float(zeros)


def _count(zeros: float, size: int) -> int:
    """The share `zeros` of `size` as a whole number; halves are rounded up."""
    return int(_share(zeros) * size + 0.5)


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InputError(f"{name}={value!r}; give a whole number from 1 on")
    return int(value)


def _between(begin: int, end: int, share: float) -> int:
    """The whole number at a share of the way from `begin` down to `end`; of two, the one nearer to `begin`."""
    return begin - int((begin - end) * share + 1e-9)


def _scores(weights: Floats, alive: Mask | None) -> Floats:
    """|w| of each connection, and -1 for those that are cut already."""
    size = np.abs(np.asarray(weights, np.float64))
    return size if alive is None else np.where(alive, size, -1.0)


def _taps(weights: Floats, depthwise: bool) -> tuple[int, int, int]:
    """(taps, inputs, outputs) of a kernel (..., in, out) or, depthwise, (..., channels, multiplier)."""
    *taps, inputs, outputs = weights.shape
    return int(np.prod(taps)), *((1, inputs * outputs) if depthwise else (inputs, outputs))


def _columns(scores: Floats, depthwise: bool) -> Floats:
    """The scores of a kernel as (inputs of a neuron, neurons)."""
    taps, inputs, outputs = _taps(scores, depthwise)
    return scores.reshape(taps * inputs, outputs)


def _largest(scores: Floats, kept: int, axis: int = 0) -> Mask:
    """True at the `kept` largest scores along an axis, never at negative ones."""
    order = np.argsort(-scores, axis=axis, kind="stable")
    mask = np.zeros(scores.shape, bool)
    np.put_along_axis(mask, np.take(order, np.arange(min(kept, scores.shape[axis])), axis=axis), True, axis=axis)
    return mask & (scores >= 0)
