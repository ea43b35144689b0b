"""
Which needs are stale, since when and why, and what happens next: one answer for commands, JSON and the page.

A need's state in every view is one word (:func:`status_word`): its own row's state, that of the attempt that marks it,
and that of the directory attempt that covers it decide together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from listener.refresh import SCOPE_OF_KIND, AttemptState, NeedState, RefreshKind, Scope, directory_of, strip_query
from listener.store.connection import Connection
from listener.store.controls import (
    NEEDS_BELOW,
    Control,
    ControlKind,
    Place,
    accounts,
    active,
    awaits_approval,
    place_values,
)
from listener.store.needs import (
    MARKED_BY,
    OLDEST_READY,
    DirectoryAttempt,
    DirectoryAttempts,
    deciding,
    directory_attempts,
)

__all__ = [
    "SETTLED",
    "StaleNeed",
    "Surroundings",
    "Unsettled",
    "WaitsFor",
    "directories_above",
    "oldest_stale",
    "scope_word",
    "stale_at",
    "stale_below",
    "status_word",
    "unsettled",
    "waits_for",
    "why",
]


SETTLED = "settled"


_OF_ATTEMPT = {
    AttemptState.HELD: "in_flight",
    AttemptState.SENDING: "in_flight",
    AttemptState.UNKNOWN: "in_flight",
    AttemptState.ACCEPTED: "in_flight",
    AttemptState.FAILED: "failed",
    AttemptState.UNCONFIRMED: "unconfirmed",
    AttemptState.COMPLETE: SETTLED,
}


_OF_NEED = {
    NeedState.WAITING: "waiting",
    NeedState.READY: "deferred",
    NeedState.ATTEMPTED: "in_flight",
    NeedState.PARKED: "parked",
    NeedState.UNCONFIRMED: "unconfirmed",
}


def status_word(state: NeedState, attempt: AttemptState | None, cover: DirectoryAttempt | None) -> str:
    """
    Return the word for a need's state in every view.

    Args:
        state: of the need's own row.
        attempt: the state of the attempt that marks it.
        cover: the directory attempt that decides (:func:`decided_by`).

    Returns:
        ``waiting``, ``deferred``, ``in_flight``, ``failed``, ``unconfirmed``, ``parked``, or ``settled``: a complete
        attempt covers it, and its row is about to be removed.
    """
    if cover is not None and cover.state is AttemptState.COMPLETE:
        return SETTLED
    if state in (NeedState.PARKED, NeedState.UNCONFIRMED):
        return _OF_NEED[state]
    if attempt is not None:
        return _OF_ATTEMPT[attempt]
    return _OF_NEED[state] if cover is None else _OF_ATTEMPT[cover.state]


class WaitsFor(StrEnum):
    """Who must act next before a stale URL is fresh."""

    US = "us"
    CDN = "cdn"
    PERSON = "person"


_WAITS_FOR: Final = {
    "waiting": WaitsFor.US,
    "pending": WaitsFor.US,
    "deferred": WaitsFor.US,
    "failed": WaitsFor.US,
    "in_flight": WaitsFor.CDN,
    "parked": WaitsFor.PERSON,
    "unconfirmed": WaitsFor.PERSON,
}


def waits_for(state: str, reason: str = "") -> WaitsFor:
    """Return who must act next for a need in this state: a word of :func:`status_word`, or ``pending``."""
    return WaitsFor.PERSON if state == "deferred" and awaits_approval(reason) else _WAITS_FOR[state]


def why(connection: Connection, url: str) -> list[dict[str, Any]]:
    """
    Return every need that makes this URL stale: its own, its path's with any query, and a directory's above it.

    Each with ``state`` as ``status`` counts it, so that one below a directory refresh under way is in flight.
    """
    attempts = directory_attempts(connection)
    found = []
    for place, name, scopes in _places(url):
        rows = connection.execute(
            f"SELECT {SHOWN_COLUMNS} FROM target t CROSS JOIN directory d ON d.target = t.id"
            f" CROSS JOIN need n ON n.directory = d.id {MARKED_BY}"
            f" WHERE d.url = ? AND n.name = ? AND scope IN ({', '.join(f'{scope:d}' for scope in scopes)})",
            (place, name),
        )
        found += shown(rows.fetchall(), attempts)
    return found


SHOWN_COLUMNS = (
    "t.id, t.name, d.url, n.name, n.scope, n.sequence, n.state, n.stale_since, n.due_at, n.reason, n.open,"
    " n.needs_force, n.urgent, i.id, a.state, a.error, a.next_look_at"
)
"""Of a target ``t``, a directory ``d``, a need ``n`` and :data:`MARKED_BY`."""
SINCE_COLUMN: Final = SHOWN_COLUMNS.split(", ").index("n.stale_since") + 1


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
    for above in directories_above(url):
        yield above, "", (Scope.SUBTREE,)


def directories_above(url: str) -> Iterable[str]:
    """Yield the directory URLs that this URL lies in, the innermost first; not itself."""
    place = directory_of(url)
    end = len(place)
    while end > len("https://"):
        if place[:end] != url:
            yield place[:end]
        end = place.rfind("/", 0, end - 1) + 1


MOST_LISTED: Final = 50


_LISTED: Final = [one for one in AttemptState if one not in (AttemptState.COMPLETE, AttemptState.CANCELLED)]


_WAITING: Final = {
    0: "quiet period: more changes may follow",
    1: "its writer may not be done",
    2: "the origin does not have the change yet",
}

_FOR_COPIES: Final = "more changes may follow, or other copies of the file are awaited"


_UNDER_WAY: Final = {
    AttemptState.HELD: "quota is reserved; the request is sent next",
    AttemptState.SENDING: "the request is under way",
    AttemptState.UNKNOWN: "the answer was lost; the CDN's task list is asked",
    AttemptState.ACCEPTED: "the CDN works on it",
    AttemptState.FAILED: "the CDN's task failed; it is retried",
    AttemptState.UNCONFIRMED: "the task did not finish in time",
}


_ORDERS: Final = {ControlKind.PAUSE: "paused", ControlKind.HOLD: "held for a deploy"}


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


class Surroundings(NamedTuple):
    """What reasons depend on apart from the rows."""

    now: float
    """Seconds since the epoch."""
    is_running: bool | None
    """Whether a daemon runs; None where that is unknown."""
    account_of: Mapping[str, str]
    """The account of each configured target."""
    has_copies: bool = False
    """Whether a tree has copies on several instances, for which a change waits."""


class _Reasons:
    """Knows why what is due is not sent."""

    def __init__(self, connection: Connection, given: Surroundings) -> None:
        self._is_running = given.is_running
        self._quiet = _FOR_COPIES if given.has_copies else _WAITING[0]
        self._account_of = given.account_of
        self._accounts = {one.name: one for one in accounts(connection)}
        self._orders = [one for one in active(connection, given.now) if one.kind in _ORDERS]

    def waiting(self, waits_for: int) -> str:
        """Return why a need is not due yet."""
        return _WAITING[waits_for] if waits_for else self._quiet

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
    f" {MARKED_BY}"
)


def _explained(need: Mapping[str, Any], reasons: _Reasons) -> StaleNeed:
    """Return a need as it is shown, with its reason and its next step."""
    state, said = need["state"], need["reason"]
    next_at: float | None = None
    if state == "waiting":
        said, next_at = reasons.waiting(need["waits_for"]), need["due_at"]
    elif state == "deferred":
        said, next_at = reasons.deferred(need["target"], need["url"], said)
    elif state != "parked":
        said, next_at = said or _UNDER_WAY.get(need["attempt_state"], ""), need["next_look_at"]
    return StaleNeed(need["target"], need["url"], need["scope"], state, need["stale_since"], said, next_at)


def oldest_stale(connection: Connection, given: Surroundings, *, limit: int = MOST_LISTED) -> list[StaleNeed]:
    """Return the oldest of what is stale, in bounded queries: some of each state, so that none hides another."""
    attempts, reasons = directory_attempts(connection), _Reasons(connection, given)

    def needs(where: str, *values: object) -> list[StaleNeed]:
        rows = connection.execute(f"{_FROM} WHERE {where} LIMIT ?", (*values, limit)).fetchall()
        return [_explained(need, reasons) for need in shown(rows, attempts)]

    groups = [
        needs("n.due_at IS NOT NULL /*! AND n.slot IS NOT NULL */ ORDER BY n.due_at"),
        _deferred(connection, needs, limit),
        needs(f"n.state >= {NeedState.PARKED:d} AND n.state = {NeedState.PARKED:d} ORDER BY n.stale_since"),
        *_attempts(connection, limit),
    ]
    share = max(1, limit // len(groups))
    first = [one for group in groups for one in _by_age(group)[:share]]
    rest = _by_age([one for group in groups for one in _by_age(group)[share:]])
    return _by_age([*first, *rest[: limit - len(first)]])


def _by_age(found: Iterable[StaleNeed]) -> list[StaleNeed]:
    return sorted(found, key=lambda one: one.since if one.since is not None else 0.0)


def _deferred(connection: Connection, needs: Callable[..., list[StaleNeed]], limit: int) -> list[StaleNeed]:
    """Return the oldest due needs: of the directories with the oldest, those that no directory refresh covers."""
    directories = connection.execute(
        f"SELECT id, ({OLDEST_READY}) s FROM directory d WHERE ready > 0 ORDER BY s LIMIT ?",
        (limit,),
    ).fetchall()
    found: list[StaleNeed] = []
    for id_, _ in directories:
        found += [
            one
            for one in needs(f"n.directory = ? AND n.state = {NeedState.READY:d} ORDER BY n.stale_since", id_)
            if one.state == "deferred"
        ]
        if len(found) >= limit:
            break
    return found


def _attempts(connection: Connection, limit: int) -> Iterable[list[StaleNeed]]:
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


def stale_below(connection: Connection, given: Surroundings, places: Sequence[Place], *, limit: int) -> list[StaleNeed]:
    """Return the oldest needs at or below these places, and those that make them stale from above."""
    attempts, reasons = directory_attempts(connection), _Reasons(connection, given)
    columns, found = f"SELECT {SHOWN_COLUMNS}", dict[tuple[str, str, str], StaleNeed]()
    for place in places:
        rows = connection.execute(
            f"{columns}{NEEDS_BELOW} UNION ALL {columns}{_ABOVE} ORDER BY {SINCE_COLUMN} LIMIT :limit",
            {**place_values(place), "limit": limit},
        ).fetchall()
        explained = [_explained(need, reasons) for need in shown(rows, attempts)]
        found |= {(one.target, one.url, one.scope): one for one in explained}
    return _by_age(found.values())[:limit]


def stale_at(connection: Connection, given: Surroundings, url: str) -> list[StaleNeed]:
    """Return every need that makes this URL stale: its own, its path's with any query, and a directory's above it."""
    reasons = _Reasons(connection, given)
    return [_explained(need, reasons) for need in why(connection, url)]


class Unsettled(NamedTuple):
    """Needs of one state that stand where somebody waits."""

    state: str
    """A word of :func:`listener.store.staleness.status_word`."""
    needs: int
    example: str
    """The URL of one of them."""
    waits_for: str
    """A :class:`WaitsFor`."""


_ABOVE = f"""
FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target
{MARKED_BY}
WHERE (:target = '' OR t.name = :target) AND n.scope = {Scope.SUBTREE:d}
  AND d.url < :prefix AND substr(:prefix, 1, length(d.url)) = d.url
"""
"""Subtree needs that a prefix lies in."""


def unsettled(connection: Connection, place: Place, changed_before: float) -> list[Unsettled]:
    """Return what is stale at a place of what changed up to then, by state; prefetches aside."""
    attempts = directory_attempts(connection)
    columns = "SELECT n.state, a.state, d.target, t.name, d.url, n.name, n.scope, n.sequence, n.open, n.needs_force"
    stale = f" AND n.scope <> {Scope.PREFETCH:d} AND n.stale_since <= :before"
    values = {**place_values(place), "before": changed_before}
    rows = connection.execute(
        f"{columns}{NEEDS_BELOW}{stale} UNION ALL {columns}{_ABOVE}{stale}",
        values,
    )
    found: dict[tuple[str, WaitsFor], tuple[int, str]] = {}
    unapproved = _unapproved(connection)
    for state, attempt, target, target_name, url, name, scope, sequence, is_open, force in rows:
        cover = deciding(
            attempts.above(target, url), scope=scope, sequence=sequence, is_open=is_open, needs_force=force
        )
        word = status_word(NeedState(state), attempt and AttemptState(attempt), cover)
        if word != SETTLED:
            awaits_approval = word == "deferred" and (target_name, url) in unapproved
            who = WaitsFor.PERSON if awaits_approval else waits_for(word)
            count, example = found.get((word, who), (0, url + name))
            found[word, who] = (count + 1, example)
    return [Unsettled(state, count, example, who) for (state, who), (count, example) in sorted(found.items())]


def _unapproved(connection: Connection) -> set[tuple[str, str]]:
    """Return the directories, by target and URL, whose due needs wait until a person approves their plan."""
    found = [place for one in accounts(connection) for place, why in one.deferred.items() if awaits_approval(why)]
    return set(found)
