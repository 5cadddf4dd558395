"""Programs of the engine: numbers and arrays, loaded once, run on any number of samples."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bnnflow.engine.library import library
from bnnflow.errors import ToolError

__all__ = ["Numbers", "Program", "has_bytes"]

DONE, BAD_INPUT = 0, 1  # what flow_run returns; anything else: no memory
# Kinds of elements of inputs as flow_run knows them; any other is converted.
KINDS = {np.dtype(name): kind for kind, name in enumerate(
    ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"))}


class Numbers(list[int]):
    """The numbers of a program as it is written; arrays are numbers that point to them, and are kept with it."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays: list[NDArray[Any]] = []

    def array(self, array: Any, kind: DTypeLike = np.int64) -> None:
        """Append the place of an array, as one block of elements of a kind."""
        block = np.ascontiguousarray(array, kind)
        self.arrays.append(block)
        self.append(block.ctypes.data)


def has_bytes() -> bool:
    """True where the engine adds products of bytes, for which not every processor has an instruction."""
    return bool(library().flow_bytes())


class Program:
    """A program that is loaded. Raises ToolError where the library cannot be had, or memory is short."""

    def __init__(self, numbers: Numbers):
        self._library = library()
        block = np.array(numbers, np.int64)
        self._arrays = numbers.arrays  # the library reads some of them where they are
        self._handle = self._library.flow_new(block.ctypes.data)
        if not self._handle:
            raise ToolError("the engine has not enough memory for this graph")
        weakref.finalize(self, self._library.flow_free, self._handle)

    def run(self, inputs: Sequence[NDArray[Any]], outputs: Sequence[NDArray[np.int64]], round: bool = False) -> bool:
        """Run samples: arrays (n, *shape) of numbers, codes where they are integers and real values elsewhere, to int64
        arrays (n, *shape), which must be blocks of memory.

        Real values between two codes are rounded to even where `round` is set. False where an input holds what is no
        code; what the outputs hold then means nothing. Raises ToolError where memory is short.
        """
        blocks = [np.ascontiguousarray(array, _kind(array.dtype)) for array in inputs]
        kinds = np.array([KINDS[block.dtype] for block in blocks], np.uint8)
        pointers = [np.array([array.ctypes.data for array in arrays], np.uint64) for arrays in (blocks, outputs)]
        state = self._library.flow_run(self._handle, len(blocks[0]), pointers[0].ctypes.data, kinds.ctypes.data,
                                       int(round), pointers[1].ctypes.data, _processors())
        if state not in (DONE, BAD_INPUT):
            raise ToolError("the engine has not enough memory for this graph")
        return bool(state == DONE)


def _kind(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The kind of elements that the engine takes for one: this machine's order of bytes, bool as uint8."""
    if kind.newbyteorder("=") in KINDS:
        return kind.newbyteorder("=")
    return np.dtype(np.uint8 if kind.kind == "b" else np.float64)


def _processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
