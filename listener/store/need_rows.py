"""The rows of needs as changes make them, or raise those that are there: each statement for many changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from listener.refresh import NeedState, Priority
from listener.store.bulk import Bulk, missed_rows
from listener.store.connection import Connection
from listener.store.needs import covered_by_marks

__all__ = ["NeedClass", "NeedRow", "write_needs"]

_WAITING, _READY, _ATTEMPTED, _PARKED, _UNCONFIRMED = NeedState
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


_INSERT = Bulk(
    "INSERT OR IGNORE INTO need (directory, name, scope, stale_since,"
    " sequence, window_first, due_at, state, open, needs_force, priority, birth) {}",
    f"({{0}}, {{1}}, {{2}}, {{3}}, ?1, ?2, ?3, {_WAITING:d}, ?4, ?5, ?6, CASE ?7 WHEN 1 THEN {{4}} END)",
    columns=5,
    constants=7,
)
_KEY = "WHERE directory = ?1 AND name = ?2 AND scope = ?3"


def write_needs(connection: Connection, of: NeedClass, rows: Sequence[NeedRow], *, sequence: int, now: float) -> None:
    """Make these needs, or raise those that are there to this change; to raise one twice is to raise it once."""
    constants = (sequence, now, now + of.due_seconds, of.open, of.needs_force, int(of.priority), of.is_birth)
    left: Sequence[NeedRow] = _INSERT.write(connection, rows, constants)
    if left and not (of.mark or of.open or of.needs_force):
        left = missed_rows(connection, _update_waiting(of, sequence, now), left)
    if left:
        connection.executemany(_update(of, sequence, now), left)


# The numbers in these statements are our own; binding them for each row would cost as much as the row.
def _due(of: NeedClass, now: float) -> str:
    # Also at the cap not before the origin has the change: it would be fetched too early, and lost.
    return f"max({now + of.delay_seconds!r}, min({now + of.due_seconds!r}, window_first + {of.cap_seconds!r}))"


def _update_waiting(of: NeedClass, sequence: int, now: float) -> str:
    """The common case by itself, since it touches one index and not seven."""
    return (
        f"UPDATE need SET sequence = {sequence}, due_at = {_due(of, now)}, open = 0,"
        " birth = CASE WHEN birth = ?5 THEN birth END"
        f" {_KEY} AND state = {_WAITING:d} AND open < 2 AND priority <= {of.priority:d} AND ?4 IS NOT NULL"
    )


def _update(of: NeedClass, sequence: int, now: float) -> str:
    # What an attempt covers starts a new window; so does a READY need whose object is being written again.
    covered = f"state IN ({_ATTEMPTED:d}, {_UNCONFIRMED:d})"
    if of.mark:
        covered = f"({covered} OR {covered_by_marks(str(of.mark), str(of.forced_mark))})"
    restart = f"({covered} OR state = {_READY:d})" if of.open else covered
    delayed = f"(state = {_WAITING:d} AND open = 2)"
    return f"""
    UPDATE need SET
      due_at = CASE WHEN state = {_PARKED:d} OR (state = {_READY:d} AND NOT {restart}) THEN NULL
                    WHEN {restart} THEN {now + of.due_seconds!r}
                    WHEN {delayed} THEN max(due_at, {_due(of, now)})
                    ELSE {_due(of, now)} END,
      open = CASE WHEN {delayed} THEN 2 ELSE {of.open} END,
      window_first = CASE WHEN {restart} OR state IN ({_READY:d}, {_PARKED:d}) THEN {now!r} ELSE window_first END,
      later_since = CASE WHEN {covered} THEN coalesce(later_since, ?4) ELSE later_since END,
      attempt = NULL,
      state = CASE WHEN state = {_PARKED:d} OR (state = {_READY:d} AND NOT {restart}) THEN state ELSE {_WAITING:d} END,
      needs_force = max(needs_force, {of.needs_force:d}),
      priority = min(priority, {of.priority:d}),
      birth = CASE WHEN NOT {restart} AND state = {_WAITING:d} AND birth = ?5 THEN birth END,
      sequence = {sequence}
    {_KEY}
    """
