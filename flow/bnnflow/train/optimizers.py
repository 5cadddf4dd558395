"""Optimizers that flip binary weights: no latent weight is kept."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import WITHOUT_XLA, keras, place_of
from bnnflow.train.proximal import sign
from bnnflow.train.quantizers import Binary, kernels_of, unwrapped

__all__ = ["Bop", "Bop2ndOrder"]

Rate = Any  # a float or a LearningRateSchedule


@keras.utils.register_keras_serializable(package="bnnflow")
class Bop(keras.optimizers.Adam):
    """Bop flips binary kernels, Adam trains everything else.

    For a kernel w of {-1, +1} and its gradient g: m <- (1 - gamma) m + gamma g, then w <- -w where w*m > threshold.
    Source: Helwegen et al. (arXiv 1906.02107), the authors' code, which has gamma 1e-4 and threshold 1e-8 for CIFAR-10.

    Make it with `Bop.of(model)`. The gradient is that of the kernel's quantizer: `Binary("bc")` or `Binary("ste")`
    hands it on as it is. Its state (m among Adam's momentums) is saved with a checkpoint or a compiled model.
    """

    def __init__(self, flips: list[bool], gamma: Rate = 1e-4, threshold: float = 1e-8,
                 learning_rate: Rate = 1e-3, name: str = "Bop", **kwargs: Any):
        """`flips` says of each trainable variable, in the model's order, whether it is a binary kernel. (Names could
        not say it, because Keras renames variables when it reads a model.) `gamma` in (0, 1] may follow a schedule;
        `learning_rate` is Adam's.

        Raises InputError for a gamma or threshold out of range.
        """
        super().__init__(learning_rate=learning_rate, name=name, **{**WITHOUT_XLA, **kwargs})
        if self.weight_decay or self.use_ema:
            raise InputError(f"{name}: weight_decay and use_ema would move binary weights off -1 and +1; omit them")
        self.flips, self.threshold = list(map(bool, flips)), _positive(name, "threshold", threshold, zero=True)
        self.gamma = _rate(name, "gamma", gamma)

    @classmethod
    def of(cls, model: keras.Model, **kwargs: Any) -> Any:
        """An optimizer for a model's kernels with a `Binary` quantizer (masked ones too), which become their signs.

        Raises InputError where there is none to train.
        """
        binary = {id(k.weights): k.weights for k in kernels_of(model) if isinstance(unwrapped(k.quantizer)[0], Binary)}
        flips = [id(w) in binary for w in model.trainable_weights]
        if not any(flips):
            raise InputError("no kernel to train of this model has a Binary quantizer; use kernel_quantizer=Binary()")
        for w, flip in zip(model.trainable_weights, flips):
            if flip:
                w.assign(sign(w))
        return cls(flips, **kwargs)

    def build(self, var_list: Any) -> None:
        """Make the state; raises InputError for another number of variables than `flips` has."""
        if len(var_list) != len(self.flips):
            raise InputError(f"{self.name}: made for {len(self.flips)} variables, got gradients of {len(var_list)}; "
                             "make it with of(model) once layers are frozen or not, and use every layer in the loss")
        super().build(var_list)

    def update_step(self, gradient: Any, variable: Any, *learning_rate: Any) -> None:
        """Flip weights of a binary kernel; make a step of Adam for any other variable.

        Keras 3 hands the learning rate on, the legacy Keras does not.
        """
        place = place_of(variable, self)
        if not self.flips[place]:
            super().update_step(gradient, variable, *learning_rate)
            return
        pull = self._pull(gradient, self._momentums[place], self._velocities[place])
        variable.assign(tf.where(variable * pull > self.threshold, -variable, variable))

    def _pull(self, gradient: tf.Tensor, m: tf.Variable, v: tf.Variable) -> tf.Tensor:
        """Update the state, and return for each weight the pull against its sign: m here."""
        gamma = self._at(self.gamma)
        return m.assign((1.0 - gamma) * m + gamma * gradient)

    def _at(self, rate: Rate) -> tf.Tensor:
        return tf.cast(rate(self.iterations) if callable(rate) else rate, tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "flips": self.flips, "gamma": _stored(self.gamma), "threshold": self.threshold}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        """The optimizer of a config, with its schedules."""
        rates = {key: keras.optimizers.schedules.deserialize(config[key]) for key in ("gamma", "sigma")
                 if isinstance(config.get(key), dict)}
        return super().from_config({**config, **rates}, custom_objects)


@keras.utils.register_keras_serializable(package="bnnflow")
class Bop2ndOrder(Bop):
    """Bop with the second moment: v <- v + sigma (g^2 - v), and w <- -w where w*m / (sqrt(v) + 1e-10) > threshold.

    Source: Suarez-Ramirez et al. (arXiv 2104.05124), a port of their code, in the biased form; its script for CIFAR-10
    has gamma 1e-7, sigma 1e-3 and threshold 1e-5.
    """

    def __init__(self, flips: list[bool], gamma: Rate = 1e-7, threshold: float = 1e-5, sigma: Rate = 1e-3,
                 learning_rate: Rate = 1e-3, name: str = "Bop2ndOrder", **kwargs: Any):
        """As Bop; `sigma` in (0, 1] may follow a schedule."""
        super().__init__(flips, gamma, threshold, learning_rate, name, **kwargs)
        self.sigma = _rate(name, "sigma", sigma)

    def _pull(self, gradient: tf.Tensor, m: tf.Variable, v: tf.Variable) -> tf.Tensor:
        pull = super()._pull(gradient, m, v)
        v.assign(v + self._at(self.sigma) * (gradient**2 - v))
        return pull / (tf.sqrt(v) + 1e-10)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "sigma": _stored(self.sigma)}


def _positive(name: str, what: str, value: float, zero: bool = False) -> float:
    if not (0 < value < float("inf") or (zero and value == 0)):
        raise InputError(f"{name}: {what} must be positive and finite, got {value!r}")
    return float(value)


def _rate(name: str, what: str, value: Rate) -> Rate:
    if callable(value):
        return value
    if _positive(name, what, value) > 1:
        raise InputError(f"{name}: {what} must be at most 1, got {value!r}")
    return float(value)


def _stored(rate: Rate) -> Any:
    return keras.optimizers.schedules.serialize(rate) if callable(rate) else rate
