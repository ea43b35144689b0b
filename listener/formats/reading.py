"""What the readers of all vendors share: bounded JSON, the effects of events, and the tally of one message."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final, NamedTuple
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes, key_to_text
from listener.text import MAX_OBJECTS, is_too_large

__all__ = [
    "MAX_BODY_BYTES",
    "MAX_RECORDS",
    "NOTHING",
    "Decoded",
    "Effect",
    "Tally",
    "Unreadable",
    "epoch",
    "etag",
    "form_key",
    "load",
    "load_xml",
    "mapping",
    "meaning",
    "number",
    "raw_key",
    "required",
    "tag_name",
    "text",
    "unbase64",
]

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""More than any transport takes: SQS and SNS 1 MiB, MNS 64 KB, an EventBridge batch 256 KB."""
SHOWN_CHARACTERS: Final = 80
NOTHING: Final[Mapping[str, Any]] = {}
_HALF_A_PAIR = re.compile(r"[\ud800-\udfff]")
MAX_RECORDS: Final = 20_000
"""In one message. SQS batches, Lambda payloads and Event Grid arrays stay far below."""
MAX_UNREADABLE: Final = 10
"""How many of them are reported."""


class Effect(Enum):
    """What an event did to the object that a URL shows."""

    CONTENT = auto()
    """It is new, or its bytes changed."""
    METADATA = auto()
    """Only its headers or who may read it changed."""
    GONE = auto()
    """It is no longer there, whatever versions are."""
    REMOVED = auto()
    """It, or one version of it, was removed: gone where the event names no version. Where it names one,
    another version, or none, may show now."""
    NOTHING = auto()
    """A cache may go on serving what it has."""


def meaning(table: Mapping[str, Effect], name: str) -> Effect | None:
    """
    Return what a name means: its own row, else the row of its family (``ObjectCreated:*``), else ``None``.

    The row of a family covers the names that a vendor adds later.
    """
    effect = table.get(name)
    if effect is None and (cut := name.rfind(":")) > 0:
        return meaning_of_family(table, name[:cut])
    return effect


def meaning_of_family(table: Mapping[str, Effect], family: str) -> Effect | None:
    """Return the row of a family or of the one that it belongs to."""
    while (effect := table.get(f"{family}:*")) is None and (cut := family.rfind(":")) > 0:
        family = family[:cut]
    return effect


class Unreadable(ValueError):
    """A message or one of its records is not what its vendor sends; the text says in which way."""


def load(body: bytes | str) -> Any:
    """
    Return the JSON value of a body. Raise :class:`Unreadable` for anything else.

    Bytes that are no UTF-8 stay as surrogates: a store that writes a key's bytes as they are can be read.
    """
    if is_too_large(body):
        raise Unreadable(f"more than {MAX_OBJECTS} objects and lists")
    try:
        return json.loads(body if isinstance(body, str) else body.decode("utf-8", "surrogateescape").lstrip("\ufeff"))
    except RecursionError:
        raise Unreadable("nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"not JSON: {str(error)[:SHOWN_CHARACTERS]}") from None


def load_xml(body: bytes, *, most_tags: int) -> Element:
    """
    Return the root of an XML document. Raise :class:`Unreadable` for anything else.

    ``most_tags`` bounds elements and depth before anything is built; a document type is refused.
    """
    if body.count(b"<") > most_tags:
        raise Unreadable(f"more than {most_tags} tags")
    try:
        root: Element = fromstring(body, forbid_dtd=True)
    except DefusedXmlException:
        raise Unreadable("declares a document type") from None
    except (ParseError, ValueError, LookupError) as error:
        raise Unreadable(f"not XML: {error}") from None
    return root


def tag_name(element: Element) -> str:
    """Return the name of an element without its namespace."""
    return element.tag.rpartition("}")[2]


def unbase64(body: bytes | str) -> bytes | None:
    """Return what a Base64 text stands for; None where it is none."""
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None


def mapping(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the object of this name, an empty one where there is none."""
    found = value.get(name)
    return found if isinstance(found, dict) else NOTHING


def text(value: Mapping[str, Any], name: str) -> str:
    """Return the text of this name, an empty one where there is none."""
    found = value.get(name)
    return found if isinstance(found, str) else ""


def required(value: Mapping[str, Any], name: str, what: str) -> str:
    """Return the text of this name; raise :class:`Unreadable` where it is absent or empty."""
    found = value.get(name)
    if isinstance(found, str) and found:
        return found
    raise Unreadable(f"names no {what}")


def number(value: Mapping[str, Any], name: str) -> int | None:
    """Return the count of this name, also where it is written as text (Ceph does); ``None`` where there is none."""
    found = value.get(name)
    if isinstance(found, str) and found.isascii() and found.isdigit() and len(found) < 20:
        found = int(found)
    return found if type(found) is int and 0 <= found < 2**63 else None


def raw_key(key: str) -> str:
    """Return a key that stands as it is. Raise :class:`Unreadable` where it is the text of no bytes."""
    if key.isascii() or _HALF_A_PAIR.search(key) is None:
        return key
    try:
        return key_to_text(key_to_bytes(key))
    except UnicodeEncodeError:
        raise Unreadable("the key is no text: it holds half of a UTF-16 surrogate pair") from None


def form_key(key: str) -> str:
    """Return a key that stands form-encoded (``+`` is a blank), decoded once; bytes that are no UTF-8 stay."""
    if "%" in key or "+" in key:
        key = unquote_plus(key, "utf-8", "surrogateescape")
    return raw_key(key)


def etag(value: Mapping[str, Any], name: str) -> str | None:
    """Return an entity tag without quotes, in lower case: OSS writes it in upper case, and others may not."""
    found = value.get(name)
    return (found.strip('"').lower() or None) if isinstance(found, str) else None


def epoch(time: object) -> float | None:
    """Return the seconds since the epoch of an ISO 8601 time with a zone; ``None`` for anything else."""
    if not isinstance(time, str):
        return None
    try:
        item = datetime.fromisoformat(time)
        if item.tzinfo is None:
            return None
        return item.timestamp()
    except (ValueError, OverflowError):
        return None


_KINDS: Final = {
    Effect.CONTENT: ChangeKind.CONTENT,
    Effect.METADATA: ChangeKind.METADATA,
    Effect.GONE: ChangeKind.DELETED,
    Effect.REMOVED: ChangeKind.DELETED,
}


class Decoded(NamedTuple):
    """What a message says."""

    changes: tuple[Change, ...]
    """In the order in which they stand; ``root`` is the bucket's name, the key decoded exactly once."""
    ignored: int = 0
    """Records that mean nothing to a cache: tests, restores, tags, parts of uploads, directories, other buckets."""
    note: str = ""
    """Why something was ignored, for the log; for example ``s3:TestEvent``."""
    unreadable: tuple[str, ...] = ()
    """What is wrong with unreadable records among readable ones: the body is kept."""


class Tally:
    """Takes the records of one message; ``roots`` are the buckets that are wanted, ``None`` for all."""

    def __init__(self, roots: Collection[str] | None) -> None:
        """Begin with nothing."""
        self._roots = roots
        self._changes: list[Change] = []
        self._ignored = self._taken = 0
        self._note = ""
        self._unreadable: list[str] = []

    @property
    def only_root(self) -> str:
        """The bucket of what names none: the only one that is wanted, or empty where all are; else Unreadable."""
        if self._roots is None:
            return ""
        if len(self._roots) != 1:
            raise Unreadable("names no bucket, and the source accepts several")
        return next(iter(self._roots))

    def add(
        self,
        effect: Effect,
        bucket: str,
        key: str,
        fingerprint: Fingerprint | None,
        *,
        event_time: float | None,
        order: str | None = None,
        version: str = "",
    ) -> None:
        """Take what happened to one object; ``version`` is the one that the event names, if it names one."""
        if effect is Effect.NOTHING:
            self.ignore()
        elif self._roots is not None and bucket not in self._roots:
            self.ignore(f"bucket {bucket[:SHOWN_CHARACTERS]!r}")
        elif effect is Effect.REMOVED and version:
            # Whatever version is left shows now, or the one that a deleted marker hid.
            self._changes.append(Change(bucket, key, ChangeKind.CONTENT, None, event_time, order))
        elif effect is Effect.CONTENT or effect is Effect.METADATA:
            self._changes.append(Change(bucket, key, _KINDS[effect], fingerprint, event_time, order))
        else:
            self._changes.append(Change(bucket, key, _KINDS[effect], None, event_time, order))

    def ignore(self, note: str = "") -> None:
        """Count a record that means nothing to a cache."""
        self._ignored += 1
        self._note = self._note or note

    def unknown(self, name: str) -> None:
        """Count an event whose name stands in no table."""
        self.ignore(f"unknown event {name[:SHOWN_CHARACTERS]!r}")

    def each(self, records: object, read: Callable[[Any, Tally], None], what: str, *, of: type | None = dict) -> None:
        """Read every record; one that cannot be read does not take the others with it, nor does one of another type."""
        if not isinstance(records, list):
            raise Unreadable(f"{what} is no list")
        if not records:
            self._note = self._note or "empty"
        self._taken += len(records)
        if self._taken > MAX_RECORDS:
            raise Unreadable(f"more than {MAX_RECORDS} records")
        for at, record in enumerate(records):
            try:
                if of is not None and type(record) is not of:
                    raise Unreadable("is no text" if of is str else "is no object")  # noqa: TRY301 - reported alike
                read(record, self)
            except Unreadable as error:
                if len(self._unreadable) < MAX_UNREADABLE:
                    self._unreadable.append(f"{what}[{at}] {error}")

    def result(self) -> Decoded:
        """Return what was gathered. Raise :class:`Unreadable` where nothing of it could be read."""
        if self._unreadable and not self._changes and not self._ignored:
            raise Unreadable(self._unreadable[0])
        return Decoded(tuple(self._changes), self._ignored, self._note, tuple(self._unreadable))
