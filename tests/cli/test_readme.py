"""The README's recipes that need no root: a rehearsal with one's own files, and a backfill."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.readme import block, replaced
from tests.stand import KEYS, Stand, fetch, free_port, until

pytestmark = pytest.mark.slow
PROGRAM = Path(sys.executable).parent


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a user who has the program on the path."""
    return {**os.environ, "PATH": f"{PROGRAM}:{os.environ['PATH']}", **more}


def test_a_rehearsal_with_own_files(tmp_path: Path) -> None:
    """Three commands; then a file changes, and the edge serves it."""
    site, api, edge, admin = tmp_path / "site", free_port(), free_port(), free_port()
    site.mkdir()
    (site / "a.html").write_text("old")
    (tmp_path / "work").mkdir()
    emulate, init, run = block("Install", "cdn-listener emulate")
    places = {"8701": str(edge), "8700": str(api), "/srv/www": str(site)}
    emulate = replaced(emulate, {"/srv/www": str(site), " &": ""})
    page = f"http://127.0.0.1:{edge}/a.html"
    variables = environment(LISTENER_ADMIN__LISTEN=f"127.0.0.1:{admin}")
    for name in (*KEYS, "LISTENER_CONFIG"):
        variables.pop(name, None)
    own = [*shlex.split(emulate), "--api", f"127.0.0.1:{api}", "--edge", f"127.0.0.1:{edge}"]
    processes = [subprocess.Popen(own, cwd=tmp_path / "work", env=variables)]
    try:
        until(lambda: fetch(page) == (200, "old"))
        subprocess.run(
            shlex.split(replaced(init, places)), cwd=tmp_path / "work", env=variables, check=True, timeout=60
        )
        processes.append(subprocess.Popen(shlex.split(run), cwd=tmp_path / "work", env=variables))
        until(lambda: fetch(f"http://127.0.0.1:{admin}/readyz")[0] == 200)
        (site / "a.html").write_text("new")
        until(lambda: fetch(page) == (200, "new"))
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait(60)


def test_a_backfill(stand: Stand) -> None:
    """What it would cost, the whole of it, and what a list names: each with the configuration of the page."""
    section = "Backfill: refresh what is already stale"
    (configuration,) = re.findall(r"```toml\n(# listener.toml\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    places = {"https://www.example.com": stand.edge, "/srv/www": str(stand.tree)}
    text = replaced(configuration, places)
    folder = stand.root / "backfill"
    folder.mkdir()
    target = f'type = "alibaba-cdn"\nendpoint = "{stand.emulator.api_url}"'
    (folder / "listener.toml").write_text(replaced(text, {'type = "alibaba-cdn"': target}))
    for number in range(3):
        stand.write(f"{number}.html")
    (folder / "last-deploy").touch()
    os.utime(folder / "last-deploy", (0, 0))
    variables = environment(**KEYS)
    variables.pop("LISTENER_CONFIG", None)
    dry, whole, listed = block(section, "cdn-listener backfill --dry-run")

    def run(line: str) -> str:
        done = subprocess.run(
            ["sh", "-c", line], cwd=folder, env=variables, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "3 keys" in run(dry)
    assert stand.paths() == []
    run(whole)
    sent = stand.paths()
    assert sent
    run(replaced(listed, {"/srv/www": str(stand.tree)}))
    assert len(stand.paths()) > len(sent)
