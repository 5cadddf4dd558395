"""The backends Vitis and Vivado: HLS C++ through hls4ml."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from bnnflow.backends.backend import CPP, Backend, BuildConfig, TracedTop
from bnnflow.backends.hls.fusion import check, kernels
from bnnflow.ir import Graph
from bnnflow.ir.nodes import Int

__all__ = ["VITIS", "VIVADO"]


def ready() -> None:
    """Raises ToolError where hls4ml is missing."""
    import bnnflow.backends.hls.hls4ml_model  # noqa: F401


def write(graph: Graph, config: BuildConfig, codes: Sequence[Int] | None, target: Path) -> dict[str, str]:
    """Write the C++ of a project that will be moved to `target`; returns the C array of each node."""
    # hls4ml takes seconds to import, and only writing needs it.
    from bnnflow.backends.hls.hls4ml_model import to_hls4ml

    model = to_hls4ml(graph, config, codes)
    with contextlib.redirect_stdout(io.StringIO()):  # hls4ml prints as it goes; say nothing unless it fails
        model.write()
    model.relocate(target)
    arrays: dict[str, str] = model.arrays
    return arrays


def traced(graph: Graph, config: BuildConfig, folder: Path) -> TracedTop:
    """The top function, and how it prints every array; what is written on the way to it is left in `folder`."""
    from bnnflow.backends.hls.traced_top import traced_top

    with contextlib.redirect_stdout(io.StringIO()):
        return traced_top(graph, config, folder)


def _backend(name: str, synthesizer: str) -> Backend:
    return Backend(name, CPP, "C simulation", "gxx", synthesizer, check, write, kernels, traced=traced, ready=ready,
                   packages=("hls4ml", "numpy"),
                   sources=("*.h", "*.cpp", "firmware/**/*.h", "firmware/**/*.cpp"),
                   fixed={"pipelined": (True, "only backend Verilog can be combinational")})


VITIS, VIVADO = _backend("Vitis", "vitis"), _backend("Vivado", "vivado")
