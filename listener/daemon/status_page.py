"""What the admin port shows and does: the state of the daemon as plain data."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from listener.daemon.freshness import Freshness, PeriodFreshness
from listener.daemon.one_url import facts_of
from listener.daemon.state import (
    DaemonState,
    HealthCheck,
    health_checks,
    reasons_degraded,
    why_not_ready,
)
from listener.daemon.status import Known, status_of
from listener.errors import ConfigurationError
from listener.pipeline.outlook import Outlook, outlooks
from listener.router.routing import normal_or_refused
from listener.store import NeedInput
from listener.store.filtering import Suppressed
from listener.store.letters import EVERY_LETTER, DeadLetter, Dropped, LetterFilter
from listener.store.owner import Owner
from listener.store.report import Counts
from listener.store.staleness import StaleNeed
from listener.urls import normal_url

__all__ = ["Decision", "PageSnapshot", "StatusPage", "UrlStatus"]

SHOWN = 12
"""Rows of one list on the page."""
LETTERS_SHOWN = 25
"""Dead letters of one page."""
AHEAD_SECONDS = 10.0
"""How often to compute the outlook while somebody watches: it costs CPU and changes slowly."""
WATCHES_LIMIT = Path("/proc/sys/fs/inotify/max_user_watches")
REASON = "requested on the status page"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterPage:
    """One page of dead letters."""

    wanted: LetterFilter
    rows: Sequence[DeadLetter]
    has_more: bool
    dropped: Sequence[Dropped]


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSnapshot:
    """What the status page shows; two are equal when nothing visible changed."""

    status: Mapping[str, Any]
    """As ``status --json``, without its time and ages, which change by themselves."""
    ahead: Mapping[str, Outlook]
    """The outlook of each target's account."""
    since: Mapping[str, float]
    """The oldest change in each state, in seconds since the epoch."""
    letters: DeadLetterPage
    recent: Sequence[Mapping[str, Any]]
    spans: Mapping[str, PeriodFreshness]


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlStatus:
    """What is known about one URL."""

    searched: str
    """The text that was searched for."""
    url: str = ""
    problem: str = ""
    """Why it cannot be a URL of a site."""
    needs: Sequence[StaleNeed] = ()
    attempts: Sequence[Mapping[str, Any]] = ()
    targets: Sequence[str] = ()
    """The targets of a refresh; none where no site serves the URL."""
    suppressed: Suppressed | None = None
    """Changes for which no refresh was made."""


class Decision(NamedTuple):
    """The subject of a decision, and how many needs or dead letters it changed."""

    subject: str
    touched: int


class StatusPage:
    """Answers each request from the store and the pipeline; keeps only freshness figures and the last outlook."""

    def __init__(self, state: DaemonState) -> None:
        """Report on this state."""
        self._state = state
        self._freshness = Freshness(state)
        self._outlooks: Mapping[str, Outlook] = {}
        self._looked_ahead_at = -math.inf

    # -- for probes ------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether the loop runs and the store commits."""
        return self._state.loop_monitor.ok and self._state.writer_monitor.ok

    def not_ready(self) -> list[str]:
        """Return why changes may be missed, or are held back, at present; empty when none is."""
        return why_not_ready(self._state)

    def degraded(self) -> list[str]:
        """Return what sources that listen cannot see or do at present."""
        return reasons_degraded(self._state.pipeline)

    def health_checks(self) -> list[HealthCheck]:
        """Return every check with its reason."""
        state = self._state
        return health_checks(
            state.pipeline, state.loop_monitor, state.writer_monitor, state.phase, waits_for=state.store_error
        )

    # -- for machines ----------------------------------------------------------------------------

    async def status(self, *, brief: bool = False, counts: Counts | None = None) -> dict[str, Any]:
        """Return ``status --json``, whether the daemon is ready, and why not; ``brief`` leaves out the outlook."""
        parts, store, pipeline = self._state.running()
        status = await status_of(
            store,
            parts.settings,
            parts.targets,
            now=self._state.now(),
            owner=Owner(True, os.getpid()),
            known=Known.to(pipeline),
            brief=brief,
            counts=counts,
        )
        not_ready = self.not_ready()
        return {**status, "ready": not not_ready, "reasons": list(dict.fromkeys(not_ready + pipeline.troubles))}

    async def metrics(self) -> bytes:
        """Return the text of ``/metrics``."""
        from listener.daemon.metrics import Gauges, exposition  # noqa: PLC0415 - only where metrics are scraped

        _, store, pipeline = self._state.running()
        status = await self.status(brief=True)
        await self._freshness.update(store)
        gauges = Gauges(
            longest_commit_seconds=store.longest_group_seconds,
            loop_late_seconds=self._state.loop_monitor.late_seconds,
            state_bytes=await store.size_bytes(),
            missed_wake_ups=pipeline.lookout.missed_wake_ups,
            watches_limit=await asyncio.to_thread(_watches_limit),
            accounts_open={engine.account.name: not engine.account.closed_reason for engine in pipeline.engines},
        )
        return exposition(status, gauges, self._freshness)

    # -- for people ------------------------------------------------------------------------------

    async def snapshot(self) -> PageSnapshot:
        """Return what the status page shows."""
        _, store, _ = self._state.running()
        await self._freshness.update(store)
        counts = await store.counts()
        status = await self.status(brief=True, counts=counts)
        for changing in ("at", "oldest_unsettled_seconds"):
            del status[changing]
        for one in status["waits_for"].values():
            del one["oldest_seconds"]
        rows = [row for source in status["sources"].values() for row in (source, *source["instances"].values())]
        for changing_part in (*rows, *status["instances"]):
            changing_part.pop("told_at", None)
            changing_part.pop("heartbeat_seconds", None)
        return PageSnapshot(
            status=status,
            ahead=await self._ahead(),
            since=counts.since,
            letters=await self.letters(EVERY_LETTER),
            recent=await store.history(limit=SHOWN),
            spans=self._freshness.spans(),
        )

    async def letters(self, wanted: LetterFilter) -> DeadLetterPage:
        """Return a page of dead letters. Raise ConfigurationError for an ``after`` that is no id."""
        _, store, _ = self._state.running()
        try:
            rows = await store.dead_letters(wanted, limit=LETTERS_SHOWN + 1)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        return DeadLetterPage(
            wanted=wanted,
            rows=rows[:LETTERS_SHOWN],
            has_more=len(rows) > LETTERS_SHOWN,
            dropped=await store.dropped_letters(),
        )

    async def _ahead(self) -> Mapping[str, Outlook]:
        """Return the outlook of each target's account, computed at most every ``AHEAD_SECONDS``."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_ahead_at >= AHEAD_SECONDS:
            parts, store, pipeline = self._state.running()
            found = await outlooks(
                store, parts.settings, parts.targets, now=self._state.now(), arrivals=Known.to(pipeline).arrivals
            )
            self._outlooks = {name: found[target.account] for name, target in parts.targets.items()}
            self._looked_ahead_at = asyncio.get_running_loop().time()
        return self._outlooks

    async def search(self, text: str) -> UrlStatus:
        """Return whether this URL is stale, and why."""
        parts, store, pipeline = self._state.running()
        try:
            url = normal_url(text.strip())
        except ValueError as error:
            return UrlStatus(searched=text, problem=str(error))
        facts = await facts_of(
            store,
            parts.targets,
            pipeline.addresses(url),
            now=self._state.now(),
            owner=Owner(True, os.getpid()),
            limit=SHOWN // 2,
        )
        return UrlStatus(
            searched=text,
            url=url,
            needs=facts.needs,
            attempts=facts.attempts,
            targets=pipeline.targets_of(url),
            suppressed=facts.suppressed,
        )

    # -- what people decide ----------------------------------------------------------------------

    async def retry(self, letter: str) -> Decision:
        """Send a rejected URL again, by the id of its dead letter."""
        return await self._decide(letter, retrying=True)

    async def discard(self, letter: str) -> Decision:
        """Discard a dead letter, by its id."""
        return await self._decide(letter, retrying=False)

    async def _decide(self, id_: str, *, retrying: bool) -> Decision:
        _, store, _ = self._state.running()
        letter = await store.dead_letter(id_)
        if letter is None:
            return Decision(id_, 0)
        return Decision(
            letter.subject, await (store.retry(letter.subject) if retrying else store.discard(letter.subject))
        )

    async def refresh(self, text: str) -> Decision:
        """Make a URL's needs, due at once. Raise ConfigurationError for a URL that no site serves."""
        _, store, pipeline = self._state.running()
        url = normal_or_refused(text.strip())
        targets = pipeline.targets_serving(url)
        await store.request([NeedInput(target, *pipeline.asked(target, url)) for target in targets], reason=REASON)
        return Decision(url, len(targets))


def _watches_limit() -> int | None:
    try:
        return int(WATCHES_LIMIT.read_bytes())
    except (OSError, ValueError):
        return None
