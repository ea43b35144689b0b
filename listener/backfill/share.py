"""
A part of each day's quota for backfills: what it does not cover is not requested today.

A backfill that may have all of the quota makes every need at once and leaves the rest to the planner. One that has
only a share requests no more than that: of a listing in the order of keys it takes the next URLs, one token each,
and the directories that the planner chose for it, one token each whatever is below. A dry run makes the same choice
(:class:`Chooser`) from the same budget (:func:`share_budget`), and the needs are sent as they were chosen.

The tokens are booked in the ledger, durably, before the needs are made; so a crash may waste some of the share, and
never take more of it. Live changes find the rest of the quota untouched, and no need of a backfill before them.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from listener.backfill.source import Admitted
from listener.change import Change, ChangeKind
from listener.clock import Clock, window_start
from listener.contracts import Target, daily_quota
from listener.errors import KeyRejected
from listener.refresh import KIND_OF_SCOPE, QuotaReading, RefreshKind, Scope, reserved_units
from listener.router.routing import Sites
from listener.store import Store
from listener.store.needs import Snapshot

__all__ = ["Chooser", "Share", "ShareBudget", "Tokens", "share_budget"]

MOST_WAITING = 2_000
"""Needs that may wait before more are made: what a domain takes in some minutes, so that the state file stays small."""
LONGEST_WAIT_SECONDS = 300.0
"""Where nothing is taken off the queue for so long, quota or the daemon stands still."""
OWNERLESS_SECONDS = 10.0
"""A daemon that is restarted owns the state file again sooner."""
USED_UP = "the share of today's quota is used up"

Tokens = Counter[tuple[str, RefreshKind]]
"""Tokens by account and kind."""
LiveQuota = Mapping[str, Mapping[RefreshKind, QuotaReading]]
"""What each account's live quota was just now; nothing of an account where it could not be read."""


@dataclass(slots=True)
class ShareBudget:
    """What backfills may take of one quota day."""

    window: int
    """When the day began, in seconds since the epoch."""
    most: Tokens = field(default_factory=Counter)
    """What all backfills together may book."""
    left: Tokens = field(default_factory=Counter)
    """What may still be booked: apart from the reserve and from the needs that wait already."""


def share_budget(
    snapshot: Snapshot | None,
    targets: Mapping[str, Target],
    share: float,
    *,
    reserve: float,
    now: float,
    live: LiveQuota,
) -> ShareBudget:
    """
    Return what backfills may take today.

    Args:
        snapshot: of the store; None where there is no state file yet.
        targets: the configured targets.
        share: part of a day's quota, 0 to 1.
        reserve: the part that is left alone, 0 to 1; no prefetch regards it.
        now: seconds since the epoch.
        live: counts before what the ledger knows.
    """
    found = ShareBudget(window_start(now))
    for target in targets.values():
        names = [name for name, other in targets.items() if other.account == target.account]
        waiting = Counter[RefreshKind]() if snapshot is None else snapshot.pending_units(names)
        for kind, default in daily_quota(target).items():
            reading = live.get(target.account, {}).get(kind)
            limit, left, booked = default, default, 0
            if snapshot is not None:
                budget = snapshot.budget(target.account, kind, now=now, default=reading.limit if reading else default)
                limit, left, booked = budget.limit, budget.left, budget.share_booked
            if reading is not None:
                limit, left = reading.limit, reading.remaining if snapshot is None else min(reading.remaining, left)
            kept = reserved_units(kind, limit, reserve)
            most = math.floor(limit * share)
            found.most[target.account, kind] = most
            found.left[target.account, kind] = max(0, min(most - booked, left - kept - waiting[kind]))
    return found


class Chooser:
    """Chooses from a listing, portion by portion, what a budget pays for."""

    def __init__(
        self,
        root: str,
        sites: Sites,
        targets: Mapping[str, Target],
        *,
        prefetch: bool,
        refresh: bool,
        directories: Collection[str] = (),
    ) -> None:
        """
        Take what to choose for.

        Args:
            root: the source that is listed.
            sites: what a key becomes.
            targets: the configured targets.
            prefetch: whether each URL is fetched into the cache, too.
            refresh: whether each URL is refreshed.
            directories: prefixes of keys that are to be refreshed as a whole; none lies in another.
        """
        self._root = root
        self._sites = sites
        self.targets = targets
        self._prefetch = prefetch
        self._refresh = refresh
        self._directories = set(directories)
        self._inside: str | None = None
        self._passed = 0
        self._last = ""

    def choose(self, portion: Sequence[Change], left: Tokens) -> tuple[Admitted, Tokens]:
        """
        Return what is taken of the next portion, and what that costs; an empty portion ends the listing.

        Of a directory only its index rows are taken (``seeds``), until a key behind it comes.
        """
        cost: Tokens = Counter()
        changes: list[Change] = []
        seeds: list[Change] = []
        done, after, reason = 0, None, ""
        for change in portion:
            if self._inside is not None and not change.key.startswith(self._inside):
                changes.append(self._leave())
                done, after = done + self._passed, self._last
                self._passed = 0
            if self._inside is None:
                self._inside = self._enter(change.key, cost, left)
            if self._inside is not None:
                seeds.append(change)
                self._passed, self._last = self._passed + 1, change.key
            elif self._pays(change, cost, left):
                changes.append(change)
                done, after = done + 1, change.key
            else:
                reason = USED_UP
                break
        if not portion and self._inside is not None:
            changes.append(self._leave())
            done, after = self._passed, self._last
        return Admitted(done, changes, seeds, after, reason), cost

    def again(self) -> tuple[str | None, int, str]:
        """Return the state to :meth:`go_back` to, where a choice could not be booked."""
        return self._inside, self._passed, self._last

    def go_back(self, state: tuple[str | None, int, str]) -> None:
        """Undo what was chosen since."""
        self._inside, self._passed, self._last = state

    def _leave(self) -> Change:
        """Return the change that makes a directory stale whose keys are all behind."""
        place, self._inside = self._inside or "", None
        return Change(self._root, place, ChangeKind.SUBTREE)

    def _enter(self, key: str, cost: Tokens, left: Tokens) -> str | None:
        """Return the chosen directory that a key lies in, where its token is there."""
        place = self._directory(key)
        if place is None or not self._pays(Change(self._root, place, ChangeKind.SUBTREE), cost, left):
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

    def _pays(self, change: Change, cost: Tokens, left: Tokens) -> bool:
        """Add what a change takes, where that is there."""
        price = self._price(change)
        if any(cost[one] + tokens > left[one] for one, tokens in price.items()):
            return False
        cost.update(price)
        return True

    def _price(self, change: Change) -> Tokens:
        price: Tokens = Counter()
        try:
            needs = self._sites.route(change)
        except KeyRejected:
            return price  # it is rejected, and costs nothing
        for need in needs:
            account = self.targets[need.target].account
            if self._refresh:
                price[account, KIND_OF_SCOPE[need.scope]] += 1
            if self._prefetch and need.scope is Scope.EXACT:
                price[account, RefreshKind.PREFETCH] += 1
        return price


class Share:
    """Admits of a listing what the share of today pays for."""

    def __init__(
        self,
        store: Store,
        chooser: Chooser,
        *,
        share: float,
        reserve: float,
        clock: Clock,
        budget: ShareBudget | None = None,
    ) -> None:
        """
        Take what it admits for.

        Args:
            store: where tokens are booked.
            chooser: fresh; chooses from the listing.
            share: part of each day's quota, 0 to 1.
            reserve: the part that is left alone, 0 to 1.
            clock: decides the quota day.
            budget: that the plan was made with; None: looked up in the ledger.
        """
        self.reason = ""
        self._store = store
        self._chooser = chooser
        self._share = share
        self._reserve = reserve
        self._clock = clock
        self._budget = budget

    async def admit(self, portion: Sequence[Change]) -> Admitted:
        """Take from the portion what today's share pays for, in order."""
        await self._room()
        if self.reason:
            return Admitted(0, (), (), None, self.reason)
        while True:
            budget = await self._of_today()
            state = self._chooser.again()
            admitted, cost = self._chooser.choose(portion, budget.left)
            if await self._store.book_share(cost, budget.most, now=budget.window):
                budget.left.subtract(cost)
                self.reason = admitted.reason
                return admitted
            # Another backfill was quicker: choose again from what it left.
            self._chooser.go_back(state)
            self._budget = None

    async def _of_today(self) -> ShareBudget:
        now = self._clock.now()
        if self._budget is None or self._budget.window != window_start(now):
            self._budget = await self._store.read(
                lambda snapshot: share_budget(
                    snapshot, self._chooser.targets, self._share, reserve=self._reserve, now=now, live={}
                )
            )
        return self._budget

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
            if self._store.owner or (await self._store.sender()).is_running is not False:
                owned_at = loop.time()
            elif loop.time() - owned_at > OWNERLESS_SECONDS:
                self.reason = f"{waiting} needs wait, and the daemon that sent them is gone"
                return
            await asyncio.sleep(0.2)
