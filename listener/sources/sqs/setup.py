"""Text to paste at AWS: policies and rules that bring a bucket's events to the queue; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from listener.sources.sqs.settings import Address

__all__ = ["WANTED", "setup_text"]

WANTED: Final = {
    "s3:ObjectCreated:*": "new and overwritten objects stay stale",
    "s3:ObjectRemoved:*": "deleted objects stay in the cache",
    "s3:LifecycleExpiration:*": "objects that a lifecycle rule removes stay in the cache, without ObjectRemoved",
}
"""Event types that are needed, and what goes wrong without them."""


def setup_text(address: Address, buckets: Sequence[str]) -> str:
    """Return policies, rules and commands for this queue and these buckets; unknown values appear as ``<…>``."""
    named = list(buckets) or ["<BUCKET>"]
    parts = [
        _block(
            "Queue policy (queue-policy.json): allows S3 to send, for these buckets only.",
            _queue_policy(address, named),
        ),
        _block("IAM policy of the key or role that cdn-listener runs with.", _iam_policy(address, named)),
        *(
            _block(
                f"Notification of bucket {bucket} (notification-{bucket}.json). It REPLACES all rules that the bucket "
                "has: merge what `aws s3api get-bucket-notification-configuration` shows.",
                _notification(address),
            )
            for bucket in named
        ),
        _commands(address, named),
    ]
    return "\n\n".join(parts)


def _block(about: str, value: Any) -> str:
    return f"# {about}\n{json.dumps(value, indent=2)}"


def _bucket_arn(address: Address, bucket: str) -> str:
    return f"arn:{address.partition}:s3:::{bucket}"


def _queue_policy(address: Address, buckets: Sequence[str]) -> dict[str, Any]:
    condition: dict[str, Any] = {"ArnEquals": {"aws:SourceArn": [_bucket_arn(address, bucket) for bucket in buckets]}}
    condition["StringEquals"] = {"aws:SourceAccount": address.account or "<ACCOUNT>"}
    statement = {
        "Sid": "BucketsSendEvents",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": address.arn,
        "Condition": condition,
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def _iam_policy(address: Address, buckets: Sequence[str]) -> dict[str, Any]:
    actions = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"]
    check = {
        "Sid": "OnlyForCheck",
        "Effect": "Allow",
        "Action": "s3:GetBucketNotification",
        "Resource": [_bucket_arn(address, bucket) for bucket in buckets],
    }
    read = {"Sid": "ReadTheQueue", "Effect": "Allow", "Action": actions, "Resource": address.arn}
    return {"Version": "2012-10-17", "Statement": [read, check]}


def _notification(address: Address) -> dict[str, Any]:
    return {"QueueConfigurations": [{"Id": "cdn-listener", "QueueArn": address.arn, "Events": list(WANTED)}]}


def _commands(address: Address, buckets: Sequence[str]) -> str:
    queue = f"--region {address.region} --queue-url {address.url}"
    lines = [
        "# Commands. The first one embeds the policy as a JSON string.",
        "jq -n --arg policy \"$(cat queue-policy.json)\" '{Policy: $policy}' > attributes.json",
        f"aws sqs set-queue-attributes {queue} --attributes file://attributes.json",
    ]
    lines += [
        f"aws s3api put-bucket-notification-configuration --bucket {bucket} "
        f"--notification-configuration file://notification-{bucket}.json"
        for bucket in buckets
    ]
    return "\n".join(lines)
