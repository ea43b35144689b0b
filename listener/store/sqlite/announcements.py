"""
How the owner of the state file learns of commits of other processes, without reading the file.

A process that does not own the state file touches the owner's lock file after each commit, and the owner watches that
file. So the owner's own commits cost it nothing here.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from listener import kernel
from listener.event_loop import Readable

__all__ = ["Announcements", "announce"]

_TOUCHED_OR_GONE = kernel.ATTRIB | kernel.DELETE_SELF | kernel.MOVE_SELF
_READ_BYTES = 64 * 1024


def announce(lock: Path) -> None:
    """Touch the owner's lock file, if there is one; an owner that misses it finds the commit by itself, later."""
    with suppress(OSError):
        os.utime(lock, follow_symlinks=False)


class Announcements:
    """Calls back in the event loop after a commit of another process that announced it."""

    def __init__(self, lock: Path, changed: Callable[[], None]) -> None:
        """Watch the owner's lock file until closed."""
        self._lock = lock
        self._changed = changed
        self._watch: Readable | None = None
        self._inode = 0
        with suppress(OSError):
            watch = kernel.Inotify(_TOUCHED_OR_GONE)
            watch.add(os.fsencode(lock))
            announce(lock)
            os.read(watch.descriptor, _READ_BYTES)  # raises where not even our own touch was reported
            self._inode = lock.lstat().st_ino
            self._watch = Readable(watch, self._on_touch)

    @property
    def of_others(self) -> bool:
        """Whether commits of other processes are announced; not where the kernel cannot watch another file."""
        return self._watch is not None

    def announce(self) -> None:
        """Do nothing: no other process waits for commits of the owner."""

    def _on_touch(self) -> None:
        if self._watch is not None:
            with suppress(BlockingIOError):
                os.read(self._watch.queue.descriptor, _READ_BYTES)
            if not self._is_watched():
                self.close()
        self._changed()

    def _is_watched(self) -> bool:
        """Return whether the file that others touch is still the one that is watched."""
        try:
            return self._lock.lstat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Watch nothing any more; safe to call twice."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
