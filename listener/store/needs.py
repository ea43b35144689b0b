"""Needs as the planner sees them: what is due, by directory; and the rows that it can afford."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from listener.refresh import KIND_OF_SCOPE, NeedState, Priority, RefreshKind, Scope
from listener.store.coverage import Marks, covered_by_marks, deciding, directory_attempts

__all__ = [
    "DueRow",
    "Load",
    "due_rows",
    "expire",
    "expires",
    "loads",
    "manual_rows",
    "pending_units",
    "ready_needs",
]


class Load(NamedTuple):
    """One directory URL and its ready needs that no attempt covers."""

    directory: int
    target: str
    url: str
    exact: int
    all_params: int
    subtree: int
    prefetch: int
    oldest: float
    """Seconds since the epoch of the oldest change among them."""
    marks: Marks = Marks()
    """How far directory attempts cover its needs."""
    forced: int = 0
    """How many exact needs need force; counted whether covered or not."""
    forced_all_params: int = 0
    """How many all-params needs do."""
    priority: Priority | None = None
    """Only the needs of this priority; None: all of them."""


class DueRow(NamedTuple):
    """One ready need."""

    target: str
    url: str
    scope: Scope
    sequence: int
    stale_since: float
    reason: str | None = None
    urgent: bool = False


_UNCOVERED = f"directory = :directory AND state = {NeedState.READY:d} AND NOT {covered_by_marks(':any', ':forced')}"
"""A directory's ready needs that no directory attempt covers; values of :func:`_values`."""


def _values(directory: int, marks: Marks) -> dict[str, int]:
    return {"directory": directory, **marks._asdict()}


def ready_needs(connection: sqlite3.Connection, targets: Sequence[str]) -> int:
    """Return how many needs of these targets are ready, those that a directory attempt covers included."""
    return int(
        connection.execute(
            "SELECT coalesce(sum(ready), 0) FROM directory WHERE ready > 0 AND target IN"
            " (SELECT id FROM target WHERE name IN (SELECT value FROM json_each(?)))",
            (json.dumps(targets),),
        ).fetchone()[0]
    )


def pending_units(connection: sqlite3.Connection, targets: Sequence[str]) -> Counter[RefreshKind]:
    """Return how many requests of each kind the needs of these targets take that are in no attempt, one for each."""
    found: Counter[RefreshKind] = Counter()
    for load in loads(connection):
        if load.target in targets:
            found.update(
                dict(
                    zip(KIND_OF_SCOPE.values(), (load.exact, load.all_params, load.subtree, load.prefetch), strict=True)
                )
            )
    waiting = connection.execute(
        "SELECT scope, count(*) FROM need JOIN directory d ON d.id = need.directory JOIN target t ON t.id = d.target"
        " WHERE due_at IS NOT NULL AND t.name IN (SELECT value FROM json_each(?)) GROUP BY scope",
        (json.dumps(list(targets)),),
    )
    for scope, count in waiting:
        found[KIND_OF_SCOPE[Scope(scope)]] += count
    return found


def loads(connection: sqlite3.Connection, *, most: int | None = None, apart: bool = False) -> list[Load]:
    """
    Return every directory with ready needs that no directory attempt under way covers.

    Args:
        connection: a snapshot.
        most: only so many, the fullest.
        apart: what a directory has of each priority is a load of its own.
    """
    attempts = directory_attempts(connection)
    found = []
    backfills = _backfills(connection) if apart else {}
    others = _other_scopes(connection)
    forced_count = _forced(connection)
    rows = connection.execute(
        "SELECT d.id, d.target, t.name, d.url, d.ready, d.last_sequence,"
        " (SELECT stale_since FROM need WHERE directory = d.id AND state = 1 ORDER BY stale_since LIMIT 1)"
        " FROM directory d JOIN target t ON t.id = d.target WHERE d.ready > 0"
        f"{'' if most is None else f' ORDER BY d.ready DESC LIMIT {most:d}'}"
    )
    for directory, target_id, target, url, ready, last, oldest in rows.fetchall():
        marks = attempts.marks(target_id, url)
        count, lowest, highest = backfills.get(directory, (0, Priority.LIVE, Priority.LIVE))
        if 0 < count < ready or lowest != highest:
            found += _parted(connection, directory, target, url, marks)
            continue
        other = others.get(directory, {})
        if marks.any:
            ready, oldest = _uncovered(connection, directory, last, marks, other)  # noqa: PLW2901
            other = _other_scopes_uncovered(connection, directory, marks) if ready else {}
        if ready:
            found.append(
                Load(
                    directory,
                    target,
                    url,
                    ready - sum(other.values()),
                    other.get(Scope.ALL_PARAMS, 0),
                    other.get(Scope.SUBTREE, 0),
                    other.get(Scope.PREFETCH, 0),
                    oldest,
                    marks,
                    forced_count.get((directory, Scope.EXACT), 0),
                    forced_count.get((directory, Scope.ALL_PARAMS), 0),
                    Priority(lowest) if apart else None,
                )
            )
    return found


def _parted(connection: sqlite3.Connection, directory: int, target: str, url: str, marks: Marks) -> list[Load]:
    """Return what a directory has of each priority, apart."""
    rows = connection.execute(
        f"SELECT priority, scope, count(*), sum(needs_force), min(stale_since) FROM need WHERE {_UNCOVERED}"
        " GROUP BY priority, scope",
        _values(directory, marks),
    )
    parts: dict[int, dict[int, tuple[int, int, float]]] = {}
    for priority, scope, count, forced_count, oldest in rows:
        parts.setdefault(priority, {})[scope] = (count, forced_count, oldest)
    nothing = (0, 0, 0.0)
    return [
        Load(
            directory,
            target,
            url,
            part.get(Scope.EXACT, nothing)[0],
            part.get(Scope.ALL_PARAMS, nothing)[0],
            part.get(Scope.SUBTREE, nothing)[0],
            part.get(Scope.PREFETCH, nothing)[0],
            min(oldest for _, _, oldest in part.values()),
            marks,
            part.get(Scope.EXACT, nothing)[1],
            part.get(Scope.ALL_PARAMS, nothing)[1],
            Priority(priority),
        )
        for priority, part in parts.items()
    ]


def _backfills(connection: sqlite3.Connection) -> dict[int, tuple[int, int, int]]:
    """Return, by directory, how many ready needs only a backfill requests, and their lowest and highest priority."""
    rows = connection.execute(
        "SELECT directory, count(*), min(priority), max(priority) FROM need WHERE state = 1 AND priority > 0"
        " GROUP BY directory"
    )
    return {directory: (count, lowest, highest) for directory, count, lowest, highest in rows}


def _uncovered(
    connection: sqlite3.Connection, directory: int, last: int, marks: Marks, other: Mapping[int, int]
) -> tuple[int, float]:
    """Count the ready needs that no directory attempt covers; reads their rows only where there may be one."""
    forced = connection.execute(
        f"SELECT 1 FROM need WHERE directory = ? AND state = {NeedState.READY:d} AND needs_force = 1 LIMIT 1",
        (directory,),
    )
    reached = marks.forced if last > marks.forced and forced.fetchone() else marks.any
    if last <= reached and not other.get(Scope.PREFETCH, 0):
        return 0, 0.0
    count, oldest = connection.execute(
        f"SELECT count(*), min(stale_since) FROM need WHERE {_UNCOVERED}", _values(directory, marks)
    ).fetchone()
    return count, oldest or 0.0


def _other_scopes(connection: sqlite3.Connection) -> dict[int, dict[int, int]]:
    """Return, by directory, how many ready needs have each scope other than EXACT."""
    counts: dict[int, dict[int, int]] = {}
    rows = connection.execute(
        "SELECT directory, scope, count(*) FROM need WHERE state = 1 AND scope > 0 GROUP BY directory, scope"
    )
    for directory, scope, count in rows:
        counts.setdefault(directory, {})[scope] = count
    return counts


def _forced(connection: sqlite3.Connection) -> dict[tuple[int, int], int]:
    """Return, by directory and scope, how many ready needs need force."""
    rows = connection.execute(
        "SELECT directory, scope, count(*) FROM need WHERE state = 1 AND needs_force = 1 GROUP BY directory, scope"
    )
    return {(directory, scope): count for directory, scope, count in rows}


def _other_scopes_uncovered(connection: sqlite3.Connection, directory: int, marks: Marks) -> dict[int, int]:
    rows = connection.execute(
        f"SELECT scope, count(*) FROM need WHERE {_UNCOVERED} AND scope > 0 GROUP BY scope", _values(directory, marks)
    )
    return dict(rows.fetchall())


def due_rows(connection: sqlite3.Connection, load: Load, scope: Scope, limit: int) -> list[DueRow]:
    """Return up to ``limit`` of a directory's ready needs of one scope that nothing covers, the oldest first."""
    rows = connection.execute(
        f"SELECT name, sequence, stale_since, reason FROM need WHERE {_UNCOVERED} AND scope = :scope"
        f"{' AND scope > 0' if scope else ''} AND (:priority IS NULL OR priority = :priority)"
        " ORDER BY stale_since LIMIT :limit",
        _values(load.directory, load.marks) | {"scope": int(scope), "priority": load.priority, "limit": limit},
    )
    return [DueRow(load.target, load.url + name, scope, sequence, since, why) for name, sequence, since, why in rows]


def manual_rows(connection: sqlite3.Connection, limit: int) -> list[DueRow]:
    """Return ready needs that a person requested and no directory attempt covers: the urgent first, then the oldest."""
    attempts = directory_attempts(connection)
    rows = connection.execute(
        "SELECT d.target, t.name, d.url, need.name, scope, sequence, open, needs_force, stale_since, reason, urgent"
        " FROM need JOIN directory d ON d.id = need.directory JOIN target t ON t.id = d.target"
        f" WHERE asked > 0 AND state = {NeedState.READY:d} ORDER BY urgent DESC, stale_since"
    )
    uncovered = (
        DueRow(target, place + name, Scope(scope), sequence, since, why, bool(urgent))
        for target_id, target, place, name, scope, sequence, is_open, force, since, why, urgent in rows
        if not deciding(
            attempts.above(target_id, place), scope=scope, sequence=sequence, is_open=is_open, needs_force=force
        )
    )
    return list(islice(uncovered, limit))


_EXPIRED = f"directory = ? AND state = 1 AND scope <> {Scope.PREFETCH:d} AND window_first < ?"


def expires(connection: sqlite3.Connection, load: Load, *, before: float) -> bool:
    """Return whether :func:`expire` would settle anything."""
    query = f"SELECT 1 FROM need WHERE {_EXPIRED} LIMIT 1"
    return load.oldest < before and connection.execute(query, (load.directory, before)).fetchone() is not None


def expire(connection: sqlite3.Connection, load: Load, *, before: float, limit: int) -> int:
    """
    Settle up to ``limit`` of a directory's ready needs whose newest change is older than that; return how many.

    The newest, and not the first: what a cache fetched again in between may lack the later change.
    """
    return connection.execute(
        "DELETE FROM need WHERE (directory, name, scope) IN (SELECT directory, name, scope FROM need"
        f" WHERE {_EXPIRED} LIMIT ?)",
        (load.directory, before, limit),
    ).rowcount
