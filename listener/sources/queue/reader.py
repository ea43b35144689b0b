"""
One run of a queue source: poll, deliver, acknowledge, stop.

It polls only while there is room for what a poll returns. One poller is permanent; the others join while replies are
full batches, so a quiet queue costs one open request. An acknowledged message is deleted, and nothing else is.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final

import structlog

from listener.clock import back_off_seconds
from listener.contracts import Delivery
from listener.sources.queue.health import HealthReporter
from listener.sources.queue.messages import NEVER, InFlight, InFlightMessage, MessageDecoder
from listener.sources.queue.settings import QueueSettings
from listener.sources.queue.transport import EntryFailure, Message, QueueError, Remedy, Transport

__all__ = ["Deleter", "QueueReader"]

log = structlog.get_logger()

LONGEST_WAIT_SECONDS: Final = 60.0
"""Between polls that fail."""
LONGEST_REST_SECONDS: Final = 8.0
"""Between polls that return empty before their time."""
RELEASE_SECONDS: Final = 5.0
"""For the last requests at a stop; what they do not reach, the queue redelivers by itself."""
LATE_ACK_SECONDS: Final = 60.0
"""How long connections stay open after a stop for acknowledgements that are still to come."""
GATHER_SECONDS: Final = 0.05
"""While the queue is full, messages of several polls are gathered this long into one commit."""
PORTION_BYTES: Final = 256 * 1024
"""Bodies that one delivery decodes, plus at most one message: decoding a mebibyte takes some 80 ms."""
MOST_BUFFERED_BYTES: Final = 16 * 1024 * 1024
"""Bodies waiting to be decoded at which polling pauses; replies of open polls come on top."""
HELPER_WAIT_SECONDS: Final = 1
"""Long-poll duration of the additional pollers."""
HIDDEN_SECONDS: Final = 60.0
"""Assumed where the transport does not state how long messages are hidden."""

DELETE_TRIES: Final = 4
"""Then the message is redelivered, and deleted as a duplicate."""
FIRST_RETRY_SECONDS: Final = 0.2
LONGEST_RETRY_SECONDS: Final = 5.0


class QueueReader:
    """Reads one queue until its ``run`` is closed."""

    def __init__(self, name: str, settings: QueueSettings, transport: Transport, health: HealthReporter) -> None:
        """Take the parts; nothing starts yet."""
        self._name = name
        self._settings = settings
        self._transport = transport
        self._health = health
        self._decoder = MessageDecoder(name, settings)
        self._in_flight = InFlight()
        self._room = asyncio.Event()
        self._deleter = Deleter(
            name,
            transport,
            linger_seconds=settings.delete_linger_seconds,
            workers=settings.pollers,
            done=self._progressed,
        )
        self._buffer: deque[Message] = deque()
        self._buffered_bytes = 0
        self._arrived = asyncio.Event()
        self._any_in_flight = asyncio.Event()
        self._active_pollers = 1
        self._polling = 0
        self._early_replies = 0
        """Empty replies in a row that came long before their time."""
        self._answered = False
        self._closing = False
        self._closer: asyncio.Task[None] | None = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # -- deliveries --------------------------------------------------------------------------------

    async def run(self) -> AsyncGenerator[Delivery, None]:
        """Yield deliveries for ever; closing it releases what was not delivered."""
        tasks = [self._start(self._poll(number)) for number in range(self._settings.pollers)]
        tasks += [self._start(self._keep_hidden()), self._start(self._read_metrics())]
        try:
            while True:
                await self._arrived.wait()
                if self._active_pollers > 1:
                    await asyncio.sleep(GATHER_SECONDS)
                self._arrived.clear()
                _raise_failure(tasks)
                while self._buffer:
                    yield self._delivery()
                    await asyncio.sleep(0)  # decoding blocks the event loop
                    _raise_failure(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"{self._name}: queue")
        task.add_done_callback(lambda _: self._arrived.set())  # run() raises the error of a failed task
        return task

    def _delivery(self) -> Delivery:
        messages = self._portion()
        decoded = self._decoder.decode(messages)
        self._set_counts()
        ids = [message.id for message in messages]

        async def ack() -> None:
            await self._acknowledge(ids)

        return Delivery(decoded.changes, ack, unreadable=decoded.unreadable, message_ids=decoded.message_ids)

    def _portion(self) -> list[Message]:
        """Take the messages of one delivery from the buffer."""
        messages, size = [], 0
        while self._buffer and size < PORTION_BYTES:
            messages.append(self._buffer.popleft())
            size += len(messages[-1].body)
        self._buffered_bytes -= size
        self._room.set()
        return messages

    async def _acknowledge(self, ids: Sequence[str]) -> None:
        """Delete committed messages. After a stop, the last acknowledgement waits for that and closes the transport."""
        self._deleter.add([one.handle for one in self._in_flight.acknowledge(ids)])
        self._progressed()
        if self._closing and not self._in_flight:
            await self._finish()

    def _progressed(self) -> None:
        """Wake the pollers: there is more room."""
        self._room.set()
        self._set_counts()

    async def _close(self) -> None:
        self._closing = True
        undelivered = self._in_flight.release([message.id for message in self._buffer])
        self._buffer.clear()
        if undelivered:
            await self._release(undelivered)
        if self._in_flight:
            self._closer = asyncio.get_running_loop().create_task(self._close_later(), name=f"{self._name}: close")
        else:
            await self._finish()

    async def _close_later(self) -> None:
        try:
            await asyncio.sleep(LATE_ACK_SECONDS)
        finally:
            await self._transport.close()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._deleter.finish()
        except TimeoutError:
            log.warning("queue.not_deleted", source=self._name, messages=len(self._deleter), reason="stopped")
        self._set_counts()
        await self._transport.close()
        if self._closer is not None:
            self._closer.cancel()

    async def _release(self, messages: Sequence[InFlightMessage]) -> None:
        calls = [self._transport.hide([one.handle for one in batch], seconds=0) for batch in self._batches(messages)]
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                replies = await asyncio.gather(*calls, return_exceptions=True)
            failed = sum(isinstance(reply, BaseException) for reply in replies)
        except TimeoutError:
            failed = len(calls)
        log.info("queue.released", source=self._name, messages=len(messages), failed_requests=failed)

    # -- polling -----------------------------------------------------------------------------------

    async def _poll(self, number: int) -> None:
        """Poll for ever. Progress of the first, permanent poller is the source's."""
        while True:
            while not self._may_poll(number):
                self._room.clear()
                self._rests(number)
                await self._room.wait()
            if number == 0:
                self._health.progressed()
            wait_seconds, began = self._wait_seconds(number), self._now()
            try:
                messages = await self._receive(wait_seconds)
            except QueueError as error:
                await self._back_off(number, error)
                continue
            self._take(messages)
            if number == 0:
                await self._rest_if_early(messages, wait_seconds=wait_seconds, took_seconds=self._now() - began)

    def _may_poll(self, number: int) -> bool:
        most = len(self._in_flight) + len(self._deleter) + self._transport.batch * (self._polling + 1)
        has_room = most <= self._settings.max_held_messages and self._buffered_bytes < MOST_BUFFERED_BYTES
        return number < self._active_pollers and has_room

    def _wait_seconds(self, number: int) -> int:
        """Return the long-poll duration: 0 for the first request, whose reply makes the source ready."""
        if not self._answered:
            return 0
        return self._settings.wait_seconds if number == 0 else HELPER_WAIT_SECONDS

    async def _receive(self, wait_seconds: int) -> Sequence[Message]:
        self._polling += 1
        try:
            return await self._transport.receive(wait_seconds=wait_seconds)
        finally:
            self._polling -= 1

    def _take(self, messages: Sequence[Message]) -> None:
        """Register messages before anything is awaited: only what is registered can be released at a stop."""
        self._answered = True
        self._health.answered(self._decoder.mixed_buckets(), undeleted=self._deleter.problem)
        now = self._now()
        known = [message.handle for message in messages if self._in_flight.is_acknowledged(message.id)]
        fresh = [
            message
            for message in messages
            if not self._in_flight.is_acknowledged(message.id) and self._in_flight.add(message, now=now)
        ]
        self._health.received(messages, fresh)
        self._deleter.add(known)
        change = 1 if len(messages) == self._transport.batch else -1
        self._active_pollers = min(max(self._active_pollers + change, 1), self._settings.pollers)
        self._room.set()
        if fresh:
            self._buffer.extend(fresh)
            self._buffered_bytes += sum(len(message.body) for message in fresh)
            self._arrived.set()
            self._any_in_flight.set()

    def _rests(self, number: int) -> None:
        if number == 0:
            self._health.rests()

    async def _back_off(self, number: int, error: QueueError) -> None:
        self._health.failed(error)
        self._active_pollers = 1
        if error.remedy is Remedy.RENEW:
            await self._transport.renew()
        self._rests(number)
        await asyncio.sleep(back_off_seconds(self._health.failures, longest=LONGEST_WAIT_SECONDS))

    async def _rest_if_early(self, messages: Sequence[Message], *, wait_seconds: int, took_seconds: float) -> None:
        """Wait after an empty reply that came long before its time: a proxy may not hold long polls open."""
        if messages or took_seconds >= wait_seconds / 2:
            self._early_replies = 0
            return
        self._early_replies += 1
        self._health.rests()
        await asyncio.sleep(back_off_seconds(self._early_replies, longest=LONGEST_REST_SECONDS))

    # -- meanwhile ---------------------------------------------------------------------------------

    async def _keep_hidden(self) -> None:
        """Hide messages again after half their time while their commit takes long, as when the disk is full."""
        while True:
            if not self._in_flight:
                self._any_in_flight.clear()
                await self._any_in_flight.wait()
            await asyncio.sleep(self._in_flight.shortest_hidden_seconds(HIDDEN_SECONDS) / 4)
            self._set_counts()
            expiring = self._in_flight.expiring(self._now())
            try:
                for batch in self._batches(expiring):
                    await self._hide(batch)
            except QueueError as error:
                log.warning("queue.not_hidden", source=self._name, messages=len(expiring), error=str(error))

    async def _hide(self, batch: Sequence[InFlightMessage]) -> None:
        seconds = math.ceil(max(one.hidden_seconds for one in batch))
        failures = await self._transport.hide([one.handle for one in batch], seconds=seconds)
        for one in batch:
            one.hidden_until = self._now() + seconds
        for failure in failures:
            # With an invalid handle the message is redelivered, with a valid one.
            batch[failure.position].hidden_until = NEVER if failure.is_final else 0.0

    def _batches(self, messages: Sequence[InFlightMessage]) -> list[Sequence[InFlightMessage]]:
        most = self._transport.batch
        return [messages[at : at + most] for at in range(0, len(messages), most)]

    async def _read_metrics(self) -> None:
        while self._settings.figures_interval_seconds:
            try:
                self._health.set(**await self._transport.metrics())
            except QueueError as error:
                if error.remedy is Remedy.OPERATOR and self._answered:
                    log.info("queue.metrics_denied", source=self._name, error=str(error), hint=error.hint)
                    return
            self._set_counts()
            await asyncio.sleep(self._settings.figures_interval_seconds)

    def _set_counts(self) -> None:
        self._health.set(
            in_flight_messages=len(self._in_flight),
            oldest_in_flight_seconds=round(self._in_flight.oldest_seconds(self._now()), 3),
            deleted_messages=self._deleter.deleted,
            not_deleted_messages=self._deleter.failed,
            ignored_events=self._decoder.ignored,
            unreadable_messages=self._decoder.unreadable,
        )


def _raise_failure(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done():
            task.result()


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
        for tried in range(DELETE_TRIES):
            if tried:
                await asyncio.sleep(back_off_seconds(tried, first=FIRST_RETRY_SECONDS, longest=LONGEST_RETRY_SECONDS))
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
