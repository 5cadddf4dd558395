"""What README shows runs as it stands there, in a fresh folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, plain_environment


def block(pattern: str) -> str:
    """A part of README."""
    found = re.search(pattern, (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, pattern
    return found[1]


@pytest.mark.hls
@pytest.mark.rtl
@pytest.mark.training
def test_the_commands_of_the_readme_run_in_order(tmp_path):
    """As they stand there, in a fresh folder."""
    commands = block(r"The same on the command line:\n\n```\n(.*?)```")
    for name in ("bnnflow", "python"):
        command = "-m bnnflow.cli " if name == "bnnflow" else ""
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command}"$@"\n')
        script.chmod(0o755)
    folder = tmp_path / "fresh"
    folder.mkdir()
    environment = {**plain_environment(), "PATH": f"{tmp_path / 'bin'}:{Path(os.defpath.split(':')[0])}:"
                                                  f"{os.environ['PATH']}"}
    for line in commands.splitlines():
        done = subprocess.run(["sh", "-e", "-c", line], cwd=folder, env=environment, text=True, capture_output=True,
                              check=False, timeout=300)
        assert done.returncode == 0, (line, done.stderr)
    assert (folder / "report.html").is_file()


@pytest.mark.hls
@pytest.mark.training
def test_the_python_of_the_readme_runs(tmp_path):
    """An image in eight may be misclassified."""
    code = block(r"```python\n(.*?)```") + "assert (y.argmax(axis=1) == labels).mean() > 0.87\n"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, env=plain_environment(),
                          text=True, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "report.html").is_file() and (tmp_path / "prj3").is_dir()
