"""Time and memory of big networks: lowering, writing, g++, and images through the C simulation.

    python scripts/bench_scale.py [--networks cnv glt96 conv residual16 ...] [--images 100] [--vectors 0] [--out FOLDER]
    python scripts/bench_scale.py --slopes width | image

Prints one row a network, all with random weights and batch norms of both signs: CNV w1a1 at 32x32x3 and the thermometer
network at 96x96x3 in io_stream, a binary 3x3x64x64 convolution on 8x8 in io_parallel, residual networks and a DeepSets
network with 8-bit activations.

"write" includes the vectors of the test bench, the default ones, or random ones with --vectors N, "compile" the first
sample. The time for the images is that of `bnnflow.simulate` as a whole: vectors, graph, program, comparison; "run" is
that of the graph alone. Every output of the images is compared with the graph, and on a few images every activation of
the graph with Keras; a difference raises. g++ runs from a process without TensorFlow, because the peak memory of a
child is at least that of its parent.

`--slopes` measures one network at several sizes, a dense layer of N inputs and outputs or two convolutions over NxN
pixels, and says with which power of its weights and pixels each time grows, where this takes over a second.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import bnnflow as bf
from bnnflow.ir import Weights

NETWORKS: dict[str, tuple[str, str, str, dict[str, Any]]] = {  # name: (title, input type, io_type, options of nodes)
    "cnv": ("CNV w1a1, 32x32x3", "ufixed<8,0>", "io_stream", {"conv6": {"reuse_factor": 16}}),
    "glt96": ("thermometer network, 96x96x3", "ufixed<8,0>", "io_stream", {}),
    "conv": ("one 3x3x64x64 layer on 8x8", "fixed<2,2>", "io_parallel", {}),
    "residual16": ("8-bit residual, 16x35x1", "fixed<8,3>", "io_stream", {}),
    "residual32": ("8-bit residual, 32x32x3", "fixed<8,3>", "io_stream", {}),
    "residual96": ("8-bit residual, 96x96x3", "fixed<8,3>", "io_stream",
                   {"pool0": {"reuse_factor": 64}, "pool1": {"reuse_factor": 64}}),
    "deepsets": ("8-bit DeepSets, 30 particles of 16, 10,277 weights", "fixed<8,3>", "io_parallel", {}),
}
COMPARED = 4  # images that Keras sees
SIZES = {"width": (64, 128, 256, 512, 1024, 2048, 4096), "image": (16, 32, 64, 128, 224)}
NETWORKS |= {f"width{n}": (f"dense layer {n}x{n}", "fixed<2,2>", "io_stream", {"d": {"pe": 8, "simd": 64}})
             for n in SIZES["width"]}
NETWORKS |= {f"image{n}": (f"two convolutions, {n}x{n}x3", "ufixed<8,0>", "io_stream", {}) for n in SIZES["image"]}
TIMES = ("lower s", "write s", "compile s", "run s", "simulate s")


def network(name: str) -> Any:
    """A Keras model with random weights and batch norms of both signs."""
    from bnnflow.models import cnv, glt

    build = {"cnv": cnv.build, "glt96": lambda: glt.build("stl10"), "conv": _layer, "deepsets": _deepsets,
             "residual16": lambda: _residual((16, 35, 1)), "residual32": lambda: _residual((32, 32, 3)),
             "residual96": lambda: _residual((96, 96, 3)), **{f"width{n}": partial(_dense, n) for n in SIZES["width"]},
             **{f"image{n}": partial(_image, n) for n in SIZES["image"]}}
    return randomised(build[name]())


def randomised(model: Any) -> Any:
    """The model, with batch norms of both signs."""
    from bnnflow.generation import keras

    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([rng.normal(0, 1, n), rng.normal(0, 1, n), rng.normal(0, 3, n), rng.uniform(1, 90, n)])
    return model


def _layer() -> Any:
    """An input of 8x8x64 that is binarised, a `same` convolution of 64 filters, batch norm, a binary activation."""
    from qkeras import QActivation, QConv2D, binary

    from bnnflow.generation import keras

    x = keras.Input((8, 8, 64))
    h = QActivation("binary(alpha=1)")(x)
    h = QConv2D(64, 3, padding="same", kernel_quantizer=binary(alpha=1), use_bias=False)(h)
    return keras.Model(x, QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h)))


def _dense(n: int) -> Any:
    """n binary inputs, a binary layer of n outputs, batch norm, a binary activation."""
    from qkeras import QActivation, QDense, binary

    from bnnflow.generation import keras

    x = keras.Input((n,))
    h = QActivation("binary(alpha=1)")(x)
    h = QDense(n, kernel_quantizer=binary(alpha=1), use_bias=False, name="d")(h)
    return keras.Model(x, QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h)))


def _image(n: int) -> Any:
    """n x n pixels of 8 bits, two binary convolutions of 32 filters, a pool over all that is left, 10 logits."""
    from qkeras import QActivation, QConv2D, QDense, binary

    from bnnflow.generation import keras

    h = x = keras.Input((n, n, 3))
    for _ in range(2):
        h = QConv2D(32, 3, kernel_quantizer=binary(alpha=1), use_bias=False)(h)
        h = QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h))
    h = keras.layers.Flatten()(keras.layers.MaxPooling2D(n - 4)(h))
    return keras.Model(x, QDense(10, kernel_quantizer=binary(alpha=1), use_bias=False)(h))


def _bits() -> dict[str, Any]:
    """6-bit weights and biases."""
    from qkeras import quantized_bits

    return {"kernel_quantizer": quantized_bits(6, 0, alpha=1), "bias_quantizer": quantized_bits(6, 0, alpha=1)}


def _residual(shape: tuple[int, int, int]) -> Any:
    """A convolution, a depthwise one, their sum, averages of both, and a dense layer; 8-bit activations."""
    from qkeras import QActivation, QConv2D, QDense, QDepthwiseConv2D

    from bnnflow.generation import keras

    def relu(name: str) -> Any:
        return QActivation("quantized_relu(8,2)", name=name)

    x = keras.Input(shape)
    bits = _bits()
    h = relu("relu0")(QConv2D(8, 3, padding="same", **bits)(x))
    depthwise = QDepthwiseConv2D(3, padding="same", depthwise_quantizer=bits["kernel_quantizer"], use_bias=False)
    both = relu("relu2")(keras.layers.Add()([h, relu("relu1")(depthwise(h))]))
    means = [QActivation("quantized_bits(8,2,alpha=1)")(keras.layers.GlobalAveragePooling2D(name=f"pool{k}")(y))
             for k, y in enumerate((h, both))]
    return keras.Model(x, QDense(4, **bits)(keras.layers.Concatenate()(means)))


def _deepsets() -> Any:
    """Dense layers for each particle, their mean, and dense layers behind batch norms; 8-bit activations."""
    from qkeras import QActivation, QDense

    from bnnflow.generation import keras

    h = x = keras.Input((30, 16))
    for n in (64, 32):
        h = QActivation("quantized_relu(8,2)")(QDense(n, **_bits())(h))
    h = keras.layers.GlobalAveragePooling1D()(h)
    for n in (64, 64):
        h = QActivation("quantized_relu(8,2)")(keras.layers.BatchNormalization()(QDense(n, **_bits())(h)))
    return keras.Model(x, QDense(5, **_bits())(h))


def write(name: str, project: Path, vectors: int) -> tuple[float, float, int]:
    """(seconds to lower, seconds to write, codes compared with Keras) of a network that is written to `project`."""
    import bnnflow.train  # noqa: F401  # isort: skip
    from bnnflow.frontends.keras.reference import check_equal

    _, input_type, io_type, layers = NETWORKS[name]
    model = network(name)
    start = time.time()
    graph = bf.lower(model, input_type)
    lowered = time.time()
    given = random_codes(graph, vectors, seed=1) if vectors else None
    bf.build(graph, bf.BuildConfig(output_dir=project, io_type=io_type, layers=layers), given)
    written = time.time()
    x = random_codes(graph, COMPARED, seed=2) * float(graph.input.domain.scale)
    return lowered - start, written - lowered, sum(check_equal(graph, model, x).values())


def random_codes(graph: Any, count: int, seed: int) -> Any:
    d = graph.input.domain
    return np.random.default_rng(seed).integers(d.lo, d.hi, (count, *graph.input.shape), endpoint=True)


def simulate(project: Path, images: int) -> tuple[float, float, float, float, int]:
    """(Seconds to compile and run a sample, peak of the compiler in MB, seconds of the graph on the images, and of
    their simulation, outputs compared)."""
    from bnnflow.backends.project import Project

    os.environ["XDG_CACHE_HOME"] = str(project.parent)  # a kept simulation would not be compiled
    graph = Project.open(project).graph()
    bf.run(graph, random_codes(graph, images, seed=3))  # compiles the engine
    start = time.time()
    bf.simulate(project, random_codes(graph, 1, seed=3))
    compiled, peak = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    codes = random_codes(graph, images, seed=4)
    start = time.time()
    bf.run(graph, codes)
    ran = time.time()
    outputs = bf.simulate(project, codes)
    return compiled, peak, ran - start, time.time() - ran, outputs.size


@dataclass
class Row:
    """What was measured of a network: `seconds` as in TIMES; `size` is its weights and the elements of its input."""

    name: str
    seconds: tuple[float, ...]
    peak: float
    compared: int
    outputs: int
    size: int

    @classmethod
    def of(cls, name: str, images: int, vectors: int, out: Path) -> Row:
        def apart(function: Any, *arguments: Any) -> Any:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                return pool.submit(function, *arguments).result()

        project = out / name
        lowered, written, compared = apart(write, name, project, vectors)
        compiled, peak, run, whole, outputs = apart(simulate, project, images)
        graph = bf.load(project / "flow.npz")
        size = graph.input.size + sum(node.params.levels.size for node in graph if isinstance(node.params, Weights))
        return cls(name, (lowered, written, compiled, run, whole), peak, compared, outputs, size)

    def __str__(self) -> str:
        title, _, io_type, _ = NETWORKS[self.name]
        cells = [f"{title}, {io_type}", f"{self.size:,}", *(f"{second:.2f}" for second in self.seconds),
                 f"{self.peak:.0f}", f"{self.outputs:,} outputs, 0 differ; {self.compared:,} codes as Keras, 0 differ"]
        return f"| {' | '.join(cells)} |"


def slope(rows: list[Row], k: int) -> str:
    """The power of the size with which time k grows, over the sizes at which it takes over a second."""
    taken = [row for row in rows if row.seconds[k] > 1]
    if len(taken) < 2:
        return "below 1 s"
    return f"{np.polyfit(np.log([r.size for r in taken]), np.log([r.seconds[k] for r in taken]), 1)[0]:.2f}"


def main() -> None:
    known = [name for name in NETWORKS if not name.startswith(tuple(SIZES))]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=known, default=known)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--vectors", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slopes", choices=SIZES)
    args = parser.parse_args()
    names = [f"{args.slopes}{n}" for n in SIZES[args.slopes]] if args.slopes else args.networks
    with tempfile.TemporaryDirectory() as scratch:
        out = (args.out or Path(scratch)).absolute()
        print(f"| network | weights and inputs | {' | '.join(TIMES)} | compiler's peak MB | outputs of {args.images} "
              "images |")
        print("|---" * (4 + len(TIMES)) + "|")
        rows = []
        for name in names:
            rows.append(Row.of(name, args.images, args.vectors, out))
            print(rows[-1], flush=True)
        if args.slopes:
            print(f"| slope | | {' | '.join(slope(rows, k) for k in range(len(TIMES)))} | | |")


if __name__ == "__main__":
    main()
