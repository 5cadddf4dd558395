"""What a front end hands to the exact core: functions of float32 arrays; and why a layer has no exact meaning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayFunction", "Refusal", "Uncomputable"]

# (k, *shape) -> (k, *shape'), float32: k samples at once, each computed as the framework computes it.
ArrayFunction = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Refusal(Exception):
    """Why one layer has no exact meaning; collected, so that the user sees all of them at once."""


class Uncomputable(Exception):
    """The framework behind an ArrayFunction raised an error; the message is the framework's own."""
