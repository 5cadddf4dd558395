"""The pragmas of HLS as calls: clang's code then says in which loop or function each of them stands."""

from __future__ import annotations

import re

__all__ = ["marked"]

PRAGMA = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+HLS[ \t]+(\w+)(.*)$", re.MULTILINE)
WORDS = ("complete", "cyclic", "block", "off", "region", "skip_exit_check", "rewind")  # options without a value
OPTION = re.compile(rf"(\w+)\s*=\s*(.+?)(?=\s+\w+\s*=|\s+(?:{'|'.join(WORDS)})\b|\s*$)", re.IGNORECASE)


def marked(source: str) -> str:
    """C++ with calls of the functions of native/flow_marks.h in the place of its pragmas, line by line."""
    return PRAGMA.sub(lambda found: _call(found[1].upper(), found[2].split("//")[0]), source)


def _call(name: str, rest: str) -> str:
    """What stands for a pragma; nothing for those that do not matter before a design is scheduled."""
    options = {key.lower(): value for key, value in OPTION.findall(rest)}
    words = {*OPTION.sub("", rest).lower().split(), options.get("type", "")}
    if "off" in words or "off" in options:
        return "flow_apart();" if name == "INLINE" else ""
    if name in ("PIPELINE", "DATAFLOW"):
        return f"flow_{name.lower()}();"
    if name == "UNROLL":
        return f"flow_unroll({options.get('factor', '0')});"
    if name in ("ARRAY_PARTITION", "ARRAY_RESHAPE") and not words & {"cyclic", "block"}:
        arrays = options.get("variable", "").replace(",", " ").split()
        return " ".join(f"flow_registers(&{array}, {options.get('dim', '1')});" for array in arrays)
    return ""
