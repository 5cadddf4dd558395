"""What the training methods are worth on small networks: a table for each claim, with 3 seeds and paired differences.

    FLOW_DATA=folder/with/mnist.npz+cifar10.npz python scripts/study_methods.py [--claims thermometers ...] [--seeds 3]
                                                [--out study.json] [--table]

Every run is kept in `--out` (JSON), from which an interrupted study goes on. `--table` prints the tables of what is
there. Accuracy is that of the network with its quantizers as they are in hardware, on all test images. Differences are
to the row named, or else to the claim's first, with the same seed. Numbers are mean and standard deviation over the
seeds. One run of each row is lowered and compared with Keras on 200 images.
MNIST has 20,000 training images here; CIFAR-10 has 10,000, and 5,000 test images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import bnnflow as bf

import bnnflow.train  # isort: skip
from qkeras import QActivation, QConv2D, QDense, binary

from bnnflow import train
from bnnflow.files import whole_file
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.generation import keras
from bnnflow.models import glt, mnist
from bnnflow.recipe import Recipe
from bnnflow.train import AlphaBeta, Binarize, Binary, KernelCodebook, LearnedThermometer, Masked, SubBit
from bnnflow.train.alphabeta import ones_share
from bnnflow.train.fit import Arrays, Training, accuracy
from bnnflow.train.prune import zeros_of
from bnnflow.train.residual import prune_blocks, weight_bits


@dataclass(frozen=True)
class Row:
    """One network of a claim: `build(arrays)` makes it, `recipe` trains it, `then(model, arrays, recipe)` goes on.

    It is compared with the row whose label is `against`, or with the claim's first.
    """

    label: str
    build: Callable[[Arrays], keras.Model]
    recipe: Mapping[str, Any] = field(default_factory=dict)
    then: Callable[[keras.Model, Arrays, Recipe], keras.Model] = lambda model, arrays, recipe: model
    against: str = ""


@dataclass(frozen=True)
class Claim:
    """Rows to compare: all are trained on `data` with the `recipe`, which a row may change."""

    title: str
    data: Callable[[], Arrays]
    recipe: Mapping[str, Any]
    rows: tuple[Row, ...]


@cache
def mnist_part() -> Arrays:
    x, y, *test = mnist.data()
    return x[:20000], y[:20000], *test


@cache
def cifar10_part() -> Arrays:
    x, y, x_test, y_test = glt.data("cifar10")
    return x[:10000], y[:10000], x_test[:5000], y_test[:5000]


def dense(h: Any, width: int, quantizer: Any, activation: Any = "binary_tanh") -> Any:
    """A dense layer, batch norm, a binary activation."""
    h = keras.layers.BatchNormalization(momentum=0.9)(QDense(width, kernel_quantizer=quantizer, use_bias=False)(h))
    return QActivation(activation)(h) if isinstance(activation, str) else activation(h)


def head(h: Any) -> Any:
    """A dense layer and batch norm, which give ten logits."""
    h = QDense(10, kernel_quantizer=binary(alpha=1), use_bias=False)(h)
    return keras.layers.BatchNormalization(momentum=0.9)(h)


def thermometer(planes: int, start: str, learned: bool) -> Callable[[Arrays], keras.Model]:
    """CIFAR-10: thermometer, two strided binary convolutions, one hidden dense layer."""

    def build(arrays: Arrays) -> keras.Model:
        x = keras.Input((32, 32, 3))
        layer = LearnedThermometer(planes, per_channel=True, learned=learned)
        h = layer(x)
        layer.adapt(arrays[0][:1000], start)
        for filters in (32, 64):
            h = QConv2D(filters, 3, strides=2, padding="same", kernel_quantizer=binary(alpha=1), use_bias=False)(h)
            h = QActivation("binary_tanh")(keras.layers.BatchNormalization(momentum=0.9)(h))
        h = dense(keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(h)), 128, binary(alpha=1))
        return keras.Model(x, head(h))

    return build


def mlp(quantizer: Callable[[], Any], activation: Callable[[], Any] = lambda: "binary_tanh"
        ) -> Callable[[Arrays], keras.Model]:
    """MNIST: a thermometer of one plane, two hidden layers of 256 with the quantizer."""

    def build(arrays: Arrays) -> keras.Model:
        x = keras.Input((784,))
        h = LearnedThermometer(1, learned=False)(x)
        for _ in range(2):
            h = dense(h, 256, quantizer(), activation())
        return keras.Model(x, head(h))

    return build


def convolutions(quantizer: Callable[[], Any]) -> Callable[[Arrays], keras.Model]:
    """CIFAR-10: thermometer, a binary stem, then three 3x3 convolutions with the quantizer."""

    def build(arrays: Arrays) -> keras.Model:
        x = keras.Input((32, 32, 3))
        h = LearnedThermometer(4, per_channel=True)(x)
        h = QConv2D(32, 3, strides=2, padding="same", kernel_quantizer=binary(alpha=1), use_bias=False)(h)
        h = QActivation("binary_tanh")(keras.layers.BatchNormalization(momentum=0.9)(h))
        for k, filters in enumerate((64, 64, 128)):
            h = QConv2D(filters, 3, padding="same", kernel_quantizer=quantizer(), use_bias=False)(h)
            h = QActivation("binary_tanh")(keras.layers.BatchNormalization(momentum=0.9)(h))
            h = keras.layers.MaxPooling2D(2)(h) if k % 2 == 0 else h
        return keras.Model(x, head(keras.layers.GlobalAveragePooling2D()(h)))

    return build


def residual(arrays: Arrays) -> keras.Model:
    """CIFAR-10: a narrow network of models/glt.py, five residual blocks."""
    return glt.build("cifar10", planes=4, width=32, groups=2)


def blocks_left(share: float, distil: bool) -> Callable[[keras.Model, Arrays, Recipe], keras.Model]:
    """Remove residual blocks until this share of the weights' bits is left, with 3 epochs of tuning after each."""

    def then(model: keras.Model, arrays: Arrays, recipe: Recipe) -> keras.Model:
        tuning = replace(recipe, epochs=3, learning_rate=recipe.learning_rate / 2,
                         distill={"mix": 0.5, "temperature": 2.0} if distil else None)
        x, y = (part[-1000:] for part in arrays[:2])

        def loss(one: keras.Model) -> float:
            logits = one.predict(x, batch_size=500, verbose=0).astype(np.float64)
            return float(np.mean(np.log(np.exp(logits - logits[np.arange(len(y)), y][:, None]).sum(axis=1))))

        return prune_blocks(model, int(share * weight_bits(model)), loss,
                            lambda one: trained(one, arrays, tuning, model if distil else None))

    return then


def zeros_rows() -> tuple[Row, ...]:
    """Masked +-1 and {alpha, beta}, with the same shares of zeros."""
    rows = [Row("no zeros, +-1", mlp(lambda: Binary("ste")))]
    for zeros in (0.8, 0.95, 0.98):
        rows.append(Row(f"{zeros:.0%} zeros, masked +-1", mlp(lambda: Masked(Binary("ste"))),
                        {"prune": {"method": "magnitude", "zeros": zeros}}))
        rows.append(Row(f"{zeros:.0%} zeros, {{alpha, beta}}", mlp(lambda: AlphaBeta("ede")),
                        {"budget": {"target": 1 - zeros, "gamma": 0.8}}, against=f"{zeros:.0%} zeros, masked +-1"))
    return tuple(rows)


CLAIMS = {
    "thermometers": Claim(
        "Learned against fixed thermometers (CIFAR-10 part, two convolutions, 6 epochs)", cifar10_part,
        {"epochs": 6, "batch_size": 100, "learning_rate": 5e-3},
        tuple(Row(f"{planes} planes, {name}", thermometer(planes, start, learned), against=f"{planes} planes, uniform")
              for planes in (1, 2, 4, 8) for name, start, learned in (
                  ("uniform", "uniform", False), ("gaussian", "gaussian", False), ("quantile", "quantile", False),
                  ("learned", "quantile", True)))),
    "zeros": Claim("{alpha, beta} against masked +-1 (MNIST part, 784-256-256-10, 20 epochs)", mnist_part,
                   {"epochs": 20, "batch_size": 100, "learning_rate": 5e-3}, zeros_rows()),
    "codebooks": Claim(
        "n codewords against all 512 (CIFAR-10 part, four convolutions, 8 epochs)", cifar10_part,
        {"epochs": 8, "batch_size": 100, "learning_rate": 5e-3},
        (Row("all, binary", convolutions(lambda: Binary("ste"))),
         *(Row(f"n = {n}", convolutions(lambda n=n: KernelCodebook(n))) for n in (16, 32, 128)),
         Row("n = 32, sub-bit table", convolutions(lambda: SubBit(32))))),
    "blocks": Claim(
        "Residual blocks removed to 60 % of the bits, with and without distillation (CIFAR-10 part, 8 epochs, 3 after "
        "each block)", cifar10_part, {"epochs": 8, "batch_size": 100, "learning_rate": 3e-3},
        (Row("all blocks", residual), Row("pruned", residual, then=blocks_left(0.6, False)),
         Row("pruned, distilled from the whole", residual, then=blocks_left(0.6, True)))),
    "weight sets": Claim(
        "Other sets of weights (MNIST part, 784-256-256-10, 20 epochs)", mnist_part,
        {"epochs": 20, "batch_size": 100, "learning_rate": 5e-3},
        tuple(Row(type(make()).__name__, mlp(make)) for make in (
            Binary, train.AdaBin, train.SiMaN, train.RBNN, train.BiPer, train.SignedBinary, train.TWN, train.TTQ,
            lambda: train.MultiBranch(2)))),
    "gradients": Claim(
        "BNN++ against STE and EDE, weights and activations (MNIST part, 784-256-256-10, 20 epochs)", mnist_part,
        {"epochs": 20, "batch_size": 100, "learning_rate": 5e-3},
        tuple(Row(name, mlp(lambda name=name: Binary(name), lambda name=name: Binarize(name)))
              for name in ("ste", "ede", "bnn++", "bnn+", "bireal", "reste", "pc"))),
}


def run(claim: Claim, row: Row, seed: int, check: bool) -> dict[str, Any]:
    """The results of one training: accuracy (0..1), bits of weights, seconds, share of zeros, codes equal to Keras."""
    arrays, start = claim.data(), time.time()
    keras.backend.clear_session()  # what earlier runs left in memory
    keras.utils.set_random_seed(seed)
    recipe = Recipe(**{**claim.recipe, **row.recipe, "seed": seed})
    model = row.build(arrays)
    trained(model, arrays, recipe)
    model = row.then(model, arrays, recipe)
    outputs = model.predict(arrays[2], batch_size=500, verbose=0)
    found: dict[str, Any] = {"accuracy": accuracy(outputs, arrays[3]), "bits": weight_bits(model),
                             "seconds": time.time() - start}
    if "prune" in row.recipe:
        found["zeros"] = zeros_of(model)
    if "budget" in row.recipe:
        found["zeros"] = 1 - float(ones_share(model))
    if check:
        graph = bf.lower(model, mnist.INPUT_TYPE)
        found["codes"] = sum(check_equal(graph, model, arrays[2][:200]).values())
    return found


def trained(model: keras.Model, arrays: Arrays, recipe: Recipe, teacher: keras.Model | None = None) -> None:
    """Train a model in place, to the end, where its quantizers are as they are in hardware."""
    training = Training(model, arrays, recipe, teacher)
    while not training.done:
        training.advance()
    training.finish()


def spread(values: np.ndarray, sign: str) -> str:
    """Mean and standard deviation."""
    return f"{values.mean():{sign}.4f} ± {values.std(ddof=1) if len(values) > 1 else 0:.4f}"


def table(name: str, runs: Mapping[str, Any]) -> str:
    """The claim's table in Markdown."""
    claim = CLAIMS[name]
    head = "network", "accuracy", "difference to", "bits of weights", "zeros", "codes equal to Keras", "s a run"
    lines = [f"{claim.title}:", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in claim.rows:
        found, base = runs.get(f"{name}/{row.label}", {}), row.against or claim.rows[0].label
        if found:
            difference = "" if base == row.label else paired(found, base, runs.get(f"{name}/{base}", {}))
            lines.append(f"| {' | '.join(cells(row.label, found, difference))} |")
    return "\n".join(lines)


def paired(found: Mapping[str, Any], base: str, bases: Mapping[str, Any]) -> str:
    """The difference of accuracy to the row `base`, over the seeds that both have."""
    apart = np.array([r["accuracy"] - bases[seed]["accuracy"] for seed, r in found.items() if seed in bases])
    return f"{spread(apart, '+')} ({base})" if len(apart) else ""


def cells(label: str, found: Mapping[str, Any], difference: str) -> list[str]:
    """The row of a network, from its runs by seed."""
    runs = list(found.values())
    zeros = [run["zeros"] for run in runs if "zeros" in run]
    return [label, spread(np.array([run["accuracy"] for run in runs]), ""), difference, f"{runs[0]['bits']:,}",
            f"{np.mean(zeros):.1%}" if zeros else "", f"{sum(run.get('codes', 0) for run in runs):,}",
            f"{np.mean([run['seconds'] for run in runs]):.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", nargs="+", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("study.json"))
    parser.add_argument("--table", action="store_true", help="run nothing")
    args = parser.parse_args()
    runs: dict[str, dict[str, Any]] = json.loads(args.out.read_text()) if args.out.exists() else {}
    for name in args.claims:
        for seed in range(args.seeds):
            for row in CLAIMS[name].rows:
                done = runs.setdefault(f"{name}/{row.label}", {})
                if args.table or str(seed) in done:
                    continue
                done[str(seed)] = run(CLAIMS[name], row, seed, check=seed == 0)
                print(f"{name}/{row.label}, seed {seed}: {done[str(seed)]}", flush=True)
                with whole_file(args.out) as path:
                    path.write_text(json.dumps(runs, indent=1))
        print(table(name, runs), "\n", flush=True)


if __name__ == "__main__":
    main()
