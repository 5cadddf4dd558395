"""The front of LUTs against nanoseconds of single layers as a drawing: ours by goals, counted, and alkaid's designs.

    python scripts/plot_front.py docs/front.svg        # in seconds, without any tool

alkaid's points are those of scripts/bench_luts.py.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from bench_luts import LAYERS

from bnnflow.backends.netlist.goals import GOALS, Goal
from bnnflow.backends.netlist.lower import to_logic
from bnnflow.devices.fabric import PS

# Layers, and (ns, LUTs) of alkaid 0.8.2: by yosys 0.70 for xcup, of two runs the one of the smaller product.
ALKAID = {"reference": (2.95, 3509), "codebook": (3.51, 2935), "ternary-10": (1.78, 920), "ternary-4bit": (5.22, 1791)}
TARGETS: tuple[Goal, ...] = (6.0, 5.0, 4.0, 3.0, 2.0)  # ns, beside the goals that have names
WIDTH, HEIGHT, LEFT, TOP = 170, 130, 48, 26
MOST_NS = 10.0


def points(name: str) -> list[tuple[str, float, int]]:
    """(goal, ns, LUTs) of a layer's netlists."""
    found = []
    for goal in (*GOALS, *TARGETS):
        logic = to_logic(LAYERS[name]().graph(), goals=goal)
        ns = max(logic.net.when[literal >> 1] for literal in logic.wanted) / PS
        found.append((str(goal), ns, logic.net.luts(logic.wanted, 0)))
    return found


def panel(name: str, index: int) -> list[str]:
    """The drawing of a layer: its front, alkaid's design, and the line of one product through that."""
    left, top = LEFT + index % 2 * (WIDTH + LEFT), TOP + index // 2 * (HEIGHT + 2 * TOP)
    found = points(name)
    ns, luts = ALKAID[name]
    most = max(luts, *(count for _, _, count in found)) * 1.5
    least = min(luts, *(count for _, _, count in found)) / 1.5

    def at(x: float, y: float) -> str:
        height = math.log(y / least) / math.log(most / least)
        return f'{left + WIDTH * x / MOST_NS:.1f} {top + HEIGHT * (1 - height):.1f}'

    curve = [at(x, ns * luts / x) for x in (MOST_NS * k / 100 for k in range(1, 101)) if least <= ns * luts / x <= most]
    front = sorted({(x, y) for _, x, y in found
                    if not any(a <= x and b < y or a < x and b <= y for _, a, b in found)})
    lines = [f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" class="frame"/>',
             f'<text x="{left}" y="{top - 6}">{name}</text>', f'<polyline class="product" points="{" ".join(curve)}"/>',
             f'<polyline class="front" points="{" ".join(at(x, y) for x, y in front)}"/>']
    for goal, x, y in found:
        cx, cy = at(x, y).split()
        lines.append(f'<circle cx="{cx}" cy="{cy}" r="2.5"><title>{goal}: {y:,} LUTs, {x:.2f} ns</title></circle>')
    cx, cy = map(float, at(ns, luts).split())
    lines.append(f'<rect x="{cx - 3:.1f}" y="{cy - 3:.1f}" width="6" height="6" class="peer">'
                 f'<title>alkaid: {luts:,} LUTs, {ns:.2f} ns</title></rect>')
    for x in (0, 5, 10):
        lines.append(f'<text x="{left + WIDTH * x / MOST_NS:.0f}" y="{top + HEIGHT + 12}" class="mid">{x}</text>')
    for y in (500, 1000, 2000, 4000):
        if least <= y <= most:
            lines.append(f'<text x="{left - 4}" y="{float(at(0, y).split()[1]) + 3:.1f}" class="end">{y:,}</text>')
    return lines


def drawing() -> str:
    """The drawing as SVG: LUTs upwards (logarithmic), ns to the right."""
    lines = [line for index, name in enumerate(ALKAID) for line in panel(name, index)]
    style = ("text{font:10px sans-serif;fill:#444}.mid{text-anchor:middle}.end{text-anchor:end}"
             ".frame{fill:none;stroke:#bbb}.front{fill:none;stroke:#1f77b4}circle{fill:#1f77b4}.peer{fill:#d62728}"
             ".product{fill:none;stroke:#d62728;stroke-dasharray:3 3}")
    width, height = 2 * (LEFT + WIDTH) + 20, 2 * (HEIGHT + 2 * TOP) + 10
    key = (f'<text x="{LEFT}" y="{height - 4}">ns before placement; circles: ours by goals, square: alkaid, '
           'dashed: its product</text>')
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + 4}" width="{width}">',
                      f"<style>{style}</style>", '<rect width="100%" height="100%" fill="#fff"/>', *lines, key,
                      "</svg>", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing())
