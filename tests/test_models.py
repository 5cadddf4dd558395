from __future__ import annotations

import numpy as np
import pytest

import flow

import flow.train  # isort: skip

from flow.models import digits, jets, mnist

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
    arrays, model = mnist.data(), mnist.build(planes)
    fit(model, tuple(a[:6000] for a in arrays), epochs=2)
    graph = flow.lower(model, mnist.INPUT_TYPE)
    assert sum(check_equal(graph, model, arrays[2]).values()) >= 10_000 * 384
    codes = graph.encode(arrays[2])[:1000]
    assert np.array_equal(simulated(graph, codes), graph(codes))


@pytest.mark.training
@pytest.mark.parametrize("kind", jets.KINDS)
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


def test_jets_says_what_is_wrong(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"jets.npz; put OpenML 42468 there"):
        jets.data()
    with pytest.raises(InputError, match="kind 'quaternary'; use one of binary, ternary"):
        jets.build("quaternary")


def test_mnist_says_where_its_data_should_be(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOW_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"mnist.npz; put mnist.npz there"):
        mnist.data()
