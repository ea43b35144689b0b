"""What the admin port shows and does: the daemon's life, put into plain data."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from listener.daemon.freshness import Freshness, Span
from listener.daemon.health import Finding, findings, reasons_not_ready
from listener.daemon.life import Life
from listener.daemon.status import stale_of, status_of
from listener.errors import ConfigurationError
from listener.pipeline import Pipeline
from listener.pipeline.outlook import Outlook, outlooks
from listener.planner import Arrivals
from listener.refresh import Scope
from listener.router.serving import normal_or_refused
from listener.store import NeedInput
from listener.store.letters import EVERY_LETTER, DeadLetter, Dropped, LetterFilter
from listener.store.overview import oldest
from listener.store.ownership import Owner
from listener.store.staleness import StaleNeed
from listener.store.suppressed import Suppressed
from listener.urls import normal_url

__all__ = ["Answer", "Decided", "Glance", "View"]

SHOWN = 12
"""Rows of one list: what a person takes in at a glance."""
LETTERS_SHOWN = 25
"""Dead letters of one page."""
AHEAD_SECONDS = 10.0
"""How often the planner is asked what lies ahead while somebody watches: it thinks, and its answer moves slowly."""
WATCHES_LIMIT = Path("/proc/sys/fs/inotify/max_user_watches")
REASON = "asked for on the status page"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterPage:
    """One page of dead letters."""

    wanted: LetterFilter
    rows: Sequence[DeadLetter]
    has_more: bool
    dropped: Sequence[Dropped]


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """What the status page shows; two are equal when nothing to be seen changed."""

    status: Mapping[str, Any]
    """As ``status --json``, without what changes by itself: its time and ages."""
    ahead: Mapping[str, Outlook]
    """What lies ahead of each target's account."""
    since: Mapping[str, float]
    """Oldest change of each state, in seconds since the epoch."""
    letters: LetterPage
    recent: Sequence[Mapping[str, Any]]
    spans: Mapping[str, Span]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What is known of one URL."""

    asked: str
    url: str = ""
    problem: str = ""
    """Why it can be no URL of ours."""
    needs: Sequence[StaleNeed] = ()
    attempts: Sequence[Mapping[str, Any]] = ()
    targets: Sequence[str] = ()
    """Whom a refresh would go to; none where no site serves it."""
    suppressed: Suppressed | None = None
    """Changes for which no refresh was made."""


class Decided(NamedTuple):
    """What a decision was about, and how many needs or letters it touched."""

    subject: str
    touched: int


class View:
    """Asked at every request; nothing is kept but what was counted."""

    def __init__(self, life: Life) -> None:
        """Take what is told of."""
        self._life = life
        self._freshness = Freshness(life.clock)
        self._outlooks: Mapping[str, Outlook] = {}
        self._looked_ahead_at = -math.inf

    # -- for probes ------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the loop turns and the store commits."""
        return self._life.heart.ok and self._life.pulse.ok

    def not_ready(self) -> list[str]:
        """Return why not every change is seen at present; nothing when every one is."""
        return reasons_not_ready(self._life.pipeline, self._life.phase)

    def findings(self) -> list[Finding]:
        """Return every check with its reason."""
        return findings(self._life.pipeline, self._life.heart, self._life.pulse, self._life.phase)

    # -- for machines ----------------------------------------------------------------------------

    async def status(self, *, brief: bool = False) -> dict[str, Any]:
        """Return what ``status --json`` tells, and whether and why not everything works; briefly: no outlook."""
        parts, store, pipeline = self._life.running()
        status = await status_of(
            store,
            parts.settings,
            parts.targets,
            now=self._life.clock.now(),
            owner=Owner(True, os.getpid()),
            live={name: source.health for name, source in pipeline.intake.sources.items()},
            arrivals=_arrivals(pipeline),
            store_trouble=pipeline.store_trouble,
            brief=brief,
        )
        not_ready = self.not_ready()
        return {**status, "ready": not not_ready, "reasons": list(dict.fromkeys(not_ready + pipeline.troubles))}

    async def metrics(self) -> bytes:
        """Return the text of ``/metrics``."""
        from listener.daemon.metrics import Gauges, exposition  # noqa: PLC0415 - only where somebody scrapes

        _, store, pipeline = self._life.running()
        status = await self.status(brief=True)
        await self._freshness.look(store)
        gauges = Gauges(
            longest_commit_seconds=store.longest_group_seconds,
            loop_late_seconds=self._life.heart.late_seconds,
            state_bytes=await store.read(_size_bytes),
            watches_limit=await asyncio.to_thread(_watches_limit),
            accounts_open={engine.account.name: not engine.account.closed_reason for engine in pipeline.engines},
        )
        return exposition(status, gauges, self._freshness)

    # -- for people ------------------------------------------------------------------------------

    async def glance(self) -> Glance:
        """Return what the status page shows."""
        _, store, _ = self._life.running()
        await self._freshness.look(store)
        status = await self.status(brief=True)
        for changing in ("at", "oldest_unsettled_seconds"):
            del status[changing]
        for source in status["sources"].values():
            del source["told_at"]
        return Glance(
            status=status,
            ahead=await self._ahead(),
            since=await store.read(oldest),
            letters=await self.letters(EVERY_LETTER),
            recent=await store.history(limit=SHOWN),
            spans=self._freshness.spans(),
        )

    async def letters(self, wanted: LetterFilter) -> LetterPage:
        """Return a page of dead letters. Raise ConfigurationError for a place to go on that is none."""
        _, store, _ = self._life.running()
        try:
            rows = await store.dead_letters(wanted, limit=LETTERS_SHOWN + 1)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return LetterPage(
            wanted=wanted,
            rows=rows[:LETTERS_SHOWN],
            has_more=len(rows) > LETTERS_SHOWN,
            dropped=await store.dropped_letters(),
        )

    async def _ahead(self) -> Mapping[str, Outlook]:
        """Return what lies ahead of each target's account; the planner is asked every so often."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_ahead_at >= AHEAD_SECONDS:
            parts, store, pipeline = self._life.running()
            found = await outlooks(
                store, parts.settings, parts.targets, now=self._life.clock.now(), arrivals=_arrivals(pipeline)
            )
            self._outlooks = {name: found[target.account] for name, target in parts.targets.items()}
            self._looked_ahead_at = asyncio.get_running_loop().time()
        return self._outlooks

    async def search(self, asked: str) -> Answer:
        """Return whether this URL is stale, and why."""
        parts, store, pipeline = self._life.running()
        try:
            url = normal_url(asked.strip())
        except ValueError as error:
            return Answer(asked=asked, problem=str(error))
        return Answer(
            asked=asked,
            url=url,
            needs=await stale_of(store, parts.targets, self._life.clock.now(), Owner(True, os.getpid()), url=url),
            attempts=await store.history(limit=SHOWN // 2, url=url),
            targets=pipeline.targets_of(url),
            suppressed=await store.suppressed(url),
        )

    # -- what people decide ----------------------------------------------------------------------

    async def retry(self, letter: str) -> Decided:
        """Send a parked URL once more, by its letter's id."""
        return await self._decide(letter, retrying=True)

    async def discard(self, letter: str) -> Decided:
        """Forget what was set aside, by its id."""
        return await self._decide(letter, retrying=False)

    async def _decide(self, id_: str, *, retrying: bool) -> Decided:
        _, store, _ = self._life.running()
        letter = await store.dead_letter(id_)
        if letter is None:
            return Decided(id_, 0)
        return Decided(
            letter.subject, await (store.retry(letter.subject) if retrying else store.discard(letter.subject))
        )

    async def refresh(self, asked: str) -> Decided:
        """Make a URL's needs, due at once. Raise ConfigurationError for what no site serves."""
        _, store, pipeline = self._life.running()
        url = normal_or_refused(asked.strip())
        targets = pipeline.targets_serving(url)
        await store.request([NeedInput(target, url, Scope.EXACT) for target in targets], reason=REASON)
        return Decided(url, len(targets))


def _arrivals(pipeline: Pipeline) -> dict[str, Arrivals]:
    return {engine.account.name: engine.account.arrivals for engine in pipeline.engines}


def _watches_limit() -> int | None:
    try:
        return int(WATCHES_LIMIT.read_bytes())
    except (OSError, ValueError):
        return None


def _size_bytes(connection: Any) -> int:
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)
