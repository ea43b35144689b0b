"""
Reserving: what a plan wants becomes attempts, each with its unit of the quota, in one transaction (promises 3, 4).

Whatever many requests need to know is read at once: which needs are due, when their URLs were sent last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from listener.clock import window_start
from listener.refresh import SCOPE_OF_KIND, Attempt, AttemptState, NeedState, RefreshKind, Scope, directory_of
from listener.store.attempts import budget, hold_units
from listener.store.bulk import Bulk
from listener.store.connection import Connection
from listener.store.index import Names, select_wanted
from listener.store.needs import directory_attempts
from listener.store.transitions import AttemptRequest

__all__ = ["hold"]


def hold(
    connection: Connection,
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
        requests = list({(one.target, one.url): one for one in wanted if one.kind is kind}.values())
        left = budget(connection, account, kind, now=now, default=quota.get(kind, 0)).left
        claimed = _claim(connection, names, requests, now=now, most=left)
        hold_units(connection, account, kind, len(claimed), now=now, default=quota.get(kind, 0))
        rows = _attempt_rows(connection, claimed)
        _ADD_ATTEMPTS.write(connection, rows, (kind.value, watermark, account, window_start(now), now))
        for claim, (number, _, url, force, tries, stale_since, *_, reason, _) in zip(claimed, rows, strict=True):
            made.append(
                Attempt(
                    number,
                    claim.request.target,
                    kind,
                    url,
                    force,
                    watermark,
                    created_at=now,
                    tries=tries,
                    stale_since=stale_since,
                    reason=reason,
                )
            )
        _mark(connection, claimed, rows)
    return made


_ADD_ATTEMPTS = Bulk(
    "INSERT INTO attempt (id, target, url, force, tries, stale_since, covered, urgent, reason, priority,"
    " kind, watermark, account, window_start, created_at, state, held) {}",
    "({0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8}, {9}, ?1, ?2, ?3, ?4, ?5, 'held', 1)",
    columns=10,
    constants=5,
)
_MARK = Bulk(
    f"UPDATE need SET state = {NeedState.ATTEMPTED:d}, attempt = of.column4 FROM ({{}}) AS of"
    " WHERE directory = of.column1 AND name = of.column2 AND scope = of.column3"
    f" AND state = {NeedState.READY:d}",
    "({0}, {1}, {2}, {3})",
    columns=4,
)
_NeedKey = tuple[int, str, int]


class _Claim(NamedTuple):
    """A request that is granted."""

    request: AttemptRequest
    target: int
    need: _NeedKey | None
    """What it is for; a directory attempt marks none."""


def _claim(
    connection: Connection, names: Names, requests: Sequence[AttemptRequest], *, now: float, most: int
) -> list[_Claim]:
    """Return up to ``most`` of these requests, of one kind: those whose needs are READY and may be sent now."""
    target_ids = {name: names.target(connection, name) for name in {one.target for one in requests}}
    claims = [_Claim(one, target_ids[one.target], _need_key(connection, names, one)) for one in requests]
    if not claims or claims[0].need is None:
        return claims[:most]
    ready = _ready(connection, [claim.need for claim in claims if claim.need])
    intervals = [(claim.target, claim.request.url) for claim in claims if claim.request.min_interval_seconds]
    last_sent = _last_sent(connection, intervals, now) if intervals else {}
    found: list[_Claim] = []
    too_soon: list[tuple[float, int, str, int]] = []
    for claim in claims:
        if len(found) >= most:
            break
        one, need = claim.request, claim.need
        if need not in ready or need is None:
            continue
        if one.kind is RefreshKind.PREFETCH and _refresh_pending(connection, names, one, *need[:2]):
            continue
        last = last_sent.get((claim.target, one.url))
        if last is not None and (until := _interval_end(one, last, now)) is not None:
            too_soon.append((until, *need))
        else:
            found.append(claim)
    connection.executemany(
        f"UPDATE need SET state = {NeedState.WAITING:d}, due_at = ? WHERE directory = ? AND name = ? AND scope = ?",
        too_soon,
    )
    return found


def _need_key(connection: Connection, names: Names, one: AttemptRequest) -> _NeedKey | None:
    if one.kind is RefreshKind.DIRECTORY:
        return None
    place = directory_of(one.url)
    directory = names.directory(connection, names.target(connection, one.target), place)
    return directory, one.url[len(place) :], int(SCOPE_OF_KIND[one.kind])


def _ready(connection: Connection, needs: Sequence[_NeedKey]) -> set[_NeedKey]:
    """Return those of these needs that are READY."""
    rows = select_wanted(
        connection,
        needs,
        "SELECT directory, name, scope FROM wanted"
        " CROSS JOIN need ON directory = column1 AND name = column2 AND scope = column3"
        f" WHERE state = {NeedState.READY:d}",
    )
    return set(rows)


class _LastSent(NamedTuple):
    """When a URL was sent last, and how often today."""

    at: float
    """In seconds since the epoch."""
    today: int
    """Its attempts of the current quota day."""


def _last_sent(connection: Connection, urls: Sequence[tuple[int, str]], now: float) -> dict[tuple[int, str], _LastSent]:
    """Return when these URLs (target id and URL) were sent last; those that never were are left out."""
    rows = select_wanted(
        connection,
        urls,
        "SELECT target, url, max(sent_at), sum(window_start = ?) FROM (SELECT DISTINCT * FROM wanted)"
        " CROSS JOIN attempt ON target = column1 AND url = column2 GROUP BY target, url",
        (window_start(now),),
    )
    return {(target, url): _LastSent(at, today) for target, url, at, today in rows if at is not None}


def _interval_end(one: AttemptRequest, last: _LastSent, now: float) -> float | None:
    """Return until when a URL that was sent within its minimal interval waits; None where it may be sent."""
    # A URL that goes on changing is worth ever less haste: what comes meanwhile merges.
    interval = min(one.min_interval_seconds * 2.0 ** min(32, max(0, last.today - 1)), one.most_interval_seconds)
    interval = max(one.min_interval_seconds, interval)
    # One sent later than now shows that the clock was set back.
    return last.at + interval if last.at <= now < last.at + interval else None


def _attempt_rows(connection: Connection, claimed: Sequence[_Claim]) -> list[tuple[Any, ...]]:
    """Return the rows of these attempts, with the values of :data:`_ADD_ATTEMPTS`."""
    next_id = connection.execute("SELECT coalesce(max(seq), 0) + 1 FROM sqlite_sequence WHERE name = 'attempt'")
    first = int(next_id.fetchone()[0])
    tries = _tries(connection, [(claim.target, claim.request.url) for claim in claimed])
    return [
        (
            number,
            target,
            one.url,
            one.force,
            tries.get((target, one.url), 1),
            one.stale_since,
            one.covered,
            one.urgent,
            one.reason,
            int(one.priority),
        )
        for number, (one, target, _) in enumerate(claimed, first)
    ]


def _tries(connection: Connection, urls: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return which try in a row the next one is at these URLs (target id and URL), where that is not the first."""
    rows = select_wanted(
        connection,
        urls,
        "SELECT target, url, tries FROM wanted"
        " CROSS JOIN attempt ON id = (SELECT max(id) FROM attempt WHERE target = column1 AND url = column2)"
        f" WHERE state = '{AttemptState.FAILED.value}'",
    )
    return {(target, url): tries + 1 for target, url, tries in rows}


def _mark(connection: Connection, claimed: Sequence[_Claim], rows: Sequence[tuple[Any, ...]]) -> None:
    """Mark the needs that these attempts are for."""
    marks = [(*claim.need, row[0]) for claim, row in zip(claimed, rows, strict=True) if claim.need]
    if _MARK.write(connection, marks):
        raise AssertionError("a need that was READY is not any more, within one transaction")


def _refresh_pending(connection: Connection, names: Names, one: AttemptRequest, directory: int, name: str) -> bool:
    """Return whether a refresh of this URL is still due or under way: a prefetch would fetch the old copy again."""
    own = f"SELECT 1 FROM need WHERE directory = ? AND name = ? AND scope IN ({Scope.EXACT:d}, {Scope.ALL_PARAMS:d})"
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
