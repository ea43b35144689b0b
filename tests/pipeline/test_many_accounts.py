"""Many accounts on one store: an idle one costs nothing, and what concerns one account wakes no other's leader."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from listener.allowances import Day, for_each_kind
from listener.change import Change
from listener.contracts import Check, KindLimits, TargetBase
from listener.pipeline import Pipeline, store_options
from listener.pipeline import engine as engines
from listener.pipeline.engine import Engine
from listener.refresh import QuotaReading, Receipt, RefreshKind
from listener.settings import Settings
from listener.store import NeedInput, Store, open_store
from listener.store.leadership import leadership_of
from tests.pipeline.world import PlayedSource
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time
ACCOUNTS = 40


class Cache(TargetBase):
    """One account's CDN, which accepts everything."""

    limits: ClassVar = {RefreshKind.FILE: KindLimits(10), RefreshKind.DIRECTORY: KindLimits(1)}
    allowances = for_each_kind({RefreshKind.FILE: 100, RefreshKind.DIRECTORY: 10}, Day())

    def __init__(self, number: int) -> None:
        super().__init__(f"cdn-{number}", None)
        self.account = f"account-{number}"
        self.sent: list[str] = []
        self.quota_reads = 0

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        self.sent += urls
        return Receipt(("purged",))

    async def read_quota(self) -> dict[str, QuotaReading]:
        self.quota_reads += 1
        return {}

    async def check(self) -> Sequence[Check]:
        return []


class Accounts:
    """A pipeline with many accounts, and how often the store was called."""

    def __init__(self, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch, *, name: str = "web-1") -> None:
        self.caches: dict[str, Any] = {f"cdn-{number}": Cache(number) for number in range(ACCOUNTS)}
        self.source = PlayedSource()
        self.calls: Counter[str] = Counter()
        self.folder = folder
        tables: dict[str, Any] = {
            "store": {"url": url},
            "instance": {"name": name},
            "admin": {"listen": ""},
            "coalescer": {"quiet_seconds": 0.1},
            "verifier": {"first_seconds": 0.2, "interval_seconds": 0.1},
            "sources": {"www": {"type": "played"}},
            "targets": {cache: {"type": "alibaba-cdn"} for cache in self.caches},
            "sites": [
                {
                    "source": "www",
                    "target": cache,
                    "base_urls": [f"https://{cache}.example.com/"],
                    "include": [f"{cache}/**"],
                }
                for cache in self.caches
            ],
        }
        self.settings = Settings(**tables)
        for kind in ("_read", "_write"):
            self._count(monkeypatch, kind)
        self.pipeline: Pipeline
        self.store: Store

    def _count(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        real = getattr(Store, name)

        async def count(store: Store, *args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return await real(store, *args, **options)

        monkeypatch.setattr(Store, name, count)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it; it is at rest on entry."""
        options = store_options(self.settings, self.caches)
        accounts = [cache.account for cache in self.caches.values()]
        url = self.settings.store.url
        async with open_store(url, options=options, owner=True) as self.store:
            self.pipeline = Pipeline(
                self.settings,
                self.store,
                make_sources=lambda: {"www": self.source},
                targets=self.caches,
                leadership=leadership_of(self.store, url, accounts=accounts, options=options),
                state_directory=self.folder,
            )
            run = asyncio.create_task(self.pipeline.run())
            try:
                await until(lambda: len(self.pipeline.engines) == ACCOUNTS and self._are_settled(), seconds=30)
                await asyncio.sleep(1.5)
                yield
            finally:
                self.pipeline.stop()
                await run

    def _are_settled(self) -> bool:
        return all(engine.settled for engine in self.pipeline.engines)

    async def called(self, seconds: float) -> int:
        """Return how many calls of the store there are within this time."""
        self.calls.clear()
        await asyncio.sleep(seconds)
        return self.calls.total()

    async def changed(self, name: str, key: str) -> None:
        """Deliver a change of one account; it is sent by that account alone, and settled."""
        self.source.deliver(Change("www", f"{name}/{key}"))
        await until(lambda: bool(self.caches[name].sent), seconds=20)

        async def is_settled() -> bool:
            counts = await self.store.counts()
            return not any((counts.pending, counts.in_flight, counts.failed))

        async with asyncio.timeout(20):
            while not await is_settled():
                await asyncio.sleep(0.05)


@pytest.fixture(params=["sqlite", "postgresql"])
def accounts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """Many accounts on a store of each kind."""
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/state.db" if is_file else request.getfixturevalue("postgres_database")
    return Accounts(tmp_path, url, monkeypatch)


def counted_rounds(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count from now on how often each account plans."""
    rounds: Counter[str] = Counter()
    plan = Engine._round

    async def count(engine: Engine) -> float:
        rounds[engine.account.name] += 1
        return await plan(engine)

    monkeypatch.setattr(Engine, "_round", count)
    return rounds


async def test_idle_accounts_cost_nothing(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where commits are announced, nothing is read; else one look at the store a second, however many accounts."""
    monkeypatch.setattr("listener.pipeline.lookout.TICK_SECONDS", 1.0)
    async with accounts.running():
        assert await accounts.called(3.0) <= 6


async def test_a_change_of_one_account_wakes_no_other(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its own leader plans, sends and looks: the number of calls does not depend on that of accounts."""
    async with accounts.running():
        rounds = counted_rounds(monkeypatch)
        accounts.calls.clear()
        await accounts.changed("cdn-7", "a.html")
        await asyncio.sleep(1.0)
        assert rounds.keys() == {"account-7"}
        assert [name for name, cache in accounts.caches.items() if cache.sent] == ["cdn-7"]
        assert accounts.calls.total() < 2 * ACCOUNTS


async def test_what_another_process_makes_ready_is_planned_by_its_leader_alone(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no time at which it would be due: the row is found by the change of the revision."""
    async with accounts.running():
        rounds = counted_rounds(monkeypatch)
        async with open_store(accounts.settings.store.url) as other:
            await other.request([NeedInput("cdn-3", "https://cdn-3.example.com/a.html")])
        await until(lambda: accounts.caches["cdn-3"].sent == ["https://cdn-3.example.com/a.html"], seconds=10)
        assert rounds.keys() == {"account-3"}
        assert all(engine.planned_to >= 0 for engine in accounts.pipeline.engines)


async def test_the_quota_of_an_account_at_rest_is_read_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And at once where something is to be sent again; others have theirs read as before."""
    for name, seconds in (("QUOTA_SECONDS", 0.2), ("REST_SECONDS", 3.0), ("LEAST_REST_SECONDS", 0.05)):
        monkeypatch.setattr(engines, name, seconds)
    accounts = Accounts(tmp_path, f"sqlite:///{tmp_path}/state.db", monkeypatch)
    cache = accounts.caches["cdn-0"]
    async with accounts.running():
        await asyncio.sleep(3.0)
        before = cache.quota_reads
        assert before >= 3
        await asyncio.sleep(1.0)
        assert cache.quota_reads == before
        await accounts.changed("cdn-0", "a.html")
        await until(lambda: cache.quota_reads > before, seconds=5)
