"""
What an outer layer of caches waits for: needs of the layers that it fetches from which are not settled yet.

A prefetch drops nothing. A layer that refreshes files only never settles any other need. What an inner layer has
dropped, and what changed again since, may be refreshed up to the watermark of the inner attempt (:class:`Passed`): the
newer change outlives that refresh. A directory that has other needs of inner layers below it may be refreshed without
these (:func:`exempt`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from listener.refresh import AttemptState, RefreshKind, Scope, directories_above, directory_of, strip_query
from listener.store.connection import Connection
from listener.store.index import next_sequence, prefix_end, select_wanted
from listener.store.needs import (
    DROPPED,
    EXACT_ONLY,
    IN_INNER,
    UNCOVERED,
    UNSETTLED,
    Inner,
    Load,
    Passed,
    covered_values,
)

__all__ = ["MOST_EXEMPT", "after_layers", "exempt", "how_far", "may_be_exempt"]

MOST_PASSED: Final = 1_000
"""Needs of one directory, the oldest, for which it is looked whether an inner layer dropped an earlier change."""
MOST_EXEMPT: Final = 1_000
"""Needs below a directory that one refresh may leave out: they are written in one transaction."""
MOST_BELOW: Final = 1_000_000_000


def after_layers(connection: Connection, load: Load, inner: Inner) -> tuple[Load, int]:
    """Return a load without what one of these targets has yet to drop, and how many needs that leaves out."""
    left = load._replace(
        inner=_directories(connection, load.url, inner.targets),
        inner_files=_directories(connection, load.url, inner.files_only),
    )
    if left.inner == left.inner_files == "[]":
        return left, 0
    values = covered_values(load.directory, load.marks) | {
        "priority": load.priority,
        "inner": left.inner,
        "inner_files": left.inner_files,
    }
    of = f"{UNCOVERED} AND {IN_INNER}{'' if load.priority is None else ' AND priority = :priority'}"
    found = connection.execute(f"SELECT scope, count(*) FROM need WHERE {of} GROUP BY scope", values)
    counts: dict[int, int] = dict(found.fetchall())
    if not counts:
        return left, 0
    passed = _passed_in(connection, load, of, values)
    for _, scope in passed:
        counts[scope] -= 1
    left = left._replace(
        exact=load.exact - counts.get(Scope.EXACT, 0),
        all_params=load.all_params - counts.get(Scope.ALL_PARAMS, 0),
        subtree=load.subtree - counts.get(Scope.SUBTREE, 0),
        prefetch=load.prefetch - counts.get(Scope.PREFETCH, 0),
        passed=passed,
    )
    return left, sum(counts.values())


def _directories(connection: Connection, url: str, targets: Sequence[str]) -> str:
    """Return the ids of a directory at these targets, as a JSON list."""
    rows = connection.execute(
        "SELECT d.id FROM directory d JOIN target t ON t.id = d.target"
        " WHERE d.url = ? AND t.name IN (SELECT value FROM json_each(?)) ORDER BY d.id",
        (url, json.dumps(list(targets))),
    )
    return json.dumps([row[0] for row in rows])


class _Unsettled(NamedTuple):
    """What one inner target has yet to drop."""

    target: str
    needs_force: bool
    sequence: int
    """The lowest of the newest changes."""
    since: float


class _Blocked(NamedTuple):
    """A need of the outer layer, and what inner layers have yet to drop of its URL."""

    name: str
    scope: Scope
    needs_force: bool
    by: list[_Unsettled]


_UNSETTLED_AT = (
    f"(b.{UNSETTLED} AND (b.{DROPPED} AND {{}} IN (SELECT value FROM json_each(:inner))"
    f" OR b.{EXACT_ONLY} AND {{}} IN (SELECT value FROM json_each(:inner_files))))"
)
"""Whether a need ``b`` is one that an outer layer waits for, by its directory's id or its target's name."""


def _passed_in(
    connection: Connection, load: Load, of: str, values: Mapping[str, object]
) -> dict[tuple[str, int], Passed]:
    rows = connection.execute(
        "SELECT n.name, n.scope, n.needs_force, t.name, max(b.needs_force), min(b.sequence), min(b.stale_since)"
        f" FROM (SELECT name, scope, needs_force FROM need WHERE {of} AND {DROPPED}"
        f" ORDER BY stale_since LIMIT {MOST_PASSED:d}) AS n"
        " CROSS JOIN target AS t ON t.name <> :target CROSS JOIN directory AS d ON d.target = t.id AND d.url = :url"
        " CROSS JOIN need AS b ON b.directory = d.id AND b.name = n.name"
        f" WHERE {_UNSETTLED_AT.format('d.id', 'd.id')} GROUP BY n.name, n.scope, n.needs_force, t.name",
        {**values, "target": load.target, "url": load.url},
    )
    blocked: dict[tuple[str, int], _Blocked] = {}
    for name, scope, forced, *by in rows:
        blocked.setdefault((name, scope), _Blocked(name, Scope(scope), bool(forced), [])).by.append(_Unsettled(*by))
    return _passed(connection, load.target, load.url, blocked.values())


def _passed(
    connection: Connection, target: str, place: str, blocked: Iterable[_Blocked]
) -> dict[tuple[str, int], Passed]:
    """Return how far those of these needs may be refreshed of which the inner layers dropped more than the outer."""
    blocked = list(blocked)
    asked: set[_Asked] = set()
    for one in blocked:
        reaching = _reaching(place, one.name, one.scope)
        asked.update(_Asked(target, *each, one.needs_force, 1) for each in reaching)
        asked.update(_Asked(each.target, *other, each.needs_force, 0) for each in one.by for other in reaching)
    last = _watermarks(connection, list(asked))
    found: dict[tuple[str, int], Passed] = {}
    for one in blocked:
        reaching = _reaching(place, one.name, one.scope)

        def watermark(of: str, *, force: bool, is_sent: int, reaching: Sequence[tuple[str, str]] = reaching) -> int:
            return max(last.get(_Asked(of, *each, force, is_sent), 0) for each in reaching)

        dropped = [watermark(each.target, force=each.needs_force, is_sent=0) for each in one.by]
        # What lies up to the watermark and is there still was not covered, or is about to be settled.
        is_newer = all(mark < each.sequence for mark, each in zip(dropped, one.by, strict=True))
        if is_newer and min(dropped) > watermark(target, force=one.needs_force, is_sent=1):
            found[one.name, one.scope] = Passed(min(dropped), min(each.since for each in one.by))
    return found


def _reaching(place: str, name: str, scope: Scope) -> list[tuple[str, str]]:
    """Return the kinds of attempt that settle a need, each with the URL that it then has."""
    url = place + name
    found = [(RefreshKind.DIRECTORY.value, one) for one in directories_above(place)]
    if scope is not Scope.SUBTREE:
        found.append((RefreshKind.IGNORE_PARAMS.value, strip_query(url)))
    if scope is Scope.EXACT:
        found.append((RefreshKind.FILE.value, url))
    return found


class _Asked(NamedTuple):
    """Which attempts to look for."""

    target: str
    kind: str
    url: str
    needs_force: bool
    is_sent: int
    """1: those that were or may be sent; 0: only those that are complete."""


def _watermarks(connection: Connection, asked: Sequence[_Asked]) -> dict[_Asked, int]:
    """Return the watermark of the last of these attempts, where there is any."""
    rows = select_wanted(
        connection,
        [(*one[:3], int(one.needs_force), one.is_sent) for one in asked],
        "SELECT column1, column2, column3, column4, column5, g.watermark FROM wanted"
        " CROSS JOIN target AS t ON t.name = column1 CROSS JOIN attempt_item AS i ON i.id ="
        " (SELECT l.id FROM attempt_item AS l CROSS JOIN attempt_group AS o ON o.id = l.group_id"
        "  WHERE l.url = column3 AND o.target = t.id AND o.kind = column2 AND o.force >= column4"
        f"  AND (o.state = '{AttemptState.COMPLETE.value}' OR column5 = 1 AND o.state NOT IN {_UNSENT})"
        "  ORDER BY l.id DESC LIMIT 1)"
        " CROSS JOIN attempt_group AS g ON g.id = i.group_id",
    )
    return {
        _Asked(target, kind, url, bool(force), is_sent): int(mark) for target, kind, url, force, is_sent, mark in rows
    }


_UNSENT = f"('{AttemptState.FAILED.value}', '{AttemptState.CANCELLED.value}')"


def how_far(
    connection: Connection, inner: Inner, target: str, url: str, scope: Scope, *, needs_force: bool = False
) -> Passed | None:
    """
    Return how far the outer target may refresh a URL that inner ones have yet to drop, as far as they wait for nobody.

    A watermark of 0: not at all yet. ``None``: no inner layer holds it up.
    """
    by = _unsettled(connection, inner, target, url, scope)
    if not by:
        return None
    if target in inner.by_beginning and _is_beginning(url, scope):
        return Passed()  # which of what begins so the inner layers dropped is not kept under this name
    place = url if scope is Scope.SUBTREE else directory_of(url)
    blocked = _Blocked(url[len(place) :], scope, needs_force, by)
    return next(iter(_passed(connection, target, place, [blocked]).values()), Passed())


_WITH_ANY_QUERY = "(b.name = :name OR (b.name >= :name || '?' AND b.name < :name || '@'))"
_REACHED: Mapping[Scope, tuple[str, str]] = {
    Scope.EXACT: ("d.url = :url", "b.name = :name"),
    Scope.PREFETCH: ("d.url = :url", "b.name = :name"),
    Scope.ALL_PARAMS: ("d.url = :url", _WITH_ANY_QUERY),
    Scope.SUBTREE: ("d.url >= :url AND d.url < :end", "TRUE"),
}
"""The directories, and the needs in them, that a refresh of each scope drops."""


_BEGIN_SO = (
    "(d.url = :url OR d.url >= :start AND d.url < :end)",
    "(d.url >= :start AND d.url > :url OR b.name >= :name AND b.name < :last)",
)
"""The same of a URL that stands for all that begin so, which may lie in directories below its own."""
_BEHIND_ALL: Final = "\x7f"


def _is_beginning(url: str, scope: Scope) -> bool:
    return url.endswith("*") and scope in (Scope.EXACT, Scope.ALL_PARAMS)


def _unsettled(connection: Connection, inner: Inner, target: str, url: str, scope: Scope) -> list[_Unsettled]:
    """Return, by inner target, what it has yet to drop of what a refresh drops, and waits for no person."""
    below = scope is Scope.SUBTREE
    place = url if below else directory_of(url)
    where = _REACHED[scope]
    bound = {"end": prefix_end(place)} if below else {"name": url[len(place) :]}
    if target in inner.by_beginning and _is_beginning(url, scope):
        start = url.removesuffix("*")
        name, where = start[len(place) :], _BEGIN_SO
        bound = {"start": start, "end": start + _BEHIND_ALL, "name": name, "last": name + _BEHIND_ALL}
    rows = connection.execute(
        "SELECT t.name, max(b.needs_force), min(b.sequence), min(b.stale_since)"
        f" FROM target AS t CROSS JOIN directory AS d ON d.target = t.id AND {where[0]}"
        f" CROSS JOIN need AS b ON b.directory = d.id WHERE {where[1]}"
        f" AND {_UNSETTLED_AT.format('t.name', 't.name')} GROUP BY t.name",
        {"inner": json.dumps(inner.targets), "inner_files": json.dumps(inner.files_only), "url": place, **bound},
    )
    return [_Unsettled(*row) for row in rows]


_BELOW = (
    "SELECT n.directory, n.name, n.scope, min(b.stale_since)"
    " FROM target AS t CROSS JOIN directory AS d ON d.target = t.id AND d.url >= :url AND d.url < :end"
    " CROSS JOIN target AS u ON u.name <> :target CROSS JOIN directory AS e ON e.target = u.id AND e.url = d.url"
    " CROSS JOIN need AS b ON b.directory = e.id CROSS JOIN need AS n ON n.directory = d.id AND n.name = b.name"
    f" WHERE t.name = :target AND {_UNSETTLED_AT.format('u.name', 'u.name')}"
    " AND n.sequence <= :watermark GROUP BY n.directory, n.name, n.scope LIMIT :most"
)


def _below(
    connection: Connection, inner: Inner, target: str, url: str, *, watermark: int, most: int
) -> list[tuple[int, str, int, float]]:
    rows = connection.execute(
        _BELOW,
        {"inner": json.dumps(inner.targets), "inner_files": json.dumps(inner.files_only), "target": target}
        | {"url": url, "end": prefix_end(url), "watermark": watermark, "most": most},
    )
    found = rows.fetchall()
    return found + (_beginnings_below(connection, inner, target, url) if target in inner.by_beginning else [])


def _beginnings_below(connection: Connection, inner: Inner, target: str, url: str) -> list[tuple[int, str, int, float]]:
    """Return the needs below a directory that stand for all that begin so, of which inner layers have any to drop."""
    rows = connection.execute(
        "SELECT n.directory, d.url, n.name, n.scope FROM target AS t CROSS JOIN directory AS d ON d.target = t.id"
        " AND d.url >= ? AND d.url < ? CROSS JOIN need AS n ON n.directory = d.id WHERE t.name = ?"
        f" AND n.scope IN ({Scope.EXACT:d}, {Scope.ALL_PARAMS:d}) AND instr(n.name, '*') > 0",
        (url, prefix_end(url), target),
    ).fetchall()
    return [
        (directory, name, scope, min(one.since for one in by))
        for directory, place, name, scope in rows
        if name.endswith("*") and (by := _unsettled(connection, inner, target, place + name, Scope(scope)))
    ]


def may_be_exempt(connection: Connection, inner: Inner, target: str, url: str, *, watermark: int) -> bool:
    """Return whether a directory may be refreshed without what inner layers have yet to drop below it."""
    own = _unsettled(connection, inner, target, url, Scope.EXACT)
    return (
        not own
        and len(_below(connection, inner, target, url, watermark=watermark, most=MOST_EXEMPT + 1)) <= MOST_EXEMPT
    )


def exempt(connection: Connection, inner: Inner, target: str, url: str, *, watermark: int) -> None:
    """
    Let an attempt at a directory not cover what inner layers have yet to drop below it.

    These needs take a new sequence, above the attempt's watermark.
    """
    below = _below(connection, inner, target, url, watermark=watermark, most=MOST_BELOW)
    if not below:
        return
    sequence = next_sequence(connection)
    places = {directory for directory, *_ in below}
    connection.executemany(
        "UPDATE directory SET last_sequence = max(last_sequence, ?) WHERE id = ?", [(sequence, one) for one in places]
    )
    connection.executemany(
        "UPDATE need SET sequence = max(sequence, ?), later_since = coalesce(later_since, ?)"
        " WHERE directory = ? AND name = ? AND scope = ?",
        [(sequence, since, directory, name, scope) for directory, name, scope, since in below],
    )
