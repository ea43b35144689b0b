"""A store that cannot commit, as on a full disk, stops the work and not the process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from listener.errors import StoreError, StoreUnusable

__all__ = ["StoreRetry"]

log = structlog.get_logger()
T = TypeVar("T")

RETRY_SECONDS = 1.0
RETRY_MOST_SECONDS = 30.0


class StoreRetry:
    """
    Does what needs the store again and again until it can, and says meanwhile that it cannot.

    What a CDN has answered is known only to this process until it is booked, so giving up would turn
    a known outcome into an unknown one; and a restart would not free the disk.
    """

    def __init__(self) -> None:
        """Start without trouble."""
        self._troubles: dict[str, StoreError] = {}
        self.raises_damage = False
        """Whether a damaged state file ends the work: a daemon stays up to report it, a command does not."""

    @property
    def trouble(self) -> StoreError | None:
        """What the store could not do when it was last asked to, if anything."""
        return next(iter(self._troubles.values()), None)

    async def until_done(self, what: str, do: Callable[[], Awaitable[T]]) -> T:
        """
        Await ``do()``, again after each :class:`~listener.errors.StoreError`, with growing waits.

        After damage there is nothing to try again: it waits to be cancelled, or raises it (``raises_damage``).
        """
        wait = RETRY_SECONDS
        while True:
            try:
                result = await do()
            except StoreError as error:
                self._troubles[what] = error
                log.error("store.failed", doing=what, error=str(error), hint=error.hint, retry_seconds=wait)
                if isinstance(error, StoreUnusable):
                    if self.raises_damage:
                        raise
                    await asyncio.Event().wait()
            else:
                self._troubles.pop(what, None)
                return result
            await asyncio.sleep(wait)
            wait = min(RETRY_MOST_SECONDS, 2 * wait)
