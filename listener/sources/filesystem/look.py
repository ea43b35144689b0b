"""What became of a name: one look at the file system turns what was heard into what is."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.sources.filesystem import kernel
from listener.sources.filesystem.heard import ARRIVED, FOUND, OPEN, Batch
from listener.sources.filesystem.links import Links
from listener.sources.filesystem.names import Ignore, is_transfer_name

__all__ = ["LINK", "LINKED_DIRECTORY", "Look", "Looker", "Looks", "fingerprint_at", "fingerprint_of"]

LINK = -1
LINKED_DIRECTORY = -2

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
    linked: list[str]
    """Directories behind symbolic links, as keys that end with ``/``: to be compared with the index."""


def fingerprint_of(status: os.stat_result) -> Fingerprint:
    """Return what the index keeps of a file."""
    # Twice as fast as the class's own constructor, which counts at a million files.
    return _new(Fingerprint, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, None))


def fingerprint_at(path: bytes) -> tuple[Fingerprint | None, int]:
    """
    Look at a path, through a symbolic link where it is one: what a web server would serve.

    Return the fingerprint, or ``None`` unless there is a regular file, and how many names it has
    (``LINK`` for a symbolic link, ``LINKED_DIRECTORY`` for one that leads to a directory). Raise
    OSError other than "there is none" and "a link that leads nowhere".
    """
    links = 0
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            return fingerprint_of(status), status.st_nlink
        if stat.S_ISLNK(status.st_mode):
            links = LINK
            status = os.stat(path)  # noqa: PTH116 - bytes
    except (FileNotFoundError, NotADirectoryError):
        return None, links
    if links and stat.S_ISDIR(status.st_mode):
        return None, LINKED_DIRECTORY
    if not stat.S_ISREG(status.st_mode):
        return None, 0
    return fingerprint_of(status), links


class Looker:
    """Looks at what was heard. Blocking: for a thread of its own."""

    def __init__(self, root: bytes, ignore: Ignore, links: Links, *, stable_seconds: float) -> None:
        """Look below ``root``; ``links`` learns of every file with several names."""
        self._links = links
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
        looks = Looks([], [], [], [])
        ignores = self._ignore.file
        for prefix in batch.gone if self._links else ():
            self._look_at_links(looks, self._links.depending(key_to_text(prefix)), now_ns)
        for prefix, names in batch.names:
            text = key_to_text(prefix)
            path = self._root + prefix
            for padded, flags in names.items():
                raw = padded.rstrip(b"\0")
                name = raw.decode("utf-8", "surrogateescape")
                if not ignores(text, name):
                    self._look(looks, path + raw, text + name, flags, now_ns)
                elif self._links:
                    self._look_at_links(looks, self._links.depending(text + name), now_ns)
        return self._agreed(looks) if self._links and looks.gone else looks

    def _agreed(self, looks: Looks) -> Looks:
        """Let the last word count for keys that were looked at twice, there at one time and gone at the other."""
        there = {look.key for look in (*looks.finished, *looks.unfinished)}
        gone = {key for key in looks.gone if key not in there or self.at(key) is None}
        return looks._replace(
            finished=[look for look in looks.finished if look.key not in gone],
            unfinished=[look for look in looks.unfinished if look.key not in gone],
            gone=sorted(gone),
        )

    def _look_at_links(self, looks: Looks, keys: Iterable[str], now_ns: int) -> None:
        """Look at other names of what changed; each was told before, so that its end must be told too."""
        for key in keys:
            self._look(
                looks, self._root + key_to_bytes(key), key, kernel.MOVED_TO | kernel.CLOSE_WRITE, now_ns, follow=False
            )

    def _look(self, looks: Looks, path: bytes, key: str, flags: int, now_ns: int, *, follow: bool = True) -> None:
        try:
            found, links = fingerprint_at(path)
        except OSError:
            # A loop of links or a directory that may not be entered: no server serves it either.
            found, links = None, 0
        if links in (LINK, LINKED_DIRECTORY):
            self._links.note_soft(key)
        elif links > 1 and found is not None:
            self._links.note_hard(key, found.inode or 0)
        if follow and self._links:
            self._look_at_links(looks, self._links.depending(key, found.inode if found else None), now_ns)
        if links == LINKED_DIRECTORY:
            looks.linked.append(key + "/")
        elif found is None:
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
