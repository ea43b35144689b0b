"""From an object in a bucket to the edge: S3, SQS, SNS and EventBridge as moto plays them, boto3, and our pipeline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from listener.contracts import Check, CheckState
from listener.sources.sqs import SqsSource
from tests.sources.queue.backends import s3_event
from tests.sources.sqs.cloud import ACCOUNT, BUCKET, EVENTS, REGION, WAYS, Cloud, moto, served

pytestmark = pytest.mark.looptime(False)

POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "s3.amazonaws.com"},
            "Action": "sqs:SendMessage",
            "Resource": f"arn:aws:sqs:{REGION}:{ACCOUNT}:events",
            "Condition": {"ArnEquals": {"aws:SourceArn": f"arn:aws:s3:::{BUCKET}"}},
        }
    ],
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """One server for all tests here; each gets a fresh account of it."""
    with moto() as url:
        yield url


@pytest.fixture
def cloud(server: str, aws_keys: None) -> Iterator[Cloud]:
    """An empty cloud."""
    import urllib.request

    with urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")):
        pass
    made = Cloud(server)
    yield made
    made.close()


@pytest.mark.parametrize("way", WAYS)
async def test_objects_turn_fresh_or_gone_at_the_edge(tmp_path: Path, cloud: Cloud, way: str) -> None:
    """Put, overwritten, copied, uploaded in parts and deleted: the edge follows, whatever way the event came."""
    queue = cloud.make(way)
    key, copied, large = "new/a b+ü.html", "copied.html", "large.bin"

    def put(text: str) -> None:
        cloud.s3.put_object(Bucket=BUCKET, Key=key, Body=text.encode())

    def upload() -> None:
        upload = cloud.s3.create_multipart_upload(Bucket=BUCKET, Key=large)["UploadId"]
        part = cloud.s3.upload_part(Bucket=BUCKET, Key=large, UploadId=upload, PartNumber=1, Body=b"parts")
        done = {"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]}
        cloud.s3.complete_multipart_upload(Bucket=BUCKET, Key=large, UploadId=upload, MultipartUpload=done)

    async with served(tmp_path, cloud, queue) as site:
        for name in (key, copied, large):
            assert await site.get(name) == "404"
        await asyncio.to_thread(put, "first")
        await site.turns(key, "first")
        await asyncio.to_thread(put, "second")
        await site.turns(key, "second")
        await asyncio.to_thread(
            lambda: cloud.s3.copy_object(Bucket=BUCKET, Key=copied, CopySource={"Bucket": BUCKET, "Key": key})
        )
        await site.turns(copied, "second")
        await asyncio.to_thread(upload)
        await site.turns(large, "parts")
        await asyncio.to_thread(lambda: cloud.s3.delete_object(Bucket=BUCKET, Key=key))
        await site.turns(key, "404")
        assert (await site.store.counts()).dead_letters == 0


async def test_an_expired_object_is_gone_at_the_edge(tmp_path: Path, cloud: Cloud) -> None:
    """A lifecycle rule raises no ObjectRemoved: its own event does. moto expires nothing, so the event is ours."""
    queue = cloud.make("none")
    cloud.s3.put_object(Bucket=BUCKET, Key="old.html", Body=b"old")
    async with served(tmp_path, cloud, queue) as site:
        assert await site.get("old.html") == "old"
        body = s3_event("old.html", "LifecycleExpiration:Delete")
        await asyncio.to_thread(lambda: cloud.s3.delete_object(Bucket=BUCKET, Key="old.html"))
        await asyncio.to_thread(lambda: cloud.sqs.send_message(QueueUrl=queue, MessageBody=body))
        await site.turns("old.html", "404")


async def test_what_cannot_be_read_is_a_dead_letter_and_stops_nothing(tmp_path: Path, cloud: Cloud) -> None:
    """A stranger's message is kept with its body, deleted from the queue, and the next event is served."""
    queue = cloud.make("sqs")
    await asyncio.to_thread(lambda: cloud.sqs.send_message(QueueUrl=queue, MessageBody="<xml/>"))
    async with served(tmp_path, cloud, queue) as site:
        assert await site.get("a.html") == "404"
        await asyncio.to_thread(lambda: cloud.s3.put_object(Bucket=BUCKET, Key="a.html", Body=b"new"))
        await site.turns("a.html", "new")
        assert (await site.store.counts()).dead_letters == 1
    attributes = cloud.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    left = [int(attributes[f"ApproximateNumberOfMessages{which}"]) for which in ("", "NotVisible")]
    assert left == [0, 0]


async def examined(cloud: Cloud, queue: str, **table: object) -> dict[CheckState, list[str]]:
    """Return what ``check`` finds, by how bad it is."""
    settings = SqsSource.Settings(queue_url=queue, **{"buckets": BUCKET, "region": REGION, **table})
    found: dict[CheckState, list[str]] = {state: [] for state in CheckState}
    for check in await SqsSource("events", settings).check():  # type: ignore[arg-type]
        assert isinstance(check, Check)
        assert check.hint or check.state is CheckState.OK
        found[check.state].append(check.message)
    return found


async def test_check_finds_nothing_wrong_where_all_is_well(cloud: Cloud) -> None:
    """Queue, permissions, policy, dead letters and rules as `--print-setup` says: no failure, no warning."""
    queue = cloud.make("none")
    dead = cloud.sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = cloud.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 10})
    cloud.sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": redrive, "Policy": json.dumps(POLICY)})
    cloud.notify("sqs", Events=[*EVENTS, "s3:LifecycleExpiration:*"])
    before = cloud.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]
    found = await examined(cloud, queue)
    assert not found[CheckState.FAILED]
    assert not found[CheckState.WARNING]
    assert cloud.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"] == before


async def test_check_names_what_is_missing(cloud: Cloud) -> None:
    """Too small messages, short retention, a delay, few receives, a narrow filter, events that are not sent."""
    queue = cloud.make("none")
    dead = cloud.sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = cloud.sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    wrong = {
        "MaximumMessageSize": "2048", "MessageRetentionPeriod": "3600", "DelaySeconds": "5",
        "KmsMasterKeyId": "alias/aws/sqs",
        "Policy": json.dumps({**POLICY, "Statement": [{**POLICY["Statement"][0], "Condition": {}}]}),  # type: ignore[dict-item]
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1}),
    }  # fmt: skip
    cloud.sqs.set_queue_attributes(QueueUrl=queue, Attributes=wrong)
    narrow = {"Key": {"FilterRules": [{"Name": "prefix", "Value": "img/"}]}}
    cloud.notify("sqs", Events=["s3:ObjectCreated:*"], Filter=narrow)
    found = await examined(cloud, queue)
    failed, warned = " ".join(found[CheckState.FAILED]), " ".join(found[CheckState.WARNING])
    assert "2048 bytes" in failed
    assert "alias/aws/sqs" in failed
    for words in ("1 hours", "delayed by 5 s", "after 1 receives", "prefix img/", "any account", *EVENTS[1:]):
        assert words in warned
    assert "s3:LifecycleExpiration:*" in warned


async def test_check_finds_missing_rules_queues_and_policies(
    cloud: Cloud,
) -> None:
    """Each is a failure of its own, in words."""
    queue = cloud.make("none", policy=POLICY)
    found = await examined(cloud, queue)
    assert any("does not send to this queue" in text for text in found[CheckState.FAILED])
    found = await examined(cloud, queue, buckets=["other"])
    assert any("does not allow bucket other" in text for text in found[CheckState.FAILED])
    assert any("NoSuchBucket" in text for text in found[CheckState.FAILED])
    found = await examined(cloud, queue + "-not")
    assert any("NonExistentQueue" in text for text in found[CheckState.FAILED])
    assert not found[CheckState.OK]


async def test_check_names_sns_and_eventbridge(cloud: Cloud) -> None:
    """Rules that send to SNS or EventBridge are named: what is forwarded is decided there."""
    queue = cloud.make("sns", policy=POLICY)
    found = await examined(cloud, queue)
    assert any("sends its events to SNS" in text for text in found[CheckState.WARNING])


async def test_check_is_content_with_what_setup_prints(cloud: Cloud) -> None:
    """The printed policy and rules, pasted, leave check nothing to say of them."""
    queue = cloud.make("none")
    settings = SqsSource.Settings(queue_url=queue, region=REGION, buckets=BUCKET)
    text = SqsSource("events", settings).setup()  # type: ignore[arg-type]
    policy, _, notification = (json.loads("{" + block.partition("\n{")[2]) for block in text.split("\n\n")[:3])
    cloud.sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Policy": json.dumps(policy)})
    cloud.s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=notification)
    found = await examined(cloud, queue)
    assert not found[CheckState.FAILED]
    assert found[CheckState.WARNING] == ["has no dead-letter queue; unreadable messages are kept as dead letters here"]
    assert "testsecret" not in text
