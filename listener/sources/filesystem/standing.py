"""What is known of some names at one moment: by the index, by changes on their way to it, and by their first events."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from listener.change import Fingerprint
from listener.contracts import IndexView
from listener.sources.filesystem.acks import Acks

__all__ = ["Lives", "Standing", "standing_of"]


class Lives(NamedTuple):
    """How far events prove that a name which the index does not hold is new."""

    is_complete: bool = False
    """False while the index still learns what was there before anybody watched."""
    births: AbstractSet[str] = frozenset()
    """Names that did not exist just before their first event."""
    unseen: tuple[str, ...] = ()
    """Directories (as key prefixes) of which events were lost: names may have come there without an event."""

    @property
    def is_sure(self) -> bool:
        """Whether that is proved of every name."""
        return self.is_complete and not self.unseen

    def proves_new(self, key: str) -> bool:
        """Return whether the whole life of this name, if the index does not hold it, was reported by events."""
        return key in self.births or (self.is_complete and not key.startswith(self.unseen))


class Standing(NamedTuple):
    """The answer for the names that were asked for."""

    known: Mapping[str, Fingerprint]
    under_way: AbstractSet[str]
    """Names of which a change may not be in the index yet: the index proves nothing of them."""
    lives: Lives

    def is_new(self, key: str) -> bool:
        """Return whether this name is proved to be new, and no change of it was reported yet."""
        return key not in self.known and key not in self.under_way and self.lives.proves_new(key)

    def before(self, key: str) -> Fingerprint | None:
        """Return what was reported last of a name, where that is sure and an object."""
        return self.known.get(key) if self.lives.is_complete and key not in self.under_way else None


async def standing_of(index: IndexView, acks: Acks, root: str, keys: Collection[str], lives: Lives) -> Standing:
    """Look these names up; those under way first: what is committed between the two is in the index."""
    under_way = acks.keys_under_way(keys)
    useful = keys if lives.is_complete else lives.births & set(keys)
    known = await index.objects(root, [key for key in useful if key not in under_way]) if useful else {}
    return Standing(known, under_way, lives)
