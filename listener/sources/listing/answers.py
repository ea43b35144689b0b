"""
What an object store answers to ListObjectsV2, read without building a tree: bytes in, rows out.

Keys are asked for percent-encoded (``encoding-type=url``), because XML 1.0 cannot carry every key; a store
that ignores it is recognized by its response, which is read as XML text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from html import unescape
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from listener.change import Fingerprint, key_to_text
from listener.errors import SourceUnavailable
from listener.numbers import whole_number

__all__ = ["Entry", "Page", "etag_of", "read_page", "time_ns"]


class Entry(NamedTuple):
    """One object, as a listing has it."""

    key: str
    fingerprint: Fingerprint


class Page(NamedTuple):
    """One answer: up to a thousand objects or folders, in the order of their keys' bytes."""

    entries: list[Entry]
    folders: list[str]
    more: bool
    """Whether there is another page behind this one."""
    token: str | None
    """The request."""


_FIELDS: Final = tuple(
    re.compile(rb"<%b>([^<]*)</%b>" % (name, name)) for name in (b"Key", b"LastModified", b"ETag", b"Size")
)
_FOLDER: Final = re.compile(rb"<CommonPrefixes>\s*<Prefix>([^<]*)</Prefix>")
_TOKEN: Final = re.compile(rb"<NextContinuationToken>([^<]*)</NextContinuationToken>")
_TRUNCATED: Final = re.compile(rb"<IsTruncated>\s*(?:true|True)\s*</IsTruncated>")
_ENCODED: Final = re.compile(rb"<EncodingType>\s*url\s*</EncodingType>")
_MOST_TREE_BYTES: Final = 16 * 1024 * 1024


def read_page(body: bytes) -> Page:
    """
    Return what the answer lists.

    Raises :class:`~listener.errors.SourceUnavailable` for what is no answer to a listing: half of one, above all.
    """
    if b"</ListBucketResult>" not in body[-64:] and not body.rstrip().endswith(b"</ListBucketResult>"):
        raise SourceUnavailable("the store's answer is no whole listing", hint="look at what stands between")
    encoded = bool(_ENCODED.search(body))
    count = body.count(b"<Contents>")
    columns: list[list[bytes]] = [field.findall(body) for field in _FIELDS]
    if any(len(one) != count for one in columns):
        # A field that is missing somewhere would shift all that follow.
        columns = [list(one) for one in zip(*_slow_rows(body), strict=True)]
    key = _plus_key if encoded else _xml_key
    token = _TOKEN.search(body)
    return Page(
        _entries(columns, key) if count else [],
        [key(raw) for raw in _FOLDER.findall(body)],
        bool(_TRUNCATED.search(body)),
        unescape(token[1].decode("utf-8", "surrogateescape")) if token else None,
    )


def _entries(columns: list[list[bytes]], key: Callable[[bytes], str]) -> list[Entry]:
    """Return the objects of columns; whole columns at once, since a listing is a million times this."""
    keys, times, tags, sizes = columns
    known = {raw: time_ns(raw.decode("ascii", "replace")) for raw in set(times)}
    joined = b"\n".join(tags)
    if joined.count(b"\n") != len(tags) - 1:
        raise SourceUnavailable("the store's answer lists an object whose ETag has several lines")
    cleaned = etag_of(joined.decode("utf-8", "replace"), within=True) or ""
    return [
        Entry(key(raw), Fingerprint(_size(size), known[at], None, None, tag or None))
        for raw, at, tag, size in zip(keys, times, cleaned.split("\n"), sizes, strict=True)
    ]


def _size(raw: bytes) -> int:
    size = whole_number(raw.decode("ascii", "replace"))
    if size is None:
        raise SourceUnavailable("the store's answer lists an object without a size")
    return size


def etag_of(text: str, *, within: bool = False) -> str | None:
    """Return an entity tag (``within`` a longer text: each) without quotes, in lower case; None where there is none."""
    plain = text.replace("&quot;", "").replace("&#34;", "").lower()
    return (plain.replace('"', "") if within else plain.strip('"')) or None


def time_ns(text: str) -> int | None:
    """Return an ISO 8601 time in nanoseconds since the epoch, None for anything else; UTC where no zone is named."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * 1_000_000) * 1_000


def _plus_key(raw: bytes) -> str:
    if b"%" in raw or b"+" in raw:
        return key_to_text(unquote_to_bytes(raw.replace(b"+", b" ")))
    return key_to_text(raw)


def _xml_key(raw: bytes) -> str:
    text = key_to_text(raw)
    return unescape(text) if "&" in text else text


def _slow_rows(body: bytes) -> Iterator[tuple[bytes, bytes, bytes, bytes]]:
    """Read an answer where some object lacks a field."""
    if len(body) > _MOST_TREE_BYTES:
        raise SourceUnavailable("the store's answer is no listing", hint="look at what stands between")
    try:
        root = fromstring(body, forbid_dtd=True)
    except (DefusedXmlException, ParseError, ValueError, LookupError) as error:
        raise SourceUnavailable(f"the store's answer cannot be read: {error}") from None
    for item in root.iter():
        if item.tag.rpartition("}")[2] == "Contents":
            found = {child.tag.rpartition("}")[2]: child.text or "" for child in item}
            if "Key" not in found or whole_number(found.get("Size", "")) is None:
                raise SourceUnavailable("the store's answer lists an object without a key or a size")
            # As it stood in the answer: the caller undoes what the encoding did.
            yield (
                found["Key"].replace("&", "&amp;").encode("utf-8", "surrogateescape"),
                found.get("LastModified", "").encode(),
                found.get("ETag", "").encode(),
                found["Size"].encode(),
            )
