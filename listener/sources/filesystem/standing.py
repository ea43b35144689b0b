"""What is known of some names at one moment: by the index, and by changes on their way to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from listener.change import Fingerprint
from listener.contracts import IndexView
from listener.sources.filesystem.acks import Acks

__all__ = ["Standing", "standing_of"]


class Standing(NamedTuple):
    """The answer for the names that were asked for."""

    known: Mapping[str, Fingerprint]
    under_way: AbstractSet[str]
    """Names of which a change may not be in the index yet: the index proves nothing of them."""
    is_complete: bool
    """False while the index still learns what was there before anybody watched."""

    def is_new(self, key: str) -> bool:
        """Return whether nothing was ever told of this name, as far as its life is known."""
        return self.is_complete and key not in self.known and key not in self.under_way

    def before(self, key: str) -> Fingerprint | None:
        """Return what was told last of a name, where that is sure and an object."""
        return self.known.get(key) if self.is_complete and key not in self.under_way else None


async def standing_of(index: IndexView, acks: Acks, root: str, keys: Collection[str], *, is_complete: bool) -> Standing:
    """Ask for these names; those under way first: what is committed between the two is in the index."""
    under_way = acks.keys_under_way(keys)
    known = await index.objects(root, [key for key in keys if key not in under_way]) if keys and is_complete else {}
    return Standing(known, under_way, is_complete)
