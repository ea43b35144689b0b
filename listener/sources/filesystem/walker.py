"""Reading a tree in steps: one directory after the other, each with the fingerprints of its files."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple

from listener.change import Fingerprint, ObjectState, key_to_bytes, key_to_text
from listener.sources.filesystem.links import Links, file_number, inode_of, links_to
from listener.sources.filesystem.names import READ, Directories, Ignore, access_of, fingerprint_of
from listener.sources.filesystem.outstanding import Unread, means_absent

__all__ = ["Listing", "Walker", "find_names", "holds_files"]


def holds_files(root: bytes) -> bool:
    """Return whether there is anything but directories below ``root``."""
    stack = [root]
    while stack:
        with suppress(OSError), os.scandir(stack.pop()) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    return True
                stack.append(entry.path)
    return False


_TYPE, _REGULAR = 0o170000, 0o100000
"""The bits of a mode that say what it is of, and those of a regular file."""
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
"""How ``os`` decodes names; encoding them with these returns the original bytes."""


@contextmanager
def _entries(path: bytes) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Open a directory and list it; its files are examined relative to it, so that its path is resolved once."""
    descriptor = os.open(path, _OPEN_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            yield entries
    finally:
        os.close(descriptor)


class Listing(NamedTuple):
    """One directory as it was when it was read."""

    directory: str
    """As a key: ``""`` or ending with ``/``."""
    states: list[ObjectState]
    """Of its files, in byte order of their names."""
    unknown: set[str]
    """Names that are there and could not be looked at: whether they are files, and which, is not known."""

    @property
    def files(self) -> dict[str, Fingerprint]:
        """The fingerprints of its files by name."""
        return {
            key_to_text(raw): Fingerprint(size_bytes, mtime_ns, ctime_ns, inode, access=access)
            for raw, size_bytes, mtime_ns, ctime_ns, inode, access in self.states
        }


class Walker:
    """
    A walk over a tree. Blocking: its steps are for a thread, one at a time.

    ``enter`` is called with each directory's path before it is read, so that it can be watched first.
    """

    def __init__(
        self,
        root: bytes,
        ignore: Ignore,
        *,
        prefix: str = "",
        links: Links | None = None,
        follow: bool = True,
        enter: Callable[[bytes], object],
    ) -> None:
        """Start at the directory ``prefix`` below ``root``."""
        self.unread = Unread()
        """Directories and names that could not be looked at."""
        self.ignored = 0
        """How many names it came by and left out: ignored files, and ignored directories as a whole."""
        self.hard_links: dict[int, int] = {}
        """
        Files that may have unknown names, by :func:`.links.file_number`, with how many names each has.

        Empty after a walk over the whole tree, which came by every name.
        """
        self.directories = 0
        self.files = 0
        self._root = root
        self._is_part = bool(prefix)
        self._ignore = ignore
        self._links = links or Links(root)
        self._follow = follow
        self._enter = enter
        self._access = Directories(root)
        start = key_to_bytes(prefix)
        self._stack = [start] if self._belongs(start) else []

    def step(self, files: int) -> list[Listing]:
        """Read on until so many files (at least one directory) were seen; an empty list is the end."""
        listings: list[Listing] = []
        seen = 0
        while self._stack and seen < files:
            prefix = self._stack.pop()
            self._enter(prefix)
            listing, below = self._read(prefix)
            if listing is not None:
                listings.append(listing)
                seen += len(listing.states) + 1
            self._stack.extend(reversed(below))
        self.directories += len(listings)
        self.files += seen - len(listings)
        return listings

    def again(self, directory: str) -> Listing | None:
        """Read one directory once more; ``None`` when it cannot be read, so that nothing is known."""
        raw = key_to_bytes(directory)
        listing = self._read(raw, gone_is_empty=True)[0]
        if listing is not None and self._links.cuts_off(raw, follow=self._follow):
            listing = Listing(directory, [], set())
        return listing

    def _belongs(self, start: bytes) -> bool:
        """Return whether a walk from the root would come by: by no link that is not followed, and nothing ignored."""
        names = key_to_text(start).split("/")[:-1]
        if any(self._ignore.directory("".join(f"{one}/" for one in names[:at]), name) for at, name in enumerate(names)):
            return False
        return all(self._enters(above, name) for above, name in links_to(self._root, start))

    def _enters(self, prefix: bytes, name: bytes) -> bool:
        """Return whether a link to a directory is followed; what is behind one beyond the limit is unread."""
        if not self._follow or not self._links.leads_on(prefix, name):
            return False
        key = key_to_text(prefix + name)
        if self._links.may_enter(key):
            return True
        self.unread.note(key + "/", errno.ELOOP)
        return False

    def is_unknown(self, directory: str) -> bool:
        """Return whether it lies in a directory that could not be read."""
        return self.unread.covers(directory)

    def _read(self, prefix: bytes, *, gone_is_empty: bool = False) -> tuple[Listing | None, list[bytes]]:
        text = key_to_text(prefix)
        with self._links.targets.verifying(text):
            return self._list(prefix, text, gone_is_empty=gone_is_empty)

    def _list(self, prefix: bytes, text: str, *, gone_is_empty: bool) -> tuple[Listing | None, list[bytes]]:
        listing = Listing(text, [], set())
        try:
            with _entries(self._root + prefix) as entries:
                below = self._sort_out(entries, listing, prefix)
        except OSError as error:
            if means_absent(error):
                return (Listing(text, [], set()) if gone_is_empty else None), []
            self.unread.note(text, error.errno or 0)
            return None, []
        listing.states.sort()
        return listing, below

    def _sort_out(self, entries: Iterable[os.DirEntry[str]], listing: Listing, prefix: bytes) -> list[bytes]:
        """Take the files of a directory into its listing; return the directories in it that belong to the tree."""
        below: list[bytes] = []
        above, add = self._access.of(prefix), listing.states.append
        ignore, first = self._ignore, self._ignore.first_bytes
        # One loop with few calls and none of our own for a plain file: each would cost some percent of a scan.
        for entry in entries:
            raw = entry.name.encode(_ENCODING, _ERRORS)
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                is_plain = False
            else:
                mode = status.st_mode
                is_plain = mode & _TYPE == _REGULAR and status.st_nlink == 1
            if not is_plain and entry.is_dir(follow_symlinks=False):
                if ignore.directory(listing.directory, key_to_text(raw)):
                    self.ignored += 1
                else:
                    below.append(prefix + raw + b"/")
                continue
            if (first is None or raw[0] in first) and ignore.file(listing.directory, key_to_text(raw)):
                self.ignored += 1
                continue
            if is_plain:
                who = 0 if not above and mode & READ == READ else access_of(status, above)
                add((raw, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, who))
            elif self._add_other(entry, raw, listing, prefix=prefix, above=above):
                below.append(prefix + raw + b"/")
        return below

    def _add_other(self, entry: os.DirEntry[str], raw: bytes, listing: Listing, *, prefix: bytes, above: int) -> bool:
        """Take what is no file of one name; return whether it is a link to a directory that belongs to the tree."""
        directory, name = listing.directory, key_to_text(raw)
        try:
            found = self._look(entry, directory + name, above)
        except OSError as error:
            listing.unknown.add(name)
            self.unread.note(directory + name, error.errno or 0)
            return False
        if found is not None:
            listing.states.append((raw, *found[:4], found.access))
        return found is None and entry.is_symlink() and self._leads_on(entry, prefix, directory, name)

    def _look(self, entry: os.DirEntry[str], key: str, above: int) -> Fingerprint | None:
        """Return the fingerprint of a regular file, links followed. Raise OSError where nothing is known."""
        found, is_link = None, entry.is_symlink()
        try:
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                found = fingerprint_of(status, above)
                if status.st_nlink > 1 and not is_link:
                    number = file_number(status)
                    self._links.note_hard(key, found, number)
                    if self._is_part and self._links.lacking(number, status.st_nlink):
                        self.hard_links[number] = status.st_nlink
        except OSError as error:
            if not means_absent(error):
                raise
        finally:
            if is_link:
                self._links.note_soft(key, found)
        return found

    def _leads_on(self, entry: os.DirEntry[str], prefix: bytes, text: str, name: str) -> bool:
        """Return whether a symbolic link leads to a directory that belongs to the tree."""
        with suppress(OSError):
            if self._follow and entry.is_dir():
                if not self._ignore.directory(text, name):
                    return self._enters(prefix, key_to_bytes(name))
                self.ignored += 1
        return False


def find_names(
    root: bytes,
    ignore: Ignore,
    links: Links,
    wanted: Mapping[int, int],
    *,
    follow: bool,
    is_watched: Callable[[bytes], bool],
) -> list[str]:
    """
    Return the keys below ``root`` that are names of the wanted files, by what directories say.

    Files are given by :func:`.links.file_number`, with how many names each has; where all are known, none is searched.

    Names in a directory that is not watched yet are left out: whoever reports them would not see
    their end, and they are looked at as soon as the directory is listed.
    """
    found: list[str] = []
    wanted = links.still_lacking(wanted)
    inodes = set(map(inode_of, wanted))
    stack = [b""] if wanted else []
    while stack:
        prefix = stack.pop()
        text = key_to_text(prefix)
        with suppress(OSError), os.scandir(root + prefix) as entries:
            for entry in entries:
                name = key_to_text(entry.name)
                if entry.inode() in inodes and entry.is_file(follow_symlinks=False):
                    if _is_one_of(entry, wanted) and not ignore.file(text, name) and is_watched(prefix):
                        found.append(text + name)
                elif _is_directory(entry, follow=follow) and not ignore.directory(text, name):
                    is_followed_link = entry.is_symlink() and links.leads_on(prefix, entry.name)
                    if not entry.is_symlink() or (is_followed_link and links.may_enter(text + name)):
                        stack.append(prefix + entry.name + b"/")
    return found


def _is_directory(entry: os.DirEntry[bytes], *, follow: bool) -> bool:
    """Return whether a name is a directory's; one that cannot be looked at, such as a link to itself, is none."""
    with suppress(OSError):
        return entry.is_dir(follow_symlinks=follow)
    return False


def _is_one_of(entry: os.DirEntry[bytes], wanted: Collection[int]) -> bool:
    """Return whether a name is one of these files, of the same file system too."""
    with suppress(OSError):
        return file_number(entry.stat(follow_symlinks=False)) in wanted
    return False
