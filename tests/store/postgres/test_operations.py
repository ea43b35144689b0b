"""What operators of PostgreSQL do: ordinary roles, backups."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from listener.errors import StoreUnusable
from listener.store.batches import Batch
from listener.store.moving import move
from listener.store.postgres import moving
from listener.store.postgres.maintenance import check
from listener.store.postgres.migrations import SCHEMA
from listener.store.sqlite import moving as sqlite
from tests.postgres.cluster import Cluster, own_folder, run_unprivileged
from tests.postgres.fixtures import MakeCluster
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.store.full_store import fill
from tests.store.steps import content, route


def test_a_restored_backup_is_used_once_it_is_accepted(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """A dump in another cluster is refused; the statement in the hint accepts it, and every row is there."""
    origin = make_cluster()
    initial = Cluster.initialise(origin.programs)  # of its own: copies of one have the same identity
    restored = Cluster.copied(origin.programs, initial)
    try:
        _restore(origin, restored.start(), tmp_path)
    finally:
        restored.remove()
        shutil.rmtree(initial)


def _restore(origin: Cluster, restored: Cluster, tmp_path: Path) -> None:
    fill(tmp_path / "a.db")
    rows = move(sqlite.reading(tmp_path / "a.db"), moving.writing(origin.url()))
    dump = own_folder("postgres-dump-") / "dump"
    run_unprivileged(origin.programs / "pg_dump", "--format=custom", f"--schema={SCHEMA}", "--file", dump, origin.url())
    run_unprivileged(origin.programs / "pg_restore", "--dbname", restored.url(), dump)
    shutil.rmtree(dump.parent)
    with pytest.raises(StoreUnusable, match="made in another cluster") as refused:
        prepare_schema(restored.url())
    restored.value(refused.value.hint.partition("backup: ")[2])
    assert move(moving.reading(restored.url()), sqlite.writing(tmp_path / "b.db")) == rows


async def test_the_owner_of_a_database_is_enough(make_cluster: MakeCluster, tmp_path: Path) -> None:
    """The commands of the documentation make what is needed; the store is made, used, checked and moved."""
    cluster: Cluster = make_cluster(durable=True)
    with cluster.connect() as connection:
        connection.execute("CREATE ROLE listener LOGIN")
        connection.execute("CREATE DATABASE listener OWNER listener ENCODING 'UTF8' TEMPLATE template0")
        connection.execute("CREATE DATABASE other OWNER listener ENCODING 'UTF8' TEMPLATE template0")
    url = cluster.url("listener", user="listener")
    prepare_schema(url)
    async with PostgresDatabase(url).open() as store:
        await store.record([Batch([content("a.html")], None, False)], route)
        assert (await store.counts()).pending == 1
    assert check(url, prepared=True) == []
    fill(tmp_path / "a.db", rows=5)
    other = cluster.url("other", user="listener")
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(other))
    move(moving.reading(other), sqlite.writing(tmp_path / "b.db"))
