"""The objects of a bucket in byte order."""

from __future__ import annotations

from collections.abc import Iterator

from listener.change import Change, ChangeKind
from listener.sources.listing.bucket import Bucket
from listener.sources.listing.listing import digest_of
from listener.sources.listing.segments import Fetch, entries_in_order
from listener.sources.listing.settings import ListingSettings

__all__ = ["BucketListing"]


class BucketListing:
    """What a bucket holds below a prefix; empty objects whose keys end with ``/`` are folders, and no content."""

    complete = True

    def __init__(
        self,
        root: str,
        settings: ListingSettings,
        *,
        prefix: str = "",
        name: str = "",
        fetch: Fetch | None = None,
    ) -> None:
        """
        Keep what to list.

        Args:
            root: the source whose keys these are.
            settings: the bucket and how to reach it.
            prefix: only keys that start so; by default what the settings' url names.
            name: key of the settings, for messages.
            fetch: requests pages; by default the bucket's client does.
        """
        self.root = root
        self._place = settings.place
        self.prefix = prefix if prefix.startswith(self._place.key) else self._place.key
        self._nothing = not self._place.key.startswith(prefix) and not prefix.startswith(self._place.key)
        self._concurrency = settings.concurrency
        self._bucket = Bucket(name or f"sources.{root}", settings, self._place)
        self._fetch = fetch or self._bucket.page

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"{self._place.scheme}://{self._place.bucket}/{self.prefix}"

    def digest(self) -> str:
        """Return a text that is the same for the same listing, however often it is begun."""
        return digest_of(["bucket", self.root, self._place.scheme, self._place.bucket, self.prefix])

    def close(self) -> None:
        """Release the connections to the bucket."""
        self._bucket.close()

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield a change for each object above ``after``, in byte order; raises as :meth:`Bucket.page` does."""
        if self._nothing:
            return
        for page in entries_in_order(self._fetch, prefix=self.prefix, after=after, concurrency=self._concurrency):
            for key, fingerprint in page:
                if fingerprint.size_bytes or not key.endswith("/"):
                    yield Change(self.root, key, ChangeKind.CONTENT, fingerprint)
