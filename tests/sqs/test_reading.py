"""What the source makes of a queue: nothing deleted before its ack, nothing lost, nothing that loops."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing

import pytest
from fake_sqs import FakeSqs
from sqs_world import TEST_EVENT, reading, s3_event, until

from listener.change import ChangeKind
from listener.contracts import SourceState
from listener.sources.sqs import SqsSource, session

pytestmark = [pytest.mark.looptime(False)]


async def test_a_message_becomes_a_change_and_is_deleted_after_its_ack(sqs: FakeSqs, url: str, transport: str) -> None:
    """The change carries the source's name and the decoded key; the queue keeps the message until the ack."""
    id_ = sqs.send(s3_event("img/a b+ü.jpg"))
    async with reading(sqs, url, acks=False, transport=transport, delete_linger_seconds=0) as taker:
        await until(lambda: taker.taken)
        assert sqs.queues["events"].messages[id_].hidden_until > sqs.now() + 31, "the queue's own setting is 30"
        polls = sqs.calls["ReceiveMessage"]
        await until(lambda: sqs.calls["ReceiveMessage"] >= polls + 2)
        (change,) = taker.taken[0].changes
        assert change[:3] == ("events", "img/a b+ü.jpg", ChangeKind.CONTENT)
        assert taker.source.health.state is SourceState.LISTENING
        assert ("delete", id_) not in sqs.log
        await taker.taken[0].ack()
        await until(lambda: ("delete", id_) in sqs.log)
        assert not sqs.queues["events"].messages


async def test_a_full_queue_is_read_by_several_and_deleted_in_tens(sqs: FakeSqs, url: str, transport: str) -> None:
    """Each message counts once, and a thousand deletions need few more than a hundred requests."""
    for number in range(1000):
        sqs.send(s3_event(f"{number}.html"))
    async with reading(sqs, url, transport=transport, delete_linger_seconds=1.0) as taker:
        await until(lambda: len(taker.keys) == 1000)
        assert Counter(taker.keys) == Counter(f"{number}.html" for number in range(1000))
    assert not sqs.queues["events"].messages
    assert sqs.calls["DeleteMessageBatch"] <= 130


async def test_no_more_is_received_than_can_be_held(sqs: FakeSqs, url: str, transport: str) -> None:
    """While nothing is acknowledged, polling stops at the bound; with the acks it goes on."""
    for number in range(200):
        sqs.send(s3_event(f"{number}.html"))
    async with reading(sqs, url, acks=False, transport=transport, max_held_messages=50) as taker:
        await until(lambda: len(taker.keys) == 50)
        await until(lambda: sqs.open_polls == 0)
        assert sqs.hidden() == 50
        taker.acks = True
        for delivery in list(taker.taken):
            await delivery.ack()
        await until(lambda: len(taker.keys) == 200)
    assert not sqs.queues["events"].messages


async def test_large_messages_are_read_a_few_at_a_time(sqs: FakeSqs, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much waits, one delivery reads a quarter of a mebibyte, and no more is received than the buffer takes."""
    monkeypatch.setattr(session, "MOST_BUFFERED_CHARACTERS", 1_000_000)
    for number in range(40):
        sqs.send(s3_event(f"{number}.html") + " " * 100_000)
    settings = SqsSource.Settings(queue_url=url, region="eu-central-1", pollers=1, figures_interval_seconds=0)  # type: ignore[call-arg]
    async with aclosing(SqsSource("events", settings).deliveries(None)) as deliveries:  # type: ignore[arg-type, type-var]
        first = await anext(deliveries)
        await until(lambda: sqs.hidden() == 20)
        await until(lambda: sqs.open_polls == 0)
        assert sqs.hidden() == 20
        read = [len(first.changes)]
        while sum(read) < 40:
            read.append(len((await anext(deliveries)).changes))
        assert max(read) == 3


async def test_what_a_cache_need_not_know_is_deleted_quietly(sqs: FakeSqs, url: str) -> None:
    """A test event and another bucket's events make no change, are counted, and go."""
    sqs.send(TEST_EVENT)
    sqs.send(s3_event("a.html", bucket="other"))
    async with reading(sqs, url, buckets="site") as taker:
        await until(lambda: not sqs.queues["events"].messages)
        assert taker.keys == []
        assert not any(delivery.unreadable for delivery in taker.taken)
        assert taker.source.health.figures["ignored_events"] == 2


async def test_what_cannot_be_read_is_kept_with_its_body_and_does_not_come_again(
    sqs: FakeSqs, url: str, transport: str
) -> None:
    """A poisonous message goes on to the dead letters whole, beside the readable ones, and is then deleted."""
    bad = sqs.send("no JSON \N{SNOWMAN}")
    sqs.send(s3_event("a.html"))
    async with reading(sqs, url, acks=False, transport=transport) as taker:
        await until(lambda: taker.keys == ["a.html"] and any(one.unreadable for one in taker.taken))
        (unreadable,) = (one for delivery in taker.taken for one in delivery.unreadable)
        assert unreadable.subject == bad.encode()
        assert unreadable.body == "no JSON \N{SNOWMAN}".encode()
        assert "not JSON" in unreadable.reason
        assert sqs.queues["events"].messages
        for delivery in taker.taken:
            await delivery.ack()
        await until(lambda: not sqs.queues["events"].messages)


async def test_keys_of_several_buckets_are_told_apart_where_asked_for(sqs: FakeSqs, url: str) -> None:
    """With ``bucket_prefix`` the bucket leads the key; without, the operator is told that they mix."""
    sqs.send(s3_event("a.html", bucket="one"))
    sqs.send(s3_event("a.html", bucket="two"))
    async with reading(sqs, url, bucket_prefix=True) as taker:
        await until(lambda: sorted(taker.keys) == ["one/a.html", "two/a.html"])
    sqs.send(s3_event("a.html", bucket="one"))
    sqs.send(s3_event("a.html", bucket="two"))
    async with reading(sqs, url) as taker:
        await until(lambda: "bucket_prefix" in taker.source.health.detail)
        assert taker.source.health.ready


async def test_a_message_that_comes_twice_is_one_change(sqs: FakeSqs, url: str, transport: str) -> None:
    """Duplicates of what is held or durable make no second change, and the newest handle deletes them."""
    sqs.doubled, sqs.is_shuffled = 0.5, True
    for number in range(100):
        sqs.send(s3_event(f"{number}.html"))
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: not sqs.queues["events"].messages)
        assert Counter(taker.keys) == Counter(f"{number}.html" for number in range(100))
        assert taker.source.health.figures["repeated_messages"] > 0


async def test_failed_entries_of_a_batch_are_tried_again_alone(sqs: FakeSqs, url: str, transport: str) -> None:
    """What the service could not delete is asked for again; the others are not."""
    sqs.failing_entries.extend([("InternalError", False)] * 3)
    for number in range(10):
        sqs.send(s3_event(f"{number}.html"))
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: not sqs.queues["events"].messages)
        assert len([entry for entry in sqs.log if entry[0] == "delete"]) == 10
        assert sorted(taker.keys) == sorted(f"{number}.html" for number in range(10))


async def test_a_deletion_that_fails_for_good_is_told_and_made_good_when_the_message_returns(
    sqs: FakeSqs, url: str, transport: str
) -> None:
    """A handle that no longer counts: given up, counted; the message comes again, is known, and goes."""
    sqs.failing_entries.append(("ReceiptHandleIsInvalid", True))
    sqs.send(s3_event("a.html"))
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: taker.keys and not sqs.failing_entries)
        assert sqs.queues["events"].messages
        sqs.ahead += 61
        await until(lambda: not sqs.queues["events"].messages)
        await until(lambda: taker.source.health.figures.get("repeated_messages") == 1)
        assert taker.keys == ["a.html"]
    assert taker.source.health.figures["not_deleted_messages"] == 1


async def test_a_handle_that_expired_while_the_commit_took_long_is_replaced(
    sqs: FakeSqs, url: str, transport: str
) -> None:
    """A message that became visible again while it was held is deleted by the handle that came last."""
    sqs.send(s3_event("a.html"))
    async with reading(sqs, url, acks=False, transport=transport) as taker:
        await until(lambda: taker.taken)
        sqs.ahead += 61
        await until(lambda: taker.source.health.figures.get("repeated_messages") == 1)
        assert taker.keys == ["a.html"]
        await taker.taken[0].ack()
        await until(lambda: not sqs.queues["events"].messages)


async def test_a_stop_shows_others_what_was_not_delivered(sqs: FakeSqs, url: str, transport: str) -> None:
    """What a poll brought and nobody took is visible at once; what was delivered is deleted by its late ack."""
    for number in range(10):
        sqs.send(s3_event(f"{number}.html"))
    async with reading(sqs, url, acks=False, transport=transport) as taker:
        await until(lambda: len(taker.keys) == 10)
        await until(lambda: sqs.open_polls == 1)
    stopped = taker.taken[:]
    late = sqs.send(s3_event("late.html"))
    await until(lambda: sqs.open_polls == 0)
    await until(lambda: sqs.waiting() == 1, "the poll that was open at the end keeps nothing")
    for delivery in stopped:
        await delivery.ack()
    await until(lambda: list(sqs.queues["events"].messages) == [late])
    assert taker.source.health.state is SourceState.STOPPED
    assert not taker.source.health.ready


async def test_what_waits_in_the_buffer_is_shown_to_others_at_a_stop(sqs: FakeSqs, url: str, transport: str) -> None:
    """While the intake has no room, messages wait undelivered; a stop gives them back."""
    settings = SqsSource.Settings(queue_url=url, region="eu-central-1", transport=transport, wait_seconds=1)
    deliveries = SqsSource("events", settings).deliveries(None)  # type: ignore[arg-type]
    sqs.send(s3_event("first.html"))
    first = await anext(deliveries)  # and then nobody asks for more
    sqs.send(s3_event("second.html"))
    await until(lambda: sqs.hidden() == 2)
    await deliveries.aclose()  # type: ignore[attr-defined]
    await until(lambda: sqs.waiting() == 1)
    await first.ack()
    assert [one.body for one in sqs.queues["events"].messages.values()] == [s3_event("second.html")]


async def test_ready_means_that_the_queue_answered(sqs: FakeSqs, url: str, transport: str) -> None:
    """Before the first answer it is not ready; an empty queue answers at once."""
    fault = sqs.order("ReceiveMessage", "ServiceUnavailable", status=503)
    async with reading(sqs, url, transport=transport) as taker:
        await until(lambda: sqs.calls["ReceiveMessage"] >= 2)
        assert not taker.source.health.ready
        fault.left = 0
        await until(lambda: taker.source.health.ready)


async def test_lag_counts_the_first_receive_only(sqs: FakeSqs, url: str) -> None:
    """A message that was received before was not delayed by the queue."""
    id_ = sqs.send(s3_event("old.html"))
    sqs.queues["events"].messages[id_].sent_at -= 1000
    sqs.queues["events"].messages[id_].receives = 3
    async with reading(sqs, url, transport="aiohttp", wait_seconds=20) as taker:
        await until(lambda: taker.keys == ["old.html"])
        assert taker.source.health.figures["lag_seconds"] == 0
        id_ = sqs.send(s3_event("new.html"))
        sqs.queues["events"].messages[id_].sent_at -= 1000
        await until(lambda: taker.keys == ["old.html", "new.html"])
        assert taker.source.health.figures["lag_seconds"] > 900


async def test_figures_tell_how_much_waits(sqs: FakeSqs, url: str, transport: str) -> None:
    """The queue's own numbers stand among the figures; where they are refused, nothing else suffers."""
    sqs.send(s3_event("a.html"))
    async with reading(sqs, url, acks=False, transport=transport, figures_interval_seconds=0.05) as taker:
        await until(lambda: taker.source.health.figures.get("queue_hidden_messages") == 1)
        assert taker.source.health.figures["held_messages"] == 1
