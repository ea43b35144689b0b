"""A listing of which only some keys are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from listener.change import Change
from listener.router.globs import Filter
from listener.sources.listing.listing import Listing, digest_of

__all__ = ["FilteredListing"]


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
