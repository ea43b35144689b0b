"""What can be listed key by key and resumed after any key: the protocol, and two listings made of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from listener.change import Change, key_to_bytes
from listener.contracts import SourceHealth
from listener.router.globs import Filter

__all__ = ["FilteredListing", "Listing", "digest_of", "watched"]


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


class FilteredListing:
    """The keys of another listing that match, or that changed since; nothing is known of what is left out."""

    complete = False

    def __init__(
        self,
        listing: Listing,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        since: float | None = None,
    ) -> None:
        """Take keys that match one of ``include`` and none of ``exclude``, and were modified since (epoch seconds)."""
        self.root = listing.root
        self.prefix = listing.prefix
        self._listing = listing
        self._words = [*(f"+{one}" for one in include), *(f"-{one}" for one in exclude), repr(since)]
        self._filter = Filter(include or ("**",), exclude)
        self._since_ns = None if since is None else int(since * 1_000_000_000)

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"chosen keys of {self._listing.what}"

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return digest_of([self._listing.digest(), *self._words])

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield the changes of the listing that are wanted."""
        return filter(self._wanted, self._listing.changes(after))

    def close(self) -> None:
        """Close the listing."""
        self._listing.close()

    def _wanted(self, change: Change) -> bool:
        if not self._filter.takes(change.key):
            return False
        if self._since_ns is None or change.fingerprint is None or change.fingerprint.mtime_ns is None:
            return True
        return change.fingerprint.mtime_ns >= self._since_ns


def watched(changes: Iterator[Change], health: SourceHealth, now: Callable[[], float]) -> Iterator[Change]:
    """
    Yield the changes of a listing, and report its progress, so that one that hangs is reported.

    The source is judged while the next key is waited for, in the thread that lists. What becomes of a key is not the
    listing's work: the source rests meanwhile. ``now`` is the event loop's clock in seconds.
    """
    while True:
        health.progressed(now())
        try:
            change = next(changes, None)
        finally:
            health.rests()
        if change is None:
            return
        yield change
