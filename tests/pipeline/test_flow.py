"""The main job: a file changes, the edge turns fresh, and the quota is booked to the unit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from listener.contracts import Delivery, IndexView, Unreadable
from listener.refresh import Scope
from listener.store import NeedInput
from tests.pipeline.world import PlayedSource, a_world

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


async def test_a_changed_file_turns_fresh(tmp_path: Path) -> None:
    """The edge serves the old copy until our refresh is complete, then the new one; one URL was spent."""
    async with a_world(tmp_path) as world:
        world.write("a.html", "old")
        assert await world.get("a.html") == "old"
        change = world.write("a.html", "new")
        assert await world.get("a.html") == "old"
        world.source.deliver(change)
        await world.settled()
        assert await world.get("a.html") == "new"
        assert world.source.acked == 1
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)


async def test_created_deleted_and_chinese_names_turn_fresh(tmp_path: Path) -> None:
    """A cached 404 goes when the file appears; a deleted file turns 404; names are encoded exactly once."""
    async with a_world(tmp_path) as world:
        world.write("gone.html", "here")
        world.write("目录/日本.jpg", "alt")
        assert [await world.get(key) for key in ("new.html", "gone.html", "目录/日本.jpg")] == ["404", "here", "alt"]
        world.source.deliver(
            world.write("new.html", "here"), world.remove("gone.html"), world.write("目录/日本.jpg", "neu")
        )
        await world.settled()
        assert [await world.get(key) for key in ("new.html", "gone.html", "目录/日本.jpg")] == ["here", "404", "neu"]


async def test_many_changes_of_one_file_cost_one_refresh(tmp_path: Path) -> None:
    """A hundred changes within the quiet time are one URL."""
    async with a_world(tmp_path) as world:
        for number in range(100):
            world.source.deliver(world.write("a.html", str(number)))
        await world.settled()
        assert await world.get("a.html") == "99"
        assert world.accepted["file"] <= 2


async def test_where_files_are_not_affordable_a_directory_goes(tmp_path: Path) -> None:
    """Fifty changes at a quota of twenty files are covered by a directory refresh, all fresh, nothing over quota."""
    async with a_world(tmp_path, quota=(20, 5)) as world:
        keys = [f"a/{number}.html" for number in range(50)]
        for key in keys:
            world.write(key, "old")
            assert await world.get(key) == "old"
        world.source.deliver(*(world.write(key, "new") for key in keys))
        await world.settled()
        assert {await world.get(key) for key in keys} == {"new"}
        assert world.accepted == {"directory": 1}


async def test_a_full_disk_stops_the_work_and_not_the_process(tmp_path: Path) -> None:
    """
    While nothing can be committed nothing is acknowledged or sent, and status says why; then it goes on.

    What was accepted while the books could not be written is booked afterwards, not paid for again.
    """
    async with a_world(tmp_path) as world:
        world.write("a.html", "old")
        assert await world.get("a.html") == "old"
        await world.store._write(lambda c: c.execute("PRAGMA max_page_count = 1").fetchone())
        world.source.deliver(
            *(world.write(f"{number}.html", "new") for number in range(300)), world.write("a.html", "new")
        )
        await world.until(lambda: world.pipeline.troubles)
        assert "disk is full" in world.pipeline.troubles[0]
        assert not world.pipeline.ready
        assert (world.source.acked, world.paths) == (0, [])
        await world.store._write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
        await world.settled()
        assert await world.get("a.html") == "new"
        assert (world.source.acked, world.accepted) == (1, {"file": 301})
        assert world.pipeline.ready


async def test_what_cannot_be_read_is_kept_before_it_is_acknowledged(tmp_path: Path) -> None:
    """A message in no known form is a dead letter with its body, and what came with it is refreshed all the same."""
    async with a_world(tmp_path) as world:
        await world.store._write(lambda c: c.execute("PRAGMA max_page_count = 1").fetchone())
        broken = Unreadable(b"m-1", b"x" * 100_000, "no JSON")
        world.source.deliver(unreadable=[broken])
        world.source.deliver(world.write("a.html", "new"), unreadable=[Unreadable(b"m-2", b"", "empty")])
        await world.until(lambda: world.pipeline.troubles)
        assert world.source.acked == 0
        await world.store._write(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
        await world.settled()
        await world.until(lambda: world.source.acked == 2)
        letters = await world.store.dead_letters()
        assert [(one.subject, one.kind, one.reason) for one in letters] == [
            ("m-2", "message", "empty"),
            ("m-1", "message", "no JSON"),
        ]
        assert world.accepted == {"file": 1}


async def test_manual_requests_are_not_paced(tmp_path: Path) -> None:
    """A manual directory refresh goes at once though tokens are dear, as long as one is left next to the reserve."""
    async with a_world(tmp_path, quota=(10, 2), extra={"planner": {"reserve": 0.5}}) as world:
        asked = [NeedInput("cdn", world.emulator.edge_url + folder, Scope.SUBTREE) for folder in ("/a/", "/b/")]
        await world.store.request(asked)
        await world.until(lambda: world.paths)

        async def one_left() -> bool:
            counts = await world.store.counts()
            return (counts.deferred, counts.in_flight) == (1, 0)

        await world.until(one_left)
        assert world.accepted == {"directory": 1}


async def test_manual_prefetches_may_use_all_of_their_quota(tmp_path: Path) -> None:
    """The reserve is kept for urgent refreshes; a prefetch cannot be one, so that none of its quota is left alone."""
    async with a_world(tmp_path, extra={"planner": {"reserve": 1.0}}) as world:
        await world.store.request([NeedInput("cdn", world.url("index.html"), Scope.PREFETCH)])
        await world.until(lambda: world.accepted == {"prefetch": 1})


async def test_a_source_is_closed_before_the_end_of_the_run(tmp_path: Path) -> None:
    """What it holds is given back in order, also where it was left between two deliveries."""
    closed: list[str] = []

    class Holding(PlayedSource):
        async def deliveries(self, index: IndexView) -> AsyncIterator[Delivery]:
            try:
                async for delivery in super().deliveries(index):
                    yield delivery
            finally:
                closed.append("source")

    async with a_world(tmp_path) as world:
        await world.stop()
        world.source = Holding()
        await world.start()
        world.pipeline.intake._inbox._max = 0  # full: the reader waits for room after each delivery
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.source.acked)
        world.pipeline.intake._room.clear()
        await world.stop()
        assert closed == ["source"]
        await world.start()
