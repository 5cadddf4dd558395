"""Read a Keras model file as untrusted input: its configuration is checked before Keras builds anything from it."""

from __future__ import annotations

import ast
import io
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
from tf_keras.src.engine import functional as _functional

from bnnflow.errors import InputError, LoweringError
from bnnflow.files import existing
from bnnflow.frontends.keras.layers import LOWERINGS
from bnnflow.train import LAYERS as OUR_LAYERS
from bnnflow.train import QUANTIZERS as OUR_QUANTIZERS

__all__ = ["custom_objects", "read_model", "unsupported_layer"]

MODELS = frozenset({"Functional", "Model", "Sequential"})
QUANTIZERS = frozenset(
    """bernoulli binary binary_sigmoid binary_tanh hard_sigmoid hard_tanh quantized_bits quantized_hswish
    quantized_po2 quantized_relu quantized_relu_po2 quantized_sigmoid quantized_tanh quantized_ulaw
    smooth_sigmoid smooth_tanh stochastic_binary stochastic_ternary ternary""".split()
)
# Values that name a function or a quantizer: QKeras looks such strings up and calls them.
CALLED = re.compile(r".*(activation|quantizer)$")
PUBLIC_MODULES = ("keras", "keras.layers", "keras.models", "keras.initializers", "keras.constraints",
                  "keras.regularizers", "keras.mixed_precision", "keras.src.engine.functional")
MAX_CONFIG, MAX_WEIGHTS = 2**26, 2**33  # bytes


def custom_objects() -> dict[str, Any]:
    """What `keras.models.load_model` needs to know besides Keras itself: QKeras' classes and ours."""
    objects: dict[str, Any] = {}
    qkeras.utils._add_supported_quantized_objects(objects)
    functions = {name: getattr(qkeras.quantizers, name) for name in QUANTIZERS}
    return {**functions, **objects, **{cls.__name__: cls for cls in (*OUR_LAYERS, *OUR_QUANTIZERS)}}


def unsupported_layer(name: str, kind: str) -> str:
    """The message for a layer that has no lowering."""
    if kind == "Lambda":
        return (f"layer {name!r} (Lambda): runs Python code from the model file, which is never executed here; "
                "replace it by a supported layer")
    known = ", ".join(sorted(cls.__name__ for cls in LOWERINGS))
    return f"layer {name!r} ({kind}): not supported; replace or remove it. Supported: {known}"


def read_model(path: str | os.PathLike[str]) -> keras.Model:
    """A `.keras` or `.h5` file -> Keras model (not compiled).

    Raises InputError for a missing, truncated or foreign file, LoweringError that lists every layer, quantizer or
    function in it that is not known: nothing of such a file is built, and no code in any file is run.
    """
    source = existing(path, "model")
    if source.is_dir():
        raise InputError(f"{source} is a folder (SavedModel?); save the model as .keras or .h5")
    if source.suffix not in (".keras", ".h5", ".hdf5"):
        raise InputError(f"{source}: expected a .keras or .h5 model file")
    try:
        config = _config(source)
        name = config["config"].get("name", "model")
        problems = list(dict.fromkeys([*_problems(config, str(name), ""), *_wiring(config)]))
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a made-up file makes the readers raise; the cause is kept
        raise InputError(f"{source}: damaged or truncated model file: {error!r:.300}") from error
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
        # Keras names the layer first and the reason last, with the whole configuration between.
        text = text if len(text) <= 600 else f"{text[:200]} ... {text[-400:]}"
        raise InputError(f"{source}: Keras cannot read this model: {text}{hint}") from error


def _config(source: Path) -> dict[str, Any]:
    """The JSON description of the model, without building it; the weights' storage is checked on the way."""
    with source.open("rb") as file:
        magic = file.read(8)
    if magic[:2] == b"PK":
        with zipfile.ZipFile(source) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            if sizes.get("config.json", 0) > MAX_CONFIG or sum(sizes.values()) > MAX_WEIGHTS:
                raise InputError(f"{source}: its configuration or weights are too large to be a model")
            text: str | bytes = archive.read("config.json")
            _check_storage(source, io.BytesIO(archive.read("model.weights.h5")))
    elif magic == b"\x89HDF\r\n\x1a\n":
        _check_storage(source, source)
        with h5py.File(source, "r") as file:
            if "model_config" not in file.attrs:
                raise InputError(f"{source}: holds weights only; save the whole model with model.save()")
            text = file.attrs["model_config"]
    else:
        raise InputError(f"{source}: is neither a .keras archive nor an HDF5 file")
    if (magic[:2] == b"PK") != (source.suffix == ".keras"):
        raise InputError(f"{source}: the content is not what its suffix says; rename it to .keras or .h5")
    config = json.loads(text)
    known = isinstance(config, dict) and config.get("class_name") in MODELS
    if not known or not isinstance(config.get("config"), dict):
        raise InputError(f"{source}: does not describe a Keras Sequential or functional model")
    return dict(config)


def _check_storage(source: Path, file: Any) -> None:
    """Weights must lie in the file itself: HDF5 can point to any other file."""
    total = 0

    def visit(group: h5py.Group) -> None:
        nonlocal total
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise InputError(f"{source}: {name!r} is a link to another file ({link.filename[:80]!r})")
            if isinstance(link, h5py.SoftLink):
                raise InputError(f"{source}: {name!r} is a soft link")
            item = group[name]
            if isinstance(item, h5py.Group):
                visit(item)
            elif item.external or item.is_virtual:
                raise InputError(f"{source}: {name!r} is stored in another file")
            else:
                total += item.nbytes
        if total > MAX_WEIGHTS:
            raise InputError(f"{source}: weights of more than {MAX_WEIGHTS >> 30} GiB")

    with h5py.File(file, "r") as opened:
        visit(opened)


def _problems(item: Any, layer: str, key: str) -> Iterator[str]:
    """Everything in a configuration that may not be built: unknown classes, modules, functions."""
    if isinstance(item, list):
        for affine in item:
            yield from _problems(affine, layer, key)
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
            if name == "compile_config" and value is not None:
                # Only the outermost one is left out by load_model(compile=False).
                if key != "":
                    yield f"layer {layer!r}: carries a compile_config of its own; save the model again, uncompiled"
            else:
                yield from _problems(value, layer, str(name))


def _class_problem(item: dict[str, Any], layer: str, key: str) -> str | None:
    """Why this object may not be built: Keras finds a class by class_name, registered_name and module, so all three
    must agree with the one known class of that name.
    """
    kind, module, registered = item["class_name"], item.get("module"), item.get("registered_name")
    if not isinstance(kind, str):
        return f"layer {layer!r}: class_name {kind!r:.80} is not a name"
    short = kind.rsplit(">", 1)[-1]
    if (kind, module) == ("function", "builtins"):
        known = item.get("config")
        if isinstance(known, str) and known in QUANTIZERS | _ACTIVATIONS and registered in ("function", known):
            return None  # a function of QKeras or Keras by its name
    layers = {cls.__name__: cls for cls in LOWERINGS}
    if key == "layers" and short not in MODELS and short not in layers:
        return unsupported_layer(layer, short)
    cls = layers.get(short) if key == "layers" else None
    cls = cls or _SUPPORT.get(short) or (_MODEL_CLASSES.get(short) if key in ("", "layers") else None)
    if cls is None:
        return f"layer {layer!r}: {short} is not a known quantizer, initializer, constraint or regularizer"
    home = getattr(cls, "__module__", "")
    if module is not None and module not in (home, home.replace("tf_keras", "keras", 1), *PUBLIC_MODULES):
        return f"layer {layer!r}: {short} comes from module {str(module)[:80]!r}, which is not loaded from a model file"
    if registered not in (None, short, f"bnnflow>{short}", f"Custom>{short}"):
        return f"layer {layer!r}: {short} is registered as {str(registered)[:80]!r}, which is another class"
    return None


def _wiring(item: Any) -> Iterator[str]:
    """Calls that wait for each other, or for a call that never is: Keras would wait for ever."""
    if isinstance(item, list):
        for affine in item:
            yield from _wiring(affine)
    elif isinstance(item, dict):
        for value in item.values():
            yield from _wiring(value)
        config = item.get("config")
        if item.get("class_name") in ("Functional", "Model") and isinstance(config, dict):
            yield from _waiting(config)


def _waiting(config: dict[str, Any]) -> Iterator[str]:
    needs: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for layer in config.get("layers", []):
        name = str(layer["config"].get("name", layer.get("name")))
        inside = layer["config"].get("layers") if layer["class_name"] in MODELS else None
        # A nested model that begins with its own inputs has call 0 inside.
        first = int(isinstance(inside, list) and bool(inside) and inside[0]["class_name"] == "InputLayer")
        calls = layer.get("inbound_nodes") or []
        if not calls:
            needs[name, first] = set()
        for k, call in enumerate(calls):
            needs[name, first + k] = set(_references(call))
    ready: set[tuple[str, int]] = set()
    while True:
        new = {key for key, wants in needs.items() if key not in ready and wants <= ready}
        if not new:
            break
        ready |= new
    for name, _ in sorted(set(needs) - ready):
        yield f"layer {name!r}: its inputs can never be computed: a call in a circle, or of a layer that is not there"


def _references(item: Any) -> Iterator[tuple[str, int]]:
    """(layer, number of its call) for each tensor named in an inbound node."""
    if isinstance(item, list):
        if len(item) >= 3 and isinstance(item[0], str) and isinstance(item[1], int):
            yield item[0], item[1]
        else:
            for affine in item:
                yield from _references(affine)


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


_MODEL_CLASSES: dict[str, Any] = {"Functional": _functional.Functional, "Model": keras.Model,
                                  "Sequential": keras.Sequential}
_SUPPORT: dict[str, Any] = {
    **_classes(keras.initializers), **_classes(keras.constraints), **_classes(keras.regularizers),
    **{name: getattr(qkeras.quantizers, name) for name in QUANTIZERS},
    **{cls.__name__: cls for cls in OUR_QUANTIZERS},
    "QInitializer": qkeras.qlayers.QInitializer, "Clip": qkeras.qlayers.Clip,
    "Policy": keras.mixed_precision.Policy,
}
_ACTIVATIONS = frozenset(
    """elu exponential gelu hard_sigmoid leaky_relu linear mish relu relu6 selu sigmoid softmax softplus softsign
    swish tanh""".split()
)
