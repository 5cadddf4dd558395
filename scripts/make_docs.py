"""Write docs/ir.md from the rules of the integer graph."""

from pathlib import Path

from bnnflow.ir.verify import specification

target = Path(__file__).parent.parent / "docs/ir.md"
target.write_text(specification() + "\n")
print(target)
