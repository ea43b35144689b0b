"""What can be gone through key by key, and be begun again behind any key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from listener.change import Change, key_to_bytes

__all__ = ["Listing", "digest_of"]


class Listing(Protocol):
    """Something that can be listed again from a key on; whoever makes one closes it."""

    root: str
    """The source whose keys these are."""
    prefix: str
    """Only keys that start so are listed."""
    complete: bool
    """Whether everything below ``prefix`` is listed: what is missing then is deleted, and not only left out."""

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        ...

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        ...

    def changes(self, after: str = "") -> Iterator[Change]:
        """
        Yield a change for each key above ``after``, in byte order; blocking.

        Raises a :class:`~listener.errors.ListenerError` where it cannot go on: what was yielded up to then is all
        that there is up to there.
        """
        ...

    def close(self) -> None:
        """Release files and connections; safe to call twice. Nothing is listed afterwards."""
        ...


def digest_of(words: Iterable[str]) -> str:
    """Return a short text that is the same for the same words."""
    return hashlib.sha256(b"\0".join(map(key_to_bytes, words))).hexdigest()[:32]
