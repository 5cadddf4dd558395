"""What a report says, as plain data. HTML, Markdown, CSV and JSON have all their numbers from here."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.backend import BuildConfig
from bnnflow.backends.project import Project
from bnnflow.devices.parts import part_of
from bnnflow.errors import InputError
from bnnflow.estimates.balance import fitting
from bnnflow.estimates.baseline import estimate_baseline
from bnnflow.estimates.estimate import estimate
from bnnflow.facts.facts import SOURCES, Facts
from bnnflow.facts.kept import kept_facts, kept_simulations
from bnnflow.ir import Domain, Graph, Node, Op, Steps, Weights
from bnnflow.ir.evaluate import given_codes
from bnnflow.version import __version__

__all__ = ["document"]

FORMAT = 2
BINS = 24  # of a histogram of thresholds
POINTS = 64  # of a tone curve, at most
LEVELS = 16  # of weights, the commonest ones, that are counted
PIXELS = 96  # of a picture of weights along an axis, at most
CLASSES = 100  # of a confusion matrix, at most
POSITIVE, NEGATIVE = np.array([33, 113, 181]), np.array([217, 95, 14])  # colours of weights


def document(projects: Sequence[Project], data: Any = None, labels: Any = None) -> dict[str, Any]:
    """A report on projects: `data` are inputs (real values, or codes where integers), `labels` their classes (n,).

    For each project it has the options, the graph's nodes, all facts that are known, what simulations compared, and
    what would fit the part; for several also which are beaten by none. `data` and `labels` give the accuracy.

    Raises InputError for data that do not fit a project, labels that do not fit the data, or damaged files.
    """
    if not projects:
        raise InputError("no project to report on")
    if (labels is None) != (data is None):
        given, missing = ("data", "labels") if labels is None else ("labels", "data")
        raise InputError(f"{given} without {missing}: give both, or neither")
    rows = [_project(project, name, data, labels) for project, name in zip(projects, _names(projects))]
    return {"bnnflow_report": FORMAT, "bnnflow": __version__, "projects": rows, "pareto": _pareto(rows)}


def _names(projects: Sequence[Project]) -> list[str]:
    """The names of the projects' folders, with as many of the folders above them as tell them apart."""
    paths = [project.path.resolve() for project in projects]
    deep = next((k for k in range(1, 9) if len({path.parts[-k:] for path in paths}) == len(set(paths))), 1)
    return ["/".join(path.parts[-deep:]) for path in paths]


def _project(project: Project, name: str, data: Any, labels: Any) -> dict[str, Any]:
    graph, config = project.graph(), project.config
    try:
        accuracy = _accuracy(graph, data, labels)
    except InputError as error:
        raise InputError(f"{project.path}: {error}") from error
    facts = [estimate(graph, config, cycles=project.cycles), *_kept(project)]
    summary = {"weights": _total(graph), **_summary(facts, config.part)}
    if any(isinstance(node.params, Weights) for node in graph):
        facts.append(estimate_baseline(graph))
    return {
        "name": name, "top": project.top, **_options(project), "graph": graph.digest,
        "sources": project.sources_digest(""), "notes": list(graph.notes), "summary": summary,
        "exact": [asdict(record) for record in kept_simulations(project)], "accuracy": accuracy,
        "facts": [f.as_dict() for f in facts], "nodes": [_node(graph, node) for node in graph],
        "thermometer": _tone_curves(graph), "fitting": _fitting(graph, config),
    }


def _options(project: Project) -> dict[str, Any]:
    """All options of the build, and the names of those that apply to the project's backend."""
    options = {key: value for key, value in asdict(project.config).items() if key != "output_dir"}
    return {"options": options, "applies": [key for key in options if key not in project.target.fixed]}


def _kept(project: Project) -> list[Facts]:
    """What tools said of the project, with its part's totals where a tool knows no more than the part's family."""
    part = part_of(project.config.part)
    return [replace(facts, available=part.available) if part and facts.part == part.family.yosys else facts
            for facts in kept_facts(project)]


def _summary(facts: Sequence[Facts], part: str) -> dict[str, Any]:
    """Size and speed, each by the most certain of the facts for a part of that family, and whether the size fits."""
    own = [f for f in facts if _is_for(f, part)]
    size, speed = (max((f for f in own if getattr(f, key) is not None), key=_certainty) for key in ("lut", "latency"))
    return {"fits": size.fits, "size": replace(size, modules=()).as_dict(),
            "speed": replace(speed, modules=()).as_dict()}


def _certainty(facts: Facts) -> int:
    """The place of their source in SOURCES."""
    return SOURCES.index(facts.source) if facts.source else -1


def _is_for(facts: Facts, part: str) -> bool:
    """True for facts of a part of the same family, or where one of the parts is not known."""
    there, here = part_of(facts.part), part_of(part)
    return here is None or facts.part in ("", part, here.family.yosys) or (
        there is not None and there.family == here.family)


def _fitting(graph: Graph, config: BuildConfig) -> dict[str, Any]:
    """The devices that the project would fit, and the fastest balance that would fit its part, if there is one."""
    fit, devices = fitting(graph, config)
    return {"devices": devices, "options": [
        {"io_type": c.io_type, "strategy": c.strategy, "interval": estimate(graph, c).interval,
         "layers": {name: dict(row) for name, row in c.layers.items()}} for c in fit]}


def _total(graph: Graph) -> dict[str, int]:
    """Weights of all sums: connections, and how many of them are not 0."""
    arrays = [node.params.effective for node in graph if isinstance(node.params, Weights)]
    return {"connections": sum(a.size for a in arrays), "nonzero": sum(int(np.count_nonzero(a)) for a in arrays)}


# --- nodes ----------------------------------------------------------------------------------------------------------


def _node(graph: Graph, node: Node) -> dict[str, Any]:
    d = node.domain
    row: dict[str, Any] = {
        "name": node.name, "op": node.op.value, "layer": node.origin, "inputs": list(node.inputs),
        "shape": list(node.shape), "elements": node.size, "lowest": d.lo, "highest": d.hi, "bits": d.bits,
        "type": d.type_name, "weights": None, "thresholds": None}
    if isinstance(node.params, Weights):
        row["weights"] = _weights(node.params)
    if isinstance(node.params, Steps):
        row["thresholds"] = _thresholds(node.params, graph[node.inputs[0]])
    return row


def _weights(weights: Weights) -> dict[str, Any]:
    levels = weights.effective
    kinds, counts = np.unique(levels, return_counts=True)
    common = np.sort(np.argsort(-counts, kind="stable")[:LEVELS])
    nonzero = int(np.count_nonzero(levels))
    return {"inputs": levels.shape[0], "outputs": levels.shape[1], "groups": weights.groups, "connections": levels.size,
            "nonzero": nonzero, "zeros_percent": round(100 * (1 - nonzero / levels.size), 2), "kinds": len(kinds),
            "levels": [{"level": int(kinds[k]), "count": int(counts[k])} for k in common], "picture": _picture(levels)}


def _picture(levels: NDArray[np.int64]) -> str:
    """The weights as a PNG (data URI): rows are inputs, columns outputs, and a weight of 0 is transparent.

    A pixel that stands for many weights is as opaque as they are large on average, and its colour is mixed of those
    above and below zero.
    """
    above, below = (np.maximum(side, 0) / max(1, int(np.abs(levels).max(initial=0))) for side in (levels, -levels))
    for axis in (0, 1):
        edges = np.linspace(0, levels.shape[axis], min(PIXELS, levels.shape[axis]) + 1).astype(int)
        widths = np.diff(edges).reshape(-1, 1) if axis == 0 else np.diff(edges)
        above, below = (np.add.reduceat(side, edges[:-1], axis=axis) / widths for side in (above, below))
    size = (above + below)[..., None]
    colour = (above[..., None] * POSITIVE + below[..., None] * NEGATIVE) / np.maximum(size, 1e-9)
    pixels = np.rint(np.concatenate([colour, 255 * size], axis=2)).astype(np.uint8)
    rows = np.concatenate([np.zeros((len(pixels), 1), np.uint8), pixels.reshape(len(pixels), -1)], axis=1)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 6, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows.tobytes())) + chunk(b"IEND", b"")
    png = b"\x89PNG\r\n\x1a\n" + chunks
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _thresholds(steps: Steps, source: Node) -> dict[str, Any]:
    """A histogram of the thresholds within the domain of the codes that they are compared with."""
    thresholds = steps.thresholds.ravel()
    inside = thresholds[(thresholds > source.domain.lo) & (thresholds <= source.domain.hi)]
    low, high = (int(inside.min()), int(inside.max())) if len(inside) else (source.domain.lo, source.domain.hi)
    counts = np.bincount(((inside - low) * BINS // (high - low + 1)).astype(np.int64), minlength=BINS)
    return {"count": len(thresholds), "reached": len(inside), "falling": int((steps.sign < 0).sum()),
            "from": low, "to": high, "histogram": [int(n) for n in counts]}


def _tone_curves(graph: Graph) -> list[dict[str, Any]]:
    """The tone curve of every thermometer: a STEP that reads nothing but wires of one input."""
    domains = {node.name: node.domain for node in graph.inputs}  # of tensors that are inputs, or wires of them
    curves = []
    for node in graph:
        if node.traits.wires and all(name in domains for name in node.inputs):
            domains[node.name] = domains[node.inputs[0]]
        elif isinstance(node.params, Steps) and node.inputs[0] in domains:
            curves.append(_tone_curve(node.name, node.params, domains[node.inputs[0]]))
    return curves


def _tone_curve(name: str, steps: Steps, domain: Domain) -> dict[str, Any]:
    """The share of a thermometer's planes that are high, at values of its input where it changes."""
    def value(code: int) -> float:
        return round(float(domain.scale * code + domain.offset), 6)

    thresholds = np.sort(steps.thresholds.ravel())
    at = np.unique(np.linspace(0, len(thresholds) - 1, min(POINTS, len(thresholds))).astype(int))
    points = [[value(int(thresholds[k])), round((int(k) + 1) / len(thresholds), 4)] for k in at]
    return {"node": name, "planes": len(thresholds), "from": value(domain.lo), "to": value(domain.hi),
            "points": points}


# --- accuracy -------------------------------------------------------------------------------------------------------


def _accuracy(graph: Graph, data: Any, labels: Any) -> dict[str, Any] | None:
    """How many of the graph's decisions on `data` are the labels, and which others they are; None without labels."""
    if data is None or labels is None:
        return None
    if len(graph.outputs) != 1:
        raise InputError(f"the graph has {len(graph.outputs)} outputs; labels need one")
    codes = given_codes(graph, data)
    samples = len(codes[0])
    if not samples:
        raise InputError("data: no samples")
    chosen, classes = _decisions(graph.output, np.asarray(graph.decode(graph(codes))).reshape(samples, -1))
    truth = _truth(labels, samples, classes)
    right = int((chosen == truth).sum())
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth, chosen), 1)
    return {"samples": samples, "right": right, "percent": round(100 * right / samples, 2),
            "classes": list(range(classes)), "confusion": table.tolist() if classes <= CLASSES else None}


def _decisions(output: Node, values: NDArray[Any]) -> tuple[NDArray[np.int64], int]:
    """(class of every sample, how many classes there are) by the `values` (n, elements) of an output.

    The class is the one that ARGMAX gives, else the place of the largest element; a single element decides between two
    classes by being above 0.
    """
    if output.op is Op.ARGMAX:
        if output.size > 1:
            raise InputError(f"the graph decides {output.size} positions of a sample; labels need one decision each")
        return values[:, 0].astype(np.int64), output.domain.size
    if values.shape[1] == 1:
        return (values[:, 0] > 0).astype(np.int64), 2
    return values.argmax(axis=1), values.shape[1]


def _truth(labels: Any, samples: int, classes: int) -> NDArray[np.int64]:
    """Labels (n,), or one-hot (n, classes), as the class of every sample."""
    truth = np.asarray(labels)
    if truth.ndim == 2 and truth.shape[1] > 1:
        truth = truth.argmax(axis=1)
    truth = truth.ravel()
    if len(truth) != samples:
        raise InputError(f"labels: {len(truth)} for {samples} samples")
    if truth.dtype.kind not in "iub" or truth.min() < 0 or truth.max() >= classes:
        raise InputError(f"labels: whole numbers from 0 to {classes - 1}, the classes of the network's outputs")
    return truth.astype(np.int64)


# --- side by side ---------------------------------------------------------------------------------------------------


def _pareto(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """LUTs against accuracy, or against latency where there are no labels or all are as accurate; None for one project.

    The best points are those that no other beats.
    """
    if len(rows) < 2:
        return None
    by_accuracy = all(row["accuracy"] for row in rows) and len({row["accuracy"]["percent"] for row in rows}) > 1
    points = [{"name": row["name"], "lut": row["summary"]["size"]["lut"],
               "other": row["accuracy"]["percent"] if by_accuracy else row["summary"]["speed"]["latency_ns"]}
              for row in rows]
    costs = [(point["lut"], -point["other"] if by_accuracy else point["other"]) for point in points]
    for point, cost in zip(points, costs):
        point["best"] = _is_unbeaten(cost, costs)
    return {"against": "accuracy in per cent" if by_accuracy else "latency in ns", "points": points}


def _is_unbeaten(cost: tuple[float, float], costs: Sequence[tuple[float, float]]) -> bool:
    """True where no other of `costs` is at most as high in both, and lower in one."""
    return not any(a <= cost[0] and b <= cost[1] and (a, b) != cost for a, b in costs)
