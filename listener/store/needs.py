"""Needs as the planner sees them: what is due, by directory; and the rows that it can afford."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from listener.refresh import Scope

__all__ = [
    "DueRow",
    "Flying",
    "Load",
    "asked_rows",
    "due_rows",
    "expire",
    "expires",
    "flying_directories",
    "loads",
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
    covered_to: int
    """Needs up to this sequence are covered by a directory attempt under way; 0: none is."""
    covered_forced: bool = True
    """Whether that attempt is forced; otherwise it does not cover needs that need force."""
    stubborn: int = 0
    """How many exact needs need force; counted whether covered or not."""
    stubborn_all_params: int = 0
    """How many all-params needs do."""
    backfill: bool | None = None
    """Only those needs that nothing but a backfill asks for, or only the others; None: all of them."""


class DueRow(NamedTuple):
    """One ready need."""

    target: str
    url: str
    scope: Scope
    sequence: int
    stale_since: float
    reason: str | None = None
    urgent: bool = False


class Flying(NamedTuple):
    """A directory attempt under way."""

    watermark: int
    force: bool
    state: str
    attempt: int


def flying_directories(connection: sqlite3.Connection) -> Mapping[tuple[int, str], Flying]:
    """Return the directory attempts that still cover something, by target id and URL; of several the highest."""
    rows = connection.execute(
        "SELECT target, url, watermark, force, state, id FROM attempt"
        " WHERE active = 1 AND kind = 'directory' ORDER BY watermark"
    )
    return {(target, url): Flying(mark, bool(force), state, id_) for target, url, mark, force, state, id_ in rows}


def covering(flying: Mapping[tuple[int, str], Flying], target: int, url: str) -> Flying | None:
    """Return the attempt of highest watermark at or above a directory URL."""
    best: Flying | None = None
    end = len(url)
    while flying and (end := url.rfind("/", 0, end)) > 0:
        found = flying.get((target, url[: end + 1]))
        if found is not None and (best is None or found.watermark > best.watermark):
            best = found
    return best


_ABOVE = "directory = ?1 AND state = 1 AND (sequence > ?2 OR (needs_force = 1 AND NOT ?3) OR scope = 3)"


def ready_needs(connection: sqlite3.Connection, targets: Sequence[str]) -> int:
    """Return how many needs of these targets are ready, those that a directory attempt covers included."""
    return int(
        connection.execute(
            "SELECT coalesce(sum(ready), 0) FROM directory WHERE ready > 0 AND target IN"
            " (SELECT id FROM target WHERE name IN (SELECT value FROM json_each(?)))",
            (json.dumps(targets),),
        ).fetchone()[0]
    )


def loads(connection: sqlite3.Connection, *, most: int | None = None, apart: bool = False) -> list[Load]:
    """
    Return every directory with ready needs that no directory attempt under way covers.

    Args:
        connection: a snapshot.
        most: only so many, the fullest.
        apart: of a directory what only a backfill asks for is a load of its own.
    """
    flying = flying_directories(connection)
    found = []
    backfills = _backfills(connection) if apart else {}
    others = _other_scopes(connection)
    stubborn = _stubborn(connection)
    rows = connection.execute(
        "SELECT d.id, d.target, t.name, d.url, d.ready, d.last_sequence,"
        " (SELECT stale_since FROM need WHERE directory = d.id AND state = 1 ORDER BY stale_since LIMIT 1)"
        " FROM directory d JOIN target t ON t.id = d.target WHERE d.ready > 0"
        f"{'' if most is None else f' ORDER BY d.ready DESC LIMIT {most:d}'}"
    )
    for directory, target_id, target, url, ready, last, oldest in rows.fetchall():
        cover = covering(flying, target_id, url)
        backfill = backfills.get(directory, 0)
        if 0 < backfill < ready:
            found += _parted(connection, directory, target, url, cover)
            continue
        if cover is not None:
            ready, oldest = _uncovered(connection, directory, last, cover)  # noqa: PLW2901
        if ready:
            other = others.get(directory, {}) if cover is None else _other_scopes_above(connection, directory, cover)
            exact = ready - sum(other.values())
            found.append(
                Load(
                    directory,
                    target,
                    url,
                    exact,
                    other.get(Scope.ALL_PARAMS, 0),
                    other.get(Scope.SUBTREE, 0),
                    other.get(Scope.PREFETCH, 0),
                    oldest,
                    cover.watermark if cover else 0,
                    cover.force if cover else True,
                    stubborn.get((directory, Scope.EXACT), 0),
                    stubborn.get((directory, Scope.ALL_PARAMS), 0),
                    backfill > 0 if apart else None,
                )
            )
    return found


def _parted(connection: sqlite3.Connection, directory: int, target: str, url: str, cover: Flying | None) -> list[Load]:
    """Return what a backfill asks for in a directory apart from what changed in it."""
    mark, force = (cover.watermark, cover.force) if cover else (0, True)
    rows = connection.execute(
        f"SELECT backfill, scope, count(*), sum(needs_force), min(stale_since) FROM need WHERE {_ABOVE}"
        " GROUP BY backfill, scope",
        (directory, mark, force),
    )
    parts: dict[int, dict[int, tuple[int, int, float]]] = {}
    for backfill, scope, count, stubborn, oldest in rows:
        parts.setdefault(backfill, {})[scope] = (count, stubborn, oldest)
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
            mark,
            force,
            part.get(Scope.EXACT, nothing)[1],
            part.get(Scope.ALL_PARAMS, nothing)[1],
            bool(backfill),
        )
        for backfill, part in parts.items()
    ]


def _backfills(connection: sqlite3.Connection) -> dict[int, int]:
    """Return, by directory, how many ready needs only a backfill asks for."""
    rows = connection.execute(
        "SELECT directory, count(*) FROM need WHERE state = 1 AND backfill = 1 GROUP BY directory"
    )
    return dict(rows.fetchall())


def _uncovered(connection: sqlite3.Connection, directory: int, last: int, cover: Flying) -> tuple[int, float]:
    """Count the ready needs that outlive the attempt; looks at rows only where one turned READY after it was made."""
    stubborn = (
        not cover.force
        and connection.execute(
            "SELECT 1 FROM need WHERE directory = ? AND state = 1 AND needs_force = 1 LIMIT 1", (directory,)
        ).fetchone()
    )
    prefetch = connection.execute(
        "SELECT 1 FROM need WHERE directory = ? AND state = 1 AND scope = 3 AND scope > 0 LIMIT 1", (directory,)
    ).fetchone()
    if last <= cover.watermark and not stubborn and not prefetch:
        return 0, 0.0
    count, oldest = connection.execute(
        f"SELECT count(*), min(stale_since) FROM need WHERE {_ABOVE}",
        (directory, cover.watermark, cover.force),
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


def _stubborn(connection: sqlite3.Connection) -> dict[tuple[int, int], int]:
    """Return, by directory and scope, how many ready needs need force."""
    rows = connection.execute(
        "SELECT directory, scope, count(*) FROM need WHERE state = 1 AND needs_force = 1 GROUP BY directory, scope"
    )
    return {(directory, scope): count for directory, scope, count in rows}


def _other_scopes_above(connection: sqlite3.Connection, directory: int, cover: Flying) -> dict[int, int]:
    rows = connection.execute(
        f"SELECT scope, count(*) FROM need WHERE {_ABOVE} AND scope > 0 GROUP BY scope",
        (directory, cover.watermark, cover.force),
    )
    return dict(rows.fetchall())


def due_rows(connection: sqlite3.Connection, load: Load, scope: Scope, limit: int) -> list[DueRow]:
    """Return up to ``limit`` of a directory's ready needs of one scope that nothing covers, the oldest first."""
    rows = connection.execute(
        f"SELECT name, sequence, stale_since, reason FROM need WHERE {_ABOVE} AND scope = ?4"
        f"{' AND scope > 0' if scope else ''} AND (?5 IS NULL OR backfill = ?5)"
        " ORDER BY stale_since LIMIT ?6",
        (load.directory, load.covered_to, load.covered_forced, int(scope), load.backfill, limit),
    )
    return [DueRow(load.target, load.url + name, scope, sequence, since, why) for name, sequence, since, why in rows]


def asked_rows(connection: sqlite3.Connection, limit: int) -> list[DueRow]:
    """Return ready needs that a person asked for and no directory attempt covers: the urgent first, then the oldest."""
    flying = flying_directories(connection)
    rows = connection.execute(
        "SELECT d.target, t.name, d.url, need.name, scope, sequence, stale_since, reason, urgent FROM need"
        " JOIN directory d ON d.id = need.directory JOIN target t ON t.id = d.target"
        " WHERE asked > 0 AND state = 1 ORDER BY urgent DESC, stale_since LIMIT ?",
        (limit,),
    )
    found = []
    for target_id, target, place, name, scope, sequence, since, why, urgent in rows:
        cover = covering(flying, target_id, place)
        if cover is None or sequence > cover.watermark:
            found.append(DueRow(target, place + name, Scope(scope), sequence, since, why, bool(urgent)))
    return found


_EXPIRED = f"directory = ? AND state = 1 AND scope <> {Scope.PREFETCH:d} AND window_first < ?"


def expires(connection: sqlite3.Connection, load: Load, *, before: float) -> bool:
    """Tell whether :func:`expire` would settle anything."""
    query = f"SELECT 1 FROM need WHERE {_EXPIRED} LIMIT 1"
    return load.oldest < before and connection.execute(query, (load.directory, before)).fetchone() is not None


def expire(connection: sqlite3.Connection, load: Load, *, before: float, limit: int) -> int:
    """
    Settle up to ``limit`` of a directory's ready needs whose newest change is older than that; return how many.

    The newest, and not the first: what a cache fetched anew in between may lack the later change.
    """
    return connection.execute(
        "DELETE FROM need WHERE (directory, name, scope) IN (SELECT directory, name, scope FROM need"
        f" WHERE {_EXPIRED} LIMIT ?)",
        (load.directory, before, limit),
    ).rowcount
