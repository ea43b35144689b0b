"""Reads JSON from outside: bounded, and by accessors that take any value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import unquote_plus

from listener.change import key_to_bytes, key_to_text
from listener.numbers import MAX_OBJECTS, is_too_large

__all__ = [
    "MAX_BODY_BYTES",
    "NOTHING",
    "Unreadable",
    "epoch",
    "etag",
    "form_key",
    "load",
    "mapping",
    "number",
    "raw_key",
    "required",
    "text",
]

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""More than any transport takes: SQS and SNS 1 MiB, MNS 64 KB, an EventBridge batch 256 KB."""
SHOWN_CHARACTERS: Final = 80

NOTHING: Final[Mapping[str, Any]] = {}
_ZONED = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:Z|[+-]\d{2}:?\d{2})")
_HALF_A_PAIR = re.compile(r"[\ud800-\udfff]")


class Unreadable(ValueError):
    """A message or one of its records is not what its vendor sends; the text says in which way."""


def load(body: bytes | str) -> Any:
    """
    Return the JSON value of a body. Raise :class:`Unreadable` for anything else.

    Bytes that are no UTF-8 stay as surrogates: a store that writes a key's bytes as they are can be read.
    """
    if is_too_large(body):
        raise Unreadable(f"more than {MAX_OBJECTS} objects and lists")
    try:
        return json.loads(body if isinstance(body, str) else body.decode("utf-8", "surrogateescape").lstrip("\ufeff"))
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"not JSON: {str(error)[:SHOWN_CHARACTERS]}") from None


def mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object of this name, an empty one where there is none."""
    found = value.get(name)
    return found if isinstance(found, dict) else NOTHING


def text(value: Mapping[str, Any], name: str) -> str:
    """Return the text of this name, an empty one where there is none."""
    found = value.get(name)
    return found if isinstance(found, str) else ""


def required(value: Mapping[str, Any], name: str, what: str) -> str:
    """Return the text of this name; raise :class:`Unreadable` where it is absent or empty."""
    found = value.get(name)
    if isinstance(found, str) and found:
        return found
    raise Unreadable(f"names no {what}")


def number(value: Mapping[str, Any], name: str) -> int | None:
    """Return the count of this name, also where it is written as text (Ceph does); ``None`` where there is none."""
    found = value.get(name)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 20:
        found = int(found)
    return found if type(found) is int and 0 <= found < 2**63 else None


def raw_key(key: str) -> str:
    """Return a key that stands as it is. Raise :class:`Unreadable` where it is the text of no bytes."""
    if key.isascii() or _HALF_A_PAIR.search(key) is None:
        return key
    try:
        return key_to_text(key_to_bytes(key))
    except UnicodeEncodeError:
        raise Unreadable("the key is no text: it holds half of a UTF-16 surrogate pair") from None


def form_key(key: str) -> str:
    """Return a key that stands form-encoded (``+`` is a blank), decoded once; bytes that are no UTF-8 stay."""
    if "%" in key or "+" in key:
        key = unquote_plus(key, "utf-8", "surrogateescape")
    return raw_key(key)


def etag(value: Mapping[str, Any], name: str) -> str | None:
    """Return an entity tag without quotes, in lower case: OSS writes it in upper case, and others may not."""
    found = value.get(name)
    return (found.strip('"').lower() or None) if isinstance(found, str) else None


def epoch(time: object) -> float | None:
    """Return the seconds since the epoch of an ISO 8601 time with a zone; ``None`` for anything else."""
    if not isinstance(time, str):
        return None
    try:
        item = datetime.fromisoformat(time)
        if item.tzinfo is None:
            return None
        return item.timestamp()
    except (ValueError, OverflowError):
        return None
