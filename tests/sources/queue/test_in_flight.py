"""Messages in flight against a model, and how they stay hidden while a commit takes long; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from listener.clock import SystemClock
from listener.contracts import Delivery, SourceHealth
from listener.sources.queue.health import HealthReporter
from listener.sources.queue.messages import REMEMBERED, InFlight
from listener.sources.queue.reader import LATE_ACK_SECONDS, QueueReader
from listener.sources.queue.settings import QueueSettings
from listener.sources.queue.transport import EntryFailure, Message


class Messages(RuleBasedStateMachine):
    """A queue that redelivers at any time, each time with a new handle; replies arrive in order."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = InFlight()
        self.newest: dict[str, str] = {}
        self.receives = 0
        self.delivered: list[str] = []
        self.acknowledged: set[str] = set()

    @rule(ids=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=16, unique=True))
    def receive(self, ids: list[str]) -> None:
        """A message is delivered exactly when it is neither in flight nor acknowledged."""
        for one in ids:
            self.receives += 1
            self.newest[one] = f"{one}{self.receives}"
            message = Message(one, self.newest[one], b"", self.receives)
            known = one in self.delivered or one in self.acknowledged
            assert self.in_flight.is_acknowledged(one) == (one in self.acknowledged)
            fresh = not self.in_flight.is_acknowledged(one) and self.in_flight.add(message, now=0.0)
            assert fresh is not known
            if fresh:
                self.delivered.append(one)

    @precondition(lambda self: self.delivered)
    @rule(data=st.data(), acknowledge=st.booleans())
    def leave(self, data: st.DataObject, acknowledge: bool) -> None:
        """Acknowledged or released messages leave with their newest handle; acknowledging twice does nothing."""
        ids = data.draw(st.lists(st.sampled_from(self.delivered), min_size=1, unique=True))
        call = self.in_flight.acknowledge if acknowledge else self.in_flight.release
        expected = [one if one in self.acknowledged else self.newest[one] for one in ids]
        assert [one.handle for one in call(ids)] == expected
        assert call(ids) == []
        self.acknowledged |= set(ids) if acknowledge else set()
        self.delivered = [one for one in self.delivered if one not in ids]

    @invariant()
    def counts_are_right(self) -> None:
        """Only messages that are neither acknowledged nor released count."""
        assert len(self.in_flight) == len(self.delivered)


TestMessages = Messages.TestCase


def test_the_newest_handle_is_used_in_whatever_order_replies_arrive() -> None:
    """How often a message was received says which handle is newer."""
    messages = InFlight()
    assert messages.add(Message("m1", "second", b"", 2), now=0.0)
    for handle, count in (("first", 1), ("third", 3), ("second", 2)):
        assert not messages.add(Message("m1", handle, b"", count), now=1.0)
    assert [one.handle for one in messages.acknowledge(["m1"])] == ["third"]


def test_acknowledged_messages_are_remembered_within_a_bound() -> None:
    """Memory does not grow; the oldest are forgotten, and would be recorded once more."""
    messages = InFlight()
    total = REMEMBERED + 10
    for number in range(total):
        messages.add(Message(str(number), "h", b""), now=0.0)
        messages.acknowledge([str(number)])
    assert not messages.is_acknowledged("0")
    assert messages.is_acknowledged(str(total - 1))


class PlayedTransport:
    """Returns one message, and records what it is called with."""

    batch = 10

    def __init__(self) -> None:
        self.messages = [Message("m1", "h1", b"rubbish", hidden_seconds=60)]
        self.hidden: list[tuple[float, str, int]] = []
        self.deleted: list[str] = []
        self.failure: EntryFailure | None = None
        self.closed = False

    async def receive(self, *, wait_seconds: int) -> Sequence[Message]:
        found, self.messages = self.messages, []
        if not found:
            await asyncio.sleep(max(wait_seconds, 0.01))
        return found

    async def delete(self, handles: Sequence[str]) -> Sequence[EntryFailure]:
        self.deleted += handles
        return []

    async def hide(self, handles: Sequence[str], *, seconds: int) -> Sequence[EntryFailure]:
        now = asyncio.get_running_loop().time()
        self.hidden += [(now, handle, seconds) for handle in handles]
        return [self.failure] if self.failure else []

    async def metrics(self) -> Mapping[str, float]:
        return {}

    async def renew(self) -> None:
        raise AssertionError("the key was not refused")

    async def close(self) -> None:
        self.closed = True


@asynccontextmanager
async def delivered(transport: PlayedTransport) -> AsyncIterator[Delivery]:
    """Read until the first delivery, and keep reading."""
    health = HealthReporter("events", SourceHealth(), SystemClock())
    deliveries = QueueReader("events", QueueSettings(), transport, health).run()
    delivery = await anext(deliveries)
    waiting = asyncio.ensure_future(anext(deliveries))
    try:
        yield delivery
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_message_is_hidden_again_before_other_readers_see_it() -> None:
    """Every gap between two requests is shorter than the visibility timeout; none follows the ack."""
    transport = PlayedTransport()
    async with delivered(transport) as delivery:
        await asyncio.sleep(600)
        times = [0.0, *(at for at, handle, seconds in transport.hidden if (handle, seconds) == ("h1", 60))]
        assert len(times) > 10
        assert all(later - earlier < 60 for earlier, later in pairwise(times))
        await delivery.ack()
        count = len(transport.hidden)
        await asyncio.sleep(600)
        assert len(transport.hidden) == count
        assert transport.deleted == ["h1"]
    assert transport.closed


async def test_a_message_is_not_hidden_for_longer_than_the_service_allows() -> None:
    """After nearly twelve hours it is redelivered."""
    transport = PlayedTransport()
    async with delivered(transport):
        await asyncio.sleep(13 * 3600)
    assert 11 * 3600 < transport.hidden[-1][0] < 12 * 3600


async def test_an_invalid_handle_is_not_hidden_again() -> None:
    """The message will be redelivered with a valid one."""
    transport = PlayedTransport()
    transport.failure = EntryFailure(0, "ReceiptHandleIsInvalid", is_final=True)
    async with delivered(transport):
        await asyncio.sleep(600)
    assert len(transport.hidden) == 1


async def test_messages_without_a_known_timeout_are_not_hidden_again() -> None:
    """MNS has no batch call for it: such messages are redelivered, and recognized."""
    transport = PlayedTransport()
    transport.messages = [transport.messages[0]._replace(hidden_seconds=None)]
    async with delivered(transport):
        await asyncio.sleep(600)
    assert transport.hidden == []


async def test_connections_are_closed_although_no_ack_comes() -> None:
    """After a stop, an ack that never comes does not keep them open."""
    transport = PlayedTransport()
    health = HealthReporter("events", SourceHealth(), SystemClock())
    deliveries = QueueReader("events", QueueSettings(), transport, health).run()
    await anext(deliveries)
    await deliveries.aclose()
    assert not transport.closed
    await asyncio.sleep(LATE_ACK_SECONDS + 1)
    assert transport.closed
