"""
The kernel's inotify, reached through the C library: no more than is needed here.

Masks are those of ``<sys/inotify.h>``. Only events that can mean a change of content are
requested: opening and reading are not, so that a web server's reads cost nothing.
"""

from __future__ import annotations

import ctypes
import os
import struct
from abc import ABC, abstractmethod
from functools import cache

__all__ = [
    "ATTRIB",
    "CLOSE_WRITE",
    "CREATE",
    "DELETE",
    "HEADER",
    "IGNORED",
    "IS_DIRECTORY",
    "MODIFY",
    "MOVED_FROM",
    "MOVED_TO",
    "MOVE_SELF",
    "OVERFLOW",
    "UNMOUNT",
    "Inotify",
    "Kernel",
    "libc",
]

MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
UNMOUNT = 0x2000
OVERFLOW = 0x4000
IGNORED = 0x8000
ONLY_DIRECTORY = 0x01000000
DONT_FOLLOW = 0x02000000
EXCLUDE_UNLINKED = 0x04000000
IS_DIRECTORY = 0x40000000

WATCHED = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | ONLY_DIRECTORY | EXCLUDE_UNLINKED

HEADER = struct.Struct("iIII")
"""Watch descriptor, mask, cookie, length of the padded name that follows."""

NONBLOCKING_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


@cache
def libc() -> ctypes.CDLL:
    """Return the C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def _raise(path: bytes | None = None) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


class Kernel(ABC):
    """A queue of events of the kernel, and what puts directories on it; every method may be called from any thread."""

    descriptor: int
    """What to poll and read; negative once closed."""

    @abstractmethod
    def add(self, path: bytes, *, follow: bool = False, extra: int = 0) -> int:
        """Watch a directory from now on; return its number, the same one for the same inode. Raise OSError."""

    @abstractmethod
    def remove(self, number: int) -> None:
        """Stop watching a directory; a number that is no longer known is no error."""

    def close(self) -> None:
        """Close the queue, and with it all watches or marks; safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Inotify(Kernel):
    """One inotify instance; every method may be called from any thread."""

    def __init__(self) -> None:
        """Open the instance. Raise OSError: EMFILE when ``fs.inotify.max_user_instances`` are in use."""
        self._libc = libc()
        self.descriptor = self._libc.inotify_init1(NONBLOCKING_CLOEXEC)
        if self.descriptor < 0:
            _raise()

    def add(self, path: bytes, *, follow: bool = False, extra: int = 0) -> int:
        """
        Watch a directory and return its watch descriptor; the same one when its inode is watched already.

        Raise OSError: ENOSPC at ``fs.inotify.max_user_watches``, EACCES without read permission,
        ENOENT, ENOTDIR.
        """
        mask = WATCHED | extra if follow else WATCHED | extra | DONT_FOLLOW
        found: int = self._libc.inotify_add_watch(self.descriptor, path, mask)
        if found < 0:
            _raise(path)
        return found

    def remove(self, number: int) -> None:
        """Stop watching a directory."""
        self._libc.inotify_rm_watch(self.descriptor, number)
