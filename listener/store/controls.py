"""
Overrides that people set in the state file: hold, pause, approve, cancel; and whether everything is fresh.

A control is about the URLs below a prefix, of one target or of all; what it is about is looked up when a plan is
made, so that it holds for a daemon that is started later, too. Every manual action is kept in the audit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from listener.refresh import AttemptState, NeedState, Scope, directory_of
from listener.store.access import Access
from listener.store.attempts import withdraw
from listener.store.coverage import SETTLED, deciding, directory_attempts, status_word
from listener.store.index import above, next_sequence

__all__ = ["Control", "ControlKind", "Controls", "Place", "Unsettled", "active", "unsettled"]

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


class Unsettled(NamedTuple):
    """Needs of one state that stand where somebody waits."""

    state: str
    """A word of :func:`listener.store.coverage.status_word`."""
    needs: int
    example: str
    """The URL of one of them."""


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

    async def take(self, kind: ControlKind) -> list[Place]:
        """Take orders that are carried out at once; return where each was about."""
        orders = [one.place for one in await self.active() if one.kind is kind]
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
        await self._store._write(_note, self._store.clock.now(), "cancel", place.words, total, reason)
        return total

    async def unsettled(self, place: Place, *, changed_before: float) -> list[Unsettled]:
        """Return what is still stale there of what changed up to then (seconds since the epoch), prefetches aside."""
        return await self._store._read(unsettled, place, changed_before)

    async def audit(self, *, limit: int = 50) -> list[dict[str, Any]]:
        """Return the manual actions, newest first."""
        return await self._store._read(_audit, limit)


def _note(connection: sqlite3.Connection, *deed: float | str) -> None:
    """Keep one deed: when, what, where, how many needs it touched, and why."""
    connection.execute("INSERT INTO audit (at, action, subject, count, reason) VALUES (?, ?, ?, ?, ?)", deed)


def _put(connection: sqlite3.Connection, orders: Sequence[Control]) -> None:
    for kind, place, until, reason, at in orders:
        connection.execute(
            "INSERT OR REPLACE INTO control (kind, target, prefix, until, reason, at) VALUES (?, ?, ?, ?, ?, ?)",
            (kind.value, *place, until, reason, at),
        )
        next_sequence(connection)  # whoever plans looks again
        _note(connection, at, kind.value, place.words, 0, reason)


def _take(connection: sqlite3.Connection, kind: ControlKind, places: Sequence[Place]) -> None:
    rows = [(kind.value, *place) for place in places]
    connection.executemany("DELETE FROM control WHERE kind = ? AND target = ? AND prefix = ?", rows)


def _remove(connection: sqlite3.Connection, kind: ControlKind, places: Sequence[Place], reason: str, now: float) -> int:
    removed = 0
    for place in places:
        stood = connection.execute(
            "DELETE FROM control WHERE kind = ? AND target = ? AND prefix = ? RETURNING until", (kind.value, *place)
        ).fetchall()
        if stood:
            removed += 1
            next_sequence(connection)
            _note(connection, now, f"end of {kind.value}", place.words, 0, reason)
    return removed


def active(connection: sqlite3.Connection, now: float) -> list[Control]:
    """Return the orders that hold now, the oldest first."""
    rows = connection.execute(
        "SELECT kind, target, prefix, until, reason, at FROM control WHERE until IS NULL OR until > ? ORDER BY at",
        (now,),
    )
    return [
        Control(ControlKind(kind), Place(target, prefix), until, reason, at)
        for kind, target, prefix, until, reason, at in rows
    ]


_BELOW = """
FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target
LEFT JOIN attempt a ON a.id = n.attempt
WHERE (:target = '' OR t.name = :target)
  AND ((d.url >= :prefix AND d.url < :end) OR (d.url = :directory AND n.name >= :name AND n.name < :name_end))
"""
"""Needs whose URL starts with a prefix: of every directory at or below it, and of the one that it ends in."""
_ABOVE = f"""
FROM need n JOIN directory d ON d.id = n.directory JOIN target t ON t.id = d.target
LEFT JOIN attempt a ON a.id = n.attempt
WHERE (:target = '' OR t.name = :target) AND n.scope = {Scope.SUBTREE:d}
  AND d.url < :prefix AND substr(:prefix, 1, length(d.url)) = d.url
"""
"""Subtree needs that a prefix lies in."""


def _values(place: Place) -> dict[str, str]:
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


def _cancel(connection: sqlite3.Connection, place: Place, limit: int) -> int:
    """Remove needs; of those in an attempt the ones that the CDN has not got: what is refused is not sent again."""
    count = connection.execute(
        f"DELETE FROM need WHERE (directory, name, scope) IN (SELECT n.directory, n.name, n.scope {_BELOW}"
        f" AND (n.state IN ({', '.join(f'{state:d}' for state in _FREE)}) OR a.state IN ('held', 'sending'))"
        " LIMIT :limit)",
        {**_values(place), "limit": limit},
    ).rowcount
    if count:
        next_sequence(connection)  # whoever plans and sends looks again
    return count


def _under_way(connection: sqlite3.Connection, places: Sequence[Place]) -> int:
    rows = connection.execute(
        "SELECT t.name, a.url, a.kind, a.sent_at FROM attempt a JOIN target t ON t.id = a.target"
        " WHERE a.active = 1 AND a.state = 'sending'"
    )
    return len({(name, kind, at) for name, url, kind, at in rows if any(place.holds(name, url) for place in places)})


def unsettled(connection: sqlite3.Connection, place: Place, changed_before: float) -> list[Unsettled]:
    """Return what is stale at a place of what changed up to then, by state; prefetches aside."""
    attempts = directory_attempts(connection)
    columns = "SELECT n.state, a.state, d.target, d.url, n.name, n.scope, n.sequence, n.open, n.needs_force"
    stale = f" AND n.scope <> {Scope.PREFETCH:d} AND n.stale_since <= :before"
    rows = connection.execute(
        f"{columns}{_BELOW}{stale} UNION ALL {columns}{_ABOVE}{stale}", {**_values(place), "before": changed_before}
    )
    found: dict[str, tuple[int, str]] = {}
    for state, attempt, target, url, name, scope, sequence, is_open, force in rows:
        cover = deciding(
            attempts.above(target, url), scope=scope, sequence=sequence, is_open=is_open, needs_force=force
        )
        word = status_word(NeedState(state), attempt and AttemptState(attempt), cover)
        if word != SETTLED:
            count, example = found.get(word, (0, url + name))
            found[word] = (count + 1, example)
    return [Unsettled(state, count, example) for state, (count, example) in sorted(found.items())]


def _audit(connection: sqlite3.Connection, limit: int) -> list[dict[str, Any]]:
    cursor = connection.execute(
        "SELECT at, action, subject, count, reason FROM audit ORDER BY id DESC LIMIT ?", (limit,)
    )
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor]
