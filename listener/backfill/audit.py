"""
A listing compared with the index, and a sample of its URLs with what the edge serves (HEAD requests).

=============================================== ========
what the edge says                              it is
=============================================== ========
the storage's tag                               fresh
the storage's Last-Modified and length          fresh
another tag of the storage's own form           stale
an older Last-Modified, or another length       stale
404 or 410 for what is there                    stale
fetched (by its Age) before the last change     stale
fetched after it, and nothing that differs      fresh
anything else, redirects, errors, silence       unknown
=============================================== ========
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

import aiohttp

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import IndexView
from listener.egress import connection_advice, proxy_arguments
from listener.errors import ConfigurationError, KeyRejected
from listener.redaction import mask_text
from listener.refresh import Scope
from listener.router.routing import Sites
from listener.sources.listing import Comparison, Drift, Listing
from listener.text import header_time, whole_number

__all__ = ["EdgeReport", "Seen", "Verdict", "ask_edge", "audit", "judge", "sample"]

CONCURRENCY: Final = 8
TIMEOUT_SECONDS: Final = 10.0
EXAMPLES: Final = 10
SLACK_SECONDS: Final = 2.0
"""Clocks of storage and edge may differ by so much, and HTTP dates are whole seconds."""
_DIGEST: Final = re.compile(r"[0-9a-f]{32}(-\d+)?")


class _NothingKnown:
    """The index where there is no state file yet."""

    async def directory_page(
        self,
        _root: str,
        _directory: str,
        _after: str | None,
        /,
        *,
        limit: int,  # noqa: ARG002
    ) -> Sequence[tuple[str, Fingerprint]]:
        return []

    async def directories(self, _root: str, _prefix: str = "", /) -> Sequence[str]:
        return []


async def audit(listing: Listing, index: IndexView | None) -> Drift:
    """Compare the listing with the index, which is empty without one; nothing is changed."""
    known: Any = _NothingKnown()
    with closing(Comparison(listing, index or known)) as comparison:
        async for _ in comparison.findings():
            pass
        return comparison.drift


class Verdict(NamedTuple):
    """What one URL was found to be."""

    state: str
    """``fresh``, ``stale`` or ``unknown``."""
    reason: str


class Seen(NamedTuple):
    """What the edge said of one URL."""

    status: int
    etag: str | None = None
    modified_at: float | None = None
    """Seconds since the epoch."""
    length: int | None = None
    age_seconds: float | None = None
    """How long ago the cache fetched or checked it."""


def judge(held: Fingerprint, seen: Seen, *, now: float) -> Verdict:
    """Return whether what the edge says fits what the storage holds: the first of the rules above that says so."""
    for rule in (_by_status, _by_tag, _by_length, _by_time, _by_age):
        if (verdict := rule(held, seen, now)) is not None:
            return verdict
    return Verdict("unknown", "the edge says nothing that can be compared")


def _by_status(_held: Fingerprint, seen: Seen, _now: float) -> Verdict | None:
    if seen.status in (404, 410):
        return Verdict("stale", f"the edge says {seen.status}, the storage has it")
    return None if seen.status == 200 else Verdict("unknown", f"the edge says {seen.status}")


def _by_tag(held: Fingerprint, seen: Seen, _now: float) -> Verdict | None:
    if not held.etag or not seen.etag:
        return None
    if seen.etag == held.etag:
        return Verdict("fresh", "the tags are equal")
    same_form = _DIGEST.fullmatch(held.etag) and _DIGEST.fullmatch(seen.etag)
    return Verdict("stale", "the tags differ") if same_form else None


def _by_length(held: Fingerprint, seen: Seen, _now: float) -> Verdict | None:
    if seen.length is None or held.size_bytes is None or seen.length == held.size_bytes:
        return None
    return Verdict("stale", f"{seen.length} bytes, and the storage has {held.size_bytes}")


def _by_time(held: Fingerprint, seen: Seen, _now: float) -> Verdict | None:
    if held.mtime_ns is None or seen.modified_at is None:
        return None
    later = held.mtime_ns // 1_000_000_000 - seen.modified_at
    if later > 0:
        return Verdict("stale", f"last modified {later:.0f} s before the storage's")
    return Verdict("fresh", "last modified at the same time") if later > -SLACK_SECONDS else None


def _by_age(held: Fingerprint, seen: Seen, now: float) -> Verdict | None:
    if held.mtime_ns is None or seen.age_seconds is None:
        return None
    since = now - seen.age_seconds - held.mtime_ns / 1e9
    if since < -SLACK_SECONDS:
        return Verdict("stale", f"fetched {-since:.0f} s before the last change")
    if since > SLACK_SECONDS:
        return Verdict("fresh", "fetched after the last change")
    return Verdict("unknown", "fetched about when it was changed")


def read_answer(status: int, headers: Mapping[str, str]) -> Seen:
    """Return what an answer says; a field that cannot be read says nothing."""
    tag = headers.get("ETag", "").strip().removeprefix("W/").strip('"').lower()
    length, age = whole_number(headers.get("Content-Length", "")), whole_number(headers.get("Age", ""))
    if headers.get("Content-Encoding", "identity") != "identity":
        length = None  # of the compressed bytes
    return Seen(
        status,
        tag or None,
        header_time(headers.get("Last-Modified", "")),
        length,
        None if age is None else float(age),
    )


@dataclass(slots=True)
class EdgeReport:
    """What was found, and some of each kind."""

    listed: int = 0
    fresh: int = 0
    stale: int = 0
    unknown: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)
    """Some that are stale or unknown: URL, state and reason."""

    def note(self, url: str, verdict: Verdict) -> None:
        """Count one."""
        setattr(self, verdict.state, getattr(self, verdict.state) + 1)
        same = sum(one["state"] == verdict.state for one in self.examples)
        if verdict.state != "fresh" and same < EXAMPLES:
            self.examples.append({"url": url, "state": verdict.state, "reason": verdict.reason})

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "asked": self.fresh + self.stale + self.unknown}


def sample(changes: Iterable[Change], count: int, *, chance: random.Random) -> tuple[list[Change], int]:
    """Return so many of the objects, each as likely as any other, and how many there were (reservoir sampling)."""
    kept: list[Change] = []
    seen = 0
    for change in changes:
        if change.kind is not ChangeKind.CONTENT or change.fingerprint is None:
            continue
        seen += 1
        if len(kept) < count:
            kept.append(change)
        elif (at := chance.randrange(seen)) < count:
            kept[at] = change
    return kept, seen


async def ask_edge(
    listing: Listing,
    sites: Sites,
    *,
    count: int,
    per_second: float,
    now: Callable[[], float],
    chance: random.Random,
) -> EdgeReport:
    """
    Sample a listing and ask the edge for each URL of what was drawn; nothing is changed, no redirect followed.

    Args:
        listing: what the storage holds.
        sites: where it is served.
        count: objects to draw.
        per_second: requests a second at most.
        now: returns seconds since the epoch.
        chance: decides what is drawn.
    """
    report = EdgeReport()
    drawn, report.listed = await asyncio.to_thread(sample, listing.changes(), count, chance=chance)
    asked = [(url, change.fingerprint or Fingerprint()) for change in drawn for url in _urls(sites, change)]
    lanes = asyncio.Semaphore(CONCURRENCY)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:

        async def ask(url: str, held: Fingerprint) -> None:
            try:
                seen = await _head(session, url)
            except ConfigurationError as error:
                report.note(url, Verdict("unknown", f"no answer: {error}; {error.hint}"))
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                advice = connection_advice(error, url, setting="base_urls")
                what = advice.cause or mask_text(str(error)) or type(error).__name__
                report.note(url, Verdict("unknown", f"no answer: {what}"))
            else:
                report.note(url, judge(held, seen, now=now()))
            finally:
                lanes.release()

        async with asyncio.TaskGroup() as tasks:
            for url, held in asked:
                await lanes.acquire()
                tasks.create_task(ask(url, held))
                await asyncio.sleep(1 / per_second)
    return report


async def _head(session: aiohttp.ClientSession, url: str) -> Seen:
    from yarl import URL  # noqa: PLC0415 - the URL is sent as it is, encoded once already

    async with session.head(URL(url, encoded=True), allow_redirects=False, **proxy_arguments(url)) as answer:
        return read_answer(answer.status, answer.headers)


def _urls(sites: Sites, change: Change) -> list[str]:
    try:
        needs = sites.route(change)
    except KeyRejected:
        return []
    return list(dict.fromkeys(need.url for need in needs if need.scope is Scope.EXACT))[:4]
