"""What every test shares: how long Hypothesis searches, no setting that leaks in, and a loud word on absent parts."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from typing import NoReturn

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.register_profile("soak", settings.get_profile("default"), max_examples=5000, stateful_step_count=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))

LEAKING = ("LISTENER_", "ALIBABA_CLOUD_", "AWS_")
ABSENT = pytest.StashKey[set[str]]()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep settings, credentials and proxies of the machine out of every test."""
    for name in list(os.environ):
        is_proxy = name.lower() in ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
        if name.startswith(LEAKING) or is_proxy or name in ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def absent(request: pytest.FixtureRequest) -> Callable[[str], NoReturn]:
    """Say that something is not to be had here: the test fails in CI, and is skipped and told elsewhere."""

    def tell(what: str) -> NoReturn:
        request.config.stash.setdefault(ABSENT, set()).add(what)
        outcome = pytest.fail if os.environ.get("CI") else pytest.skip
        outcome(f"{what} is absent; tests/system-packages installs what can be installed")

    return tell


@pytest.fixture(scope="session")
def system_command(absent: Callable[[str], NoReturn]) -> Callable[[str], str]:
    """Find a command of the system."""

    def find(name: str) -> str:
        return shutil.which(name) or absent(name)

    return find


def pytest_configure() -> None:
    """Leave no loop to the main thread: looptime asks for one, and asyncio would make one that nobody closes."""
    asyncio.set_event_loop(None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say at the end, in red, what was not tested for want of a command."""
    absent = config.stash.get(ABSENT, set())
    if absent:
        terminalreporter.section("NOT TESTED", red=True, bold=True)
        terminalreporter.line(f"absent: {', '.join(sorted(absent))}; see tests/system-packages", red=True)
