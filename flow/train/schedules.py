"""What changes while a network trains: the progress of soft and annealed quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tf_keras as keras

from flow.train.proximal import Scheduled

__all__ = ["Progress", "harden", "scheduled_of", "set_progress"]


def scheduled_of(model: keras.Model) -> Iterator[Scheduled]:
    """Every part of a model that follows the training's progress."""
    return (part for part in model._flatten_layers(include_self=False) if isinstance(part, Scheduled) and part.built)


def set_progress(model: keras.Model, progress: float) -> None:
    """Move everything scheduled in a model to a share (0..1) of its training."""
    for part in scheduled_of(model):
        part.progress.assign(progress)


def harden(model: keras.Model) -> keras.Model:
    """End all schedules, so that every forward is what ships; returns the model.

    Batch norms keep the statistics of the soft forwards: train, or estimate them, some more.
    """
    set_progress(model, 1.0)
    return model


class Progress(keras.callbacks.Callback):
    """Moves what is scheduled with the optimizer's steps, out of `steps` in all, so that a resumed run goes on."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Before every step: step k of n is at k/n."""
        set_progress(self.model, min(int(self.model.optimizer.iterations) / self.steps, 1.0))

    def on_train_end(self, logs: Any = None) -> None:
        """What ships is hard."""
        harden(self.model)
