"""What was spent when and on what: from the attempts, for whoever decides what to spend next."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from listener.clock import window_start
from listener.refresh import Priority, RefreshKind

__all__ = ["Moment", "Unit", "moments", "slots_taken", "units_today"]


class Unit(NamedTuple):
    """One unit of today's quota."""

    target: str
    kind: RefreshKind
    url: str
    priority: Priority


class Moment(NamedTuple):
    """What was first sent within one short span."""

    at: float
    """Seconds since the epoch."""
    needs: int


def units_today(connection: sqlite3.Connection, account: str, *, now: float, since: float = 0.0) -> Iterator[Unit]:
    """
    Yield what an account spent or reserved of today's quota; looks at the day's attempts only.

    ``since``: leave out what was reserved before, in seconds since the epoch.
    """
    rows = connection.execute(
        "SELECT target.name, kind, url, priority FROM attempt JOIN target ON target.id = attempt.target"
        " WHERE account = ?2 AND created_at >= ?3"
        " AND window_start = ?1 AND attempt.id >"
        " coalesce((SELECT id FROM attempt WHERE window_start < ?1 ORDER BY id DESC LIMIT 1), 0)",
        (window_start(now), account, since),
    )
    return (Unit(target, RefreshKind(kind), url, Priority(priority)) for target, kind, url, priority in rows)


def moments(connection: sqlite3.Connection, account: str, *, since: float, span_seconds: float) -> list[Moment]:
    """
    Return how many needs an account's file and directory refreshes were first sent for, span by span, oldest first.

    What became due is not kept, and what was sent is the nearest to it: retries left out and backfills, which no hour
    brings again; directories by what they covered. A day whose needs waited counts where they were sent.
    """
    rows = connection.execute(
        "SELECT min(created_at), sum(CASE kind WHEN 'directory' THEN covered ELSE 1 END) FROM attempt"
        " WHERE account = ? AND kind IN ('file', 'directory') AND tries = 1 AND priority = 0 AND created_at >= ?"
        " GROUP BY CAST(created_at / ? AS INTEGER) ORDER BY 1",
        (account, since, span_seconds),
    )
    return [Moment(at, needs) for at, needs in rows]


def slots_taken(connection: sqlite3.Connection) -> Counter[tuple[str, RefreshKind]]:
    """Return how many attempts of each target and kind are made and not known to have ended."""
    rows = connection.execute(
        "SELECT target.name, kind, count(*) FROM attempt JOIN target ON target.id = attempt.target"
        " WHERE active = 1 AND state NOT IN ('complete', 'failed') GROUP BY target.name, kind"
    )
    return Counter({(target, RefreshKind(kind)): count for target, kind, count in rows})
