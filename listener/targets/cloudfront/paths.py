"""
Which path, or beginning of paths, a URL is asked for by; no input or output.

========================== ===================== ================================================
URL                        asked for             why
========================== ===================== ================================================
``https://h/a/b.html``     ``/a/b.html``         on every host
``https://h/a/`` and below ``/a/*``              a ``*`` at the end stands for any characters
any query of ``/a/b``      ``/a/b*``             no other form takes them all; takes ``/a/bc``, too
``https://h/a/b~c``        ``/a/b*``             ``~`` and ``'`` are refused, ``%7E`` matches nothing
``https://h/a/b*c``        ``/a/b*``             ``%2A`` does nothing
a very long one            its first characters  4,000 are the most
========================== ===================== ================================================

A URL that ends with ``*`` stands for all that begin so: the router's form of those that cannot be named
(:func:`nameable`).
"""

from __future__ import annotations

import re
from typing import Final

from listener.errors import BatchRejected
from listener.refresh import RefreshKind, strip_query

__all__ = ["MOST_PATH_CHARACTERS", "WILDCARD", "is_wildcard", "nameable", "path_of"]

MOST_PATH_CHARACTERS: Final = 4_000
WILDCARD: Final = "*"
_REFUSED: Final = re.compile(r"[~'*]|%(?:2A|7E)")


def nameable(url: str) -> str:
    """Return the URL, or the beginning of it that CloudFront can be asked for, with a ``*`` behind it."""
    start = _path_start(url)
    match = _REFUSED.search(url, start)
    is_long = len(url) - start > MOST_PATH_CHARACTERS
    end = min(match.start() if match else len(url), start + MOST_PATH_CHARACTERS - 1 if is_long else len(url))
    return url if url[end:] in ("", WILDCARD) else url[: _whole(url, end)] + WILDCARD


def _path_start(url: str) -> int:
    return url.find("/", url.find("://") + 3)


def _whole(url: str, end: int) -> int:
    """Return the end before an escape that it would cut through."""
    return next((end - back for back in (1, 2) if url[end - back] == "%"), end)


def is_wildcard(kind: RefreshKind, url: str) -> bool:
    """Return whether a request for this URL is one by a beginning of paths."""
    return kind is not RefreshKind.FILE or url.endswith(WILDCARD)


def path_of(kind: RefreshKind, url: str) -> str:
    """Return what CloudFront is asked for; raise :class:`BatchRejected` for what it cannot be asked for."""
    asked = url if kind is RefreshKind.FILE else strip_query(url).removesuffix(WILDCARD) + WILDCARD
    start = _path_start(asked)
    if nameable(asked) == asked:
        return asked[start:]
    match = _REFUSED.search(asked, start)
    what = f"{match[0]!r} in a path" if match else f"a path of more than {MOST_PATH_CHARACTERS} characters"
    raise BatchRejected(
        f"CloudFront cannot be asked for {what}, and everything that begins with {nameable(asked)[start:-1]} is more"
        " than may be dropped here (min_directory_depth): rename the object, or refresh a directory above it",
        urls=[url],
    )
