from __future__ import annotations

from itertools import permutations
from math import log2

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import tensorflow as tf

from bnnflow.errors import InputError, LoweringError
from bnnflow.frontends.keras.reading import read_model
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from bnnflow.models import digits
from bnnflow.train import KernelCodebook, LearnedThermometer, Masked, Progress, SubBit, harden
from bnnflow.train.codebooks import CODEWORDS, assign, codewords_of, nearest, sinkhorn
from bnnflow.train.schedules import set_progress
from tests.contracts import conv, dense, shake

SHAPE = (3, 3, 4, 10)


def built(quantizer, shape=SHAPE):
    quantizer.build(shape)
    return quantizer


def latent(shape=SHAPE, seed=0):
    return tf.Variable(np.random.default_rng(seed).normal(0, 0.7, shape), dtype=tf.float32)


def rows(kernel):
    """(3, 3, a, b) -> (a*b, 9)."""
    return np.moveaxis(np.asarray(kernel).reshape(9, -1), 0, 1)


def square_sinkhorn(scores, iterations):
    """The doubly stochastic form: N - n more columns of scores 0, all normalised to 1; float64."""
    logs = np.zeros((len(scores), len(scores)))
    logs[:, :scores.shape[1]] = scores
    p = np.exp(logs)
    for _ in range(iterations):
        p /= p.sum(axis=1, keepdims=True)
        p /= p.sum(axis=0, keepdims=True)
    return p


def network(make, filters=8):
    x = keras.Input((8, 8, 1))
    h = LearnedThermometer(3)(x)
    for k in range(2):
        h = conv(filters, 3, strides=1 + k, kernel_quantizer=make())(h)
        h = keras.layers.BatchNormalization(momentum=0.9)(h)
        h = bf.train.Binarize()(h)
    return keras.Model(x, keras.layers.BatchNormalization()(dense(10)(keras.layers.Flatten()(h))))


def step(model, seed=0):
    rng = np.random.default_rng(seed)
    return model.train_on_batch(rng.integers(0, 17, (16, 8, 8, 1)) / 16, rng.normal(0, 1, (16, 10)))


def test_codewords_are_all_different():
    assert CODEWORDS.shape == (512, 9) and len(np.unique(CODEWORDS, axis=0)) == 512
    assert CODEWORDS[0b000000101].tolist() == [1, -1, 1, -1, -1, -1, -1, -1, -1]


@pytest.mark.parametrize(("candidates", "n"), [(7, 3), (40, 16), (512, 32), (9, 9), (5, 4)])
def test_sinkhorn_is_doubly_stochastic(candidates, n):
    scores = np.random.default_rng(n).normal(0, 2, (candidates, n)).astype(np.float32)
    p = sinkhorn(tf.constant(scores), 300).numpy()
    assert (p > 0).all() and np.abs(p.sum(axis=0) - 1).max() < 1e-5 and p.sum(axis=1).max() < 1 + 1e-3
    whole = square_sinkhorn(scores.astype(np.float64), 300)
    assert np.abs(whole.sum(axis=0) - 1).max() < 1e-9 and np.abs(whole.sum(axis=1) - 1).max() < 1e-3
    assert np.abs(whole[:, :n] - p).max() < 1e-5, "one spare column stands for all"
    assert np.allclose(whole[:, n:], whole[:, -1:] if candidates > n else 0, atol=1e-12)
    few = sinkhorn(tf.constant(scores), 3).numpy()
    assert np.abs(few - square_sinkhorn(scores.astype(np.float64), 3)[:, :n]).max() < 1e-5
    assert np.abs(few.sum(axis=0) - 1).max() < 1e-5


def test_sinkhorn_hardens_to_the_assignment():
    scores = np.random.default_rng(3).normal(0, 1, (12, 5)).astype(np.float32)
    p = sinkhorn(tf.constant(scores / 0.005), 500).numpy()
    assert p.argmax(axis=0).tolist() == assign(scores).tolist() and p.max(axis=0).min() > 0.99


def test_assignment_is_the_best_one():
    for seed in range(20):
        scores = np.random.default_rng(seed).normal(0, 1, (6, 3))
        chosen = assign(scores)
        best = max(permutations(range(6), 3), key=lambda p: sum(scores[i, j] for j, i in enumerate(p)))
        assert chosen.dtype == np.int32 and chosen.tolist() == list(best)


@pytest.mark.parametrize(("n", "candidates"), [(32, 512), (16, 24), (12, 12)])
def test_no_repeated_codeword_in_a_thousand_draws(n, candidates):
    quantizer, w = built(KernelCodebook(n, candidates=candidates, noise=1.0, seed=1)), latent()
    call = tf.function(lambda: quantizer(w, training=True))
    seen = set()
    for k in range(1000):
        kernels = rows(call())
        chosen = quantizer.chosen.numpy()
        assert len(set(chosen)) == n and set(chosen) <= set(quantizer.pool.numpy()), f"draw {k}"
        assert k % 100 or {tuple(r) for r in kernels} <= {tuple(r) for r in CODEWORDS[chosen]}
        seen.add(tuple(sorted(chosen)))
    assert int(quantizer.step) == 1000
    assert len(seen) == 1 if n == candidates else len(seen) > 900, "noise selects anew"


@pytest.mark.parametrize("make", [lambda: KernelCodebook(16, seed=1), lambda: SubBit(16, seed=1)])
def test_kernels_are_the_nearest_codewords(make):
    quantizer, w = built(make()), latent()
    w.assign(np.where(np.random.default_rng(1).random(SHAPE) < 0.5, np.sign(w), w))  # some ties
    for training in (False, True):
        out = rows(quantizer(w, training=training))
        book = quantizer.codebook().numpy()
        for kernel, chosen in zip(rows(w), out, strict=True):
            distance = ((np.round(kernel.astype(np.float64) * 2**16) / 2**16 - book) ** 2).sum(axis=1)
            assert chosen.tolist() == book[np.argmin(np.round(distance, 9))].tolist()


def test_ties_go_to_the_first():
    book = tf.constant(CODEWORDS[[7, 3, 5, 3]])
    assert nearest(tf.zeros((2, 9)), book).numpy().tolist() == [0, 0]
    assert nearest(tf.constant(CODEWORDS[[3, 5]]) / 3, book).numpy().tolist() == [1, 2]


@pytest.mark.parametrize(("make", "slope"), [
    (lambda: KernelCodebook(8, seed=1), lambda w: np.abs(w) <= 1),
    (lambda: KernelCodebook(8, gradient="bireal", seed=1), lambda w: 2 * np.maximum(1 - np.abs(w), 0)),
    (lambda: SubBit(8, seed=1), lambda w: np.abs(w) <= 1),
])
@pytest.mark.parametrize("training", [False, True])
def test_gradient_of_latent_weights_is_the_documented_one(make, slope, training):
    quantizer = built(make())
    w = tf.Variable(np.linspace(-2, 2, 360).reshape(SHAPE), dtype=tf.float32)
    g = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(quantizer(w, training=training) * g)
    assert np.allclose(tape.gradient(y, w), g * slope(w.numpy()), atol=1e-6)


@pytest.mark.parametrize(("candidates", "temperature", "progress"), [(24, 1.0, 0.0), (512, 0.5, 0.3), (6, 2.0, 0.0)])
def test_gradient_of_scores_is_that_of_the_soft_selection(candidates, temperature, progress):
    options = {"candidates": candidates, "temperature": temperature, "iterations": 4}
    quantizer, w = built(KernelCodebook(6, **options, seed=1)), latent()
    quantizer.progress.assign(progress)
    noisy = quantizer.draw()[1].numpy().astype(np.float64)
    g = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    with tf.GradientTape() as tape:
        out = quantizer(w, training=True)
        y = tf.reduce_sum(out * g)
    found = tape.gradient(y, quantizer.scores).numpy()
    book, words = CODEWORDS[quantizer.chosen.numpy()], CODEWORDS[quantizer.pool.numpy()].astype(np.float64)
    to_book = np.stack([rows(g)[(rows(out) == word).all(axis=1)].sum(axis=0) for word in book])
    to_selection = words @ to_book.T  # (N, n)

    def soft(scores):
        return (square_sinkhorn(scores / temperature, 4)[:, :6] * to_selection).sum()

    rng = np.random.default_rng(1)
    directions = [rng.normal(0, 1, noisy.shape) for _ in range(4)]
    for j in range(6):  # and single scores, the largest gradients among them
        directions.append(np.zeros(noisy.shape))
        directions[-1][np.abs(found[:, j]).argmax(), j] = 1
    for d in directions:
        slope = (soft(noisy + 1e-5 * d) - soft(noisy - 1e-5 * d)) / 2e-5
        assert (found * d).sum() == pytest.approx(slope, rel=2e-3, abs=2e-4 * float(np.abs(found).max()))
    assert np.abs(found).max() > 0


def test_noise_shrinks_and_the_selection_stays_at_the_end():
    quantizer, w = built(KernelCodebook(16, noise=1.0, seed=1)), latent()
    start = quantizer.scores.numpy()
    sizes = []
    for progress in (0.0, 0.4, 0.7999):
        quantizer.progress.assign(progress)
        sizes.append(np.std(quantizer.draw()[1] - start))
    assert sizes[0] == pytest.approx(np.pi / 6**0.5, rel=0.05) and sizes[1] == pytest.approx(sizes[0] / 2)
    assert sizes[2] < 1e-3
    quantizer(w, training=True)
    chosen = quantizer.chosen.numpy()
    assert np.array_equal(chosen, assign(start))
    quantizer.scores.assign(-start)
    quantizer.progress.assign(0.8)
    quantizer(w, training=True)
    assert np.array_equal(quantizer.chosen, chosen) and int(quantizer.step) == 1


def test_draws_follow_from_seed_and_step():
    one, two, other = (built(KernelCodebook(16, noise=1.0, seed=s)) for s in (1, 1, 2))
    other.scores.assign(one.scores)
    two.step.assign(3)
    draws = []
    for _ in range(4):
        one(latent(), training=True)
        draws.append(one.chosen.numpy())
    two(latent(), training=True)
    other(latent(), training=True)
    assert np.array_equal(two.chosen, draws[3])
    assert not any(np.array_equal(other.chosen, d) for d in draws) and not np.array_equal(draws[0], draws[1])
    keras.utils.set_random_seed(0)
    seeds = [KernelCodebook(4).seed, SubBit(4).seed]
    keras.utils.set_random_seed(0)
    assert seeds == [KernelCodebook(4).seed, SubBit(4).seed] and seeds[0] != seeds[1]


@pytest.mark.parametrize("make", [lambda: KernelCodebook(8, seed=1), lambda: SubBit(8, seed=1)])
def test_inference_is_deterministic(make):
    model = network(make)
    model.compile("adam", "mse")
    step(model)
    before, x = model.get_weights(), np.random.default_rng(0).integers(0, 17, (64, 8, 8, 1)) / 16
    outputs = [model.predict(x, batch_size=b, verbose=0) for b in (64, 64, 7, 1)] + [model(x).numpy()]
    assert all(np.array_equal(outputs[0], y) for y in outputs[1:])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("make", [lambda: KernelCodebook(8, candidates=20, seed=1), lambda: SubBit(8, seed=1)])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_saved_training_goes_on_bit_for_bit(make, suffix, tmp_path):
    model = network(make)
    model.compile("sgd", "mse")
    for k in range(2):
        step(model, k)
    model.save(tmp_path / f"net{suffix}")
    again = read_model(tmp_path / f"net{suffix}")
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    again.compile("sgd", "mse")
    for k in range(2, 4):
        step(model, k)
        step(again, k)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))


@pytest.mark.training
@pytest.mark.parametrize("make", [lambda: KernelCodebook(4), lambda: SubBit(4), lambda: KernelCodebook(
    16, candidates=64, gradient="ede")])
def test_digits_train_and_are_exact(make):
    keras.utils.set_random_seed(0)
    x, y, x_test, y_test = digits.data()
    x, x_test = x.reshape(-1, 8, 8, 1), x_test.reshape(-1, 8, 8, 1)
    model = network(make, filters=16)
    before = [w.numpy() for w in model.trainable_weights]
    model.compile(keras.optimizers.Adam(5e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=64, epochs=10, verbose=0, callbacks=[Progress(230)])
    assert not any(np.array_equal(a, b) for a, b in zip(before, model.trainable_weights))
    assert np.mean(model.predict(x_test, verbose=0).argmax(axis=1) == y_test) > 0.6
    for used, n, bits in codewords_of(model).values():
        assert 1 < used <= n and bits == log2(n) / 9
    graph = bf.lower(model, digits.INPUT_TYPE)
    check_equal(graph, model, x_test)
    for node in graph:
        if node.name.startswith("q_conv2d") and hasattr(node.params, "levels"):
            kernels = node.params.levels.reshape(9, -1)
            assert len(np.unique(kernels, axis=1).T) <= n and set(np.unique(kernels)) == {-1, 1}


def test_a_mask_on_top_lets_it_train():
    model = network(lambda: Masked(KernelCodebook(4, noise=1.0, seed=1)))
    quantizer = model.layers[2].kernel_quantizer_internal.quantizer
    model.compile("sgd", "mse")
    before = quantizer.scores.numpy()
    for _ in range(3):
        step(model)
    assert int(quantizer.step) == 3 and not np.array_equal(quantizer.scores, before)


def test_codewords_of_counts_what_ships():
    x = keras.Input((8, 8, 3))
    layers = [conv(8, 3, kernel_quantizer=KernelCodebook(2, seed=1), name="a"), conv(4, 3, name="plain"),
              conv(4, 3, kernel_quantizer=Masked(SubBit(16, seed=1)), name="b")]
    h = x
    for layer in layers:
        h = layer(h)
    found = codewords_of(shake(keras.Model(x, h)))
    assert found["a"] == (2, 2, 1 / 9) and set(found) == {"a", "b"}
    assert 8 < found["b"].used <= 16 and found["b"].n == 16 and found["b"].bits == 4 / 9


def test_sub_bit_keeps_signs_near_zero():
    quantizer, w = built(SubBit(4, seed=1)), latent()
    start = quantizer.memory.numpy()
    table = start.copy()
    table[0], table[1], table[2] = -start[0] * 0.9e-3, -start[1] * 1.1e-3, 0
    quantizer.table.assign(table)
    expected = start * [[1], [-1], [1], [1]]
    assert np.array_equal(quantizer.codebook(), expected) and np.array_equal(quantizer.memory, start)
    quantizer(w, training=True)
    assert np.array_equal(quantizer.memory, expected)
    quantizer.table.assign(np.zeros((4, 9)))
    assert np.array_equal(quantizer.codebook(), expected)


def test_sub_bit_table_learns_every_25th_step():
    quantizer, w = built(SubBit(8, seed=1)), latent()
    g = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            out = quantizer(w, training=True)
            y = tf.reduce_sum(out * g)
        return out, *tape.gradient(y, [w, quantizer.table])

    for k in range(1, 76):
        out, to_w, to_table = (t.numpy() for t in gradients())
        assert np.array_equal(to_w, g * (np.abs(w) <= 1))
        if k % 25:
            assert not to_table.any(), f"step {k}"
        else:
            sums = [rows(g)[(rows(out) == word).all(axis=1)].sum(axis=0) for word in quantizer.memory.numpy()]
            assert np.allclose(to_table, sums, atol=1e-5) and to_table.any()


def test_sub_bit_replaces_repeats_and_clips():
    quantizer, w = built(SubBit(8, seed=1)), latent()
    start = quantizer.memory.numpy()
    table = 5 * start
    table[3], table[5], table[7] = start[0], 2 * start[0], start[1]
    quantizer.table.assign(table)
    for _ in range(24):
        quantizer(w, training=True)
    assert np.array_equal(quantizer.table, table) and len(np.unique(quantizer.codebook(), axis=0)) == 5
    quantizer(w, training=True)
    new, kept = quantizer.memory.numpy(), [0, 1, 2, 4, 6]
    assert len(np.unique(new, axis=0)) == 8 and np.array_equal(new[kept], start[kept])
    assert np.array_equal(quantizer.table.numpy()[kept], 3 * start[kept])
    assert np.array_equal(quantizer.table.numpy()[[3, 5, 7]], new[[3, 5, 7]])
    assert not any((new[k] == start).all(axis=1).any() and k not in kept and (new[k] == start[kept]).all(axis=1).any()
                   for k in (3, 5, 7))
    full = built(SubBit(512, seed=1))
    full.table.assign(np.ones((512, 9)))
    full.step.assign(24)
    full(w, training=True)
    assert len(np.unique(full.memory, axis=0)) == 512


@pytest.mark.parametrize("make", [lambda: KernelCodebook(4), lambda: SubBit(4), lambda: Masked(KernelCodebook(4))])
def test_other_kernels_are_refused(make):
    message = r"kernels of shape \(3, 3, inputs, outputs\), got \(.*bnnflow.train.Binary"
    for layer, x in ((conv(2, 5, kernel_quantizer=make()), keras.Input((8, 8, 1))),
                     (conv(2, 3, rank=1, kernel_quantizer=make()), keras.Input((8, 1))),
                     (dense(2, kernel_quantizer=make()), keras.Input((8,)))):
        with pytest.raises(InputError, match=message):
            layer(x)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: KernelCodebook(1), "n must be an integer from 2 to 512, got 1"),
    (lambda: KernelCodebook(513), "from 2 to 512"),
    (lambda: SubBit(2.0), "from 2 to 512, got 2.0"),
    (lambda: SubBit(True), "from 2 to 512"),
    (lambda: SubBit(4, seed=-1), "seed must be"),
    (lambda: KernelCodebook(16, candidates=15), "candidates must be an integer from 16 to 512"),
    (lambda: KernelCodebook(16, iterations=0), "iterations must be"),
    (lambda: KernelCodebook(16, temperature=0), "temperature > 0"),
    (lambda: KernelCodebook(16, noise=np.nan), "noise >= 0"),
    (lambda: KernelCodebook(16, gradient="bnn++"), "no sign; use one of bc, ste, bireal"),
    (lambda: KernelCodebook(16, gradient="none"), "use one of"),
])
def test_bad_options(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_damaged_codebook_is_refused():
    model = network(lambda: KernelCodebook(4, seed=1))
    set_progress(model, 0.5)
    bf.lower(harden(model), "ufixed<5,1>")
    quantizer = model.layers[2].kernel_quantizer_internal
    quantizer.chosen.assign([1, 2, 3, 700])
    with pytest.raises(LoweringError, match="codeword 700, none of 0 to 511"):
        bf.lower(model, "ufixed<5,1>")
