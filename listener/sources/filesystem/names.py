"""
What a name stands for: whether it is content, which file is there, and who may read it.

- :class:`Ignore` decides which names are no content: those that the setting ``ignore`` lists, and no other.
- :class:`StatReader` looks at the names of a batch of events: one look turns an event into a state.
- A fingerprint holds who may read the file, as a number, because an origin that may not read it answers 403,
  whatever the bytes. Only what decides about reading counts: the read bits of the file and the search bits of
  every directory on its path, and where these do not let everybody, the owner and the group too. So a change of
  modes that lets nobody in or out (``chmod g+w``) is none.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from listener import kernel
from listener.change import Fingerprint, key_to_bytes, key_to_text
from listener.router.globs import glob_expression
from listener.sources.filesystem.links import Links, file_number
from listener.sources.filesystem.outstanding import found_rest_seconds, means_absent
from listener.sources.filesystem.pending_names import ARRIVED, FOUND, GONE, OPEN, UNBROKEN, Batch

__all__ = [
    "DEFAULT_IGNORE",
    "READ",
    "Directories",
    "FileStat",
    "FileStats",
    "Ignore",
    "StatReader",
    "access_of",
    "fingerprint_of",
    "has_access_list",
    "of_directory",
]

DEFAULT_IGNORE: tuple[str, ...] = (
    ".git/",
    ".git",  # of a submodule or a linked working tree: a file that names the directory
    ".svn/",
    ".hg/",
    ".bzr/",
    "lost+found/",
    ".snapshot/",
    ".Trash-*/",
    "$RECYCLE.BIN/",
    "System Volume Information/",
    ".~tmp~/",  # rsync --delay-updates
    ".rsync-partial/",
    "..data",  # Kubernetes volumes: a link to the time-stamped directory with the content
    "..data_tmp",
    "..????_??_??*/",
    ".*.sw?",  # vim
    ".#*",  # emacs: lock
    ".nfs????????????????????????",  # NFS: deleted, and still open somewhere
    ".DS_Store",
    "._*",
    "Thumbs.db",
    "desktop.ini",
)
"""What nobody serves: version control, the file system's own, one tool's own directories, editors' swap files."""

_WILD = re.compile(r"[*?]")


def _glob(pattern: str) -> str:
    """Translate one glob: ``*`` and ``?`` stay within a segment, ``**`` crosses them, brackets are plain."""
    return glob_expression(pattern.replace("[", "[[]"))


def _either(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(_glob, patterns)), re.DOTALL) if patterns else None


class _Names:
    """Globs for names, sorted by what they ask for: nearly every name is let through by three looks at its ends."""

    def __init__(self, patterns: Sequence[str]) -> None:
        plain = [pattern for pattern in patterns if not _WILD.search(pattern)]
        ends = [pattern for pattern in patterns if pattern[:1] == "*" and not _WILD.search(pattern[1:])]
        rest = [pattern for pattern in patterns if pattern not in plain and pattern not in ends]
        starts = {pattern[0] for pattern in rest if not _WILD.match(pattern)}
        self._plain = frozenset(plain)
        self._ends = tuple(pattern[1:] for pattern in ends)
        self._by_start = {start: _either([each for each in rest if each[0] == start]) for start in starts}
        self._any = _either([pattern for pattern in rest if _WILD.match(pattern)])
        is_any = bool(self._ends) or self._any is not None
        self.starts = None if is_any else frozenset({*starts, *(pattern[0] for pattern in plain)})
        """The first letters of the names that may match; ``None``: any."""

    def match(self, name: str) -> bool:
        if name in self._plain or name.endswith(self._ends):
            return True
        pattern = self._by_start.get(name[0])
        if pattern is not None and pattern.fullmatch(name):
            return True
        return self._any is not None and self._any.fullmatch(name) is not None


class Ignore:
    """
    Decides by name and path what is no content; built once.

    ``name`` stands for files and symbolic links of that name at any depth, ``name/`` for directories and
    all below; with a ``/`` elsewhere it is a path from the root.
    """

    def __init__(self, patterns: Sequence[str] = DEFAULT_IGNORE) -> None:
        """Compile the patterns."""
        self._patterns = tuple(patterns)
        named = [pattern for pattern in patterns if "/" not in pattern.rstrip("/")]
        paths = [pattern.lstrip("/") for pattern in patterns if "/" in pattern.rstrip("/")]
        self._files = _Names([pattern for pattern in named if not pattern.endswith("/")])
        self._directories = _Names([pattern.rstrip("/") for pattern in named if pattern.endswith("/")])
        self._file_paths = _either([path for path in paths if not path.endswith("/")])
        self._directory_paths = _either([path.rstrip("/").removesuffix("/**") for path in paths])
        self._starts = self._files.starts if self._file_paths is None else None
        self.first_bytes = None if self._starts is None else frozenset(key_to_bytes(one)[0] for one in self._starts)
        """With which bytes the names of ignored files begin, as far as these decide; ``None``: with any."""

    def file(self, prefix: str, name: str) -> bool:
        """Return whether the file ``name`` directly in the directory ``prefix`` (``""`` or ``"a/"``) is no content."""
        if self._starts is not None and name[:1] not in self._starts:
            return False
        if self._files.match(name):
            return True
        return self._file_paths is not None and self._file_paths.fullmatch(prefix + name) is not None

    def directory(self, prefix: str, name: str) -> bool:
        """Return whether nothing below the directory ``name`` in ``prefix`` is content."""
        if self._directories.match(name):
            return True
        return self._directory_paths is not None and self._directory_paths.fullmatch(prefix + name) is not None

    def reason(self, prefix: str, name: str, *, is_directory: bool) -> str:
        """Return the first pattern that matches, or an empty string."""
        for pattern in self._patterns:
            one = Ignore((pattern,))
            if (one.directory if is_directory else one.file)(prefix, name):
                return pattern
        return ""


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
_BUT_DELETED = ~(kernel.DELETE | GONE | ARRIVED | FOUND)


class FileStat(NamedTuple):
    """One file that is there, but perhaps still written to."""

    key: str
    fingerprint: Fingerprint
    from_event: bool = True
    """False when it was only found, so that nobody need be writing to it."""


class FileStats(NamedTuple):
    """What became of all names of a batch."""

    finished: dict[str, Fingerprint]
    """What is there, by key."""
    in_place: set[str]
    """
    Keys of finished files that were written in place, or went and came back.

    Of the others one rename brought the file or its directory, or its attributes changed, and nothing else happened.
    """
    unfinished: list[FileStat]
    gone: list[str]
    linked: list[str]
    """Directories behind symbolic links, or in place of one, as keys that end with ``/``: to be compared."""
    hard_links: dict[int, int]
    """Files with more names than are known, each by its :func:`file_number`, and how many they have."""
    unknown: dict[str, int]
    """Keys that could not be looked at, each with its errno: what was known of them stays."""
    unlinked: list[str]
    """Keys of former links to directories where no directory is any more: what was known below them is gone."""

    def finish(self, key: str, found: Fingerprint, flags: int) -> None:
        """Note a finished file, and what events befell it."""
        self.finished[key] = found
        if not _is_atomic(flags):
            self.in_place.add(key)


def fingerprint_of(status: os.stat_result, above: int = 0) -> Fingerprint:
    """Return what the index keeps of a file; ``above`` says who may enter its directory (see :func:`of_directory`)."""
    # Twice as fast as the class's own constructor, which counts at a million files.
    who = 0 if not above and status.st_mode & READ == READ else access_of(status, above)
    return _new(Fingerprint, (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, None, who))


def access_of(status: os.stat_result, above: int) -> int:
    """Return who may read a file in a directory that those above it let ``above`` into."""
    return joined(above, of_file(status))


def fingerprint_at(path: bytes, above: int = 0) -> tuple[Fingerprint | None, int, int | None]:
    """
    Look at a path, through a symbolic link where it is one: what a web server would serve.

    Return the fingerprint, or ``None`` unless there is a regular file, how many names it has
    (``LINK`` for a symbolic link, ``LINKED_DIRECTORY`` for one that leads to a directory), and its
    :func:`file_number`. A link that leads nowhere or in a circle is one to no file. Raise OSError
    where nothing is known: after any error that does not prove absence (see :func:`means_absent`).
    """
    links = 0
    try:
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            return fingerprint_of(status, above), status.st_nlink, file_number(status)
        if stat.S_ISLNK(status.st_mode):
            links = LINK
            status = os.stat(path)  # noqa: PTH116 - bytes
    except OSError as error:
        if means_absent(error):
            return None, links, None
        raise
    if links and stat.S_ISDIR(status.st_mode):
        return None, LINKED_DIRECTORY, None
    if not stat.S_ISREG(status.st_mode):
        return None, 0, None
    return fingerprint_of(status, above), links, file_number(status)


def _is_atomic(flags: int) -> bool:
    """
    Return whether no event shows that a file was written in place, or went and came back.

    A file that is there although its deletion is all that events reported is in a directory that was replaced.
    """
    return not flags & _IN_PLACE or not flags & _BUT_DELETED


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
        return bool(self._links.leads)

    def at(self, key: str) -> Fingerprint | None:
        """Return the fingerprint of one key, or ``None`` when there is no such file (any more). Raise OSError."""
        raw = key_to_bytes(key)
        with self._links.targets.verifying(key):
            return fingerprint_at(self._root + raw, self._directories.of(raw[: raw.rfind(b"/") + 1]))[0]

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
        looks = FileStats({}, set(), [], [], [], {}, {}, [])
        self.look_afresh()
        ignore, first, plain = self._ignore, self._ignore.first_bytes, None if self._links.leads else self._plain
        for prefix in batch.gone if self._links.leads else ():
            self._look_at_links(looks, self._links.depending(key_to_text(prefix)), _IN_PLACE)
        for prefix, names in batch.names:
            text = key_to_text(prefix)
            if (batch.is_hint and not is_watched(prefix)) or (self._links.leads and self._links.cuts_off(prefix)):
                self._forget(text + key_to_text(name) for name in names)
                continue
            path, above = self._root + prefix, self._directories.of(prefix)
            with self._links.targets.verifying(text):
                for padded, flags in names.items():
                    raw = padded.rstrip(b"\0")
                    name = raw.decode("utf-8", "surrogateescape")
                    if (first is None or raw[0] in first) and ignore.file(text, name):
                        self.ignored += 1
                        if self._links.leads:
                            self._look_at_links(looks, self._links.depending(text + name), flags)
                    elif plain is None or not plain(looks, path + raw, text + name, flags, above):
                        self._look(looks, path + raw, text + name, flags)
        return self._agreed(looks) if self._links.leads and (looks.gone or looks.linked) else looks

    def _agreed(self, looks: FileStats) -> FileStats:
        """Let the last word count for keys that were looked at twice, a file at one time and none at the other."""
        there = {*looks.finished, *(look.key for look in looks.unfinished)}
        ended = {*looks.gone, *(key.rstrip("/") for key in looks.linked)}
        back = {key for key in ended & there if not self.is_gone(key)}
        return looks._replace(
            finished={key: found for key, found in looks.finished.items() if key not in ended or key in back},
            unfinished=[look for look in looks.unfinished if look.key not in ended or look.key in back],
            gone=sorted({*looks.gone} - back),
        )

    def _look_at_links(self, looks: FileStats, keys: Iterable[str], flags: int) -> None:
        """Look at other names of what changed so; each was reported before, so that its end must be reported too."""
        flags = kernel.MOVED_TO if _is_atomic(flags) else kernel.MOVED_TO | kernel.CLOSE_WRITE
        for key in keys:
            if self._is_watched(key_to_bytes(_parts(key)[0])):
                with self._links.targets.verifying(key):
                    self._look(looks, self._root + key_to_bytes(key), key, flags, follow=False)
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
        looks.finish(key, fingerprint_of(status, above), flags)
        return True

    def _look(self, looks: FileStats, path: bytes, key: str, flags: int, *, follow: bool = True) -> None:
        try:
            prefix = path[len(self._root) : path.rfind(b"/") + 1]
            found, links, number = fingerprint_at(path, self._directories.of(prefix))
        except OSError as error:
            looks.unknown[key] = error.errno or 0
            return
        was_link = bool(self._links.leads) and self._links.targets.leads_to_directory(key)
        self._note(key, found, links, number)
        if follow and self._links.leads:
            self._look_at_links(looks, self._links.depending(key, number), flags)
            if number is not None and links > 1 and self._links.lacking(number, links):
                looks.hard_links[number] = links
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
            looks.finish(key, found, flags)

    def _note(self, key: str, found: Fingerprint | None, links: int, number: int | None) -> None:
        if links in (LINK, LINKED_DIRECTORY):
            self._links.note_soft(key, found)
        elif links > 1 and found is not None and number is not None:
            self._links.note_hard(key, found, number)
        elif self._links.leads:
            self._links.forget(key)

    def names(
        self, keys: Iterable[str], wanted: Mapping[int, int], is_watched: Callable[[bytes], bool] = _everywhere
    ) -> dict[str, Fingerprint]:
        """Look at what a search for other names of these files found, and at links to them; note that it is all."""
        self.look_afresh()
        # What took the place of a link to a directory waits for the event of it: with it goes what was behind the link.
        found = {key for key in keys if not self._links.targets.leads_to_directory(key)}
        for key in found:
            with suppress(OSError):
                self._note(key, *fingerprint_at(self._root + key_to_bytes(key)))
        for number, names in wanted.items():
            self._links.found_all(number, names)
        looks: dict[str, Fingerprint] = {}
        for key in sorted(found.union(*map(self._links.depending, found))):
            with suppress(OSError):
                if is_watched(key_to_bytes(_parts(key)[0])) and (there := self.at(key)) is not None:
                    looks[key] = there
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


READ, _SEARCH = 0o444, 0o111
_MOST_CACHED = 10_000


def of_file(status: os.stat_result) -> int:
    """Return who may read a file, 0 for everybody."""
    return 0 if status.st_mode & READ == READ else _packed(status, READ)


def of_directory(status: os.stat_result) -> int:
    """Return who may enter a directory, 0 for everybody."""
    return 0 if status.st_mode & _SEARCH == _SEARCH else _packed(status, _SEARCH)


def joined(above: int, here: int) -> int:
    """Return who gets past both."""
    return here if not above else (above * 1_000_003 + here) & 0x3FFF_FFFF_FFFF_FFFF | 1


def _packed(status: os.stat_result, bits: int) -> int:
    owners = (status.st_uid * 1_000_003 + status.st_gid) & 0xFFFF_FFFF_FFFF
    return owners << 10 | (status.st_mode & bits) << 1 | 1


def has_access_list(path: bytes) -> bool:
    """Return whether an access list says more about a file than its mode does."""
    try:
        os.getxattr(path, "system.posix_acl_access")
    except OSError:
        return False
    return True


class Directories:
    """Who may enter the directories of a tree, remembered for one walk or one batch. Blocking."""

    def __init__(self, root: bytes) -> None:
        """Know nothing yet of the tree at ``root``, whose own parents do not count."""
        self._root = root
        self._known: dict[bytes, int] = {}

    def of(self, prefix: bytes) -> int:
        """Return who may come as far as into a directory (``b""`` or ending with ``/``)."""
        found = self._known.get(prefix)
        if found is None:
            above = self.of(prefix[: prefix.rfind(b"/", 0, -1) + 1]) if prefix else 0
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            found = self._known[prefix] = joined(above, self._look(prefix))
        return found

    def _look(self, prefix: bytes) -> int:
        try:
            return of_directory(os.stat(self._root + prefix))  # noqa: PTH116 - bytes
        except OSError:
            return 0  # what is in it cannot be looked at either
