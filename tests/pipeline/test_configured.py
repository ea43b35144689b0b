"""The configuration compared with a store that other instances share."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.pipeline.configured import left_over, reroute
from listener.store import NeedInput
from tests.pipeline.scripted import Scripted, a_world_of

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


async def test_what_other_instances_may_have_configured_is_left_alone(tmp_path: Path) -> None:
    """A URL that no site serves and an unknown index are found, but not in a store that others may share."""
    targets = {"cdn": Scripted()}
    async with a_world_of(tmp_path, targets["cdn"]) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        await world.store.request([NeedInput("cdn", "https://other.example.com/a.html")])
        unknown = world.settings.model_copy(update={"sources": {}})
        shared = unknown.store.model_copy(update={"url": "postgresql://db.internal/listener"})
        in_a_fleet = unknown.model_copy(update={"store": shared})
        assert await reroute(world.store, in_a_fleet, targets, is_trial=True) == 0
        assert await left_over(world.store, in_a_fleet, targets) == []
        assert len(await left_over(world.store, unknown, targets)) > 0
