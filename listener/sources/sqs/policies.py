"""Interprets queue policies and bucket notification rules; best effort, pure."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

__all__ = ["WANTED", "Rule", "missing_events", "rules_for", "senders", "sends_from"]

WANTED: Final = {
    "s3:ObjectCreated:*": "new and overwritten objects stay stale",
    "s3:ObjectRemoved:*": "deleted objects stay in the cache",
    "s3:LifecycleExpiration:*": "objects that a lifecycle rule removes stay in the cache, without ObjectRemoved",
}
"""Event types that are needed, and what goes wrong without them."""


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


_SINGLES: Final = {"s3:ObjectCreated:": 4, "s3:ObjectRemoved:": 2, "s3:LifecycleExpiration:": 2}
"""Number of single event types in each family, such as Put, Post, Copy and CompleteMultipartUpload."""
