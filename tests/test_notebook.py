"""The tutorial runs from its first cell to its last."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import ROOT


@pytest.mark.hls
@pytest.mark.training
def test_tutorial(tmp_path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # none in the repository
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps([cell.get("outputs") for cell in notebook.cells])
    assert "(360, 10) True" in shown and "Graph " in shown and "not yet measured with vendor tools" in shown
    assert float(re.findall(r'"text/plain": "([\d.]+)"', shown)[-1]) > 80
    assert "0 differ" in (tmp_path / "report.html").read_text()
