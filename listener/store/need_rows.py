"""The rows of needs as changes make them, or raise those that are there: each statement for many changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from listener.refresh import NeedState, Priority
from listener.store.bulk import NEED_KEY, Bulk, RowStatement, in_sets_of, select_wanted
from listener.store.connection import Connection
from listener.store.needs import count_ready, covered_by_marks

__all__ = ["DueNeed", "NeedClass", "NeedRow", "make_due", "write_needs"]

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
    "INSERT INTO need (directory, name, scope, stale_since,"
    " sequence, window_first, due_at, state, open, needs_force, priority, birth) {} ON CONFLICT DO NOTHING",
    f"({{0}}, {{1}}, {{2}}, {{3}}, ?1, ?2, ?3, {_WAITING:d}, ?4, ?5, ?6, CASE ?7 WHEN 1 THEN {{4}} END)",
    columns=5,
    constants=7,
    key=NEED_KEY,
)
_KEY = "{rows} WHERE directory = {0} AND name = {1} AND scope = {2}"


def write_needs(connection: Connection, of: NeedClass, rows: Sequence[NeedRow], *, sequence: int, now: float) -> None:
    """Make these needs, or raise those that are there to this change; to raise one twice is to raise it once."""
    due = now + of.due_seconds
    constants = (sequence, now, due, of.open, of.needs_force, int(of.priority), of.is_birth)
    times = {"due": due, "earliest": now + of.delay_seconds, "cap": of.cap_seconds}
    marks = {"mark": of.mark, "forced_mark": of.forced_mark} if of.mark else {}
    classed = {"priority": int(of.priority), "needs_force": int(of.needs_force), **marks}
    values = {"sequence": sequence, "now": now, **classed, **times}
    raised = _raise(of.open, is_covered=bool(of.mark))
    left = rows
    if in_sets_of(connection) is not None:  # what is there already is found sooner than an insert of it fails
        left = raised.missed(connection, left, **values)
    left = _INSERT.write(connection, left, constants)
    if left and not (of.mark or of.open or of.needs_force):
        left = _RAISE_WAITING.missed(connection, left, sequence=sequence, priority=int(of.priority), **times)
    raised.run(connection, left, **values)


# Also at the cap not before the origin has the change: it would be fetched too early, and lost.
_DUE = "max({earliest}, min({due}, window_first + {cap}))"
_SEQUENCE = "sequence = max(sequence, {sequence})"
"""Of two processes that record at once the one with the higher number may come first; the store's page has the rule."""
_RAISE_WAITING = RowStatement(
    f"UPDATE need SET {_SEQUENCE}, due_at = {_DUE}, open = 0,"
    " birth = CASE WHEN birth = {4} THEN birth END"
    f" {_KEY} AND state = {_WAITING:d} AND open < 2 AND priority <= {{priority}} AND {{3}} IS NOT NULL",
    columns=5,
    key=NEED_KEY,
)
"""The common case by itself, since it touches one index and not seven."""


@lru_cache
def _raise(open_: int, *, is_covered: bool) -> RowStatement:
    """
    Return what raises a need in any state to a change.

    Args:
        open_: whether the write is unfinished, or not yet at the origin.
        is_covered: whether a directory attempt under way is above the need.
    """
    # What an attempt covers starts a new window; so does a READY need whose object is being written again.
    covered = f"state IN ({_ATTEMPTED:d}, {_UNCONFIRMED:d})"
    if is_covered:
        covered = f"({covered} OR {covered_by_marks('{mark}', '{forced_mark}')})"
    restart = f"({covered} OR state = {_READY:d})" if open_ else covered
    delayed = f"(state = {_WAITING:d} AND open = 2)"
    statement = f"""
    UPDATE need SET
      due_at = CASE WHEN state = {_PARKED:d} OR (state = {_READY:d} AND NOT {restart}) THEN NULL
                    WHEN {restart} THEN {{due}}
                    WHEN {delayed} THEN max(due_at, {_DUE})
                    ELSE {_DUE} END,
      open = CASE WHEN {delayed} THEN 2 ELSE {open_:d} END,
      window_first = CASE WHEN {restart} OR state IN ({_READY:d}, {_PARKED:d}) THEN {{now}} ELSE window_first END,
      later_since = CASE WHEN {covered} THEN coalesce(later_since, {{3}}) ELSE later_since END,
      attempt = NULL,
      state = CASE WHEN state = {_PARKED:d} OR (state = {_READY:d} AND NOT {restart}) THEN state ELSE {_WAITING:d} END,
      needs_force = max(needs_force, {{needs_force}}),
      priority = min(priority, {{priority}}),
      birth = CASE WHEN NOT {restart} AND state = {_WAITING:d} AND birth = {{4}} THEN birth END,
      {_SEQUENCE}
    {_KEY}
    """
    return RowStatement(statement, columns=5, key=NEED_KEY)


_KEEPS_WAIT = f"(need.open <> 0 AND need.state = {NeedState.WAITING:d})"


class DueNeed(NamedTuple):
    """The row of a need that is due at once."""

    directory: int
    name: str
    scope: int
    sequence: int
    stale_since: float
    urgent: bool
    reason: str | None
    asked: bool
    priority: int


def make_due(connection: Connection, rows: Sequence[DueNeed], sequence: int) -> None:
    """Make needs that are due at once, and merge them with those that are there."""
    waits = select_wanted(
        connection,
        [tuple(row[:3]) for row in rows],
        "SELECT directory, name, scope FROM wanted"
        " CROSS JOIN need ON directory = column1 AND name = column2 AND scope = column3"
        f" WHERE state = {NeedState.WAITING:d} AND open = 0",
    )
    waited = Counter(directory for directory, *_ in set(waits))
    count_ready(connection, {directory: (count, sequence) for directory, count in waited.items()})
    connection.executemany(
        f"""
        INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open, urgent, reason,
          asked, priority)
        VALUES (?1, ?2, ?3, ?4, ?5, ?5, {NeedState.READY:d}, 0, ?6, ?7, ?8, ?9)
        ON CONFLICT (directory, name, scope) DO UPDATE SET sequence = max(need.sequence, ?4), attempt = NULL,
          stale_since = min(need.stale_since, ?5), window_first = ?5, urgent = max(need.urgent, ?6),
          asked = max(need.asked, ?8), priority = min(need.priority, ?9),
          reason = CASE WHEN need.state = {NeedState.PARKED:d} THEN ?7 ELSE coalesce(?7, need.reason) END,
          state = CASE WHEN {_KEEPS_WAIT} THEN need.state ELSE {NeedState.READY:d} END,
          due_at = CASE WHEN {_KEEPS_WAIT} THEN need.due_at END,
          open = CASE WHEN {_KEEPS_WAIT} THEN need.open ELSE 0 END
        """,
        sorted(rows),
    )
