"""The registry of layers: every family of Keras layers enters its lowerings here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bnnflow.errors import InputError
from bnnflow.exact.builder_state import GraphBuilder
from bnnflow.exact.epilogues import FloatTensor
from bnnflow.frontends.keras.calls import Call

__all__ = ["LOWERINGS", "Lower", "lowers"]

Lower = Callable[[GraphBuilder, Call, Sequence[FloatTensor]], FloatTensor]
LOWERINGS: dict[type, Lower] = {}


def lowers(*kinds: type) -> Callable[[Lower], Lower]:
    """Register the lowering of Keras layer classes: (lowering, call, input values) -> output value.

    The function may raise Refusal. A layer of your own that works element by element in inference needs one line,
    `lowers(MyLayer)(bnnflow.frontends.keras.stages.elementwise)`; one that moves elements, with `moves` in its place.
    """

    def register(function: Lower) -> Lower:
        for kind in kinds:
            if LOWERINGS.get(kind, function) is not function:
                raise InputError(f"a lowering of {kind.__name__} is registered already")
            LOWERINGS[kind] = function
        return function

    return register
