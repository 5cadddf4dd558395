"""Models and files that cannot be used: each message names the layer or value and the remedy, and nothing runs."""

from __future__ import annotations

import json
import re
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.errors import InputError, LoweringError
from bnnflow.generation import LEGACY, keras
from tests.contracts import conv, dense, half_mask

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def small(**options: object) -> keras.Model:
    x = keras.Input((6,), name="pixels")
    h = qkeras.QActivation("binary(alpha=1)", name="a1")(dense(4, name="d1", **options)(x))
    return keras.Model(x, dense(3, name="d2")(h))


def rename(layer: keras.layers.Layer, name: str) -> None:
    """Give a layer a name that its constructor may not take."""
    setattr(layer, "_name" if LEGACY else "name", name)


def refused(model: object, *messages: str, input_type: str = "ufixed<4,0>") -> None:
    with pytest.raises(InputError) as caught:
        bf.lower(model, input_type)
    for message in messages:
        assert message in str(caught.value)
    if len(messages) > 1:
        assert isinstance(caught.value, LoweringError) and len(caught.value.problems) >= 2


# --- files ----------------------------------------------------------------------------------------------------------


def test_missing_truncated_and_foreign_files(tmp_path):
    refused(tmp_path / "no.keras", "no model file")
    refused(tmp_path, "is a folder")
    (tmp_path / "a.txt").write_text("x")
    refused(tmp_path / "a.txt", "expected a .keras or .h5")
    (tmp_path / "a.h5").write_text("x" * 100)
    refused(tmp_path / "a.h5", "neither a .keras archive nor an HDF5 file")
    (tmp_path / "empty.keras").touch()
    refused(tmp_path / "empty.keras", "neither")
    for suffix in (".keras", ".h5"):
        small().save(tmp_path / f"net{suffix}")
        whole = (tmp_path / f"net{suffix}").read_bytes()
        for share in (0.01, 0.3, 0.7, 0.98):
            cut = tmp_path / f"cut{suffix}"
            cut.write_bytes(whole[: int(len(whole) * share)])
            refused(cut, str(cut))
    shutil.copy(tmp_path / "net.keras", tmp_path / "wrong.h5")
    refused(tmp_path / "wrong.h5", "not what its suffix says")
    small().save_weights(tmp_path / "net.weights.h5")  # Keras 3 takes no other ending
    refused(tmp_path / "net.weights.h5", "holds weights only")


def model_config(source: Path) -> str:
    """The JSON text in a model file."""
    if source.suffix == ".h5":
        with h5py.File(source) as file:
            return str(file.attrs["model_config"])
    with zipfile.ZipFile(source) as archive:
        return archive.read("config.json").decode()


def with_config(source: Path, target: Path, text: str) -> Path:
    """A copy of a model file with another configuration, as an attacker would make it."""
    if source.suffix == ".h5":
        shutil.copy(source, target)
        with h5py.File(target, "r+") as file:
            file.attrs["model_config"] = text.replace("\x00", "")
        return target
    with zipfile.ZipFile(source) as old_zip, zipfile.ZipFile(target, "w") as new_zip:
        for item in old_zip.namelist():
            new_zip.writestr(item, text.encode() if item == "config.json" else old_zip.read(item))
    return target


def edited(source: Path, target: Path, old: str, new: str) -> Path:
    """A copy of a model file with one piece of its configuration replaced."""
    text = model_config(source)
    assert old in text
    return with_config(source, target, text.replace(old, new))


@pytest.mark.parametrize(("old", "new", "reason"), [
    ('"groups": 2', '"groups": 4', "by the number of groups. Received: groups=4, filters=6"),
    ('"pool_size": [2, 2]', '"pool_size": [8, 8]', "1, 1, 4"),  # the shape that is left of the image
])
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_shapes_that_do_not_fit_in_a_file(old, new, reason, suffix, tmp_path):
    """From Python Keras refuses them itself; a file with them gets one message with Keras' reason."""
    x = keras.Input((8, 8, 4))
    h = keras.layers.MaxPooling2D(2, name="pool")(qkeras.QActivation("binary(alpha=1)")(x))
    model = keras.Model(x, conv(6, 3, groups=2, name="last")(h))
    model.save(tmp_path / f"net{suffix}")
    bf.lower(tmp_path / f"net{suffix}", "ufixed<4,0>")
    bad = edited(tmp_path / f"net{suffix}", tmp_path / f"bad{suffix}", old, new)
    with pytest.raises(InputError, match="Keras cannot read this model: .*last.*" + re.escape(reason)):
        bf.lower(bad)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_is_never_executed(suffix, tmp_path):
    flag = tmp_path / "executed"
    x = keras.Input((6,))
    code = f"__import__('pathlib').Path({str(flag)!r}).touch()"
    scope: dict[str, object] = {}
    exec(f"f = lambda t: ({code}, t)[1]", scope)  # the lambda must be self-contained to survive marshalling
    model = keras.Model(x, dense(2, name="d")(keras.layers.Lambda(scope["f"], name="trap")(x)))
    model.save(tmp_path / f"net{suffix}")
    flag.unlink()
    refused(tmp_path / f"net{suffix}", "layer 'trap' (Lambda): runs Python code from the model file, which is never")
    assert not flag.exists()
    refused(model, "layer 'trap' (Lambda)")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(("old", "new", "message"), [
    ('"class_name": "{QKERAS}QDense"', '"class_name": "os>system"', "(system): not supported"),
    ('"class_name": "Clip"', '"class_name": "function"', "function is not a known quantizer"),
    ('"class_name": "Clip"', '"class_name": "__lambda__"', "__lambda__ is not a known"),
    ('"module": "qkeras.qlayers", "class_name": "Clip"', '"module": "os", "class_name": "Clip"',
     "comes from module 'os', which is not loaded"),
])
def test_no_name_in_a_file_is_called(suffix, old, new, message, tmp_path):
    small().save(tmp_path / f"net{suffix}")
    old = old.format(QKERAS="qkeras>" if not LEGACY and suffix == ".h5" else "")
    refused(edited(tmp_path / f"net{suffix}", tmp_path / f"bad{suffix}", old, new), message)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("text", ["__import__('os').system(1)", "safe_eval(1)", "binary(alpha=open(1))"])
def test_no_text_in_a_file_is_evaluated(suffix, text, tmp_path):
    small().save(tmp_path / f"net{suffix}")
    config = json.loads(model_config(tmp_path / f"net{suffix}"))
    config["config"]["layers"][2]["config"]["activation"] = text
    refused(with_config(tmp_path / f"net{suffix}", tmp_path / f"bad{suffix}", json.dumps(config)),
            "is not a known activation")


EVIL = "import pathlib; pathlib.Path({flag!r}).touch()\nclass X:\n    from_config = classmethod(lambda *a: None)\n"
FAKES = {
    "nested compile_config": ({"class_name": "binary", "module": "tf_keras.models", "registered_name": "Sequential",
                               "config": {"name": "q", "layers": []}, "compile_config": {
                                   "optimizer": {"class_name": "X", "module": "evilmod", "registered_name": None,
                                                 "config": {}}, "loss": "mse"}}, "comes from module 'tf_keras.models'"),
    "another class by registered_name": ({"class_name": "binary", "module": "qkeras.quantizers",
                                          "registered_name": "StringLookup", "config": {"vocabulary": "/etc/passwd"}},
                                         "registered as 'StringLookup', which is another class"),
    "a function of Keras": ({"class_name": "binary", "module": "tf_keras.src.utils.io_utils",
                             "registered_name": "print_msg", "config": {"x": 1}}, "comes from module"),
    "compile_config of a quantizer": (
        {"class_name": "binary", "module": "qkeras.quantizers", "registered_name": "binary", "config": {"alpha": 1},
         "compile_config": {"optimizer": {"class_name": "X", "module": "evilmod", "config": {}}}},
        "carries a compile_config of its own"),
    "build_config": ({"class_name": "binary", "module": "qkeras.quantizers", "registered_name": "binary",
                      "config": {"alpha": 1}, "build_config": {"class_name": "X", "module": "evilmod", "config": {}}},
                     "X is not a known"),
    "class_name is no name": ({"class_name": ["binary"], "config": {}}, "is not a name"),
}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("case", FAKES)
def test_an_object_is_what_its_name_says(suffix, case, tmp_path, monkeypatch):
    """Keras looks for registered_name in an imported module when class_name fails, and compiles nested models."""
    flag, (fake, message) = tmp_path / "executed", FAKES[case]
    (tmp_path / "evilmod.py").write_text(EVIL.format(flag=str(flag)))
    monkeypatch.syspath_prepend(tmp_path)
    small().save(tmp_path / f"net{suffix}")
    for key in ("kernel_quantizer", "kernel_constraint"):
        config = json.loads(model_config(tmp_path / f"net{suffix}"))
        config["config"]["layers"][1]["config"][key] = fake
        bad = with_config(tmp_path / f"net{suffix}", tmp_path / f"bad{suffix}", json.dumps(config))
        refused(bad, message)
    assert not flag.exists() and "evilmod" not in sys.modules


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_calls_that_wait_for_each_other(suffix, tmp_path):
    small().save(tmp_path / f"net{suffix}")
    config = json.loads(model_config(tmp_path / f"net{suffix}"))
    config["config"]["layers"][1]["inbound_nodes"] = [[["d2", 0, 0, {}]]]
    refused(with_config(tmp_path / f"net{suffix}", tmp_path / f"bad{suffix}", json.dumps(config)),
            "layer 'a1': its inputs can never be computed", "layer 'd1'")


@pytest.mark.parametrize("text", [
    "[" * 100000, "{}", "[]", '{"class_name": "Functional", "config": null}', "\x00", "1"])
def test_configurations_that_are_none(text, tmp_path):
    for suffix in (".keras", ".h5"):
        small().save(tmp_path / f"net{suffix}")
        if suffix == ".h5" and len(text) > 60000:
            continue  # past what an HDF5 attribute holds
        refused(with_config(tmp_path / f"net{suffix}", tmp_path / f"bad{suffix}", text), "bad")


def test_weights_of_other_files_are_not_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 96)
    small().save(tmp_path / "net.h5")
    for way in ("external", "link"):
        shutil.copy(tmp_path / "net.h5", tmp_path / "bad.h5")
        with h5py.File(tmp_path / "bad.h5", "r+") as file:
            group = file["model_weights/d1/d1"]
            (kernel,) = group
            del group[kernel]
            if way == "external":
                group.create_dataset(kernel, shape=(6, 4), dtype="f4", external=[(str(tmp_path / "secret"), 0, 96)])
            else:
                group[kernel] = h5py.ExternalLink(str(tmp_path / "net.h5"), f"{group.name}/{kernel}")
        refused(tmp_path / "bad.h5", "another file")


def test_unsupported_layers_are_listed_all_at_once(tmp_path):
    x = keras.Input((8, 8, 1))
    h = keras.layers.Conv2DTranspose(2, 3, name="c1")(x)
    h = keras.layers.LayerNormalization(name="p1")(h)
    h = keras.layers.Flatten()(h)
    model = keras.Model(x, dense(2, name="d1")(h))
    messages = ("2 problems", "layer 'c1' (Conv2DTranspose): not supported", "layer 'p1' (LayerNormalization)",
                "Supported layers: ", "QDense")
    refused(model, *messages)
    model.save(tmp_path / "net.keras")
    refused(tmp_path / "net.keras", *messages)


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value):
    model = small()
    kernel = model.get_layer("d1").kernel.numpy()
    kernel[2, 1] = value
    model.get_layer("d1").kernel.assign(kernel)
    refused(model, f"layer 'd1': weight 'd1/kernel{':0' if LEGACY else ''}' holds {value} at index (2, 1)")


def test_negative_variance():
    x = keras.Input((6,))
    model = keras.Model(x, keras.layers.BatchNormalization(name="bn")(dense(2)(x)))
    model.get_layer("bn").moving_variance.assign([1, -1])
    refused(model, "layer 'bn': moving_variance is negative")


def test_an_all_zero_mask():
    quantizer = bf.train.Masked(qkeras.binary(alpha=1))
    quantizer.set_mask(np.zeros((6, 4)))
    refused(small(kernel_quantizer=quantizer), "layer 'd1': its mask keeps none of 24 connections")


def test_a_neuron_without_connections_is_a_constant():
    quantizer, mask = bf.train.Masked(qkeras.binary(alpha=1)), half_mask((6, 4)).astype(int)
    mask[:, 1] = 0
    quantizer.set_mask(mask)
    graph = bf.lower(small(kernel_quantizer=quantizer), "ufixed<4,0>")
    codes = graph.encode(np.random.default_rng(0).integers(0, 16, (50, 6)) / 16)
    assert len(np.unique(bf.trace(graph, codes)["a1"][:, 1])) == 1


def pooled(quantizer: str = "") -> keras.Model:
    """An average over 32 positions into a sum, with an activation between, or none."""
    x = keras.Input((32, 3))
    h = qkeras.QActivation("quantized_relu(8,0)")(dense(32)(x))
    h = keras.layers.GlobalAveragePooling1D()(h)
    h = qkeras.QActivation(quantizer)(h) if quantizer else h
    rho = dense(16, kernel_quantizer="quantized_bits(8,0,alpha=1)", name="rho")
    model = keras.Model(x, qkeras.QActivation("binary(alpha=1)")(rho(h)))
    rho.set_weights([np.full((32, 16), 0.9)])
    return model


def test_the_remedy_for_too_large_a_sum_helps():
    with pytest.raises(LoweringError, match="layer 'rho': its sums can reach 30028800 units, .* put "
                                            "QActivation.'quantized_bits.11,0,alpha=1.'. right before") as caught:
        bf.lower(pooled(), "fixed<4,1>")
    bf.lower(pooled(re.findall("QActivation.'(.*)'", str(caught.value))[0]), "fixed<4,1>")
    x = keras.Input((300,))
    model = keras.Model(x, qkeras.QActivation("binary(alpha=1)")(dense(1, name="d")(x)))
    with pytest.raises(LoweringError, match="make the input type 2 bits narrower"):
        bf.lower(model, "fixed<18,18>")
    bf.lower(model, "fixed<16,16>")


def test_the_remedy_for_float_weights_helps():
    def net(head: keras.layers.Layer) -> keras.Model:
        x = keras.Input((6,))
        model = keras.Model(x, head(qkeras.QActivation("quantized_relu(4)")(dense(5)(x))))
        head.set_weights([np.random.default_rng(0).normal(0, 1.3, (5, 3)), *head.get_weights()[1:]])
        return model

    with pytest.raises(LoweringError, match="layer 'head'.* make it a layer of QKeras .QDense for Dense. with "
                                            "kernel_quantizer=quantized_bits.8, 2, alpha=1.") as caught:
        bf.lower(net(keras.layers.Dense(3, name="head")), "fixed<8,3>")
    quantizer = str(caught.value).rpartition("kernel_quantizer=")[2].split(", or")[0]
    bf.lower(net(qkeras.QDense(3, kernel_quantizer=quantizer, name="head")), "fixed<8,3>")


def test_all_problems_of_a_model_come_in_one_message():
    x = keras.Input((6,))
    h = qkeras.QActivation("binary(alpha='auto')", name="a1")(dense(4, name="d1")(x))
    h = keras.layers.Activation("tanh", name="a2")(dense(4, name="d2", kernel_quantizer=None)(x))
    refused(keras.Model(x, h), "layer 'd2': its weights (no kernel_quantizer) are not small integers")
    h = qkeras.QActivation("binary(alpha='auto')", name="a1")(dense(4, name="d1")(x))
    refused(keras.Model(x, h), "takes its scale from the data of each batch; use alpha=1")
    h = keras.layers.BatchNormalization(name="bn")(dense(4, name="d1")(x))
    refused(keras.Model(x, dense(2, name="d2")(h)), "layer 'd2': its input is not quantised: 'bn' yields floats; put a")
    wide = keras.Input((6,))
    refused(keras.Model(wide, keras.layers.Activation("tanh", name="t")(dense(2)(wide))),
            "layer 't': an output behind a float activation needs a table of", input_type="ufixed<16,16>")


def scaled_by_batch(x: tf.Tensor) -> tf.Tensor:
    return x / tf.reduce_max(tf.abs(x))


@pytest.mark.parametrize(("activation", "message"), [
    ("binary(alpha=.3)", "levels are not exact; use one power of two"),
    ("ternary(alpha='auto_po2')", "takes its scale from the data"),
    ("quantized_relu(17,1)", "with 17 bits has more than 2^16 levels; use at most 16 bits"),
    ("quantized_ulaw(4)", "are not exact, small integers times a power of two"),
    ("quantized_relu(4,1,qnoise_factor=.5)", "qnoise_factor of quantized_relu is 0.5"),
    ("bernoulli()", "is random at inference"), (scaled_by_batch, "takes its scale from the data of each batch"),
])
def test_activations_refused(activation, message):
    x = keras.Input((6,))
    with pytest.raises(LoweringError, match="layer 'a'") as caught:
        bf.lower(keras.Model(x, qkeras.QActivation(activation, name="a")(dense(4)(x))), "ufixed<4,0>")
    assert message in str(caught.value)


def test_softmax_only_ends_a_model():
    x = keras.Input((6,))
    for softmax in (keras.layers.Softmax(name="s"), keras.layers.Activation("softmax", name="s")):
        refused(keras.Model(x, qkeras.QActivation("quantized_relu(4,0)")(softmax(dense(5)(x)))),
                "layer 's': softmax mixes the elements of a tensor and can only end a model")
    inside = dense(5, activation="softmax", name="s")(x)
    refused(keras.Model(x, qkeras.QActivation("quantized_relu(4,0)")(inside)), "layer 's': softmax mixes")
    refused(keras.Model(x, keras.layers.ReLU()(inside)), "layer 's': softmax mixes")
    refused(keras.Model(x, dense(2)(inside)), "its input is not quantised: 's' yields floats")


def test_numbers_float32_cannot_hold():
    x = keras.Input((6,), dtype="float16", name="half")
    refused(keras.Model(x, dense(2)(x)), "layer 'half': takes float16")
    x = keras.Input((6,))
    tiny = keras.layers.Dense(2, use_bias=False, name="tiny")
    model = keras.Model(x, tiny(x))
    tiny.kernel.assign(np.full((6, 2), 2.0**-126))
    refused(model, "layer 'tiny': its sums count units of", input_type="fixed<8,0>")
    norm = keras.layers.BatchNormalization(epsilon=0, name="bn")
    model = keras.Model(x, norm(dense(1)(x)))
    norm.moving_variance.assign([1e-45])
    refused(model, "layer 'bn': Keras' own output is not finite")
    zero = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    model = keras.Model(x, keras.layers.BatchNormalization(name="b2")(zero(x)))
    model.get_layer("b2").gamma.assign([1e15])
    bf.lower(model, "fixed<8,0>")
    for text in ("quantized_relu(4,100000)", "quantized_relu(1000000,5)", "quantized_relu(4,1000)",
                 "quantized_relu(4,150)"):
        refused(keras.Model(x, qkeras.QActivation(text, name="a")(dense(2)(x))), "layer 'a'")


def test_random_biases():
    x = keras.Input((6,))
    layer = dense(40, use_bias=True, bias_quantizer="bernoulli(alpha=1)", name="d")
    model = keras.Model(x, layer(x))
    refused(model, "layer 'd': its bias_quantizer is random at inference")


def test_structure_refused():
    x = keras.Input((6,))
    y = keras.Input((6,), name="y")
    with pytest.raises(InputError, match="input_type names 'a'; the model's inputs are "):
        bf.lower(keras.Model([x, y], [dense(2)(x), dense(2)(y)]), {"a": "ufixed<4,0>"})
    refused(keras.Model(x, dense(2)(keras.layers.Dropout(0.5, name="drop")(x, training=True))),
            "layer 'drop' is called with training=True; call it plainly")
    refused(keras.Sequential(), "build it with an Input layer")
    open_shape = keras.Input((None, 6), name="open")
    refused(keras.Model(open_shape, dense(2)(open_shape)), "layer 'open': input shape (None, 6) has open dimensions")
    refused("nothing.keras", "no model file")
    refused(7, "expected a Keras model or a path")
    x = keras.Input((4, 6))
    refused(keras.Model(x, keras.layers.BatchNormalization(axis=1, name="bn")(x)), "layer 'bn': normalises axis [1]")


def test_names_cannot_leave_the_graph(tmp_path):
    """Hostile layer names become clean, different node names; Keras' own name is kept only as text."""
    hostile = ('a"; system("x")', "../../x", "x" * 300, "äöü", "a-b", "a_b", "A_B", "main", "*/ #include", "a\nb")
    x = keras.Input((6,), name="int")
    layers = [dense(6) for _ in hostile]
    h = x
    for layer in layers:
        h = qkeras.QActivation("binary(alpha=1)")(layer(h))
    model = keras.Model(x, h)
    for layer, name in zip(layers, hostile):
        rename(layer, name)
    graph = bf.lower(model, "ufixed<4,0>")
    names = [node.name.lower() for node in graph]
    assert len(set(names)) == len(names) and all(n.replace("_", "").isalnum() and n.isascii() for n in names)


@pytest.mark.parametrize("names", [("conv.1", "conv_1"), ("conv_1", "conv.1"), ("a", "a_in"), ("b#2", "b_2"),
                                   ("CONV-1", "conv_1"), ("a b", "a_b_2", "a_b"), ("p", "P")])
def test_a_layer_whose_name_is_clean_keeps_it(names):
    """So that options for a node, which are given by its layer's name, never go to another layer."""
    x = h = keras.Input((6,), name="in")
    for k in range(len(names)):
        h = qkeras.QActivation("binary(alpha=1)")(dense(k + 3)(h))
    model = keras.Model(x, h)
    for k, name in enumerate(names):
        rename(model.layers[2 * k + 1], name)
    graph = bf.lower(model, "ufixed<4,0>")
    outputs = {node.name: node.shape[-1] for node in graph if node.op is bf.ir.Op.DOT}
    assert len(outputs) == len(names)
    for k, name in enumerate(names):
        if name != "P":  # names differ in lower case
            assert outputs.get(name, k + 3) == k + 3 and (bf.ir.clean_name(name) != name or name in outputs)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_files_of_the_package_s_former_name_are_read(suffix, tmp_path):
    """Our classes lay in `flow.train` before; a file names them so, and is the same network. Nothing else may."""
    x = keras.Input((6,))
    h = bnnflow.train.LearnedThermometer(2)(x)
    h = qkeras.QDense(4, kernel_quantizer=bnnflow.train.Masked(qkeras.binary(alpha=1)), use_bias=False)(h)
    net, file = keras.Model(x, h), tmp_path / f"net{suffix}"
    net.save(file)
    want = bf.lower(file, "ufixed<4,0>").digest

    def rename(old: str, new: str) -> None:
        if suffix == ".h5":
            with h5py.File(file, "r+") as opened:
                opened.attrs["model_config"] = opened.attrs["model_config"].replace(old, new)
            return
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        parts["config.json"] = parts["config.json"].replace(old.encode(), new.encode())
        with zipfile.ZipFile(file, "w") as archive:
            for name, part in parts.items():
                archive.writestr(name, part)

    rename('"bnnflow.train', '"flow.train')
    assert bf.lower(file, "ufixed<4,0>").digest == want
    rename('"flow.train', '"flow.other')
    with pytest.raises(LoweringError, match=r"comes from module 'flow\.other"):
        bf.lower(file, "ufixed<4,0>")
