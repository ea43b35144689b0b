"""What ``/livez`` rests on: a loop that turns and a store that commits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from listener.daemon import health
from listener.daemon.health import Heart, Pulse
from listener.store import Store, open_store

pytestmark = pytest.mark.looptime(False)


async def until_it_is(what: bool, pulse: Pulse) -> None:
    """Wait until the pulse is well, or is not."""
    async with asyncio.timeout(20):
        while pulse.ok is not what:
            await asyncio.sleep(0.02)


async def test_a_writer_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked out of its file for long the store is stuck; let in again it is well; without a store nothing is wrong."""
    monkeypatch.setattr(health, "PULSE_SECONDS", 0.05)
    monkeypatch.setattr(health, "STUCK_SECONDS", 0.5)
    present: list[Store] = []
    pulse = Pulse()
    beating = asyncio.create_task(pulse.beat(lambda: present[0] if present else None))
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        present.append(store)
        await until_it_is(True, pulse)
        blocker = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        await until_it_is(False, pulse)
        for _ in range(50):  # and stays so, whatever is asked meanwhile
            await asyncio.sleep(0.02)
            assert not pulse.ok
        blocker.execute("ROLLBACK")
        blocker.close()
        await until_it_is(True, pulse)
        present.clear()
    await until_it_is(True, pulse)
    beating.cancel()


async def test_a_loop_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever blocks the loop makes the heart late, and it recovers."""
    monkeypatch.setattr(health, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(health, "LATE_SECONDS", 0.3)
    heart = Heart()
    beating = asyncio.create_task(heart.beat())
    await asyncio.sleep(0.1)
    time.sleep(0.6)
    assert not heart.ok
    async with asyncio.timeout(20):
        while not heart.ok:
            await asyncio.sleep(0.02)
    beating.cancel()
