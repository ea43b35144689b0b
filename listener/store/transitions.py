"""
How needs change state: due with time, and settled or due again at their attempt's end.

A need becomes READY when its wait is over (:func:`promote_due`). What a plan wants of these is reserved by
:mod:`listener.store.reserve`. What an attempt covers is settled when it is complete; of a directory attempt in slices
(:func:`sweep`). What failed is due again after its back-off.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from listener.refresh import (
    COVERAGE,
    Attempt,
    AttemptState,
    NeedState,
    Priority,
    RefreshKind,
    Scope,
    directory_of,
    strip_query,
)
from listener.settings import CoalescerSettings
from listener.store.attempts import finish, release_needs
from listener.store.bulk import NEED_KEY, delete_rows
from listener.store.connection import Connection
from listener.store.controls import withdraw
from listener.store.groups import members, own_groups, units_of, update_groups
from listener.store.index import next_sequence, note_revision, prefix_end, select_wanted
from listener.store.ledger import book_spent
from listener.store.needs import EXPIRED, Inner, Load, count_ready, covered

__all__ = [
    "AttemptRequest",
    "Promoted",
    "SweepPosition",
    "complete",
    "expire",
    "mark_sending",
    "next_due",
    "prolong_births",
    "promote_due",
    "set_back",
    "set_looks_back",
    "sweep",
]


NEXT_DUE = (
    "SELECT due_at FROM need WHERE due_at IS NOT NULL /*! AND slot IS NOT NULL */ ORDER BY /*! slot, */ due_at LIMIT 1"
)


def next_due(connection: Connection) -> float | None:
    """Return when the next waiting need is due, in seconds since the epoch."""
    row = connection.execute(NEXT_DUE).fetchone()
    return None if row is None else float(row[0])


Promoted = Counter[tuple[str, Scope, Priority]]
"""How many needs became READY, by target, scope and priority."""


def _due_by(until: str) -> str:
    """Return the SQL condition that a need is due at that time; PostgreSQL has an index of slots of five seconds."""
    return f"due_at <= {until} /*! AND slot <= floor({until} / 5) */"


def promote_due(connection: Connection, *, now: float, limit: int) -> Promoted:
    """
    Turn up to ``limit`` waiting needs that are due to READY; return how many.

    An open need takes a new sequence, so that no attempt made while it was open covers it.
    """
    if connection.execute(f"SELECT 1 FROM need WHERE {_due_by('?1')} LIMIT 1", (now,)).fetchone() is None:
        return Counter()
    until = _slice_end(connection, now, limit)
    note_revision(connection)
    values = {"sequence": next_sequence(connection), "now": now, "until": now if until is None else until}
    if until is None:  # more of one moment than a slice has
        rows = connection.execute(_PROMOTE.format(_FIRST_DUE, _IS_FIRST_DUE), {**values, "limit": limit})
    else:
        rows = connection.execute(_PROMOTE.format("", f"WHERE {_due_by(':until')}"), values)
    places = Counter(rows.fetchall())
    targets: dict[int, str] = dict(
        connection.execute(
            "SELECT d.id, t.name FROM directory d JOIN target t ON t.id = d.target"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (json.dumps([directory for directory, *_ in places]),),
        ).fetchall()
    )
    promoted: Promoted = Counter()
    ready: dict[int, tuple[int, int]] = {}
    for (directory, scope, priority, sequence), count in places.items():
        promoted[targets[directory], Scope(scope), Priority(priority)] += count
        before, highest = ready.get(directory, (0, 0))
        ready[directory] = before + count, max(highest, sequence)
    count_ready(connection, ready)
    return promoted


_PROMOTE = f"""
{{}}UPDATE need SET state = {NeedState.READY:d}, due_at = NULL, open = 0, window_first = :now,
  sequence = CASE WHEN open > 0 THEN max(sequence, :sequence) ELSE sequence END
{{}}
RETURNING directory, scope, priority, sequence
"""
_FIRST_DUE = f"""
WITH due AS MATERIALIZED (SELECT directory AS in_directory, name AS of_name, scope AS of_scope FROM need
  WHERE {_due_by(":until")} ORDER BY /*! slot, */ due_at LIMIT :limit /*! FOR UPDATE */)
"""
"""Found once: PostgreSQL may run a subquery again for each row that it joins, and takes what is due next then."""
_IS_FIRST_DUE = """
-- WHERE (directory, name, scope) IN (SELECT …) would search all needs of the directories
FROM due WHERE directory = in_directory AND name = of_name AND scope = of_scope AND due_at <= :until
"""


def _slice_end(connection: Connection, now: float, limit: int) -> float | None:
    """Return the last moment up to which at most ``limit`` needs are due, None where more are due at the first."""
    query = f"SELECT due_at FROM need WHERE {_due_by('?1')} ORDER BY /*! slot, */ due_at LIMIT 1 OFFSET ?2"
    if (beyond := connection.execute(query, (now, limit)).fetchone()) is None:
        return now
    row = connection.execute(
        "SELECT max(due_at) FROM need WHERE due_at < ?1 /*! AND slot <= floor(?1 / 5) */", beyond
    ).fetchone()
    return None if row[0] is None else float(row[0])


FIRST_SCAN_SECONDS = 10.0
"""
A start and the first scan of most trees take less. Where they take longer, a temporary name may cost a unit; more
would hold up new objects for longer after each start.
"""


def prolong_births(connection: Connection, *, now: float, timing: CoalescerSettings) -> None:
    """
    Let waiting needs of new objects wait for the first scan of this process, at most to the end of their window.

    While no process ran nobody saw whether the object went again: a temporary name would cost a refresh.
    """
    wait_seconds = max(timing.quiet_seconds, FIRST_SCAN_SECONDS)
    connection.execute(
        "UPDATE need SET due_at = max(due_at, min(?1 + ?2, window_first + ?3))"
        f" WHERE due_at < ?1 + ?2 AND state = {NeedState.WAITING:d} AND birth IS NOT NULL",
        (now, wait_seconds, timing.cap_seconds),
    )


def set_back(connection: Connection, *, after: float, seconds: float, limit: int) -> float | None:
    """
    Move a slice of what waits for a time after ``after`` back by so much; return where to go on, None at the end.

    The earliest first: what was moved lies before ``after`` from then on, and is not moved again.
    """
    row = connection.execute(
        "SELECT due_at FROM need WHERE due_at > ? ORDER BY due_at LIMIT 1 OFFSET ?", (after, limit - 1)
    ).fetchone()
    connection.execute(
        f"UPDATE need SET due_at = due_at - ? WHERE due_at > ?{'' if row is None else ' AND due_at <= ?'}",
        (seconds, after, *(row or ())),
    )
    return None if row is None else float(row[0])


def set_looks_back(connection: Connection, *, after: float, seconds: float) -> None:
    """Move the next looks at attempts that lie after ``after``, and the end of every override, back by so much."""
    connection.execute(
        "UPDATE attempt_group SET next_look_at = next_look_at - ? WHERE active = 1 AND next_look_at > ?",
        (seconds, after),
    )
    connection.execute("UPDATE control SET until = until - ?", (seconds,))


class AttemptRequest(NamedTuple):
    """An attempt to be made."""

    target: str
    kind: RefreshKind
    url: str
    force: bool
    reason: str
    stale_since: float
    covered: int = 1
    urgent: bool = False
    min_interval_seconds: float = 0.0
    """Not sooner than this after the last attempt at the same URL; 0: at once."""
    most_interval_seconds: float = 0.0
    """What that grows to, doubling with each attempt at the same URL today; it never shrinks below the minimum."""
    priority: Priority = Priority.LIVE
    watermark: int | None = None
    """Covers changes up to this at most, the last that inner layers dropped; None: all that are recorded."""
    later_since: float | None = None
    """With a watermark: since when the need is stale again once this is complete, in seconds since the epoch."""
    exempt: Inner = Inner()
    """Of a directory: what these inner layers have yet to drop below it is not covered."""

    def covers_to(self, last: int) -> int:
        """Return the watermark of the attempt where ``last`` is the last sequence."""
        return last if self.watermark is None else min(last, self.watermark)


SENT_APART_SECONDS = 1e-5


def mark_sending(connection: Connection, ids: Sequence[int], *, now: float, token: str = "") -> list[int]:
    """
    Note, durably before it is done, that the request with these attempts is being written; return which may go.

    What a person ordered since they were reserved is looked at in the same transaction: below a hold or a pause
    they are refunded and due again, and those whose needs were cancelled are refunded. ``token`` names the request.
    """
    withdraw(connection, ids, now=now)
    unanswered = "SELECT DISTINCT sent_at FROM attempt_group WHERE active = 1 AND state IN ('sending', 'unknown')"
    taken = {at for (at,) in connection.execute(unanswered)}
    while now in taken:  # the time names the request: what was written together is accepted together
        now += SENT_APART_SECONDS
    groups = own_groups(connection, ids, f"state = '{AttemptState.HELD.value}'")
    update_groups(connection, groups, f"state = '{AttemptState.SENDING.value}', sent_at = ?, token = ?", (now, token))
    return members(connection, groups)


SWEEP_DIRECTORIES = 200
"""Directories that one slice of a sweep looks at, at most."""


def complete(connection: Connection, attempts: Sequence[Attempt], *, now: float) -> None:
    """Settle what these attempts cover, up to their watermarks; a directory attempt's needs are left to the sweep."""
    for kind in {attempt.kind for attempt in attempts}:
        these = [attempt for attempt in attempts if attempt.kind is kind]
        is_directory = kind is RefreshKind.DIRECTORY
        groups = own_groups(connection, [attempt.id for attempt in these])
        book_spent(connection, units_of(groups))
        finish(connection, groups, AttemptState.COMPLETE, now, active=is_directory)
        if not is_directory:
            _settle_marked(connection, kind, these)


def _settle_marked(connection: Connection, kind: RefreshKind, attempts: Sequence[Attempt]) -> None:
    """Settle what attempts of one kind cover, and release what they marked and do not cover."""
    places = {(attempt.target, directory_of(attempt.url)) for attempt in attempts}
    directories = _directories(connection, list(places))
    values = []
    for attempt in attempts:
        place = directory_of(attempt.url)
        url = strip_query(attempt.url) if kind is RefreshKind.IGNORE_PARAMS else attempt.url
        if (directory := directories.get((attempt.target, place))) is not None:
            name = url[len(place) :]
            values.append(
                {"directory": directory, "name": name, "watermark": attempt.watermark, "force": attempt.force}
            )
    reached = "name = :name"
    if kind is RefreshKind.IGNORE_PARAMS:
        # The path itself and the path with any query: "?" sorts right before "@".
        reached = "(name = :name OR (name >= :name || '?' AND name < :name || '@'))"
    within = f"directory = :directory AND {reached}"
    connection.executemany(f"DELETE FROM need WHERE {within} AND {_COVERED[kind]}", values)
    _later_since(connection, f"{within} AND scope IN ({_SCOPES[kind]})", values)
    release_needs(connection, [attempt.id for attempt in attempts])


def _directories(connection: Connection, places: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """Return the ids of these directories (target and URL), where there are any."""
    rows = select_wanted(
        connection,
        places,
        "SELECT t.name, d.url, d.id FROM wanted"
        " CROSS JOIN target t ON t.name = column1 CROSS JOIN directory d ON d.target = t.id AND d.url = column2",
    )
    return {(target, url): number for target, url, number in rows}


_COVERED = {kind: covered(kind, watermark=":watermark", force=":force") for kind in COVERAGE}
_SCOPES = {kind: ", ".join(f"{scope:d}" for scope in rule.scopes) for kind, rule in COVERAGE.items()}


def _later_since(connection: Connection, where: str, values: Sequence[Mapping[str, object]]) -> None:
    """What was changed again during the flight is stale only since then: the older change is settled."""
    connection.executemany(
        "UPDATE need SET stale_since = max(stale_since, later_since), later_since = NULL"
        f" WHERE {where} AND sequence > :watermark AND later_since IS NOT NULL",
        values,
    )


class SweepPosition(NamedTuple):
    """Where a slice of a sweep ended: at this need of this directory URL."""

    url: str = ""
    name: str = ""
    scope: int = -1


def sweep(connection: Connection, attempt: Attempt, after: SweepPosition, limit: int) -> SweepPosition | None:
    """
    Settle one slice of what a complete directory attempt covers.

    Args:
        connection: the writing connection, inside a transaction.
        attempt: the attempt, complete.
        after: where the last slice ended; ``SweepPosition()`` for the first.
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
        start = after if url == after.url else SweepPosition(url)
        looked, end = _sweep_directory(connection, attempt, directory, start, limit)
        if end is not None:
            return end
        limit -= looked
        after = SweepPosition(url + "\x01")  # the next: no URL holds such a character
    if len(directories) == SWEEP_DIRECTORIES:
        return after
    _supersede(connection, attempt)
    update_groups(connection, own_groups(connection, [attempt.id]), "active = 0")
    return None


def _sweep_directory(
    connection: Connection, attempt: Attempt, directory: int, start: SweepPosition, limit: int
) -> tuple[int, SweepPosition | None]:
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
    _later_since(connection, within, [values])
    return len(keys), SweepPosition(start.url, name, scope) if len(keys) >= limit else None


def _supersede(connection: Connection, attempt: Attempt) -> None:
    """Let go of the unconfirmed directory attempts that cover nothing which this one did not cover too."""
    rows = connection.execute(
        "SELECT id FROM attempt WHERE active = 1 AND state = 'unconfirmed' AND kind = 'directory' AND id <> ?1"
        " AND target = (SELECT target FROM attempt WHERE id = ?1) AND url >= ?2 AND url < ?3"
        " AND watermark <= ?4 AND force <= ?5",
        (attempt.id, attempt.url, prefix_end(attempt.url), attempt.watermark, attempt.force),
    )
    superseded = own_groups(connection, [row[0] for row in rows])
    update_groups(connection, superseded, "active = 0, finished_at = coalesce(finished_at, created_at)")


def expire(connection: Connection, load: Load, *, before: float, limit: int) -> int:
    """
    Settle up to ``limit`` of a directory's ready needs whose newest change is older than that; return how many.

    The newest, and not the first: what a cache fetched again in between may lack the later change.
    """
    rows = connection.execute(
        f"SELECT directory, name, scope FROM need WHERE {EXPIRED} LIMIT ? /*! FOR UPDATE */",
        (load.directory, before, limit),
    )
    return delete_rows(connection, "need", NEED_KEY, rows.fetchall())
