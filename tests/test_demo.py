"""The demo needs nothing, ends by itself, and reports a step that proves nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from listener import demo
from listener.errors import ListenerError

LINE = re.compile(r"fresh  (changed|created|deleted|renamed)  (\S+)  (\d+\.\d\d) s")


@pytest.mark.parametrize(
    ("options", "spent"),
    [
        ([], "6 calls  6 files  0 directories"),
        (["--cdn", "alibaba-dcdn"], "6 calls  6 files  0 directories"),
        (["--cdn", "alibaba-esa"], "6 calls  6 files  0 directories"),
        (["--cdn", "cloudflare"], "6 calls  6 files  0 prefixes"),
        (["--cdn", "cloudfront"], "6 calls  6 paths"),
    ],
)
def test_the_real_command(tmp_path: Path, options: list[str], spent: str) -> None:
    """In an empty directory, without configuration or keys: five lines, exit status 0, well under 30 seconds."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "listener", "demo", *options],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 30
    *lines, last = done.stdout.splitlines()
    found = [LINE.fullmatch(line) for line in lines]
    assert [(one[1], one[2]) for one in found if one] == [
        ("changed", "a.html"),
        ("created", "new.html"),
        ("deleted", "b.html"),
        ("renamed", "d.html"),
        ("changed", "日本.jpg"),
    ]
    assert last == f"spent  {spent}"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.looptime(False)
async def test_a_point_of_presence_is_mended() -> None:
    """It ignores one refresh; a probe finds it, and it is refreshed once more."""
    lines: list[str] = []
    assert await demo.run_demo(lines.append, has_probes=True)
    assert "stale  a.html at pop2, which ignored the refresh" in lines
    assert any(line.startswith("fresh  mended   a.html at pop2") for line in lines)


async def test_an_edge_that_stays_stale_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is refreshed, no step counts as fresh."""
    monkeypatch.setattr(demo, "FRESH_SECONDS", 1.2)
    monkeypatch.setattr("listener.pipeline.intake.Intake._record", forget)
    lines: list[str] = []
    assert not await demo.run_demo(lines.append)
    assert [line.split("  ")[0] for line in lines[:5]] == ["stale"] * 5


async def test_a_start_that_takes_too_long_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is too busy to start within the bound ends the demo with a plain error, not with a defect."""
    monkeypatch.setattr(demo, "START_SECONDS", 0.0)
    monkeypatch.setattr(demo, "FRESH_SECONDS", 0.0)
    with pytest.raises(ExceptionGroup) as raised:
        await demo.run_demo(print)
    assert raised.group_contains(ListenerError, match="the listener was not ready within 0 s")


async def forget(self: object, taken: object) -> None:
    """Lose everything."""


async def test_an_edge_that_is_fresh_by_itself_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the edge does not cache, the demo fails: a fresh edge does not show that the listener refreshed it."""
    settings = demo.EmulatorSettings
    monkeypatch.setattr(demo, "EmulatorSettings", lambda **given: settings(**given, ttl_seconds=0.0))
    lines: list[str] = []
    assert not await demo.run_demo(lines.append)
    assert lines[0].startswith("stale  changed  a.html")
