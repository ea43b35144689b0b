"""What a queue source promises, on both services: nothing deleted before its ack, nothing lost, nothing that loops."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from typing import Any

import pytest
from structlog.testing import capture_logs

from listener.change import ChangeKind
from listener.contracts import SourceState
from listener.sources.queue import messages, reader
from tests.sources.queue.backends import Backend, numbered, reading
from tests.waiting import until

pytestmark = pytest.mark.looptime(False)


async def test_a_message_becomes_a_change_of_the_source(backend: Backend) -> None:
    """The change has the source's name as root and the decoded key."""
    await backend.send("img/a b+ü.jpg")
    async with reading(backend.source()) as consumer:
        await until(lambda: not backend.left)
    (change,) = consumer.deliveries[0].changes
    assert change[:3] == ("events", "img/a b+ü.jpg", ChangeKind.CONTENT)


async def test_each_ack_deletes_its_own_messages_and_nothing_else(backend: Backend) -> None:
    """What is not acknowledged stays in the queue."""
    first = await backend.send(*numbered(3))
    async with reading(backend.source(delete_linger_seconds=0), acks=False) as consumer:
        await until(lambda: len(consumer.keys) == 3)
        second = await backend.send("later.html")
        await until(lambda: len(consumer.keys) == 4)
        assert backend.left == {*first, *second}
        await consumer.deliveries[-1].ack()
        await until(lambda: backend.left == set(first))
    assert backend.left == set(first)
    assert backend.count("delete") == 1


async def test_a_full_queue_is_read_by_several_pollers_and_in_batches(backend: Backend) -> None:
    """Each message is one change, and deletions need few more requests than full batches."""
    await backend.send(*numbered(800))
    async with reading(backend.source(delete_linger_seconds=1.0)) as consumer:
        await until(lambda: not backend.left)
    assert Counter(consumer.keys) == Counter(numbered(800))
    assert backend.count("delete") <= 1.3 * 800 / backend.batch
    assert backend.count("receive") <= 1.6 * 800 / backend.batch


async def test_polling_stops_while_the_bound_of_messages_is_in_flight(backend: Backend) -> None:
    """Without acknowledgements the queue keeps the rest; with them reading continues."""
    bound = 5 * backend.batch
    await backend.send(*numbered(4 * bound))
    async with reading(backend.source(max_held_messages=bound), acks=False) as consumer:
        await until(lambda: len(consumer.keys) == bound)
        await until(lambda: not backend.open_polls)
        assert backend.hidden == bound
        assert consumer.metric("in_flight_messages") == bound
        consumer.acknowledges = True
        await consumer.ack_all()
        await until(lambda: len(consumer.keys) == 4 * bound)
        await until(lambda: not backend.left)


async def test_large_messages_are_decoded_a_few_at_a_time(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """One delivery decodes a quarter of a mebibyte, and polling pauses while much waits to be decoded."""
    monkeypatch.setattr(reader, "PORTION_BYTES", 25_000)
    monkeypatch.setattr(reader, "MOST_BUFFERED_BYTES", 100_000)
    count = 4 * backend.batch
    for number in range(count):
        await backend.send_body(f"{number} " + "x" * 10_000)
    async with aclosing(backend.source(pollers=1).deliveries(None)) as deliveries:  # type: ignore[arg-type, type-var]
        sizes = [len((await anext(deliveries)).unreadable)]
        await until(lambda: backend.hidden >= 10)
        await until(lambda: not backend.open_polls)
        assert backend.hidden <= 2 * backend.batch
        while sum(sizes) < count:
            sizes.append(len((await anext(deliveries)).unreadable))
        assert max(sizes) == 3


async def test_events_of_other_buckets_are_counted_and_deleted(backend: Backend) -> None:
    """They make no change and no dead letter; with a prefix, the bucket is part of the key."""
    await backend.send("a.html")
    await backend.send("b.html", "c.html", bucket="other")
    async with reading(backend.source(buckets=["site"], bucket_prefix=True)) as consumer:
        await until(lambda: not backend.left)
    assert consumer.keys == ["site/a.html"]
    assert consumer.unreadable == []
    assert consumer.metric("ignored_events") == 2


async def test_mixed_buckets_are_reported(backend: Backend) -> None:
    """Keys of several buckets that cannot be distinguished: the health names the settings."""
    await backend.send("a.html", bucket="one")
    await backend.send("a.html", bucket="two")
    async with reading(backend.source(wait_seconds=1)) as consumer:
        await until(lambda: "bucket_prefix" in consumer.source.health.detail)
        assert consumer.source.health.ready


async def test_an_unreadable_message_becomes_a_dead_letter_with_its_body(backend: Backend) -> None:
    """It is deleted with the ack of its delivery and not before; other messages are read."""
    bad = await backend.send_body("not an event \N{SNOWMAN}")
    await backend.send("a.html")
    async with reading(backend.source(), acks=False) as consumer:
        await until(lambda: consumer.keys == ["a.html"] and consumer.unreadable)
        ((subject, body, _),) = consumer.unreadable
        assert (subject, body) == (bad.encode(), "not an event \N{SNOWMAN}".encode())
        assert bad in backend.left
        await consumer.ack_all()
        await until(lambda: not backend.left)
        assert consumer.metric("unreadable_messages") == 1


async def test_a_body_that_breaks_the_decoder_becomes_a_dead_letter(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of the decoder neither stops the source nor makes the queue redeliver for ever."""
    decode = messages.decode

    def breaks(body: bytes, **options: Any) -> Any:
        if body == b"poison":
            raise ZeroDivisionError
        return decode(body, **options)

    monkeypatch.setattr(messages, "decode", breaks)
    await backend.send_body("poison")
    await backend.send("a.html")
    async with reading(backend.source()) as consumer:
        await until(lambda: not backend.left)
    assert consumer.keys == ["a.html"]
    assert [one.reason for one in consumer.unreadable] == ["decoding raised ZeroDivisionError"]


async def test_a_bomb_of_brackets_becomes_a_dead_letter(backend: Backend) -> None:
    """A body with more objects and lists than any event has is not parsed."""
    await backend.send_body("[" + "[]," * 120_000 + "[]]")
    async with reading(backend.source()) as consumer:
        await until(lambda: not backend.left)
    assert len(consumer.unreadable) == 1


async def test_a_repeated_message_is_one_change(backend: Backend) -> None:
    """Duplicates of messages in flight or acknowledged make no second change."""
    backend.duplicate(0.5)
    await backend.send(*numbered(100))
    async with reading(backend.source()) as consumer:
        await until(lambda: not backend.left)
        assert Counter(consumer.keys) == Counter(numbered(100))
        assert consumer.metric("repeated_messages") > 0


async def test_failed_entries_of_a_batch_are_deleted_by_a_retry(backend: Backend) -> None:
    """Only the failed ones are retried."""
    backend.fail_entries(3)
    await backend.send(*numbered(6))
    async with reading(backend.source()) as consumer:
        await until(lambda: not backend.left)
        await until(lambda: consumer.metric("in_flight_messages") == 0)
    assert consumer.metric("deleted_messages") == 6
    assert consumer.metric("not_deleted_messages") == 0


async def test_a_message_whose_handle_expired_is_deleted_at_its_redelivery(backend: Backend) -> None:
    """It was acknowledged: the redelivery makes no second change."""
    (message_id,) = await backend.send("a.html")
    async with reading(backend.source(), acks=False) as consumer:
        await until(lambda: consumer.keys)
        backend.expire_handle(message_id)
        await consumer.ack_all()
        await until(lambda: backend.count("delete"))
        await backend.advance(backend.visibility_seconds + 1)
        await until(lambda: not backend.left)
        assert consumer.keys == ["a.html"]
    assert consumer.metric("not_deleted_messages") == 1


async def test_a_message_redelivered_while_its_commit_takes_long_is_deleted_by_its_newest_handle(
    backend: Backend,
) -> None:
    """The redelivery only brings a new handle."""
    await backend.send("a.html")
    async with reading(backend.source(), acks=False) as consumer:
        await until(lambda: consumer.keys)
        await backend.advance(backend.visibility_seconds + 1)
        await until(lambda: consumer.metric("repeated_messages") == 1)
        assert consumer.metric("redelivered_messages") == 1
        await consumer.ack_all()
        await until(lambda: not backend.left)
        assert consumer.keys == ["a.html"]


async def test_a_stop_releases_undelivered_messages_and_late_acks_delete_the_delivered(backend: Backend) -> None:
    """Another reader sees undelivered messages within two seconds, not after the visibility timeout."""
    (first,) = await backend.send("first.html")
    deliveries = backend.source().deliveries(None)  # type: ignore[arg-type]
    delivery = await anext(deliveries)
    (second,) = await backend.send("second.html")
    await until(lambda: backend.hidden == 2)
    # The poll has returned to the source once it polls again.
    await until(lambda: backend.count("receive") >= 3 and backend.open_polls)
    await deliveries.aclose()  # type: ignore[attr-defined]
    await backend.advance(2)
    await until(lambda: backend.hidden == 1)
    assert backend.left == {first, second}
    await delivery.ack()
    assert backend.left == {second}


async def test_an_ack_before_a_stop_deletes(backend: Backend) -> None:
    """Deletions that are pending at a stop are finished."""
    await backend.send(*numbered(12))
    deliveries = backend.source(delete_linger_seconds=5).deliveries(None)  # type: ignore[arg-type]
    taken = 0
    while taken < 12:
        delivery = await anext(deliveries)
        taken += len(delivery.changes)
        await delivery.ack()
    await deliveries.aclose()  # type: ignore[attr-defined]
    assert not backend.left


async def test_a_stop_ends_the_open_poll_and_keeps_nothing(backend: Backend) -> None:
    """A message that arrives after the stop is visible to other readers."""
    async with reading(backend.source()) as consumer:
        await until(lambda: backend.open_polls and consumer.source.health.ready)
    late = await backend.send("late.html")
    await until(lambda: not backend.open_polls)
    await until(lambda: not backend.hidden)
    assert backend.left == set(late)
    assert consumer.source.health.state is SourceState.STOPPED
    assert not consumer.source.health.ready


async def test_an_empty_queue_is_ready_at_once_and_waits_in_one_long_poll(backend: Backend) -> None:
    """The first reply makes the source ready; then one poll is open."""
    async with reading(backend.source(wait_seconds=20)) as consumer:
        await until(lambda: consumer.source.health.ready and backend.open_polls)
        health = consumer.source.health
        assert (health.state, health.detail) == (SourceState.LISTENING, "")
        assert backend.count("receive") == 2
        await backend.send("a.html")
        await until(lambda: consumer.keys == ["a.html"])


async def test_a_poll_that_is_not_held_open_is_not_repeated_without_rest(backend: Backend) -> None:
    """A proxy that replies at once does not turn a quiet queue into a thousand calls per second."""
    backend.shorten_polls()
    async with reading(backend.source()) as consumer:
        await until(lambda: consumer.source.health.ready)
        await asyncio.sleep(1.0)
        assert backend.count("receive") < 150


async def test_lag_is_measured_at_the_first_receive_only(backend: Backend) -> None:
    """A redelivered message waited for its reader, not in the queue."""
    await backend.send("a.html")
    await backend.advance(40)
    async with reading(backend.source(), acks=False) as consumer:
        await until(lambda: consumer.keys)
        lag = consumer.metric("lag_seconds")
        await backend.advance(backend.visibility_seconds + 600)
        await until(lambda: consumer.metric("redelivered_messages"))
        assert consumer.metric("lag_seconds") == lag < 60


async def test_metrics_have_the_length_of_the_queue(backend: Backend) -> None:
    """The service's own counts, read regularly."""
    await backend.send("a.html")
    async with reading(backend.source(figures_interval_seconds=0.05), acks=False) as consumer:
        await until(lambda: consumer.metric("queue_hidden_messages") == 1)
        assert consumer.metric("in_flight_messages") == 1


async def test_denied_metrics_disturb_nothing_and_are_logged_once(backend: Backend) -> None:
    """Without the permission there is no length of the queue; everything else works."""
    backend.fail("metrics", "denied")
    with capture_logs() as logs:
        async with reading(backend.source(figures_interval_seconds=0.02)) as consumer:
            await until(lambda: consumer.source.health.ready)
            await until(lambda: any(entry["event"] == "queue.metrics_denied" for entry in logs))
            await backend.send("a.html")
            await until(lambda: not backend.left)
            assert "queue_messages" not in consumer.source.health.figures
    assert [entry["event"] for entry in logs].count("queue.metrics_denied") == 1


@pytest.mark.parametrize("what", ["throttled", "unavailable"])
async def test_a_single_failure_is_retried_and_counted_only(backend: Backend, what: str) -> None:
    """Nobody is alarmed by one lost request."""
    stop = backend.fail("receive", what, 1)
    async with reading(backend.source()) as consumer:
        health = consumer.source.health
        await until(lambda: health.figures.get("failed_receives") == 1)
        assert health.state is not SourceState.DEGRADED
        await until(lambda: health.ready)
        stop()
        assert consumer.metric("failed_receives") == 1


@pytest.mark.parametrize("what", ["throttled", "unavailable", "drop"])
async def test_failures_in_a_row_degrade_until_a_reply(backend: Backend, what: str) -> None:
    """Degraded with the reason, still ready; over with the first reply."""
    async with reading(backend.source(wait_seconds=1)) as consumer:
        health = consumer.source.health
        await until(lambda: health.ready)
        stop = backend.fail("receive", what)
        await until(lambda: health.state is SourceState.DEGRADED)
        assert health.ready
        assert health.detail
        stop()
        await backend.send("a.html")
        await until(lambda: consumer.keys == ["a.html"])
        assert (health.state, health.detail) == (SourceState.LISTENING, "")


@pytest.mark.parametrize(
    ("what", "hint"), [("denied", "--print-setup"), ("missing", "check queue"), ("unknown key", "ACCESS_KEY_ID")]
)
async def test_what_an_operator_must_fix_makes_the_source_unready_with_a_hint(
    backend: Backend, what: str, hint: str
) -> None:
    """A missing permission or queue and a wrong key; the source recovers by itself."""
    async with reading(backend.source(wait_seconds=1)) as consumer:
        health = consumer.source.health
        await until(lambda: health.ready)
        stop = backend.fail("receive", what)
        await until(lambda: not health.ready)
        assert health.state is SourceState.DEGRADED
        assert hint in health.detail
        stop()
        await until(lambda: health.ready)
        assert health.detail == ""


async def test_failures_are_logged_when_new_and_then_seldom(backend: Backend) -> None:
    """A service that is down for long does not fill the log."""
    with capture_logs() as logs:
        async with reading(backend.source()) as consumer:
            backend.fail("receive", "unavailable")
            await until(lambda: consumer.metric("failed_receives") >= 16)
    events = [entry for entry in logs if entry["event"] == "queue.receive_failed"]
    assert 0 < len(events) <= 6


@pytest.mark.parametrize("what", ["throttled", "drop", "after"])
async def test_deletions_survive_failures(backend: Backend, what: str) -> None:
    """Throttled, broken, or broken after the work: in the end the messages are gone, and came once."""
    backend.fail("delete", what, 2)
    await backend.send(*numbered(8))
    async with reading(backend.source()) as consumer:
        await until(lambda: not backend.left)
        assert Counter(consumer.keys) == Counter(numbered(8))


async def test_messages_whose_reply_was_lost_are_redelivered(backend: Backend) -> None:
    """The connection broke after the service had hidden them."""
    await backend.send("a.html")
    backend.fail("receive", "after", 1)
    async with reading(backend.source()) as consumer:
        await until(lambda: backend.hidden == 1)
        assert consumer.keys == []
        await backend.advance(backend.visibility_seconds + 1)
        await until(lambda: consumer.keys == ["a.html"])


async def test_denied_deletions_degrade_and_repeat_nothing(backend: Backend) -> None:
    """Messages are redelivered and recognized; once allowed, they are deleted."""
    stop = backend.fail("delete", "denied")
    await backend.send("a.html")
    async with reading(backend.source(wait_seconds=1)) as consumer:
        health = consumer.source.health
        await until(lambda: health.state is SourceState.DEGRADED)
        assert "cannot be deleted" in health.detail
        assert "AccessDenied" in health.detail
        assert health.ready
        stop()
        await backend.advance(backend.visibility_seconds + 1)
        await until(lambda: not backend.left)
        await until(lambda: health.state is SourceState.LISTENING)
        assert consumer.keys == ["a.html"]
    assert consumer.metric("not_deleted_messages") == 1


async def test_an_error_inside_the_reader_ends_the_source(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is not retried in silence: the source fails, and the pipeline restarts it."""
    source = backend.source()
    transport = source.transport()

    async def broken(**_: Any) -> Any:
        raise ZeroDivisionError

    transport.receive = broken  # type: ignore[method-assign]
    monkeypatch.setattr(source, "transport", lambda: transport)
    with pytest.raises(ZeroDivisionError):
        await anext(source.deliveries(None))  # type: ignore[arg-type]
    assert source.health.state is SourceState.FAILED
