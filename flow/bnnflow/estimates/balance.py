"""The balance of a whole network: every sum and maximum gets the smallest folding that keeps up with an interval.

As FINN's `target_fps`: a design is as fast as its slowest kernel, so that hardware in any other one is wasted. The size
of a folding is that of the table. Foldings of which HLS compilers would not take the instructions are left out. What
cannot keep up is refused, with the nearest that works.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from math import floor, log10
from numbers import Real
from typing import Any, NoReturn

from bnnflow.backends.backend import CPP, LAST, BuildConfig
from bnnflow.backends.hls.code_size import MOST
from bnnflow.backends.hls.cycles import cycles_of
from bnnflow.backends.hls.folding import Folding, all_foldings, folding_of, told
from bnnflow.backends.hls.fusion import check_room, code_size, is_netlist, prepared, row_size
from bnnflow.backends.hls.loops import window_loop
from bnnflow.devices.parts import PARTS, Part, part_of
from bnnflow.errors import InputError, as_given, in_words_of
from bnnflow.estimates.buffers import buffer_of
from bnnflow.estimates.costs import Cost, Work, follower, table_cost
from bnnflow.estimates.estimate import estimate, period_of
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph, Node

__all__ = ["balanced", "check_goal", "fitting"]

LUT_PER_BLOCK, LUT_PER_DSP = 150.0, 110.0  # of a part, where it is not known
SLOWEST, FASTEST = 1e-9, 1e12  # inputs a second, and cycles between them, that can be a goal
WEIGHTS = (1.0, 8.0, 0.125)  # of blocks and DSPs beside LUTs: one after the other, until a design fits
LANES = ("pe", "simd", "reuse_factor")  # options of a node that say how it is folded


def balanced(graph: Graph, config: BuildConfig, interval: int | None = None, throughput: float | None = None,
             fit: bool = False) -> BuildConfig:
    """The options in which every sum and maximum has the smallest folding that keeps up, written down in `layers`.

    Give one of: `interval`, at most so many cycles from an input to the next; `throughput`, so many inputs a second at
    the clock that the design can have; or `fit`, as fast as fits `config.part`. What `layers` says of `pe` and `simd`
    stays. For io_stream, and for nodes of io_parallel with strategy "Resource".

    Raises InputError where there is nothing to fold, or where no folding keeps up or fits, with the nearest that does.
    """
    check_goal(interval, throughput, fit)
    if interval is throughput is None and not fit:
        raise InputError("no goal: give one of interval, throughput and fit")
    balance = _Balance(graph, config)
    if fit:
        return _fastest(balance)
    if interval is not None:
        return _within(balance, int(interval))
    assert throughput is not None
    return _as_fast(balance, float(throughput))


def check_goal(interval: Any, throughput: Any, fit: bool) -> None:
    """Raises InputError for more than one goal, and for one that no design can have; None and False are no goal."""
    goals = {"interval": interval, "throughput": throughput, "fit": fit or None}
    named = {name: value for name, value in goals.items() if value is not None}
    if len(named) > 1:
        raise InputError(f"{as_given(**named)}: give one of interval, throughput and fit")
    if interval is not None and not (_is_number(interval, 1, FASTEST) and interval == int(interval)):
        raise InputError(f"{as_given(interval=interval)}: a whole number of cycles, from 1 to {FASTEST:.0f}")
    if throughput is not None and not _is_number(throughput, SLOWEST, FASTEST):
        raise InputError(f"{as_given(throughput=throughput)}: a number of inputs a second, above 0, from {SLOWEST:g} "
                         f"to {FASTEST:.0f}")


def _is_number(value: Any, least: float, most: float) -> bool:
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else 0
    return bool(least <= number <= most)


def _within(balance: _Balance, interval: int) -> BuildConfig:
    """The balance for an interval in cycles."""
    if interval < balance.least:
        raise InputError(f"{as_given(interval=interval)}: {balance.limit}; use {as_given(interval=balance.least)} or "
                         "more")
    return balance.config_at(interval)


def _as_fast(balance: _Balance, throughput: float) -> BuildConfig:
    """The balance for so many inputs a second, compared exactly: floats are rounded."""
    period = period_of(balance.config)
    cycles = Fraction(10**9) / Fraction(period)  # a second
    interval = cycles / Fraction(throughput)
    if interval < balance.least:
        asked, most = (int(value) if value == int(value) else value
                       for value in (throughput, _below(cycles / balance.least)))
        raise InputError(f"{as_given(throughput=asked)}, an input every {float(interval):.6g} cycles of {period:g} ns: "
                         f"{balance.limit}; use {as_given(throughput=most)} or less, or a shorter clock period")
    return balance.config_at(int(interval))


def _below(value: Fraction) -> float:
    """A number rounded down to a whole one, or to six digits where that is more."""
    digits = max(0, 5 - floor(log10(value)))
    whole = floor(value * 10**digits)
    while Fraction(float(f"{whole}e-{digits}")) > value:  # the float next to it may be above it
        whole -= 1
    return float(f"{whole}e-{digits}")


# --- what can be chosen ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Choice:
    """A folding of a kernel, its cycles an input, and its size."""

    folding: Folding
    cycles: int
    lut: float
    bram: int
    dsp: int


class _Balance:
    """The foldings that the sums and maxima of a graph can have, with the options of a build."""

    def __init__(self, graph: Graph, config: BuildConfig):
        self.graph, self.config = graph, config
        self.part = part_of(config.part)
        _check(graph, config)
        self.known = {node.name: node for node in prepared(graph, config)}
        # Followed by all that can be computed in the passes of a kernel.
        apart = {name: {key: value for key, value in row.items() if key not in LANES}
                 for name, row in config.layers.items()}
        widest = replace(config, reuse_factor=1 if config.stream else LAST, layers=apart)
        check_room(graph, widest)
        kernels = [nodes for nodes, _ in config.target.kernels(graph, widest)]
        self.rows = {nodes[0].name: nodes for nodes in kernels if _folds(nodes[0], self.known, config)}
        if not self.rows and any(node.traits.taps for node in graph):
            raise InputError(f"{as_given(strategy=config.strategy)}: {_why_not(config)}")
        self.choices = {name: self._choices(nodes) for name, nodes in self.rows.items()}
        self.sizes: dict[tuple[str, Folding], tuple[int, bool]] = {}
        self.others = 0  # instructions of what is not folded
        firsts = {name: self._first(name) for name in self.choices}
        first = max(firsts.values(), default=1)
        self.others = self._others(first)
        self.limited = not self._taken(first)
        first = self._first_taken(first) if self.limited else first
        fastest = estimate(graph, self.config_at(first), lambda kernel: Cost())
        slowest = max(fastest.modules, key=_interval, default=fastest)
        self.least = max(first, _interval(slowest))
        heads = {nodes[-1].name: nodes[0].name for nodes in kernels}
        self.slowest = (max(firsts, key=lambda name: firsts[name]) if firsts and self.least == first else
                        heads.get(slowest.name, slowest.name))

    @property
    def limit(self) -> str:
        """Words for what cannot keep up."""
        if self.limited:
            return (f"together the kernels are more than the {MOST['design']:,} instructions that HLS compilers take "
                    f"where an input comes in less than {self.least:,} cycles")
        faster = any(choice.cycles < self.least for choice in self.choices.get(self.slowest, ()))
        how = "in the fastest folding that HLS compilers take" if faster else "at its fastest"
        return f"the kernel of {self.slowest!r} takes {self.least:,} cycles an input {how}"

    @property
    def intervals(self) -> list[int]:
        """All intervals at which another folding is chosen."""
        found = {choice.cycles for choices in self.choices.values() for choice in choices}
        return sorted({self.least, *(cycles for cycles in found if cycles > self.least)})

    def config_at(self, interval: int, weight: float = 1.0) -> BuildConfig:
        """The options for an interval that all kernels can have; `weight` is that of blocks and DSPs beside LUTs."""
        chosen = self._smallest(interval, weight)
        if self._instructions(chosen) > MOST["design"]:
            chosen = self._shorter(chosen, interval)
        return self._with(chosen)

    def _smallest(self, interval: int, weight: float = 1.0) -> dict[str, _Choice]:
        """Of every kernel the smallest folding that keeps up and that HLS compilers take."""
        block, dsp = _exchange(self.part)

        def size(choice: _Choice) -> tuple[float, int]:
            return choice.lut + weight * (block * choice.bram + dsp * choice.dsp), -choice.cycles

        return {name: next(choice for choice in sorted(choices, key=size)
                           if choice.cycles <= interval and self._size(name, choice)[1])
                for name, choices in self.choices.items()}

    def on(self, device: str) -> _Balance:
        """The same for another part."""
        other = copy(self)
        other.config, other.part = replace(self.config, part=device), part_of(device)
        return other

    def _with(self, chosen: Mapping[str, _Choice]) -> BuildConfig:
        """The options that give kernels these foldings."""
        layers = {name: dict(row) for name, row in self.config.layers.items()}
        for name, choice in chosen.items():
            kept = {key: value for key, value in layers.get(name, {}).items() if key not in LANES}
            layers[name] = {**kept, **told(choice.folding)}
        return replace(self.config, layers=layers)

    def _choices(self, nodes: tuple[Node, ...]) -> list[_Choice]:
        """All foldings of a kernel that agree with what the options say of its lanes."""
        head, stream = nodes[0], self.config.stream
        source, asked = self.known[head.inputs[0]], self.config.layers.get(head.name, {})
        lanes = {key: asked[key] for key in ("pe", "simd") if key in asked}
        folding_of(head, source, self.config)  # refuses lanes that the node cannot have
        return [self._choice(nodes, source, f) for f in all_foldings(head, source, stream)
                if not lanes or (f.at_once == 1 and all(getattr(f, key) == int(value) for key, value in lanes.items()))]

    def _choice(self, nodes: tuple[Node, ...], source: Node, folding: Folding) -> _Choice:
        head = nodes[0]
        behind = takewhile(lambda node: node.traits.keeps_shape or folding.passes == 1, nodes[1:])
        works = [Work(head, (source,), folding), *(follower(node, self.known, folding) for node in behind)]
        loop = window_loop(head, source, folding, self.config.stream, works[-1].node)
        cost, kept = table_cost(works), buffer_of(loop)
        return _Choice(folding, cycles_of(loop), cost.lut + kept.lut, cost.bram + kept.bram, cost.dsp)

    # --- what HLS compilers take --------------------------------------------------------------------------------------

    def _size(self, name: str, choice: _Choice) -> tuple[int, bool]:
        """(Instructions of a kernel, True where HLS compilers take it)."""
        key = name, choice.folding
        if key not in self.sizes:
            self.sizes[key] = row_size(self.rows[name], self.known, self._with({name: choice}))
        return self.sizes[key]

    def _instructions(self, chosen: Mapping[str, _Choice]) -> int:
        """Those of the whole design."""
        return self.others + sum(self._size(name, choice)[0] for name, choice in chosen.items())

    def _first(self, name: str) -> int:
        """The fewest cycles of a kernel; raises InputError where HLS compilers take none of its foldings."""
        choices = sorted(self.choices[name], key=lambda choice: choice.cycles)
        found = next((choice.cycles for choice in choices if self._size(name, choice)[1]), None)
        if found is None:
            self._refuse({name: choices[-1]})
        return found

    def _refuse(self, chosen: Mapping[str, _Choice]) -> NoReturn:
        """Raises InputError as a build with these foldings does."""
        config = self._with(chosen)
        config.target.check(self.graph, config)
        raise InputError("HLS compilers take no folding of this graph; use fewer inputs, planes or neurons")

    def _others(self, interval: int) -> int:
        """Instructions of what is not folded; raises InputError where HLS compilers do not take one of its functions.

        `interval` is one that all kernels can have.
        """
        chosen = self._smallest(interval)
        size = code_size(self.graph, self._with(chosen))
        ends = {nodes[-1].name for nodes in self.rows.values()}
        if any(max(kernel.own, default=0) > MOST["function"] for kernel in size.kernels if kernel.node not in ends):
            self._refuse(chosen)
        return size.instructions - self._instructions(chosen)

    def _least(self, interval: int) -> dict[str, _Choice]:
        """Of every kernel the folding of the fewest instructions that keeps up."""
        return {name: min((choice for choice in choices if choice.cycles <= interval and self._size(name, choice)[1]),
                          key=lambda choice: self._size(name, choice)[0])
                for name, choices in self.choices.items()}

    def _taken(self, interval: int) -> bool:
        """True where some foldings that keep up are together a design that HLS compilers take."""
        return any(self._instructions(choose(interval)) <= MOST["design"] for choose in (self._smallest, self._least))

    def _first_taken(self, first: int) -> int:
        """The shortest interval, after `first`, at which HLS compilers take the design; raises InputError if none."""
        found = sorted({c.cycles for choices in self.choices.values() for c in choices if c.cycles > first})
        place = bisect_left(found, True, key=self._taken)
        if place == len(found):
            self._refuse(self._least((found or [first])[-1]))
        return found[place]

    def _shorter(self, chosen: dict[str, _Choice], interval: int) -> dict[str, _Choice]:
        """Foldings of a design that HLS compilers take: of some kernels, as few as will do, those with fewest
        instructions.
        """
        least = self._least(interval)
        saved = {name: self._size(name, choice)[0] - self._size(name, least[name])[0]
                 for name, choice in chosen.items()}
        for name in sorted(saved, key=lambda name: -saved[name]):
            chosen = {**chosen, name: least[name]}
            if self._instructions(chosen) <= MOST["design"]:
                break
        return chosen


def _interval(facts: Facts) -> int:
    return facts.interval[1] if facts.interval else 1


def _exchange(part: Part | None) -> tuple[float, float]:
    """LUTs that a part has for each of its blocks of RAM, and of its DSPs."""
    if part is None:
        return LUT_PER_BLOCK, LUT_PER_DSP
    return part.lut / max(1, part.bram), part.lut / max(1, part.dsp)


def _folds(head: Node, known: Mapping[str, Node], config: BuildConfig) -> bool:
    """True where the kernel that begins with a node is a loop whose folding can be chosen."""
    loop = config.stream or config.is_loop(head.name)
    return loop and head.traits.taps and not is_netlist((head,), known, config)


def _check(graph: Graph, config: BuildConfig) -> None:
    """Raises InputError for a design of which nothing can be folded."""
    if config.target.language != CPP:
        more = "" if config.pipelined else in_words_of(", pipelined=True", " without --combinational")
        raise InputError(f"{as_given(backend=config.backend)}: nothing of {config.target.language} is folded; use "
                         f"{as_given(backend='Vitis', strategy='Resource')}{more}")
    folded = [node.name for node in graph if node.traits.taps]
    if folded and not config.stream and not any(map(config.is_loop, folded)):
        raise InputError(f"{as_given(strategy=config.strategy)}: {_why_not(config)}")


def _why_not(config: BuildConfig) -> str:
    """Why strategies fold nothing, and one that does."""
    named = any("strategy" in row for row in config.layers.values())
    wanted = "Latency" if config.stream else "Resource"
    kind = "netlists are not folded" if config.stream else f"in {config.io_type} nothing is folded"
    if named and config.strategy.lower() == wanted.lower():
        return kind + in_words_of("; leave the strategies in layers out", "; leave the strategies in --layer out")
    none = in_words_of(", and none in layers", ", and none in --layer")
    return f"{kind}; use {as_given(strategy=wanted)}{none if named else ''}"


# --- what fits ------------------------------------------------------------------------------------------------------


def _fastest(balance: _Balance) -> BuildConfig:
    """The fastest balance that fits the part."""
    if balance.part is None:
        raise InputError(f"{as_given(part=balance.config.part)} is not in the table, and its totals are not known; "
                         "give an interval or a throughput instead of fit")
    intervals = balance.intervals
    found = _fitting_at(balance, intervals[-1])
    if found is None:
        raise InputError(_too_small(balance, intervals[-1]))
    low, high = 0, len(intervals) - 1
    while low < high:
        middle = (low + high) // 2
        config = _fitting_at(balance, intervals[middle])
        if config is None:
            low = middle + 1
        else:
            found, high = config, middle
    return found


def _fitting_at(balance: _Balance, interval: int) -> BuildConfig | None:
    """The balance for an interval, if it fits the part."""
    made = (balance.config_at(interval, weight) for weight in WEIGHTS)
    return next((config for config in made if estimate(balance.graph, config).fits), None)


def _too_small(balance: _Balance, interval: int) -> str:
    """What the smallest balance takes of a part that it does not fit, and the nearest part that it does."""
    facts, part = estimate(balance.graph, balance.config_at(interval)), balance.part
    assert part is not None
    over = [f"{getattr(facts, name):,} of {total:,} {name.upper()}" for name, total in part.available.items()
            if (getattr(facts, name) or 0) > total]
    nearest = next(_larger(balance, part), None)
    return (f"{as_given(part=balance.config.part)}: no folding fits; the smallest takes {', '.join(over)}; "
            + (f"use {as_given(part=nearest)} or a larger one" if nearest else "no part of the table is large enough"))


def _larger(balance: _Balance, part: Part) -> Iterator[str]:
    """Devices that a balance fits: the smallest one first, those of the same family before others."""
    for device in sorted(PARTS.values(), key=lambda d: (d.family != part.family, d.lut)):
        other = balance.on(device.device)
        if _fitting_at(other, other.intervals[-1]):
            yield device.device


def fitting(graph: Graph, config: BuildConfig) -> tuple[list[BuildConfig], list[str]]:
    """([the fastest balance that fits the part, if there is one], devices that the design itself fits).

    It is balanced without `layers`, arrays with strategy "Resource", and can be built.
    """
    facts = estimate(graph, config)
    devices = [device for device, part in PARTS.items() if replace(facts, available=part.available).fits]
    strategy = "Latency" if config.stream else "Resource"
    try:
        found = balanced(graph, replace(config, strategy=strategy, reuse_factor=1, layers={}), fit=True)
        found.target.check(graph, found)
        return [found], devices
    except InputError:
        return [], devices
