"""Kernels and small networks through Bambu, a real HLS compiler: its Verilog is simulated and compared with the graph.

    python scripts/bench_bambu.py                            # all designs, about a minute each
    python scripts/bench_bambu.py binary ternary --logic     # of some kinds, LUTs by yosys, too
    python scripts/bench_bambu.py --samples 100

Prints one row a design as it comes: outputs that were compared, seconds, states of Bambu's controllers, cycles of its
Verilog in simulation (of a sample, and to the next one) beside those that `bf.estimate` says for a vendor's tool, LUTs
and registers by Bambu, by yosys (synth_xilinx) and by the estimate. What Bambu does not take is a row with its message.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import bnnflow as bf
from bnnflow.errors import BnnflowError, ToolError
from bnnflow.facts.facts import Facts
from bnnflow.ir import BIPOLAR, BIT, Affine, Domain, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window
from bnnflow.ir.vectors import default_vectors
from bnnflow.ir.verify import RULES

RESOURCE: dict[str, Any] = {"strategy": "Resource"}
NETLIST: dict[str, Any] = {"strategy": "distributed_arithmetic"}
STREAM: dict[str, Any] = {"io_type": "io_stream"}


def kernel(op: Op, domain: Domain, shape: tuple[int, ...], params: Any = None, *, inputs: int = 1,
           window: Window | None = None, out: Domain | None = None, steps: int = 0) -> Graph:
    """A graph of one op on inputs, behind a window where one is given, with a step of so many thresholds behind it."""
    nodes = [Node(f"x{k}", Op.INPUT, (), shape, domain) for k in range(inputs)]
    if window:
        nodes.append(Node("w", Op.WINDOW, ("x0",), (*window.positions, window.taps * shape[-1]), domain, window))

    def add(name: str, op: Op, reads: list[Node], params: Any, domain: Domain) -> None:
        node = Node(name, op, tuple(read.name for read in reads), (1,), domain, params)
        size, found = RULES[op](node, reads)
        nodes.append(replace(node, shape=size, domain=found))

    add("y", op, nodes[-inputs:], params, out or domain)
    if steps:
        node, rng = nodes[-1], np.random.default_rng(0)
        channels, reach = node.shape[-1], (node.domain.hi - node.domain.lo) // 8 + 1
        middle = (node.domain.lo + node.domain.hi) // 2
        cuts = np.sort(rng.integers(middle - reach, middle + reach + 1, (channels, steps)), axis=1)
        falls = np.arange(channels) % 3 == 0
        add("s", Op.STEP, [node], Steps(np.where(falls, steps, 0), np.where(falls, -1, 1), cuts),
            BIT if steps == 1 else Domain(0, steps))
    return Graph(tuple(nodes), (nodes[-1].name,))


def weights(levels: list[int], shape: tuple[int, int]) -> Weights:
    """Random levels, zeros masked."""
    drawn = np.random.default_rng(1).choice(levels, shape)
    return Weights(drawn, drawn != 0)


def codebook(channels: int, outputs: int) -> Weights:
    """Kernels of 3x3 taps, four of them."""
    rng = np.random.default_rng(2)
    kernels = rng.choice([-1, 1], (4, 9))[rng.integers(0, 4, (channels, outputs))]
    return Weights(kernels.transpose(2, 0, 1).reshape(9 * channels, outputs), np.ones((9 * channels, outputs), bool))


def image(size: int, kernel: int = 3, stride: int = 1, pad: int = 1, groups: int = 1) -> Window:
    return Window((kernel, kernel), (stride, stride), (1, 1), ((pad, pad), (pad, pad)), groups, (size, size))


def thermometer() -> Graph:
    """16 inputs of 8 bits, three planes each."""
    rng = np.random.default_rng(3)
    steps = Steps(np.zeros(48, int), np.ones(48, int), np.sort(rng.integers(1, 255, (48, 1)), axis=1))
    return Graph((Node("x", Op.INPUT, (), (16,), Domain(0, 255)),
                  Node("g", Op.GATHER, ("x",), (48,), Domain(0, 255), Index(np.repeat(np.arange(16), 3))),
                  Node("s", Op.STEP, ("g",), (48,), BIPOLAR, steps)), ("s",))


def dense_network() -> Graph:
    """A network like that of the digits: a thermometer, two layers of binary sums, the class of the largest logit."""
    rng, levels = np.random.default_rng(4), [-1, 1]
    x = Node("x", Op.INPUT, (), (16,), Domain(0, 31))
    nodes = [x, Node("g", Op.GATHER, ("x",), (48,), x.domain, Index(np.repeat(np.arange(16), 3)))]

    def add(name: str, op: Op, params: Any, domain: Domain) -> None:
        node = Node(name, op, (nodes[-1].name,), (1,), domain, params)
        size, found = RULES[op](node, [nodes[-1]])
        nodes.append(replace(node, shape=size, domain=found))

    ones, zeros = np.ones(48, int), np.zeros(48, int)
    add("planes", Op.STEP, Steps(zeros, ones, rng.integers(1, 31, (48, 1))), BIPOLAR)
    add("sum1", Op.DOT, weights(levels, (48, 24)), BIPOLAR)
    add("step1", Op.STEP, Steps(zeros[:24], ones[:24], rng.integers(-6, 7, (24, 1))), BIPOLAR)
    add("sum2", Op.DOT, weights([-1, 0, 1], (24, 10)), BIPOLAR)
    add("logits", Op.AFFINE, Affine(rng.integers(1, 60, 10), rng.integers(-300, 300, 10), 2), Domain(-1024, 1023))
    add("class", Op.ARGMAX, None, Domain(0, 9))
    return Graph(tuple(nodes), ("class",))


def image_network() -> Graph:
    """A convolution, a pool, and a convolution of what is left."""
    x = Node("x", Op.INPUT, (), (8, 8, 2), BIPOLAR)
    nodes, rng = [x], np.random.default_rng(5)

    def add(name: str, op: Op, params: Any, domain: Domain) -> None:
        node = Node(name, op, (nodes[-1].name,), (1,), domain, params)
        size, found = RULES[op](node, [nodes[-1]])
        nodes.append(replace(node, shape=size, domain=found))

    def look(name: str, window: Window) -> None:
        shape = (*window.positions, window.taps * nodes[-1].shape[-1])
        nodes.append(Node(name, Op.WINDOW, (nodes[-1].name,), shape, nodes[-1].domain, window))

    def step(name: str, channels: int) -> None:
        steps = Steps(np.zeros(channels, int), np.ones(channels, int), rng.integers(-3, 4, (channels, 1)))
        add(name, Op.STEP, steps, BIPOLAR)

    look("w1", image(8))
    add("sum1", Op.DOT, weights([-1, 1], (18, 4)), BIPOLAR)
    step("step1", 4)
    look("w2", image(8, kernel=2, stride=2, pad=0, groups=4))
    add("pool", Op.MAX, None, BIPOLAR)
    look("w3", image(4, pad=0))
    add("sum2", Op.DOT, weights([-1, 0, 1], (36, 8)), BIPOLAR)
    step("step2", 8)
    return Graph(tuple(nodes), ("step2",))


KERNELS: dict[str, Callable[[], Graph]] = {
    "add": lambda: kernel(Op.ADD, Domain(-4, 3), (16,), Sum(np.array([3, -2]), 5), inputs=2, out=Domain(-40, 40)),
    "affine": lambda: kernel(Op.AFFINE, Domain(-64, 63), (16,), Affine(
        np.random.default_rng(6).integers(-2**20, 2**20, 16), np.random.default_rng(7).integers(-2**24, 2**24, 16), 12),
        out=Domain(-2**17, 2**17 - 1)),
    "argmax": lambda: kernel(Op.ARGMAX, Domain(-512, 511), (10,), out=Domain(0, 9)),
    "table": lambda: kernel(Op.LUT, Domain(-32, 31), (16,), Table(np.random.default_rng(8).integers(0, 16, (16, 64))),
                            out=Domain(0, 15)),
    "max": lambda: kernel(Op.MAX, Domain(-3, 3), (4, 4, 4), window=image(4, 2, 2, 0, 4)),
    "step": lambda: kernel(Op.STEP, Domain(-64, 63), (16,), Steps(
        np.zeros(16, int), np.ones(16, int), np.sort(np.random.default_rng(9).integers(-60, 60, (16, 3)), axis=1)),
        out=Domain(0, 3)),
    "thermometer": thermometer,
    "binary": lambda: kernel(Op.DOT, BIPOLAR, (64,), weights([-1, 1], (64, 16)), steps=1),
    "ternary": lambda: kernel(Op.DOT, BIPOLAR, (64,), weights([-1, 0, 1], (64, 16)), steps=1),
    "two-valued": lambda: kernel(Op.DOT, BIT, (64,), weights([-3, 5], (64, 16))),
    "codebook": lambda: kernel(Op.DOT, BIPOLAR, (3, 3, 4), codebook(4, 16), window=image(3, pad=0)),
    "multiply-add": lambda: kernel(Op.DOT, Domain(-8, 7), (16,), weights([-4, -1, 0, 3], (16, 16))),
    "convolution": lambda: kernel(Op.DOT, BIPOLAR, (5, 5, 4), weights([-1, 1], (36, 8)), window=image(5), steps=1),
    "convolution/2": lambda: kernel(Op.DOT, BIT, (6, 6, 4), weights([-1, 0, 1], (36, 8)), window=image(6, stride=2),
                                    steps=2),
    "pool": lambda: kernel(Op.MAX, BIT, (6, 6, 8), window=image(6, 2, 2, 0, 8)),
    "dense network": dense_network,
    "image network": image_network,
}
LATENCY: dict[str, Any] = {}
OPTIONS: dict[str, dict[str, Any]] = {
    "Latency": LATENCY, "Resource 2": RESOURCE | {"reuse_factor": 2}, "Resource 4": RESOURCE | {"reuse_factor": 4},
    "Resource 16": RESOURCE | {"reuse_factor": 16}, "Resource 18": RESOURCE | {"reuse_factor": 18},
    "Resource pe 4 simd 16": RESOURCE | {"layers": {"y": {"pe": 4, "simd": 16}}},
    "netlist": NETLIST, "stream": STREAM, "stream 4": STREAM | {"reuse_factor": 4},
    "stream 8": STREAM | {"reuse_factor": 8},
    "stream pe 2 simd 4": STREAM | {"layers": {"y": {"pe": 2, "simd": 4}}},
}
DESIGNS = [
    *((name, "Latency") for name in KERNELS if name not in ("image network",)),
    ("binary", "Resource 4"), ("binary", "Resource 16"), ("binary", "Resource pe 4 simd 16"), ("binary", "netlist"),
    ("ternary", "Resource 4"), ("two-valued", "Resource 4"), ("multiply-add", "Resource 4"),
    ("multiply-add", "netlist"), ("ternary", "netlist"), ("convolution", "Resource 18"), ("pool", "Resource 18"),
    ("convolution", "stream"),
    ("convolution", "stream 4"), ("convolution", "stream pe 2 simd 4"), ("convolution/2", "stream"),
    ("pool", "stream"), ("binary", "stream"), ("binary", "stream 4"), ("codebook", "stream"),
    ("dense network", "Resource 4"), ("dense network", "stream"), ("image network", "stream"),
    ("image network", "stream 8"), ("dense network", "netlist"),
]
TITLES = ("design", "outputs", "s", "states", "cycles", "to the next", "estimated", "to the next", "LUT, FF by Bambu",
          "LUT, FF by yosys", "LUT, FF estimated", "LUT, yosys / estimated")


def row(name: str, option: str, samples: int, logic: bool) -> list[str]:
    """The cells of a design."""
    with tempfile.TemporaryDirectory() as scratch:
        graph, folder, start = KERNELS[name](), Path(scratch) / "prj", time.time()
        title, vectors = f"{name}, {option}", default_vectors(graph, samples)
        try:
            config = bf.BuildConfig(output_dir=folder, **OPTIONS[option])
            bf.build(graph, config, vectors if len(vectors) > 1 else vectors[0])
            facts = bf.synthesize(folder, "bambu")
            seconds = time.time() - start
            counted = _counted(folder) if logic else None
        except BnnflowError as error:
            return [title, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", *[""] * (len(TITLES) - 2)]
        estimate = bf.estimate(folder)
        states = [found[1] for note in facts.notes if (found := re.search(r"has (\d+) states", note))]
        outputs = samples * sum(graph[output].size for output in graph.outputs)
        ratio = f"{counted.lut / estimate.lut:.2f}" if counted and counted.lut and estimate.lut else "-"
        return [title, f"{outputs:,} equal", f"{seconds:.0f}", "+".join(states), _range(facts.latency),
                _range(facts.interval), _range(estimate.latency), _range(estimate.interval), _size(facts),
                _size(counted), _size(estimate), ratio]


def _counted(folder: Path) -> Facts | None:
    """What yosys counts; None where it fails."""
    try:
        return bf.synthesize(folder, "bambu", logic=True)
    except ToolError:
        return None


def _range(cycles: tuple[int, int] | None) -> str:
    return "-" if cycles is None else " to ".join(f"{count:,}" for count in dict.fromkeys(cycles))


def _size(facts: Facts | None) -> str:
    counts = () if facts is None else (facts.lut, facts.ff)
    return ", ".join("-" if count is None else f"{count:,}" for count in counts) or "-"


def main() -> None:
    """A row for every design."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(KERNELS)}")
    parser.add_argument("--option", choices=OPTIONS, help="these options only")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--logic", action="store_true", help="LUTs and registers by yosys, too")
    args = parser.parse_args()
    if unknown := [name for name in args.kinds if name not in KERNELS]:
        parser.error(f"no designs {', '.join(unknown)}; there are {', '.join(KERNELS)}")
    print(f"| {' | '.join(TITLES)} |", "|---" * len(TITLES) + "|", sep="\n", flush=True)
    for name, option in DESIGNS:
        if (not args.kinds or name in args.kinds) and args.option in (None, option):
            print(f"| {' | '.join(row(name, option, args.samples, args.logic))} |", flush=True)


if __name__ == "__main__":
    main()
