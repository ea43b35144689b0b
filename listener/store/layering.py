"""
What an outer layer of caches waits for: needs of the layers that it fetches from which are not settled yet.

A prefetch drops nothing. A layer that refreshes files only never settles any other need.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from listener.refresh import Scope, directory_of
from listener.store.connection import Connection
from listener.store.index import prefix_end
from listener.store.needs import DROPPED, EXACT_ONLY, IN_INNER, UNCOVERED, UNSETTLED, Load, covered_values

__all__ = ["Inner", "after_layers", "is_unsettled"]


class Inner(NamedTuple):
    """The targets that an outer layer fetches from."""

    targets: Sequence[str] = ()
    """Those that refresh directories, too."""
    files_only: Sequence[str] = ()


def after_layers(connection: Connection, load: Load, inner: Inner) -> tuple[Load, int]:
    """Return a load without what one of these targets has yet to drop, and how many needs that leaves out."""
    left = load._replace(
        inner=_directories(connection, load.url, inner.targets),
        inner_files=_directories(connection, load.url, inner.files_only),
    )
    counts: dict[int, int] = {}
    if not left.inner == left.inner_files == "[]":
        found = connection.execute(
            f"SELECT scope, count(*) FROM need WHERE {UNCOVERED} AND {IN_INNER}"
            f"{'' if load.priority is None else ' AND priority = :priority'} GROUP BY scope",
            covered_values(load.directory, load.marks)
            | {"priority": load.priority, "inner": left.inner, "inner_files": left.inner_files},
        )
        counts = dict(found.fetchall())
    left = left._replace(
        exact=load.exact - counts.get(Scope.EXACT, 0),
        all_params=load.all_params - counts.get(Scope.ALL_PARAMS, 0),
        subtree=load.subtree - counts.get(Scope.SUBTREE, 0),
        prefetch=load.prefetch - counts.get(Scope.PREFETCH, 0),
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


def is_unsettled(connection: Connection, inner: Inner, url: str, *, below: bool) -> bool:
    """Return whether one of these targets has yet to drop this URL, or one below it, and waits for no person."""
    place = url if below else directory_of(url)
    where = "d.url >= :url AND d.url < :end" if below else "d.url = :url AND n.name = :name"
    bound = {"end": prefix_end(place)} if below else {"name": url[len(place) :]}
    row = connection.execute(
        "SELECT 1 FROM directory d JOIN target t ON t.id = d.target JOIN need n ON n.directory = d.id"
        f" WHERE {where} AND {UNSETTLED} AND ({DROPPED} AND t.name IN (SELECT value FROM json_each(:targets))"
        f" OR {EXACT_ONLY} AND t.name IN (SELECT value FROM json_each(:files_only))) LIMIT 1",
        {"targets": json.dumps(inner.targets), "files_only": json.dumps(inner.files_only), "url": place, **bound},
    )
    return row.fetchone() is not None
