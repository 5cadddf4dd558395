"""The calls of a Keras model, in order, nested models opened; lowering and the reference runner walk the same list."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorflow as tf

from bnnflow.errors import InputError
from bnnflow.generation import ANOTHER, CallNode, Functional, call_nodes, inference, keras, producer

__all__ = ["Call", "Calls", "model_calls"]

OWN_CALLS = frozenset(model.call for model in (keras.Model, keras.Sequential, Functional))  # what layers compute


@dataclass(frozen=True)
class Call:
    """One use of a layer. `key` names it: the layer's name, after those of the models around it, and from its second
    use on the number of the use (`outer/dense`, `dense#2`). Tensors are named by opaque keys. `trouble` says why the
    call cannot be read, where it cannot. The first `times` axes of a sample are those of times around the layer, to
    which they are more samples.
    """

    key: str
    layer: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    is_input: bool = False
    trouble: str = ""
    times: int = 0

    def __call__(self, *tensors: tf.Tensor) -> tf.Tensor:
        """Compute the call in inference mode."""
        if self.times:
            (x,), first = tensors, 1 + self.times
            y = self.layer(tf.reshape(x, (-1, *x.shape[first:])), **inference(self.layer))
            return tf.reshape(y, (-1, *x.shape[1:first], *y.shape[1:]))
        return self.layer(tensors[0] if len(tensors) == 1 else list(tensors), **inference(self.layer))


@dataclass(frozen=True)
class Calls:
    """All calls, and the tensors that are the model's inputs and outputs."""

    calls: tuple[Call, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def model_calls(model: keras.Model) -> Calls:
    """Open a Sequential or functional model; raises InputError for anything else."""
    if not isinstance(model, keras.Model):
        raise InputError(f"expected a Keras model or a path, got {type(model).__name__}; {ANOTHER}")
    walk = _Walk()
    walk.open(model, "", [])
    calls = tuple(replace(call, inputs=tuple(map(walk.resolve, call.inputs))) for call in walk.found)
    outputs = (walk.resolve(_tensor_key("", t)) for t in model.outputs)
    return Calls(calls, tuple(_tensor_key("", t) for t in model.inputs), tuple(outputs))


def _tensor_key(prefix: str, tensor: Any) -> str:
    return f"{prefix}{id(tensor)}"


class _Walk:
    """The calls found while a model and those nested in it are opened."""

    def __init__(self) -> None:
        self.found: list[Call] = []
        self.same: dict[str, str] = {}  # tensor of a nested model, or of its call -> the same tensor elsewhere
        self.uses: dict[str, int] = {}  # of a layer, by its name with those of the models around it

    def resolve(self, tensor: str) -> str:
        """The tensor of a call that a tensor is."""
        while tensor in self.same:
            tensor = self.same[tensor]
        return tensor

    def open(self, model: keras.Model, prefix: str, given: list[str]) -> None:
        """Append the calls of one model; `given` are the tensors outside that feed it, none for the outermost."""
        nodes = list(call_nodes(model))
        if type(model).call not in OWN_CALLS:
            raise InputError(f"model {model.name!r} computes in a `call` of {type(model).__name__}, which is not read; "
                             "make that a part of the functional model, of layers")
        if not nodes:
            raise InputError(f"model {model.name!r} is not Sequential or functional, or has no input shape yet: "
                             "build it with an Input layer")
        self.same.update({_tensor_key(prefix, t): outside for t, outside in zip(model.inputs, given)})
        for node in nodes:
            if not (node.is_input and given):
                self._add(node, prefix)

    def _add(self, node: CallNode, prefix: str) -> None:
        """Append a call of a layer, or the calls of a nested model."""
        layer, key = node.layer, self._key(prefix + node.layer.name)
        trouble, given = _trouble(node), () if node.is_input else node.inputs
        if isinstance(layer, keras.Model):
            if trouble:
                raise InputError(f"model {key!r} {trouble}")
            given = _in_order(node)
            _check_shapes(key, layer.inputs, given)
        inputs = tuple(_tensor_key(prefix, t) for t in given)
        outputs = tuple(_tensor_key(prefix, t) for t in node.outputs)
        if isinstance(layer, keras.Model):
            inside = f"{key}/"
            self.open(layer, inside, list(inputs))
            self.same.update({outer: _tensor_key(inside, t) for outer, t in zip(outputs, layer.outputs)})
        else:
            self.found.append(Call(key, layer, inputs, outputs, node.is_input, trouble))

    def _key(self, name: str) -> str:
        """The name of one more use of a layer."""
        self.uses[name] = self.uses.get(name, 0) + 1
        return name if self.uses[name] == 1 else f"{name}#{self.uses[name]}"


def _in_order(node: CallNode) -> tuple[Any, ...]:
    """The tensors that a nested model is called with, in the order of its inputs: Keras looks up by name those of a
    dictionary, unless the model was made with one, whose keys it sorts, as here.
    """
    named, own = node.args[0], node.layer.input
    if not isinstance(named, Mapping) or isinstance(own, Mapping):
        return node.inputs
    names = [producer(tensor).name for tensor in node.layer.inputs]
    if not set(names) <= set(named):
        raise InputError(f"model {node.layer.name!r} is called with a dictionary of {', '.join(map(repr, named))}; its "
                         f"inputs are {', '.join(map(repr, names))}: call it with a list of tensors in that order")
    return tuple(named[name] for name in names)


def _check_shapes(key: str, inputs: Iterable[Any], given: Iterable[Any]) -> None:
    """Refuse tensors to which Keras adds an axis, or from which it takes one, to call a nested model with them."""
    for own, tensor in zip(inputs, given):
        if len(own.shape) != len(tensor.shape):
            raise InputError(f"model {key!r} is called with shape {tuple(tensor.shape[1:])}, its input has "
                             f"{tuple(own.shape[1:])}; put a Reshape before it")


def _trouble(node: CallNode) -> str:
    """Why a call cannot be read: it has arguments besides tensors; empty where it can."""
    options = {k: v for k, v in node.kwargs.items() if any(part is not None for part in tf.nest.flatten(v))
               and not (k == "training" and v is False)}
    if options and not node.is_input:
        said = ", ".join(f"{k}={v!r:.40}" for k, v in sorted(options.items()))
        return f"is called with {said}; call it plainly"
    if len(node.args) > 1 or len(tf.nest.flatten(node.args)) != len(node.inputs):
        return "is called with constants besides tensors; use layers for them"
    return ""
