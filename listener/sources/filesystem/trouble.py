"""What an operator must know of a watched tree, and what mends it: in words."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from listener.change import key_to_text
from listener.sources.filesystem.links import MOST_ENTERED
from listener.sources.filesystem.mounts import Mount
from listener.sources.filesystem.rescans import Wanted

__all__ = ["TOO_MANY_LINKS", "limit", "open_hint", "outdated", "sysctl_line", "uncompared", "unread", "unwatched"]

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


def unwatched(failed: Mapping[bytes, int], watched: int) -> str:
    """Say which directories are not watched, why, and what to do; empty when there are none."""
    if not failed:
        return ""
    number, (path, reason) = len(failed), next(iter(failed.items()))
    text = f"{_some(number, key_to_text(path))} cannot be watched: {os.strerror(reason)}"
    if reason == errno.ENOSPC:
        remedy = sysctl_line("max_user_watches", 2 * (number + watched))
        return f"{text}; they are scanned instead; raise the limit: {remedy}"
    if reason == errno.EACCES:
        return f"{text}; let user {os.geteuid()} read them, or ignore them"
    return text


def unread(unreadable: Mapping[str, int]) -> str:
    """Say which paths could not be looked at, and so are not known; empty when there are none."""
    if not unreadable:
        return ""
    path, reason = next(iter(unreadable.items()))
    if reason == errno.ELOOP:
        return (
            f"more than {MOST_ENTERED} paths lead through links to directories: those beyond, such as {path!a}, are "
            "not watched and not refreshed; remove links that lead to one another, or set follow_symlinks = false"
        )
    remedy = f"; let user {os.geteuid()} read and enter it, or ignore it" if reason == errno.EACCES else ""
    what = f"{_some(len(unreadable), path)} cannot be read: {os.strerror(reason)}"
    return f"{what}; nothing there is taken for deleted or refreshed{remedy}"


def uncompared(waiting: Sequence[Wanted]) -> str:
    """Say which comparison waits, and why it was asked for; empty when none does."""
    if not waiting:
        return ""
    place = f"{_some(len(waiting), waiting[0].prefix)} must still be compared with the index"
    return f"{place} ({waiting[0].reason}): what changed there is refreshed after that"


def outdated(mount: Mount) -> str:
    """Say that a mount goes on showing a directory that was replaced elsewhere, and what to do."""
    what = "was removed" if mount.is_deleted else f"was renamed to {mount.shown!a}"
    return (
        f"the directory mounted at {mount.point!a} {what} outside of this mount, which goes on showing it: what took "
        "its place is not seen; restart the service, and mount the parent directory, which is never replaced"
    )


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
