"""What no file can hold is bounded or set aside, so that one such change keeps no others from being written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator

from listener.change import Change, Fingerprint, key_to_bytes

__all__ = ["keep_dead_letter", "tamed"]


def keep_dead_letter(connection: sqlite3.Connection, change: Change, reason: str, *, now: float) -> None:
    """Keep the key of a change that can never be a URL as a dead letter, with the reason."""
    connection.execute(
        "INSERT INTO dead_letter (at, source, kind, subject, reason) VALUES (?, ?, 'key', ?, ?)"
        " ON CONFLICT DO UPDATE SET at = excluded.at, reason = excluded.reason",
        (now, change.root, _raw(change.key), _text(reason)),
    )


def tamed(changes: Iterable[Change], set_aside: Callable[[Change, str], None]) -> Iterator[Change]:
    """Yield what can be stored: fingerprints bounded, keys that are neither text nor bytes set aside."""
    for change in changes:
        try:
            key_to_bytes(change.key)
        except UnicodeEncodeError:
            set_aside(change, "the key is no text: it holds half of a UTF-16 surrogate pair")
            continue
        yield change if change.fingerprint is None else change._replace(fingerprint=_bounded(change.fingerprint))


def _raw(key: str) -> bytes:
    try:
        return key_to_bytes(key)
    except UnicodeEncodeError:
        return key.encode("utf-8", "surrogatepass")


def _text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _bounded(fingerprint: Fingerprint) -> Fingerprint:
    size, mtime, ctime, inode = (
        one if one is not None and -(2**63) <= one < 2**63 else None for one in fingerprint[:4]
    )
    return Fingerprint(size, mtime, ctime, inode, None if fingerprint.etag is None else _text(fingerprint.etag))
