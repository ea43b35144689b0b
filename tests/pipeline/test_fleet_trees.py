"""File trees in a fleet: one that all instances see has one owner, and copies are refreshed together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from listener.alibaba.signature import Credentials
from listener.contracts import SourceState
from listener.daemon.status import status_of
from listener.emulator import Emulator, EmulatorSettings
from listener.refresh import RefreshKind
from listener.sources.filesystem import FilesystemSource
from listener.store.controls import ControlKind, Controls, Place
from listener.store.owner import Owner
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.pipeline.test_fleet import LEASE_SECONDS, Instance, until
from tests.pipeline.world import MovableClock, settings_for

pytestmark = pytest.mark.looptime(False)


class TreeInstance(Instance):
    """An instance with a real tree."""

    tree: Path

    @property
    def state(self) -> SourceState:
        """What its source does."""
        return self.pipeline.intake.sources["www"].health.state

    @property
    def is_ready(self) -> bool:
        """Whether its source watches the tree, or stands by."""
        return self.state in (SourceState.LISTENING, SourceState.STANDBY) and self.pipeline.ready

    async def settled(self) -> bool:
        """Return whether nothing is stale."""
        counts = await self.store.counts()
        return not any((counts.pending, counts.in_flight, counts.failed))

    async def status(self) -> dict[str, Any]:
        """Return what ``status --json`` says."""
        return await status_of(
            self.store, self.settings, {"cdn": self.target}, now=self.clock.now(), owner=Owner(True, 1, ""), brief=True
        )


@asynccontextmanager
async def trees(folder: Path, url: str, replicas: str, wait_seconds: float = 2.0) -> AsyncIterator[list[TreeInstance]]:
    """Run two instances, with one tree or with a copy on each."""
    clock = MovableClock()
    (folder / "origin").mkdir()
    options = EmulatorSettings(
        origin=str(folder / "origin"), credentials=Credentials("testid", "testsecret"), api_port=0, edge_port=0,
        task_seconds=0.1, quota={RefreshKind.FILE: 1000, RefreshKind.DIRECTORY: 20}, clock=clock,
    )  # fmt: skip
    async with Emulator(options) as cdn, aiohttp.ClientSession() as http:
        fleet: list[TreeInstance] = []
        for name in ("web-1", "web-2"):
            path = folder / (name if replicas == "each" else "shared")
            path.mkdir(exist_ok=True)
            (path / "a.html").write_text("1")
            os.utime(path / "a.html", (1e9, 1e9))
            extra = {
                "store": {"url": url},
                "instance": {"name": name},
                "fleet": {"lease_seconds": LEASE_SECONDS, "replica_wait_seconds": wait_seconds},
                "sources": {"www": {"type": "filesystem", "path": str(path), "replicas": replicas}},
            }
            table = AlibabaCdn.Settings(endpoint=cdn.api_url, timeouts={"answer_seconds": 2.0})  # type: ignore[call-arg]
            target = AlibabaCdn("cdn", table, clock=clock, environment=KEYS)
            instance = TreeInstance(folder, settings_for(folder, cdn, extra), cdn, target)
            instance.clock, instance.http, instance.tree = clock, http, path
            watched = FilesystemSource.Settings(path=path, replicas=replicas)  # type: ignore[call-arg]
            instance.make_source = lambda watched=watched: FilesystemSource("www", watched)  # type: ignore[misc]
            fleet.append(instance)
            await instance.start()
            is_first = len(fleet) == 1
            await until(lambda: fleet[-1].state is SourceState.LISTENING or (fleet[-1].is_ready and not is_first))  # noqa: B023
            await until(fleet[0].settled)
        await until(lambda: fleet[0].leads)
        try:
            yield fleet
        finally:
            for instance in fleet:
                if not instance.running.done():
                    await instance.stop()
                await instance.target.close()


async def test_one_instance_watches_a_tree_that_all_see(tmp_path: Path, postgres_database: str) -> None:
    """The other one is ready, and takes over with a scan that finds what nobody watched."""
    async with trees(tmp_path, postgres_database, "one") as (owner, other):
        assert (owner.state, other.state) == (SourceState.LISTENING, SourceState.STANDBY)
        (owner.tree / "a.html").write_text("22")
        await until(lambda: owner.accepted.get("file", 0) == 1)
        await until(other.settled)

        async def is_reported() -> bool:
            return bool((await other.status())["sources"]["www"]["state"] == "listening")

        await until(is_reported)
        assert {name for one in await other.store.instances() for name in one.leads} == {"main"}
        await owner.crash()
        (owner.tree / "a.html").write_text("333")
        await until(lambda: other.state is SourceState.LISTENING)
        await until(lambda: other.accepted.get("file", 0) == 2)
        (owner.tree / "b.html").write_text("4")
        await until(lambda: other.accepted.get("file", 0) == 3)


async def test_a_confirmation_reaches_the_instance_that_watches(tmp_path: Path, postgres_database: str) -> None:
    """The other one leaves it, whichever sees it first."""
    async with trees(tmp_path, postgres_database, "one") as (owner, other):
        confirmed: list[str] = []
        for instance in (owner, other):
            source = instance.pipeline.intake.sources["www"]
            name = instance.settings.instance.name
            source.confirm_deletions = lambda name=name: confirmed.append(name)  # type: ignore[attr-defined]
        await Controls(other.store).put(ControlKind.CONFIRMATION, [Place("www")], seconds=600.0)
        await other.pipeline._confirm()
        await until(lambda: confirmed)
        assert confirmed == ["web-1"]


async def test_an_owner_that_stops_hands_its_tree_over_at_once(tmp_path: Path, postgres_database: str) -> None:
    """And one that lost its lease stops watching."""
    async with trees(tmp_path, postgres_database, "one") as (owner, other):
        owner.keeper._membership.terms = {}
        owner.keeper._publish()
        await until(lambda: owner.state is SourceState.STANDBY)
        await until(lambda: owner.state is SourceState.LISTENING)
        await owner.stop()
        await until(lambda: other.state is SourceState.LISTENING, seconds=LEASE_SECONDS)


async def test_a_deploy_to_copies_is_one_refresh(tmp_path: Path, postgres_database: str) -> None:
    """The second server gets it after the quiet period; what stays different is refreshed too, and listed."""
    async with trees(tmp_path, postgres_database, "each") as (one, other):
        assert (one.state, other.state) == (SourceState.LISTENING, SourceState.LISTENING)
        (one.tree / "a.html").write_text("22")
        await asyncio.sleep(0.5)
        assert not one.accepted.get("file", 0)
        (other.tree / "a.html").write_text("22")
        await until(lambda: one.accepted.get("file", 0) == 1)
        await until(one.settled)
        assert not (await one.status())["different_copies"]
        (other.tree / "a.html").write_text("333")
        await until(lambda: one.accepted.get("file", 0) == 2)
        (found,) = (await one.status())["different_copies"]
        assert (found["source"], found["key"], found["instances"]) == ("www", "a.html", ["web-1", "web-2"])
        assert any("different on instances: 1 file," in problem["what"] for problem in (await one.status())["problems"])
        await asyncio.sleep(0.2)
        assert one.accepted["file"] == 2
