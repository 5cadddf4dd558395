"""Every refusal's remedy, followed to the letter, makes a model that is lowered, or a graph that is built."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras

from bnnflow.errors import InputError, on_command_line
from bnnflow.generation import LEGACY, keras
from tests.contracts import conv, dense

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
Model = Callable[..., keras.Model]


def bits(n: int, integer: int = 0) -> Any:
    return qkeras.quantized_bits(n, integer, alpha=1)


def act(text: Any, name: str = "a") -> Any:
    return qkeras.QActivation(text, name=name)


def net(*layers: Any, shape: tuple[int, ...] = (6,)) -> keras.Model:
    h = x = keras.Input(shape, name="x")
    for layer in layers:
        h = layer(h)
    return keras.Model(x, h)


def with_weights(model: keras.Model, **values: Any) -> keras.Model:
    """The model, with all weights of the named layers at these values."""
    for name, value in values.items():
        layer = model.get_layer(name)
        layer.set_weights([np.full(w.shape, value) for w in layer.get_weights()])
    return model


def activated(activation: Any) -> keras.Model:
    return net(dense(4), act(activation))


def kernel(quantizer: Any, value: float) -> keras.Model:
    """Different weights up to a value."""
    layer = qkeras.QDense(3, kernel_quantizer=quantizer, use_bias=False, name="wide")
    model = net(layer)
    layer.set_weights([np.linspace(value / 2, value, 18).reshape(6, 3)])
    return model


def pooled(activation: str = "quantized_relu(8,0)", before: Any = None, weights: int = 8) -> keras.Model:
    """The mean over 32 positions, of 8 bits each, into a sum whose weights are all near their largest."""
    h = x = keras.Input((32, 3), name="x")
    h = act(activation, "act1")(dense(32, name="phi")(h))
    h = keras.layers.GlobalAveragePooling1D(name="mean")(h)
    h = act(before, "between")(h) if before else h
    rho = qkeras.QDense(16, kernel_quantizer=bits(weights), use_bias=False, name="rho")
    return with_weights(keras.Model(x, rho(h)), rho=.99)


def summed(width: int = 8) -> keras.Model:
    return with_weights(net(qkeras.QDense(2, kernel_quantizer=bits(width), use_bias=False, name="d"), shape=(100,)),
                        d=.9)


def normed(axis: int) -> keras.Model:
    return net(keras.layers.BatchNormalization(axis=axis, name="bn"), act("binary(alpha=1)"), shape=(4, 6))


def variance(value: float, epsilon: float) -> keras.Model:
    norm = keras.layers.BatchNormalization(name="bn", epsilon=epsilon)
    model = net(dense(2), norm)
    norm.moving_variance.assign([value] * 2)
    return model


def folded(quantizer: Any, value: float = 1, epsilon: float = 1e-3) -> keras.Model:
    """A layer with a batch norm of this variance in it."""
    layer = qkeras.QConv2DBatchnorm(2, 2, kernel_quantizer=quantizer, epsilon=epsilon, name="folded")
    model = net(layer, act("quantized_relu(4,1)"), shape=(4, 4, 2))
    layer.batchnorm.moving_variance.assign([value] * 2)
    return model


def at_each_time(layer: Any, *instead: Any) -> keras.Model:
    """A layer within TimeDistributed, or others in its place."""
    layers = instead or (keras.layers.TimeDistributed(layer, name="times"),)
    return net(act("quantized_relu(4,0)", "before"), *layers, act("quantized_relu(4,1)"), shape=(3, 6, 2))


def upsampled(interpolation: str) -> keras.Model:
    return net(act("binary(alpha=1)"), keras.layers.UpSampling2D(2, interpolation=interpolation, name="up"), conv(2, 3),
               shape=(4, 4, 2))


def soft(with_it: bool) -> keras.Model:
    return net(dense(5), *([keras.layers.Softmax(name="s")] if with_it else []), act("quantized_relu(4,0)"))


def real_scaled(function: Any, alpha: Any = .3) -> keras.Model:
    return net(qkeras.QDense(4, kernel_quantizer=qkeras.binary(alpha=alpha), use_bias=False, name="real"), *function,
               act("quantized_relu(4,0)"))


def shaky(activation: str, bias: float, *more: Any) -> keras.Model:
    """A bias at which a code of the quantiser `more` ends with depends on the last bit of an activation."""
    layer = dense(1, use_bias=True, name="d")
    model = net(layer, keras.layers.Activation(activation, name="shaky"), *more, shape=(1,))
    layer.set_weights([np.ones((1, 1)), np.array([bias])])
    return model


def of_swish(activation: str) -> keras.Model:
    return shaky(activation, -3.6302657, act("quantized_bits(6,1,alpha=1)", "q"))


def merged(layers: tuple[Any, Any]) -> keras.Model:
    x = keras.Input((6,), name="x")
    first, second = (dense(4)(x) for _ in range(2))
    first, second = (layer(h) if layer else h for layer, h in zip(layers, (first, second)))
    return keras.Model(x, dense(2)(keras.layers.Add(name="sum")([first, second])))


def few_bits(name: str) -> Any:
    return act("quantized_bits(8,2,alpha=1)", name)


def far_apart() -> tuple[Any, Any]:
    return act("quantized_bits(8,0,alpha=1)", "near"), act("quantized_bits(8,24,alpha=1)", "far")


def nested(shape: tuple[int, ...] = (6,), before: Any = None, **options: Any) -> keras.Model:
    """A model called with a tensor of a shape, or what `before` makes of it."""
    inner = net(dense(4), shape=(6,))
    x = keras.Input(shape, name="x")
    return keras.Model(x, act("binary(alpha=1)")(inner(before(x) if before else x, **options)))


class Doubled(keras.Model):
    """A functional model that computes more than its layers."""

    def call(self, inputs: Any, **options: Any) -> Any:
        return 2 * super().call(inputs, **options)


def of_class(kind: type) -> keras.Model:
    model = net(dense(4))
    return kind(model.inputs, model.outputs, name="own")


def by_keras(mode: str) -> keras.Model:
    model = net(keras.layers.Dense(3, name="of_keras"))
    model.get_layer("of_keras").quantize(mode)
    return model


def times_of(dtype: str) -> keras.Model:
    return at_each_time(dense(4, dtype=dtype))


def folded_with(**options: Any) -> keras.Model:
    return net(qkeras.QConv2DBatchnorm(2, 2, kernel_quantizer=bits(4), name="folded", **options), shape=(4, 4, 2))


def softmax(x: Any) -> Any:
    """Not the function that Keras knows by this name."""
    return keras.activations.softmax(x)


LAMBDA = ("remove it, or replace it by a supported layer",)
# refusal: (the model, words of the message, models that follow each remedy in it, the input type, remedies in words)
REFUSED: dict[str, tuple[Model, str, list[Model], str, tuple[str, ...]]] = {
    "layer": (lambda: net(dense(3), keras.layers.LayerNormalization(name="ln")), "'ln' (LayerNormalization)",
              [lambda: net(dense(3)), lambda: net(dense(3), keras.layers.BatchNormalization())], "ufixed<4,0>", LAMBDA),
    "lambda": (lambda: net(dense(3), keras.layers.Lambda(lambda t: t, name="trap")), "'trap' (Lambda)",
               [lambda: net(dense(3))], "ufixed<4,0>", LAMBDA),
    "no grid": (lambda: kernel(None, 1 / 3), "(no kernel_quantizer)", [lambda: kernel(bits(8), 1 / 3)], "ufixed<4,0>",
                ("kernel_quantizer=quantized_bits(8, 0, alpha=1)",)),
    "wide weights": (lambda: kernel(bits(18, 3), 7.5 + 2.0**-14), "as multiples of 1/16384 they take 18 bits",
                     [lambda: kernel(bits(8, 3), 7.5), lambda: kernel(bits(16, 3), 7.5)], "fixed<6,3>",
                     ("quantized_bits(8, 3, alpha=1), or another quantizer whose values take at most 16 bits",)),
    "alpha": (lambda: activated("binary(alpha=.3)"), "levels are not exact",
              [lambda: activated("binary(alpha=.5)"), lambda: activated("binary(alpha=1)")], "ufixed<4,0>",
              ("alpha=.5 or alpha=1",)),
    "scale of the data": (lambda: activated("ternary(alpha='auto')"), "takes its scale from the data",
                          [lambda: activated("ternary(alpha=1)"), lambda: activated("ternary(alpha=.5)")],
                          "ufixed<4,0>", ("alpha=1 or another power of two",)),
    "levels": (lambda: activated("quantized_ulaw(4)"), "are not exact, small integers",
               [lambda: activated("quantized_bits(8,0,alpha=1)")], "ufixed<4,0>", ("quantized_bits(8,0,alpha=1)",)),
    "random": (lambda: activated("bernoulli()"), "is random at inference", [lambda: activated("binary(alpha=1)")],
               "ufixed<4,0>", ("binary(alpha=1)",)),
    "noise": (lambda: activated("quantized_relu(4,1,qnoise_factor=.5)"), "qnoise_factor",
              [lambda: activated("quantized_relu(4,1,qnoise_factor=1)")], "ufixed<4,0>", ("set it to 1",)),
    "softmax": (lambda: soft(True), "'s': softmax mixes", [lambda: soft(False)], "ufixed<4,0>", ("remove it",)),
    "floats": (lambda: net(dense(4), keras.layers.BatchNormalization(name="bn"), dense(3)), "'bn' yields floats",
               [lambda: net(dense(4), keras.layers.BatchNormalization(), act("ternary(alpha=1)"), dense(3))],
               "ufixed<4,0>", ("put a QActivation (binary, ternary, quantized_relu, ...) before this layer",)),
    "sum of an input": (summed, "codes of input 'x' (12 bits), and its weights add", [lambda: summed(7)], "fixed<12,4>",
                        ("make the input type 1 bit narrower, or make the weights 1 bit narrower",)),
    "sum behind a pool": (
        pooled, "codes of layer 'act1' (8 bits, 13 as they are added up before this layer)",
        [lambda: pooled("quantized_relu(7,0)"), lambda: pooled(before="quantized_bits(11,0,alpha=1)"),
         lambda: pooled(weights=7)], "fixed<4,1>",
        ("make that activation 1 bit narrower", "put QActivation('quantized_bits(11,0,alpha=1)') right before this",
         "make the weights 1 bit narrower")),
    "axis": (lambda: normed(1), "normalises axis [1]", [lambda: normed(-1)], "ufixed<4,0>", ("use axis=-1",)),
    "variance": (lambda: variance(0, 0), "variance and epsilon are both 0", [lambda: variance(0, 1e-3)], "ufixed<4,0>",
                 ("set an epsilon",)),
    "folded without a quantizer": (
        lambda: folded(None), "'folded': its weights (no kernel_quantizer)", [lambda: folded(bits(8))], "ufixed<4,0>",
        ("with kernel_quantizer=quantized_bits(8, ",)),
    "folded variance": (
        lambda: folded(bits(8), 0, 0), "'folded': its moving_variance with epsilon is not positive (0)",
        [lambda: folded(bits(8), 0), lambda: folded(bits(8), 1, 0)], "ufixed<4,0>",
        ("train again, or set an epsilon",)),
    "rows at each time": (
        lambda: at_each_time(conv(2, 3, rank=1)), "'times': applies a QConv1D at each time",
        [lambda: at_each_time(None, conv(2, (1, 3)))], "ufixed<4,0>",
        ("use a QConv2D instead, of size 1 along the times: (1, k)",)),
    "pools at each time": (
        lambda: at_each_time(keras.layers.MaxPooling1D(2)), "'times': applies a MaxPooling1D at each time",
        [lambda: at_each_time(None, keras.layers.MaxPooling2D((1, 2)))], "ufixed<4,0>",
        ("use a MaxPooling2D instead, of size 1 along the times: (1, k)",)),
    "a model at each time": (
        lambda: at_each_time(keras.Sequential([keras.Input((6, 2)), dense(4), act("binary(alpha=1)", "in")])),
        "'times': applies a model at each time", [lambda: at_each_time(None, *(
            keras.layers.TimeDistributed(layer) for layer in (dense(4), act("binary(alpha=1)", "in"))))],
        "ufixed<4,0>", ("put each of its layers into a TimeDistributed of its own",)),
    "unknown at each time": (
        lambda: at_each_time(keras.layers.LayerNormalization(name="ln")), "'times': wraps 'ln' (LayerNormalization)",
        [lambda: at_each_time(keras.layers.BatchNormalization())], "ufixed<4,0>",
        ("replace that by a supported layer",)),
    "interpolation": (lambda: upsampled("bilinear"), "'up': does more than move", [lambda: upsampled("nearest")],
                      "ufixed<4,0>", ("use interpolation='nearest'",)),
    "real-scaled": (lambda: real_scaled([keras.layers.Activation("tanh", name="t")]), "'t' stands before it",
                    [lambda: real_scaled([act("quantized_bits(4,0,alpha=1)", "q"), keras.layers.Activation("tanh")]),
                     lambda: real_scaled([keras.layers.Activation("tanh")], 1)], "ufixed<4,0>",
                    ("put a QActivation before it, or make the sum exact: alpha=1",)),
    "last bits": (lambda: of_swish("swish"), "depends on the last bits of 'shaky'", [lambda: of_swish("relu")],
                  "fixed<8,4>", ("use relu in 'shaky'",)),
    "merge": (lambda: merged((keras.layers.BatchNormalization(name="bn"), None)), "merges float branches ('bn')",
              [lambda: merged((few_bits("p"), few_bits("q")))], "ufixed<4,0>",
              ("quantise each branch with a QActivation first",)),
    "branches far apart": (lambda: merged(far_apart()), "layer 'sum': its sums can reach",
                           [lambda: merged((few_bits("p"), few_bits("q")))], "ufixed<4,0>",
                           ("quantizer of few bits, such as quantized_bits(8,2,alpha=1), at the end of each branch",)),
    "nested in training": (lambda: nested(training=True), "is called with training=True", [nested], "ufixed<4,0>",
                           ("call it plainly",)),
    "nested rank": (lambda: nested((6, 1)), "is called with shape (6, 1), its input has (6,)",
                    [lambda: nested((6, 1), keras.layers.Reshape((6,)))], "ufixed<4,0>", ("put a Reshape before it",)),
    "own call": (lambda: of_class(Doubled), "'own' computes in a `call` of Doubled", [lambda: of_class(keras.Model)],
                 "ufixed<4,0>", ("make that a part of the functional model, of layers",)),
    "own softmax": (lambda: net(dense(4), keras.layers.Activation(softmax, name="s")), "'s': activation softmax",
                    [lambda: net(dense(4), keras.layers.Activation("softmax"))], "ufixed<4,0>",
                    ("or 'softmax' at the end of the model",)),
    "types at each time": (lambda: times_of("bfloat16"), "'times': computes in bfloat16", [lambda: times_of("float32")],
                           "ufixed<4,0>", ("build it with dtype='float32'",)),
    **({} if LEGACY else {
        "quantised by Keras": (
            lambda: by_keras("int8"), "'of_keras': quantised by Keras itself to int8",
            [lambda: net(dense(3, kernel_quantizer=bits(8)))], "ufixed<4,0>",
            ("a layer of QKeras instead, with kernel_quantizer=quantized_bits(8, 0, alpha=1)",)),
        "folded without gamma": (
            lambda: folded_with(scale=False), "'folded': folds a batch norm without beta or gamma", [folded_with],
            "ufixed<4,0>", ("leave out center=False and scale=False",)),
        "folded without beta": (
            lambda: folded_with(center=False), "'folded': folds a batch norm without beta or gamma", [folded_with],
            "ufixed<4,0>", ("leave out center=False and scale=False",)),
        "uncomputable weights": (
            lambda: kernel(qkeras.quantized_bits(4, alpha=np.ones(3)), .5), "its kernel_quantizer cannot be evaluated",
            [lambda: kernel(bits(8), .5)], "ufixed<4,0>", ("as in quantized_bits(8,0,alpha=1)",)),
    }),
    "open shape": (lambda: net(dense(2), shape=(None, 6)), "has open dimensions",
                   [lambda: net(dense(2), shape=(4, 6))], "ufixed<4,0>", ("give every dimension a size",)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_remedy_works(case):
    refused, message, followed, input_type, remedies = REFUSED[case]
    with pytest.raises(InputError) as caught:
        bf.lower(refused(), input_type)
    for words in (message, *remedies):
        assert words in str(caught.value)
    for model in followed:
        bf.lower(model(), input_type)


@pytest.mark.parametrize("units", [6, 3])  # of another layer, which the legacy Keras takes for the shared one
def test_a_layer_in_two_models_is_kept_in_h5(units, tmp_path):
    shared, x = dense(6), keras.Input((6,))
    inner = net(shared, act("ternary(alpha=1)"))
    model = keras.Model(x, dense(units)(act("binary(alpha=1)", "b")(shared(inner(x)))))
    model.save(tmp_path / "net.keras")
    with pytest.raises(InputError, match="save.* as .h5"):
        bf.lower(tmp_path / "net.keras", "ufixed<4,0>")
    model.save(tmp_path / "net.h5")
    assert bf.lower(tmp_path / "net.h5", "ufixed<4,0>").digest == bf.lower(model, "ufixed<4,0>").digest


def test_narrower_inputs():
    """What the message of a sum says of its input type: one bit less, and it is lowered."""
    with pytest.raises(InputError):
        bf.lower(summed(), "fixed<12,4>")
    bf.lower(summed(), "fixed<11,4>")


def test_the_type_of_an_output_that_is_named_holds_it():
    with pytest.raises(InputError) as caught:
        bf.lower(with_weights(summed(4)), "fixed<4,4>", "fixed<8,1>")
    bf.lower(summed(4), "fixed<4,4>", re.search(r"output_type='(.*?)'", str(caught.value))[1])


def test_what_is_common_is_said_once():
    model = net(keras.layers.LayerNormalization(), keras.layers.Lambda(lambda t: t), keras.layers.LayerNormalization())
    with pytest.raises(InputError) as caught:
        bf.lower(model, "ufixed<4,0>")
    assert str(caught.value).count("QDense,") == 1 and str(caught.value).startswith("3 problems")


def too_long() -> bf.ir.Graph:
    """A graph of which an HLS compiler would not take the instructions."""
    layers = (act("quantized_relu(8,0)"), keras.layers.GlobalAveragePooling2D(), act("quantized_relu(8,0)", "b"))
    return bf.lower(net(*layers, shape=(96, 96, 8)), "ufixed<8,0>")


def test_foldings_are_named_as_one_gives_them(tmp_path):
    """In Python as arguments, on the command line as its options; both are followed as they stand."""
    from bnnflow.cli import _layers

    graph = too_long()
    with pytest.raises(InputError) as caught:
        bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))
    options = eval(f"dict({re.search(r'use (.*)', str(caught.value))[1]})")
    bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream", **options))
    with on_command_line(), pytest.raises(InputError) as caught:
        bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj2", io_type="io_stream"))
    assert "{" not in str(caught.value)
    assert _layers(re.findall(r"--layer (\S+)", str(caught.value))) == options["layers"]


def test_io_stream_is_named_where_it_has_room(tmp_path):
    """A long input is too large for arrays, and for one pixel of a stream too; a long image only for arrays."""
    for shape, room in (((5000,), False), ((80, 80, 1), True)):
        graph = bf.lower(net(act("binary(alpha=1)"), shape=shape), "ufixed<4,0>")
        with pytest.raises(InputError) as caught:
            bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj"))
        assert ("or io_type='io_stream'" in str(caught.value)) is room
        if room:
            bf.build(graph, bf.BuildConfig(output_dir=tmp_path / "prj", io_type="io_stream"))


def test_options_in_both_languages():
    from bnnflow.errors import as_given

    options = {"io_type": "io_stream", "layers": {"a": {"pe": 4, "simd": 2}, "b": {"strategy": "Resource"}}}
    assert as_given(**options) == ("io_type='io_stream', layers={'a': {'pe': 4, 'simd': 2}, 'b': {'strategy': "
                                   "'Resource'}}")
    with on_command_line():
        assert as_given(**options) == "--io-type io_stream --layer a:pe=4,simd=2 --layer b:strategy=Resource"
        assert as_given(input_type="ufixed<8,0>", fit=True, pipelined=False) == (
            '--input-type "ufixed<8,0>" --fit --combinational')
