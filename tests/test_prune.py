from __future__ import annotations

import numpy as np
import pytest

from bnnflow.errors import InputError
from bnnflow.train import Masked
from bnnflow.train.prune import Prune, block, cubic, fan_in, magnitude, magnitude_global, n_of_m, zeros_of

import qkeras  # isort: skip
from bnnflow.generation import keras  # isort: skip

RNG = np.random.default_rng(0)
DENSE = RNG.normal(size=(12, 8)).astype(np.float32)
CONV = RNG.normal(size=(3, 3, 4, 6)).astype(np.float32)
DEPTHWISE = RNG.normal(size=(3, 3, 5, 2)).astype(np.float32)


@pytest.mark.parametrize("zeros", [0, 0.1, 0.5, 0.9, 1])
@pytest.mark.parametrize("weights", [DENSE, CONV, DEPTHWISE], ids=["dense", "conv", "depthwise"])
def test_magnitude_cuts_the_smallest(weights, zeros):
    mask = magnitude(weights, zeros)
    size = np.abs(weights)
    assert mask.shape == weights.shape and mask.dtype == bool
    assert (~mask).sum() == int(zeros * weights.size + 0.5)
    assert mask.all() or not mask.any() or size[mask].min() >= size[~mask].max()


def test_global_shares_one_threshold():
    small, large = 0.1 * DENSE, DENSE
    masks = magnitude_global([small, large], 0.5)
    assert sum((~m).sum() for m in masks) == DENSE.size and (~masks[0]).sum() > (~masks[1]).sum()
    assert np.array_equal(np.concatenate([m.ravel() for m in masks]),
                          magnitude(np.concatenate([small.ravel(), large.ravel()]), 0.5))


@pytest.mark.parametrize(("weights", "depthwise", "m"), [(DENSE, False, 4), (CONV, False, 4), (DEPTHWISE, True, 3)])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_n_of_m_by_brute_force(weights, depthwise, m, n):
    mask = n_of_m(weights, n, m, depthwise=depthwise)
    inputs = 9 if depthwise else int(np.prod(weights.shape[:-1]))
    columns, kept = (a.reshape(inputs, -1) for a in (np.abs(weights), mask))
    for column, keep in zip(columns.T, kept.T):
        for start in range(0, inputs, m):
            best = sorted(column[start:start + m])[m - n:]
            assert sorted(column[start:start + m][keep[start:start + m]]) == best


@pytest.mark.parametrize(("weights", "depthwise", "outputs"), [(DENSE, False, 8), (CONV, False, 6),
                                                               (DEPTHWISE, True, 10)])
@pytest.mark.parametrize("inputs", [1, 6, 999])
def test_fan_in_of_every_neuron(weights, depthwise, outputs, inputs):
    mask = fan_in(weights, inputs, depthwise=depthwise).reshape(-1, outputs)
    assert (mask.sum(axis=0) == min(inputs, len(mask))).all()
    columns = np.abs(weights).reshape(-1, outputs)
    for column, keep in zip(columns.T, mask.T):
        assert keep.all() or column[keep].min() >= column[~keep].max()


@pytest.mark.parametrize(("weights", "shape"), [(DENSE, (4, 2)), (DENSE, (12, 1)), (CONV, (2, 3)), (CONV, (1, 1))])
def test_blocks_stay_or_go_whole(weights, shape):
    mask = block(weights, 0.5, shape)
    taps, (inputs, outputs) = int(np.prod(weights.shape[:-2])), weights.shape[-2:]
    grid = (taps, inputs // shape[0], shape[0], outputs // shape[1], shape[1])
    kept = mask.reshape(grid).mean(axis=(0, 2, 4))
    assert np.isin(kept, (0, 1)).all() and (kept == 0).sum() == int(kept.size * 0.5 + 0.5)
    means = np.abs(weights).astype(np.float64).reshape(grid).mean(axis=(0, 2, 4))
    assert means[kept == 1].min() >= means[kept == 0].max()


def test_depthwise_blocks_are_channels():
    mask = block(DEPTHWISE, 0.4, (1, 2), depthwise=True)
    assert sorted(mask.reshape(9, 5, 2).mean(axis=(0, 2))) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("cut", [lambda w, a: magnitude(w, 0.7, a), lambda w, a: n_of_m(w, 1, 4, a),
                                 lambda w, a: fan_in(w, 3, a), lambda w, a: block(w, 0.5, (2, 2), a)])
def test_what_is_cut_stays_cut(cut):
    alive = RNG.random(DENSE.shape) < 0.5
    assert not (cut(DENSE, alive) & ~alive).any()
    assert np.array_equal(magnitude(DENSE, 0.5, alive), alive & magnitude(DENSE, 0.5, alive))


def test_masks_repeat_where_weights_are_equal():
    assert magnitude(np.ones((2, 2)), 0.5).tolist() == [[True, True], [False, False]]
    assert fan_in(np.ones((3, 1)), 2).tolist() == [[True], [True], [False]]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: magnitude(DENSE, 1.1), "zeros=1.1; give a share from 0 to 1"),
    (lambda: magnitude(DENSE, float("nan")), "zeros=nan; give a share from 0 to 1"),
    (lambda: n_of_m(DENSE, 5, 4), "n of m: n=5 is more than m=4; give n <= m"),
    (lambda: n_of_m(DENSE, 0, 4), "n=0; give a whole number from 1 on"),
    (lambda: n_of_m(DENSE, 2, 5), "n of m: m=5 does not divide the 12 inputs of a neuron (kernel (12, 8)); choose a "
                                  "divisor"),
    (lambda: block(DENSE, 0.5, (5, 2)), "block: 5x2 does not divide the 12 inputs x 8 outputs of the kernel (12, 8); "
                                        "choose divisors"),
    (lambda: block(DENSE, 0.5, (5,)), "block: shape [5]; give two numbers, input and output channels of a block"),
    (lambda: fan_in(DENSE, 0), "inputs=0; give a whole number from 1 on"),
    (lambda: Prune(10, "by_luck"), "prune: method 'by_luck'; use one of magnitude, global, n_of_m, block, fan_in"),
    (lambda: Prune(10, zeros=0.5, n=1), "prune: method 'magnitude' with n, zeros; needs zeros, and takes start, end, "
                                        "every, layers"),
    (lambda: Prune(10, "n_of_m"), "prune: method 'n_of_m' with nothing; needs n and m, and takes start, end, every, "
                                  "layers"),
    (lambda: Prune(10, zeros=0.5, end=1.0), "prune: start=0.1, end=1.0, every=0.01; these are shares of the training, "
                                            "0 <= start <= end < 1 and every > 0"),
    (lambda: begun(Prune(10, zeros=2)), "layer 'd1': zeros=2; give a share from 0 to 1"),
    (lambda: begun(Prune(10, "n_of_m", n=2, m=5)), "layer 'd1': n of m: m=5 does not divide the 12 inputs of a neuron "
                                                   "(kernel (12, 8)); choose a divisor"),
    (lambda: begun(Prune(10, zeros=0.5, layers=["d3"])),
     "prune: 'd3' has a Masked kernel; make it with kernel_quantizer=Masked(...). Masked: d1, d2"),
])
def test_bad_input(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((12,))
    h = x
    for name, width in (("d1", 8), ("d2", 4)):
        h = qkeras.QDense(width, kernel_quantizer=Masked(qkeras.binary(alpha=1)), use_bias=False, name=name)(h)
        h = keras.layers.BatchNormalization()(h)
    h = qkeras.QDense(2, kernel_quantizer="binary(alpha=1)", use_bias=False, name="d3")(h)
    model = keras.Model(x, h)
    model.compile("adam", "mse")
    return model


def begun(prune: Prune) -> Prune:
    prune.set_model(network())
    prune.on_train_begin()
    return prune


def test_cubic():
    assert [cubic(p) for p in (-1, 0, 0.5, 1, 2)] == [0, 0, 0.875, 1, 1]


class Watch(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.masks = []

    def on_train_batch_end(self, batch, logs=None):
        self.masks.append([w.numpy() > 0 for w in self.model.weights if "mask" in w.name])


@pytest.mark.parametrize("options", [
    {"zeros": 0.75}, {"method": "global", "zeros": 0.75}, {"method": "n_of_m", "n": 1, "m": 4},
    {"method": "block", "zeros": 0.5, "shape": [4, 2]}, {"method": "fan_in", "inputs": 3},
    {"zeros": 0.75, "layers": ["d1"]},
], ids=lambda o: o.get("method", "magnitude"))
def test_masks_tighten_reach_the_target_and_freeze(options):
    model, watch, steps = network(), Watch(), 40
    prune = Prune(steps, start=0.1, end=0.5, every=0.05, **options)
    x = RNG.normal(size=(80, 12)).astype(np.float32)
    model.fit(x, np.ones((80, 2)), batch_size=2, epochs=1, verbose=0, shuffle=False, callbacks=[prune, watch])
    assert prune.frozen and len(watch.masks) == steps
    for before, after in zip(watch.masks, watch.masks[1:]):
        assert all((a <= b).all() for a, b in zip(after, before))
    assert all(m.all() for m in watch.masks[3])
    assert all(np.array_equal(a, b) for a, b in zip(watch.masks[20], watch.masks[-1]))
    assert len({tuple(m.sum() for m in masks) for masks in watch.masks}) > 3, "in several steps"
    first, second = watch.masks[-1]
    if options.get("layers"):
        assert second.all()
    if options.get("method", "magnitude") == "magnitude":
        assert (~first).sum() == 72
    if options.get("method") == "global":
        assert (~first).sum() + (~second).sum() == 96 and zeros_of(model) == 0.75
    if options.get("method") == "n_of_m":
        assert (first.reshape(3, 4, 8).sum(axis=1) == 1).all()
    if options.get("method") == "fan_in":
        assert (first.sum(axis=0) == 3).all() and (second.sum(axis=0) == 3).all()


def test_a_resumed_training_goes_on_with_the_schedule():
    model, steps = network(), 40
    x, y = RNG.normal(size=(40, 12)).astype(np.float32), np.ones((40, 2))
    for _ in range(2):  # two halves, each with a callback of its own
        prune = Prune(steps, "fan_in", end=0.6, inputs=3)
        model.fit(x, y, batch_size=2, epochs=1, verbose=0, callbacks=[prune])
        assert prune.frozen == (int(model.optimizer.iterations) == steps)
    assert (model.get_layer("d1").kernel_quantizer_internal.mask.numpy().sum(axis=0) == 3).all()


def test_a_conv_kernel_in_a_model():
    x = keras.Input((5, 5, 4))
    h = qkeras.QConv2D(6, 3, groups=2, kernel_quantizer=Masked("binary(alpha=1)"), name="c")(x)
    h = qkeras.QDepthwiseConv2D(3, depthwise_quantizer=Masked("binary(alpha=1)"), name="dw")(h)
    prune = Prune(10, "fan_in", inputs=6)
    prune.set_model(keras.Model(x, h))
    prune.on_train_begin()
    conv, depthwise = prune.masks(1.0)
    assert conv.shape == (3, 3, 2, 6) and (conv.sum(axis=(0, 1, 2)) == 6).all()
    assert depthwise.shape == (3, 3, 6, 1) and (depthwise.sum(axis=(0, 1, 3)) == 6).all()
