"""URLs as Alibaba's APIs take them; pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from listener.errors import BatchRejected
from listener.refresh import RefreshKind
from listener.urls import host_of

__all__ = ["LONGEST_URL_BYTES", "domain_of", "require_plain"]

LONGEST_URL_BYTES = 1_024
"""The vendor's limit for a prefetched URL; none is written for a refresh, so the same is kept."""

_PLAIN_URL = re.compile(r"https?://[!-\[\]-~]+")


def domain_of(url: str) -> str:
    """Return the host, and the port where there is one: what the limits per domain count by."""
    return host_of(url).lower()


def require_plain(kind: RefreshKind, urls: Sequence[str]) -> None:
    """
    Raise :class:`~listener.errors.BatchRejected` for a URL that could become another's request.

    That is one with a blank, a control or non-ASCII character, a backslash or a fragment, of more
    than 1,024 bytes, or a directory without a closing slash or with a query.
    """
    if not urls:
        raise ValueError("no URL to ask for")
    for url in urls:
        if problem := _problem(kind, url):
            raise BatchRejected(f"{url[:200]!r} {problem}; it was not sent", code="listener.url")


def _problem(kind: RefreshKind, url: str) -> str:
    if not _PLAIN_URL.fullmatch(url) or "#" in url:
        return "is no percent-encoded http(s) URL without a fragment"
    if len(url) > LONGEST_URL_BYTES:
        return f"has {len(url)} bytes, more than {LONGEST_URL_BYTES}"
    if kind is RefreshKind.DIRECTORY and (not url.endswith("/") or "?" in url):
        return "is no directory: it must end with / and have no query"
    return ""
