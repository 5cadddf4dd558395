"""Files: looked up with a clear message, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bnnflow.errors import InputError

__all__ = ["cache_folder", "existing", "kept", "remembered", "whole_file"]

KEPT = 50  # files of each kind


def existing(path: str | os.PathLike[str], what: str) -> Path:
    """`path` as a Path; raises InputError where there is nothing, or where the system cannot even look."""
    source = Path(path)
    try:
        if source.exists():
            return source
        reason = ""
    except OSError as error:
        reason = f": {error.strerror}"
    raise InputError(f"no {what} file {str(source)[:200]}{reason}")


@contextlib.contextmanager
def whole_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `target`, of the same suffix, that is moved there when all went well and removed if not.

    Raises InputError where the place is not writable.
    """
    place = Path(target)
    partial = None
    try:
        handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.stem}.", suffix=place.suffix)
        os.close(handle)
        partial = Path(name)
        yield partial
        partial.chmod(0o644)
        os.replace(partial, place)
    except OSError as error:
        raise InputError(f"cannot write {place}: {error.strerror or error}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)


def cache_folder() -> Path:
    """The folder of what is kept for the user beside projects; it need not be there, or writable."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnnflow"


def remembered(name: str, parts: Any, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gave for the same `name` and `parts` (plain data), or gives now; kept as JSON in the user's cache."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    cache = cache_folder() / f"{name}-{digest}.json"
    try:
        known = json.loads(cache.read_text())
        if isinstance(known, dict):
            return known
    except (OSError, ValueError):
        pass  # not there, or damaged: made again
    made = make()
    try:
        cache.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(cache) as partial:
            partial.write_text(json.dumps(made))
    except (OSError, InputError):
        pass  # no place to keep it
    return made


def kept(name: str, folder: Path, make: Callable[[Path], None]) -> Path:
    """The file `name` ("<kind>-<digest of all that it is made of>"), made now where it is not in the user's cache.

    Where the cache cannot be written to, it is made in `folder`.
    """
    cache = cache_folder()
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(cache, os.W_OK):
        cache = folder
    file = cache / name
    try:
        os.utime(file)  # the newest now: what another process throws away meanwhile is older
    except FileNotFoundError:
        for old in sorted(cache.glob(f"{name.split('-')[0]}-*"), key=_last_used)[:-KEPT]:
            old.unlink(missing_ok=True)
        partial = cache / f".{name}.{os.getpid()}.{threading.get_ident()}"  # hidden: not one of those thrown away
        make(partial)
        os.replace(partial, file)
    return file


def _last_used(file: Path) -> float:
    """Seconds since the epoch; 0 where another process has thrown the file away meanwhile."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0
