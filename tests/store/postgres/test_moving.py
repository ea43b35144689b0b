"""A store is moved to PostgreSQL and back without a difference, on a real server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from listener.errors import StoreBusy, StoreError
from listener.store.moving import SLICE_ROWS, TABLES, move
from listener.store.postgres import moving
from listener.store.postgres.address import connect
from listener.store.postgres.migrations import SCHEMA, prepare
from listener.store.sqlite import moving as sqlite
from tests.postgres.cluster import Cluster
from tests.postgres.pool import Pool
from tests.store.full_store import ROWS, content_of, fill
from tests.store.postgres.test_long_keys import letters

BLOCK = 4096


def value(url: str, statement: str) -> object:
    """Run a statement on the server, with the tables of the store at hand."""
    with psycopg.connect(url, autocommit=True, options=f"-c search_path={SCHEMA}") as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchone() if cursor.description else None


def test_there_and_back_everything_is_the_same(postgres_database: str, tmp_path: Path) -> None:
    """Every row, every count that triggers keep, and every number that may not be given out again."""
    fill(tmp_path / "a.db")
    rows = move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert set(rows) == set(TABLES)
    assert move(moving.reading(postgres_database), sqlite.writing(tmp_path / "b.db")) == rows
    before, after = content_of(tmp_path / "a.db"), content_of(tmp_path / "b.db")
    given_out = dict(before.pop("sqlite_sequence"))
    for table, highest in after.pop("sqlite_sequence"):
        assert given_out[table] <= highest < given_out[table] + BLOCK
    assert after == before


def test_numbers_go_on_above_those_that_were_given_out(postgres_database: str, tmp_path: Path) -> None:
    """Of changes, of attempts whose rows are gone, and of rows that the server numbers."""
    fill(tmp_path / "a.db")
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert value(postgres_database, "SELECT sequence FROM meta") == (123456789,)
    assert value(postgres_database, "SELECT nextval('change_number')") == (123456790,)
    (first,) = value(postgres_database, "SELECT nextval('attempt_number')")  # type: ignore[misc]
    assert first > ROWS
    added = value(postgres_database, "INSERT INTO target (name) VALUES ('new') RETURNING id")
    assert added == (ROWS + 1,)
    assert value(postgres_database, "SELECT count(*) FROM pg_trigger WHERE tgenabled = 'D'") == (0,)


def test_text_that_postgres_cannot_hold_is_shown_otherwise(postgres_database: str, tmp_path: Path) -> None:
    """A reason with a NUL is kept with a replacement character."""
    fill(tmp_path / "a.db", rows=3)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        connection.execute("UPDATE audit SET reason = 'a' || char(0) || 'b'")
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert value(postgres_database, "SELECT DISTINCT reason FROM audit") == ("a\ufffdb",)


def test_a_destination_with_rows_is_refused_and_left(postgres_database: str, tmp_path: Path) -> None:
    """A second move changes nothing; an empty schema that is there already is used."""
    fill(tmp_path / "a.db", rows=5)
    with connect(postgres_database, instance="test") as connection:
        prepare(connection, SCHEMA)
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    fill(tmp_path / "b.db", rows=7)
    with pytest.raises(StoreError, match="is not empty: table target has rows") as refused:
        move(sqlite.reading(tmp_path / "b.db"), moving.writing(postgres_database))
    assert "another database" in refused.value.hint
    assert value(postgres_database, "SELECT count(*) FROM need") == (5,)


@pytest.mark.parametrize(
    ("statement", "table", "hint"),
    [
        ("UPDATE need SET name = ?1 WHERE rowid = 7", "need", "cancel --prefix URL"),
        ("UPDATE directory SET url = 'http://e/' || ?1 || '/' WHERE id = 7", "directory", "cancel"),
        ("UPDATE object SET name = CAST(?1 AS BLOB) WHERE rowid = 7", "object", "rename or remove it"),
        ("UPDATE tree SET path = CAST(?1 || '/' AS BLOB) WHERE id = 7", "tree", "rename or remove it"),
        ("UPDATE tombstone SET key = CAST(?1 AS BLOB) WHERE rowid = 7", "tombstone", "until it is forgotten"),
    ],
)
def test_a_key_that_no_index_can_hold_is_named(
    postgres_database: str, tmp_path: Path, statement: str, table: str, hint: str
) -> None:
    """Of thousands; as a whole, with its length and what to do, and nothing is moved."""
    fill(tmp_path / "a.db")
    text = letters(4_000)
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection, connection:
        try:
            changed = connection.execute(statement, (text,)).rowcount
        except sqlite3.OperationalError:  # a table without row numbers
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[5]]
            first = connection.execute(f"SELECT {', '.join(columns)} FROM {table} LIMIT 1 OFFSET 7").fetchone()
            where = " AND ".join(f"{column} = ?{number + 2}" for number, column in enumerate(columns))
            changed = connection.execute(f"{statement.partition(' WHERE')[0]} WHERE {where}", (text, *first)).rowcount
        assert changed == 1
    with pytest.raises(StoreError, match=f"table {table}: no index of PostgreSQL can hold the key ") as refused:
        move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert text[:150] in str(refused.value)
    assert len(str(refused.value)) < 500
    assert "nothing was moved" in str(refused.value)
    assert hint in refused.value.hint
    assert value(postgres_database, "SELECT count(*) FROM target") == (0,)


def test_a_move_that_fails_leaves_an_empty_store(
    postgres_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are missing at the end, or a lost connection, take everything back; the next move succeeds."""
    fill(tmp_path / "a.db")
    counted = moving.PostgresEnd.count

    def miscounted(end: moving.PostgresEnd, table: str) -> int:
        return counted(end, table) - (table == "suppressed" and counted(end, table) > 0)

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="nothing was moved"):
        patched.setattr(moving.PostgresEnd, "count", miscounted)
        move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert value(postgres_database, "SELECT count(*) FROM target") == (0,)

    def cut(end: moving.PostgresEnd, _: object) -> None:
        value(
            postgres_database,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdn-listener store move'",
        )
        end.count("need")

    with monkeypatch.context() as patched, pytest.raises(StoreError, match="PostgreSQL: "):
        patched.setattr(moving.PostgresEnd, "set_counters", cut)
        move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert value(postgres_database, "SELECT count(*) FROM target") == (0,)
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))


def test_a_store_that_an_instance_uses_is_refused(postgres_database: str, tmp_path: Path) -> None:
    """In both directions; so is a session in the middle of a transaction."""
    fill(tmp_path / "a.db", rows=5)
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    value(
        postgres_database,
        "INSERT INTO instance VALUES ('web-1', 1, now() + interval '1 minute', '1', '{}', now())",
    )
    for ends in (
        (sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database)),
        (moving.reading(postgres_database), sqlite.writing(tmp_path / "b.db")),
    ):
        with pytest.raises(StoreBusy, match="instance web-1 runs"):
            move(*ends)
    value(postgres_database, "UPDATE instance SET until = '-infinity'")
    with psycopg.connect(postgres_database) as session:
        session.execute(f"SELECT count(*) FROM {SCHEMA}.need".encode())
        with pytest.raises(StoreBusy, match="another session"):
            move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    assert not (tmp_path / "b.db").exists()


def test_a_database_without_a_store_is_no_origin(postgres_database: str, tmp_path: Path) -> None:
    """It is named, and nothing is made in it."""
    with pytest.raises(StoreError, match=f"has no schema {SCHEMA}: there is no store"):
        move(moving.reading(postgres_database), sqlite.writing(tmp_path / "b.db"))
    assert value(postgres_database, f"SELECT to_regnamespace('{SCHEMA}')") == (None,)
    assert not (tmp_path / "b.db").exists()


def test_it_works_through_a_pool(postgres: Cluster, postgres_pool: Pool, tmp_path: Path) -> None:
    """Nothing needs a session: not the cursor that is read in slices either."""
    fill(tmp_path / "a.db", rows=SLICE_ROWS + 1)
    with postgres.database() as name:
        url = postgres_pool.url(name)
        rows = move(sqlite.reading(tmp_path / "a.db"), moving.writing(url))
        assert move(moving.reading(url), sqlite.writing(tmp_path / "b.db")) == rows


def test_the_server_keeps_the_rows_that_are_not_read_yet(postgres_database: str, tmp_path: Path) -> None:
    """A large table is not read into memory at once."""
    fill(tmp_path / "a.db", rows=SLICE_ROWS + 1)
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    with moving.reading(postgres_database) as end:
        slices = end.slices("need", end.columns("need"))
        assert len(next(slices)) == SLICE_ROWS
        assert end._one("SELECT count(*) FROM pg_cursors") == 1
        assert len(next(slices)) == 1
        slices.close()


def test_what_only_an_instance_can_book_is_not_left_behind(postgres_database: str, tmp_path: Path) -> None:
    """Requests of a leader whose term had ended were accepted: the state file would not know that they were spent."""
    fill(tmp_path / "a.db", rows=3)
    move(sqlite.reading(tmp_path / "a.db"), moving.writing(postgres_database))
    value(
        postgres_database,
        "INSERT INTO late_answer (attempt, account, term, kind, window_start, task_id, at)"
        " VALUES (1, 'main', 1, 'file', 0, '7', clock_timestamp())",
    )
    with pytest.raises(StoreError, match="1 requests were accepted that no ledger has yet"):
        move(moving.reading(postgres_database), sqlite.writing(tmp_path / "b.db"))
    assert not (tmp_path / "b.db").exists()
