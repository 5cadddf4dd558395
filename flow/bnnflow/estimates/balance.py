"""The balance of a whole network: every sum and maximum gets the smallest folding that keeps up with an interval.

As FINN's `target_fps`: a design is as fast as its slowest kernel, so that hardware in any other one is wasted. The size
of a folding is that of the table. What cannot keep up is refused, with the nearest that works.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from math import floor, isfinite, log10
from numbers import Real
from typing import Any

from bnnflow.backends.backend import CPP, BuildConfig
from bnnflow.backends.hls.cycles import cycles_of
from bnnflow.backends.hls.folding import Folding, all_foldings, folding_of, told
from bnnflow.backends.hls.fusion import is_netlist, prepared
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
WEIGHTS = (1.0, 8.0, 0.125)  # of blocks and DSPs beside LUTs: one after the other, until a design fits
LAST = 2**20  # cycles that a reuse factor can ask for
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
    if interval is not None:
        _check_number("interval", interval, "a whole number of cycles, at least 1", whole=True)
    if throughput is not None:
        _check_number("throughput", throughput, "a number of inputs a second, above 0")


def _check_number(name: str, value: object, remedy: str, whole: bool = False) -> None:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else 0.0
    if not isfinite(number) or number <= 0 or (whole and number != int(number)):
        raise InputError(f"{as_given(**{name: value})}: {remedy}")


def _within(balance: _Balance, interval: int) -> BuildConfig:
    """The balance for an interval in cycles."""
    if interval < balance.least:
        raise InputError(f"{as_given(interval=interval)}: {balance.limit}; use {as_given(interval=balance.least)} or "
                         "more")
    return balance.config_at(interval)


def _as_fast(balance: _Balance, throughput: float) -> BuildConfig:
    """The balance for so many inputs a second."""
    period = period_of(balance.config)
    interval = 1e9 / (period * throughput)
    if interval < balance.least:
        most = float(_below(1e9 / (period * balance.least)))
        asked, most = (int(value) if value == int(value) else value for value in (throughput, most))
        raise InputError(f"{as_given(throughput=asked)}, an input every {interval:.6g} cycles of {period:g} ns: "
                         f"{balance.limit}; use {as_given(throughput=most)} or less, or a shorter clock period")
    return balance.config_at(int(interval))


def _below(value: float) -> str:
    """A number as text, rounded down to a whole one or to six digits."""
    step = 10.0 ** min(0, floor(log10(value)) - 5)
    return f"{floor(value / step) * step:.12g}"


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
        kernels = [nodes for nodes, _ in config.target.kernels(graph, widest)]
        self.choices = {nodes[0].name: self._choices(nodes) for nodes in kernels
                        if _folds(nodes[0], self.known, config)}
        if not self.choices and any(node.traits.taps for node in graph):
            raise InputError(f"{as_given(strategy=config.strategy)}: {_why_not(config)}")
        fastest = estimate(graph, self.config_at(min(LAST, self._first)), lambda kernel: Cost())
        slowest = max(fastest.modules, key=_interval, default=fastest)
        heads = {nodes[-1].name: nodes[0].name for nodes in kernels}
        self.least, self.slowest = max(1, _interval(slowest)), heads.get(slowest.name, slowest.name)

    @property
    def _first(self) -> int:
        """The fewest cycles that all foldings allow."""
        return max((min(choice.cycles for choice in choices) for choices in self.choices.values()), default=1)

    @property
    def limit(self) -> str:
        """Words for the kernel that cannot keep up."""
        return f"the kernel of {self.slowest!r} takes {self.least:,} cycles an input at its fastest"

    @property
    def intervals(self) -> list[int]:
        """All intervals at which another folding is chosen."""
        found = {choice.cycles for choices in self.choices.values() for choice in choices}
        return sorted({self.least, *(cycles for cycles in found if cycles > self.least)})

    def config_at(self, interval: int, weight: float = 1.0) -> BuildConfig:
        """The options for an interval that all kernels can have; `weight` is that of blocks and DSPs beside LUTs."""
        block, dsp = _exchange(self.part)

        def size(choice: _Choice) -> tuple[float, int]:
            return choice.lut + weight * (block * choice.bram + dsp * choice.dsp), -choice.cycles

        layers = {name: dict(row) for name, row in self.config.layers.items()}
        for name, choices in self.choices.items():
            best = min((choice for choice in choices if choice.cycles <= interval), key=size)
            kept = {key: value for key, value in layers.get(name, {}).items() if key not in LANES}
            layers[name] = {**kept, **told(best.folding)}
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
    if not config.stream and not any(config.is_loop(node.name) for node in graph if node.traits.taps):
        raise InputError(f"{as_given(strategy=config.strategy)}: {_why_not(config)}")


def _why_not(config: BuildConfig) -> str:
    """Why strategies fold nothing, and one that does."""
    named = any("strategy" in row for row in config.layers.values())
    instead = as_given(strategy="Latency" if config.stream else "Resource")
    kind = "netlists are not folded" if config.stream else f"in {config.io_type} nothing is folded"
    none = in_words_of(", and none in layers", ", and none in --layer")
    return f"{kind}; use {instead}{none if named else ''}"


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
        other = _Balance(balance.graph, replace(balance.config, part=device.device))
        if _fitting_at(other, other.intervals[-1]):
            yield device.device


def fitting(graph: Graph, config: BuildConfig) -> tuple[list[BuildConfig], list[str]]:
    """([the fastest balance that fits the part, if there is one], devices that the design itself fits).

    Arrays are balanced with strategy "Resource".
    """
    facts = estimate(graph, config)
    devices = [device for device, part in PARTS.items() if replace(facts, available=part.available).fits]
    strategy = "Latency" if config.stream else "Resource"
    try:
        return [balanced(graph, replace(config, strategy=strategy, reuse_factor=1, layers={}), fit=True)], devices
    except InputError:
        return [], devices
