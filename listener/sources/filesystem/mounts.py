"""
What changes around a tree without an event in it: mounts that come and go, and what links lead to.

:class:`Surroundings` looks at both and requests the comparisons that they need. :class:`MountWatch` follows the mount
table; a :class:`Mount` also says whether the kernel reports every change of its file system.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from listener.change import key_to_bytes, key_to_text
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.live import Live
from listener.sources.filesystem.outstanding import MOUNTED, Rescans, is_absent
from listener.sources.filesystem.settings import Root

__all__ = ["Mount", "Surroundings", "mount_of", "mounts_below", "outdated"]

_REST_FACTOR = 100
"""How many times as long as a look at all links took to rest after it: they cost a hundredth of a core at most."""


class Surroundings:
    """Checks mounts and links, and requests the comparisons they need."""

    def __init__(
        self,
        root: Root,
        *,
        live: Live,
        deletion_guard: DeletionGuard,
        rescans: Rescans,
    ) -> None:
        """Look at links each ``root_check_seconds`` at most; at mounts whenever :meth:`look` is called."""
        self.link_check_seconds = self._interval = root.settings.root_check_seconds
        """How often links are looked at."""
        self._looked_at = time.monotonic(), 0
        """When the mount table was looked at last, and how many events had been read then."""
        self._mounts = MountWatch(os.fsdecode(root.path))
        self._links = root.links
        self._live = live
        self._deletion_guard = deletion_guard
        self._rescans = rescans
        self._next_links = 0.0
        self._mounts_changed = asyncio.Event()
        self._looking = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None
        live.before_deleting = self.before_deleting

    def follow_mounts(self, wake: Callable[[], None]) -> None:
        """Look at mounts as soon as the table changes, until closed; ``wake`` is called after each look."""
        signal = self._mounts.signal()
        if signal is not None:
            asyncio.get_running_loop().add_reader(signal, self._mounts_changed.set)
            self._following = asyncio.create_task(self._follow_mounts(wake))

    async def _follow_mounts(self, wake: Callable[[], None]) -> None:
        while True:
            await self._mounts_changed.wait()
            self._mounts_changed.clear()
            await self.look_at_mounts()
            wake()

    def close(self) -> None:
        """Give the mount table back."""
        if self._following is not None and (signal := self._mounts.signal()) is not None:
            self._following.cancel()
            asyncio.get_running_loop().remove_reader(signal)
        self._mounts.close()

    @property
    def replaced(self) -> list[Mount]:
        """The mounts of the tree that show a directory which was renamed or removed elsewhere."""
        return self._mounts.replaced

    async def before_deleting(self) -> None:
        """Know of a replaced root before deletions are judged."""
        if self._mounts.pins_root:
            await self.look_at_mounts()

    async def look(self) -> None:
        """Look at mounts, and at links when it is time."""
        if self._following is not None and self._following.done():
            self._following.result()
        await self.look_at_mounts()
        if self._links.leads and time.monotonic() >= self._next_links:
            await self._look_at_links()

    async def look_at_mounts(self) -> None:
        """Compare what was mounted or unmounted; believe no deletion while the root's mount shows an old directory."""
        async with self._looking:
            (last, events), self._looked_at = self._looked_at, (time.monotonic(), self._live.watcher.events)
            found = await asyncio.to_thread(self._mounts.look, self._links.targets.directories)
        now = time.monotonic()
        # What was read since the last look may be of a mount that is gone again.
        if found.is_unexplained and (self._live.activity.since(last) or self._live.watcher.events != events):
            found.directories.append(b"")
        for prefix in found.directories:
            self._rescans.want(key_to_text(prefix), MOUNTED, now, prompt=True)
        self._live.look_at(found.names)
        was_suspended, old = bool(self._deletion_guard.suspended), self._mounts.replaced_root
        self._deletion_guard.suspended = outdated(old) if old else ""
        if was_suspended and not old:
            self._rescans.want("", MOUNTED, now, prompt=True)

    async def _look_at_links(self) -> None:
        began = time.monotonic()
        changed = await asyncio.to_thread(self._links.targets.changed)
        took_seconds = time.monotonic() - began
        self.link_check_seconds = max(self._interval, _REST_FACTOR * took_seconds)
        self._next_links = began + self.link_check_seconds
        self._live.look_at(map(key_to_bytes, changed))


_MOST_READS = 8
"""Of a table that changes while it is read."""


class Remounted(NamedTuple):
    """Where something else stands than before, relative to the root."""

    directories: list[bytes]
    """Each ``b""`` or ending with ``/``."""
    names: list[bytes]
    """Files, and what is gone."""
    is_unexplained: bool = False
    """Whether something may have been mounted at a place that the table does not show: see :class:`MountWatch`."""


class _Pinned(NamedTuple):
    """What a mount showed when it was first seen."""

    shown: str
    place: tuple[int, int]
    """Device and inode: the same for as long as it is the same mount."""


class MountWatch:
    """
    The mount table as it was last looked at. Blocking.

    The kernel reports a mount that comes or goes (``poll`` on the table), but neither that a directory
    which is mounted elsewhere was renamed or removed, nor that a mount point moved because a directory
    above it was renamed: the table is read at each look for that. A mount that went after such a rename was at
    a place that nobody knows: the whole tree is compared then. So was one that came and went between two looks,
    perhaps of another tree, and one whose directory is gone from outside of the tree, perhaps into it: these
    matter only where this tree was read meanwhile.
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
        self._parents: dict[str, tuple[int, int] | None] = {}
        """The directory above each mount point of the tree: another one by now, and the mount point has moved."""
        self._replaced: dict[str, Mount] = {}
        self._signal: tuple[select.epoll, BinaryIO] | None = None
        self._is_unexplained = False
        """Whether the table changed and is as it was before, or a mount left a place outside that is gone, too."""
        try:
            self._file = TABLE.open("rb")
        except OSError:
            return
        self._poll.register(self._file, select.POLLPRI | select.POLLERR)
        self._mounts = mount_table()
        self._compare_pinned()
        self._note_parents([os.path.realpath(path)])

    def close(self) -> None:
        """Give the table back; safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._signal is not None:
            for each in self._signal:
                each.close()
            self._signal = None

    def signal(self) -> int | None:
        """
        Return a descriptor that is readable once after each change of the table; ``None`` without a table.

        A mount that is gone again before the next look would leave no trace, but what was read meanwhile
        came from it. The signal has an open file of its own: each ``poll`` takes the change from its file.
        """
        if self._file is None:
            return None
        if self._signal is None:
            self._signal = select.epoll(), TABLE.open("rb")
            self._signal[0].register(self._signal[1], select.EPOLLPRI | select.EPOLLERR)
        return self._signal[0].fileno()

    def look(self, linked: Callable[[], Iterable[str]]) -> Remounted:
        """
        Return where something was mounted or unmounted at or below the root since the last call.

        ``linked`` returns the keys of links to directories, whose trees belong to that of the root.
        """
        changes = self._changes()
        found = Remounted([], [], is_unexplained=self._is_unexplained)
        trees = {key: os.path.realpath(os.path.join(self._path, key)) for key in ("", *linked())} if changes else {}  # noqa: PTH118 - any bytes
        for key, real in trees.items():
            prefix = key and key + "/"
            for point in changes:
                if not is_at_or_below(real, point):
                    continue
                relative = os.fsencode(prefix + point[len(real.rstrip("/")) + 1 :])
                if Path(point).is_dir():
                    found.directories.append(relative.rstrip(b"/") + b"/" if relative else b"")
                else:
                    found.names.append(relative.rstrip(b"/"))
        outermost = [point for point in changes if not any(_is_below(other, point) for other in changes)]
        if any(self._has_moved(point) for point in outermost):
            found.directories.append(b"")
        if trees:
            self._note_parents(trees.values())
        return found

    def _changes(self) -> list[str]:
        """Return the mount points, sorted, where something else stands since the last call."""
        self._is_unexplained = False
        if self._file is None:
            return []
        is_changed = bool(self._poll.poll(0))
        if not is_changed and not self._pinned and not self._parents:
            return []
        before, is_changed = {mount.point: mount for mount in self._mounts}, self._read() or is_changed
        after = {mount.point: mount for mount in self._mounts}
        self._compare_pinned()
        if not is_changed:
            self._follow_renames(before, after)
            return []
        changed = sorted(point for point in before.keys() | after.keys() if before.get(point) != after.get(point))
        left = before.keys() - after.keys() - self._parents.keys()
        self._is_unexplained = not changed or any(is_absent(os.fsencode(_above(point))) for point in left)
        return changed

    def _read(self) -> bool:
        """Read the table; return whether it changed while it was read, so that what was polled before is outdated."""
        is_changed = False
        for _ in range(_MOST_READS):
            self._mounts = mount_table()
            if not self._poll.poll(0):
                break
            is_changed = True
        return is_changed

    def _note_parents(self, trees: Iterable[str]) -> None:
        """Remember above which directories the mount points of these trees lie."""
        tops = list(trees)
        self._parents = _parents(
            [mount.point for mount in self._mounts if any(_is_below(top, mount.point) for top in tops)]
        )

    def _follow_renames(self, before: Mapping[str, Mount], after: Mapping[str, Mount]) -> None:
        """Know the new points of mounts whose directory was renamed, which no mount or unmount explains."""
        if before.keys() != after.keys():
            numbers = {before[point].number for point in self._parents if point in before}
            self._parents = _parents([mount.point for mount in after.values() if mount.number in numbers])

    def _has_moved(self, point: str) -> bool:
        """Return whether a directory above a mount point was renamed since the last look, so that it was elsewhere."""
        if point not in self._parents:
            return False
        known = self._parents[point]
        return known is None or _place(_above(point)) != known

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


def _is_below(top: str, path: str) -> bool:
    return path != top and is_at_or_below(top, path)


def _above(point: str) -> str:
    return os.path.dirname(point)  # noqa: PTH120 - any bytes


def _parents(points: Collection[str]) -> dict[str, tuple[int, int] | None]:
    """Return by mount point which directory it lies in; ``None`` where it moved meanwhile."""
    found = {point: _place(_above(point)) for point in points}
    still = {mount.point for mount in mount_table()} if points else set()
    return {point: place if point in still else None for point, place in found.items()}


def _place(point: str) -> tuple[int, int] | None:
    try:
        status = Path(point).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


_CHANGED_ELSEWHERE = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "coda", "davfs", "gfs2", "glusterfs", "gpfs"}
    | {"lustre", "beegfs", "ocfs2", "orangefs", "prl_fs", "vboxsf", "vmhgfs", "virtiofs", "ncpfs"}
)
"""Other machines change these, which this kernel does not report."""
TABLE = Path("/proc/self/mountinfo")
_DELETED = "//deleted"
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of the mount table."""

    point: str
    kind: str
    """Type of the file system, such as ``ext4`` or ``fuse.s3fs``."""
    source: str
    shown: str = "/"
    """
    What of its file system is shown: ``/``, or the directory or file that was bind-mounted.

    Follows when that is renamed, and ends in ``//deleted`` when it is removed or replaced.
    """
    number: str = ""
    """Of this mount; given to another one once this one is gone."""

    @property
    def is_deleted(self) -> bool:
        """Whether what was mounted (a bind mount's directory or file) was removed or replaced since."""
        return self.shown.endswith(_DELETED)

    @property
    def reports_every_change(self) -> bool:
        """Whether the kernel reports every change; through FUSE it reports only those made through this mount."""
        return self.kind not in _CHANGED_ELSEWHERE and self.kind != "fuse" and not self.kind.startswith("fuse.")


def parse_mounts(text: str) -> list[Mount]:
    """Parse ``/proc/self/mountinfo`` (proc(5)); a later mount of one point hides the earlier."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        fields, ends = head.split(), tail.split()
        if len(fields) >= 5 and len(ends) >= 2:
            point = _unescaped(fields[4])
            found[point] = Mount(point, ends[0], ends[1], _unescaped(fields[3]), fields[0])
    return list(found.values())


def _unescaped(field: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)


def mount_table() -> list[Mount]:
    """Return the mounts that this process sees; none where the kernel does not report them."""
    try:
        return parse_mounts(TABLE.read_text(errors="surrogateescape"))
    except OSError:
        return []


def mount_of(path: str | os.PathLike[str]) -> Mount | None:
    """Return the mount that holds the path, symbolic links followed; ``None`` when the kernel does not report it."""
    return holder_of(mount_table(), os.path.realpath(path))


def holder_of(mounts: Iterable[Mount], real: str) -> Mount | None:
    """Return which of the mounts holds a path without symbolic links."""
    above = [mount for mount in mounts if is_at_or_below(mount.point, real)]
    return max(above, key=lambda mount: len(mount.point), default=None)


def mounts_below(path: str | os.PathLike[str]) -> list[Mount]:
    """Return the mounts strictly below the path."""
    real = os.path.realpath(path)
    return [mount for mount in mount_table() if mount.point != real and is_at_or_below(real, mount.point)]


def is_at_or_below(point: str, path: str) -> bool:
    """Return whether the path is the point or lies below it."""
    return path == point or path.startswith(point.rstrip("/") + "/")


def outdated(mount: Mount) -> str:
    """Say that a mount goes on showing a directory that was replaced elsewhere, and what to do."""
    what = "was removed" if mount.is_deleted else f"was renamed to {mount.shown!a}"
    return (
        f"the directory mounted at {mount.point!a} {what} outside of this mount, which goes on showing it: what took "
        "its place is not seen; restart the service, and mount the parent directory, which is never replaced"
    )
