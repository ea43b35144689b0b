"""Commits that were confirmed and are gone, as after a failover without synchronous standby, are found and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from listener.errors import StoreError
from listener.store import Store, open_store
from listener.store.batches import Batch
from listener.store.durability import CommitCount, CommitMark, Loss
from listener.store.postgres.migrations import SCHEMA
from listener.store.store import StoreOptions
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeCluster, MakeStandby, MakeWire
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.store.steps import content, route

pytestmark = pytest.mark.looptime(False)


async def record(store: Store, *keys: str) -> None:
    """Record these keys, each in a transaction of its own."""
    for key in keys:
        await store.record([Batch([content(key)])], route)


def mark(store: Store) -> CommitMark:
    """Return what is confirmed."""
    assert store.counted is not None
    return store.counted.mark


@pytest.fixture
def url(postgres: Cluster) -> Iterator[str]:
    """A database of its own, with an empty schema."""
    with postgres.database() as name:
        prepare_schema(postgres.url(name))
        yield postgres.url(name)


def test_a_count_that_falls_is_a_loss_and_one_that_rises_is_none() -> None:
    """More than was confirmed are commits whose answer was lost, or of another process of the same name."""
    count = CommitCount()
    assert count.compare(5) is None
    count.confirm(6)
    assert count.compare(8) is None
    count.confirm(9)
    assert count.compare(4) == Loss(9, 4)
    count.confirm(5)
    assert count.compare(3) == Loss(5, 3)
    assert count.mark == CommitMark(3, (Loss(9, 4), Loss(5, 3)))
    assert [loss.commits for loss in count.mark.losses] == [5, 2]


def test_what_an_earlier_process_knew_is_compared_too() -> None:
    """The count that it kept, with what the database had when this process came."""
    count = CommitCount()
    count.compare(5)
    assert count.expect(5) is None
    assert count.expect(4) is None
    assert count.expect(7) == Loss(7, 5)
    assert count.mark == CommitMark(5, (Loss(7, 5),))


async def test_commits_that_a_promoted_standby_lacks_are_found_before_the_next_one(
    make_cluster: MakeCluster, make_standby: MakeStandby
) -> None:
    """Their number is that of the transactions that were confirmed while the standby received nothing."""
    primary = make_cluster()
    prepare_schema(primary.url())
    standby = make_standby(primary)
    both = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
    async with PostgresDatabase(both).open() as store:
        await record(store, "a", "b")
        kept = mark(store).commits
        primary.value("SELECT pg_switch_wal()")
        assert await _received(primary, standby)
        standby.stall()
        await record(store, "c", "d", "e")
        assert mark(store) == CommitMark(kept + 3)
        primary.stop("immediate")
        standby.promote()
        with capture_logs() as logs:
            await store.look_again([])
        assert mark(store) == CommitMark(kept, (Loss(kept + 3, kept),))
        events = {one["event"]: one for one in logs}
        assert events["store.commits_lost"]["commits"] == 3
        assert events["store.timeline_changed"]["now"] != events["store.timeline_changed"]["before"]
        await record(store, "f")
        assert mark(store).commits == kept + 1
    assert standby.value(f"SELECT array_agg(name ORDER BY name) FROM {SCHEMA}.need") == ["a", "b", "f"]


async def _received(primary: Cluster, standby: Cluster) -> bool:
    position = primary.value("SELECT pg_current_wal_lsn()")
    while not standby.value("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", position):
        pass
    return True


async def test_a_loss_is_found_without_a_new_connection(url: str) -> None:
    """Behind a pool the connection stays when the server is another one: each commit shows it."""
    database = PostgresDatabase(url)
    async with database.open() as store:
        await record(store, "a", "b", "c")
        before = mark(store).commits
        with database.reading() as direct:
            direct.raw.execute(f"UPDATE {SCHEMA}.instance_count SET recorded = recorded - 2".encode())  # type: ignore[attr-defined]
        await record(store, "d")
        assert mark(store) == CommitMark(before - 1, (Loss(before, before - 2),))
    database.close()


async def test_ids_that_are_remembered_are_forgotten_with_the_loss(url: str) -> None:
    """The id of a lost row may be that of another one by now: what was remembered would put a need in its place."""
    database = PostgresDatabase(url)
    for is_new in (False, True):
        async with database.open(instance=f"new {is_new}") as store:
            await record(store, "seen/a")
            with database.reading() as direct:
                direct.raw.execute(  # type: ignore[attr-defined]
                    f"UPDATE {SCHEMA}.instance_count SET recorded = recorded - 1;"
                    f" UPDATE {SCHEMA}.directory SET url = 'https://other.example.com/' || id WHERE url LIKE '%seen/';"
                    " SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    f" WHERE {is_new} AND application_name = 'cdn-listener new True'".encode()
                )
            await record(store, "seen/b")
            with database.reading() as direct:
                rows = f"SELECT url FROM {SCHEMA}.need JOIN {SCHEMA}.directory ON id = directory WHERE name = 'b'"
                assert direct.raw.execute(rows.encode()).fetchall() == [("https://www.example.com/seen/",)]  # type: ignore[attr-defined]
                direct.raw.execute(f"DELETE FROM {SCHEMA}.need".encode())  # type: ignore[attr-defined]
    database.close()


async def test_each_instance_counts_by_itself_and_a_transaction_that_changes_nothing_does_not_count(url: str) -> None:
    """Also one that failed: its count is undone with it."""
    database = PostgresDatabase(url)
    async with database.open(instance="a") as one, database.open(instance="b") as other:
        await record(one, "a", "b")
        await record(other, "c")
        await one.look_again([])
        with pytest.raises(ZeroDivisionError):
            await one._write(lambda connection: connection.execute("UPDATE meta SET clean = 0").rowcount / 0)
        await record(one, "d")
        assert (mark(one), mark(other)) == (CommitMark(3), CommitMark(1))
    async with database.open(instance="a") as again:
        assert mark(again) == CommitMark(3)


async def test_a_lower_default_of_synchronous_commit_is_reported_and_not_used(url: str) -> None:
    """Neither that of the database nor that of the role."""
    database = PostgresDatabase(url)
    with database.reading() as direct:
        direct.raw.execute(f'ALTER DATABASE "{url.rsplit("/", 1)[1]}" SET synchronous_commit = off'.encode())  # type: ignore[attr-defined]
    with capture_logs() as logs:
        store = database.open()
    assert [one["synchronous_commit"] for one in logs if one["event"] == "store.weak_commits"] == ["off"]
    async with store:
        show = "SHOW synchronous_commit"
        assert await store._write(lambda connection: connection.raw.execute(show).fetchone()) == ("on",)  # type: ignore[attr-defined]
    database.close()


async def test_a_standby_that_answers_during_a_failover_is_waited_for(
    make_cluster: MakeCluster, make_standby: MakeStandby, make_wire: MakeWire
) -> None:
    """It is an error that may pass, at the start too: the standby may be about to be promoted."""
    primary = make_cluster()
    prepare_schema(primary.url())
    standby = make_standby(primary)
    wire = make_wire(primary.port)
    database = PostgresDatabase(primary.url(port=wire.port))
    async with database.open() as store:
        await record(store, "a")
        wire.target_port = standby.port
        wire.reset()
        with pytest.raises(StoreError, match="standby"):
            await record(store, "b")
        primary.stop("immediate")
        standby.promote()
        await record(store, "c")
    with pytest.raises(StoreError, match="standby"):
        PostgresDatabase(make_standby(standby).url()).open()


async def test_commits_of_a_state_file_are_not_counted(tmp_path: Path) -> None:
    """What its disk has confirmed stays."""
    async with open_store(f"sqlite:///{tmp_path}/state.db", owner=True) as store:
        assert store.counted is None


async def test_a_schema_that_is_made_again_counts_from_the_start(url: str) -> None:
    """Also under the same names: what an earlier one had counted is no loss of this one."""
    async with open_store(url, owner=True, options=StoreOptions(instance="a")) as store:
        assert store.counted is not None
        first = store.counted.identity
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE".encode())
    async with open_store(url, owner=True, options=StoreOptions(instance="a")) as store:
        assert store.counted is not None
        assert store.counted.identity != first
