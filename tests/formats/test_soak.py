"""Ten minutes of coverage-guided fuzzing, in the soak: no other exception, no hang, no growth of memory."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

SECONDS = int(os.environ.get("FUZZ_SECONDS", "600"))


@pytest.mark.soak
@pytest.mark.timeout(SECONDS + 300)
def test_fuzzing_finds_nothing(tmp_path: Path, absent_package: None) -> None:
    """Atheris, for ten minutes (``FUZZ_SECONDS``), within half a gigabyte and ten seconds a message."""
    command = [sys.executable, "-m", "tests.formats.fuzz_formats", str(tmp_path / "seeds")]
    done = subprocess.run(
        [*command, f"-max_total_time={SECONDS}", f"-artifact_prefix={tmp_path}/"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture
def absent_package(request: pytest.FixtureRequest) -> None:
    """Where atheris is absent (it is built for few Pythons) the test fails in CI, and is skipped elsewhere."""
    if importlib.util.find_spec("atheris") is None:
        outcome = pytest.fail if os.environ.get("CI") else pytest.skip
        outcome("atheris is absent: pip install --group fuzz")
