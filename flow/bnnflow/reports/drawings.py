"""Drawings as inline SVG, from the data of a document. Text is escaped; colours are those of the page's CSS classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from markupsafe import Markup

__all__ = ["dataflow", "histogram", "number", "pareto", "tone"]

# All lengths are in pixels.
BOX, TALL, ACROSS, DOWN, PAD = 216, 44, 24, 26, 8  # a node's width and height, gaps beside and below it, the margin
LABEL, WIDE, HIGH = 24, 7, 16  # letters of a label, width and height of a letter
PLOT = (640, 250)  # width and height of a plot of points
LEFT, EDGE = 72, 40  # room for the numbers on its left, and for what is around it


def number(value: Any) -> str:
    """A number for people; a dash where nothing is known."""
    if value is None:
        return "–"
    if isinstance(value, float):
        text = f"{value:,.3f}".rstrip("0").rstrip(".")
        return text if text not in ("0", "-0") or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _svg(width: float, height: float, label: str, parts: Sequence[Markup], most: float = 0) -> Markup:
    """A drawing as wide as the page; with `most` at most so many pixels, and so wide that it can still be read."""
    style = Markup(' style="max-width:{}px;min-width:{}px"').format(round(most), round(0.6 * most)) if most else ""
    return Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}"{}>{}</svg>').format(
        label, round(width), round(height), style, Markup("").join(parts))


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, text)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def dataflow(nodes: Sequence[Mapping[str, Any]]) -> Markup:
    """The network from top to bottom: a box for every node, with its shape and the width of its codes."""
    depth: dict[str, int] = {}
    rows: list[list[Mapping[str, Any]]] = []
    for node in nodes:
        depth[node["name"]] = 1 + max((depth[name] for name in node["inputs"]), default=-1)
        while len(rows) <= depth[node["name"]]:
            rows.append([])
        rows[depth[node["name"]]].append(node)
    width = max(map(len, rows)) * (BOX + ACROSS) - ACROSS + 2 * PAD
    place = {}
    for y, row in enumerate(rows):
        left = (width - len(row) * (BOX + ACROSS) + ACROSS) / 2
        for k, node in enumerate(row):
            place[node["name"]] = (left + k * (BOX + ACROSS), PAD + y * (TALL + DOWN))
    parts = []
    for node in nodes:
        x, y = place[node["name"]]
        for name in node["inputs"]:
            a, b = place[name]
            start, end, middle = a + BOX / 2, x + BOX / 2, DOWN / 2
            curve = Markup('<path class="edge" d="M{:.1f} {:.1f}C{:.1f} {:.1f} {:.1f} {:.1f} {:.1f} {:.1f}"/>')
            parts.append(curve.format(start, b + TALL, start, b + TALL + middle, end, y - middle, end, y))
    for node in nodes:
        x, y = place[node["name"]]
        size = f"{'×'.join(map(str, node['shape']))} of {node['bits']} bit{'s' if node['bits'] > 1 else ''}"
        box = Markup('<rect class="box {}" x="{:.1f}" y="{:.1f}" width="{}" height="{}" rx="5"/>')
        parts += [box.format(node["op"], x, y, BOX, TALL), _text(x + 10, y + 18, _short(node["name"], 24), "name"),
                  _text(x + BOX - 10, y + 35, node["op"], "op", "end"), _text(x + 10, y + 35, _short(size, 24), "size")]
    height = 2 * PAD + len(rows) * (TALL + DOWN) - DOWN
    return _svg(width, height, "the network as dataflow, inputs at the top", parts, most=width)


def histogram(counts: Sequence[int], label: str) -> Markup:
    """A histogram with a bar for every count."""
    most, width, height = max(1, *counts), 240, 64
    each = width / len(counts)
    parts = [Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
        k * each, height - height * n / most, each - 1, height * n / most) for k, n in enumerate(counts) if n]
    parts.append(Markup('<path class="axis" d="M0 {0} H{1}"/>').format(height, width))
    return _svg(width, height + 1, label, parts)


def tone(curve: Mapping[str, Any]) -> Markup:
    """The tone curve of a thermometer: the share of its planes that are high at each value of its input."""
    width, height = 240, 120
    low, high = curve["from"], curve["to"]
    span = (high - low) or 1
    line = [f"M0 {height}"]
    for value, share in curve["points"]:
        x = width * min(1.0, max(0.0, (value - low) / span))
        line.append(f"H{x:.1f}V{height * (1 - share):.1f}")
    axes = Markup('<path class="axis" d="M0 0V{0}H{1}"/>').format(height, width)
    steps = Markup('<path class="line" d="{}H{}"/>').format("".join(line), width)
    return _svg(width, height + 1, f"tone curve of {curve['node']}", [axes, steps])


def _labels(xs: Sequence[float], ys: Sequence[float], width: float) -> list[tuple[float, bool]]:
    """(how far below its point, whether it ends there) for the name of every point, so that names do not overlap.

    A name begins at its point, or ends there in the right half; it is moved up while it lies on another one.
    """
    placed: list[tuple[float, float]] = []
    found: dict[int, tuple[float, bool]] = {}
    for k in sorted(range(len(xs)), key=lambda k: xs[k]):
        end, up = xs[k] > width / 2, -7.0
        left = xs[k] - (LABEL * WIDE if end else 0)
        while any(abs(left - x) < LABEL * WIDE and abs(ys[k] + up - y) < HIGH for x, y in placed):
            up -= HIGH
        placed.append((left, ys[k] + up))
        found[k] = (up, end)
    return [found[k] for k in range(len(xs))]


def _decades(known: Sequence[float], length: float) -> tuple[list[float], dict[float, str]]:
    """(places of values along a logarithmic axis of `length`, {place: text} of its ends, the least and the most)."""
    values = [log10(max(value, 1e-9)) for value in known]
    low, high = min(values), max(values)
    places = [length * ((v - low) / (high - low) if high > low else 0.5) for v in values]
    return places, {places[values.index(end)]: number(known[values.index(end)]) for end in (low, high)}


def pareto(data: Mapping[str, Any]) -> Markup:
    """Size against accuracy or latency, both axes logarithmic; the points that no other beats are joined."""
    points, (width, height) = data["points"], PLOT
    across, widths = _decades([point["lut"] for point in points], width - LEFT - 3 * EDGE)
    upwards, heights = _decades([point["other"] for point in points], height - 2 * EDGE - 10)
    xs, ys = [LEFT + EDGE / 2 + x for x in across], [height - EDGE - 10 - y for y in upwards]
    best = sorted((x, y) for x, y, point in zip(xs, ys, points) if point["best"])
    joined = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in best)
    parts = [Markup('<path class="axis" d="M{0} {1}V{2}H{3}"/>').format(LEFT, EDGE / 2, height - EDGE + 4, width),
             Markup('<path class="edge" d="{}"/>').format(joined),
             _text(width, height - 4, "LUTs, more to the right", "size", "end"),
             _text(0, 12, f"{data['against']}, more upwards", "size"),
             *(_text(LEFT + EDGE / 2 + x, height - 22, text, "size", "middle") for x, text in widths.items()),
             *(_text(LEFT - 6, height - EDGE - 6 - y, text, "size", "end") for y, text in heights.items())]
    for x, y, label, point in zip(xs, ys, _labels(xs, ys, width), points):
        parts += _point(x, y, *label, point)
    return _svg(width, height, "size of every project against what it buys", parts, most=width)


def _point(x: float, y: float, up: float, end: bool, point: Mapping[str, Any]) -> list[Markup]:
    """A point and its name; of a long one its end, because paths differ there."""
    name = point["name"] if len(point["name"]) <= LABEL else f"…{point['name'][1 - LABEL:]}"
    circle = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="5"/>')
    return [circle.format("best" if point["best"] else "beaten", x, y),
            _text(x - 8 if end else x + 8, y + up, name, "name", "end" if end else "start")]
