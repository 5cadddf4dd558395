"""Pairs of a forward and a backward quantizer of +-1, and the layer and base class that use them.

A latent weight u enters the network as F(u), and its gradient comes back as B(u) * dL/dF. This is the view of
ProxConnect++ (Lu et al., arXiv 2402.17710). A pair is a proximal method where F = T(P) and B = T'(P) for a monotone
P = integral of dF/B. A hard sign meets this where B is constant on the latent weights' range; a smooth F meets it where
B is its derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any

import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.train.schedules import HARD_FROM, Annealed

__all__ = ["PAIRS", "Binarize", "Pair", "Scheduled", "pair_of"]

Function = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def sign(u: tf.Tensor, mu: tf.Tensor | None = None) -> tf.Tensor:
    """+1 where u >= 0, else -1."""
    return tf.where(u >= 0, tf.ones_like(u), -tf.ones_like(u))


def sign_swish(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    """SS(u) = 2 s(x) (1 + x (1 - s(x))) - 1 with x = mu*u and the logistic s; up to 1.1997 at x = 2.40."""
    x = mu * u
    s = tf.sigmoid(x)
    return 2.0 * s * (1.0 + x * (1.0 - s)) - 1.0


def sign_swish_slope(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    """SS'(u) = mu (2 - x tanh(x/2)) / (1 + cosh(x)), x = mu*u; slightly negative beyond |x| = 2.40."""
    x = tf.clip_by_value(mu * u, -60.0, 60.0)  # cosh overflows beyond 88
    return mu * (2.0 - x * tf.tanh(x / 2.0)) / (1.0 + tf.cosh(x))


def _polynomial(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    """2v - v|v| with v = mu*u clipped to [-1, 1]."""
    v = tf.clip_by_value(mu * u, -1.0, 1.0)
    return v * (2.0 - tf.abs(v))


def _polynomial_slope(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    return 2.0 * mu * tf.nn.relu(1.0 - tf.abs(mu * u))


def _estimator(u: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """k tanh(t u), k = max(1/t, 1): the integral of EDE."""
    return tf.maximum(1.0 / t, 1.0) * tf.tanh(t * u)


def _estimator_slope(u: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """k t (1 - tanh(t u)^2), k = max(1/t, 1)."""
    return tf.maximum(1.0, t) * (1.0 - tf.tanh(t * u) ** 2)


def _root_slope(u: tf.Tensor, o: tf.Tensor) -> tf.Tensor:
    """|u|^((1-o)/o) / o for .1 < |u| <= 1.5, .1^(1/o) / .1 below, 0 beyond."""
    size = tf.abs(u)
    near = tf.maximum(size, 0.1)
    root = tf.where(size <= 0.1, 0.1 ** (1.0 / o) / 0.1, near ** ((1.0 - o) / o) / o)
    return tf.where(size <= 1.5, root, tf.zeros_like(u))


def _square_slope(u: tf.Tensor, t: tf.Tensor) -> tf.Tensor:
    """k max(0, sqrt(2) t - t^2 |u|), k = max(1/t, 1)."""
    return tf.maximum(1.0 / t, 1.0) * tf.nn.relu(2.0**0.5 * t - t * t * tf.abs(u))


def _inside(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.abs(u) <= 1.0, u.dtype)


def _ones(u: tf.Tensor, mu: tf.Tensor) -> tf.Tensor:
    return tf.ones_like(u)


def _geometric(first: float, last: float, until: float = 1.0) -> Callable[[tf.Tensor], tf.Tensor]:
    """A schedule that grows geometrically from `first` to `last`, which it reaches at the progress `until`."""
    return lambda p: first * (last / first) ** tf.minimum(p / until, 1.0)


@dataclass(frozen=True)
class Pair:
    """F(u, mu) and B(u, mu), where mu = schedule(progress) and progress goes from 0 to 1 in a training.

    `soft` says that F is no sign until HARD_FROM, where it becomes one, `hard`. `proximal` says that the pair is a
    proximal method (see above) for latent weights clipped to [-1, 1]. A soft F is one until HARD_FROM only: the sign,
    with the slope of the smooth F, does not meet the criterion.
    """

    forward: Function
    backward: Function
    proximal: bool
    source: str
    schedule: Callable[[tf.Tensor], tf.Tensor] = tf.ones_like
    soft: bool = False
    hard: Function = sign


PAIRS: dict[str, Pair] = {
    "bc": Pair(sign, _ones, True, "BinaryConnect (arXiv 1511.00363)"),
    "pc": Pair(lambda u, mu: (u + mu * sign(u)) / (1.0 + mu), _ones, True,
               "ProxConnect: the proximal map of mu/2 times the squared distance to {-1, 1}; our mu, 0.1 to 100",
               _geometric(0.1, 100.0, HARD_FROM), True),
    "ste": Pair(sign, _inside, True, "BNN, the clipped straight-through estimator (arXiv 1602.02830)"),
    "bireal": Pair(sign, lambda u, mu: 2.0 * tf.nn.relu(1.0 - tf.abs(u)), False, "Bi-Real (arXiv 1808.00278)"),
    "bnn+": Pair(sign, sign_swish_slope, False, "BNN+ (arXiv 1812.11800), mu = 5", lambda p: 5.0 * tf.ones_like(p)),
    "ede": Pair(sign, _estimator_slope, False, "IR-Net (arXiv 1909.10788), t from 0.1 to 10 as SBNN has it",
                _geometric(0.1, 10.0)),
    "ede-soft": Pair(_estimator, _estimator_slope, True, "EDE with its integral as forward, as the criterion asks",
                     _geometric(0.1, 10.0, HARD_FROM), True),
    "rbnn": Pair(sign, _square_slope, False, "RBNN (NeurIPS 2020, code lmbxmu/RBNN), t from 0.01 to 10",
                 _geometric(0.01, 10.0)),
    "reste": Pair(sign, _root_slope, False, "ReSTE (arXiv 2308.06689), o from 1 to 3",
                  lambda p: 1.0 + 2.0 * (1.0 - tf.cos(pi * p / 2.0))),
    "polybnn": Pair(_polynomial, _polynomial_slope, True,
                    "Bi-Real's polynomial as forward and its slope as backward (PolyBNN); mu from 1 to 10 is ours",
                    _geometric(1.0, 10.0, HARD_FROM), True),
    "bnn++": Pair(sign_swish, sign_swish_slope, True,
                  "BNN++ (arXiv 2402.17710): BNN+ with SignSwish as forward; mu from 5 to 50 and the hard end are ours",
                  _geometric(5.0, 50.0, HARD_FROM), True),
}


def pair_of(name: str) -> Pair:
    """A pair by name; raises InputError for another one."""
    if name not in PAIRS:
        raise InputError(f"gradient {name!r}; use one of {', '.join(PAIRS)}")
    return PAIRS[name]


class Scheduled(Annealed):
    """A layer or quantizer of ours that binarises with a pair (PAIRS), whose mu follows the training's progress."""

    def __init__(self, gradient: str = "ste", **kwargs: Any):
        super().__init__(**kwargs)
        self.gradient, self._pair = gradient, pair_of(gradient)

    @property
    def unfinished(self) -> str:
        """Why the forward is still soft, so that weights are not levels yet; "" once it is hard."""
        if not self._pair.soft or (self.built and float(self.progress) >= HARD_FROM):
            return ""
        return (f"gradient {self.gradient!r} is soft until {HARD_FROM:.0%} of its training and is at "
                f"{float(self.progress) if self.built else 0:.0%}; train on, or call bnnflow.train.harden(model)")

    def binarize(self, u: tf.Tensor) -> tf.Tensor:
        """F(u) with the gradient B(u)."""
        pair = self._pair
        progress = tf.convert_to_tensor(self.progress)
        mu = pair.schedule(progress)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def paired(u: tf.Tensor) -> Any:
            y = pair.forward(u, mu)
            if pair.soft:
                y = tf.where(progress >= HARD_FROM, pair.hard(u, mu), y)
            return y, lambda g: g * pair.backward(u, mu)

        return paired(tf.convert_to_tensor(u))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "gradient": self.gradient}


@keras.utils.register_keras_serializable(package="bnnflow")
class Binarize(Scheduled):
    """Binary activation in {-1, +1} with any pair (PAIRS): (..., C) -> (..., C)."""

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Binarise."""
        return self.binarize(x)
