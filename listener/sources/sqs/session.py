"""
One run of the source: polls, what they brought, and what becomes of it.

::

    poll ─▶ held, buffered ─▶ delivery ─▶ (commit) ─▶ ack ─▶ deleter
              │  hidden anew while the commit hangs
              └─ shown to others at a stop, unless it was delivered

Polls are made only while there is room for what they bring. One poller always waits; the others join while
requests come back full, so that a quiet queue costs one open request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, Final

import structlog

from listener.contracts import Delivery
from listener.sources.sqs.bodies import Bodies
from listener.sources.sqs.deleter import Deleter, full_jitter
from listener.sources.sqs.held import NEVER, Held, Holding
from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.telling import Telling
from listener.sources.sqs.transport import BATCH, Message, Transport
from listener.sources.sqs.trouble import Remedy, SqsTrouble

__all__ = ["Session"]

log = structlog.get_logger()

FIRST_WAIT_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 60.0
RELEASE_SECONDS: Final = 5.0
"""For the last requests of a stop: what is not said by then, the queue finds out by itself."""
GATHER_SECONDS: Final = 0.05
"""While the queue is full, what several polls bring is gathered for so long: fewer commits, nobody waits for it."""
PORTION_CHARACTERS: Final = 256 * 1024
"""Bodies that one delivery reads, and a message more at most: reading a mebibyte takes some 80 ms."""
MOST_BUFFERED_CHARACTERS: Final = 16 * 1024 * 1024
"""Bodies that wait to be read while polls go on; what each poll then brings comes on top."""
HELPERS_WAIT_SECONDS: Final = 1
"""What a helping poller waits for messages: it is there for a full queue only."""


class Session:
    """Reads one queue until its ``run`` is closed."""

    def __init__(self, name: str, settings: SqsSettings, transport: Transport, telling: Telling) -> None:
        """Take what it needs; nothing starts yet."""
        self._name = name
        self._settings = settings
        self._transport = transport
        self._telling = telling
        self._bodies = Bodies(
            name, format=settings.format, buckets=settings.buckets, bucket_prefix=settings.bucket_prefix
        )
        self._held = Held()
        self._room = asyncio.Event()
        self._deleter = Deleter(
            transport,
            linger_seconds=settings.delete_linger_seconds,
            at_once=settings.pollers,
            done=self._room.set,
        )
        self._buffer: deque[Message] = deque()
        self._buffered_characters = 0
        self._arrived = asyncio.Event()
        self._level = 1
        """How many pollers may poll."""
        self._asking = 0
        self._answered = False
        self._closing = False
        self._outliving: asyncio.Task[None] | None = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- deliveries ------------------------------------------------------------------------------

    async def run(self) -> AsyncGenerator[Delivery, None]:
        """Yield what comes, for ever; its end gives back what was not delivered."""
        crew = [self._start(self._poll_for_ever(number)) for number in range(self._settings.pollers)]
        crew += [self._start(self._keep_hidden()), self._start(self._ask_for_figures())]
        try:
            while True:
                await self._arrived.wait()
                if self._level > 1:
                    await asyncio.sleep(GATHER_SECONDS)
                self._arrived.clear()
                _raise_failure(crew)
                while self._buffer:
                    yield self._delivery()
                    await asyncio.sleep(0)  # reading blocks the event loop: others have their turn in between
                    _raise_failure(crew)
        finally:
            for task in crew:
                task.cancel()
            await asyncio.gather(*crew, return_exceptions=True)
            await self._close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"sqs {self._name}")
        task.add_done_callback(lambda _: self._arrived.set())  # one that failed ends them all
        return task

    def _delivery(self) -> Delivery:
        messages = self._portion()
        read = self._bodies.read(messages)
        self._tell_counts()
        ids = [message.id for message in messages]

        async def ack() -> None:
            await self._settle(ids)

        return Delivery(read.changes, ack, unreadable=read.unreadable, message_ids=read.message_ids)

    def _portion(self) -> list[Message]:
        """Take from the buffer what one delivery reads."""
        messages, size = [], 0
        while self._buffer and size < PORTION_CHARACTERS:
            messages.append(self._buffer.popleft())
            size += len(messages[-1].body)
        self._buffered_characters -= size
        self._room.set()
        return messages

    async def _settle(self, ids: Sequence[str]) -> None:
        """Delete what is durable now. After the end the last ack waits for that, and releases the connections."""
        self._deleter.add([one.handle for one in self._held.settle(ids)])
        self._room.set()
        if self._closing and not self._held:
            await self._finish()

    async def _close(self) -> None:
        """Show to others what was not delivered; what was delivered is deleted when its ack comes, after this."""
        self._closing = True
        waiting = self._held.release([message.id for message in self._buffer])
        self._buffer.clear()
        if waiting:
            await self._show(waiting)
        if not self._held:
            await self._finish()
        else:
            self._outliving = asyncio.get_running_loop().create_task(self._outlive(), name=f"sqs {self._name} ended")

    async def _outlive(self) -> None:
        """Release the connections although acks never came: by then their handles no longer count."""
        try:
            await asyncio.sleep(self._settings.visibility_seconds)
        finally:
            await self._transport.close()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._deleter.finish()
        except TimeoutError:
            log.warning("sqs.not_deleted", source=self._name, messages=len(self._deleter), reason="the time to stop")
        self._tell_counts()
        await self._transport.close()
        if self._outliving is not None:
            self._outliving.cancel()

    async def _show(self, waiting: Sequence[Holding]) -> None:
        calls = [self._transport.hide([one.handle for one in batch], seconds=0) for batch in _batches(waiting)]
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                answers = await asyncio.gather(*calls, return_exceptions=True)
            failed = sum(isinstance(answer, BaseException) for answer in answers)
        except TimeoutError:
            failed = len(calls)
        log.info("sqs.given_back", source=self._name, messages=len(waiting), failed_requests=failed)

    # -- polling ---------------------------------------------------------------------------------

    async def _poll_for_ever(self, number: int) -> None:
        """Poll; the first poller's progress is the source's, the others are not always at work."""
        while True:
            while not self._may_poll(number):
                self._room.clear()
                if number == 0:
                    self._telling.rests()
                await self._room.wait()
            if number == 0:
                self._telling.progressed()
            try:
                self._take(await self._ask(number))
            except SqsTrouble as error:
                await self._sit_out(number, error)

    async def _ask(self, number: int) -> Sequence[Message]:
        self._asking += 1
        try:
            return await self._transport.receive(wait_seconds=self._patience(number))
        finally:
            self._asking -= 1

    def _may_poll(self, number: int) -> bool:
        waiting = len(self._held) + len(self._deleter) + BATCH * (self._asking + 1)
        has_room = waiting <= self._settings.max_held_messages and self._buffered_characters < MOST_BUFFERED_CHARACTERS
        return number < self._level and has_room

    def _patience(self, number: int) -> int:
        """Return how long the queue may wait before it answers: not at all for the first, which makes us ready."""
        if not self._answered:
            return 0
        return self._settings.wait_seconds if number == 0 else HELPERS_WAIT_SECONDS

    def _take(self, messages: Sequence[Message]) -> None:
        self._answered = True
        self._telling.well(self._advice(), undeleted=self._deleter.trouble)
        now, hidden = self._now(), self._settings.visibility_seconds
        known = [message.handle for message in messages if self._held.is_durable(message.id)]
        fresh = [
            message
            for message in messages
            if not self._held.is_durable(message.id) and self._held.take(message, now=now, hidden_seconds=hidden)
        ]
        self._telling.received(messages, fresh)
        self._deleter.add(known)
        is_full = len(messages) == BATCH
        self._level = min(self._level + 1, self._settings.pollers) if is_full else max(self._level - 1, 1)
        self._room.set()
        if fresh:
            self._buffer.extend(fresh)
            self._buffered_characters += sum(len(message.body) for message in fresh)
            self._arrived.set()

    def _advice(self) -> str:
        """Return what is wrong although the queue answers."""
        seen = self._bodies.seen_buckets
        if len(seen) < 2 or self._settings.buckets or self._settings.bucket_prefix:
            return ""
        return (
            f"events of several buckets come by this queue ({', '.join(sorted(seen))}), and their keys are not told"
            f" apart: set sources.{self._name}.buckets, or bucket_prefix = true"
        )

    async def _sit_out(self, number: int, error: SqsTrouble) -> None:
        self._telling.trouble(error)
        self._level = 1
        if error.remedy is Remedy.RENEW:
            await self._transport.renew()
        if number == 0:
            self._telling.rests()
        await asyncio.sleep(full_jitter(self._telling.troubles, first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS))

    # -- beside ----------------------------------------------------------------------------------

    async def _keep_hidden(self) -> None:
        """Hide anew what is neither durable nor given back after half its time, as when the disk is full."""
        visibility = self._settings.visibility_seconds
        while True:
            await asyncio.sleep(visibility / 4)
            now = self._now()
            self._telling.figures(oldest_held_seconds=round(self._held.oldest_seconds(now), 3))
            due = self._held.soon_visible(before=now + visibility / 2, now=now)
            try:
                for batch in _batches(due):
                    await self._hide(batch, visibility)
            except SqsTrouble as error:
                log.warning("sqs.not_hidden", source=self._name, messages=len(due), error=str(error))

    async def _hide(self, batch: Sequence[Holding], seconds: int) -> None:
        failures = await self._transport.hide([one.handle for one in batch], seconds=seconds)
        for one in batch:
            one.hidden_until = self._now() + seconds
        for failure in failures:
            # A handle that is no longer good: the message comes again by itself, with one that is.
            batch[failure.position].hidden_until = NEVER if failure.is_final else 0.0

    async def _ask_for_figures(self) -> None:
        while self._settings.figures_interval_seconds:
            try:
                self._telling.depth(await self._transport.attributes())
            except SqsTrouble as error:
                if error.remedy is Remedy.TELL and self._answered:
                    log.info("sqs.no_figures", source=self._name, error=str(error))
                    return
            self._tell_counts()
            await asyncio.sleep(self._settings.figures_interval_seconds)

    def _tell_counts(self) -> None:
        self._telling.figures(
            held_messages=len(self._held),
            deleted_messages=self._deleter.deleted,
            not_deleted_messages=self._deleter.failed,
            ignored_events=self._bodies.ignored,
            unreadable_messages=self._bodies.unreadable,
        )


def _raise_failure(crew: Sequence[asyncio.Task[None]]) -> None:
    for task in crew:
        if task.done():
            task.result()


def _batches(waiting: Sequence[Holding]) -> list[Sequence[Holding]]:
    return [waiting[at : at + BATCH] for at in range(0, len(waiting), BATCH)]
