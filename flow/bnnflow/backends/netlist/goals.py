"""What a netlist is to be best at, and the ways to make a sum among which the goal chooses.

A sum and what follows it, up to its codes, is made in every way that may serve the goal, each is counted, and the best
one stays. LUTs and ns are counted in the netlist itself; yosys finds the same numbers for trees of LUTs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bnnflow.backends.netlist.subexpressions import UNBOUNDED
from bnnflow.devices.fabric import PS, Fabric

__all__ = ["AREA", "GOALS", "Goal", "Plan", "goal_of", "plans", "rank"]

Goal = str | float  # one of GOALS, or ns that no layer's logic should take more of
AREA, BALANCED, DELAY = "area", "balanced", "delay"
GOALS = {AREA: "the fewest LUTs", BALANCED: "the least product of LUTs and ns", DELAY: "the fewest ns"}


class Plan(NamedTuple):
    """A way to make a sum: of trees of LUTs or of carry chains, with so many common sums one behind the other.

    `deadline` is when comparisons by trees must be ready, in ps: the smallest of such trees are made. Where it is
    earlier than can be, they are ready as soon as can be.
    """

    trees: bool
    depth: int
    deadline: int = 0


CHAINS = [Plan(False, depth) for depth in (UNBOUNDED, 2, 1, 0)]
TREES = [Plan(True, depth) for depth in (3, 2, 1, 0)]
SMALLEST = Plan(True, UNBOUNDED, 10**9)  # tree


def goal_of(value: object) -> Goal | None:
    """A value as a goal: a name of GOALS, or a number of ns from 0.1 to 1000; None for any other value."""
    if isinstance(value, str):
        return value if value in GOALS else None
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    return float(value) if number and 0.1 <= value <= 1000 else None  # type: ignore[arg-type, operator]


def plans(goal: Goal, fabric: Fabric) -> list[Plan]:
    """The plans among which a goal chooses; where carry chains do not compress, all are trees of LUTs."""
    if not fabric.compresses:
        return [SMALLEST] if goal == AREA else [SMALLEST, *TREES]
    if goal == AREA:
        return CHAINS[:1]
    return TREES if goal in GOALS else [*CHAINS, *TREES]


def rank(goal: Goal, luts: int, ps: int) -> tuple[float, ...]:
    """The less, the better: of LUTs and ps by a goal."""
    if isinstance(goal, str):
        return {AREA: (luts, ps), BALANCED: (luts * ps, luts), DELAY: (ps, luts)}[goal]
    return max(0, ps - round(goal * PS)), luts, ps
