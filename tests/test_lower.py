"""Lowering, case by case: what the contract rows and the fuzzing do not name."""

from __future__ import annotations

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.exact import epilogues
from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import LEGACY, keras
from bnnflow.ir import Op, Steps
from tests.contracts import by_name, dense, nested, shake


def norm_network(gamma: list[float], beta: list[float], mean: list[float], variance: list[float],
                 act: str = "binary(alpha=1)", fan_in: int = 6) -> keras.Model:
    """One sum of `fan_in` equal taps, seen by one batch norm channel each."""
    x = keras.Input((fan_in,))
    n = len(gamma)
    h = dense(n, name="d")(x)
    h = keras.layers.BatchNormalization(epsilon=1e-3, name="bn")(h)
    model = keras.Model(x, qkeras.QActivation(act, name="act")(h))
    model.get_layer("d").kernel.assign(np.ones((fan_in, n)))
    model.get_layer("bn").set_weights([np.array(v, np.float32) for v in (gamma, beta, mean, variance)])
    return model


def all_sums(fan_in: int = 6) -> np.ndarray:
    """Inputs in {0, 1} with 0..fan_in ones."""
    return (np.arange(fan_in) < np.arange(fan_in + 1)[:, None]).astype(np.float64)


@pytest.mark.parametrize(("gamma", "beta", "expected"), [
    (1, 0, "0001111"), (-1, 0, "1111000"), (0, 1, "1111111"), (0, 0, "1111111"), (0, -1, "0000000"),
    (-1e-30, 0, "1111000"),
])
def test_every_sign_of_gamma_and_exact_ties(gamma, beta, expected):
    """Mean 3: the sum 3 is an exact tie, and binary sends +-0 to the high level."""
    model = norm_network([gamma], [beta], [3], [1])
    graph = bf.lower(model, "ufixed<1,1>")
    assert "".join(map(str, graph(graph.encode(all_sums()))[:, 0])) == expected
    check_equal(graph, model, all_sums())


def test_zero_variance_and_huge_scales():
    model = norm_network([1, -1, 47, 1e4], [0, 0, 1, -3], [2, 2.5, 3, 3], [0, 0, 0, 1e-12])
    check_equal(bf.lower(model, "ufixed<1,1>"), model, all_sums())


def test_values_that_keras_itself_gets_wrong_are_refused():
    """QKeras returns x + (-x + q), which is 0 instead of +-1 where |x| is past 2^24."""
    with pytest.raises(bf.LoweringError, match="layer 'act': yields 0.0 for the sum 0 of element 0, which is none"):
        bf.lower(norm_network([1e6], [0], [3], [1e-12]), "ufixed<1,1>")


@pytest.mark.parametrize("act", ["binary(alpha=1)", "ternary(alpha=1)", "quantized_relu(4,1)"])
@pytest.mark.parametrize("seed", range(4))
def test_bisection_finds_the_thresholds_of_the_whole_table(act, seed, monkeypatch):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=20), rng.normal(size=20), rng.integers(0, 40, 20), rng.uniform(0, 9, 20)
    model = norm_network(*values, act, 40)
    table = bf.lower(model, "ufixed<4,4>")
    monkeypatch.setattr(epilogues, "TABLE", 1)
    assert bf.lower(model, "ufixed<4,4>").digest == table.digest


def test_ranges_past_the_table_are_exact():
    """784 inputs of 8 bits: 400,000 possible sums."""
    x = keras.Input((784,))
    h = qkeras.QActivation("ternary(alpha=1)")(keras.layers.BatchNormalization()(dense(16)(x)))
    model = shake(keras.Model(x, h))
    data = np.random.default_rng(0).integers(0, 256, (500, 784)) / 256
    graph = bf.lower(model, "ufixed<8,0>")
    assert graph.nodes[1].domain.size > epilogues.TABLE
    check_equal(graph, model, data)


def test_rounded_outputs_keep_their_bound():
    x = keras.Input((30,))
    model = shake(keras.Model(x, keras.layers.BatchNormalization(name="bn")(dense(10)(x))))
    data = np.random.default_rng(0).integers(0, 16, (1000, 30)) / 16
    theirs = keras_activations(model, ["bn"], data)["bn"].astype(np.float64)
    for output_type in (None, "fixed<16,10>", "fixed<20,12>"):
        graph = bf.lower(model, "ufixed<4,0>", output_type)
        error = np.abs(graph.decode(graph(graph.encode(data))) - theirs).max()
        assert error <= 0.51 * float(graph.output.domain.scale) + 2.0**-20 * np.abs(theirs).max(), output_type
        assert output_type in (None, graph.output.domain.type_name)
    with pytest.raises(bf.LoweringError, match="use more integer bits"):
        bf.lower(model, "ufixed<4,0>", "fixed<16,2>")


def test_exact_outputs_are_not_rounded():
    x = keras.Input((6,))
    layer = dense(3, use_bias=True)
    model = keras.Model(x, layer(x))
    layer.bias.assign([0.5, -2.25, 3])
    data = np.random.default_rng(0).integers(0, 16, (200, 6)) / 16
    graph = bf.lower(model, "ufixed<4,0>")
    assert np.array_equal(graph.decode(graph(graph.encode(data))), model.predict(data, verbose=0))
    assert "exact" in graph.notes[-1]
    layer = dense(3)
    model = keras.Model(x, layer(x))
    wide = bf.lower(model, "ufixed<4,0>", "fixed<16,8>")
    assert wide.output.domain.type_name == "fixed<16,8>"
    assert np.array_equal(wide.decode(wide(wide.encode(data))), model.predict(data, verbose=0))


def test_heads_are_dropped_and_said():
    x = keras.Input((6,))
    model = keras.Model(x, keras.layers.Softmax(name="sm")(dense(3)(x)))
    graph = bf.lower(model, "ufixed<4,0>")
    assert graph.notes[-1] == "sm: softmax dropped, the outputs are its logits (same order, same argmax)"
    assert "dyadic, sums stay within 90 units of 2^24" in graph.notes[0]
    assert graph.output.op is Op.DOT


def test_sequential_and_functional_are_one():
    layers = [keras.Input((6,)), dense(4, name="d"), qkeras.QActivation("binary(alpha=1)", name="a")]
    sequential = keras.Sequential(layers)
    functional = keras.Model(layers[0], layers[2](layers[1](layers[0])))
    assert bf.lower(sequential, "ufixed<4,0>").digest == bf.lower(functional, "ufixed<4,0>").digest


def test_sums_may_feed_sums():
    x = keras.Input((6,))
    model = shake(keras.Model(x, qkeras.QActivation("binary(alpha=1)")(dense(3)(dense(4)(x)))))
    check_equal(bf.lower(model, "ufixed<4,0>"), model, np.random.default_rng(0).integers(0, 16, (200, 6)) / 16)


def test_the_bound_of_float32_is_proven():
    def net(inputs: int) -> keras.Model:
        x = keras.Input((inputs,))
        return keras.Model(x, qkeras.QActivation("binary(alpha=1)")(dense(1, name="d")(x)))

    bf.lower(net(2**8), "ufixed<16,16>")
    with pytest.raises(bf.LoweringError, match=r"layer 'd': its sums can reach 16842495 units, past the 16777216"):
        bf.lower(net(2**8 + 1), "ufixed<16,16>")


def test_weights_off_the_levels_are_seen_by_the_comparison():
    """check_equal must be able to fail: another kernel in Keras is a Mismatch with place and codes."""
    model = norm_network([1, 1], [0, 0], [3, 2], [1, 1])
    graph = bf.lower(model, "ufixed<1,1>")
    model.get_layer("d").kernel.assign(-np.ones((6, 2)))
    with pytest.raises(bf.Mismatch, match=r"node 'act' \(layer 'act'\): sample 2, element \(1,\): graph 1, Keras 0"):
        check_equal(graph, model, all_sums())


def test_steps_of_many_levels():
    model = norm_network([1, -1], [0, 0], [3, 3], [1, 1], "quantized_relu(3,2)")
    graph = bf.lower(model, "ufixed<1,1>")
    steps = graph["act"].params
    assert isinstance(steps, Steps) and steps.sign.tolist() == [1, -1]
    check_equal(graph, model, all_sums())


@pytest.mark.parametrize(("activation", "bias", "quantiser", "input_type"), [
    ("swish", -3.6302657, "quantized_bits(6,1,alpha=1)", "fixed<8,4>"),
    ("gelu", 1.7287332, "quantized_bits(6,1,alpha=1)", "fixed<8,4>"),
])
def test_a_code_on_the_last_bit_of_a_curve_is_refused(activation, bias, quantiser, input_type):
    """TensorFlow computes another last bit in the body of a vector than in its remainder: no graph can be right."""
    x, layer = keras.Input((1,)), dense(1, use_bias=True)
    h = keras.layers.Activation(activation, name="shaky")(layer(x))
    model = keras.Model(x, qkeras.QActivation(quantiser, name="q")(h))
    layer.set_weights([np.ones((1, 1)), np.array([bias])])
    with pytest.raises(bf.LoweringError, match="layer 'q': a code of it depends on the last bits of 'shaky'"):
        bf.lower(model, input_type)
    layer.set_weights([np.ones((1, 1)), np.array([bias + 0.01])])
    graph = bf.lower(model, input_type)
    data = np.random.default_rng(0).integers(-100, 100, (64, 1)) / 16
    for batch in (1, 5, 17, 64):
        check_equal(graph, model, data, batch)


def test_real_sigmoids_inside_a_quantiser_are_refused():
    x = keras.Input((4,))
    model = keras.Model(x, qkeras.QActivation("quantized_sigmoid(4,use_real_sigmoid=True)", name="q")(dense(3)(x)))
    with pytest.raises(bf.LoweringError, match="layer 'q'.*leave use_real_sigmoid"):
        bf.lower(model, "fixed<8,4>")


def test_the_batch_axis_and_broadcasting_are_refused():
    x = keras.Input((3,))
    a, c = (qkeras.QActivation("binary(alpha=1)")(x) for _ in range(2))
    with pytest.raises(bf.LoweringError, match="layer 'cat': concatenates along the batch"):
        bf.lower(keras.Model(x, keras.layers.Concatenate(axis=0, name="cat")([a, c])), "fixed<8,4>")
    one = keras.Input((1,))
    for scale in ([1.0, 0.5], np.ones((2, 1, 3))):
        with pytest.raises(bf.LoweringError, match="layer 'scale'"):
            h = keras.layers.Rescaling(scale, name="scale")(one)
            bf.lower(keras.Model(one, qkeras.QActivation("binary(alpha=1)")(h)), "fixed<8,4>")


def test_units_that_are_no_powers_of_two_count_their_bits():
    x = keras.Input((599,))
    h = keras.layers.Activation(lambda t: tf.sign(t) * (40001 / 65536))(x)
    with pytest.raises(bf.LoweringError, match="sums can reach 23960599 units"):
        bf.lower(keras.Model(x, dense(1)(h)), "fixed<8,4>")


def test_what_keras_loses_at_an_output_is_said():
    """A bias and a mean of 2^23 cancel on paper; in float32 the fraction is lost."""
    x, layer = keras.Input((3,)), dense(2, use_bias=True)
    norm = keras.layers.BatchNormalization(epsilon=0.0)
    model = keras.Model(x, norm(layer(x)))
    layer.bias.assign([2.0**23] * 2)
    norm.moving_mean.assign([2.0**23] * 2)
    graph = bf.lower(model, "fixed<8,4>")
    assert "exact" in graph.notes[-1] and "Keras' float32 is up to 0.5 off that" in graph.notes[-1]


def test_the_calls_that_are_found_are_the_model():
    """Lowering and the reference walk the same list of calls; here the model itself is called."""
    for make in (by_name, nested):
        model = shake(make())
        x = [np.random.default_rng(k).integers(0, 16, (50, 6)) / 16 for k in range(len(model.inputs))]
        graph = bf.lower(model, "ufixed<4,0>")
        ours = graph.decode(graph(graph.encode(x if len(x) > 1 else x[0])))
        assert np.array_equal(ours, model([a.astype(np.float32) for a in x] if len(x) > 1 else x[0]))


@pytest.mark.skipif(LEGACY, reason="the legacy Keras takes no such names")
def test_names_that_no_tensorflow_function_takes():
    x = keras.Input((6,), name="in")
    model = keras.Model(x, qkeras.QActivation("ternary(alpha=1)", name='a b"; rm')(dense(3)(x)))
    check_equal(bf.lower(model, "ufixed<4,0>"), model, np.random.default_rng(0).integers(0, 16, (50, 6)) / 16)
