"""External tools: found, run and read, one file a tool. Importing any part of them fills the table of `toolchain`."""

from bnnflow.toolchains import bambu, clang, gxx, nextpnr, verilator, vitis, yosys
from bnnflow.toolchains.toolchain import register

for row in (gxx.TOOLCHAIN, verilator.TOOLCHAIN, yosys.TOOLCHAIN, nextpnr.TOOLCHAIN, clang.TOOLCHAIN, bambu.TOOLCHAIN,
            *vitis.VENDORS):
    register(row)
