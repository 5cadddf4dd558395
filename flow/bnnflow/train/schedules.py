"""What changes while a network trains: the progress of soft and annealed quantizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from bnnflow.generation import keras, leaf_layers

__all__ = ["HARD_FROM", "Annealed", "Progress", "annealed_of", "harden", "set_progress"]

# From this share of a training on, forwards are hard and shared scales stay, while batch norms settle.
HARD_FROM = 0.8


class Annealed(keras.layers.Layer):
    """A layer or quantizer of ours that follows the training's progress.

    `progress` is a scalar weight from 0 to 1, saved with the model. `Progress` moves it; `harden` sets it to 1.
    """

    def build(self, input_shape: Any) -> None:
        """Make `progress`."""
        self.progress = self.add_weight(name="progress", shape=(), initializer="zeros", trainable=False)
        super().build(input_shape)

    def settling(self, learned: tf.Tensor) -> tf.Tensor:
        """Scales that a whole layer shares; they get no gradient from HARD_FROM on.

        If a snapped scale crossed a border in the last steps, every sum would shift, and batch norms could not follow.
        """
        share = tf.cast(self.progress < HARD_FROM, learned.dtype)
        return share * learned + (1.0 - share) * tf.stop_gradient(learned)


def annealed_of(model: keras.Model) -> Iterator[Annealed]:
    """Every part of a model that follows the training's progress."""
    return (part for part in leaf_layers(model) if isinstance(part, Annealed) and part.built)


def set_progress(model: keras.Model, progress: float) -> None:
    """Set the progress (0..1) of everything annealed in a model."""
    for part in annealed_of(model):
        part.progress.assign(progress)


def harden(model: keras.Model) -> keras.Model:
    """End all schedules, so that every forward is what ships; returns the model.

    Batch norms keep the statistics of the soft forwards: train some more, or estimate them anew.
    """
    set_progress(model, 1.0)
    return model


class Progress(keras.callbacks.Callback):
    """Sets the progress of everything annealed to (steps of the optimizer) / `steps`, so that a resumed run goes on."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Before every step: step k of n is at k/n."""
        set_progress(self.model, min(int(self.model.optimizer.iterations) / self.steps, 1.0))

    def on_train_end(self, logs: Any = None) -> None:
        """Harden the model, as it ships."""
        harden(self.model)
