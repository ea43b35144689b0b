"""Writing rows that may be there already: in bulk, each statement a C loop, rows in the order of their pages."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

from listener.refresh import Priority
from listener.store.coverage import covered_by_marks

__all__ = ["NeedClass", "NeedRow", "Upsert", "missed_rows", "write_needs"]

Row = TypeVar("Row", bound=tuple[object, ...])
NeedRow = tuple[int, str, int, float, int]
"""Directory, name, scope, stale since, and the object's mark: a number that stands for its storage and key."""


class NeedClass(NamedTuple):
    """What the needs of one batch have in common, so that it stands in the statement and is not bound row by row."""

    due_seconds: float
    """From now, when nothing else changes."""
    cap_seconds: float
    """From the first change of the window."""
    delay_seconds: float
    """From now, until which the origin surely does not have the change."""
    open: int
    """1: the write is unfinished; 2: it is not yet at the origin."""
    needs_force: bool
    mark: int
    """The highest watermark of the directory attempts under way above the need, or 0."""
    forced_mark: int
    """The highest of those that are forced, or 0."""
    priority: Priority = Priority.LIVE
    is_birth: bool = False
    """Whether they are about objects that were not known before these changes."""


class Upsert:
    """Inserts rows or updates them, and begins with what the last rows needed most: that saves a search each."""

    def __init__(self) -> None:
        """Begin with inserts."""
        self._new_first = True

    def write(
        self, connection: sqlite3.Connection, rows: Sequence[Row], *, insert: str, updates: Sequence[str]
    ) -> tuple[Sequence[Row], Sequence[Row]]:
        """
        Write the rows; return those that the inserts saw, and which of these were there already.

        Args:
            connection: the writing connection, inside a transaction.
            rows: sorted by primary key; the later of two with one key wins.
            insert: an ``INSERT OR IGNORE`` of a row.
            updates: updates of a row, each for what those before it left; the last one takes any.
        """
        tried = rows
        if not self._new_first:
            for update in updates:
                tried = missed_rows(connection, update, tried)
        known = missed_rows(connection, insert, tried)
        if known:
            connection.executemany(updates[-1], known)
        self._new_first = 2 * (len(tried) - len(known)) >= len(rows)
        return tried, known


def missed_rows(connection: sqlite3.Connection, statement: str, rows: Sequence[Row]) -> Sequence[Row]:
    """Run the statement for each row; return the rows for which it changed nothing."""
    missed: list[Row] = []

    def reported() -> Iterator[Row]:
        before = connection.total_changes
        for row in rows:
            yield row
            after = connection.total_changes
            if after == before:
                missed.append(row)
            before = after

    if rows:
        connection.executemany(statement, reported())
    return missed


_KEY = "WHERE directory = ?1 AND name = ?2 AND scope = ?3"


def write_needs(
    connection: sqlite3.Connection, upsert: Upsert, of: NeedClass, rows: Sequence[NeedRow], *, sequence: int, now: float
) -> None:
    """Make these needs, or raise those that are there to this change."""
    updates = [_update(of, sequence, now)]
    if not (of.mark or of.open or of.needs_force):
        updates.insert(0, _update_waiting(of, sequence, now))
    upsert.write(connection, rows, insert=_insert(of, sequence, now), updates=updates)


# The numbers in these statements are our own; binding them for each row would cost as much as the row.
def _insert(of: NeedClass, sequence: int, now: float) -> str:
    return (
        "INSERT OR IGNORE INTO need (directory, name, scope, stale_since,"
        " sequence, window_first, due_at, state, open, needs_force, priority, birth)"
        f" VALUES (?1, ?2, ?3, ?4, {sequence}, {now!r}, {now + of.due_seconds!r}, 0, {of.open}, {of.needs_force:d},"
        f" {of.priority:d}, {'?5' if of.is_birth else 'nullif(?5, ?5)'})"
    )


def _due(of: NeedClass, now: float) -> str:
    # Also at the cap not before the origin has the change: it would be fetched too early, and lost.
    return f"max({now + of.delay_seconds!r}, min({now + of.due_seconds!r}, window_first + {of.cap_seconds!r}))"


def _update_waiting(of: NeedClass, sequence: int, now: float) -> str:
    """The common case by itself, since it touches one index and not seven."""
    return (
        f"UPDATE need SET sequence = {sequence}, due_at = {_due(of, now)}, open = 0,"
        " birth = CASE WHEN birth = ?5 THEN birth END"
        f" {_KEY} AND state = 0 AND open < 2 AND priority <= {of.priority:d} AND ?4 IS NOT NULL"
    )


def _update(of: NeedClass, sequence: int, now: float) -> str:
    # What an attempt covers starts a new window; so does a READY need whose object is being written again.
    covered = "state IN (2, 4)"
    if of.mark:
        covered = f"({covered} OR {covered_by_marks(str(of.mark), str(of.forced_mark))})"
    restart = f"({covered} OR state = 1)" if of.open else covered
    delayed = "(state = 0 AND open = 2)"
    return f"""
    UPDATE need SET
      due_at = CASE WHEN state = 3 OR (state = 1 AND NOT {restart}) THEN NULL
                    WHEN {restart} THEN {now + of.due_seconds!r}
                    WHEN {delayed} THEN max(due_at, {_due(of, now)})
                    ELSE {_due(of, now)} END,
      open = CASE WHEN {delayed} THEN 2 ELSE {of.open} END,
      window_first = CASE WHEN {restart} OR state IN (1, 3) THEN {now!r} ELSE window_first END,
      later_since = CASE WHEN {covered} THEN coalesce(later_since, ?4) ELSE later_since END,
      attempt = NULL,
      state = CASE WHEN state = 3 THEN 3 WHEN state = 1 AND NOT {restart} THEN 1 ELSE 0 END,
      needs_force = max(needs_force, {of.needs_force:d}),
      priority = min(priority, {of.priority:d}),
      birth = CASE WHEN NOT {restart} AND state = 0 AND birth = ?5 THEN birth END,
      sequence = {sequence}
    {_KEY}
    """
