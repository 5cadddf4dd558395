"""LUTs and ns of single layers: ours by every goal, alkaid's (0.8.2) and sums written with `+`, by the same yosys.

    python scripts/bench_luts.py                    # every layer: an hour or so, most of it alkaid's and yosys'
    python scripts/bench_luts.py reference fan-in   # layers by their names
    python scripts/bench_luts.py --ours             # without alkaid

Each row has LUT1-6 as they are, yosys' packed estimate, carry blocks, MUXF, depth, the ns of the longest path
(`bnnflow.devices.timing`), the product of LUTs and ns, and the seconds of yosys. Every design of ours is equal to the
graph on 100,000 random vectors, alkaid's on 2,000. alkaid runs twice, with and without carry chains; of those that
yosys finishes in ten minutes, the smaller one counts where sizes are compared, and the one of the smaller product where
products and ns are. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bnnflow.backends.netlist.goals import GOALS, Goal
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.verilog import to_verilog
from bnnflow.errors import ToolError
from bnnflow.ir import BIT, Domain, Graph, Index, Node, Op, Steps, Weights
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains.yosys import Size, synthesize


@dataclass(frozen=True)
class Layer:
    """A layer of sums with a threshold each: `levels` are (inputs, outputs), `thresholds` (outputs,).

    Its input codes have `bits` bits. With `planes` (features, thresholds) a thermometer stands in front of the sums.
    """

    levels: np.ndarray
    thresholds: np.ndarray
    bits: int = 1
    planes: np.ndarray | None = None

    @property
    def inputs(self) -> int:
        return len(self.levels) if self.planes is None else len(self.planes)

    def graph(self) -> Graph:
        source = BIT if self.bits == 1 else Domain(0, 2**self.bits - 1)
        nodes = [Node("x", Op.INPUT, (), (self.inputs,), source)]
        if self.planes is not None:
            size = self.planes.size
            repeat = np.repeat(np.arange(self.inputs), self.planes.shape[1])
            nodes.append(Node("repeat", Op.GATHER, ("x",), (size,), source, Index(repeat)))
            nodes.append(Node("planes", Op.STEP, ("repeat",), (size,), BIT, _steps(self.planes.ravel())))
        weights = Weights(self.levels, np.ones(self.levels.shape, bool))
        count = self.levels.shape[1]
        nodes.append(Node("sum", Op.DOT, (nodes[-1].name,), (count,), dot_domain(nodes[-1].domain, weights), weights))
        nodes.append(Node("y", Op.STEP, ("sum",), (count,), BIT, _steps(self.thresholds)))
        return Graph(tuple(nodes), ("y",))


def _steps(thresholds: np.ndarray) -> Steps:
    count = len(thresholds)
    return Steps(np.zeros(count, np.int64), np.ones(count, np.int64), thresholds.astype(np.int64)[:, None])


def _layer(levels: np.ndarray, bits: int = 1, planes: np.ndarray | None = None) -> Layer:
    """A layer with the threshold in the middle of every sum."""
    levels = levels.astype(np.int64)
    top = 2**bits - 1 if planes is None else 1
    return Layer(levels, -(-top * levels.sum(axis=0) // 2), bits, planes)


def reference() -> Layer:
    rng = np.random.default_rng(0)
    levels = rng.choice([-1, 1], (160, 64)) * (rng.random((160, 64)) < .25)
    # An agreeing tap is x where the level is +1 and 1 - x where it is -1.
    return Layer(levels.astype(np.int64), (levels != 0).sum(axis=0) // 2 - (levels < 0).sum(axis=0))


def _ternary(share: float, shape: tuple[int, int], bits: int = 1) -> Layer:
    rng = np.random.default_rng(1)
    return _layer(rng.choice([-1, 1], shape) * (rng.random(shape) < share), bits)


def _values(values: list[int], shape: tuple[int, int], bits: int = 1) -> Layer:
    return _layer(np.random.default_rng(2).choice(values, shape), bits)


def codebook() -> Layer:
    """One position of 32 filters of 3x3x8, of which the 3x3 of every channel is one of 16 patterns of +-1."""
    rng = np.random.default_rng(3)
    book = rng.choice([-1, 1], (16, 9))
    return _layer(book[rng.integers(0, 16, (8, 32))].transpose(2, 0, 1).reshape(72, 32))


def thermometer() -> Layer:
    """Ternary sums of a tenth of the 15 planes of 16 features of 8 bits; the thermometer is counted, too."""
    rng = np.random.default_rng(4)
    planes = np.sort(rng.integers(1, 255, (16, 15)), axis=1)
    return _layer(rng.choice([-1, 1], (240, 64)) * (rng.random((240, 64)) < .1), 8, planes)


def fan_in() -> Layer:
    rng = np.random.default_rng(5)
    levels = np.zeros((160, 128), np.int64)
    for column in levels.T:
        column[rng.permutation(160)[:6]] = rng.choice([-1, 1], 6)
    return _layer(levels)


LAYERS: dict[str, Callable[[], Layer]] = {
    "reference": reference,
    "dense-64x32": lambda: _values([-1, 1], (64, 32)),
    "ternary-5": lambda: _ternary(.05, (784, 64)),
    "ternary-10": lambda: _ternary(.1, (160, 64)),
    "ternary-50": lambda: _ternary(.5, (160, 64)),
    "zero-one": lambda: _values([0, 1], (160, 32)),
    "two-valued": lambda: _values([-3, 5], (160, 32)),
    "codebook": codebook,
    "thermometer": thermometer,
    "fan-in": fan_in,
    "dense-784x64": lambda: _values([-1, 1], (784, 64)),
    "ternary-4bit": lambda: _ternary(.5, (32, 32), 4),
    "dense-8bit": lambda: _values([-1, 1], (16, 64), 8),
}
TARGET = 3.0  # ns, beside the goals that have names
SEVERAL_BITS = ("ternary-4bit", "dense-8bit")


def ours(layer: Layer, goal: Goal) -> tuple[list[Size], str]:
    graph = layer.graph()
    start = time.monotonic()
    logic = to_logic(graph, goals=goal)
    rtl = to_verilog(logic, "design")
    seconds = time.monotonic() - start
    codes = np.random.default_rng(6).integers(0, 2**layer.bits, (100_000, layer.inputs))
    assert np.array_equal(logic([codes])[0], graph(codes))
    files = {name.split("/")[1]: rtl.files[name] for name in rtl.sources}
    return [synthesize(files, "design")], f"netlist {seconds:.1f} s"


def plus(layer: Layer) -> tuple[list[Size], str]:
    """Every output as one sum of its taps, written with `+` in Verilog: yosys makes carry chains of it."""
    assert layer.bits == 1
    outputs = []
    for j, column in enumerate(layer.levels.T):
        taps = " + ".join(f"x[{i}]" if column[i] > 0 else f"!x[{i}]" for i in np.flatnonzero(column))
        outputs.append(f"    wire [15:0] s{j} = {taps};\n"
                       f"    assign y[{j}] = s{j} >= {layer.thresholds[j] + (column < 0).sum()};")
    text = "\n".join([f"module design (input wire [{layer.inputs - 1}:0] x, output wire [{len(outputs) - 1}:0] y);",
                      *outputs, "endmodule", ""])
    return [synthesize({"design.v": text}, "design")], ""


def alkaid(layer: Layer) -> tuple[list[Size], str]:
    from alkaid.trace import FVArrayInput

    x = FVArrayInput((layer.inputs,))
    codes = x.quantize(0, layer.bits, 0)
    if layer.planes is not None:
        codes = np.repeat(codes, layer.planes.shape[1]) >= layer.planes.ravel().astype(float)
    samples = np.random.default_rng(6).integers(0, 2**layer.bits, (2_000, layer.inputs))
    levels, thresholds = layer.levels.astype(float), layer.thresholds.astype(float)
    return traced(x, lambda: codes @ levels >= thresholds, samples.astype(float), layer.graph()(samples))


def traced(x: Any, compute: Callable[[], Any], samples: np.ndarray, expected: np.ndarray,
           carries: Sequence[bool] = (True, False)) -> tuple[list[Size], str]:
    """(sizes, note) of alkaid's Verilog of what `compute` makes of its input x, of every run that yosys finishes.

    It is equal to `expected` on `samples` (n, inputs). A run is with carry chains or without.
    """
    from alkaid.codegen import RTLModel
    from alkaid.trace import trace

    start = time.monotonic()
    logic = trace(x, compute())
    with tempfile.TemporaryDirectory() as folder:
        RTLModel(logic, Path(folder) / "prj", "design").write()
        files = {file.name: file.read_text() for file in sorted((Path(folder) / "prj/src").rglob("*.v"))}
    seconds = time.monotonic() - start
    assert np.array_equal(logic.predict(samples).reshape(expected.shape), expected)
    sizes = []
    for carry in carries:
        with contextlib.suppress(ToolError):  # yosys takes hours for some of its netlists without carry chains
            sizes.append(synthesize(files, "design", carry=carry, seconds=600))
    return sizes, f"netlist {seconds:.1f} s"


def geometric_mean(ratios: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def product(size: Size) -> float:
    """LUTs times ns of the longest path."""
    return size.raw * (size.delay or 0.0)


def measured(name: str, peer: bool) -> dict[str, list[Size]]:
    """The sizes of a layer's designs by who made them, and for what goal, printed as they come."""
    makers: dict[str, Callable[[Layer], tuple[list[Size], str]]] = {
        str(goal): partial(ours, goal=goal) for goal in (*GOALS, TARGET)}
    if peer:
        makers["alkaid"] = alkaid
    if peer and name == "reference":
        makers["+"] = plus
    layer, found = LAYERS[name](), {}
    for who, make in makers.items():
        found[who], note = make(layer)
        if not found[who]:
            print(f"{name:14}{who:9} yosys did not finish")
        for size in found[who]:
            print(f"{name:14}{who:9}{size.raw:8,}{size.packed or 0:8,}{size.carry:7,}{size.muxf:6,}{size.depth:7}"
                  f"{size.delay or 0.0:8.2f}{product(size):10,.0f}{size.seconds:9.1f}  {note}", flush=True)
    return found


def compared(found: dict[str, list[Size]]) -> dict[str, float]:
    """Ratios of ours and alkaid's: of the sizes, of the least products, and of LUTs and ns for the fewest ns."""
    theirs = min(found["alkaid"], key=product)
    (area,), (delay,) = found["area"], found["delay"]
    best = min((size for who in (*GOALS, str(TARGET)) for size in found[who]), key=product)
    return {"raw, area": area.raw / min(size.raw for size in found["alkaid"]),
            "least LUTs x ns": product(best) / product(theirs),
            "ns, delay": (delay.delay or 0.0) / (theirs.delay or 1.0), "raw, delay": delay.raw / theirs.raw}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layers", nargs="*", help=", ".join(LAYERS))
    parser.add_argument("--ours", action="store_true", help="without alkaid")
    options = parser.parse_args()
    print(f"{'layer':14}{'':9}{'raw':>8}{'packed':>8}{'carry':>7}{'muxf':>6}{'depth':>7}{'ns':>8}{'LUT x ns':>10}"
          f"{'yosys s':>9}")
    ratios: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for name in options.layers or LAYERS:
        found = measured(name, peer=not options.ours)
        if found.get("alkaid"):
            ratios[name in SEVERAL_BITS].append(compared(found))
    for several, what in ((False, "1-bit inputs"), (True, "several-bit inputs")):
        for key in ratios[several][0] if ratios[several] else ():
            mean = geometric_mean([row[key] for row in ratios[several]])
            print(f"geometric mean ours/alkaid, {what}, {len(ratios[several])} layers: {key} {mean:.3f}")


if __name__ == "__main__":
    main()
