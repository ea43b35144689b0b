"""Attempts under way: written down before the request, and booked after it (promises 3, 4, 5)."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from listener.refresh import SCOPE_OF_KIND, Attempt, AttemptState, NeedState, RefreshKind
from listener.store import ledger
from listener.store.index import prefix_end_of

__all__ = [
    "Claim",
    "accept",
    "attempts_in",
    "back_to_held",
    "claims_at",
    "held_ids",
    "mark_sending",
    "mark_unknown",
    "postpone",
    "recover",
    "refund",
    "release_needs",
    "take_held",
    "withdraw",
]

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


class Claim(NamedTuple):
    """An attempt at a URL that was sent, or may have been: one listed task of that URL may be its own."""

    id: int
    url: str
    sent_at: float
    """When its request was written or, where that is later, accepted; in seconds since the epoch."""
    state: AttemptState
    task_ids: frozenset[str]
    """Empty while nobody knows whether it was accepted, and where that never became known."""
    guessed: bool = False
    """Whether its outcome was unknown once, so that its task ids may have been read from the task list."""

    @property
    def sending(self) -> bool:
        """Whether the answer is awaited."""
        return self.state is AttemptState.SENDING

    @property
    def unknown(self) -> bool:
        """Whether its outcome is still to be found out."""
        return self.state in (AttemptState.SENDING, AttemptState.UNKNOWN)


def claims_at(
    connection: sqlite3.Connection,
    urls: Sequence[str],
    *,
    account: str,
    kind: RefreshKind,
    sent_between: tuple[float, float],
    aside: Sequence[int],
) -> list[Claim]:
    """
    Return the attempts of an account, by whatever target, that were or may have been sent for these URLs.

    Args:
        connection: a snapshot.
        urls: of exactly these URLs.
        account: whose attempts.
        kind: of this kind.
        sent_between: sent from the first until the second, in seconds since the epoch.
        aside: ids that are left out.
    """
    rows = connection.execute(
        "SELECT id, url, max(sent_at, coalesce(accepted_at, sent_at)), state, coalesce(task_id, ''), error <> ''"
        " FROM attempt WHERE target IN (SELECT id FROM target) AND url IN (SELECT value FROM json_each(?))"
        " AND account = ? AND kind = ? AND sent_at BETWEEN ? AND ? AND id NOT IN (SELECT value FROM json_each(?))",
        (json.dumps(list(urls)), account, kind.value, *sent_between, json.dumps(list(aside))),
    )
    return [
        Claim(id, url, sent_at, AttemptState(state), frozenset(filter(None, task_ids.split(","))), bool(guessed))
        for id, url, sent_at, state, task_ids, guessed in rows  # noqa: A001 - the column's name
    ]


def postpone(connection: sqlite3.Connection, looks: Sequence[tuple[int, float]]) -> None:
    """Put off the next look at these attempts (id, seconds since the epoch) without counting one."""
    connection.executemany("UPDATE attempt SET next_look_at = ? WHERE id = ?", [(at, i) for i, at in looks])


SENT_APART_SECONDS = 1e-5
_THESE = "id IN (SELECT value FROM json_each(?))"


def mark_sending(connection: sqlite3.Connection, ids: Sequence[int], *, now: float) -> list[int]:
    """
    Note, durably before it is done, that the request with these attempts is being written; return which may go.

    What a person ordered since they were reserved is looked at in the same transaction: below a hold or a pause
    they are refunded and due again, and those whose needs were cancelled are refunded.
    """
    withdraw(connection, ids, now=now)
    unanswered = "SELECT DISTINCT sent_at FROM attempt WHERE active = 1 AND state IN ('sending', 'unknown')"
    taken = {at for (at,) in connection.execute(unanswered)}
    while now in taken:  # the time names the request: what was written together is accepted together
        now += SENT_APART_SECONDS
    connection.execute(
        f"UPDATE attempt SET state = 'sending', sent_at = ? WHERE {_THESE} AND state = 'held'", (now, json.dumps(ids))
    )
    rows = connection.execute(f"SELECT id FROM attempt WHERE {_THESE} AND state = 'sending'", (json.dumps(ids),))
    return [row[0] for row in rows]


_PATH = "substr(a.url, 1, instr(a.url || '?', '?') - 1)"
_SCOPE_OF_KIND = " ".join(f"WHEN '{kind.value}' THEN {scope:d}" for kind, scope in SCOPE_OF_KIND.items())
_HAS_NEED = f"""
SELECT 1 FROM directory b JOIN need m ON m.directory = b.id
WHERE b.target = a.target AND b.url = rtrim({_PATH}, replace({_PATH}, '/', ''))
  AND m.name = substr(a.url, length(b.url) + 1) AND m.scope = CASE a.kind {_SCOPE_OF_KIND} END
"""
"""The need that a file or prefetch attempt was made for; a change since then has removed the attempt's mark from it."""
_STOPPED = f"""
SELECT a.id FROM attempt a JOIN target t ON t.id = a.target
LEFT JOIN need n ON n.attempt = a.id
LEFT JOIN directory d ON a.kind = 'directory' AND d.target = a.target AND d.url = a.url
LEFT JOIN need s ON s.directory = d.id AND s.name = '' AND s.scope = 2
WHERE a.active = 1 AND a.state = 'held' AND (?1 IS NULL OR a.id IN (SELECT value FROM json_each(?1))) AND (
  EXISTS (
    SELECT 1 FROM control c WHERE c.kind IN ('hold', 'pause') AND (c.until IS NULL OR c.until > ?2)
      AND c.target IN ('', t.name)
      AND (substr(a.url, 1, length(c.prefix)) = c.prefix
           OR (a.kind = 'directory' AND substr(c.prefix, 1, length(a.url)) = a.url))
      AND (c.kind = 'pause' OR NOT (a.urgent OR coalesce(n.asked, 0) OR coalesce(s.asked, 0))))
  OR CASE WHEN a.kind = 'directory' THEN NOT EXISTS (
       SELECT 1 FROM directory b JOIN need m ON m.directory = b.id
       WHERE b.target = a.target AND b.url >= a.url AND b.url < {prefix_end_of("a.url")})
     ELSE n.attempt IS NULL AND NOT EXISTS ({_HAS_NEED}) END)
LIMIT ?3
"""
"""Reserved attempts that a hold or a pause covers, or that are for nothing any more."""
ALL_STOPPED = 1_000_000


def withdraw(
    connection: sqlite3.Connection, ids: Sequence[int] | None = None, *, now: float, limit: int = ALL_STOPPED
) -> int:
    """Refund reserved attempts (of these ids, or all) that a hold, a pause or a cancellation stops; return how many."""
    wanted = None if ids is None else json.dumps(ids)
    stopped = [row[0] for row in connection.execute(_STOPPED, (wanted, now, limit))]
    if stopped:
        refund(connection, stopped)
    return len(stopped)


def held_ids(connection: sqlite3.Connection) -> frozenset[int]:
    """Return the ids of all reserved attempts."""
    rows = connection.execute("SELECT id FROM attempt WHERE active = 1 AND state = 'held'")
    return frozenset(row[0] for row in rows)


def back_to_held(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Note that the CDN surely did not accept these; their units stay held for the next try."""
    connection.execute(
        f"UPDATE attempt SET state = 'held', sent_at = NULL WHERE {_THESE} AND state = 'sending'", (json.dumps(ids),)
    )


def accept(
    connection: sqlite3.Connection,
    task_ids: Mapping[int, str],
    *,
    now: float,
    next_look_at: float,
    inferred: bool = False,
) -> None:
    """
    Note that the CDN accepted these attempts (id → task id), and book their units as spent.

    What was only ``inferred`` from the task list is booked as presumed, so that the live quota can correct it.
    """
    ids = list(task_ids)
    book = ledger.book_presumed if inferred else ledger.book_spent
    book(connection, take_held(connection, ids))
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
