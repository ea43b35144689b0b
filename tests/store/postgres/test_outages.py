"""The server goes away, falls silent or comes back with less: nothing that was reported as durable is lost unseen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sized
from contextlib import suppress

import psycopg
import pytest

from listener.errors import StoreError
from listener.store.batches import Batch
from listener.store.postgres import connection
from listener.store.postgres.connection import Limits
from listener.store.postgres.migrations import SCHEMA
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeCluster, MakeStandby, MakeWire
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.store.steps import content, route
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)
LIMITS = Limits(seconds=1.5, statement_seconds=1.0, lock_seconds=0.5, idle_seconds=1.0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """End what takes longer than a second and a half, where operators wait for ten."""
    monkeypatch.setattr(connection, "LIMITS", LIMITS)
    monkeypatch.setattr(connection.PostgresConnection.begin, "__defaults__", (LIMITS,))


@pytest.fixture
def cluster(make_cluster: MakeCluster) -> Cluster:
    """A server of its own, which survives a crash."""
    return make_cluster(durable=True)


class Ingest:
    """Records one key after another, as a source does: it goes on with the next once the last is durable."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.store = database.open()
        self.acknowledged: list[str] = []
        self.refusals: list[StoreError] = []
        self._stopped = False

    async def run(self) -> None:
        """Record until stopped; what failed is tried again."""
        number = 0
        while not self._stopped:
            key = f"{number}.html"
            try:
                await self.store.record([Batch([content(key)], None, False)], route)
            except StoreError as error:
                self.refusals.append(error)
                await asyncio.sleep(0.05)
            else:
                self.acknowledged.append(key)
                number += 1

    def stop(self) -> None:
        """End after the record that is under way."""
        self._stopped = True


def needs(cluster: Cluster) -> set[str]:
    """Return the names that have a need."""
    with cluster.connect() as direct:
        return {name for (name,) in direct.execute(f"SELECT name FROM {SCHEMA}.need".encode())}


async def grown(found: Sized, by: int) -> None:
    """Wait until there are more."""
    before = len(found)
    await until(lambda: len(found) > before + by)


async def test_a_server_that_crashes_and_comes_back_has_all_that_was_acknowledged(cluster: Cluster) -> None:
    """While it is away nothing is acknowledged and each try is a store's error; the store works on by itself."""
    database = PostgresDatabase(cluster.url())
    ingest = Ingest(database)
    running = asyncio.create_task(ingest.run())
    try:
        for _ in range(3):
            await grown(ingest.acknowledged, 20)
            await asyncio.to_thread(cluster.stop, "immediate")
            known = len(ingest.acknowledged)
            await grown(ingest.refusals, 2)
            assert len(ingest.acknowledged) <= known + 1  # of before the stop
            await asyncio.to_thread(cluster.start)
        await grown(ingest.acknowledged, 5)
    finally:
        ingest.stop()
        await running
        await ingest.store.close()
    assert set(ingest.acknowledged) <= needs(cluster)


async def test_a_wire_that_falls_silent_ends_within_the_time_limit(cluster: Cluster, make_wire: MakeWire) -> None:
    """Reads and writes fail in time, neither hangs, and both work again once the wire does."""
    wire = make_wire(cluster.port)
    store = PostgresDatabase(cluster.url(port=wire.port, connect_timeout=2)).open()
    await store.record([Batch([content("a.html")], None, False)], route)
    wire.cut()
    for call in (store.record([Batch([content("b.html")], None, False)], route), store.counts()):
        began = time.monotonic()
        with pytest.raises(StoreError):
            await call
        assert time.monotonic() - began < 10
    wire.mend()

    async def again() -> bool:
        with suppress(StoreError):
            await store.record([Batch([content("c.html")], None, False)], route)
            return True
        return False

    while not await again():
        await asyncio.sleep(0.1)
    assert (await store.counts()).pending >= 2
    await store.close()
    assert {"a.html", "c.html"} <= needs(cluster)


async def test_a_connection_that_breaks_is_replaced_without_an_error(cluster: Cluster, make_wire: MakeWire) -> None:
    """What the server certainly did not get is sent once more."""
    wire = make_wire(cluster.port)
    store = PostgresDatabase(cluster.url(port=wire.port)).open()
    for number in range(5):
        await store.record([Batch([content(f"{number}.html")], None, False)], route)
        await store.counts()
        wire.reset()
        await asyncio.sleep(0.05)
    await store.close()
    assert needs(cluster) == {f"{number}.html" for number in range(5)}


async def test_a_commit_that_is_cancelled_while_it_waits_for_the_standby_is_no_success(
    cluster: Cluster, make_standby: MakeStandby
) -> None:
    """The server reports success with a warning only, and the standby, once promoted, does not have the row."""
    store = PostgresDatabase(cluster.url()).open()
    await store.record([Batch([content("a.html")], None, False)], route)
    standby = make_standby(cluster)
    cluster.configure(synchronous_standby_names="*")
    standby.stall()
    recording = asyncio.create_task(store.record([Batch([content("lost.html")], None, False)], route))
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    await until(lambda: cluster.value(waiting))
    cluster.value("SELECT pg_cancel_backend(%s)", cluster.value(waiting))
    with pytest.raises(StoreError):
        await recording
    cluster.stop("immediate")
    standby.promote()
    assert needs(standby) == {"a.html"}
    await store.close()


async def test_a_commit_that_waits_too_long_ends_with_a_closed_connection(
    cluster: Cluster, make_standby: MakeStandby
) -> None:
    """Not with a cancel, which would make a success of it: it is not acknowledged, and the next one may succeed."""
    store = PostgresDatabase(cluster.url()).open()
    await store.record([Batch([content("a.html")], None, False)], route)
    standby = make_standby(cluster)
    cluster.configure(synchronous_standby_names="*")
    standby.stall()
    began = time.monotonic()
    with pytest.raises(StoreError):
        await store.record([Batch([content("b.html")], None, False)], route)
    assert LIMITS.seconds / 2 < time.monotonic() - began < 10
    standby.resume()
    await store.record([Batch([content("c.html")], None, False)], route)
    await store.close()
    assert {"a.html", "c.html"} <= needs(cluster)


def test_the_rest_of_a_transaction_runs_on_no_other_connection(cluster: Cluster) -> None:
    """Where the connection is lost in the middle, the next statement fails too: it is not committed by itself."""
    prepare_schema(cluster.url())
    lost = connection.PostgresConnection(cluster.url(), schema=SCHEMA, instance="a")
    insert = "INSERT INTO target (name) VALUES (?)"
    lost.begin()
    lost.execute(insert, ("first",))
    cluster.value("SELECT pg_terminate_backend(%s)", lost.raw.info.backend_pid)
    for name in ("second", "third"):
        with pytest.raises(psycopg.OperationalError):
            lost.execute(insert, (name,))
    with pytest.raises(StoreError):
        lost.commit()
    lost.begin()
    lost.execute(insert, ("fourth",))
    lost.commit()
    lost.end()
    with cluster.connect() as direct:
        assert direct.execute(f"SELECT name FROM {SCHEMA}.target".encode()).fetchall() == [("fourth",)]
