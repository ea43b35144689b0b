"""What is known of one URL, under whichever addresses its targets keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from listener.contracts import Target
from listener.daemon.status import stale_of
from listener.store import Store
from listener.store.filtering import Suppressed
from listener.store.owner import Owner
from listener.store.staleness import StaleNeed

__all__ = ["UrlFacts", "attempts_at", "facts_of"]


class UrlFacts(NamedTuple):
    """What the store has about a URL."""

    needs: Sequence[StaleNeed] = ()
    attempts: Sequence[dict[str, Any]] = ()
    suppressed: Suppressed | None = None


async def facts_of(
    store: Store,
    targets: Mapping[str, Target],
    addresses: Sequence[str],
    *,
    now: float,
    owner: Owner,
    limit: int,
) -> UrlFacts:
    """Return what is stale at these addresses of a URL, the newest ``limit`` requests, and what was suppressed."""
    needs = [need for url in addresses for need in await stale_of(store, targets, now, owner, url=url)]
    found = [await store.suppressed(url) for url in addresses]
    suppressed = next((one for one in found if one is not None), None)
    return UrlFacts(needs, await attempts_at(store, addresses, limit=limit), suppressed)


async def attempts_at(store: Store, addresses: Sequence[str], *, limit: int) -> list[dict[str, Any]]:
    """Return the newest requests at these addresses."""
    rows = [row for url in addresses for row in await store.history(limit=limit, url=url)]
    return sorted(rows, key=lambda row: -int(row["id"]))[:limit]
