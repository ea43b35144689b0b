"""What a person asks at a glance: since when each state holds something, what ended of late, why a URL is stale."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, NamedTuple

from listener.clock import window_start
from listener.refresh import AttemptState, NeedState, Scope, directory_of, strip_query
from listener.store.needs import covering, flying_directories, loads

__all__ = ["Ended", "Stale", "ended", "oldest", "spent_by_others", "under_way", "why"]

MOST_ENDED = 50_000
"""Attempts that one look reads at most: several days of a full quota."""
_STATES = {
    "held": "in_flight",
    "sending": "in_flight",
    "unknown": "in_flight",
    "accepted": "in_flight",
    "failed": "failed",
    "unconfirmed": "unconfirmed",
}


class Ended(NamedTuple):
    """An attempt that came to its end."""

    id: int
    target: str
    kind: str
    state: str
    finished_at: float
    """Seconds since the epoch."""
    latency_seconds: float | None
    """From the oldest change that it covered to its end."""


def ended(connection: sqlite3.Connection, *, since: float) -> list[Ended]:
    """Return what ended since then (seconds since the epoch), oldest first; of too many the newest."""
    # Two questions, so that each has its index; what is complete stays active until it is swept.
    columns = "attempt.id, target.name, kind, state, finished_at, finished_at - stale_since"
    where = "FROM attempt JOIN target ON target.id = attempt.target WHERE finished_at >= ?"
    rows = connection.execute(
        f"SELECT {columns} {where} AND active = 0 UNION ALL"
        f" SELECT {columns} {where} AND active = 1 AND state IN ('complete', 'failed')"
        " ORDER BY finished_at DESC LIMIT ?",
        (since, since, MOST_ENDED),
    ).fetchall()
    return [Ended(*row) for row in reversed(rows)]


def oldest(connection: sqlite3.Connection) -> dict[str, float]:
    """Return by state, where it holds any need, when its oldest change was, in seconds since the epoch."""
    found: dict[str, float] = {}

    def take(state: str | None, since: float | None) -> None:
        if state is not None and since is not None:
            found[state] = min(since, found.get(state, since))

    (waiting,) = connection.execute(
        "SELECT min(stale_since) FROM need WHERE due_at IS NOT NULL AND scope <> 3"
    ).fetchone()
    take("pending", waiting)
    for load in loads(connection):
        if load.exact + load.all_params + load.subtree:
            take("pending", load.oldest)
            take("deferred", load.oldest)
    for state, since in connection.execute(
        "SELECT attempt.state, min(need.stale_since) FROM need JOIN attempt ON attempt.id = need.attempt"
        " WHERE need.attempt IS NOT NULL AND scope <> 3 GROUP BY attempt.state UNION ALL"
        " SELECT state, min(stale_since) FROM attempt WHERE active = 1 AND kind = 'directory' GROUP BY state"
    ):
        take(_STATES.get(state), since)
    for state, since in connection.execute(
        "SELECT state, min(stale_since) FROM need WHERE state >= 3 GROUP BY state"
    ).fetchall():
        take(NeedState(state).name.lower(), since)
    return found


def spent_by_others(connection: sqlite3.Connection, *, now: float) -> dict[tuple[str, str], int]:
    """Return by account and kind what the live quota counts today beyond what was spent from here."""
    rows = connection.execute(
        "SELECT account, kind, others FROM ledger WHERE window_start = ? AND others > 0", (window_start(now),)
    )
    return {(account, kind): others for account, kind, others in rows}


class Stale(NamedTuple):
    """Something that is not fresh yet."""

    state: str
    """``in_flight``, ``failed``, ``unconfirmed`` or ``deferred``."""
    target: str
    url: str
    kind: str
    needs: int
    since: float | None
    """Seconds since the epoch of the oldest change."""
    reason: str


def under_way(connection: sqlite3.Connection, *, limit: int) -> list[Stale]:
    """Return attempts that are not settled: of each state the first that were made."""
    found: list[Stale] = []
    for state, shown in _STATES.items():
        found += [
            Stale(shown, *row)
            for row in connection.execute(
                "SELECT target.name, url, kind, covered, stale_since, CASE error WHEN '' THEN reason ELSE error END"
                " FROM attempt JOIN target ON target.id = attempt.target"
                " WHERE active = 1 AND state = ? ORDER BY attempt.id LIMIT ?",
                (state, limit),
            )
        ]
    return found


def why(connection: sqlite3.Connection, url: str) -> list[dict[str, Any]]:
    """
    Return every need that makes this URL stale: its own, its path's with any query, and a directory's above it.

    Each with ``state`` as ``status`` counts it, so that one below a directory refresh under way is in flight.
    """
    flying = flying_directories(connection)
    found = []
    for place, name, scopes in _places(url):
        marks = ",".join(str(int(scope)) for scope in scopes)
        rows = connection.execute(
            "SELECT t.id, t.name, d.url, need.name, scope, sequence, need.state, need.stale_since, need.due_at,"
            " need.reason, attempt.state, attempt.error, open FROM target t CROSS JOIN directory d ON d.target = t.id"
            " CROSS JOIN need ON need.directory = d.id LEFT JOIN attempt ON attempt.id = need.attempt"
            f" WHERE d.url = ? AND need.name = ? AND scope IN ({marks})",
            (place, name),
        )
        for target_id, target, base, rest, scope, sequence, state, since, due_at, reason, attempt, error, open_ in rows:
            cover = covering(flying, target_id, base)
            over = cover is not None and sequence <= cover.watermark and not open_
            flies = cover.state if cover is not None and over and state <= NeedState.READY else attempt
            if flies == AttemptState.COMPLETE:
                continue
            found.append(
                {
                    "target": target,
                    "url": base + rest,
                    "scope": Scope(scope).name.lower().replace("_", "-"),
                    "state": _shown(NeedState(state), flies),
                    "stale_since": since,
                    "due_at": due_at,
                    "reason": error or reason or "",
                }
            )
    return found


def _shown(state: NeedState, attempt: str | None) -> str:
    if state in (NeedState.PARKED, NeedState.UNCONFIRMED):
        return state.name.lower()
    if attempt is not None:
        return _STATES.get(attempt, "in_flight")
    return "deferred" if state is NeedState.READY else "waiting"


def _places(url: str) -> Iterable[tuple[str, str, tuple[Scope, ...]]]:
    """Yield directory, name and scopes of what a need that concerns this URL may be kept under."""
    place, path = directory_of(url), strip_query(url)
    yield place, url[len(place) :], tuple(Scope)
    if path != url:
        yield place, path[len(place) :], (Scope.ALL_PARAMS,)
    end = len(place)
    while end > len("https://"):
        if place[:end] != url:
            yield place[:end], "", (Scope.SUBTREE,)
        end = place.rfind("/", 0, end - 1) + 1
