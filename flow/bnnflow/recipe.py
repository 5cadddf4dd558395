"""How to train, as a config says it: its keys, types and values, which are checked before TensorFlow is loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import yaml

from bnnflow.errors import InputError
from bnnflow.files import existing

__all__ = ["Config", "Recipe", "config_of", "read_yaml"]

OPTIMIZERS = ("adam", "bop", "bop2")
NUMBER = (int, float)
KEYS: dict[str, tuple[type, ...]] = {
    "epochs": (int,), "batch_size": (int,), "learning_rate": NUMBER, "seed": (int,), "validation": NUMBER,
    "optimizer": (str,), "build": (dict,), "data": (dict,), "prune": (dict,), "distill": (dict,),
    "budget": (dict,), "optimizer_options": (dict,),
}
BUDGET: dict[str, tuple[type, ...]] = {"target": NUMBER, "gamma": NUMBER}
DISTILL: dict[str, tuple[type, ...]] = {"teacher": (str,), "temperature": NUMBER, "mix": NUMBER}
PRUNE: dict[str, tuple[type, ...]] = {
    "method": (str,), "start": NUMBER, "end": NUMBER, "every": NUMBER, "layers": (list,), "zeros": NUMBER, "n": (int,),
    "m": (int,), "shape": (list,), "inputs": (int,),
}
WORDS = {int: "a whole number", float: "a number", str: "text", dict: "a mapping", list: "a list"}


@dataclass(frozen=True)
class Recipe:
    """How to train: cross-entropy, a cosine schedule from `learning_rate` to 0 over all steps, shuffled by the seed.

    `validation` is the share (0..1) of the training samples that are held back, to choose the best epoch with. `prune`
    holds arguments of `Prune`, `distill` those of `Distiller` (but for the models), `budget` the target and gamma of
    `Budget`, `optimizer_options` arguments of the optimizer, for example Bop's threshold.
    """

    epochs: int = 40
    batch_size: int = 64
    learning_rate: float = 2e-3
    seed: int = 0
    validation: float = 0.0
    optimizer: str = "adam"
    prune: Mapping[str, Any] | None = None
    distill: Mapping[str, Any] | None = None
    budget: Mapping[str, Any] | None = None
    optimizer_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise InputError for values that cannot be used."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}; give a whole number from 1 on")
        if not 0 < self.learning_rate < float("inf"):
            raise InputError(f"learning_rate={self.learning_rate}; give a number above 0")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed}; give a whole number from 0 to 2^32 - 1")
        if not 0 <= self.validation < 1:
            raise InputError(f"validation={self.validation}; give a share from 0 to below 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer {self.optimizer!r}; use one of {', '.join(OPTIMIZERS)}")


@dataclass(frozen=True)
class Config:
    """A config file, checked: the recipe, the arguments of `build` and `data`, the teacher's file or ""."""

    recipe: Recipe
    build: Mapping[str, Any]
    data: Mapping[str, Any]
    teacher: str
    text: Mapping[str, Any]  # all of it, as written to run.yaml


def config_of(given: str | os.PathLike[str] | Mapping[str, Any] | None, defaults: Mapping[str, Any]) -> Config:
    """`defaults` overridden by a YAML file or mapping; raises InputError for unknown keys and wrong types or values."""
    name = "config" if given is None or isinstance(given, Mapping) else str(given)
    values = read_yaml(given) if isinstance(given, (str, os.PathLike)) else given
    if not isinstance(values, Mapping | None):
        raise InputError(f"{name}: holds {type(values).__name__}; write one `key: value` a line")
    text = {**defaults, **(values or {})}
    _check_keys(name, text, KEYS)
    _check_keys(f"{name}: distill", text.get("distill", {}), DISTILL)
    _check_keys(f"{name}: prune", text.get("prune", {}), PRUNE)
    _check_keys(f"{name}: budget", text.get("budget", {}), BUDGET)
    distill = dict(text.get("distill", {}))
    teacher = distill.pop("teacher", "")
    if "distill" in text and not teacher:
        raise InputError(f"{name}: distill needs teacher, a Keras model file (.keras, .h5)")
    recipe = {f.name: text[f.name] for f in fields(Recipe) if f.name in text}
    return Config(Recipe(**{**recipe, "distill": distill}), text.get("build", {}), text.get("data", {}), teacher, text)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """What a YAML file says; raises InputError where there is none, or where it cannot be read."""
    try:
        return yaml.safe_load(existing(path, "config").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from error


def _check_keys(name: str, values: Mapping[str, Any], known: Mapping[str, tuple[type, ...]]) -> None:
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise InputError(f"{name}: unknown key {', '.join(map(repr, unknown))}; known are {', '.join(known)}")
    for key, value in values.items():
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise InputError(f"{name}: {key}: {value!r} is not {WORDS[known[key][-1]]}")
