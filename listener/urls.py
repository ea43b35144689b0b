"""
URLs in one normal form, so that two that mean the same are the same text.

A path segment keeps unreserved characters, sub-delimiters, ``:`` and ``@`` as they are (RFC 3986,
section 3.3) and everything else is percent-encoded, in upper-case hexadecimal digits. This is how
browsers and HTTP clients request a path that a page links to by its plain name (``a+b`` travels as
``a+b``, a blank as ``%20``), and a CDN keys its cache by what was requested. Alibaba Cloud requires
encoded blanks and non-ASCII characters in requests, which this form has.
A given URL is not respelled: ``%2B`` and ``+`` are two URLs, and so are ``%5B`` and the ``[``
that browsers send as it is. :mod:`listener.router.addresses` says which of them a key has.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import quote, quote_from_bytes, unquote, unquote_to_bytes, urlsplit

import idna

__all__ = [
    "BROWSER_PATH_RAW",
    "DIRECTORY_END",
    "PATH_SAFE",
    "Spellings",
    "decode_path",
    "encode_path",
    "host_of",
    "is_canonical_path",
    "is_normal_path",
    "normal_base_url",
    "normal_url",
]

DIRECTORY_END: Final = "/"
UNRESERVED: Final = frozenset(string.ascii_letters + string.digits + "-._~")
PATH_SAFE: Final = "/:@!$&'()*+,;=~"
"""What a path keeps besides letters, digits, ``-``, ``.`` and ``_``."""
BROWSER_PATH_RAW: Final = "[]|"
"""What browsers send as it is in a path though RFC 3986 would encode it (WHATWG URL, path percent-encode set)."""
QUERY_SAFE: Final = PATH_SAFE + "?[]|^`{}"
"""What a query keeps, which is more in browsers, too (WHATWG URL, query percent-encode set)."""
DEFAULT_PORTS: Final = {"http": 80, "https": 443}

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_DOT_SEGMENT = re.compile(r"(?:^|/)\.{1,2}(?:/|\Z)")
_NORMAL_PATH = re.compile(
    r"(?:[A-Za-z0-9._~/:@!$&'()*+,;=-]"
    r"|%[0-9A-F]{2}(?<!%2[DE])(?<!%3[0-9])(?<!%[46][1-9A-F])(?<!%[57][0-9A])(?<!%5F)(?<!%7E))*"
)
"""Literal characters, and upper-case escapes of those that are not unreserved."""
_HOST = re.compile(r"(?!-)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def encode_path(raw: bytes) -> str:
    """Return these bytes as a path, percent-encoded exactly once: a ``%`` becomes ``%25``."""
    return quote_from_bytes(raw, PATH_SAFE)


def host_of(url: str) -> str:
    """Return the host of an absolute URL, with its port where it has one: what a CDN calls its domain."""
    # urlsplit looks at every part and is called for every URL that is sent: ten times as slow.
    parts = url.split("/", 3)
    return parts[2].partition("?")[0].partition("#")[0] if len(parts) > 2 else ""


def decode_path(path: str) -> bytes:
    """Return the bytes of a percent-encoded path; the inverse of :func:`encode_path`."""
    return unquote_to_bytes(path)


def is_canonical_path(path: str) -> bool:
    """Return whether a path is spelled as :func:`encode_path` spells its bytes."""
    return encode_path(decode_path(path)) == path


def is_normal_path(path: str) -> bool:
    """Return whether a path is its own normal form: nothing to encode, nothing to decode, nothing to resolve."""
    return _NORMAL_PATH.fullmatch(path) is not None and _DOT_SEGMENT.search(path) is None


def normal_url(text: str) -> str:
    """
    Return an http(s) URL in normal form; applying it again changes nothing.

    Scheme and host in lower case (an international host in its ASCII form), no default port, no
    dot segments, characters encoded that must be and decoded that need not be (RFC 3986, 6.2.2).
    Raises :class:`ValueError`, saying what is wrong, for anything else: other schemes, no host,
    a user name, a fragment, blanks or control characters at either end or inside.
    """
    if _UNPRINTABLE.search(text):
        raise ValueError("it contains a blank or a control character; write blanks as %20")
    if "\\" in text:
        raise ValueError("it contains a backslash")
    parts = urlsplit(text)
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("it must start with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it must not contain a user name or a password")
    if parts.fragment or text.endswith("#"):
        raise ValueError("it must not contain a fragment (#…)")
    authority = _host(parts.hostname or "") + _port(parts.scheme, parts.port)
    path = _escape(parts.path or "/", PATH_SAFE + BROWSER_PATH_RAW)
    if _DOT_SEGMENT.search(path):
        raise ValueError("its path contains a . or .. segment")
    query = "?" + _escape(parts.query, QUERY_SAFE) if "?" in text else ""
    return f"{parts.scheme}://{authority}{path}{query}"


def normal_base_url(text: str) -> str:
    """
    Return a base URL in normal form, ending with ``/``.

    Raises :class:`ValueError` as :func:`normal_url` does, and for a query, an encoded slash and a wildcard host.
    """
    if "?" in text:
        raise ValueError("it must not contain a query (?…)")
    url = normal_url(text)
    if "%2F" in url:
        raise ValueError("it must not contain an encoded slash (%2F)")
    return url if url.endswith(DIRECTORY_END) else url + DIRECTORY_END


def _host(host: str) -> str:
    if not host:
        raise ValueError("it has no host")
    if "*" in host:
        raise ValueError("a wildcard domain cannot be refreshed; name each host")
    if ":" in host:
        return f"[{ipaddress.IPv6Address(host).compressed}]"
    try:
        ascii_host = host if host.isascii() else idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise ValueError(f"{host!r} is not a host name: {error}") from None
    ascii_host = ascii_host.removesuffix(".").lower()
    if not _HOST.fullmatch(ascii_host):
        raise ValueError(f"{host!r} is not a host name")
    return ascii_host


def _port(scheme: str, port: int | None) -> str:
    return "" if port is None or port == DEFAULT_PORTS[scheme] else f":{port}"


def _escape(text: str, safe: str) -> str:
    encoded = quote(_STRAY_PERCENT.sub("%25", text), safe + "%", "utf-8", "surrogateescape")
    return _ESCAPE.sub(_shortest_escape, encoded)


def _shortest_escape(match: re.Match[str]) -> str:
    character = chr(int(match[1], 16))
    return character if character in UNRESERVED else match[0].upper()


class Spellings:
    """
    Recognizes URLs in another party's spelling: other escapes, raw characters, an international host.

    An exact match takes precedence over a match of the normal forms, and that over a match of the decoded texts. A
    spelling that fits two URLs equally well matches neither.
    """

    def __init__(self, urls: Iterable[str]) -> None:
        """Take the URLs to recognize."""
        known = dict.fromkeys(urls)
        self._exact = frozenset(known)
        self._normal = _by_key(known, _normal_key)
        self._decoded = _by_key(known, _decoded_key)

    def find(self, spelled: str) -> str | None:
        """Return the URL that this text spells, or ``None``."""
        if spelled in self._exact:
            return spelled
        return self._normal.get(_normal_key(spelled)) or self._decoded.get(_decoded_key(spelled)) or None


def _by_key(urls: Iterable[str], key_of: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for url in urls:
        key = key_of(url)
        found[key] = url if key not in found else ""
    return found


def _normal_key(text: str) -> str:
    try:
        return normal_url(_UNPRINTABLE.sub(lambda match: f"%{ord(match[0]):02X}", text))
    except ValueError:
        return text


def _decoded_key(text: str) -> str:
    scheme, _, rest = text.partition("://")
    authority, slash, path = rest.partition("/")
    host, colon, port = authority.partition(":")
    try:
        authority = _host(host) + colon + port
    except ValueError:
        authority = authority.lower()
    return f"{scheme.lower()}://{authority}{slash}{unquote(path)}"
