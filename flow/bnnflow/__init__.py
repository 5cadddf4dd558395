"""bnnflow: binary, ternary and sparse-binary networks from QKeras to FPGAs, exactly.

The verbs; each imports what it needs when it is called, so `import bnnflow` is quick and needs no TensorFlow.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bnnflow.errors import BnnflowError, InputError, LoweringError, Mismatch, ToolError
from bnnflow.version import __version__

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bnnflow.backends.backend import BuildConfig
    from bnnflow.backends.project import Project
    from bnnflow.comparison import Comparison
    from bnnflow.facts.facts import Facts
    from bnnflow.ir import Graph
    from bnnflow.ir.input_types import InputType

__all__ = [
    "__version__",
    "BuildConfig", "BnnflowError", "InputError", "LoweringError", "Mismatch", "ToolError", "argmax", "balanced",
    "build", "compare", "estimate", "load", "lower", "narrowest_type", "report", "run", "save", "simulate",
    "split_encoder", "synthesize", "to_hls4ml", "trace",
]


def __getattr__(name: str) -> Any:
    if name == "BuildConfig":
        from bnnflow.backends.backend import BuildConfig

        return BuildConfig
    raise AttributeError(f"module 'bnnflow' has no attribute {name!r}")


def lower(model: Any, input_type: InputType | None = None, output_type: str | None = None) -> Graph:
    """Keras model or path -> integer graph that computes the same codes; see `bnnflow.frontends.keras.lower.lower`."""
    from bnnflow.frontends.keras.lower import lower

    return lower(model, input_type, output_type)


def narrowest_type(x: Any) -> Any:
    """The narrowest type of inputs that holds an array exactly, for `lower`; see `bnnflow.ir.input_types`."""
    from bnnflow.ir.input_types import narrowest_type

    return narrowest_type(x)


def report(projects: Any, output: str | os.PathLike[str] | None = None, data: Any = None, labels: Any = None) -> Any:
    """A report on one project or several, as .html, .md, .csv or .json; see `bnnflow.reports.reporting.report`."""
    from bnnflow.reports.reporting import report

    return report(projects, output, data, labels)


def run(graph: Graph, codes: Any, engine: str | None = None) -> Any:
    """Exact outputs, int64 (n, *shape), for input codes (n, *shape); lists where there are several.

    `engine`: "numpy", "native" (C++, at full speed) or "auto"; see `bnnflow.ir.evaluate.run`.
    """
    from bnnflow.ir.evaluate import run

    return run(graph, codes, engine)


def trace(graph: Graph, codes: Any) -> dict[str, NDArray[np.int64]]:
    """Codes of every node by name."""
    from bnnflow.ir.evaluate import trace

    return trace(graph, codes)


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph to one .npz file."""
    from bnnflow.ir.store import save

    save(graph, path)


def argmax(graph: Graph) -> Graph:
    """The graph whose outputs are classes: the place of the largest logit; see `bnnflow.ir.passes.argmax`."""
    from bnnflow.ir.passes import argmax

    return argmax(graph)


def split_encoder(graph: Graph) -> tuple[Graph, Graph]:
    """(front, core): the thermometer's comparators, and the network that takes their planes."""
    from bnnflow.ir.passes import split_encoder

    return split_encoder(graph)


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a graph written by `save`; the file is checked, nothing in it is executed."""
    from bnnflow.ir.store import load

    return load(path)


def to_hls4ml(graph: Graph, config: BuildConfig | None = None) -> Any:
    """The hls4ml ModelGraph of a graph: `compile()`, `predict()` and `build()` equal the graph."""
    from bnnflow.backends.backend import BuildConfig
    from bnnflow.backends.hls.hls4ml_model import to_hls4ml

    return to_hls4ml(graph, config or BuildConfig())


def balanced(graph: Graph, config: BuildConfig | None = None, interval: int | None = None,
             throughput: float | None = None, fit: bool = False) -> BuildConfig:
    """The options in which every sum has the smallest folding for an interval in cycles, for a throughput in inputs a
    second, or for the part; see `bnnflow.estimates.balance.balanced`.
    """
    from bnnflow.backends.backend import BuildConfig
    from bnnflow.synthesis import balanced

    return balanced(graph, config or BuildConfig(), interval=interval, throughput=throughput, fit=fit)


def build(graph: Graph, config: BuildConfig | None = None, vectors: Any = None, *, interval: int | None = None,
          throughput: float | None = None, fit: bool = False) -> Project:
    """Write the HLS or Verilog project of a graph, whole or not at all; see `bnnflow.builder.build`.

    With an `interval`, a `throughput` or `fit` it has the folding that `balanced` finds, and says so in its manifest.
    """
    from bnnflow.builder import build

    return build(graph, balanced(graph, config, interval, throughput, fit), vectors)


def compare(model: Any, project: str | os.PathLike[str], x: Any) -> Comparison:
    """Keras, graph and C simulation layer by layer: the first divergence, or "equal"; see `comparison.compare`."""
    from bnnflow.comparison import compare

    return compare(model, project, x)


def simulate(project: str | os.PathLike[str], codes: Any = None, tool: str | None = None, via: str = "",
             say: Any = None) -> Any:
    """Run the project's own sources and compare every output bit with the stored graph; see `simulation.simulate`."""
    from bnnflow.simulation import simulate

    return simulate(project, codes, tool, via, say)


def estimate(design: Graph | str | os.PathLike[str], config: BuildConfig | None = None, baseline: bool = False,
             synthesize: bool = False, *, interval: int | None = None, throughput: float | None = None,
             fit: bool = False) -> Facts:
    """Resources and latency of a graph (with the options of a build) or a project, without any vendor's tool.

    C++ from a table, Verilog counted in its netlist; with `synthesize` by logic synthesis of every kernel (yosys),
    which is kept for the report of a project; with `baseline`, what stock hls4ml's kernels would cost; with an
    `interval`, a `throughput` or `fit` those of the folding that `balanced` finds for a graph. See
    `bnnflow.synthesis.estimate`.
    """
    from bnnflow.synthesis import estimate

    return estimate(design, config, baseline, synthesize, interval=interval, throughput=throughput, fit=fit)


def synthesize(project: str | os.PathLike[str], tool: str | None = None, **options: Any) -> Facts:
    """Resources, latency and clock as a synthesis tool gives them; see `bnnflow.synthesis.synthesize`."""
    from bnnflow.synthesis import synthesize

    return synthesize(project, tool, **options)
