"""The integer graph: codes, sums and thresholds. NumPy only; docs/ir.md is its specification."""

from bnnflow.ir.domain import BIPOLAR, BIT, TERNARY, Domain, fixed
from bnnflow.ir.graph import Graph
from bnnflow.ir.nodes import (
    TRAITS,
    Affine,
    Index,
    Node,
    Op,
    Steps,
    Sum,
    Table,
    Traits,
    Weights,
    Window,
    clean_name,
)

__all__ = [
    "BIPOLAR", "BIT", "TERNARY", "TRAITS", "Affine", "Domain", "Graph", "Index", "Node", "Op", "Steps", "Sum", "Table",
    "Traits", "Weights", "Window", "clean_name", "fixed",
]
