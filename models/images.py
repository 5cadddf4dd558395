"""Image classification data sets: CIFAR-10, CIFAR-100, STL-10 and visual wake words, as pixels/256."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.generation import keras
from bnnflow.models.common import Rows, arrays, read_array
from bnnflow.train.fit import Arrays

__all__ = ["DATASETS", "INPUT_TYPE", "Dataset", "dataset_of", "images"]

INPUT_TYPE = "ufixed<8,0>"  # pixels/256, not 255, so that they are fixed-point numbers and every sum is exact


@dataclass(frozen=True)
class Dataset:
    """Images of `size` x `size` x 3 bytes; `load` names Keras' loader and is "" where Keras has none."""

    title: str
    size: int
    classes: int
    load: str = ""


DATASETS = {
    "cifar10": Dataset("CIFAR-10", 32, 10, "cifar10"),
    "cifar100": Dataset("CIFAR-100", 32, 100, "cifar100"),
    "stl10": Dataset("STL-10", 96, 10),
    "vww": Dataset("visual wake words", 96, 2),
}


def dataset_of(name: str) -> Dataset:
    """A data set by name; raises InputError for another one."""
    if name not in DATASETS:
        raise InputError(f"dataset {name!r}; use one of {', '.join(DATASETS)}")
    return DATASETS[name]


def images(name: str) -> Arrays:
    """x (n, size, size, 3) float32 pixels/256, labels (n,) int64, to train and to test with, of a data set (DATASETS).

    Where FLOW_DATA is set, they are read from that folder: from `NAME.npz` with x_train, x_test (n, size, size, 3)
    uint8 and y_train, y_test (n,) integers from 0; or from `NAME_jpeg.npz` with jpeg_train, jpeg_test (uint8: JPEG
    files one after another), off_train, off_test (where each file begins, and the end), y_train, y_test. Otherwise
    Keras' loader downloads them once; it has no STL-10 and no visual wake words.
    Raises InputError where there is no such file, or it is damaged or of another shape.
    """
    dataset, file = dataset_of(name), f"{name}.npz"
    row, label = ((dataset.size, dataset.size, 3), (np.uint8,)), ((), (np.integer,))
    rows: Rows = {"x_train": row, "y_train": label, "x_test": row, "y_test": label}
    folder = os.environ.get("FLOW_DATA", "")
    if not folder and not dataset.load:
        raise InputError(f"{dataset.title} has no loader; set FLOW_DATA to a folder with {file}: x_train, x_test "
                         f"(n, {dataset.size}, {dataset.size}, 3) uint8, y_train, y_test (n,) integers from 0 to "
                         f"{dataset.classes - 1}")
    packed = Path(folder) / f"{name}_jpeg.npz"
    if folder and packed.is_file() and not (Path(folder) / file).exists():
        found = _unpacked(str(packed), dataset.size)
    else:
        found = arrays(file, dataset.title, rows, _loader(dataset))
    x, y, x_test, y_test = found
    for labels in (y, y_test):
        if labels.min() < 0 or labels.max() >= dataset.classes:
            raise InputError(f"{dataset.title}: labels from {labels.min()} to {labels.max()}; needs 0 to "
                             f"{dataset.classes - 1}")
    x, x_test = (part.astype(np.float32) / np.float32(256) for part in (x, x_test))
    return x, y.astype(np.int64), x_test, y_test.astype(np.int64)


def _loader(dataset: Dataset) -> Callable[[], Sequence[NDArray[Any]]]:
    return lambda: sum(getattr(keras.datasets, dataset.load).load_data(), ())


def _unpacked(file: str, size: int) -> list[NDArray[Any]]:
    """x_train, y_train, x_test, y_test of a file of JPEGs."""
    found = []
    for part in ("train", "test"):
        y = read_array(file, f"y_{part}")
        packed, offsets = read_array(file, f"jpeg_{part}"), read_array(file, f"off_{part}")
        if not _divide(offsets, packed, y):
            raise InputError(f"{file}: off_{part} {offsets.shape} and y_{part} {y.shape} do not divide jpeg_{part} "
                             f"{packed.shape} {packed.dtype} into images")
        pieces = (packed[a:b].tobytes() for a, b in zip(offsets, offsets[1:]))
        found += [np.stack([_jpeg(piece, size, f"{file}: {part} image {k}") for k, piece in enumerate(pieces)]), y]
    return found


def _divide(offsets: NDArray[Any], packed: NDArray[Any], y: NDArray[Any]) -> bool:
    """True where `offsets` divide all the bytes of `packed` into as many files, none empty, as there are labels `y`."""
    if not packed.ndim == offsets.ndim == y.ndim == 1 or packed.dtype != np.uint8:
        return False
    if not all(np.issubdtype(a.dtype, np.integer) for a in (offsets, y)) or not 0 < len(y) == len(offsets) - 1:
        return False
    return bool(offsets[0] == 0 and offsets[-1] == len(packed) and np.all(offsets[1:] > offsets[:-1]))


def _jpeg(data: bytes, size: int, where: str) -> NDArray[np.uint8]:
    """One JPEG file as (size, size, 3); its header is checked before anything is unpacked."""
    try:
        shape = tuple(tf.io.extract_jpeg_shape(data).numpy()[:2])
        if shape == (size, size):
            return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    except tf.errors.InvalidArgumentError as error:
        raise InputError(f"{where} is no JPEG: {error.message:.200}") from error
    raise InputError(f"{where} is {shape[0]}x{shape[1]}; needs {size}x{size}")
