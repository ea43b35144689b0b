"""Commands to paste: they create the queue, the event rule and the policy. Pure."""

from __future__ import annotations

import json
import shlex
from typing import Final

from listener.sources.mns.settings import MnsSettings

__all__ = ["EVENT_TYPES", "policy", "rules_command", "setup_text"]

EVENT_TYPES: Final = (
    "ObjectCreated:PutObject",
    "ObjectCreated:PostObject",
    "ObjectCreated:CopyObject",
    "ObjectCreated:AppendObject",
    "ObjectCreated:CompleteMultipartUpload",
    "ObjectCreated:PutSymlink",
    "ObjectModified:UpdateObjectMeta",
    "ObjectRemoved:DeleteObject",
    "ObjectRemoved:DeleteObjects",
)
"""Not ``ObjectCreated:*``, which includes each part of a multipart upload."""
ACTIONS: Final = ("mns:BatchReceiveMessage", "mns:BatchDeleteMessage", "mns:ChangeMessageVisibility")
"""Needed to read the queue; from the vendor's page of each call."""


def policy(settings: MnsSettings) -> str:
    """Return the RAM policy of least privilege, as JSON."""
    queue = settings.address.resource
    statements = [
        {"Effect": "Allow", "Action": [*ACTIONS], "Resource": [f"{queue}/messages"]},
        {"Effect": "Allow", "Action": ["mns:GetQueueAttributes"], "Resource": [queue]},
    ]
    return json.dumps({"Version": "1", "Statement": statements}, indent=2)


def rules_command(settings: MnsSettings) -> str:
    """Return the command that lists the rules which fill the queue."""
    where = json.dumps({"EndpointType": "queue", "EndpointValue": settings.queue})
    return _command("ListEventRules", settings, ProductName="oss", Subscription=where)


def setup_text(settings: MnsSettings) -> str:
    """Return all commands and the policy."""
    buckets = settings.buckets or ("<BUCKET>",)
    rules = [[{"MatchState": True, "Prefix": f"{bucket}/"}] for bucket in buckets]
    make_queue = _command(
        "CreateQueue",
        settings,
        QueueName=settings.queue,
        VisibilityTimeout="30",
        MessageRetentionPeriod="604800",
        MaximumMessageSize="65536",
    )
    make_rule = _command(
        "CreateEventRule",
        settings,
        ProductName="oss",
        RuleName=f"{settings.queue}-oss",
        EventTypes=json.dumps(EVENT_TYPES),
        MatchRules=json.dumps(rules),
        Endpoint=json.dumps({"EndpointType": "queue", "EndpointValue": settings.queue}),
    )
    return f"""\
# Create the queue: in a shell with the vendor's CLI (aliyun), in the region of the buckets
{make_queue}

# Create the rule that fills it: in the same shell; it takes effect after about ten minutes. A region allows ten rules,
# so name all buckets here. Removals by lifecycle rules may send no event: schedule a reconcile with a listing.
{make_rule}

# The policy of the access key: console of RAM, Policies, Create Policy, JSON
{policy(settings)}

# Check which rules fill the queue
{rules_command(settings)}
"""


def _command(action: str, settings: MnsSettings, **parameters: str) -> str:
    command = ["aliyun", "mns-open", action, "--region", settings.address.region]
    for name, value in parameters.items():
        command += [f"--{name}", value]
    return " ".join(shlex.quote(word) for word in command)
