"""
The backend fanotify: a mark on whole file systems, and what its events mean for a tree.

Masks and records are those of ``<linux/fanotify.h>``; see fanotify(7). One mark reports every directory of a file
system, so that no limit on watches applies, and nothing is missed between the making of a directory and its watching.
An event names the directory by its file handle: :meth:`Fanotify.add` learns the handle of a directory that is ours,
and an event with another handle is of another tree. Handles are never opened, so that none can be stale and no right
to open them is needed. The kernel merges what it has not handed over yet: events of one name in one directory
are one event with the masks of all, and their order is lost.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import cast

from listener import kernel
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.pending_names import BORN, ENDED, OPEN, Node
from listener.sources.filesystem.watches import Watches

__all__ = ["FanotifyWatches", "refusal"]

RENAME = 0x1000_0000
EVENTS = (
    kernel.MODIFY | kernel.ATTRIB | kernel.CLOSE_WRITE | kernel.CREATE | kernel.DELETE | RENAME | kernel.IS_DIRECTORY
)
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


class Fanotify(kernel.Kernel):
    """One fanotify group; takes the place of :class:`Inotify`."""

    def __init__(self) -> None:
        """Open the group. Raise OSError: EPERM without CAP_SYS_ADMIN, EMFILE, EINVAL before Linux 5.9."""
        flags = _CLOEXEC | _NONBLOCK | _REPORT_DIRECTORY_AND_NAME
        self.descriptor = kernel.libc().fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC)
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
        if kernel.libc().name_to_handle_at(_HERE, path, ctypes.byref(handle), ctypes.byref(mount), flags) < 0:
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
        events = ctypes.c_uint64(EVENTS)
        if kernel.libc().fanotify_mark(self.descriptor, _ADD | _FILESYSTEM, events, _HERE, path) < 0:
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
    group = None
    try:
        group = Fanotify()
        group.add(os.fsencode(path).rstrip(b"/") + b"/", follow=True)
    except OSError as error:
        return _refusal(error)
    finally:
        if group is not None:
            group.close()
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


_WRITTEN = kernel.CREATE | kernel.MODIFY
_REPORTED = _WRITTEN | kernel.CLOSE_WRITE | kernel.DELETE | kernel.ATTRIB


class FanotifyWatches(Watches):
    """
    A tree on marked file systems: what :class:`Watches` is for inotify.

    "Watching" a directory is to know its handle. All that was said of watching before listing and
    of directories that lose their watch holds for handles as it does for watches.
    """

    def __init__(self, root: bytes, ignore: Ignore, links: Links, *, bound: int, found_seconds: float = 0.0) -> None:
        """Open the group; nothing is marked before :meth:`enter`."""
        super().__init__(root, ignore, links, bound=bound, found_seconds=found_seconds, instance=Fanotify())

    @property
    def _group(self) -> Fanotify:
        return cast("Fanotify", self.kernel)

    def begin_round(self) -> int:
        """Start a scan, which marks each file system again."""
        self._group.doubt_mounts()
        return super().begin_round()

    @staticmethod
    def name_as_reported(name: bytes) -> bytes:
        """Return a name as it is kept: as it is."""
        return name

    def feed(self, blob: bytes) -> None:
        """Work through whole events as the kernel gave them."""
        position, end, events = 0, len(blob), 0
        with self.lock:
            while position < end:
                length, _, _, head, mask, _, _ = EVENT.unpack_from(blob, position)
                self._on_record(mask, blob[position + head : position + length])
                position += length
                events += 1
            self.events += events
            self.pending.keep_bound()

    def _on_record(self, mask: int, records: bytes) -> None:
        if mask & kernel.OVERFLOW:
            self._on_overflow()
        while records:
            kind, length, _, handle_bytes = RECORD.unpack_from(records)
            name_at = RECORD.size + 4 + handle_bytes
            number = self._group.by_handle.get(records[4:name_at])
            if number is not None:
                name = records[name_at:length].partition(b"\0")[0]
                for node in self._bindings.of(number):
                    self._on_hint(node, mask, kind, name)
            records = records[length:]

    def _on_hint(self, node: Node, mask: int, kind: int, name: bytes) -> None:
        if mask & kernel.IS_DIRECTORY:
            self._on_directory_hint(node, mask, kind, name)
            return
        if mask & RENAME:
            mask = kernel.MOVED_TO if kind == NEW_NAME else kernel.MOVED_FROM
        else:
            mask &= _REPORTED
        # Merged with its closing, a write may have come after it: then its own closing is still to come.
        is_open = mask & _WRITTEN and not mask & kernel.CLOSE_WRITE
        keep, come = (-1, mask | OPEN) if is_open else (-1 if mask == kernel.ATTRIB else ENDED, mask)
        names = self.pending.names_of(node)
        before = names.get(name)
        if before is None:
            self.pending.count += 1
            # Merged with others, "created" proves nothing: the name may have been written to and removed before.
            before = BORN if mask == kernel.CREATE else 0
        names[name] = before & keep | come

    def _on_directory_hint(self, parent: Node, mask: int, kind: int, name: bytes) -> None:
        """
        Look at a directory's name, whichever event it was: only the tree itself shows which came last.

        Merged, "made" and "removed" may stand for either order; and of three renames to and fro the
        third stands where the first did.
        """
        if mask & ~kernel.IS_DIRECTORY == kernel.ATTRIB:
            child = parent if name in (b"", b".") else (parent.children or {}).get(name)
            if child is not None:
                self._on_own_attributes(child)
            return
        if mask & kernel.DELETE or (mask & RENAME and kind != NEW_NAME):
            self._on_directory_went(parent, name, 0)
        self._on_directory_came(parent, name, 0, renamed=bool(mask & RENAME))
