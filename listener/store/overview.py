"""Since when each state holds something, what ended lately, and why a URL is stale."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from listener.clock import window_start
from listener.refresh import AttemptState, NeedState, Scope, directory_of, strip_query
from listener.store.coverage import (
    SETTLED,
    DirectoryAttempt,
    DirectoryAttempts,
    deciding,
    directory_attempts,
    status_word,
)
from listener.store.report import totals

__all__ = ["SHOWN_COLUMNS", "Ended", "ended", "oldest", "scope_word", "shown", "spent_by_others", "why"]

MOST_ENDED = 50_000
"""Attempts that one look reads at most: several days of a full quota."""


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
    found = {word: total.oldest for word, total in totals(connection).items() if total.oldest is not None}
    pending = [since for word in ("waiting", "deferred") if (since := found.get(word)) is not None]
    found.pop(SETTLED, None)
    found.pop("waiting", None)
    return found | ({"pending": min(pending)} if pending else {})


def spent_by_others(connection: sqlite3.Connection, *, now: float) -> dict[tuple[str, str], int]:
    """Return by account and kind what the live quota counts today beyond what was spent from here."""
    rows = connection.execute(
        "SELECT account, kind, others FROM ledger WHERE window_start = ? AND others > 0", (window_start(now),)
    )
    return {(account, kind): others for account, kind, others in rows}


def why(connection: sqlite3.Connection, url: str) -> list[dict[str, Any]]:
    """
    Return every need that makes this URL stale: its own, its path's with any query, and a directory's above it.

    Each with ``state`` as ``status`` counts it, so that one below a directory refresh under way is in flight.
    """
    attempts = directory_attempts(connection)
    found = []
    for place, name, scopes in _places(url):
        rows = connection.execute(
            f"SELECT {SHOWN_COLUMNS} FROM target t CROSS JOIN directory d ON d.target = t.id"
            " CROSS JOIN need n ON n.directory = d.id LEFT JOIN attempt a ON a.id = n.attempt"
            f" WHERE d.url = ? AND n.name = ? AND scope IN ({', '.join(f'{scope:d}' for scope in scopes)})",
            (place, name),
        )
        found += shown(rows.fetchall(), attempts)
    return found


SHOWN_COLUMNS = (
    "t.id, t.name, d.url, n.name, n.scope, n.sequence, n.state, n.stale_since, n.due_at, n.reason, n.open,"
    " n.needs_force, n.urgent, a.id, a.state, a.error, a.next_look_at"
)
"""Of a target ``t``, a directory ``d``, a need ``n`` and the attempt ``a`` that marks it, if any."""


def shown(rows: Iterable[Sequence[Any]], attempts: DirectoryAttempts) -> list[dict[str, Any]]:
    """Return what is shown of needs, read as :data:`SHOWN_COLUMNS`; those that are settled are left out."""
    found = []
    for target_id, target, place, name, *need in rows:
        fields = _shown(need, attempts.above(target_id, place))
        found += [] if fields is None else [{"target": target, "url": place + name} | fields]
    return found


def _shown(need: Sequence[Any], above: Sequence[DirectoryAttempt]) -> dict[str, Any] | None:
    """Return what is shown of a need, nothing of one that is settled."""
    scope, sequence, state, since, due_at, reason, is_open, force, urgent, attempt, marked, error, look_at = need
    cover = deciding(above, scope=scope, sequence=sequence, is_open=is_open, needs_force=force)
    word = status_word(NeedState(state), marked and AttemptState(marked), cover)
    if word == SETTLED:
        return None
    return {
        "scope": scope_word(Scope(scope)),
        "state": word,
        "sequence": sequence,
        "stale_since": since,
        "due_at": due_at,
        "reason": error or reason or "",
        "open": bool(is_open),
        "waits_for": is_open,
        "needs_force": bool(force),
        "urgent": bool(urgent),
        "attempt": cover.id if attempt is None and cover is not None else attempt,
        "attempt_state": cover.state if marked is None and cover is not None else marked and AttemptState(marked),
        "next_look_at": look_at,
    }


def scope_word(scope: Scope) -> str:
    """Return the scope as commands and pages show it: ``exact``, ``all-params``, ``subtree`` or ``prefetch``."""
    return scope.name.lower().replace("_", "-")


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
