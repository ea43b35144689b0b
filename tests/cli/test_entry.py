"""What ends a command: an exit status, and one clear message without a traceback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import typer

from listener.cli import app
from listener.cli.common import log_at, run_async
from listener.errors import ConfigurationError, Misconfigured, StoreBusy
from tests.stand import Stand

Command = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ConfigurationError("x.y: is wrong", hint="mend it"), 2, "error: x.y: is wrong\nhint: mend it\n"),
        (StoreBusy("taken"), 1, "error: taken\n"),
        (
            BaseExceptionGroup("g", [BaseExceptionGroup("h", [Misconfigured("key", hint="k")])]),
            1,
            "error: key\nhint: k\n",
        ),
        (BaseExceptionGroup("g", [ValueError("v"), ConfigurationError("c")]), 2, "error: c\n"),
        (BaseExceptionGroup("g", [KeyboardInterrupt()]), 130, "interrupted\n"),
        (typer.Abort(), 130, "interrupted\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (SystemExit(7), 7, ""),
        (PermissionError(13, "Permission denied", "/x"), 1, "Permission denied: '/x'"),
        (RuntimeError("boom"), 1, "unexpected RuntimeError: boom"),
        (RuntimeError("postgresql://u:hunter2@db"), 1, "postgresql://***@db"),
    ],
)
def test_every_end_has_a_status_and_a_message(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    """Groups of tasks are unwrapped, expected errors go before others, secrets are masked."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(app, "app", fail)
    reported = command("anything")
    assert reported[0] == status
    assert words in reported[2]


STUCK = """
import asyncio, sys, threading
from listener import cli
from listener.cli import app, process
from listener.cli.common import log_at, run_async
from listener.errors import ConfigurationError

process.EXIT_SECONDS = 0.1

async def work():
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    raise ConfigurationError("it is wrong")

def command(**_):
    log_at("info")
    run_async(work())

app.app = command
sys.exit(cli.main())
"""


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    """As one that reads from a server that never ends its answer: the message and the status come all the same."""
    ended = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 2
    assert "error: it is wrong" in ended.stderr
    assert "process.leaves_threads" in ended.stderr


QUIET = (
    ("--version", 0),
    ("--help", 0),
    ("status", 0),
    ("status --json", 0),
    ("tasks", 0),
    ("dead-letters --json", 0),
    ("plan --changes keys", 0),
    ("config schema", 0),
    ("plugins", 0),
    ("wait --timeout 0s --grace 0s", 1),
    ("nonsense", 2),
)


@pytest.mark.parametrize("closed", ["reader of stdout", "readers of both", "stdout", "all"])
def test_output_that_nobody_reads_changes_nothing(stand: Stand, closed: str) -> None:
    """Each command ends quietly and with its own status, whoever left or was never there; no file takes the place."""
    (stand.root / "keys").write_text("".join(f"{n}.html\n" for n in range(2_000)))
    for command, status in QUIET:
        read, write = os.pipe()
        os.close(read)
        redirect = {"stdout": " >&-", "all": " <&- >&- 2>&-"}.get(closed, "")
        done = subprocess.run(
            f"exec {sys.executable} -m listener {command}{redirect}",
            shell=True,
            cwd=stand.root,
            stdin=subprocess.DEVNULL,
            stdout=write,
            stderr=write if closed == "readers of both" else subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
        os.close(write)
        assert done.returncode == status, (command, done.stderr)
        if done.stderr:
            assert status, (command, done.stderr)
            assert "Traceback" not in done.stderr
            assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    "name",
    [
        "init",
        "run",
        "backfill",
        "plan",
        "refresh",
        "prefetch",
        "status",
        "quota",
        "tasks",
        "dead-letters",
        "check",
        "plugins",
        "emulate",
        "demo",
        "config show",
        "config schema",
    ],
)
def test_every_command_has_help(command: Command, name: str) -> None:
    """Each reports what it does and takes --help; those that read a configuration take --config FILE."""
    status, out, _ = command(*name.split(), "--help")
    assert status == 0
    assert "Usage: cdn-listener" in out
    if name not in ("plugins", "emulate", "demo", "config schema"):
        assert "--config FILE" in out


def test_top_level_help_and_version(command: Command) -> None:
    """Both answer; help lists every fault of the emulator where it belongs."""
    assert "backfill" in command("--help")[1]
    assert command("--version")[1].startswith("cdn-listener ")
    assert "accept-then-timeout[:COUNT]" in command("emulate", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--origin", "/nowhere"], "nowhere"),
        (["--origin", ".", "--quota", "many"], "quota"),
        (["--origin", ".", "--fault", "trottle"], "throttle"),
        (["--origin", ".", "--api", "8700"], "HOST:PORT"),
        (["--origin", ".", "--cdn", "cloudflare", "--zone", "a b"], "NAME[=ID]"),
        (["--origin", ".", "--cdn", "alibaba-esa", "--domain", "h"], "--domain cannot be used with --cdn alibaba-esa"),
        (["--origin", ".", "--quota-30-days", "1,1"], "--quota-30-days cannot be used with --cdn alibaba-cdn"),
        (["--origin", ".", "--cdn", "alibaba-esa", "--site", "a b"], "The site 'a b' cannot be read"),
        (["--origin", ".", "--cdn", "cloudflare", "--quota", "1,1"], "--quota cannot be used with --cdn cloudflare"),
        (["--origin", ".", "--cdn", "cloudflare", "--fault", "quota"], "plan-lacks"),
        (["--origin", ".", "--cdn", "cloudfront", "--distribution", "a"], "ID[=HOST"),
        (["--origin", ".", "--cdn", "cloudfront", "--zone", "a"], "--zone cannot be used with --cdn cloudfront"),
        (["--origin", ".", "--plan", "pro"], "--plan cannot be used with --cdn alibaba-cdn"),
    ],
)
def test_the_emulator_says_what_it_cannot_read(
    command: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    """Exit status 2 and the right form."""
    alibaba = ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET")
    aws = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    for name in (*alibaba, *aws, "CLOUDFLARE_API_TOKEN"):
        monkeypatch.setenv(name, "k")
    status, _, err = command("emulate", *arguments)
    assert (status, words in err) == (2, True), err


def test_an_unreadable_configuration(tmp_path: Path, command: Command) -> None:
    """A file without the right to read it is named, as is one that is a directory."""
    status, _, err = command("status", "--config", str(tmp_path))
    assert (status, str(tmp_path) in err) == (2, True)
    secret = tmp_path / "listener.toml"
    secret.write_text("")
    secret.chmod(0)
    if os.geteuid():
        assert command("status", "--config", str(secret))[0] == 2


def test_a_traceback_shows_no_secret(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """``LISTENER_DEBUG`` prints where a defect is, masked and without commands to the terminal."""

    def fail(**_: object) -> None:
        raise RuntimeError("postgresql://u:hunter2@db \x1b[2J")

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setenv("LISTENER_DEBUG", "1")
    app.main(["anything"])
    reported = capsys.readouterr().err
    assert "in fail" in reported
    assert "hunter2" not in reported
    assert "\x1b" not in reported


def test_a_command_reports_what_was_suppressed(capsys: pytest.CaptureFixture[str]) -> None:
    """At its end, however long the interval still is."""

    async def repeat() -> None:
        for _ in range(20):
            structlog.get_logger().warning("source.lost", key="a")

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_at("warning")
        run_async(repeat())
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()
    assert '"log.repeated"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["tasks", "--limit", "0"], "hint: see cdn-listener tasks --help\n"),
        (["store", "backup"], "hint: see cdn-listener store backup --help\n"),
        (["stat"], "hint: see cdn-listener --help\n"),
    ],
)
def test_wrong_usage_names_the_help_of_its_command(command: Command, arguments: list[str], hint: str) -> None:
    """Exit status 2, and the page that describes the command."""
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith(hint)


@pytest.mark.parametrize("arguments", [[], ["store"]])
def test_without_a_command_the_help_is_printed_as_it_is(command: Command, arguments: list[str]) -> None:
    """Neither marked as an error nor followed by a hint."""
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("Usage: cdn-listener")
    assert "hint:" not in err
