"""Logs are set up without libraries that only draw."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
import listener.telemetry
assert "rich" not in sys.modules
import rich.table
import structlog
from listener.telemetry import configure_logging
configure_logging(stream=sys.stderr, terminal=True)
try:
    raise ValueError("wrong")
except ValueError:
    structlog.get_logger().exception("source.failed")
"""


def test_rich_is_not_imported_for_logs_and_can_be_later() -> None:
    """On a terminal, too, a traceback is plain text."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "ValueError: wrong" in done.stderr
