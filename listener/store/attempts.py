"""
Attempts under way (promises 3, 4, 5; the package's page has the rules).

An attempt is written down before its request. What it takes is booked in the ledger by what the CDN answered, in the
transaction that moves it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from listener.refresh import Attempt, AttemptState, NeedState, RefreshKind, Scope
from listener.store.charges import BookingKey
from listener.store.connection import Connection
from listener.store.groups import Group, own_groups, units_of, update_groups
from listener.store.index import revision
from listener.store.ledger import book_presumed, book_refund, book_spent

__all__ = [
    "Claim",
    "accept",
    "attempts_in",
    "back_to_held",
    "claims_at",
    "end_backoff",
    "fail",
    "finish",
    "held_ids",
    "look_again",
    "mark_unknown",
    "park",
    "postpone",
    "presume_spent",
    "recover",
    "refund",
    "release_needs",
    "sort_out",
    "states_of",
    "token_of",
    "unconfirm",
]


_COLUMNS = (
    "attempt.id, target.name, kind, url, force, watermark, state, task_id, created_at, sent_at, accepted_at,"
    " looks, tries, stale_since, reason, next_look_at"
)


def _attempt(row: Sequence[Any]) -> Attempt:
    number, target, kind, url, force, watermark, state, *others = row
    return Attempt(number, target, _KINDS[kind], url, bool(force), watermark, _STATES[state], *others)


_KINDS = {kind.value: kind for kind in RefreshKind}
_STATES = {state.value: state for state in AttemptState}
"""To look one up costs a tenth of making an enumeration's member of its value."""


class Agenda(NamedTuple):
    """What the store waits for, of every account; times in seconds since the epoch, None where nothing is due."""

    revision: int
    """Differs after whatever a plan may depend on that has no time, by whichever process it was changed."""
    need_due_at: float | None
    """When the next waiting need is due."""
    ready: frozenset[str]
    """The targets with needs that are ready."""
    settle_at: Mapping[str, float]
    """By target: when what has ended is to be settled; the past for what is complete, else the end of a back-off."""
    look_at: Mapping[str, float]
    """By target: when the next attempt is to be looked at that only its CDN can end."""


_AGENDA = """
SELECT 'need', '',
  (SELECT due_at FROM need WHERE due_at IS NOT NULL /*! AND slot IS NOT NULL */ ORDER BY /*! slot, */ due_at LIMIT 1)
UNION ALL SELECT 'ready', name, 0.0 FROM target
  WHERE EXISTS (SELECT 1 FROM directory WHERE directory.target = target.id AND directory.ready > 0)
UNION ALL SELECT CASE WHEN g.state IN ('complete', 'failed') THEN 'settle' ELSE 'look' END, target.name,
  min(CASE g.state WHEN 'complete' THEN 0.0 WHEN 'unknown' THEN coalesce(g.next_look_at, 0.0) ELSE g.next_look_at END)
FROM attempt_group AS g JOIN target ON target.id = g.target
WHERE g.active = 1 AND g.state IN ('complete', 'failed', 'accepted', 'unknown', 'unconfirmed')
GROUP BY 1, 2
"""


def agenda(connection: Connection) -> Agenda:
    """Return what is due next, of all accounts by one statement; idle ones have no row in it."""
    found: dict[str, dict[str, float]] = {"need": {}, "ready": {}, "settle": {}, "look": {}}
    for what, target, at in connection.execute(_AGENDA):
        if at is not None:
            found[what][target] = at
    ready = frozenset(found["ready"])
    return Agenda(revision(connection), found["need"].get(""), ready, found["settle"], found["look"])


def attempts_in(
    connection: Connection,
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
        due_by: of those with a next look only such as are due until then, in seconds since the epoch.
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
    connection: Connection,
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
        " FROM attempt WHERE url IN (SELECT value FROM json_each(?))"
        " AND account = ? AND kind = ? AND sent_at BETWEEN ? AND ? AND id NOT IN (SELECT value FROM json_each(?))",
        (json.dumps(list(urls)), account, kind.value, *sent_between, json.dumps(list(aside))),
    )
    return [
        Claim(id, url, sent_at, AttemptState(state), frozenset(filter(None, task_ids.split(","))), bool(guessed))
        for id, url, sent_at, state, task_ids, guessed in rows  # noqa: A001 - the column's name
    ]


def postpone(connection: Connection, looks: Sequence[tuple[int, float]]) -> None:
    """Put off the next look at these attempts (id, seconds since the epoch) without counting one."""
    _look_at(connection, looks, "next_look_at = ?")


def look_again(connection: Connection, looks: Sequence[tuple[int, float]]) -> None:
    """Note when each of these attempts (id, seconds since the epoch) is to be looked at next."""
    _look_at(connection, looks, "next_look_at = ?, looks = looks + 1")


def _look_at(connection: Connection, looks: Sequence[tuple[int, float]], change: str) -> None:
    ids_at: dict[float, list[int]] = {}
    for number, at in looks:
        ids_at.setdefault(at, []).append(number)
    for at, ids in ids_at.items():
        update_groups(connection, own_groups(connection, ids), change, (at,))


_THESE = "id IN (SELECT value FROM json_each(?))"


def held_ids(connection: Connection) -> frozenset[int]:
    """Return the ids of all reserved attempts."""
    return frozenset(_ids_in(connection, AttemptState.HELD))


def _ids_in(connection: Connection, state: AttemptState, account: str | None = None) -> list[int]:
    of, values = ("", [state.value]) if account is None else (" AND account = ?", [state.value, account])
    rows = connection.execute(f"SELECT id FROM attempt WHERE active = 1 AND state = ?{of}", values)
    return [row[0] for row in rows]


def token_of(connection: Connection, ids: Sequence[int]) -> str:
    """Return the token of the request that these attempts were sent in; empty where they have none, or several."""
    rows = connection.execute(
        "SELECT DISTINCT g.token FROM attempt_item AS i JOIN attempt_group AS g ON g.id = i.group_id"
        " WHERE i.id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(ids)),),
    ).fetchall()
    return str(rows[0][0]) if len(rows) == 1 else ""


def back_to_held(connection: Connection, ids: Sequence[int]) -> None:
    """Note that the CDN surely did not accept these; their units stay held for the next try."""
    groups = own_groups(connection, ids, f"state = '{AttemptState.SENDING.value}'")
    update_groups(connection, groups, f"state = '{AttemptState.HELD.value}', sent_at = NULL")


def accept(
    connection: Connection,
    task_ids: Mapping[int, str],
    *,
    now: float,
    next_look_at: float,
    inferred: bool = False,
) -> None:
    """
    Note that the CDN accepted these attempts (id → task id), and book their units as spent.

    What was only ``inferred`` from the task list is booked as presumed, so that the live quota can correct it. The
    units of some may have been presumed spent or refunded before: these are booked no more.
    """
    ids_of: dict[str, list[int]] = {}
    for number, task_id in task_ids.items():
        ids_of.setdefault(task_id, []).append(number)
    units: Counter[BookingKey] = Counter()
    for task_id, ids in ids_of.items():
        groups = own_groups(connection, ids)
        units += units_of(groups)
        change = "state = 'accepted', held = 0, task_id = ?, accepted_at = ?, next_look_at = ?"
        update_groups(connection, groups, change, (task_id, now, next_look_at))
    (book_presumed if inferred else book_spent)(connection, units)


def mark_unknown(connection: Connection, ids: Sequence[int], *, next_look_at: float, error: str) -> None:
    """Note that nobody knows whether the CDN accepted these; their units stay held until it is asked."""
    change = f"state = '{AttemptState.UNKNOWN.value}', next_look_at = ?, error = ?"
    update_groups(connection, own_groups(connection, ids), change, (next_look_at, error))


def refund(connection: Connection, ids: Sequence[int]) -> None:
    """Give back the units of attempts that were surely not accepted, and make their needs READY again."""
    groups = own_groups(connection, ids)
    book_refund(connection, units_of(groups))
    release_needs(connection, ids)
    connection.execute(f"DELETE FROM attempt_item WHERE {_THESE}", (json.dumps(list(ids)),))
    connection.execute(f"DELETE FROM attempt_group WHERE {_THESE}", (json.dumps([group.id for group in groups]),))


def release_needs(connection: Connection, ids: Sequence[int]) -> None:
    """Make the needs that these attempts marked READY again."""
    connection.execute(
        f"UPDATE need SET state = {NeedState.READY:d}, attempt = NULL"
        " WHERE attempt IN (SELECT value FROM json_each(?))"
        f" AND state IN ({NeedState.ATTEMPTED:d}, {NeedState.UNCONFIRMED:d})",
        (json.dumps(list(ids)),),
    )


def states_of(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[AttemptState, str]]:
    """Return the states of those of these attempts that are kept, with their task ids, separated by commas."""
    rows = connection.execute(
        f"SELECT id, state, coalesce(task_id, '') FROM attempt WHERE {_THESE}", (json.dumps(list(ids)),)
    )
    return {number: (AttemptState(state), task_ids) for number, state, task_ids in rows}


def sort_out(connection: Connection, *, now: float, account: str | None = None) -> list[int]:
    """
    Sort out what the last one who sent left, for one account or for all; return whose outcomes are unknown by that.

    ``HELD``: nothing was written, so it is refunded. ``SENDING``: it may have been; it is unknown.
    """
    refund(connection, _ids_in(connection, AttemptState.HELD, account))
    error = "the process ended while the request was being written"
    sending = _ids_in(connection, AttemptState.SENDING, account)
    mark_unknown(connection, sending, next_look_at=now, error=error)
    return sending


def recover(connection: Connection, *, now: float) -> bool:
    """Sort out what the last owner left, and note that an owner works now; return whether the last one crashed."""
    sort_out(connection, now=now)
    clean = bool(connection.execute("SELECT clean FROM meta").fetchone()[0])
    connection.execute("UPDATE meta SET clean = 0")
    return not clean


def finish(
    connection: Connection,
    groups: Sequence[Group],
    state: AttemptState,
    now: float,
    *,
    active: bool,
    error: str = "",
    next_look_at: float | None = None,
) -> None:
    """
    Note how the attempts of these groups ended; their units have left ``held``.

    What stays active covers its needs, or holds them back, until it is swept or its back-off ends.
    """
    update_groups(
        connection,
        groups,
        "state = ?, held = 0, finished_at = ?, next_look_at = ?, active = ?,"
        " error = CASE WHEN ? = '' THEN error ELSE ? END",
        (state.value, now, next_look_at, int(active), error, error),
    )


def fail(connection: Connection, ids: Sequence[int], *, now: float, retry_at: float, error: str) -> None:
    """Note that the CDN failed or refused these attempts; their needs are READY again at ``retry_at``."""
    groups = own_groups(connection, ids)
    book_refund(connection, units_of(groups))
    finish(connection, groups, AttemptState.FAILED, now, active=True, error=error, next_look_at=retry_at)


def end_backoff(connection: Connection, ids: Sequence[int]) -> None:
    """Make the needs of failed attempts READY: their back-off is over."""
    release_needs(connection, ids)
    update_groups(connection, own_groups(connection, ids), "active = 0, next_look_at = NULL")


def presume_spent(connection: Connection, ids: Sequence[int], *, now: float, error: str) -> None:
    """Book attempts whose outcome cannot be found out as spent, and make their needs READY again."""
    groups = own_groups(connection, ids)
    book_presumed(connection, units_of(groups))
    release_needs(connection, ids)
    finish(connection, groups, AttemptState.FAILED, now, active=False, error=error)


def park(connection: Connection, ids: Sequence[int], *, now: float, error: str) -> None:
    """Set aside the URLs that the CDN refused: refund, keep the attempts as the record, park what they were for."""
    groups = own_groups(connection, ids)
    book_refund(connection, units_of(groups))
    these = json.dumps(list(ids))
    connection.execute(
        f"UPDATE need SET state = {NeedState.PARKED:d}, attempt = NULL, due_at = NULL, reason = ?"
        " WHERE attempt IN (SELECT value FROM json_each(?))"
        f" AND state IN ({NeedState.ATTEMPTED:d}, {NeedState.UNCONFIRMED:d})",
        (error, these),
    )
    connection.execute(
        f"UPDATE need SET state = {NeedState.PARKED:d}, due_at = NULL, reason = ?"
        f" WHERE name = '' AND scope = {Scope.SUBTREE:d} AND directory IN"
        " (SELECT d.id FROM attempt AS a JOIN directory AS d ON d.target = a.target AND d.url = a.url"
        f" WHERE a.id IN (SELECT value FROM json_each(?)) AND a.kind = '{RefreshKind.DIRECTORY.value}')",
        (error, these),
    )
    finish(connection, groups, AttemptState.FAILED, now, active=False, error=error)


def unconfirm(connection: Connection, ids: Sequence[int], *, next_look_at: float | None, error: str) -> None:
    """Note that their task did not finish in time: it is reported, and never sent again merely because it is old."""
    change = f"state = '{AttemptState.UNCONFIRMED.value}', next_look_at = ?, error = ?"
    update_groups(connection, own_groups(connection, ids), change, (next_look_at, error))
    connection.execute(
        f"UPDATE need SET state = {NeedState.UNCONFIRMED:d}"
        f" WHERE attempt IN (SELECT value FROM json_each(?)) AND state = {NeedState.ATTEMPTED:d}",
        (json.dumps(list(ids)),),
    )
