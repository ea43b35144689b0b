"""
What commands and the daemon leave for one another in the state file: orders and requests, reports and progress.

An order (hold, pause, approval, confirmation) is about the URLs below a prefix, of one target or of all; what it is
about is looked up when a plan is made, so that it holds for a daemon that is started later, too. Every manual action
is kept in the audit. A manual request makes needs that are due at once. The daemon's sources and accounts report their
state for whoever reads the file, and a backfill how far it got.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple

from listener.change import key_to_bytes, key_to_text
from listener.contracts import SourceHealth
from listener.refresh import (
    SCOPE_OF_KIND,
    AttemptState,
    NeedInput,
    NeedState,
    Priority,
    RefreshKind,
    Scope,
    directory_of,
)
from listener.store.access import Access
from listener.store.attempts import held_ids, refund
from listener.store.bulk import NEED_KEY, delete_rows
from listener.store.connection import Connection
from listener.store.index import above, bounded_text, next_sequence, note_revision, prefix_end
from listener.store.names import Names
from listener.store.need_rows import DueNeed, make_due
from listener.store.needs import MARKED_BY

__all__ = [
    "NEEDS_BELOW",
    "UNAPPROVED",
    "AccountReport",
    "Control",
    "ControlKind",
    "Controls",
    "Place",
    "Progress",
    "Spender",
    "accounts",
    "active",
    "awaits_approval",
    "load_progress",
    "note",
    "place_values",
    "request",
    "save_account",
    "save_progress",
    "save_source",
    "sources",
    "withdraw",
]


CANCEL_ROWS = 500
"""Needs that one commit cancels."""


class ControlKind(StrEnum):
    """What is to be left alone."""

    HOLD = "hold"
    """A deploy is under way: changes are gathered, and go out as one plan. Manual requests go."""
    PAUSE = "pause"
    """Nothing is sent."""
    APPROVAL = "approval"
    """A plan above the threshold may go."""
    CONFIRMATION = "confirmation"
    """The source named as ``target`` stopped at a mass of deletions; they are meant."""


class Place(NamedTuple):
    """The URLs that somebody speaks of."""

    target: str = ""
    """Empty: every target."""
    prefix: str = ""
    """Empty: every URL."""

    def holds(self, target: str, url: str) -> bool:
        """Return whether this URL of this target is one of them."""
        return self.target in ("", target) and url.startswith(self.prefix)

    def meets(self, target: str, directory: str) -> bool:
        """Return whether any URL below this directory is one of them."""
        return self.holds(target, directory) or (self.target in ("", target) and self.prefix.startswith(directory))

    def serves(self, base_urls: Iterable[str]) -> bool:
        """Return whether any URL below one of these base URLs is one of them."""
        return any(base.startswith(self.prefix) or self.prefix.startswith(base) for base in base_urls)

    @property
    def words(self) -> str:
        """What people read of it."""
        return " ".join(part for part in self if part) or "everything"


class Control(NamedTuple):
    """One standing order."""

    kind: ControlKind
    place: Place
    until: float | None
    """Seconds since the epoch; None: until it is taken back."""
    reason: str
    at: float


class Controls:
    """The orders of one store."""

    def __init__(self, store: Access) -> None:
        """Take an open store; it need not be its owner."""
        self._store = store

    async def put(
        self, kind: ControlKind, places: Sequence[Place], *, seconds: float | None, reason: str = ""
    ) -> list[Control]:
        """Give an order for so long, or until it is taken back; one of the same kind and place is replaced."""
        now = self._store.clock.now()
        until = None if seconds is None else now + seconds
        orders = [Control(kind, place, until, reason, now) for place in places]
        await self._store._write(_put, orders)
        await self._withdraw()
        return orders

    async def under_way(self, places: Sequence[Place]) -> int:
        """Return how many requests of these places are being written or wait for their answer: nothing stops them."""
        return await self._store._read(_under_way, places)

    async def _withdraw(self) -> None:
        """Give back what is reserved and may not be sent; what is reserved later is checked when it is sent."""
        while await self._store._write(withdraw, now=self._store.clock.now(), limit=CANCEL_ROWS):
            pass

    async def remove(self, kind: ControlKind, places: Sequence[Place], *, reason: str = "") -> int:
        """Take orders back; return how many stood."""
        return await self._store._write(_remove, kind, places, reason, self._store.clock.now())

    async def take(self, kind: ControlKind, *, left_to_others: Collection[str] = ()) -> list[Place]:
        """Take orders that are carried out at once, but for these targets; return where each was about."""
        orders = [
            one.place for one in await self.active() if one.kind is kind and one.place.target not in left_to_others
        ]
        if orders:
            await self._store._write(_take, kind, orders)
        return orders

    async def active(self) -> list[Control]:
        """Return the orders that hold now, the oldest first."""
        return await self._store._read(active, self._store.clock.now())

    async def cancel(self, place: Place, *, reason: str) -> int:
        """Settle, without a refresh, every need there that the CDN was not asked for yet; return how many."""
        total = 0
        while count := await self._store._write(_cancel, place, CANCEL_ROWS):
            total += count
        await self._withdraw()
        await self._store._write(note, self._store.clock.now(), "cancel", place.words, total, reason)
        return total

    async def audit(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """Return the manual actions, newest first."""
        return await self._store._read(_audit, limit)


def note(connection: Connection, *deed: float | str) -> None:
    """Keep one deed: when, what, where, how many needs it touched, and why."""
    connection.execute("INSERT INTO audit (at, action, subject, count, reason) VALUES (?, ?, ?, ?, ?)", deed)


def _put(connection: Connection, orders: Sequence[Control]) -> None:
    for kind, place, until, reason, at in orders:
        connection.execute(
            "INSERT INTO control (kind, target, prefix, until, reason, at) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (kind, target, prefix) DO UPDATE"
            " SET until = excluded.until, reason = excluded.reason, at = excluded.at",
            (kind.value, *place, until, reason, at),
        )
        note_revision(connection)
        note(connection, at, kind.value, place.words, 0, reason)


def _take(connection: Connection, kind: ControlKind, places: Sequence[Place]) -> None:
    rows = [(kind.value, *place) for place in places]
    connection.executemany("DELETE FROM control WHERE kind = ? AND target = ? AND prefix = ?", rows)


def _remove(connection: Connection, kind: ControlKind, places: Sequence[Place], reason: str, now: float) -> int:
    removed = 0
    for place in places:
        stood = connection.execute(
            "DELETE FROM control WHERE kind = ? AND target = ? AND prefix = ? RETURNING until", (kind.value, *place)
        ).fetchall()
        if stood:
            removed += 1
            note_revision(connection)
            note(connection, now, f"end of {kind.value}", place.words, 0, reason)
    return removed


def active(connection: Connection, now: float) -> list[Control]:
    """Return the orders that hold now, the oldest first."""
    rows = connection.execute(
        "SELECT kind, target, prefix, until, reason, at FROM control WHERE until IS NULL OR until > ?"
        " ORDER BY at, kind, target, prefix",
        (now,),
    )
    return [
        Control(ControlKind(kind), Place(target, prefix), until, reason, at)
        for kind, target, prefix, until, reason, at in rows
    ]


def withdraw(
    connection: Connection, ids: Collection[int] | None = None, *, now: float, limit: int | None = None
) -> int:
    """Refund reserved attempts (of these ids, or all) that a hold, a pause or a cancellation stops; return how many."""
    orders = [one for one in active(connection, now) if one.kind in (ControlKind.HOLD, ControlKind.PAUSE)]
    if ids is None:
        ids = held_ids(connection)
    # Without orders, only attempts that lost their need are stopped.
    looked_at = "" if orders else " AND n.attempt IS NULL"
    rows = connection.execute(
        "SELECT i.id, g.target, t.name, g.kind, i.url, i.urgent, n.asked FROM attempt_item AS i"
        " LEFT JOIN need AS n ON n.attempt = i.id CROSS JOIN attempt_group AS g ON g.id = i.group_id"
        " CROSS JOIN target AS t ON t.id = g.target"
        f" WHERE i.id IN (SELECT value FROM json_each(?)) AND g.state = '{AttemptState.HELD.value}'{looked_at}",
        (json.dumps(list(ids)),),
    )
    stopped = []
    for id_, target, name, kind, url, urgent, marked in rows.fetchall():
        one = _Reserved(target, name, RefreshKind(kind), url, urgent)
        # A directory attempt marks no need, and a change removes the mark of any other.
        asked = _asked(connection, one) if marked is None else marked
        if not _needs_any(connection, one, asked) or any(_stops(order, one, asked) for order in orders):
            stopped.append(id_)
        if len(stopped) == limit:
            break
    if stopped:
        refund(connection, stopped)
    return len(stopped)


class _Reserved(NamedTuple):
    """A reserved attempt."""

    target: int
    target_name: str
    kind: RefreshKind
    url: str
    urgent: bool


def _asked(connection: Connection, attempt: _Reserved) -> int | None:
    """Return whether a person asked for the need that an attempt is for; None where there is no such need."""
    directory = directory_of(attempt.url)
    row = connection.execute(
        "SELECT asked FROM directory d JOIN need n ON n.directory = d.id"
        " WHERE d.target = ? AND d.url = ? AND n.name = ? AND n.scope = ?",
        (attempt.target, directory, attempt.url[len(directory) :], int(SCOPE_OF_KIND[attempt.kind])),
    ).fetchone()
    return None if row is None else int(row[0])


def _needs_any(connection: Connection, attempt: _Reserved, asked: int | None) -> bool:
    """Return whether a need is left that an attempt may settle: its own, or any below a directory."""
    if asked is not None or attempt.kind is not RefreshKind.DIRECTORY:
        return asked is not None
    below = connection.execute(
        "SELECT 1 FROM directory d JOIN need n ON n.directory = d.id"
        " WHERE d.target = ? AND d.url >= ? AND d.url < ? LIMIT 1",
        (attempt.target, attempt.url, prefix_end(attempt.url)),
    )
    return below.fetchone() is not None


def _stops(order: Control, attempt: _Reserved, asked: int | None) -> bool:
    """Return whether an order keeps an attempt from being sent: a hold only what no person asked for."""
    if order.kind is ControlKind.HOLD and (attempt.urgent or asked):
        return False
    reaches = order.place.meets if attempt.kind is RefreshKind.DIRECTORY else order.place.holds
    return reaches(attempt.target_name, attempt.url)


NEEDS_BELOW = f"""
FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target
{MARKED_BY}
WHERE (:target = '' OR t.name = :target)
  AND ((d.url >= :prefix AND d.url < :end) OR (d.url = :directory AND n.name >= :name AND n.name < :name_end))
"""
"""Needs whose URL starts with a prefix: of every directory at or below it, and of the one that it ends in."""


def place_values(place: Place) -> dict[str, str]:
    """Return the values of :data:`NEEDS_BELOW` for a place."""
    prefix = place.prefix
    # One that ends within a name is also about the directory of that name.
    directory = "" if not prefix or prefix.endswith("/") else directory_of(prefix)
    name = prefix[len(directory) :] if directory else ""
    return {
        "target": place.target,
        "prefix": prefix,
        "end": above(prefix),
        "directory": directory,
        "name": name,
        "name_end": above(name),
    }


_FREE = (NeedState.WAITING, NeedState.READY, NeedState.PARKED)


def _cancel(connection: Connection, place: Place, limit: int) -> int:
    """Remove needs; of those in an attempt the ones that the CDN has not got: what is refused is not sent again."""
    rows = connection.execute(
        f"SELECT n.directory, n.name, n.scope {NEEDS_BELOW}"
        f" AND (n.state IN ({', '.join(f'{state:d}' for state in _FREE)}) OR a.state IN ('held', 'sending'))"
        " LIMIT :limit /*! FOR UPDATE OF n */",
        {**place_values(place), "limit": limit},
    ).fetchall()
    count = delete_rows(connection, "need", NEED_KEY, rows)
    if count:
        note_revision(connection)
    return count


def _under_way(connection: Connection, places: Sequence[Place]) -> int:
    rows = connection.execute(
        "SELECT t.name, a.url, a.kind, a.sent_at FROM attempt a JOIN target t ON t.id = a.target"
        " WHERE a.active = 1 AND a.state = 'sending'"
    )
    return len({(name, kind, at) for name, url, kind, at in rows if any(place.holds(name, url) for place in places)})


def _audit(connection: Connection, limit: int) -> list[dict[str, Any]]:
    cursor = connection.execute(
        "SELECT at, action, subject, count, reason FROM audit ORDER BY id DESC LIMIT ?", (limit,)
    )
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]


def save_source(connection: Connection, name: str, health: SourceHealth, *, now: float) -> None:
    """Keep what a source says of itself, for ``status`` without a daemon."""
    connection.execute(
        "INSERT INTO source (name, state, ready, last_event_at, lost_events, rescans, detail, figures, told_at,"
        " trouble_since) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, CASE WHEN ?7 <> '' THEN ?9 END)"
        " ON CONFLICT (name) DO UPDATE SET state = ?2, ready = ?3, last_event_at = ?4, lost_events = ?5, rescans = ?6,"
        " detail = ?7, figures = ?8, told_at = ?9,"
        " trouble_since = CASE WHEN ?7 <> '' THEN coalesce(source.trouble_since, ?9) END",
        (
            name,
            health.state.value,
            health.ready,
            health.last_event_at,
            health.lost_events,
            health.rescans,
            bounded_text(health.detail),  # it may quote a file name or an answer
            json.dumps(health.figures),
            now,
        ),
    )


def sources(connection: Connection) -> dict[str, dict[str, Any]]:
    """Return what each source said of itself last, by name."""
    cursor = connection.execute("SELECT * FROM source ORDER BY name")
    columns = [column[0] for column in cursor.description]
    found = {}
    for row in cursor:
        fields = dict(zip(columns, row, strict=True))
        fields["ready"] = bool(fields["ready"])
        fields["figures"] = json.loads(fields["figures"])
        found[fields.pop("name")] = fields
    return found


UNAPPROVED: Final = "waits for approval"
"""How the reason of what a person must approve begins."""


def awaits_approval(reason: str) -> bool:
    """Return whether this is the reason of needs that wait until a person approves their plan."""
    return reason.startswith(UNAPPROVED)


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


def save_account(connection: Connection, account: AccountReport, *, now: float) -> None:
    """Keep what an account's sender says of itself."""
    deferred = json.dumps([[*place, reason] for place, reason in account.deferred.items()])
    spenders = json.dumps(account.spenders)
    connection.execute(
        "INSERT INTO account (name, problem, remedy, since, until, deferred, spenders, told_at)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (name) DO UPDATE SET problem = ?2, remedy = ?3,"
        " since = ?4, until = ?5, deferred = ?6, spenders = ?7, told_at = ?8",
        (account.name, account.problem, account.remedy, account.since, account.until, deferred, spenders, now),
    )


def accounts(connection: Connection) -> list[AccountReport]:
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


def request(
    connection: Connection,
    names: Names,
    inputs: Sequence[NeedInput],
    *,
    now: float,
    urgent: bool = False,
    reason: str | None = None,
    priority: Priority = Priority.LIVE,
) -> int:
    """
    Make needs that are due at once; return their sequence.

    Refreshes go as soon as quota allows, unpaced: a person decided that they are worth it. Prefetches wait
    their turn, behind every refresh of the same URL.

    One that is still being written, or not yet at the origin, keeps its wait: sooner it would be fetched in vain.
    """
    note_revision(connection)
    sequence = next_sequence(connection)
    rows = []
    for target, url, scope, *_ in inputs:
        place = directory_of(url)
        directory = names.directory(connection, names.target(connection, target), place)
        asked = urgent or scope is not Scope.PREFETCH
        name = url[len(place) :]
        rows.append(DueNeed(directory, name, int(scope), sequence, now, urgent, reason, asked, priority))
    make_due(connection, rows, sequence)
    return sequence


class Progress(NamedTuple):
    """How far a backfill got."""

    after: str
    """The last key whose needs are durable."""
    listed: int
    finished: bool


def load_progress(connection: Connection, listing: str) -> Progress | None:
    """Return how far a backfill of this listing got, ``None`` where none was begun."""
    row = connection.execute("SELECT after, listed, finished FROM backfill WHERE id = ?", (listing,)).fetchone()
    return None if row is None else Progress(key_to_text(row[0]), row[1], bool(row[2]))


def save_progress(connection: Connection, listing: str, state: Progress, *, now: float) -> None:
    """Keep how far a backfill got."""
    connection.execute(
        "INSERT INTO backfill (id, after, listed, finished, updated_at) VALUES (?1, ?2, ?3, ?4, ?5)"
        " ON CONFLICT (id) DO UPDATE SET after = ?2, listed = ?3, finished = ?4, updated_at = ?5",
        (listing, key_to_bytes(state.after), state.listed, state.finished, now),
    )
