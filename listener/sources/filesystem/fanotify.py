"""
The kernel's fanotify interface with a mark on whole file systems, reached through the C library.

Masks and records are those of ``<linux/fanotify.h>``; see fanotify(7). One mark reports every
directory of a file system, so that no limit on watches applies, and nothing goes unheard between
the making of a directory and its watching. An event names the directory by its file handle:
``add`` learns the handle of a directory that is ours, and what is of no known handle is another
tree's. Handles are never opened, so that none can be stale and no right to open them is needed.

The kernel merges what it has not handed over yet: events of one name in one directory are one
event with the masks of all, and their order is lost.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from functools import cache

from listener.sources.filesystem.kernel import Events

__all__ = ["ON_DIRECTORY", "OVERFLOW", "RENAME", "Fanotify", "Refusal", "refusal"]

MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
CREATE = 0x100
DELETE = 0x200
OVERFLOW = 0x4000
RENAME = 0x1000_0000
ON_DIRECTORY = 0x4000_0000
EVENTS = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | RENAME | ON_DIRECTORY
"""All but RENAME and ON_DIRECTORY have inotify's values."""

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


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _fail(what: str, path: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}", path)


class Fanotify(Events):
    """One fanotify group; takes the place of :class:`~listener.sources.filesystem.kernel.Inotify`."""

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
        if _libc().fanotify_mark(self.descriptor, _ADD | _FILESYSTEM, ctypes.c_uint64(EVENTS), _HERE, path) < 0:
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
