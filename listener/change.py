"""What happened in a storage: one :class:`Change` for one object, as a source reports it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

__all__ = ["Change", "ChangeKind", "Fingerprint", "ObjectState", "key_to_bytes", "key_to_text"]


class ChangeKind(StrEnum):
    """How an object differs from what a cache may hold of it."""

    CONTENT = "content"
    """The object is new or its bytes changed."""
    DELETED = "deleted"
    """The object is gone; a cache must learn the 404."""
    METADATA = "metadata"
    """Only headers of the object changed."""
    SUBTREE = "subtree"
    """Anything below the key (which ends with ``/``) may have changed; what exactly is unknown."""
    SUBTREE_DELETED = "subtree-deleted"
    """Everything below the key (which ends with ``/``) is gone: removed, or renamed away."""


class Fingerprint(NamedTuple):
    """What a storage reports about an object without its bytes; a field is ``None`` if unknown."""

    size_bytes: int | None = None
    mtime_ns: int | None = None
    """Modification time in nanoseconds since the epoch; of an object store, its Last-Modified."""
    ctime_ns: int | None = None
    """Inode change time in nanoseconds since the epoch; file systems only."""
    inode: int | None = None
    etag: str | None = None
    """Entity tag or content hash, as the storage or the reader of the content gives it."""
    access: int | None = None
    """Who may read it, by the modes on its path: equal values mean the same readers, 0 everybody; file systems only."""


ObjectState = tuple[bytes, int | None, int | None, int | None, int | None, int | None]
"""
An object's name in its directory, and those fields of its fingerprint that decide whether it was touched.

They are its size in bytes, mtime and ctime in nanoseconds, inode, and access.
"""


class Change(NamedTuple):
    """One object of one storage is now different."""

    root: str
    """Name of the storage: the source's name in the configuration, or its bucket."""
    key: str
    """The object's key, decoded; bytes that are no UTF-8 stand as surrogates (``surrogateescape``)."""
    kind: ChangeKind = ChangeKind.CONTENT
    fingerprint: Fingerprint | None = None
    event_time: float | None = None
    """When it happened, by the storage's clock, in seconds since the epoch."""
    order: str | None = None
    """Order token; comparable within one key of one storage only."""
    finished: bool = True
    """False while the object may still be written to."""
    mixed: bool = False
    """True when it was merged from changes with order tokens between which the object was something else."""
    is_birth: bool = False
    """True when neither the index nor a change under way knew the object before this change (or the first merged)."""


def key_to_bytes(key: str) -> bytes:
    """Return the key as the bytes that the storage holds, surrogates undone."""
    return key.encode("utf-8", "surrogateescape")


def key_to_text(raw: bytes) -> str:
    """Return the key of these bytes; the inverse of :func:`key_to_bytes`."""
    return raw.decode("utf-8", "surrogateescape")
