"""What people ask of the store by hand: refresh or prefetch a URL, retry or discard what was set aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from listener.change import key_to_text
from listener.contracts import Unreadable
from listener.refresh import NeedState, Scope, directory_of
from listener.store.batches import NeedInput, next_sequence
from listener.store.names import Names

__all__ = [
    "DeadLetter",
    "add_dead_letters",
    "ask",
    "bound_dead_letters",
    "dead_letters",
    "discard",
    "explain",
    "retry",
]

MAX_BODY_BYTES = 256 * 1024
"""Of a message set aside this much is kept: the largest that MNS carries, and SQS by default."""
MAX_BODIES = 1_000
"""Of so many messages set aside the body is kept: a misrouted queue shows its fault in the first ones."""
MAX_LETTERS = 100_000
"""So many messages and keys are kept at most: then the oldest are forgotten."""


class DeadLetter(NamedTuple):
    """Something that was set aside and waits for a decision."""

    id: str
    at: float | None
    """Seconds since the epoch; unknown for parked URLs."""
    source: str
    """The source it came from, or the target that refused it."""
    kind: str
    """``key``, ``message`` or ``url``."""
    subject: str
    reason: str


_OPEN = f"(open <> 0 AND state = {NeedState.WAITING:d})"


def ask(
    connection: sqlite3.Connection,
    names: Names,
    inputs: Sequence[NeedInput],
    *,
    now: float,
    urgent: bool = False,
    reason: str | None = None,
    backfill: bool = False,
) -> int:
    """
    Make needs that are due at once; return their sequence.

    Refreshes go as soon as quota allows, unpaced: a person decided that they are worth it. Prefetches wait
    their turn, behind every refresh of the same URL.

    One that is still being written, or not yet at the origin, keeps its wait: sooner it would be fetched in vain.
    """
    sequence = next_sequence(connection)
    rows: list[tuple[int, str, int, int, float, bool, str | None, bool, bool]] = []
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
                backfill,
            )
        )
    connection.executemany(
        f"""
        INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open, urgent, reason,
          asked, backfill)
        VALUES (?1, ?2, ?3, ?4, ?5, ?5, {NeedState.READY:d}, 0, ?6, ?7, ?8, ?9)
        ON CONFLICT DO UPDATE SET sequence = ?4, attempt = NULL, window_first = ?5, urgent = max(urgent, ?6),
          asked = max(asked, ?8), backfill = min(backfill, ?9),
          reason = CASE WHEN state = {NeedState.PARKED:d} THEN ?7 ELSE coalesce(?7, reason) END,
          state = CASE WHEN {_OPEN} THEN state ELSE {NeedState.READY:d} END,
          due_at = CASE WHEN {_OPEN} THEN due_at END, open = CASE WHEN {_OPEN} THEN open ELSE 0 END
        """,
        sorted(rows),
    )
    return sequence


def dead_letters(connection: sqlite3.Connection, *, limit: int) -> list[DeadLetter]:
    """Return what was set aside, newest first: keys and messages, then URLs that a CDN refused."""
    letters = [
        DeadLetter(f"letter-{id_}", at, source, kind, key_to_text(bytes(subject)), reason)
        for id_, at, source, kind, subject, reason in connection.execute(
            "SELECT id, at, source, kind, subject, reason FROM dead_letter ORDER BY id DESC LIMIT ?", (limit,)
        )
    ]
    urls = connection.execute(
        "SELECT d.id, need.name, scope, t.name, d.url || need.name, coalesce(reason, '') FROM need"
        " JOIN directory d ON d.id = need.directory JOIN target t ON t.id = d.target"
        f" WHERE state >= 3 AND state = {NeedState.PARKED:d} LIMIT ?",
        (limit - len(letters),),
    )
    return letters + [
        DeadLetter(f"url-{directory}-{scope}-{name}", None, target, "url", url, reason)
        for directory, name, scope, target, url, reason in urls
    ]


def add_dead_letters(connection: sqlite3.Connection, *, source: str, letters: Sequence[Unreadable], now: float) -> None:
    """Set messages aside, each with its body as far as that is bounded."""
    connection.executemany(
        "INSERT INTO dead_letter (at, source, kind, subject, reason, body) VALUES (?, ?, 'message', ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET at = excluded.at, reason = excluded.reason, body = excluded.body",
        [(now, source, one.subject, one.reason, one.body[:MAX_BODY_BYTES]) for one in letters],
    )


def bound_dead_letters(connection: sqlite3.Connection, *, limit: int) -> int:
    """Forget a slice of the oldest beyond what is kept, bodies sooner; return how many rows were touched."""
    forget = "DELETE FROM dead_letter WHERE id IN"
    strip = "UPDATE dead_letter SET body = NULL WHERE id IN"
    return _beyond(connection, forget, "1", MAX_LETTERS, limit) + _beyond(
        connection, strip, "body IS NOT NULL", MAX_BODIES, limit
    )


def _beyond(connection: sqlite3.Connection, change: str, those: str, kept: int, limit: int) -> int:
    """Change the oldest of those rows, as long as more than ``kept`` of them are there."""
    newest_to_go = f"SELECT id FROM dead_letter WHERE {those} ORDER BY id DESC LIMIT 1 OFFSET ?"
    chosen = f"SELECT id FROM dead_letter WHERE {those} AND id <= ({newest_to_go}) ORDER BY id LIMIT ?"
    return connection.execute(f"{change} ({chosen})", (kept, limit)).rowcount


_PARKED = f"state >= 3 AND state = {NeedState.PARKED:d}"


def retry(connection: sqlite3.Connection, *, url: str | None) -> int:
    """Send parked URLs once more, or one of them; return how many. Keys and messages cannot be sent as they are."""
    where, values = _that(url)
    return connection.execute(
        f"UPDATE need SET state = {NeedState.READY:d}, reason = NULL, open = 0, sequence = ? WHERE {_PARKED}{where}",
        (next_sequence(connection), *values),
    ).rowcount


def discard(connection: sqlite3.Connection, *, subject: str | None) -> int:
    """Forget what was set aside, or one of it; return how many."""
    where, values = _that(subject)
    count = connection.execute(f"DELETE FROM need WHERE {_PARKED}{where}", values).rowcount
    one = "" if subject is None else " WHERE subject = ?"
    letters = () if subject is None else (subject.encode("utf-8", "surrogateescape"),)
    return count + connection.execute(f"DELETE FROM dead_letter{one}", letters).rowcount


def _that(url: str | None) -> tuple[str, tuple[str, ...]]:
    if url is None:
        return "", ()
    place = directory_of(url) if "/" in url else url
    return " AND name = ? AND directory IN (SELECT id FROM directory WHERE url = ?)", (url[len(place) :], place)


def explain(connection: sqlite3.Connection, url: str) -> list[dict[str, Any]]:
    """Return the needs of exactly this URL, of any target and scope: is it stale, since when and why."""
    place = directory_of(url)
    cursor = connection.execute(
        "SELECT t.name AS target, d.url || need.name AS url, scope, sequence, state, stale_since, due_at, open,"
        " needs_force, urgent, attempt, reason FROM target t CROSS JOIN directory d ON d.target = t.id"
        " CROSS JOIN need ON need.directory = d.id WHERE d.url = ? AND need.name = ?",
        (place, url[len(place) :]),
    )
    columns = [column[0] for column in cursor.description]
    found = [dict(zip(columns, row, strict=True)) for row in cursor]
    for need in found:
        need["state"] = NeedState(need["state"]).name.lower()
    return found
