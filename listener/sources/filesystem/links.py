"""
Files with several names: what is written under one name changes under all.

inotify reports the one name that was used. Hard links are known by device and inode (:func:`file_number`),
symbolic links by the path that they name and every directory on it, so that ``..data`` of a Kubernetes
volume or ``current`` of a release switch brings up all that leads through it.

Events report only what happens below the root. What each of these names leads to, through whatever
hops, is therefore looked at again now and then as well (:class:`Targets`).

When a file gets a second name, only the new name is reported. Whoever looks at that one sees how many names there
are, and the others are searched for (:meth:`Links.lacking`, :class:`HardLinks`). Out of sight of both stays a file
of one known name that is written to through another, which is gone again before it could be looked at: scans find that.
"""

from __future__ import annotations

import math
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.files import guarded_directories
from listener.sources.filesystem.outstanding import means_absent

__all__ = ["MOST_ENTERED", "Links", "file_number", "inode_of", "is_cut_off", "is_followed", "is_loop", "links_to"]

_MOST = 200_000
MOST_ENTERED = 10_000
"""Links to directories that are followed: a few directories that link to one another have millions of paths."""
_SWEEP_SECONDS = 60.0
"""How long to wait before it is looked again which followed links are gone."""
_KERNEL = (b"/proc", b"/sys", b"/dev")
_INODE_BITS = 64


def file_number(status: os.stat_result) -> int:
    """Return device and inode as one number: an inode alone may be another file's on each mounted file system."""
    return status.st_dev << _INODE_BITS | status.st_ino


def inode_of(number: int) -> int:
    """Return the inode in a :func:`file_number`."""
    return number & ((1 << _INODE_BITS) - 1)


class Links:
    """
    Which keys depend on which. Methods may be called from several threads.

    Beyond 200,000 links no more are remembered (``overfull``): scans find what they would have reported.
    """

    def __init__(self, root: bytes, *, most: int = _MOST) -> None:
        """Know nothing yet of the tree at ``root``."""
        self.overfull = False
        self.outside = 0
        """How many symbolic links lead out of the root, at their first hop."""
        self.targets = Targets(root)
        self._most = most
        self._root = root
        self._real_root = os.path.realpath(root)
        self._lock = threading.Lock()
        self.leads: dict[str, int | str] = {}
        """By key: the :func:`file_number` of a file with several names, or the path that a link names. Often empty."""
        self._by_number: dict[int, set[str]] = {}
        self._by_path: dict[str, set[str]] = {}
        self._entered: set[str] = set()
        """The links to directories that are followed, by key."""
        self._swept_at = -math.inf
        self._complete: dict[int, int] = {}
        """By :func:`file_number`: with how many names all those in the tree were searched for."""

    def note_hard(self, key: str, found: Fingerprint, number: int) -> None:
        """Remember a name of a file that has several; ``number`` is its :func:`file_number`."""
        if self._note(key, number):
            self.targets.note(key, found)

    def note_soft(self, key: str, found: Fingerprint | None) -> None:
        """Remember a symbolic link, and the file that was found behind it, if it is one."""
        if self._note(key, self._named_by(key)):
            self.targets.note(key, found)

    def _named_by(self, key: str) -> str:
        """Return the path below the root that a symbolic link names; empty when it names none."""
        raw = key_to_bytes(key)
        try:
            target = os.readlink(self._root + raw)  # noqa: PTH115 - bytes
        except OSError:
            return ""
        here = os.path.dirname(raw)  # noqa: PTH120 - bytes
        for prefix in (self._root.rstrip(b"/"), self._real_root):
            if target.startswith(prefix + b"/"):
                target, here = target[len(prefix) + 1 :], b""
                break
        path = os.path.normpath(os.path.join(here, target))  # noqa: PTH118 - bytes
        if not path.startswith((b"/", b"..")) or self._is_inside(path):
            return key_to_text(path)
        return ""

    @staticmethod
    def _is_inside(path: bytes) -> bool:
        """Distinguish ``..data`` from ``../data``."""
        return not path.startswith(b"/") and path.split(b"/", 1)[0] != b".."

    def _note(self, key: str, lead: int | str) -> bool:
        """Remember what a key depends on; return whether there was room."""
        if self.leads.get(key) == lead:
            return True
        with self._lock:
            self._drop(key)
            if len(self.leads) >= self._most:
                self._sweep()
            if len(self.leads) >= self._most:
                self.overfull = True
                return False
            self.leads[key] = lead
            self.outside += lead == ""
            for keys in self._sets(lead):
                keys.add(key)
        return True

    def may_enter(self, key: str) -> bool:
        """Return whether this link to a directory is followed: up to :data:`MOST_ENTERED` are, by whichever path."""
        with self._lock:
            if key not in self._entered:
                if len(self._entered) >= MOST_ENTERED:
                    self._sweep_entered()
                if len(self._entered) >= MOST_ENTERED:
                    return False
                self._entered.add(key)
        return True

    def leads_on(self, prefix: bytes, name: bytes) -> bool:
        """Return whether a walk follows the link ``name`` in ``prefix``, apart from the limit: :func:`is_followed`."""
        is_on = is_followed(self._root, prefix, name)
        if not is_on:
            self.targets.verify(key_to_text(prefix + name + b"/"))
        return is_on

    def cuts_off(self, prefix: bytes, *, follow: bool = True) -> bool:
        """Return whether no walk comes to a directory: :func:`is_cut_off`."""
        is_off = is_cut_off(self._root, prefix, follow=follow)
        if is_off:
            self.targets.verify(key_to_text(prefix))
        return is_off

    def _sweep_entered(self) -> None:
        """Forget followed links that are not there any more."""
        now = time.monotonic()
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            links = ((key, self._root + key_to_bytes(key)) for key in self._entered)
            self._entered = {key for key, path in links if os.path.islink(path)}  # noqa: PTH114 - bytes

    def forget(self, key: str) -> None:
        """Forget a name that is gone, or that has become a file of one name."""
        self._entered.discard(key)
        if key in self.leads:
            with self._lock:
                self._drop(key)

    def _drop(self, key: str) -> None:
        lead = self.leads.pop(key, None)
        if lead is None:
            return
        self.targets.forget(key)
        self.outside -= lead == ""
        for keys in self._sets(lead):
            keys.discard(key)
        if isinstance(lead, int) and not self._by_number[lead]:
            del self._by_number[lead]
            self._complete.pop(lead, None)
        for path in _ways(lead) if isinstance(lead, str) else ():
            if not self._by_path[path]:
                del self._by_path[path]

    def _sets(self, lead: int | str) -> list[set[str]]:
        if isinstance(lead, int):
            return [self._by_number.setdefault(lead, set())]
        return [self._by_path.setdefault(path, set()) for path in _ways(lead)]

    def _sweep(self) -> None:
        """Drop names that are not there any more."""
        for key in list(self.leads):
            if not os.path.lexists(self._root + key_to_bytes(key)):
                self._drop(key)

    def depending(self, key: str, number: int | None = None) -> set[str]:
        """Return the other keys to look at when this key, file or directory changed, links of links included."""
        with self._lock:
            found = set(self._by_number.get(number, ())) if number is not None else set()
            waiting = [key.rstrip("/"), *found]
            while waiting:
                new = self._by_path.get(waiting.pop(), set()) - found
                found |= new
                waiting.extend(new)
        found.discard(key)
        return found

    def lacking(self, number: int, names: int) -> bool:
        """Return whether a file of so many names may have one in the tree that is not known."""
        return self._complete.get(number) != names and not self.overfull

    def still_lacking(self, files: Mapping[int, int]) -> dict[int, int]:
        """Return those of the files, by number, with fewer known names than they have; blocking."""
        return {number: names for number, names in files.items() if self._count_names(number) < names}

    def _count_names(self, number: int) -> int:
        """Return how many names of a file are known; one in a directory with several paths is one name."""
        with self._lock:
            keys = list(self._by_number.get(number, ()))
        names: set[tuple[int, int, str]] = set()
        for key in keys:
            directory, _, name = key.rpartition("/")
            with suppress(OSError):
                status = os.stat(self._root + key_to_bytes(directory))  # noqa: PTH116 - bytes
                names.add((status.st_dev, status.st_ino, name))
        return len(names)

    def found_all(self, number: int, names: int) -> None:
        """Note that every name in the tree is known of a file of so many names; others lie outside."""
        with self._lock:
            if number in self._by_number:
                self._complete[number] = names


def _ways(path: str) -> list[str]:
    """Return a path and all directories on the way to it."""
    parts = path.split("/") if path else []
    return ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]


def is_followed(root: bytes, prefix: bytes, name: bytes) -> bool:
    """Return whether the directory that a link leads to may belong to the tree: no loop, and not private."""
    return not is_loop(root, prefix, name) and not _is_private(root, os.path.realpath(root + prefix + name))


def links_to(root: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the links on the way from the root to a directory and at its end, each as directory and name."""
    above = b""
    for name in prefix.split(b"/")[:-1]:
        if os.path.islink(root + above + name):  # noqa: PTH114 - bytes
            yield above, name
        above += name + b"/"


def is_cut_off(root: bytes, prefix: bytes, *, follow: bool = True) -> bool:
    """
    Return whether a link that is not followed is on the way to a directory: then no walk comes there.

    Where links are followed (``follow``), only one that leads to a directory can be.
    """
    if follow and not os.path.isdir(root + prefix):  # noqa: PTH112 - bytes
        return False
    return any(not follow or not is_followed(root, above, name) for above, name in links_to(root, prefix))


def _is_private(root: bytes, real: bytes) -> bool:
    """Return whether it is or lies in a directory of the kernel's, or is the state directory, or holds one of these."""
    if real.startswith((os.path.realpath(root) + b"/", b"/dev/shm/")):
        return False
    if any(real.startswith(each + b"/") for each in _KERNEL):
        return True
    return any((each + b"/").startswith(real + b"/") for each in (*_KERNEL, *map(os.fsencode, guarded_directories())))


def is_loop(root: bytes, prefix: bytes, name: bytes) -> bool:
    """Return whether the link ``name`` in ``prefix`` leads to a directory that its own path goes through."""
    try:
        status = os.stat(root + prefix + name)  # noqa: PTH116 - bytes
        here = root + prefix
        while len(here) >= len(root):
            above = os.stat(here)  # noqa: PTH116 - bytes
            if (above.st_dev, above.st_ino) == (status.st_dev, status.st_ino):
                return True
            here = here[: here.rstrip(b"/").rindex(b"/") + 1]
    except (OSError, ValueError):
        return True
    # The root's own parents may be linked to as well.
    real, target = os.path.realpath(root), os.path.realpath(root + prefix + name)
    return real == target or real.startswith(target.rstrip(b"/") + b"/")


_NO_FILE = 0
_UNKNOWN = -1


class Targets:
    """Which file or directory each key led to when it was looked at last. Blocking; several threads may call."""

    def __init__(self, root: bytes) -> None:
        """Know nothing yet of the tree at ``root``, which ends with ``/``."""
        self._root = root
        self._seen: dict[str, int] = {}
        self._directories: set[str] = set()

    def note(self, key: str, found: Fingerprint | None) -> None:
        """
        Remember what a key leads to; ``found`` is the file that the caller saw there just before.

        Where that is another one by now, what is there counts as changed at the next look.
        """
        status, is_absent = self._look(key)
        if status is None:
            agreed = _NO_FILE if is_absent and found is None else _UNKNOWN
        elif stat.S_ISREG(status.st_mode):
            agreed = _identity(status) if found is not None and found[:4] == _state(status) else _UNKNOWN
        else:
            agreed = _identity(status) if found is None else _UNKNOWN
        self._seen[key] = agreed
        if status is not None and stat.S_ISDIR(status.st_mode):
            self._directories.add(key)
        else:
            self._directories.discard(key)

    def verify(self, key: str) -> None:
        """
        Check the links on the way to a key or directory that is left out; of one that is read see :meth:`verifying`.

        A link may lead elsewhere only while something behind it is read, or while it is found to be one that is not
        followed. The result belongs to another place then, so the link counts as changed, although it leads again to
        where it led when it was noted.
        """
        if not self._seen:
            return
        for end in (position for position, letter in enumerate(key) if letter == "/"):
            seen = self._seen.get(link := key[:end])
            if seen not in (None, _UNKNOWN) and self._now(link) != seen:
                self._seen[link] = _UNKNOWN

    @contextmanager
    def verifying(self, key: str) -> Iterator[None]:
        """Check the links on the way to a key or directory before and after it is read: see :meth:`verify`."""
        self.verify(key)
        try:
            yield
        finally:
            self.verify(key)

    def forget(self, key: str) -> None:
        """Forget a key."""
        self._seen.pop(key, None)
        self._directories.discard(key)

    def leads_to_directory(self, key: str) -> bool:
        """Return whether a key led to a directory when it was noted."""
        return key in self._directories

    def directories(self) -> list[str]:
        """Return the keys that lead to directories."""
        return list(self._directories)

    def changed(self) -> list[str]:
        """Return the keys that lead to something else than noted, or to a file that was written to."""
        found = []
        for key, seen in list(self._seen.items()):
            if self._now(key) not in (None, seen):
                found.append(key)
        return found

    def _now(self, key: str) -> int | None:
        """Return what a key leads to; ``None`` where that cannot be known."""
        status, is_absent = self._look(key)
        if status is None:
            return _NO_FILE if is_absent else None
        return _identity(status)

    def _look(self, key: str) -> tuple[os.stat_result | None, bool]:
        """Return what is there, or ``None`` and whether it is proved that nothing is."""
        try:
            return os.stat(self._root + key_to_bytes(key)), False  # noqa: PTH116 - bytes
        except OSError as error:
            return None, means_absent(error)


def _state(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _identity(status: os.stat_result) -> int:
    """
    Return a number that changes with what is served, in little memory.

    Change times are left out: a backup that makes hard links changes those of every file.
    """
    if stat.S_ISDIR(status.st_mode):
        return hash((status.st_dev, status.st_ino))
    if stat.S_ISREG(status.st_mode):
        return hash((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode))
    return _NO_FILE
