"""What is left for an HLS compiler to schedule, by clang: our kernels, and stock hls4ml's for the same network.

    python scripts/bench_hls_size.py                         # all designs: minutes, and gigabytes for the largest
    python scripts/bench_hls_size.py binary-64x16 mnist      # designs by their names
    python scripts/bench_hls_size.py ternary-64x16 --option strategy=Resource --option reuse_factor=4
    python scripts/bench_hls_size.py cnv --throughput 1000 --functions

Prints one row a design: LLVM instructions in all, what `bf.estimate` says of them before anything is written, those of
the largest function, loops that are left, divisions, reads at an index that is known at run time only, and the
instructions of stock hls4ml's kernels (1.3.0, io_parallel, Latency) for the same Keras model, "-" where it cannot build
that. Weights are random, batch norms have both signs. `--option` is
any option of `bf.BuildConfig`, and replaces those of the design; `--throughput` and `--interval` are goals of
`bf.balanced`. Seconds and peak memory are those of clang.
"""

from __future__ import annotations

import argparse
import ast
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import bench_scale

import bnnflow as bf
from bnnflow.backends.hls.code_size import LIMITS
from bnnflow.backends.project import Project
from bnnflow.toolchains.clang import design_sizes
from bnnflow.toolchains.code_size import CodeSize

STREAM = {"io_type": "io_stream"}


@dataclass(frozen=True)
class Design:
    """A Keras model, the type of its input, options of its build, and whether stock hls4ml can build it, too."""

    model: Callable[[], Any]
    input_type: str = "fixed<16,6>"
    options: dict[str, Any] = field(default_factory=dict)
    stock: bool = False


def dense(*sizes: int, kernel: str = "binary") -> Any:
    """Inputs that are binarised, layers of sums, and a batch norm and a binary activation between them."""
    import bnnflow.train  # noqa: F401  # isort: skip
    import qkeras

    from bnnflow.generation import keras

    keras.utils.set_random_seed(0)
    x = keras.Input(sizes[:1], name="x")
    h = qkeras.QActivation("binary(alpha=1)", name="binarise")(x)
    for k, size in enumerate(sizes[1:]):
        if k:
            h = qkeras.QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h))
        h = qkeras.QDense(size, kernel_quantizer=getattr(qkeras, kernel)(alpha=1), use_bias=False)(h)
    return bench_scale.randomised(keras.Model(x, h))


def digits() -> Any:
    from bnnflow.models import digits

    return bench_scale.randomised(digits.build())


DESIGNS = {
    "binary-64x16": Design(lambda: dense(64, 16), stock=True),
    "ternary-64x16": Design(lambda: dense(64, 16, kernel="ternary"), stock=True),
    "binary-32x32": Design(lambda: dense(32, 32), stock=True),
    "binary-192x64": Design(lambda: dense(192, 64), stock=True),
    "digits": Design(digits, "ufixed<5,1>"),
    "mnist": Design(lambda: dense(784, 128, 128, 128, 10), stock=True),
    "cnv": Design(lambda: bench_scale.network("cnv"), "ufixed<8,0>", STREAM),
    "glt96": Design(lambda: bench_scale.network("glt96"), "ufixed<8,0>", STREAM),
}


def ours(name: str, options: dict[str, Any], goal: dict[str, Any], folder: Path) -> int:
    """Write our project of a design; the instructions that are estimated of it."""
    design = DESIGNS[name]
    graph = bf.lower(design.model(), design.input_type)
    config = bf.BuildConfig(output_dir=folder, **(options or design.options))
    bf.build(graph, config, bench_scale.random_codes(graph, 1, seed=1), **goal)
    return bf.estimate(folder).instructions or 0


def stock(name: str, folder: Path) -> None:
    """Write stock hls4ml's project of a design, as hls4ml does by itself from such a model."""
    from bnnflow.generation import LEGACY

    if not LEGACY:
        raise bf.ToolError("stock hls4ml 1.3 reads QKeras models of the legacy Keras only: set PYTHONPATH to "
                           ".venv/legacy-keras, or give --ours")
    model = DESIGNS[name].model()
    sys.modules["keras"] = sys.modules["tf_keras"]  # hls4ml reads a model by the Keras that it imports
    import hls4ml

    config = hls4ml.utils.config_from_keras_model(model, granularity="name", backend="Vitis")
    hls4ml.converters.convert_from_keras_model(model, hls_config=config, output_dir=str(folder), backend="Vitis",
                                               io_type="io_parallel").write()


def count(folder: Path) -> tuple[tuple[CodeSize, ...], float, float]:
    """(The functions of a project, seconds, peak memory of clang in MB)."""
    start = time.time()
    sizes = design_sizes(Project(folder, "myproject", "Vitis", "", {}))
    return sizes, time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Called in a process of its own: the peak memory of a child is at least that of its parent."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rows(name: str, options: dict[str, Any], goal: dict[str, Any], with_stock: bool, functions: bool) -> Sequence[str]:
    """The row of a design, and with `functions` one of each that is left."""
    with tempfile.TemporaryDirectory() as scratch:
        estimated = apart(ours, name, options, goal, Path(scratch) / "ours")
        sizes, seconds, peak = apart(count, Path(scratch) / "ours")
        theirs = None
        if with_stock and DESIGNS[name].stock:
            apart(stock, name, Path(scratch) / "stock")
            theirs = sum(size.instructions for size in apart(count, Path(scratch) / "stock")[0])
    total, largest = sum(size.instructions for size in sizes), max(sizes, key=lambda size: size.instructions)
    cells = [name, f"{total:,}", f"{estimated:,} ({estimated / total - 1:+.1%})",
             f"{largest.instructions:,} ({largest.name})", *_hard(sizes),
             "-" if theirs is None else f"{theirs:,}", "-" if theirs is None else f"{total / theirs:.2f}",
             f"{seconds:.0f}", f"{peak:,.0f}"]
    each = [["", "", "", f"{size.instructions:,} ({size.name})", *_hard([size]), "", "", "", ""] for size in sizes]
    return [f"| {' | '.join(row)} |" for row in (cells, *(each if functions else ()))]


def _hard(sizes: Sequence[CodeSize]) -> list[str]:
    return [f"{sum(numbers):,}" for numbers in zip(*((s.loops, s.divisions, s.variable_reads) for s in sizes))]


def _option(text: str) -> tuple[str, Any]:
    """An option of a build, NAME=VALUE; numbers and other literals of Python are taken as such."""
    name, _, value = text.partition("=")
    try:
        return name, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return name, value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("designs", nargs="*", default=list(DESIGNS), help=f"some of {', '.join(DESIGNS)}")
    parser.add_argument("--option", action="append", type=_option, default=[], metavar="NAME=VALUE")
    parser.add_argument("--reuse", type=int, help="short for --option strategy=Resource --option reuse_factor=REUSE")
    parser.add_argument("--throughput", type=float, help="images a second")
    parser.add_argument("--interval", type=int, help="cycles from an image to the next")
    parser.add_argument("--ours", action="store_true", help="without stock hls4ml")
    parser.add_argument("--functions", action="store_true", help="a row for every function, too")
    args = parser.parse_args()
    if unknown := [name for name in args.designs if name not in DESIGNS]:
        parser.error(f"no designs {', '.join(unknown)}; there are {', '.join(DESIGNS)}")
    options = dict(args.option)
    if args.reuse:
        options = {"strategy": "Resource", "reuse_factor": args.reuse, **options}
    print(f"Limits: {LIMITS['function']:,} instructions a function, {LIMITS['design']:,} in all.\n")
    goal = {key: value for key in ("throughput", "interval") if (value := getattr(args, key))}
    titles = ("design", "instructions", "estimated", "largest function", "loops", "divisions", "variable reads",
              "stock hls4ml", "ratio", "s", "MB")
    print(f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", sep="\n", flush=True)
    for name in args.designs:
        print(*rows(name, options, goal, not args.ours, args.functions), sep="\n", flush=True)


if __name__ == "__main__":
    main()
