"""What became of a name: one look at the file system turns what was heard into what is."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.sources.filesystem import kernel
from listener.sources.filesystem.heard import ARRIVED, FOUND, OPEN, Batch
from listener.sources.filesystem.names import Ignore, is_transfer_name

__all__ = ["Look", "Looker", "Looks", "fingerprint_at", "fingerprint_of"]

_new = tuple.__new__
_WENT = kernel.DELETE | kernel.MOVED_FROM
_IN_PLACE = kernel.CREATE | kernel.MODIFY | kernel.CLOSE_WRITE | _WENT | OPEN | FOUND | ARRIVED


class Look(NamedTuple):
    """One object that is there."""

    key: str
    fingerprint: Fingerprint
    atomic: bool = False
    """True when one rename brought it and nothing else happened to its name."""
    heard: bool = True
    """False when it was only found, so that nobody need be writing to it."""


class Looks(NamedTuple):
    """What became of all names of a batch."""

    finished: list[Look]
    unfinished: list[Look]
    """There, but perhaps still written to."""
    gone: list[str]


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    """Return what the index keeps of a file."""
    # Twice as fast as the class's own constructor, which counts at a million files.
    return _new(Fingerprint, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, None))


def fingerprint_at(path: bytes) -> tuple[Fingerprint | None, int]:
    """
    Look at a path, through a symbolic link where it is one: what a web server would serve.

    Return the fingerprint, or ``None`` unless there is a regular file, and how many names it has
    (0 for a symbolic link). Raise OSError other than "there is none" and "a link that leads nowhere".
    """
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            return fingerprint_of(status), status.st_nlink
        if stat.S_ISLNK(status.st_mode):
            status = os.stat(path)  # noqa: PTH116 - bytes
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    if not stat.S_ISREG(status.st_mode):
        return None, 0
    return fingerprint_of(status), 0


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

    def all(self, batch: Batch, now_ns: int) -> Looks:
        """Look at every name of a batch. ``now_ns`` is the time of day in nanoseconds."""
        looks = Looks([], [], [])
        ignores = self._ignore.file
        for prefix, names in batch.names:
            text = key_to_text(prefix)
            path = self._root + prefix
            for padded, flags in names.items():
                raw = padded.rstrip(b"\0")
                name = raw.decode("utf-8", "surrogateescape")
                if not ignores(text, name):
                    self._look(looks, path + raw, text + name, flags, now_ns)
        return looks

    def _look(self, looks: Looks, path: bytes, key: str, flags: int, now_ns: int) -> None:
        try:
            found, links = fingerprint_at(path)
        except OSError:
            # A loop of links or a directory that may not be entered: no server serves it either.
            found, links = None, 0
        if found is None:
            if not self._was_passing(key, flags):
                looks.gone.append(key)
        elif self._is_unfinished(key, found, links, flags, now_ns):
            looks.unfinished.append(Look(key, found, heard=not flags & FOUND))
        else:
            looks.finished.append(_new(Look, (key, found, not flags & _IN_PLACE, True)))

    def _is_unfinished(self, key: str, found: Fingerprint, links: int, flags: int, now_ns: int) -> bool:
        if not flags & (OPEN | FOUND):
            # rsync's own name for a file that is not renamed yet; told only if it stays.
            return key[key.rfind("/") + 1] == "." and is_transfer_name(key.rpartition("/")[2])
        if flags & FOUND:
            return now_ns - (found.ctime_ns or 0) < self._stable_ns
        # A second name for a file (link) is heard as made, and never as closed.
        return links > 0 and (bool(flags & kernel.MODIFY) or links == 1)

    @staticmethod
    def _was_passing(key: str, flags: int) -> bool:
        """Tell whether the name was never a file that a cache could hold: a directory, or a transfer's own."""
        if not flags & (_WENT | kernel.CREATE | kernel.MODIFY | kernel.CLOSE_WRITE | kernel.MOVED_TO):
            return True
        passed = flags & kernel.CREATE and flags & _WENT
        return bool(passed) and is_transfer_name(key.rpartition("/")[2])
