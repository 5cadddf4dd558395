"""Folding: how many outputs (`pe`) and taps (`simd`) of a sum its hardware computes in a cycle, in FINN's words.

A loop computes a position in passes of `pe` outputs each, and every pass in chunks of `simd` taps, one chunk a cycle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from bnnflow.backends.backend import BuildConfig
from bnnflow.errors import InputError
from bnnflow.ir import Node, Weights, Window

__all__ = ["Folding", "folding_of", "foldings", "groups_of"]


@dataclass(frozen=True)
class Folding:
    """The loop of a node: `outputs` of a position, `pe` at a time, each of `taps`, `simd` at a time.

    The hardware computes `at_once` of the `positions` at the same time. By default nothing is folded.
    """

    outputs: int = 1
    taps: int = 1
    pe: int = 1
    simd: int = 1
    positions: int = 1
    at_once: int = 1

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
        return self.passes * self.chunks

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


def _choices(node: Node, source: Node) -> tuple[list[int], list[int]]:
    """(values of `pe`, values of `simd`) that a sum or maximum can have.

    All lanes of a cycle read the same taps: of one tap of the kernel some channels, or all taps at once. Where channels
    are in groups, lanes are those of whole groups, with all their taps.
    """
    whole, groups = _unfolded(node, source), groups_of(node, source)
    if groups > 1:
        return [whole.outputs // groups * n for n in _divisors(groups)], [whole.taps]
    window = source.params
    channels = whole.taps // (window.taps if isinstance(window, Window) else 1)
    return _divisors(whole.outputs), sorted({*_divisors(channels), whole.taps})


def foldings(node: Node, source: Node) -> list[Folding]:
    """All foldings of one position at a time that a sum or maximum can have, the fastest first, the smallest of equals.

    `source` is what the node reads, a WINDOW or another node.
    """
    whole, (lanes, widths) = _unfolded(node, source), _choices(node, source)
    window = isinstance(source.params, Window) and source.params.taps > 1

    def size(f: Folding) -> int:
        """What grows with the lanes: taps, the sum and thresholds of each, and a window in registers."""
        return (f.pe * f.simd + 16 * f.pe) * source.domain.bits + (2 * f.taps if window and f.simd == f.taps else 0)

    made = [replace(whole, pe=pe, simd=simd) for pe in lanes for simd in widths]
    return sorted(made, key=lambda f: (f.folds, size(f)))


def _blocks(positions: Sequence[int]) -> list[int]:
    """Numbers of positions that can be computed at once from an array: equal parts of a row, or whole rows."""
    rows, cols = (1, *positions)[-2:]
    return sorted({*_divisors(cols), *(cols * n for n in _divisors(rows))})


def folding_of(node: Node, source: Node, config: BuildConfig) -> Folding:
    """The folding of a node: what `layers` asks for, or the smallest one that takes at most `reuse_factor` cycles.

    These are the cycles of a position in io_stream, and those of the whole node in io_parallel, where "Latency" folds
    nothing and "Resource" computes several positions at once where it has fewer cycles than positions. Only sums and
    maxima are folded. Raises InputError for a `pe` or `simd` that does not divide, with the nearest that do.
    """
    if not node.traits.taps:
        return Folding(node.shape[-1], 1, node.shape[-1], 1, prod(node.shape[:-1]), 1 if config.stream else
                       prod(node.shape[:-1]))
    whole, asked = _unfolded(node, source), config.layers.get(node.name, {})
    told = {key: int(asked[key]) for key in ("pe", "simd") if key in asked}
    if config.strategy_of(node.name) == "distributed_arithmetic" or not (config.stream or config.is_loop(node.name)):
        return whole if config.stream else replace(whole, at_once=whole.positions)
    if told:
        _check_told(node, source, told)
    reuse = config.reuse_of(node.name)
    window = source.params
    places = window.positions if isinstance(window, Window) else (1, whole.positions)
    if not config.stream and not told:
        at_once = min(n for n in _blocks(places) if whole.positions <= n * reuse or n == whole.positions)
        if at_once > 1:
            return replace(whole, at_once=at_once)
        reuse //= whole.positions
    return _smallest(node, source, told, reuse)


def _smallest(node: Node, source: Node, told: Mapping[str, int], reuse: int) -> Folding:
    """The smallest folding of at most `reuse` cycles; `told` fixes `pe`, `simd` or both, where what is left is whole."""
    whole = _unfolded(node, source)
    if told:
        lanes = [f for f in foldings(node, source) if all(getattr(f, key) == value for key, value in told.items())]
        if len(told) == 2 or not lanes:
            return lanes[0] if lanes else whole
    else:
        lanes = foldings(node, source)
    fast = [f for f in lanes if f.folds <= reuse] or lanes[:1]
    most = fast[-1].folds
    return next(f for f in fast if f.folds == most)


def _check_told(node: Node, source: Node, told: Mapping[str, int]) -> None:
    """Raises InputError for a `pe` or `simd` that the node cannot have."""
    for key, choices in zip(("pe", "simd"), _choices(node, source)):
        if key in told and told[key] not in choices:
            below = max([n for n in choices if n < told[key]], default=choices[0])
            above = min([n for n in choices if n > told[key]], default=choices[-1])
            nearest = " or ".join(map(str, sorted({below, above})))
            raise InputError(f"node {node.name!r}: {key}={told[key]} does not divide its "
                             f"{'outputs' if key == 'pe' else 'taps'} evenly; the nearest that does is {nearest}, of "
                             f"{', '.join(map(str, choices))}")
