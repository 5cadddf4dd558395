"""Backends: how a graph becomes a project. Importing any part of them fills the table of `backends.backend`."""

from bnnflow.backends.backend import register
from bnnflow.backends.hls.backend import VITIS, VIVADO
from bnnflow.backends.verilog import VERILOG

for row in (VITIS, VIVADO, VERILOG):
    register(row)
