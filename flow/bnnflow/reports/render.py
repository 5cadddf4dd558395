"""A document as one self-contained HTML file, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """(fewest, most) cycles as one number where they are equal, else as "a to b"."""
    if pair is None:
        return "–"
    return number(pair[0]) if pair[0] == pair[1] else f"{number(pair[0])} to {number(pair[1])}"


# How options of a build that apply to a project are said; "" where there is nothing to say.
OPTION_WORDS: dict[str, Callable[[Any], str]] = {
    "backend": str, "io_type": str, "strategy": "strategy {}".format,
    "reuse_factor": lambda value: f"reuse_factor {number(value)}",
    "pipelined": lambda value: "pipelined" if value else "combinational",
    "clock_period": lambda value: f"clock {number(value)} ns",
    "encoder": lambda value: "encoder outside" if value == "outside" else "",
}


def built(project: Mapping[str, Any]) -> str:
    """How a project was built, in the words of `BuildConfig`."""
    options, applies = project["options"], project["applies"]
    words = [say(options[key]) for key, say in OPTION_WORDS.items() if key in applies]
    layers = [f"{name}: {', '.join(f'{key} {number(value)}' for key, value in row.items())}"
              for name, row in options["layers"].items()]
    return "; ".join([", ".join(filter(None, words)), *layers])


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
    """A row for every source of every project, and for each of its kernels."""
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
    """Text that a spreadsheet does not take for a formula."""
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
        lines += [*_markdown_summary(project), *_markdown_tables(project)]
        notes = [note for facts in project["facts"] for note in facts["notes"]]
        lines += [f"- {_cell(note)}" for note in (*notes, *project["notes"])] + [""]
    return "\n".join(lines)


def _markdown_summary(project: Mapping[str, Any]) -> Iterator[str]:
    """A heading, and a list of what matters most."""
    size, speed, accuracy = project["summary"]["size"], project["summary"]["speed"], project["accuracy"]
    fits = {True: "fits", False: "does not fit", None: "its totals are not known"}[size["fits"]]
    yield from (f"## {_cell(project['name'])}", "", f"- {_cell(built(project))}")
    yield f"- part {_cell(project['options']['part'])}: {fits}, by {size['source']}"
    for row in project["exact"]:
        yield (f"- C simulation ({_cell(row['tool'])}): {number(row['samples'])} samples, "
               f"{number(row['differ'])} of {number(row['outputs'])} outputs differ")
    if not project["exact"]:
        yield "- not simulated yet"
    yield (f"- latency {number(speed['latency_ns'])} ns, {number(speed['throughput'])} inputs a second, by "
           f"{speed['source']}")
    if accuracy:
        yield f"- accuracy {number(accuracy['percent'])} % of {number(accuracy['samples'])} samples"
    yield from (f"- graph {project['graph']}", f"- sources {project['sources']}", "")


def _markdown_tables(project: Mapping[str, Any]) -> list[str]:
    """What every source says of the whole, and of its kernels."""
    whole = [[f["source"], f["tool"], f["version"], *(f[c] for c in COUNTS), cycles(f["latency"]),
              cycles(f["interval"]), f["clock_estimated"] or f["clock_target"]] for f in project["facts"]]
    kernels = [[k["name"], *(k[c] for c in (*COLUMNS[:4], "weight_bits", "buffer_bits", "pe", "simd")),
                cycles(k["latency"]), cycles(k["interval"]), "; ".join([k["source"], *k["notes"]])]
               for f in project["facts"] for k in f["modules"]]
    return [*_table(["source", "tool", "version", *COUNTS.values(), "cycles", "interval", "clock, ns"], whole),
            *_table(["kernel", *COLUMNS[:4], "weight bits", "buffer bits", "pe", "simd", "cycles", "interval",
                     "source"], kernels)]


RENDER: dict[str, Callable[[Document], str]] = {".html": _html, ".md": _markdown, ".csv": _csv, ".json": _json}
