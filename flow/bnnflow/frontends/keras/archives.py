"""The weights of a `.keras` archive, which names layers by their classes and numbers, put into a model's layers.

Keras' own loader finds the quantizers of a layer under the attribute that held them when it was saved. qkeras-v3 holds
them under another one once the layer is read back, and QKeras 0.9 in a list; here they are found under either.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bnnflow.errors import InputError
from bnnflow.generation import keras

if TYPE_CHECKING:
    import h5py

__all__ = ["load_weights"]

PARTS = ("kernel", "depthwise", "pointwise", "bias")


def load_weights(model: keras.Model, file: h5py.File) -> None:
    """Put the weights in an archive's HDF5 file into a model of the same layers; raises InputError where one lacks."""
    _load(model, file)


def _load(layer: Any, group: h5py.Group) -> None:
    """The weights of a layer, of its quantizers and of the layers in it, all of them."""
    values = {place: np.asarray(value) for place, value in group.get("vars", {}).items()}
    if hasattr(layer, "batchnorm"):
        _load_folded(layer, values)
    else:
        layer.load_own_variables(values)
    for places, part in _inside(layer):
        place = next((place for place in places if place in group), None)
        if place is not None:
            _load(part, group[place])
        elif part.weights:
            raise InputError(f"the file holds no weights of {part.name!r}, a part of {layer.name!r}; save the model "
                             "as .h5, which keeps those of a layer that is in two models at once")


def _load_folded(layer: Any, values: Mapping[str, Any]) -> None:
    """The weights of a folded layer besides those of its batch norm: numbered ones, and the steps of its training,
    which qkeras-v3 writes by their name, or by both, and cannot always read back.
    """
    variables = layer._trainable_variables
    for place, variable in enumerate(variables):
        variable.assign(values[str(place)])
    layer._iteration.assign(values["iteration"] if "iteration" in values else values[str(len(variables))])


def _inside(layer: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(Where it may lie, layer or quantizer) for each that is a part of a layer."""
    if isinstance(layer, keras.Model):
        names: Counter[str] = Counter()
        for part in layer.layers:
            name = _snake(type(part).__name__)
            yield (f"layers/{name}_{names[name]}" if names[name] else f"layers/{name}",), part
            names[name] += 1
        return
    names = Counter()
    found = [(f"{part}_quantizer", getattr(layer, f"{part}_quantizer_internal", None)) for part in PARTS]
    found += [(attribute, getattr(layer, attribute, None)) for attribute in ("quantizer", "batchnorm", "layer")]
    for attribute, part in found:
        if isinstance(part, keras.layers.Layer):
            name = _snake(type(part).__name__)
            listed = f"quantizers/{name}_{names[name]}" if names[name] else f"quantizers/{name}"
            yield (attribute, f"{attribute}_internal", listed), part
            names[name] += 1


def _snake(name: str) -> str:
    """A class's name as archives have it."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
