"""
One reading of a queue, from its start to its end.

::

    pollers ──messages──▶ held, read ──deliveries──▶ pipeline ──ack──▶ durable ──▶ deletions

One poller waits at the queue; the others help while it gives full batches. At the end the long poll is cut
off, what was not handed out is released to other readers, and what is acknowledged later is deleted by its ack.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Coroutine, Sequence
from functools import partial
from typing import Any, Final

import structlog

from listener.alibaba.sessions import back_off_seconds
from listener.clock import Clock
from listener.contracts import Delivery, SourceHealth, SourceState
from listener.sources.mns.client import QueueClient
from listener.sources.mns.deleting import Deleting
from listener.sources.mns.figures import Figures
from listener.sources.mns.held import Held
from listener.sources.mns.reading import Reader
from listener.sources.mns.settings import MnsSettings
from listener.sources.mns.trouble import MnsTrouble, Remedy
from listener.sources.mns.wire import BATCH_MESSAGES, Message

__all__ = ["Session"]

log = structlog.get_logger()

LONGEST_BACK_OFF_SECONDS: Final = 60.0
PATIENT_TRIES: Final = 3
"""A network that fails so often in a row is told; once or twice is how networks are."""
CLOSE_SECONDS: Final = 5.0
"""What the end waits for deletions and releases; without them messages come again by themselves."""
Handed = tuple[list[str], Delivery]


class Session:
    """Reads one queue once."""

    def __init__(
        self,
        name: str,
        settings: MnsSettings,
        client: QueueClient,
        *,
        health: SourceHealth,
        clock: Clock,
        randomness: random.Random,
    ) -> None:
        """Keep the parts; nothing is asked yet."""
        self._name = name
        self._settings = settings
        self._client = client
        self._health = health
        self._random = randomness
        self._reader = Reader(name, settings)
        self._figures = Figures(name, health, client, clock=clock)
        self._held = Held()
        self._deleting = Deleting(name, self._held, client, figures=self._figures, randomness=randomness)
        self._out: asyncio.Queue[Handed | asyncio.Task[None]] = asyncio.Queue()
        self._room = asyncio.Event()
        self._full = asyncio.Event()
        """Set while the queue gives full batches: the other pollers help."""
        self._closed = False
        self._failures = 0
        self._early = 0
        """How many answers in a row were empty before their time was over."""

    async def run(self) -> AsyncGenerator[Delivery, None]:
        """Yield deliveries until it is closed."""
        tasks = [self._start(self._poll(number), f"poll {number}") for number in range(self._settings.pollers)]
        tasks.append(self._start(self._deleting.run(), "delete"))
        if every := self._settings.figures_interval_seconds:
            tasks.append(self._start(self._figures.measure(every), "measure"))
        try:
            while True:
                handed = await self._out.get()
                if isinstance(handed, asyncio.Task):
                    handed.result()  # raises what ended it
                    continue
                yield handed[1]
        finally:
            await self._close(tasks)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"{self._name}: {name}")
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._out.put_nowait(task)

    # -- polling -----------------------------------------------------------------------------------

    async def _poll(self, number: int) -> None:
        first = number == 0
        # The first answer comes at once: it tells whether the queue can be read at all.
        wait_seconds = 0
        while True:
            if not first:
                await self._full.wait()
            await self._until_room(first=first)
            if first:
                self._health.progressed(asyncio.get_running_loop().time())
            began = asyncio.get_running_loop().time()
            messages = await self._receive(wait_seconds, first=first)
            if messages is None:
                continue
            self._take(messages)  # before anything is awaited: what was received is held, or it cannot be released
            if len(messages) == BATCH_MESSAGES:
                self._full.set()
            else:
                self._full.clear()
            if not messages:
                await self._rest(wait_seconds, began, first=first)
            wait_seconds = self._settings.wait_seconds if first else 0

    async def _until_room(self, *, first: bool) -> None:
        while len(self._held) + BATCH_MESSAGES > self._settings.max_held_messages:
            self._room.clear()
            self._pause(first=first)
            await self._room.wait()

    def _pause(self, *, first: bool) -> None:
        """Say before a wait that it is meant: the first poller's progress is the source's."""
        if first:
            self._health.rests()

    async def _rest(self, waited_for_seconds: int, began: float, *, first: bool) -> None:
        """Wait after an empty answer that came long before its time: something between does not hold requests."""
        if not waited_for_seconds or asyncio.get_running_loop().time() - began >= waited_for_seconds / 2:
            self._early = 0
            return
        self._early += 1
        self._pause(first=first)
        await asyncio.sleep(back_off_seconds(self._random, self._early))

    async def _receive(self, wait_seconds: int, *, first: bool) -> list[Message] | None:
        """Return what the queue gives; ``None`` after a failure that was told and waited for."""
        try:
            messages = await self._client.receive(BATCH_MESSAGES, wait_seconds=wait_seconds)
        except MnsTrouble as trouble:
            self._failures += 1
            self._full.clear()
            self._tell(trouble)
            self._pause(first=first)
            await asyncio.sleep(back_off_seconds(self._random, self._failures, most=LONGEST_BACK_OFF_SECONDS))
            return None
        self._failures = 0
        undeleted = self._deleting.trouble
        self._health.state = SourceState.DEGRADED if undeleted else SourceState.LISTENING
        self._health.ready, self._health.detail = True, undeleted
        return messages

    def _tell(self, trouble: MnsTrouble) -> None:
        log.warning("mns.receive_failed", source=self._name, error=str(trouble), code=trouble.code, hint=trouble.hint)
        self._figures.count("receives_failed", 1)
        if trouble.remedy is Remedy.WAIT and self._failures < PATIENT_TRIES:
            return
        self._health.state = SourceState.DEGRADED
        self._health.ready = False
        self._health.detail = f"{trouble} {f'({trouble.hint})' if trouble.hint else ''}".strip()

    def _take(self, messages: Sequence[Message]) -> None:
        """Hold the messages, and hand out those that are new."""
        if not messages:
            return
        self._figures.arrived(messages)
        fresh = self._held.receive(messages)
        self._figures.count("redelivered_while_held", len(messages) - len(fresh))
        if self._held.deletable:
            self._deleting.wake()
        if fresh:
            ids = [message.id for message in fresh]
            read = self._reader.read(fresh, partial(self._ack, ids))
            self._figures.count("ignored_records", read.ignored)
            self._figures.count("unreadable_messages", len(read.delivery.unreadable))
            for note in read.notes:
                log.info("mns.ignored", source=self._name, reason=note)
            self._out.put_nowait((ids, read.delivery))

    # -- afterwards --------------------------------------------------------------------------------

    async def _ack(self, ids: Sequence[str]) -> None:
        """Take these messages for durable. Deletions go on beside; once the session is closed they are waited for."""
        self._held.commit(ids)
        self._room.set()
        if not self._closed:
            self._deleting.wake()
            return
        try:
            await self._deleting.flush()
        finally:
            await self._client.close()

    async def _close(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        self._closed = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.gather(self._release(), self._deleting.flush())
        finally:
            await self._client.close()

    async def _release(self) -> None:
        """Let others see at once what was received and not handed out."""
        handles: list[str] = []
        while not self._out.empty():
            handed = self._out.get_nowait()
            if not isinstance(handed, asyncio.Task):
                handles += self._held.release(handed[0])
        answers = await asyncio.gather(*(self._client.release(handle) for handle in handles), return_exceptions=True)
        self._figures.count("released_messages", sum(isinstance(answer, str) for answer in answers))
