"""What an outer layer of caches waits for: needs of the layers that it fetches from which are not settled yet."""

from __future__ import annotations

import json
from collections.abc import Sequence

from listener.refresh import Scope, directory_of
from listener.store.connection import Connection
from listener.store.index import prefix_end
from listener.store.needs import IN_INNER, UNCOVERED, UNSETTLED, Load, covered_values

__all__ = ["after_layers", "is_unsettled"]


def after_layers(connection: Connection, load: Load, inner: Sequence[str]) -> tuple[Load, int]:
    """Return a load without what one of these targets has yet to drop, and how many needs that leaves out."""
    rows = connection.execute(
        "SELECT d.id FROM directory d JOIN target t ON t.id = d.target"
        " WHERE d.url = ? AND t.name IN (SELECT value FROM json_each(?)) ORDER BY d.id",
        (load.url, json.dumps(list(inner))),
    )
    left = load._replace(inner=json.dumps([row[0] for row in rows]))
    counts: dict[int, int] = {}
    if left.inner != "[]":
        found = connection.execute(
            f"SELECT scope, count(*) FROM need WHERE {UNCOVERED} AND {IN_INNER}"
            f"{'' if load.priority is None else ' AND priority = :priority'} GROUP BY scope",
            covered_values(load.directory, load.marks) | {"priority": load.priority, "inner": left.inner},
        )
        counts = dict(found.fetchall())
    left = left._replace(
        exact=load.exact - counts.get(Scope.EXACT, 0),
        all_params=load.all_params - counts.get(Scope.ALL_PARAMS, 0),
        subtree=load.subtree - counts.get(Scope.SUBTREE, 0),
        prefetch=load.prefetch - counts.get(Scope.PREFETCH, 0),
    )
    return left, sum(counts.values())


def is_unsettled(connection: Connection, targets: Sequence[str], url: str, *, below: bool) -> bool:
    """Return whether one of these targets has a need of this URL, or below it, that does not wait for a person."""
    place = url if below else directory_of(url)
    where = "d.url >= :url AND d.url < :end" if below else "d.url = :url AND n.name = :name"
    bound = {"end": prefix_end(place)} if below else {"name": url[len(place) :]}
    row = connection.execute(
        "SELECT 1 FROM directory d JOIN target t ON t.id = d.target JOIN need n ON n.directory = d.id"
        f" WHERE t.name IN (SELECT value FROM json_each(:targets)) AND {where} AND {UNSETTLED} LIMIT 1",
        {"targets": json.dumps(list(targets)), "url": place, **bound},
    )
    return row.fetchone() is not None
