"""Commands that only read: on a state directory where nothing may be written, and for another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.stand import KEYS, Stand, until

READING = (
    ["status"],
    ["status", "--json"],
    ["quota"],
    ["tasks"],
    ["tasks", "--manual"],
    ["dead-letters"],
    ["store", "check"],
    ["backfill", "--dry-run"],
    ["wait", "--timeout", "0s", "--grace", "0s"],
)


def run_bare(stand: Stand, *arguments: str, user: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command that permissions bind, also where root starts it."""
    drop = ["--inh-caps=-all", "--bounding-set=-all"]
    if user:
        drop = [f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    bare = ["setpriv", *drop] if os.geteuid() == 0 else []
    return subprocess.run(
        [*bare, sys.executable, "-m", "listener", *arguments, "--config", str(stand.config)],
        env={**os.environ, **KEYS},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def listing(folder: Path) -> list[tuple[str, bytes]]:
    """Return the state files with their content."""
    return [(path.name, path.read_bytes()) for path in sorted(folder.glob("state.db*")) if path.is_file()]


@pytest.mark.parametrize("crashed", [False, True])
def test_every_reading_command_works_where_nothing_may_be_written(stand: Stand, crashed: bool) -> None:
    """After a clean end and after a kill each answers as ever, and leaves every byte."""
    stand.write("a.html", "old")
    with stand.daemon() as process:
        stand.write("a.html", "new")
        until(stand.paths, what="a refresh was sent")
        until(lambda: stand.json("/api/status")["in_flight"] == 0)
        if crashed:
            process.kill()
        else:
            process.terminate()
        process.wait(30)
    before = listing(stand.root)
    for path in stand.root.glob("state.db*"):
        path.chmod(0o444)
    stand.root.chmod(0o555)
    try:
        for arguments in READING:
            done = run_bare(stand, *arguments)
            expected = 1 if arguments[0] == "wait" else 0  # no daemon runs
            assert done.returncode == expected, (arguments, done.stdout, done.stderr)
            assert "cannot be opened" not in done.stderr
        assert "state file" in run_bare(stand, "check").stdout  # it is not writable, and says so
    finally:
        stand.root.chmod(0o755)
    assert listing(stand.root) == before


def test_a_state_file_that_may_not_be_read_says_who_may(stand: Stand) -> None:
    """It is the daemon's own: another user gets the remedy."""
    with stand.daemon():
        pass
    stand.state.chmod(0o000)
    done = run_bare(stand, "status")
    assert done.returncode == 1
    assert "let this user read state.db" in done.stderr


def test_a_lock_that_may_not_be_read_does_not_mean_not_running(stand: Stand) -> None:
    """Another user who may read the state file is shown it; whether a daemon runs is unknown, with the reason."""
    with stand.daemon():
        for path in stand.root.glob("state.db*"):
            path.chmod(0o000 if path.suffix == ".lock" else 0o644)
        # Another pytest session of this user closes the common parent of all temporary directories when it starts.
        for folder in (stand.root, *stand.root.parents):
            if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o055)
        as_another = partial(run_bare, stand, "status", "--json", user=65534)
        until(lambda: '"listening"' in as_another().stdout, what="the daemon has saved its state")
        done = as_another()
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["running"] is None
    assert "state.db.lock cannot be read" in reported["running_reason"]
    assert reported["sources"]["www"]["state"] == "listening"
