"""A world to run the pipeline in: an origin, the emulator with its edge, a source to play on, one clock for all."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel
from yarl import URL

from listener.alibaba.signature import Credentials
from listener.allowances import Day, for_each_kind
from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Check, Delivery, IndexView, Source, SourceHealth
from listener.emulator import Emulator, EmulatorSettings
from listener.pipeline import Pipeline, store_options
from listener.refresh import AttemptState, RefreshKind
from listener.settings import Settings
from listener.store import NeedInput, Store, open_store
from listener.store.leadership import Leadership
from listener.store.transitions import AttemptRequest
from listener.targets.alibaba_cdn import AlibabaCdn
from listener.testing import clock as testing
from tests.keys import KEYS

DEADLINE_SECONDS = 60.0


class MovableClock(testing.MovableClock):
    """The machine's clock, moved on by a test; never near a reset of the quota day at its start."""

    def __init__(self) -> None:
        """Start at the machine's time, or some hours later."""
        second_of_day = (time.time() + 8 * 3600) % 86400
        super().__init__(0.0 if 3600 < second_of_day < 86400 - 3600 else 7200.0)


class PlayedSource:
    """A source that delivers what the test reports it to."""

    Settings: ClassVar[type[BaseModel]] = BaseModel
    roots = ("www",)

    def __init__(self, name: str = "www") -> None:
        """Start with nothing to deliver."""
        self.name = name
        self.health = SourceHealth(ready=True)
        self.queue: asyncio.Queue[Delivery | None] = asyncio.Queue()
        self.acked = 0

    async def deliveries(self, _index: IndexView) -> AsyncIterator[Delivery]:
        """Yield what was put, until ``None``."""
        while (delivery := await self.queue.get()) is not None:
            yield delivery

    async def check(self) -> Sequence[Check]:
        """Probe nothing."""
        return []

    def deliver(self, *changes: Change, **fields: Any) -> None:
        """Deliver these changes."""

        async def ack() -> None:
            self.acked += 1

        self.queue.put_nowait(Delivery(changes, ack, **fields))


class World:
    """Everything that a test plays with."""

    def __init__(self, folder: Path, settings: Settings, emulator: Emulator, target: AlibabaCdn) -> None:
        """Keep the parts."""
        self.origin = folder / "origin"
        self.settings = settings
        self.emulator = emulator
        self.target = target
        self.source = PlayedSource()
        self.make_source: Callable[[], Source] = lambda: self.source
        self.clock: MovableClock
        self.store: Store
        self.pipeline: Pipeline
        self.lead: Callable[[Store], Leadership] | None = None
        """What makes the leadership of the next start, where this process does not simply lead every account."""
        self.http: aiohttp.ClientSession
        self.running: asyncio.Task[None]

    async def start(self) -> None:
        """Run a pipeline on the world's store."""
        targets = {"cdn": self.target}
        options = store_options(self.settings, targets)
        self.store = open_store(self.settings.store.url, options=options, clock=self.clock, owner=True)
        self.pipeline = Pipeline(
            self.settings,
            self.store,
            make_sources=lambda: {"www": self.make_source()},
            targets=targets,
            clock=self.clock,
            leadership=self.lead(self.store) if self.lead else None,
            state_directory=self.origin.parent,
        )
        self.running = asyncio.create_task(self.pipeline.run())

    async def stop(self, *, crash: bool = False) -> None:
        """End the pipeline in order, or leave the store as a crash would."""
        self.pipeline.stop()
        await self.running
        if crash:
            await self.store._write(lambda connection: connection.execute("UPDATE meta SET clean = 0").rowcount)
        await self.store.close()

    def url(self, key: str) -> str:
        """Return the URL under which the edge serves a key."""
        return self.emulator.edge_url + "/" + quote(key, safe="/+")

    async def get(self, key: str) -> str:
        """Return what the edge answers for a key: its body, or its status when that is not 200."""
        async with self.http.get(URL(self.url(key), encoded=True)) as response:
            return await response.text() if response.status == 200 else str(response.status)

    def write(self, key: str, text: str) -> Change:
        """Change a file at the origin; return the change to deliver."""
        path = self.origin / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        stat = path.stat()
        return Change("www", key, ChangeKind.CONTENT, Fingerprint(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))

    def remove(self, key: str) -> Change:
        """Remove a file from the origin; return the change to deliver."""
        (self.origin / key).unlink()
        return Change("www", key, ChangeKind.DELETED)

    def order(self, *faults: str) -> None:
        """Order faults of the emulator."""
        for fault in faults:
            self.emulator.faults.order(self.emulator.table.parse(fault), self.emulator.clock.now())

    @property
    def accepted(self) -> dict[str, int]:
        """Return how many units the emulator accepted, by kind, in all days."""
        total: dict[str, int] = {}
        for units in self.emulator.account.ledger.windows().values():
            for kind, count in units.items():
                total[str(kind)] = total.get(str(kind), 0) + count
        return total

    @property
    def paths(self) -> list[str]:
        """Return every path that the emulator accepted, in order."""
        return [record.path for record in self.emulator.account.tasks.all()]

    async def until(self, condition: Callable[[], Any], *, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until the condition holds; it may be a coroutine function."""
        deadline = time.monotonic() + seconds
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            assert time.monotonic() < deadline, f"not within {seconds} s; {await self.store.counts()}"
            await asyncio.sleep(0.02)

    async def settled(self, *, seconds: float = DEADLINE_SECONDS) -> None:
        """Wait until nothing is left to do."""

        async def nothing_left() -> bool:
            # In this order: what leaves the queue is counted by the time the counts are read.
            if not (self.source.queue.empty() and self.pipeline.intake.idle):
                return False
            counts = await self.store.counts()
            return not any((counts.pending, counts.in_flight, counts.failed))

        await self.until(nothing_left, seconds=seconds)

    async def ledger(self, kind: RefreshKind = RefreshKind.FILE) -> tuple[int, int]:
        """Return what our ledger says is spent and held."""
        (allowance,) = (one for one in self.target.allowances if kind in one.costs)
        budget = await self.store.budget("main", allowance)
        return budget.spent, budget.held


def settings_for(
    folder: Path, emulator: Emulator, extra: dict[str, Any] | None = None, site: dict[str, Any] | None = None
) -> Settings:
    """Return settings quick enough for tests; ``site`` are further keys of the only site."""
    tables: dict[str, Any] = {
        "store": {"url": f"sqlite:///{folder}/state.db"},
        "coalescer": {"quiet_seconds": 0.05, "cap_seconds": 1.0, "unfinished_quiet_seconds": 0.2},
        "verifier": {"first_seconds": 0.2, "interval_seconds": 0.1, "give_up_seconds": 3600.0},
        "admin": {"listen": ""},
        "sources": {"www": {"type": "played"}},
        "targets": {"cdn": {"type": "alibaba-cdn"}},
        "sites": [{"source": "www", "target": "cdn", "base_urls": [emulator.edge_url + "/"], **(site or {})}],
    }
    for name, table in (extra or {}).items():
        tables[name] = {**tables.get(name, {}), **table} if isinstance(table, dict) else table
    return Settings(**tables)


@asynccontextmanager
async def a_world(
    folder: Path,
    *,
    quota: tuple[int, int] = (1000, 20),
    task_seconds: float = 0.1,
    target: dict[str, Any] | None = None,
    extra: dict[str, Any] | Callable[[Emulator], dict[str, Any]] | None = None,
    site: dict[str, Any] | None = None,
    **emulator: Any,
) -> AsyncIterator[World]:
    """Make a world, run the pipeline in it, and stop it in order; ``extra`` are further tables of the settings."""
    (folder / "origin").mkdir(exist_ok=True)
    clock = MovableClock()
    files, directories = quota
    options = EmulatorSettings(
        origin=str(folder / "origin"), credentials=Credentials("testid", "testsecret"), api_port=0, edge_port=0,
        task_seconds=task_seconds, quota={RefreshKind.FILE: files, RefreshKind.DIRECTORY: directories}, clock=clock,
        **emulator,
    )  # fmt: skip
    async with Emulator(options) as running:
        table = {"endpoint": running.api_url, "timeouts": {"answer_seconds": 2.0}, **(target or {})}
        cdn = AlibabaCdn("cdn", AlibabaCdn.Settings(**table), clock=clock, environment=KEYS)  # type: ignore[arg-type]
        world = World(
            folder, settings_for(folder, running, extra(running) if callable(extra) else extra, site), running, cdn
        )
        async with visited(world, clock):
            yield world


@asynccontextmanager
async def visited(world: World, clock: MovableClock) -> AsyncIterator[None]:
    """Run the pipeline of a world whose edge is reached by HTTP; stop it in order, and close its target."""
    world.clock = clock
    try:
        async with aiohttp.ClientSession() as world.http:
            await world.start()
            try:
                yield
            finally:
                await world.stop()
    finally:
        await world.target.close()


async def change_a_file_and_delete_a_directory(world: World) -> None:
    """See both turn fresh at the edge, and what only begins like the directory stay as it was."""
    for key in ("a.html", "d/1", "d/e/2", "dd/3"):
        world.write(key, "one")
        assert await world.get(key) == "one"
    world.source.deliver(world.write("a.html", "two, longer"))
    await world.settled()
    assert await world.get("a.html") == "two, longer"
    shutil.rmtree(world.origin / "d")
    (world.origin / "dd/3").write_text("never reported")
    world.source.deliver(Change("www", "d/", ChangeKind.SUBTREE_DELETED))
    await world.settled()
    assert [await world.get(key) for key in ("d/1", "d/e/2", "dd/3")] == ["404", "404", "one"]


async def stays(world: World, *, seconds: float = 1.5) -> None:
    """Let the pipeline go on for a while, and see that it still runs."""
    await asyncio.sleep(seconds)
    assert not world.running.done()


async def leave_in_flight(world: World, target: str, *states: AttemptState) -> None:
    """Leave an attempt of some target in flight."""
    url = world.url("old.html")
    await world.store.request([NeedInput(target, url)])
    wanted = AttemptRequest(target, RefreshKind.FILE, url, True, "", 0.0)
    (made,) = await world.store.hold([wanted], account="other", allowances=for_each_kind({RefreshKind.FILE: 10}, Day()))
    await world.store.mark_sending([made.id])
    if AttemptState.ACCEPTED in states:
        await world.store.accept({made.id: "77"}, next_look_at=1.0)
    else:
        await world.store.mark_unknown([made.id], next_look_at=1.0, error="")
