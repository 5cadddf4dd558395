"""A document as one self-contained HTML file, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from bnnflow.errors import InputError
from bnnflow.reports import drawings
from bnnflow.reports.drawings import number

__all__ = ["RENDER", "number", "render"]

Document = Mapping[str, Any]
COUNTS = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram": "BRAM, 18 Kbit", "uram": "URAM"}
COLUMNS = ("lut", "ff", "dsp", "bram", "uram", "weight_bits", "buffer_bits", "latency", "interval", "latency_ns",
           "throughput", "clock_target", "clock_estimated")


def render(document: Document, suffix: str) -> str:
    """The text of a report by its file's suffix; raises InputError for one that is not known."""
    if suffix not in RENDER:
        raise InputError(f"{suffix or 'no suffix'}: use one of {', '.join(RENDER)}")
    return RENDER[suffix](document)


def cycles(pair: Sequence[int] | None) -> str:
    """One number, or from and to."""
    if pair is None:
        return "–"
    return number(pair[0]) if pair[0] == pair[1] else f"{number(pair[0])} to {number(pair[1])}"


def built(project: Mapping[str, Any]) -> str:
    """How a project was built, in the words of `BuildConfig`."""
    options = project["options"]
    hls = [options["io_type"], f"strategy {options['strategy']}", f"reuse_factor {number(options['reuse_factor'])}"]
    own = [f"{name}: {', '.join(f'{key} {number(value)}' for key, value in row.items())}"
           for name, row in options["layers"].items()]
    words = [options["backend"], *(["pipelined" if options["pipelined"] else "combinational"]
                                   if options["backend"] == "Verilog" else hls),
             f"clock {number(options['clock_period'])} ns", *(["encoder outside"] * (options["encoder"] == "outside"))]
    return "; ".join([", ".join(words), *own])


def _html(document: Document) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    environment.filters |= {"number": number, "cycles": cycles, "built": built, "dataflow": drawings.dataflow,
                            "tone": drawings.tone, "histogram": drawings.histogram, "pareto": drawings.pareto}
    template = environment.from_string((files("bnnflow.reports") / "report.html.j2").read_text(encoding="utf-8"))
    return template.render(document=document, COUNTS=COUNTS)


def _json(document: Document) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(document: Document) -> str:
    """A row a source and kernel, of every project."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["project", "source", "tool", "version", "part", "kernel", *COLUMNS])
    for project in document["projects"]:
        for facts in project["facts"]:
            for row, kernel in [(facts, "total"), *((module, module["name"]) for module in facts["modules"])]:
                values = [row[c][1] if isinstance(row[c], list) else row[c] for c in COLUMNS]
                words = [project["name"], row["source"], row["tool"], row["version"], row["part"], kernel]
                writer.writerow([*map(_word, words), *values])
    return out.getvalue()


def _word(text: str) -> str:
    """A spreadsheet would take a word with such a start for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _cell(value: Any) -> str:
    """Text that Markdown leaves as it is."""
    text = value if isinstance(value, str) else number(value)
    for character in "\\`*_[]<>|#":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    first, *rest = ["| " + " | ".join(map(_cell, row)) + " |" for row in (head, *rows)]
    return [first, "|" + " --- |" * len(head), *rest, ""]


def _markdown(document: Document) -> str:
    lines = [f"# bnnflow report ({document['bnnflow']})", ""]
    for project in document["projects"]:
        size, speed, accuracy = project["summary"]["size"], project["summary"]["speed"], project["accuracy"]
        fits = {True: "fits", False: "does not fit", None: "its totals are not known"}[size["fits"]]
        lines += [f"## {_cell(project['name'])}", "", f"- {_cell(built(project))}",
                  f"- part {_cell(project['options']['part'])}: {fits}, by {size['source']}"]
        for row in project["exact"]:
            lines.append(f"- C simulation ({_cell(row['tool'])}): {number(row['samples'])} samples, "
                         f"{number(row['differ'])} of {number(row['outputs'])} outputs differ")
        lines += [] if project["exact"] else ["- not simulated yet"]
        lines.append(f"- latency {number(speed['latency_ns'])} ns, {number(speed['throughput'])} inputs a second, by "
                     f"{speed['source']}")
        if accuracy:
            lines.append(f"- accuracy {number(accuracy['percent'])} % of {number(accuracy['samples'])} samples")
        lines += [f"- graph {project['graph']}", f"- sources {project['sources']}", ""]
        lines += _table(["source", "tool", "version", *COUNTS.values(), "cycles", "interval", "clock, ns"], [
            [f["source"], f["tool"], f["version"], *(f[c] for c in COUNTS), cycles(f["latency"]), cycles(f["interval"]),
             f["clock_estimated"] or f["clock_target"]] for f in project["facts"]])
        lines += _table(["kernel", *COLUMNS[:4], "weight bits", "buffer bits", "cycles", "interval", "source"], [
            [k["name"], *(k[c] for c in COLUMNS[:4]), k["weight_bits"], k["buffer_bits"], cycles(k["latency"]),
             cycles(k["interval"]), "; ".join([k["source"], *k["notes"]])]
            for f in project["facts"] for k in f["modules"]])
        notes = [note for facts in project["facts"] for note in facts["notes"]]
        lines += [f"- {_cell(note)}" for note in (*notes, *project["notes"])] + [""]
    return "\n".join(lines)


RENDER: dict[str, Callable[[Document], str]] = {".html": _html, ".md": _markdown, ".csv": _csv, ".json": _json}
