"""Layers around a layer: TimeDistributed, and the pruning wrapper of TensorFlow Model Optimization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import FloatTensor
from bnnflow.exact.functions import Refusal
from bnnflow.frontends.keras.calls import Call
from bnnflow.frontends.keras.registry import LOWERINGS, Lower, lowers
from bnnflow.generation import inference, keras, layers_here, pruning_wrappers

__all__ = ["PruneLowMagnitude"]

# Layers that a TimeDistributed may hold: what they do to a sample is what they do to all samples and times at once.
AT_EACH_TIME = frozenset(layers_here(
    "Activation", "ActivityRegularization", "AlphaDropout", "BatchNormalization", "Dense", "Dropout", "ELU", "Flatten",
    "GaussianDropout", "GaussianNoise", "LeakyReLU", "PReLU", "Permute", "QActivation", "QBatchNormalization", "QDense",
    "QDenseBatchnorm", "ReLU", "Rescaling", "Reshape", "Softmax", "ThresholdedReLU", "TimeDistributed"))
# The weights of Keras' own layers that are pruned; layers of QKeras say it themselves.
PRUNED = {"Dense": "kernel", "Conv1D": "kernel", "Conv2D": "kernel", "SeparableConv1D": "pointwise_kernel",
          "SeparableConv2D": "pointwise_kernel"}


class PruneLowMagnitude(keras.layers.Wrapper):  # type: ignore[misc]
    """Stands for the pruning wrapper of TensorFlow Model Optimization in a file, so that it need not be installed.

    It has that one's weights, in its order, and computes what it does in inference: the pruned weights of the layer
    inside are multiplied by their masks, for good, and the layer is called. It prunes no further.
    """

    TAKEN = ("layer", "name", "trainable", "dtype")  # of its configuration; all else says how to prune

    def build(self, input_shape: Any = None) -> None:
        """Make the layer's weights and then those of the wrapper."""
        super().build(input_shape)
        self.own = [self.add_weight(name=name, shape=shape, initializer=start, trainable=False, dtype=dtype)
                    for name, shape, start, dtype in self._own_weights()]

    def _own_weights(self) -> Iterator[tuple[str, tuple[int, ...], str, str]]:
        """(Name, shape, initializer, type) of a mask and a threshold for each pruned weight, and of the steps."""
        for k, weight in enumerate(_prunable(self.layer)):
            yield f"mask_{k}", tuple(weight.shape), "ones", "float32"
            yield f"threshold_{k}", (), "zeros", "float32"
        yield "pruning_step", (), "zeros", "int64"

    @property
    def pruning_vars(self) -> list[tuple[Any, Any]]:
        """(Weight, mask) of each weight that is pruned."""
        return list(zip(_prunable(self.layer), self.own[:-1:2]))

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The layer, its weights multiplied by their masks."""
        _multiply_by_masks(self)
        return self.layer(inputs, **({"training": training} if inference(self.layer) else {}))

    @property
    def trainable_weights(self) -> list[Any]:
        """Those of the layer."""
        return list(self.layer.trainable_weights)

    @property
    def non_trainable_weights(self) -> list[Any]:
        """Those of the layer, before its own: the order in HDF5 files."""
        return [*self.layer.non_trainable_weights, *getattr(self, "own", [])]

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """In archives the pruned weights stand before the masks once more."""
        values = [store[str(place)] for place in range(len(store.keys()))]
        for variable, value in zip(self.own, values[-len(self.own):], strict=True):
            variable.assign(value)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Any = None) -> PruneLowMagnitude:
        """The wrapper without its schedule of pruning."""
        taken = {key: config[key] for key in cls.TAKEN if key in config}
        return cls(keras.layers.deserialize(taken.pop("layer"), custom_objects=custom_objects), **taken)


def _prunable(layer: Any) -> list[Any]:
    """The weights of a layer that are pruned."""
    if hasattr(layer, "get_prunable_weights"):
        return list(layer.get_prunable_weights())
    name = PRUNED.get(type(layer).__name__)
    return [getattr(layer, name)] if name else []


def _multiply_by_masks(wrapper: Any) -> None:
    """What the pruning wrapper does to its layer whenever it is called, in inference, too."""
    for weight, mask, *_ in wrapper.pruning_vars:
        weight.assign(weight * mask)


@lowers(*pruning_wrappers(), PruneLowMagnitude)
def _pruned(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    lower = _lowering(call)
    _multiply_by_masks(call.layer)
    for _, mask, *_ in call.layer.pruning_vars:
        kept = np.asarray(mask)
        builder.notes.append(f"{call.key}: its pruning wrapper is left out, its weights are multiplied by the mask, "
                             f"which keeps {int((kept != 0).sum())} of {kept.size}")
    return lower(builder, replace(call, layer=call.layer.layer), values)


@lowers(keras.layers.TimeDistributed)
def _time_distributed(builder: GraphBuilder, call: Call, values: Sequence[FloatTensor]) -> FloatTensor:
    """The layer inside, on all times at once: times are more samples to it."""
    inside = call.layer.layer
    if isinstance(inside, keras.Model):
        raise Refusal(f"layer {call.key!r}: applies a model at each time; put each of its layers into a "
                      "TimeDistributed of its own")
    lower = _lowering(call)
    if type(inside) not in AT_EACH_TIME:
        raise Refusal(f"layer {call.key!r}: applies a {type(inside).__name__} at each time; {_instead(inside)}")
    return lower(builder, replace(call, layer=inside, times=call.times + 1), values)


def _lowering(call: Call) -> Lower:
    """The lowering of the layer in a wrapper."""
    inside = call.layer.layer
    if type(inside) not in LOWERINGS:
        raise Refusal(f"layer {call.key!r}: wraps {inside.name!r} ({type(inside).__name__}), which is not supported; "
                      "replace that by a supported layer")
    return LOWERINGS[type(inside)]


def _instead(layer: Any) -> str:
    """What to do about a TimeDistributed around such a layer."""
    kind = type(layer).__name__
    planar = kind.replace("1D", "2D")
    if planar != kind and "Global" not in kind and layers_here(planar):
        return f"use a {planar} instead, of size 1 along the times: (1, k) where it is k"
    return ("give each time an input of its own, call the layer on each of them, and put a Concatenate behind the "
            "activations")
