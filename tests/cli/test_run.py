"""What the daemon imports: each library that it does not need costs time at the start, and memory for good."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.stand import KEYS, Stand, until

NOT_NEEDED = {"boto3", "botocore", "click", "cryptography", "http.server", "multiprocessing", "rich.console", "typer"}


def test_the_daemon_of_a_file_tree_imports_no_library_that_it_does_not_need(stand: Stand) -> None:
    """Neither what other commands and sources need, nor what only draws on a terminal."""
    stand.configure()
    stand.write("a.html")
    report = stand.root / "imports"
    with report.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "listener", "run"],
            cwd=stand.root,
            env={**os.environ, **KEYS, "LISTENER_CONFIG": str(stand.config)},
            stderr=stderr,
        )
        try:
            until(stand.ready, what="the daemon is ready")
        finally:
            process.terminate()
            process.wait(60)
    lines = report.read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "listener.daemon.service" in imported
    assert not imported & NOT_NEEDED
