"""CNV w1a1, folded, beside what was published of it: LUTs, flip-flops and RAM for the same speed.

    python scripts/bench_folding.py [--graph NET.npz] [--synthesize]

Of each row our folding, its cycles, size and speed by the table, and with --synthesize the LUTs by yosys, kernel by
kernel (minutes). Published numbers stand below their row with their source. The network has random weights and batch
norms of both signs; it is lowered by `bench_scale`, or read from a graph. Needs the extra `rtl` for --synthesize.

What is compared: ours are estimates before placement, of the network alone, FIFOs included. The published ones are
routed, and those of BNN-PYNQ have the DMA and the interconnect of its overlay in them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import bnnflow as bf
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph

STREAM = {"io_type": "io_stream"}
# outputs and taps of a cycle of BNN-PYNQ's CNVW1A1, by its configuration; its last layer has 64 outputs, ours 10.
PYNQ = {"conv1": (16, 3), "conv2": (32, 32), "conv3": (16, 32), "conv4": (16, 32), "conv5": (4, 32), "conv6": (1, 32),
        "dense1": (1, 4), "dense2": (1, 8), "logits": (2, 1)}
PYNQ_ROW = ("BNN-PYNQ, routed, with its overlay | xc7z020, 10 ns | 32,768 | 3,052 | 26,072 | | 41,312 | 248 | 24",
            "Xilinx/BNN-PYNQ, bnn/src/network/cnvW1A1: README.md (Vivado 2018.2: 76 RAMB36, 96 RAMB18) and hw/config.h "
            "(the slowest layers: WMEM 32,768)")
ROWS: tuple[tuple[str, dict[str, Any], dict[str, Any], tuple[str, str] | None], ...] = (
    ("1,000 images a second", {"part": "xczu9eg-ffvb1156-2-e", "clock_period": 5.0}, {"throughput": 1000}, None),
    ("an image every 32,768 cycles", {"part": "xc7z020clg400-1", "clock_period": 10.0}, {"interval": 32768}, None),
    ("our kernels in BNN-PYNQ's folding", {"part": "xc7z020clg400-1", "clock_period": 10.0, "layers": {
        name: {"pe": pe, "simd": simd} for name, (pe, simd) in PYNQ.items()}}, {}, PYNQ_ROW),
    ("21,906 images a second", {"part": "xc7z045ffg900-2", "clock_period": 5.0}, {"throughput": 21906},
     ("FINN, measured on a ZC706 | xc7z045, 5 ns | | 21,906 | | | | |",
      "Umuroglu et al., FPGA 2017, arXiv 1612.07119, abstract: 21,906 images a second, 283 us")),
    ("the fastest that fits", {"part": "xc7z020clg400-1", "clock_period": 10.0}, {"fit": True}, None),
)


def graph_of(path: Path | None) -> Graph:
    """The network."""
    if path is not None:
        return bf.load(path)
    from bench_scale import NETWORKS, network

    import bnnflow.train  # noqa: F401
    return bf.lower(network("cnv"), NETWORKS["cnv"][1])


def row(title: str, facts: Facts, synthesized: Facts | None) -> str:
    """Size and speed as a row."""
    assert facts.interval and facts.throughput
    by_yosys = "" if synthesized is None else f"{synthesized.lut:,} ({packed(synthesized):,})"
    return (f"| {title} | {facts.part.split('-')[0]}, {facts.period:g} ns | {facts.interval[1]:,} | "
            f"{facts.throughput:,.0f} | {facts.lut:,} | {by_yosys} | {facts.ff:,} | {facts.bram} | {facts.dsp} |")


def packed(facts: Facts) -> int:
    """LUTs of all kernels, small ones in pairs where yosys says so."""
    return sum(module.lut_packed or module.lut or 0 for module in facts.modules)


def main() -> None:
    """A row for every goal, what was published beside it, and the foldings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--synthesize", action="store_true")
    args = parser.parse_args()
    graph = graph_of(args.graph)
    print("| CNV w1a1 | part, clock | cycles an image | images a second | LUT | by yosys (packed) | FF | RAMB18 "
          "| DSP |")
    print("|---" * 9 + "|")
    notes = []
    for title, options, goal, published in ROWS:
        start = time.time()
        config = bf.balanced(graph, bf.BuildConfig(**STREAM, **options), **goal)
        facts, found = bf.estimate(graph, config), time.time() - start
        print(row(title, facts, bf.estimate(graph, config, synthesize=True) if args.synthesize else None), flush=True)
        folding = ", ".join(f"{name} {f['pe']}x{f['simd']}" for name, f in config.layers.items())
        notes.append(f"{title}: latency {facts.latency_ns:,.0f} ns, found in {found:.1f} s; pe x simd: {folding}")
        if published:
            print(f"| {published[0]} |")
            notes.append(f"{published[0].split(' | ')[0]}: {published[1]}")
    print("\n" + "\n".join(f"- {note}" for note in notes))


if __name__ == "__main__":
    main()
