"""Facts: what one source says of a design's size and speed. Every number keeps its source, tool, version and part."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bnnflow.errors import InputError
from bnnflow.files import existing, whole_file
from bnnflow.tables import html_table

__all__ = ["CODE", "COUNTS", "SOURCES", "Facts", "load_facts", "save_facts"]

# From the least to the most certain of what the FPGA will need.
SOURCES = ("HLS front end", "table estimate", "netlist count", "kernel synthesis", "C synthesis", "co-simulation",
           "logic synthesis", "placed", "routed")
COUNTS = ("lut", "ff", "dsp", "bram", "uram")
CODE = ("instructions", "loops", "divisions", "variable_reads")
FORMATS = (1, 2)  # that are read; the last one is written
FORMER_NAMES = {"lut_positions": "lut_sites"}  # of fields in files of format 1
MAX_BYTES = 2**26
MAX_DEPTH = 50
REMEDY = "remove the file, and run again what made it"


@dataclass(frozen=True)
class Facts:
    """Size and speed of a design or one of its modules, as one source says them; None is "not said", never zero.

    `lut`, `ff`, `dsp`, `uram` count the device's own units, `bram` blocks of 18 Kbit (a tile of 36 Kbit is two).
    `lut_packed` is the synthesis tool's estimate with small LUTs in pairs, `lut_positions` how many positions of LUTs
    are taken on the chip (`bnnflow.devices.lut_packing`). `carry` counts the family's carry blocks, `muxf` the
    multiplexers behind LUTs, `depth` the LUTs and carry elements of the longest path.
    `latency` and `interval` are (fewest, most) clock cycles from an input to its output, and from an input to the next.
    Clocks are periods in ns. `weight_bits` are bits of constants, `buffer_bits` bits of state between pixels. A kernel
    computes `pe` outputs and `simd` taps of a sum in a cycle; its loop takes so many `cycles` for an input.
    `instructions` are what an HLS compiler is left with once it has inlined and unrolled, among them `divisions` and
    `variable_reads` of arrays at an index that is known at run time only; `loops` are those that it has not unrolled.
    `available` has the device's totals under the names of COUNTS.

    `source` is one of SOURCES, or "" where a report does not say its stage; raises InputError for another.
    """

    name: str
    source: str
    tool: str = ""
    version: str = ""
    part: str = ""
    lut: int | None = None
    ff: int | None = None
    dsp: int | None = None
    bram: int | None = None
    uram: int | None = None
    lut_packed: int | None = None
    carry: int | None = None
    muxf: int | None = None
    depth: int | None = None
    latency: tuple[int, int] | None = None
    interval: tuple[int, int] | None = None
    clock_target: float | None = None
    clock_estimated: float | None = None
    weight_bits: int | None = None
    buffer_bits: int | None = None
    pe: int | None = None
    simd: int | None = None
    cycles: int | None = None
    lut_positions: int | None = None
    instructions: int | None = None
    loops: int | None = None
    divisions: int | None = None
    variable_reads: int | None = None
    available: Mapping[str, int] = field(default_factory=dict)
    modules: tuple[Facts, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.source not in (*SOURCES, ""):
            raise InputError(f"source {self.source!r}: use one of {', '.join(SOURCES)}")
        object.__setattr__(self, "available", MappingProxyType(dict(self.available)))

    @property
    def period(self) -> float | None:
        """The clock period in ns that the design can have: the one asked for, or the estimate where that is longer."""
        known = [clock for clock in (self.clock_target, self.clock_estimated) if clock is not None]
        return max(known) if known else None

    @property
    def latency_ns(self) -> float | None:
        """The most cycles of latency, in ns; the longest path where there are no registers."""
        return None if self.latency is None or self.period is None else round(max(1, self.latency[1]) * self.period, 6)

    @property
    def throughput(self) -> float | None:
        """Inputs a second."""
        if self.interval is None or self.period is None:
            return None
        return 1e9 / (max(1, self.interval[1]) * self.period)

    @property
    def used(self) -> dict[str, float]:
        """Every known count in per cent of the device's total; what the device has none of is left out."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {name: round(100 * count / self.available[name], 3) for name, count in counts.items()
                if count is not None and self.available.get(name)}

    @property
    def fits(self) -> bool | None:
        """True where no known count exceeds the device's total; None where no total is known."""
        if not self.available:
            return None
        return all((getattr(self, name) or 0) <= total for name, total in self.available.items())

    def _repr_html_(self) -> str:
        rows = [(row.name, row.lut, row.ff, row.dsp, row.bram, row.uram, row.weight_bits, row.buffer_bits,
                 row.latency and row.latency[1], row.interval and row.interval[1]) for row in (*self.modules, self)]
        head = ("", "LUT", "FF", "DSP", "BRAM, 18 Kbit", "URAM", "weight bits", "buffer bits", "cycles", "interval")
        said = " ".join(filter(None, (f"{self.name}: {self.source},", self.tool, self.version, self.part)))
        return html_table(said, head, rows, self.notes)

    def merged(self, other: Facts) -> Facts:
        """These facts, with what they do not say taken from `other`: utilisation and timing make one, for instance."""
        open_ = {f.name: getattr(other, f.name) for f in fields(self) if getattr(self, f.name) in (None, "", (), {})}
        return replace(self, **open_)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the numbers that follow from them; `from_dict` reads it back."""
        data = {f.name: getattr(self, f.name) for f in fields(self)}
        data["available"], data["notes"] = dict(self.available), list(self.notes)
        data["modules"] = [module.as_dict() for module in self.modules]
        derived = {"latency_ns": self.latency_ns, "throughput": self.throughput, "used": self.used, "fits": self.fits}
        return {**data, "latency": _listed(self.latency), "interval": _listed(self.interval), **derived}

    @classmethod
    def from_dict(cls, data: Any, depth: int = 0) -> Facts:
        """The facts that `as_dict` gave, of this format or an earlier one; raises InputError for anything else."""
        if not isinstance(data, dict) or depth > MAX_DEPTH:
            raise InputError("facts: not what `bnnflow.facts.facts.save_facts` writes")
        values: dict[str, Any] = {}
        for name, check in _CHECKS.items():
            value = data.get(name, data.get(FORMER_NAMES.get(name, name)))
            if not check(value):
                raise InputError(f"facts: {name}={value!r:.60} cannot be")
            values[name] = tuple(value) if isinstance(value, list) else value
        modules = data.get("modules", [])
        if not isinstance(modules, list):
            raise InputError(f"facts: modules={modules!r:.60} cannot be")
        return cls(**values, modules=tuple(cls.from_dict(module, depth + 1) for module in modules))


def _listed(pair: tuple[int, int] | None) -> list[int] | None:
    return None if pair is None else list(pair)


def _count(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 0)


def _pair(value: Any) -> bool:
    return value is None or (isinstance(value, list) and len(value) == 2 and None not in value
                             and all(map(_count, value)))


def _clock(value: Any) -> bool:
    return value is None or (type(value) in (int, float) and 1e-6 < value < 1e9)


def _text(value: Any) -> bool:
    return isinstance(value, str)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("name", "source", "tool", "version", "part"), _text),
    **dict.fromkeys((*COUNTS, "lut_packed", "lut_positions", "carry", "muxf", "depth", "weight_bits", "buffer_bits",
                     "pe", "simd", "cycles", *CODE), _count),
    **dict.fromkeys(("latency", "interval"), _pair),
    **dict.fromkeys(("clock_target", "clock_estimated"), _clock),
    "available": lambda value: isinstance(value, dict) and all(
        key in COUNTS and type(count) is int and count >= 0 for key, count in value.items()),
    "notes": lambda value: isinstance(value, list) and all(map(_text, value)),
}


def save_facts(facts: tuple[Facts, ...] | list[Facts], path: str | os.PathLike[str]) -> None:
    """Write facts as JSON, whole or not at all."""
    data = {"bnnflow_facts": FORMATS[-1], "facts": [f.as_dict() for f in facts]}
    with whole_file(path) as partial:
        partial.write_text(json.dumps(data, indent=1) + "\n")


def load_facts(path: str | os.PathLike[str]) -> list[Facts]:
    """Read what `save_facts` wrote; raises InputError for a missing, huge, damaged or foreign file."""
    source = existing(path, "facts")
    try:
        if source.stat().st_size > MAX_BYTES:
            raise InputError(f"more than {MAX_BYTES >> 20} MiB; no facts of ours")
        data = json.loads(Path(source).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("bnnflow_facts") not in FORMATS:
            raise InputError(f"not facts of format {' or '.join(map(str, FORMATS))}")
        if not isinstance(data.get("facts"), list):
            raise InputError("no list of facts")
        if not data["facts"]:
            raise InputError("no facts")
        return [Facts.from_dict(row) for row in data["facts"]]
    except InputError as error:
        raise InputError(f"{source}: {error}; {REMEDY}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: damaged facts: {error!r:.200}; {REMEDY}") from error
