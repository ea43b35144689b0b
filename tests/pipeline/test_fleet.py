"""Two instances on one PostgreSQL store: both record, one sends; whatever becomes of it, the other goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from listener.alibaba.signature import Credentials
from listener.emulator import Emulator, EmulatorSettings
from listener.pipeline import store_options
from listener.refresh import AttemptState, RefreshKind
from listener.store import Store
from listener.store.leadership import leadership_of
from listener.store.postgres.keeper import LeaseKeeper
from listener.store.postgres.migrations import SCHEMA
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.keys import KEYS
from tests.pipeline.world import MovableClock, World, settings_for
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeWire
from tests.postgres.wire import Wire
from tests.store.steps import ALLOWANCE

pytestmark = pytest.mark.looptime(False)
LEASE_SECONDS = 3.0


class Instance(World):
    """One instance of a fleet."""

    async def start(self) -> None:
        """Run the instance."""

        def lead(store: Store) -> LeaseKeeper:
            targets = {"cdn": self.target}
            options = store_options(self.settings, targets)
            found = leadership_of(store, self.settings.store.url, accounts=["main"], options=options)
            assert isinstance(found, LeaseKeeper)
            self.keeper = found
            return found

        self.lead = lead
        await super().start()

    @property
    def leads(self) -> bool:
        """Whether it leads the account, and has taken over."""
        return bool(self.pipeline.engines)

    async def crash(self) -> None:
        """End as SIGKILL would: nothing is drained or given back."""
        self.keeper._connection.end()
        self.keeper.leave = _nothing  # type: ignore[method-assign]
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        self.keeper._thread.shutdown()
        await self.store.close()


async def _nothing() -> None:
    pass


@asynccontextmanager
async def a_fleet(folder: Path, *urls: str, names: Sequence[str] = ("web-1", "web-2")) -> AsyncIterator[list[Instance]]:
    """Run an instance for each URL of the store, in front of one CDN; the first one leads."""
    (folder / "origin").mkdir(exist_ok=True)
    clock = MovableClock()
    options = EmulatorSettings(
        origin=str(folder / "origin"), credentials=Credentials("testid", "testsecret"), api_port=0, edge_port=0,
        task_seconds=0.1, quota={RefreshKind.FILE: 1000, RefreshKind.DIRECTORY: 20}, clock=clock,
    )  # fmt: skip
    async with Emulator(options) as cdn, aiohttp.ClientSession() as http:
        fleet = []
        for name, url in zip(names, urls, strict=False):
            extra = {
                "store": {"url": url},
                "instance": {"name": name},
                "fleet": {"lease_seconds": LEASE_SECONDS},
            }
            table = AlibabaCdn.Settings(endpoint=cdn.api_url, timeouts={"answer_seconds": 2.0})  # type: ignore[call-arg]
            target = AlibabaCdn("cdn", table, clock=clock, environment=KEYS)
            fleet.append(instance := Instance(folder, settings_for(folder, cdn, extra), cdn, target))
            instance.clock, instance.http = clock, http
            await instance.start()
            await until(lambda: fleet[0].leads)
        try:
            yield fleet
        finally:
            for instance in fleet:
                if not instance.running.done():
                    await instance.stop()
                await instance.target.close()


async def until(condition: Callable[[], Any], *, seconds: float = 60.0) -> None:
    """Wait until the condition holds; it may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@asynccontextmanager
async def a_cut_off_fleet(
    folder: Path, postgres: Cluster, url: str, make_wire: MakeWire
) -> AsyncIterator[tuple[Wire, Instance, Instance]]:
    """Run two instances, the first of which leads and reaches the database over a wire."""
    wire = make_wire(postgres.port)
    async with a_fleet(folder, url.replace(f":{postgres.port}/", f":{wire.port}/"), url) as (old, new):
        yield wire, old, new
        await asyncio.to_thread(wire.mend)


async def turns_fresh(instance: Instance, fleet: list[Instance], *keys: str) -> None:
    """Change these keys; each is requested once, and what the CDN accepted is what the ledger says."""
    before = instance.accepted.get("file", 0)
    for key in keys:
        instance.source.deliver(instance.write(key, f"new at {before}"))
    await until(lambda: instance.accepted.get("file", 0) == before + len(keys))

    async def is_settled() -> bool:
        counts = await instance.store.counts()
        return not any((counts.pending, counts.in_flight, counts.failed))

    await until(is_settled)
    assert (await instance.store.budget("main", ALLOWANCE[RefreshKind.FILE])).spent == instance.accepted["file"]
    assert sum(one.leads for one in fleet) <= 1


@pytest.fixture
def urls(postgres_database: str) -> list[str]:
    """The URL of an empty database, for each instance."""
    return [postgres_database, postgres_database]


async def test_every_instance_records_and_one_sends(tmp_path: Path, urls: list[str]) -> None:
    """What either of them notices is requested once, by the one that leads."""
    async with a_fleet(tmp_path, *urls) as fleet:
        leader, other = fleet
        await turns_fresh(leader, fleet, "a.html")
        await turns_fresh(other, fleet, "b.html", "c.html")
        assert not other.leads
        assert other.pipeline.ready


async def test_an_instance_that_stops_hands_over_at_once(tmp_path: Path, urls: list[str]) -> None:
    """Others need not wait for the end of its lease."""
    async with a_fleet(tmp_path, *urls) as fleet:
        leader, other = fleet
        await turns_fresh(leader, fleet, "a.html")
        await leader.stop()
        stopped_at = time.monotonic()
        await until(lambda: other.leads)
        assert time.monotonic() - stopped_at < LEASE_SECONDS / 2
        await turns_fresh(other, [other], "b.html")


async def test_what_a_killed_leader_left_is_taken_over(tmp_path: Path, urls: list[str]) -> None:
    """Within the lease and two seconds; what it had reserved is refunded and sent, and spent once."""
    async with a_fleet(tmp_path, *urls) as fleet:
        leader, other = fleet
        leader.pipeline.engines[0].sender._draining = True  # reserved, and never sent
        for key in ("a.html", "b.html"):
            leader.source.deliver(leader.write(key, "new"))

        async def is_reserved() -> bool:
            return (await other.store.budget("main", ALLOWANCE[RefreshKind.FILE])).held == 2

        await until(is_reserved)
        await leader.crash()
        killed_at = time.monotonic()
        await until(lambda: other.leads)
        assert time.monotonic() - killed_at < LEASE_SECONDS + 2
        await until(lambda: other.accepted.get("file") == 2)
        await turns_fresh(other, [other], "c.html")


async def test_a_leader_cut_off_from_the_database_sends_nothing_once_another_may(
    tmp_path: Path, postgres: Cluster, postgres_database: str, make_wire: MakeWire
) -> None:
    """Its deadline passes while the database is silent. Back again it is no leader, and both go on."""
    async with a_cut_off_fleet(tmp_path, postgres, postgres_database, make_wire) as (wire, old, new):
        term = old.pipeline.engines[0].sender._term
        await asyncio.to_thread(wire.cut)
        cut_at = time.monotonic()
        await until(lambda: term.left_seconds() <= 0)
        assert not new.leads
        await until(lambda: new.leads)
        assert time.monotonic() - cut_at < LEASE_SECONDS + 2
        await turns_fresh(new, [new], "a.html")
        await asyncio.to_thread(wire.mend)
        await until(lambda: not old.leads)
        assert not term.may_begin()
        await turns_fresh(old, [old, new], "b.html")


async def test_an_answer_that_could_not_be_booked_in_time_is_booked_once(
    tmp_path: Path,
    postgres: Cluster,
    postgres_database: str,
    make_wire: MakeWire,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The new leader finds the request in the task list; the old one writes its answer down when it can, too late."""
    async with a_cut_off_fleet(tmp_path, postgres, postgres_database, make_wire) as (wire, old, new):
        old.order("slow:0.4,action=RefreshObjectCaches")
        old.source.deliver(old.write("a.html", "new"))

        async def is_sending() -> Any:
            return await new.store.attempts_in(AttemptState.SENDING)

        await until(is_sending)
        await asyncio.to_thread(wire.cut)
        await until(lambda: old.accepted == {"file": 1})
        await until(lambda: new.leads)

        async def spent() -> tuple[int, int]:
            budget = await new.store.budget("main", ALLOWANCE[RefreshKind.FILE])
            return budget.spent, budget.held

        async def is_adopted() -> bool:
            return await spent() == (1, 0)

        await until(is_adopted)
        await asyncio.to_thread(wire.mend)
        await until(lambda: not old.leads)
        await until(lambda: not old.pipeline._leaders._jobs)  # it has ended, with its last booking
        assert "sender.answer_late" in capsys.readouterr().out
        await turns_fresh(new, [new], "b.html")
        rows = f"SELECT count(*) FROM {SCHEMA}.late_answer"
        name = postgres_database.rpartition("/")[2]
        await until(lambda: postgres.value(rows, database=name) == 0)
        assert await spent() == (2, 0)


async def test_two_processes_with_the_name_of_one_instance_report_it(tmp_path: Path, urls: list[str]) -> None:
    """Each says which setting to change."""
    async with a_fleet(tmp_path, *urls, names=("web", "web")) as fleet:
        for one in fleet:
            await until(lambda one=one: any("instance.name" in trouble for trouble in one.pipeline.troubles))  # type: ignore[misc]
