"""Watching the mount table: what comes and goes below a root, and what was replaced behind a mount."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from listener.sources.filesystem.mounts import TABLE, Mount, holder_of, is_at_or_below, mount_table

__all__ = ["MountWatch", "Remounted"]


class Remounted(NamedTuple):
    """Where something else stands than before, relative to the root."""

    directories: list[bytes]
    """Each ``b""`` or ending with ``/``."""
    names: list[bytes]
    """Files, and what is gone."""


class _Pinned(NamedTuple):
    """What a mount showed when it was first seen."""

    shown: str
    place: tuple[int, int]
    """Device and inode: the same for as long as it is the same mount."""


class MountWatch:
    """
    The mount table as it was last looked at. Blocking.

    The kernel reports a mount that comes or goes (``poll`` on the table), but not that a directory
    which is mounted elsewhere was renamed or removed: that is compared at each look.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Look at the table for the tree at this path; where there is no table, nothing ever changes."""
        self._path = path
        self._poll = select.poll()
        self._file: BinaryIO | None = None
        self._mounts: list[Mount] = []
        self._holder = ""
        """Where the file system is mounted that holds the root."""
        self._pinned: dict[str, _Pinned] = {}
        self._replaced: dict[str, Mount] = {}
        try:
            self._file = TABLE.open("rb")
        except OSError:
            return
        self._poll.register(self._file, select.POLLPRI | select.POLLERR)
        self._mounts = mount_table()
        self._compare_pinned()

    def close(self) -> None:
        """Give the table back; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def look(self, linked: Callable[[], Iterable[str]]) -> Remounted:
        """
        Return where something was mounted or unmounted at or below the root since the last call.

        ``linked`` returns the keys of links to directories, whose trees belong to that of the root.
        """
        found, changes = Remounted([], []), self._changes()
        for key in ("", *linked()) if changes else ():
            prefix = key and key + "/"
            real = os.path.realpath(os.path.join(self._path, key))  # noqa: PTH118 - any bytes
            for point in changes:
                if not is_at_or_below(real, point):
                    continue
                relative = os.fsencode(prefix + point[len(real.rstrip("/")) + 1 :])
                if Path(point).is_dir():
                    found.directories.append(relative.rstrip(b"/") + b"/" if relative else b"")
                else:
                    found.names.append(relative.rstrip(b"/"))
        return found

    def _changes(self) -> list[str]:
        """Return the mount points, sorted, where something else stands since the last call."""
        if self._file is None:
            return []
        is_changed = bool(self._poll.poll(0))
        if not is_changed and not self._pinned:
            return []
        before, self._mounts = {mount.point: mount for mount in self._mounts}, mount_table()
        after = {mount.point: mount for mount in self._mounts}
        self._compare_pinned()
        if not is_changed:
            return []
        return sorted(point for point in before.keys() | after.keys() if before.get(point) != after.get(point))

    @property
    def replaced(self) -> list[Mount]:
        """
        The mounts at and below the root whose directory was renamed or removed elsewhere.

        They go on showing the old directory.
        """
        return list(self._replaced.values())

    @property
    def pins_root(self) -> bool:
        """Whether the root is seen by the mount of a directory, which can be replaced elsewhere."""
        return self._holder in self._pinned

    @property
    def replaced_root(self) -> Mount | None:
        """The mount that holds the root, if it is one of the replaced ones."""
        return self._replaced.get(self._holder)

    def _compare_pinned(self) -> None:
        real = os.path.realpath(self._path)
        holder = holder_of(self._mounts, real)
        self._holder = holder.point if holder else ""
        ours = [mount for mount in self._mounts if mount is holder or is_at_or_below(real, mount.point)]
        known, self._pinned, self._replaced = self._pinned, {}, {}
        for mount in ours:
            place = _place(mount.point)
            if mount.shown == "/" or place is None:
                continue
            before = known.get(mount.point)
            is_same = before is not None and before.place == place
            self._pinned[mount.point] = first = before if before and is_same else _Pinned(mount.shown, place)
            if mount.is_deleted or mount.shown != first.shown:
                self._replaced[mount.point] = mount


def _place(point: str) -> tuple[int, int] | None:
    try:
        status = Path(point).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
