"""The leader is woken by what another instance records; a notification that is lost costs no more than a look."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from listener.pipeline import lookout
from listener.store.postgres.notifications import Notifications
from tests.pipeline.test_fleet import Instance, a_fleet, until

pytestmark = pytest.mark.looptime(False)


async def at_rest(fleet: Sequence[Instance]) -> None:
    """Wait until nobody has committed anything, or was notified of a commit, for a second."""
    counts: list[int] = []
    while counts != (counts := [one.pipeline.lookout.stored.count for one in fleet]):
        await asyncio.sleep(1.0)


async def test_what_another_instance_records_is_announced(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks by itself for minutes."""
    monkeypatch.setattr(lookout, "LOOK_SECONDS", 600.0)
    async with a_fleet(tmp_path, postgres_database, postgres_database) as fleet:
        for instance in fleet:
            listening = instance.store._driver._notifications  # type: ignore[attr-defined]
            await until(lambda those=listening: [one.is_listening.is_set() for one in those] == [True])
        await at_rest(fleet)
        fleet[1].source.deliver(fleet[1].write("a.html", "new"))
        await until(lambda: fleet[1].accepted.get("file") == 1, seconds=6.0)


async def test_where_no_notification_arrives_it_is_found_by_looking(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a pool, or after one was lost."""
    monkeypatch.setattr(Notifications, "announce", lambda _: None)
    monkeypatch.setattr(lookout, "TICK_SECONDS", 600.0)
    async with a_fleet(tmp_path, postgres_database, postgres_database) as fleet:
        await at_rest(fleet)
        fleet[1].source.deliver(fleet[1].write("a.html", "new"))
        await until(lambda: fleet[1].accepted.get("file") == 1, seconds=6.0)
