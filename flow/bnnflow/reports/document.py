"""What a report says, as plain data: every number of every form of it comes from here."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.backends.project import Project
from bnnflow.devices.parts import part_of
from bnnflow.errors import InputError
from bnnflow.estimates.baseline import estimate_baseline
from bnnflow.estimates.estimate import estimate, fitting
from bnnflow.facts.facts import MAX_BYTES, SOURCES, Facts, load_facts
from bnnflow.ir import Graph, Node, Op, Steps, Weights
from bnnflow.ir.evaluate import given_codes
from bnnflow.version import __version__

__all__ = ["document"]

FORMAT = 1
BINS, POINTS, LEVELS, PIXELS, CLASSES = 24, 64, 16, 96, 100
POSITIVE, NEGATIVE = np.array([33, 113, 181]), np.array([217, 95, 14])


def document(projects: Sequence[Project], data: Any = None, labels: Any = None) -> dict[str, Any]:
    """A report on projects: `data` are inputs (real values, or codes where integers), `labels` their classes (n,).

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
    """Their folders' names, with as many of the folders above as tell them apart."""
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
    own = [f for f in facts if _is_for(f, config.part)]
    best, timed = (max((f for f in own if getattr(f, key) is not None), key=_certain) for key in ("lut", "latency"))
    if any(isinstance(node.params, Weights) for node in graph):
        facts.append(estimate_baseline(graph))
    fit, devices = fitting(graph, config)
    options = {key: value for key, value in asdict(config).items() if key != "output_dir"}
    return {
        "name": name, "top": project.top, "options": options, "graph": graph.digest,
        "sources": project.sources_digest(""), "notes": list(graph.notes),
        "summary": {"fits": best.fits, "weights": _total(graph), "size": replace(best, modules=()).as_dict(),
                    "speed": replace(timed, modules=()).as_dict()},
        "exact": _simulations(project), "accuracy": accuracy,
        "facts": [f.as_dict() for f in facts], "nodes": [_node(graph, node) for node in graph],
        "thermometer": _tone(graph),
        "fitting": {"devices": devices, "options": [
            {"strategy": c.strategy, "reuse_factor": c.reuse_factor,
             "layers": {name: dict(row) for name, row in c.layers.items()}} for c in fit]},
    }


def _certain(facts: Facts) -> int:
    return SOURCES.index(facts.source) if facts.source else -1


def _is_for(facts: Facts, part: str) -> bool:
    """True for facts of a part of the same family, or where one of the parts is not known."""
    there, here = part_of(facts.part), part_of(part)
    return here is None or facts.part in ("", part, here.family.yosys) or (
        there is not None and there.family == here.family)


def _kept(project: Project) -> list[Facts]:
    """What tools said of these very sources."""
    found = [facts for file in sorted(project.runs.glob("*/facts-*.json")) for facts in load_facts(file)]
    part = part_of(project.config.part)
    # Yosys knows the family only; the project's part is one of it.
    return [replace(facts, available=part.available) if part and facts.part == part.family.yosys else facts
            for facts in found]


def _simulations(project: Project) -> list[dict[str, Any]]:
    """The simulations of these very sources: samples, outputs, how many of them differ."""
    rows = []
    for file in sorted(project.runs.glob("sim-*.json")):
        try:
            if file.stat().st_size > MAX_BYTES:
                raise ValueError("too large")
            row = json.loads(file.read_text())
            kinds = {"tool": str, "version": str, "samples": int, "outputs": int, "differ": int, "vectors": str}
            if set(row) != set(kinds) or any(type(row[key]) is not kind for key, kind in kinds.items()):
                raise ValueError("other fields")
            if min(row["samples"], row["outputs"], row["differ"]) < 0:
                raise ValueError("counts below 0")
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{file}: damaged record of a simulation: {error}; remove it, or simulate "
                             "again") from error
        rows.append(row)
    return rows


def _total(graph: Graph) -> dict[str, int]:
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
    """The weights as a PNG (data URI): rows are inputs, columns outputs; absent is transparent. Where a pixel is many
    weights it is as opaque as they are large, its colour mixed of those above and below zero.
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
    thresholds = steps.thresholds.ravel()
    inside = thresholds[(thresholds > source.domain.lo) & (thresholds <= source.domain.hi)]
    low, high = (int(inside.min()), int(inside.max())) if len(inside) else (source.domain.lo, source.domain.hi)
    counts = np.bincount(((inside - low) * BINS // (high - low + 1)).astype(np.int64), minlength=BINS)
    return {"count": len(thresholds), "reached": len(inside), "falling": int((steps.sign < 0).sum()), "from": low, "to": high,
            "histogram": [int(n) for n in counts]}


def _tone(graph: Graph) -> list[dict[str, Any]]:
    """Of every thermometer on an input: the share of its planes that are high from which value on."""
    owner = {node.name: node for node in graph.inputs}
    curves = []
    for node in graph:
        if node.op is Op.GATHER and all(name in owner for name in node.inputs):
            owner[node.name] = owner[node.inputs[0]]
        elif isinstance(node.params, Steps) and node.inputs[0] in owner:
            domain = owner[node.inputs[0]].domain
            thresholds = np.sort(node.params.thresholds.ravel())
            at = np.unique(np.linspace(0, len(thresholds) - 1, min(POINTS, len(thresholds))).astype(int))
            points = [[round(float(domain.scale * int(thresholds[k]) + domain.offset), 6), round((int(k) + 1) / len(thresholds), 4)]
                      for k in at if len(thresholds)]
            ends = [round(float(domain.scale * code + domain.offset), 6) for code in (domain.lo, domain.hi)]
            curves.append({"node": node.name, "planes": len(thresholds), "from": ends[0], "to": ends[1], "points": points})
    return curves


# --- accuracy -------------------------------------------------------------------------------------------------------


def _accuracy(graph: Graph, data: Any, labels: Any) -> dict[str, Any] | None:
    """Decisions of the graph on `data`: the largest output, the class that ARGMAX gives, or whether a single output is
    above 0.
    """
    if data is None or labels is None:
        return None
    if len(graph.outputs) != 1:
        raise InputError(f"the graph has {len(graph.outputs)} outputs; labels need one")
    codes = given_codes(graph, data)
    if not len(codes[0]):
        raise InputError("data: no samples")
    values = np.asarray(graph.decode(graph(codes))).reshape(len(codes[0]), -1)
    truth = np.asarray(labels)
    if truth.ndim == 2 and truth.shape[1] > 1:
        truth = truth.argmax(axis=1)
    truth = truth.ravel()
    decided = graph.output.op is Op.ARGMAX
    if decided and graph.output.size > 1:
        raise InputError(f"the graph decides {graph.output.size} positions of a sample; labels need one decision each")
    classes = graph.output.domain.size if decided else max(2, values.shape[1])
    if len(truth) != len(values):
        raise InputError(f"labels: {len(truth)} for {len(values)} samples")
    if truth.dtype.kind not in "iub" or truth.min() < 0 or truth.max() >= classes:
        raise InputError(f"labels: whole numbers from 0 to {classes - 1}, the classes of the network's outputs")
    if decided:
        chosen = values[:, 0].astype(int)
    else:
        chosen = values.argmax(axis=1) if values.shape[1] > 1 else (values[:, 0] > 0).astype(int)
    right = int((chosen == truth).sum())
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (truth.astype(np.int64), chosen), 1)
    return {"samples": len(truth), "right": right, "percent": round(100 * right / len(truth), 2),
            "classes": list(range(classes)), "confusion": table.tolist() if classes <= CLASSES else None}


# --- side by side ---------------------------------------------------------------------------------------------------


def _pareto(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """LUTs against accuracy, or against latency where no labels were given or all are as accurate; who is not beaten in
    both.
    """
    if len(rows) < 2:
        return None
    by_accuracy = all(row["accuracy"] for row in rows) and len({row["accuracy"]["percent"] for row in rows}) > 1
    points = [{"name": row["name"], "lut": row["summary"]["size"]["lut"],
               "other": row["accuracy"]["percent"] if by_accuracy else row["summary"]["speed"]["latency_ns"]}
              for row in rows]
    sign = -1 if by_accuracy else 1
    for point in points:
        point["best"] = not any(
            other["lut"] <= point["lut"] and sign * other["other"] <= sign * point["other"]
            and (other["lut"], other["other"]) != (point["lut"], point["other"]) for other in points)
    return {"against": "accuracy in per cent" if by_accuracy else "latency in ns", "points": points}

