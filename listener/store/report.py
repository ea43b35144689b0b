"""What is where, since when and why: the numbers behind ``status`` (promise 5)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, NamedTuple

from listener.contracts import SourceHealth
from listener.refresh import AttemptState, NeedState
from listener.store.letters import bounded_text
from listener.store.names import prefix_end
from listener.store.needs import Flying, covering, flying_directories

__all__ = ["Counts", "counts", "history", "save_source", "sources"]


class Counts(NamedTuple):
    """Needs by what becomes of them next; each need is in one of these, but for ``deferred``."""

    pending: int
    """In no attempt."""
    deferred: int
    """Of the pending ones, those that are due: they wait for quota."""
    in_flight: int
    failed: int
    """Waiting for the back-off after a failed attempt."""
    parked: int
    unconfirmed: int
    dead_letters: int
    oldest_stale_since: float | None
    """Seconds since the epoch of the oldest change that is not settled."""


_FLYING = {
    AttemptState.HELD: "in_flight",
    AttemptState.SENDING: "in_flight",
    AttemptState.UNKNOWN: "in_flight",
    AttemptState.ACCEPTED: "in_flight",
    AttemptState.FAILED: "failed",
    AttemptState.UNCONFIRMED: "unconfirmed",
    AttemptState.COMPLETE: "settled",
}


def counts(connection: sqlite3.Connection) -> Counts:
    """Count every need."""
    flying = flying_directories(connection)
    number = {"in_flight": 0, "failed": 0, "unconfirmed": 0, "settled": 0}
    for state, count in connection.execute(
        "SELECT attempt.state, count(*) FROM need JOIN attempt ON attempt.id = need.attempt"
        f" WHERE need.state = {NeedState.ATTEMPTED:d} GROUP BY attempt.state"
    ):
        number[_FLYING[AttemptState(state)]] += count
    ready = _one(connection, "SELECT coalesce(sum(ready), 0) FROM directory WHERE ready > 0")
    waiting = _one(connection, "SELECT count(*) FROM need WHERE due_at IS NOT NULL")
    waits = _waiting_directories(connection) if flying else set()
    for (target, url), cover in flying.items():
        covered_ready, covered_waiting = _covered(connection, flying, target, url, waits)
        ready -= covered_ready
        waiting -= covered_waiting
        number[_FLYING[AttemptState(cover.state)]] += covered_ready + covered_waiting
    aside = dict(connection.execute("SELECT state, count(*) FROM need WHERE state >= 3 GROUP BY state").fetchall())
    keys = _one(connection, "SELECT count(*) FROM dead_letter WHERE kind = 'key'")
    letters = _one(connection, "SELECT count(*) FROM dead_letter")
    parked = aside.get(NeedState.PARKED, 0)
    return Counts(
        pending=ready + waiting,
        deferred=ready,
        in_flight=number["in_flight"],
        failed=number["failed"],
        parked=parked + keys,
        unconfirmed=number["unconfirmed"] + aside.get(NeedState.UNCONFIRMED, 0),
        dead_letters=letters + parked,
        oldest_stale_since=_oldest(connection),
    )


def _one(connection: sqlite3.Connection, query: str, values: tuple[object, ...] = ()) -> int:
    return int(connection.execute(query, values).fetchone()[0])


def _waiting_directories(connection: sqlite3.Connection) -> set[int]:
    return {
        row[0]
        for row in connection.execute(
            "SELECT DISTINCT +directory FROM need INDEXED BY need_due WHERE due_at IS NOT NULL"
        )
    }


def _covered(
    connection: sqlite3.Connection, flying: Mapping[tuple[int, str], Flying], target: int, url: str, waits: set[int]
) -> tuple[int, int]:
    """Count the ready and the waiting needs that this attempt, rather than another above or below it, covers."""
    cover = flying[target, url]
    ready = waiting = 0
    rows = connection.execute(
        "SELECT d.id, d.url, ready, last_sequence, EXISTS (SELECT 1 FROM need WHERE directory = d.id"
        "  AND state = 1 AND scope = 3 AND scope > 0)"
        " FROM directory d WHERE target = ? AND url >= ? AND url < ?",
        (target, url, prefix_end(url)),
    )
    within = "directory = ? AND sequence <= ? AND open = 0 AND scope <> 3 AND (needs_force = 0 OR ?)"
    for directory, below, count, last, prefetch in rows.fetchall():
        if covering(flying, target, below) is not cover:
            continue
        values = (directory, cover.watermark, cover.force)
        if count and last <= cover.watermark and cover.force and not prefetch:
            ready += count
        elif count:
            ready += _one(connection, f"SELECT count(*) FROM need WHERE state = 1 AND {within}", values)
        if directory in waits:
            waiting += _one(connection, f"SELECT count(*) FROM need WHERE +due_at IS NOT NULL AND {within}", values)
    return ready, waiting


def _oldest(connection: sqlite3.Connection) -> float | None:
    found = [
        connection.execute(query).fetchone()[0]
        for query in (
            """SELECT min((SELECT stale_since FROM need WHERE directory = d.id AND state = 1 AND scope <> 3
               ORDER BY stale_since LIMIT 1)) FROM directory d WHERE ready > 0""",
            "SELECT min(stale_since) FROM need WHERE due_at IS NOT NULL AND scope <> 3",
            "SELECT min(stale_since) FROM need WHERE attempt IS NOT NULL AND scope <> 3",
            "SELECT min(stale_since) FROM need WHERE state >= 3 AND scope <> 3",
        )
    ]
    return min((since for since in found if since is not None), default=None)


def save_source(connection: sqlite3.Connection, name: str, health: SourceHealth, *, now: float) -> None:
    """Keep what a source says of itself, for ``status`` without a daemon."""
    connection.execute(
        "INSERT OR REPLACE INTO source VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            name,
            health.state.value,
            health.ready,
            health.last_event_at,
            health.lost_events,
            health.rescans,
            bounded_text(health.detail),  # it may quote a file name or an answer
            json.dumps(health.figures),
            now,
        ),
    )


def sources(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    """Return what each source said of itself last, by name."""
    cursor = connection.execute("SELECT * FROM source ORDER BY name")
    columns = [column[0] for column in cursor.description]
    found = {}
    for row in cursor:
        fields = dict(zip(columns, row, strict=True))
        fields["ready"] = bool(fields["ready"])
        fields["figures"] = json.loads(fields["figures"])
        found[fields.pop("name")] = fields
    return found


def history(connection: sqlite3.Connection, *, limit: int, url: str | None = None) -> list[dict[str, Any]]:
    """Return the latest attempts, newest first, as plain fields: the audit of what was sent and why."""
    only = "" if url is None else " WHERE attempt.url = ?"
    cursor = connection.execute(
        "SELECT attempt.id, target.name AS target, kind, url, force, state, task_id, created_at, sent_at, accepted_at,"
        " finished_at, finished_at - stale_since AS latency_seconds, looks, tries, covered, urgent, reason, error"
        f" FROM attempt JOIN target ON target.id = attempt.target{only} ORDER BY attempt.id DESC LIMIT ?",
        (limit,) if url is None else (url, limit),
    )
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]
