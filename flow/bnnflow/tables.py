"""Tables for notebooks: everything in them is text, whatever it looks like."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["html_table"]


def html_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> str:
    """An HTML table of cells as text (None: empty), and notes below it."""

    def line(kind: str, cells: Iterable[object]) -> str:
        return "<tr>" + "".join(f"<{kind}>{'' if c is None else escape(str(c))}</{kind}>" for c in cells) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return (f"<table><caption>{escape(caption)}</caption><thead>{line('th', head)}</thead><tbody>{body}</tbody></table>"
            + below)
