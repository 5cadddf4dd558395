"""Samples a second of the golden model, by the engine and by NumPy, and of C simulation, beside Keras' own predict.

    python scripts/bench_speed.py [--networks jets mnist cnv glt96] [--repeats 5] [--stock DIR]
    python scripts/bench_speed.py --long [--samples 10000000]

All networks are binary, with random weights and batch norms of both signs. Columns take turns, `--repeats` times; a
cell is the median, and in brackets how much faster it is than Keras. Every column computes for half a second to two at
a time, and its outputs are compared with those of NumPy. Codes are int64, as `encode` makes them; Keras gets float32
values, at the fastest of several batch sizes, and so does the engine once, which then makes the codes itself. "C
simulation" is `bf.simulate` as a whole, compiled before: vectors written, the program run, every output compared. With
`--stock`, the C++ of stock hls4ml 1.3.0 is timed beside it (`predict`, compiled before), in the virtualenv that
`bench_stock.py` makes in DIR, for networks of dense layers.

`--long` runs the jet tagger on a file of samples that stays on the disk, and on the same samples in memory: rates and
peak memory, each in a process of its own.
"""

from __future__ import annotations

import argparse
import atexit
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import bnnflow as bf
from bnnflow.ir.evaluate import run_given

NETWORKS = ("jets", "mnist", "cnv", "glt96")
COMPARED = 64  # samples whose outputs NumPy computes, too
SECONDS = 0.5  # that a column computes at a time, at least
BATCHES = (64, 512, 4096, 32768)
POOL = 2**26  # elements of the inputs at most
# How the projects of these networks are built.
OPTIONS: dict[str, dict[str, Any]] = {
    "cnv": {"io_type": "io_stream", "layers": {"conv6": {"reuse_factor": 16}}}, "glt96": {"io_type": "io_stream"}}
STOCK = {"jets": 5000, "mnist": 500}  # samples that stock hls4ml computes of networks that it takes
Run = Callable[[int], Any]  # computes the outputs of the first samples


@dataclass
class Case:
    """A network, as the columns find it: inputs are codes (n, *shape) and the values that they stand for."""

    name: str
    model: Any
    graph: bf.ir.Graph
    codes: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, name: str) -> Case:
        model = network(name)
        graph = bf.lower(model)
        d, shape = graph.input.domain, graph.input.shape
        count = min(2**21, POOL // graph.input.size)
        codes = np.random.default_rng(0).integers(d.lo, d.hi, (count, *shape), endpoint=True)
        return cls(name, model, graph, codes, (codes * float(d.scale) + float(d.offset)).astype(np.float32))


def network(name: str) -> Any:
    """A Keras model with random weights and batch norms of both signs."""
    from bench_scale import randomised

    from bnnflow.models import cnv, glt, jets, mnist

    return randomised({"jets": lambda: jets.build("binary"), "mnist": mnist.build, "cnv": cnv.build,
                       "glt96": lambda: glt.build("stl10")}[name]())


def numpy_on_codes(case: Case) -> Run:
    return lambda n: bf.run(case.graph, case.codes[:n], engine="numpy")


def engine_on_codes(case: Case) -> Run:
    return lambda n: bf.run(case.graph, case.codes[:n], engine="native")


def engine_on_values(case: Case) -> Run:
    return lambda n: run_given(case.graph, case.values[:n], engine="native")[0]


def keras_predict(case: Case) -> Run:
    """`predict` at the batch size that is the fastest."""
    def run(n: int, batch: int) -> Any:
        return case.model.predict(case.values[:n], batch_size=batch, verbose=0)

    rates = {}
    for batch in [b for b in BATCHES if b <= len(case.values) // 4] or [BATCHES[0]]:
        run(batch, batch)  # traces the model
        count, start = 4 * batch, time.perf_counter()
        run(count, batch)
        rates[batch] = count / (time.perf_counter() - start)
        if rates[batch] < max(rates.values()) / 2:
            break
    best = max(rates, key=lambda batch: rates[batch])
    return lambda n: run(n, best)


def c_simulation(case: Case) -> Run:
    """`bf.simulate` of a project in a folder that lives as long as this process."""
    folder = Path(tempfile.mkdtemp(prefix="bnnflow-speed-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    project = bf.build(case.graph, bf.BuildConfig(output_dir=folder / "prj", **OPTIONS.get(case.name, {})))
    return lambda n: bf.simulate(project, case.codes[:n])


KERAS = "Keras predict"
# Name: how to get what computes the outputs of the first n samples of a case.
COLUMNS: dict[str, Callable[[Case], Run]] = {
    KERAS: keras_predict, "NumPy, codes": numpy_on_codes, "engine, codes": engine_on_codes,
    "engine, float32": engine_on_values, "C simulation": c_simulation,
}
EXACT = [name for name in COLUMNS if name != KERAS]  # columns whose outputs are codes


def count_of(run: Run, most: int) -> int:
    """So many samples as take SECONDS, and up to four times that."""
    count, seconds = 4, 0.0
    while seconds < SECONDS and count < most:
        count = min(most, count * 4)
        start = time.perf_counter()
        run(count)
        seconds = time.perf_counter() - start
    return count


def rates(name: str, repeats: int) -> dict[str, float]:
    """Samples a second of every column; raises bf.Mismatch where outputs differ."""
    case = Case.of(name)
    runs = {column: make(case) for column, make in COLUMNS.items()}
    expected = runs["NumPy, codes"](COMPARED)
    for column in EXACT:
        if not np.array_equal(runs[column](COMPARED), expected):
            raise bf.Mismatch(f"{name}: {column} differs from NumPy")
    counts = {column: count_of(run, len(case.codes)) for column, run in runs.items()}
    found: dict[str, list[float]] = {column: [] for column in runs}
    for _ in range(repeats):
        for column, run in runs.items():
            start = time.perf_counter()
            run(counts[column])
            found[column].append(counts[column] / (time.perf_counter() - start))
    return {column: statistics.median(values) for column, values in found.items()}


def apart(function: Any, *arguments: Any) -> Any:
    """The result of a function in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def stock_rate(name: str, environment: Path) -> float:
    """Samples a second of the C++ of stock hls4ml, compiled."""
    import bench_stock

    case, count = Case.of(name), STOCK[name]
    with tempfile.TemporaryDirectory() as scratch:
        return bench_stock.rate(bench_stock.environment(environment), case.model, case.values[:count], Path(scratch))


def machine() -> str:
    """The processor, how many of them this process may use, and how busy they are."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")] if Path("/proc/cpuinfo").exists() else []
    return (f"{names[0] if names else platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} "
            f"processors, load {os.getloadavg()[0]:.1f}")


def long_inputs(folder: Path, samples: int) -> None:
    """x.npy, float32 values of the jet tagger, and its graph net.npz, in a folder."""
    import bnnflow.train  # noqa: F401  # isort: skip

    graph = bf.lower(network("jets"))
    bf.save(graph, folder / "net.npz")
    d, rng = graph.input.domain, np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (samples, *graph.input.shape))
    for first in range(0, samples, 2**18):
        part = x[first : first + 2**18]
        part[...] = rng.integers(d.lo, d.hi, part.shape, endpoint=True) * float(d.scale)


def long_run(folder: Path, on_disk: bool) -> tuple[float, float, int]:
    """(samples a second, peak memory in MB, sum of the outputs) of all samples of a folder."""
    graph = bf.load(folder / "net.npz")
    run_given(graph, np.zeros((1, *graph.input.shape), np.float32), engine="native")  # loads the engine
    x = np.load(folder / "x.npy", mmap_mode="r" if on_disk else None)
    shape = (len(x), *graph.output.shape)
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, shape) if on_disk else np.zeros(shape, np.int64)
    start = time.perf_counter()
    run_given(graph, x, [y], engine="native")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return len(x) / seconds, peak, sum(int(y[first : first + 2**20].sum()) for first in range(0, len(y), 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stock", type=Path, metavar="DIR")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--samples", type=int, default=10_000_000)
    args = parser.parse_args()
    print(f"{machine()}\n")
    if args.long:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            apart(long_inputs, folder, args.samples)
            memory, disk = apart(long_run, folder, False), apart(long_run, folder, True)
        if memory[2] != disk[2]:
            raise bf.Mismatch("outputs from the disk differ from those from memory")
        print(f"| {args.samples:,} samples of float32 | a second | peak MB |\n|---|---|---|")
        for where, (rate, peak, _) in (("in memory", memory), ("on the disk", disk)):
            print(f"| {where} | {rate:,.0f} | {peak:,.0f} |")
        return
    heads = ["network", *COLUMNS, *(["stock hls4ml"] if args.stock else [])]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for name in args.networks:
        found = apart(rates, name, args.repeats)
        cells = [f"{rate:,.0f}" + (f" ({rate / found[KERAS]:.2f}x)" if column != KERAS else "")
                 for column, rate in found.items()]
        if args.stock:
            stock = args.stock.expanduser().resolve()
            cells.append(f"{apart(stock_rate, name, stock):,.0f}" if name in STOCK else "")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
