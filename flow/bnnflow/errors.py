"""The errors bnnflow raises, each with the exit code of the command line (README, "Exit codes")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import log10
from typing import Any

__all__ = ["BnnflowError", "InputError", "LoweringError", "Mismatch", "Note", "Problem", "ToolError", "as_given",
           "as_text", "choice", "in_words_of", "missing", "needed_for", "on_command_line"]


class BnnflowError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(BnnflowError, ValueError):
    """A model, file, array or option that cannot be used; the message names it, the value and the remedy."""

    __init__ = Exception.__init__  # TensorFlow makes errors that pass through a layer anew, by this constructor only


class Problem(str):
    """What is wrong with one layer; `common` is what is to be said once of all such problems together."""

    common: str

    def __new__(cls, text: str, common: str = "") -> Problem:
        """A text with what is common to others."""
        problem = super().__new__(cls, text)
        problem.common = common
        return problem


class LoweringError(InputError):
    """A model that has no exact hardware meaning; carries all problems found, one line each."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in this model:"
        common = dict.fromkeys(problem.common for problem in self.problems if isinstance(problem, Problem))
        super().__init__("\n".join(["\n  - ".join([head, *self.problems]), *filter(None, common)]))


class Mismatch(BnnflowError):
    """Two implementations of one graph differ; never a warning, never within a tolerance."""

    exit_code = 1


class ToolError(BnnflowError):
    """An external tool is missing or failed; the message says which and what to do."""

    exit_code = 3


class Note(UserWarning):
    """What a user should know, though the result is right."""


def missing(package: str, what: str, extra: str) -> ToolError:
    """The error for a Python package that is not installed; `what` needs it, and an extra of bnnflow brings it."""
    return ToolError(f"the Python package {package} is not installed (needed for {what}): "
                     f"pip install 'bnnflow[{extra}]'")


@contextmanager
def needed_for(what: str, extra: str) -> Iterator[None]:
    """Around imports of what an extra installs: raises ToolError where a package is missing, as `missing` says it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing(str(error.name), what, extra) from error


def choice(names: Iterable[str]) -> str:
    """What there is to choose from, in words: "a, b or c"; "none" where there is nothing."""
    *others, last = [*names] or ["none"]
    return f"{', '.join(others)} or {last}" if others else last


READABLE = 10**30  # numbers below it are written out
_ON_COMMAND_LINE = ContextVar("bnnflow_on_command_line", default=False)


@contextmanager
def on_command_line() -> Iterator[None]:
    """Within it, messages name options as one gives them to the command `bnnflow`, not to Python."""
    before = _ON_COMMAND_LINE.set(True)
    try:
        yield
    finally:
        _ON_COMMAND_LINE.reset(before)


def as_given(**options: Any) -> str:
    """Options with their values, as the reader of the message gives them: in Python `io_type='io_stream',
    layers={'d': {'pe': 4}}`, on the command line `--io-type io_stream --layer d:pe=4`.
    """
    if not _ON_COMMAND_LINE.get():
        return ", ".join(f"{name}={as_text(value)}" for name, value in options.items())
    return " ".join(flag for name, value in options.items() for flag in _flags(name, value))


def as_text(value: object) -> str:
    """A value as Python writes it; of a number that nobody would read, only how long it is."""
    if isinstance(value, int) and abs(value) >= READABLE:
        return f"(a number of {int(value.bit_length() * log10(2)) + 1:,} digits)"
    return repr(value)


def in_words_of(python: str, command_line: str) -> str:
    """The one of two texts that suits the reader of the message."""
    return command_line if _ON_COMMAND_LINE.get() else python


def _flags(name: str, value: Any) -> list[str]:
    """An option on the command line."""
    if name == "layers" and isinstance(value, Mapping):
        return [f"--layer {node}:{','.join(f'{key}={v}' for key, v in row.items())}" for node, row in value.items()]
    if name == "pipelined":
        return [] if value else ["--combinational"]
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    text = value if isinstance(value, str) else as_text(value)
    return [f"{flag} {text}" if text and not set(text) & set(" <>*?()[]{}$&;|'\"") else f'{flag} "{text}"']
