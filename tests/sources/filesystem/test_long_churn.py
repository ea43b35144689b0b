"""The whole daemon against a tree that churns, for a moment; ``long_churn.py`` does so for as long as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.sources.harness import fanotify_needed


@pytest.mark.parametrize("backend", ["inotify", "fanotify", "polling"])
def test_what_is_refreshed_is_what_differs(tmp_path: Path, backend: str, request: pytest.FixtureRequest) -> None:
    """Mounts, links of several hops, exchanges and releases: all that differs is refreshed, at few units more."""
    if backend == "fanotify":
        fanotify_needed(request, tmp_path)
    options = ["--minutes", "0.2", "--seed", "2", "--backend", backend]
    program = [sys.executable, "-m", "tests.sources.filesystem.long_churn", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}{done.stderr[-1000:]}"
