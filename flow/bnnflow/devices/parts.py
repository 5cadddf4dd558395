"""What FPGA parts have: totals by device, from the makers' product tables."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bnnflow.devices.fabric import ECP5, ICE40, ULTRASCALE, Fabric

__all__ = ["PARTS", "UNKNOWN", "Family", "Part", "part_of"]

LUT4_FACTOR = 1.6  # LUTs of four inputs for one of six
ULTRASCALE_LEVEL = 0.5  # ns of a level of logic, with its wires


@dataclass(frozen=True)
class Family:
    """Parts of one kind.

    Netlists are made for its `fabric`; one level of logic with its wires takes `level_ns`; `yosys` is its name there.
    """

    name: str
    fabric: Fabric
    level_ns: float
    yosys: str = ""

    @property
    def lut_factor(self) -> float:
        """LUTs of this family for one of six inputs."""
        return 1.0 if self.fabric.inputs == 6 else LUT4_FACTOR

    @property
    def delay_factor(self) -> float:
        """Its delays for those of its fabric: the 7 series' are reckoned with those of UltraScale+."""
        return self.level_ns / ULTRASCALE_LEVEL if self.fabric is ULTRASCALE else 1.0


ARTIX7, ZYNQ7 = (Family(name, ULTRASCALE, 0.9, "xc7") for name in ("Artix-7", "Zynq-7000"))
KINTEXUP, VIRTEXUP, ZYNQUP, ALVEO = (Family(name, ULTRASCALE, ULTRASCALE_LEVEL, "xcup") for name in (
    "Kintex UltraScale+", "Virtex UltraScale+", "Zynq UltraScale+", "Alveo"))
LATTICE_ECP5, LATTICE_ICE40 = Family("ECP5", ECP5, 1.2, "ecp5"), Family("iCE40", ICE40, 1.8, "ice40")
UNKNOWN = Family("unknown", ULTRASCALE, ULTRASCALE_LEVEL)


@dataclass(frozen=True)
class Part:
    """A device and its totals; `bram` counts blocks of 18 Kbit, rounded down where its own blocks have another size."""

    device: str
    family: Family
    lut: int
    ff: int
    dsp: int
    bram: int
    uram: int = 0

    @property
    def available(self) -> dict[str, int]:
        """Totals under the names of `Facts`."""
        return {"lut": self.lut, "ff": self.ff, "dsp": self.dsp, "bram": self.bram, "uram": self.uram}


def _xilinx(family: Family, *rows: tuple[str, int, int, int, int]) -> list[Part]:
    """Devices of a family from rows of (device, LUTs, DSP slices, tiles of 36 Kbit, URAMs), two flip-flops a LUT."""
    return [Part(device, family, lut, 2 * lut, dsp, 2 * tiles, uram) for device, lut, dsp, tiles, uram in rows]


PARTS: dict[str, Part] = {part.device: part for part in [
    *_xilinx(ARTIX7, ("xc7a12t", 8000, 40, 20, 0), ("xc7a15t", 10400, 45, 25, 0), ("xc7a25t", 14600, 80, 45, 0),
             ("xc7a35t", 20800, 90, 50, 0), ("xc7a50t", 32600, 120, 75, 0), ("xc7a75t", 47200, 180, 105, 0),
             ("xc7a100t", 63400, 240, 135, 0), ("xc7a200t", 134600, 740, 365, 0)),
    *_xilinx(ZYNQ7, ("xc7z007s", 14400, 66, 50, 0), ("xc7z010", 17600, 80, 60, 0), ("xc7z012s", 34400, 120, 72, 0),
             ("xc7z014s", 40600, 170, 107, 0), ("xc7z015", 46200, 160, 95, 0), ("xc7z020", 53200, 220, 140, 0),
             ("xc7z030", 78600, 400, 265, 0), ("xc7z035", 171900, 900, 500, 0), ("xc7z045", 218600, 900, 545, 0),
             ("xc7z100", 277400, 2020, 755, 0)),
    *_xilinx(KINTEXUP, ("xcku3p", 162720, 1368, 360, 48), ("xcku5p", 216960, 1824, 480, 64),
             ("xcku9p", 274080, 2520, 912, 0), ("xcku11p", 298560, 2928, 600, 80), ("xcku13p", 341280, 3528, 744, 112),
             ("xcku15p", 522720, 1968, 984, 128)),
    *_xilinx(VIRTEXUP, ("xcvu3p", 394080, 2280, 720, 320), ("xcvu7p", 788160, 4560, 1440, 640),
             ("xcvu9p", 1182240, 6840, 2160, 960), ("xcvu11p", 1296000, 9216, 2016, 960),
             ("xcvu13p", 1728000, 12288, 2688, 1280), ("xcvu33p", 439680, 2880, 672, 320),
             ("xcvu35p", 871680, 5952, 1344, 640), ("xcvu37p", 1303680, 9024, 2016, 960)),
    *_xilinx(ZYNQUP, ("xczu1", 37440, 216, 108, 0), ("xczu2", 47232, 240, 150, 0), ("xczu3", 70560, 360, 216, 0),
             ("xczu4", 87840, 728, 128, 48), ("xczu5", 117120, 1248, 144, 64), ("xck26", 117120, 1248, 144, 64),
             ("xczu6", 214604, 1973, 714, 0), ("xczu7", 230400, 1728, 312, 96), ("xczu9", 274080, 2520, 912, 0),
             ("xczu11", 298560, 2928, 600, 80), ("xczu15", 341280, 3528, 744, 112), ("xczu17", 423360, 1590, 796, 102),
             ("xczu19", 522720, 1968, 984, 128), ("xczu28", 425280, 4272, 1080, 80),
             ("xczu48", 425280, 4272, 1080, 80)),
    *_xilinx(ALVEO, ("xcu50", 871680, 5952, 1344, 640), ("xcu55", 1303680, 9024, 2016, 960),
             ("xcu200", 1182240, 6840, 2160, 960), ("xcu250", 1728000, 12288, 2688, 1280),
             ("xcu280", 1303680, 9024, 2016, 960)),
    Part("lfe5u-25", LATTICE_ECP5, 24288, 24288, 28, 56), Part("lfe5u-45", LATTICE_ECP5, 43848, 43848, 72, 108),
    Part("lfe5u-85", LATTICE_ECP5, 83640, 83640, 156, 208),
    # Blocks of 4 Kbit.
    Part("ice40hx1k", LATTICE_ICE40, 1280, 1280, 0, 3), Part("ice40lp1k", LATTICE_ICE40, 1280, 1280, 0, 3),
    Part("ice40hx4k", LATTICE_ICE40, 3520, 3520, 0, 4), Part("ice40hx8k", LATTICE_ICE40, 7680, 7680, 0, 7),
    Part("ice40up5k", LATTICE_ICE40, 5280, 5280, 8, 6),
]}


def part_of(name: str) -> Part | None:
    """The device that a part's name starts with, dashes and case aside; None where the table has none.

    Speed, package and grade follow the device in a name: xcvu13p-flga2577-2-e is a xcvu13p.
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = [part for device, part in PARTS.items() if re.match(device.replace("-", "") + r"(?!\d)", plain)]
    return found[0] if found else None
