"""The type of a model's inputs, said by the model; it goes with the model into any file that Keras saves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from bnnflow.ir.input_types import KEY, InputType, checked_type

__all__ = ["input_type_of", "with_input_type"]

SAID = "_bnnflow_input_type"
Model = TypeVar("Model")  # a Keras model, of either generation


def with_input_type(model: Model, input_type: InputType) -> Model:
    """The same model, which now says that its inputs are of a type (hls4ml's notation), or {input layer: type}.

    `bnnflow.lower` reads it. It stands in the model's configuration, under a key that Keras keeps and does not read, so
    it is in a `.keras` or `.h5` file that is saved from it. Raises InputError for what is no type.
    """
    said = checked_type(input_type)
    if input_type_of(model) is None:
        configuration: Callable[[], dict[str, Any]] = model.get_config  # type: ignore[attr-defined]

        def get_config() -> dict[str, Any]:
            return {**configuration(), KEY: input_type_of(model)}

        object.__setattr__(model, "get_config", get_config)
    object.__setattr__(model, SAID, said)  # Keras would wrap a mapping
    return model


def input_type_of(model: Any) -> InputType | None:
    """The type that a model says its inputs are of, or None."""
    said: InputType | None = getattr(model, SAID, None)
    return said
