"""The one table of the Keras layers that have a lowering; importing it makes every family register its own."""

from __future__ import annotations

# They fill the table.
from bnnflow.frontends.keras import activations, merges, pools, stages, sums, wrappers  # noqa: F401
from bnnflow.frontends.keras.registry import LOWERINGS

__all__ = ["LOWERINGS"]
