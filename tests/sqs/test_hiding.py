"""While a commit hangs, messages stay hidden from others; in virtual time, against a played transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import pairwise

import pytest

from listener.clock import SystemClock
from listener.contracts import SourceHealth
from listener.sources.sqs import SqsSettings
from listener.sources.sqs.held import Held
from listener.sources.sqs.session import Session
from listener.sources.sqs.telling import Telling
from listener.sources.sqs.transport import Failure, Message

URL = "https://sqs.eu-central-1.amazonaws.com/111122223333/events"


class PlayedTransport:
    """Hands out what it was given, and notes what it is asked."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self.messages = list(messages)
        self.hidden: list[tuple[float, str, int]] = []
        self.deleted: list[str] = []
        self.failure: Failure | None = None
        self.closed = False

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        found, self.messages = self.messages, []
        if not found:
            await asyncio.sleep(max(wait_seconds, 0.01))
        return found

    async def delete(self, handles: Sequence[str]) -> Sequence[Failure]:
        self.deleted += handles
        return []

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[Failure]:
        now = asyncio.get_running_loop().time()
        self.hidden += [(now, handle, seconds) for handle in handles]
        return [self.failure] if self.failure else []

    async def attributes(self) -> Mapping[str, str]:
        return {}

    async def renew(self) -> None:
        raise AssertionError("nobody asked for that")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
async def transport() -> AsyncIterator[PlayedTransport]:
    """A transport with one message that cannot be lost sight of."""
    yield PlayedTransport([Message("m1", "h1", "rubbish")])


def session_of(transport: PlayedTransport, **settings: object) -> Session:
    """Return a session that reads from it."""
    made = SqsSettings(queue_url=URL, visibility_seconds=60, **settings)  # type: ignore[arg-type]
    return Session("events", made, transport, Telling("events", SourceHealth(), SystemClock()))


async def test_a_message_is_hidden_anew_before_it_would_come_again(transport: PlayedTransport) -> None:
    """Every gap between two requests is shorter than the time for which it was hidden."""
    deliveries = session_of(transport).run()
    delivery = await anext(deliveries)
    waiting = asyncio.create_task(anext(deliveries))
    await asyncio.sleep(600)
    times = [0.0, *(at for at, handle, seconds in transport.hidden if (handle, seconds) == ("h1", 60))]
    assert len(times) > 10
    assert all(later - earlier < 60 for earlier, later in pairwise(times))
    await delivery.ack()
    count = len(transport.hidden)
    await asyncio.sleep(600)
    assert len(transport.hidden) == count
    assert transport.deleted == ["h1"]
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert transport.closed


async def test_it_is_not_asked_for_longer_than_the_service_grants(transport: PlayedTransport) -> None:
    """After half a day the service would refuse: then the message comes again by itself."""
    deliveries = session_of(transport).run()
    await anext(deliveries)
    waiting = asyncio.create_task(anext(deliveries))
    await asyncio.sleep(24 * 3600)
    assert 11 * 3600 < transport.hidden[-1][0] < 12 * 3600
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_handle_that_no_longer_counts_is_let_go(transport: PlayedTransport) -> None:
    """Hiding that fails for good is not asked for again."""
    transport.failure = Failure(0, "ReceiptHandleIsInvalid", "", is_final=True)
    deliveries = session_of(transport).run()
    await anext(deliveries)
    waiting = asyncio.create_task(anext(deliveries))
    await asyncio.sleep(600)
    assert len(transport.hidden) == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


def test_the_newest_handle_counts_whatever_came_last() -> None:
    """Answers to two polls may overtake one another; how often a message was received tells which is newer."""
    held = Held()
    assert held.take(Message("m1", "second", "", 2), now=0.0, hidden_seconds=60)
    assert not held.take(Message("m1", "first", "", 1), now=1.0, hidden_seconds=60)
    assert not held.take(Message("m1", "third", "", 3), now=2.0, hidden_seconds=60)
    assert not held.take(Message("m1", "second", "", 2), now=3.0, hidden_seconds=60)
    assert [one.handle for one in held.settle(["m1"])] == ["third"]
    assert held.is_durable("m1")


async def test_connections_are_released_although_no_ack_comes(transport: PlayedTransport) -> None:
    """After a stop, what is delivered and never acknowledged holds them no longer than its handle counts."""
    deliveries = session_of(transport).run()
    await anext(deliveries)
    await deliveries.aclose()
    assert not transport.closed
    await asyncio.sleep(61)
    assert transport.closed
