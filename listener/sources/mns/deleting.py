"""Deletions: batches of what is durable, tried again within a bound; what is left comes again and is known."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final

import structlog

from listener.alibaba.sessions import back_off_seconds
from listener.sources.mns.client import QueueClient
from listener.sources.mns.figures import Figures
from listener.sources.mns.held import Held
from listener.sources.mns.trouble import GONE, MnsTrouble
from listener.sources.mns.wire import BATCH_MESSAGES

__all__ = ["Deleting"]

log = structlog.get_logger()

TRIES: Final = 4
"""Of one batch: within the half minute that a message is hidden by default."""


class Deleting:
    """Deletes what is durable; the only caller of the client's ``delete``."""

    def __init__(
        self, name: str, held: Held, client: QueueClient, *, figures: Figures, randomness: random.Random
    ) -> None:
        """Keep the parts; delete nothing yet."""
        self._name = name
        self._held = held
        self._client = client
        self._figures = figures
        self._random = randomness
        self._more = asyncio.Event()
        self._last_error = "the queue refuses their receipt handles"
        self.trouble = ""
        """Why nothing can be deleted, once a batch was given up; empty again after the next success."""

    def wake(self) -> None:
        """Say that there may be more to delete."""
        self._more.set()

    async def run(self) -> None:
        """Delete whatever becomes durable, for ever."""
        while True:
            await self._more.wait()
            self._more.clear()
            await self.flush()

    async def flush(self) -> None:
        """Delete what is durable by now, several batches at once."""
        while batches := [taken for _ in range(4) if (taken := self._held.take_durable(BATCH_MESSAGES))]:
            await asyncio.gather(*(self._delete(batch) for batch in batches))

    async def _delete(self, batch: Mapping[str, str]) -> None:
        left = dict(batch)
        try:
            for tried in range(1, TRIES + 1):
                left = await self._try(left)
                if not left:
                    return
                if tried < TRIES:
                    await asyncio.sleep(back_off_seconds(self._random, tried))
        except asyncio.CancelledError:
            self._held.give_back(left)
            raise
        # They are durable: when the queue gives them again they are known, and deleted then.
        self._figures.count("deletions_given_up", len(left))
        self.trouble = f"messages cannot be deleted and come again: {self._last_error}"
        log.warning("mns.deletions_given_up", source=self._name, messages=len(left))

    async def _try(self, batch: Mapping[str, str]) -> dict[str, str]:
        """Delete these; return those that are worth another try."""
        try:
            failed = await self._client.delete(list(batch.values()))
        except MnsTrouble as trouble:
            log.warning("mns.deletion_failed", source=self._name, error=str(trouble), hint=trouble.hint)
            self._figures.count("deletions_failed", len(batch))
            self._last_error = f"{trouble} {f'({trouble.hint})' if trouble.hint else ''}".strip()
            return dict(batch)
        gone = sum(code in GONE for code in failed.values())
        self._figures.count("deleted_messages", len(batch) - len(failed))
        if len(failed) < len(batch):
            self.trouble = ""
        self._figures.count("expired_handles", gone)
        self._figures.count("deletions_failed", len(failed) - gone)
        return {name: handle for name, handle in batch.items() if failed.get(handle, "ReceiptHandleError") not in GONE}
