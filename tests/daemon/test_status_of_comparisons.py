"""What a source must still compare counts as stale, though no need stands in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.contracts import WAITING_SINCE
from listener.daemon.status import Known, status_of
from listener.store.owner import Owner
from tests.pipeline.world import a_world

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


@pytest.mark.parametrize("age", [0.0, 90.0])
async def test_a_comparison_that_waits_counts_as_staleness(tmp_path: Path, age: float) -> None:
    """The age of the oldest change is that of the comparison: nothing else is stale."""
    async with a_world(tmp_path) as world:
        now = world.clock.now()
        world.source.health.figures[WAITING_SINCE] = now - age if age else 0.0
        live = {"www": world.source.health}
        reported = await status_of(
            world.store, world.settings, {"cdn": world.target}, now=now, owner=Owner(True, 1), known=Known(live)
        )
        assert reported["oldest_unsettled_seconds"] == age
