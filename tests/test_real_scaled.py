"""The real-scaled class: exact in real numbers, and Keras differs only where lowering says that it may."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import bnnflow as bf
from bnnflow.errors import InputError, LoweringError
from bnnflow.frontends.keras.reference import check_equal, codes_of, keras_activations
from bnnflow.ir import Op, Steps
from bnnflow.ir.evaluate import ambiguous, trace

import qkeras  # isort: skip
from bnnflow.generation import keras  # isort: skip

from tests import rational  # isort: skip


def network(kernel: str, activation: str = "binary(alpha=1)", inputs: int = 8, units: int = 24) -> keras.Model:
    """One sum and its activation, no batch norm."""
    x = keras.Input((inputs,))
    dense = qkeras.QDense(units, kernel_quantizer=kernel, use_bias=False, name="d")
    model = keras.Model(x, qkeras.QActivation(activation, name="a")(dense(x)))
    dense.kernel.assign(np.random.default_rng(0).normal(0, 0.7, (inputs, units)))
    return model


def steps(graph: bf.ir.Graph) -> Steps:
    return next(node.params for node in graph if node.op is Op.STEP)


@pytest.mark.parametrize("kernel", ["binary(alpha='auto')", "ternary(alpha='auto')", "binary(alpha=.3)"])
def test_the_sum_zero_is_a_tie_that_keras_may_get_wrong(kernel):
    model = network(kernel, units=2)
    graph = bf.lower(model, "fixed<2,2>")
    codes = np.random.default_rng(1).integers(-2, 2, (2000, 8))
    sums, unsure = trace(graph, codes)["d"], ambiguous(graph, codes)
    assert np.array_equal(unsure, (sums == 0).any(axis=1)) and 0.1 < unsure.mean() < 1
    # The ideal meaning: scale * 0 = 0, which binary sends to +1, whatever float32 makes of it.
    assert np.array_equal(trace(graph, codes)["a"] == trace(graph, codes)["a"].max(), sums >= 0)
    theirs = codes_of(graph, model)(codes.astype(float))["a"]
    wrong = (theirs != trace(graph, codes)["a"]).any(axis=1)
    assert not (wrong & ~unsure).any()
    assert check_equal(graph, model, codes.astype(float)) == {"a": int((~unsure).sum()) * 2}
    assert any("2 of 2 thresholds lie within Keras' float32 noise" in note for note in graph.notes)


def test_a_difference_outside_the_noise_still_raises():
    model = network("binary(alpha='auto')", "quantized_relu(4,2)")
    graph = bf.lower(model, "fixed<4,4>")
    model.get_layer("d").kernel.assign(-model.get_layer("d").kernel)
    x = np.random.default_rng(0).integers(-8, 8, (100, 8)).astype(float)
    with pytest.raises(bf.Mismatch, match="layer 'a'"):
        check_equal(graph, model, x)


def test_pixels_over_255_into_a_sum():
    x = keras.Input((16,))
    h = keras.layers.Rescaling(1 / 255)(x)
    dense = qkeras.QDense(8, kernel_quantizer="binary(alpha=1)", use_bias=True, name="d")
    h = keras.layers.BatchNormalization(name="bn")(dense(h))
    model = keras.Model(x, qkeras.QActivation("quantized_relu(4,1)", name="a")(h))
    dense.bias.assign(np.linspace(-1, 1, 8))
    graph = bf.lower(model, "ufixed<8,8>")
    codes = np.random.default_rng(0).integers(0, 256, (3000, 16))
    assert graph["d"].domain.scale == 1 and any("d: real-scaled" in note for note in graph.notes)
    compared = check_equal(graph, model, codes.astype(float))["a"]
    assert 0.9 * 3000 * 8 < compared <= 3000 * 8


def test_thresholds_are_the_numbers_that_were_meant():
    """ternary's threshold .2 is float32(.2), inclusive on both sides; quantized_relu's are halves, ties to even."""
    model = network("binary(alpha=.3)", "ternary(alpha=1, threshold=.2)", units=2)
    thresholds = steps(bf.lower(model, "fixed<12,2>")).thresholds
    scale, t = Fraction(float(np.float32(0.3))) * Fraction(1, 2**10), Fraction(float(np.float32(0.2)))
    assert thresholds.tolist() == [[-(t // scale), -(-t // scale)]] * 2
    model = network("binary(alpha=.25)", "quantized_relu(2,2)", units=2)  # dyadic: the same numbers by evaluation
    assert steps(bf.lower(model, "fixed<6,4>")).margin is None


def test_a_negative_and_a_zero_gamma():
    model = network("binary(alpha='auto')", "ternary(alpha=1)", units=3)
    x = keras.Input((8,))
    norm = keras.layers.BatchNormalization(name="bn")
    model = keras.Model(x, model.get_layer("a")(norm(model.get_layer("d")(x))))
    norm.set_weights(np.array([[-1, 0, 1], [0.1, -0.9, 0.2], [0.5] * 3, [1] * 3]))
    graph = bf.lower(model, "fixed<4,4>")
    codes = np.random.default_rng(0).integers(-8, 8, (1000, 8))
    check_equal(graph, model, codes.astype(float))
    assert steps(graph).sign.tolist()[0] == -1 and set(trace(graph, codes)["a"][:, 1]) == {-1}


def test_the_margin_is_saved_and_counts_in_the_digest(tmp_path):
    graph = bf.lower(network("binary(alpha='auto')"), "fixed<2,2>")
    bf.save(graph, tmp_path / "g.npz")
    loaded = bf.load(tmp_path / "g.npz")
    assert np.array_equal(steps(loaded).margin, steps(graph).margin) and loaded.digest == graph.digest


@pytest.mark.parametrize(("layers", "message"), [
    (lambda: [qkeras.QActivation("quantized_hswish(4,2)", name="a")], "layer 'a': its codes do not rise or fall"),
    (lambda: [keras.layers.Activation("sigmoid", name="s"), qkeras.QActivation("quantized_relu(3,0)", name="a")],
     "layer 'a': 's' stands before it on a real-scaled sum"),
    (lambda: [keras.layers.RepeatVector(2, name="r"), keras.layers.ReLU(), qkeras.QActivation("binary(alpha=1)",
                                                                                              name="a")], None),
    (lambda: [qkeras.QDense(3, kernel_quantizer="binary(alpha=1)", name="d2")], "layer .d2.: its input is not"),
    (lambda: [keras.layers.Reshape((4, 1)), keras.layers.ReLU(), keras.layers.Cropping1D(1, name="r"),
              qkeras.QActivation("binary(alpha=1)", name="a")], "layer 'a': 'r' stands before it on a real-scaled sum"),
    (lambda: [keras.layers.ReLU(), keras.layers.RepeatVector(2, name="r"), qkeras.QActivation("binary(alpha=1)",
                                                                                              name="a")],
     "layer 'a': 'r' stands before it on a real-scaled sum"),
])
def test_what_may_stand_on_a_real_scaled_sum(layers, message):
    h = x = keras.Input((8,))
    h = qkeras.QDense(4, kernel_quantizer="binary(alpha='auto')", use_bias=False)(h)
    for layer in layers():
        h = layer(h)
    model = keras.Model(x, h)
    if message is None:
        codes = np.random.default_rng(0).integers(-8, 8, (200, 8))
        assert check_equal(bf.lower(model, "fixed<4,4>"), model, codes.astype(float))
        return
    with pytest.raises(LoweringError, match=message):
        bf.lower(model, "fixed<4,4>")


def equal_or_all_ambiguous(model: keras.Model, input_type: str, x: np.ndarray) -> None:
    """Keras = graph at the samples that are not ambiguous; where all are, that is an error, never silence."""
    graph = bf.lower(model, input_type)
    if ambiguous(graph, graph.encode(x)).all():
        with pytest.raises(InputError, match="none of 500 samples can be compared with Keras: at layer 'q_activation"):
            check_equal(graph, model, x)
    else:
        assert sum(check_equal(graph, model, x).values()) > 0


@pytest.mark.parametrize("gamma", [1e-38, -1e-38, 1e-37, 1e5])
def test_what_underflows_is_ambiguous(gamma):
    """TensorFlow flushes denormals; no relative bound covers that."""
    x = keras.Input((16,))
    dense = qkeras.QDense(4, kernel_quantizer="binary(alpha='auto')", use_bias=False)
    norm = keras.layers.BatchNormalization(center=False)
    model = keras.Model(x, qkeras.QActivation("binary(alpha=1)")(norm(dense(x))))
    norm.gamma.assign([gamma] * 4)
    dense.kernel.assign(np.random.default_rng(0).normal(0, 0.7, (16, 4)))
    equal_or_all_ambiguous(model, "fixed<8,1>", np.random.default_rng(0).integers(-128, 128, (500, 16)) / 128)


@pytest.mark.parametrize("factor", [1e-37, 1e-36, 1e3])
def test_scales_at_the_ends_of_float32(factor):
    x = keras.Input((8,))
    dense = qkeras.QDense(6, kernel_quantizer="binary(alpha=1)", use_bias=False)
    model = keras.Model(x, qkeras.QActivation("binary(alpha=1)")(dense(keras.layers.Rescaling(factor)(x))))
    equal_or_all_ambiguous(model, "fixed<8,-1>", np.random.default_rng(0).integers(-128, 128, (500, 8)) / 512)


def test_values_past_float32_are_refused():
    x = keras.Input((8,))
    h = qkeras.QDense(6, kernel_quantizer="ternary(alpha=1)", use_bias=False)(keras.layers.Rescaling(1e37)(x))
    model = keras.Model(x, qkeras.QActivation("quantized_relu(2,2)", name="a")(keras.layers.ReLU(6.0)(h)))
    with pytest.raises(LoweringError, match="layer 'a': values up to .* past what float32 holds safely"):
        bf.lower(model, "ufixed<8,8>")


def test_elements_with_fewer_codes_than_others():
    """relu, then a batch norm: each channel starts at another level."""
    x = keras.Input((8,))
    norm = keras.layers.BatchNormalization()
    h = norm(keras.layers.ReLU()(qkeras.QDense(3, kernel_quantizer="binary(alpha='auto')", use_bias=False)(x)))
    model = keras.Model(x, qkeras.QActivation("quantized_relu(4,2)")(h))
    norm.beta.assign([0.0, 0.5, -0.5])
    codes = np.random.default_rng(0).integers(-8, 8, (400, 8))
    assert check_equal(bf.lower(model, "fixed<4,4>"), model, codes.astype(float))


def test_a_kernel_on_no_grid_is_refused():
    x = keras.Input((8,))
    dense = keras.layers.Dense(3, name="plain")
    with pytest.raises(LoweringError, match=r"'plain': its weights \(no kernel_quantizer\) are not small integers"):
        bf.lower(keras.Model(x, dense(x)), "fixed<4,4>")


def cancelling(large: float, rank: int) -> keras.Model:
    """A bias and a mean that cancel, both about `large`."""
    rng, x = np.random.default_rng(0), keras.Input((16,) if rank == 1 else (4, 4, 4))
    options = {"kernel_quantizer": "binary(alpha='auto')", "name": "d"}
    layer = qkeras.QDense(24, **options) if rank == 1 else qkeras.QConv2D(24, 2, **options)
    norm = keras.layers.BatchNormalization(name="bn")
    model = keras.Model(x, qkeras.QActivation("quantized_relu(4,2)", name="a")(norm(layer(x))))
    layer.kernel.assign(rng.normal(0, 0.7, layer.kernel.shape))
    layer.bias.assign(large + rng.normal(0, 2, 24))
    norm.set_weights([rng.normal(0, 1, 24), rng.normal(0, 0.3, 24), large + rng.normal(0, 2, 24),
                      rng.uniform(0.5, 4, 24)])
    return model


@pytest.mark.parametrize(("large", "rank", "most"), [(1e2, 1, 0), (1e2, 3, 0), (1e4, 1, 0.1), (1e4, 3, 0.6)])
def test_the_noise_of_a_bias_and_a_mean_that_cancel(large, rank, most):
    """Keras differs at flagged samples only, and these are few where Keras' own rounding is small."""
    model = cancelling(large, rank)
    graph = bf.lower(model, "fixed<6,2>")
    codes = np.random.default_rng(1).integers(-32, 32, (400, *model.input_shape[1:]))
    assert ambiguous(graph, codes).mean() <= most and check_equal(graph, model, codes / 16)
    real = rational.evaluate(model, codes[:40].astype(object) * Fraction(1, 16), {"a": "quantized_relu(4,2)"})["bn"]
    theirs = keras_activations(model, ["bn"], codes[:40] / 16)["bn"]
    off = np.abs(theirs.astype(np.float64) - real.astype(np.float64)).reshape(-1, 24).max(axis=0)
    if large == 1e4:
        assert off.max() > 2.0**-11  # half a unit of float32 at 1e4: it is real, and so are the flags


def test_a_batch_norm_of_codes_before_a_sum_is_a_normalization():
    mean, variance = np.random.default_rng(0).normal(size=6), np.full(6, 1.3)

    def net(norm: keras.layers.Layer, after_a_sum: bool = False) -> keras.Model:
        x = keras.Input((6,))
        h = qkeras.QDense(6, kernel_quantizer="binary(alpha=1)", use_bias=False)(x) if after_a_sum else x
        h = qkeras.QDense(3, kernel_quantizer="quantized_bits(8,0,alpha=1)", use_bias=False, name="d")(norm(h))
        return keras.Model(x, qkeras.QActivation("quantized_relu(4,1)", name="a")(h))

    def batch_norm() -> keras.layers.Layer:
        return keras.layers.BatchNormalization(name="bn", scale=False, center=False, epsilon=1e-12)

    models = [net(batch_norm()), net(keras.layers.Normalization(mean=mean, variance=variance))]
    oversight = net(batch_norm(), after_a_sum=True)
    for model in (models[0], oversight):
        model.get_layer("bn").set_weights([mean, variance])
    models[1].get_layer("d").set_weights(models[0].get_layer("d").get_weights())
    graphs = [bf.lower(model, "fixed<12,4>") for model in models]
    assert np.array_equal(*(steps(graph).thresholds for graph in graphs))
    x = np.random.default_rng(1).integers(-2048, 2048, (300, 6)) / 256
    for graph, model in zip(graphs, models):
        assert check_equal(graph, model, x)["a"] > 600
    with pytest.raises(bf.LoweringError, match="layer 'd': its input is not quantised: 'bn' yields floats"):
        bf.lower(oversight, "fixed<12,4>")


def test_samples_on_the_last_bit_of_a_sigmoid_are_flagged():
    """TensorFlow computes another last bit in the body of a vector than in its remainder: no graph can be right."""
    x, dense = keras.Input((1,)), keras.layers.Dense(1)
    h = keras.layers.Rescaling(1.0, -0.25)(keras.layers.Activation("sigmoid", name="shaky")(dense(x)))
    model = keras.Model(x, qkeras.QActivation("binary(alpha=1)", name="q")(h))
    dense.set_weights([np.ones((1, 1)), np.array([-1.0986122])])
    graph = bf.lower(model, "fixed<18,6>")
    codes = np.arange(-600, 600)[:, None]
    flagged = codes[ambiguous(graph, codes)].ravel()
    assert len(flagged) and abs(flagged).max() <= 4 and "q: 1 of 1 thresholds lie within" in graph.notes[-1]
    assert check_equal(graph, model, codes / 4096)["q"] == len(codes) - len(flagged)


def test_nothing_to_compare_is_an_error():
    model = cancelling(1e7, 1)
    x = np.random.default_rng(1).integers(-32, 32, (50, 16)) / 16
    with pytest.raises(InputError, match="none of 50 samples .* at layer 'a' 50 of them .* a smaller bias and mean"):
        check_equal(bf.lower(model, "fixed<6,2>"), model, x)


@pytest.mark.hls
def test_compare_says_which_samples_are_not_compared(tmp_path):
    model = network("binary(alpha='auto')", units=2)
    graph = bf.lower(model, "fixed<2,2>")
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj"))
    x = np.random.default_rng(1).choice([-1.0, 1.0], (300, 8))
    result = bf.compare(model, tmp_path / "prj", x)
    assert result.equal and "samples bring a sum within float32 noise of a threshold" in result.notes[0]
    assert 0 < result.left_out < 300
    assert str(result) == f"equal; {result.left_out} of 300 samples were not compared with Keras"
    zero = bf.compare(model, tmp_path / "prj", np.tile([1.0, -1.0], (5, 4)) * 0)
    assert zero.left_out == zero.samples == 5 and zero.notes[0].startswith("none of 5 samples can be compared")
    assert {row.node: row.keras_differ for row in zero.rows}["a"] is None
