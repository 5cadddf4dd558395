"""The verb that reports on projects."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bnnflow.backends.project import Project
from bnnflow.files import whole_file
from bnnflow.reports.document import document
from bnnflow.reports.render import RENDER, render

__all__ = ["report"]


def report(projects: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
           output: str | os.PathLike[str] | None = None, data: Any = None, labels: Any = None) -> dict[str, Any]:
    """Write a report on a project, or several side by side, to `output`, whose suffix is .html, .md, .csv or .json.

    `data` are inputs (n, *shape), real values or, where integers, codes, and `labels` (n,) are whole numbers. With both
    the report has the accuracy of the graph, which is that of the hardware. Returns the report as plain data, which is
    what a .json file has.

    Raises InputError for a folder that is no project, damaged files, data that do not fit, or another suffix.
    """
    folders = [projects] if isinstance(projects, (str, os.PathLike)) else list(projects)
    target = None if output is None else Path(output)
    if target is not None and target.suffix not in RENDER:
        render({}, target.suffix)  # says which there are, before any work
    found = document([Project.open(folder) for folder in folders], data, labels)
    if target is not None:
        text = render(found, target.suffix)
        with whole_file(target) as path:
            path.write_text(text, encoding="utf-8")
    return found
