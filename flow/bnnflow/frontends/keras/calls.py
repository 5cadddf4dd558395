"""The calls of a Keras model, in order, nested models opened; lowering and the reference runner walk the same list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf
import tf_keras as keras

from bnnflow.errors import InputError

__all__ = ["Call", "Calls", "model_calls"]


@dataclass(frozen=True)
class Call:
    """One use of a layer. `key` names it: the layer's name, after those of the models around it, and from its second
    use on the number of the use (`outer/dense`, `dense#2`). Tensors are named by opaque keys.
    """

    key: str
    layer: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_input: bool = False
    trouble: str = ""

    def __call__(self, *tensors: tf.Tensor) -> tf.Tensor:
        """Compute the call in inference mode."""
        options = {"training": False} if self.layer._expects_training_arg else {}
        return self.layer(tensors[0] if len(tensors) == 1 else list(tensors), **options)


@dataclass(frozen=True)
class Calls:
    """All calls, and the tensors that are the model's inputs and outputs."""

    calls: tuple[Call, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def model_calls(model: keras.Model) -> Calls:
    """Open a Sequential or functional model; raises InputError for anything else."""
    if not isinstance(model, keras.Model):
        raise InputError(f"expected a Keras model or a path, got {type(model).__name__}; models of Keras 3 cannot be "
                         "used with QKeras: build them with tf_keras (TF_USE_LEGACY_KERAS=1)")
    found: list[Call] = []
    same: dict[str, str] = {}  # tensor of a nested model -> the tensor outside that it is
    _open(model, "", [], found, same, {})

    def resolve(key: str) -> str:
        while key in same:
            key = same[key]
        return key

    calls = tuple(
        Call(c.key, c.layer, tuple(map(resolve, c.inputs)), c.outputs, c.is_input, c.trouble) for c in found
    )
    return Calls(calls, tuple(_key("", t) for t in model.inputs), tuple(resolve(_key("", t)) for t in model.outputs))


def _key(prefix: str, tensor: Any) -> str:
    return f"{prefix}{id(tensor)}"


def _open(model: keras.Model, prefix: str, given: list[str], found: list[Call], same: dict[str, str],
          uses: dict[str, int]) -> None:
    """Append the calls of one model; `given` are the tensors outside that feed it, none for the outermost."""
    by_depth = getattr(model, "_nodes_by_depth", None)
    if not by_depth:
        raise InputError(f"model {model.name!r} is not Sequential or functional, or has no input shape yet: "
                         "build it with an Input layer")
    same.update({_key(prefix, t): outside for t, outside in zip(model.inputs, given)})
    for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
        layer = node.layer
        if node.is_input and given:
            continue
        key = prefix + layer.name
        uses[key] = uses.get(key, 0) + 1
        key = key if uses[key] == 1 else f"{key}#{uses[key]}"
        inputs = [] if node.is_input else [_key(prefix, t) for t in tf.nest.flatten(node.keras_inputs)]
        outputs = [_key(prefix, t) for t in tf.nest.flatten(node.outputs)]
        if isinstance(layer, keras.Model):
            inside = f"{key}/"
            _open(layer, inside, inputs, found, same, uses)
            same.update({outer: _key(inside, t) for outer, t in zip(outputs, layer.outputs)})
            continue
        options = {k: v for k, v in node.call_kwargs.items() if v is not None and not (k == "training" and v is False)}
        trouble = ""
        if options and not node.is_input:
            said = ", ".join(f"{k}={v!r:.40}" for k, v in sorted(options.items()))
            trouble = f"is called with {said}; call it plainly"
        elif len(node.call_args) > 1 or len(tf.nest.flatten(node.call_args)) != len(node.keras_inputs):
            trouble = "is called with constants besides tensors; use layers for them"
        found.append(Call(key, layer, tuple(inputs), tuple(outputs), node.is_input, trouble))
