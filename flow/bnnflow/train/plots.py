"""The only place that draws: the history of a training, the curves of learned thermometers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnnflow.errors import InputError, needed_for
from bnnflow.generation import EXTRA, leaf_layers
from bnnflow.train.layers import LearnedThermometer

with needed_for("plots of a training", EXTRA):
    import matplotlib

    matplotlib.use("svg")  # no display is needed

    from matplotlib.figure import Figure

__all__ = ["plot_history", "plot_tone_curves", "thermometers_of"]

FEW = 6  # curves that a legend names at most


def plot_history(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write loss (nats), accuracy (0..1) and, where masks prune, the share of zeros over the epochs as SVG.

    `rows` are those of `Training.rows`. Epochs whose network is not yet of the kind that ships have a grey background.
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
    _save(figure, path)


def thermometers_of(model: Any) -> list[LearnedThermometer]:
    """The thermometers of a model, nested ones too."""
    return [layer for layer in leaf_layers(model) if isinstance(layer, LearnedThermometer)]


def plot_tone_curves(model: Any, path: Path) -> None:
    """Write as SVG the share (0..1) of each thermometer's planes that are on, over its input; one curve a channel.

    Evenly spaced thresholds give a straight line; a learned curve is the tone mapping that the network chose. Raises
    InputError where the model has no thermometer.
    """
    layers = thermometers_of(model)
    if not layers:
        raise InputError(f"model {model.name!r} has no LearnedThermometer")
    figure = Figure(figsize=(3.5 * len(layers), 3), layout="constrained")
    for axes, layer in zip(figure.subplots(1, len(layers), squeeze=False)[0], layers):
        curves = layer.thresholds().numpy()
        for channel, thresholds in enumerate(curves):
            shares = [k / len(thresholds) for k in range(len(thresholds) + 1)]
            axes.stairs(shares, [layer.low, *thresholds, layer.high], baseline=None, label=f"channel {channel}")
        axes.plot([layer.low, layer.high], [0, 1], color="0.8", linewidth=0.8)
        axes.set(title=layer.name, xlabel="input", ylabel="share of planes on")
        if 1 < len(curves) <= FEW:
            axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "bnnflow"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
