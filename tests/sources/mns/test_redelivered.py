"""A message that is delivered again to the next daemon, its changes being recorded, makes no second refresh."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import aiohttp
import pytest

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings
from listener.refresh import RefreshKind
from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.storm import MnsStorm
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)

MESSAGES = 30


def refreshes_left_out(state: Path) -> int:
    """Return how many redelivered changes the state file counts."""
    connection = sqlite3.connect(state)
    try:
        query = "SELECT coalesce(sum(times), 0) FROM suppressed WHERE reason LIKE '%recorded before'"
        return int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


async def test_killed_between_commit_and_deletion_each_message_is_refreshed_once(tmp_path: Path) -> None:
    """Deletions fail, the daemon is killed, the queue delivers again: 30 messages, 30 refreshes, and a trace."""
    names = [f"d{number}/{number}.html" for number in range(MESSAGES)]
    for name in names:
        (tmp_path / "origin" / name).parent.mkdir(parents=True, exist_ok=True)
    options = EmulatorSettings(
        origin=str(tmp_path / "origin"),
        credentials=Credentials("testid", "testsecret"),
        api_port=0,
        edge_port=0,
        task_seconds=0.1,
        quota={RefreshKind.FILE: 100, RefreshKind.DIRECTORY: 0},
    )
    async with Emulator(options) as emulator, FakeMns() as service, aiohttp.ClientSession() as http:
        run = MnsStorm(tmp_path, emulator, service, seed=1, quota=100)
        try:
            service.denied = {"BatchDeleteMessage"}
            await run.start()
            await run.ready(http)
            for name in names:
                await run.change(name)
            await until(lambda: run.accepted() == MESSAGES)
            await run.settle(http)
            await run.kill()
            service.denied = set()
            await service.advance(31)
            await run.start()
            await until(lambda: not service.queue.messages)
            await run.settle(http)
            assert (run.accepted(), service.received_again) == (MESSAGES, MESSAGES)
            await run.change(names[0])  # a genuine change: another message
            await until(lambda: run.accepted() == MESSAGES + 1)
            await run.settle(http)
        finally:
            await run.kill()
    assert refreshes_left_out(tmp_path / "state.db") == MESSAGES
    assert not run.report.undurable
