"""Who keeps old rows of the database is named, by the status and by ``store check``."""

from __future__ import annotations

from contextlib import ExitStack

import psycopg
import pytest

from listener.daemon.fleet import held_of
from listener.store.postgres import snapshots
from listener.store.postgres.maintenance import check
from tests.postgres.fixtures import MakeCluster
from tests.store.databases import PostgresDatabase, prepare_schema


async def test_old_transactions_are_named_with_age_and_remedy(
    make_cluster: MakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that only reads, and a prepared one; none of another database, and none without a snapshot."""
    cluster = make_cluster(max_prepared_transactions="5")
    url = cluster.url()
    prepare_schema(url)
    with cluster.database() as other, ExitStack() as opened:
        reader, idle, foreign, plain = [
            opened.enter_context(psycopg.connect(url, autocommit=True, application_name=name))
            for name, url in (("report", url), ("idle", url), ("foreign", cluster.url(other)), ("plain", url))
        ]
        for connection in (reader, foreign):
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        idle.execute("BEGIN; SELECT 1")
        plain.execute("BEGIN; CREATE TABLE aside (id int); PREPARE TRANSACTION 'half'")
        async with PostgresDatabase(url).open() as store:
            assert await store.old_snapshots() == []
            monkeypatch.setattr(snapshots, "_HELD", snapshots._HELD.replace("'60 s'", "'0 s'"))
            found = [one for one in await store.old_snapshots() if "listener" not in one.holder]
        assert [one.holder for one in found] == ["a transaction of report", "prepared transaction half"]
        assert any(one.startswith("a transaction of report keeps old rows") for one in check(url, prepared=False))
        words, since, remedy = held_of(found)[0]
        assert (words[:49], since) == ("store: a transaction of report keeps old rows of ", found[0].since)
        plain.execute(remedy.removeprefix("end it: ").encode())
        plain.execute(found[1].remedy.encode())
        with pytest.raises(psycopg.OperationalError):
            reader.execute("SELECT 1")
