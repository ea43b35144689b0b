"""What ``check`` tests of a tree and of the kernel before anything is watched. Blocking."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from listener.change import key_to_text
from listener.contracts import Check, CheckState
from listener.sources.filesystem.fanotify import refusal
from listener.sources.filesystem.kernel import Inotify
from listener.sources.filesystem.links import is_followed, is_loop
from listener.sources.filesystem.mounts import mount_of, mounts_below, outdated
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.trouble import limit, open_hint, sysctl_line

__all__ = ["choose_backend", "ignored_paths", "probe"]

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
    if mount is not None and not mount.is_heard:
        return "polling", f"{mount.kind} at {mount.point}: other machines change it without a word to this kernel"
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
    if backend != "polling" and here is not None and not here.is_heard:
        yield Check(
            key, CheckState.WARNING, f"{here.kind} at {here.point}: other machines change it unheard by {backend}",
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
        if not mount.is_heard and backend != "polling":
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
