"""Train MNIST 784-128-128-128-10 of every kind, with and without a thermometer; prove Keras = graph = C simulation.

    FLOW_DATA=folder/with/mnist.npz python scripts/mnist_exact.py [--kinds binary ternary ...] [--planes 0 4]
                                                                  [--epochs 20] [--out FOLDER]

Prints one row a network: accuracies of Keras, graph and C simulation on the 10,000 test images, codes compared with
Keras, and seconds. Any difference raises.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from flow.models import mnist

import flow
from flow.train.fit import accuracy, fit
from flow.train.reference import check_equal


def row(kind: str, planes: int, epochs: int, out: Path) -> str:
    arrays = mnist.data()
    start = time.time()
    model = mnist.build(kind, planes)
    keras_accuracy = fit(model, arrays, **{**mnist.TRAINING, "epochs": epochs})
    trained = time.time()
    model.save(out / f"{kind}{planes}.h5")
    graph = flow.lower(model, mnist.INPUT_TYPE)
    codes = graph.encode(arrays[2])
    ours = graph.decode(flow.run(graph, codes))
    compared = check_equal(graph, model, arrays[2])
    lowered = time.time()
    project = out / f"{kind}{planes}_prj"
    flow.build(graph, flow.BuildConfig(output_dir=project))
    built = time.time()
    simulated = graph.decode(flow.simulate(project, codes))
    done = time.time()
    name = f"thermometer, {planes} planes" if planes else "pixels"
    scores = keras_accuracy, accuracy(ours, arrays[3]), accuracy(simulated, arrays[3])
    seconds = trained - start, lowered - trained, built - lowered, done - built
    cells = [kind, name, *(f"{score:.4f}" for score in scores), f"{sum(compared.values()):,} codes, 0 differ",
             f"{len(codes):,} images, 0 differ", " / ".join(f"{s:.0f}" for s in seconds)]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=mnist.TRAINING["epochs"])
    parser.add_argument("--kinds", nargs="+", choices=mnist.KINDS, default=list(mnist.KINDS))
    parser.add_argument("--planes", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        print("| kind | input | Keras | graph | C-sim | graph = Keras | C-sim = graph "
              "| train / lower / build / simulate, s |")
        print("|---" * 8 + "|")
        for kind, planes in itertools.product(args.kinds, args.planes):
            print(row(kind, planes, args.epochs, out), flush=True)


if __name__ == "__main__":
    main()
