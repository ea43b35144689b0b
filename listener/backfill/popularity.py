"""What is wanted most, first: weights of keys from a file or an access log, and a listing in their order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from listener.change import Change, ChangeKind, Fingerprint, key_to_text
from listener.errors import ConfigurationError
from listener.router.serving import keys_at
from listener.settings import Site
from listener.sources.listing import Listing
from listener.sources.listing.keys import Spool
from listener.sources.listing.listing import digest_of
from listener.sources.listing.pages import Entry

__all__ = ["WantedListing", "read_popularity"]

MOST_WEIGHED: Final = 1_000_000
"""Keys whose weight is kept: of more, the most wanted; the rest comes last anyway."""
_LOG: Final = re.compile(rb'"(?:GET|HEAD) (\S+) HTTP/[\d.]+" (\d{3})\b')
_WEIGHT: Final = re.compile(rb"(\d+(?:\.\d+)?)[\s,;]+([^\s,;].*)", re.DOTALL)


def read_popularity(lines: Iterable[bytes], sites: Sequence[Site]) -> Counter[str]:
    """
    Return the weight of each key.

    A line is a weight and a key (``120 img/a.jpg``), or of an access log in the common or combined form: there each
    GET that was answered well counts one for the key that its path stands for at one of these sites. What is
    neither is passed over; where no line is either, raises :class:`~listener.errors.ConfigurationError`.
    """
    weights: Counter[str] = Counter()
    seen = False
    bases = [(site, urlsplit(base).path) for site in sites for base in site.base_urls]
    for line in lines:
        seen = True
        if (asked := _LOG.search(line)) is not None:
            if asked[2].startswith((b"2", b"304")):
                weights.update(_keys(asked[1], bases))
        elif (weighed := _WEIGHT.match(line.strip())) is not None:
            weights[key_to_text(weighed[2])] += float(weighed[1])  # type: ignore[assignment]
        if len(weights) > 2 * MOST_WEIGHED:
            weights = Counter(dict(weights.most_common(MOST_WEIGHED)))
    if seen and not weights:
        raise ConfigurationError(
            "--popularity: no line is a weight and a key, or a GET of an access log",
            hint="write lines like `120 img/a.jpg`, or give a log in the combined form",
        )
    return weights


def _keys(path: bytes, bases: Sequence[tuple[Site, str]]) -> set[str]:
    """Return the keys that a request's path may stand for, by every base that it starts with."""
    plain = key_to_text(unquote_to_bytes(path.split(b"?", 1)[0]))
    below = [(site, plain[len(base) :]) for site, base in bases if plain.startswith(base)]
    return {key for site, path in below for key in (site.prefix + path, *keys_at(site, path))}


class WantedListing:
    """Another listing in the order of what is wanted: the heaviest first, of equal weight in the order of keys."""

    complete = False

    def __init__(self, listing: Listing, weights: Counter[str]) -> None:
        """Take both; the listing is gone through once, at the first look."""
        self.root = listing.root
        self.prefix = listing.prefix
        self._listing = listing
        self._weights = weights
        self._order: list[str] | None = None
        self._found: dict[str, Fingerprint | None] = {}
        self._rest = Spool()

    @property
    def what(self) -> str:
        """What is listed, in a few words."""
        return f"{self._listing.what}, the most wanted first"

    def digest(self) -> str:
        """Return a text that is the same for the same listing and weights, however often it is begun."""
        weights = sorted(self._weights.items())
        return digest_of([self._listing.digest(), *(f"{weight} {key}" for key, weight in weights)])

    def changes(self, after: str = "") -> Iterator[Change]:
        """Yield a change for each key that comes behind ``after`` in this order."""
        order = self._look()
        weighed = after in self._found
        start = order.index(after) + 1 if weighed else len(order) if after else 0
        for key in islice(order, start, None):
            yield Change(self.root, key, fingerprint=self._found[key])
        for key, fingerprint in self._rest.entries("" if weighed else after):
            yield Change(self.root, key, fingerprint=fingerprint)

    def close(self) -> None:
        """Close the listing, and the table of what nobody wanted."""
        self._rest.close()
        self._listing.close()

    def _look(self) -> list[str]:
        """Part the listing into what has a weight, in order, and the rest, on disk."""
        if self._order is None:
            self._rest.add(self._unweighed())
            self._order = sorted(self._found, key=lambda key: (-self._weights[key], key))
        return self._order

    def _unweighed(self) -> Iterator[Entry]:
        for change in self._listing.changes():
            if change.kind is not ChangeKind.CONTENT:
                continue  # what is gone is wanted by nobody
            if change.key in self._weights:
                self._found[change.key] = change.fingerprint
            else:
                yield Entry(change.key, change.fingerprint or Fingerprint())
