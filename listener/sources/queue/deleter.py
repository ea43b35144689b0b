"""Deletes acknowledged messages in full batches, whichever deliveries they belong to."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from listener.backoff import back_off_seconds
from listener.sources.queue.errors import QueueError, Remedy
from listener.sources.queue.transport import EntryFailure, Transport

__all__ = ["Deleter"]

log = structlog.get_logger()

TRIES: Final = 4
"""Then the message is redelivered, and deleted as a duplicate."""
FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 5.0


class Deleter:
    """Has workers only while there is something to delete, so it may outlive the reader."""

    def __init__(
        self, source: str, transport: Transport, *, linger_seconds: float, workers: int, done: Callable[[], None]
    ) -> None:
        """Take how long to wait for a full batch, the number of parallel requests, and a callback for each batch."""
        self._source = source
        self._transport = transport
        self._linger = linger_seconds
        self._most_workers = workers
        self._done = done
        self._handles: deque[str] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._deleting = 0
        self._finishing = asyncio.Event()
        self.deleted = 0
        self.failed = 0
        """Given up; these are redelivered."""
        self.problem = ""
        """Why deletions fail, after a batch was given up; empty after the next success."""

    def __len__(self) -> int:
        """Return how many messages are still to be deleted."""
        return len(self._handles) + self._deleting

    def add(self, handles: Iterable[str]) -> None:
        """Delete these soon."""
        self._handles.extend(handles)
        wanted = min(self._most_workers, -(-len(self._handles) // self._transport.batch))
        for _ in range(len(self._workers), wanted):
            worker = asyncio.get_running_loop().create_task(self._work(), name=f"{self._source}: delete")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def finish(self) -> None:
        """Wait until all are deleted or given up, without waiting for full batches."""
        self._finishing.set()
        while self._workers:
            await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        most = self._transport.batch
        while self._handles:
            if len(self._handles) < most:
                await self._wait_for_more()
            batch = [self._handles.popleft() for _ in range(min(most, len(self._handles)))]
            self._deleting += len(batch)
            try:
                if batch:
                    await self._delete(batch)
            finally:
                self._deleting -= len(batch)
                self._done()

    async def _wait_for_more(self) -> None:
        try:
            async with asyncio.timeout(self._linger):
                await self._finishing.wait()
        except TimeoutError:
            pass

    async def _delete(self, handles: Sequence[str]) -> None:
        left, reason = list(handles), ""
        for tried in range(TRIES):
            if tried:
                await asyncio.sleep(back_off_seconds(tried, first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS))
            try:
                failures = await self._transport.delete(left)
            except QueueError as error:
                reason = error.described
                if error.remedy is Remedy.OPERATOR:
                    break
                if error.remedy is Remedy.RENEW:
                    await self._transport.renew()
                continue
            self.deleted += len(left) - len(failures)
            if len(failures) < len(left):
                self.problem = ""
            reason = failures[0].code if failures else ""
            left = self._worth_a_retry(left, failures)
            if not left:
                return
        self.problem = f"messages cannot be deleted and are redelivered: {reason}"
        self._give_up(len(left), reason)

    def _worth_a_retry(self, handles: Sequence[str], failures: Sequence[EntryFailure]) -> list[str]:
        final = [failure for failure in failures if failure.is_final]
        if final:
            self._give_up(len(final), final[0].code)
        return [handles[failure.position] for failure in failures if not failure.is_final]

    def _give_up(self, number: int, reason: str) -> None:
        self.failed += number
        log.warning("queue.not_deleted", source=self._source, messages=number, reason=reason)
