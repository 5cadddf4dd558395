"""Which Keras is here: Keras 3 with qkeras-v3, or the legacy Keras (tf-keras) with QKeras 0.9.

All else takes `keras` and `qkeras` from here, and what the two do differently from the functions below. Importing this
module asks TensorFlow for the Keras that QKeras is made for, so import it, or `bnnflow.train`, before those two.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.metadata import distributions
from inspect import isfunction
from pathlib import Path
from typing import Any

from bnnflow.errors import InputError, ToolError, missing, needed_for

__all__ = [
    "ANOTHER", "EXTRA", "LEGACY", "WITHOUT_XLA", "CallNode", "Functional", "call_nodes", "compiled_loss",
    "depthwise_kernel", "described", "dtype_policies", "inference", "keras", "kept_generators", "layers_here",
    "leaf_layers", "learning_rates", "place_of", "producer", "pruning_wrappers", "qkeras", "qkeras_objects",
    "quantized_kernels", "quantizer_of", "random_states", "serialized", "takes_rsqrt", "tf_variables",
]

WHAT = "reading and training Keras models"


def _found() -> set[str]:
    """The distributions of the QKeras that would be imported: "qkeras", "qkeras-v3", or both in one folder."""
    spec = importlib.util.find_spec("qkeras")
    if spec is None or not spec.submodule_search_locations:
        raise missing("qkeras", WHAT, "keras")
    folder = Path(spec.submodule_search_locations[0]).parent
    return {found.metadata["Name"].lower().replace("_", "-") for found in distributions(path=[str(folder)])
            } & {"qkeras", "qkeras-v3"}


_QKERAS = _found()
LEGACY = "qkeras-v3" not in _QKERAS  # True for tf-keras with QKeras 0.9
EXTRA = "legacy-keras" if LEGACY else "keras"  # that installs this generation
if len(_QKERAS) == 2:
    raise ToolError("QKeras 0.9 and qkeras-v3 are both installed, and lie in one folder: pip uninstall -y qkeras "
                    "qkeras-v3, then pip install 'bnnflow[keras]' (Keras 3) or 'bnnflow[legacy-keras]'")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
with needed_for(WHAT, EXTRA):
    if LEGACY:
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
        import tf_keras as keras
        from tf_keras.src.engine.functional import Functional
    else:
        import keras
        from keras.src.models.functional import Functional
        if keras.backend.backend() != "tensorflow":
            raise InputError(f"Keras' backend is {keras.backend.backend()!r}; bnnflow reads and trains models on "
                             "TensorFlow's: set KERAS_BACKEND=tensorflow")
    import qkeras  # it imports the Keras that is chosen above

if not issubclass(qkeras.QDense, keras.layers.Layer):
    raise InputError("TensorFlow was imported before bnnflow.train and chose Keras 3, which QKeras 0.9 cannot use: "
                     "import bnnflow.train first, or set TF_USE_LEGACY_KERAS=1")

# What to do about a model that is none of this Keras.
ANOTHER = ("here is the legacy Keras, with QKeras 0.9: build the model with tf_keras, or install bnnflow[keras] for "
           "models of Keras 3" if LEGACY else "here is Keras 3, with qkeras-v3: build the model with keras, or install "
           "bnnflow[legacy-keras] for models of tf_keras")


@dataclass(frozen=True)
class CallNode:
    """A use of a layer in a functional model, with Keras' symbolic tensors, flat."""

    layer: Any
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    is_input: bool
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def call_nodes(model: keras.Model) -> Iterator[CallNode]:
    """The calls of a Sequential or functional model in order, nested models as one call; none of any other model."""
    by_depth = getattr(model if LEGACY else getattr(model, "_functional", model), "_nodes_by_depth", None) or {}
    for node in (node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]):
        if LEGACY:
            inputs, layer, args, kwargs = node.keras_inputs, node.layer, node.call_args, node.call_kwargs
        else:
            given = node.arguments
            inputs, layer, args, kwargs = node.input_tensors, node.operation, given.args, given.kwargs
        yield CallNode(layer, tuple(_flat(inputs)), tuple(_flat(node.outputs)), node.is_input, tuple(args), kwargs)


def _flat(tensors: Any) -> list[Any]:
    """The tensors in lists and tuples of them."""
    return [part for item in tensors for part in _flat(item)] if isinstance(tensors, (list, tuple)) else [tensors]


def leaf_layers(model: keras.Model) -> list[Any]:
    """All layers of a model and of those nested in it, and the quantizers that are layers; models and layers alike."""
    return list(model._flatten_layers(include_self=False))


def inference(layer: Any) -> dict[str, bool]:
    """The argument that says to a layer's call that it does not train, where it takes one."""
    takes = layer._expects_training_arg if LEGACY else getattr(layer, "_call_has_training_arg", False)
    return {"training": False} if takes else {}


def serialized(item: Any) -> Any:
    """The configuration of a quantizer, as QKeras' layers write it."""
    return (keras.utils.legacy if LEGACY else keras.utils).serialize_keras_object(item)


def layers_here(*names: str) -> tuple[type, ...]:
    """The layer classes of Keras or QKeras that have these names; those that this generation lacks are left out."""
    found = (getattr(keras.layers, name, None) or getattr(qkeras, name, None) for name in names)
    return tuple(kind for kind in found if kind is not None)


def pruning_wrappers() -> tuple[type, ...]:
    """The class of TensorFlow Model Optimization around a pruned layer; QKeras 0.9 brings it, Keras 3 cannot use it."""
    return (importlib.import_module("qkeras.utils").pruning_wrapper.PruneLowMagnitude,) if LEGACY else ()


def quantizer_of(activation: Any) -> Any:
    """The quantizer of a QActivation layer."""
    return activation.quantizer if LEGACY else activation.activation


def depthwise_kernel(layer: Any) -> Any:
    """The kernel of a depthwise layer; that of Keras 3's own layers is called as those of all sums."""
    return layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel


def takes_rsqrt(layer: Any) -> bool:
    """True for a layer that folds a batch norm with 1/sqrt as one operation, which rounds otherwise than two."""
    return LEGACY or hasattr(layer, "depthwise_kernel") or getattr(layer, "rsqrt", False)


def quantized_kernels(layer: Any) -> Iterator[tuple[str, Any, Any]]:
    """(part, weights, quantizer) of each kernel of a built layer that has a quantizer; `part` is kernel, depthwise or
    pointwise.
    """
    kernels: dict[str, Callable[[Any], Any]] = {
        "kernel": lambda layer: getattr(layer, "kernel", None), "depthwise": depthwise_kernel,
        "pointwise": lambda layer: layer.pointwise_kernel}
    for part, kernel_of in kernels.items():
        quantizer = getattr(layer, f"{part}_quantizer_internal", None)
        weights = kernel_of(layer) if quantizer is not None else None
        if weights is not None:
            yield part, weights, quantizer


def _building_quantizers(build: Callable[..., None]) -> Callable[..., None]:
    """A layer's `build` that builds its kernel quantizers, too, where they are layers.

    qkeras-v3 leaves that to the first call on data, which is too late: optimizers and files would not know the weights
    of quantizers. It also calls a quantizer by two names, of which the first holds a configuration in a layer that was
    read, so that the second one's weights were not found in the file; here both are the quantizer.
    """
    @wraps(build)
    def both(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        for part, weights, quantizer in quantized_kernels(self):
            if isinstance(quantizer, keras.layers.Layer):
                if getattr(self, f"{part}_quantizer") is not quantizer:
                    setattr(self, f"{part}_quantizer", quantizer)
                if not quantizer.built:
                    quantizer.build(tuple(weights.shape))

    return both


if not LEGACY:
    for _kind in vars(qkeras).values():
        if isinstance(_kind, type) and issubclass(_kind, keras.layers.Layer) and "get_quantizers" in vars(_kind):
            setattr(_kind, "build", _building_quantizers(getattr(_kind, "build")))  # noqa: B009, B010 (for mypy)


def qkeras_objects() -> dict[str, Any]:
    """The classes of QKeras by the names that files call them."""
    objects: dict[str, Any] = {}
    importlib.import_module("qkeras.utils")._add_supported_quantized_objects(objects)
    return objects


# Arguments that keep XLA out of an optimizer's steps. In Keras 3 only a model's compile can ask for it.
WITHOUT_XLA: Mapping[str, Any] = {"jit_compile": False} if LEGACY else {}


def producer(tensor: Any) -> Any:
    """The layer or nested model that a symbolic tensor comes from."""
    return tensor._keras_history.layer if LEGACY else tensor._keras_history.operation


def tf_variables(variables: Iterable[Any]) -> list[Any]:
    """TensorFlow's own variables of Keras' ones."""
    return [variable if LEGACY else variable.value for variable in variables]


def place_of(variable: Any, optimizer: Any) -> int:
    """The number of a variable among those that an optimizer was built for."""
    return int(optimizer._index_dict[optimizer._var_key(variable)] if LEGACY
               else optimizer._get_variable_index(variable))


def learning_rates(optimizer: Any) -> list[Any]:
    """The variables of an optimizer that follow from its steps, and so are not among its `variables`."""
    return [optimizer._current_learning_rate] if LEGACY else []


def compiled_loss(model: Any, y: Any, outputs: Any, sample_weight: Any = None) -> Any:
    """The loss that a model was compiled with, without those that its layers add."""
    return (model.compiled_loss if LEGACY else model._compile_loss)(y, outputs, sample_weight)


@contextmanager
def kept_generators() -> Iterator[None]:
    """Layers that are made in here draw from generators whose state is a variable; those of Keras 3 always do."""
    random = keras.backend.experimental if LEGACY else None
    if random is None or random.is_tf_random_generator_enabled():
        yield
        return
    random.enable_tf_random_generator()
    try:
        yield
    finally:
        random.disable_tf_random_generator()


def random_states(model: keras.Model) -> list[Any]:
    """The variables that hold the states of a model's random generators."""
    if LEGACY:
        generators = (getattr(getattr(layer, "_random_generator", None), "_generator", None)
                      for layer in leaf_layers(model))
        return [generator.state for generator in generators if generator is not None]
    return [generator.state for layer in leaf_layers(model) for generator in layer._seed_generators]


def dtype_policies() -> tuple[type, ...]:
    """The classes that say in which types a layer computes."""
    return (keras.mixed_precision.Policy,) if LEGACY else (keras.DTypePolicy,)


def described(config: Mapping[str, Any], objects: Mapping[str, Any], legacy: bool) -> keras.Model:
    """The model of Keras 3 that a configuration describes, without the weights in the file; `objects` are the classes
    besides Keras' own, by the names that files call them. `legacy` says that the legacy Keras wrote it.
    """
    from keras.src.legacy.saving.saving_utils import model_from_config

    config = {**_in_keras_3(config, legacy), "compile_config": None}
    functions = {OF_QKERAS + name: value for name, value in vars(qkeras.quantizers).items() if isfunction(value)}
    objects = {**objects, **functions, LEGACY_HARD_SIGMOID: hard_sigmoid}
    if "module" in config:
        return keras.saving.deserialize_keras_object(config, custom_objects=objects)
    return model_from_config(config, custom_objects=objects)  # of HDF5 files


OF_QKERAS = "qkeras_"  # begins the names for Keras 3 of functions of QKeras, which Keras 3 may have others of
# The name for Keras 3 of a function that the legacy Keras calls hard_sigmoid; Keras 3 gives that name to another one.
LEGACY_HARD_SIGMOID = "legacy_hard_sigmoid"


def hard_sigmoid(x: Any) -> Any:
    """What the legacy Keras calls hard_sigmoid, a tensor in and out: x / 5 + 1/2 from 0 to 1."""
    return keras.ops.clip(x * 0.2 + 0.5, 0.0, 1.0)


def _in_keras_3(config: Any, legacy: bool) -> Any:
    """The configuration of a model, which may be one of the legacy Keras, in words that Keras 3 takes."""
    if isinstance(config, list):
        return [_in_keras_3(item, legacy) for item in config]
    if not isinstance(config, dict):
        return config
    config = {key: _in_keras_3(value, legacy) for key, value in config.items()}
    if config.get("module") == "tf_keras.src.engine.functional":
        config["module"] = "keras.src.models.functional"
    kind, inner = str(config.get("class_name")), config.get("config")
    if kind == "function" and isfunction(getattr(qkeras.quantizers, str(inner), None)):  # Keras' own are strings
        config["config"] = OF_QKERAS + str(inner)
    if not isinstance(inner, dict):
        return config
    if kind.endswith(("BatchNormalization", "Batchnorm")):
        axis = inner.get("axis")
        inner = {**inner, "axis": axis[0] if isinstance(axis, list) and len(axis) == 1 else axis}
    if kind.endswith("Batchnorm"):
        inner = {key: value for key, value in inner.items() if key not in UNREAD}
    if legacy and inner.get("activation") == "hard_sigmoid" and not kind.startswith("Q"):
        inner = {**inner, "activation": {"class_name": "function", "config": LEGACY_HARD_SIGMOID, "module": "builtins",
                                         "registered_name": "function"}}
    if "DepthwiseConv" in kind or "SeparableConv" in kind:  # they have kernels of other names, and one group
        inner = {key: value for key, value in inner.items() if key not in UNUSED}
    config["config"] = inner
    if kind == "TimeDistributed":  # the legacy Keras writes the shape for the layer inside; a call finds the right one
        config.pop("build_config", None)
    if "layers" in inner:
        config["config"] = _numbered_from_0(inner)
    return config


# Arguments of any convolution, which the legacy Keras writes for depthwise and separable ones too.
UNUSED = frozenset({"groups", "kernel_initializer", "kernel_regularizer", "kernel_constraint"})
# Arguments of a batch norm, of no effect in inference, which folded layers write and do not all read back.
UNREAD = frozenset({"synchronized", "renorm", "renorm_clipping", "renorm_momentum"})


def _numbered_from_0(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a functional model that calls nested ones: for the legacy Keras the first call of one that
    begins with its own inputs has number 1, for Keras 3 it has number 0.
    """
    nested = {layer["config"].get("name") for layer in config["layers"] if _begins_with_inputs(layer)}

    def numbered(item: Any) -> Any:
        if not isinstance(item, list):
            return item
        if len(item) >= 3 and isinstance(item[0], str) and item[0] in nested and isinstance(item[1], int):
            return [item[0], item[1] - 1, *item[2:]]
        return [numbered(part) for part in item]

    layers = [{**layer, "inbound_nodes": numbered([_listed(node, layer) for node in layer["inbound_nodes"]])}
              if "inbound_nodes" in layer else layer for layer in config["layers"]]
    ends: dict[str, Any] = {key: numbered(config[key]) for key in ("input_layers", "output_layers") if key in config}
    return {**config, "layers": layers, **ends}


def _listed(node: Any, layer: Mapping[str, Any]) -> Any:
    """A call of a nested model with a dictionary, as the legacy Keras writes it, as one with a list of tensors."""
    if not isinstance(node, dict) or "args" in node:
        return node
    own = layer["config"].get("input_layers", {})
    return [node[name] for name in (sorted(own) if isinstance(own, dict) else [first for first, *_ in own])]


def _begins_with_inputs(layer: Mapping[str, Any]) -> bool:
    """True for a nested model in whose configuration, of the legacy Keras, its inputs come first."""
    inside = layer["config"].get("layers")
    written_by_keras_3 = any(isinstance(node, dict) and "args" in node for node in layer.get("inbound_nodes") or [])
    return bool(inside) and inside[0]["class_name"] == "InputLayer" and not written_by_keras_3
