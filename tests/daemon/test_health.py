"""What ``/livez`` depends on: a loop that runs and a store that commits."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from listener.daemon.state import LoopMonitor, WriterMonitor
from listener.store import Store, open_store
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)


async def test_a_writer_that_hangs_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locked out of its file for long the store is stuck; let in again it is well; without a store nothing is wrong."""
    monkeypatch.setattr("listener.daemon.state.WRITER_SECONDS", 0.05)
    monkeypatch.setattr("listener.daemon.state.STUCK_SECONDS", 0.5)
    present: list[Store] = []
    writer_monitor = WriterMonitor()
    beating = asyncio.create_task(writer_monitor.run(lambda: present[0] if present else None))
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        present.append(store)
        await until(lambda: writer_monitor.ok is True)
        blocker = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        await until(lambda: writer_monitor.ok is False)
        for _ in range(50):  # and stays so, whatever is asked meanwhile
            await asyncio.sleep(0.02)
            assert not writer_monitor.ok
        blocker.execute("ROLLBACK")
        blocker.close()
        await until(lambda: writer_monitor.ok is True)
        present.clear()
    await until(lambda: writer_monitor.ok is True)
    beating.cancel()


async def test_a_loop_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever blocks the loop makes the monitor report it, and it recovers."""
    monkeypatch.setattr("listener.daemon.state.LOOP_SECONDS", 0.05)
    monkeypatch.setattr("listener.daemon.state.LATE_SECONDS", 0.3)
    loop_monitor = LoopMonitor()
    beating = asyncio.create_task(loop_monitor.run())
    await asyncio.sleep(0.1)
    time.sleep(0.6)
    assert not loop_monitor.ok
    async with asyncio.timeout(20):
        while not loop_monitor.ok:
            await asyncio.sleep(0.02)
    beating.cancel()
