"""
Records as S3 writes them, and as those write them who speak like S3; and S3's events as EventBridge carries them.

========  ==========  =======================  ===========================================
store     source      key                      order token
========  ==========  =======================  ===========================================
AWS       aws:s3      form-encoded             ``sequencer``, where it contains its own time
MinIO     minio:s3    form-encoded, ``/`` too  none: clocks of nodes, not kept in step
RustFS    rustfs:s3   form-encoded, ``/`` too  none
Ceph      ceph:s3     as it is                 none: the gateway's clock, bytes reversed
========  ==========  =======================  ===========================================

Any minor version of a record is read, and fields that are not known are not looked at: AWS changed from
2.1 to 2.6 within a year and advises this. Sources: AWS "Event message structure" (S3 user guide),
minio/minio ``internal/event``, ceph/ceph ``src/rgw/rgw_pubsub.cc`` and ``rgw_notify_event_type.cc``.

In Amazon EventBridge names are words, fields hyphenated, keys stand as they are, and the time has whole seconds. A rule
may hand on the ``detail`` alone (InputPath); that is read too, by the reason that it gives. Sources: AWS "EventBridge
event message structure" and "Using EventBridge" (S3 user guide).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from listener.change import Fingerprint
from listener.formats.reading import (
    Effect,
    Tally,
    epoch,
    etag,
    form_key,
    mapping,
    meaning,
    number,
    raw_key,
    required,
    text,
)

__all__ = [
    "CLOCK_TOLERANCE_SECONDS",
    "DIALECTS",
    "Dialect",
    "by_source",
    "is_bus_event",
    "is_detail",
    "is_records",
    "read_bus_event",
    "read_detail",
    "sequencer",
]

CLOCK_TOLERANCE_SECONDS: Final = 600.0
"""How far the time in a sequencer and the event's own may be apart. Real ones: up to five seconds."""

_COMMON: Final = {
    "TestEvent": Effect.NOTHING,
    "ObjectCreated:*": Effect.CONTENT,
    "ObjectRemoved:*": Effect.REMOVED,
    "ObjectRemoved:DeleteMarkerCreated": Effect.GONE,
    "LifecycleExpiration:*": Effect.REMOVED,
    "LifecycleExpiration:DeleteMarkerCreated": Effect.GONE,
    "LifecycleTransition": Effect.NOTHING,
    "LifecycleTransition:*": Effect.NOTHING,
    "ObjectAcl:*": Effect.METADATA,
    "ObjectRestore:*": Effect.NOTHING,
    "ObjectTagging:*": Effect.NOTHING,
    "Replication:*": Effect.NOTHING,
}
_AWS: Final = _COMMON | {
    "IntelligentTiering": Effect.NOTHING,
    "ReducedRedundancyLostObject": Effect.NOTHING,  # a cache that has it still is all that is left
}
_MINIO: Final = _COMMON | {
    "ObjectCreated:PutTagging": Effect.NOTHING,
    "ObjectCreated:DeleteTagging": Effect.NOTHING,
    "ObjectCreated:PutRetention": Effect.NOTHING,
    "ObjectCreated:PutLegalHold": Effect.NOTHING,
    "ObjectRemoved:DeleteAllVersions": Effect.GONE,
    "ObjectRemoved:NoOP": Effect.NOTHING,  # there was nothing to delete
    "LifecycleDelMarkerExpiration:*": Effect.NOTHING,  # what the marker hid is gone already
    "ObjectAccessed:*": Effect.NOTHING,
    "ObjectTransition:*": Effect.NOTHING,
    "Scanner:*": Effect.NOTHING,
    "BucketCreated:*": Effect.NOTHING,
    "BucketRemoved:*": Effect.NOTHING,
}
_CEPH: Final = _COMMON | {
    "ObjectSynced:Create": Effect.CONTENT,  # arrived from another zone
    "ObjectSynced:*": Effect.REMOVED,
    "ObjectSynced:DeletionMarkerCreated": Effect.GONE,
    "ObjectLifecycle:Expiration:*": Effect.REMOVED,
    "ObjectLifecycle:Expiration:Current": Effect.GONE,
    "ObjectLifecycle:Expiration:NonCurrent": Effect.NOTHING,
    "ObjectLifecycle:Expiration:Noncurrent": Effect.NOTHING,
    "ObjectLifecycle:Expiration:DeleteMarker": Effect.NOTHING,
    "ObjectLifecycle:Expiration:AbortMultipartUpload": Effect.NOTHING,
    "ObjectLifecycle:Transition:*": Effect.NOTHING,
}

_TIMED = re.compile(r"00([0-9A-F]{8}[0-9A-F]{8})")

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


def sequencer(token: str, event_time: float | None) -> str | None:
    """
    Return a token of AWS such that two of one key compare as text; ``None`` where that is not possible.

    AWS says to pad the shorter with zeros, on the left in older copies of its page and on the right in newer
    ones. Real tokens all have 18 digits: 00, the second since the epoch, a fraction of it; but a deletion was seen
    with 80, which came before a creation with 00 and would compare as later. Only the common form is taken for
    an order, and only where its second is about that of its event: servers for tests send the same
    token always, by which everything new would look old.
    """
    found = _TIMED.fullmatch(token.upper())
    if found is None or event_time is None:
        return None
    return found[1] if abs(int(found[1][:8], 16) - event_time) <= CLOCK_TOLERANCE_SECONDS else None


class Dialect(NamedTuple):
    """How one store writes records."""

    names: Mapping[str, Effect]
    """Event names without ``s3:``."""
    key: Callable[[str], str]
    order: Callable[[str, float | None], str | None] = lambda _token, _event_time: None

    def read(self, record: Mapping[str, Any], tally: Tally) -> None:
        """Read one record."""
        name = required(record, "eventName", "event").removeprefix("s3:")
        effect = meaning(self.names, name)
        if effect is None or effect is Effect.NOTHING:
            tally.unknown(name) if effect is None else tally.ignore(name)
            return
        s3 = mapping(record, "s3")
        item = mapping(s3, "object")
        size = number(item, "size")
        if name == "ObjectCreated:Post" and not size and self.names is _CEPH:
            # Ceph also says so when a multipart upload begins; its end comes with a name of its own.
            tally.ignore(name)
            return
        time = epoch(record.get("eventTime"))
        token = item.get("sequencer")
        version = text(item, "versionId")
        tally.add(
            effect,
            required(mapping(s3, "bucket"), "name", "bucket"),
            self.key(required(item, "key", "key")),
            Fingerprint(size, etag=etag(item, "eTag")),
            event_time=time,
            order=self.order(token, time) if isinstance(token, str) else None,
            version="" if version == "null" else version,
        )


AWS: Final = Dialect(_AWS, form_key, sequencer)
MINIO: Final = Dialect(_MINIO, form_key)
CEPH: Final = Dialect(_CEPH, raw_key)
OTHER: Final = Dialect(_AWS | _MINIO | _CEPH, form_key)
"""A store that we do not know: most of those who imitate S3 encode as it does, and whether they order, nobody says."""
DIALECTS: Final[Mapping[str, Dialect]] = {"aws:s3": AWS, "minio:s3": MINIO, "rustfs:s3": MINIO, "ceph:s3": CEPH}


def by_source(record: Mapping[str, Any], tally: Tally) -> None:
    """Read one record as the store writes that it names as its source."""
    DIALECTS.get(text(record, "eventSource"), OTHER).read(record, tally)


def is_records(value: Mapping[str, Any]) -> bool:
    """Return whether this is a list of records, or what S3 sends when a notification is set up."""
    return isinstance(value.get("Records"), list) or text(value, "Event") == "s3:TestEvent"


def read_records(dialect: Dialect | None, value: Mapping[str, Any], tally: Tally) -> None:
    """Read a list of records; without a dialect each by its source."""
    if "Records" not in value:
        tally.ignore("s3:TestEvent")
        return
    tally.each(value["Records"], by_source if dialect is None else dialect.read, "Records")


def is_bus_event(value: Mapping[str, Any]) -> bool:
    """Return whether this is an event of EventBridge."""
    return "detail-type" in value and isinstance(value.get("detail"), dict)


def read_bus_event(value: Mapping[str, Any], tally: Tally) -> None:
    """Read one event; what is not about an object is ignored, since a bus carries much."""
    item = text(value, "detail-type")
    effect = _TYPES.get(item)
    if effect is None:
        tally.unknown(item)
    elif effect is Effect.NOTHING:
        tally.ignore(item)
    else:
        _read_detail_of(effect, mapping(value, "detail"), tally, epoch(value.get("time")))


def is_detail(value: Mapping[str, Any]) -> bool:
    """Return whether this is the ``detail`` of an event, handed on alone."""
    return text(value, "reason") in _REASONS and "key" in mapping(value, "object")


def read_detail(value: Mapping[str, Any], tally: Tally) -> None:
    """Read a detail; without its event nobody says when it happened."""
    _read_detail_of(_REASONS[text(value, "reason")], value, tally, None)


def _read_detail_of(effect: Effect, detail: Mapping[str, Any], tally: Tally, time: float | None) -> None:
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
