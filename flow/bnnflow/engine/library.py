"""The engine's C++ as a library: compiled by the user's g++ for this machine, kept in the user's cache, loaded."""

from __future__ import annotations

import ctypes
import hashlib
import tempfile
from functools import lru_cache
from pathlib import Path

from bnnflow.errors import ToolError
from bnnflow.files import kept

__all__ = ["library"]

SOURCE = Path(__file__).parent / "engine.cpp"
# Without traps comparisons of floats are vectors; no value changes.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fwrapv", "-fno-trapping-math", "-fPIC", "-shared", "-pthread", "-w")
COMPILE_SECONDS = 300.0


def library() -> ctypes.CDLL:
    """The library; compiled now where the cache has none of this source, compiler and processor.

    Raises ToolError where that is impossible; the next call in this process says the same without another attempt.
    """
    found = _library()
    if isinstance(found, str):
        raise ToolError(found)
    return found


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | str:
    """The library, or why there is none."""
    try:
        with tempfile.TemporaryDirectory(prefix="bnnflow-engine-") as name:
            return _loaded(Path(name))
    except (ToolError, OSError) as error:
        return f"the engine cannot be compiled: {error}"


def _loaded(folder: Path) -> ctypes.CDLL:
    """The library, compiled in `folder` where the cache has none that is whole."""
    source, name = SOURCE.read_bytes(), f"engine-{_identity(folder)}"
    for again in (False, True):
        path = kept(name, folder, lambda target: _compile(source, target, folder))
        if _whole(path):
            break
        if again:
            raise ToolError(f"{path} does not stay as it is written")
        path.unlink()
    return _declared(ctypes.CDLL(str(path)))


def _identity(folder: Path) -> str:
    """SHA-256 (hex) of all that the library is made of: source, flags, compiler, and what the processor can do."""
    # Only now: the table of all tools takes longer to import than a small graph to run.
    from bnnflow.toolchains import process

    made_by = " ".join([*FLAGS, process.machine(FLAGS, folder)])
    return hashlib.sha256(SOURCE.read_bytes() + made_by.encode()).hexdigest()


def _compile(source: bytes, target: Path, folder: Path) -> None:
    """Compile the source to `target`, with a digest at its end: a library that is cut short ends the process."""
    from bnnflow.toolchains import process

    (folder / "engine.cpp").write_bytes(source)
    process.call([process.need(process.GXX), *FLAGS, "engine.cpp", "-o", "engine.so"], folder, folder / "compile.log",
                 COMPILE_SECONDS)
    code = (folder / "engine.so").read_bytes()
    target.write_bytes(code + hashlib.sha256(code).digest())


def _whole(path: Path) -> bool:
    """True where a library has the digest at its end."""
    data = path.read_bytes()
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def _declared(found: ctypes.CDLL) -> ctypes.CDLL:
    """The library with the types of its functions."""
    found.flow_new.argtypes, found.flow_new.restype = [ctypes.c_void_p], ctypes.c_void_p
    found.flow_free.argtypes, found.flow_free.restype = [ctypes.c_void_p], None
    found.flow_run.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
                               ctypes.c_void_p, ctypes.c_int]
    found.flow_run.restype = ctypes.c_int
    return found
