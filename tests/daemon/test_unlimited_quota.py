"""What has no allowance, and what costs money, on the page and in reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from listener.allowances import Allowance, Month, Total
from listener.cli.status import _show
from listener.daemon.admin.rendering import PageContext, Renderer
from listener.daemon.state import DaemonState, Parts
from listener.daemon.status import status_of
from listener.daemon.status_page import StatusPage
from listener.refresh import RefreshKind
from listener.store import NeedInput
from listener.store.owner import Owner
from tests.pipeline.scripted import BASE, Scripted, WithTasks, a_world_of
from tests.pipeline.world import World

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


async def page_of(world: World, target: Any) -> str:
    """Return the part of the page about quota."""
    state = DaemonState(phase="running", parts=Parts(world.settings, {"cdn": target}))
    state.store, state.pipeline = world.store, world.pipeline
    snapshot = await StatusPage(state).snapshot()
    return Renderer().sections(PageContext(snapshot=snapshot, letters=snapshot.letters))["quota"]


async def test_what_spends_no_allowance_is_shown_as_unlimited(tmp_path: Path) -> None:
    """Without a number and without a reset, on the page and in the reason of a refresh."""
    target = Scripted()
    target.allowances = ()
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        part = await page_of(world, target)
        (sent,) = await world.store.history()
    assert "Unlimited: file, directory" in part
    assert "reset" not in part
    assert "unlimited file and " in sent["reason"]


@pytest.mark.parametrize("how", ["task", "answer", "nothing"])
async def test_what_confirms_nothing_says_so(tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the JSON, in the text and on the page: what it has accepted counts as done, and nothing is unconfirmed."""
    target = WithTasks() if how == "task" else Scripted()
    target.confirms_by_answer = how == "answer"
    async with a_world_of(tmp_path, target) as world:
        if how != "task":
            world.source.deliver(world.write("a.html", "new"))
            await world.settled()
        part = await page_of(world, target)
        found = await status_of(
            world.store, world.settings, {"cdn": target}, now=world.clock.now() + 7200.0, owner=Owner(True, 1)
        )
    _show({**found, "verdict": ""}, verbose=False, shown=5, is_part=False)
    assert found["targets"] == {"cdn": {"confirms": how != "nothing"}}
    assert found["unconfirmed"] == 0
    assert ("Confirms nothing" in part) is (how == "nothing")
    assert ("cdn: confirms nothing" in capsys.readouterr().out) is (how == "nothing")


async def test_money_is_shown_with_the_units(tmp_path: Path) -> None:
    """What is spent and what may be; what never comes back says so."""
    target = Scripted()
    both = {RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 1}
    paths = Allowance(name="paths", limit=100, window=Month(), costs=both, free=0, unit_dollars=0.25)
    target.allowances = (paths,)
    async with a_world_of(tmp_path, target) as world:
        await world.store.request([NeedInput("cdn", f"{BASE}a.html")], urgent=True)  # whatever it costs
        await world.until(lambda: len(target.sent) == 1)
        await world.settled()
        target.allowances = (paths, Allowance(name="package", limit=1_000, window=Total(), costs=both))
        part = await page_of(world, target)
    assert "$0.25 of $25.00" in part
    assert "left of 100 a month" in part
    assert "never resets" in part
