"""Points of presence with lags and faults of their own; what is stale there is found, and nothing that is fresh."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from listener.alibaba.signature import Credentials
from listener.change import Fingerprint
from listener.clock import SystemClock
from listener.edge import prober as module
from listener.edge.prober import Probe, Prober
from listener.edge.verdict import Expected
from listener.emulator import Emulator, EmulatorSettings, parse_fault
from listener.emulator.tasks import CacheKey, TaskRecord
from listener.refresh import RefreshKind
from listener.settings.edge import Edge, edge_of
from tests.pipeline.world import a_world

pytestmark = pytest.mark.looptime(False)
LONG_AGO = 1_700_000_000


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shortly before a stale URL is requested again."""
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.1)


class Place:
    """An emulator with points of presence, and one file."""

    def __init__(self, emulator: Emulator, prober: Prober, root: Path) -> None:
        self.emulator = emulator
        self.prober = prober
        self.root = root

    @property
    def edges(self) -> list[Edge]:
        return [edge_of(url.removeprefix("http://")) for url in self.emulator.edge_urls]

    def write(self, text: str, at: int) -> None:
        (self.root / "a.txt").write_text(text)
        os.utime(self.root / "a.txt", (at, at))

    async def probe(self, edge: Edge) -> Probe:
        status = (self.root / "a.txt").stat()
        held = Fingerprint(status.st_size, status.st_mtime_ns)
        return await self.prober.probe(
            f"{self.emulator.edge_url}/a.txt", Expected(held, changed_at=status.st_mtime), edge=edge
        )

    async def states(self) -> list[str]:
        return [(await self.probe(edge)).verdict.state for edge in self.edges]

    def refresh(self) -> None:
        """Let a refresh of the file take effect, where no fault is against it."""
        key = CacheKey(self.emulator.edge_url.removeprefix("http://"), "/a.txt")
        record = TaskRecord(
            kind=RefreshKind.FILE,
            path=key.url,
            key=key,
            force=True,
            task_id="1",
            created_at=0.0,
            ends_at=0.0,
            visible_at=0.0,
            shown_at=0.0,
        )
        self.emulator.points.refresh(record)

    def order(self, *faults: str) -> None:
        for fault in faults:
            self.emulator.faults.order(parse_fault(fault), self.emulator.clock.now())


@asynccontextmanager
async def a_place(root: Path, *, points: int = 3) -> AsyncIterator[Place]:
    """Run one, whose points have all cached an old version of the file."""
    settings = EmulatorSettings(
        origin=str(root), credentials=Credentials("id", "secret"), api_port=0, edge_port=0, points=points
    )
    async with Emulator(settings) as emulator:
        stated = [edge_of(url.removeprefix("http://")) for url in emulator.edge_urls]
        sites = [f"{emulator.edge_url}/"]
        async with Prober(sites=sites, stated=stated, per_minute=60_000, clock=SystemClock()) as prober:
            place = Place(emulator, prober, root)
            place.write("old", LONG_AGO)
            assert await place.states() == ["fresh"] * points
            yield place


async def test_each_point_has_its_own_cache(tmp_path: Path) -> None:
    """And gets each refresh; one that ignores it stays stale."""
    async with a_place(tmp_path) as place:
        place.write("newer", LONG_AGO + 60)
        assert await place.states() == ["stale"] * 3
        place.order("edge-ignores:pop2")
        place.refresh()
        assert await place.states() == ["fresh", "stale", "fresh"]
        place.emulator.faults.clear()
        place.refresh()
        assert await place.states() == ["fresh"] * 3


async def test_a_point_that_lags(tmp_path: Path) -> None:
    """It is stale until its time."""
    async with a_place(tmp_path, points=2) as place:
        place.write("newer", LONG_AGO + 60)
        place.order("edge-lags:3600:pop2")
        place.refresh()
        assert await place.states() == ["fresh", "stale"]
        place.emulator.clock.advance(3601)
        assert await place.states() == ["fresh", "fresh"]


async def test_a_point_that_serves_stale_while_it_revalidates(tmp_path: Path) -> None:
    """Visitors get the old copy once more; the second request of the probe decides."""
    async with a_place(tmp_path, points=2) as place:
        place.write("newer", LONG_AGO + 60)
        place.order("edge-revalidates:pop2")
        place.refresh()
        probe = await place.probe(place.edges[1])
        assert probe.verdict.state == "fresh"
        assert "soft purge" in probe.verdict.reason


@pytest.mark.parametrize("fault", ["edge-no-age", "edge-tags", "edge-head", "edge-slow:0.05"])
async def test_faults_that_hide_nothing(tmp_path: Path, fault: str) -> None:
    """Without Age, with other tags, with HEAD past the cache, slowly: stale is found, fresh is not called stale."""
    async with a_place(tmp_path, points=2) as place:
        place.order(fault)
        assert await place.states() == ["fresh", "fresh"]
        place.write("newer", LONG_AGO + 60)
        assert await place.states() == ["stale", "stale"]


@pytest.mark.parametrize("fault", ["edge-fails:pop2", "edge-redirects:pop2"])
async def test_faults_that_hide_all(tmp_path: Path, fault: str) -> None:
    """Unknown with a reason, never fresh or stale."""
    async with a_place(tmp_path, points=2) as place:
        place.write("newer", LONG_AGO + 60)
        place.order(fault)
        assert await place.states() == ["stale", "unknown"]
        place.refresh()
        assert await place.states() == ["fresh", "unknown"]


async def test_a_stale_point_of_presence_is_mended(tmp_path: Path) -> None:
    """It ignored one refresh of several: that URL is refreshed once more, no other is."""

    def watched(emulator: Emulator) -> dict[str, Any]:
        edges = [url.removeprefix("http://") for url in emulator.edge_urls]
        table = {"mode": "all", "after_seconds": 0.1, "per_minute": 60_000, "edges": edges}
        # A second after a change its Last-Modified is proof.
        return {"verifier": {"edge": table}, "coalescer": {"quiet_seconds": 1.3, "cap_seconds": 3.0}}

    async with a_world(tmp_path, points=3, extra=watched) as world:
        edge = world.pipeline.edge
        assert edge is not None
        keys = [f"{number}.txt" for number in range(10)]
        for key in keys:
            (world.origin / key).write_text("old")
            for url in world.emulator.edge_urls:
                async with world.http.get(f"{url}/{key}", headers={"Host": world.url("").split("/")[2]}) as answer:
                    assert await answer.text() == "old"
        world.order("edge-ignores:pop3,count=1")
        for key in keys:
            world.source.deliver(world.write(key, "newer"))
        await world.until(lambda: edge.report()["repeated"] == 1)
        await world.until(lambda: edge.report()["waiting"] == 0 and not edge.problems())
        await asyncio.sleep(0.5)
        assert world.accepted["file"] == len(keys) + 1
        assert edge.problems() == []
