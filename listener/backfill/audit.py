"""A listing compared with the index, and a sample of its URLs with what the edge serves (``listener.edge``)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import aiohttp

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import IndexView
from listener.edge.answers import Answer, read_answer
from listener.edge.verdict import UNKNOWN, Expected, Verdict, judge
from listener.egress import connection_advice, proxy_arguments
from listener.errors import ConfigurationError, KeyRejected
from listener.redaction import mask_text
from listener.refresh import Scope
from listener.router.routing import Sites
from listener.sources.listing import Comparison, Drift, Listing

__all__ = ["EdgeReport", "ask_edge", "audit", "expected_of", "sample"]

CONCURRENCY: Final = 8
TIMEOUT_SECONDS: Final = 10.0
EXAMPLES: Final = 10


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


def expected_of(held: Fingerprint) -> Expected:
    """Return what visitors should get of an object of a storage, whose time is that of its last change."""
    return Expected(held, changed_at=None if held.mtime_ns is None else held.mtime_ns / 1e9)


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
                report.note(url, Verdict(UNKNOWN, f"no answer: {error}; {error.hint}"))
            except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                advice = connection_advice(error, url, setting="base_urls")
                what = advice.cause or mask_text(str(error)) or type(error).__name__
                report.note(url, Verdict(UNKNOWN, f"no answer: {what}"))
            else:
                report.note(url, judge(expected_of(held), seen, now=now()))
            finally:
                lanes.release()

        async with asyncio.TaskGroup() as tasks:
            for url, held in asked:
                await lanes.acquire()
                tasks.create_task(ask(url, held))
                await asyncio.sleep(1 / per_second)
    return report


async def _head(session: aiohttp.ClientSession, url: str) -> Answer:
    from yarl import URL  # noqa: PLC0415 - the URL is sent as it is, encoded once already

    async with session.head(URL(url, encoded=True), allow_redirects=False, **proxy_arguments(url)) as answer:
        return read_answer(answer.status, answer.headers.items())


def _urls(sites: Sites, change: Change) -> list[str]:
    try:
        needs = sites.route(change)
    except KeyRejected:
        return []
    return list(dict.fromkeys(need.url for need in needs if need.scope is Scope.EXACT))[:4]
