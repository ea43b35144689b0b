"""What a backfill lists: modes, times, which source or keys, and the most wanted first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from listener.backfill.lists import KeyLines
from listener.backfill.source import Mode
from listener.change import Change, ChangeKind, Fingerprint, key_to_text
from listener.errors import ConfigurationError
from listener.plugins import listing_settings, load_sources
from listener.router.routing import keys_at
from listener.settings import Settings, Site, expanded, nearest
from listener.sources.filesystem import FilesystemSettings
from listener.sources.filesystem.names import Ignore
from listener.sources.listing import (
    FilteredListing,
    InventoryListing,
    KeyList,
    Listing,
    ListingSettings,
    TreeListing,
    is_manifest,
    listing_of,
)
from listener.sources.listing.bucket import Bucket
from listener.sources.listing.listing import digest_of
from listener.sources.listing.pages import Entry
from listener.sources.listing.settings import Place, is_bucket, parse_place
from listener.sources.listing.spool import Spool

__all__ = [
    "Choice",
    "WantedListing",
    "choose_listing",
    "choose_source",
    "key_lines",
    "parse_modes",
    "parse_moment",
    "read_popularity",
]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

MOST_WEIGHED: Final = 1_000_000
"""Keys whose weight is kept: of more, the most wanted; the rest comes last anyway."""
_LOG: Final = re.compile(rb'"(?:GET|HEAD) (\S+) HTTP/[\d.]+" (\d{3})\b')
_WEIGHT: Final = re.compile(rb"(\d+(?:\.\d+)?)[\s,;]+([^\s,;].*)", re.DOTALL)


def parse_modes(text: str) -> list[Mode]:
    """Return the modes that a text names, separated by commas; raise ConfigurationError for anything else."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in {mode.value for mode in Mode}]
    if unknown or not names:
        raise ConfigurationError(
            f"--mode: {text!r} is no mode", hint=f"Modes are {', '.join(mode.value for mode in Mode)}."
        )
    return sorted({Mode(name) for name in names})


def parse_moment(text: str, *, now: float) -> float:
    """
    Return the time that a text names, in seconds since the epoch.

    A span before ``now`` (``90m``, ``36h``, ``7d``), or ISO 8601, in UTC where it names no zone.
    Raises :class:`~listener.errors.ConfigurationError` for anything else.
    """
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and number.replace(".", "", 1).isdecimal():
        return now - float(number) * _UNITS[unit]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--since: {text!r} is no time", hint="write 2026-01-31T08:00Z, or a span: 90m, 36h, 7d"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def choose_source(settings: Settings, name: str | None) -> str | None:
    """
    Return the source of this name; without one, the only source that sites have, None where they have several.

    Raises :class:`~listener.errors.ConfigurationError` for a name that is no source.
    """
    if name is None:
        names = {site.source for site in settings.sites}
        return names.pop() if len(names) == 1 else None
    if name not in settings.sources:
        raise ConfigurationError(f"there is no source {name!r}", hint=nearest(name, settings.sources))
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which keys of a source."""

    origin: str = ""
    """Instead of the source itself: the URL of a bucket, or the path or URL of an inventory's ``manifest.json``."""
    lines: Iterable[bytes] | None = None
    """Instead of the source itself: its keys, an entry each, as :mod:`listener.backfill.lists` reads them."""
    lines_name: str = "--from"
    """What that list is called in messages."""
    null: bool = False
    """Whether its entries were separated by NUL."""
    prefix: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    since: float | None = None
    """Only what was modified since then, in seconds since the epoch."""


def choose_listing(settings: Settings, name: str, choice: Choice) -> Listing:
    """
    Return what is to be listed.

    Raises :class:`~listener.errors.ConfigurationError` where the source cannot be listed, or not with these words.
    """
    load_sources(settings)  # wrong tables are reported here, with their keys
    if choice.lines is not None:
        return _narrowed(_key_list(settings, name, choice), choice, since=None)
    if choice.origin:
        return _narrowed(_elsewhere(settings, name, choice), choice, since=choice.since)
    if settings.sources[name]["type"] == "filesystem":
        tree = TreeListing(name, _tree(settings, name), prefix=choice.prefix, since=choice.since)
        return _narrowed(tree, choice, since=None)
    given = listing_settings(settings, name)
    if given is None:
        raise ConfigurationError(
            f"sources.{name}: a source of type {settings.sources[name]['type']!r} does not say what to list",
            hint=f'add [sources.{name}.listing] with url = "s3://bucket", or give keys with --from FILE, - for stdin',
        )
    return _narrowed(_listing(settings, name, given, choice.prefix), choice, since=choice.since)


def _listing(settings: Settings, name: str, given: ListingSettings, prefix: str) -> Listing:
    key = f"sources.{name}" if settings.sources[name]["type"] == "listing" else f"sources.{name}.listing"
    return listing_of(name, given, prefix=prefix, key=key)


def _tree(settings: Settings, name: str) -> FilesystemSettings:
    return FilesystemSettings.model_validate(settings.sources[name])


def _key_list(settings: Settings, name: str, choice: Choice) -> KeyList:
    if choice.since is not None:
        raise ConfigurationError("--since: a list of keys has no times", hint="leave --since or --from out")
    lines = key_lines(settings, name, name=choice.lines_name, null=choice.null)
    return KeyList(name, lines.keys(choice.lines or ()), prefix=choice.prefix, tree=lines.tree)


def key_lines(settings: Settings, source: str, *, name: str, null: bool = False) -> KeyLines:
    """Return how a list of a source's keys is read; ``name`` is what it is called in messages."""
    lines = KeyLines(name=name, sites=settings.sites, source=source, null=null)
    if settings.sources[source]["type"] != "filesystem":
        return lines
    tree = _tree(settings, source)
    return replace(lines, tree=tree.path, ignore=Ignore(tree.ignore))


def _elsewhere(settings: Settings, name: str, choice: Choice) -> Listing:
    """Return the listing of a bucket or an inventory that was named, reached as the source's listing is."""
    origin = choice.origin if is_bucket(choice.origin) else str(expanded(Path(choice.origin)).absolute())
    try:
        place = parse_place(origin)
    except ValueError as error:
        raise ConfigurationError(f"--from {choice.origin}: {error}", hint="name a file, or s3://bucket") from None
    source = None if settings.sources[name]["type"] == "filesystem" else listing_settings(settings, name)
    if not is_manifest(origin):
        return listing_of(name, (source or ListingSettings(url=origin)).at(place), prefix=choice.prefix, key="--from")
    listed = source.place.bucket if source is not None and source.place.bucket else None
    bucket = None
    if place.scheme != "file":
        home = Place(place.scheme, place.bucket, "")
        bucket = Bucket("--from", (source or ListingSettings(url=home.url)).at(home), home)
    return InventoryListing(name, place, prefix=choice.prefix, bucket=bucket, listed=listed)


def _narrowed(listing: Listing, choice: Choice, *, since: float | None) -> Listing:
    if not (choice.include or choice.exclude or since is not None):
        return listing
    return FilteredListing(listing, include=choice.include, exclude=choice.exclude, since=since)


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
