"""Jet tagging, 16-64-32-32-5 (OpenML 42468, hls4ml LHC jets): binary, ternary and hybrid, as in the hls4ml
binary/ternary paper (Ngadiuba et al., arXiv 2003.06308).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tf_keras as keras
from qkeras import QActivation, QDense, binary, ternary

from flow.errors import InputError
from flow.train.fit import Arrays

__all__ = ["INPUT_TYPE", "KINDS", "TRAINING", "build", "data"]

INPUT_TYPE = "fixed<16,6>"
TRAINING = {"epochs": 30, "batch_size": 1024, "learning_rate": 5e-3}
# name: (kernel quantizer, activation); hybrid networks keep several bits in their activations.
KINDS = {
    "binary": (lambda: binary(alpha=1), "binary(alpha=1)"),
    "ternary": (lambda: ternary(alpha=1), "ternary(alpha=1)"),
    "hybrid_binary": (lambda: binary(alpha=1), "quantized_relu(4,2)"),
    "hybrid_ternary": (lambda: ternary(alpha=1), "quantized_relu(4,2)"),
}


def data(seed: int = 0) -> Arrays:
    """x (n, 16) float32, standardised and rounded to fixed<16,6>, labels (n,) of g q t w z; a fifth to test with.

    From `jets.npz` (X (n, 16), y (n,) integers or names) in the folder FLOW_DATA where that is set, else from OpenML.
    Raises InputError where neither has it.
    """
    folder = os.environ.get("FLOW_DATA")
    if folder:
        file = Path(folder) / "jets.npz"
        if not file.is_file():
            raise InputError(f"no {file}; put OpenML 42468 there as jets.npz (X, y), or unset FLOW_DATA")
        with np.load(file, allow_pickle=False) as arrays:
            x, y = arrays["X"], arrays["y"]
    else:
        try:
            from sklearn.datasets import fetch_openml

            x, y = fetch_openml(data_id=42468, return_X_y=True, as_frame=False)
        except Exception as error:  # the loader raises what its download raises
            raise InputError(f"cannot download OpenML 42468 ({error}); set FLOW_DATA to a folder with "
                             "jets.npz") from error
    x, labels = np.asarray(x, np.float64), np.unique(y, return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[len(x) // 5 :], order[: len(x) // 5]
    x = (x - x[train].mean(axis=0)) / np.maximum(x[train].std(axis=0), 1e-9)
    x = (np.clip(np.rint(x * 1024), -(2**15), 2**15 - 1) / 1024).astype(np.float32)
    return x[train], labels[train], x[test], labels[test]


def build(kind: str = "ternary", widths: tuple[int, ...] = (64, 32, 32), seed: int = 0) -> keras.Model:
    """16 - widths - 5 of a kind (KINDS), with batch norms; logits."""
    if kind not in KINDS:
        raise InputError(f"jets: kind {kind!r}; use one of {', '.join(KINDS)}")
    keras.utils.set_random_seed(seed)
    kernel, activation = KINDS[kind]
    h = x = keras.Input((16,), name="features")
    for k, width in enumerate(widths, 1):
        h = QDense(width, kernel_quantizer=kernel(), use_bias=False, name=f"dense{k}")(h)
        h = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-6, name=f"norm{k}")(h)
        h = QActivation(activation, name=f"act{k}")(h)
    h = QDense(5, kernel_quantizer=kernel(), use_bias=False, name="logits")(h)
    h = keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-6, name="norm_logits")(h)
    return keras.Model(x, h, name="jets")
