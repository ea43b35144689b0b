"""What every test shares: how long Hypothesis searches, no setting that leaks in, and a loud word on absent parts."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import shutil
import sqlite3
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from listener import files
from tests.postgres.fixtures import (
    initial_cluster,
    make_cluster,
    make_standby,
    make_wire,
    postgres,
    postgres_database,
    postgres_pool,
)

__all__ = [
    "initial_cluster",
    "make_cluster",
    "make_standby",
    "make_wire",
    "postgres",
    "postgres_database",
    "postgres_pool",
]

settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("soak", settings.get_profile("default"), max_examples=5000, stateful_step_count=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))

LEAKING = ("LISTENER_", "ALIBABA_CLOUD_", "AWS_", "PG")
ABSENT = pytest.StashKey[set[str]]()
WITH_PROCESSES = ("product", "daemon", "cli", "backfill", "egress", "store/postgres")
"""Folders whose tests start programs: half a second each at least."""


class OwnedConnection(sqlite3.Connection):
    """A connection that warns when nobody closed it, as those of Python 3.13 and later do by themselves."""

    _is_closed = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_closed = False
        frame = sys._getframe(1)
        places = [f"{frame.f_code.co_filename}:{frame.f_lineno}"]
        while (frame := frame.f_back) is not None and len(places) < 6:
            places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        self._opened_at = " < ".join(places)

    def close(self) -> None:
        super().close()
        self._is_closed = True

    def __del__(self) -> None:
        if not self._is_closed:
            message = f"unclosed database, opened at {self._opened_at}"
            warnings.warn(message, ResourceWarning, stacklevel=2, source=self)


if sys.version_info < (3, 13):
    sqlite3.connect = functools.partial(sqlite3.connect, factory=OwnedConnection)


@pytest.fixture(autouse=True, scope="module")
def _every_resource_has_an_owner() -> Iterator[None]:
    """Find what nobody closed before the next file of tests is blamed for it; warnings are errors."""
    yield
    gc.collect()
    # A process has one state file, a worker thousands: each file that is compared would be checked against all.
    files.forget_guarded()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings, credentials and proxies of the machine out of every test."""
    for name in list(os.environ):
        is_proxy = name.lower() in ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
        if name.startswith(LEAKING) or is_proxy or name in ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def absent(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """Say that something is not to be had here: the test fails in CI, and is skipped and reported elsewhere."""

    def report(what: str) -> NoReturn:
        request.config.stash.setdefault(ABSENT, set()).add(what)
        outcome = pytest.fail if os.environ.get("CI") else pytest.skip
        outcome(f"{what} is absent; tests/system-packages installs what can be installed")

    return report


@pytest.fixture(scope="session")
def system_command(absent: Callable[[str], NoReturn]) -> Callable[[str], str]:
    """Find a command of the system."""

    def find(name: str) -> str:
        return shutil.which(name) or absent(name)

    return find


def pytest_configure() -> None:
    """Leave no loop to the main thread: looptime needs one, and asyncio would make one that nobody closes."""
    asyncio.set_event_loop(None)


def seconds_of(item: pytest.Item) -> float:
    """Estimate what a test takes, from its marks and its folder."""
    if item.get_closest_marker("slow"):
        return 10.0
    looptime = item.get_closest_marker("looptime")
    is_real = looptime is not None and looptime.args == (False,)
    return 1.0 if is_real or item.nodeid.removeprefix("tests/").startswith(WITH_PROCESSES) else 0.05


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: one that begins last leaves the other workers without work."""
    seconds: Counter[Path] = Counter()
    for item in items:
        seconds[item.path] += seconds_of(item)  # type: ignore[assignment]
    items.sort(key=lambda item: -seconds[item.path])


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over thousands of tests that stay to the end: it runs after each file."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end, in red, what was not tested for want of a command."""
    absent = config.stash.get(ABSENT, set())
    if absent:
        terminalreporter.section("NOT TESTED", red=True, bold=True)
        terminalreporter.line(f"absent: {', '.join(sorted(absent))}; see tests/system-packages", red=True)
