"""The fake service is one to the vendor's own client: what holds against the fake was held against that first."""

from __future__ import annotations

import asyncio

import pytest
from mns.mns_exception import MNSServerException
from mns.queue import QueueMeta

from tests.sources.mns.fake_mns import FakeMns
from tests.sources.mns.sdk import Sdk

pytestmark = pytest.mark.looptime(False)


async def test_a_message_goes_through(sdk: Sdk) -> None:
    """Sent, peeked at, received and deleted, one by one, with every field that the SDK demands."""
    (sent,) = await sdk.send("<events> & 中文 ümläut")
    peeked = await sdk.do(sdk.queue.peek_message)
    assert peeked.message_id == sent
    received = await sdk.do(sdk.queue.receive_message_with_str_body, 0)
    assert (received.message_id, received.message_body) == (sent, "<events> & 中文 ümläut")
    assert received.dequeue_count == 1
    await sdk.do(sdk.queue.delete_message, received.receipt_handle)
    with pytest.raises(MNSServerException, match="MessageNotExist"):
        await sdk.receive()


async def test_batches_go_through(sdk: Sdk, service: FakeMns) -> None:
    """Sixteen at a time are sent, received and deleted."""
    sent = await sdk.send(*(f"body {number}" for number in range(16)))
    received = await sdk.receive()
    assert sorted(one.message_id for one in received) == sorted(sent)
    await sdk.do(sdk.queue.batch_delete_message, [one.receipt_handle for one in received])
    assert sorted(service.queue.deleted) == sorted(sent)


async def test_some_deletions_of_a_batch_fail(sdk: Sdk, service: FakeMns) -> None:
    """The SDK reads which handles failed and why; the others are deleted."""
    sent = await sdk.send("a", "b", "c")
    handles = [one.receipt_handle for one in await sdk.receive()]
    with pytest.raises(MNSServerException) as caught:
        await sdk.do(sdk.queue.batch_delete_message, [*handles, "no-such-handle"])
    assert caught.value.sub_errors == [
        {"ErrorCode": "ReceiptHandleError", "ErrorMessage": caught.value.message, "ReceiptHandle": "no-such-handle"}
    ]
    assert sorted(service.queue.deleted) == sorted(sent)


async def test_a_message_comes_again_under_a_new_handle(sdk: Sdk, service: FakeMns) -> None:
    """Once its time is over it is visible, counts one more receive, and its old handle is over."""
    (sent,) = await sdk.send("a")
    (first,) = await sdk.receive()
    with pytest.raises(MNSServerException, match="MessageNotExist"):
        await sdk.receive()
    await service.advance(31)
    (second,) = await sdk.receive()
    assert (second.message_id, second.dequeue_count) == (sent, 2)
    with pytest.raises(MNSServerException, match="ReceiptHandleError"):
        await sdk.do(sdk.queue.delete_message, first.receipt_handle)
    await sdk.do(sdk.queue.delete_message, second.receipt_handle)
    assert service.queue.deleted == [sent]


async def test_changing_the_visibility_changes_the_handle(sdk: Sdk, service: FakeMns) -> None:
    """The new handle counts, the old one does not; after the new time the message is there again."""
    await sdk.send("a")
    (first,) = await sdk.receive()
    changed = await sdk.do(sdk.queue.change_message_visibility, first.receipt_handle, 5)
    assert changed.receipt_handle != first.receipt_handle
    with pytest.raises(MNSServerException, match="ReceiptHandleError"):
        await sdk.do(sdk.queue.delete_message, first.receipt_handle)
    await service.advance(6)
    assert len(await sdk.receive()) == 1


@pytest.mark.filterwarnings("ignore:Call to deprecated function:DeprecationWarning")
async def test_a_queue_returns_its_attributes(sdk: Sdk, service: FakeMns) -> None:
    """Creating and reading back; what was received counts as inactive."""
    meta = QueueMeta(vis_timeout=45, max_msg_size=40960, msg_ttl=7200)
    queue = sdk.account.get_queue("other")
    assert (await sdk.do(queue.create, meta)).endswith("/queues/other")
    reported = await sdk.do(queue.get_attributes)
    assert (reported.visibility_timeout, reported.maximum_message_size, reported.message_retention_period) == (
        45,
        40960,
        7200,
    )
    await sdk.send("a", "b")
    await sdk.receive(1)
    reported = await sdk.do(sdk.queue.get_attributes)
    assert (reported.active_messages, reported.inactive_messages) == (1, 1)


async def test_a_long_poll_ends_with_the_first_message(sdk: Sdk, service: FakeMns) -> None:
    """Who waits is given what arrives."""
    waiting = asyncio.create_task(sdk.receive(16, 20))
    while not service.open_polls:
        await asyncio.sleep(0.01)
    (sent,) = await service.send("YQ==")
    assert [one.message_id for one in await waiting] == [sent]


@pytest.mark.parametrize(
    ("secret", "token", "code"), [("wrong", "", "SignatureDoesNotMatch"), ("testsecret", "old", "InvalidSecurityToken")]
)
async def test_who_signs_wrongly_is_refused(service: FakeMns, secret: str, token: str, code: str) -> None:
    """A wrong secret, or a token that is not the one asked for."""
    service.token = "new" if token else None
    client = Sdk(service.url, secret=secret, token=token)
    try:
        with pytest.raises(MNSServerException, match=code):
            await client.receive()
    finally:
        client.close()


async def test_refusals_are_those_that_the_sdk_reads(sdk: Sdk, service: FakeMns) -> None:
    """No such queue, no permission, a clock that is off, too many calls."""
    with pytest.raises(MNSServerException, match="QueueNotExist"):
        await sdk.do(sdk.account.get_queue("none").get_attributes)
    service.denied = {"BatchReceiveMessage"}
    with pytest.raises(MNSServerException, match="AccessDenied"):
        await sdk.receive()
    service.order("QpsLimitExceeded", status=429)
    with pytest.raises(MNSServerException, match="QpsLimitExceeded"):
        await sdk.receive()
    service.ahead = 3600
    with pytest.raises(MNSServerException, match="TimeExpired"):
        await sdk.receive()
