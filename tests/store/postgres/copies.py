"""Instances on one database, each with its own copy of a tree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from listener.change import Change, ChangeKind, Fingerprint
from listener.clock import Clock
from listener.refresh import Attempt, NeedState
from listener.settings import CoalescerSettings
from listener.store import Store
from listener.store.batches import Batch
from listener.store.copies import CopiedSources
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.copies import PostgresCopies
from listener.store.postgres.migrations import SCHEMA
from listener.store.store import StoreOptions
from tests.store.steps import ALLOWANCES, FakeClock, file, route

QUIET_SECONDS = 2.0
WAIT_SECONDS = 30.0
TIMING = CoalescerSettings(quiet_seconds=QUIET_SECONDS, cap_seconds=60.0)


def holds(key: str, size: int, *, mtime: int = 1, ctime: int = 1, etag: str | None = None) -> Change:
    """Content that a copy holds now; times in seconds."""
    return Change("www", key, ChangeKind.CONTENT, Fingerprint(size, mtime * 10**9, ctime * 10**9, 1, etag))


class Fleet:
    """Stores of instances, and what lies in their database."""

    def __init__(self, url: str, clock: Clock) -> None:
        self.clock = clock
        self.observer = PostgresConnection(url, schema=SCHEMA, instance="observer")
        self.url = url
        self._stores: list[Store] = []

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own."""
        cursor = self.observer.raw.execute(statement.replace("{}", SCHEMA).encode(), values)
        return cursor.fetchall() if cursor.description else []

    async def join(self, name: str, *, is_seeded: bool = True) -> Store:
        """Open the store of an instance that lives, and say that its tree was scanned."""
        sources = CopiedSources(names=frozenset({"www"}), instance=name, wait_seconds=WAIT_SECONDS, route=route)
        driver = PostgresDriver(self.url, instance=name, owner=True, readonly=False)
        options = StoreOptions(timing=TIMING, copied=sources)
        store = Store(driver, options=options, clock=self.clock, copies=PostgresCopies(sources))
        self._stores.append(store)
        self.sql(
            "INSERT INTO {}.instance VALUES ($1, 1, now() + interval '1 hour', '1', ARRAY[]::text[], now())"
            " ON CONFLICT (name) DO UPDATE SET until = excluded.until",
            name,
        )
        if is_seeded:
            await store.mark_seeded("www")
        return store

    def end(self, name: str) -> None:
        """Let the heartbeat of an instance be over."""
        self.sql("UPDATE {}.instance SET until = '-infinity' WHERE name = $1", name)

    def needs(self) -> dict[str, NeedState]:
        """Return the state of each need by the name of its object."""
        return {name: NeedState(state) for name, state in self.sql("SELECT name, state FROM {}.need")}

    async def close(self) -> None:
        """Close every store."""
        for store in self._stores:
            await store.close()
        self.observer.end()


@asynccontextmanager
async def fleet(url: str, clock: Clock) -> AsyncIterator[Fleet]:
    """Give a fleet without instances."""
    stand = Fleet(url, clock)
    try:
        yield stand
    finally:
        await stand.close()


async def record(store: Store, *changes: Change, seed: bool = False) -> None:
    """Record what the instance of a store saw."""
    await store.record([Batch(changes, seed=seed)], route)


async def seed(store: Store, *changes: Change) -> None:
    """Record what the first scan of an instance finds."""
    await record(store, *changes, seed=True)
    await store.mark_seeded("www")


async def promoted(store: Store, clock: FakeClock, seconds: float = QUIET_SECONDS) -> int:
    """Let time pass; return how many needs are due then."""
    clock.advance(seconds)
    return (await store.promote_due()).total()


async def refresh(store: Store, *keys: str, until: str = "complete") -> list[Attempt]:
    """Refresh these keys, to the end or until the request is accepted."""
    made = await store.hold([file(key) for key in keys], account="main", allowances=ALLOWANCES)
    await store.mark_sending([one.id for one in made])
    await store.accept({one.id: "task" for one in made}, next_look_at=store.clock.now())
    if until == "complete":
        await store.complete(made)
    return made
