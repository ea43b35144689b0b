"""Whether a file has the bytes that the index knows: read with bounds, and never what is no file."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import time

from listener.change import Fingerprint, key_to_bytes
from listener.guarded import is_guarded
from listener.sources.filesystem.readers import has_access_list

__all__ = ["digest_of", "is_proved_same", "same_readers", "same_state", "with_digest"]

_CHUNK_BYTES = 1 << 20
_LONGEST_SECONDS = 10.0
"""For one file: what takes longer counts as changed rather than hold up everything that comes after it."""


def same_state(known: Fingerprint, now: Fingerprint) -> bool:
    """Return whether a file was not touched: its size, times and inode are as they were."""
    return known[:4] == now[:4]


def same_readers(known: Fingerprint, now: Fingerprint) -> bool:
    """Return whether the same may read a file as before, or it is not known who might."""
    return known.access is None or now.access is None or known.access == now.access


def digest_of(path: bytes, expected: Fingerprint, *, most_bytes: int) -> str | None:
    """
    Return a digest of all bytes of a file; blocking, for some ten seconds at most.

    ``None``, so that nothing is proved, unless it is a regular file in the expected state before and after,
    not larger than ``most_bytes``, none of our own state files, and read to its end in time. Devices, pipes
    and state files are not even opened.
    """
    try:
        # Such a descriptor reads nothing, and closing it drops no lock.
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(handle)
        if not _is_expected(status, expected) or status.st_size > most_bytes or is_guarded(status):
            return None
        return _read(handle, expected)
    except OSError:
        return None
    finally:
        os.close(handle)


def is_proved_same(known: Fingerprint, now: Fingerprint) -> bool:
    """
    Return whether it is proved that what is served did not change.

    That takes the same readers, and either a file that nobody touched or the same digest. The same size
    and time prove nothing: archives and reproducible builds restore times.
    """
    if not same_readers(known, now):
        return False
    return same_state(known, now) or (known.etag is not None and known.etag == now.etag)


def with_digest(root: bytes, key: str, now: Fingerprint, known: Fingerprint | None, *, most_bytes: int) -> Fingerprint:
    """Return the fingerprint with its digest, read only where it may prove that a known file is the same; blocking."""
    if most_bytes < 0 or known is None or known.etag is None:
        return now
    if known.size_bytes != now.size_bytes or same_state(known, now):
        return now
    path = root + key_to_bytes(key)
    if not same_readers(known, now) or (now.inode == known.inode and has_access_list(path)):
        return now
    return now._replace(etag=digest_of(path, now, most_bytes=most_bytes))


def _is_expected(status: os.stat_result, expected: Fingerprint) -> bool:
    found = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return stat.S_ISREG(status.st_mode) and found == expected[:4]


def _read(handle: int, expected: Fingerprint) -> str | None:
    digest, left, end = hashlib.sha256(), expected.size_bytes or 0, time.monotonic() + _LONGEST_SECONDS
    descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        while left > 0 and (chunk := os.read(descriptor, min(left, _CHUNK_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
            if time.monotonic() > end:
                return None
        is_whole = left == 0 and _is_expected(os.fstat(descriptor), expected)
    finally:
        os.close(descriptor)
    # 160 bits: nobody finds two files of one digest, and a million rows stay small.
    return f"sha256/160:{base64.b64encode(digest.digest()[:20]).decode().rstrip('=')}" if is_whole else None
