"""A reload closes the store: a database that is away when it is opened again is waited for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from listener.daemon import service
from listener.errors import StoreError, StoreUnusable
from listener.telemetry.outages import Outage

POSTGRES = "postgresql://listener@db.example.com/listener"


def daemon(phase: str) -> Any:
    """Return a daemon in this phase."""
    made = service.Daemon.__new__(service.Daemon)
    made._state = SimpleNamespace(phase=phase, store_error=None)  # type: ignore[assignment]
    made._outage = Outage()
    return made


def opens_after(monkeypatch: pytest.MonkeyPatch, errors: list[Exception]) -> None:
    """Let the store open once these errors were raised."""

    async def reopen(_: object) -> str:
        if errors:
            raise errors.pop(0)
        return "the store"

    monkeypatch.setattr(service, "reopen", reopen)


def parts(url: str) -> Any:
    """Return the parts of a daemon with this store."""
    return SimpleNamespace(settings=SimpleNamespace(store=SimpleNamespace(url=url)))


async def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon goes on with the store that it had."""
    opens_after(monkeypatch, [StoreError("away"), StoreError("still away")])
    assert await daemon("running")._reopened(parts(POSTGRES)) == "the store"


@pytest.mark.parametrize(
    ("phase", "url", "error"),
    [
        ("stopping", POSTGRES, StoreError("away")),
        ("running", POSTGRES, StoreUnusable("of a newer version")),
        ("running", "sqlite:///state.db", StoreError("the disk is full")),
    ],
    ids=["the daemon stops", "the store cannot be used", "a state file"],
)
async def test_nothing_else_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, phase: str, url: str, error: StoreError
) -> None:
    """The error ends the daemon, as at its start."""
    opens_after(monkeypatch, [error])
    with pytest.raises(type(error)):
        await daemon(phase)._reopened(parts(url))
