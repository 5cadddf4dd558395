"""What the configuration of a Keras model may hold: known layers, quantizers and functions, and no circle of calls.

A configuration comes from a file that is not trusted. Keras builds any class that it names, and QKeras calls any
function that a string in it names, so all of it is checked before anything is built.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from bnnflow.errors import Problem
from bnnflow.frontends.keras.layers import LOWERINGS
from bnnflow.frontends.keras.wrappers import PruneLowMagnitude
from bnnflow.generation import Functional, dtype_policies, keras, qkeras
from bnnflow.train import QUANTIZERS as OUR_QUANTIZERS

__all__ = ["MODELS", "QUANTIZERS", "problems_of", "unsupported_layer"]

MODELS = frozenset({"Functional", "Model", "Sequential"})
QUANTIZERS = frozenset(
    """bernoulli binary binary_sigmoid binary_tanh hard_sigmoid hard_tanh quantized_bits quantized_hswish
    quantized_po2 quantized_relu quantized_relu_po2 quantized_sigmoid quantized_tanh quantized_ulaw
    smooth_sigmoid smooth_tanh stochastic_binary stochastic_ternary ternary""".split()
) | {"quantized_linear"} & vars(qkeras.quantizers).keys()  # qkeras-v3 has it
# Values that name a function or a quantizer: QKeras looks such strings up and calls them.
CALLED = re.compile(r".*(activation|quantizer)$")
PUBLIC_MODULES = ("keras", "keras.layers", "keras.models", "keras.initializers", "keras.constraints",
                  "keras.regularizers", "keras.mixed_precision", "keras.src.engine.functional",
                  "keras.src.models.functional", "tf_keras.src.engine.functional")
HOLD_LAYERS = ("layers", "layer")  # of a model, and of a wrapper
PRUNING_WRAPPERS = "tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper"
TENSOR = "__keras_tensor__"  # of which call an argument is, as Keras 3 writes it
Calls = set[tuple[str, int]]  # (layer, number of its call)


def unsupported_layer(name: str, kind: str) -> Problem:
    """The message for a layer that has no lowering."""
    known = f"Supported layers: {', '.join(sorted(cls.__name__ for cls in LOWERINGS))}"
    if kind == "Lambda":
        return Problem(f"layer {name!r} (Lambda): runs Python code from the model file, which is never executed here; "
                       "remove it, or replace it by a supported layer", known)
    return Problem(f"layer {name!r} ({kind}): not supported; remove it, or replace it by a supported layer", known)


def problems_of(config: dict[str, Any]) -> list[str]:
    """Why a model may not be built, in words that name the layers; empty where it may."""
    name = str(config["config"].get("name", "model"))
    return list(dict.fromkeys([*_problems(config, name, ""), *_wiring(config)]))


def _problems(item: Any, layer: str, key: str) -> Iterator[str]:
    """Everything in a part of a configuration, the value of `key`, that may not be built or called."""
    if isinstance(item, list):
        for part in item:
            yield from _problems(part, layer, key)
    elif isinstance(item, str) and CALLED.match(key):
        if not _is_known_call(item):
            yield f"layer {layer!r}: {key} {item[:80]!r} is not a known activation or quantizer"
    elif isinstance(item, dict):
        yield from _object_problems(item, layer, key)


def _object_problems(item: dict[str, Any], layer: str, key: str) -> Iterator[str]:
    if "class_name" in item:
        inner = item.get("config")
        if key in HOLD_LAYERS and isinstance(inner, dict):
            layer = str(inner.get("name", item.get("name", layer)))
        wrong = _class_problem(item, layer, key)
        if wrong:
            yield wrong
            return
        if item["class_name"] == PruneLowMagnitude.__name__ and isinstance(inner, dict):
            item = {**item, "config": {name: inner.get(name) for name in PruneLowMagnitude.TAKEN}}
    for name, value in item.items():
        if name != "compile_config" or not value:  # Keras 3 writes {} for a model that is not compiled
            held = key if key == "args" and "class_name" not in item else str(name)  # tensors by the names of inputs
            yield from _problems(value, layer, held)
        elif key != "":  # only the outermost one is left out by load_model(compile=False)
            yield f"layer {layer!r}: carries a compile_config of its own; save the model again, uncompiled"


def _class_problem(item: dict[str, Any], layer: str, key: str) -> str | None:
    """Why this object may not be built: Keras finds a class by class_name, registered_name and module, so all three
    must agree with the one known class of that name.
    """
    kind, module, registered = item["class_name"], item.get("module"), item.get("registered_name")
    if not isinstance(kind, str):
        return f"layer {layer!r}: class_name {kind!r:.80} is not a name"
    if _is_known_function(item) or _is_tensor(item, key) or _is_array(item):
        return None
    short = kind.rsplit(">", 1)[-1]
    if key in HOLD_LAYERS and short not in MODELS and short not in _layers():
        return unsupported_layer(layer, short)
    cls = _known_class(short, key)
    if cls is None:
        return f"layer {layer!r}: {short} is not a known quantizer, initializer, constraint or regularizer"
    home = getattr(cls, "__module__", "")
    # Files of before the package was called bnnflow name its classes by their former home.
    former = (PRUNING_WRAPPERS,) if cls is PruneLowMagnitude else ()
    homes = (home, *former, home.replace("tf_keras", "keras", 1), home.replace("bnnflow.", "flow.", 1), *PUBLIC_MODULES)
    if module is not None and module not in homes:
        return f"layer {layer!r}: {short} comes from module {str(module)[:80]!r}, which is not loaded from a model file"
    if registered not in (None, short, f"bnnflow>{short}", f"qkeras>{short}", f"Custom>{short}"):
        return f"layer {layer!r}: {short} is registered as {str(registered)[:80]!r}, which is another class"
    return None


def _is_known_function(item: dict[str, Any]) -> bool:
    """True for a function of QKeras or Keras by its name."""
    if (item["class_name"], item.get("module")) != ("function", "builtins"):
        return False
    name = item.get("config")
    known = isinstance(name, str) and name in QUANTIZERS | _ACTIVATIONS
    return known and item.get("registered_name") in ("function", name)


def _is_tensor(item: dict[str, Any], key: str) -> bool:
    """True for an argument of a call in Keras 3's words: which tensor it is, and no more."""
    config = item.get("config")
    return (item["class_name"] == TENSOR and key == "args" and isinstance(config, dict)
            and set(config) <= {"shape", "dtype", "keras_history"} and len([*_references(item)]) == 1)


def _is_array(item: dict[str, Any]) -> bool:
    """True for numbers in Keras 3's words for tensors and arrays: limits of a quantized_linear, a Rescaling's scale."""
    config = item.get("config")
    return (item["class_name"] in ("__tensor__", "__numpy__") and isinstance(config, dict)
            and set(config) == {"value", "dtype"} and config["dtype"] in ("float32", "float64", "int32", "int64")
            and _are_numbers(config["value"]))


def _are_numbers(value: Any) -> bool:
    return all(map(_are_numbers, value)) if isinstance(value, list) else isinstance(value, (int, float))


def _layers() -> dict[str, type]:
    return {cls.__name__: cls for cls in LOWERINGS}


def _known_class(name: str, key: str) -> Any:
    """The class that an object of this name, the value of `key`, is built from; None where there is none."""
    layer = _layers().get(name) if key in HOLD_LAYERS else None
    model = _MODEL_CLASSES.get(name) if key in ("", *HOLD_LAYERS) else None
    return layer or _SUPPORT.get(name) or model


def _wiring(item: Any) -> Iterator[str]:
    """Calls that wait for each other, or for a call that never is: Keras would wait for ever."""
    if isinstance(item, list):
        for part in item:
            yield from _wiring(part)
    elif isinstance(item, dict):
        for value in item.values():
            yield from _wiring(value)
        config = item.get("config")
        if item.get("class_name") in ("Functional", "Model") and isinstance(config, dict):
            yield from _waiting(config)


def _waiting(config: dict[str, Any]) -> Iterator[str]:
    """The layers of one model with a call whose inputs can never be computed."""
    needs = _needs(config)
    ready: Calls = set()
    while new := {call for call, wants in needs.items() if call not in ready and wants <= ready}:
        ready |= new
    for name, _ in sorted(set(needs) - ready):
        yield f"layer {name!r}: its inputs can never be computed: a call in a circle, or of a layer that is not there"


def _needs(config: dict[str, Any]) -> dict[tuple[str, int], Calls]:
    """Every call of one model's layers, and the calls that it reads."""
    needs: dict[tuple[str, int], Calls] = {}
    for layer in config.get("layers", []):
        name = str(layer["config"].get("name", layer.get("name")))
        inside = layer["config"].get("layers") if layer["class_name"] in MODELS else None
        nodes = layer.get("inbound_nodes") or []
        # For the legacy Keras a nested model that begins with its own inputs has call 0 inside.
        begins = isinstance(inside, list) and bool(inside) and inside[0]["class_name"] == "InputLayer"
        first = int(begins and not any(isinstance(node, dict) and "args" in node for node in nodes))
        calls = [set(_references(call)) for call in nodes]
        needs.update({(name, first + k): wants for k, wants in enumerate(calls or [set()])})
    return needs


def _references(item: Any) -> Iterator[tuple[str, int]]:
    """(layer, number of its call) for each tensor named in an inbound node."""
    if isinstance(item, list):
        if len(item) >= 3 and isinstance(item[0], str) and isinstance(item[1], int):
            yield item[0], item[1]
        else:
            for part in item:
                yield from _references(part)
    elif isinstance(item, dict) and item.get("class_name") == TENSOR:
        yield from _references(item["config"]["keras_history"])
    elif isinstance(item, dict):
        for part in item.values():
            yield from _references(part)


def _is_known_call(text: str) -> bool:
    """True for a name or a call with literal arguments of a known quantizer or Keras activation."""
    if len(text) > 200 or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\(.*\))?", text):
        return False
    try:
        tree = ast.parse(text, mode="eval").body
        if isinstance(tree, ast.Call):
            for argument in [*tree.args, *(k.value for k in tree.keywords)]:
                ast.literal_eval(argument)
            tree = tree.func
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return False
    return isinstance(tree, ast.Name) and (tree.id in QUANTIZERS or tree.id in _ACTIVATIONS)


def _classes(module: Any) -> dict[str, type]:
    return {name: getattr(module, name) for name in dir(module) if isinstance(getattr(module, name), type)}


_MODEL_CLASSES: dict[str, Any] = {"Functional": Functional, "Model": keras.Model,
                                  "Sequential": keras.Sequential}
_SUPPORT: dict[str, Any] = {
    **_classes(keras.initializers), **_classes(keras.constraints), **_classes(keras.regularizers),
    **{name: getattr(qkeras.quantizers, name) for name in QUANTIZERS},
    **{cls.__name__: cls for cls in OUR_QUANTIZERS},
    "QInitializer": qkeras.qlayers.QInitializer, "Clip": qkeras.qlayers.Clip,
    **{policy.__name__: policy for policy in dtype_policies()},
}
_ACTIVATIONS = frozenset(
    """elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid softmax softplus softsign
    swish tanh""".split()
)
