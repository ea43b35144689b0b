"""Directories are paid for once, only for what they can refresh, and not again after the CDN refused them."""

from __future__ import annotations

from pathlib import Path

import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput
from tests.pipeline.world import a_world, stays

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def test_an_urgent_directory_is_paid_once(tmp_path: Path) -> None:
    """Promise 4: what was asked for urgently is not planned a second time in the same round."""
    async with a_world(tmp_path) as world:
        url = world.emulator.edge_url + "/a/"
        await world.store.request([NeedInput("cdn", url, Scope.SUBTREE)], urgent=True, reason="by hand")
        await world.settled()
        assert world.paths == [url]
        assert await world.ledger(RefreshKind.DIRECTORY) == (1, 0)


def _older(key: str) -> Change:
    """A file replaced by one whose Last-Modified did not advance."""
    return Change("www", key, ChangeKind.CONTENT, Fingerprint(1, 1_000_000_000))


async def test_an_unforced_directory_is_not_paid_for_what_it_cannot_heal(tmp_path: Path) -> None:
    """Promises 4 and 7: needs that need force wait for file quota instead of spending directories in vain."""
    async with a_world(tmp_path, quota=(0, 20), target={"force": False}) as world:
        keys = [f"a/{number}.html" for number in range(6)]
        world.source.deliver(*map(_older, keys), seed=True)
        world.source.deliver(*map(_older, keys))

        async def deferred() -> bool:
            return (await world.store.counts()).deferred == 6

        await world.until(deferred)
        await stays(world)
        assert world.accepted == {}
        assert await deferred()


async def test_a_refused_directory_is_not_asked_for_again_and_again(tmp_path: Path) -> None:
    """Promise 6: a directory that the CDN refuses is left alone for the day, and its files wait as files."""
    async with a_world(tmp_path, quota=(0, 20)) as world:
        world.order("malformed:/bad/")
        world.source.deliver(*(world.write(f"bad/{number}.html", "new") for number in range(30)))
        await stays(world, seconds=2.0)
        rows = await world.store.history(limit=1000)
        assert len([row for row in rows if row["kind"] == "directory"]) <= 1
        assert (await world.store.counts()).deferred == 30
