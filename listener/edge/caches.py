"""How caches describe what they did with a request: ``Cache-Status`` (RFC 9211), and the headers of vendors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from listener.text import printable

__all__ = ["EVIDENCE", "Handling", "evidence_of", "handling_of", "read_cache_status"]

EVIDENCE: Final = (
    "cache-status", "x-cache", "x-cache-status", "x-cache-lookup", "x-proxy-cache", "cf-cache-status", "cdn-cache",
    "x-swift-savetime", "x-swift-cachetime", "ali-swift-global-savetime", "x-amz-cf-pop", "cf-ray", "x-served-by",
    "x-cache-hits", "x-varnish", "via", "eagleid", "akamai-cache-status", "server-timing", "age", "date", "etag",
    "last-modified", "cache-control", "vary", "warning", "location",
)  # fmt: skip
"""Headers that are shown with a verdict, in lower case."""
MAX_EVIDENCE_CHARACTERS: Final = 200
MAX_CACHES: Final = 16
MAX_FIELD_CHARACTERS: Final = 4096
_WORDS: Final = (
    "cf-cache-status", "x-cache-status", "x-proxy-cache", "cdn-cache", "akamai-cache-status", "x-cache",
)  # fmt: skip
"""Headers in which a vendor writes what its cache did."""


class Handling(StrEnum):
    """What the cache next to the visitor did."""

    HIT = "hit"
    """Served a copy that it considers fresh."""
    STALE = "stale"
    """Served a copy that it considers expired: while it revalidates, or since the origin does not answer."""
    MISS = "miss"
    """Fetched it for this request, or asked for it again."""
    UNKNOWN = "unknown"


class CacheStatus(NamedTuple):
    """One member of ``Cache-Status``: what one cache did."""

    name: str
    parameters: Mapping[str, str]
    """``hit``, ``fwd``, ``ttl``, …; one without a value is ``"?1"``."""

    @property
    def handling(self) -> Handling:
        """What it did with the request."""
        if "fwd" in self.parameters:
            return Handling.MISS
        if self.parameters.get("hit") != "?1":
            return Handling.UNKNOWN
        return Handling.STALE if self.parameters.get("ttl", "").startswith("-") else Handling.HIT


def read_cache_status(text: str) -> list[CacheStatus]:
    """Return the members of a ``Cache-Status`` field, the cache next to the origin first; wrong ones are left out."""
    found = [_member(_split(one, ";")) for one in _split(text, ",")[:MAX_CACHES]]
    return [one for one in found if one.name]


def _member(parts: Sequence[str]) -> CacheStatus:
    name, *parameters = parts
    pairs = [one.partition("=") for one in parameters]
    values = {key.strip(): _unquoted(value) if equals else "?1" for key, equals, value in pairs}
    return CacheStatus(_unquoted(name), values)


def _unquoted(text: str) -> str:
    return text.strip().strip('"')


def _split(text: str, separator: str) -> list[str]:
    """Return the parts of a text between separators that do not stand within quotes."""
    parts, is_quoted, is_escaped = [""], False, False
    for character in text[:MAX_FIELD_CHARACTERS]:
        if character == separator and not is_quoted:
            parts.append("")
            continue
        parts[-1] += character
        is_quoted ^= character == '"' and not is_escaped
        is_escaped = character == "\\" and is_quoted and not is_escaped
    return parts


def handling_of(headers: Mapping[str, str]) -> Handling:
    """
    Return what the cache next to the visitor did, by headers in lower case.

    ``Cache-Status`` goes before the words of vendors, of which the last counts: ``X-Cache: MISS, HIT`` is a hit.
    """
    if caches := read_cache_status(headers.get("cache-status", "")):
        return caches[-1].handling
    for name in _WORDS:
        words = re.findall(r"[a-z]+", headers.get(name, "").rpartition(",")[2].lower())
        for word in words:
            if (found := _OF_WORD.get(word)) is not None:
                return found
    return Handling.UNKNOWN


_OF_WORD: Final[Mapping[str, Handling]] = {
    "hit": Handling.HIT,
    "revalidated": Handling.MISS,
    "refreshhit": Handling.MISS,
    "stale": Handling.STALE,
    "updating": Handling.STALE,
    "miss": Handling.MISS,
    "expired": Handling.MISS,
    "bypass": Handling.MISS,
    "dynamic": Handling.MISS,
}


def evidence_of(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return the headers of :data:`EVIDENCE` in their order, cut and without control characters."""
    found = [(name.lower(), printable(value[:MAX_EVIDENCE_CHARACTERS])) for name, value in pairs]
    known = [(name, value) for name, value in found if name in _PLACE]
    return tuple(sorted(known, key=lambda pair: _PLACE[pair[0]]))


_PLACE: Final = {name: place for place, name in enumerate(EVIDENCE)}
