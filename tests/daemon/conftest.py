"""A stand for daemons: an origin, an emulator, a configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stand import Stand, a_stand


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    """An origin with an emulator before it."""
    with a_stand(tmp_path / "stand") as stand:
        yield stand
