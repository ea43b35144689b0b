"""
Checks of a queue and of the buckets that fill it; they change nothing and receive no message. Blocking.

Queue policies and notification rules are interpreted as far as checks need it.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from botocore.exceptions import BotoCoreError, ClientError

from listener.contracts import Check, CheckState
from listener.sources.queue.transport import QueueError
from listener.sources.sqs.boto import make_client, translated
from listener.sources.sqs.settings import SqsSettings
from listener.sources.sqs.setup import WANTED
from listener.text import header_time, whole_number

__all__ = ["Rule", "missing_events", "rules_for", "run_checks", "senders", "sends_from"]

OK, WARNING, FAILED = CheckState.OK, CheckState.WARNING, CheckState.FAILED
SMALLEST_MESSAGE_BYTES: Final = 64 * 1024
"""Size of the largest S3 notification; S3 drops what does not fit without an error."""
SHORT_RETENTION_SECONDS: Final = 24 * 3600
FEW_RECEIVES: Final = 5
SKEW_WARNING_SECONDS: Final = 60.0
SKEW_FAILED_SECONDS: Final = 300.0
"""Signatures are valid for five minutes."""
_DETOURS: Final = {"TopicConfigurations": "SNS", "EventBridgeConfiguration": "EventBridge"}
_BOGUS: Final = "cdn-listener-check"
_NO_HANDLE: Final = frozenset({"ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight"})

_SINGLES: Final = {"s3:ObjectCreated:": 4, "s3:ObjectRemoved:": 2, "s3:LifecycleExpiration:": 2}
"""Number of single event types in each family, such as Put, Post, Copy and CompleteMultipartUpload."""


def run_checks(name: str, settings: SqsSettings, now: Callable[[], float]) -> Iterator[Check]:
    """Yield results; a failure of the queue, the key or the network is the last one."""
    key, address = f"sources.{name}", settings.address
    setup = f"cdn-listener check --print-setup {name}"
    if address.is_fifo:
        yield Check(
            f"{key}.queue_url", WARNING, "is a FIFO queue: S3 cannot send to it",
            "use a standard queue: order is not needed",
        )  # fmt: skip
    try:
        with closing(make_client(settings)) as client:
            yield from _queue(key, client, settings, setup, now)
    except (BotoCoreError, ClientError, QueueError, OSError) as error:
        failure = error if isinstance(error, QueueError) else translated(error, settings.address.endpoint)
        yield Check(f"{key}.queue_url", FAILED, str(failure), failure.hint or f"compare with `{setup}`")


def _queue(key: str, client: Any, settings: SqsSettings, setup: str, now: Callable[[], float]) -> Iterator[Check]:
    yield from _permissions(key, client, settings, setup)
    try:
        reply = client.get_queue_attributes(QueueUrl=settings.queue_url, AttributeNames=["All"])
    except ClientError as error:
        if not translated(error).code.startswith("AccessDenied"):
            raise
        hint = "allow sqs:GetQueueAttributes to check its settings and read its length"
        yield Check(f"{key}.queue_url", WARNING, "its settings cannot be read: AccessDenied", hint)
        return
    address, attributes = settings.address, reply.get("Attributes", {})
    waiting = attributes.get("ApproximateNumberOfMessages", "?")
    yield Check(f"{key}.queue_url", OK, f"{address.name} in {address.region} is reachable; {waiting} messages wait")
    yield from _skew(key, reply, now())
    yield from _attributes(key, attributes)
    yield from _redrive(key, attributes)
    arn = attributes.get("QueueArn", address.arn)
    yield from _policy(key, attributes.get("Policy", ""), arn, settings, setup)
    if not settings.buckets:
        yield Check(f"{key}.buckets", OK, "none configured, so notification rules were not checked")
        return
    with closing(make_client(settings, "s3")) as s3:
        for bucket in settings.buckets:
            yield from _notification(f"{key}.buckets", s3, bucket, arn, setup)


def _skew(key: str, reply: Mapping[str, Any], now: float) -> Iterator[Check]:
    theirs = header_time(reply.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", ""))
    if theirs is None:
        return
    skew = now - theirs
    state = FAILED if abs(skew) > SKEW_FAILED_SECONDS else WARNING if abs(skew) > SKEW_WARNING_SECONDS else OK
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    yield Check(key, state, f"this clock ({at}) differs from the service's by {skew:.0f} s", "run an NTP client")


def _permissions(key: str, client: Any, settings: SqsSettings, setup: str) -> Iterator[Check]:
    """Call with a handle that no message has: rejected for the handle, or for the missing permission."""
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
            failure = translated(error)
            if failure.code.startswith("AccessDenied"):
                yield Check(key, FAILED, f"{permission}: {failure}", f"compare the key's policy with `{setup}`")
                continue
            if failure.code not in _NO_HANDLE:
                raise
        yield Check(key, OK, f"{permission} is allowed")


def _attributes(key: str, attributes: Mapping[str, str]) -> Iterator[Check]:
    size, retention, delay = (
        whole_number(attributes.get(name, ""))
        for name in ("MaximumMessageSize", "MessageRetentionPeriod", "DelaySeconds")
    )
    if size is not None:
        small = size < SMALLEST_MESSAGE_BYTES
        hint = f"set MaximumMessageSize to {SMALLEST_MESSAGE_BYTES} or more: S3 drops larger events without an error"
        yield Check(key, FAILED if small else OK, f"messages of up to {size} bytes fit", hint)
    if retention is not None:
        short = retention < SHORT_RETENTION_SECONDS
        hint = "raise MessageRetentionPeriod, up to 1209600 (14 days): messages not read within it are lost"
        yield Check(key, WARNING if short else OK, f"messages are kept for {retention / 3600:g} hours", hint)
    if delay:
        yield Check(key, WARNING, f"each message is delayed by {delay} s", "set DelaySeconds to 0")
    if attributes.get("KmsMasterKeyId") == "alias/aws/sqs":
        hint = "use SSE-SQS, or a key of your own whose policy lets s3.amazonaws.com use it"
        yield Check(key, FAILED, "is encrypted with the key alias/aws/sqs, which S3 cannot use", hint)
    elif attributes.get("KmsMasterKeyId"):
        hint = "its policy must allow s3.amazonaws.com, and this key, kms:GenerateDataKey and kms:Decrypt"
        yield Check(key, WARNING, f"is encrypted with the key {attributes['KmsMasterKeyId']}", hint)


def _redrive(key: str, attributes: Mapping[str, str]) -> Iterator[Check]:
    try:
        redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
        most = int(redrive.get("maxReceiveCount", 0))
    except (ValueError, TypeError, AttributeError):
        redrive, most = {}, 0
    if not redrive.get("deadLetterTargetArn"):
        hint = "a RedrivePolicy with maxReceiveCount 10 removes a message that crashes its reader"
        yield Check(key, WARNING, "has no dead-letter queue; unreadable messages are kept as dead letters here", hint)
    else:
        few = most < FEW_RECEIVES
        hint = f"set maxReceiveCount to {FEW_RECEIVES} or more: each restart counts as a receive"
        queue = redrive["deadLetterTargetArn"].rpartition(":")[2]
        yield Check(key, WARNING if few else OK, f"after {most} receives a message goes to {queue}", hint)


def _policy(key: str, policy: str, arn: str, settings: SqsSettings, setup: str) -> Iterator[Check]:
    may_send = senders(policy, arn)
    if not may_send:
        hint = f"S3, SNS and EventBridge need a policy: `{setup}` prints it"
        yield Check(key, WARNING, "queue policy allows no service", hint)
        return
    yield Check(key, OK, f"queue policy allows: {', '.join(sorted(may_send))}")
    for bucket in settings.buckets:
        source = f"arn:{settings.address.partition}:s3:::{bucket}"
        may, unbounded = sends_from(policy, arn, source)
        if not may and may_send <= {"s3.amazonaws.com"}:
            yield Check(key, FAILED, f"queue policy does not allow bucket {bucket}", f"`{setup}` prints the policy")
        elif unbounded:
            hint = f"require aws:SourceArn and aws:SourceAccount, as `{setup}` prints"
            yield Check(key, WARNING, "queue policy allows buckets of any account", hint)


def _notification(key: str, s3: Any, bucket: str, arn: str, setup: str) -> Iterator[Check]:
    try:
        configuration = s3.get_bucket_notification_configuration(Bucket=bucket)
    except (BotoCoreError, ClientError, OSError) as error:
        code = getattr(error, "response", {}).get("Error", {}).get("Code", type(error).__name__)
        state = FAILED if code == "NoSuchBucket" else WARNING
        hint = "allow s3:GetBucketNotification, which only `check` uses"
        yield Check(key, state, f"the rules of {bucket} cannot be read: {code}", hint)
        return
    rules = rules_for(configuration, arn)
    detours = [service for name, service in _DETOURS.items() if name in configuration]
    if rules:
        yield from _rules(key, bucket, rules, setup)
    elif detours:
        hint = "check there whether it forwards all of them to this queue"
        yield Check(key, WARNING, f"{bucket} sends its events to {' and '.join(detours)}", hint)
    else:
        yield Check(key, FAILED, f"{bucket} does not send to this queue", f"`{setup}` prints the notification")


def _rules(key: str, bucket: str, rules: Sequence[Rule], setup: str) -> Iterator[Check]:
    for missing in missing_events(rules):
        yield Check(key, WARNING, f"{bucket} does not send {missing}: {WANTED[missing]}", f"see `{setup}`")
    for rule in rules:
        if rule.filters:
            hint = "events for other keys are not sent"
            yield Check(key, WARNING, f"{bucket} sends only keys with {' and '.join(rule.filters)}", hint)
    yield Check(key, OK, f"{bucket} sends {', '.join(event for rule in rules for event in rule.events)}")


class Rule(NamedTuple):
    """One notification rule of a bucket that sends to our queue."""

    id: str
    events: tuple[str, ...]
    filters: tuple[str, ...]
    """``prefix img/`` and the like; none: every key."""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in _listed(value) if isinstance(one, dict)]


def _allowing(policy: str, queue_arn: str) -> Iterator[Mapping[str, Any]]:
    """Yield the statements that allow sending to this queue."""
    try:
        document = json.loads(policy) if policy else {}
    except ValueError:
        return
    statements = _listed(document.get("Statement")) if isinstance(document, dict) else []
    for statement in statements:
        if isinstance(statement, dict) and statement.get("Effect") == "Allow":
            actions = [str(action).lower() for action in _listed(statement.get("Action"))]
            resources = [str(resource) for resource in _listed(statement.get("Resource"))] or [queue_arn]
            sends = any(fnmatch.fnmatchcase("sqs:sendmessage", action) for action in actions)
            if sends and any(fnmatch.fnmatchcase(queue_arn, resource) for resource in resources):
                yield statement


def _services(statement: Mapping[str, Any]) -> set[str]:
    principal = statement.get("Principal")
    if principal == "*":
        return {"*"}
    named = principal if isinstance(principal, dict) else {}
    everybody = {"*"} if "*" in _listed(named.get("AWS")) else set()
    return everybody | {str(service) for service in _listed(named.get("Service"))}


def _sources(statement: Mapping[str, Any]) -> list[str]:
    """Return the required patterns of ``aws:SourceArn``; empty where the statement requires none."""
    condition = statement.get("Condition")
    if not isinstance(condition, dict):
        return []
    return [
        str(pattern)
        for operator, names in condition.items()
        if operator.lower().startswith(("arn", "stringlike", "stringequals")) and isinstance(names, dict)
        for name, patterns in names.items()
        if name.lower() == "aws:sourcearn"
        for pattern in _listed(patterns)
    ]


def senders(policy: str, queue_arn: str) -> set[str]:
    """Return which services may send to the queue: ``s3.amazonaws.com``, …, or ``*``."""
    return {service for statement in _allowing(policy, queue_arn) for service in _services(statement)}


def sends_from(policy: str, queue_arn: str, source_arn: str) -> tuple[bool, bool]:
    """Return whether S3 may send for this bucket, and whether it may for buckets of any account."""
    may, unbounded = False, False
    for statement in _allowing(policy, queue_arn):
        if _services(statement) & {"*", "s3.amazonaws.com"}:
            required = _sources(statement)
            may = may or not required or any(fnmatch.fnmatchcase(source_arn, pattern) for pattern in required)
            unbounded = unbounded or (not required and not statement.get("Condition"))
    return may, unbounded


def rules_for(notification: Mapping[str, Any], queue_arn: str) -> list[Rule]:
    """Return the rules of a bucket that send to this queue directly."""
    return [
        Rule(str(rule.get("Id", "")), tuple(map(str, _listed(rule.get("Events")))), tuple(_filters(rule)))
        for rule in _mappings(notification.get("QueueConfigurations"))
        if rule.get("QueueArn") == queue_arn
    ]


def _filters(rule: Mapping[str, Any]) -> Iterator[str]:
    for condition in _mappings(rule.get("Filter")):
        for key in _mappings(condition.get("Key")):
            for one in _mappings(key.get("FilterRules")):
                if one.get("Value"):
                    yield f"{str(one.get('Name', '')).lower()} {one['Value']}"


def missing_events(rules: Sequence[Rule]) -> list[str]:
    """Return which of :data:`WANTED` no rule sends, in that order."""
    sent = {event for rule in rules for event in rule.events}
    return [wanted for wanted in WANTED if not _covered(wanted, sent)]


def _covered(wanted: str, sent: set[str]) -> bool:
    family = wanted.removesuffix("*")
    singles = {event for event in sent if event.startswith(family)} - {wanted}
    return wanted in sent or len(singles) >= _SINGLES[family]
