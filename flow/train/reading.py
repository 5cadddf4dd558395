"""Read a Keras model file as untrusted input: its configuration is checked before Keras builds anything from it."""

from __future__ import annotations

import ast
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import qkeras
import tf_keras as keras

from flow.errors import InputError, LoweringError
from flow.train.layers import LearnedThermometer
from flow.train.quantizers import Masked

__all__ = ["custom_objects", "read_model", "unsupported_layer"]

MODELS = frozenset({"Functional", "Model", "Sequential"})
QUANTIZERS = frozenset(
    """bernoulli binary binary_sigmoid binary_tanh hard_sigmoid hard_tanh quantized_bits quantized_hswish
    quantized_po2 quantized_relu quantized_relu_po2 quantized_sigmoid quantized_tanh quantized_ulaw
    smooth_sigmoid smooth_tanh stochastic_binary stochastic_ternary ternary""".split()
)
# Values that name a function or a quantizer: QKeras looks such strings up and calls them.
CALLED = re.compile(r".*(activation|quantizer)$")
MODULES = ("keras", "tf_keras", "qkeras", "flow")
MAX_CONFIG = 2**26  # bytes


def custom_objects() -> dict[str, Any]:
    """What `keras.models.load_model` needs to know besides Keras itself: QKeras' classes and ours."""
    objects: dict[str, Any] = {}
    qkeras.utils._add_supported_quantized_objects(objects)
    functions = {name: getattr(qkeras.quantizers, name) for name in QUANTIZERS}
    return {**functions, **objects, "Masked": Masked, "LearnedThermometer": LearnedThermometer}


def unsupported_layer(name: str, kind: str) -> str:
    """The message for a layer that has no lowering."""
    if kind == "Lambda":
        return (f"layer {name!r} (Lambda): runs Python code from the model file, which is never executed here; "
                "replace it by a supported layer")
    from flow.train.lower import LOWERINGS

    known = ", ".join(sorted(cls.__name__ for cls in LOWERINGS))
    return f"layer {name!r} ({kind}): not supported; replace or remove it. Supported: {known}"


def read_model(path: str | os.PathLike[str]) -> keras.Model:
    """A `.keras` or `.h5` file -> Keras model (not compiled).

    Raises InputError for a missing, truncated or foreign file, LoweringError that lists every layer, quantizer or
    function in it that is not known: nothing of such a file is built, and no code in any file is run.
    """
    source = Path(path)
    if not source.exists():
        raise InputError(f"no model file {source}")
    if source.is_dir():
        raise InputError(f"{source} is a folder (SavedModel?); save the model as .keras or .h5")
    if source.suffix not in (".keras", ".h5", ".hdf5"):
        raise InputError(f"{source}: expected a .keras or .h5 model file")
    config = _config(source)
    problems = list(dict.fromkeys(_problems(config, config.get("config", {}).get("name", "model"), "")))
    if problems:
        raise LoweringError(problems)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.models.load_model(source, custom_objects=custom_objects(), compile=False)
    except Exception as error:  # Keras raises any type for a damaged file; the cause is kept
        text = " ".join(str(error).split())
        hint = ""
        if "QActivation" in text:
            hint = (" A QActivation that holds a quantizer object cannot be read back from .keras: write it as a string"
                    " such as QActivation('binary(alpha=1)'), or save as .h5.")
        raise InputError(f"{source}: Keras cannot read this model: {text[:400]}{hint}") from error


def _config(source: Path) -> dict[str, Any]:
    """The JSON description of the model, without building it."""
    with source.open("rb") as file:
        magic = file.read(8)
    try:
        if magic[:2] == b"PK":
            with zipfile.ZipFile(source) as archive:
                if archive.getinfo("config.json").file_size > MAX_CONFIG:
                    raise InputError(f"{source}: its configuration is larger than 64 MiB")
                text: str | bytes = archive.read("config.json")
        elif magic == b"\x89HDF\r\n\x1a\n":
            with h5py.File(source, "r") as file:
                if "model_config" not in file.attrs:
                    raise InputError(f"{source}: holds weights only; save the whole model with model.save()")
                text = file.attrs["model_config"]
        else:
            raise InputError(f"{source}: is neither a .keras archive nor an HDF5 file")
        if (magic[:2] == b"PK") != (source.suffix == ".keras"):
            raise InputError(f"{source}: the content is not what its suffix says; rename it to .keras or .h5")
        config = json.loads(text)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source}: damaged or truncated model file: {error}") from error
    if not isinstance(config, dict) or config.get("class_name") not in MODELS:
        raise InputError(f"{source}: does not describe a Keras Sequential or functional model")
    return config


def _problems(item: Any, layer: str, key: str) -> Iterator[str]:
    """Everything in a configuration that may not be built: unknown classes, modules, functions."""
    if isinstance(item, list):
        for entry in item:
            yield from _problems(entry, layer, key)
    elif isinstance(item, str) and CALLED.match(key):
        if not _is_known_call(item):
            yield f"layer {layer!r}: {key} {item[:80]!r} is not a known activation or quantizer"
    elif isinstance(item, dict):
        if "class_name" in item:
            inner = item.get("config")
            if key == "layers" and isinstance(inner, dict):
                layer = str(inner.get("name", item.get("name", layer)))
            wrong = _class_problem(item, layer, key)
            if wrong:
                yield wrong
                return
        for name, value in item.items():
            if name not in ("compile_config", "build_config"):
                yield from _problems(value, layer, str(name))


def _class_problem(item: dict[str, Any], layer: str, key: str) -> str | None:
    from flow.train.lower import LOWERINGS

    kind = str(item["class_name"])
    short = kind.rsplit(">", 1)[-1]
    module = item.get("module")
    if (kind, module) == ("function", "builtins") and item.get("config") in QUANTIZERS | _ACTIVATIONS:
        return None  # a function of QKeras or Keras by its name
    if module is not None and str(module).split(".")[0] not in MODULES:
        return f"layer {layer!r}: {short} comes from module {str(module)[:80]!r}, which is not loaded from a model file"
    if key == "layers" and short not in MODELS:
        known = short in {cls.__name__ for cls in LOWERINGS}
        return None if known else unsupported_layer(layer, short)
    if short in MODELS and key in ("", "layers"):
        return None
    if short in _SUPPORT:
        return None
    return f"layer {layer!r}: {short} is not a known quantizer, initializer, constraint or regularizer"


def _is_known_call(text: str) -> bool:
    """True for a name or a call with literal arguments of a known quantizer or Keras activation."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\(.*\))?", text):
        return False
    try:
        tree = ast.parse(text, mode="eval").body
        if isinstance(tree, ast.Call):
            for argument in [*tree.args, *(k.value for k in tree.keywords)]:
                ast.literal_eval(argument)
            tree = tree.func
    except (SyntaxError, ValueError):
        return False
    return isinstance(tree, ast.Name) and (tree.id in QUANTIZERS or tree.id in _ACTIVATIONS)


def _public(module: Any) -> set[str]:
    return {name for name in dir(module) if isinstance(getattr(module, name), type)}


_SUPPORT = frozenset(
    {"Masked", "QInitializer", "Clip", "Policy", *QUANTIZERS, *_public(keras.initializers), *_public(keras.constraints),
     *_public(keras.regularizers)}
)
_ACTIVATIONS = frozenset(
    """elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid softmax softplus softsign
    swish tanh""".split()
)
