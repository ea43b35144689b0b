"""
Reserving: what a plan wants becomes attempts that hold their units, in one transaction (promises 3, 4).

Whatever many requests need to know is read at once: which needs are due, when their URLs were sent last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from listener.allowances import DAY_SECONDS, Allowance
from listener.refresh import (
    SCOPE_OF_KIND,
    Attempt,
    AttemptState,
    NeedState,
    RefreshKind,
    Scope,
    directories_above,
    directory_of,
)
from listener.store.bulk import Bulk
from listener.store.charges import charges_of, encoded
from listener.store.connection import Connection
from listener.store.groups import next_attempt, next_group
from listener.store.index import select_wanted
from listener.store.layering import exempt
from listener.store.ledger import budget, hold_units
from listener.store.names import Names
from listener.store.needs import Inner, count_ready, directory_attempts
from listener.store.transitions import AttemptRequest
from listener.urls import host_of

__all__ = ["hold"]


def hold(
    connection: Connection,
    names: Names,
    wanted: Sequence[AttemptRequest],
    *,
    account: str,
    now: float,
    allowances: Sequence[Allowance],
) -> list[Attempt]:
    """
    Make the attempts that the allowances pay for, in the order given, and hold their units of each.

    A need that is no longer READY, or was sent within its minimal interval, is left out (and in
    the second case waits for it).
    """
    watermark = int(connection.execute("SELECT sequence FROM meta").fetchone()[0])
    made: list[Attempt] = []
    for kind in dict.fromkeys(one.kind for one in wanted):
        requests = list({(one.target, one.url): one for one in wanted if one.kind is kind}.values())
        spends = [one for one in allowances if kind in one.costs]
        budgets = {one.name: budget(connection, account, one, now=now) for one in spends}
        most = min((budgets[one.name].left // one.costs[kind] for one in spends), default=len(requests))
        day = max((one.window.start(now) for one in spends), default=0)
        claimed = _granted(
            connection,
            _claims(connection, names, kind, requests),
            now=now,
            most=most,
            today=max(day, now - DAY_SECONDS),
        )
        charges = charges_of(spends, kind, now)
        hold_units(connection, account, charges, len(claimed), {name: one.limit for name, one in budgets.items()})
        window = charges[0].window if charges else 0
        shared = (kind.value, account, window, now, encoded(charges), int(bool(charges)))
        groups = _add_groups(connection, claimed, shared, watermark)
        rows = _attempt_rows(connection, claimed, groups)
        _ADD_ATTEMPTS.write(connection, rows)
        _mark(connection, claimed, rows)
        _exempt(connection, claimed, watermark)
        held = AttemptState.HELD
        made += [
            Attempt(
                number,
                one.target,
                kind,
                url,
                one.force,
                one.covers_to(watermark),
                held,
                None,
                now,
                None,
                None,
                0,
                tries,
                *about,
            )
            for (one, *_), (number, _, url, tries, *about, _, _, _) in zip(claimed, rows, strict=True)
        ]
    return made


_ADD_GROUPS = Bulk(
    "INSERT INTO attempt_group (id, target, force, kind, account, window_start, watermark, created_at, charges, held,"
    " state) {}",
    "({0}, {1}, {2}, ?1, ?2, ?3, {3}, ?4, ?5, ?6, 'held')",
    columns=4,
    constants=6,
)
_ADD_ATTEMPTS = Bulk(
    "INSERT INTO attempt_item (id, group_id, url, tries, stale_since, reason, covered, urgent, priority) {}",
    "({0}, {1}, {2}, {3}, {4}, {5}, {6}, {7}, {8})",
    columns=9,
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
    host: str
    need: _NeedKey | None
    """What it is for; a directory attempt marks none."""


def _claims(
    connection: Connection, names: Names, kind: RefreshKind, requests: Sequence[AttemptRequest]
) -> list[_Claim]:
    """Look up what these requests, of one kind, are for: many share a directory."""
    scope, is_directory = int(SCOPE_OF_KIND[kind]), kind is RefreshKind.DIRECTORY
    places: dict[tuple[str, str], tuple[int, str, int]] = {}
    claims: list[_Claim] = []
    for one in requests:
        url = one.url
        place = directory_of(url)
        found = places.get((one.target, place))
        if found is None:
            target = names.target(connection, one.target)
            directory = 0 if is_directory else names.directory(connection, target, place)
            found = places[one.target, place] = target, host_of(place), directory
        target, host, directory = found
        claims.append(_Claim(one, target, host, None if is_directory else (directory, url[len(place) :], scope)))
    return claims


def _granted(connection: Connection, claims: Sequence[_Claim], *, now: float, most: int, today: float) -> list[_Claim]:
    """
    Return up to ``most`` of these claims, of one kind: those whose needs are READY and may be sent now.

    ``today``: since when attempts make a URL wait longer, in seconds since the epoch.
    """
    if not claims or claims[0].need is None:
        return list(claims[:most])
    ready = _ready(connection, [claim.need for claim in claims if claim.need])
    intervals = [(claim.target, claim.request.url) for claim in claims if claim.request.min_interval_seconds]
    last_sent = _last_sent(connection, intervals, today) if intervals else {}
    refreshed = _with_refresh(connection, claims) if claims[0].request.kind is RefreshKind.PREFETCH else set()
    found: list[_Claim] = []
    too_soon: list[tuple[float, int, str, int]] = []
    for claim in claims:
        if len(found) >= most:
            break
        one, need = claim.request, claim.need
        if need not in ready or need is None:
            continue
        if need in refreshed:
            continue
        last = last_sent.get((claim.target, one.url)) if last_sent else None
        if last is not None and (until := _interval_end(one, last, now)) is not None:
            too_soon.append((until, *need))
        else:
            found.append(claim)
    connection.executemany(
        f"UPDATE need SET state = {NeedState.WAITING:d}, due_at = ? WHERE directory = ? AND name = ? AND scope = ?",
        too_soon,
    )
    return found


def _ready(connection: Connection, needs: Sequence[_NeedKey]) -> set[_NeedKey]:
    """Return those of these needs that are READY."""
    rows = select_wanted(
        connection,
        needs,
        "SELECT directory, name, scope FROM wanted"
        " CROSS JOIN need ON directory = column1 AND name = column2 AND scope = column3"
        f" WHERE state = {NeedState.READY:d} /*! ORDER BY directory, name, scope FOR UPDATE OF need */",
    )
    return set(rows)


class _LastSent(NamedTuple):
    """When a URL was sent last, and how often today."""

    at: float
    """In seconds since the epoch."""
    today: int
    """Its attempts since the quota was reset, within a day."""


def _last_sent(
    connection: Connection, urls: Sequence[tuple[int, str]], today: float
) -> dict[tuple[int, str], _LastSent]:
    """Return when these URLs (target id and URL) were sent last; those that never were are left out."""
    rows = select_wanted(
        connection,
        urls,
        "SELECT target, url, max(sent_at), sum(CASE WHEN created_at >= ? THEN 1 ELSE 0 END)"
        " FROM (SELECT DISTINCT * FROM wanted) AS of CROSS JOIN attempt_item AS i ON i.url = column2"
        " CROSS JOIN attempt_group AS g ON g.id = i.group_id AND g.target = column1 GROUP BY target, url",
        (today,),
    )
    return {(target, url): _LastSent(at, today) for target, url, at, today in rows if at is not None}


def _interval_end(one: AttemptRequest, last: _LastSent, now: float) -> float | None:
    """Return until when a URL that was sent within its minimal interval waits; None where it may be sent."""
    # A URL that goes on changing is worth ever less haste: what comes meanwhile merges.
    interval = min(one.min_interval_seconds * 2.0 ** min(32, max(0, last.today - 1)), one.most_interval_seconds)
    interval = max(one.min_interval_seconds, interval)
    # One sent later than now shows that the clock was set back.
    return last.at + interval if last.at <= now < last.at + interval else None


_GroupKey = tuple[int, bool, str, int | None]
"""Target, force, host: what one request has in common; and up to which watermark at most it covers."""


def _group_key(claim: _Claim) -> _GroupKey:
    return claim.target, claim.request.force, claim.host, claim.request.watermark


def _add_groups(
    connection: Connection, claimed: Sequence[_Claim], shared: tuple[object, ...], watermark: int
) -> dict[_GroupKey, int]:
    """Make the groups of these attempts, with the values that all share; return their ids."""
    first = {_group_key(claim): claim.request.covers_to(watermark) for claim in claimed}
    groups = {key: number for number, key in enumerate(first, next_group(connection))}
    rows = [(number, *key[:2], first[key]) for key, number in groups.items()]
    _ADD_GROUPS.write(connection, rows, shared)
    return groups


def _attempt_rows(
    connection: Connection, claimed: Sequence[_Claim], groups: Mapping[_GroupKey, int]
) -> list[tuple[Any, ...]]:
    """Return the rows of these attempts, with the values of :data:`_ADD_ATTEMPTS`."""
    first = next_attempt(connection)
    tries = _tries(connection, [(claim.target, claim.request.url) for claim in claimed])
    return [
        (
            number,
            groups[_group_key(claim)],
            one.url,
            tries.get((target, one.url), 1) if tries else 1,
            one.stale_since,
            one.reason,
            one.covered,
            one.urgent,
            int(one.priority),
        )
        for number, claim in enumerate(claimed, first)
        for one, target, *_ in [claim]
    ]


def _tries(connection: Connection, urls: Sequence[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """Return which try in a row the next one is at these URLs (target id and URL), where that is not the first."""
    rows = select_wanted(
        connection,
        urls,
        "SELECT g.target, i.url, i.tries FROM wanted CROSS JOIN attempt_item AS i ON i.id ="
        " (SELECT l.id FROM attempt_item AS l CROSS JOIN attempt_group AS o ON o.id = l.group_id"
        " WHERE l.url = column2 AND o.target = column1 ORDER BY l.id DESC LIMIT 1)"
        " CROSS JOIN attempt_group AS g ON g.id = i.group_id"
        f" WHERE g.state = '{AttemptState.FAILED.value}'",
    )
    return {(target, url): tries + 1 for target, url, tries in rows}


def _mark(connection: Connection, claimed: Sequence[_Claim], rows: Sequence[tuple[Any, ...]]) -> None:
    """Mark the needs that these attempts are for."""
    marks = [(*claim.need, row[0]) for claim, row in zip(claimed, rows, strict=True) if claim.need]
    if _MARK.write(connection, marks):
        raise AssertionError("a need that was READY is not any more, within one transaction")
    reserved = Counter(directory for directory, *_ in marks)
    count_ready(connection, {directory: (-count, 0) for directory, count in reserved.items()})
    connection.executemany(
        "UPDATE need SET later_since = coalesce(later_since, ?) WHERE directory = ? AND name = ? AND scope = ?",
        [
            (claim.request.later_since, *claim.need)
            for claim in claimed
            if claim.need and claim.request.later_since is not None
        ],
    )


def _exempt(connection: Connection, claimed: Sequence[_Claim], watermark: int) -> None:
    """Let directory attempts not cover what inner layers have yet to drop below them."""
    for one in (claim.request for claim in claimed if claim.request.exempt != Inner()):
        exempt(connection, one.exempt, one.target, one.url, watermark=one.covers_to(watermark))


def _with_refresh(connection: Connection, claims: Sequence[_Claim]) -> set[_NeedKey]:
    """Return those of prefetches whose URL is still to be refreshed, or is now: it would fetch the old copy."""
    needs = [claim.need for claim in claims if claim.need]
    own = "SELECT column1, column2, column3 FROM wanted CROSS JOIN need ON directory = column1 AND name = column2"
    found = set(select_wanted(connection, needs, f"{own} WHERE scope IN ({Scope.EXACT:d}, {Scope.ALL_PARAMS:d})"))
    places = {(claim.target, directory_of(claim.request.url)) for claim in claims}
    above = {(target, place): [(target, one) for one in directories_above(place)] for target, place in places}
    subtrees = select_wanted(
        connection,
        list({one for each in above.values() for one in each}),
        "SELECT d.target, d.url FROM wanted CROSS JOIN directory AS d ON d.target = column1 AND d.url = column2"
        f" CROSS JOIN need AS n ON n.directory = d.id AND n.name = '' AND n.scope = {Scope.SUBTREE:d}",
    )
    due, attempts = set(subtrees), directory_attempts(connection)
    covered = {one for one in places if not due.isdisjoint(above[one]) or attempts.above(*one)}
    return found | {
        claim.need for claim in claims if claim.need and (claim.target, directory_of(claim.request.url)) in covered
    }
