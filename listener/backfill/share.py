"""
A part of each day's quota for backfills: what it does not cover is not asked for today.

A backfill that may have all of the quota makes every need at once and leaves the rest to the planner. One that has
only a share requests no more than that: of a listing in the order of keys it takes the next URLs, one token each,
and the directories that the planner chose for it, one token each whatever is below. The tokens are booked, durably,
before the needs are made; so a crash may waste some of the share, and never take more of it. Live changes find the
rest of the quota untouched, and no need of a backfill before them.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from listener.backfill.source import Admitted
from listener.change import Change, ChangeKind
from listener.clock import Clock, window_start
from listener.contracts import Target
from listener.errors import KeyRejected
from listener.pipeline.sites import Sites
from listener.refresh import QuotaReading, RefreshKind, Scope
from listener.store import Store
from listener.store.ownership import owner_of
from listener.store.upkeep import Progress, progress, save_progress

__all__ = ["Share", "share_left"]

MOST_WAITING = 2_000
"""Needs that may wait before more are made: what a domain takes in some minutes, so that the state file stays small."""
LONGEST_WAIT_SECONDS = 300.0
"""Where nothing is taken off the queue for so long, quota or the daemon stands still."""
OWNERLESS_SECONDS = 10.0
"""A daemon that is restarted owns the state file again sooner."""
QUOTA_SECONDS = 10.0
"""How long to wait for the live quota; where it cannot be read, the configured one counts."""

_KINDS = {
    Scope.EXACT: RefreshKind.FILE,
    Scope.ALL_PARAMS: RefreshKind.IGNORE_PARAMS,
    Scope.SUBTREE: RefreshKind.DIRECTORY,
    Scope.PREFETCH: RefreshKind.PREFETCH,
}
Purse = Counter[tuple[str, RefreshKind]]
"""Tokens by account and kind."""


def _row(account: str, kind: RefreshKind, now: float) -> str:
    return f"share of {account}, {kind.value}, {window_start(now)}"


async def share_left(
    store: Store | None,
    target: Target,
    kind: RefreshKind,
    share: float,
    *,
    reserve: float,
    now: float,
    live: QuotaReading | None = None,
) -> int:
    """
    Return how many tokens of a kind backfills may still take today.

    Of their share (0 to 1), and of what is left but for the reserve (0 to 1, which no prefetch minds) and for the
    needs that wait already. A ``live`` reading counts before what the ledger knows.
    """
    limit = target.quota[kind] if live is None else live.limit
    left, taken, pending = limit if live is None else live.remaining, None, 0
    if store is not None:
        budget = await store.budget(target.account, kind, default=limit)
        limit = budget.limit if live is None else limit
        left = budget.left if live is None else min(left, budget.left)
        taken = await store.progress(_row(target.account, kind, now))
        pending = (await store.counts()).pending
    kept = 0 if kind is RefreshKind.PREFETCH else math.ceil(limit * reserve)
    mine = math.floor(limit * share) - (taken.listed if taken else 0)
    return max(0, min(mine, left - kept - pending))


class Share:
    """See :class:`listener.backfill.source.Admission`: admits what the share of today pays for."""

    def __init__(
        self,
        root: str,
        store: Store,
        sites: Sites,
        targets: Mapping[str, Target],
        *,
        share: float,
        reserve: float,
        clock: Clock,
        prefetch: bool,
        refresh: bool,
        directories: Collection[str] = (),
    ) -> None:
        """
        Take what it admits for.

        Args:
            root: the source that is listed.
            store: where tokens are booked.
            sites: what a key becomes.
            targets: the configured targets.
            share: part of each day's quota, 0 to 1.
            reserve: the part that is left alone, 0 to 1.
            clock: tells the day.
            prefetch: whether each URL is fetched into the cache, too.
            refresh: whether each URL is refreshed.
            directories: prefixes of keys that are to be refreshed as a whole; none lies in another.
        """
        self.reason = ""
        self._root = root
        self._store = store
        self._sites = sites
        self._targets = targets
        self._share = share
        self._reserve = reserve
        self._clock = clock
        self._prefetch = prefetch
        self._refresh = refresh
        self._directories = set(directories)
        self._left: Purse = Counter()
        self._most: Purse = Counter()
        """What all backfills together may take today."""
        self._asked = False
        self._inside: str | None = None
        self._passed = 0
        self._last = ""

    async def admit(self, portion: Sequence[Change]) -> Admitted:
        """Take from the portion what today's share pays for, in order."""
        await self._room()
        if self.reason:
            return Admitted(0, (), (), None)
        while True:
            await self._look()
            begun = self._inside, self._passed, self._last
            admitted, cost = self._choose(portion)
            if await self._store.write(_book, cost, self._most, now=self._clock.now()):
                return admitted
            # Another backfill was quicker: choose again from what it left.
            (self._inside, self._passed, self._last), self.reason = begun, ""

    def _choose(self, portion: Sequence[Change]) -> tuple[Admitted, Purse]:
        """Return what may go on of what is left, and what that takes."""
        cost: Purse = Counter()
        changes: list[Change] = []
        seeds: list[Change] = []
        done, after = 0, None
        for change in portion:
            if self._inside is not None and not change.key.startswith(self._inside):
                changes.append(self._leave(self._inside))
                done, after = done + self._passed, self._last
                self._passed = 0
            if self._inside is None:
                self._inside = self._enter(change.key, cost)
            if self._inside is not None:
                seeds.append(change)
                self._passed, self._last = self._passed + 1, change.key
            elif self._pays(change, cost):
                changes.append(change)
                done, after = done + 1, change.key
            else:
                self.reason = "the share of today's quota is used up"
                break
        if not portion and self._inside is not None:
            changes.append(self._leave(self._inside))
            done, after = self._passed, self._last
        return Admitted(done, changes, seeds, after), cost

    def _leave(self, place: str) -> Change:
        """Return the change that makes a directory stale whose keys are all behind."""
        self._inside = None
        return Change(self._root, place, ChangeKind.SUBTREE)

    def _enter(self, key: str, cost: Purse) -> str | None:
        """Return the chosen directory that a key lies in, where its token is there."""
        place = self._directory(key)
        if place is None or not self._pays(Change(self._root, place, ChangeKind.SUBTREE), cost):
            return None
        return place

    def _directory(self, key: str) -> str | None:
        end = 0
        while self._directories:
            if key[:end] in self._directories:
                return key[:end]
            end = key.find("/", end) + 1
            if not end:
                break
        return None

    def _pays(self, change: Change, cost: Purse) -> bool:
        """Add what a change takes, where that is there."""
        price = self._price(change)
        if any(cost[one] + tokens > self._left[one] for one, tokens in price.items()):
            return False
        cost.update(price)
        return True

    def _price(self, change: Change) -> Purse:
        price: Purse = Counter()
        try:
            needs = self._sites.route(change)
        except KeyRejected:
            return price  # it is parked, and costs nothing
        for need in needs:
            account = self._targets[need.target].account
            if self._refresh:
                price[account, _KINDS[need.scope]] += 1
            if self._prefetch and need.scope is Scope.EXACT:
                price[account, RefreshKind.PREFETCH] += 1
        return price

    async def _look(self) -> None:
        """See what is left; the first time, once the CDN has reported its quota or had time to."""
        loop = asyncio.get_running_loop()
        until, self._asked = loop.time() + (QUOTA_SECONDS if self._store.owner and not self._asked else 0.0), True
        while loop.time() < until and not await self._store.read(self._quota_is_read):
            await asyncio.sleep(0.05)
        now = self._clock.now()
        for target in self._targets.values():
            for kind, quota in target.quota.items():
                budget = await self._store.budget(target.account, kind, default=quota)
                self._most[target.account, kind] = math.floor(budget.limit * self._share)
                self._left[target.account, kind] = await share_left(
                    self._store, target, kind, self._share, reserve=self._reserve, now=now
                )

    def _quota_is_read(self, connection: sqlite3.Connection) -> bool:
        read = {
            account
            for (account,) in connection.execute(
                "SELECT account FROM ledger WHERE window_start = ? AND read_at IS NOT NULL",
                (window_start(self._clock.now()),),
            )
        }
        return all(target.account in read for target in self._targets.values())

    async def _room(self) -> None:
        """Wait until few needs wait; where nothing moves, or no daemon is there any more, stop and say so."""
        loop = asyncio.get_running_loop()
        lowest, moved_at, owned_at = math.inf, loop.time(), loop.time()
        while (waiting := (await self._store.counts()).pending) >= MOST_WAITING:
            if waiting < lowest:
                lowest, moved_at = waiting, loop.time()
            if loop.time() - moved_at > LONGEST_WAIT_SECONDS:
                self.reason = f"{waiting} needs wait already, and none was sent for minutes"
                return
            if self._store.owner or owner_of(self._store.path).is_running is not False:
                owned_at = loop.time()
            elif loop.time() - owned_at > OWNERLESS_SECONDS:
                self.reason = f"{waiting} needs wait, and the daemon that sent them is gone"
                return
            await asyncio.sleep(0.2)


def _book(connection: sqlite3.Connection, cost: Purse, most: Purse, *, now: float) -> bool:
    """Book these tokens where all of them are left; return whether they were. In one transaction: others book, too."""
    rows = {_row(*of, now): (tokens, most[of]) for of, tokens in cost.items()}
    taken = {row: found.listed if (found := progress(connection, row)) else 0 for row in rows}
    if any(taken[row] + tokens > bound for row, (tokens, bound) in rows.items()):
        return False
    for row, (tokens, _) in rows.items():
        save_progress(connection, row, Progress("", taken[row] + tokens, finished=True), now=now)
    return True
