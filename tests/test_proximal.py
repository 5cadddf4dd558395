"""Pairs of forward and backward quantizers: gradients, the proximal criterion, hardening.

The formulas are written apart here, in NumPy and float64, from the papers as the architecture of each pair states them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import tensorflow as tf

from bnnflow.frontends.keras.reading import custom_objects
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from bnnflow.train import Binarize, Binary, Masked, harden
from bnnflow.train.proximal import PAIRS, Pair, Scheduled, sign_swish, sign_swish_slope
from bnnflow.train.schedules import HARD_FROM, set_progress
from tests.contracts import dense, shake

Float = np.ndarray
GRID = np.linspace(-2.0, 2.0, 4001)
PROGRESS = (0.0, 0.1, 0.35, 0.6, 0.79, HARD_FROM, 1.0)


def sgn(u: Float) -> Float:
    return np.where(u >= 0, 1.0, -1.0)


def logistic(x: Float) -> Float:
    return 1.0 / (1.0 + np.exp(-x))


def swish(u: Float, mu: float) -> Float:
    s = logistic(mu * u)
    return 2 * s * (1 + mu * u * (1 - s)) - 1


def swish_slope(u: Float, mu: float) -> Float:
    return mu * (2 - mu * u * np.tanh(mu * u / 2)) / (1 + np.cosh(mu * u))


def ede(u: Float, t: float) -> Float:
    return max(1 / t, 1) * t * (1 - np.tanh(t * u) ** 2)


def ramp(first: float, last: float, until: float) -> Callable[[float], float]:
    return lambda p: np.exp(np.log(first) + min(p / until, 1) * np.log(last / first))


def root(u: Float, o: float) -> Float:
    far = np.abs(np.where(np.abs(u) > 0.1, u, 0.1)) ** (1 / o - 1) / o
    return np.where(np.abs(u) <= 0.1, 0.1 ** (1 / o) / 0.1, np.where(np.abs(u) <= 1.5, far, 0))


# name: (forward while soft, backward, mu of the progress), of (u, mu)
FORMULAS: dict[str, tuple[Callable, Callable, Callable[[float], float]]] = {
    "bc": (lambda u, m: sgn(u), lambda u, m: 1 + 0 * u, lambda p: 1),
    "pc": (lambda u, m: (u + m * sgn(u)) / (1 + m), lambda u, m: 1 + 0 * u, ramp(0.1, 100, 0.8)),
    "ste": (lambda u, m: sgn(u), lambda u, m: 1.0 * (np.abs(u) <= 1), lambda p: 1),
    "bireal": (lambda u, m: sgn(u), lambda u, m: np.maximum(2 - 2 * np.abs(u), 0), lambda p: 1),
    "bnn+": (lambda u, m: sgn(u), swish_slope, lambda p: 5),
    "ede": (lambda u, m: sgn(u), ede, ramp(0.1, 10, 1)),
    "ede-soft": (lambda u, t: max(1 / t, 1) * np.tanh(t * u), ede, ramp(0.1, 10, 0.8)),
    "rbnn": (lambda u, m: sgn(u), lambda u, t: max(1 / t, 1) * np.maximum(np.sqrt(2) * t - t**2 * np.abs(u), 0),
             ramp(0.01, 10, 1)),
    "reste": (lambda u, m: sgn(u), root, lambda p: 1 + 2 * (1 - np.cos(np.pi * p / 2))),
    "polybnn": (lambda u, m: np.where(np.abs(m * u) < 1, 2 * m * u - np.sign(u) * (m * u) ** 2, np.sign(u)),
                lambda u, m: m * np.maximum(2 - 2 * np.abs(m * u), 0), ramp(1, 10, 0.8)),
    "bnn++": (swish, swish_slope, ramp(5, 50, 0.8)),
}


def expected(name: str, progress: float) -> tuple[Float, Float]:
    """F and B on the grid."""
    forward, backward, schedule = FORMULAS[name]
    mu = schedule(progress)
    soft = PAIRS[name].soft and progress < HARD_FROM
    return (forward(GRID, mu) if soft else sgn(GRID)), backward(GRID, mu)


def test_every_pair_has_formulas():
    assert set(FORMULAS) == set(PAIRS)


@pytest.mark.parametrize("make", [Binary, Binarize, lambda name: Masked(Binary(name))])
@pytest.mark.parametrize("name", PAIRS)
def test_forward_and_gradient_are_the_pair(name, make):
    """Values in float32 against float64, signs exactly; the gradient is B times the gradient that arrives."""
    part, u = make(name), tf.Variable(GRID, dtype=tf.float32)
    arriving = np.linspace(-2, 3, len(GRID)).astype(np.float32)
    part(u)
    scheduled = part.quantizer if isinstance(part, Masked) else part
    for progress in PROGRESS:
        scheduled.progress.assign(progress)
        with tf.GradientTape() as tape:
            y = part(u)
        f, b = expected(name, progress)
        slope = tape.gradient(y, u, tf.constant(arriving)).numpy()
        # Where B jumps, the float32 grid point may lie on its other side.
        edge = np.isin(np.round(np.abs(GRID), 3), (0.1, 1.0, 1.5)) if name in ("ste", "reste") else np.zeros(1, bool)
        b = np.where(edge, slope / np.where(arriving == 0, 1, arriving), b)
        np.testing.assert_allclose(y.numpy(), f, rtol=0, atol=2e-6)
        np.testing.assert_allclose(slope, b * arriving, rtol=2e-5, atol=2e-5 * max(1, np.abs(b).max()))
        if not PAIRS[name].soft or progress >= HARD_FROM:
            assert np.array_equal(y, sgn(GRID))


def test_edges_of_the_clipped_gradient_belong_to_it():
    part, u = Binary("ste"), tf.Variable([-1.0, 1.0, np.nextafter(np.float32(1), np.float32(2))])
    with tf.GradientTape() as tape:
        y = part(u)
    assert np.array_equal(tape.gradient(y, u), [1, 1, 0])


@pytest.mark.parametrize("mu", [1.0, 5.0, 17.0, 50.0])
def test_sign_swish_slope_is_its_derivative(mu):
    """Central differences of float64, error O(mu^3 step^2); the overshoot is where methods.md puts it."""
    u, step = GRID / mu * 5, 1e-4 / mu
    numeric = (swish(u + step, mu) - swish(u - step, mu)) / (2 * step)
    ours = sign_swish_slope(tf.constant(u, tf.float64), tf.constant(mu, tf.float64)).numpy()
    np.testing.assert_allclose(ours, numeric, rtol=0, atol=1e-7 * mu)
    fine = np.linspace(-10, 10, 200001) / mu
    values = sign_swish(tf.constant(fine, tf.float64), tf.constant(mu, tf.float64)).numpy()
    assert values.max() == pytest.approx(1.1997, abs=1e-4)
    assert mu * fine[values.argmax()] == pytest.approx(2.40, abs=5e-3)
    slopes = sign_swish_slope(tf.constant(fine, tf.float64), tf.constant(mu, tf.float64)).numpy()
    assert slopes.min() / slopes.max() == pytest.approx(-0.074, abs=1e-3)


@pytest.mark.parametrize("name", ["bnn+", "bnn++", "ede", "ede-soft"])
def test_slopes_are_finite_far_out(name):
    u = tf.constant([-1e30, -1e4, -30.0, 30.0, 1e4, 1e30])
    assert np.isfinite(PAIRS[name].backward(u, tf.constant(50.0))).all()
    assert np.abs(PAIRS[name].backward(u, tf.constant(50.0))).max() < 1e-6


def violation(pair: Pair, mu: float) -> float:
    """How far a pair is from F = T(P), B = T'(P) with a monotone P(u) = integral of dF/B over [-1, 1].

    In float64, B by Simpson's rule, over a grid without 0, where a jump of F adds (jump)/B(0). The result is the
    largest of: a step back of P; the spread of F, and of B relative to its largest value, over weights that have one P.
    Where both dF and B vanish (a saturated forward) P stands still; where B alone does, P and the result are infinite.
    """
    edges = np.linspace(-1.0, 1.0, 40002)  # even, so that 0 lies between two points
    u = tf.constant(edges, tf.float64)
    m = tf.constant(mu, tf.float64)
    f, b = pair.forward(u, m).numpy(), pair.backward(u, m).numpy()
    middle = (b[1:] + b[:-1] + 4.0 * pair.backward((u[1:] + u[:-1]) / 2.0, m).numpy()) / 6.0
    top, change = np.abs(b).max(), np.diff(f)
    small = 1e-6 * top
    at = len(edges) // 2 - 1  # the interval with 0
    if abs(change[at]) < 10 * max(np.abs(change[at - 1]), np.abs(change[at + 1]), 1e-9):
        jump = 0.0
    else:
        jump, change[at] = change[at] - (change[at - 1] + change[at + 1]) / 2, (change[at - 1] + change[at + 1]) / 2
    still = (np.abs(middle) < small) & (np.abs(change) < small * np.diff(edges))
    with np.errstate(divide="ignore", invalid="ignore"):
        step = np.where(still, 0.0, change / middle)
    step[at] += jump / pair.backward(tf.constant([0.0], tf.float64), m).numpy()[0]
    p = np.concatenate([[0.0], np.cumsum(step)])
    if not np.isfinite(p).all():
        return np.inf
    # Runs of one P, with a step that is no more than rounding of the differences.
    runs = np.concatenate([[0], np.cumsum(np.abs(step) > 1e-12)])
    spread = max(_spread(f, runs), _spread(b, runs) / top)
    return max(spread, -min(0.0, np.diff(p).min()))


def _spread(values: Float, runs: Float) -> float:
    high, low = np.full(runs[-1] + 1, -np.inf), np.full(runs[-1] + 1, np.inf)
    np.maximum.at(high, runs, values)
    np.minimum.at(low, runs, values)
    return float((high - low).max())


def mus(name: str) -> list[float]:
    until = HARD_FROM if PAIRS[name].soft else 1.0
    return [float(PAIRS[name].schedule(tf.constant(p, tf.float64))) for p in np.linspace(0, until, 17)]


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair.proximal])
def test_proximal_pairs_meet_the_criterion(name):
    assert max(violation(PAIRS[name], mu) for mu in mus(name)) < 1e-5


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if not pair.proximal])
def test_the_other_pairs_fail_it(name):
    worst = [violation(PAIRS[name], mu) for mu in mus(name)]
    assert max(worst) > 0.1, "the pair is proximal after all"
    assert min(worst[1:]) > 1e-4, "at every mu but perhaps the first: ReSTE starts as BinaryConnect"


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair.soft])
def test_the_hard_end_of_a_soft_pair(name):
    """After HARD_FROM only ProxConnect, whose slope is constant, still meets the criterion; the docstring says so."""
    pair = PAIRS[name]
    mu = mus(name)[-1]
    assert (violation(Pair(pair.hard, pair.backward, False, ""), mu) < 1e-5) == (name == "pc")


@pytest.mark.parametrize(("pair", "meets"), [
    (Pair(lambda u, m: 3.0 * tf.tanh(u), lambda u, m: 3.0 * (1.0 - tf.tanh(u) ** 2), True, ""), True),
    (Pair(lambda u, m: u, lambda u, m: 1.0 + u**2, True, ""), True),  # P = arctan, T = tan
    (Pair(lambda u, m: -u, lambda u, m: tf.ones_like(u), False, ""), False),  # P falls
    (Pair(lambda u, m: tf.sign(u), lambda u, m: 1.0 + 0.01 * u, False, ""), False),
    (Pair(lambda u, m: u, lambda u, m: tf.nn.relu(u), False, ""), False),  # P is infinite
    (Pair(lambda u, m: tf.clip_by_value(u, -0.5, 0.5), lambda u, m: 1.0 + tf.nn.relu(u), False, ""), False),
])
def test_the_criterion_on_pairs_whose_answer_is_known(pair, meets):
    assert (violation(pair, 1.0) < 1e-5) == meets


def test_proxconnect_is_the_proximal_map_of_the_squared_distance():
    """argmin over w of (w - u)^2 / 2 + mu/2 * min(|w - 1|, |w + 1|)^2, by search."""
    w = np.linspace(-1.5, 1.5, 300001)
    for mu in (0.1, 1.0, 7.0):
        for u in (-1.0, -0.3, 0.2, 0.9):
            cost = (w - u) ** 2 / 2 + mu / 2 * np.minimum(np.abs(w - 1), np.abs(w + 1)) ** 2
            ours = float(PAIRS["pc"].forward(tf.constant(u, tf.float64), tf.constant(mu, tf.float64)))
            assert ours == pytest.approx(w[cost.argmin()], abs=2e-5)


SOFT = [name for name, pair in PAIRS.items() if pair.soft]


def network(name: str, activation: bool) -> keras.Model:
    x = keras.Input((12,))
    kernel = Binary("ste" if activation else name)
    h = keras.layers.BatchNormalization()(dense(9, kernel_quantizer=kernel, name="inner")(x))
    return shake(keras.Model(x, dense(3)(Binarize(name if activation else "ste", name="act")(h))))


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("name", SOFT)
def test_unhardened_is_refused_and_hardened_is_keras(name, activation):
    model, layer = network(name, activation), "act" if activation else "inner"
    for progress in (0.0, 0.79):
        set_progress(model, progress)
        with pytest.raises(bf.LoweringError, match=f"layer '{layer}'.*{re.escape(repr(name))}.*bnnflow.train.harden"):
            bf.lower(model, "ufixed<4,0>")
    x = np.random.default_rng(0).integers(0, 16, (200, 12)) / 16
    assert harden(model) is model
    check_equal(bf.lower(model, "ufixed<4,0>"), model, x)
    set_progress(model, HARD_FROM)
    check_equal(bf.lower(model, "ufixed<4,0>"), model, x)


def test_masks_hand_on_that_they_are_soft():
    x = keras.Input((12,))
    model = keras.Model(x, dense(3, kernel_quantizer=Masked(Binary("bnn++")), name="inner")(x))
    with pytest.raises(bf.LoweringError, match="layer 'inner'.*harden"):
        bf.lower(model, "ufixed<4,0>")
    bf.lower(harden(model), "ufixed<4,0>")


@pytest.mark.parametrize("kind", [Binary, Binarize])
def test_unknown_gradients_are_refused(kind):
    with pytest.raises(bf.InputError, match="gradient 'sigmoid'; use one of bc, pc"):
        kind("sigmoid")


def test_progress_is_saved_and_unfinished_before_building(tmp_path):
    part: Scheduled = Binary("pc")
    assert "is at 0%" in part.unfinished and not Binary("bc").unfinished
    model = network("bnn++", activation=False)
    set_progress(model, 0.5)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"net{suffix}")
        again = keras.models.load_model(tmp_path / f"net{suffix}", compile=False,
                                        custom_objects=custom_objects())
        assert float(again.get_layer("inner").kernel_quantizer_internal.progress) == 0.5
