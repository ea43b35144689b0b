"""A listing whose progress the health of its source shows, so that one that hangs is reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from listener.change import Change
from listener.contracts import SourceHealth
from listener.sources.listing.listing import Listing

__all__ = ["Watched"]


class Watched:
    """
    A listing as another one has it.

    The source is judged while the next key is waited for, in the thread that lists. What becomes of a key is not the
    listing's work: the source rests meanwhile.
    """

    def __init__(self, listing: Listing, health: SourceHealth, now: Callable[[], float]) -> None:
        """Take the listing, whose progress it is, and the event loop's clock in seconds."""
        self._listing = listing
        self._health = health
        self._now = now
        self.root = listing.root
        self.prefix = listing.prefix
        self.complete = listing.complete

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return self._listing.what

    def digest(self) -> str:
        """Return the listing's digest."""
        return self._listing.digest()

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield the listing's changes."""
        changes = self._listing.changes(after)
        while True:
            self._health.progressed(self._now())
            try:
                change = next(changes, None)
            finally:
                self._health.rests()
            if change is None:
                return
            yield change

    def close(self) -> None:
        """Close the listing."""
        self._listing.close()
