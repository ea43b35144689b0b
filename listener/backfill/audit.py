"""A listing compared with the index, and a sample of its URLs with what the edge serves (``listener.edge``)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import IndexView
from listener.edge.prober import Prober
from listener.edge.verdict import Expected, Verdict
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.router.routing import Sites
from listener.sources.listing import Comparison, Drift, Listing

__all__ = ["EdgeReport", "ask_edge", "audit", "expected_of", "sample"]

CONCURRENCY: Final = 8
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
    prober: Prober,
    *,
    count: int,
    chance: random.Random,
) -> EdgeReport:
    """
    Sample a listing and probe each URL of what was drawn; nothing is changed.

    Args:
        listing: what the storage holds.
        sites: where it is served.
        prober: has not been entered yet.
        count: objects to draw.
        chance: decides what is drawn.
    """
    report = EdgeReport()
    drawn, report.listed = await asyncio.to_thread(sample, listing.changes(), count, chance=chance)
    asked = [(url, change.fingerprint or Fingerprint()) for change in drawn for url in _urls(sites, change)]
    async with prober, asyncio.TaskGroup() as tasks:
        lanes = asyncio.Semaphore(CONCURRENCY)

        async def ask(url: str, held: Fingerprint) -> None:
            try:
                report.note(url, (await prober.probe(url, expected_of(held))).verdict)
            finally:
                lanes.release()

        for url, held in asked:
            await lanes.acquire()
            tasks.create_task(ask(url, held))
    return report


def _urls(sites: Sites, change: Change) -> list[str]:
    try:
        needs = sites.route(change)
    except KeyRejected:
        return []
    return list(dict.fromkeys(need.url for need in needs if need.scope is Scope.EXACT))[:4]
