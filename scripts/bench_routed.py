"""Ten designs of LUTs of four inputs, placed and routed on an ECP5, beside what the delay model says of them.

    python scripts/bench_routed.py              # ten designs, and their layers as netlists for LUTs of six inputs
    python scripts/bench_routed.py --ours       # without the latter

A row has the layer (scripts/bench_luts.py), the goal, LUTs as counted, as yosys finds them and as nextpnr places them,
the ns of the longest path by the model (bnnflow.devices: counted, and of yosys' netlist) with a register at both ends,
and those of the routed design. The last lines have the delay of a net that fits the routed designs best, and how far
the model is off. Needs the extras `rtl` and `pnr`.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

import numpy as np
from bench_luts import LAYERS, geometric_mean

from bnnflow.backends.netlist.goals import Goal
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.backends.verilog import to_verilog
from bnnflow.devices.fabric import ECP5, PS, ULTRASCALE, Fabric
from bnnflow.toolchains.nextpnr import place
from bnnflow.toolchains.yosys import synthesize

# The layers and goals that are placed, and the clock period in ns of pipelined ones.
DESIGNS: list[tuple[str, Goal, float | None]] = [
    ("fan-in", "delay", None), ("ternary-10", "area", None), ("codebook", "area", None), ("codebook", "delay", None),
    ("dense-64x32", "balanced", None), ("ternary-4bit", "area", None), ("ternary-4bit", "delay", None),
    ("zero-one", "balanced", None), ("dense-64x32", "balanced", 5.0), ("ternary-10", "area", 4.0)]


@dataclass(frozen=True)
class Row:
    """A design: LUTs and ns that were counted, synthesized and routed, and LUTs and nets on the longest path."""

    luts: tuple[int, int, int]
    ns: tuple[float, float, float]


def measured(name: str, goal: Goal, clock: float | None, fabric: Fabric) -> Row:
    layer = LAYERS[name]()
    graph = layer.graph()
    logic = to_logic(graph, goals=goal, fabric=fabric)
    codes = np.random.default_rng(6).integers(0, 2**layer.bits, (20_000, layer.inputs))
    assert np.array_equal(logic([codes])[0], graph(codes))
    rtl = to_verilog(logic, "design", clock)
    files = {file.split("/")[1]: rtl.files[file] for file in rtl.sources}
    size = synthesize(files, "design", "ecp5")
    placed = place(files, "design", graph, clock is not None, clock or 5.0)
    counted = max(logic.net.when[literal >> 1] for literal in logic.wanted) + ECP5.register
    model = (size.delay or 0.0) + (ECP5.register / PS if clock is None else 0.0)
    return Row((logic.net.luts(logic.wanted, 0), size.raw, placed.lut),
               (counted / PS if clock is None else clock, model, placed.clock))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="without netlists for LUTs of six inputs")
    options = parser.parse_args()
    ratios = []
    for name, goal, clock in DESIGNS:
        row = measured(name, goal, clock, ECP5)
        ratios.append(row.ns[2] / row.ns[1])
        print(f"{name:14}{goal:10}{clock or '-':>5}{''.join(f'{luts:8,}' for luts in row.luts)}"
              f"{''.join(f'{ns:8.2f}' for ns in row.ns)}{ratios[-1]:7.2f}", flush=True)
        if not options.ours and clock is None:
            other = measured(name, goal, clock, ULTRASCALE)
            print(f"{'':14}six inputs{'':5}{'':8}{other.luts[1]:8,}{other.luts[2]:8,}{'':8}{'':8}{other.ns[2]:8.2f}",
                  flush=True)
    mean = geometric_mean(ratios)
    spread = math.exp(np.std(np.log(ratios)))
    print(f"routed/model: geometric mean {mean:.3f}, {min(ratios):.2f} to {max(ratios):.2f}, spread x{spread:.2f}")


if __name__ == "__main__":
    main()
