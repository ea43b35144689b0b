"""
A signal for what happens to a path itself: a directory or link on the way to it that goes, moves or is replaced.

Each of them is watched for its own end, not for what happens in it. That reports what the watches of the tree cannot: a
root that moves with a directory above it, or is reached through a link that is switched.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from listener import kernel
from listener.event_loop import Readable
from listener.sources.filesystem.mounts import holder_of, mount_table

__all__ = ["PathSignal"]

_OWN_END = kernel.DELETE_SELF | kernel.MOVE_SELF
_OF_LINK = _OWN_END | kernel.ATTRIB
"""A link that another one replaces has a name less; of a directory, this would report all that is in it."""
_MOST_LINKS = 40
"""As many as the kernel follows on one path."""


class PathSignal:
    """Follows a path in the event loop, and calls back once where anything happened to it."""

    def __init__(self, path: bytes, changed: Callable[[], None]) -> None:
        """Watch nothing yet; ``changed`` is called in the event loop."""
        self._path = path
        self._changed = changed
        self._watches: Readable | None = None
        self._has_all = False

    @property
    def is_watching(self) -> bool:
        """Whether a signal is still to come; where not, :meth:`follow` the path again."""
        return self._watches is not None

    @property
    def reports_all(self) -> bool:
        """Whether nothing can happen to the path without a signal."""
        return self.is_watching and self._has_all

    async def follow(self) -> None:
        """Watch the way as it is now; where that is not possible, watch nothing."""
        self.close()
        with suppress(OSError):
            watches, self._has_all = await asyncio.to_thread(_watched, self._path)
            self._watches = Readable(watches, self._on_event)

    def _on_event(self) -> None:
        self.close()
        self._changed()

    def close(self) -> None:
        """Watch nothing any more; safe to call twice."""
        if self._watches is not None:
            self._watches.close()
            self._watches = None


def _watched(path: bytes) -> tuple[kernel.Inotify, bool]:
    """
    Return what is readable once anything happens to the path, and whether the kernel reports all that can.

    It does not where other machines can change a file system on the way. Raise OSError where the way cannot be watched.
    """
    found = kernel.Inotify(0)
    try:
        directories = list(_watch(found, path))
    except BaseException:
        found.close()
        raise
    mounts = mount_table()
    holders = [holder_of(mounts, os.path.realpath(os.fsdecode(each))) for each in directories]
    return found, all(holder is not None and holder.reports_every_change for holder in holders)


def _watch(watches: kernel.Inotify, path: bytes) -> Iterator[bytes]:
    """Watch each directory and link on the way, before what it leads to; yield the directories."""
    place, links = b"/", 0
    names = deque(os.path.join(os.getcwdb(), path).split(b"/"))  # noqa: PTH109, PTH118 - bytes
    while names:
        name = names.popleft()
        if name in (b"", b"."):
            continue
        if name == b"..":
            place = os.path.dirname(place.rstrip(b"/")).rstrip(b"/") + b"/"  # noqa: PTH120 - bytes
            continue
        step = place + name
        watches.add(step, extra=_OF_LINK if stat.S_ISLNK(os.lstat(step).st_mode) else _OWN_END)
        if stat.S_ISLNK(os.lstat(step).st_mode):
            target, links = os.readlink(step), links + 1  # noqa: PTH115 - bytes
            if links > _MOST_LINKS:
                raise OSError(f"too many links on the way to {path!r}")
            names.extendleft(reversed(target.split(b"/")))
            place = b"/" if target.startswith(b"/") else place
        else:
            place = step + b"/"
            yield place
