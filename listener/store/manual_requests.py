"""What people ask of the store: refresh or prefetch a URL, and why one is stale."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from listener.refresh import NeedState, Priority, Scope, directory_of
from listener.store.index import Names, next_sequence
from listener.store.record import NeedInput

__all__ = [
    "request",
]

_OPEN = f"(open <> 0 AND state = {NeedState.WAITING:d})"


def request(
    connection: sqlite3.Connection,
    names: Names,
    inputs: Sequence[NeedInput],
    *,
    now: float,
    urgent: bool = False,
    reason: str | None = None,
    priority: Priority = Priority.LIVE,
) -> int:
    """
    Make needs that are due at once; return their sequence.

    Refreshes go as soon as quota allows, unpaced: a person decided that they are worth it. Prefetches wait
    their turn, behind every refresh of the same URL.

    One that is still being written, or not yet at the origin, keeps its wait: sooner it would be fetched in vain.
    """
    sequence = next_sequence(connection)
    rows: list[tuple[int, str, int, int, float, bool, str | None, bool, int]] = []
    for target, url, scope, *_ in inputs:
        place = directory_of(url)
        directory = names.directory(connection, names.target(connection, target), place)
        rows.append(
            (
                directory,
                url[len(place) :],
                int(scope),
                sequence,
                now,
                urgent,
                reason,
                urgent or scope is not Scope.PREFETCH,
                priority,
            )
        )
    connection.executemany(
        f"""
        INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open, urgent, reason,
          asked, priority)
        VALUES (?1, ?2, ?3, ?4, ?5, ?5, {NeedState.READY:d}, 0, ?6, ?7, ?8, ?9)
        ON CONFLICT DO UPDATE SET sequence = ?4, attempt = NULL, window_first = ?5, urgent = max(urgent, ?6),
          asked = max(asked, ?8), priority = min(priority, ?9),
          reason = CASE WHEN state = {NeedState.PARKED:d} THEN ?7 ELSE coalesce(?7, reason) END,
          state = CASE WHEN {_OPEN} THEN state ELSE {NeedState.READY:d} END,
          due_at = CASE WHEN {_OPEN} THEN due_at END, open = CASE WHEN {_OPEN} THEN open ELSE 0 END
        """,
        sorted(rows),
    )
    return sequence
