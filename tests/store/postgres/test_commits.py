"""What a commit means when the server is slow, restarts or warns; and a pool in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any

import psycopg
import pytest

from listener.errors import StoreError
from listener.store import Store
from listener.store.batches import Batch
from listener.store.postgres import connection as connections
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.connection import UnknownOutcome
from listener.store.postgres.migrations import SCHEMA
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster
from tests.postgres.pool import Pool
from tests.store.databases import PostgresDatabase, postgres_database, prepare_schema
from tests.store.steps import Bench, FakeClock, content, file, route

pytestmark = pytest.mark.looptime(False)
WARNING = f"""
CREATE FUNCTION {SCHEMA}.warn() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN RAISE WARNING ''canceling wait for synchronous replication''; RETURN NULL; END';
CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON {SCHEMA}.tombstone DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.warn();
"""


@pytest.fixture
async def bench(store_url: str) -> AsyncIterator[Bench]:
    """One instance."""
    clock = FakeClock()
    with postgres_database(store_url) as database:
        async with database.open(clock=clock) as store:
            yield Bench(store, clock, database)


def run(url: str, statement: str) -> Any:
    """Run a statement past the store; return the first value."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
        return None if row is None else row[0]


async def test_a_commit_with_a_warning_is_no_success(bench: Bench, store_url: str) -> None:
    """As one that was cancelled while it waited for a standby: nobody knows whether it lasts. It is not repeated."""
    run(store_url, WARNING)
    try:
        calls = 0

        def operation(connection: Any) -> None:
            nonlocal calls
            calls += 1
            connection.execute("INSERT INTO root (id, name) VALUES (7, 'x')")
            connection.execute("INSERT INTO tombstone (root, key, below, sequence, at) VALUES (7, x'00', 0, 1, 1)")

        with pytest.raises(UnknownOutcome, match="with a warning"):
            await bench.store._write(operation)
        assert calls == 1
        assert await bench.change(content("a"))
    finally:
        run(store_url, f"DROP TRIGGER warn ON {SCHEMA}.tombstone; DROP FUNCTION {SCHEMA}.warn()")


async def test_a_warning_before_the_commit_says_nothing_of_it(bench: Bench) -> None:
    """Only what comes with the answer to COMMIT is about it."""
    bench.store._driver.transactions.connection.raw.execute(b"SELECT 1")  # type: ignore[union-attr, attr-defined]

    def operation(connection: Any) -> None:
        connection.raw.execute(b"DO 'BEGIN RAISE WARNING ''early''; END'")

    await bench.store._write(operation)


async def test_a_commit_that_takes_too_long_is_not_acknowledged(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a standby that is away: the connection is closed, and what queues deliver comes again."""
    cluster = make_cluster()
    prepare_schema(cluster.url())
    monkeypatch.setattr(connections, "LIMITS", connections.LIMITS._replace(seconds=0.5))
    async with opened(cluster.url()) as store:
        assert await store.record([Batch([content("a")])], route)
        cluster.configure(synchronous_standby_names="nobody")
        began = time.monotonic()
        with pytest.raises(UnknownOutcome, match="did not confirm"):
            await store.record([Batch([content("b")])], route)
        assert time.monotonic() - began < 5
        cluster.configure(synchronous_standby_names="")
        assert await store.record([Batch([content("b")])], route)


async def test_a_server_that_restarts_is_found_again(make_cluster: Callable[..., Cluster]) -> None:
    """Nothing acknowledged is lost; what was not is an error, and succeeds when it comes again."""
    cluster = make_cluster(durable=True)
    prepare_schema(cluster.url())
    async with opened(cluster.url()) as store:
        await store.record([Batch([content("a")])], route)
        await asyncio.to_thread(cluster.stop, "immediate")
        with pytest.raises(StoreError):
            await store.record([Batch([content("b")])], route)
        with pytest.raises(StoreError):
            await store.counts()
        await asyncio.to_thread(cluster.start)
        await store.record([Batch([content("c")])], route)
        assert set((await store.directory("www", "")).keys()) == {"a", "c"}


async def test_a_connection_that_was_ended_is_opened_again(bench: Bench, store_url: str) -> None:
    """The transaction was not committed for sure: it is repeated, and so is a query."""
    await bench.change(content("a"), wait=0)
    await bench.store.counts()
    ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'cdn-listener a%'"
    assert run(store_url, ends)
    await bench.change(content("b"))
    assert run(store_url, ends)
    assert (await bench.store.counts()).pending == 2


async def test_a_need_lives_its_life_through_a_pool(postgres: Cluster, postgres_pool: Pool) -> None:
    """In transaction mode, with more clients than server connections: nothing lives in the session."""
    clock = FakeClock()
    with postgres.database() as name:
        url = postgres.url(name, port=postgres_pool.port)
        database = PostgresDatabase(postgres.url(name))
        stores = [opened(url, clock=clock, instance=f"i{number}", prepared=False) for number in range(4)]
        try:
            benches = [Bench(store, clock, database) for store in stores]
            for turn in range(6):
                each = [bench.change(content(f"d{turn}/{n}"), wait=0) for n, bench in enumerate(benches)]
                await asyncio.gather(*each)
            clock.advance(60)
            await benches[0].store.promote_due()
            await asyncio.gather(*(bench.store.counts() for bench in benches))
            made = await benches[1].send(*(file(f"d{turn}/{n}") for turn in range(6) for n in range(4)))
            await benches[2].finish(made)
            assert len(made) == 24
            assert (await benches[3].store.counts()).pending == 0
            benches[0].assert_counted()
        finally:
            database.close()
            for store in stores:
                await store.close()


def opened(url: str, *, clock: FakeClock | None = None, instance: str = "a", prepared: bool = True) -> Store:
    """Open a store on this URL."""
    driver = PostgresDriver(url, instance=instance, owner=True, readonly=False, prepared=prepared)
    return Store(driver, options=StoreOptions(), clock=clock or FakeClock())
