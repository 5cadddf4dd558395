"""Folding: how many outputs (`pe`) and taps (`simd`) of a sum its hardware computes in a cycle, in FINN's words.

A loop computes a position in passes of `pe` outputs each, and every pass in chunks of `simd` taps, one chunk a cycle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import prod

from bnnflow.backends.backend import BuildConfig
from bnnflow.errors import InputError
from bnnflow.ir import Node, Op, Weights, Window

__all__ = ["Folding", "all_foldings", "folding_of", "foldings", "groups_of", "in_memory", "told"]

# Instructions that a node of Latency may have in the top function, which a compiler schedules as a whole, and in a
# function of its own; and those of a tap, of which the first additions are shared by all outputs.
WHOLE, PART = 12_000, 40_000
ONE_BIT_TAP, WIDE_TAP = 0.6, 3.0


@dataclass(frozen=True)
class Folding:
    """The loop of a node: `outputs` of a position, `pe` at a time, each of `taps`, `simd` at a time.

    The hardware computes `at_once` of the `positions` at the same time. By default nothing is folded. Where passes are
    `apart` they are not in a loop: each is hardware of its own, a function that a compiler can take.
    """

    outputs: int = 1
    taps: int = 1
    pe: int = 1
    simd: int = 1
    positions: int = 1
    at_once: int = 1
    apart: bool = False

    @property
    def passes(self) -> int:
        """Passes over the outputs of a position."""
        return self.outputs // self.pe

    @property
    def chunks(self) -> int:
        """Chunks of taps of a pass."""
        return self.taps // self.simd

    @property
    def folds(self) -> int:
        """Cycles of a position."""
        return 1 if self.apart else self.passes * self.chunks

    @property
    def turns(self) -> int:
        """How often the hardware is used for the positions of an image."""
        return self.positions // self.at_once

    @property
    def cycles(self) -> int:
        """Cycles of an image, without those in which its pixels come in."""
        return self.turns * self.folds


def groups_of(node: Node, source: Node) -> int:
    """Groups of channels that a sum or maximum reads, each for outputs of its own.

    Where a sum's groups are not those of the window below, every output reads all channels.
    """
    p = node.params
    if not isinstance(p, Weights):
        return node.shape[-1]
    window = source.params
    return p.groups if not isinstance(window, Window) or window.groups == p.groups else 1


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]


def _unfolded(node: Node, source: Node) -> Folding:
    """All outputs and taps of a sum or maximum at once, one position at a time."""
    taps = source.shape[-1] // groups_of(node, source)
    outputs = node.shape[-1]
    return Folding(outputs, taps, outputs, taps, prod(node.shape[:-1]), 1)


def _choices(node: Node, source: Node, stream: bool) -> list[tuple[int, int]]:
    """All (pe, simd) that a sum or maximum can have, of a stream or of an array.

    Lanes of a sum read the same taps: of one tap of the kernel some channels, or all taps at once. Lanes of a maximum,
    or of channels in groups, are those of whole groups, with all their taps; in a stream a sum can have lanes of one
    group.
    """
    whole, groups = _unfolded(node, source), groups_of(node, source)
    own = whole.outputs // groups  # outputs of a group
    several = [(own * n, whole.taps) for n in _divisors(groups)]
    if node.op is not Op.DOT or (groups > 1 and not stream):
        return several
    widths = _divisors(whole.taps // _window_taps(source)) + [whole.taps] * (groups == 1)
    return sorted({*several, *product(_divisors(own), widths)})


def _window_taps(source: Node) -> int:
    return source.params.taps if isinstance(source.params, Window) else 1


def in_memory(node: Node, source: Node, folding: Folding) -> bool:
    """True where a stream's window is kept in a memory, of which a chunk is read in a cycle, not in registers."""
    groups = groups_of(node, source)
    if folding.simd == folding.taps and folding.pe % (folding.outputs // groups) == 0 or folding.folds == 1:
        return False
    return groups > 1 or (folding.chunks > 1 and _window_taps(source) > 1)


def foldings(node: Node, source: Node, stream: bool = True) -> list[Folding]:
    """All foldings of one position at a time that a sum or maximum can have, the fastest first, the smallest of equals.

    `source` is what the node reads, a WINDOW or another node.
    """
    whole = _unfolded(node, source)

    def size(f: Folding) -> int:
        """What grows with the lanes: taps, the sum and thresholds of each, and a window in registers."""
        registers = 0 if in_memory(node, source, f) else 2 * f.taps * (_window_taps(source) > 1)
        return (f.pe * f.simd + 16 * f.pe + registers) * source.domain.bits

    made = [replace(whole, pe=pe, simd=simd) for pe, simd in _choices(node, source, stream)]
    return sorted(made, key=lambda f: (f.folds, size(f)))


def _blocks(node: Node, source: Node) -> list[int]:
    """Numbers of positions that can be computed at once from an array: equal parts of a row, or whole rows."""
    places = source.params.positions if isinstance(source.params, Window) else (prod(node.shape[:-1]),)
    rows, cols = (1, *places)[-2:]
    return sorted({*_divisors(cols), *(cols * n for n in _divisors(rows))})


def all_foldings(node: Node, source: Node, stream: bool) -> list[Folding]:
    """All foldings of a loop that a sum or maximum can have, of an array also those of several positions at a time."""
    whole = _unfolded(node, source)
    blocks = [] if stream else [replace(whole, at_once=n) for n in _blocks(node, source) if n > 1]
    return [*blocks, *foldings(node, source, stream)]


def told(folding: Folding) -> dict[str, int]:
    """The options in `layers` of a node that give it one of `all_foldings`."""
    if folding.at_once > 1:
        return {"reuse_factor": folding.turns}
    return {"pe": folding.pe, "simd": folding.simd}


def folding_of(node: Node, source: Node, config: BuildConfig) -> Folding:
    """The folding of a node: what `layers` asks for, or the smallest one that takes at most `reuse_factor` cycles.

    These are the cycles of a position in io_stream, and those of the whole node in io_parallel, where "Latency" folds
    nothing and "Resource" computes several positions at once where it has fewer cycles than positions. Only sums and
    maxima are folded. Raises InputError for a `pe` or `simd` that does not divide, with the nearest that do, and for
    one that takes more cycles than the node's own `reuse_factor`.
    """
    if not node.traits.taps:
        return Folding(node.shape[-1], 1, node.shape[-1], 1, prod(node.shape[:-1]), 1 if config.stream else
                       prod(node.shape[:-1]))
    whole, asked = _unfolded(node, source), config.layers.get(node.name, {})
    told = {key: int(asked[key]) for key in ("pe", "simd") if key in asked}
    if config.strategy_of(node.name) == "distributed_arithmetic" or not (config.stream or config.is_loop(node.name)):
        return whole if config.stream else _apart(node, source, replace(whole, at_once=whole.positions))
    if told:
        _check_told(node, source, told, config.stream)
    reuse = config.reuse_of(node.name)
    if not config.stream and not told:
        at_once = min(n for n in _blocks(node, source) if whole.positions <= n * reuse or n == whole.positions)
        if at_once > 1:
            return replace(whole, at_once=at_once)
    turns = 1 if config.stream else whole.positions
    folding = _smallest(node, source, told, reuse // turns, config.stream)
    if told and "reuse_factor" in asked and turns * folding.folds > reuse:
        raise InputError(f"node {node.name!r}: {_said(told)} takes {turns * folding.folds} cycles"
                         f"{' a position' if config.stream else ''}, more than its reuse_factor={reuse}; leave out one "
                         "or the other")
    return folding


def _apart(node: Node, source: Node, whole: Folding) -> Folding:
    """A node that is computed at once, in functions of their own where a compiler would not take it in one."""
    of_tap = ONE_BIT_TAP if source.domain.size == 2 else WIDE_TAP
    size = whole.outputs * whole.taps * of_tap
    if whole.positions * size <= WHOLE:
        return whole
    lanes = [pe for pe, simd in _choices(node, source, False) if simd == whole.taps]
    most = max((pe for pe in lanes if pe * whole.taps * of_tap <= PART), default=min(lanes))
    return replace(whole, apart=True, pe=most)


def _smallest(node: Node, source: Node, told: Mapping[str, int], reuse: int, stream: bool) -> Folding:
    """The smallest folding with what is `told` of `pe` and `simd`, of at most `reuse` cycles or as few as there are."""
    lanes = [f for f in foldings(node, source, stream) if all(getattr(f, key) == n for key, n in told.items())]
    fast = [f for f in lanes if f.folds <= reuse] or lanes[:1]
    return next(f for f in fast if f.folds == fast[-1].folds)


def _check_told(node: Node, source: Node, told: Mapping[str, int], stream: bool) -> None:
    """Raises InputError for a `pe` or `simd` that the node cannot have, with the nearest that it can."""
    made = foldings(node, source, stream)
    for key, value in told.items():
        choices = sorted({getattr(f, key) for f in made})
        if value not in choices:
            near = {max([n for n in choices if n < value], default=choices[0]),
                    min([n for n in choices if n > value], default=choices[-1])}
            raise InputError(f"node {node.name!r}: {_said(told)} does not divide its outputs and taps evenly; for "
                             f"{key} use {' or '.join(map(str, sorted(near)))}, of {', '.join(map(str, choices))}")
        made = [f for f in made if getattr(f, key) == value]


def _said(told: Mapping[str, int]) -> str:
    return ", ".join(f"{key}={value}" for key, value in told.items())
