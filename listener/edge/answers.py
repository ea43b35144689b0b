"""What the headers of an answer say of the copy that was served; a field that cannot be read is None."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from listener.edge.caches import Handling, evidence_of, handling_of
from listener.text import header_time, whole_number

__all__ = ["MISSING", "SERVED", "Answer", "read_answer", "read_tag"]

SERVED: Final = frozenset({200, 203, 206})
"""Statuses with the content, or a part of it."""
MISSING: Final = frozenset({404, 410})
MOST_AGE_SECONDS: Final = 2**31 - 1
"""A cache that cannot count further says 2^31 (RFC 9111, 1.2.2): no time."""
MOST_TAG_CHARACTERS: Final = 512
_TOTAL: Final = re.compile(r"bytes (?:\d{1,15}-\d{1,15}|\*)/(\d{1,15})")
_TAG: Final = re.compile(r'(W/)?"?([\x21\x23-\x7e\x80-\xff]+)"?', re.IGNORECASE)


class Answer(NamedTuple):
    """One answer to a probe."""

    status: int
    tag: str | None = None
    """The entity tag in lower case, without quotes and ``W/``."""
    is_weak: bool = False
    modified_at: float | None = None
    """``Last-Modified``, in seconds since the epoch."""
    length: int | None = None
    """Bytes of the whole object; None where it is compressed."""
    age_seconds: int | None = None
    """How long ago the copy left the origin or was confirmed by it, in whole seconds, rounded down."""
    date_at: float | None = None
    """``Date``, in seconds since the epoch: when the origin or a cache made the answer."""
    is_encoded: bool = False
    vary: tuple[str, ...] = ()
    """Request headers by which variants are kept apart, in lower case."""
    handling: Handling = Handling.UNKNOWN
    is_page: bool = False
    """Whether it is HTML, as error pages are."""
    matched: str = ""
    """The tag in ``If-None-Match`` of the request, where there was one."""
    evidence: tuple[tuple[str, str], ...] = ()
    """The headers that are shown with a verdict."""


def read_tag(text: str) -> tuple[str | None, bool]:
    """Return the opaque part of an entity tag in lower case, and whether it is weak."""
    found = _TAG.fullmatch(text.strip()) if len(text) <= MOST_TAG_CHARACTERS else None
    return (found[2].lower(), bool(found[1])) if found else (None, False)


def read_answer(status: int, headers: Iterable[tuple[str, str]], *, matched: str = "") -> Answer:
    """
    Return what an answer says; a field that comes twice with different values says nothing.

    Args:
        status: its status.
        headers: its fields as they came, each value a pair.
        matched: the tag that the request named in ``If-None-Match``.
    """
    pairs = list(headers)
    only = _each_once(pairs)
    tag, is_weak = read_tag(only.get("etag", ""))
    is_encoded = only.get("content-encoding", "identity").strip().lower() not in ("identity", "")
    age = whole_number(only.get("age", ""))
    return Answer(
        status,
        tag,
        is_weak,
        header_time(only.get("last-modified", "")),
        None if is_encoded else _length(status, only),
        age if age is not None and age < MOST_AGE_SECONDS else None,
        header_time(only.get("date", "")),
        is_encoded,
        tuple(sorted({name.strip().lower() for name in only.get("vary", "").split(",") if name.strip()})),
        handling_of(only),
        only.get("content-type", "").lower().startswith("text/html"),
        matched,
        evidence_of(pairs),
    )


def _each_once(pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """Return the fields by name in lower case: lists joined, others only where all values are equal."""
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name.lower(), []).append(value.strip())
    return {
        name: ", ".join(given) if name in _LISTS else given[0]
        for name, given in values.items()
        if name in _LISTS or len(set(given)) == 1
    }


_LISTS: Final = frozenset({"cache-status", "vary", "x-cache"})


def _length(status: int, only: Mapping[str, str]) -> int | None:
    if status in (206, 416):
        found = _TOTAL.fullmatch(only.get("content-range", "").strip().lower())
        return int(found[1]) if found else None
    if status not in SERVED or "transfer-encoding" in only:
        return None
    return whole_number(only.get("content-length", ""))
