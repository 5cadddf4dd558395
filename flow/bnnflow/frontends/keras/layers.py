"""The one table of the Keras layers that have a lowering; importing it makes every family register its own."""

from __future__ import annotations

from bnnflow.frontends.keras import activations, merges, pools, stages, sums  # noqa: F401  (they fill the table)
from bnnflow.frontends.keras.registry import LOWERINGS

__all__ = ["LOWERINGS"]
