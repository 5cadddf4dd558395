"""Train MNIST 784-128-128-128-10 (binary) with and without a thermometer and prove Keras = graph = C simulation.

    FLOW_DATA=folder/with/mnist.npz python scripts/mnist_exact.py [--epochs 20] [--planes 0 4] [--out FOLDER]

Prints one row a network: accuracies of Keras, graph and C simulation on the 10,000 test images, codes compared with
Keras, and seconds. Any difference raises.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from flow.models import mnist

import flow
from flow.train.fit import accuracy, fit
from flow.train.reference import check_equal


def row(planes: int, epochs: int, out: Path) -> str:
    arrays = mnist.data()
    start = time.time()
    model = mnist.build(planes)
    keras_accuracy = fit(model, arrays, **{**mnist.TRAINING, "epochs": epochs})
    trained = time.time()
    model.save(out / f"mnist{planes}.h5")
    graph = flow.lower(model, mnist.INPUT_TYPE)
    codes = graph.encode(arrays[2])
    ours = graph.decode(flow.run(graph, codes))
    compared = check_equal(graph, model, arrays[2])
    lowered = time.time()
    project = out / f"prj{planes}"
    flow.build(graph, flow.BuildConfig(output_dir=project))
    built = time.time()
    simulated = graph.decode(flow.simulate(project, codes))
    done = time.time()
    name = f"thermometer, {planes} planes" if planes else "pixels"
    return (f"| {name} | {keras_accuracy:.4f} | {accuracy(ours, arrays[3]):.4f} | {accuracy(simulated, arrays[3]):.4f} "
            f"| {sum(compared.values()):,} codes, 0 differ | {codes.shape[0]:,} images, 0 differ "
            f"| {trained - start:.0f} / {lowered - trained:.0f} / {built - lowered:.0f} / {done - built:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=mnist.TRAINING["epochs"])
    parser.add_argument("--planes", type=int, nargs="+", default=[0, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        print("| input | Keras | graph | C-sim | graph = Keras | C-sim = graph | train / lower / build / simulate, s |")
        print("|---|---|---|---|---|---|---|")
        for planes in args.planes:
            print(row(planes, args.epochs, out), flush=True)


if __name__ == "__main__":
    main()
