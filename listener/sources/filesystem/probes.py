"""What ``check`` tests of a tree and of the kernel before anything is watched. Blocking."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from listener.contracts import Check, CheckState
from listener.sources.filesystem.fanotify import refusal
from listener.sources.filesystem.ignored import summary
from listener.sources.filesystem.kernel import Inotify
from listener.sources.filesystem.mounts import mount_of, mounts_below
from listener.sources.filesystem.outward import links_outside
from listener.sources.filesystem.settings import FilesystemSettings
from listener.sources.filesystem.trouble import limit, open_hint, outdated, sysctl_line

__all__ = ["choose_backend", "count_directories", "probe"]

_LONGEST_SECONDS = 20.0
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
    stack, number, unreadable, end = [os.fspath(path)], 0, 0, time.monotonic() + _LONGEST_SECONDS
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
