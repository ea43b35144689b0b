"""A store is copied to another database as it is, or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.errors import StoreBusy, StoreError
from listener.store import open_store
from listener.store.moving import SLICE_ROWS, TABLES, Destination, move
from listener.store.sqlite import moving as sqlite
from listener.store.sqlite.migrations import schema
from tests.store.full_store import ROWS, content_of, fill


def test_every_table_is_moved_after_those_that_it_refers_to() -> None:
    """So are tables that the schema gets later."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(schema())
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        assert tables - {"sqlite_sequence", "meta"} == set(TABLES)
        for place, table in enumerate(TABLES):
            parents = {row[2] for row in connection.execute(f"PRAGMA foreign_key_list({table})")}
            assert parents <= set(TABLES[:place])


def test_a_state_file_is_copied_row_by_row(tmp_path: Path) -> None:
    """Rows, counts that triggers keep, counters and the schema are the same; nothing but the file is left."""
    fill(tmp_path / "a.db")
    rows = move(sqlite.reading(tmp_path / "a.db"), sqlite.writing(tmp_path / "b.db"))
    assert content_of(tmp_path / "b.db") == content_of(tmp_path / "a.db")
    assert set(rows) == set(TABLES)
    assert rows["need"] == ROWS
    assert sorted(path.name for path in tmp_path.glob("b.db*")) == ["b.db", "b.db.lock"]


def test_what_is_in_memory_is_bounded(tmp_path: Path) -> None:
    """However many rows a table has, it is read and written in slices."""
    fill(tmp_path / "a.db", rows=2 * SLICE_ROWS + 1)
    with sqlite.reading(tmp_path / "a.db") as origin:
        sizes = [len(rows) for rows in origin.slices("need", origin.columns("need"))]
    assert sizes == [SLICE_ROWS, SLICE_ROWS, 1]


def test_a_move_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """Neither the file nor its draft is there; the next one succeeds."""
    fill(tmp_path / "a.db")

    class Forgetful(sqlite.SqliteEnd):
        def write(self, table: str, columns: Any, slices: Any) -> None:
            super().write(table, columns, slices)
            if table == "need":
                self._connection.execute("DELETE FROM need WHERE directory = 7")

    @contextmanager
    def forgetful() -> Iterator[Destination]:
        with sqlite.writing(tmp_path / "b.db") as end:
            yield Forgetful(end._connection)

    with pytest.raises(StoreError, match=rf"table need: {ROWS - 1} of {ROWS} rows were written; nothing was moved"):
        move(sqlite.reading(tmp_path / "a.db"), forgetful())
    assert [path.name for path in tmp_path.glob("b.db*")] == ["b.db.lock"]
    move(sqlite.reading(tmp_path / "a.db"), sqlite.writing(tmp_path / "b.db"))


async def test_a_store_that_is_in_use_or_there_already_is_refused(tmp_path: Path) -> None:
    """A daemon owns the origin, or something has the destination's name: nothing is changed."""
    fill(tmp_path / "b.db", rows=10)
    before = content_of(tmp_path / "b.db")
    async with open_store(f"sqlite:///{tmp_path}/a.db", owner=True):
        with pytest.raises(StoreBusy):
            move(sqlite.reading(tmp_path / "a.db"), sqlite.writing(tmp_path / "c.db"))
    with pytest.raises(StoreError, match="already exists"):
        move(sqlite.reading(tmp_path / "a.db"), sqlite.writing(tmp_path / "b.db"))
    with pytest.raises(StoreError, match="there is none"):
        move(sqlite.reading(tmp_path / "x.db"), sqlite.writing(tmp_path / "c.db"))
    assert content_of(tmp_path / "b.db") == before
    assert not (tmp_path / "c.db").exists()
