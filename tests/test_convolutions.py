"""Convolutions and pools, case by case: those that contract rows and fuzzing do not single out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.backends.hls import code_size
from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import LEGACY, keras, producer
from bnnflow.ir import Op
from tests.conftest import union
from tests.contracts import conv, dense, shake
from tests.fuzz import check_rational
from tests.random_networks import Case

ACTS = {"binary": "binary(alpha=1)", "ternary": "ternary(alpha=1)", "relu": "quantized_relu(3,1)"}
SUMS: dict[str, Callable[..., keras.layers.Layer]] = {
    "conv": lambda q, **o: conv(5, 3, kernel_quantizer=q, **o),
    "depthwise": lambda q, **o: qkeras.QDepthwiseConv2D(3, depthwise_quantizer=q, use_bias=False, **o),
    "grouped": lambda q, **o: conv(6, 3, kernel_quantizer=q, groups=2, **o),
    "separable": lambda q, **o: qkeras.QSeparableConv2D(5, 3, depthwise_quantizer=q, pointwise_quantizer=q,
                                                        use_bias=False, **o),
}


def act(text: str) -> keras.layers.Layer:
    layer = qkeras.QActivation(text)
    layer.text = text  # Keras 3 keeps the quantizer only
    return layer


def norm(h: object) -> object:
    return keras.layers.BatchNormalization()(h)


def equal(model: keras.Model, count: int = 100, input_type: str = "fixed<4,2>") -> bf.ir.Graph:
    """Keras = graph at every activation."""
    graph = bf.lower(shake(model), input_type)
    d, rng = graph.input.domain, np.random.default_rng(0)
    x = rng.integers(d.lo, d.hi, (count, *graph.input.shape), endpoint=True) * float(d.scale)
    assert sum(check_equal(graph, model, x).values()) > 0
    return graph


CELLS = list(product(ACTS, ("valid", "same"), (1, 2)))


def cells(kind: str) -> keras.Model:
    """{binary, ternary, relu} x {valid, same} x {stride 1, 2}, binary and ternary weights."""
    x = keras.Input((7, 6, 4))
    ends = []
    for name, padding, strides in CELLS:
        quantizer = (qkeras.binary, qkeras.ternary)[len(ends) % 2](alpha=1)
        h = SUMS[kind](quantizer, padding=padding, strides=strides)(act(ACTS[name])(x))
        ends.append(act(ACTS[name])(norm(h)))
    return keras.Model(x, ends)


@pytest.mark.parametrize("kind", SUMS)
def test_every_cell(kind):
    equal(cells(kind))


@pytest.mark.hls
@pytest.mark.parametrize("io_type", ["io_parallel", "io_stream"])
def test_every_cell_in_c(io_type, simulated, monkeypatch):
    """The cells and the pools in one project; a difference names the kind in front of the node."""
    monkeypatch.setitem(code_size.MOST, "function", 10**6)  # g++ takes together what an HLS compiler would not
    models = {**{kind: cells(kind) for kind in SUMS}, **{f"{kind}_pools": pools(kind) for kind in ACTS}}
    graphs = {kind: equal(model, 1) for kind, model in models.items()}
    rng = np.random.default_rng(0)
    simulated(union(graphs), [rng.integers(-8, 8, (40, *g.input.shape)) for g in graphs.values()], io_type=io_type)
    for kind in SUMS:
        print(f"{io_type}: {kind}: " + ", ".join(f"{name}/{padding}/{strides}" for name, padding, strides in CELLS))


@pytest.mark.parametrize("kind", ACTS)
def test_pools_and_merges_after_every_activation(kind):
    equal(pools(kind))


def pools(kind: str) -> keras.Model:
    """Pools and merges of branches with an activation, each into the next sum too."""
    x = keras.Input((5, 7, 3))
    a, b = (act(ACTS[kind])(norm(conv(4, 3, padding="same")(x))) for _ in range(2))
    layers = [keras.layers.MaxPooling2D(2, padding="same"), keras.layers.AveragePooling2D(2),
             keras.layers.AveragePooling2D(3, padding="same", strides=2), keras.layers.GlobalAveragePooling2D()]
    merged = [keras.layers.Add()([a, b]), keras.layers.Subtract()([a, b]), keras.layers.Concatenate()([a, b])]
    ends = [act("quantized_bits(4,1,alpha=1)")(norm(h)) for h in [pool(a) for pool in layers] + merged]
    after = [act("binary(alpha=1)")(norm(conv(3, 2)(h))) for h in [*merged, layers[0](a), layers[1](b)]]
    after.append(act("binary(alpha=1)")(norm(dense(6)(layers[3](a)))))  # 35 positions: real-scaled
    return keras.Model(x, [*ends, *after])


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (4, 4), (5, 7), (8, 16), (13, 11)])
def test_global_pools_of_any_area(size):
    x = keras.Input((*size, 3))
    h = keras.layers.GlobalAveragePooling2D()(act("quantized_relu(3,1)")(x))
    graph = equal(keras.Model(x, act("ternary(alpha=1)")(norm(dense(5)(h)))))
    exact = (size[0] * size[1]) & (size[0] * size[1] - 1) == 0
    assert any("real-scaled" in note for note in graph.notes) == (not exact)


def test_padding_of_bipolar_data_is_absent():
    """A corner of ones under a kernel of ones: four present taps, five absent ones, and never -1."""
    x = keras.Input((3, 3, 1))
    layer = conv(1, 3, padding="same")
    model = keras.Model(x, layer(act("binary(alpha=1)")(x)))
    layer.kernel.assign(np.ones((3, 3, 1, 1)))
    graph = bf.lower(model, "fixed<2,2>")
    sums = graph(np.ones((1, 3, 3, 1), np.int64))[0, ..., 0]
    assert sums.tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]
    assert (graph.output.domain.lo, graph.output.domain.hi) == (-9, 9)


def test_zero_padding_folds_into_the_convolution():
    x = keras.Input((4, 5, 2))
    h = keras.layers.ZeroPadding2D(((1, 0), (0, 2)))(keras.layers.ZeroPadding2D(1)(act("binary(alpha=1)")(x)))
    graph = equal(keras.Model(x, act("binary(alpha=1)")(conv(3, 3, strides=2, padding="same")(h))))
    assert [n.op for n in graph].count(Op.WINDOW) == 1
    scaled = keras.layers.ZeroPadding2D(1)(keras.layers.Rescaling(1 / 255)(x))
    graph = equal(keras.Model(x, act("binary(alpha=1)")(conv(3, 3)(scaled))))
    assert [n.op for n in graph].count(Op.WINDOW) == 1


def test_maxima_of_sums_stand_before_what_rises():
    x = keras.Input((6, 6, 2))
    layer, pool = conv(4, 3, use_bias=True), keras.layers.MaxPooling2D(2)
    equal(keras.Model(x, act("ternary(alpha=1)")(norm(keras.layers.ReLU(2)(pool(layer(x)))))))
    model = keras.Model(x, act("ternary(alpha=1)")(pool(norm(conv(4, 3)(x)))))
    shake(model)
    with pytest.raises(bf.LoweringError, match="takes the maximum of floats .* put the QActivation before the pool"):
        bf.lower(model, "fixed<4,2>")
    layer = model.layers[2]
    layer.gamma.assign(np.abs(layer.gamma.numpy()))
    graph = bf.lower(model, "fixed<4,2>")
    data = np.random.default_rng(0).integers(-8, 8, (200, 6, 6, 2)) / 4
    assert check_equal(graph, model, data)


def test_outputs_of_images_keep_their_bound():
    x = keras.Input((5, 4, 2))
    model = shake(keras.Model(x, norm(conv(3, 3, padding="same")(x))))
    graph, data = bf.lower(model, "fixed<4,2>"), np.random.default_rng(0).integers(-8, 8, (200, 5, 4, 2)) / 4
    key = model.layers[-1].name
    theirs = keras_activations(model, [key], data)[key]
    error = np.abs(graph.decode(graph(graph.encode(data))) - theirs).max()
    assert error <= 0.51 * float(graph.output.domain.scale) + 2.0**-20 * np.abs(theirs).max()


@pytest.mark.parametrize("after", [keras.layers.GlobalMaxPooling2D, keras.layers.GlobalAveragePooling2D,
                                   keras.layers.Flatten, lambda: keras.layers.Reshape((2, 8)),
                                   lambda: keras.layers.Permute((2, 1, 3))])
def test_a_pool_or_a_move_behind_a_batch_norm(after):
    """A pool as the output, and before a quantiser; the batch norm keeps its rank."""
    x = keras.Input((4, 4, 2))
    layer = keras.layers.BatchNormalization(scale=False)
    h = layer(conv(4, 3, kernel_quantizer=qkeras.ternary(alpha=1))(x))
    if isinstance(after(), keras.layers.GlobalAveragePooling2D):
        h = act("quantized_bits(6,3,alpha=1)")(h)
    outputs = [after()(h), act("quantized_bits(4,1,alpha=1)")(after()(h))]
    model = keras.Model(x, outputs)
    layer.set_weights([np.linspace(-1, 1, 4), np.linspace(-2, 3, 4), np.linspace(0.5, 2, 4)])
    graph = bf.lower(model, "fixed<4,4>")
    codes = np.random.default_rng(0).integers(-8, 8, (200, 4, 4, 2))
    assert check_equal(graph, model, codes.astype(float))
    key = model.layers[-1].name if outputs[0] is model.outputs[-1] else producer(outputs[0]).name
    theirs = keras_activations(model, [key], codes.astype(float))[key]
    ours = graph.decode(graph(codes))[0]
    assert np.abs(ours - theirs).max() < 1e-4 and ours.shape == theirs.shape


def test_large_images():
    x = keras.Input((96, 96, 8))
    h = act("binary(alpha=1)")(norm(conv(64, 3, padding="same")(x)))
    h = act("quantized_relu(4,2)")(norm(conv(64, 3, padding="same", strides=2)(keras.layers.MaxPooling2D(2)(h))))
    model = shake(keras.Model(x, dense(10)(keras.layers.GlobalAveragePooling2D()(h))))
    graph = bf.lower(model, "ufixed<8,0>")
    assert check_equal(graph, model, np.random.default_rng(0).integers(0, 256, (1, 96, 96, 8)) / 256)


# --- real-scaled, against rational arithmetic written apart ----------------------------------------------------------


def shifted(kind: str) -> keras.Model:
    """Sums, padded in every way, of pixels that are shifted: at the borders fewer offsets are added."""
    x = keras.Input((6, 7, 4))
    h = keras.layers.Rescaling(1 / 255, 0.1)(x)
    ends = []
    for k, options in enumerate(({}, {"strides": 2}, {"dilation_rate": 2})):
        q = qkeras.ternary(alpha=1) if k % 2 else qkeras.binary(alpha="auto")
        ends.append(act(("ternary(alpha=1)", "quantized_relu(2,1)", "binary(alpha=1)")[k])(norm(SUMS[kind](
            q, padding="same", **options)(h))))
    model = keras.Model(x, ends)
    return shake(model)


def normalised() -> keras.Model:
    """A Normalization for all channels, one by channel before a depthwise sum, and zeros that a Rescaling shifts."""
    x = keras.Input((6, 5, 3))
    one = keras.layers.Normalization(axis=None, mean=0.4, variance=0.06)(x)
    each = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.06, 0.05, 0.04])(x)
    zeros = keras.layers.Rescaling(1 / 3, -0.2)(keras.layers.ZeroPadding2D(1)(x))
    depthwise = qkeras.QDepthwiseConv2D(3, padding="same", depthwise_quantizer=qkeras.binary(alpha="auto"),
                                        depth_multiplier=2)
    return shake(keras.Model(x, [act("ternary(alpha=1)")(norm(layer(h))) for layer, h in (
        (conv(4, 3, padding="same"), one), (depthwise, each), (conv(3, 3, padding="same"), zeros))]))


def averages(padding: str) -> keras.Model:
    """Averages into a sum, and averages of sums with a bias or a batch norm, into an activation or a sum."""
    x = keras.Input((5, 6, 2))
    a = act("quantized_relu(2,1)")(conv(4, 3, padding="same")(x))
    pool = lambda n, h: keras.layers.AveragePooling2D(n, padding=padding, strides=1)(h)  # noqa: E731
    biased, normed = conv(3, 3, use_bias=True)(x), norm(conv(3, 3, padding="same", use_bias=True)(x))
    ends = [norm(conv(3, 3, padding="same")(pool(3, a))), dense(4)(keras.layers.Flatten()(pool(2, a))),
            pool(3, biased), norm(pool(2, normed)), dense(3)(keras.layers.Flatten()(pool(3, biased))),
            norm(keras.layers.GlobalAveragePooling2D()(normed))]
    return shake(keras.Model(x, [act("quantized_bits(4,1,alpha=1)")(h) for h in ends]))


REALS: dict[str, tuple[Callable[[], keras.Model], str]] = {
    **{f"shifted_{kind}": (lambda kind=kind: shifted(kind), "ufixed<8,8>") for kind in SUMS},  # type: ignore[misc]
    "normalised": (normalised, "ufixed<4,0>"),
    **{f"averages_{padding}": (lambda padding=padding: averages(padding), "fixed<4,2>")  # type: ignore[misc]
       for padding in ("valid", "same")},
}


@pytest.mark.parametrize("name", REALS)
def test_real_scaled_images_equal_rational_arithmetic(name):
    model, input_type = REALS[name][0](), REALS[name][1]
    graph = equal(model, input_type=input_type)
    texts = {layer.name: layer.text for layer in model.layers if isinstance(layer, qkeras.QActivation)}
    d = graph.input.domain
    codes = np.random.default_rng(1).integers(d.lo, d.hi, (10, *graph.input.shape), endpoint=True)
    assert any("real-scaled" in note for note in graph.notes)
    assert check_rational(Case(model, input_type, texts=texts), graph, codes) > 500


@pytest.mark.hls
@pytest.mark.parametrize("io_type", ["io_parallel", "io_stream"])
def test_real_scaled_images_in_c(io_type, simulated):
    graphs = {name: bf.lower(make(), input_type) for name, (make, input_type) in REALS.items()}
    rng = np.random.default_rng(0)
    simulated(union(graphs), [rng.integers(g.input.domain.lo, g.input.domain.hi, (40, *g.input.shape), endpoint=True)
                              for g in graphs.values()], io_type=io_type)


# --- refused, with layer and remedy ---------------------------------------------------------------------------------


def refused(h: object, x: object, message: str, input_type: str = "fixed<4,2>") -> None:
    with pytest.raises(bf.LoweringError, match=message):
        bf.lower(keras.Model(x, h), input_type)


def test_what_cannot_be_exact_is_refused():
    x = keras.Input((6, 6, 4))
    wide = keras.Input((16, 16, 1))
    border = keras.layers.AveragePooling2D(11, padding="same", strides=1)(wide)  # factors to 4,235 a position
    refused(conv(2, 1)(border), wide, "is not quantised: 'average_pooling.* padding='valid' has one scale")
    h = keras.layers.Normalization(mean=[0, 0, 0, 1], variance=[1, 2, 3, 5])(x)
    refused(conv(2, 3, name="c")(h), x, "layer 'c': its input is not quantised: .* scale differs from channel to chan")
    h = norm(conv(2, 3, use_bias=True)(x))
    refused(conv(2, 3, name="c")(h), x, "layer 'c': its input is not quantised: .*; put a QActivation")
    branches = [keras.layers.AveragePooling2D(3)(act("binary(alpha=1)")(x)) for _ in range(2)]
    refused(keras.layers.Add(name="sum")(branches), x, "layer 'sum': merges float branches .* quantise each branch")
    three = [act("ternary(alpha=1)")(x) for _ in range(2)]
    refused(bf.train.LogicOr(name="or")(three), x, "layer 'or': its inputs take .* one binary activation")
    mixed = [act("binary(alpha=1)")(x), act("binary(use_01=True, alpha=1)")(x)]
    refused(bf.train.LogicAnd(name="and")(mixed), x, "layer 'and': .* the same two values")
    separable = qkeras.QSeparableConv2D(3, 3, depth_multiplier=2, name="s", use_bias=False,
                                        depthwise_quantizer=qkeras.binary(alpha="auto"),
                                        pointwise_quantizer=qkeras.binary(alpha=1))
    refused(separable(act("binary(alpha=1)")(x)), x,
            "layer 's': its depthwise kernel has a real scale of its own .* use depth_multiplier=1")
    if LEGACY:  # Keras 3 refuses it itself
        refused(act("binary(alpha=1)")(conv(2, 3, rank=1, name="c1")(x)), x, "layer 'c1': reads shape .* use a Reshape")


@pytest.mark.parametrize("layer", [
    conv(2, 3, data_format="channels_first", name="c"),
    keras.layers.MaxPooling2D(2, data_format="channels_first", name="c"),
    keras.layers.GlobalAveragePooling2D(data_format="channels_first", name="c"),
    keras.layers.ZeroPadding2D(1, data_format="channels_first", name="c"),
], ids=lambda layer: type(layer).__name__)
def test_channels_first_is_refused(layer):
    x = keras.Input((4, 6, 6))
    refused(act("binary(alpha=1)")(layer(x)), x, "layer 'c': data_format is channels_first; build the model with")


def test_the_bound_of_float32_is_proven_for_both_sums_of_a_separable_convolution():
    def net(bits: int, channels: int) -> tuple[keras.Model, str]:
        x = keras.Input((4, 4, channels))
        h = SUMS["separable"](qkeras.binary(alpha=1), name="s")(x)
        return keras.Model(x, act("binary(alpha=1)")(h)), f"ufixed<{bits},{bits}>"

    bf.lower(*net(16, 20))
    for bits, channels in ((22, 1), (16, 60)):
        with pytest.raises(bf.LoweringError, match="layer 's': its sums can reach"):
            bf.lower(*net(bits, channels))
