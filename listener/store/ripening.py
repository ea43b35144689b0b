"""Ripening: needs whose wait is over become ready; and what waits follows a clock that is set back."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

from listener.refresh import NeedState, Scope
from listener.store.batches import next_sequence

__all__ = ["Ripened", "next_due", "ripen", "set_back"]


def next_due(connection: sqlite3.Connection) -> float | None:
    """Return when the next waiting need is due, in seconds since the epoch."""
    row = connection.execute("SELECT min(due_at) FROM need WHERE due_at IS NOT NULL").fetchone()
    return None if row[0] is None else float(row[0])


Ripened = Counter[tuple[str, Scope]]
"""How many needs became READY, by target and scope."""


def ripen(connection: sqlite3.Connection, *, now: float, limit: int) -> Ripened:
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
        RETURNING directory, scope
        """,
        (next_sequence(connection), now, limit),
    )
    places = Counter(rows.fetchall())
    targets: dict[int, str] = dict(
        connection.execute(
            "SELECT d.id, t.name FROM directory d JOIN target t ON t.id = d.target"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (json.dumps([directory for directory, _ in places]),),
        ).fetchall()
    )
    ripened: Ripened = Counter()
    for (directory, scope), count in places.items():
        ripened[targets[directory], Scope(scope)] += count
    return ripened


STEP_MARGIN_SECONDS = 30.0


def set_back(connection: sqlite3.Connection, *, now: float, seconds: float) -> None:
    """
    Move what waits for a time along with a clock that was set back to ``now`` by so much.

    What was written since stands at most a little after ``now``, and is left as it is.
    """
    values = (seconds, now + seconds - STEP_MARGIN_SECONDS)
    connection.execute("UPDATE need SET due_at = due_at - ? WHERE due_at > ?", values)
    connection.execute(
        "UPDATE attempt SET next_look_at = next_look_at - ? WHERE active = 1 AND next_look_at > ?", values
    )
