"""Train networks, convert them, and prove that Keras, graph and C simulation are equal on their test images.

    FLOW_DATA=folder/with/mnist.npz python scripts/exact.py mnist [--kinds binary ternary ...] [--planes 0 4]
    FLOW_DATA=folder/with/cifar10.npz python scripts/exact.py cifar10 [--width 64] [--groups 2] [--planes 8]
                                       each with [--epochs N] [--images N] [--out FOLDER]

mnist is 784-128-128-128-10 with every kind of weights, with and without a thermometer; cifar10 is the network of
models/glt.py in io_stream. Prints one row a network: the accuracies of Keras, graph and C simulation on the first
`--images` test images, how many codes were compared with Keras, and seconds. Any difference raises. A network that
FOLDER holds already is not trained again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import bnnflow as bf
from bnnflow.frontends.keras.reading import read_model
from bnnflow.frontends.keras.reference import check_equal
from bnnflow.models import glt, mnist
from bnnflow.train.fit import Arrays, accuracy, fit


def mnist_networks(args: argparse.Namespace) -> Iterator[tuple[str, Any, str]]:
    """(label, network, io_type) of every kind and number of planes."""
    for kind, planes in itertools.product(args.kinds, args.planes):
        label = f"{kind}, thermometer of {planes} planes" if planes else f"{kind}, pixels"
        yield label, mnist.build(kind, planes), "io_parallel"


def cifar10_networks(args: argparse.Namespace) -> Iterator[tuple[str, Any, str]]:
    """(label, network, io_type) of the one network."""
    network = glt.build("cifar10", args.planes, args.width, args.groups)
    yield f"GLT, {glt.weight_bits(network):,} weights, {args.planes} planes", network, "io_stream"


def row(label: str, network: Any, io_type: str, arrays: Arrays, training: dict[str, Any], input_type: str,
        out: Path) -> str:
    """Train, save, lower, build and simulate a network, for its row of the table."""
    name = "".join(c if c.isalnum() else "_" for c in label)
    times = [time.time()]
    trained = out / f"{name}.h5"
    if trained.exists():
        network = read_model(trained)
    else:
        fit(network, arrays, **training, report=lambda epoch, of, logs: print(
            f"{label}: epoch {epoch}/{of}, loss {logs['loss']:.4f}, accuracy {logs['accuracy']:.4f}, "
            f"{time.time() - times[0]:.0f} s", file=sys.stderr, flush=True))
        network.save(trained)
    x, y = arrays[2:]
    keras_accuracy = accuracy(network.predict(x, batch_size=500, verbose=0), y)
    times.append(time.time())
    graph = bf.lower(network, input_type)
    codes = graph.encode(x)
    batches = np.array_split(x, -(-len(x) // 50))  # an image's codes of all nodes are large
    compared = sum(sum(check_equal(graph, network, batch).values()) for batch in batches)
    ours = bf.run(graph, codes)
    times.append(time.time())
    project = out / f"{name}_prj"
    bf.build(graph, bf.BuildConfig(output_dir=project, io_type=io_type))
    times.append(time.time())
    simulated = bf.simulate(project, codes)
    times.append(time.time())
    if not np.array_equal(simulated, ours):
        raise SystemExit(f"{label}: C simulation and graph differ at {np.sum(simulated != ours)} outputs")
    scores = keras_accuracy, accuracy(graph.decode(ours), y), accuracy(graph.decode(simulated), y)
    cells = [label, *(f"{score:.4f}" for score in scores), f"{compared:,} codes, 0 differ",
             f"{len(codes):,} images, 0 differ", " / ".join(f"{b - a:.0f}" for a, b in zip(times, times[1:]))]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    data_sets = parser.add_subparsers(dest="data_set", required=True)
    of_mnist, of_cifar10 = (data_sets.add_parser(name) for name in ("mnist", "cifar10"))
    of_mnist.set_defaults(networks=mnist_networks, model=mnist)
    of_mnist.add_argument("--kinds", nargs="+", choices=mnist.KINDS, default=list(mnist.KINDS))
    of_mnist.add_argument("--planes", type=int, nargs="+", default=[0, 4])
    of_cifar10.set_defaults(networks=cifar10_networks, model=glt)
    for name, default in {"planes": 8, "width": 64, "groups": 2}.items():
        of_cifar10.add_argument(f"--{name}", type=int, default=default)
    for one in (of_mnist, of_cifar10):
        one.add_argument("--epochs", type=int)
        one.add_argument("--images", type=int, help="simulated and compared (all)")
        one.add_argument("--out", type=Path)
    args = parser.parse_args()
    x, y, x_test, y_test = args.model.data()
    arrays = x, y, x_test[:args.images], y_test[:args.images]
    training = {**args.model.TRAINING, **({"epochs": args.epochs} if args.epochs else {})}
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        print("| network | Keras | graph | C-sim | graph = Keras | C-sim = graph "
              "| train / lower / build / simulate, s |")
        print("|---" * 7 + "|")
        for label, network, io_type in args.networks(args):
            print(row(label, network, io_type, arrays, training, args.model.INPUT_TYPE, out), flush=True)


if __name__ == "__main__":
    main()
