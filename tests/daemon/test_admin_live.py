"""The live news in virtual time: each watcher receives what is new to it, and a sign of life when nothing is."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any

from listener.daemon.admin.pages import HEARTBEAT_SECONDS, LiveUpdates
from listener.errors import ListenerError


class Watcher:
    """Takes what is sent, with the time of its coming."""

    def __init__(self) -> None:
        self.received: list[tuple[float, str]] = []

    async def write(self, data: bytes) -> None:
        self.received.append((asyncio.get_running_loop().time(), data.decode()))

    @property
    def sections(self) -> list[dict[str, str]]:
        """Return what was sent of the page."""
        return [json.loads(text.partition("data: ")[2]) for _, text in self.received if text.startswith("event")]


class World:
    """What is looked at: a number that the page shows, and one that it does not."""

    def __init__(self) -> None:
        self.shown = self.hidden = self.looks = 0
        self.broken = False

    async def look(self) -> Any:
        """Look at both."""
        self.looks += 1
        if self.broken:
            raise ListenerError("the daemon is reloading")
        return self.shown, self.hidden

    async def render(self, snapshot: Any) -> Mapping[str, str]:
        """Show one of them."""
        return {"number": str(snapshot[0]), "title": "always"}


def watching(live: LiveUpdates, world: World) -> tuple[Watcher, asyncio.Task[None]]:
    """Begin to watch."""
    watcher = Watcher()
    live.watchers += 1
    return watcher, asyncio.create_task(live._serve(watcher, world.render))


async def test_each_watcher_receives_what_is_new_to_it() -> None:
    """First everything, then only sections that changed; one look serves all; after the end nobody looks."""
    world = World()
    live = LiveUpdates(world.look)
    first, one = watching(live, world)
    await asyncio.sleep(2)
    world.shown = 1
    await asyncio.sleep(2)
    second, two = watching(live, world)
    await asyncio.sleep(2)
    assert first.sections == [{"number": "0", "title": "always"}, {"number": "1"}]
    assert second.sections == [{"number": "1", "title": "always"}]
    said = len(first.received), len(second.received)
    world.shown = 2
    live.disconnect_all()
    await asyncio.gather(one, two)
    assert said == (len(first.received), len(second.received))
    live.watchers = 0
    await asyncio.sleep(2)
    looks = world.looks
    await asyncio.sleep(60)
    assert world.looks == looks < 40
    world.shown = 3
    third, three = watching(live, world)
    await asyncio.sleep(2)
    assert third.sections == [{"number": "3", "title": "always"}]
    live.disconnect_all()
    await three
    await live.close()


async def test_a_sign_of_life_also_while_what_changes_is_not_shown() -> None:
    """A dead connection is noticed within a quarter of a minute, whatever happens behind the page."""
    world = World()
    live = LiveUpdates(world.look)
    watcher, task = watching(live, world)
    for _ in range(120):
        world.hidden += 1
        await asyncio.sleep(0.5)
    times = [*(at for at, _ in watcher.received), asyncio.get_running_loop().time()]
    assert len(watcher.sections) == 1
    assert max(later - earlier for earlier, later in itertools.pairwise(times)) <= HEARTBEAT_SECONDS + 1
    assert len(times) <= 3 + 60 / HEARTBEAT_SECONDS
    live.disconnect_all()
    await task
    await live.close()


async def test_between_two_configurations_watchers_wait() -> None:
    """While nothing can be looked at nobody is let go; the first look after it is shown."""
    world = World()
    world.broken = True
    live = LiveUpdates(world.look)
    watcher, task = watching(live, world)
    await asyncio.sleep(40)
    assert not watcher.sections
    assert not task.done()
    world.broken = False
    await asyncio.sleep(2)
    assert watcher.sections == [{"number": "0", "title": "always"}]
    live.disconnect_all()
    await task
    await live.close()
