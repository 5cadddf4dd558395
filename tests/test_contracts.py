"""The contract of every quantizer and layer: a row in contracts.py is all that a new one needs."""

from __future__ import annotations

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip
import qkeras
import tensorflow as tf

from bnnflow.backends.netlist.goals import GOALS
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.devices.fabric import ECP5, ULTRASCALE
from bnnflow.frontends.keras.calls import model_calls
from bnnflow.frontends.keras.layers import LOWERINGS
from bnnflow.frontends.keras.quantizers import levels_of
from bnnflow.frontends.keras.reading import custom_objects, read_model
from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import LEGACY, keras, leaf_layers, pruning_wrappers
from bnnflow.ir.evaluate import check_codes
from tests.conftest import check_engine, union
from tests.contracts import ACTIVATIONS, HEADS, KERNELS, LAYERS, MODELS, dense, shake

INPUT_TYPE = "ufixed<4,0>"

WAYS = [*((goal, ULTRASCALE) for goal in GOALS), ("area", ECP5)]  # to make a netlist


def inputs(model: keras.Model, count: int = 400) -> np.ndarray | list[np.ndarray]:
    arrays = [np.random.default_rng(k).integers(0, 16, (count, *t.shape[1:])) / 16 for k, t in enumerate(model.inputs)]
    return arrays[0] if len(arrays) == 1 else arrays


def first(x: np.ndarray | list[np.ndarray], count: int) -> np.ndarray | list[np.ndarray]:
    return x[:count] if isinstance(x, np.ndarray) else [a[:count] for a in x]


def kernel_network(name: str) -> keras.Model:
    x = keras.Input((12,))
    h = keras.layers.BatchNormalization()(dense(9, kernel_quantizer=KERNELS[name].make(), name="d1")(x))
    return shake(keras.Model(x, dense(3)(qkeras.QActivation("binary(alpha=1)")(h))))


def activation_network(name: str, inside: bool = False) -> keras.Model:
    x = keras.Input((12,))
    text = ACTIVATIONS[name].text
    h = dense(9, use_bias=True, activation=text if inside else None)(x)
    if not inside:
        h = qkeras.QActivation(text)(keras.layers.BatchNormalization()(h))
    return shake(keras.Model(x, dense(3)(h)))


def layer_network(name: str) -> keras.Model:
    shape, make = LAYERS[name]
    h = x = keras.Input(shape)
    for layer in make():
        h = layer(h)
    if name not in HEADS:
        h = dense(4)(qkeras.QActivation("ternary(alpha=1)")(h))
    return shake(keras.Model(x, h))


NETWORKS = {
    **{f"kernel-{k}": (lambda k=k: kernel_network(k)) for k in KERNELS},
    **{f"activation-{k}": (lambda k=k: activation_network(k)) for k in ACTIVATIONS},
    **{f"argument-{k}": (lambda k=k: activation_network(k, inside=True)) for k in ACTIVATIONS},
    **{f"layer-{k}": (lambda k=k: layer_network(k)) for k in LAYERS},
    **{f"model-{k}": (lambda k=k: shake(MODELS[k]())) for k in MODELS},
}


# QKeras 0.9.0 cannot read back what it wrote of these.
UNREADABLE = {("argument-quantized_hswish", ".keras"), ("argument-quantized_hswish", ".h5"),
              ("argument-binary_tanh", ".h5"), ("argument-binary_sigmoid", ".h5")}
if not LEGACY:  # qkeras-v3 reads no quantized_hswish that it wrote, wherever it stands
    UNREADABLE = {(f"{where}-quantized_hswish", suffix) for where in ("activation", "argument")
                  for suffix in (".keras", ".h5")}


def check_outputs(model: keras.Model, graph: bf.ir.Graph, x: np.ndarray | list[np.ndarray]) -> None:
    """The outputs, before a dropped softmax or sigmoid, are equal: no row here has a batch norm at its end."""
    last = model.layers[-1]
    if getattr(last, "activation", None) is keras.activations.sigmoid:
        last.activation = keras.activations.linear
    if len(model.outputs) > 1:
        theirs = model.predict(x, verbose=0)
    else:
        skip = type(last) in (keras.layers.Softmax, keras.layers.Activation)
        key = model_calls(model).calls[-2 if skip else -1].key
        theirs = [keras_activations(model, [key], x)[key]]
    ours = graph.decode(graph(graph.encode(x)))
    for a, b in zip(ours if isinstance(ours, list) else [ours], theirs, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_lowered_is_keras(name):
    model = NETWORKS[name]()
    x, graph = inputs(model), bf.lower(model, INPUT_TYPE)
    for batch in (400, 17, 1):
        check_equal(graph, model, first(x, 400 if batch > 1 else 20), batch)
    check_outputs(model, graph, x)
    check_engine(graph, graph.encode(first(x, 100)))


@pytest.mark.files
@pytest.mark.parametrize(("name", "suffix"), [  # in turns, the others for `make fuzz`
    pytest.param(name, suffix, marks=[pytest.mark.long] * ((k + of) % 2))
    for k, name in enumerate(NETWORKS) for of, suffix in enumerate((".keras", ".h5"))])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_saved_and_read_is_the_same_network(name, suffix, tmp_path):
    model = NETWORKS[name]()
    model.save(tmp_path / f"net{suffix}")
    if (name, suffix) in UNREADABLE:
        with pytest.raises(bf.InputError, match="Keras cannot read this model"):
            bf.lower(tmp_path / f"net{suffix}", INPUT_TYPE)
        return
    assert bf.lower(tmp_path / f"net{suffix}", INPUT_TYPE).digest == bf.lower(model, INPUT_TYPE).digest
    x = inputs(model, 50)
    again = read_model(tmp_path / f"net{suffix}")
    for a, b in zip(*(tf.nest.flatten(m(x, training=False)) for m in (again, model)), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.training
@pytest.mark.parametrize("name", [  # every other one, the rest for `make fuzz`
    pytest.param(name, marks=[pytest.mark.long] * (k % 2)) for k, name in enumerate(NETWORKS)])
def test_a_training_step_changes_weights_and_stays_exact(name):
    model = NETWORKS[name]()
    x = inputs(model, 64)
    before = [w.numpy() for w in model.trainable_weights]
    model.compile("adam", "mse")
    targets = [np.random.default_rng(0).normal(size=(64, *t.shape[1:])) for t in model.outputs]
    model.fit(x, targets if len(targets) > 1 else targets[0], epochs=2, verbose=0)
    after = [w.numpy() for w in model.trainable_weights]
    assert any(not np.array_equal(a, b) for a, b in zip(before, after))
    assert all(np.isfinite(a).all() for a in after)
    if "-plain_" in name:  # its float weights have left the grid
        with pytest.raises(bf.LoweringError, match="not small integers times a power of two"):
            bf.lower(model, INPUT_TYPE)
        return
    check_equal(bf.lower(model, INPUT_TYPE), model, x)


@pytest.mark.hls
@pytest.mark.parametrize("part", range(6))
@pytest.mark.parametrize(("io_type", "strategy"), [
    ("io_parallel", "Latency"), ("io_stream", "Latency"), ("io_parallel", "distributed_arithmetic")])
def test_c_simulation_is_the_graph(io_type, strategy, part, simulated):
    """Every sixth row, in one project; a difference names the row in front of the node."""
    graphs, codes = {}, []
    for name in list(NETWORKS)[part::6]:
        model = NETWORKS[name]()
        graphs[name] = bf.lower(model, INPUT_TYPE)
        codes += tf.nest.flatten(graphs[name].encode(inputs(model)))
    simulated(union(graphs), codes, io_type=io_type, strategy=strategy)


@pytest.mark.rtl
@pytest.mark.parametrize(("name", "goal", "fabric"), [  # in turns, the others for `make fuzz`
    pytest.param(name, *way, marks=[pytest.mark.long] * (k % len(WAYS) != of))
    for k, name in enumerate(NETWORKS) for of, way in enumerate(WAYS)])
def test_netlist_is_the_graph(name, goal, fabric):
    model = NETWORKS[name]()
    graph = bf.lower(model, INPUT_TYPE)
    codes = check_codes(graph, graph.encode(inputs(model, 100)))
    logic = to_logic(graph, goals=goal, fabric=fabric)
    for ours, expected in zip(logic(codes), tf.nest.flatten(graph(codes)), strict=True):
        assert np.array_equal(ours, expected)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_quantizer(name):
    row = KERNELS[name]
    layer = dense(9, kernel_quantizer=row.make())
    layer.build((None, 12))
    quantizer = layer.kernel_quantizer_internal
    w = tf.constant(np.random.default_rng(0).normal(0, 0.7, (12, 9)).astype(np.float32))  # as layers hand it over
    with tf.GradientTape() as tape:
        tape.watch(w)
        y = quantizer(w)
    assert set(np.unique(y)) <= set(row.levels) and len(np.unique(y)) > 1
    gradient = tape.gradient(y, w).numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    config = keras.layers.serialize(layer)
    with keras.utils.custom_object_scope(custom_objects()):
        again = keras.layers.deserialize(config)
    if not again.built:  # Keras 3 has built it as it was
        again.build((None, 12))
    again(np.zeros((1, 12), np.float32))
    again.set_weights(layer.get_weights() or [])
    assert np.array_equal(again.kernel_quantizer_internal(w), y)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_takes_its_levels(name):
    row, quantizer = ACTIVATIONS[name], qkeras.get_quantizer(ACTIVATIONS[name].text)
    values = quantizer(tf.constant(np.linspace(-40, 40, 100001), tf.float32)).numpy()
    levels = levels_of("row", quantizer)
    found = {float(levels.domain.scale * c + levels.domain.offset) for c in levels.codes}
    assert set(map(float, np.unique(values))) == found and (not row.levels or found == set(row.levels))


def test_every_lowering_and_quantizer_has_a_row():
    layers = {type(layer) for make in NETWORKS.values() for layer in leaf_layers(make())}
    # Those that prune take a callback in training: test_wrappers.py has them.
    assert layers >= set(LOWERINGS) - set(pruning_wrappers())


def test_mask_keeps_its_zeros_through_training():
    model = kernel_network("masked_binary")
    quantizer = model.get_layer("d1").kernel_quantizer_internal
    zeros = quantizer.mask.numpy() == 0
    before = np.clip(model.get_layer("d1").kernel.numpy(), -1, 1)  # QKeras constrains latent weights
    model.compile("adam", "mse")
    x = inputs(model, 64)
    model.fit(x, np.ones((64, 3)), epochs=3, verbose=0)
    kernel = model.get_layer("d1").kernel
    assert (quantizer(kernel).numpy()[zeros] == 0).all() and (quantizer(kernel).numpy()[~zeros] != 0).all()
    assert np.array_equal(kernel.numpy()[zeros], before[zeros]), "pruned latent weights got a gradient"
    assert not np.array_equal(kernel.numpy()[~zeros], before[~zeros])
    assert quantizer.mask.name not in [w.name for w in model.trainable_weights]
    weights = next(n.params for n in bf.lower(model, INPUT_TYPE) if n.name == "d1")
    assert np.array_equal(weights.mask, ~zeros)


@pytest.mark.parametrize(("mask", "message"), [
    (np.full((12, 9), 2), "0 or 1"), (np.ones((3, 3)), "shape"), (np.full((12, 9), np.nan), "0 or 1"),
])
def test_bad_masks(mask, message):
    quantizer = kernel_network("masked_binary").get_layer("d1").kernel_quantizer_internal
    with pytest.raises(bf.InputError, match=message):
        quantizer.set_mask(mask)
