"""Attempts: made, written down before the request, and booked after it (promises 3, 4, 5)."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from listener.clock import window_start
from listener.refresh import Attempt, AttemptState, NeedState, RefreshKind, Scope, directory_of
from listener.store import ledger
from listener.store.names import Names

__all__ = [
    "SCOPE_OF_KIND",
    "Wanted",
    "accept",
    "attempts_in",
    "back_to_held",
    "hold",
    "mark_sending",
    "mark_unknown",
    "postpone",
    "recover",
    "refund",
    "release_needs",
    "take_held",
    "task_ids_of",
]

SCOPE_OF_KIND: Mapping[RefreshKind, Scope] = {
    RefreshKind.FILE: Scope.EXACT,
    RefreshKind.IGNORE_PARAMS: Scope.ALL_PARAMS,
    RefreshKind.PREFETCH: Scope.PREFETCH,
}
"""The scope of the one need that an attempt of this kind marks; a directory attempt marks none."""


class Wanted(NamedTuple):
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
    backfill: bool = False
    """Whether only a backfill asks for it."""


_COLUMNS = (
    "attempt.id, target.name, kind, url, force, watermark, state, task_id, created_at, sent_at, accepted_at,"
    " looks, tries, stale_since, reason, next_look_at"
)


def _attempt(row: Sequence[object]) -> Attempt:
    fields: dict[str, Any] = dict(zip(Attempt.__slots__, row, strict=True))
    fields["kind"] = RefreshKind(str(row[2]))
    fields["force"] = bool(row[4])
    fields["state"] = AttemptState(str(row[6]))
    return Attempt(**fields)


def attempts_in(
    connection: sqlite3.Connection,
    states: Iterable[AttemptState],
    *,
    due_by: float | None = None,
    targets: Sequence[str] | None = None,
    limit: int = 10_000,
) -> list[Attempt]:
    """
    Return active attempts in these states, earliest next look first.

    Args:
        connection: a snapshot.
        states: in any of these.
        due_by: of those with a next look only such as are due by then, in seconds since the epoch.
        targets: of these targets only; all where it is ``None``, those that the configuration lost included.
        limit: so many at most.
    """
    listed = ", ".join(f"'{state.value}'" for state in states)
    due = "" if due_by is None else " AND next_look_at <= ?"
    of = "" if targets is None else " AND target.name IN (SELECT value FROM json_each(?))"
    values: list[object] = [] if due_by is None else [due_by]
    values += [] if targets is None else [json.dumps(list(targets))]
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM attempt JOIN target ON target.id = attempt.target"
        f" WHERE active = 1 AND state IN ({listed}){due}{of} ORDER BY next_look_at, attempt.id LIMIT ?",
        (*values, limit),
    )
    return [_attempt(row) for row in rows]


def hold(
    connection: sqlite3.Connection,
    names: Names,
    wanted: Sequence[Wanted],
    *,
    account: str,
    now: float,
    quota: Mapping[RefreshKind, int],
) -> list[Attempt]:
    """
    Make the attempts that the quota allows, in the order given, and hold their units.

    A need that is no longer READY, or was sent within its minimal interval, is left out (and in
    the second case waits for it).
    """
    watermark = int(connection.execute("SELECT sequence FROM meta").fetchone()[0])
    made: list[Attempt] = []
    for kind in dict.fromkeys(one.kind for one in wanted):
        asked = list({(one.target, one.url): one for one in wanted if one.kind is kind}.values())
        left = ledger.budget(connection, account, kind, now=now, default=quota.get(kind, 0)).left
        claimed = _claim(connection, names, asked, now=now, most=left, watermark=watermark)
        ledger.hold_units(connection, account, kind, len(claimed), now=now, default=quota.get(kind, 0))
        connection.executemany(
            "INSERT INTO attempt (id, target, kind, url, force, watermark, state, account, window_start, held,"
            " created_at, tries, stale_since, covered, urgent, reason, backfill)"
            " VALUES (?, ?, ?, ?, ?, ?, 'held', ?, ?, 1, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    attempt.id,
                    names.target(connection, one.target),
                    kind.value,
                    one.url,
                    one.force,
                    watermark,
                    account,
                    window_start(now),
                    now,
                    attempt.tries,
                    one.stale_since,
                    one.covered,
                    one.urgent,
                    one.reason,
                    one.backfill,
                )
                for one, attempt in claimed
            ],
        )
        made += [attempt for _, attempt in claimed]
    return made


def _claim(
    connection: sqlite3.Connection, names: Names, asked: Sequence[Wanted], *, now: float, most: int, watermark: int
) -> list[tuple[Wanted, Attempt]]:
    """Mark the needs of up to ``most`` of these; return those that could be, each with its attempt."""
    claimed: list[tuple[Wanted, Attempt]] = []
    next_id = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'attempt'")
    attempt_id = int(next_id.fetchone()[0])
    for one in asked:
        if len(claimed) >= most:
            break
        if not _mark(connection, names, one, attempt_id, now):
            continue
        attempt = Attempt(
            id=attempt_id,
            target=one.target,
            kind=one.kind,
            url=one.url,
            force=one.force,
            watermark=watermark,
            created_at=now,
            tries=_tries(connection, names.target(connection, one.target), one.url),
            stale_since=one.stale_since,
            reason=one.reason,
        )
        claimed.append((one, attempt))
        attempt_id += 1
    return claimed


def _tries(connection: sqlite3.Connection, target: int, url: str) -> int:
    last = connection.execute(
        "SELECT state, tries FROM attempt WHERE target = ? AND url = ? ORDER BY id DESC LIMIT 1", (target, url)
    ).fetchone()
    return last[1] + 1 if last is not None and last[0] == AttemptState.FAILED else 1


def _key(connection: sqlite3.Connection, names: Names, target: str, url: str) -> tuple[int, str]:
    place = directory_of(url)
    return names.directory(connection, names.target(connection, target), place), url[len(place) :]


def task_ids_of(connection: sqlite3.Connection, attempt: Attempt) -> Counter[str]:
    """Return the task ids that other attempts at the same URL have, and how many each: those are not this one's."""
    rows = connection.execute(
        "SELECT task_id FROM attempt JOIN target ON target.id = attempt.target"
        " WHERE target.name = ? AND url = ? AND task_id IS NOT NULL AND attempt.id <> ?",
        (attempt.target, attempt.url, attempt.id),
    )
    return Counter(task_id for (joined,) in rows for task_id in joined.split(","))


def postpone(connection: sqlite3.Connection, looks: Sequence[tuple[int, float]]) -> None:
    """Put off the next look at these attempts (id, seconds since the epoch) without counting one."""
    connection.executemany("UPDATE attempt SET next_look_at = ? WHERE id = ?", [(at, i) for i, at in looks])


_MARK = (
    f"UPDATE need SET state = {NeedState.ATTEMPTED:d}, attempt = ?"
    f" WHERE directory = ? AND name = ? AND scope = ? AND state = {NeedState.READY:d}"
)


def _mark(connection: sqlite3.Connection, names: Names, one: Wanted, attempt: int, now: float) -> bool:
    """Mark the need that this attempt is for; return whether it may be sent now."""
    if one.kind is RefreshKind.DIRECTORY:
        return True
    directory, name = _key(connection, names, one.target, one.url)
    key = (directory, name, int(SCOPE_OF_KIND[one.kind]))
    if one.kind is RefreshKind.PREFETCH and _refresh_pending(connection, names, one, directory, name):
        return False
    if one.min_interval_seconds and _too_soon(connection, names, one, key, now):
        return False
    return connection.execute(_MARK, (attempt, *key)).rowcount == 1


def _too_soon(connection: sqlite3.Connection, names: Names, one: Wanted, key: tuple[int, str, int], now: float) -> bool:
    """Whether the URL was sent within its minimal interval; then the need waits for the interval's end."""
    last, today = connection.execute(
        "SELECT max(sent_at), coalesce(sum(window_start = ?), 0) FROM attempt WHERE target = ? AND url = ?",
        (window_start(now), names.target(connection, one.target), one.url),
    ).fetchone()
    # A URL that goes on changing is worth ever less haste: what comes meanwhile merges.
    interval = min(one.min_interval_seconds * 2.0 ** min(32, max(0, today - 1)), one.most_interval_seconds)
    interval = max(one.min_interval_seconds, interval)
    if last is None or not last <= now < last + interval:
        return False  # one sent later than now tells of a clock that was set back
    connection.execute(
        f"UPDATE need SET state = {NeedState.WAITING:d}, due_at = ?"
        f" WHERE directory = ? AND name = ? AND scope = ? AND state = {NeedState.READY:d}",
        (last + interval, *key),
    )
    return True


def _refresh_pending(connection: sqlite3.Connection, names: Names, one: Wanted, directory: int, name: str) -> bool:
    """Whether a refresh of this URL is still due or under way: a prefetch would fetch the old copy again."""
    own = connection.execute(
        "SELECT 1 FROM need WHERE directory = ? AND name = ? AND scope IN (0, 1)", (directory, name)
    ).fetchone()
    above = [one.url[: i + 1] for i, letter in enumerate(one.url) if letter == "/" and i > one.url.find("://") + 2]
    marks = ", ".join("?" * len(above))
    target = names.target(connection, one.target)
    return (
        own is not None
        or connection.execute(
            "SELECT 1 FROM need JOIN directory d ON d.id = need.directory"
            f" WHERE d.target = ? AND d.url IN ({marks}) AND need.name = '' AND scope = 2",
            (target, *above),
        ).fetchone()
        is not None
        or connection.execute(
            f"SELECT 1 FROM attempt WHERE active = 1 AND kind = 'directory' AND target = ? AND url IN ({marks})",
            (target, *above),
        ).fetchone()
        is not None
    )


_THESE = "id IN (SELECT value FROM json_each(?))"


def mark_sending(connection: sqlite3.Connection, ids: Sequence[int], *, now: float) -> None:
    """Note, durably before it is done, that the request with these attempts is being written."""
    connection.execute(
        f"UPDATE attempt SET state = 'sending', sent_at = ? WHERE {_THESE} AND state = 'held'", (now, json.dumps(ids))
    )


def back_to_held(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Note that the CDN surely did not accept these; their units stay held for the next try."""
    connection.execute(
        f"UPDATE attempt SET state = 'held', sent_at = NULL WHERE {_THESE} AND state = 'sending'", (json.dumps(ids),)
    )


def accept(connection: sqlite3.Connection, task_ids: Mapping[int, str], *, now: float, next_look_at: float) -> None:
    """Note that the CDN accepted these attempts (id → task id), and book their units as spent."""
    ids = list(task_ids)
    ledger.book_spent(connection, take_held(connection, ids))
    connection.executemany(
        "UPDATE attempt SET state = 'accepted', task_id = ?, accepted_at = ?, next_look_at = ? WHERE id = ?",
        [(task_id, now, next_look_at, i) for i, task_id in task_ids.items()],
    )


def mark_unknown(connection: sqlite3.Connection, ids: Sequence[int], *, next_look_at: float, error: str) -> None:
    """Note that nobody knows whether the CDN accepted these; their units stay held until it is asked."""
    connection.execute(
        f"UPDATE attempt SET state = 'unknown', next_look_at = ?, error = ? WHERE {_THESE}",
        (next_look_at, error, json.dumps(ids)),
    )


def refund(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Give back the units of attempts that were surely not accepted, and make their needs READY again."""
    ledger.book_refund(connection, take_held(connection, ids))
    release_needs(connection, ids)
    connection.execute(f"DELETE FROM attempt WHERE {_THESE}", (json.dumps(ids),))


def release_needs(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Make the needs that these attempts marked READY again."""
    connection.execute(
        f"UPDATE need SET state = {NeedState.READY:d}, attempt = NULL"
        " WHERE attempt IN (SELECT value FROM json_each(?))"
        f" AND state IN ({NeedState.ATTEMPTED:d}, {NeedState.UNCONFIRMED:d})",
        (json.dumps(ids),),
    )


def take_held(connection: sqlite3.Connection, ids: Sequence[int]) -> Counter[ledger.Place]:
    """Clear the held mark of these attempts and return the units that it stood for."""
    rows = connection.execute(
        f"UPDATE attempt SET held = 0 WHERE {_THESE} AND held = 1 RETURNING account, kind, window_start",
        (json.dumps(ids),),
    )
    return Counter(rows.fetchall())


def recover(connection: sqlite3.Connection, *, now: float) -> bool:
    """
    Sort out what the last owner left, and note that an owner works now; return whether the last one crashed.

    ``HELD``: nothing was written, so it is refunded. ``SENDING``: it may have been; it is unknown.
    """
    held = [row[0] for row in connection.execute("SELECT id FROM attempt WHERE active = 1 AND state = 'held'")]
    refund(connection, held)
    sending = [row[0] for row in connection.execute("SELECT id FROM attempt WHERE active = 1 AND state = 'sending'")]
    mark_unknown(connection, sending, next_look_at=now, error="the process ended while the request was being written")
    clean = bool(connection.execute("SELECT clean FROM meta").fetchone()[0])
    connection.execute("UPDATE meta SET clean = 0")
    return not clean
