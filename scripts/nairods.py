"""Are Keras, graph and C simulation equal on the trained QKeras jet taggers of nairods/fastml_bitnet_benchmark?

    python scripts/nairods.py FOLDER [--inputs 10000] [--no-csim]

FOLDER holds the .weights.h5 files (Apache-2.0, commit 561a56d4d135). Inputs are standard normal on the ap_fixed<16,6>
grid. Prints one row a network; any difference raises.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path

import numpy as np

import bnnflow as bf

import bnnflow.train  # isort: skip
import h5py
import qkeras

from bnnflow.frontends.keras.reference import check_equal, keras_activations
from bnnflow.generation import keras


def network(path: Path) -> keras.Model:
    """The model of a file: dense layers with quantized_relu(7) between, binary or ternary kernels and biases."""
    match = re.match(r"(multiclass_|topqg_|)qkeras_(binary|ternary)_([\d_]+)__seed", path.name)
    if match is None:
        raise bf.InputError(f"{path.name}: not one of these networks")
    quantizer = getattr(qkeras, match[2])
    widths = [int(w) for w in match[3].split("_")]
    x = h = keras.Input((16,), name="features")
    dense = []
    for k, width in enumerate([*widths, 5 if match[1] == "multiclass_" else 1]):
        layer = qkeras.QDense(width, kernel_quantizer=quantizer(alpha=1), bias_quantizer=quantizer(alpha=1),
                              name=f"dense{k}")
        h = layer(h)
        dense.append(layer)
        if k < len(widths):
            h = qkeras.QActivation("quantized_relu(7)", name=f"relu{k}")(h)
    for layer, arrays in zip(dense, stored_weights(path), strict=True):
        layer.set_weights(arrays)
    return keras.Model(x, h)


def stored_weights(path: Path) -> list[list[np.ndarray]]:
    """[kernel, bias] of every dense layer in a file, in their order."""
    with h5py.File(path) as file:
        stored = file["_layer_checkpoint_dependencies"]
        names = [n for n in stored if n.startswith("q_dense")]
        names.sort(key=lambda n: int(n.rsplit("_", 1)[1]) if n[-1].isdigit() else 0)
        return [[stored[f"{name}/vars/{i}"][:] for i in (0, 1)] for name in names]


def inputs(count: int, seed: int = 0) -> np.ndarray:
    """Standard normal features as codes of fixed<16,6>."""
    real = np.random.default_rng(seed).normal(0, 1, (count, 16))
    return np.clip(np.rint(real * 1024), -(2**15), 2**15 - 1).astype(np.int64)


def check(path: Path, codes: np.ndarray, project: Path | None) -> dict[str, int]:
    """How many codes, logits and outputs were compared; raises where any differs."""
    model, x = network(path), codes / 1024
    graph = bf.lower(model, "fixed<16,6>")
    counts = {"codes": sum(check_equal(graph, model, x).values())}
    last = model.layers[-1].name
    logits = keras_activations(model, [last], x)[last]
    if not np.array_equal(graph.decode(graph(codes)), logits):
        raise bf.Mismatch(f"{path}: logits differ")
    counts["logits"] = logits.size
    if project is not None:
        bf.build(graph, bf.BuildConfig(output_dir=project))
        counts["csim"] = bf.simulate(project, codes).size
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--inputs", type=int, default=10000)
    parser.add_argument("--no-csim", action="store_true")
    args = parser.parse_args()
    codes = inputs(args.inputs)
    files = sorted(args.folder.rglob("*.weights.h5"))
    print("| network | activation codes, graph = Keras | logits, graph = Keras | outputs, C-sim = graph |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for file in files:
            counts = check(file, codes, None if args.no_csim else Path(scratch) / "prj")
            cells = [f"{counts[k]:,} equal" if k in counts else "not run" for k in ("codes", "logits", "csim")]
            print(f"| {file.parent.name}/{file.name.split('__')[0]} | {' | '.join(cells)} |", flush=True)
    print(f"{len(files)} networks")


if __name__ == "__main__":
    main()
