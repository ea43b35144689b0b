"""
S3's events as Amazon EventBridge carries them.

Names are words, fields hyphenated, keys stand as they are, and the time has whole seconds. A rule may hand
on the ``detail`` alone (InputPath); that is read too, by the reason that it gives. Sources: AWS "EventBridge
event message structure" and "Using EventBridge" (S3 user guide).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from listener.change import Fingerprint
from listener.formats.reading import Effect, Tally, epoch, etag, mapping, number, raw_key, required, text
from listener.formats.s3 import sequencer

__all__ = ["is_detail", "is_event", "read_detail", "read_event"]

_TYPES: Final = {
    "Object Created": Effect.CONTENT,
    "Object Deleted": Effect.REMOVED,
    "Object ACL Updated": Effect.METADATA,
    "Object Restore Initiated": Effect.NOTHING,
    "Object Restore Completed": Effect.NOTHING,
    "Object Restore Expired": Effect.NOTHING,
    "Object Tags Added": Effect.NOTHING,
    "Object Tags Deleted": Effect.NOTHING,
    "Object Storage Class Changed": Effect.NOTHING,
    "Object Access Tier Changed": Effect.NOTHING,
}
_REASONS: Final = {
    "PutObject": Effect.CONTENT,
    "POST Object": Effect.CONTENT,
    "CopyObject": Effect.CONTENT,
    "CompleteMultipartUpload": Effect.CONTENT,
    "DeleteObject": Effect.REMOVED,
    "Lifecycle Expiration": Effect.REMOVED,
}
"""Where the type was cut off; the reason of anything else is absent or means nothing."""
_MARKER = "Delete Marker Created"


def is_event(value: Mapping[str, Any]) -> bool:
    """Return whether this is an event of EventBridge."""
    return "detail-type" in value and isinstance(value.get("detail"), dict)


def read_event(value: Mapping[str, Any], tally: Tally) -> None:
    """Read one event; what is not about an object is ignored, since a bus carries much."""
    item = text(value, "detail-type")
    effect = _TYPES.get(item)
    if effect is None:
        tally.unknown(item)
    elif effect is Effect.NOTHING:
        tally.ignore(item)
    else:
        _read(effect, mapping(value, "detail"), tally, epoch(value.get("time")))


def is_detail(value: Mapping[str, Any]) -> bool:
    """Return whether this is the ``detail`` of an event, handed on alone."""
    return text(value, "reason") in _REASONS and "key" in mapping(value, "object")


def read_detail(value: Mapping[str, Any], tally: Tally) -> None:
    """Read a detail; without its event nobody says when it happened."""
    _read(_REASONS[text(value, "reason")], value, tally, None)


def _read(effect: Effect, detail: Mapping[str, Any], tally: Tally, time: float | None) -> None:
    item = mapping(detail, "object")
    if effect is Effect.REMOVED and text(detail, "deletion-type") == _MARKER:
        effect = Effect.GONE
    version = text(item, "version-id")
    tally.add(
        effect,
        required(mapping(detail, "bucket"), "name", "bucket"),
        raw_key(required(item, "key", "key")),
        Fingerprint(number(item, "size"), etag=etag(item, "etag") or etag(item, "eTag")),
        event_time=time,
        order=sequencer(text(item, "sequencer"), time),
        version="" if version == "null" else version,
    )
