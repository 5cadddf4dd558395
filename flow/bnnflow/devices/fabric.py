"""What the logic of a family of FPGAs consists of: LUTs, carry chains and registers, and their delays before placement.

A netlist is made for a fabric (bnnflow.backends.netlist), and a mapped one is timed by it (bnnflow.devices.timing).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ECP5", "ICE40", "PS", "ULTRASCALE", "Fabric"]

PS = 1000  # in a ns


@dataclass(frozen=True)
class Fabric:
    """The logic of a family. Delays are in whole ps; `net` is that of a net to any input but a carry.

    - `inputs` of a LUT, `lut` its delay; `mux` that of a multiplexer behind two LUTs.
    - A position of a carry chain adds a literal to a function of `beside` others. Of one there is no function: the
      chain only adds words, and `passes` positions of it are taken by a carry that comes from a signal or becomes one.
      Positions come in blocks of so many, `block`.
    - `onto`: from the operands of a position to the next carry, `along`: from one carry to the next, `off`: from a
      carry, or the operands, to a sum. Where a function stands beside a literal, its LUT is in front of that.
    - `clock_to_q` and `setup` of a register. A LUT may be a shift register, which `holds` so many bits.
    - `define`: the macro for which the Verilog has the family's primitives.
    """

    define: str
    inputs: int
    beside: int
    passes: int
    block: int
    net: int
    lut: int
    mux: int
    onto: int
    along: int
    off: int
    clock_to_q: int
    setup: int
    holds: int = 0

    @property
    def level(self) -> int:
        """A LUT and the net to it."""
        return self.net + self.lut

    @property
    def register(self) -> int:
        """A register and the net to it."""
        return self.clock_to_q + self.net + self.setup

    @property
    def compresses(self) -> bool:
        """True where carry chains are compressors: each of their positions has a function of several literals."""
        return self.beside > 1


# Means over the longest paths of 22 timing reports of Vivado after synthesis (xcvu9p and xcvu13p, speed grade -2), when
# no net is placed yet: docs/reports.md. Placed and routed nets are longer.
ULTRASCALE = Fabric("FLOW_XILINX", inputs=6, beside=5, passes=0, block=1, net=236, lut=60, mux=50,
                    onto=160, along=5, off=80, clock_to_q=77, setup=-25, holds=32)
# Cells as Project Trellis has them for speed grade 6.
ECP5 = Fabric("FLOW_ECP5", inputs=4, beside=1, passes=1, block=2, net=800, lut=240, mux=150,
              onto=450, along=35, off=440, clock_to_q=525, setup=0)
# Cells as Project IceStorm has them for the HX devices; nets are not calibrated.
ICE40 = Fabric("FLOW_ICE40", inputs=4, beside=1, passes=1, block=1, net=800, lut=400, mux=0,
               onto=260, along=126, off=316, clock_to_q=540, setup=470)
