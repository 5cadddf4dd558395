"""What stock hls4ml's kernels would cost, so that a user can compare before switching, without a vendor's tool.

LUTs of C synthesis only. The two constants were fitted by relative least squares to 20 trained QKeras networks, binary
and ternary, with ReLUs of 7 bits (Vitis HLS 2023.1, latency strategy, reuse factor 1, io_parallel, xcvu13p, 5 ns);
docs/reports.md has the errors. Flip-flops and latency are not estimated: those results have 7,717 and 16,203 flip-flops
for networks that differ in nothing but five outputs instead of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from bnnflow.errors import InputError
from bnnflow.facts.facts import Facts
from bnnflow.ir import Graph, Node, Weights

__all__ = ["LUT_PER_NONZERO", "LUT_PER_ACTIVATION", "estimate_baseline", "baseline_facts"]

LUT_PER_NONZERO, LUT_PER_ACTIVATION = 13.646, 41.267


def baseline_facts(nonzeros: Sequence[int], activations: Sequence[int], name: str = "stock hls4ml") -> Facts:
    """Facts from the nonzero weights of every sum, times its positions, and the elements of every activation."""
    lut = LUT_PER_NONZERO * sum(nonzeros) + LUT_PER_ACTIVATION * sum(activations)
    return Facts(name, "table estimate", "bnnflow, model of stock hls4ml kernels", lut=round(lut),
                 notes=("stock hls4ml, unrolled: C synthesis as Vitis HLS 2023.1 would estimate it",))


def estimate_baseline(graph: Graph) -> Facts:
    """Stock hls4ml's kernels for the same network, unrolled; raises InputError for a graph without sums.

    The comparators of a thermometer are not counted, because stock hls4ml has none.
    """
    nonzeros = [int(np.count_nonzero(node.params.effective)) * prod(node.shape[:-1])
                for node in graph if isinstance(node.params, Weights)]
    if not nonzeros:
        raise InputError("the graph has no sums, there is nothing to compare")
    return baseline_facts(nonzeros, [node.size for node in _activations(graph)])


def _activations(graph: Graph) -> list[Node]:
    """The nodes that quantise anything but the inputs themselves."""
    raw: set[str] = set()  # inputs, and wires that only have codes of inputs
    for node in graph:
        if node.traits.outside or (node.traits.wires and raw.issuperset(node.inputs)):
            raw.add(node.name)
    return [node for node in graph if node.traits.quantizes and raw.isdisjoint(node.inputs)]
