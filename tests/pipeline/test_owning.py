"""Which instance reads a source, and when one that does not is ready. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from listener.pipeline.owning import FIRST_LOOK_SECONDS, SourceOwner
from listener.pipeline.waking import WakeUp
from listener.store.leadership import SOURCE


class Reader:
    """An intake and a leadership of one source, which note what is done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.terms: dict[str, int] = {}
        self.changed = WakeUp()
        self.scanned = False

    def stand_by(self, name: str) -> None:
        self.done.append(f"{name} stands by")

    def renew(self, name: str) -> None:
        self.done.append(f"{name} is made")

    async def read(self, name: str) -> None:
        self.done.append(f"{name} is read")
        await asyncio.Event().wait()

    async def is_scanned(self) -> bool:
        return self.scanned

    def lead(self, term: int | None) -> None:
        """Let a term begin, or end."""
        self.terms = {} if term is None else {f"{SOURCE}www": term}
        self.changed.set()


@asynccontextmanager
async def owning() -> AsyncIterator[Any]:
    """Run an owner for as long as the block lasts."""
    found: Any = Reader()
    owner = SourceOwner(found, found, found.changed, "www", is_scanned=found.is_scanned)
    task = asyncio.create_task(owner.run())
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_nobody_is_ready_before_the_first_scan() -> None:
    """What changed before it is not found by comparison, so a balancer or a deploy must not count on it."""
    async with owning() as found:
        await asyncio.sleep(100)
        assert found.done == []
        found.scanned = True
        await asyncio.sleep(2 * FIRST_LOOK_SECONDS)
        assert found.done == ["www stands by"]


async def test_an_instance_that_starts_waits_for_the_lease_before_it_stands_by() -> None:
    """A single one that is restarted does not report ready, scanning and ready."""
    async with owning() as found:
        found.scanned = True
        await asyncio.sleep(FIRST_LOOK_SECONDS / 2)
        found.lead(7)
        await asyncio.sleep(100)
        assert found.done == ["www is made", "www is read"]


async def test_who_loses_the_lease_stands_by_only_if_the_first_scan_was_done() -> None:
    """The next one begins it again."""
    for scanned, then in ((False, []), (True, ["www stands by"])):
        async with owning() as found:
            found.lead(1)
            await asyncio.sleep(10)
            found.scanned = scanned
            found.lead(None)
            await asyncio.sleep(100)
            assert found.done[2:][:1] == then
