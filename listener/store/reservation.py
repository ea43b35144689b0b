"""Holding: what a plan wants becomes attempts, each with its unit of the quota, in one transaction (promises 3, 4)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from listener.clock import window_start
from listener.refresh import SCOPE_OF_KIND, Attempt, AttemptState, NeedState, Priority, RefreshKind, Scope, directory_of
from listener.store import ledger
from listener.store.coverage import directory_attempts
from listener.store.index import Names

__all__ = ["AttemptRequest", "hold"]


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


def hold(
    connection: sqlite3.Connection,
    names: Names,
    wanted: Sequence[AttemptRequest],
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
            " created_at, tries, stale_since, covered, urgent, reason, priority)"
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
                    one.priority,
                )
                for one, attempt in claimed
            ],
        )
        made += [attempt for _, attempt in claimed]
    return made


def _claim(
    connection: sqlite3.Connection,
    names: Names,
    asked: Sequence[AttemptRequest],
    *,
    now: float,
    most: int,
    watermark: int,
) -> list[tuple[AttemptRequest, Attempt]]:
    """Mark the needs of up to ``most`` of these; return those that could be, each with its attempt."""
    claimed: list[tuple[AttemptRequest, Attempt]] = []
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


_MARK = (
    f"UPDATE need SET state = {NeedState.ATTEMPTED:d}, attempt = ?"
    f" WHERE directory = ? AND name = ? AND scope = ? AND state = {NeedState.READY:d}"
)


def _mark(connection: sqlite3.Connection, names: Names, one: AttemptRequest, attempt: int, now: float) -> bool:
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


def _too_soon(
    connection: sqlite3.Connection, names: Names, one: AttemptRequest, key: tuple[int, str, int], now: float
) -> bool:
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


def _refresh_pending(
    connection: sqlite3.Connection, names: Names, one: AttemptRequest, directory: int, name: str
) -> bool:
    """Return whether a refresh of this URL is still due or under way: a prefetch would fetch the old copy again."""
    own = "SELECT 1 FROM need WHERE directory = ? AND name = ? AND scope IN (0, 1)"
    if connection.execute(own, (directory, name)).fetchone() is not None:
        return True
    target, place = names.target(connection, one.target), directory_of(one.url)
    above = [place[: i + 1] for i, letter in enumerate(place) if letter == "/" and i > place.find("://") + 2]
    subtrees = (
        "SELECT 1 FROM need JOIN directory d ON d.id = need.directory WHERE d.target = ? AND need.name = ''"
        f" AND scope = {Scope.SUBTREE:d} AND d.url IN (SELECT value FROM json_each(?))"
    )
    if connection.execute(subtrees, (target, json.dumps(above))).fetchone() is not None:
        return True
    return bool(directory_attempts(connection).above(target, place))
