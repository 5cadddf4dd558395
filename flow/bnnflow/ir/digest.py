"""The digest of a graph, and its content in one fixed order: structure, domains and parameters."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.ir.nodes import Dataflow

__all__ = ["FORMER", "digest", "packed"]

# Names that fields of parameters had in format 2. Digests are made with them, so that a graph keeps its digest.
FORMER = {"thresholds": "cuts", "margin": "slack"}


def packed(graph: Dataflow, former: bool = False) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """(rows of the header, one a node, with everything that is not an array; arrays), both in a fixed order.

    Fields of parameters have the names of format 2 if `former`.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for node in graph.nodes:
        d, scalars = node.domain, {}
        for f in fields(node.params) if node.params is not None else ():
            value = getattr(node.params, f.name)
            name = FORMER.get(f.name, f.name) if former else f.name
            if isinstance(value, np.ndarray):
                arrays[f"{node.name}.{name}"] = value
            else:
                scalars[name] = value
        rows.append({
            "name": node.name, "op": node.op.value, "inputs": list(node.inputs), "shape": list(node.shape),
            "domain": [d.lo, d.hi, str(d.scale), str(d.offset)], "scalars": scalars,
        })
    return rows, arrays


def digest(graph: Dataflow) -> str:
    """SHA-256 (hex) over structure, domains and parameters. Notes, origins and the layout of files do not count."""
    rows, arrays = packed(graph, former=True)
    h = hashlib.sha256(json.dumps([rows, list(graph.outputs)], sort_keys=True).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        h.update(f"{name} {array.dtype.str} {array.shape}".encode())
        h.update(array.tobytes())
    return h.hexdigest()
