"""What is wrong with a watched tree, and what mends it, in words for operators."""

from __future__ import annotations

import errno
import grp
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from listener.change import key_to_text
from listener.errors import SourceUnavailable
from listener.sources.filesystem.links import MOST_ENTERED
from listener.sources.filesystem.mounts import Mount, mount_of
from listener.sources.filesystem.outstanding import Wanted

__all__ = [
    "TOO_MANY_LINKS",
    "limit",
    "open_hint",
    "probe_path",
    "sysctl_line",
    "uncompared_words",
    "unread_words",
    "unwatched_words",
]

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
