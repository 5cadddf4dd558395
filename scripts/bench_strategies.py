"""What a strategy costs in g++: time and memory to write, compile and run a project of each.

    python scripts/bench_strategies.py [reference mnist NET.npz ...] [--samples 2000]

Prints one row a network and strategy, io_parallel. Networks are the 160-to-64 ternary layer of scripts/bench_luts.py,
the binary network 784-128-128-128-10 with random weights, or a saved graph. Times are those of the processor, not of
the wall; the program's is for one sample and includes reading and comparing its numbers. Every output is compared with
the graph.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from bench_luts import reference

import bnnflow as bf
from bnnflow.ir import BIPOLAR, Graph, Node, Op, Steps, Weights
from bnnflow.ir.verify import dot_domain
from bnnflow.toolchains import process as tools

STRATEGIES = ("Latency", "distributed_arithmetic")


def mnist() -> Graph:
    """784-128-128-128-10: levels +-1, thresholds near the middle, sums at the end."""
    rng = np.random.default_rng(0)
    nodes = [Node("x", Op.INPUT, (), (784,), BIPOLAR)]
    for k, (inputs, outputs) in enumerate([(784, 128), (128, 128), (128, 128), (128, 10)]):
        weights = Weights(rng.choice([-1, 1], (inputs, outputs)), np.ones((inputs, outputs), bool))
        domain = dot_domain(nodes[-1].domain, weights)
        nodes.append(Node(f"dense{k}", Op.DOT, (nodes[-1].name,), (outputs,), domain, weights))
        if k < 3:
            steps = Steps(np.zeros(outputs, np.int64), np.ones(outputs, np.int64), rng.integers(-8, 9, (outputs, 1)))
            nodes.append(Node(f"act{k}", Op.STEP, (nodes[-1].name,), (outputs,), BIPOLAR, steps))
    return Graph(tuple(nodes), (nodes[-1].name,))


NETWORKS: dict[str, Callable[[], Graph]] = {"reference": lambda: reference().graph(), "mnist": mnist}


def measure(name: str, strategy: str, samples: int) -> str:
    """A row of the table."""
    graph = NETWORKS[name]() if name in NETWORKS else bf.load(name)
    rng, calls, call = np.random.default_rng(1), list[tuple[float, float]](), tools.call

    def used() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return children.ru_utime + children.ru_stime

    def timed(*arguments: Any, **options: Any) -> int:
        before = used()
        code = call(*arguments, **options)
        calls.append((used() - before, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024))
        return code

    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder  # a kept simulation would not be compiled
        start = time.process_time()
        bf.build(graph, bf.BuildConfig(output_dir=Path(folder) / "prj", strategy=strategy))
        written = time.process_time() - start
        tools.call = timed
        codes = [rng.integers(node.domain.lo, node.domain.hi, (samples, *node.shape), endpoint=True)
                 for node in graph.inputs]
        bf.simulate(Path(folder) / "prj", codes)
    (compiled, peak), (run, _) = calls
    return (f"| {name} | {strategy} | {written:.1f} | {compiled:.1f} | {peak:.0f} | {1e6 * run / samples:.0f} | "
            f"{samples * sum(graph[n].size for n in graph.outputs):,}, 0 differ |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--samples", type=int, default=2000)
    options = parser.parse_args()
    print("| network | strategy | write s | g++ s | g++ peak MB | a sample, us | outputs |", "|---" * 7 + "|", sep="\n")
    for name in options.networks:
        for strategy in STRATEGIES:  # each in a process of its own, which has a peak memory of its own
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                print(pool.submit(measure, name, strategy, options.samples).result(), flush=True)


if __name__ == "__main__":
    main()
