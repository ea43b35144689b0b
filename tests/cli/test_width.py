"""What commands print on a terminal of 80 columns."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
import structlog

from listener.cli import backfill_output
from listener.cli.table import text_width
from listener.telemetry import configure_logging, progress_logger
from tests.stand import KEYS, Stand

KEY = "a-folder-with-a-long-name/another-folder-with-a-long-name/a-page-with-a-long-name-{}.html"


def on_a_terminal(stand: Stand, *arguments: str) -> list[str]:
    """Run a command whose stdout is a terminal of 80 columns; return its lines."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, **KEYS, "LISTENER_CONFIG": str(stand.config), "COLUMNS": "80"}
    command = [sys.executable, "-m", "listener", *arguments]
    process = subprocess.Popen(command, cwd=stand.root, env=environment, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:
        pass  # the terminal is closed at the end of the command
    os.close(ours)
    process.wait(60)
    return b"".join(parts).decode().replace("\r", "").splitlines()


@pytest.fixture
def sent(stand: Stand) -> Stand:
    """A stand at which some requests were sent."""
    stand.configure()
    for number in range(3):
        stand.write(KEY.format(number))
        assert stand.run("refresh", stand.url(KEY.format(number)))[0] == 0
    return stand


def test_tasks_are_one_a_line(sent: Stand) -> None:
    """Each request is a line of at most 80 columns in which the end of its URL can be read; --wide shows it whole."""
    lines = on_a_terminal(sent, "tasks")
    assert len(lines) == 4
    assert max(map(text_width, lines)) <= 80
    assert any("…" in line for line in lines)
    wide = on_a_terminal(sent, "tasks", "--wide")
    assert len(wide) == 4
    assert all(any(sent.url(KEY.format(number)) in line for line in wide) for number in range(3))


@pytest.mark.parametrize("command", ["quota", "check", "plugins", "dead-letters"])
def test_lines_fit(sent: Stand, command: str) -> None:
    """What can be broken at a blank is."""
    for line in on_a_terminal(sent, command):
        assert text_width(line) <= 80 or " " not in line.strip(), line


async def test_progress_is_a_line_each_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """At level info, also in a command whose other events of that level are not shown."""
    import asyncio
    from types import SimpleNamespace

    shown = []

    def note(*_: object, **__: object) -> None:
        shown.append(asyncio.get_running_loop().time())

    monkeypatch.setattr("listener.telemetry.progress_logger", lambda: SimpleNamespace(info=note))

    async def look(now: float) -> SimpleNamespace:
        return SimpleNamespace(as_json=dict)

    began = asyncio.get_running_loop().time()
    task = asyncio.create_task(backfill_output.follow(SimpleNamespace(look=look), live=False))  # type: ignore[arg-type]
    await asyncio.sleep(65)
    task.cancel()
    assert [round(at - began) for at in shown] == [2, 32, 62]


def test_the_level_of_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown where warnings are the default, and hidden where they are set."""
    monkeypatch.delenv("LISTENER_LOG_LEVEL", raising=False)
    configure_logging(level="warning")
    progress_logger({}).info("backfill.progress", done=1)
    structlog.get_logger().info("backfill.other")
    progress_logger({"LISTENER_LOG_LEVEL": "warning"}).info("backfill.hidden")
    err = capsys.readouterr().err
    assert '"level": "info"' in err
    assert ("backfill.progress" in err, "backfill.other" in err, "backfill.hidden" in err) == (True, False, False)
