"""What a booted machine needs, and the stand next to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest

from tests.stand import Stand, a_stand


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """An origin with an emulator before it."""
    with a_stand(tmp_path_factory.mktemp("systemd") / "stand") as stand:
        yield stand


@pytest.fixture(scope="module")
def booting(absent: Callable[[str], NoReturn], system_command: Callable[[str], str]) -> None:
    """Whatever booting needs."""
    for name in ("systemd-nspawn", "nsenter", "unshare", "mount"):
        system_command(name)
    if os.geteuid():
        absent("root, to boot a systemd in a name space")
