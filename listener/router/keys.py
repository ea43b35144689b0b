r"""
Which keys can be a URL that refreshes only itself, and what that URL's path is.

A CDN takes many URLs in one text, a line each, and servers on the way may resolve dot segments, turn
``\`` into ``/`` or decode twice. A key is therefore refused (:class:`~listener.errors.KeyRejected`) when it has

- a control character (a newline would begin someone else's URL), or a backslash,
- a segment ``.`` or ``..``, also written with escapes, at whatever depth (``%2e``, ``%252e``, ``..%2f``),
- an encoded form of more than 1,024 bytes, Alibaba Cloud's limit for a path of a prefetch and the
  length that S3 and OSS allow a key,
- text that stands for no bytes.

Everything else is percent-encoded, UTF-8, exactly once; bytes that are no UTF-8 as they are.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

from listener.change import key_to_bytes
from listener.errors import KeyRejected
from listener.urls import encode_path, is_normal_path

__all__ = ["MAX_KEY_BYTES", "PLAIN_NAME", "encode_key"]

MAX_KEY_BYTES: Final = 1024
"""Bytes of a key after encoding."""

PLAIN_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.~!$&'()*+,;=:@-]*")
"""Names that are their own encoded form and no dot segment: nearly all, told apart fast."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.~!$&'()*+,;=:@/-]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DOTS: Final = frozenset((".", ".."))


def encode_key(key: str) -> str:
    """Return the key as a URL path; raise :class:`~listener.errors.KeyRejected` with the reason where it cannot be."""
    if _PLAIN_KEY.fullmatch(key) and "/." not in key and not key.startswith("."):
        check_length(len(key))
        return key
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
    check_length(len(encoded))
    if not is_normal_path(encoded):
        raise KeyRejected("the key's URL would not be its own normal form", hint="Rename the object and report this.")
    return encoded


def check_length(encoded_bytes: int) -> None:
    """Raise :class:`~listener.errors.KeyRejected` where an encoded key is too long for a CDN."""
    if encoded_bytes > MAX_KEY_BYTES:
        message = f"the key takes {encoded_bytes} bytes in a URL; at most {MAX_KEY_BYTES} are allowed"
        raise KeyRejected(message, hint="Give the object a shorter name.")


def _has_dot_segment(key: str) -> bool:
    if "." not in key and "%" not in key:
        return False
    while True:
        if not _DOTS.isdisjoint(key.replace("\\", "/").split("/")):
            return True
        decoded = unquote(key) if "%" in key else key
        if decoded == key:
            return False
        key = decoded
