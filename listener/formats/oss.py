"""
Alibaba Cloud OSS: events by MNS (SMQ), by Function Compute, and by EventBridge as CloudEvents.

Keys stand as they are, tags in upper case; there is no order token. Metadata of an event is next to
``oss`` in what is sent, and inside it in one sample of the documentation; only ``oss`` itself is needed.
Sources: Alibaba Cloud "Event notification" (OSS), "Formats of event for different triggers" (Function
Compute), "OSS events" (EventBridge).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from listener.change import Fingerprint
from listener.formats.reading import Effect, Tally, epoch, etag, mapping, meaning, number, raw_key, required, text

__all__ = ["is_cloud_event", "is_events", "read_cloud_event", "read_events"]

_NAMES: Final = {
    "ObjectCreated:*": Effect.CONTENT,
    "ObjectCreated:InitiateMultipartUpload": Effect.NOTHING,
    "ObjectCreated:UploadPart": Effect.NOTHING,
    "ObjectCreated:UploadPartCopy": Effect.NOTHING,
    "ObjectModified:*": Effect.METADATA,
    "ObjectModified:ChangeStorageClass": Effect.NOTHING,
    "ObjectRemoved:*": Effect.REMOVED,
    "ObjectRemoved:AbortMultipartUpload": Effect.NOTHING,
    "ObjectReplication:*": Effect.CONTENT,
    "ObjectReplication:ObjectRemoved": Effect.REMOVED,
    "ObjectDownloaded:*": Effect.NOTHING,
    "ObjectRestore:*": Effect.NOTHING,
}


def is_events(value: Mapping[str, Any]) -> bool:
    """Return whether this is what OSS sends to MNS and Function Compute."""
    events = value.get("events")
    first = events[0] if isinstance(events, list) and events else None
    return isinstance(first, dict) and "eventName" in first


def read_events(value: Mapping[str, Any], tally: Tally) -> None:
    """Read a list of events."""
    tally.each(value["events"], read_event, "events")


def is_cloud_event(value: Mapping[str, Any]) -> bool:
    """Return whether this is an event of OSS as EventBridge wraps it; its source is written in two ways."""
    return text(value, "type").startswith("oss:") or text(value, "source") in {"acs.oss", "acs:oss"}


def read_cloud_event(value: Mapping[str, Any], tally: Tally) -> None:
    """Read a CloudEvent; its name stands in its data, and in its type."""
    data = mapping(value, "data")
    read_event(data if "eventName" in data else {**data, "eventName": text(value, "type")}, tally)


def read_event(event: Mapping[str, Any], tally: Tally) -> None:
    """Read one event."""
    name = required(event, "eventName", "event").removeprefix("oss:")
    effect = meaning(_NAMES, name)
    if effect is None or effect is Effect.NOTHING:
        tally.unknown(name) if effect is None else tally.ignore(name)
        return
    oss = mapping(event, "oss")
    item = mapping(oss, "object")
    tally.add(
        effect,
        required(mapping(oss, "bucket"), "name", "bucket"),
        raw_key(required(item, "key", "key")),
        Fingerprint(number(item, "size"), etag=etag(item, "eTag")),
        event_time=epoch(event.get("eventTime")),
        version=text(item, "versionId"),
    )
