"""The integer graph: a frozen, callable, saveable value. Its written specification is docs/ir.md."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from bnnflow.ir.digest import digest
from bnnflow.ir.evaluate import decode, encode, run
from bnnflow.ir.nodes import Dataflow, Weights
from bnnflow.ir.verify import verify
from bnnflow.tables import html_table

__all__ = ["Graph"]


@dataclass(frozen=True, eq=False)
class Graph(Dataflow):
    """A network on integer codes: nodes in order of evaluation, which RULES check when the graph is made.

    Calling it on int64 codes (n, *shape) evaluates it exactly. With several inputs it takes a list in the order of
    `inputs`; with several outputs it returns a list.
    """

    def __post_init__(self) -> None:
        verify(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that gives the graph its meaning; notes and origins do not count."""
        return digest(self)

    def _repr_html_(self) -> str:
        rows = [(node.name, node.op.value, ", ".join(node.inputs), "×".join(map(str, node.shape)), node.domain,
                 int(np.count_nonzero(node.params.effective)) if isinstance(node.params, Weights) else None)
                for node in self]
        head = ("node", "op", "inputs", "shape", "codes", "nonzero weights")
        return html_table(f"Graph {self.digest[:16]}", head, rows, self.notes)

    def __call__(self, codes: Any) -> Any:
        """Shorthand of `bnnflow.run`."""
        return run(self, codes)

    def encode(self, x: Any, round: bool = False) -> Any:
        """Real inputs (n, *shape), a list for several -> int64 codes; see `bnnflow.ir.evaluate.encode`."""
        return encode(self, x, round=round)

    def decode(self, codes: Any) -> Any:
        """Output codes (a list for several outputs) -> the float64 values they stand for."""
        if len(self.outputs) == 1:
            return decode(self.output.domain, codes)
        return [decode(self[name].domain, c) for name, c in zip(self.outputs, codes, strict=True)]
