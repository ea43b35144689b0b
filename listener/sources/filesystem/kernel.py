"""
The kernel's inotify and fanotify, reached through the C library: no more than is needed here.

Only events that can mean a change of content are requested: opening and reading are not, so that a web server's
reads cost nothing. Masks are those of ``<sys/inotify.h>``, masks and records of fanotify those of
``<linux/fanotify.h>``; see inotify(7) and fanotify(7).

One fanotify mark reports every directory of a file system, so that no limit on watches applies, and nothing is
missed between the making of a directory and its watching. An event names the directory by its file handle:
:meth:`Fanotify.add` learns the handle of a directory that is ours, and an event with another handle is of another
tree. Handles are never opened, so that none can be stale and no right to open them is needed. The kernel merges
what it has not handed over yet: events of one name in one directory are one event with the masks of all, and their
order is lost.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache
from typing import Protocol

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
    "Events",
    "Inotify",
    "Kernel",
    "padded",
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
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def padded(name: bytes) -> bytes:
    """Return the name as events carry it: ended by NULs up to the next multiple of 16."""
    return name.ljust((len(name) // 16 + 1) * 16, b"\0")


def _raise(path: bytes | None = None) -> None:
    number = ctypes.get_errno()
    raise OSError(number, os.strerror(number), path)


class Kernel(Protocol):
    """Watches directories for us; every method may be called from any thread."""

    @property
    def descriptor(self) -> int:
        """What to poll; negative once closed."""
        ...

    def add(self, path: bytes, *, follow: bool = False, extra: int = 0) -> int:
        """Hear a directory from now on; return its number, the same one for the same inode. Raise OSError."""
        ...

    def remove(self, watch: int, /) -> None:
        """Hear it no longer."""
        ...

    def read(self, size_bytes: int) -> bytes:
        """Return as many whole events as fit, or nothing when none wait."""
        ...

    def close(self) -> None:
        """Give up; safe to call twice."""
        ...


class Events:
    """Events to read from a descriptor of the kernel's."""

    descriptor: int
    """Negative once it is closed."""

    def read(self, size_bytes: int) -> bytes:
        """Return as many whole events as fit, or nothing when none wait."""
        try:
            return os.read(self.descriptor, size_bytes)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close it, and with it all its watches or marks; safe to call twice."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Inotify(Events):
    """One inotify instance; every method may be called from any thread."""

    def __init__(self) -> None:
        """Open the instance. Raise OSError: EMFILE when ``fs.inotify.max_user_instances`` are in use."""
        self._libc = _libc()
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

    def remove(self, watch: int) -> None:
        """Stop watching; a descriptor that is no longer known is no error."""
        self._libc.inotify_rm_watch(self.descriptor, watch)


__all__ = ["RENAME", "Fanotify", "Refusal", "refusal"]

RENAME = 0x1000_0000
FANOTIFY_EVENTS = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | RENAME | IS_DIRECTORY
"""All but RENAME have inotify's values."""

EVENT = struct.Struct("=IBBHQii")
"""Length, version, reserved, length of this head, mask, file descriptor (none), process."""
RECORD = struct.Struct("=BxHQI")
"""Kind, length, file system, length of the handle; then the handle's type and bytes, then the name, ended by NUL."""
OLD_NAME, NEW_NAME = 10, 12
"""Kinds of the two records of a rename."""

_CLOEXEC, _NONBLOCK = 0x1, 0x2
_REPORT_DIRECTORY_AND_NAME = 0x400 | 0x800
_ADD, _FILESYSTEM = 0x1, 0x100
_HERE = -100
_FOLLOW = 0x400
_MOST_HANDLE_BYTES = 128


class _Handle(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("kind", ctypes.c_int), ("raw", ctypes.c_ubyte * _MOST_HANDLE_BYTES))


def _fail(what: str, path: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}", path)


class Fanotify(Events):
    """One fanotify group; takes the place of :class:`Inotify`."""

    def __init__(self) -> None:
        """Open the group. Raise OSError: EPERM without CAP_SYS_ADMIN, EMFILE, EINVAL before Linux 5.9."""
        flags = _CLOEXEC | _NONBLOCK | _REPORT_DIRECTORY_AND_NAME
        self.descriptor = _libc().fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise _fail("fanotify_init")
        self.by_handle: dict[bytes, int] = {}
        """Directories that are ours: file system and handle, as events carry them, to the number given out."""
        self._by_number: dict[int, bytes] = {}
        self._systems: dict[int, bytes] = {}
        """Marked file systems: the mount's number, to what events call the file system."""
        self._last = 0

    def add(self, path: bytes, *, follow: bool = False, extra: int = 0) -> int:  # noqa: ARG002 - as inotify
        """
        Take a directory, whose path ends with ``/``, for ours and return its number; the same one for the same inode.

        Raise OSError: ENOENT, ENOTDIR; EOPNOTSUPP, ENODEV or EXDEV where its file system cannot be
        marked, EPERM without CAP_SYS_ADMIN, EINVAL before Linux 5.17.
        """
        handle, mount = _Handle(length=_MOST_HANDLE_BYTES), ctypes.c_int()
        flags = _FOLLOW if follow else 0
        if _libc().name_to_handle_at(_HERE, path, ctypes.byref(handle), ctypes.byref(mount), flags) < 0:
            raise _fail("name_to_handle_at", path)
        system = self._systems.get(mount.value)
        if system is None:
            self._mark(path)
            system = os.statvfs(path).f_fsid.to_bytes(8, "little")
            self._systems[mount.value] = system
        key = system + bytes(handle)[: 8 + handle.length]
        number = self.by_handle.get(key)
        if number is None:
            self._last = number = self._last + 1
            self.by_handle[key] = number
            self._by_number[number] = key
        return number

    def _mark(self, path: bytes) -> None:
        if (
            _libc().fanotify_mark(self.descriptor, _ADD | _FILESYSTEM, ctypes.c_uint64(FANOTIFY_EVENTS), _HERE, path)
            < 0
        ):
            raise _fail("fanotify_mark", path)

    def doubt_mounts(self) -> None:
        """Mark each file system again when it is next come by: a mount's number may be another's by now."""
        self._systems.clear()

    def remove(self, number: int) -> None:
        """Let a directory go: what happens in it is another tree's again."""
        key = self._by_number.pop(number, None)
        if key is not None:
            del self.by_handle[key]


class Refusal(Exception):
    """Why a tree cannot be listened to by fanotify, with what to do."""

    def __init__(self, reason: str, hint: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.hint = hint


def refusal(path: str | os.PathLike[str]) -> Refusal | None:
    """Try fanotify on a directory and give it up again; return why it cannot be used there, or ``None``."""
    kernel = None
    try:
        kernel = Fanotify()
        kernel.add(os.fsencode(path).rstrip(b"/") + b"/", follow=True)
    except OSError as error:
        return _refusal(error)
    finally:
        if kernel is not None:
            kernel.close()
    return None


def _refusal(error: OSError) -> Refusal:
    other = 'or take backend = "inotify"'
    if error.errno in (errno.EPERM, errno.EACCES):
        return Refusal(
            "fanotify needs CAP_SYS_ADMIN to mark a whole file system",
            f"give it to the service (AmbientCapabilities=CAP_SYS_ADMIN), {other}",
        )
    if error.errno in (errno.EOPNOTSUPP, errno.ENODEV, errno.EXDEV):
        return Refusal(
            f"fanotify cannot mark this file system: {os.strerror(error.errno)}",
            f"overlayfs, FUSE and btrfs subvolumes cannot be marked; serve from a volume on ext4 or xfs, {other}",
        )
    if error.errno in (errno.EINVAL, errno.ENOSYS):
        return Refusal("this kernel's fanotify does not name what changed", f"it takes Linux 5.17; upgrade, {other}")
    return Refusal(f"fanotify cannot be used: {error}", f"look at fs.fanotify limits and the mount, {other}")
