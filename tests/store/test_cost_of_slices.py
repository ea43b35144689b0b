"""What a slice of work costs does not grow with the rows next to those that it is about."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from listener.refresh import NeedState
from listener.store import retention
from listener.store.sqlite import maintenance
from listener.store.sqlite.database import prepare
from listener.store.sqlite.migrations import pragma
from listener.store.transitions import promote_due

NOW = 1_800_000_000.0
OLD = NOW - 100 * 86400.0
SLICE = 20


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A state file with one directory and one storage."""
    with closing(prepare(tmp_path / "state.db")) as connection:
        connection.execute("INSERT INTO target VALUES (1, 'cdn')")
        connection.execute("INSERT INTO directory (id, target, url) VALUES (1, 1, 'https://www.example.com/')")
        connection.execute("INSERT INTO root (id, name) VALUES (1, 'www')")
        connection.execute("BEGIN")
        yield connection


def needs(file: sqlite3.Connection, count: int) -> None:
    """Make so many ready needs in one directory, fresh ones, and after them a slice that waits and is due."""
    row = (
        "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, due_at, state, open)"
        f" VALUES (1, ?, 0, 1, {NOW}, ?, ?, ?, 0)"
    )
    ready = [(f"a{n:06}", NOW, None, NeedState.READY) for n in range(count)]
    file.executemany(row, [*ready, *((f"b{n:06}", OLD, NOW - 1, NeedState.WAITING) for n in range(SLICE))])


def tombstones(file: sqlite3.Connection, count: int) -> None:
    """Remember so many keys, all of them old."""
    file.executemany(f"INSERT INTO tombstone VALUES (1, ?, 0, 1, {OLD})", [(b"%06d" % n,) for n in range(count)])


def tokens(file: sqlite3.Connection, count: int) -> None:
    """Keep order tokens of so many keys, all of them old."""
    row = f"INSERT INTO order_token VALUES (1, ?, '1', '1', NULL, 1, {OLD})"
    file.executemany(row, [(b"%06d" % n,) for n in range(count)])


def messages(file: sqlite3.Connection, count: int) -> None:
    """Keep so many messages, none of them old."""
    file.executemany(f"INSERT INTO message (digest, at) VALUES (?, {NOW})", [(b"%06d" % n,) for n in range(count)])


def promote(file: sqlite3.Connection) -> int:
    """Turn what is due to ready."""
    return promote_due(file, now=NOW, limit=SLICE).total()


def without_tombstones(file: sqlite3.Connection) -> int:
    """Remove a slice of the old ones."""
    before = file.total_changes
    retention.remove_old_tombstones(file, after=retention.FIRST_TOMBSTONE, now=NOW, limit=SLICE)
    return file.total_changes - before


def without_old(file: sqlite3.Connection) -> int:
    """Remove a slice of what is old."""
    before = file.total_changes
    retention.remove_old(file, before=NOW, counted=NOW, now=NOW, limit=SLICE)
    return file.total_changes - before


def nothing_old(file: sqlite3.Connection) -> int:
    """Look for what is old where nothing is."""
    return without_old(file) + SLICE


@pytest.mark.parametrize(
    ("fill", "work"),
    [
        (needs, promote),
        (tombstones, without_tombstones),
        (tokens, without_old),
        (messages, nothing_old),
    ],
)
def test_a_slice_costs_the_same_among_many_rows(
    tmp_path: Path,
    file: sqlite3.Connection,
    fill: Callable[[sqlite3.Connection, int], None],
    work: Callable[[sqlite3.Connection], int],
) -> None:
    """Counted in instructions of SQLite: a hundred times as many rows stand next to it, and it does no more."""
    costs = []
    for count in (100, 10_000):
        file.execute("SAVEPOINT filled")
        fill(file, count)
        steps = [0]
        file.set_progress_handler(lambda steps=steps: steps.append(steps.pop() + 1), 1)  # type: ignore[misc]
        assert work(file) == SLICE
        file.set_progress_handler(None, 0)
        costs.append(steps[0])
        file.execute("ROLLBACK TO filled")
    assert costs[1] < 1.5 * costs[0]


def test_a_slice_of_free_pages_is_a_slice(file: sqlite3.Connection) -> None:
    """One call gives back as many pages as it says: each is a commit, and one for each page takes minutes."""
    messages(file, 200_000)
    file.execute("COMMIT")
    file.execute("DELETE FROM message")
    free = [pragma(file, "freelist_count")]
    while maintenance.give_back(file):
        free.append(pragma(file, "freelist_count"))
    assert len(free) > 3
    assert all(before - after == maintenance.GIVEN_BACK_PAGES for before, after in pairwise(free))
