"""Whole networks in LUTs: accuracy, size, depth and latency of trained networks, with and without their encoder.

    FLOW_DATA=folder/with/mnist.npz python scripts/bench_networks.py --out FOLDER
    python scripts/bench_networks.py --out FOLDER --networks --nairods FOLDER2      # the jet taggers, beside alkaid
    python scripts/bench_networks.py --out FOLDER --networks digits --goals area delay --kinds scores

digits, mnist_lut and mnist_sbnn are trained as their files in models/ say; nairods are the jet taggers of
scripts/nairods.py. FOLDER keeps training runs, projects and what yosys said, so that an interrupted bench goes on.

Every row is a network by one goal (`netlist=`), as three Verilog projects. Of the combinational one it has LUT1-6 as
they are ("raw"), yosys' packed estimate, the positions that they take (`bnnflow.devices.lut_packing`), carry blocks and
depth; of the pipelined ones, at 2 ns and at the clock with the fewest ns of latency ("auto"), LUTs, registers and
cycles; of all the ns of the longest path (bnnflow.devices.timing). "counted" is what `bnnflow.estimate` says without
any tool.

Where the encoder is not counted the thermometer's planes are the inputs. The outputs are scores, or the class of the
largest one. Verilator compares every output of all projects with the graph on 10,000 vectors: the test images, filled
up with random ones. The accuracy is that of its outputs on the test images. alkaid runs with carry chains, which make
its smaller designs for sums of several bits, and its netlist is equal to the graph on 2,000 inputs. Needs the extra
`bench`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from bench_luts import geometric_mean, traced
from bench_luts import product as product_of

import bnnflow as bf

import bnnflow.train  # isort: skip
import nairods

from bnnflow.backends.netlist.goals import GOALS
from bnnflow.frontends.keras.reading import read_model
from bnnflow.ir import Graph
from bnnflow.ir.vectors import default_vectors
from bnnflow.recipe import config_of
from bnnflow.toolchains.yosys import Size, synthesize
from bnnflow.train.run import Network, train

# Whether the encoder is more than wires: the MNIST networks' one plane is the highest bit of a pixel.
TRAINED = {"digits": True, "mnist_lut": False, "mnist_sbnn": False}
VECTORS, PEER_VECTORS = 10_000, 2_000
CLOCK_PERIODS = (None, 2.0, "auto")  # ns; None: combinational
SIZE = ("raw", "packed", "positions", "carry", "depth")
KINDS = (("counted", "scores"), ("not counted", "scores"), ("counted", "class"))  # encoder, outputs
CLOCKED = ("2 ns: raw", "FF", "ns", "cycles", "auto: clock", "raw", "FF", "ns", "cycles", "latency, ns")


def trained(name: str, out: Path) -> tuple[Graph, np.ndarray, np.ndarray]:
    """(graph, codes of the test images, labels) of a network of bnnflow.models, trained in `out` unless it is there."""
    module = import_module(f"bnnflow.models.{name}")
    folder = out / name
    arrays = module.data()
    if not (folder / "result.yaml").exists():
        network, start = Network.of(module, name, ""), time.monotonic()

        def report(step: int, steps: int, row: Any) -> None:
            if row:
                print(f"{name}: epoch {row['epoch']}, accuracy {row['accuracy']:.4f}, {time.monotonic() - start:.0f} s",
                      file=sys.stderr, flush=True)

        train(network, config_of(None, network.defaults), folder, (folder / "run.yaml").exists(), report=report)
    graph = bf.lower(read_model(folder / "model.h5"), module.INPUT_TYPE)
    return graph, graph.encode(arrays[2]), arrays[3]


def filled(graph: Graph, codes: np.ndarray) -> np.ndarray:
    """VECTORS input codes: those given, then the default ones of a test bench."""
    return np.concatenate([codes, default_vectors(graph, VECTORS)[0]])[:VECTORS]


@dataclass(frozen=True)
class Design:
    """A Verilog project: its options, latency in cycles, size where it was synthesised, and what is counted of it."""

    config: bf.BuildConfig
    cycles: int
    size: Size | None
    counted: Any

    def cells(self) -> list[str]:
        """LUTs, registers, the longest path, cycles."""
        known = ["-"] * 3 if self.size is None else [f"{self.size.raw:,}", f"{self.size.ff:,}", f"{self.size.delay}"]
        return [*known, str(self.cycles)]


@dataclass(frozen=True)
class Measured:
    """The projects of a network by CLOCK_PERIODS, and what Verilator compared: it says so, and its outputs."""

    designs: list[Design]
    equal: str
    outputs: np.ndarray

    def cells(self) -> list[str]:
        one, two, fastest = self.designs
        assert one.size is not None
        period = fastest.config.period
        counted = ", ".join(f"{design.counted.lut:,} LUT, {design.counted.ff:,} FF" for design in self.designs)
        return [*size_cells(one.size), f"{one.size.delay}", *two.cells(), f"{period:g}", *fastest.cells(),
                f"{fastest.cycles * period:.1f}", self.equal, counted]


def measured(graph: Graph, codes: np.ndarray, project: Path, goal: str, encoder: str = "inside", registers: bool = True
             ) -> Measured:
    """The projects of a graph by a goal, equal to it on the codes; `registers`: pipelined ones are synthesised, too."""
    designs = []
    for period in CLOCK_PERIODS:
        config = bf.BuildConfig(output_dir=project, backend="Verilog", clock_period=period or 5.0,
                                pipelined=period is not None, encoder=encoder, netlist=goal)
        built = bf.build(graph, config, codes)
        outputs = bf.simulate(built.path)  # raises where one differs
        files = {file.name: file.read_text() for file in sorted((built.path / "rtl").glob("*.v"))}
        size = synthesize(files, built.top) if registers or period is None else None
        designs.append(Design(built.config, built.cycles, size, bf.estimate(built.path)))
    count = len(designs)
    equal = f"{count} x {len(codes):,} vectors, {count * outputs.size:,} outputs, 0 differ"
    return Measured(designs, equal, outputs)


def size_cells(size: Size) -> list[str]:
    return [f"{value:,}" for value in (size.raw, size.packed or 0, size.sites or 0, size.carry, size.depth)]


def jets(folder: Path) -> Iterator[tuple[str, Any]]:
    """(name, Keras model) of the jet taggers in a folder."""
    for file in sorted(folder.rglob("*.weights.h5")):
        yield f"{file.parent.name}/{file.name.split('__')[0]}", nairods.network(file)


def alkaid(model: Any, graph: Graph, codes: np.ndarray) -> Size | None:
    """The same network, layer by layer, by alkaid."""
    from alkaid.trace import FVArrayInput

    x = FVArrayInput((16,))

    def compute() -> Any:
        h = x.quantize(1, 5, 10)
        for layer in model.layers:
            if hasattr(layer, "kernel_quantizer_internal"):
                kernel, bias = layer.kernel_quantizer_internal(layer.kernel), layer.bias_quantizer_internal(layer.bias)
                h = h @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64)
            elif layer.name.startswith("relu"):  # quantized_relu(7): clipped, then rounded, ties to even
                h = h.quantize(0, 0, 7, "SAT", "RND_CONV")
        return h

    codes = codes[:PEER_VECTORS]
    sizes, _ = traced(x, compute, codes / 1024, graph.decode(graph(codes)), carries=[True])
    return sizes[0] if sizes else None


def bench_trained(names: Sequence[str], out: Path, goals: Sequence[str], kinds: Sequence[str]) -> None:
    """A row for every network, encoder, kind of output and goal."""
    table_head("network", "encoder", "outputs", "goal", "accuracy", *SIZE, "ns", *CLOCKED, "Verilator", "counted")
    for name in names:
        graph, images, labels = trained(name, out)
        codes = filled(graph, images)
        for (encoder, kind), goal in product(KINDS, goals):
            if encoder == "not counted" and not TRAINED[name] or kind not in kinds:
                continue
            where = "inside" if encoder == "counted" else "outside"
            whole = graph if kind == "scores" else bf.argmax(graph)
            found = measured(whole, codes, out / f"{name}_{where}_{kind}_{goal}", goal, where)
            outputs = found.outputs[: len(labels)]
            chosen = outputs.argmax(axis=-1) if kind == "scores" else outputs[:, 0]
            print(line(name, encoder, kind, goal, f"{np.mean(chosen == labels):.4f}", *found.cells()), flush=True)


def bench_jets(folder: Path, out: Path, goals: Sequence[str], peer: bool) -> None:
    """A row for every network and goal, with alkaid's design beside ours where `peer`."""
    table_head("network", "goal", *SIZE, "ns", *CLOCKED, "Verilator", "counted", *(f"alkaid {name}" for name in SIZE),
               "raw, positions, product: ours/alkaid")
    ratios: dict[str, list[list[float]]] = {goal: [] for goal in goals}
    for name, model in jets(folder):
        graph, codes = bf.lower(model, "fixed<16,6>"), nairods.inputs(VECTORS)
        theirs = alkaid(model, graph, codes) if peer else None
        for goal in goals:
            found = measured(graph, codes, out / f"{name.replace('/', '_')}_{goal}", goal, registers=False)
            beside, ours = ["-"] * (len(SIZE) + 1), found.designs[0].size
            if theirs and ours:
                ratios[goal].append([ours.raw / theirs.raw, (ours.sites or 0) / (theirs.sites or 1),
                                     product_of(ours) / product_of(theirs)])
                beside = [*size_cells(theirs), ", ".join(f"{ratio:.2f}" for ratio in ratios[goal][-1])]
            print(line(name, goal, *found.cells(), *beside), flush=True)
    for goal, rows in ratios.items():
        means = [f"{geometric_mean(column):.3f}" for column in zip(*rows)]
        print(f"geometric mean ours/alkaid, {goal}: {', '.join(means)} ({len(rows)} networks)")


def table_head(*names: str) -> None:
    print(line(*names), line(*["---"] * len(names)), sep="\n", flush=True)


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="*", choices=[*TRAINED], default=[*TRAINED])
    parser.add_argument("--nairods", type=Path, help="folder of the jet taggers")
    parser.add_argument("--goals", nargs="*", choices=[*GOALS], default=[*GOALS])
    parser.add_argument("--kinds", nargs="*", choices=["scores", "class"], default=["scores", "class"])
    parser.add_argument("--ours", action="store_true", help="without alkaid")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.networks:
        bench_trained(options.networks, options.out, options.goals, options.kinds)
    if options.nairods:
        bench_jets(options.nairods, options.out, options.goals, not options.ours)


if __name__ == "__main__":
    main()
