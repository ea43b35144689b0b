"""
SeaweedFS: events of its filer, by webhook or by ``weed filer.meta.tail``.

An entry's path is ``/buckets/BUCKET/KEY``, as it is. Directories are ignored, since a directory that is removed or
renamed sends an event of every file in it as well; so are parts of uploads (``.uploads/``) and all outside buckets.
In a bucket with versions an object is a directory ``KEY.versions``: its own events say which version shows,
those of the versions in it say nothing more, unless headers or access of one changed. There is neither an order
(updates overtake creations) nor, by webhook, a time of the event. Shapes and noise as captured from version
4.48; names from seaweedfs/seaweedfs ``weed/pb/filer.proto`` and ``weed/notification/webhook``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from listener.change import Fingerprint
from listener.formats.reading import NOTHING, Effect, Tally, Unreadable, mapping, number, raw_key, text, unbase64

__all__ = ["is_tail", "is_webhook", "read_tail", "read_webhook"]

_ROOT: Final = "/buckets/"
_UPLOADS: Final = ".uploads/"
_VERSIONS: Final = ".versions"
_ETAG, _VERSION = "Seaweed-X-Amz-ETag", "Seaweed-X-Amz-Version-Id"
_LATEST: Final = "Seaweed-X-Amz-Latest-Version-"
_OVERTAKEN: Final = "Seaweed-X-Amz-Noncurrent-Since-Ns"
_ETAG_BYTES: Final = 16


class _Entry(NamedTuple):
    """One side of an event: where an entry was, or is."""

    path: str
    directory: bool
    attributes: Mapping[str, Any]
    extended: Mapping[str, Any]

    @property
    def place(self) -> tuple[str, str]:
        """Return bucket and key; empty where it is in none."""
        bucket, _, key = self.path.removeprefix(_ROOT).partition("/")
        if not self.path.startswith(_ROOT) or not bucket or bucket.startswith("."):
            return "", ""
        return ("", "") if key.startswith(_UPLOADS) or key + "/" == _UPLOADS else (bucket, key)

    @property
    def fingerprint(self) -> Fingerprint:
        """Return what the entry says of its content."""
        tag = _word(self.extended, _ETAG) or _hex(text(self.attributes, "md5"))
        size = number(self.attributes, "file_size")
        return _fingerprint(
            number(self.attributes, "fileSize") if size is None else size, number(self.attributes, "mtime"), tag
        )


def is_webhook(value: Mapping[str, Any]) -> bool:
    """Return whether this is what the webhook sends."""
    return "event_type" in value and isinstance(value.get("message"), dict)


def read_webhook(value: Mapping[str, Any], tally: Tally) -> None:
    """Read one event of the webhook; its ``key`` is the path, of a renamed entry the old one."""
    message, path = mapping(value, "message"), text(value, "key")
    if not path.startswith("/"):
        raise Unreadable("names no path")
    parent = text(message, "new_parent_path") or path.rpartition("/")[0]
    old = _entry(message.get("old_entry"), path, "is_directory")
    new = _entry(message.get("new_entry"), f"{parent}/{text(mapping(message, 'new_entry'), 'name')}", "is_directory")
    _read(old, new, tally, None)


def is_tail(value: Mapping[str, Any]) -> bool:
    """Return whether this is an event of the filer's log."""
    return isinstance(value.get("directory"), str) and isinstance(value.get("eventNotification"), dict)


def read_tail(value: Mapping[str, Any], tally: Tally) -> None:
    """Read one event of the filer's log, which knows its time in nanoseconds."""
    message, directory = mapping(value, "eventNotification"), text(value, "directory")
    parent = text(message, "newParentPath") or directory
    old, new = mapping(message, "oldEntry"), mapping(message, "newEntry")
    nanoseconds = number(value, "tsNs")
    _read(
        _entry(old or None, f"{directory}/{text(old, 'name')}", "isDirectory"),
        _entry(new or None, f"{parent}/{text(new, 'name')}", "isDirectory"),
        tally,
        None if nanoseconds is None else nanoseconds / 1e9,
    )


def _entry(value: object, path: str, directory: str) -> _Entry | None:
    if not isinstance(value, dict):
        return None
    return _Entry(raw_key(path), value.get(directory) is True, mapping(value, "attributes"), mapping(value, "extended"))


def _read(old: _Entry | None, new: _Entry | None, tally: Tally, time: float | None) -> None:
    if old is None and new is None:
        raise Unreadable("names no entry")
    changed = False
    if old is not None and (new is None or old.path != new.path):
        changed = _add(old, old, None, tally, time)
    if new is not None:
        changed = _add(new, old if old is not None and old.path == new.path else None, new, tally, time) or changed
    if not changed:
        tally.ignore("a directory, a part of an upload, a version that does not show, or outside of buckets")


def _add(at: _Entry, old: _Entry | None, new: _Entry | None, tally: Tally, time: float | None) -> bool:
    """Add what happened at one path; return whether that means anything."""
    bucket, key = at.place
    versions, _, version = key.rpartition("/")
    if not key:
        return False
    if at.directory:
        if not key.endswith(_VERSIONS) or (new is not None and not new.extended and (old is None or not old.extended)):
            return False
        _add_versions(bucket, key, NOTHING if new is None else new.extended, tally, time)
    elif versions.endswith(_VERSIONS) and version.startswith("v_") and _VERSION in at.extended:
        if not old or not new or _but_for_age(old) == _but_for_age(new):
            return False
        tally.add(Effect.METADATA, bucket, versions.removesuffix(_VERSIONS), None, event_time=time)
    elif new is None:
        tally.add(Effect.GONE, bucket, key, None, event_time=time)
    else:
        tally.add(Effect.CONTENT, bucket, key, new.fingerprint, event_time=time)
    return True


def _add_versions(bucket: str, key: str, latest: Mapping[str, Any], tally: Tally, time: float | None) -> None:
    gone = f"{_LATEST}Id" not in latest or _word(latest, f"{_LATEST}Is-Delete-Marker") == "true"
    size, mtime, tag = (_word(latest, _LATEST + name) for name in ("Size", "Mtime", "ETag"))
    numbers = {"size": size, "mtime": mtime}
    tally.add(
        Effect.GONE if gone else Effect.CONTENT,
        bucket,
        key.removesuffix(_VERSIONS),
        _fingerprint(number(numbers, "size"), number(numbers, "mtime"), tag),
        event_time=time,
    )


def _fingerprint(size: int | None, mtime_seconds: int | None, tag: str) -> Fingerprint:
    """Last-Modified has whole seconds."""
    mtime = None if mtime_seconds is None or mtime_seconds >= 2**33 else mtime_seconds * 1_000_000_000
    return Fingerprint(size, mtime, etag=tag.strip('"').lower() or None)


def _but_for_age(entry: _Entry) -> Mapping[str, Any]:
    return {name: value for name, value in entry.extended.items() if name != _OVERTAKEN}


def _word(extended: Mapping[str, Any], name: str) -> str:
    return (unbase64(text(extended, name)) or b"").decode("utf-8", "replace")


def _hex(md5: str) -> str:
    raw = unbase64(md5) or b""
    return raw.hex() if len(raw) == _ETAG_BYTES else ""
