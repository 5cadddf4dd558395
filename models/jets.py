"""Jet tagging, 16-64-32-32-5 (OpenML 42468, hls4ml LHC jets): binary, ternary and hybrid, as in the hls4ml
binary/ternary paper (Ngadiuba et al., arXiv 2003.06308).
"""

from __future__ import annotations

import numpy as np

from bnnflow.errors import needed_for
from bnnflow.generation import EXTRA, keras
from bnnflow.models.common import KINDS, arrays, dense_layers
from bnnflow.train.fit import Arrays
from bnnflow.train.saving import with_input_type

__all__ = ["INPUT_TYPE", "KINDS", "TRAINING", "build", "data"]

INPUT_TYPE = "fixed<16,6>"
TRAINING = {"epochs": 30, "batch_size": 1024, "learning_rate": 5e-3}
ROWS = {"X": ((16,), (np.integer, np.floating)), "y": ((), (np.integer, np.character))}


def data(seed: int = 0) -> Arrays:
    """x (n, 16) float32, standardised and rounded to fixed<16,6>, labels (n,) of g q t w z; a fifth is to test with.

    They come from `jets.npz` (X (n, 16), y (n,) integers or names) in the folder FLOW_DATA where that is set, else from
    OpenML. Raises InputError where these do not have them.
    """
    x, y = arrays("jets.npz", "OpenML 42468", ROWS, _download)
    x, labels = x.astype(np.float64), np.unique(y, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[len(x) // 5 :], order[: len(x) // 5]
    x = (x - x[train].mean(axis=0)) / np.maximum(x[train].std(axis=0), 1e-9)
    x = (np.clip(np.rint(x * 1024), -(2**15), 2**15 - 1) / 1024).astype(np.float32)
    return x[train], labels[train], x[test], labels[test]


def _download() -> tuple[np.ndarray, np.ndarray]:
    with needed_for("OpenML's data", EXTRA):
        from sklearn.datasets import fetch_openml

    x, y = fetch_openml(data_id=42468, return_X_y=True, as_frame=False)
    return np.asarray(x, np.float64), np.asarray(y, str)


def build(kind: str = "ternary", widths: tuple[int, ...] = (64, 32, 32), seed: int = 0) -> keras.Model:
    """16 - widths - 5 of a kind (KINDS), with batch norms; logits."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((16,), name="features")
    return with_input_type(keras.Model(x, dense_layers(x, kind, widths, 5), name="jets"), INPUT_TYPE)
