"""Which URLs, prefixes, hosts and tags purge what; no input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

from listener.errors import BatchRejected
from listener.refresh import RefreshKind, strip_query
from listener.targets.cloudflare.settings import Settings
from listener.urls import host_of

__all__ = ["MOST_SLASHES", "Purge", "is_root", "purge_of"]

MOST_SLASHES: Final = 31
"""In a prefix; a deeper directory is purged with the one above that still fits."""
MOST_TAG_CHARACTERS: Final = 1_024

List = Literal["files", "prefixes", "hosts", "tags"]


class Purge(NamedTuple):
    """The body of one request."""

    by: List
    items: Mapping[str, Sequence[str]]
    """What is purged, to the URLs that it is for: several directories may have one tag."""

    @property
    def body(self) -> dict[str, list[str]]:
        """Return the JSON."""
        return {self.by: list(self.items)}


def purge_of(settings: Settings, kind: RefreshKind, urls: Sequence[str]) -> Purge:
    """
    Return the request that refreshes these URLs: all of one kind, and of directories all or none of a whole host.

    Raises :class:`~listener.errors.BatchRejected` for directories of whole hosts among others.
    """
    by: List = "files"
    if kind is RefreshKind.DIRECTORY and settings.subtree == "tag":
        by = "tags"
    elif kind is not RefreshKind.FILE:
        roots = {is_root(url) for url in urls}
        if len(roots) > 1:
            raise BatchRejected("a whole host cannot be purged in one request with prefixes")
        by = "hosts" if roots == {True} else "prefixes"
    items: dict[str, list[str]] = {}
    for url in urls:
        items.setdefault(_item(settings, by, url), []).append(url)
    return Purge(by, items)


def is_root(url: str) -> bool:
    """Return whether a URL without its query has no path but ``/``."""
    return strip_query(url).partition("://")[2].find("/") == len(strip_query(url).partition("://")[2]) - 1


def _item(settings: Settings, by: List, url: str) -> str:
    if by == "files":
        return url
    if by == "hosts":
        return host_of(url)
    if by == "tags":
        return _tag(settings, url)
    return _prefix(strip_query(url).partition("://")[2])


def _prefix(text: str) -> str:
    parts = text.split("/")
    return text if len(parts) - 1 <= MOST_SLASHES else "/".join(parts[:MOST_SLASHES]) + "/"


def _tag(settings: Settings, url: str) -> str:
    host, _, path = url.partition("://")[2].partition("/")
    levels = path.split("/")[:-1][: settings.tag_levels]
    while True:
        directory = "".join(f"/{level}" for level in levels) + "/"
        tag = settings.tag.replace("{host}", host).replace("{path}", directory.replace(",", "%2C"))
        if len(tag) <= MOST_TAG_CHARACTERS or not levels:
            return tag
        levels.pop()
