"""
What an operator is shown of a tree, in words: what ``check`` tests before anything is watched, and what is wrong later.

Everything here blocks.
"""

from __future__ import annotations

import errno
import grp
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from listener.change import key_to_text
from listener.contracts import Check, CheckState
from listener.errors import SourceUnavailable
from listener.kernel import Inotify
from listener.sources.filesystem.fanotify import refusal
from listener.sources.filesystem.links import MOST_ENTERED, is_followed, is_loop
from listener.sources.filesystem.mounts import Mount, mount_of, mounts_below, outdated
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.outstanding import Wanted
from listener.sources.filesystem.settings import FilesystemSettings

__all__ = [
    "TOO_MANY_LINKS",
    "choose_backend",
    "ignored_paths",
    "open_hint",
    "probe",
    "probe_path",
    "uncompared_words",
    "unread_words",
    "unwatched_words",
]

_LONGEST_COUNT_SECONDS = 20.0
_GOOD_INSTANCES = 128
"""The kernel's own default; each source takes one, and so does every other program that watches files."""
_GOOD_QUEUE = 131_072
"""Kept only while events wait, so that a generous limit costs nothing; watched trees with storms want 1,048,576."""


def choose_backend(settings: FilesystemSettings) -> tuple[str, str]:
    """Return the backend to use and why."""
    if settings.backend != "auto":
        return settings.backend, "as configured"
    mount = mount_of(settings.path)
    if mount is not None and not mount.reports_every_change:
        return "polling", f"{mount.kind} at {mount.point}: other machines change it, which this kernel does not report"
    return "inotify", f"{mount.kind} at {mount.point}" if mount else "the mount table cannot be read"


def count_directories(path: str | os.PathLike[str]) -> tuple[int, int, bool]:
    """Return how many directories there are, how many of them cannot be read, and whether all were counted."""
    stack, number, unreadable, end = [os.fspath(path)], 0, 0, time.monotonic() + _LONGEST_COUNT_SECONDS
    while stack:
        number += 1
        try:
            with os.scandir(stack.pop()) as entries:
                stack.extend(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError:
            unreadable += 1
        if time.monotonic() > end:
            return number + len(stack), unreadable, False
    return number, unreadable, True


def probe(key: str, settings: FilesystemSettings) -> Iterator[Check]:
    """Yield what is known of backend, directories and limits. The path was found readable before."""
    backend, why = choose_backend(settings)
    yield Check(key, CheckState.OK, f"backend {backend}: {why}")
    number, unreadable, complete = count_directories(settings.path)
    yield Check(key, CheckState.OK, f"{'' if complete else 'more than '}{number} directories")
    yield summary(key.rpartition(".")[0] + ".ignore", settings)
    if unreadable:
        yield Check(
            key, CheckState.WARNING, f"{unreadable} directories cannot be read",
            f"let user {os.geteuid()} read and enter them, or ignore them",
        )  # fmt: skip
    here = mount_of(settings.path)
    if backend != "polling" and here is not None and not here.reports_every_change:
        yield Check(
            key, CheckState.WARNING,
            f"{here.kind} at {here.point}: other machines change it, which {backend} does not report",
            'take backend = "auto" or "polling"',
        )  # fmt: skip
    if here is not None and here.is_deleted:
        yield Check(key, CheckState.FAILED, outdated(here), "restart the service; mount the parent directory")
    elif here is not None and here.shown != "/":
        yield Check(
            key, CheckState.OK,
            f"{here.point} shows the directory {here.shown!a} of its file system: when that is renamed or replaced "
            "outside, the new one is not seen",
            "mount a parent directory that is never replaced, if deploys replace this one",
        )  # fmt: skip
    yield from links_outside(key, settings)
    for mount in mounts_below(settings.path):
        if not mount.reports_every_change and backend != "polling":
            yield Check(
                key, CheckState.WARNING, f"changes below {mount.point} ({mount.kind}) are found by scans only",
                'give it a source of its own with backend = "polling"',
            )  # fmt: skip
    if backend == "inotify":
        yield from _instances(key)
        yield from _limits(key, number)
    elif backend == "fanotify":
        yield from _fanotify(key.rpartition(".")[0], settings)


def _fanotify(key: str, settings: FilesystemSettings) -> Iterator[Check]:
    refused = refusal(settings.path)
    if refused is not None:
        yield Check(f"{key}.backend", CheckState.FAILED, str(refused), refused.hint)
        return
    yield Check(f"{key}.backend", CheckState.OK, "fanotify can mark the file system")
    queue = limit("max_queued_events", "fanotify")
    if queue is not None and queue < _GOOD_QUEUE:
        yield Check(
            f"{key}.backend", CheckState.WARNING,
            f"fs.fanotify.max_queued_events is {queue}, for all that changes on the file system: "
            "a burst of changes may cost a rescan",
            sysctl_line("max_queued_events", 1_048_576, "fanotify"),
        )  # fmt: skip


def _instances(key: str) -> Iterator[Check]:
    """Open an inotify instance as the daemon will: of these a user may have so many in all its programs."""
    most = limit("max_user_instances")
    try:
        Inotify().close()
    except OSError as error:
        what = f"no inotify instance can be opened: {error.strerror}; fs.inotify.max_user_instances is {most}"
        yield Check(key, CheckState.FAILED, what, open_hint(error, most))
        return
    if most is not None and most < _GOOD_INSTANCES:
        yield Check(
            key, CheckState.WARNING, f"fs.inotify.max_user_instances is {most}, for all programs of one user together",
            sysctl_line("max_user_instances", _GOOD_INSTANCES),
        )  # fmt: skip


def _limits(key: str, directories: int) -> Iterator[Check]:
    watches, queue = limit("max_user_watches"), limit("max_queued_events")
    if watches is not None and watches < directories:
        yield Check(
            key, CheckState.FAILED, f"fs.inotify.max_user_watches is {watches}, the tree has {directories} directories",
            sysctl_line("max_user_watches", 2 * directories),
        )  # fmt: skip
    elif watches is not None and watches < 2 * directories:
        yield Check(
            key, CheckState.WARNING, f"fs.inotify.max_user_watches is {watches}, for {directories} directories now",
            sysctl_line("max_user_watches", 2 * directories),
        )  # fmt: skip
    if queue is not None and queue < _GOOD_QUEUE:
        yield Check(
            key, CheckState.WARNING, f"fs.inotify.max_queued_events is {queue}: a burst of changes may cost a rescan",
            sysctl_line("max_queued_events", 1_048_576),
        )  # fmt: skip


_LONGEST_WALK_SECONDS = 20.0
_EXAMPLES = 3


class Ignored(NamedTuple):
    """One path that is left out."""

    path: str
    """Below the root; a directory, which stands for all below it, ends with ``/``."""
    pattern: str


def ignored_paths(settings: FilesystemSettings, *, seconds: float | None = None) -> Iterator[Ignored]:
    """Yield what is left out, walking the tree without following links, for so long at most."""
    ignore, root = Ignore(settings.ignore), os.fsencode(settings.path).rstrip(b"/") + b"/"
    end = None if seconds is None else time.monotonic() + seconds
    stack = [b""]
    while stack and (end is None or time.monotonic() < end):
        prefix = stack.pop()
        text = key_to_text(prefix)
        for name, is_directory, is_link in _entries(root + prefix):
            pattern = _pattern(ignore, text, key_to_text(name), is_directory=is_directory, is_link=is_link)
            if pattern:
                yield Ignored(text + key_to_text(name) + "/" * is_directory, pattern)
            elif is_directory:
                stack.append(prefix + name + b"/")


def _entries(path: bytes) -> list[tuple[bytes, bool, bool]]:
    try:
        with os.scandir(path) as entries:
            return sorted((one.name, one.is_dir(follow_symlinks=False), one.is_symlink()) for one in entries)
    except OSError:
        return []  # reported by the count of directories that cannot be read


def _pattern(ignore: Ignore, prefix: str, name: str, *, is_directory: bool, is_link: bool) -> str:
    if not is_directory and ignore.file(prefix, name):
        return ignore.reason(prefix, name, is_directory=False)
    if (is_directory or is_link) and ignore.directory(prefix, name):
        return ignore.reason(prefix, name, is_directory=True)
    return ""


def summary(key: str, settings: FilesystemSettings) -> Check:
    """Say how many paths are left out, with a few examples."""
    found = list(ignored_paths(settings, seconds=_LONGEST_WALK_SECONDS))
    if not found:
        return Check(key, CheckState.OK, "no path is ignored")
    examples = ", ".join(f"{one.path!a} by {one.pattern}" for one in found[:_EXAMPLES])
    count = f"{len(found)} path{'s are' if len(found) > 1 else ' is'}"
    return Check(key, CheckState.OK, f"{count} ignored, such as {examples}; all of them: cdn-listener check --ignored")


_LONGEST_LINKS_SECONDS = 10.0
_MOST_NAMED = 10


def links_outside(key: str, settings: FilesystemSettings) -> Iterator[Check]:
    """Yield what is known of links that lead out of the root, with the targets of those to directories."""
    root = os.fsencode(settings.path).rstrip(b"/") + b"/"
    real = os.path.realpath(root) + b"/"
    files, followed, refused = 0, [], []
    for prefix, name in _links(root):
        target = os.path.realpath(root + prefix + name)
        if (target + b"/").startswith(real):
            continue
        if not os.path.isdir(target):  # noqa: PTH112 - bytes
            files += 1
        elif is_followed(root, prefix, name):
            followed.append((prefix + name, target))
        elif not is_loop(root, prefix, name):
            refused.append((prefix + name, target))
    if files or followed:
        does = "are followed" if settings.follow_symlinks else "are not followed (follow_symlinks = false)"
        yield Check(
            key, CheckState.OK,
            f"{len(followed)} links to directories outside of the root {does}{_named(followed)}; {files} lead to files "
            f"outside; what links lead to is looked at every {settings.root_check_seconds:g} s",
        )  # fmt: skip
    if refused:
        yield Check(
            key, CheckState.WARNING,
            f"{len(refused)} links are never followed{_named(refused)}; they lead to /proc, /sys, /dev or the state",
            "remove them, and find out who made them",
        )  # fmt: skip


def _links(root: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each symbolic link below, as directory and name; for some ten seconds at most."""
    stack, end = [b""], time.monotonic() + _LONGEST_LINKS_SECONDS
    while stack and time.monotonic() < end:
        prefix = stack.pop()
        with suppress(OSError), os.scandir(root + prefix) as entries:
            for entry in entries:
                if entry.is_symlink():
                    yield prefix, entry.name
                elif entry.is_dir():
                    stack.append(prefix + entry.name + b"/")


def _named(links: list[tuple[bytes, bytes]]) -> str:
    named = ", ".join(f"{key_to_text(path)!a} -> {key_to_text(to)!a}" for path, to in links[:_MOST_NAMED])
    more = f" and {len(links) - _MOST_NAMED} more" if len(links) > _MOST_NAMED else ""
    return f": {named}{more}" if named else ""


TOO_MANY_LINKS = "there are more links than are followed one by one: what the others lead to is compared by scans only"
_PROC = Path("/proc/sys/fs")


def limit(name: str, system: str = "inotify") -> int | None:
    """Return a kernel limit (``max_user_watches``, …) of inotify or fanotify, or ``None`` where it cannot be read."""
    try:
        return int((_PROC / system / name).read_text())
    except (OSError, ValueError):
        return None


def sysctl_line(name: str, value: int, system: str = "inotify") -> str:
    """Return the command that raises a limit of inotify or fanotify."""
    return f"sysctl -w fs.{system}.{name}={value}"


def unwatched_words(failed: Mapping[bytes, int], watched: int) -> str:
    """Say which directories are not watched, why, and what to do."""
    number, (path, reason) = len(failed), next(iter(failed.items()))
    text = f"{_some(number, key_to_text(path))} cannot be watched: {os.strerror(reason)}"
    if reason == errno.ENOSPC:
        remedy = sysctl_line("max_user_watches", 2 * (number + watched))
        return f"{text}; they are scanned instead; raise the limit: {remedy}"
    if reason == errno.EACCES:
        return f"{text}; let user {os.geteuid()} read them, or ignore them"
    return text


def unread_words(unreadable: Mapping[str, int]) -> str:
    """Say which paths could not be looked at, and so are not known."""
    path, reason = next(iter(unreadable.items()))
    if reason == errno.ELOOP:
        return (
            f"more than {MOST_ENTERED} paths lead through links to directories: those beyond, such as {path!a}, are "
            "not watched and not refreshed; remove links that lead to one another, or set follow_symlinks = false"
        )
    remedy = f"; let user {os.geteuid()} read and enter it, or ignore it" if reason == errno.EACCES else ""
    what = f"{_some(len(unreadable), path)} cannot be read: {os.strerror(reason)}"
    return f"{what}; nothing there is taken for deleted or refreshed{remedy}"


def uncompared_words(waiting: Sequence[Wanted]) -> str:
    """Say which comparison waits, and why it was asked for."""
    place = f"{_some(len(waiting), waiting[0].prefix)} must still be compared with the index"
    return f"{place} ({waiting[0].reason}): what changed there is refreshed after that"


def open_hint(error: OSError, instances: int | None = None) -> str:
    """Return what to do when listening cannot even begin; ``instances`` is the present limit, where it is known."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        more = sysctl_line("max_user_instances", max(1024, 2 * (instances or 0)))
        return f"too many inotify instances or open files: {more}; LimitNOFILE= in the unit, or ulimit -n"
    return "look at the path and its mount"


def _some(number: int, example: str) -> str:
    kind, several = ("directory", "directories") if example[-1:] in ("", "/") else ("file", "paths")
    name = ascii(example or "./")
    return f"the {kind} {name}" if number == 1 else f"{number} {several}, such as {name},"


_TEMPORARY: Final = ("/tmp", "/var/tmp")  # noqa: S108 - compared with
_HOMES: Final = ("/home", "/root", "/run/user")
_FILE_SYSTEM: Final = "/"


def access_hint(path: Path, default: str, *, environ: Mapping[str, str] = os.environ) -> str:
    """
    Return what to do about a path that is missing or closed to this process; ``default`` where nothing is special.

    Below a systemd unit (``$INVOCATION_ID``) its sandbox is the likely cause: a /tmp of its own, closed homes.
    """
    absolute = os.path.realpath(path)
    in_unit = bool(environ.get("INVOCATION_ID"))
    if in_unit and (place := _place(absolute, _TEMPORARY)) and "systemd-private-" in _mount_root(place):
        return (
            f"the unit has a {place} of its own (PrivateTmp=yes), so that this one is not to be seen: move the tree,"
            " or set PrivateTmp=no with `systemctl edit`"
        )
    if in_unit and (place := _place(absolute, _HOMES)) and _is_closed(mount_of(place)):
        return (
            f"the unit does not see {place} (ProtectHome=): move the tree, or name it in the drop-in home.conf"
            " (`cdn-listener systemd show drop-ins/home.conf`)"
        )
    group = _group_that_may(absolute)
    if group and in_unit:
        return (
            f"the group {group} may read it: SupplementaryGroups={group} in the unit, by `systemctl edit` or the"
            " drop-in group.conf (`cdn-listener systemd show drop-ins/group.conf`)"
        )
    return f"the group {group} may read it: let this user join it; {default}" if group else default


def _place(path: str, places: tuple[str, ...]) -> str:
    return next((place for place in places if path == place or path.startswith(place + "/")), "")


def _mount_root(place: str) -> str:
    mount = mount_of(place)
    return mount.shown if mount is not None and mount.point == place else ""


def _is_closed(mount: Mount | None) -> bool:
    return (
        mount is not None and mount.point != _FILE_SYSTEM and ("inaccessible" in mount.shown or mount.kind == "tmpfs")
    )


def _group_that_may(path: str) -> str:
    """Return the group that may enter and read what this process may not, where that is all that is in the way."""
    for part, wanted in _parts(path):
        try:
            found = Path(part).stat()
        except OSError:
            return ""
        access = os.R_OK | os.X_OK if part == path else os.X_OK
        if not os.access(part, access, effective_ids=True):
            may = stat.S_IMODE(found.st_mode) & wanted == wanted
            return _group_name(found.st_gid) if may else ""
    return ""


def _parts(path: str) -> Iterator[tuple[str, int]]:
    """Yield each directory on the way with what its group needs there, then the path with what it needs there."""
    yield from ((str(part), stat.S_IXGRP) for part in reversed(Path(path).parents))
    yield path, stat.S_IRGRP | stat.S_IXGRP


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def probe_path(key: str, path: Path) -> None:
    """Raise :class:`~listener.errors.SourceUnavailable` while the path cannot be read; ``key`` names it. Blocking."""

    def wrong(what: str, hint: str) -> SourceUnavailable:
        return SourceUnavailable(f"{key}: {path} {what}", hint=access_hint(path, hint))

    try:
        with os.scandir(path):
            pass
    except FileNotFoundError:
        raise wrong("does not exist", "create the directory, or correct the path") from None
    except NotADirectoryError:
        raise wrong("is not a directory", "name the directory that holds the files") from None
    except PermissionError:
        raise wrong("cannot be read", f"let {_reader()} read and enter it and what is below") from None
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}", "look at the mount") from None
    if not os.access(path, os.X_OK):
        raise wrong("cannot be entered", f"give {_reader()} the right to enter it (x)")


def _reader() -> str:
    """Return who reads, for hints; the number of a dynamic user is another one at the next start."""
    user = os.geteuid()
    return "the user of the unit" if user in _DYNAMIC_USERS else f"user {user}"


_DYNAMIC_USERS = range(61184, 65520)
"""Of systemd's DynamicUser= (systemd.exec(5))."""
