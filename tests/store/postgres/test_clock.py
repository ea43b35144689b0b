"""The clock of a fleet: every instance goes by the database's, whatever its own host shows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from listener.clock import SystemClock
from listener.store import Store
from listener.store.batches import Batch
from listener.store.postgres import clock as clocks
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.clock import HELD_BACK_SECONDS, DatabaseClock, boottime
from listener.store.store import StoreOptions
from tests.store.databases import empty_schema
from tests.store.steps import content, route

pytestmark = pytest.mark.looptime(False)
APART_SECONDS = 120.0
NEAR_SECONDS = 5.0
"""What a slow machine may take between two looks."""


class Host:
    """A steady clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Server:
    """What :meth:`DatabaseClock.read` needs of a server, with a clock and a wire that the test moves."""

    def __init__(self, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = host
        self.ahead = 1_800_000_000.0
        self.question_seconds = self.answer_seconds = 0.0
        monkeypatch.setattr(clocks, "psycopg", SimpleNamespace(Cursor=lambda _: self))

    def execute(self, *_: Any, **__: Any) -> Any:
        self.host.seconds += self.question_seconds
        shown = self.host.seconds + self.ahead
        self.host.seconds += self.answer_seconds
        return SimpleNamespace(fetchone=lambda: (shown,))

    def read_by(self, clock: DatabaseClock) -> None:
        clock.read(cast("Any", None))


@pytest.fixture
def host() -> Host:
    """The host's steady clock."""
    return Host()


@pytest.fixture
def server(host: Host, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with a clock that the test sets."""
    return Server(host, monkeypatch)


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Let the wall clock of this host be wrong by so much."""
    right = time.time

    def set_wrong(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: right() + seconds)

    yield set_wrong


async def test_what_one_instance_records_is_due_for_another_one(store_url: str, wall: Callable[[float], None]) -> None:
    """Their hosts' clocks are two minutes apart; a change is due after its quiet time, by either."""
    empty_schema(store_url)
    quiet_seconds = StoreOptions().timing.quiet_seconds
    stores: list[Store] = []
    try:
        for name, ahead in (("web-1", -APART_SECONDS), ("web-2", APART_SECONDS)):
            wall(ahead)
            driver = PostgresDriver(store_url, instance=name, owner=True, readonly=False)
            stores.append(Store(driver, options=StoreOptions()))
        behind, ahead_ = stores
        wall(APART_SECONDS)
        await ahead_.record([Batch([content("a/x")])], route)
        wall(-APART_SECONDS)
        due = await behind.next_due()
        assert due is not None
        assert 0 < due - behind.clock.now() <= quiet_seconds
        with closing(psycopg.connect(store_url)) as connection:
            row = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        assert row is not None
        for store in stores:
            assert abs(store.clock.now() - row[0]) < NEAR_SECONDS
    finally:
        for store in stores:
            await store.close()


def test_it_goes_by_a_clock_that_nobody_sets(server: Server, host: Host) -> None:
    """The time between two readings is that of the host's steady clock."""
    clock = DatabaseClock(host)
    server.read_by(clock)
    before = clock.now()
    host.seconds += 10.0
    assert clock.now() - before == pytest.approx(10.0)


def test_until_the_first_reading_it_is_the_hosts() -> None:
    """A store that is not open yet has no better one."""
    assert abs(DatabaseClock(boottime).now() - SystemClock().now()) < NEAR_SECONDS


def test_a_slow_answer_changes_only_what_it_proves(server: Server, host: Host) -> None:
    """The server looked at some time between question and answer: what the clock shows may be just that."""
    clock = DatabaseClock(host)
    server.read_by(clock)
    shown = clock.now() - host.seconds
    server.question_seconds, server.answer_seconds = 0.0, 8.0
    server.read_by(clock)
    assert clock.now() - host.seconds == pytest.approx(shown)
    server.ahead += 5.0  # the server's clock was set
    server.answer_seconds = 2.0
    server.read_by(clock)
    assert clock.now() - host.seconds == pytest.approx(shown + 3.0)
    server.answer_seconds = 0.0
    server.read_by(clock)
    assert clock.now() - host.seconds == pytest.approx(shown + 5.0)


def test_it_stands_still_rather_than_go_back_a_little(server: Server, host: Host) -> None:
    """As after a failover to a server whose clock is a bit behind; where that is much, it goes back."""
    clock = DatabaseClock(host)
    server.read_by(clock)
    before = clock.now()
    server.ahead -= HELD_BACK_SECONDS / 2
    server.read_by(clock)
    assert clock.now() == before
    host.seconds += HELD_BACK_SECONDS / 2 + 1
    assert clock.now() == pytest.approx(before + 1)
    server.ahead -= 10 * HELD_BACK_SECONDS
    server.read_by(clock)
    assert clock.now() == pytest.approx(host.seconds + server.ahead)


async def test_a_large_correction_is_reported(server: Server, host: Host) -> None:
    """What waits for a time looks again; small ones wake nobody."""
    clock = DatabaseClock(host)
    server.read_by(clock)
    steps: list[None] = []
    end = clock.follow_steps(lambda: steps.append(None))
    for ahead, reported in ((0.1, 0), (60.0, 1), (-60.0, 2)):
        server.ahead += ahead
        await asyncio.to_thread(server.read_by, clock)
        await asyncio.sleep(0.01)
        assert len(steps) == reported
    end()
    server.ahead += 60.0
    server.read_by(clock)
    await asyncio.sleep(0.01)
    assert len(steps) == 2
