r"""
Which keys can be a URL that refreshes only itself, and what that URL's path is.

A CDN takes many URLs in one text, a line each, and servers on the way may resolve dot segments, turn
``\`` into ``/`` or decode twice. A key is therefore refused (:class:`~listener.errors.KeyRejected`) when it has

- a control character (a newline would begin someone else's URL), or a backslash,
- a segment ``.`` or ``..``, also written with escapes, at whatever depth (``%2e``, ``%252e``, ``..%2f``),
- text that stands for no bytes, or more of it than any storage allows.

Everything else is percent-encoded, UTF-8, exactly once; bytes that are no UTF-8 as they are.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from listener.change import key_to_bytes
from listener.errors import KeyRejected
from listener.urls import encode_path, is_normal_path

__all__ = ["encode_key"]

MAX_KEY_CHARACTERS: Final = 4096
"""Linux's limit for a path (PATH_MAX); S3 and OSS allow 1,024 bytes."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.~!$&'()*+,;=:@/-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
MOST_DECODINGS: Final = 8
"""How often a key is decoded to look for dot segments: servers decode once or twice, and each time costs its length."""
_DOTS: Final = frozenset((".", ".."))


def encode_key(key: str) -> str:
    """Return the key as a URL path; raise :class:`~listener.errors.KeyRejected` with the reason where it cannot be."""
    if len(key) <= MAX_KEY_CHARACTERS and _PLAIN_KEY.fullmatch(key) and "/." not in key and not key.startswith("."):
        return key
    if len(key) > MAX_KEY_CHARACTERS:
        reason = f"the key has {len(key)} characters, more than any storage allows ({MAX_KEY_CHARACTERS})"
        raise KeyRejected(reason, hint="Look at what sends such events.")
    if _CONTROL.search(key):
        raise KeyRejected("the key contains a control character", hint="Rename the object.")
    if "\\" in key:
        raise KeyRejected("the key contains a backslash", hint="Rename the object.")
    if _has_dot_segment(key):
        raise KeyRejected("the key contains a . or .. segment", hint="Rename the object.")
    try:
        encoded = encode_path(key_to_bytes(key))
    except UnicodeEncodeError:
        raise KeyRejected("the key is text that stands for no bytes", hint="Mend what sends the events.") from None
    if not is_normal_path(encoded):
        raise KeyRejected("the key's URL would not be its own normal form", hint="Rename the object and report this.")
    return encoded


def _has_dot_segment(key: str) -> bool:
    if "." not in key and "%" not in key:
        return False
    for _ in range(MOST_DECODINGS):
        if not _DOTS.isdisjoint(key.replace("\\", "/").split("/")):
            return True
        decoded = unquote(key) if "%" in key else key
        if decoded == key:
            return False
        key = decoded
    raise KeyRejected(f"the key is percent-encoded more than {MOST_DECODINGS} times over", hint="Rename the object.")
