"""Deletes durable messages: ten at a time, whatever deliveries they came by."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from listener.sources.sqs.transport import BATCH, Failure, Transport
from listener.sources.sqs.trouble import Remedy, SqsTrouble

__all__ = ["Deleter", "full_jitter"]

log = structlog.get_logger()

TRIES: Final = 4
"""The first and three more: then the message comes again, and is known."""
FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 5.0


def full_jitter(tries: int, *, first: float, longest: float) -> float:
    """Return how long to wait after so many failures: anything up to a bound that doubles with each."""
    return random.uniform(0, min(longest, first * 2.0 ** min(tries, 32)))  # noqa: S311 - no secret


class Deleter:
    """Works only while there is something to delete, so that it may outlive whoever feeds it."""

    def __init__(
        self, transport: Transport, *, linger_seconds: float, at_once: int, done: Callable[[], None] = lambda: None
    ) -> None:
        """Take how long to wait for a full batch, how many may be under way, and whom to tell after each."""
        self._transport = transport
        self._linger = linger_seconds
        self._at_once = at_once
        self._done = done
        self._handles: deque[str] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._under_way = 0
        self._hurry = asyncio.Event()
        self.deleted = 0
        self.failed = 0
        """Given up: these come again."""
        self.trouble = ""
        """Why nothing can be deleted, once a batch was given up; empty again after the next success."""

    def __len__(self) -> int:
        """Return how many messages are still to be deleted."""
        return len(self._handles) + self._under_way

    def add(self, handles: Iterable[str]) -> None:
        """Delete these soon."""
        self._handles.extend(handles)
        wanted = min(self._at_once, -(-len(self._handles) // BATCH))
        for _ in range(len(self._workers), wanted):
            worker = asyncio.get_running_loop().create_task(self._work(), name="delete from sqs")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def finish(self) -> None:
        """Wait until all is deleted or given up, without lingering."""
        self._hurry.set()
        while self._workers:
            await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while self._handles:
            if len(self._handles) < BATCH:
                await self._linger_a_while()
            batch = [self._handles.popleft() for _ in range(min(BATCH, len(self._handles)))]
            self._under_way += len(batch)
            try:
                if batch:
                    await self._delete(batch)
            finally:
                self._under_way -= len(batch)
                self._done()

    async def _linger_a_while(self) -> None:
        try:
            async with asyncio.timeout(self._linger):
                await self._hurry.wait()
        except TimeoutError:
            pass

    async def _delete(self, handles: Sequence[str]) -> None:
        left, code = list(handles), ""
        for tried in range(TRIES):
            if tried:
                await asyncio.sleep(full_jitter(tried, first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS))
            try:
                failures = await self._transport.delete(left)
            except SqsTrouble as error:
                code = error.code or str(error)
                if error.remedy is Remedy.TELL:
                    break
                if error.remedy is Remedy.RENEW:
                    await self._transport.renew()
                continue
            self.deleted += len(left) - len(failures)
            if len(failures) < len(left):
                self.trouble = ""
            code = failures[0].code if failures else ""
            left = self._worth_a_retry(left, failures)
            if not left:
                return
        self.trouble = f"messages cannot be deleted and come again: {code}"
        self._give_up(len(left), code)

    def _worth_a_retry(self, handles: Sequence[str], failures: Sequence[Failure]) -> list[str]:
        final = [failure for failure in failures if failure.is_final]
        if final:
            self._give_up(len(final), final[0].code)
        return [handles[failure.position] for failure in failures if not failure.is_final]

    def _give_up(self, number: int, code: str) -> None:
        self.failed += number
        log.warning("sqs.not_deleted", messages=number, reason=code, what="they come again, and are known by then")
