"""What the networks share: files of arrays, and the kinds and layers of the hls4ml binary/ternary paper (Ngadiuba et
al., arXiv 2003.06308).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from qkeras import QActivation, QDense, binary, ternary

from bnnflow.errors import InputError
from bnnflow.generation import keras

__all__ = ["KINDS", "Rows", "arrays", "dense_layers", "read_array"]

# name: (kernel quantizer, activation); hybrid networks keep several bits in their activations.
# binary_tanh and quantized_tanh pass no gradient where they saturate, as in the paper; binary(alpha=1) and
# ternary(alpha=1) pass it everywhere, which costs 5 points of accuracy on MNIST.
KINDS = {
    "binary": (lambda: binary(alpha=1), "binary_tanh"),
    "ternary": (lambda: ternary(alpha=1), "quantized_tanh(2,symmetric=1)"),
    "hybrid_binary": (lambda: binary(alpha=1), "quantized_relu(4,2)"),
    "hybrid_ternary": (lambda: ternary(alpha=1), "quantized_relu(4,2)"),
}

Rows = dict[str, tuple[tuple[int, ...], tuple[type, ...]]]  # array: (shape of a row, NumPy's kinds that it may have)


def dense_layers(h: Any, kind: str, widths: Sequence[int], classes: int) -> Any:
    """Keras tensor (n, features) -> logits (n, classes): dense layers of a kind (KINDS) with the paper's batch norms.

    The paper's dropout (0.2 on the input, 0.5 behind activations) is left out, because in 20 epochs of MNIST it makes
    every kind worse.
    """
    if kind not in KINDS:
        raise InputError(f"kind {kind!r}; use one of {', '.join(KINDS)}")
    kernel, activation = KINDS[kind]

    def dense(h: Any, width: int, name: str, norm: str) -> Any:
        h = QDense(width, kernel_quantizer=kernel(), use_bias=False, name=name)(h)
        return keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-6, name=norm)(h)

    for k, width in enumerate(widths, 1):
        h = QActivation(activation, name=f"act{k}")(dense(h, width, f"dense{k}", f"norm{k}"))
    return dense(h, classes, "logits", "norm_logits")


def arrays(name: str, source: str, rows: Rows, download: Callable[[], Sequence[NDArray[Any]]]) -> list[NDArray[Any]]:
    """Arrays (n, *row) in the order of `rows`, samples and their labels in turn; `source` names them in messages.

    They come from the file `name` in the folder FLOW_DATA where that is set, else from `download`. Raises InputError
    where these do not have them, and where one is missing, damaged or of another shape.
    """
    folder = os.environ.get("FLOW_DATA")
    if folder:
        where = str(Path(folder) / name)
        if not Path(where).is_file():
            raise InputError(f"no {where}; put {source} there as {name} ({', '.join(rows)}), or unset FLOW_DATA")
        found = {key: read_array(where, key) for key in rows}
    else:
        where = f"download of {source}"
        try:
            found = dict(zip(rows, download()))
        except Exception as error:  # the loader raises what its download raises
            raise InputError(f"cannot download {source} ({error}); set FLOW_DATA to a folder with {name}") from error
    found = {key: _rows(f"{where}: array {key!r}", values, *rows[key]) for key, values in found.items()}
    keys = list(found)
    for x, y in zip(keys[::2], keys[1::2]):
        if len(found[x]) != len(found[y]):
            raise InputError(f"{where}: {len(found[x])} rows in {x!r} and {len(found[y])} in {y!r}; needs as many")
    return list(found.values())


def read_array(file: str, key: str) -> NDArray[Any]:
    """One array of a .npz file; raises InputError where it is missing or damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            return stored[key]
    except Exception as error:  # whatever a damaged archive makes the readers raise; the cause is kept
        raise InputError(f"{file}: cannot read array {key!r}: {error!r:.200}") from error


def _rows(where: str, values: NDArray[Any], row: tuple[int, ...], kinds: tuple[type, ...]) -> NDArray[Any]:
    """`values` as (n, *row). Where a row has one axis, values may have more, as images (n, height, width) have."""
    if not _fits(values, row) or not any(np.issubdtype(values.dtype, kind) for kind in kinds):
        raise InputError(f"{where} is {values.shape} {values.dtype}; needs {('n', *row)} "
                         f"{' or '.join(kind.__name__ for kind in kinds)}")
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise InputError(f"{where} holds values that are not finite")
    return values.reshape(len(values), *row)


def _fits(values: NDArray[Any], row: tuple[int, ...]) -> bool:
    """True for one or more rows of the size, and where they have two axes or more the shape, of `row`."""
    if values.ndim == 0 or values.size == 0 or values.size != len(values) * int(np.prod(row)):
        return False
    return len(row) < 2 or values.shape[1:] == row
