"""Who owns a state file: the one process that sends from it, by a lock that the kernel frees at its death."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from listener.errors import StoreBusy, StoreError
from listener.files import make_private

__all__ = ["Owner", "OwnerLock", "owner_of"]


class OwnerLock:
    """The right to send from one state file; held by one process at a time, freed by the kernel at its death."""

    def __init__(self, path: Path) -> None:
        """Take the path of the state file; nothing is locked yet."""
        self._path = path.with_name(path.name + ".lock")
        self._fd: int | None = None

    def acquire(self) -> None:
        """
        Take the lock.

        Raises:
            StoreBusy: another process holds it; its number is named.
            StoreError: the lock file cannot be opened.
        """
        try:
            make_private(self._path)
            fd = _open(self._path, os.O_RDWR)
        except OSError as error:
            raise StoreError(
                f"state file {self._path.with_suffix('')}: its lock file cannot be opened ({error.strerror})",
                hint="store.url: the directory must exist and be writable for this user only; the lock file is no link",
            ) from error
        try:
            _lock(fd)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise StoreBusy(
                f"state file {self._path.with_suffix('')}: another process ({holder or 'unknown'}) sends from it",
                hint="stop that process, or give this one another store.url",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


LOOK_SECONDS = 0.2
"""For so long :func:`owner_of` in another process may seem to own the file: far longer than its look takes."""


def _lock(fd: int) -> None:
    """Lock it for this process alone; raise OSError when another one holds it for longer than a look."""
    until = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(LOOK_SECONDS / 10)


class Owner(NamedTuple):
    """What is known of the process that owns a state file."""

    is_running: bool | None
    """None: it cannot be known."""
    pid: int | None = None
    reason: str = ""
    """Why it cannot be known."""


def owner_of(path: Path) -> Owner:
    """Return whether a process owns this state file, and which."""
    lock = path.with_name(path.name + ".lock")
    try:
        fd = _open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return Owner(False)
    except OSError as error:
        return Owner(None, reason=f"{lock} cannot be read: {error.strerror}")
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(fd, 32, 0).decode("ascii", "replace").split()
        return Owner(True, int(words[1]) if len(words) == 2 and words[1].isdecimal() else None)
    except OSError as error:
        return Owner(None, reason=f"{lock} cannot be locked: {error.strerror}")
    finally:
        os.close(fd)
    return Owner(False)


def _open(path: Path, flags: int) -> int:
    """
    Open a lock file; raise OSError for anything else in its place.

    In a directory that others can write to, it may be a link to a file of ours, or a pipe that is never written to.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file")
    return fd
