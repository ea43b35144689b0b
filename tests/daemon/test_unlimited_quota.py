"""A quota without a limit, on the page and in reasons."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.contracts import UNLIMITED
from listener.daemon.admin.rendering import PageContext, Renderer
from listener.daemon.state import DaemonState, Parts
from listener.daemon.status_page import StatusPage
from tests.pipeline.world import a_world

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


async def test_it_is_shown_as_unlimited(tmp_path: Path) -> None:
    """Neither the gauge nor the reason of a refresh shows the number that stands for it."""
    async with a_world(tmp_path, quota=(UNLIMITED, 20)) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        state = DaemonState(phase="running", parts=Parts(world.settings, {"cdn": world.target}))
        state.store, state.pipeline = world.store, world.pipeline
        snapshot = await StatusPage(state).snapshot()
        gauge = Renderer().sections(PageContext(snapshot=snapshot, letters=snapshot.letters))["quota"]
        (sent,) = await world.store.history()
    assert gauge.count("<strong>unlimited</strong>") == 1
    assert "1 spent" in gauge
    assert "unlimited file and " in sent["reason"]
    for text in (gauge, sent["reason"]):
        assert "1,000,000" not in text.replace("\u202f", ",")
        assert "99999" not in text
