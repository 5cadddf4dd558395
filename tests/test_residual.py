from __future__ import annotations

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.errors import InputError
from bnnflow.train import ChannelSelect, LogicAnd, LogicOr, Masked
from bnnflow.train.fit import fit
from bnnflow.train.residual import prune_blocks, rank_blocks, remove_block, residual_blocks, weight_bits

import qkeras  # isort: skip
from bnnflow.generation import keras, producer  # isort: skip
from bnnflow.models import digits, glt  # isort: skip

WIDTH = 32


def dense(h, name, quantizer="binary(alpha=1)", width=WIDTH):
    h = qkeras.QDense(width, kernel_quantizer=quantizer, use_bias=False, name=name)(h)
    return keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{name}")(h)


def network(merges=(LogicOr, LogicAnd, ChannelSelect)) -> keras.Model:
    keras.utils.set_random_seed(0)
    h = x = keras.Input((64,), name="pixels")
    h = qkeras.QActivation("binary_tanh", name="act")(dense(h, "stem"))
    for k, merge in enumerate(merges, 1):
        inner = qkeras.QActivation("binary_tanh", name=f"act{k}")(dense(h, f"d{k}", Masked("binary(alpha=1)")))
        h = merge(name=f"merge{k}")([inner, h] if k % 2 else [h, inner])
    return keras.Model(x, dense(h, "logits", width=10), name="residual")


def cross_entropy(x, y):
    def loss(model):
        logits = np.asarray(model(x, training=False), np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]))

    return loss


def test_the_blocks_of_the_networks():
    assert list(residual_blocks(network())) == ["merge1", "merge2", "merge3"]
    assert [producer(t).name for t in residual_blocks(network()).values()] == ["act", "merge1", "merge2"]
    blocks = residual_blocks(glt.build(width=8, planes=2))
    assert list(blocks) == ["block1_or", "block2_and", "block3_select", "block4_or", "block5_and"]
    assert residual_blocks(digits.build()) == {}


def test_what_is_no_block():
    x = keras.Input((8,))
    a, b = keras.layers.Dense(8, name="a")(x), keras.layers.Dense(8, name="b")(x)
    both = keras.layers.Add(name="siblings")([a, b])
    assert residual_blocks(keras.Model(x, both)) == {}


@pytest.mark.parametrize("name", ["merge1", "merge2", "merge3"])
def test_a_removed_block_is_its_shortcut(name):
    model = network()
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.permutation(w.ravel()).reshape(w.shape) + rng.normal(size=w.shape) ** 2
                           for w in layer.get_weights()] if "norm" in layer.name else layer.get_weights())
    mask = rng.random((WIDTH, WIDTH)) < 0.5
    for k in (1, 2, 3):
        model.get_layer(f"d{k}").kernel_quantizer_internal.set_mask(mask)
    before = model.get_weights()
    smaller = remove_block(model, name)
    kept = [layer.name for layer in model.layers if layer.name[-1] != name[-1]]
    assert [layer.name for layer in smaller.layers] == kept
    assert weight_bits(model) - weight_bits(smaller) == WIDTH * WIDTH
    # The same by hand: the merges' layers one after another, without that block.
    x = rng.random((50, 64)).astype(np.float32)
    get = model.get_layer
    h = get("act")(get("norm_stem")(get("stem")(x)))
    for k in (1, 2, 3):
        inner = get(f"act{k}")(get(f"norm_d{k}")(get(f"d{k}")(h)))
        if name != f"merge{k}":
            h = get(f"merge{k}")([inner, h] if k % 2 else [h, inner])
    expected = get("norm_logits")(get("logits")(h))
    assert np.array_equal(smaller(x), expected)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
    smaller.get_layer("stem").kernel.assign(np.zeros((64, WIDTH)))
    assert np.array_equal(before[0], model.get_layer("stem").kernel), "the copy has weights of its own"


def test_a_smaller_glt_is_saved_and_lowers(tmp_path):
    smaller = remove_block(glt.build(width=8, planes=2), "block2_and")
    smaller.save(tmp_path / "small.h5")
    graph = bf.lower(tmp_path / "small.h5", glt.INPUT_TYPE)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)) / 256
    from bnnflow.frontends.keras.reference import check_equal

    assert sum(check_equal(graph, smaller, x.astype(np.float32)).values()) > 0
    assert "block2_and" not in [node.name for node in graph]


@pytest.mark.training
def test_blocks_go_until_the_budget_holds():
    arrays = digits.data()
    model, teacher = network(), network()
    for each in (model, teacher):
        fit(each, arrays, epochs=5)
    loss, tuned = cross_entropy(arrays[0][:300], arrays[1][:300]), []
    ranked = rank_blocks(model, loss)
    assert {name for name, _ in ranked} == {"merge1", "merge2", "merge3"} and sorted(r for _, r in ranked) == [
        r for _, r in ranked]
    assert all(rise == loss(remove_block(model, name)) - loss(model) for name, rise in ranked)

    def tune(rest):
        tuned.append((list(residual_blocks(rest)), loss(rest)))
        fit(rest, arrays, epochs=3, teacher=teacher)
        assert loss(rest) < tuned[-1][1], "distillation mends"

    budget = weight_bits(model) - WIDTH * WIDTH - 1
    small = prune_blocks(model, budget, loss, tune)
    assert weight_bits(small) == weight_bits(model) - 2 * WIDTH * WIDTH <= budget
    assert [len(names) for names, _ in tuned] == [2, 1] and ranked[0][0] not in tuned[0][0]
    assert len(residual_blocks(model)) == 3


def test_bad_input():
    for call, message in (
            (lambda: remove_block(network(), "merge9"),
             "model 'residual' has no residual block 'merge9'; it has merge1, merge2, merge3"),
            (lambda: remove_block(digits.build(), "d"), "model 'digits' has no residual block 'd'; it has none"),
            (lambda: prune_blocks(network(()), 10, lambda model: 0.0),
             f"model 'residual': {74 * WIDTH} bits of weights are left without any residual block, more than the "
             "budget of 10; make the network smaller or the budget larger"),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert str(error.value) == message
