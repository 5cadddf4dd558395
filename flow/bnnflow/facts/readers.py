"""Readers of what the vendors' tools write: reports of HLS, co-simulation, utilisation, timing and export.

A file is untrusted: it is read whole up to a limit, as text, and an XML file must not declare anything.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from xml.etree import ElementTree

from bnnflow.devices.cells import count_cells
from bnnflow.errors import InputError
from bnnflow.facts.facts import MAX_BYTES, Facts, load_facts
from bnnflow.files import existing

__all__ = ["read_report"]

# What the readers below raise for a file that is cut off or damaged.
DAMAGE = (AttributeError, LookupError, RecursionError, StopIteration, TypeError, ValueError)
Rows = list[list[str]]
Numbers = dict[str, Any]  # fields of Facts by name

# What the tools call the counts of Facts: in reports of HLS (blocks of RAM have 18 Kbit), in Vivado's tables of site
# types and of accelerators (36 Kbit), and in its hierarchy, which has blocks of both sizes.
HLS_NAMES = {"LUT": "lut", "FF": "ff", "DSP": "dsp", "DSP48E": "dsp", "BRAM_18K": "bram", "BRAM": "bram",
             "URAM": "uram"}
SITE_NAMES = {"CLB LUTs": "lut", "Slice LUTs": "lut", "CLB Registers": "ff", "Slice Registers": "ff", "DSPs": "dsp",
              "Block RAM Tile": "bram", "URAM": "uram"}
ACCELERATOR_NAMES = {"LUT": "lut", "REG": "ff", "BRAM": "bram", "URAM": "uram", "DSP": "dsp"}
HIERARCHY_NAMES = {"Total LUTs": "lut", "FFs": "ff", "URAM": "uram", "DSP Blocks": "dsp", "DSP48 Blocks": "dsp"}


def read_report(path: str | os.PathLike[str]) -> Facts:
    """Facts of one report file.

    It may be one of HLS (csynth .xml or .rpt, verbose .rpt.xml, cosim .rpt, export .rpt; the last where a file has
    several), of Vivado (utilisation flat, hierarchical, by SLR or of an accelerator, timing), of yosys (`stat -json`),
    or a file of ours with one set of facts (.json).

    Raises InputError, with the file's name, where it is missing, empty, huge, damaged or something else.
    """
    source = existing(path, "report")
    try:
        if source.stat().st_size > MAX_BYTES:
            raise InputError(f"more than {MAX_BYTES >> 20} MiB; no report is that long")
        text = source.read_bytes().decode("utf-8", "replace")
        if source.suffix == ".json":
            data = json.loads(text)
            if isinstance(data, dict) and str(data.get("creator")).startswith("Yosys"):
                return _yosys(data)
            (facts,) = load_facts(source)
            return facts
        return _of_xml(text) if source.suffix == ".xml" else _of_text(text)
    except InputError as error:
        raise InputError(f"{source}: {str(error).removeprefix(f'{source}: ')}") from error
    except OSError as error:
        raise InputError(f"{source}: {error.strerror}") from error
    except (*DAMAGE, ElementTree.ParseError) as error:
        raise InputError(f"{source}: damaged report: {error!r:.200}") from error


def _of_text(text: str) -> Facts:
    """A report in text, by the first of READERS whose mark it has."""
    for mark, reader in READERS:
        if re.search(mark, text, re.M):
            return reader(text)
    raise InputError("not a report with resources, latency or timing that is known (csynth, cosim, export, "
                     "report_utilization, report_timing)")


# --- numbers and tables ---------------------------------------------------------------------------------------------


def _number(text: str, per: float = 1) -> int | None:
    """The whole number at the start of a cell ("33 (11%)", "60.5", "-" for none of it); None where it says nothing."""
    if text.strip() == "-":
        return 0
    found = re.match(r"\s*(\d+(?:\.\d+)?)", text)
    return round(float(found[1]) * per) if found else None


def _clock(text: str | None) -> float | None:
    """The period in ns at the start of a cell; None where there is none above 0."""
    found = re.match(r"\s*(\d+(?:\.\d+)?)", text or "")
    return float(found[1]) if found and float(found[1]) > 0 else None


def _pair(fewest: str, most: str) -> tuple[int, int] | None:
    """(fewest, most) cycles; None where the tool could not tell ("?", "undef")."""
    a, b = _number(fewest), _number(most)
    return None if a is None or b is None or "-" in (fewest.strip(), most.strip()) else (a, b)


def _tables(text: str) -> Iterator[Rows]:
    """All tables of a text that are drawn with | and +, as rows of cells."""
    rows: Rows = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("|") and stripped.endswith("|") and len(stripped) > 1:
            rows.append([cell.strip() for cell in stripped[1:-1].split("|")])
        elif not stripped.startswith("+-") and rows:
            yield rows
            rows = []
    if rows:
        yield rows


def _row_counts(head: Sequence[str], row: Sequence[str], names: Mapping[str, str] = HLS_NAMES, per_block: int = 1
                ) -> Numbers:
    """The counts in a row of a table, from the columns that `names` has; a block of RAM counts as `per_block`."""
    columns = {k: names[cell] for k, cell in enumerate(head) if cell in names}
    return {name: _number(row[k], per_block if name == "bram" else 1) for k, name in columns.items()}


def _known(numbers: Numbers) -> dict[str, int]:
    """Those that the tool could tell."""
    return {name: n for name, n in numbers.items() if n is not None}


def _said(text: str, key: str) -> str:
    """What follows `key` and a colon at the start of a line; "" where there is none."""
    found = re.search(rf"^[ \t|*]*{key}[ \t]*:[ \t]*(\S.*?)[ \t]*$", text, re.M)
    return found[1] if found else ""


def _version(text: str) -> str:
    return _said(text, "Version").split(" ")[0]


# --- HLS ------------------------------------------------------------------------------------------------------------


def _hls(text: str) -> Facts:
    """<top>_csynth.rpt of Vivado HLS and Vitis HLS."""
    heads = list(re.finditer(r"^== (Vivado|Vitis) HLS Report for '(.*)'", text, re.M))
    text, (tool, name) = text[heads[-1].end():], heads[-1].groups()
    facts = Facts(name, "C synthesis", f"{tool} HLS", _version(text), _said(text, "Target device"))
    clock = next(_after(text, r"\+ Timing"))
    latency = next(_after(text, r"\+ Latency"))
    totals, available = _totals(next(_after(text, r"== Utilization Estimates")))
    instances = _instances(text)
    return replace(facts, clock_target=_clock(clock[-1][1]), clock_estimated=_clock(clock[-1][2]),
                   **_cycles(latency[-1]), **totals, available=available,
                   modules=tuple(replace(facts, name=module, **numbers) for module, numbers in instances.items()))


def _after(text: str, mark: str) -> Iterator[Rows]:
    """The tables behind a heading."""
    found = re.search(mark, text)
    if not found:
        raise InputError(f"no section {mark.strip(chr(92))!r}; the report is not whole")
    return _tables(text[found.end():])


def _cycles(row: Sequence[str]) -> Numbers:
    """Latency and interval of a row min, max[, absolute min, max], min, max, type."""
    return {"latency": _pair(row[0], row[1]), "interval": _pair(row[-3], row[-2])}


def _totals(rows: Rows) -> tuple[Numbers, dict[str, int]]:
    """(counts, the device's totals) of a summary of utilisation."""
    known = {row[0]: _row_counts(rows[0], row) for row in rows}
    if "Total" not in known:
        raise InputError("no row of totals; the report is not whole")
    return known["Total"], _known(known.get("Available", {}))


def _instances(text: str) -> dict[str, Numbers]:
    """Counts and cycles of the instances in the details, by module: the one table has counts, the other cycles."""
    found: dict[str, Numbers] = {}
    for names, row in chain.from_iterable(map(_instance_rows, _tables(text))):
        found.setdefault(row[1], {}).update(_row_counts(names, row) or (_cycles(row[2:]) if "min" in names else {}))
    return found


def _instance_rows(rows: Rows) -> Iterator[tuple[list[str], list[str]]]:
    """(names of the columns, row) of every instance in a table; none in a table of other things."""
    names = next((row for row in rows if row[0] == "Instance"), [])
    if len(names) < 3 or names[1] != "Module":
        return
    for row in rows[rows.index(names) + 1:]:
        if len(row) == len(names) and row[0] not in ("", "Total") and row[1]:
            yield names, row


def _summary(text: str) -> Facts:
    """csynth.rpt of Vitis HLS: one row a module or loop."""
    rows = next(_after(text, r"\+ Performance & Resource Estimates"))
    head = [f"{above} {below}".strip() for above, below in zip(rows[0], rows[1])]
    column = {name: k for k, name in enumerate(head)}
    modules = [row for row in rows[2:] if row[0].startswith("+")]
    base = Facts("", "C synthesis", "Vitis HLS", _version(text), _said(text, "Target device"))

    def facts(row: Sequence[str]) -> Facts:
        latency, interval = (row[column[name]] for name in ("Latency (cycles)", "Interval"))
        return replace(base, name=row[0].lstrip("+ ").rstrip("*"), latency=_pair(latency, latency),
                       interval=_pair(interval, interval), **_row_counts(head, row))

    top, *rest = map(facts, modules)
    return replace(top, modules=tuple(rest))


def _of_xml(text: str) -> Facts:
    """csynth.xml, <top>_csynth.xml and <module>.verbose.rpt.xml."""
    if re.search(r"<!(DOCTYPE|ENTITY)", text, re.I):
        raise InputError("declares a document type or entities, which no report does")
    root = ElementTree.fromstring(text)
    if root.tag != "profile":
        raise InputError(f"not a report of C synthesis: its root is <{root.tag:.40}>")
    if root.find("section") is not None:
        return _verbose(root)

    def get(path: str) -> str:
        return (root.findtext(path) or "").strip()

    resources = root.find("AreaEstimates/Resources")
    if resources is None:
        raise InputError("no AreaEstimates/Resources; the report is not whole")
    version = get("ReportVersion/Version")
    tool = "Vivado HLS" if re.match(r"20(1\d|20\.1)", version) else "Vitis HLS"
    facts = Facts(get("UserAssignments/TopModelName"), "C synthesis", tool, version, get("UserAssignments/Part"),
                  clock_target=_clock(get("UserAssignments/TargetClockPeriod")))
    available = _known(_xml_counts(root.find("AreaEstimates/AvailableResources")))
    modules = tuple(replace(facts, name=module.findtext("Name") or "", **_speed(module),
                            **_xml_counts(module.find("AreaEstimates/Resources")))
                    for module in root.findall("ModuleInformation/Module"))
    return replace(facts, **_speed(root), **_xml_counts(resources), available=available, modules=modules)


def _xml_counts(element: ElementTree.Element | None) -> Numbers:
    """The counts in an element of the XML, one a child."""
    return {HLS_NAMES[child.tag]: _number(child.text or "") for child in (() if element is None else element)
            if child.tag in HLS_NAMES}


def _speed(element: ElementTree.Element) -> Numbers:
    """Clock, latency and interval of a design or module; a pipelined loop has one interval only."""
    clock = element.findtext("PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod")
    tags = ("Best-caseLatency", "Worst-caseLatency", "Interval-min", "Interval-max", "PipelineInitiationInterval")
    least, most, low, high, every = (
        element.findtext(f"PerformanceEstimates/SummaryOfOverallLatency/{tag}") or "" for tag in tags)
    return {"clock_estimated": _clock(clock), "latency": _pair(least, most),
            "interval": _pair(low or every, high or every)}


def _verbose(root: ElementTree.Element) -> Facts:
    """The report of a module with its details."""
    head = root.find("section")
    assert head is not None
    found = re.search(r"(\w+) HLS Report for '(.*)'", head.get("name", ""))
    if not found:
        raise InputError("not a report of C synthesis")
    said = {item.get("name", ""): (item.text or "").strip() for item in head.findall("item")}
    summaries = [item.find("table") for item in root.iter("item") if item.get("name") == "Summary"]
    timing, latency, area = (table for table in summaries[:3] if table is not None)
    (clocks,), (cycles,) = _xml_rows(timing).values(), _xml_rows(latency).values()
    counts, available = _xml_totals(area)
    return Facts(found[2], "C synthesis", f"{found[1]} HLS", said.get("Version", "").split(" ")[0],
                 said.get("Target device", ""), **counts, clock_target=_clock(clocks[0]),
                 clock_estimated=_clock(clocks[1]), **_cycles(cycles), available=available)


def _xml_rows(table: ElementTree.Element) -> dict[str, list[str]]:
    """The rows of a table by their names; the tools call them columns."""
    return {row.get("name", ""): [cell.strip() for cell in (row.text or "").split(",")]
            for row in table if row.tag in ("column", "specialColumn")}


def _xml_totals(table: ElementTree.Element) -> tuple[Numbers, dict[str, int]]:
    """(counts, the device's totals) of a table with a row for everything that takes resources."""
    names = [HLS_NAMES.get(name.strip()) for name in (table.findtext("keys") or "").split(",")][1:]
    rows = _xml_rows(table)
    available = rows.pop("Available", [])
    rows.pop("Utilization (%)", None)
    counts: Numbers = {name: sum(_number(row[k]) or 0 for row in rows.values()) for k, name in enumerate(names) if name}
    return counts, {name: int(total) for name, total in zip(names, available) if name}


def _cosim(text: str) -> Facts:
    """<top>_cosim.rpt: a row a language; the measured cycles of the one that was run."""
    for rows in _tables(re.sub(r"^\+(?=.*\|).*$|^\+ .*$", "", text, flags=re.M)):
        for row in rows:
            if row[0] in ("VHDL", "Verilog") and len(row) >= 8 and row[1] in ("Pass", "Fail"):
                tool = _said(text, "Simulation tool").rstrip(".")
                return Facts("", "co-simulation", tool or "co-simulation", latency=_pair(row[2], row[4]),
                             interval=_pair(row[5], row[7]), notes=(f"{row[0]}: {row[1]}",))
    raise InputError("no language was simulated")


# --- Vivado ---------------------------------------------------------------------------------------------------------


# (word in the state of a design, source of Facts); "physopt postPlace" and "physopt postRoute" are states, too.
STAGES = (("postplace", "placed"), ("postroute", "routed"), ("placed", "placed"), ("routed", "routed"),
          ("synth", "logic synthesis"), ("optimized", "logic synthesis"))


def _vivado(text: str, **numbers: Any) -> Facts:
    """Facts with `numbers`, of a design, tool, device and stage as the head of every report of Vivado says them."""
    state = _said(text, "Design State").lower().replace(" ", "")
    source = next((stage for word, stage in STAGES if word in state), "")
    version = re.search(r"v\.([0-9][\w.]*)", _said(text, "Tool Version"))
    facts = Facts(_said(text, "Design"), source, "Vivado", version[1] if version else "", _said(text, "Device"))
    return replace(facts, **numbers)


def _utilisation(text: str) -> Facts:
    """report_utilization: tables of site types; what is used is the sum where there is a column for every SLR."""
    first: dict[str, tuple[list[str], list[str]]] = {}  # (head, row) of every count; other tables say some of it again
    for name, head, row in chain.from_iterable(map(_site_rows, _tables(text))):
        first.setdefault(name, (head, row))
    if "lut" not in first:
        raise InputError("no table of LUTs; the report is not whole")
    counts = {name: _sum(row, head, r"Used|SLR\d+", name) for name, (head, row) in first.items()}
    available = {name: _sum(row, head, "Available", name) for name, (head, row) in first.items() if "Available" in head}
    return _vivado(text, **counts, available=available)


def _site_rows(rows: Rows) -> Iterator[tuple[str, list[str], list[str]]]:
    """(count of Facts, head, row) for the known rows of a table of site types; none in other tables."""
    for row in rows[1:] if rows[0][0] == "Site Type" else []:
        name = SITE_NAMES.get(row[0].rstrip("*"))
        if name:
            yield name, rows[0], row


def _sum(row: Sequence[str], head: Sequence[str], columns: str, name: str) -> int:
    """A count as the sum of all columns whose head is like a pattern."""
    per = 2 if name == "bram" else 1
    return sum(_number(row[k], per) or 0 for k, cell in enumerate(head) if re.fullmatch(columns, cell))


def _hierarchy(text: str) -> Facts:
    """report_utilization -hierarchical: the first row is the whole design."""
    rows = next(rows for rows in _tables(text) if rows[0][0] == "Instance")
    column = {cell: k for k, cell in enumerate(rows[0])}

    def facts(row: Sequence[str]) -> Facts:
        blocks = 2 * (_number(row[column["RAMB36"]]) or 0) + (_number(row[column["RAMB18"]]) or 0)
        return _vivado(text, name=row[0], bram=blocks, **_row_counts(rows[0], row, HIERARCHY_NAMES))

    top, *rest = map(facts, rows[1:])
    return replace(top, modules=tuple(rest))


def _accelerator(text: str) -> Facts:
    """report_accelerator_utilization: what the kernels use, of the user's budget."""
    rows = next(rows for rows in _tables(text) if rows[0][0] == "Name")
    known = {row[0]: _row_counts(rows[0], row, ACCELERATOR_NAMES, per_block=2) for row in rows}
    if not {"Used Resources", "User Budget"} <= set(known):
        raise InputError("no row of used resources; the report is not whole")
    others = ("Platform", "User Budget", "Used Resources", "Unused Resources")
    kernels = [row[0] for row in rows[1:] if row[0] not in others]
    return _vivado(text, **known["Used Resources"], available=_known(known["User Budget"]),
                   modules=tuple(_vivado(text, name=name, **known[name]) for name in kernels))


def _timing(text: str) -> Facts:
    """report_timing_summary and report_timing: the period asked for, and the one that the worst path allows."""
    summary = re.search(r"^\s*WNS\(ns\).*\n[\s-]+\n\s*(\S+)", text, re.M)
    worst = summary[1] if summary else (re.search(r"Slack \(\w+\)\s*:\s*(\S+?)ns", text) or ["", "NA"])[1]
    period = re.search(r"Clock Summary\n(?:.*\n){4}\s*\S+\s+\{.*?\}\s+(\S+)", text)
    asked = _clock(period[1]) if period else _clock(_said(text, "Requirement"))
    slack = re.fullmatch(r"-?\d+(\.\d+)?", worst)
    reached = round(asked - float(worst), 3) if slack and asked is not None else None
    notes = () if slack else ("no clocked path: the design is combinational, or has no clock",)
    return _vivado(text, clock_target=asked, clock_estimated=reached, notes=notes)


def _export(text: str) -> Facts:
    """<top>_export.rpt: resources and clock after logic synthesis or implementation."""
    routed = "Post-Implementation Resource" in text
    achieved = _said(text, f"CP achieved post-{'implementation' if routed else 'synthesis'}")
    counts: Numbers = {name: _number(_said(text, key)) for key, name in HLS_NAMES.items() if _said(text, key)}
    version = re.search(r"v\.(\S+)", _said(text, "Implementation tool"))
    return Facts(_said(text, "Project").removesuffix("_prj"), "routed" if routed else "logic synthesis", "Vivado",
                 version[1] if version else "", _said(text, "Device target"), **counts,
                 clock_target=_clock(_said(text, "CP required")), clock_estimated=_clock(achieved))


# --- yosys ----------------------------------------------------------------------------------------------------------


def _yosys(data: dict[str, Any]) -> Facts:
    """`stat -json`: the LUTs, and yosys' estimate of them with small ones in pairs."""
    packed = data["design"].get("estimated_num_lc")
    luts, found = count_cells(data["design"]["num_cells_by_type"])
    counts: Numbers = {"lut": sum(luts.values()), **found}
    top = list(data["modules"])[-1].lstrip("\\")
    return Facts(top, "logic synthesis", "yosys", data["creator"].split()[1], **counts,
                 lut_packed=None if packed is None else int(packed))


# (mark, reader) of the reports in text; the first reader whose mark is found reads it, so that the order counts.
READERS: tuple[tuple[str, Callable[[str], Facts]], ...] = (
    (r"^== (Vivado|Vitis) HLS Report for '", _hls),
    (r"^== Synthesis Summary Report of '", _summary),
    (r"^#=== Post-(Synthesis|Implementation) Resource usage ===", _export),
    (r"^Simulation tool|Latency\(Clock Cycles\)", _cosim),
    (r"Command\s*: report_accelerator_utilization", _accelerator),
    (r"^\| *Instance *\| *Module *\| *Total LUTs", _hierarchy),
    (r"^\| +Site Type +\|.*SLR\d|^\| *(CLB|Slice) LUTs", _utilisation),
    (r"Command\s*: report_timing", _timing),
)
