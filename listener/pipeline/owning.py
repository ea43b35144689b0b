"""
Which of several instances reads a source: the one that holds its lease, as with a file tree that all of them see.

Each term begins with the source made once more, so with a scan: what changed while nobody watched is found by it. Two
owners for a moment do no harm: each records what it sees, and the index row of the later number stays.
"""

from __future__ import annotations

import asyncio

import structlog

from listener.pipeline.intake import Intake
from listener.pipeline.leading import cancel
from listener.pipeline.waking import TICK_SECONDS, WakeUp
from listener.store.leadership import SOURCE, Leadership

__all__ = ["SourceOwner"]

log = structlog.get_logger()


class SourceOwner:
    """Reads one source during the terms of its lease, and stands by in between."""

    def __init__(self, intake: Intake, leadership: Leadership, changed: WakeUp, name: str) -> None:
        """Take the source's name, and what is set when terms begin or end."""
        self._intake = intake
        self._leadership = leadership
        self._changed = changed
        self._name = name

    async def run(self) -> None:
        """Read and stand by, until the source ends by itself."""
        while True:
            since, term = self._changed.count, self._term
            if term is None:
                self._intake.stand_by(self._name)
                await self._changed.wait(TICK_SECONDS, since=since)
            elif await self._read(term):
                return

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
