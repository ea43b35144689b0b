"""How attempts end: complete, failed, unconfirmed; and the sweep of what a directory attempt settled."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from listener.refresh import COVERAGE, Attempt, AttemptState, NeedState, RefreshKind, directory_of, strip_query
from listener.store import ledger
from listener.store.attempts import release_needs, take_held
from listener.store.coverage import covered
from listener.store.index import prefix_end

__all__ = ["Place", "complete", "end_backoff", "fail", "look_again", "park", "presume_spent", "sweep", "unconfirm"]

SWEEP_DIRECTORIES = 200
"""Directories that one slice of a sweep looks at, at most."""


def complete(connection: sqlite3.Connection, attempts: Sequence[Attempt], *, now: float) -> None:
    """Settle what these attempts cover, up to their watermarks; a directory attempt's needs are left to the sweep."""
    ledger.book_spent(connection, take_held(connection, [attempt.id for attempt in attempts]))
    for attempt in attempts:
        directory = attempt.kind is RefreshKind.DIRECTORY
        _finish(connection, attempt.id, AttemptState.COMPLETE, now, active=directory)
        if not directory:
            _settle_marked(connection, attempt)


def _finish(
    connection: sqlite3.Connection, attempt: int, state: AttemptState, now: float, *, active: bool, error: str = ""
) -> None:
    connection.execute(
        "UPDATE attempt SET state = ?, finished_at = ?, next_look_at = NULL, active = ?,"
        " error = CASE WHEN ? = '' THEN error ELSE ? END WHERE id = ?",
        (state.value, now, active, error, error, attempt),
    )


def _settle_marked(connection: sqlite3.Connection, attempt: Attempt) -> None:
    place = directory_of(attempt.url)
    row = connection.execute(
        "SELECT d.id FROM directory d JOIN target t ON t.id = d.target WHERE t.name = ? AND d.url = ?",
        (attempt.target, place),
    ).fetchone()
    if row is None:
        return
    name, reached = attempt.url[len(place) :], "name = :name"
    if attempt.kind is RefreshKind.IGNORE_PARAMS:
        # The path itself and the path with any query: "?" sorts right before "@".
        name = strip_query(attempt.url)[len(place) :]
        reached = "(name = :name OR (name >= :name || '?' AND name < :name || '@'))"
    within = f"directory = :directory AND {reached}"
    values = {"directory": row[0], "name": name, "watermark": attempt.watermark, "force": attempt.force}
    connection.execute(f"DELETE FROM need WHERE {within} AND {_COVERED[attempt.kind]}", values)
    _later_since(connection, f"{within} AND scope IN ({_SCOPES[attempt.kind]})", values)
    release_needs(connection, [attempt.id])


_COVERED = {kind: covered(kind, watermark=":watermark", force=":force") for kind in COVERAGE}
_SCOPES = {kind: ", ".join(f"{scope:d}" for scope in rule.scopes) for kind, rule in COVERAGE.items()}


def _later_since(connection: sqlite3.Connection, where: str, values: Mapping[str, object]) -> None:
    """What was changed again during the flight is stale only since then: the older change is settled."""
    connection.execute(
        "UPDATE need SET stale_since = max(stale_since, later_since), later_since = NULL"
        f" WHERE {where} AND sequence > :watermark AND later_since IS NOT NULL",
        values,
    )


class Place(NamedTuple):
    """Where a slice of a sweep ended: at this need of this directory URL."""

    url: str = ""
    name: str = ""
    scope: int = -1


def sweep(connection: sqlite3.Connection, attempt: Attempt, after: Place, limit: int) -> Place | None:
    """
    Settle one slice of what a complete directory attempt covers.

    Args:
        connection: the writing connection, inside a transaction.
        attempt: the attempt, complete.
        after: where the last slice ended; ``Place()`` for the first.
        limit: needs to be looked at, at most.

    Returns:
        Where to go on, or ``None`` once everything is settled.
    """
    directories = connection.execute(
        "SELECT d.id, d.url FROM directory d JOIN target t ON t.id = d.target WHERE t.name = ?"
        " AND d.url >= max(?, ?) AND d.url < ? ORDER BY d.url LIMIT ?",
        (attempt.target, attempt.url, after.url, prefix_end(attempt.url), SWEEP_DIRECTORIES),
    ).fetchall()
    for directory, url in directories:
        start = after if url == after.url else Place(url)
        looked, end = _sweep_directory(connection, attempt, directory, start, limit)
        if end is not None:
            return end
        limit -= looked
        after = Place(url + "\x00")
    if len(directories) == SWEEP_DIRECTORIES:
        return after
    _supersede(connection, attempt)
    connection.execute("UPDATE attempt SET active = 0 WHERE id = ?", (attempt.id,))
    return None


def _sweep_directory(
    connection: sqlite3.Connection, attempt: Attempt, directory: int, start: Place, limit: int
) -> tuple[int, Place | None]:
    """Settle up to ``limit`` needs of one directory; return how many were looked at, and where to go on if not all."""
    keys = connection.execute(
        "SELECT name, scope FROM need WHERE directory = ? AND (name, scope) > (?, ?) ORDER BY name, scope LIMIT ?",
        (directory, start.name, start.scope, limit),
    ).fetchall()
    if not keys:
        return 0, None
    name, scope = keys[-1]
    within = "directory = :directory AND (name, scope) > (:after, :after_scope) AND (name, scope) <= (:name, :scope)"
    values = {
        "directory": directory,
        "watermark": attempt.watermark,
        "force": attempt.force,
        "after": start.name,
        "after_scope": start.scope,
        "name": name,
        "scope": scope,
    }
    connection.execute(f"DELETE FROM need WHERE {within} AND {_COVERED[RefreshKind.DIRECTORY]}", values)
    _later_since(connection, within, values)
    return len(keys), Place(start.url, name, scope) if len(keys) >= limit else None


def _supersede(connection: sqlite3.Connection, attempt: Attempt) -> None:
    """Let go of the unconfirmed directory attempts that cover nothing which this one did not cover too."""
    connection.execute(
        "UPDATE attempt SET active = 0, finished_at = coalesce(finished_at, created_at)"
        " WHERE active = 1 AND state = 'unconfirmed' AND kind = 'directory' AND id <> ?1"
        " AND target = (SELECT target FROM attempt WHERE id = ?1) AND url >= ?2 AND url < ?3"
        " AND watermark <= ?4 AND force <= ?5",
        (attempt.id, attempt.url, prefix_end(attempt.url), attempt.watermark, attempt.force),
    )


def fail(connection: sqlite3.Connection, attempt: Attempt, *, now: float, retry_at: float, error: str) -> None:
    """Note that the CDN failed or refused this attempt; its needs are READY again at ``retry_at``."""
    ledger.book_refund(connection, take_held(connection, [attempt.id]))
    _finish(connection, attempt.id, AttemptState.FAILED, now, active=True, error=error)
    connection.execute("UPDATE attempt SET next_look_at = ? WHERE id = ?", (retry_at, attempt.id))


def end_backoff(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Make the needs of failed attempts READY: their back-off is over."""
    release_needs(connection, ids)
    connection.executemany("UPDATE attempt SET active = 0, next_look_at = NULL WHERE id = ?", [(i,) for i in ids])


def presume_spent(connection: sqlite3.Connection, ids: Sequence[int], *, now: float, error: str) -> None:
    """Book attempts whose outcome cannot be found out as spent, and make their needs READY again."""
    ledger.book_presumed(connection, take_held(connection, ids))
    release_needs(connection, ids)
    for attempt in ids:
        _finish(connection, attempt, AttemptState.FAILED, now, active=False, error=error)


def park(connection: sqlite3.Connection, attempt: Attempt, *, now: float, error: str) -> None:
    """Set aside the URL that the CDN refused: refund, keep the attempt as the record, park what it was for."""
    ledger.book_refund(connection, take_held(connection, [attempt.id]))
    connection.execute(
        f"UPDATE need SET state = {NeedState.PARKED:d}, attempt = NULL, due_at = NULL, reason = ?"
        f" WHERE attempt = ? AND state IN ({NeedState.ATTEMPTED:d}, {NeedState.UNCONFIRMED:d})",
        (error, attempt.id),
    )
    if attempt.kind is RefreshKind.DIRECTORY:
        connection.execute(
            f"UPDATE need SET state = {NeedState.PARKED:d}, due_at = NULL, reason = ? WHERE name = '' AND scope = 2"
            " AND directory = (SELECT d.id FROM directory d JOIN target t ON t.id = d.target"
            " WHERE t.name = ? AND d.url = ?)",
            (error, attempt.target, attempt.url),
        )
    _finish(connection, attempt.id, AttemptState.FAILED, now, active=False, error=error)


def unconfirm(connection: sqlite3.Connection, attempt: Attempt, *, next_look_at: float | None, error: str) -> None:
    """Note that the task did not finish in time: it is reported, and never sent again merely because it is old."""
    connection.execute(
        "UPDATE attempt SET state = 'unconfirmed', next_look_at = ?, error = ? WHERE id = ?",
        (next_look_at, error, attempt.id),
    )
    connection.execute(
        f"UPDATE need SET state = {NeedState.UNCONFIRMED:d} WHERE attempt = ? AND state = {NeedState.ATTEMPTED:d}",
        (attempt.id,),
    )


def look_again(connection: sqlite3.Connection, looks: Sequence[tuple[int, float]]) -> None:
    """Note when each of these attempts (id, seconds since the epoch) is to be looked at next."""
    connection.executemany(
        "UPDATE attempt SET looks = looks + 1, next_look_at = ? WHERE id = ?", [(at, i) for i, at in looks]
    )
