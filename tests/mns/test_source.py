"""The source at the fake service: what is heard is handed out once, deleted when durable, and given back at a stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from fake_mns import FakeMns
from mns_client import Sdk
from oss_messages import bodies, body_of, event
from reading_along import reading, until

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import SourceState
from listener.sources.mns import MnsSource

pytestmark = pytest.mark.looptime(False)
MakeSource = Callable[..., MnsSource]


async def test_a_message_becomes_changes_under_the_sources_name(service: FakeMns, make_source: MakeSource) -> None:
    """Keys stand as they are; size, tag and time come along; the bucket is told only where a setting asks for it."""
    await service.send(
        body_of(event("ObjectCreated:PutObject", "dir/a b%20+中.html"), event("ObjectRemoved:DeleteObject", "b"))
    )
    async with reading(make_source()) as along:
        await until(lambda: len(service.queue.deleted) == 1)
    put = Change(
        "oss", "dir/a b%20+中.html", ChangeKind.CONTENT, Fingerprint(10, etag="d9703079d307a57c"), 1767323045.0
    )
    assert along.changes == [put, Change("oss", "b", ChangeKind.DELETED, None, 1767323045.0)]


async def test_buckets_can_be_told_apart_and_chosen(service: FakeMns, make_source: MakeSource) -> None:
    """With a list, others are ignored, counted and deleted; with a prefix, each site can name its own."""
    await service.send(body_of(event("ObjectCreated:PutObject", "a"), event("ObjectCreated:Put", "b", bucket="x")))
    await service.send(body_of(event("ObjectCreated:PutObject", "c", bucket="x")))
    async with reading(make_source(buckets=["site"], bucket_prefix=True)) as along:
        await until(lambda: len(service.queue.deleted) == 2)
    assert along.keys == ["site/a"]
    assert along.figure("ignored_records") == 2


@pytest.mark.parametrize("encode", [True, False])
async def test_bodies_are_read_by_shape(service: FakeMns, sdk: Sdk, make_source: MakeSource, encode: bool) -> None:
    """Base64 once, twice (the SDK encodes what was encoded) or not at all: the official SDK sends them."""
    await sdk.send(body_of(event("ObjectCreated:PutObject", "a"), encode=encode))
    sdk.queue.set_encoding(False)
    await sdk.send(body_of(event("ObjectCreated:PutObject", "b"), encode=encode))
    async with reading(make_source()) as along:
        await until(lambda: len(service.queue.deleted) == 2)
    assert along.keys == ["a", "b"]


async def test_nothing_is_deleted_before_it_is_acknowledged(service: FakeMns, make_source: MakeSource) -> None:
    """Deliveries that wait for their commit keep their messages; each ack deletes its own and no others."""
    await service.send(*bodies(f"{number}" for number in range(40)))
    async with reading(make_source(), ack=False) as along:
        await until(lambda: len(along.changes) == 40)
        assert service.queue.deleted == []
        await along.deliveries[1].ack()
        await until(lambda: service.queue.deleted)
        acked = {change.key for change in along.deliveries[1].changes}
        await until(lambda: len(service.queue.deleted) == len(acked))
        left = set(service.queue.messages)
    assert len(left) == 40 - len(acked)
    assert service.calls["BatchDeleteMessage"] == 1


async def test_many_messages_go_in_batches(service: FakeMns, make_source: MakeSource) -> None:
    """Sixteen at a time are received and deleted, by several readers while there are that many."""
    await service.send(*bodies(f"{number:04}" for number in range(800)))
    async with reading(make_source()) as along:
        await until(lambda: len(service.queue.deleted) == 800)
    assert along.keys == [f"{number:04}" for number in range(800)]
    assert service.calls["BatchReceiveMessage"] < 80
    assert service.calls["BatchDeleteMessage"] < 80
    assert service.calls["DeleteMessage"] == service.calls["ReceiveMessage"] == 0


async def test_an_empty_queue_is_normal(service: FakeMns, make_source: MakeSource) -> None:
    """It is ready at once, without trouble, and waits in one long poll; what comes then is heard at once."""
    async with reading(make_source()) as along:
        await until(lambda: along.source.health.ready and service.open_polls)
        assert along.source.health.state is SourceState.LISTENING
        assert along.source.health.detail == ""
        assert service.calls["BatchReceiveMessage"] == 2
        await service.send(*bodies(["a"]))
        await until(lambda: along.keys == ["a"])
    assert along.source.health.state is SourceState.STOPPED


async def test_a_poll_that_is_not_held_is_not_repeated_without_rest(service: FakeMns, make_source: MakeSource) -> None:
    """Something between that answers at once does not turn a quiet queue into a thousand calls a second."""
    service.holds_requests = False
    async with reading(make_source()) as along:
        await until(lambda: along.source.health.ready)
        await asyncio.sleep(1.0)
        assert service.calls["BatchReceiveMessage"] < 50


async def test_a_message_that_comes_again_is_handed_out_once(service: FakeMns, make_source: MakeSource) -> None:
    """While it waits for its commit it only changes its handle, and is deleted by the newest."""
    (name,) = await service.send(*bodies(["a"]))
    async with reading(make_source(), ack=False) as along:
        await until(lambda: along.changes)
        await service.advance(31)
        await until(lambda: along.figure("redelivered_while_held") == 1)
        await along.deliveries[0].ack()
        await until(lambda: service.queue.deleted == [name])
    assert along.keys == ["a"]
    assert along.figure("dequeue_count_most") == 2


async def test_a_durable_message_whose_deletion_was_lost_is_only_deleted_again(
    service: FakeMns, make_source: MakeSource
) -> None:
    """Its handle had run out; when it comes again it is known, and not recorded a second time."""
    (name,) = await service.send(*bodies(["a"]))
    async with reading(make_source(), ack=False) as along:
        await until(lambda: along.changes)
        service.queue.messages[name].handle = "over"
        await along.deliveries[0].ack()
        await until(lambda: along.figure("expired_handles") == 1)
        await service.advance(31)
        await until(lambda: service.queue.deleted == [name])
    assert along.keys == ["a"]


async def test_deletions_that_fail_within_a_batch_are_tried_again_alone(
    service: FakeMns, make_source: MakeSource
) -> None:
    """The others of the batch are not deleted twice."""
    await service.send(*bodies("abcdef"))
    service.failing_deletions = 4
    async with reading(make_source()) as along:
        await until(lambda: len(service.queue.deleted) == 6)
        await until(lambda: along.figure("deleted_messages") == 6)
    assert along.figure("deletions_failed") == 4
    assert along.figure("expired_handles") == 0


async def test_a_deletion_whose_answer_is_lost_is_made_again(service: FakeMns, make_source: MakeSource) -> None:
    """That its messages are gone already is no trouble."""
    await service.send(*bodies("abc"))
    async with reading(make_source(), ack=False) as along:
        await until(lambda: len(along.changes) == 3)
        service.drop_answers = 100
        for delivery in along.deliveries:
            await delivery.ack()
        await until(lambda: len(service.queue.deleted) == 3 and along.figure("deletions_failed"))
        service.drop_answers = 0
        await until(lambda: along.figure("expired_handles") == 3)
    assert along.figure("deletions_given_up") == 0


async def test_what_cannot_be_read_comes_aside_with_its_body(service: FakeMns, make_source: MakeSource) -> None:
    """One bad message takes no other with it, and is deleted only with its delivery's ack."""
    name, _ = await service.send("bm90IGFuIGV2ZW50", *bodies(["a"]))
    async with reading(make_source(), ack=False) as along:
        await until(lambda: along.keys == ["a"] and along.unreadable)
        assert service.queue.deleted == []
        for delivery in along.deliveries:
            await delivery.ack()
        await until(lambda: len(service.queue.deleted) == 2)
    ((subject, body, reason),) = along.unreadable
    assert (subject, body) == (name.encode(), b"bm90IGFuIGV2ZW50")
    assert "unreadable" in reason
    assert along.figure("unreadable_messages") == 1


async def test_a_mistake_of_ours_poisons_nothing(
    service: FakeMns, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the decoder to break on one body, that is set aside too, and the others are read."""
    from listener.sources.mns import reading as module

    def breaks(body: bytes, **how: object) -> object:
        if b"b3Bz" in body:
            raise ZeroDivisionError
        return decode(body, **how)  # type: ignore[arg-type]

    decode = module.decode
    monkeypatch.setattr(module, "decode", breaks)
    await service.send("b3Bz", *bodies(["a"]))
    async with reading(make_source()) as along:
        await until(lambda: len(service.queue.deleted) == 2)
    assert along.keys == ["a"]
    assert along.unreadable[0].reason == "reading it ended in ZeroDivisionError"


async def test_no_more_is_asked_for_than_may_be_held(service: FakeMns, make_source: MakeSource) -> None:
    """While nothing can be committed the queue keeps the rest, visible to others."""
    await service.send(*bodies(f"{number}" for number in range(200)))
    async with reading(make_source(max_held_messages=32, pollers=1), ack=False) as along:
        await until(lambda: len(along.changes) == 32)
        await asyncio.sleep(0.2)
        assert len(along.changes) == len(service.in_flight) == 32
        for delivery in along.deliveries[:]:
            await delivery.ack()
        await until(lambda: len(along.changes) == 64)


async def test_a_stop_cuts_the_long_poll_off(service: FakeMns, make_source: MakeSource) -> None:
    """It does not wait for the twenty seconds that the poll has left."""
    async with reading(make_source()) as along:
        await until(lambda: service.open_polls and along.source.health.ready)
    await until(lambda: not service.open_polls)


async def test_a_stop_gives_back_what_was_not_handed_out(service: FakeMns, make_source: MakeSource) -> None:
    """Received and not taken: another reader sees it within a second or two, not after the visibility timeout."""
    await service.send(*bodies(f"{number}" for number in range(48)))
    source = make_source(pollers=1)
    deliveries = source.deliveries(None)  # type: ignore[arg-type]
    first = await anext(deliveries)
    await until(lambda: source.health.figures.get("received_messages") == 48)
    await deliveries.aclose()  # type: ignore[attr-defined]
    assert source.health.figures["released_messages"] == 32
    await service.advance(2)
    hidden = service.in_flight
    assert len(hidden) == 16
    # What was handed out is its taker's: its ack, however late, deletes it.
    await first.ack()
    assert sorted(service.queue.deleted) == sorted(hidden)


async def test_what_was_durable_before_a_stop_is_deleted_by_it(service: FakeMns, make_source: MakeSource) -> None:
    """An ack a moment before the end is not forgotten."""
    await service.send(*bodies(f"{number}" for number in range(16)))
    deliveries = make_source().deliveries(None)  # type: ignore[arg-type]
    first = await anext(deliveries)
    await first.ack()
    await deliveries.aclose()  # type: ignore[attr-defined]
    assert len(service.queue.deleted) == 16


async def test_a_deletion_under_way_at_a_stop_is_made_again(service: FakeMns, make_source: MakeSource) -> None:
    """It is cut off with everything else, and nobody knows whether it arrived."""
    await service.send(*bodies(f"{number}" for number in range(16)))
    service.deletes.clear()
    deliveries = make_source().deliveries(None)  # type: ignore[arg-type]
    first = await anext(deliveries)
    await first.ack()
    await until(lambda: service.calls["BatchDeleteMessage"])
    closing = asyncio.create_task(deliveries.aclose())  # type: ignore[attr-defined]
    await until(lambda: service.calls["BatchDeleteMessage"] == 2)
    service.deletes.set()
    await closing
    assert len(service.queue.deleted) == 16


async def test_lag_is_told_of_what_comes_for_the_first_time(service: FakeMns, make_source: MakeSource) -> None:
    """By the service's own clock, so that a wrong one here does not matter; a redelivery says nothing of it."""
    service.ahead = 600
    await service.send(*bodies(["a"]))
    await service.advance(60)
    async with reading(make_source(), ack=False) as along:
        await until(lambda: along.changes)
        lag = along.figure("lag_seconds")
        assert 55 < lag < 100
        await service.advance(600 - 500)
        await until(lambda: along.figure("received_again") == 1)
        assert along.figure("lag_seconds") == lag


async def test_figures_tell_how_full_the_queue_is(service: FakeMns, make_source: MakeSource) -> None:
    """Asked for now and then; who may not ask still reads."""
    await service.send(*bodies("abc"))
    async with reading(make_source(), ack=False) as along:
        await until(lambda: "active_messages" in along.source.health.figures)
    service.denied = {"GetQueueAttributes"}
    await service.advance(31)
    async with reading(make_source()) as along:
        await until(lambda: len(service.queue.deleted) == 3)
    assert "active_messages" not in along.source.health.figures
    assert along.source.health.detail == ""
