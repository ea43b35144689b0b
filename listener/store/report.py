"""Counts and lists behind ``status``: how many needs are in each state and since when, what was sent, what ended."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from listener.refresh import AttemptState, NeedState, RefreshKind, Scope
from listener.store.connection import Connection
from listener.store.index import prefix_end
from listener.store.needs import MARKED_BY, DirectoryAttempt, DirectoryAttempts, covered, directory_attempts
from listener.store.staleness import SETTLED, WaitsFor, directories_above, status_word, waits_for

__all__ = [
    "Counts",
    "Ended",
    "Refreshed",
    "Total",
    "counts",
    "ended",
    "history",
    "refreshed_last",
    "totals",
]


_DISJOINT: Final = ("pending", "in_flight", "failed", "parked", "unconfirmed")
"""The counts that each need is in exactly one of."""


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
    since: Mapping[str, float]
    """When the oldest change in each state was, in seconds since the epoch, where it holds any that makes stale."""

    @property
    def oldest_stale_since(self) -> float | None:
        """Seconds since the epoch of the oldest change that is not settled."""
        return min(self.since.values(), default=None)

    @property
    def waits_for(self) -> Mapping[WaitsFor, Total]:
        """How many needs wait for each of us, the CDN and a person, and since when the oldest of them does."""
        found = {}
        for who in WaitsFor:
            states = [state for state in _DISJOINT if waits_for(state) is who]
            since = [self.since[state] for state in states if state in self.since]
            found[who] = Total(sum(getattr(self, state) for state in states), min(since, default=None))
        return found


class Total(NamedTuple):
    """How many needs are in one state."""

    needs: int
    oldest: float | None
    """Seconds since the epoch of the oldest change among them, prefetches aside."""


def totals(connection: Connection) -> dict[str, Total]:
    """Return, by the word of :func:`listener.store.staleness.status_word`, how many needs are in that state."""
    found: dict[str, Total] = {}

    def add(word: str, count: int, oldest: float | None) -> None:
        if count:
            before = found.get(word, Total(0, None))
            since = [one for one in (before.oldest, oldest) if one is not None]
            found[word] = Total(before.needs + count, min(since, default=None))

    attempts = directory_attempts(connection)
    walked = [] if not attempts else _add_below_attempts(connection, attempts, add)
    _add_others(connection, walked, add)
    return found


_Add = Callable[[str, int, float | None], None]
_SINCE = f"min(CASE WHEN scope <> {Scope.PREFETCH:d} THEN n.stale_since END)"
_OLDEST_READY = (
    f"SELECT stale_since FROM need WHERE directory = d.id AND state = {NeedState.READY:d}"
    f" AND scope <> {Scope.PREFETCH:d} ORDER BY stale_since LIMIT 1"
)
_NOT_READY = {
    "need_due": "due_at IS NOT NULL /*! AND slot IS NOT NULL */",
    "need_attempt": "attempt IS NOT NULL",
    "need_aside": f"state >= {NeedState.PARKED:d}",
}
"""By their indexes the needs that are not ready, so that finding them does not read those that are."""


def _add_below_attempts(connection: Connection, attempts: DirectoryAttempts, add: _Add) -> list[int]:
    """Add the needs of the directories at or below directory attempts; return the ids of these directories."""
    walked: list[int] = []
    busy = {
        row[0]
        for index, where in _NOT_READY.items()
        for row in connection.execute(f"SELECT DISTINCT +directory FROM need INDEXED BY {index} WHERE {where}")
    }
    for target, url in attempts.roots():
        rows = connection.execute(
            "SELECT d.id, d.url, ready, last_sequence, EXISTS (SELECT 1 FROM need WHERE directory = d.id"
            f" AND state = {NeedState.READY:d} AND scope = {Scope.PREFETCH:d} AND scope > {Scope.EXACT:d})"
            " FROM directory d WHERE target = ? AND url >= ? AND url < ?",
            (target, url, prefix_end(url)),
        )
        for directory, below, ready, last, prefetch in rows.fetchall():
            walked.append(directory)
            above = attempts.above(target, below)
            all_covered = last <= above[0].watermark and above[0].force and not prefetch
            if ready and all_covered:
                query = f"SELECT ({_OLDEST_READY}) FROM directory d WHERE id = ?"
                (oldest,) = connection.execute(query, (directory,)).fetchone()
                add(status_word(NeedState.READY, None, above[0]), ready, oldest)
            if directory in busy or (ready and not all_covered):
                _add_directory(connection, directory, above, add, but_ready=all_covered)
    return walked


def _add_directory(
    connection: Connection, directory: int, above: Sequence[DirectoryAttempt], add: _Add, *, but_ready: bool
) -> None:
    """Add the needs of one directory by their rows, without those that are ready where these are added already."""
    decided, values = decided_by(above)
    rows = connection.execute(
        f"SELECT n.state, a.state, {decided}, count(*), {_SINCE} FROM need n {MARKED_BY}"
        " WHERE n.directory = ? AND n.state <> ? GROUP BY 1, 2, 3",
        (*values, directory, int(NeedState.READY) if but_ready else -1),
    )
    for state, attempt, index, count, oldest in rows:
        cover = None if index == DECIDED_BY_NONE else above[index]
        add(status_word(NeedState(state), attempt and AttemptState(attempt), cover), count, oldest)


def _add_others(connection: Connection, walked: Sequence[int], add: _Add) -> None:
    """Add the needs that are below no directory attempt."""
    others = " NOT IN (SELECT value FROM json_each(?))"
    values = (json.dumps(walked),)
    count, oldest = connection.execute(
        f"SELECT coalesce(sum(ready), 0), min(({_OLDEST_READY})) FROM directory d WHERE ready > 0 AND id{others}",
        values,
    ).fetchone()
    add(status_word(NeedState.READY, None, None), count, oldest)
    for state, index, where in (
        (NeedState.WAITING, "need_due", "due_at IS NOT NULL /*! AND slot IS NOT NULL */"),
        (NeedState.PARKED, "need_aside", f"state >= {NeedState.PARKED:d} AND state = {NeedState.PARKED:d}"),
    ):
        rows = connection.execute(
            f"SELECT count(*), {_SINCE} FROM need AS n INDEXED BY {index} WHERE {where} AND directory{others}", values
        )
        add(status_word(state, None, None), *rows.fetchone())
    rows = connection.execute(
        f"SELECT n.state, attempt.state, count(*), {_SINCE} FROM need AS n INDEXED BY need_attempt"
        " JOIN attempt ON attempt.id = n.attempt"
        f" WHERE n.attempt IS NOT NULL AND directory{others} GROUP BY 1, 2",
        values,
    )
    for state, attempt, number, since in rows:
        add(status_word(NeedState(state), AttemptState(attempt), None), number, since)


def counts(connection: Connection) -> Counts:
    """Count every need."""
    found = totals(connection)
    number = {word: total.needs for word, total in found.items()}
    letters = dict(connection.execute("SELECT kind, count(*) FROM dead_letter GROUP BY kind").fetchall())
    parked = number.get("parked", 0)
    return Counts(
        pending=number.get("deferred", 0) + number.get("waiting", 0),
        deferred=number.get("deferred", 0),
        in_flight=number.get("in_flight", 0),
        failed=number.get("failed", 0),
        parked=parked + letters.get("key", 0),
        unconfirmed=number.get("unconfirmed", 0),
        dead_letters=sum(letters.values()) + parked,
        since=_since(found),
    )


def _since(found: Mapping[str, Total]) -> dict[str, float]:
    since = {word: total.oldest for word, total in found.items() if total.oldest is not None}
    since.pop(SETTLED, None)
    pending = [at for word in ("waiting", "deferred") if (at := since.get(word)) is not None]
    since.pop("waiting", None)
    return since | ({"pending": min(pending)} if pending else {})


def history(connection: Connection, *, limit: int, url: str | None = None) -> list[dict[str, Any]]:
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


class Refreshed(NamedTuple):
    """A refresh that is complete."""

    target: str
    kind: str
    url: str
    changed_at: float | None
    """When the oldest change was that it covered, in seconds since the epoch."""
    finished_at: float


def refreshed_last(connection: Connection, url: str) -> Refreshed | None:
    """Return the newest complete refresh that the history has of a URL: of its own, or of a directory above it."""
    own = [url, *directories_above(url)]
    row = connection.execute(
        "SELECT target.name, kind, url, stale_since, finished_at FROM attempt JOIN target ON target.id = attempt.target"
        " WHERE attempt.url IN (SELECT value FROM json_each(?)) AND state = ? AND kind <> ?"
        " AND (attempt.url = ? OR kind = ?) ORDER BY finished_at DESC LIMIT 1",
        (json.dumps(own), AttemptState.COMPLETE.value, RefreshKind.PREFETCH.value, url, RefreshKind.DIRECTORY.value),
    ).fetchone()
    return None if row is None else Refreshed(*row)


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


def ended(connection: Connection, *, since: float) -> list[Ended]:
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


DECIDED_BY_NONE = -1


def decided_by(attempts: Sequence[DirectoryAttempt]) -> tuple[str, tuple[int, ...]]:
    """
    Return :func:`deciding` as an SQL expression on a row of ``need``, with its values.

    The result is an index into the attempts, or ``DECIDED_BY_NONE``.
    """
    condition = covered(RefreshKind.DIRECTORY, watermark="?", force="?")
    cases = "".join(f" WHEN {condition} THEN {index}" for index in range(len(attempts)))
    values = tuple(value for one in attempts for value in (one.watermark, int(one.force)))
    return f"CASE{cases} ELSE {DECIDED_BY_NONE} END" if cases else f"{DECIDED_BY_NONE}", values
