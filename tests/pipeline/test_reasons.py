"""What stops an account is reported wherever people look, since when and with what to do, from one function."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from listener.daemon.state import DaemonState, Parts
from listener.daemon.status import status_of
from listener.daemon.status_page import StatusPage
from listener.store import open_store
from listener.store.owner import Owner
from tests.pipeline.world import World, a_world

pytestmark = pytest.mark.looptime(False)


async def seen_by_another_process(world: World, **fields: Any) -> dict[str, Any]:
    """Return the status as a command reads it while a daemon runs."""
    async with open_store(world.settings.store.url, readonly=True) as store:
        return await status_of(
            store, world.settings, {"cdn": world.target}, now=world.clock.now(), owner=Owner(True, 1), **fields
        )


@pytest.mark.parametrize(
    ("fault", "words"),
    [("error:Forbidden.RAM:1000", "RAM"), ("throttle:1000:1", "hrottl")],
)
async def test_what_stops_an_account_is_in_every_view(tmp_path: Path, fault: str, words: str) -> None:
    """The same problem and the same reason for the command, the admin port and the page; gone once it is over."""
    async with a_world(tmp_path) as world:
        state = DaemonState(phase="running", parts=Parts(world.settings, {"cdn": world.target}))
        state.store, state.pipeline = world.store, world.pipeline
        status_page = StatusPage(state)
        await world.until(lambda: world.pipeline.ready)
        began = world.clock.now()
        world.order(f"{fault},action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))

        views: list[Any] = []

        async def is_reported() -> bool:
            """Take every view; between two tries the request is under way, and then no view has the reason."""
            command, page = await seen_by_another_process(world), (await status_page.snapshot()).status
            answer = await status_page.search(world.url("a.html"))
            views[:] = command, page, answer
            states = [one["state"] for view in (command, page) for one in view["stale"]]
            states += [need.state for need in answer.needs]
            return all(view["problems"] for view in (command, page)) and states == ["deferred"] * 3

        await world.until(is_reported)
        command, page, answer = views
        (problem,) = command["problems"]
        assert problem["what"].startswith("account main: ")
        assert words in problem["what"]
        assert problem["remedy"]
        assert problem["since"] is not None
        assert [one["what"] for one in page["problems"]] == [problem["what"]]
        (stale,) = command["stale"]
        assert words in stale["reason"]
        assert (stale["url"], stale["scope"]) == (world.url("a.html"), "exact")
        assert words in answer.needs[0].reason
        assert [one["url"] for one in page["stale"]] == [stale["url"]]
        assert world.pipeline.engines[0].account.closed_since >= began  # type: ignore[operator]
        world.emulator.faults.clear()
        world.clock.ahead += 600.0
        world.pipeline.engines[0].replan()
        await world.settled()

        async def is_over() -> bool:
            return not (await seen_by_another_process(world))["problems"]

        await world.until(is_over)


async def test_an_api_that_cannot_be_reached_is_named_with_its_host(tmp_path: Path) -> None:
    """Before anything is due, from the quota that cannot be read; then by the need that waits for it."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with a_world(tmp_path, target={"endpoint": endpoint}) as world:

            async def is_reported() -> bool:
                return bool((await seen_by_another_process(world))["problems"])

            await world.until(is_reported)
            (problem,) = (await seen_by_another_process(world))["problems"]
            assert "quota cannot be read" in problem["what"]
            assert endpoint.removeprefix("http://") in problem["what"]
            world.source.deliver(world.write("a.html", "new"))

            async def waits_for_it() -> bool:
                found = (await seen_by_another_process(world))["stale"]
                return bool(found) and endpoint.removeprefix("http://") in found[0]["reason"]

            await world.until(waits_for_it)
            (problem,) = (await seen_by_another_process(world))["problems"]
            assert "connect" in problem["what"]
