from __future__ import annotations

import numpy as np
import pytest

import bnnflow as bf

import bnnflow.train  # isort: skip

import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from bnnflow.ir import Weights
from bnnflow.models import cnv, digits, glt, jets, mnist, mnist_lut, mnist_sbnn
from bnnflow.models.common import KINDS
from bnnflow.recipe import Recipe
from bnnflow.train.fit import Training, accuracy, fit


@pytest.mark.training
@pytest.mark.hls
def test_digits_trains_and_is_exact(simulated):
    arrays, model = digits.data(), digits.build()
    epochs = []
    score = fit(model, arrays, **{**digits.TRAINING, "epochs": 15}, report=lambda e, n, logs: epochs.append((e, n)))
    assert epochs == [(k + 1, 15) for k in range(15)] and score > 0.85
    graph = bf.lower(model, digits.INPUT_TYPE)
    codes = graph.encode(arrays[2])
    check_equal(graph, model, arrays[2])
    assert accuracy(graph.decode(simulated(graph, codes)), arrays[3]) == pytest.approx(score, abs=1 / 360)


def test_training_repeats():
    arrays = digits.data()
    weights = []
    for _ in range(2):
        model = digits.build()
        fit(model, arrays, epochs=1)
        weights.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*weights))


@pytest.mark.training
@pytest.mark.hls
@pytest.mark.parametrize("planes", [0, 2])
def test_mnist_is_exact_on_all_test_images(planes, shared, monkeypatch, simulated):
    monkeypatch.setenv("FLOW_DATA", str(shared("data/mnist/mnist.npz").parent))
    arrays, model = mnist.data(), mnist.build(planes=planes)
    fit(model, tuple(a[:6000] for a in arrays), epochs=2)
    graph = bf.lower(model, mnist.INPUT_TYPE)
    assert sum(check_equal(graph, model, arrays[2]).values()) >= 10_000 * 384
    codes = graph.encode(arrays[2])[:1000]
    assert np.array_equal(simulated(graph, codes), graph(codes))


@pytest.mark.training
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("network", [mnist, jets], ids=["mnist", "jets"])
def test_every_kind_is_exact_after_a_step(network, kind):
    model, rng = network.build(kind), np.random.default_rng(0)
    x = (rng.integers(0, 256, (200, *model.input_shape[1:])) / 256).astype(np.float32)  # on either input grid
    y = rng.integers(0, model.output_shape[1], 200)
    before = model.get_weights()
    fit(model, (x, y, x, y), epochs=1, batch_size=200)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights()))
    graph = bf.lower(model, network.INPUT_TYPE)
    assert set(check_equal(graph, model, x)) >= {"act1", "act2", "act3"}


@pytest.mark.training
def test_networks_for_luts_are_exact():
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 256, (300, 784)) / 256).astype(np.float32), rng.integers(0, 10, 300)
    for network, options in ((mnist_lut, {"widths": (60, 40)}), (mnist_sbnn, {"width": 40})):
        model = network.build(**options)
        recipe = {**network.TRAINING, "epochs": 5, "batch_size": 30}
        training = Training(model, (x, y, x, y), Recipe(**recipe))
        while not training.done:
            training.advance()
        training.finish()
        graph = bf.lower(model, network.INPUT_TYPE)
        assert set(check_equal(graph, model, x)) >= {"act1", "act2"}
        sums = [np.count_nonzero(node.params.effective, axis=0) for node in graph if isinstance(node.params, Weights)]
        if network is mnist_lut:  # LUTs, and every neuron counts for one class
            assert max(map(np.max, sums[:2])) == 6 and sums[2].tolist() == [4] * 10


def stepped(model, seed=0):
    """Pixels (20, ...), after one training step on them which changed every weight."""
    rng = np.random.default_rng(seed)
    x = (rng.integers(0, 256, (20, *model.input_shape[1:])) / 256).astype(np.float32)
    y = rng.integers(0, model.output_shape[1], 20)
    before = model.get_weights()
    fit(model, (x, y, x, y), epochs=1, batch_size=20, learning_rate=.1)
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights()))
    return x


@pytest.mark.training
@pytest.mark.parametrize("kind", cnv.KINDS)
def test_every_kind_of_cnv_is_exact_after_a_step(kind):
    model = cnv.build(kind, width=8)
    x = stepped(model)
    counts = check_equal(bf.lower(model, cnv.INPUT_TYPE), model, x)
    assert set(counts) >= {*(f"act_conv{k}" for k in range(1, 7)), "act_dense1", "act_dense2"}


def test_cnv_has_the_weights_of_finn():
    """1,542,848 in all, by hand."""
    convs = 9 * (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 256 * 256)
    assert glt.weight_bits(cnv.build()) == convs + 256 * 512 + 512 * 512 + 512 * 10


@pytest.mark.training
@pytest.mark.parametrize(("dataset", "merges"), [
    ("cifar10", ("or", "and", "select")), pytest.param("cifar100", ("select",), marks=pytest.mark.long)])
def test_glt_is_exact_after_a_step(dataset, merges):
    model = glt.build(dataset, planes=3, width=8, groups=2, merges=merges)
    x = stepped(model)
    graph = bf.lower(model, glt.INPUT_TYPE)
    counts = check_equal(graph, model, x)
    assert {node.domain.size for node in graph if node.name in counts} == {2}  # whatever is compared is binary
    assert {f"block{k + 1}_{merges[k % len(merges)]}" for k in range(5)} <= set(counts)


@pytest.mark.training
@pytest.mark.parametrize("dataset", ["stl10", "vww"])
def test_glt_at_sensor_size_is_exact(dataset):
    model = glt.build(dataset, planes=2, width=8)
    x = (np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)) / 256).astype(np.float32)
    assert sum(check_equal(bf.lower(model, glt.INPUT_TYPE), model, x).values()) > 100_000


@pytest.mark.parametrize("dataset", glt.DATASETS)
def test_glt_has_less_than_a_megabit_of_weights(dataset):
    model = glt.build(dataset)
    assert model.output_shape == (None, glt.DATASETS[dataset].classes)
    assert 5e5 < glt.weight_bits(model) < 1e6


@pytest.mark.parametrize(("call", "message"), [
    (lambda: cnv.build("w3a3"), "kind 'w3a3'; use one of w1a1, w1a2, w2a2, ternary"),
    (lambda: glt.build("imagenet"), "dataset 'imagenet'; use one of cifar10, cifar100, stl10, vww"),
    (lambda: glt.data("imagenet"), "dataset 'imagenet'; use one of"),
    (lambda: glt.build(merges=("or", "xor")), r"merges \['or', 'xor'\]; use one or more of or, and, select"),
    (lambda: glt.build(merges=()), r"merges \[\]; use"),
    (lambda: glt.build(width=30), "width 30, groups 4: the width must be a multiple"),
    (lambda: glt.build(groups=0), "width 128, groups 0: the width must be a multiple"),
])
def test_image_networks_refuse_what_they_cannot_build(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.training
@pytest.mark.parametrize("kind", KINDS)
def test_jets_trains_and_is_exact(kind, monkeypatch, tmp_path):
    """On made-up jets: five Gaussian clouds in 16 features."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 3000)
    x = (rng.normal(0, 3, (5, 16))[y] + rng.normal(0, 1, (3000, 16))) * np.logspace(-3, 2, 16)
    np.savez(tmp_path / "jets.npz", X=x, y=np.array(list("gqtwz"))[y])
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    arrays, model = jets.data(), jets.build(kind)
    assert len(arrays[2]) == 600 and fit(model, arrays, epochs=4) > 0.5
    check_equal(bf.lower(model, jets.INPUT_TYPE), model, arrays[2])


@pytest.mark.parametrize("network", [mnist, jets], ids=["mnist", "jets"])
def test_a_kind_that_is_none_is_refused(network):
    with pytest.raises(InputError, match="kind 'quaternary'; use one of binary, ternary, hybrid_binary"):
        network.build("quaternary")


@pytest.mark.parametrize(("network", "message"), [
    (mnist, r"no .*mnist\.npz; put MNIST there as mnist\.npz \(x_train, y_train, x_test, y_test\)"),
    (jets, r"no .*jets\.npz; put OpenML 42468 there as jets\.npz \(X, y\)"),
], ids=["mnist", "jets"])
def test_missing_data_say_where_they_should_be(network, message, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=message):
        network.data()


def images(n: int) -> np.ndarray:
    return np.zeros((n, 28, 28), np.uint8)


MNIST = {"x_train": images(4), "y_train": np.arange(4), "x_test": images(2), "y_test": np.arange(2)}
JETS = {"X": np.eye(20, 16), "y": np.array(list("gqtwz") * 4)}


def test_whole_files_are_read(monkeypatch, tmp_path):
    np.savez(tmp_path / "mnist.npz", **MNIST)
    np.savez(tmp_path / "jets.npz", **JETS)
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    assert [(a.shape, a.dtype.name) for a in mnist.data()] == [
        ((4, 784), "float32"), ((4,), "int64"), ((2, 784), "float32"), ((2,), "int64")]
    assert [a.shape for a in jets.data()] == [(16, 16), (16,), (4, 16), (4,)]


# what is wrong: (network, arrays, message)
DAMAGED = {
    "no x_test": (mnist, {k: MNIST[k] for k in ("x_train", "y_train", "y_test")}, "cannot read array 'x_test'"),
    "no y": (jets, {"X": JETS["X"]}, "cannot read array 'y': .*not a file in the archive"),
    "objects": (mnist, {**MNIST, "x_train": images(4).astype(object)}, "cannot read array 'x_train'"),
    "27 rows": (mnist, {**MNIST, "x_train": images(4)[:, 1:]}, r"array 'x_train' is \(4, 27, 28\) uint8; needs"),
    "a number": (mnist, {**MNIST, "x_train": np.uint8(7)}, r"array 'x_train' is \(\) uint8; needs \('n', 784\)"),
    "no images": (mnist, {**MNIST, "x_test": images(0)}, r"array 'x_test' is \(0, 28, 28\) uint8; needs"),
    "too many": (mnist, {**MNIST, "x_test": images(3)}, "3 rows in 'x_test' and 2 in 'y_test'"),
    "one hot": (mnist, {**MNIST, "y_test": np.eye(2, 10)}, r"array 'y_test' is \(2, 10\) float64; needs \('n',\)"),
    "words": (mnist, {**MNIST, "y_test": np.array(["six", "two"])}, r"array 'y_test' is \(2,\) <U3; needs .* integer"),
    "15 features": (jets, {**JETS, "X": JETS["X"][:, 1:]}, r"array 'X' is \(20, 15\) float64; needs \('n', 16\)"),
    "infinite": (jets, {**JETS, "X": np.full((20, 16), np.inf)}, "array 'X' holds values that are not finite"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_arrays_are_refused(case, monkeypatch, tmp_path):
    network, arrays, message = DAMAGED[case]
    name = f"{network.__name__.rsplit('.', 1)[1]}.npz"
    np.savez(tmp_path / name, **arrays)
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"{name}: {message}"):
        network.data()


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b.replace(b"NUMPY", b"LUMPY")],
                         ids=["empty", "half", "scrambled"])
def test_damaged_files_are_refused(damage, monkeypatch, tmp_path):
    np.savez(tmp_path / "whole.npz", **MNIST)
    (tmp_path / "mnist.npz").write_bytes(damage((tmp_path / "whole.npz").read_bytes()))
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match="mnist.npz: cannot read array 'x_train'"):
        mnist.data()


def test_a_download_that_fails_says_so(monkeypatch):
    def fail():
        raise OSError("no network")

    monkeypatch.delenv("FLOW_DATA", raising=False)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)
    with pytest.raises(InputError, match=r"cannot download MNIST \(no network\); set FLOW_DATA to a folder with mnist"):
        mnist.data()


def test_what_was_downloaded_is_read(monkeypatch):
    x, y, x_test, y_test = MNIST.values()
    monkeypatch.delenv("FLOW_DATA", raising=False)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: ((x, y), (x_test, y_test)))
    assert [a.shape for a in mnist.data()] == [(4, 784), (4,), (2, 784), (2,)]


def pictures(dataset: str, n: int = 4) -> dict[str, np.ndarray]:
    """Arrays of a data set's file: smooth images, so that JPEG keeps them."""
    size, classes = glt.DATASETS[dataset].size, glt.DATASETS[dataset].classes
    x = (np.arange(n)[:, None, None, None] + np.arange(size)[:, None] + np.array([0, 40, 90])).astype(np.uint8)
    x, y = np.broadcast_to(x, (n, size, size, 3)), np.arange(n) % classes
    return {"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2].reshape(2, 1)}


@pytest.mark.parametrize("dataset", glt.DATASETS)
def test_image_files_are_read(dataset, monkeypatch, tmp_path):
    np.savez(tmp_path / f"{dataset}.npz", **pictures(dataset))
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    x, y, x_test, y_test = glt.data(dataset)
    assert x.dtype == np.float32 and np.array_equal(x * 256, pictures(dataset)["x_train"])
    assert y.tolist() == (np.arange(4) % glt.DATASETS[dataset].classes).tolist()
    assert x_test.shape[1:] == x.shape[1:] and y_test.tolist() == [0, 1] and y_test.dtype == np.int64


def jpegs() -> dict[str, np.ndarray]:
    """CIFAR-10's file of JPEGs."""
    found = {}
    for part in ("train", "test"):
        x, y = pictures("cifar10")[f"x_{part}"], pictures("cifar10")[f"y_{part}"]
        files = [tf.io.encode_jpeg(image, quality=100).numpy() for image in x]
        found |= {f"jpeg_{part}": np.frombuffer(b"".join(files), np.uint8), f"y_{part}": y.ravel(),
                  f"off_{part}": np.cumsum([0, *map(len, files)])}
    return found


def test_jpeg_files_are_read(monkeypatch, tmp_path):
    np.savez(tmp_path / "cifar10_jpeg.npz", **jpegs())
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    x, y, x_test, y_test = cnv.data()
    assert np.abs(x * 256 - pictures("cifar10")["x_train"]).max() <= 4
    assert y.tolist() == [0, 1, 2, 3] and x_test.shape == (2, 32, 32, 3) and y_test.tolist() == [0, 1]


@pytest.mark.files
def test_cifar10_as_jpeg(shared, monkeypatch):
    monkeypatch.setenv("FLOW_DATA", str(shared("data/cifar10/cifar10_jpeg.npz").parent))
    x, y, x_test, y_test = cnv.data()
    assert x.shape == (50_000, 32, 32, 3) and np.bincount(y).tolist() == 10 * [5000]
    assert x_test.shape == (10_000, 32, 32, 3) and np.bincount(y_test).tolist() == 10 * [1000]
    # The channel means of CIFAR-10 itself are 125.3, 123.0 and 113.9.
    assert np.abs(x.mean(axis=(0, 1, 2), dtype=np.float64) * 256 - [125.3, 123.0, 113.9]).max() < .2


C10, JPEGS = pictures("cifar10"), jpegs()
BIG = tf.io.encode_jpeg(np.zeros((33, 32, 3), np.uint8)).numpy()
# what is wrong: (file, its arrays but for those that are wrong, message)
DAMAGED_IMAGES = {
    "flat": ("cifar10", C10, {"x_train": C10["x_train"].reshape(4, -1)}, r"'x_train' is \(4, 3072\) uint8; needs"),
    "channels first": ("cifar10", C10, {"x_test": C10["x_test"].transpose(0, 3, 1, 2)},
                       r"'x_test' is \(2, 3, 32, 32\) uint8; needs \('n', 32, 32, 3\) uint8"),
    "float": ("cifar10", C10, {"x_train": C10["x_train"] / 255}, "float64; needs .* uint8"),
    "small": ("vww", C10, {}, r"\(4, 32, 32, 3\) uint8; needs \('n', 96, 96, 3\)"),
    "labels from 1": ("cifar10", C10, {"y_train": np.arange(7, 11)}, "labels from 7 to 10; needs 0 to 9"),
    "no labels": ("cifar100", {"x_train": C10["x_train"]}, {}, "cannot read array 'y_train'"),
    "offsets": ("cifar10_jpeg", JPEGS, {"off_test": JPEGS["off_test"] + 1}, "do not divide jpeg_test"),
    "no offset": ("cifar10_jpeg", JPEGS, {"off_train": JPEGS["off_train"][1:]}, "do not divide jpeg_train"),
    "no JPEG": ("cifar10_jpeg", JPEGS, {"jpeg_train": JPEGS["jpeg_train"] // 2}, "train image 0 is no JPEG"),
    "33x32": ("cifar10_jpeg", JPEGS, {"jpeg_test": np.frombuffer(2 * BIG, np.uint8),
                                      "off_test": len(BIG) * np.arange(3)},
                                      "test image 0 is 33x32; needs 32x32"),
}


@pytest.mark.parametrize("case", DAMAGED_IMAGES)
def test_damaged_image_files_are_refused(case, monkeypatch, tmp_path):
    file, arrays, wrong, message = DAMAGED_IMAGES[case]
    np.savez(tmp_path / f"{file}.npz", **{**arrays, **wrong})
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=message):
        glt.data(file.removesuffix("_jpeg"))


def test_missing_images_say_where_they_should_be(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"no .*stl10\.npz; put STL-10 there as stl10\.npz \(x_train, y_train"):
        glt.data("stl10")
    monkeypatch.delenv("FLOW_DATA")
    with pytest.raises(InputError, match=r"visual wake words has no loader; set FLOW_DATA to a folder with vww\.npz: "
                                         r"x_train, x_test \(n, 96, 96, 3\) uint8, .* integers from 0 to 1$"):
        glt.data("vww")
    monkeypatch.setattr(keras.datasets.cifar100, "load_data", lambda: (
        tuple(pictures("cifar100").values())[:2], tuple(pictures("cifar100").values())[2:]))
    assert [len(a) for a in glt.data("cifar100")] == [4, 4, 2, 2]
