"""Save and load graphs: one .npz with a JSON header and plain arrays. Nothing in a file is executed."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnnflow.errors import InputError
from bnnflow.files import existing, whole_file
from bnnflow.ir.digest import FORMER, packed
from bnnflow.ir.domain import Domain
from bnnflow.ir.graph import Graph
from bnnflow.ir.nodes import PARAMS, Node, Op, Params

__all__ = ["load", "save"]

FORMAT = 3
READABLE = (2, 3)  # formats that `load` reads
MAX_BYTES = 2**31  # of all arrays together
_RATIONAL = re.compile(r"-?[0-9]{1,120}(/[0-9]{1,120})?")


def save(graph: Graph, path: str | os.PathLike[str]) -> Path:
    """Write `graph` to `path` (.npz), whole or not at all. Raises InputError where the place is not writable."""
    target = Path(path)
    rows, arrays = packed(graph)
    header = {
        "bnnflow_graph": FORMAT, "nodes": rows, "outputs": list(graph.outputs), "notes": list(graph.notes),
        "origins": [node.origin for node in graph.nodes], "digest": graph.digest,
    }
    with whole_file(target) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **{"header": np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays})  # type: ignore[arg-type]
    return target


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a graph written by `save` and check it against RULES.

    Raises InputError for a missing, truncated or foreign file, and for one whose content breaks a rule.
    """
    source = existing(path, "graph")
    header, arrays = _contents(source)
    if not isinstance(header, dict) or header.get("bnnflow_graph") not in READABLE:
        raise InputError(f"{source}: not a bnnflow graph of format {' or '.join(map(str, READABLE))}")
    try:
        graph = _graph(header, arrays)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{source}: damaged graph: {error}") from error
    if header.get("digest") != graph.digest:
        raise InputError(f"{source}: the content does not match its digest; the file was changed or damaged")
    return graph


def _contents(source: Path) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The header, any JSON value, and the arrays of an archive; InputError where it is none, or too large."""
    try:
        with zipfile.ZipFile(source) as archive:
            if sum(item.file_size for item in archive.infolist()) > MAX_BYTES:
                raise InputError(f"{source}: more than {MAX_BYTES >> 30} GiB of arrays; not a graph")
        with np.load(source, allow_pickle=False) as data:
            header = json.loads(bytes(data["header"]).decode())
            return header, {name: data[name] for name in data.files if name != "header"}
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a made-up archive makes the readers raise; the cause is kept
        raise InputError(f"{source} is not a bnnflow graph (.npz of `bnnflow.save`): {error!r:.200}") from error


def _graph(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Graph:
    """The graph of a header and arrays; whatever they hold that does not fit raises an error of Python's or of ours."""
    names = FORMER if header["bnnflow_graph"] == 2 else {}
    nodes = tuple(_node(row, arrays, origin, names)
                  for row, origin in zip(header["nodes"], header["origins"], strict=True))
    return Graph(nodes, tuple(header["outputs"]), tuple(map(str, header["notes"])))


def _node(row: dict[str, Any], arrays: dict[str, NDArray[Any]], origin: str, names: dict[str, str]) -> Node:
    """One node; `names` maps fields of parameters to the names that they have in the file's format."""
    op, name = Op(row["op"]), str(row["name"])
    lo, hi, scale, offset = row["domain"]
    params: Params = None
    kind = PARAMS[op]
    if kind is not type(None):
        values = {}
        for f in fields(kind):
            stored = names.get(f.name, f.name)
            array = arrays.get(f"{name}.{stored}")
            values[f.name] = _tuples(row["scalars"][stored]) if array is None else array
        params = kind(**values)
    shape = tuple(_whole(n) for n in row["shape"])
    return Node(name, op, tuple(map(str, row["inputs"])), shape,
                Domain(_whole(lo), _whole(hi), _rational(scale), _rational(offset)), params, str(origin))


def _tuples(value: object) -> object:
    """Lists of JSON, nested ones too, as tuples again; RULES check their contents."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is not an integer")
    return value


def _rational(text: object) -> Fraction:
    if not (isinstance(text, str) and _RATIONAL.fullmatch(text)):
        raise ValueError(f"{text!r:.40} is not a rational number")
    return Fraction(text)
