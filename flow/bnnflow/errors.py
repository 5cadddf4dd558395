"""The errors bnnflow raises, each with the exit code of the command line (README, "Exit codes")."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = ["BnnflowError", "InputError", "LoweringError", "Mismatch", "ToolError", "choice"]


class BnnflowError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 2


class InputError(BnnflowError, ValueError):
    """A model, file, array or option that cannot be used; the message names it, the value and the remedy."""

    __init__ = Exception.__init__  # TensorFlow makes errors that pass through a layer anew, by this constructor only


class LoweringError(InputError):
    """A model that has no exact hardware meaning; carries all problems found, one line each."""

    def __init__(self, problems: Sequence[str]):
        self.problems = tuple(problems)
        head = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''} in this model:"
        super().__init__("\n  - ".join([head, *self.problems]))


class Mismatch(BnnflowError):
    """Two implementations of one graph differ; never a warning, never within a tolerance."""

    exit_code = 1


class ToolError(BnnflowError):
    """An external tool is missing or failed; the message says which and what to do."""

    exit_code = 3


def choice(names: Iterable[str]) -> str:
    """What there is to choose from, in words: "a, b or c"; "none" where there is nothing."""
    *others, last = [*names] or ["none"]
    return f"{', '.join(others)} or {last}" if others else last
