"""Read a Keras model file as untrusted input: its configuration is checked before Keras builds anything from it."""

from __future__ import annotations

import io
import json
import os
import re
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import Any

from bnnflow.errors import InputError, LoweringError, needed_for
from bnnflow.files import existing
from bnnflow.frontends.keras.archives import load_weights
from bnnflow.frontends.keras.configuration import MODELS, QUANTIZERS, problems_of
from bnnflow.frontends.keras.legacy_files import as_in_legacy_keras
from bnnflow.frontends.keras.wrappers import PruneLowMagnitude
from bnnflow.generation import ANOTHER, EXTRA, LEGACY, described, keras, qkeras, qkeras_objects
from bnnflow.ir.input_types import KEY, model_file
from bnnflow.train import LAYERS as OUR_LAYERS
from bnnflow.train import QUANTIZERS as OUR_QUANTIZERS
from bnnflow.train.saving import with_input_type

with needed_for("model files", EXTRA):
    import h5py

__all__ = ["custom_objects", "read_model"]

WEIGHTS = "model.weights.h5"  # in an archive
MAX_CONFIG = 2**26  # bytes of the description of a model
MAX_WEIGHTS = 2**33  # bytes


def custom_objects() -> dict[str, Any]:
    """What `keras.models.load_model` needs to know besides Keras itself: QKeras' classes and ours.

    A name that Keras has itself is Keras' own, as it is in a live model: QKeras has another hard_sigmoid.
    """
    objects = qkeras_objects()
    functions = {name: getattr(qkeras.quantizers, name) for name in QUANTIZERS
                 if not hasattr(keras.activations, name)}
    ours = (*OUR_LAYERS, *OUR_QUANTIZERS, PruneLowMagnitude)
    return {**functions, **objects, **{cls.__name__: cls for cls in ours}}


def read_model(path: str | os.PathLike[str]) -> keras.Model:
    """A `.keras` or `.h5` file -> Keras model (not compiled).

    Raises InputError for a missing, truncated or foreign file, LoweringError that lists every layer, quantizer or
    function in it that is not known: nothing of such a file is built, and no code in any file is run.
    """
    source = existing(model_file(path), "model")
    if source.is_dir():
        raise InputError(f"{source} is a folder (SavedModel?); save the model as .keras or .h5")
    if source.suffix not in (".keras", ".h5", ".hdf5"):
        raise InputError(f"{source}: expected a .keras or .h5 model file")
    try:
        config, version = _config(source)
        problems = problems_of(config)
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a made-up file makes the readers raise; the cause is kept
        raise InputError(f"{source}: damaged or truncated model file: {error!r:.300}") from error
    if problems:
        raise LoweringError(problems)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = _built(source, config, version)
    except Exception as error:  # Keras raises any type for a damaged file; the cause is kept
        raise InputError(f"{source}: Keras cannot read this model: {_reason(error)}") from error
    said = config["config"].get(KEY)
    return model if said is None else with_input_type(model, said)


def _built(source: Path, config: dict[str, Any], version: str) -> keras.Model:
    """The model that a file of a version of Keras describes, with its weights."""
    if LEGACY:
        return keras.models.load_model(source, custom_objects=custom_objects(), compile=False)
    legacy = version.startswith("2")
    model = described(config, custom_objects(), legacy)
    if source.suffix == ".keras":
        with zipfile.ZipFile(source) as archive, h5py.File(io.BytesIO(archive.read(WEIGHTS)), "r") as file:
            load_weights(model, file)
    else:
        model.load_weights(source)
    if legacy:
        as_in_legacy_keras(model)
    return model


def _reason(error: Exception) -> str:
    """Keras' words, in one line, with the layer that raised them, and what to do where that is known."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
    held = [frame.f_locals.get(name) for frame, _ in traceback.walk_tb(error.__traceback__)
            for name in ("layer", "self")]
    names = [getattr(item, "name", None) for item in held
             if isinstance(item, keras.layers.Layer) and not isinstance(item, keras.Model)]
    if names and repr(names[-1]) not in text:
        text = f"layer {names[-1]!r}: {text}"
    hint = ""
    if LEGACY and "QActivation" in text:  # Keras 3 reads such archives
        hint = (" A QActivation that holds a quantizer object cannot be read back from .keras: write it as a string"
                " such as QActivation('binary(alpha=1)'), or save as .h5.")
    elif LEGACY and ("Shape mismatch" in text or "received 0 variables" in text):
        hint = " A layer that is in two models at once cannot be read back from .keras; save as .h5."
    # Keras names the layer first and the reason last, with the whole configuration between.
    return (text if len(text) <= 600 else f"{text[:200]} ... {text[-400:]}") + hint


def _config(source: Path) -> tuple[dict[str, Any], str]:
    """The JSON description of the model, without building it, and the version of Keras that wrote it; the weights'
    storage is checked on the way.
    """
    with source.open("rb") as file:
        magic = file.read(8)
    archive = magic[:2] == b"PK"
    if not archive and magic != b"\x89HDF\r\n\x1a\n":
        raise InputError(f"{source}: is neither a .keras archive nor an HDF5 file")
    text, version = _of_archive(source) if archive else _of_hdf5(source)
    if archive != (source.suffix == ".keras"):
        raise InputError(f"{source}: the content is not what its suffix says; rename it to .keras or .h5")
    config = json.loads(text)
    if LEGACY and version.startswith("3"):
        raise InputError(f"{source}: written by Keras {version}, and {ANOTHER}")
    known = isinstance(config, dict) and config.get("class_name") in MODELS
    if not known or not isinstance(config.get("config"), dict):
        raise InputError(f"{source}: does not describe a Keras Sequential or functional model")
    return dict(config), version


def _of_archive(source: Path) -> tuple[str | bytes, str]:
    """The description in a .keras archive, and the version of Keras that wrote it."""
    with zipfile.ZipFile(source) as archive:
        sizes = {item.filename: item.file_size for item in archive.infolist()}
        described_in = max(sizes.get(name, 0) for name in ("config.json", "metadata.json"))
        if described_in > MAX_CONFIG or sum(sizes.values()) > MAX_WEIGHTS:
            raise InputError(f"{source}: its configuration or weights are too large to be a model")
        text = archive.read("config.json")
        about = json.loads(archive.read("metadata.json")) if "metadata.json" in sizes else {}
        _check_storage(source, io.BytesIO(archive.read(WEIGHTS)))
    return text, str(dict(about).get("keras_version", ""))


def _of_hdf5(source: Path) -> tuple[str | bytes, str]:
    """The description in an HDF5 file, and the version of Keras that wrote it."""
    _check_storage(source, source)
    with h5py.File(source, "r") as file:
        if "model_config" not in file.attrs:
            raise InputError(f"{source}: holds weights only; save the whole model with model.save()")
        text: str | bytes = file.attrs["model_config"]
        version = file.attrs.get("keras_version", "")
    return text, version.decode() if isinstance(version, bytes) else str(version)


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
