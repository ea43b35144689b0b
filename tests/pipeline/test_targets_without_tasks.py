"""A target that reports no tasks: what it accepts is complete, and an unknown outcome is spent and sent again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from listener.allowances import Day, for_each_kind
from listener.change import Change, ChangeKind
from listener.contracts import Check, KindLimits, TargetBase
from listener.errors import OutcomeUnknown, TargetError
from listener.refresh import AttemptState, Receipt, RefreshKind
from tests.pipeline.world import MovableClock, World, settings_for

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


class Cache(TargetBase):
    """A cache that drops what it is sent, unless it is to fail first."""

    limits: ClassVar = {RefreshKind.FILE: KindLimits(10), RefreshKind.DIRECTORY: KindLimits(1)}
    allowances = for_each_kind({RefreshKind.FILE: 10, RefreshKind.DIRECTORY: 2}, Day())

    def __init__(self) -> None:
        super().__init__("cdn", None)
        self.account = "main"
        self.failures: list[TargetError] = []
        self.sent: list[tuple[RefreshKind, str]] = []

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        self.sent += [(kind, url) for url in urls]
        if self.failures:
            raise self.failures.pop(0)
        return Receipt(("purged",))

    async def check(self) -> Sequence[Check]:
        return []


@pytest.fixture
async def cache() -> Cache:
    """A cache that does not fail."""
    return Cache()


@pytest.fixture
async def world(tmp_path: Path, cache: Any) -> AsyncIterator[World]:
    """A pipeline with this cache as its only target, whose first look at a task comes after an hour."""
    edge: Any = SimpleNamespace(edge_url="https://www.example.com")
    settings = settings_for(tmp_path, edge, {"verifier": {"first_seconds": 3600.0, "interval_seconds": 0.1}})
    made = World(tmp_path, settings, edge, cache)
    made.clock = MovableClock()
    await made.start()
    yield made
    await made.stop()


async def test_what_is_accepted_is_complete_at_once(world: World, cache: Cache) -> None:
    """A file and a directory are settled without a task to wait for, each paid for once."""
    world.source.deliver(Change("www", "a.html"), Change("www", "old/", ChangeKind.SUBTREE))
    await world.settled()
    assert sorted(cache.sent) == [
        (RefreshKind.DIRECTORY, "https://www.example.com/old/"),
        (RefreshKind.FILE, "https://www.example.com/a.html"),
    ]
    assert await world.ledger() == (1, 0)
    assert await world.ledger(RefreshKind.DIRECTORY) == (1, 0)


async def test_an_unknown_outcome_is_spent_and_sent_again(world: World, cache: Cache) -> None:
    """The URL stays stale until a request succeeds, and both requests count: never over quota, nothing lost."""
    cache.failures.append(OutcomeUnknown("no answer"))
    world.source.deliver(Change("www", "a.html"))

    async def is_unknown() -> bool:
        return bool(await world.store.attempts_in(AttemptState.UNKNOWN))

    await world.until(is_unknown)
    assert await world.ledger() == (0, 1)
    world.clock.ahead += 3700
    await world.settled()
    assert cache.sent == [(RefreshKind.FILE, "https://www.example.com/a.html")] * 2
    assert await world.ledger() == (2, 0)
