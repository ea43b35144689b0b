"""
Paths in API calls, and the keys under which the edge caches objects.

Both use one normal form: the host in lower case, and the target (path and query) with its
percent-encoding as RFC 3986 §6.2.2 compares it, that is upper-case hex, and unreserved characters
bare. ``%e6`` and ``%E6`` are one object, so are ``%41`` and ``A``; ``+`` and ``%2B`` are two, as
they are in every cache that keys by the request line.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from listener.emulator.rejections import Rejection
from listener.refresh import RefreshKind

__all__ = ["MAX_DOMAINS", "MAX_PATHS", "MAX_PATH_CHARACTERS", "CacheKey", "cache_key", "normal_target", "parse_paths"]

MAX_PATHS = {
    RefreshKind.FILE: 1000,
    RefreshKind.DIRECTORY: 100,
    RefreshKind.IGNORE_PARAMS: 100,
    RefreshKind.PREFETCH: 100,
}
"""Paths in one call: RefreshObjectCaches and PushObjectCache in the vendor's reference; it names no figure for
IgnoreParams, so its daily quota is taken."""
MAX_DOMAINS = 10
"""Distinct domains in one call, from the same reference."""
MAX_PATH_CHARACTERS = 1024
"""The vendor writes it for PushObjectCache; taken for every path."""

_URL = re.compile(r"https?://([A-Za-z0-9._*-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?)(/[!-~]*)?")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class CacheKey(NamedTuple):
    """Where the edge keeps an object."""

    host: str
    """Lower case, with the port if the URL has one."""
    target: str
    """Path and query in normal form; starts with ``/``."""

    @property
    def url(self) -> str:
        """The key as a URL, without its scheme: the edge keeps one copy for both."""
        return f"//{self.host}{self.target}"


def normal_target(target: str) -> str:
    """Return path and query in normal form. Raise :class:`ValueError` for a ``%`` that starts no escape."""
    return _ESCAPE.sub(_normal_escape, target) if "%" in target else target


def _normal_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        raise ValueError("a % that is not followed by two hex digits")
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def cache_key(url: str) -> CacheKey:
    """Return the key of an absolute URL. Raise :class:`ValueError` when it is none that a client could request."""
    match = _URL.fullmatch(url)
    if match is None or "#" in url or len(url) > MAX_PATH_CHARACTERS:
        raise ValueError("not an absolute http(s) URL of printable ASCII characters")
    return CacheKey(match[1].lower(), normal_target(match[2] or "/"))


def parse_paths(object_path: str, kind: RefreshKind, *, malformed_code: str) -> list[tuple[str, CacheKey]]:
    """
    Return each path of an ``ObjectPath`` with its key, in order, or reject the whole batch.

    Lines end with LF or CR LF; empty ones are passed over. Raise :class:`Rejection`: too many
    paths or domains, a malformed path (``malformed_code`` depends on the API version), a directory
    without its final ``/``, or a wildcard domain.
    """
    lines = [line for raw in object_path.split("\n") if (line := raw.removesuffix("\r"))]
    if not lines:
        raise Rejection("MissingParameter", name="ObjectPath")
    if len(lines) > MAX_PATHS[kind]:
        raise Rejection("SingleRequest.OverLimit", limit=MAX_PATHS[kind], what="paths of this type")
    parsed = [(line, _parse_path(line, kind, malformed_code)) for line in lines]
    hosts = {key.host for _, key in parsed}
    if any("*" in host for host in hosts):
        raise Rejection("InvalidExtensiveDomain.ValueNotSupported")
    if len(hosts) > MAX_DOMAINS:
        raise Rejection("SingleRequest.OverLimit", limit=MAX_DOMAINS, what="domains")
    return parsed


def _parse_path(path: str, kind: RefreshKind, malformed_code: str) -> CacheKey:
    try:
        key = cache_key(path)
    except ValueError as error:
        raise Rejection(malformed_code) from error
    if kind is RefreshKind.DIRECTORY and not key.target.endswith("/"):
        raise Rejection(malformed_code)
    return key
