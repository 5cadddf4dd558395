"""The only place that draws: the history of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")  # no display is needed

from matplotlib.figure import Figure

__all__ = ["plot_history"]


def plot_history(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write loss (nats), accuracy (0..1) and, where masks cut, the share of zeros over the epochs as SVG.

    `rows` are those of `Training.rows`; epochs whose network is not yet of the kind that ships are grey.
    """
    figure = Figure(figsize=(7, 3), layout="constrained")
    losses, shares = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    for axes, names, label in ((losses, ("loss", "kl", "val_loss"), "loss, nats"),
                               (shares, ("accuracy", "val_accuracy", "zeros"), "share")):
        for name in names:
            values = [row.get(name) for row in rows]
            if values[0] is not None and (name != "zeros" or any(values)):
                axes.plot(epochs, values, label=name)
        soft = sum(not row["ships"] for row in rows)
        if soft:
            axes.axvspan(epochs[0], epochs[soft - 1], color="0.93", label="soft or pruning")
        axes.set(xlabel="epoch", ylabel=label)
        axes.legend(frameon=False, fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "bnnflow"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
