"""
Which of several instances reads a source: the one that holds its lease, as with a file tree that all of them see.

Each term begins with the source made once more, so with a scan: what changed while nobody watched is found by it. Two
owners for a moment do no harm: each records what it sees, and the index row of the later number stays.

Before the first scan of all nothing is found by comparison, so until it is durable no instance is ready, also none that
stands by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from listener.pipeline.intake import Intake
from listener.pipeline.leading import cancel
from listener.pipeline.waking import TICK_SECONDS, WakeUp
from listener.store.leadership import SOURCE, Leadership

__all__ = ["SourceOwner"]

log = structlog.get_logger()

FIRST_LOOK_SECONDS: Final = 1.0
"""So long an instance that starts waits for the lease before it stands by; and between two looks for the first scan."""


class SourceOwner:
    """Reads one source during the terms of its lease, and stands by in between."""

    def __init__(
        self,
        intake: Intake,
        leadership: Leadership,
        changed: WakeUp,
        name: str,
        *,
        is_scanned: Callable[[], Awaitable[bool]],
    ) -> None:
        """
        Take the source.

        Args:
            intake: has the source.
            leadership: says in which terms it is read here.
            changed: set when terms begin or end.
            name: of the source.
            is_scanned: whether its first scan is durable, whichever instance made it.
        """
        self._intake = intake
        self._is_scanned = is_scanned
        self._leadership = leadership
        self._changed = changed
        self._name = name

    async def run(self) -> None:
        """Read and stand by, until the source ends by itself."""
        is_scanned = False
        while True:
            since, term = self._changed.count, self._term
            if term is not None:
                if await self._read(term):
                    return
                is_scanned = await self._is_scanned()
            elif not is_scanned:
                is_scanned = not await self._changed.wait(FIRST_LOOK_SECONDS, since=since) and await self._is_scanned()
            else:
                self._intake.stand_by(self._name)
                await self._changed.wait(TICK_SECONDS, since=since)

    @property
    def _term(self) -> int | None:
        return self._leadership.terms.get(SOURCE + self._name)

    async def _read(self, term: int) -> bool:
        """Read the source until the term ends, and return False; or to the source's end."""
        log.info("source.owned", source=self._name, term=term)
        self._intake.renew(self._name)
        reading = asyncio.create_task(self._intake.read(self._name), name=f"read {self._name}")
        reading.add_done_callback(lambda _: self._changed.set())
        try:
            while self._term == term:
                since = self._changed.count
                if reading.done():
                    await reading
                    return True
                await self._changed.wait(TICK_SECONDS, since=since)
        finally:
            await cancel([reading])
        log.warning("source.no_longer_owned", source=self._name, term=term)
        return False
