"""What became of a name: one look at the file system turns what was heard into what is."""

from __future__ import annotations

import os
import stat
from enum import Enum
from typing import NamedTuple

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.sources.filesystem import kernel
from listener.sources.filesystem.heard import ARRIVED, FOUND, OPEN, Batch
from listener.sources.filesystem.names import Ignore, is_transfer_name

__all__ = ["Look", "Looker", "Outcome", "fingerprint_at", "fingerprint_of"]

_WENT = kernel.DELETE | kernel.MOVED_FROM
_IN_PLACE = kernel.CREATE | kernel.MODIFY | kernel.CLOSE_WRITE | _WENT | OPEN | FOUND | ARRIVED


class Outcome(Enum):
    """What a look found."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"
    """It is there, but may still be written to."""
    GONE = "gone"


class Look(NamedTuple):
    """One object after a look."""

    key: str
    outcome: Outcome
    fingerprint: Fingerprint | None
    atomic: bool = False
    """True when one rename brought it and nothing else happened to its name."""


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    """Return what the index keeps of a file."""
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def fingerprint_at(path: bytes) -> tuple[Fingerprint | None, int]:
    """
    Look at a path, through a symbolic link where it is one: what a web server would serve.

    Return the fingerprint, or ``None`` unless there is a regular file, and how many names it has
    (0 for a symbolic link). Raise OSError other than "there is none" and "a link that leads nowhere".
    """
    try:
        status = os.lstat(path)
        is_link = stat.S_ISLNK(status.st_mode)
        if is_link:
            status = os.stat(path)  # noqa: PTH116 - bytes
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    if not stat.S_ISREG(status.st_mode):
        return None, 0
    return fingerprint_of(status), 0 if is_link else status.st_nlink


class Looker:
    """Looks at what was heard. Blocking: for a thread of its own."""

    def __init__(self, root: bytes, ignore: Ignore, *, stable_seconds: float) -> None:
        """Look below ``root``."""
        self._root = root
        self._ignore = ignore
        self._stable_ns = int(stable_seconds * 1e9)

    def at(self, key: str) -> Fingerprint | None:
        """Return the fingerprint of one key, or ``None`` when there is no such file (any more)."""
        try:
            return fingerprint_at(self._root + key_to_bytes(key))[0]
        except OSError:
            return None

    def all(self, batch: Batch, now_ns: int) -> list[Look]:
        """Look at every name of a batch. ``now_ns`` is the time of day in nanoseconds."""
        looks: list[Look] = []
        for prefix, names in batch.names:
            text = key_to_text(prefix)
            path = self._root + prefix
            for padded, flags in names.items():
                raw = padded.rstrip(b"\0")
                name = raw.decode("utf-8", "surrogateescape")
                if not self._ignore.file(text, name):
                    look = self._look(path + raw, text + name, flags, now_ns)
                    if look is not None:
                        looks.append(look)
        return looks

    def _look(self, path: bytes, key: str, flags: int, now_ns: int) -> Look | None:
        try:
            found, links = fingerprint_at(path)
        except OSError:
            # A loop of links or a directory that may not be entered: no server serves it either.
            found, links = None, 0
        if found is None:
            return None if self._was_passing(key, flags) else Look(key, Outcome.GONE, None)
        if self._is_unfinished(found, links, flags, now_ns):
            return Look(key, Outcome.UNFINISHED, found)
        return Look(key, Outcome.FINISHED, found, atomic=not flags & _IN_PLACE)

    def _is_unfinished(self, found: Fingerprint, links: int, flags: int, now_ns: int) -> bool:
        if flags & FOUND:
            return now_ns - (found.ctime_ns or 0) < self._stable_ns
        if not flags & OPEN or links == 0:
            return False
        # A second name for a file (link) is heard as made, and never as closed.
        return bool(flags & kernel.MODIFY) or links == 1

    @staticmethod
    def _was_passing(key: str, flags: int) -> bool:
        """Tell whether the name was never a file that a cache could hold: a directory, or a transfer's own."""
        if not flags & (_WENT | kernel.CREATE | kernel.MODIFY | kernel.CLOSE_WRITE | kernel.MOVED_TO):
            return True
        passed = flags & kernel.CREATE and flags & _WENT
        return bool(passed) and is_transfer_name(key.rpartition("/")[2])
