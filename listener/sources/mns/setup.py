"""What to order of the vendor so that events come: a queue, a rule, a policy. From the settings alone; pure."""

from __future__ import annotations

import json
import shlex
from typing import Final

from listener.sources.mns.settings import MnsSettings

__all__ = ["EVENT_TYPES", "instructions", "policy", "rules_command"]

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
"""Not ``ObjectCreated:*``: that fires for each part of a multipart upload too."""
ACTIONS: Final = ("mns:BatchReceiveMessage", "mns:BatchDeleteMessage", "mns:ChangeMessageVisibility")
"""For reading; each stands on the vendor's page of the call of that name."""


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


def instructions(settings: MnsSettings) -> str:
    """Return everything to paste, a block each."""
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
# The queue: in a shell with the vendor's CLI (aliyun), in the region of the buckets
{make_queue}

# The rule that fills it: in the same shell; it takes about ten minutes to work. A region has ten rules, so name
# all buckets here. Objects removed by lifecycle rules may send nothing: compare the bucket with the index now and then.
{make_rule}

# The policy of the access key: console of RAM, Policies, Create Policy, JSON
{policy(settings)}

# Afterwards: which rules fill the queue
{rules_command(settings)}
"""


def _command(action: str, settings: MnsSettings, **parameters: str) -> str:
    words = ["aliyun", "mns-open", action, "--region", settings.address.region]
    for name, value in parameters.items():
        words += [f"--{name}", value]
    return " ".join(shlex.quote(word) for word in words)
