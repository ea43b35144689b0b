"""
Cloudflare R2: flat events by a queue. Keys stand as they are; there is no order token.

Source: Cloudflare "Event notifications" (R2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from listener.change import Fingerprint
from listener.formats.reading import Effect, Tally, epoch, etag, mapping, number, raw_key, required, text

__all__ = ["is_event", "read_event"]

_ACTIONS: Final = {
    "PutObject": Effect.CONTENT,
    "CopyObject": Effect.CONTENT,
    "CompleteMultipartUpload": Effect.CONTENT,
    "DeleteObject": Effect.GONE,
    "LifecycleDeletion": Effect.GONE,
}


def is_event(value: Mapping[str, Any]) -> bool:
    """Return whether this is an event of R2."""
    return "action" in value and isinstance(value.get("bucket"), str) and isinstance(value.get("object"), dict)


def read_event(value: Mapping[str, Any], tally: Tally) -> None:
    """Read one event."""
    action = required(value, "action", "event")
    effect = _ACTIONS.get(action)
    if effect is None:
        tally.unknown(action)
        return
    item = mapping(value, "object")
    tally.add(
        effect,
        text(value, "bucket") or required(value, "bucket", "bucket"),
        raw_key(required(item, "key", "key")),
        Fingerprint(number(item, "size"), etag=etag(item, "eTag")),
        event_time=epoch(value.get("eventTime")),
    )
