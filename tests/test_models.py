from __future__ import annotations

import numpy as np
import pytest

import flow

import flow.train  # isort: skip

from flow.models import digits, jets, mnist
from flow.models.common import KINDS

from flow.errors import InputError
from flow.train.fit import accuracy, fit
from flow.train.reference import check_equal


@pytest.mark.training
@pytest.mark.hls
def test_digits_trains_and_is_exact(simulated):
    arrays, model = digits.data(), digits.build()
    epochs = []
    score = fit(model, arrays, **{**digits.TRAINING, "epochs": 15}, report=lambda e, n, logs: epochs.append((e, n)))
    assert epochs == [(k + 1, 15) for k in range(15)] and score > 0.85
    graph = flow.lower(model, digits.INPUT_TYPE)
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
    graph = flow.lower(model, mnist.INPUT_TYPE)
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
    graph = flow.lower(model, network.INPUT_TYPE)
    assert set(check_equal(graph, model, x)) >= {"act1", "act2", "act3"}


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
    check_equal(flow.lower(model, jets.INPUT_TYPE), model, arrays[2])


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
    monkeypatch.setattr("tf_keras.datasets.mnist.load_data", fail)
    with pytest.raises(InputError, match=r"cannot download MNIST \(no network\); set FLOW_DATA to a folder with mnist"):
        mnist.data()


def test_what_was_downloaded_is_read(monkeypatch):
    x, y, x_test, y_test = MNIST.values()
    monkeypatch.delenv("FLOW_DATA", raising=False)
    monkeypatch.setattr("tf_keras.datasets.mnist.load_data", lambda: ((x, y), (x_test, y_test)))
    assert [a.shape for a in mnist.data()] == [(4, 784), (4,), (2, 784), (2,)]
