"""
Probes after completion: whether visitors get what a complete refresh should have brought, and what is done if not.

::

    complete ──after_seconds──▶ probe ──fresh or unknown──▶ counted
                                  │ stale, and no newer change waits
                                  ▼
                 the origin, where ``origin_url`` says where it is
        old copy │                              │ the change, or not known
                 ▼                              ▼
    a problem is reported; wait        a problem is reported; still stale a while later:
    until it serves the change         refreshed once more, within ``repeat_share``
                 └──────────▶ refresh ◀─────────┘

Each change is refreshed once more at most once an hour, and all of them within the share: an edge that ignores
refreshes is a problem for people, not for the quota. What is stale is probed again, ever more rarely, until it is
fresh.

Completions are noted in memory and probed by a task of their own, so that nothing here delays a refresh. A restart
forgets what waits to be probed; what was spent of the share is counted from the audit trail.

This module is imported only where ``verifier.edge.mode`` is not ``off``.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import structlog

from listener.change import Change
from listener.clock import Clock
from listener.contracts import Target
from listener.edge.answers import Answer
from listener.edge.prober import NoAnswer, Probe, Prober, origin_place
from listener.edge.verdict import STALE, UNKNOWN, Expected, judge
from listener.errors import ConfigurationError, KeyRejected, StoreError
from listener.pipeline.repeating import REPEATED, RepeatShare
from listener.refresh import SCOPE_OF_KIND, Attempt, NeedInput, RefreshKind, Scope
from listener.router.routing import Served, Sites, served_by
from listener.settings import Settings
from listener.settings.edge import BY_NAME, Edge
from listener.store import Store

__all__ = ["EdgeWatch"]

log = structlog.get_logger()

MOST_WAITING: Final = 100_000
"""URLs that wait to be probed with ``mode = "all"``; with ``sample`` those of one minute."""
AT_ONCE: Final = 8
OF_A_DIRECTORY: Final = 4
"""URLs that are probed of one directory refresh, of the first :data:`LOOKED_AT` objects in it."""
LOOKED_AT: Final = 200
CONFIRM_FACTOR: Final = 3.0
"""A stale edge is probed again after so many times ``after_seconds``, and refreshed once more if it still is."""
RETRY_SECONDS: Final = 30.0
"""When the store does not answer."""
REPEAT_SECONDS: Final = 3600.0
"""A URL that did not change is not refreshed once more again before."""
FIRST_LOOK_SECONDS: Final = 60.0
LAST_LOOK_SECONDS: Final = 3600.0
"""What stays stale is probed after a minute, two, four and so on."""
ORIGIN_LOOK_SECONDS: Final = 15.0
"""An origin that serves the old copy is asked again so much later, and ever more rarely."""
MOST_STALE: Final = 1_000
"""Stale URLs that are kept for one edge; of more the count goes on."""
MOST_UNKNOWN: Final = 20
"""The latest unknown ones, which are shown."""


@dataclass(frozen=True, slots=True)
class _Watched:
    """One URL that is to be probed."""

    target: str
    url: str
    scope: Scope
    changed_at: float | None
    """The oldest change that the refresh covered, in seconds since the epoch."""
    validators_advanced: bool = True
    is_confirming: bool = False
    """Whether it was stale at the last probe, and is refreshed once more if it still is."""
    looks: int = 0
    """How often it was probed since it was found stale and could not be refreshed."""
    waits_since: float | None = None
    """Since when it waits for the origin to serve the change, in seconds since the epoch."""


class _Found(NamedTuple):
    """One stale copy."""

    since: float
    words: str
    """What the edge or origin serves."""


class EdgeWatch:
    """Probes what was refreshed, for one process; in memory but for what is spent."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        sites: Sites,
        targets: Mapping[str, Target],
        clock: Clock,
        *,
        changed: Callable[[], None],
    ) -> None:
        """Take what is known; ``changed`` is called when a problem comes or goes."""
        self._settings = settings
        self._options = settings.verifier.edge
        self._store = store
        self._sites = sites
        self._targets = targets
        self._clock = clock
        self._changed = changed
        self._share = RepeatShare(targets, self._options.repeat_share)
        self._edges: Sequence[Edge] = self._options.addresses or (BY_NAME,)
        self._waiting: dict[tuple[str, str], tuple[float, int, _Watched]] = {}
        """By target and URL: when it is due by the loop's clock, its number, and what is watched."""
        self._due: list[tuple[float, int, tuple[str, str]]] = []
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._repeated: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When a URL was refreshed once more, in seconds since the epoch."""
        self._counts: Counter[str] = Counter()
        self._stale: dict[Edge, OrderedDict[str, _Found]] = {}
        self._late_origins: OrderedDict[str, _Found] = OrderedDict()
        self._unknown: deque[dict[str, str]] = deque(maxlen=MOST_UNKNOWN)

    # -- what is to be probed --------------------------------------------------------------------

    def note(self, complete: Sequence[Attempt]) -> None:
        """Take up attempts that were just completed; nothing is done here but to remember them."""
        for attempt in complete:
            if attempt.kind is RefreshKind.PREFETCH:
                continue
            if not attempt.reason.startswith(REPEATED):
                self._repeated.pop((attempt.target, attempt.url), None)  # a new change may be repeated, too
            limits = self._targets[attempt.target].limits.get(attempt.kind)
            one = _Watched(
                attempt.target,
                attempt.url,
                SCOPE_OF_KIND[attempt.kind],
                attempt.stale_since,
                # Evicted though it need not be: the change left the validators as they were.
                validators_advanced=not attempt.force or limits is None or limits.forces(),
            )
            self._put(one, self._options.after_seconds)

    def _put(self, one: _Watched, seconds: float) -> None:
        """Probe this so much later, instead of when the same URL was to be probed."""
        key = one.target, one.url
        if key not in self._waiting and len(self._waiting) >= self._room():
            self._counts["left_out"] += 1
            place = random.randrange(2 * len(self._due))  # noqa: S311 - no secret; any is as likely to be left out
            if place >= len(self._due) or self._waiting.pop(self._due[place][2], None) is None:
                return
        at, number = asyncio.get_running_loop().time() + seconds, next(self._numbers)
        self._waiting[key] = at, number, one
        heapq.heappush(self._due, (at, number, key))
        self._wake.set()

    def _room(self) -> int:
        return MOST_WAITING if self._options.mode == "all" else max(1, round(self._options.per_minute))

    async def run(self) -> None:
        """Probe what is due, for ever."""
        await self._count_spent()
        edge = self._options
        prober = Prober(
            sites=[base for site in self._settings.sites for base in site.base_urls],
            origins=[site.origin_url for site in self._settings.sites if site.origin_url],
            stated=edge.addresses,
            per_minute=edge.per_minute,
            clock=self._clock,
        )
        lanes = asyncio.Semaphore(AT_ONCE)
        async with prober, asyncio.TaskGroup() as tasks:
            while True:
                await lanes.acquire()
                one = await self._next()
                task = tasks.create_task(self._attend(prober, one), name=f"probe {one.url}")
                task.add_done_callback(lambda _: lanes.release())

    async def _next(self) -> _Watched:
        """Return what is due next, once it is."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            while self._due and self._waiting.get(self._due[0][2], (0.0, -1))[1] != self._due[0][1]:
                heapq.heappop(self._due)  # was put off, or left out
            left = self._due[0][0] - loop.time() if self._due else None
            if left is not None and left <= 0:
                return self._waiting.pop(heapq.heappop(self._due)[2])[2]
            try:
                async with asyncio.timeout(left):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _count_spent(self) -> None:
        try:
            self._share.learn(await self._store.history(limit=RepeatShare.LEARNED_ROWS))
        except StoreError as error:
            log.warning("edge.share_unknown", error=str(error))

    # -- what was found --------------------------------------------------------------------------

    async def _attend(self, prober: Prober, one: _Watched) -> None:
        """Probe one URL, and do what follows from it; an observer must not end what it observes."""
        try:
            await self._observe(prober, one)
        except StoreError:
            self._put(one, RETRY_SECONDS)
        except Exception as error:  # noqa: BLE001
            log.error("edge.probe_failed", url=one.url, error=f"{type(error).__name__}: {error}")

    async def _observe(self, prober: Prober, one: _Watched) -> None:
        if one.scope is Scope.SUBTREE:
            for below in await self._below(one):
                self._put(below, 0.0)
            return
        try:
            served = served_by(self._settings.sites, one.url, target=one.target)
        except ConfigurationError:
            return  # the site is gone
        if served.site.targets[-1] != one.target:
            return  # visitors get what the outermost layer serves
        expected = await self._expected(served, one)
        if one.waits_since is not None and await self._is_origin_late(prober, served, expected):
            self._wait_for_origin(one)
            return
        probes = [await prober.probe(one.url, expected, edge=edge) for edge in self._edges]
        stale = [probe for probe in probes if probe.verdict.state == STALE]
        if stale and await self._store.explain(one.url):
            return  # it changed again: that refresh is probed
        for probe in probes:
            self._note(probe)
        if stale:
            await self._act(prober, served, expected, one)
            return
        self._origin_serves(one.url)
        if any(one.url in kept for kept in self._stale.values()):
            self._look_again(one)  # an edge that was stale is unknown now

    async def _below(self, one: _Watched) -> list[_Watched]:
        """Return some URLs of a directory that was refreshed."""
        found: list[_Watched] = []
        for root, prefix in self._sites.router.key_prefixes(one.target, one.url):
            page = await self._store.directory_page(root, prefix, None, limit=LOOKED_AT)
            for name, _ in random.sample(page, min(len(page), OF_A_DIRECTORY)):
                try:
                    needs = self._sites.route(Change(root, prefix + name))
                except KeyRejected:
                    continue
                found += [
                    replace(one, url=need.url, scope=need.scope)
                    for need in needs
                    if need.target == one.target and need.scope is not Scope.SUBTREE
                ]
        return found

    async def _expected(self, served: Served, one: _Watched) -> Expected:
        """Return what visitors should get by the index."""
        keys = served.keys
        if not keys:
            return Expected()
        known = await self._store.objects(served.site.source, keys)
        held = next((known[key] for key in keys if key in known), None)
        if held is None:
            return Expected(is_deleted=True, changed_at=one.changed_at)
        # A request of a person, or one more refresh, counts as a change: only the storage knows the time of the last.
        at = None if held.mtime_ns is None else held.mtime_ns / 1e9
        if at is not None and one.changed_at is not None:
            at = min(at, one.changed_at)
        return Expected(held, changed_at=at, validators_advanced=one.validators_advanced, may_be_behind=True)

    def _note(self, probe: Probe) -> None:
        """Count a probe, and keep what is stale or unknown."""
        state, edge = probe.verdict.state, probe.edge
        self._counts[state] += 1
        if state == UNKNOWN:
            self._unknown.append({"url": probe.url, "edge": str(edge), "reason": probe.verdict.reason})
            return
        kept = self._stale.setdefault(edge, OrderedDict())
        if state != STALE:
            if kept.pop(probe.url, None) is not None:
                log.info("edge.fresh_again", url=probe.url, edge=str(edge))
                self._changed()
            return
        now, words = self._clock.now(), f"{probe.verdict.reason}{_copy(probe.answer, self._clock.now())}"
        if probe.url not in kept:
            log.warning("edge.stale", url=probe.url, edge=str(edge), reason=words)
            self._changed()
        kept[probe.url] = _Found(kept[probe.url].since if probe.url in kept else now, words)
        while len(kept) > MOST_STALE:
            kept.popitem(last=False)

    async def _act(self, prober: Prober, served: Served, expected: Expected, one: _Watched) -> None:
        """Decide what becomes of a URL that an edge serves stale."""
        if one.waits_since is None and await self._is_origin_late(prober, served, expected):
            self._wait_for_origin(replace(one, waits_since=self._clock.now()))
            return
        if one.waits_since is not None:
            self._origin_serves(one.url)  # and the edge fetched before it did
            if await self._repeat(one, "the origin served the old copy when the edge fetched it"):
                return
        elif not one.is_confirming and not one.looks:
            self._put(replace(one, is_confirming=True), CONFIRM_FACTOR * self._options.after_seconds)
            return
        elif await self._repeat(one, "an edge still serves the old copy"):
            return
        self._look_again(one)

    def _look_again(self, one: _Watched) -> None:
        """Probe it later, ever more rarely."""
        seconds = min(LAST_LOOK_SECONDS, FIRST_LOOK_SECONDS * 2**one.looks)
        self._put(replace(one, is_confirming=False, looks=min(one.looks + 1, 10), waits_since=None), seconds)

    async def _repeat(self, one: _Watched, why: str) -> bool:
        """Request one more refresh; return whether that is allowed."""
        key, now = (one.target, one.url), self._clock.now()
        while self._repeated and next(iter(self._repeated.values())) < now - REPEAT_SECONDS:
            self._repeated.popitem(last=False)
        if key in self._repeated:
            return False
        if not await self._share.take(self._store, one.target, one.scope, now=now):
            self._counts["not_repeated"] += 1
            log.warning("edge.share_spent", url=one.url, target=one.target)
            return False
        self._repeated[key] = now
        self._counts["repeated"] += 1
        log.info("edge.repeated", url=one.url, target=one.target, reason=why)
        await self._store.request([NeedInput(one.target, one.url, one.scope)], reason=f"{REPEATED}: {why}")
        return True

    # -- the origin ------------------------------------------------------------------------------

    async def _is_origin_late(self, prober: Prober, served: Served, expected: Expected) -> bool:
        """Return whether the origin serves the old copy, as far as is known."""
        if not served.site.origin_url:
            return False
        url, host = origin_place(served.site.origin_url, served.url, served.base)
        try:
            answer = await prober.ask(url, host=host)
        except NoAnswer:
            return False
        verdict = judge(expected, answer, now=self._clock.now())
        if verdict.state != STALE:
            return False
        kept = self._late_origins.get(served.url)
        words = f"{verdict.reason}{_copy(answer, self._clock.now())}"
        if kept is None:
            log.warning("edge.origin_stale", url=served.url, reason=words)
        self._late_origins[served.url] = _Found(self._clock.now() if kept is None else kept.since, words)
        while len(self._late_origins) > MOST_STALE:
            self._late_origins.popitem(last=False)
        self._changed()
        return True

    def _wait_for_origin(self, one: _Watched) -> None:
        assert one.waits_since is not None
        waited = self._clock.now() - one.waits_since
        self._put(one, min(LAST_LOOK_SECONDS, max(ORIGIN_LOOK_SECONDS, waited / 4)))

    def _origin_serves(self, url: str) -> None:
        if self._late_origins.pop(url, None) is not None:
            self._changed()

    # -- what people see -------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Return what was found as plain data, for the JSON of ``status``."""
        names = ("fresh", "stale", "unknown", "left_out", "repeated", "not_repeated")
        stale = {str(edge): len(self._stale.get(edge, ())) for edge in self._edges}
        return {
            **{name: self._counts[name] for name in names},
            "waiting": len(self._waiting),
            "stale_urls": stale,
            "late_origins": len(self._late_origins),
            "latest_unknown": list(self._unknown),
        }

    def problems(self) -> list[tuple[str, float | None, str]]:
        """Return what is wrong, since when, and what to do."""
        found: list[tuple[str, float | None, str]] = []
        for edge, kept in self._stale.items():
            if kept:
                url, one = min(kept.items(), key=lambda item: item[1].since)
                where = "the edge" if edge == BY_NAME else f"edge {edge}"
                what = f"{where} serves {_urls(len(kept))} stale after complete refreshes, such as {url}: {one.words}"
                option = "" if edge == BY_NAME else f" --edge {edge}"
                found.append(
                    (what, one.since, f"compare: cdn-listener probe {url}{option}; then see the CDN's support")
                )
        if self._late_origins:
            url, one = next(iter(self._late_origins.items()))
            count = _urls(len(self._late_origins))
            what = f"the origin still serves {count} as before the change, such as {url}: {one.words}"
            remedy = "bring the origin up to date; it is refreshed once more when it serves the change"
            found.append((what, one.since, remedy))
        return found


def _urls(count: int) -> str:
    return f"{count} URL{'' if count == 1 else 's'}"


def _copy(answer: Answer | None, now: float) -> str:
    """Return which copy was served, as far as is known."""
    if answer is None:
        return ""
    if answer.modified_at is not None:
        return f" (the copy of {_moment(answer.modified_at)})"
    return "" if answer.age_seconds is None else f" (fetched at {_moment(now - answer.age_seconds)})"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
