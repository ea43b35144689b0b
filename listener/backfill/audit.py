"""A listing beside the index: what the listener does not know, or knows otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from listener.backfill.listing import Listing
from listener.change import Change, Fingerprint
from listener.store import Store

__all__ = ["Audit", "audit"]

PORTION_KEYS = 10_000


@dataclass(slots=True)
class Audit:
    """How a listing differs from the index."""

    same: int = 0
    changed: int = 0
    """Keys whose size or modification time the index has otherwise."""
    unknown: int = 0
    """Keys that the index does not have."""
    examples: list[str] = field(default_factory=list)
    """Some of those that differ."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


async def audit(listing: Listing, store: Store | None, *, examples: int = 20) -> Audit:
    """Compare the listing with the index, which is empty without a store; nothing is changed."""
    found = Audit()
    changes = listing.changes()
    while portion := await asyncio.to_thread(lambda: list(islice(changes, PORTION_KEYS))):
        known = await _known(store, portion)
        for change in portion:
            if not _same(change, known, found) and len(found.examples) < examples:
                found.examples.append(change.key)
    return found


async def _known(store: Store | None, portion: Sequence[Change]) -> dict[tuple[str, str], Mapping[str, Fingerprint]]:
    places = {(change.root, _split(change.key)[0]) for change in portion}
    return {place: {} if store is None else await store.directory(*place) for place in places}


def _same(change: Change, known: Mapping[tuple[str, str], Mapping[str, Fingerprint]], found: Audit) -> bool:
    directory, name = _split(change.key)
    before = known[change.root, directory].get(name)
    if before is None:
        found.unknown += 1
    elif change.fingerprint is None or before[:2] == change.fingerprint[:2]:
        found.same += 1
        return True
    else:
        found.changed += 1
    return False


def _split(key: str) -> tuple[str, str]:
    cut = key.rfind("/") + 1
    return key[:cut], key[cut:]
