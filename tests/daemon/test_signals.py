"""Signals at any moment: before the daemon can act on them, during its start, during a reload."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from listener.daemon.service import Daemon
from listener.errors import ConfigurationError
from listener.settings import Settings, parse_settings
from tests.stand import KEYS, SECRET, Stand, fetch, free_port, until


def catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Return whether the process has a handler for this signal."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@contextmanager
def starting(stand: Stand) -> Iterator[subprocess.Popen[str]]:
    """Start the daemon; enter the block as soon as it handles SIGHUP, long before it is ready."""
    process = stand.command("run")
    try:
        until(lambda: catches(process, signal.SIGHUP), what="it handles SIGHUP")
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def test_the_handlers_come_before_the_slow_imports() -> None:
    """When `run` installs them, neither the commands nor any package of a third party were imported."""
    code = (
        "import sys; sys.argv[1:] = ['run']; before = set(sys.modules)\n"
        "import listener.cli.early_signals as early\n"
        "names = lambda: {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "early.install = lambda: (print(sorted(names())), 1 / 0)\n"
        "from listener.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ZeroDivisionError" in done.stderr
    imported = json.loads(done.stdout.replace("'", '"'))
    assert set(imported) - set(sys.stdlib_module_names) == {"listener"}
    assert not {"asyncio", "sqlite3", "ssl"} & set(imported)


def test_other_commands_end_by_a_signal_as_programs_do() -> None:
    """Only `run` has handlers: a `wait` in a session that is closed ends."""
    code = (  # under nohup a signal is ignored from the start, and stays so
        "import sys, signal; sys.argv[1:] = ['--version']; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from listener.cli import main\nmain()\n"
        "print(signal.getsignal(signal.SIGHUP) == signal.SIG_DFL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("True\n")


def test_no_signal_during_the_start_ends_it(stand: Stand) -> None:
    """SIGHUP, SIGUSR1 and SIGUSR2 at random moments: it becomes ready all the same, and stays so."""
    chance = random.Random(25)
    with starting(stand) as process:
        ends = time.monotonic() + 60
        while not stand.ready():
            assert time.monotonic() < ends
            process.send_signal(chance.choice([signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]))
            time.sleep(chance.uniform(0.0, 0.1))
            assert process.poll() is None, process.communicate()
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            process.send_signal(number)
        stand.write("a.html")
        until(lambda: stand.url("a.html") in stand.paths())
        assert process.poll() is None


def test_a_reload_during_the_start_is_not_lost(stand: Stand) -> None:
    """Whatever was written before the SIGHUP counts in the end, also when it comes while the old file is in use."""
    port = stand.admin_port
    with starting(stand) as process:
        for moment in range(5):
            stand.admin_port = port if moment == 4 else free_port()
            stand.configure()
            process.send_signal(signal.SIGHUP)
            time.sleep(0.1)
        until(stand.ready, what="it is ready where the last configuration says")


@pytest.mark.looptime(False)
async def test_a_reload_during_a_reload_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGHUP while the file is read, at the start, a good reload, a refused one: each leads to another read."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    settings = parse_settings(
        {
            "store": {"url": f"sqlite:///{tmp_path}/state.db"},
            "admin": {"listen": ""},
            "sources": {"www": {"type": "filesystem", "path": str(tmp_path)}},
            "targets": {"cdn": {"type": "alibaba-cdn", "endpoint": f"http://127.0.0.1:{free_port()}"}},
            "sites": [{"source": "www", "target": "cdn", "base_urls": ["http://www.example.com/"]}],
        },
        {},
    )
    reads: list[str] = []

    def load() -> Settings:
        outcome = ["start", "good", "refused", "last"][min(len(reads), 3)]
        reads.append(outcome)
        if outcome != "last":
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.1)  # the loop serves the signal while this thread still reads
        if outcome == "refused":
            raise ConfigurationError("no TOML")
        return settings

    running = asyncio.create_task(Daemon(load, environ={}).run())
    async with asyncio.timeout(30):
        while reads != ["start", "good", "refused", "last"]:
            assert not running.done(), running.result()
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_during_the_start_is_an_orderly_one(stand: Stand, number: signal.Signals) -> None:
    """At any moment of the start: no trace, and a status that a service manager takes for a clean end."""
    for seconds in (0.0, 0.15, 0.4):
        process = stand.command("run")
        until(lambda process=process: catches(process, signal.SIGTERM), what="it handles signals")
        time.sleep(seconds)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode in ((0,) if number is signal.SIGTERM else (0, 130)), err
        assert "Traceback" not in err


def reloaded(log: Path, process: subprocess.Popen[bytes]) -> list[dict[str, object]]:
    """Reload; return what was logged until that was done."""
    before = len(log.read_text())
    process.send_signal(signal.SIGHUP)
    until(lambda: '"daemon.reloaded"' in log.read_text()[before:], what="it reloads")
    return [json.loads(line) for line in log.read_text()[before:].splitlines()]


def changed(log: Path, process: subprocess.Popen[bytes]) -> object:
    """Reload; return which files that found changed."""
    (event,) = [one for one in reloaded(log, process) if one["event"] == "daemon.reloaded"]
    return event["changed"]


@contextmanager
def logging_daemon(
    stand: Stand, *, config: Path, secret: Path, mount: str = ""
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run the daemon, ready, with its log in a file and its key in another, perhaps with a mount of its own."""
    log = stand.root / "log"
    environment = {**os.environ, "ALIBABA_CLOUD_ACCESS_KEY_ID": "testid"}
    environment["ALIBABA_CLOUD_ACCESS_KEY_SECRET_FILE"] = str(secret)
    script = f"{mount or 'true'} && exec {sys.executable} -m listener run --config {config}"
    command = [*(("unshare", "--mount") if mount else ()), "sh", "-c", script]
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: stand.ready() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield process, log
    finally:
        process.terminate()
        process.wait(60)


def test_a_reload_says_which_files_changed(stand: Stand) -> None:
    """None; the configuration; a key that was rotated: its path, never what is in it."""
    secret = stand.root / "secret"
    secret.write_text(SECRET)
    with logging_daemon(stand, config=stand.config, secret=secret) as (process, log):
        assert changed(log, process) == "nothing: every file is unchanged"
        stand.put(stand.config.read_text() + "\n# a comment\n")
        assert changed(log, process) == [str(stand.config)]
        secret.write_text("another-secret")
        assert changed(log, process) == [str(secret)]
        assert "another-secret" not in log.read_text()
        assert fetch(f"{stand.admin}/livez")[0] == 200


@pytest.mark.parametrize("kind", ["configuration", "key"])
def test_a_reload_says_that_a_mount_pins_a_file(
    stand: Stand, kind: str, system_command: Callable[[str], str], absent: Callable[[str], NoReturn]
) -> None:
    """A single file that is mounted and replaced where it comes from: the reload cannot see it, and reports that."""
    system_command("unshare")
    if os.geteuid():
        absent("root, to mount a file")
    seen, secret = stand.root / "seen", stand.root / "secret"
    seen.touch()
    secret.write_text(SECRET)
    real, config = (stand.config, seen) if kind == "configuration" else (secret, stand.config)
    key = secret if kind == "configuration" else seen
    with logging_daemon(stand, config=config, secret=key, mount=f"mount --bind {real} {seen}") as (process, log):
        assert not [one for one in reloaded(log, process) if one["event"] == "daemon.file_pinned"]
        (stand.root / "new").write_text(real.read_text() + "\n")
        (stand.root / "new").replace(real)
        (event,) = [one for one in reloaded(log, process) if one["event"] == "daemon.file_pinned"]
        assert event["path"] == str(seen)
        assert "mount its directory" in str(event["hint"])
