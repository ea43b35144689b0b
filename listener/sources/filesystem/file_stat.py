"""What became of a name: one look at the file system turns an event into a state."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.sources.filesystem import kernel, readers
from listener.sources.filesystem.absence import means_absent
from listener.sources.filesystem.links import Links, is_cut_off
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.pending_names import ARRIVED, FOUND, GONE, OPEN, UNBROKEN, Batch
from listener.sources.filesystem.readers import Directories
from listener.sources.filesystem.unfinished import found_rest_seconds

__all__ = ["LINK", "LINKED_DIRECTORY", "FileStat", "FileStats", "StatReader", "fingerprint_at", "fingerprint_of"]

LINK = -1
LINKED_DIRECTORY = -2

_new = tuple.__new__
_WENT = kernel.DELETE | kernel.MOVED_FROM
_ENDS = _WENT | kernel.CREATE | kernel.MOVED_TO
"""Without one of these the end of a name that is not there is still to be reported: a deleted file may be
written to."""
_CAME_AND_WENT = UNBROKEN | GONE
"""A temporary file, of which nothing is left to look at."""
_IN_PLACE = kernel.CREATE | kernel.MODIFY | kernel.CLOSE_WRITE | _WENT | OPEN


class FileStat(NamedTuple):
    """One object that is there."""

    key: str
    fingerprint: Fingerprint
    atomic: bool = False
    """True when one rename brought it or its directory, or its attributes changed, and nothing else happened to it."""
    from_event: bool = True
    """False when it was only found, so that nobody need be writing to it."""


class FileStats(NamedTuple):
    """What became of all names of a batch."""

    finished: list[FileStat]
    unfinished: list[FileStat]
    """There, but perhaps still written to."""
    gone: list[str]
    linked: list[str]
    """Directories behind symbolic links, or in place of one, as keys that end with ``/``: to be compared."""
    hard_links: dict[int, int]
    """Inodes of files with more names than are known, and how many they have."""
    unknown: dict[str, int]
    """Keys that could not be looked at, each with its errno: what was known of them stays."""
    unlinked: list[str]
    """Keys of former links to directories where no directory is any more: what was known below them is gone."""


def fingerprint_of(status: os.stat_result, above: int = 0) -> Fingerprint:
    """Return what the index keeps of a file; ``above`` says who may enter its directory (see :mod:`.readers`)."""
    # Twice as fast as the class's own constructor, which counts at a million files.
    who = 0 if not above and status.st_mode & 0o444 == 0o444 else readers.joined(above, readers.of_file(status))
    return _new(Fingerprint, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, None, who))


def fingerprint_at(path: bytes, above: int = 0) -> tuple[Fingerprint | None, int]:
    """
    Look at a path, through a symbolic link where it is one: what a web server would serve.

    Return the fingerprint, or ``None`` unless there is a regular file, and how many names it has
    (``LINK`` for a symbolic link, ``LINKED_DIRECTORY`` for one that leads to a directory). A link
    that leads nowhere or in a circle is one to no file. Raise OSError where nothing is known: after
    any error that does not prove absence (see :mod:`.absence`).
    """
    links = 0
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            return fingerprint_of(status, above), status.st_nlink
        if stat.S_ISLNK(status.st_mode):
            links = LINK
            status = os.stat(path)  # noqa: PTH116 - bytes
    except OSError as error:
        if means_absent(error):
            return None, links
        raise
    if links and stat.S_ISDIR(status.st_mode):
        return None, LINKED_DIRECTORY
    if not stat.S_ISREG(status.st_mode):
        return None, 0
    return fingerprint_of(status, above), links


def _is_atomic(flags: int) -> bool:
    """
    Return whether no event shows that a file was written in place, or went and came back.

    A file that is there although its deletion is all that events reported is in a directory that was replaced.
    """
    return not flags & _IN_PLACE or not flags & ~(kernel.DELETE | GONE | ARRIVED | FOUND)


def _everywhere(prefix: bytes) -> bool:  # noqa: ARG001 - of a tree that is polled
    """Act as if every directory were watched."""
    return True


def _parts(key: str) -> tuple[str, str]:
    cut = key.rfind("/") + 1
    return key[:cut], key[cut:]


class StatReader:
    """Looks at pending names. Blocking: for a thread of its own."""

    def __init__(self, root: bytes, ignore: Ignore, links: Links, *, stable_seconds: float) -> None:
        """Look below ``root``; ``links`` learns of every file with several names."""
        self._links = links
        self.may_enter = links.may_enter
        """See there."""
        self._root = root
        self._ignore = ignore
        self._stable_ns = int(stable_seconds * 1e9)
        self._found_ns = int(found_rest_seconds(stable_seconds) * 1e9)
        self._rested_ns = 0
        """Files that were found and changed later than this time of day may still be written to."""
        self._directories = Directories(root)
        self._is_watched: Callable[[bytes], bool] = _everywhere
        self.ignored = 0
        """How many changed names were left out because they are ignored."""

    @property
    def has_links(self) -> bool:
        """Whether any symbolic link, or file with several names, is known."""
        return bool(self._links)

    def at(self, key: str) -> Fingerprint | None:
        """Return the fingerprint of one key, or ``None`` when there is no such file (any more). Raise OSError."""
        raw = key_to_bytes(key)
        self._verify(key)
        found = fingerprint_at(self._root + raw, self._directories.of(raw[: raw.rfind(b"/") + 1]))[0]
        self._verify(key)
        return found

    def _verify(self, key: str) -> None:
        """See that links on the way to a key lead where they led when they were noted: before and after each look."""
        self._links.targets.verify(key)

    def look_afresh(self) -> None:
        """Forget who may enter directories: to be called before each portion of looks."""
        self._directories = Directories(self._root)

    def is_gone(self, key: str) -> bool:
        """Return whether there is surely no such file (any more)."""
        try:
            return fingerprint_at(self._root + key_to_bytes(key))[0] is None
        except OSError:
            return False

    def all(self, batch: Batch, now_ns: int, is_watched: Callable[[bytes], bool] = _everywhere) -> FileStats:
        """
        Look at every name of a batch. ``now_ns`` is the time of day in nanoseconds.

        Names that no event of the batch named are looked at only in directories that ``is_watched`` knows: the
        end of another one would not be reported, and what is in it is looked at once it is listed.
        """
        self._is_watched = is_watched
        self._rested_ns = now_ns - (self._stable_ns if batch.is_hint else self._found_ns)
        looks = FileStats([], [], [], [], {}, {}, [])
        self.look_afresh()
        ignores, plain = self._ignore.file, None if self._links else self._plain
        for prefix in batch.gone if self._links else ():
            self._look_at_links(looks, self._links.depending(key_to_text(prefix)), _IN_PLACE)
        for prefix, names in batch.names:
            text = key_to_text(prefix)
            if (batch.is_hint and not is_watched(prefix)) or (self._links and is_cut_off(self._root, prefix)):
                self._forget(text + key_to_text(name) for name in names)
                continue
            path, above = self._root + prefix, self._directories.of(prefix)
            self._verify(text)
            for padded, flags in names.items():
                raw = padded.rstrip(b"\0")
                name = raw.decode("utf-8", "surrogateescape")
                if not ignores(text, name):
                    if plain is None or not plain(looks, path + raw, text + name, flags, above):
                        self._look(looks, path + raw, text + name, flags)
                    continue
                self.ignored += 1
                if self._links:
                    self._look_at_links(looks, self._links.depending(text + name), flags)
            self._verify(text)
        return self._agreed(looks) if self._links and (looks.gone or looks.linked) else looks

    def _agreed(self, looks: FileStats) -> FileStats:
        """Let the last word count for keys that were looked at twice, a file at one time and none at the other."""
        there = {look.key for look in (*looks.finished, *looks.unfinished)}
        ended = {*looks.gone, *(key.rstrip("/") for key in looks.linked)}
        back = {key for key in ended & there if not self.is_gone(key)}
        return looks._replace(
            finished=[look for look in looks.finished if look.key not in ended or look.key in back],
            unfinished=[look for look in looks.unfinished if look.key not in ended or look.key in back],
            gone=sorted({*looks.gone} - back),
        )

    def _look_at_links(self, looks: FileStats, keys: Iterable[str], flags: int) -> None:
        """Look at other names of what changed so; each was reported before, so that its end must be reported too."""
        flags = kernel.MOVED_TO if _is_atomic(flags) else kernel.MOVED_TO | kernel.CLOSE_WRITE
        for key in keys:
            if self._is_watched(key_to_bytes(_parts(key)[0])):
                self._verify(key)
                self._look(looks, self._root + key_to_bytes(key), key, flags, follow=False)
                self._verify(key)
            else:
                self._forget([key])

    def _forget(self, keys: Iterable[str]) -> None:
        """Forget names in directories that are not watched: they are noted again when those are listed."""
        for key in keys:
            self._links.forget(key)

    def _plain(self, looks: FileStats, path: bytes, key: str, flags: int, above: int) -> bool:
        """Look at what nearly every name is where no links are known: a file of one name, closed, renamed or gone."""
        if flags & _CAME_AND_WENT == _CAME_AND_WENT:
            looks.gone.append(key)  # what is there now has another event, or none was lost
            return True
        if flags & OPEN:
            return False
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            if flags & _ENDS:
                looks.gone.append(key)
            return True
        except OSError:
            return False
        is_fresh = flags & FOUND and status.st_ctime_ns > self._rested_ns
        if is_fresh or status.st_nlink != 1 or not stat.S_ISREG(status.st_mode):
            return False
        looks.finished.append(_new(FileStat, (key, fingerprint_of(status, above), _is_atomic(flags), True)))
        return True

    def _look(self, looks: FileStats, path: bytes, key: str, flags: int, *, follow: bool = True) -> None:
        try:
            prefix = path[len(self._root) : path.rfind(b"/") + 1]
            found, links = fingerprint_at(path, self._directories.of(prefix))
        except OSError as error:
            looks.unknown[key] = error.errno or 0
            return
        inode = found.inode if found else None
        was_link = self._links.targets.leads_to_directory(key)
        self._note(key, found, links)
        if follow and self._links:
            self._look_at_links(looks, self._links.depending(key, inode), flags)
            if inode is not None and links > 1 and self._links.lacking(inode, links):
                looks.hard_links[inode] = links
        is_directory = links == LINKED_DIRECTORY or (was_link and os.path.isdir(path))  # noqa: PTH112 - bytes
        if was_link and not is_directory:
            looks.unlinked.append(key)
        if is_directory:
            if not self._ignore.directory(*_parts(key)):
                looks.linked.append(key + "/")
        elif found is None:
            if flags & _ENDS:
                looks.gone.append(key)
        elif self._is_unfinished(found, links, flags):
            looks.unfinished.append(FileStat(key, found, from_event=not flags & FOUND))
        else:
            looks.finished.append(_new(FileStat, (key, found, _is_atomic(flags), True)))

    def _note(self, key: str, found: Fingerprint | None, links: int) -> None:
        if links in (LINK, LINKED_DIRECTORY):
            self._links.note_soft(key, found)
        elif links > 1 and found is not None:
            self._links.note_hard(key, found)
        else:
            self._links.forget(key)

    def names(
        self, keys: Iterable[str], inodes: Mapping[int, int], is_watched: Callable[[bytes], bool] = _everywhere
    ) -> list[FileStat]:
        """Look at what a search for other names of these inodes found, and at links to them; note that it is all."""
        self.look_afresh()
        for key in (found := set(keys)):
            with suppress(OSError):
                fingerprint, links = fingerprint_at(self._root + key_to_bytes(key))
                self._note(key, fingerprint, links)
        for inode, number in inodes.items():
            self._links.found_all(inode, number)
        looks: list[FileStat] = []
        for key in sorted(found.union(*map(self._links.depending, found))):
            with suppress(OSError):
                if is_watched(key_to_bytes(_parts(key)[0])) and (there := self.at(key)) is not None:
                    looks.append(FileStat(key, there))
        return looks

    def missing(self, directory: str, names: Iterable[str]) -> list[str]:
        """Return which of these names in a directory are those of no file (any more)."""
        return [directory + name for name in names if self.is_gone(directory + name)]

    def _is_unfinished(self, found: Fingerprint, links: int, flags: int) -> bool:
        if not flags & (OPEN | FOUND):
            return False
        if flags & FOUND:
            return (found.ctime_ns or 0) > self._rested_ns
        # A second name for a file (link) is reported as made, and never as closed.
        return links > 0 and (bool(flags & kernel.MODIFY) or links == 1)
