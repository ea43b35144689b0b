"""Why a path cannot be read by this process, and what lasts: the sandbox of the unit, the owning group, or its mode."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from listener.sources.filesystem.mounts import Mount, mount_of

__all__ = ["access_hint"]

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
