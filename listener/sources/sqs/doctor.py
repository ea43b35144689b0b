"""What ``check`` asks of a queue and of the buckets behind it; nothing is changed, no message received. Blocking."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from listener.contracts import Check, CheckState
from listener.numbers import header_time, whole_number
from listener.sources.sqs.boto import make_client, translated
from listener.sources.sqs.policies import WANTED, Rule, missing_events, rules_for, senders, sends_from
from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.trouble import SqsTrouble

__all__ = ["examine"]

OK, WARNING, FAILED = CheckState.OK, CheckState.WARNING, CheckState.FAILED
SMALLEST_MESSAGE_BYTES: Final = 64 * 1024
"""S3 notifications may be so large; what does not fit the queue is lost without a word."""
SHORT_RETENTION_SECONDS: Final = 24 * 3600
FEW_RECEIVES: Final = 5
SKEW_WARNING_SECONDS: Final = 60.0
SKEW_FAILED_SECONDS: Final = 300.0
"""A signature counts for five minutes."""
_DETOURS: Final = {"TopicConfigurations": "SNS", "EventBridgeConfiguration": "EventBridge"}
_BOGUS: Final = "cdn-listener-check"
_NO_HANDLE: Final = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})


def examine(name: str, settings: SqsSettings, now: Callable[[], float]) -> Iterator[Check]:
    """Yield what is found; the first that fails for want of a queue, a key or a network ends it."""
    key, address = f"sources.{name}", settings.address
    setup = f"cdn-listener check --print-setup {name}"
    if address.is_fifo:
        yield Check(
            f"{key}.queue_url", WARNING, "is a FIFO queue: S3 sends to no such queue, and one group holds up itself",
            "use a standard queue: order is not needed",
        )  # fmt: skip
    try:
        with closing(make_client(settings)) as client:
            yield from _queue(key, client, settings, setup, now)
    except (BotoCoreError, ClientError, SqsTrouble, OSError) as error:
        trouble = error if isinstance(error, SqsTrouble) else translated(error, settings.address.endpoint)
        yield Check(f"{key}.queue_url", FAILED, str(trouble), trouble.hint or f"compare with `{setup}`")


def _queue(key: str, client: Any, settings: SqsSettings, setup: str, now: Callable[[], float]) -> Iterator[Check]:
    yield from _permissions(key, client, settings, setup)
    try:
        answer = client.get_queue_attributes(QueueUrl=settings.queue_url, AttributeNames=["All"])
    except ClientError as error:
        if not translated(error).code.startswith("AccessDenied"):
            raise
        hint = "the permission sqs:GetQueueAttributes would let its settings and its depth be seen"
        yield Check(f"{key}.queue_url", WARNING, "cannot be looked at: AccessDenied", hint)
        return
    address, told = settings.address, answer.get("Attributes", {})
    waiting = told.get("ApproximateNumberOfMessages", "?")
    yield Check(f"{key}.queue_url", OK, f"{address.name} in {address.region} answers; {waiting} messages wait")
    yield from _skew(key, answer, now())
    yield from _attributes(key, told)
    yield from _redrive(key, told)
    arn = told.get("QueueArn", address.arn)
    yield from _policy(key, told.get("Policy", ""), arn, settings, setup)
    if not settings.buckets:
        yield Check(f"{key}.buckets", OK, "names none, so that no notification rules were looked at")
        return
    with closing(make_client(settings, "s3")) as s3:
        for bucket in settings.buckets:
            yield from _notification(f"{key}.buckets", s3, bucket, arn, setup)


def _skew(key: str, answer: Mapping[str, Any], now: float) -> Iterator[Check]:
    theirs = header_time(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))
    if theirs is None:
        return
    skew = now - theirs
    state = FAILED if abs(skew) > SKEW_FAILED_SECONDS else WARNING if abs(skew) > SKEW_WARNING_SECONDS else OK
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    yield Check(key, state, f"this clock ({at}) differs from the service's by {skew:.0f} s", "run an NTP client")


def _permissions(key: str, client: Any, settings: SqsSettings, setup: str) -> Iterator[Check]:
    """Try with a handle that no message has: refused for the handle, or for want of the permission."""
    calls: dict[str, Callable[[], Any]] = {
        "sqs:DeleteMessage": lambda: client.delete_message(QueueUrl=settings.queue_url, ReceiptHandle=_BOGUS),
        "sqs:ChangeMessageVisibility": lambda: client.change_message_visibility(
            QueueUrl=settings.queue_url, ReceiptHandle=_BOGUS, VisibilityTimeout=0
        ),
    }
    for permission, call in calls.items():
        try:
            call()
        except ClientError as error:
            trouble = translated(error)
            if trouble.code.startswith("AccessDenied"):
                yield Check(key, FAILED, f"{permission}: {trouble}", f"compare the key's policy with `{setup}`")
                continue
            if trouble.code not in _NO_HANDLE:
                raise
        yield Check(key, OK, f"{permission} is allowed")


def _number(told: Mapping[str, str], name: str) -> int | None:
    value = told.get(name, "")
    return whole_number(value)


def _attributes(key: str, told: Mapping[str, str]) -> Iterator[Check]:
    size, retention, delay = (
        _number(told, name) for name in ("MaximumMessageSize", "MessageRetentionPeriod", "DelaySeconds")
    )
    if size is not None:
        small = size < SMALLEST_MESSAGE_BYTES
        hint = f"set MaximumMessageSize to {SMALLEST_MESSAGE_BYTES} or more: S3 says nothing when an event does not fit"
        yield Check(key, FAILED if small else OK, f"messages may have {size} bytes", hint)
    if retention is not None:
        short = retention < SHORT_RETENTION_SECONDS
        hint = "raise MessageRetentionPeriod, up to 1209600 (14 days): what is not read by then is lost"
        yield Check(key, WARNING if short else OK, f"messages are kept for {retention / 3600:g} hours", hint)
    if delay:
        yield Check(key, WARNING, f"each message is delayed by {delay} s", "set DelaySeconds to 0")
    if told.get("KmsMasterKeyId") == "alias/aws/sqs":
        hint = "use SSE-SQS, or a key of your own whose policy lets s3.amazonaws.com use it"
        yield Check(key, FAILED, "is encrypted with the key alias/aws/sqs, with which S3 cannot send", hint)
    elif told.get("KmsMasterKeyId"):
        hint = "its policy must allow s3.amazonaws.com, and this key, kms:GenerateDataKey and kms:Decrypt"
        yield Check(key, WARNING, f"is encrypted with the key {told['KmsMasterKeyId']}", hint)


def _redrive(key: str, told: Mapping[str, str]) -> Iterator[Check]:
    try:
        redrive = json.loads(told.get("RedrivePolicy") or "{}")
        most = int(redrive.get("maxReceiveCount", 0))
    except (ValueError, TypeError, AttributeError):
        redrive, most = {}, 0
    if not redrive.get("deadLetterTargetArn"):
        hint = "a RedrivePolicy with maxReceiveCount 10 lets go of a message that its reader dies of"
        yield Check(key, WARNING, "has no dead-letter queue; what cannot be read is set aside here all the same", hint)
    else:
        few = most < FEW_RECEIVES
        hint = f"set maxReceiveCount to {FEW_RECEIVES} or more: restarts receive again, and what was moved is not heard"
        queue = redrive["deadLetterTargetArn"].rpartition(":")[2]
        yield Check(key, WARNING if few else OK, f"after {most} receives a message goes to {queue}", hint)


def _policy(key: str, policy: str, arn: str, settings: SqsSettings, setup: str) -> Iterator[Check]:
    may_send = senders(policy, arn)
    if not may_send:
        hint = f"S3, SNS and EventBridge need one: `{setup}` prints it"
        yield Check(key, WARNING, "its policy lets no service send", hint)
        return
    yield Check(key, OK, f"may be sent to by {', '.join(sorted(may_send))}")
    for bucket in settings.buckets:
        source = f"arn:{settings.address.partition}:s3:::{bucket}"
        may, unbounded = sends_from(policy, arn, source)
        if not may and may_send <= {"s3.amazonaws.com"}:
            yield Check(key, FAILED, f"its policy does not let bucket {bucket} send", f"`{setup}` prints the policy")
        elif unbounded:
            hint = "demand aws:SourceArn and aws:SourceAccount, as `" + setup + "` does"
            yield Check(key, WARNING, "its policy lets buckets of any account send", hint)


def _notification(key: str, s3: Any, bucket: str, arn: str, setup: str) -> Iterator[Check]:
    try:
        told = s3.get_bucket_notification_configuration(Bucket=bucket)
    except (BotoCoreError, ClientError, OSError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        state = FAILED if code == "NoSuchBucket" else WARNING
        hint = "the permission s3:GetBucketNotification, which check alone uses, would let it be looked at"
        yield Check(key, state, f"the rules of {bucket} cannot be looked at: {code}", hint)
        return
    rules = rules_for(told, arn)
    detours = [words for name, words in _DETOURS.items() if name in told]
    if rules:
        yield from _rules(key, bucket, rules, setup)
    elif detours:
        hint = "whether they come on to this queue, and which of them, is decided there"
        yield Check(key, WARNING, f"{bucket} sends its events to {' and '.join(detours)}", hint)
    else:
        yield Check(key, FAILED, f"{bucket} sends nothing to this queue", f"`{setup}` prints the notification")


def _rules(key: str, bucket: str, rules: Sequence[Rule], setup: str) -> Iterator[Check]:
    for missing in missing_events(rules):
        yield Check(key, WARNING, f"{bucket} does not send {missing}: {WANTED[missing]}", f"see `{setup}`")
    for rule in rules:
        if rule.filters:
            hint = "keys outside of it are never refreshed by events"
            yield Check(key, WARNING, f"{bucket} sends only keys with {' and '.join(rule.filters)}", hint)
    yield Check(key, OK, f"{bucket} sends {', '.join(event for rule in rules for event in rule.events)}")
