"""What several signatures stand on: keys, times, encodings, comparisons."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import quote

__all__ = [
    "Credentials",
    "Headers",
    "Pairs",
    "Problem",
    "canonical_query",
    "pairs",
    "percent_encode",
    "same",
    "timestamp",
]

Pairs = Mapping[str, str] | Iterable[tuple[str, str]]
"""Decoded parameters: a mapping, or pairs where a name may come twice."""
Headers = Mapping[str, str] | Iterable[tuple[str, str]]
"""Header names in any case with their values; a name may come twice."""


class Problem(StrEnum):
    """Why a request does not verify; the value is the error code that the service answers."""

    INCOMPLETE = "IncompleteSignature"
    MISMATCH = "SignatureDoesNotMatch"


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key; ``repr`` and ``str`` show neither secret nor token."""

    access_key_id: str
    access_key_secret: str = field(repr=False)
    security_token: str | None = field(default=None, repr=False)
    """Set for temporary (STS) keys only."""


def timestamp(now: float) -> str:
    """Return seconds since the epoch as the services write them: ``2026-01-02T03:04:05Z``."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def percent_encode(text: str) -> str:
    """Encode everything but ``A-Z a-z 0-9 - _ . ~`` as UTF-8 bytes in upper-case hex; a blank is ``%20``."""
    return quote(text, safe="~")


def canonical_query(params: Pairs) -> str:
    """Return ``name=value`` sorted by name, then value, each encoded; a blank value keeps its ``=``."""
    return "&".join(f"{percent_encode(name)}={percent_encode(value)}" for name, value in sorted(pairs(params)))


def pairs(params: Pairs) -> list[tuple[str, str]]:
    """Return the parameters as pairs."""
    return list(params.items() if isinstance(params, Mapping) else params)


def same(expected: str, received: str) -> bool:
    """Compare in a time that tells nothing of where the two differ."""
    return hmac.compare_digest(expected.encode(), received.encode("utf-8", "surrogateescape"))
