"""Overflow, watch limits and unreadable places, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from tests import ROOT
from tests.sources.harness import fanotify_needed

RUNNER = ["-m", "tests.sources.filesystem.runner"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


class Running:
    """A source that runs elsewhere, seen through the files that it writes."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path) -> None:
        """Follow the process that writes ``out``."""
        self.process, self.out = process, out
        self._read_bytes = 0
        self._lines: list[str] = []

    @property
    def health(self) -> dict[str, Any]:
        """What the source said of itself last."""
        with suppress(FileNotFoundError):
            found: dict[str, Any] = json.loads(Path(f"{self.out}.health").read_text())
            return found
        return {"ready": False, "detail": "", "state": ""}

    def lines(self) -> list[str]:
        """Return the whole lines that the source has written so far: kind, whether finished, key."""
        with self.out.open("rb") as file:
            file.seek(self._read_bytes)
            new, newline, _ = file.read().rpartition(b"\n")
        self._read_bytes += len(new + newline)
        self._lines += new.decode().splitlines()
        return self._lines

    def keys(self, kind: str = "content", since: int = 0) -> set[str]:
        """Return the keys reported as finished, in all lines or those after the first ``since``."""
        start = f"{kind} 1 "
        return {line.removeprefix(start)[1:-1] for line in self.lines()[since:] if line.startswith(start)}

    def until(self, condition: Callable[[], object], what: str, seconds: float = 90) -> None:
        """Wait for the condition."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            assert time.monotonic() < end, f"not within {seconds} s: {what}; {self.health}"
            time.sleep(0.05)


@contextmanager
def running(path: Path, out: Path, *command: str, **settings: object) -> Iterator[Running]:
    """Run a source, behind ``command`` where one is given."""
    values = [f"{name}={json.dumps(value)}" for name, value in {"stable_seconds": 0.3, **settings}.items()]
    arguments = [*command, sys.executable, *RUNNER, str(path), str(out), *values]
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        yield Running(process, out)
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait()


def make_directories(root: Path, number: int) -> list[Path]:
    """Make so many directories, a hundred to each parent."""
    found = []
    for each in range(number):
        path = root / f"d{each // 100}" / f"s{each}"
        path.mkdir(parents=True)
        found.append(path)
    return found


@pytest.mark.parametrize(
    ("number", "backend"),
    [(500, "inotify"), (500, "fanotify"), pytest.param(30_000, "inotify", marks=pytest.mark.slow)],
)
def test_an_overflow_loses_nothing_and_ends(
    tmp_path: Path, number: int, backend: str, request: pytest.FixtureRequest
) -> None:
    """The watcher stops while the queue overflows: afterwards every change is reported, without a loop of scans."""
    if backend == "fanotify":
        fanotify_needed(request, tmp_path)
    root = tmp_path / "www"
    directories = make_directories(root, number)
    with running(root, tmp_path / "out", backend=backend) as source:
        source.until(lambda: source.health["ready"], "ready")
        source.process.send_signal(signal.SIGSTOP)
        expected = set()
        for each in range(25_000):
            path = directories[each % min(number, 1000)] / f"f{each}"
            path.write_text("x")
            expected.add(str(path.relative_to(root)))
        for each in range(50):
            path = root / "new" / f"n{each}" / "deep"
            path.mkdir(parents=True)
            (path / "f").write_text("x")
            expected.add(str((path / "f").relative_to(root)))
        source.process.send_signal(signal.SIGCONT)
        source.until(lambda: expected <= source.keys(), "every change is told", 100)
        source.until(lambda: source.health["rescans"] >= 1, "a scan made up for it")
        assert source.health["figures"]["overflows"] >= 1
        assert source.health["lost_events"] >= 1
        rescans = source.health["rescans"]
        assert rescans <= 2
        probes = {str((path / "probe").relative_to(root)) for path in [*directories[-50:], root / "new/n7/deep"]}
        for probe in probes:
            (root / probe).write_text("x")
        source.until(lambda: probes <= source.keys(), "the watches still stand", 10)
        time.sleep(2)
        assert source.health["rescans"] == rescans


def test_too_few_watches_are_reported_and_made_up_for_by_scans(tmp_path: Path) -> None:
    """200 watches for 501 directories: degraded, with the line that mends it; scans find what is not watched."""
    root = tmp_path / "www"
    directories = make_directories(root, 500)
    limit = ("unshare", "-Ur", "sh", "-c", 'echo 200 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh")
    with running(root, tmp_path / "out", *limit, poll_interval_seconds=0.5) as source:
        source.until(lambda: source.health["ready"], "ready")
        source.until(lambda: source.health["state"] == "degraded", "degraded")
        assert "sysctl -w fs.inotify.max_user_watches=" in source.health["detail"]
        figures = source.health["figures"]
        assert figures["unwatched_directories"] == 506 - figures["watched_directories"]
        assert figures["watched_directories"] > 200 - 20  # the way to the root takes some
        expected = set()
        for path in directories:
            (path / "f").write_text("x")
            expected.add(str((path / "f").relative_to(root)))
        source.until(lambda: expected <= source.keys(), "every change is told")


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return a directory that every user may enter: what pytest gives, any other run of it on the machine closes."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.parametrize("backend", ["inotify", "polling"])
def test_an_unreadable_directory_is_reported(open_path: Path, backend: str) -> None:
    """What cannot be read is named; the rest is listened to; nothing below is taken for deleted."""
    root = open_path / "www"
    (root / "closed").mkdir(parents=True)
    (root / "open").mkdir()
    (root / "closed" / "f").write_text("x")
    (root / "closed").chmod(0)
    (open_path / "o").mkdir()
    (open_path / "o").chmod(0o777)
    settings = {"backend": backend, "poll_interval_seconds": 0.5}
    with running(root, open_path / "o" / "out", *as_nobody(), **settings) as source:
        source.until(lambda: source.health["ready"], "ready")
        source.until(lambda: source.health["state"] == "degraded", "degraded")
        assert "'closed/'" in source.health["detail"]
        assert "Permission denied" in source.health["detail"]
        (root / "open" / "g").write_text("x")
        source.until(lambda: source.keys() >= {"open/g"}, "the rest is heard")
        assert source.keys("deleted") == set()


def test_an_unreadable_root_is_waited_for(open_path: Path) -> None:
    """Degraded with what is wrong and what to do; once it can be read it is listened to."""
    root = open_path / "www"
    root.mkdir()
    root.chmod(0)
    (open_path / "o").mkdir()
    (open_path / "o").chmod(0o777)
    with running(root, open_path / "o" / "out", *as_nobody(), root_check_seconds=0.1) as source:
        source.until(lambda: source.health["state"] == "degraded", "degraded")
        assert "cannot be read" in source.health["detail"]
        assert "let user" in source.health["detail"]
        root.chmod(0o755)
        source.until(lambda: source.health["ready"], "ready")


INSTANCES = """
import asyncio, resource, sys
from listener.sources.filesystem import FilesystemSettings, FilesystemSource
from listener.kernel import Inotify
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
held = []
try:
    while sys.argv[2] == "all":
        held.append(Inotify())
except OSError:
    pass
for check in asyncio.run(FilesystemSource("www", FilesystemSettings(path=sys.argv[1])).check()):
    if "instance" in check.message:
        print(check.state, check.message, check.hint)
"""


@pytest.mark.parametrize("taken", ["all", "none"])
def test_check_finds_that_no_inotify_instance_is_left(
    open_path: Path, taken: str, absent: Callable[[str], NoReturn]
) -> None:
    """For a user whose programs took all of them: failed, with the limit and the line that raises it."""
    (open_path / "www").mkdir()
    if os.geteuid():
        absent("root, to be a user whose programs can be counted")
    command = ["setpriv", "--reuid=65532", "--regid=65532", "--clear-groups", sys.executable, "-c", INSTANCES]
    done = subprocess.run(
        [*command, open_path / "www", taken], env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("failed no inotify instance can be opened" if taken == "all" else "")
    assert ("max_user_instances is" in done.stdout, "sysctl -w" in done.stdout) == ((taken == "all",) * 2)


def as_nobody() -> tuple[str, ...]:
    """Return the command that gives up root's rights; nothing where there are none."""
    return () if os.geteuid() else ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def failing(path: Path, *command: str, **settings: object) -> str:
    """Run a source that must end by itself; return what it says on the way."""
    values = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    done = subprocess.run(
        [*command, sys.executable, *RUNNER, str(path), "/dev/null", *values],
        env=ENVIRONMENT, cwd="/", capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode != 0
    return done.stderr


async def test_check_names_limits_backend_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit too low for the tree fails the check, with the sysctl line as the hint."""
    make_directories(tmp_path / "www", 50)
    limits = {"max_user_watches": 20, "max_queued_events": 100}
    monkeypatch.setattr("listener.sources.filesystem.checks.limit", limits.get)
    checks = await FilesystemSource("www", FilesystemSettings(path=tmp_path / "www")).check()
    failed = [check for check in checks if check.state == "failed"]
    assert [check.hint for check in failed] == ["sysctl -w fs.inotify.max_user_watches=104"]
    assert any("backend inotify" in check.message for check in checks)
    assert any(check.hint == "sysctl -w fs.inotify.max_queued_events=1048576" for check in checks)
