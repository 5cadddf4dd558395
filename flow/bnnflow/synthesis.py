"""Sizes and speeds: as a synthesis tool gives them, or estimated without one."""

from __future__ import annotations

import os
from typing import Any

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.project import GRAPH, Project
from bnnflow.errors import InputError
from bnnflow.estimates.balance import balanced as table_balanced
from bnnflow.estimates.baseline import estimate_baseline
from bnnflow.estimates.estimate import estimate as table_estimate
from bnnflow.estimates.kernels import synthesized_cost
from bnnflow.facts.facts import Facts
from bnnflow.facts.kept import keep_facts
from bnnflow.ir import Graph
from bnnflow.ir.passes import split_encoder
from bnnflow.toolchains.toolchain import Toolchain, chosen, synthesizers

__all__ = ["balanced", "estimate", "synthesize", "synthesizer"]


def balanced(graph: Graph, config: BuildConfig, **goal: Any) -> BuildConfig:
    """The options in which all sums are folded for an interval, a throughput or the part.

    See `bnnflow.estimates.balance.balanced`. Without any goal they are `config`.
    """
    if all(value is None or value is False for value in goal.values()):
        return config
    inside = split_encoder(graph)[1] if config.encoder == "outside" else graph
    return table_balanced(inside, config, **goal)


def estimate(design: Graph | str | os.PathLike[str], config: BuildConfig | None = None, baseline: bool = False,
             synthesize: bool = False, **goal: Any) -> Facts:
    """Facts of a graph with the options of a build, or of a project, which has its own.

    With a `goal` (`interval`, `throughput` or `fit`) they are those of the options that `balanced` finds for a graph.

    By the table of `bnnflow.estimates.costs`, netlists counted; with `synthesize` by yosys, kernel for kernel
    (`bnnflow.estimates.kernels`), kept with the project for its report; with `baseline` of stock hls4ml's kernels
    (`bnnflow.estimates.baseline`).

    Raises InputError for what a build would refuse, for both `baseline` and `synthesize`, and for a goal beside a
    project; ToolError where yosys is missing or fails.
    """
    if baseline and synthesize:
        raise InputError("stock kernels are known from a table only; give baseline or synthesize")
    if isinstance(design, Graph):
        if baseline:
            return estimate_baseline(design)
        found = balanced(design, config or BuildConfig(), **goal)
        return _estimated(design, found, synthesize, advise=not any(goal.values()))
    project = Project.open(design)
    if asked := [name for name, value in goal.items() if value]:
        raise InputError(f"{', '.join(asked)}: a project has its own folding; estimate {GRAPH} in its folder")
    graph = project.graph()
    if baseline:
        return estimate_baseline(graph)
    if config is not None:  # another build of the project's graph
        split = project.config.encoder == "outside"
        return _estimated(graph, config, synthesize, split)
    facts = _estimated(graph, project.config, synthesize, split=True, cycles=project.cycles)
    return keep_facts(project, "kernels", "synthesis", facts) if synthesize else facts


def _estimated(graph: Graph, config: BuildConfig, synthesize: bool, split: bool = False, cycles: int = 0,
               advise: bool = True) -> Facts:
    """Facts of a graph; `split`: it comes without its encoder where that is outside. `cycles` is a known latency.

    `advise`: a note may say with which options HLS compilers have less trouble.
    """
    if config.encoder == "outside" and not split:
        graph = split_encoder(graph)[1]
    config.target.check(graph, config)
    config = config.clocked(graph)
    return table_estimate(graph, config, synthesized_cost(graph, config) if synthesize else None, cycles, advise)


def synthesize(folder: str | os.PathLike[str], tool: str | None = None, **options: Any) -> Facts:
    """Facts of a project as a synthesis tool gives them; kept, so that the same again costs nothing.

    `tool`: for C++ "vitis" or "vivado" (by default that of its backend), with the options of
    `bnnflow.toolchains.vitis.synthesize`: `steps` ("csynth", "cosim", "export", "logic"), `via`, `hours`. For Verilog
    "yosys", with `family` ("xc7", "xcup", "ice40", "ecp5") and `layers` (True: every layer alone, too), or "nextpnr"
    (place and route on an ECP5) with `device` ("25k", "45k", "85k"). `say` gets every line of a vendor's tool.

    Raises InputError for a tool that does not take such a project or such options, ToolError where the tool is missing
    or fails, Mismatch where co-simulation differs.
    """
    project = Project.open(folder)
    toolchain = synthesizer(project, tool)
    known = ("say", *(option.name for option in toolchain.options))
    if unknown := [name for name in options if name not in known]:
        raise InputError(f"{toolchain.name} has no option {', '.join(unknown)}; use some of {', '.join(known)}")
    assert toolchain.synthesize is not None
    return toolchain.synthesize(project, **options)


def synthesizer(project: Project, tool: str | None = None) -> Toolchain:
    """The toolchain that synthesises a project, by default its backend's; raises InputError as `synthesize` does."""
    return chosen(project, tool or project.target.synthesizer, synthesizers())
