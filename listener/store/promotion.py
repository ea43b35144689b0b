"""Ripening: needs whose wait is over become ready; and what waits follows a clock that is set back."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

from listener.refresh import NeedState, Priority, Scope
from listener.settings import CoalescerSettings
from listener.store.index import next_sequence

__all__ = ["Promoted", "next_due", "prolong_births", "promote_due", "set_back", "set_looks_back"]


def next_due(connection: sqlite3.Connection) -> float | None:
    """Return when the next waiting need is due, in seconds since the epoch."""
    row = connection.execute("SELECT min(due_at) FROM need WHERE due_at IS NOT NULL").fetchone()
    return None if row[0] is None else float(row[0])


Promoted = Counter[tuple[str, Scope, Priority]]
"""How many needs became READY, by target, scope and priority."""


def promote_due(connection: sqlite3.Connection, *, now: float, limit: int) -> Promoted:
    """
    Turn up to ``limit`` waiting needs that are due to READY; return how many.

    An open need takes a new sequence, so that no attempt made while it was open covers it.
    """
    if connection.execute("SELECT 1 FROM need WHERE due_at <= ? LIMIT 1", (now,)).fetchone() is None:
        return Counter()
    rows = connection.execute(
        f"""
        UPDATE need SET state = {NeedState.READY:d}, due_at = NULL, open = 0, window_first = ?2,
          sequence = CASE WHEN open THEN ?1 ELSE sequence END
        WHERE (directory, name, scope) IN (
          SELECT directory, name, scope FROM need WHERE due_at <= ?2 ORDER BY due_at LIMIT ?3)
        RETURNING directory, scope, priority
        """,
        (next_sequence(connection), now, limit),
    )
    places = Counter(rows.fetchall())
    targets: dict[int, str] = dict(
        connection.execute(
            "SELECT d.id, t.name FROM directory d JOIN target t ON t.id = d.target"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (json.dumps([directory for directory, *_ in places]),),
        ).fetchall()
    )
    promoted: Promoted = Counter()
    for (directory, scope, priority), count in places.items():
        promoted[targets[directory], Scope(scope), Priority(priority)] += count
    return promoted


FIRST_SCAN_SECONDS = 10.0
"""
A start and the first scan of most trees take less. Where they take longer, a temporary name may cost a unit; more
would hold up new objects for longer after each start.
"""


def prolong_births(connection: sqlite3.Connection, *, now: float, timing: CoalescerSettings) -> None:
    """
    Let waiting needs of new objects wait for the first scan of this process, at most to the end of their window.

    While no process ran nobody saw whether the object went again: a temporary name would cost a refresh.
    """
    wait_seconds = max(timing.quiet_seconds, FIRST_SCAN_SECONDS)
    connection.execute(
        "UPDATE need SET due_at = max(due_at, min(?1 + ?2, window_first + ?3))"
        f" WHERE due_at < ?1 + ?2 AND state = {NeedState.WAITING:d} AND birth IS NOT NULL",
        (now, wait_seconds, timing.cap_seconds),
    )


def set_back(connection: sqlite3.Connection, *, after: float, seconds: float, limit: int) -> float | None:
    """
    Move a slice of what waits for a time after ``after`` back by so much; return where to go on, None at the end.

    The earliest first: what was moved lies before ``after`` from then on, and is not moved again.
    """
    row = connection.execute(
        "SELECT due_at FROM need WHERE due_at > ? ORDER BY due_at LIMIT 1 OFFSET ?", (after, limit - 1)
    ).fetchone()
    connection.execute(
        "UPDATE need SET due_at = due_at - ?1 WHERE due_at > ?2 AND (?3 IS NULL OR due_at <= ?3)",
        (seconds, after, row and row[0]),
    )
    return None if row is None else float(row[0])


def set_looks_back(connection: sqlite3.Connection, *, after: float, seconds: float) -> None:
    """Move the next looks at attempts that lie after ``after``, and the end of every override, back by so much."""
    connection.execute(
        "UPDATE attempt SET next_look_at = next_look_at - ? WHERE active = 1 AND next_look_at > ?", (seconds, after)
    )
    connection.execute("UPDATE control SET until = until - ?", (seconds,))
