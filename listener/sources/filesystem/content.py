"""Whether a file is what the index knows: by its size and times, or by its bytes."""

from __future__ import annotations

import hashlib
import os

from listener.change import Fingerprint, key_to_bytes

__all__ = ["hash_of", "is_same", "with_hash"]

_CHUNK_BYTES = 1 << 20


def is_same(known: Fingerprint, now: Fingerprint, *, strict: bool) -> bool:
    """
    Tell whether a file is unchanged as far as its inode says.

    Another size or modification time is a change. Where only the inode or its change time
    differs, either somebody changed permissions, made a hard link or renamed it back and forth,
    or the bytes were replaced with the old time restored (``cp -p``): ``strict`` takes that as a
    change, and is right unless events were heard without loss since the index learnt of the file.
    """
    if known.size_bytes != now.size_bytes or known.mtime_ns != now.mtime_ns:
        return False
    return not strict or (known.ctime_ns == now.ctime_ns and known.inode == now.inode)


def hash_of(path: bytes) -> str | None:
    """Return the SHA-256 of a file's bytes, or ``None`` when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - bytes
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return f"sha256:{digest.hexdigest()}"


def with_hash(root: bytes, key: str, fingerprint: Fingerprint) -> Fingerprint:
    """
    Return the fingerprint with the hash of the bytes it stands for.

    Without one when the file changed while it was read: the hash of a mixture of two states must never be kept.
    """
    path = root + key_to_bytes(key)
    found = hash_of(path)
    try:
        status = os.stat(path)  # noqa: PTH116 - bytes
    except OSError:
        return fingerprint
    same = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino) == fingerprint[:4]
    return fingerprint._replace(etag=found) if same else fingerprint
