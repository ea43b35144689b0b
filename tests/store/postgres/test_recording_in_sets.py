"""What recording costs the server: rows are found by key, names are made and parents checked in sets."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from listener.change import Change
from listener.store.batches import Batch
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.migrations import SCHEMA
from tests.stand import until
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.store.steps import content, route

DIRECTORIES = 40
FILES = 50


def changes(version: int, directories: int = DIRECTORIES) -> list[Change]:
    """Return a change of each file."""
    return [content(f"d{n}/f{file}", version) for n in range(directories) for file in range(FILES)]


@pytest.fixture
def database(postgres_database: str) -> PostgresDatabase:
    """Give a schema that nobody has used."""
    prepare_schema(postgres_database)
    return PostgresDatabase(postgres_database)


def read(database: PostgresDatabase, query: str) -> list[tuple[Any, ...]]:
    """Read in SQL of the server's own."""
    with closing(psycopg.connect(database.url, autocommit=True)) as connection:
        return connection.execute(query.encode()).fetchall()


@contextmanager
def statements(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note the statements that are sent to the server."""
    sent: list[str] = []
    run = PostgresConnection._run

    def noted(self: PostgresConnection, text: str, values: list[Any]) -> Any:
        sent.append(text)
        return run(self, text, values)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresConnection, "_run", noted)
        yield sent


async def test_rows_are_found_by_key_whatever_the_planner_believes(database: PostgresDatabase) -> None:
    """The statistics are of an empty table, as in the first minute: no table is read row by row."""
    query = (
        "SELECT relname, seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables"
        " WHERE relname IN ('need', 'object', 'tree', 'directory') ORDER BY relname"
    )
    async with database.open() as store:
        await store.record([Batch(changes(1))], route)
    before = {name: rows for name, *rows in read(database, query)}
    async with database.open() as store:
        await store.record([Batch(changes(2, directories=10))], route)
    for name, *rows in read(database, query):
        read_whole, fetched = (now - then for now, then in zip(rows, before[name], strict=True))
        assert read_whole == 0, name
        assert fetched <= 4 * 10 * FILES, name


async def test_the_statements_of_a_batch_do_not_grow_with_its_directories(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are new are looked up and made together."""
    counts = []
    async with database.open() as store:
        await store.record([Batch([content("first/file")])], route)
        for names in (["a"], [f"b{n}" for n in range(60)]):
            with statements(monkeypatch) as sent:
                await store.record([Batch([content(f"{name}/file") for name in names])], route)
            counts.append(len(sent))
    assert counts[1] == counts[0]
    assert read(database, f"SELECT count(*) FROM {SCHEMA}.tree") == [(62,)]
    assert read(database, f"SELECT count(*) FROM {SCHEMA}.directory") == [(62,)]


async def test_a_change_of_a_waiting_need_writes_no_index(database: PostgresDatabase) -> None:
    """Nearly all updates of hot keys are HOT, so that vacuum is not needed for each, and indexes do not grow."""
    query = (
        "SELECT relname, n_tup_upd, n_tup_hot_upd, pg_indexes_size(relid) FROM pg_stat_user_tables"
        " WHERE relname IN ('need', 'object') ORDER BY relname"
    )
    found = []
    for rounds in (10, 20):  # pages are full at first, and then have room for what changes
        async with database.open() as store:
            for version in range(rounds):
                await store.record([Batch(changes(version, directories=4))], route)
        found.append(read(database, query))
    for (table, before, hot_before, size_before), (_, after, hot_after, size_after) in zip(*found, strict=True):
        assert after - before >= 20 * 4 * FILES, table
        assert hot_after - hot_before >= 0.8 * (after - before), table
        assert size_after <= size_before + 32 * 1024, table


NEED = (
    "INSERT INTO {schema}.need (directory, name, scope, sequence, stale_since, window_first, state, open)"
    " VALUES ({parent}, 'other', 0, 1, 0, 0, 0, 0)"
)
OBJECT = "INSERT INTO {schema}.object (tree, name, sequence) VALUES ({parent}, 'other', 1)"


@pytest.mark.parametrize(("table", "parent", "insert"), [("need", "directory", NEED), ("object", "tree", OBJECT)])
async def test_a_row_never_outlives_its_parent(
    database: PostgresDatabase, table: str, parent: str, insert: str
) -> None:
    """Neither is a row made without its parent nor a parent removed that has rows; the second waits for the first."""
    async with database.open() as store:
        await store.record([Batch([content("a/file")])], route)
    make, known = partial(insert.format, schema=SCHEMA), f"(SELECT max(id) FROM {SCHEMA}.{parent})"
    remove = f"DELETE FROM {SCHEMA}.{parent} WHERE NOT EXISTS (SELECT 1 FROM {SCHEMA}.{table} WHERE {parent} = id)"
    with psycopg.connect(database.url) as first, psycopg.connect(database.url) as second:
        for statement in (make(parent=77), f"DELETE FROM {SCHEMA}.{parent}"):
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                first.execute(statement.encode())
            first.rollback()
        first.execute(f"DELETE FROM {SCHEMA}.{table}".encode())
        first.commit()
        for statements in ((make(parent=known), remove), (remove, make(parent=known))):
            first.execute(statements[0].encode())
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(second.execute, statements[1].encode())
                until(lambda: read(database, WAITING) == [(1,)], what="the second waits for the first")
                first.commit()
                with pytest.raises(psycopg.errors.ForeignKeyViolation):
                    waiting.result()
            second.rollback()
            first.execute(f"DELETE FROM {SCHEMA}.{table}".encode())
            first.commit()


WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"


@pytest.mark.parametrize(
    "column",
    [
        [0, -1, 2**63 - 1],
        [True, False, 3],
        [0.1, 1e300, -0.0, 2.0],
        [1, 0.5],
        ["", "a b", "NULL", "{x,y}", ",", "ü\n"],
        ['"', "\\", "a\\b"],
        [b"", b"\x00\xff\\"],
        [None, 1, None],
        [None, "null"],
        [None, 0.5],
        [None, b"x"],
    ],
)
def test_a_column_of_rows_arrives_as_it_is(database: PostgresDatabase, column: list[Any]) -> None:
    """Also what means something else in the notation of arrays."""
    connection = PostgresConnection(database.url, schema=SCHEMA, instance="test")
    with closing(connection):
        rows = [(number, value) for number, value in enumerate(column)]
        found = connection.execute_wanted("SELECT column1, column2 FROM wanted", rows).fetchall()
    assert found == rows
    connection.end()
