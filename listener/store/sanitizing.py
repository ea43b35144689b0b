"""What no file can hold is bounded or set aside, so that one such change keeps no others from being written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from listener.change import Change, Fingerprint, key_to_bytes

__all__ = ["MAX_KEY_BYTES", "raw_key", "sanitized"]

MAX_KEY_BYTES = 4_096
"""The longest key that is stored: no path on Linux and no object of a store is longer (S3 and OSS: 1,024 bytes)."""


def sanitized(changes: Iterable[Change], set_aside: Callable[[Change, str], None]) -> Iterator[Change]:
    """Yield what can be stored: fingerprints bounded, keys that are neither text nor bytes set aside."""
    for change in changes:
        try:
            raw = key_to_bytes(change.key)
        except UnicodeEncodeError:
            set_aside(change, "the key is no text: it holds half of a UTF-16 surrogate pair")
            continue
        if len(raw) > MAX_KEY_BYTES:
            set_aside(change, f"the key has {len(raw)} bytes; {MAX_KEY_BYTES} is the longest that any storage takes")
            continue
        yield change if change.fingerprint is None else change._replace(fingerprint=_bounded(change.fingerprint))


def raw_key(key: str) -> bytes:
    """Return the bytes of a key, also of one that is no text."""
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
