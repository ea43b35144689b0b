"""Instances are notified of each other's commits; what they miss is found by looking, which other tests cover."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from listener.store import Store
from listener.store.batches import Batch
from listener.store.postgres import notifications
from listener.store.postgres.notifications import Notifications
from tests.postgres.cluster import Cluster
from tests.postgres.fixtures import MakeWire
from tests.postgres.pool import Pool
from tests.store.databases import PostgresDatabase, prepare_schema
from tests.store.steps import content, route
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)


@dataclass
class Instance:
    """One that counts how often it was called."""

    store: Store
    commits: Notifications | None = None
    calls: int = 0
    number: int = field(default=0)

    def called(self) -> None:
        self.calls += 1

    @property
    def listens(self) -> bool:
        assert self.commits is not None
        return self.commits.is_listening.is_set()

    async def record(self) -> None:
        self.number += 1
        await self.store.record([Batch([content(f"{id(self)}/{self.number}")])], route)


@asynccontextmanager
async def instances(*urls: str) -> AsyncIterator[list[Instance]]:
    """Open the store as several instances do, each with a URL of the same database."""
    prepare_schema(urls[0])
    async with AsyncExitStack() as opened:
        found = []
        for number, url in enumerate(urls):
            store = await opened.enter_async_context(PostgresDatabase(url).open(instance=f"i{number}"))
            one = Instance(store)
            one.commits = cast("Notifications", opened.enter_context(store.announcing(one.called)))
            found.append(one)
        yield found


async def test_a_commit_is_announced_to_others_and_once_to_its_own_instance(postgres_database: str) -> None:
    """It takes no second; the one that committed is called by its writer and not by the server again."""
    async with instances(postgres_database, postgres_database) as (first, second):
        await until(lambda: first.listens and second.listens and second.calls == 1)
        before = first.calls
        await first.record()
        await until(lambda: second.calls == 2, seconds=30.0)
        assert not second.commits.of_others  # type: ignore[union-attr]
        await second.record()
        await until(lambda: first.calls == before + 2, seconds=30.0)
        assert second.calls == 3


async def test_the_last_of_many_commits_is_announced(postgres_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those in between share a notification; it is sent after the last."""
    monkeypatch.setattr(notifications, "LEAST_SECONDS", 0.5)
    async with instances(postgres_database, postgres_database) as (first, second):
        await until(lambda: first.listens and second.calls == 1)
        await first.record()
        await until(lambda: second.calls == 2)
        for _ in range(5):
            await first.record()
        await until(lambda: second.calls == 3, seconds=30.0)


async def test_who_lost_the_connection_listens_again(
    postgres: Cluster, make_wire: MakeWire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is called then, for what it missed, and is notified of what is next."""
    monkeypatch.setattr(notifications, "RETRY_SECONDS", 0.1)
    wire = make_wire(postgres.port)
    with postgres.database() as name:
        async with instances(postgres.url(name), postgres.url(name, port=wire.port)) as (first, second):
            await until(lambda: first.listens and second.calls == 1)
            wire.reset()
            await until(lambda: second.calls == 2)
            await until(lambda: second.listens)
            await first.record()
            await until(lambda: second.calls == 3, seconds=30.0)


async def test_behind_a_pool_an_instance_announces_and_is_notified_of_nothing(
    postgres: Cluster, postgres_pool: Pool
) -> None:
    """LISTEN there would be another server connection's than the next transaction's; NOTIFY works."""
    with postgres.database() as name:
        async with instances(postgres.url(name), postgres_pool.url(name)) as (direct, pooled):
            await until(lambda: direct.listens)
            before = direct.calls
            await pooled.record()
            await until(lambda: direct.calls > before, seconds=30.0)
            await direct.record()
            assert (pooled.listens, pooled.calls) == (False, 1)
