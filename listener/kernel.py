"""
The kernel's inotify and timers, and the heaps of the C library: no more than is needed here.

Masks are those of ``<sys/inotify.h>``. By default only events that can mean a change of content are
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
    "DELETE_SELF",
    "HEADER",
    "IGNORED",
    "IS_DIRECTORY",
    "MODIFY",
    "MOVED_FROM",
    "MOVED_TO",
    "MOVE_SELF",
    "ONLY_DIRECTORY",
    "OVERFLOW",
    "UNMOUNT",
    "Inotify",
    "Kernel",
    "clock_steps",
    "libc",
    "share_heaps",
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


_ARENA_MAX = -8
"""``M_ARENA_MAX`` of ``<malloc.h>``."""
HEAPS = 2


def share_heaps() -> None:
    """
    Have the threads that start from now on share :data:`HEAPS` heaps of glibc; other C libraries are left as they are.

    By default each thread gets one of its own, up to eight for each processor, and keeps what it once needed.
    """
    mallopt = getattr(libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, HEAPS)


def _raise(path: bytes | None = None) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


class Kernel(ABC):
    """A queue of events of the kernel, and what puts directories on it; every method may be called from any thread."""

    descriptor = -1
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

    def __del__(self) -> None:
        """Close what a thread opened for a caller that was cancelled meanwhile."""
        self.close()


class Inotify(Kernel):
    """One inotify instance; every method may be called from any thread."""

    def __init__(self, events: int = WATCHED) -> None:
        """
        Open the instance for these events of directories.

        Raise OSError: EMFILE when ``fs.inotify.max_user_instances`` are in use.
        """
        self._events = events
        self._libc = libc()
        self.descriptor = self._libc.inotify_init1(NONBLOCKING_CLOEXEC)
        if self.descriptor < 0:
            _raise()

    def add(self, path: bytes, *, follow: bool = False, extra: int = 0) -> int:
        """
        Watch a path and return its watch descriptor; the same one when its inode is watched already.

        Raise OSError: ENOSPC at ``fs.inotify.max_user_watches``, EACCES without read permission,
        ENOENT, ENOTDIR.
        """
        mask = self._events | extra if follow else self._events | extra | DONT_FOLLOW
        found: int = self._libc.inotify_add_watch(self.descriptor, path, mask)
        if found < 0:
            _raise(path)
        return found

    def remove(self, number: int) -> None:
        """Stop watching a directory."""
        self._libc.inotify_rm_watch(self.descriptor, number)


class _TimerSetting(ctypes.Structure):
    _fields_ = (("interval", ctypes.c_long * 2), ("value", ctypes.c_long * 2))


_REALTIME = 0
_ABSOLUTE_CANCEL_ON_SET = 0x1 | 0x2
_FAR_SECONDS = 1 << 40


def clock_steps() -> int:
    """
    Return a descriptor that becomes readable once the machine's clock is set, or the machine resumes; close it then.

    It is a timer far ahead that the kernel cancels then (timerfd_create(2), ``TFD_TIMER_CANCEL_ON_SET``). Raise
    OSError where there is none.
    """
    descriptor = int(libc().timerfd_create(_REALTIME, NONBLOCKING_CLOEXEC))
    if descriptor < 0:
        _raise()
    far = _TimerSetting(value=(_FAR_SECONDS, 0))
    if libc().timerfd_settime(descriptor, _ABSOLUTE_CANCEL_ON_SET, ctypes.byref(far), None) < 0:
        os.close(descriptor)
        _raise()
    return descriptor
