"""Which URLs are stale, since when and why, and what happens next: one answer for commands, JSON and the page."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from listener.refresh import SCOPE_OF_KIND, AttemptState, NeedState, RefreshKind, directory_of
from listener.store.controls import Control, ControlKind, active
from listener.store.coverage import directory_attempts, status_word
from listener.store.overview import SHOWN_COLUMNS, scope_word, shown, why

__all__ = [
    "AccountReport",
    "Spender",
    "StaleNeed",
    "Surroundings",
    "accounts",
    "oldest_stale",
    "save_account",
    "stale_at",
]

MOST_LISTED: Final = 50
_LISTED: Final = [one for one in AttemptState if one not in (AttemptState.COMPLETE, AttemptState.CANCELLED)]
_WAITING: Final = {
    0: "quiet period: more changes may follow",
    1: "its writer may not be done",
    2: "the origin does not have the change yet",
}
_UNDER_WAY: Final = {
    AttemptState.HELD: "quota is reserved; the request is sent next",
    AttemptState.SENDING: "the request is under way",
    AttemptState.UNKNOWN: "the answer was lost; the CDN's task list is asked",
    AttemptState.ACCEPTED: "the CDN works on it",
    AttemptState.FAILED: "the CDN's task failed; it is retried",
    AttemptState.UNCONFIRMED: "the task did not finish in time",
}
_ORDERS: Final = {ControlKind.PAUSE: "paused", ControlKind.HOLD: "held for a deploy"}


class Spender(NamedTuple):
    """A source, or a site, that spent much of an account's quota within an hour."""

    source: str
    name: str
    """What it is called, for the operator."""
    kind: str
    units: int
    left: int
    """Units that were left before that hour."""


class AccountReport(NamedTuple):
    """The state of an account, as its sender reported it last."""

    name: str
    problem: str = ""
    """What keeps it from sending; empty while nothing does."""
    remedy: str = ""
    since: float | None = None
    """Seconds since the epoch, as every time here."""
    until: float | None = None
    """When it is tried again."""
    deferred: Mapping[tuple[str, str], str] = {}
    """Why needs wait, by target and directory URL; of very many the oldest."""
    spenders: Sequence[Spender] = ()
    """Who spent much of its quota within the last hour."""


class StaleNeed(NamedTuple):
    """One stale URL, or everything below one."""

    target: str
    url: str
    scope: str
    state: str
    """``waiting``, ``deferred``, ``in_flight``, ``failed``, ``parked`` or ``unconfirmed``."""
    since: float | None
    """Of the oldest change, in seconds since the epoch."""
    reason: str
    next_at: float | None
    """When the next step is due, as far as that is known."""


def save_account(connection: sqlite3.Connection, account: AccountReport, *, now: float) -> None:
    """Keep what an account's sender says of itself."""
    deferred = json.dumps([[*place, reason] for place, reason in account.deferred.items()])
    spenders = json.dumps(account.spenders)
    connection.execute(
        "INSERT OR REPLACE INTO account (name, problem, remedy, since, until, deferred, spenders, told_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (account.name, account.problem, account.remedy, account.since, account.until, deferred, spenders, now),
    )


def accounts(connection: sqlite3.Connection) -> list[AccountReport]:
    """Return what each account's sender said last."""
    rows = connection.execute(
        "SELECT name, problem, remedy, since, until, deferred, spenders FROM account ORDER BY name"
    )
    return [
        AccountReport(
            name,
            problem,
            remedy,
            since,
            until,
            {(target, url): reason for target, url, reason in json.loads(deferred)},
            [Spender(*one) for one in json.loads(spenders)],
        )
        for name, problem, remedy, since, until, deferred, spenders in rows
    ]


class Surroundings(NamedTuple):
    """What reasons depend on apart from the rows."""

    now: float
    """Seconds since the epoch."""
    is_running: bool | None
    """Whether a daemon runs; None where that is unknown."""
    account_of: Mapping[str, str]
    """The account of each configured target."""


class _Reasons:
    """Knows why what is due is not sent."""

    def __init__(self, connection: sqlite3.Connection, given: Surroundings) -> None:
        self._is_running = given.is_running
        self._account_of = given.account_of
        self._accounts = {one.name: one for one in accounts(connection)}
        self._orders = [one for one in active(connection, given.now) if one.kind in _ORDERS]

    def deferred(self, target: str, url: str, fallback: str) -> tuple[str, float | None]:
        """Return why a due URL waits, and until when."""
        if self._is_running is False:
            return "no daemon runs, so nothing is sent", None
        for order in self._orders:
            if order.place.holds(target, url):
                return _order_words(order), order.until
        account = self._accounts.get(self._account_of.get(target, ""))
        if account is None:
            return (fallback or "no configured target sends it"), None
        if account.problem:
            return account.problem, account.until
        return account.deferred.get((target, directory_of(url))) or fallback or "waits for the next plan", None


def _order_words(order: Control) -> str:
    words = _ORDERS[order.kind]
    return f"{words}: {order.reason}" if order.reason else words


_FROM: Final = (
    f"SELECT {SHOWN_COLUMNS} FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target"
    " LEFT JOIN attempt a ON a.id = n.attempt"
)


def _explained(need: Mapping[str, Any], reasons: _Reasons) -> StaleNeed:
    """Return a need as it is shown, with its reason and its next step."""
    state, said = need["state"], need["reason"]
    next_at: float | None = None
    if state == "waiting":
        said, next_at = _WAITING[need["waits_for"]], need["due_at"]
    elif state == "deferred":
        said, next_at = reasons.deferred(need["target"], need["url"], said)
    elif state != "parked":
        said, next_at = said or _UNDER_WAY.get(need["attempt_state"], ""), need["next_look_at"]
    return StaleNeed(need["target"], need["url"], need["scope"], state, need["stale_since"], said, next_at)


def oldest_stale(connection: sqlite3.Connection, given: Surroundings, *, limit: int = MOST_LISTED) -> list[StaleNeed]:
    """Return the oldest of what is stale, in bounded queries: some of each state, so that none hides another."""
    attempts, reasons = directory_attempts(connection), _Reasons(connection, given)

    def needs(where: str, *values: object) -> list[StaleNeed]:
        rows = connection.execute(f"{_FROM} WHERE {where} LIMIT ?", (*values, limit)).fetchall()
        return [_explained(need, reasons) for need in shown(rows, attempts)]

    groups = [
        needs("n.due_at IS NOT NULL ORDER BY n.due_at"),
        _deferred(connection, needs, limit),
        needs("n.state >= 3 AND n.state = 3 ORDER BY n.stale_since"),
        *_attempts(connection, limit),
    ]
    share = max(1, limit // len(groups))
    first = [one for group in groups for one in _by_age(group)[:share]]
    rest = _by_age([one for group in groups for one in _by_age(group)[share:]])
    return _by_age([*first, *rest[: limit - len(first)]])


def _by_age(found: Iterable[StaleNeed]) -> list[StaleNeed]:
    return sorted(found, key=lambda one: one.since if one.since is not None else 0.0)


def _deferred(connection: sqlite3.Connection, needs: Callable[..., list[StaleNeed]], limit: int) -> list[StaleNeed]:
    """Return the oldest due needs: of the directories with the oldest, those that no directory refresh covers."""
    directories = connection.execute(
        "SELECT id, (SELECT stale_since FROM need WHERE directory = d.id AND state = 1 ORDER BY stale_since LIMIT 1) s"
        " FROM directory d WHERE ready > 0 ORDER BY s LIMIT ?",
        (limit,),
    ).fetchall()
    found: list[StaleNeed] = []
    for id_, _ in directories:
        found += [
            one
            for one in needs("n.directory = ? AND n.state = 1 ORDER BY n.stale_since", id_)
            if one.state == "deferred"
        ]
        if len(found) >= limit:
            break
    return found


def _attempts(connection: sqlite3.Connection, limit: int) -> Iterable[list[StaleNeed]]:
    """Yield what is in flight, failed or unconfirmed, by the state of its attempt."""
    for state in _LISTED:
        rows = connection.execute(
            "SELECT t.name, a.url, a.kind, a.stale_since, a.error, a.next_look_at FROM attempt a"
            " JOIN target t ON t.id = a.target WHERE a.active = 1 AND a.state = ? ORDER BY a.id LIMIT ?",
            (state.value, limit),
        )
        yield [_attempted(state, row) for row in rows]


def _attempted(state: AttemptState, row: Any) -> StaleNeed:
    target, url, kind, since, error, look = row
    word = status_word(NeedState.ATTEMPTED, state, None)
    scope = scope_word(SCOPE_OF_KIND[RefreshKind(kind)])
    return StaleNeed(target, url, scope, word, since, error or _UNDER_WAY.get(state, ""), look)


def stale_at(connection: sqlite3.Connection, given: Surroundings, url: str) -> list[StaleNeed]:
    """Return every need that makes this URL stale: its own, its path's with any query, and a directory's above it."""
    reasons = _Reasons(connection, given)
    return [_explained(need, reasons) for need in why(connection, url)]
