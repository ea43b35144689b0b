"""How far a backfill is: the figures of one moment, worked out of what the store and the feed say."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from listener.backfill.types import BackfillPlan
from listener.contracts import Target
from listener.refresh import RefreshKind
from listener.store import Store

__all__ = ["Figures", "Watch"]

RATE_SECONDS = 30.0
"""The rate is that of so long."""


class _Listed(Protocol):
    @property
    def listed(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One moment of a backfill."""

    listed: int
    """Keys whose needs are durable."""
    total: int
    """Keys that there are."""
    planned: int
    """URLs asked for up to now."""
    waiting: int
    """Needs in no attempt, those of others included."""
    sent: int
    """Quota units spent since it began, by everybody on the account."""
    done: int
    """URLs of which nothing is left to do."""
    per_second: float
    """URLs that were done, lately."""
    seconds_left: float | None
    """At that rate; None where nobody can say."""
    quota_left: dict[str, int] = field(default_factory=dict)
    """By kind, of the account that has least."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "listed": self.listed,
            "total": self.total,
            "planned": self.planned,
            "waiting": self.waiting,
            "sent": self.sent,
            "done": self.done,
            "per_second": round(self.per_second, 1),
            "seconds_left": None if self.seconds_left is None else round(self.seconds_left),
            "quota_left": self.quota_left,
        }


class Watch:
    """Looks now and then, and remembers how it went."""

    def __init__(self, feed: _Listed, store: Store, plan: BackfillPlan, targets: dict[str, Target]) -> None:
        """Take what to look at."""
        self._feed = feed
        self._store = store
        self._urls = plan.cost.urls
        before = plan.begun.listed if plan.begun else 0
        self._before = before
        self.total = plan.cost.objects + before
        self._accounts = {target.account: target for target in targets.values()}
        self._spent_before: int | None = None
        self._done: deque[tuple[float, int]] = deque()

    async def look(self, *, now: float) -> Figures:
        """Return the figures of this moment; ``now`` is any clock that only goes forward, in seconds."""
        counts = await self._store.counts()
        left, spent = await self._quota()
        if self._spent_before is None:
            self._spent_before = spent
        fresh = max(0, self._feed.listed - self._before)
        share = fresh / (self.total - self._before) if self.total > self._before else 1.0
        planned = round(self._urls * min(1.0, share))
        done = max(0, planned - counts.pending - counts.in_flight - counts.failed)
        rate = self._rate(done, now)
        return Figures(
            listed=self._feed.listed,
            total=self.total,
            planned=planned,
            waiting=counts.pending,
            sent=max(0, spent - self._spent_before),
            done=done,
            per_second=rate,
            seconds_left=(self._urls - done) / rate if rate > 0 else None,
            quota_left=left,
        )

    async def _quota(self) -> tuple[dict[str, int], int]:
        left: dict[str, int] = {}
        spent = 0
        for account, target in self._accounts.items():
            for kind in (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.PREFETCH):
                if kind in target.quota:
                    budget = await self._store.budget(account, kind, default=target.quota[kind])
                    left[kind.value] = min(left.get(kind.value, budget.left), budget.left)
                    spent += budget.spent
        return left, spent

    def _rate(self, done: int, now: float) -> float:
        self._done.append((now, done))
        while len(self._done) > 2 and self._done[0][0] < now - RATE_SECONDS:
            self._done.popleft()
        (at, before), span = self._done[0], now - self._done[0][0]
        return (done - before) / span if span > 0 and at < now else 0.0
