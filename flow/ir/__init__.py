"""The integer graph: codes, sums and steps. NumPy only; see docs/ir.md."""

from flow.ir.domain import BIPOLAR, BIT, TERNARY, Domain, fixed
from flow.ir.graph import Affine, Graph, Index, Node, Op, Steps, Sum, Table, Weights, Window, clean_name

__all__ = [
    "BIPOLAR", "BIT", "TERNARY", "Affine", "Domain", "Graph", "Index", "Node", "Op", "Steps", "Sum", "Table", "Weights",
    "Window", "clean_name", "fixed",
]
