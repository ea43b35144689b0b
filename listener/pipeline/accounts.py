"""What is known of each CDN account apart from its ledger: whether it may be sent to now, and what it may spend."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from listener.allowances import DAY_SECONDS, Allowance, Window, is_reset_near
from listener.contracts import Pace, Target, evicts_directories
from listener.planner import Arrivals
from listener.refresh import Priority, RefreshKind, Scope
from listener.store.controls import AccountReport, Spender

__all__ = [
    "CAREFUL_URLS",
    "EVICTION_SECONDS",
    "EXHAUSTED_MOST_SECONDS",
    "QUOTA_RETRY_SECONDS",
    "RESET_GUARD_SECONDS",
    "Account",
    "accounts_of",
    "counted_since",
]


RESET_GUARD_SECONDS = 15.0
"""Nothing is sent so close to a reset: the CDN might book it in another window than we do."""
BACKFILL_LANES = 2
"""Of its lanes a backfill may have so many, but not all: what changes now finds another one free."""
CAREFUL_BATCHES = 3
CAREFUL_URLS = 10
"""After an unclean start the first batches are this small: should something be wrong, little is spent on it."""
EXHAUSTED_MOST_SECONDS = 300.0
EVICTION_SECONDS = 60.0
"""The span in which the evictions that an origin bears are counted."""
QUOTA_RETRY_SECONDS = 10.0
"""Until the live quota is read again where nothing is sent without it."""
QUOTA_REASON = "the database lost commits, maybe of what was spent: the live quota is read before anything is sent"
QUOTA_REMEDY = "nothing to do, unless the live quota cannot be read"
_PACED = (Scope.EXACT, Scope.SUBTREE)
"""What file and directory tokens are spent on."""


def accounts_of(targets: Mapping[str, Target]) -> dict[str, Account]:
    """Return the accounts that these targets belong to, by name."""
    accounts: dict[str, Account] = {}
    for name, target in targets.items():
        accounts.setdefault(target.account, Account(target.account, {})).targets[name] = target
    return accounts


def counted_since(targets: Collection[Target], now: float) -> float:
    """Return when the oldest window began that counts for any of these targets, in seconds since the epoch."""
    firsts = (one.window.first(now) for target in targets for one in target.allowances)
    return min((first for first in firsts if first), default=math.inf)  # one that has no beginning has one row


class FullWindow(NamedTuple):
    """
    A kind of which nothing is sent: its rate limit is used up, or the plan has none.

    Times in seconds since the epoch.
    """

    until: float
    since: float
    reason: str
    """What the CDN said."""
    remedy: str = ""
    """What a person must do; empty where it is enough to wait."""


@dataclass(slots=True)
class Account:
    """One CDN account: its targets, its slots, and what stands in the way of sending."""

    name: str
    targets: dict[str, Target]
    careful: int = 0
    """Small batches still to be sent."""
    closed_until: float = 0.0
    """Seconds since the epoch."""
    closed_reason: str = ""
    closed_since: float | None = None
    """Since when nothing could be sent, in seconds since the epoch."""
    remedy: str = ""
    """What the CDN's answer, or its silence, suggests to do."""
    misconfigured: str = ""
    """Why no request can succeed until a person corrects key, permission, account or clock; empty: none is known."""
    has_succeeded: bool = False
    """Whether a request succeeded in this process: a live quota that may not be read is no wrong key then."""
    quota_trouble: tuple[float, str, str] | None = None
    """Since when the live quota cannot be read, why, and what to do."""
    troubles: int = 0
    """Refusals in a row; the wait doubles with each."""
    quota_read_at: float = 0.0
    needs_quota: bool = False
    """Whether nothing is sent before the live quota was read: the ledger lacks what was spent."""
    losses_settled: Callable[[], None] = lambda: None
    """Called once the ledger is right again after commits were lost."""
    spenders: Sequence[Spender] = ()
    """Who spent much of its quota within the last hour."""
    arrivals: Arrivals = field(default_factory=Arrivals)
    """What became due of late; learned from the attempts when a process starts."""
    _unfinished: dict[str, tuple[float, str]] = field(default_factory=dict)
    """By target: since when some of its caches do not do what is sent to them, and why."""
    _refused: dict[str, float] = field(default_factory=dict)
    _exhausted: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By allowance: until when nothing that spends it is sent, and how often that was refused in a row."""
    _full: dict[RefreshKind, FullWindow] = field(default_factory=dict)
    _evicted: deque[tuple[float, str, int]] = field(default_factory=deque)
    """When directory refreshes were made, for which site, and what they evict; of the last minute."""
    lanes: int = field(init=False)
    """Requests under way at once: as many as the target takes that takes most."""
    _slots: asyncio.Semaphore = field(init=False)
    _backfill_slots: asyncio.Semaphore = field(init=False)
    _exclusive: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        """Open the lanes."""
        self.lanes = max((target.pace.lanes for target in self.targets.values()), default=Pace().lanes)
        self._slots = asyncio.Semaphore(self.lanes)
        self._backfill_slots = asyncio.Semaphore(max(1, min(BACKFILL_LANES, self.lanes - 1)))

    @property
    def any_target(self) -> Target:
        """Return one of its targets: what may be spent is the same behind each."""
        return next(iter(self.targets.values()))

    @property
    def allowances(self) -> tuple[Allowance, ...]:
        """Return what it may spend: of each name one, with the lowest limit and the highest costs of its targets."""
        found: dict[str, Allowance] = {}
        for one in (one for target in self.targets.values() for one in target.allowances):
            before = found.setdefault(one.name, one)
            if (before.costs, before.limit) != (one.costs, one.limit):
                kinds = (*before.costs, *one.costs)
                costs = {kind: max(before.costs.get(kind, 0), one.costs.get(kind, 0)) for kind in kinds}
                found[one.name] = replace(before, limit=min(before.limit, one.limit), costs=costs)
        return tuple(found.values())

    @property
    def kinds(self) -> frozenset[RefreshKind]:
        """Return the kinds of request that one of its targets can do."""
        return frozenset(kind for target in self.targets.values() for kind in target.limits)

    def spends(self, kind: RefreshKind) -> tuple[Allowance, ...]:
        """Return the allowances that a request of this kind spends; none where it is unlimited."""
        return tuple(one for one in self.allowances if kind in one.costs)

    def is_past(self, kind: RefreshKind, reserved_at: float, now: float) -> bool:
        """Return whether what was reserved then, for a request of this kind, was reserved in a window that is over."""
        return any(one.window.start(reserved_at) != one.window.start(now) for one in self.spends(kind))

    @property
    def forces(self) -> bool:
        """Whether a directory refresh by any of its targets evicts what did not change, too."""
        return all(map(evicts_directories, self.targets.values()))

    def evicts(self, target: str) -> bool:
        """Return whether a directory refresh by this target evicts what did not change, too."""
        return evicts_directories(self.targets[target])

    def can(self, target: str, kind: RefreshKind) -> bool:
        """Return whether one of its targets can be asked for this kind."""
        return kind in self.targets[target].limits

    def copy(self) -> Account:
        """Return what is known now, for another thread to read while this one goes on."""
        return replace(
            self,
            _refused=dict(self._refused),
            _exhausted=dict(self._exhausted),
            _full=dict(self._full),
            _evicted=deque(self._evicted),
        )

    def close(self, until: float, reason: str, *, now: float, remedy: str = "") -> None:
        """Send nothing until then (seconds since the epoch), for this reason."""
        if self.closed_since is None:
            self.closed_since = now
        self.closed_until, self.closed_reason, self.remedy = until, reason, remedy

    def throttled(self, now: float, wait_seconds: float, reason: str) -> None:
        """Close it for as long as the CDN demands; what was under way meanwhile is no further trouble."""
        self._count_trouble(now)
        remedy = "nothing to do: it is tried again when the CDN allows it"
        self.close(max(self.closed_until, now + wait_seconds), reason, now=now, remedy=remedy)

    def _count_trouble(self, now: float) -> None:
        if now >= self.closed_until:
            self.troubles = min(self.troubles + 1, 32)

    def exhausted(self, allowances: Iterable[str], now: float) -> float:
        """Send nothing that spends these, since that is refused, for a time that doubles; return that in seconds."""
        longest = 0.0
        for name in allowances:
            until, refusals = self._exhausted.get(name, (0.0, 0))
            wait = min(EXHAUSTED_MOST_SECONDS, 2.0**refusals)
            longest = max(longest, wait)
            if now >= until:
                self._exhausted[name] = (now + wait, min(refusals + 1, 32))
        return longest

    def exhausted_until(self, kind: RefreshKind) -> float:
        """Return until when nothing of this kind is sent, in seconds since the epoch."""
        return max((self._exhausted.get(one.name, (0.0, 0))[0] for one in self.spends(kind)), default=0.0)

    def is_exhausted(self, allowance: Allowance, now: float) -> bool:
        """Return whether nothing that spends this allowance is sent now, since that is refused."""
        return self._exhausted.get(allowance.name, (0.0, 0))[0] > now

    def window_full(self, kind: RefreshKind, until: float, reason: str, *, now: float, remedy: str = "") -> None:
        """Send nothing of a kind until then (seconds since the epoch); all others go on."""
        before = self._full.get(kind, FullWindow(until, now, reason))
        self._full[kind] = FullWindow(max(until, before.until), before.since, reason, remedy)

    def full(self, now: float) -> dict[RefreshKind, FullWindow]:
        """Return the kinds whose rate limit is used up."""
        return {kind: found for kind, found in self._full.items() if found.until > now}

    def closed_until_for(self, kind: RefreshKind) -> float:
        """Return until when nothing of this kind is sent, whatever the account, in seconds since the epoch."""
        return max(self.exhausted_until(kind), self._full[kind].until if kind in self._full else 0.0)

    def waits_for_quota(self, now: float, patience: int) -> bool:
        """Return whether an allowance is closed that was not refused so often yet."""
        return any(now < until and refusals < patience for until, refusals in self._exhausted.values())

    def refuse(self, directory: str, now: float) -> None:
        """Note that the CDN refuses this directory, whatever it is asked for: until a reset, for a day at most."""
        ends = [one.window.end(now) for one in self.spends(RefreshKind.DIRECTORY)]
        self._refused = {url: at for url, at in self._refused.items() if at > now}
        self._refused[directory] = min([*ends, now + DAY_SECONDS])

    def refused(self, now: float) -> list[str]:
        """Return the directories that the CDN refused of late."""
        return [url for url, until in self._refused.items() if until > now]

    def promoted(self, counts: Mapping[tuple[str, Scope, Priority], int], now: float) -> None:
        """
        Remember how many needs became due at once, as far as they are this account's.

        By target, scope and priority: what only a backfill requests comes again at no hour, and is left out.
        """
        needs = sum(
            count
            for (name, scope, priority), count in counts.items()
            if name in self.targets and scope in _PACED and priority is Priority.LIVE
        )
        if needs:
            self.arrivals = self.arrivals.seen(now, needs)

    def evict(self, site: str, objects: int, now: float) -> None:
        """Note that a directory refresh of a site was made that evicts so many unchanged objects."""
        while self._evicted and not 0 <= now - self._evicted[0][0] < EVICTION_SECONDS:
            self._evicted.popleft()
        self._evicted.append((now, site, objects))

    def evicted(self, site: str, now: float) -> tuple[int, float]:
        """Return how much was evicted for a site within the last minute, and when the first of it was."""
        of_late = [one for one in self._evicted if 0 <= now - one[0] < EVICTION_SECONDS]
        mine = [(at, objects) for at, name, objects in of_late if name == site]
        return sum(objects for _, objects in mine), mine[0][0] if mine else now

    def set_back(self, seconds: float) -> None:
        """Follow a clock that was set back by so much."""
        self.closed_until -= seconds
        self.quota_read_at = 0.0
        self._exhausted = {}
        self._full = {}
        self._refused = {url: until - seconds for url, until in self._refused.items()}

    def record_failure(
        self,
        now: float,
        reason: str,
        *,
        first_seconds: float,
        most_seconds: float,
        remedy: str = "",
    ) -> float:
        """
        Close it for a time that doubles with every trouble; return that time in seconds.

        What was under way when it was closed is no further trouble, and opens it no earlier.
        """
        self._count_trouble(now)
        wait = min(most_seconds, first_seconds * 2.0 ** max(0, self.troubles - 1))
        self.close(max(self.closed_until, now + wait), reason, now=now, remedy=remedy)
        return wait

    def record_success(self, kind: RefreshKind) -> None:
        """Note that a request of this kind succeeded."""
        for one in self.spends(kind) if self._exhausted else ():
            self._exhausted.pop(one.name, None)
        self._full.pop(kind, None)
        self.troubles, self.misconfigured, self.has_succeeded = 0, "", True
        self._open()
        self.careful = max(0, self.careful - 1)

    def _open(self) -> None:
        self.closed_until, self.closed_reason, self.closed_since, self.remedy = 0.0, "", None, ""

    def refused_for_good(self, reason: str) -> None:
        """Note that no request can succeed until a person corrects something."""
        self.misconfigured = reason

    def try_again(self) -> None:
        """Send again at once: what was missing may be there now."""
        self.troubles, self.misconfigured = 0, ""
        self._open()

    def quota_read(self, now: float, *, is_idle: bool, is_reported: bool = True) -> None:
        """
        Note that the live quota was read: what nothing is left to send for is over, too.

        ``is_reported``: whether the CDN reports any, so that its answer proves that the credentials are right.
        """
        self.quota_trouble = None
        if is_reported and not self.closed_reason:
            self.misconfigured = ""
        if self.needs_quota:
            self.needs_quota = False
            self.losses_settled()
            self._open()
        if is_idle and now >= self.closed_until:
            self._open()

    def require_quota(self, now: float) -> None:
        """Send nothing before the live quota was read."""
        self.needs_quota = True
        self.close(now, QUOTA_REASON, now=now, remedy=QUOTA_REMEDY)

    def is_near_reset(self, now: float) -> bool:
        """Return whether nobody can say in which window the CDN books what happens now."""
        return any(self._is_near(one.window, now) for one in self.allowances)

    @property
    def guard_before_seconds(self) -> float:
        """Return how long before a reset nothing is sent any more: what is sent then may be counted after it."""
        return RESET_GUARD_SECONDS + max((target.pace.answer_seconds for target in self.targets.values()), default=0.0)

    def _is_near(self, window: Window, now: float) -> bool:
        return is_reset_near(window, now, RESET_GUARD_SECONDS, before_seconds=self.guard_before_seconds)

    def next_reset(self, now: float) -> float:
        """Return when units come back next, in seconds since the epoch; infinite where none do."""
        return min((one.window.end(now) for one in self.allowances), default=math.inf)

    def quota_unreadable(self, now: float, reason: str, remedy: str) -> None:
        """Note that the live quota could not be read."""
        self.quota_trouble = (self.quota_trouble[0] if self.quota_trouble else now, reason, remedy)

    def note_unfinished(self, target: str, reason: str, now: float) -> None:
        """Note why some of a target's caches did not do what was sent to them; without a reason that all did."""
        if reason:
            since, _ = self._unfinished.get(target, (now, ""))
            self._unfinished[target] = since, reason
        else:
            self._unfinished.pop(target, None)

    def report(self, deferred: Mapping[tuple[str, str], str], *, now: float) -> AccountReport:
        """Return what keeps it from sending, for every view; ``deferred``: why needs wait, by target and directory."""
        report = AccountReport(self.name, deferred=deferred, spenders=self.spenders)
        if self.closed_reason:
            return report._replace(
                problem=self.misconfigured or self.closed_reason,
                remedy=self.remedy,
                since=self.closed_since,
                until=self.closed_until or None,
            )
        if full := self.full(now):
            kind, one = min(full.items(), key=lambda each: each[1])
            remedy = one.remedy or "nothing to do: it goes on then, and other kinds meanwhile"
            problem = f"nothing of kind {kind.value} is sent: {one.reason}"
            return report._replace(problem=problem, remedy=remedy, since=one.since, until=one.until)
        if self._unfinished:
            target, (since, reason) = min(self._unfinished.items(), key=lambda one: one[1])
            return report._replace(
                problem=f"target {target} is refreshed in part: {reason}",
                remedy="mend that cache, or remove it from the configuration; the rest goes on, and this is sent again",
                since=since,
            )
        if self.quota_trouble is not None:
            since, reason, remedy = self.quota_trouble
            return report._replace(
                problem=self.misconfigured or f"the live quota cannot be read: {reason}",
                remedy=remedy,
                since=since,
            )
        return report._replace(problem=self.misconfigured)

    @property
    def batch_urls(self) -> int | None:
        """Return the bound on the next batch, if there is one."""
        return CAREFUL_URLS if self.careful else None

    def open_at(self, now: float) -> float:
        """Return the earliest time from ``now`` on at which something may be sent."""
        at = max(now, self.closed_until, now + QUOTA_RETRY_SECONDS if self.needs_quota else now)
        windows = [one.window for one in self.allowances]
        before = self.guard_before_seconds
        while near := [window for window in windows if self._is_near(window, at)]:
            at = max(window.start(at + before) + RESET_GUARD_SECONDS for window in near)
        return at

    @asynccontextmanager
    async def slot(self, priority: Priority = Priority.LIVE) -> AsyncIterator[None]:
        """Be one of the requests under way, once there is room; a backfill's requests never take all of it."""
        async with AsyncExitStack() as held:
            if priority is not Priority.LIVE:
                await held.enter_async_context(self._backfill_slots)
            async with self._exclusive:
                await held.enter_async_context(self._slots)
            yield

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Wait until no request is under way, and let none begin."""
        async with self._exclusive:
            taken = 0
            try:
                while taken < self.lanes:
                    await self._slots.acquire()
                    taken += 1
                yield
            finally:
                for _ in range(taken):
                    self._slots.release()
