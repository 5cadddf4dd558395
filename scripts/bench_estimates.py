"""Estimates by the table beside logic synthesis of the kernels, and for Verilog beside that of the whole design.

    python scripts/bench_estimates.py                  # an hour or more, most of it yosys'
    python scripts/bench_estimates.py digits           # networks by their names

Each row has the LUTs by the table and by yosys kernel for kernel (also packed), the ratio of the two, the least and the
largest ratio of kernels of 100 LUTs or more, and how long yosys took. Weights are random, batch norms have both signs.
Networks that are too large to be unrolled are balanced for some throughput. Needs the extra `rtl`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from typing import Any

import numpy as np

import bnnflow as bf
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph

PART = "xcvu13p-flga2577-2-e"
LOOPS, STREAM = {"strategy": "Resource"}, {"io_type": "io_stream"}
ROWS: dict[str, dict[str, dict[str, Any]]] = {  # network: {title: options}, of a build and of a balance
    "digits": {
        "unrolled": {}, "8 cycles": {**LOOPS, "interval": 8}, "64 cycles": {**LOOPS, "interval": 64},
        "Verilog": {"backend": "Verilog", "clock_period": 2.0},
    },
    "conv": {"io_stream": STREAM, "io_stream, 1,024 cycles": {**STREAM, "interval": 1024},
             "arrays, 64 cycles": {**LOOPS, "interval": 64}},
    "mnist": {"unrolled": {}, "16 cycles": {**LOOPS, "interval": 16}},
    "mnist ternary": {"unrolled": {}, "16 cycles": {**LOOPS, "interval": 16}},
    "cnv": {f"{n:,} a second": {**STREAM, "throughput": n} for n in (1000, 20000)},
    "glt": {"1,000 a second": {**STREAM, "throughput": 1000}},
}
GOALS = ("interval", "throughput")


def network(name: str) -> Graph:
    """A network of ours with random weights."""
    import bnnflow.train  # noqa: F401  # isort: skip
    from bnnflow.generation import keras
    from bnnflow.models import cnv, digits, glt, mnist

    makers: dict[str, tuple[Any, str]] = {
        "digits": (digits.build, digits.INPUT_TYPE), "mnist": (mnist.build, "ufixed<8,0>"),
        "mnist ternary": (lambda: mnist.build("ternary"), "ufixed<8,0>"), "cnv": (cnv.build, "ufixed<8,0>"),
        "glt": (glt.build, "ufixed<8,0>"), "conv": (_conv, "fixed<2,2>"),
    }
    build, input_type = makers[name]
    keras.utils.set_random_seed(0)
    model, rng = build(), np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            n = layer.gamma.shape[0]
            layer.set_weights([rng.normal(0, 1, n), rng.normal(0, 1, n), rng.normal(0, 3, n), rng.uniform(1, 90, n)])
    return bf.lower(model, input_type)


def _conv() -> Any:
    """One binary 3x3x32x32 convolution on 8x8, `same`."""
    from qkeras import QActivation, QConv2D, binary

    from bnnflow.generation import keras

    x = keras.Input((8, 8, 32))
    h = QConv2D(32, 3, padding="same", kernel_quantizer=binary(alpha=1), use_bias=False)(
        QActivation("binary(alpha=1)")(x))
    return keras.Model(x, QActivation("binary(alpha=1)")(keras.layers.BatchNormalization()(h)))


def row(title: str, graph: Graph, options: dict[str, Any]) -> str:
    """The row of a network with some options."""
    config = bf.BuildConfig(part=PART, **{key: value for key, value in options.items() if key not in GOALS})
    config = bf.balanced(graph, config, **{key: value for key, value in options.items() if key in GOALS})
    table, start = bf.estimate(graph, config), time.time()
    found = bf.estimate(graph, config, synthesize=True)
    seconds = time.time() - start
    assert table.lut and found.lut
    ratios = [one.lut / two.lut for one, two in zip(table.modules, found.modules)
              if one.lut and two.lut and two.lut >= 100 and two.source == "kernel synthesis"]
    packed = sum(m.lut if m.lut_packed is None else m.lut_packed for m in found.modules if m.lut is not None)
    whole = ""
    if config.target.one_netlist:
        facts = whole_design(graph, config)
        whole = f"{facts.lut:,} ({facts.ff:,} FF, kernels {found.ff:,}, table {table.ff:,})"
    return (f"| {title} | {table.lut:,} | {found.lut:,} | {packed:,} | {table.lut / found.lut:.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} | {seconds:.0f} | {whole} |")


def whole_design(graph: Graph, config: bf.BuildConfig) -> Facts:
    """Logic synthesis of the project."""
    with tempfile.TemporaryDirectory() as folder:
        return bf.synthesize(bf.build(graph, replace(config, output_dir=f"{folder}/prj")))


def main() -> None:
    """A row for every network and its options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(ROWS), help=", ".join(ROWS))
    print("| network | table, LUTs | kernels by yosys | packed | table / yosys | single kernels | seconds | whole |")
    print("|---|---|---|---|---|---|---|---|")
    for name in parser.parse_args().networks:
        graph = network(name)
        for title, options in ROWS[name].items():
            print(row(f"{name}, {title}", graph, options), flush=True)


if __name__ == "__main__":
    main()
