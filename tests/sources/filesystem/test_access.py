"""Why a path is closed to this process: its group, also that of a parent; the sandbox is in product/systemd."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from listener.sources.filesystem.checks import access_hint

UNIT = {"INVOCATION_ID": "1"}
GROUP = 54321
"""No group of this process, and none that has a name."""


@pytest.fixture
def closed(absent: Callable[[str], NoReturn]) -> Iterator[Path]:
    """A tree in two directories, read by a process without rights."""
    if os.geteuid():
        absent("root, to be somebody else")
    folder = Path(tempfile.mkdtemp(prefix="listener-"))
    folder.chmod(0o755)  # unlike pytest's own, which nobody else may enter
    path = folder / "parent/www"
    path.mkdir(parents=True)
    groups = os.getgroups()
    os.setgroups([])
    yield path
    os.setgroups(groups)
    shutil.rmtree(folder)


@pytest.mark.parametrize("which", ["www", "parent"])
def test_the_group_that_may_read_is_named(closed: Path, which: str) -> None:
    """Of the path or of a directory on the way; in a unit with the line that lets it join."""
    part = closed if which == "www" else closed.parent
    os.chown(part, 0, GROUP)
    part.chmod(0o750)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        hint = access_hint(closed, "default", environ={})
        assert hint == f"the group {GROUP} may read it: let this user join it; default"
        assert f"SupplementaryGroups={GROUP}" in access_hint(closed, "default", environ=UNIT)
    finally:
        os.seteuid(0)
        os.setegid(0)


@pytest.mark.parametrize("mode", [0o700, 0o710, 0o755])
def test_where_no_group_helps_the_plain_advice_stays(closed: Path, mode: int) -> None:
    """A group that may not read either, or may not list; a tree that can be read."""
    os.chown(closed, 0, GROUP)
    closed.chmod(mode)
    os.setegid(65534)
    os.seteuid(65534)
    try:
        assert access_hint(closed, "default", environ=UNIT) == "default"
    finally:
        os.seteuid(0)
        os.setegid(0)
