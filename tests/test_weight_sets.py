"""Weight sets: forwards against NumPy in float64, gradients against the documented backward, shapes, files, rotations.

The NumPy versions loop over filters and are written from the docstrings, apart from the TensorFlow code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.exact.levels import dyadic
from bnnflow.frontends.keras.reading import read_model
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from bnnflow.train import (
    RBNN,
    TTQ,
    TWN,
    AdaBin,
    BiPer,
    Masked,
    MultiBranch,
    Rotations,
    SignedBinary,
    SiMaN,
    harden,
)
from bnnflow.train.schedules import HARD_FROM
from tests.contracts import KERNELS, dense, half_mask, shake
from tests.test_proximal import FORMULAS, violation

Float = np.ndarray
# (shape, axes): dense, odd filters, one weight a filter, convolution, depthwise with a multiplier of 2, one filter
SHAPES = [((12, 9), 1), ((7, 4), 1), ((1, 3), 1), ((3, 3, 4, 5), 1), ((3, 2, 4, 2), 2), ((6, 5), 0)]
PER_FILTER = [AdaBin, SiMaN, RBNN, SignedBinary, TWN]


def weights(shape: tuple[int, ...], seed: int = 0) -> Float:
    return np.random.default_rng(seed).normal(0.1, 0.6, shape).astype(np.float32)


def filters(w: Float, axes: int) -> Float:
    """A kernel as (filters, weights of a filter), float64."""
    return np.asarray(w, np.float64).reshape(-1, int(np.prod(w.shape[w.ndim - axes:]))).T


def as_kernel(rows: Float, shape: tuple[int, ...]) -> Float:
    return rows.T.reshape(shape)


def run(quantizer: Any, w: Float, arriving: Float | None = None) -> tuple[Float, Float]:
    """The quantized weights, and the gradient of the latent ones when `arriving` is that of the quantized ones."""
    variable = tf.Variable(w)
    with tf.GradientTape() as tape:
        y = quantizer(variable)
    g = np.ones_like(w) if arriving is None else arriving.astype(np.float32)
    return y.numpy(), tape.gradient(y, variable, tf.constant(g)).numpy()


def arriving_at(shape: tuple[int, ...]) -> Float:
    return np.random.default_rng(9).normal(0, 1, shape)


def snapped(values: Float, bits: int) -> Float:
    """Rounded to multiples of a power of two, of which the largest value has up to 2^bits."""
    unit = 2.0 ** (np.ceil(np.log2(np.abs(values).max())) - bits)
    return np.rint(values / unit) * unit


def standardised(rows: Float) -> tuple[Float, Float]:
    """Rows of mean 0 and deviation 1, and the deviations."""
    deviation = rows.std(axis=1, keepdims=True)
    deviation = np.sqrt(deviation**2 + 1e-12)
    return (rows - rows.mean(axis=1, keepdims=True)) / deviation, deviation


def back_through_standardising(g: Float, hat: Float, deviation: Float) -> Float:
    return (g - g.mean(axis=1, keepdims=True) - hat * (g * hat).mean(axis=1, keepdims=True)) / deviation


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("shape", "axes"), SHAPES[:2] + SHAPES[3:])
def test_ada_bin(shape, axes, progress):
    w, g = weights(shape), arriving_at(shape)
    quantizer = AdaBin(axes=axes, snapped=5)
    quantizer.build(shape)
    quantizer.progress.assign(progress)
    y, slope = run(quantizer, w, g)
    rows, incoming = filters(w, axes), filters(g, axes)
    beta = rows.mean(axis=1, keepdims=True)
    hat, alpha = standardised(rows)
    both = snapped(np.stack([alpha, beta]), 5)
    signs = np.where(rows >= beta, 1, -1)
    assert np.array_equal(y, as_kernel(both[0] * signs + both[1], shape))
    # y = a s(u) + b, u = (w - b)/a: through the sign, through the scale (da/dw = u/n), the offset (db/dw = 1/n).
    _, backward, schedule = FORMULAS["ede"]
    through = back_through_standardising(incoming * both[0] * backward(hat, schedule(progress)), hat, alpha)
    scale = (incoming * signs).mean(axis=1, keepdims=True) * hat
    expected = through + scale + incoming.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(slope, as_kernel(expected, shape), rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_scales_keep_at_least_a_unit():
    """A filter of weights that are nearly equal, or all 0, keeps two values and finite gradients."""
    w = weights((12, 4))
    w[:, 1] *= 1e-3
    w[:, 2] = 0
    w[:, 3] = 0.3
    for quantizer in (AdaBin(snapped=3), TWN(snapped=3)):
        y, slope = run(quantizer, w)
        integers, unit = dyadic(y)
        assert np.isfinite(slope).all() and np.abs(integers).max() <= 2 * 2**3
        assert len(np.unique(y[:, 1])) == 2 + isinstance(quantizer, TWN)
    y, slope = run(SiMaN(), w)
    assert np.isfinite(slope).all() and (y.sum(axis=0) == 0).all()
    for quantizer in (AdaBin(), SiMaN(), RBNN(), SignedBinary(), TWN(), TTQ(), MultiBranch(), BiPer()):
        y, slope = run(quantizer, np.zeros((12, 4), np.float32))
        assert np.isfinite(y).all() and np.isfinite(slope).all()


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_scaled_levels_are_small_integers(bits):
    for quantizer in (AdaBin(snapped=bits), TWN(snapped=bits), TTQ(snapped=bits)):
        for seed in range(20):
            w = weights((9, 40), seed) * np.float32(10.0) ** np.arange(-20, 20, dtype=np.float32)[seed]
            integers, _ = dyadic(run(quantizer, w)[0])
            assert np.abs(integers).max() <= 2 * 2**bits


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_siman(shape, axes):
    w, g = weights(shape), arriving_at(shape)
    y, slope = run(SiMaN(axes=axes), w, g)
    rows, incoming = filters(w, axes), filters(g, axes)
    hat, deviation = standardised(rows)
    signs = np.empty_like(rows)
    for row, out in zip(np.abs(hat), signs):
        order = np.argsort(row, kind="stable")
        out[order[: len(row) // 2]], out[order[len(row) // 2:]] = -1, 1
    assert np.array_equal(y, as_kernel(signs, shape))
    assert (signs.sum(axis=1) == rows.shape[1] % 2).all(), "balanced"
    expected = back_through_standardising(incoming * np.sign(hat), hat, deviation)
    np.testing.assert_allclose(slope, as_kernel(expected, shape), rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_siman_of_equal_magnitudes_is_balanced_and_keeps_their_order():
    w = np.array([[0.5, -0.5, 0.5, -0.5]], np.float32).T
    assert np.array_equal(run(SiMaN(), w)[0].ravel(), [-1, -1, 1, 1])


@pytest.mark.parametrize("progress", [0.0, 0.6, 1.0])
@pytest.mark.parametrize(("shape", "axes"), SHAPES[:2] + SHAPES[3:])
def test_rbnn(shape, axes, progress):
    w, g = weights(shape), arriving_at(shape)
    quantizer = RBNN(axes=axes)
    quantizer.build(shape)
    quantizer.progress.assign(progress)
    quantizer.solve(weights(shape, 5))
    rows, incoming = filters(w, axes), filters(g, axes)
    theta = np.random.default_rng(1).uniform(-3, 3, len(rows)).astype(np.float32)
    quantizer.theta.assign(theta)
    left, right = quantizer.left.numpy().astype(float), quantizer.right.numpy().astype(float)
    hat, deviation = standardised(rows)
    share = np.abs(np.sin(theta.astype(float)))[:, None]
    turned = np.stack([(left.T @ m.reshape(len(left), len(right)) @ right).ravel() for m in hat])
    u = hat + share * (turned - hat)
    assert np.abs(u).min() > 1e-5, "no sign of this example is in doubt"
    variable = tf.Variable(w)
    with tf.GradientTape() as tape:
        y = quantizer(variable)
    slope, to_theta = tape.gradient(y, [variable, quantizer.theta], tf.constant(g.astype(np.float32)))
    assert np.array_equal(y, as_kernel(np.where(u >= 0, 1, -1), shape))
    _, backward, schedule = FORMULAS["rbnn"]
    h = incoming * backward(u, schedule(progress))
    back = np.stack([(left @ m.reshape(len(left), len(right)) @ right.T).ravel() for m in h])
    expected = back_through_standardising(h + share * (back - h), hat, deviation)
    np.testing.assert_allclose(slope, as_kernel(expected, shape), rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    angle = (h * (turned - hat)).sum(axis=1) * np.sign(np.sin(theta)) * np.cos(theta)
    np.testing.assert_allclose(to_theta, angle, rtol=1e-3, atol=1e-4 * max(1e-3, np.abs(angle).max()))


def distance(quantizer: RBNN, w: Float, left: Float, right: Float) -> float:
    hat = standardised(filters(w, quantizer.axes))[0].reshape(-1, len(left), len(right))
    turned = left.T @ hat @ right
    return float(((turned - np.where(turned >= 0, 1, -1)) ** 2).sum())


@pytest.mark.parametrize("shape", [(12, 9), (3, 3, 4, 6), (7, 5), (64, 32)])
def test_rotations_are_orthogonal_and_bring_weights_to_their_signs(shape):
    w, quantizer = weights(shape), RBNN()
    quantizer.build(shape)
    a, b = quantizer.left.shape[0], quantizer.right.shape[0]
    assert a * b == np.prod(shape[:-1]) and a <= b
    found = [distance(quantizer, w, np.eye(a), np.eye(b))]
    for _ in range(4):
        quantizer.solve(w, rounds=1)
        left, right = quantizer.left.numpy(), quantizer.right.numpy()
        np.testing.assert_allclose(left.T @ left, np.eye(a), atol=1e-5)
        np.testing.assert_allclose(right.T @ right, np.eye(b), atol=1e-5)
        found.append(distance(quantizer, w, left, right))
    assert all(after <= before * (1 + 1e-6) for before, after in zip(found, found[1:])) and found[-1] < 0.99 * found[0]


def test_one_polar_step_is_the_best_rotation():
    """Against 2,000 random orthogonal matrices and small turns of the solution."""
    from bnnflow.train.weight_sets import _polar

    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(4, 4))
    best = np.trace(_polar(matrix).T @ matrix)
    for _ in range(2000):
        turn = np.linalg.qr(rng.normal(size=(4, 4)))[0]
        near = np.linalg.qr(np.eye(4) + 0.01 * rng.normal(size=(4, 4)))[0]
        near *= np.sign(np.diag(near))
        assert max(np.trace(turn.T @ matrix), np.trace((_polar(matrix) @ near).T @ matrix)) <= best + 1e-12


def rotated_network() -> keras.Model:
    x = keras.Input((12,))
    h = dense(8, kernel_quantizer=RBNN(), name="plain")(x)
    h = qkeras.QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h))
    return shake(keras.Model(x, dense(3, kernel_quantizer=Masked(RBNN()), name="masked")(h)))


def test_rotations_are_solved_every_so_many_steps_and_stay_exact():
    model, solved = rotated_network(), []
    plain, hidden = (model.get_layer(n).kernel_quantizer_internal for n in ("plain", "masked"))
    hidden = hidden.quantizer
    x = np.random.default_rng(0).integers(0, 16, (40, 12)) / 16
    model.compile("adam", "mse")

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            solved.append(np.concatenate([plain.left.numpy().ravel(), hidden.right.numpy().ravel()]))

    model.fit(x, np.ones((40, 3)), batch_size=8, epochs=2, verbose=0, callbacks=[Rotations(4), Watch()])
    changes = [not np.array_equal(a, b) for a, b in zip(solved, solved[1:])]
    assert [k + 1 for k, changed in enumerate(changes) if changed] == [4, 8]
    assert not np.array_equal(plain.left, np.eye(plain.left.shape[0]))
    assert {v.name for v in model.trainable_weights}.isdisjoint({plain.left.name, plain.right.name})
    check_equal(bf.lower(harden(model), "ufixed<4,0>"), model, x)
    with pytest.raises(bf.InputError, match="1 or more"):
        Rotations(0)


@pytest.mark.parametrize("omega", [1.0, 20.0, 300.0])
def test_biper(omega):
    w = np.linspace(-1, 1, 4002, dtype=np.float32)[:, None]
    g = arriving_at(w.shape)
    quantizer = BiPer(omega)
    quantizer.build(w.shape)
    sine, slope_of = np.sin(omega * w.astype(float)), omega * np.cos(omega * w.astype(float))
    sure = np.abs(sine) > 1e-4 * omega / 20
    for progress in (0.0, HARD_FROM - 0.01, HARD_FROM, 1.0):
        quantizer.progress.assign(progress)
        y, slope = run(quantizer, w, g)
        if progress < HARD_FROM:
            assert quantizer.unfinished
            np.testing.assert_allclose(y, sine, rtol=0, atol=1e-6 * omega)
        else:
            assert not quantizer.unfinished and set(np.unique(y)) == {-1, 1}
            assert np.array_equal(y[sure], np.sign(sine[sure]))
        np.testing.assert_allclose(slope, slope_of * g, rtol=0, atol=1e-5 * omega**2)
    assert run(quantizer, np.zeros((1, 1), np.float32))[0] == 1
    assert violation(quantizer._pair, 1.0) < 1e-5, "a soft forward with its own derivative is proximal"


def test_biper_is_refused_while_soft_and_adds_its_loss_only_then():
    x = keras.Input((12,))
    model = shake(keras.Model(x, dense(3, kernel_quantizer=BiPer(tau=0.5), name="inner")(x)))
    w = model.get_layer("inner").kernel.numpy().astype(float)
    with pytest.raises(bf.LoweringError, match="layer 'inner'.*'biper'.*bnnflow.train.harden"):
        bf.lower(model, "ufixed<4,0>")
    inputs = np.random.default_rng(0).integers(0, 16, (64, 12)) / 16
    model.compile("sgd", "mse")
    targets = model.predict(inputs, verbose=0)
    assert model.evaluate(inputs, targets, verbose=0) == pytest.approx(0.5 * np.mean(np.sin(20 * w) ** 2), rel=1e-4)
    harden(model)
    assert model.evaluate(inputs, model.predict(inputs, verbose=0), verbose=0) == 0
    check_equal(bf.lower(model, "ufixed<4,0>"), model, inputs)


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_signed_binary(shape, axes):
    w, g = weights(shape) * 1.5, arriving_at(shape) * 2
    y, slope = run(SignedBinary(axes=axes), w, g)
    rows = np.asarray(filters(w, axes))
    signs = np.zeros_like(rows)
    for k, row in enumerate(rows):
        d = float(np.float32(0.05) * np.abs(row).max().astype(np.float32))
        signs[k] = row >= d if k < (len(rows) + 1) // 2 else -1.0 * (row <= -d)
    assert np.array_equal(y, as_kernel(signs, shape))
    assert np.array_equal(slope, np.where(np.abs(w) <= 1, np.clip(g, -1, 1), 0).astype(np.float32))


@pytest.mark.parametrize(("shape", "axes"), SHAPES)
def test_twn(shape, axes):
    w, g = weights(shape), arriving_at(shape)
    y, slope = run(TWN(axes=axes), w, g)
    rows = filters(w, axes)
    used = np.abs(rows) > 0.7 * np.abs(rows).mean(axis=1, keepdims=True)
    a = snapped(np.array([np.abs(row[u]).mean() for row, u in zip(rows, used)]), 5)
    assert np.array_equal(y, as_kernel(a[:, None] * used * np.sign(rows), shape))
    assert np.array_equal(slope, g.astype(np.float32))


def test_twn_minimises_the_distance_about_as_well_as_any_threshold():
    """The paper's rule is an approximation; exact search over all thresholds gains little for normal weights."""
    row = np.abs(weights((4000, 1)).ravel() - 0.1).astype(float)
    order = np.sort(row)[::-1]
    gain = np.cumsum(order) ** 2 / np.arange(1, len(order) + 1)  # the distance is sum w^2 - this
    used = row > 0.7 * row.mean()
    assert row[used].sum() ** 2 / used.sum() > 0.98 * gain.max()


@pytest.mark.parametrize("scales", [(1.0, 1.0), (0.7, 0.3), (0.013, 2.9), (0.0, 1.0)])
def test_ttq(scales):
    w, g = weights((12, 9)), arriving_at((12, 9))
    quantizer = TTQ()
    quantizer.build(w.shape)
    quantizer.scales.assign(scales)
    variable = tf.Variable(w)
    with tf.GradientTape() as tape:
        y = quantizer(variable)
    slope, to_scales = tape.gradient(y, [variable, quantizer.scales], tf.constant(g.astype(np.float32)))
    raised = np.maximum(scales, 1.25 * max(scales) / 32)
    high, low = snapped(raised, 5)
    assert high > 0 and low > 0
    d = 0.05 * np.abs(w).max()
    above, below = w > d, w < -d
    assert np.array_equal(y, np.where(above, high, np.where(below, -low, 0)))
    np.testing.assert_allclose(slope, g * np.where(above, high, np.where(below, low, 1)), rtol=1e-6)
    np.testing.assert_allclose(to_scales, [g[above].sum(), -g[below].sum()], rtol=1e-4)


def test_ttq_learns_its_scales_downhill():
    """With the minus of the derivative, both scales come near those that made the targets."""
    w = weights((40, 1))
    w[np.abs(w) < 0.05] = 0.2
    target = np.where(w > 0, 0.75, -0.25)
    quantizer, optimizer = TTQ(threshold=0.01), keras.optimizers.SGD(0.01)
    variable = tf.Variable(w)
    for _ in range(300):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((quantizer(variable) - target) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, quantizer.scales), quantizer.scales)])
    np.testing.assert_allclose(quantizer.scales, [0.75, 0.25], atol=1 / 32)


@pytest.mark.parametrize("branches", [1, 2, 3, 8])
def test_multi_branch(branches):
    w = np.linspace(-1.2, 1.2, 7777, dtype=np.float32)[:, None]
    g = arriving_at(w.shape)
    quantizer = MultiBranch(branches)
    y, slope = run(quantizer, w, g)
    levels = np.arange(1 - 2**branches, 2**branches, 2) / 2**branches
    far = np.abs(w.astype(float) - levels).min(axis=1)
    assert np.array_equal(np.abs(y.astype(float) - w).ravel(), far), "the nearest level"
    assert set(np.unique(y)) == set(levels)
    assert np.array_equal(slope, np.where(np.abs(w) <= 1, g, 0).astype(np.float32))
    planes = quantizer.planes(w).numpy()
    assert set(np.unique(planes)) == {-1, 1} and len(planes) == branches
    assert np.array_equal(np.tensordot(2.0 ** np.arange(branches), planes, 1) / 2**branches, y)


def test_multi_branch_products_are_popcounts_of_branches():
    """<x, w> of M-bit weights and K-bit data is the sum over branches of 2^(m + k) XNOR popcounts."""
    rng = np.random.default_rng(0)
    w, x = MultiBranch(3), MultiBranch(2)
    a, b = (q.planes(rng.uniform(-1, 1, (50, 1)).astype(np.float32)).numpy()[..., 0] for q in (w, x))
    whole = (2.0 ** np.arange(3) @ a) @ (2.0 ** np.arange(2) @ b)
    popcounts = [[2 * (a[m] == b[k]).sum() - 50 for k in range(2)] for m in range(3)]
    assert whole == sum(2 ** (m + k) * popcounts[m][k] for m in range(3) for k in range(2))


NEW = ["ada_bin_1", "ada_bin_5", "siman", "rbnn", "biper", "signed_binary", "twn", "ttq", "multi_branch_4",
       "masked_ada_bin"]


@pytest.mark.parametrize("name", NEW)
def test_eager_and_graph_give_the_same_bits(name):
    quantizer = KERNELS[name].make()
    w = tf.constant(weights((12, 9), 4))
    assert np.array_equal(quantizer(w), tf.function(quantizer)(w))


def image_network(kernel: Any, depthwise: Any) -> keras.Model:
    x = keras.Input((6, 5, 3))
    h = qkeras.QConv2D(4, 3, kernel_quantizer=kernel, use_bias=False, padding="same", name="conv")(x)
    h = qkeras.QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h))
    h = qkeras.QDepthwiseConv2D(2, depth_multiplier=2, depthwise_quantizer=depthwise, use_bias=False, name="deep")(h)
    h = qkeras.QActivation("ternary(alpha=1)")(keras.layers.BatchNormalization()(h))
    return shake(keras.Model(x, dense(3)(keras.layers.Flatten()(h))))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [*PER_FILTER, TTQ, MultiBranch, BiPer])
def test_images_lower_exactly_and_survive_files(kind, tmp_path):
    axes = {"axes": 2} if kind in PER_FILTER else {}
    model = harden(image_network(kind(), kind(**axes)))
    x = np.random.default_rng(0).integers(0, 16, (60, 6, 5, 3)) / 16
    graph = bf.lower(model, "ufixed<4,0>")
    check_equal(graph, model, x)
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"net{suffix}")
        again = read_model(tmp_path / f"net{suffix}")
        assert bf.lower(again, "ufixed<4,0>").digest == graph.digest
        configs = [m.get_layer("deep").depthwise_quantizer_internal.get_config() for m in (model, again)]
        assert configs[0] == configs[1]


@pytest.mark.parametrize("kind", PER_FILTER)
def test_depthwise_filters_are_one_a_channel_and_multiplier(kind):
    """A depthwise kernel has the same filters as a dense kernel of the same numbers."""
    w = weights((3, 2, 4, 2))
    deep, flat = kind(axes=2), kind()
    assert np.array_equal(run(deep, w)[0].reshape(6, 8), run(flat, w.reshape(6, 8))[0])


def test_masks_cut_after_the_quantizer():
    w = weights((12, 9))
    for make in (AdaBin, SiMaN, SignedBinary, TWN, TTQ, MultiBranch):
        quantizer = Masked(make())
        quantizer.set_mask(half_mask((12, 9)))
        assert np.array_equal(run(quantizer, w)[0], run(make(), w)[0] * half_mask((12, 9)))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: AdaBin(axes=3), "axes must be 0, 1 or 2"), (lambda: AdaBin(snapped=0), "1 to 8 bits"),
    (lambda: AdaBin(snapped=2.5), "1 to 8 bits"), (lambda: AdaBin("sigmoid"), "gradient 'sigmoid'"),
    (lambda: TWN(threshold=0.0), "between 0 and 1"), (lambda: TTQ(threshold=float("nan")), "between 0 and 1"),
    (lambda: SignedBinary(threshold=1.5), "between 0 and 1"), (lambda: MultiBranch(0), "1 to 8"),
    (lambda: MultiBranch(9), "1 to 8"), (lambda: BiPer(omega=0), "0 < omega"),
    (lambda: BiPer(omega=float("nan")), "0 < omega"), (lambda: BiPer(tau=-1), "tau of 0 or more"),
    (lambda: AdaBin(axes=2)(np.zeros((3, 4), np.float32)), "leaves no weights"),
])
def test_bad_arguments(make, message):
    with pytest.raises(bf.InputError, match=message):
        make()
