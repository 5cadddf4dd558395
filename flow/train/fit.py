"""A plain training run: seeded, with progress, and the accuracy of what ships."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tf_keras as keras
from numpy.typing import NDArray

__all__ = ["Arrays", "accuracy", "fit"]

Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]  # x_train, y_train, x_test, y_test


class _Report(keras.callbacks.Callback):
    def __init__(self, epochs: int, report: Callable[[int, int, dict[str, float]], None]):
        super().__init__()
        self.epochs, self.report = epochs, report

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.report(epoch + 1, self.epochs, dict(logs or {}))


def fit(model: keras.Model, arrays: Arrays, epochs: int, batch_size: int = 64, learning_rate: float = 2e-3,
        seed: int = 0, report: Callable[[int, int, dict[str, float]], None] = lambda *_: None) -> float:
    """Train a classifier of logits with cross-entropy, Adam and a cosine schedule; returns its test accuracy (0..1).

    `report(epoch, epochs, {"loss", "accuracy"})` is called after every epoch.
    """
    keras.utils.set_random_seed(seed)
    x, y, x_test, y_test = arrays
    steps = epochs * -(-len(x) // batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], jit_compile=False,
    )
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[_Report(epochs, report)])
    return accuracy(model.predict(x_test, batch_size=1024, verbose=0), y_test)


def accuracy(outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """Share of rows whose largest output is at the label."""
    return float(np.mean(np.argmax(outputs, axis=-1) == labels))
