"""
A part of each allowance for backfills: what it does not cover is not requested before the next reset.

A backfill that may have all of the quota makes every need at once and leaves the rest to the planner. One that has
only a share requests no more than that: of a listing in the order of keys it takes the next URLs, and the
directories that the planner chose for it, whatever is below. A dry run makes the same choice (:class:`Chooser`) from
the same budget (:func:`share_budget`), and the needs are sent as they were chosen.

Their units are booked in the ledger, durably, before the needs are made; so a crash may waste some of the share, and
never take more of it. Live changes find the rest of the quota untouched, and no need of a backfill before them.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from listener.allowances import Allowance, Day, costs_of, length_days
from listener.backfill.source import Admitted
from listener.change import Change, ChangeKind
from listener.clock import Clock
from listener.contracts import Target
from listener.errors import KeyRejected
from listener.pipeline.accounts import accounts_of
from listener.refresh import KIND_OF_SCOPE, QuotaReading, RefreshKind, Scope
from listener.router.routing import Sites
from listener.store import Store
from listener.store.ledger import ShareBooking
from listener.store.needs import Snapshot

__all__ = ["Chooser", "LiveQuota", "Share", "ShareBudget", "Taken", "Units", "reserved_units", "share_budget"]

MOST_WAITING = 2_000
"""Needs that may wait before more are made: what a domain takes in some minutes, so that the state file stays small."""
LONGEST_WAIT_SECONDS = 300.0
"""Where nothing is taken off the queue for so long, quota or the daemon stands still."""
OWNERLESS_SECONDS = 10.0
"""A daemon that is restarted owns the state file again sooner."""
USED_UP = "the share of the quota is used up"

Units = Counter[tuple[str, str]]
"""Units by account and allowance."""
LiveQuota = Mapping[str, Mapping[str, QuotaReading]]
"""What each account's live quota was just now, by allowance; nothing of an account where it could not be read."""


@dataclass(slots=True)
class ShareBudget:
    """What backfills may take until the next reset."""

    began: int
    """When the present window began, of several the last, in seconds since the epoch."""
    ends: float
    """When the first of them ends."""
    allowances: dict[tuple[str, str], Allowance] = field(default_factory=dict)
    """By account and name."""
    most: Units = field(default_factory=Counter)
    """What all backfills together may book."""
    left: Units = field(default_factory=Counter)
    """What may still be booked: apart from the reserve and from the needs that wait already."""
    used: Units = field(default_factory=Counter)
    """What is spent or held, by anybody."""

    def dollars(self, key: tuple[str, str], units: int) -> float:
        """Return what so many further units of an allowance cost."""
        allowance, used = self.allowances[key], self.used[key]
        return allowance.dollars(used + units) - allowance.dollars(used)

    def a_day(self, account: str, kind: RefreshKind) -> float:
        """Return how many requests of a kind the share pays for in a day, on average; 0 where it is unlimited."""
        return min(
            (
                self.most[account, one.name] // one.costs[kind] / length_days(one.window, self.began)
                for (name, _), one in self.allowances.items()
                if name == account and kind in one.costs
            ),
            default=0.0,
        )

    def bookings(self, units: Units) -> list[ShareBooking]:
        """Return what is to be booked for these units."""
        return [
            ShareBooking(account, self.allowances[account, name], count, self.most[account, name])
            for (account, name), count in units.items()
        ]


class Taken(NamedTuple):
    """What was chosen takes."""

    requests: Counter[tuple[str, RefreshKind]]
    """How many requests, by account and kind."""
    units: Units


def reserved_units(allowance: Allowance, limit: int, reserve: float) -> int:
    """Return how many units are left alone for urgent refreshes; what only prefetches spend has no such part."""
    return 0 if set(allowance.costs) == {RefreshKind.PREFETCH} else math.ceil(limit * reserve)


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
    Return what backfills may take now.

    Args:
        snapshot: of the store; None where there is no state file yet.
        targets: the configured targets.
        share: part of each allowance, 0 to 1.
        reserve: the part that is left alone, 0 to 1; no prefetch regards it.
        now: seconds since the epoch.
        live: counts before what the ledger knows.
    """
    windows = [one.window for target in targets.values() for one in target.allowances] or [Day()]
    found = ShareBudget(max(one.start(now) for one in windows), min(one.end(now) for one in windows))
    for name, account in accounts_of(targets).items():
        waiting = Counter[RefreshKind]() if snapshot is None else snapshot.pending_units(list(account.targets))
        for one in account.allowances:
            reading = live.get(name, {}).get(one.name)
            limit, left, booked, used = one.limit, one.limit, 0, 0
            if snapshot is not None:
                assumed = replace(one, limit=reading.limit) if reading else one
                budget = snapshot.budget(name, assumed, now=now)
                limit, left, booked = budget.limit, budget.left, budget.share_booked
                used = budget.spent + budget.held
            if reading is not None:
                limit, left = reading.limit, reading.remaining if snapshot is None else min(reading.remaining, left)
            left -= reserved_units(one, limit, reserve) + sum(n * one.costs.get(kind, 0) for kind, n in waiting.items())
            most = math.floor(limit * share)
            key = name, one.name
            found.allowances[key], found.most[key], found.used[key] = one, most, used
            found.left[key] = max(0, min(most - booked, left))
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
        self._costs = {
            (target.account, kind): [((target.account, name), units) for name, units in costs.items()]
            for target in targets.values()
            for kind in target.limits
            if (costs := costs_of(target.allowances, kind))
        }
        self._prefetch = prefetch
        self._refresh = refresh
        self._directories = set(directories)
        self._inside: str | None = None
        self._passed = 0
        self._last = ""

    def choose(self, portion: Sequence[Change], left: Units) -> tuple[Admitted, Taken]:
        """
        Return what is taken of the next portion, and what that costs; an empty portion ends the listing.

        Of a directory only its index rows are taken (``seeds``), until a key behind it comes.
        """
        taken = Taken(Counter(), Counter())
        changes: list[Change] = []
        seeds: list[Change] = []
        done, after, reason = 0, None, ""
        for change in portion:
            if self._inside is not None and not change.key.startswith(self._inside):
                changes.append(self._leave())
                done, after = done + self._passed, self._last
                self._passed = 0
            if self._inside is None:
                self._inside = self._enter(change.key, taken, left)
            if self._inside is not None:
                seeds.append(change)
                self._passed, self._last = self._passed + 1, change.key
            elif self._pays(change, taken, left):
                changes.append(change)
                done, after = done + 1, change.key
            else:
                reason = USED_UP
                break
        if not portion and self._inside is not None:
            changes.append(self._leave())
            done, after = self._passed, self._last
        return Admitted(done, changes, seeds, after, reason), taken

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

    def _enter(self, key: str, taken: Taken, left: Units) -> str | None:
        """Return the chosen directory that a key lies in, where what it costs is there."""
        place = self._directory(key)
        if place is None or not self._pays(Change(self._root, place, ChangeKind.SUBTREE), taken, left):
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

    def _pays(self, change: Change, taken: Taken, left: Units) -> bool:
        """Add what a change takes, where that is there."""
        requests = self._requests(change)
        units: Units = Counter()
        for one, count in requests.items():
            for allowance, cost in self._costs.get(one, ()):
                units[allowance] += count * cost
        if any(taken.units[one] + count > left[one] for one, count in units.items()):
            return False
        taken.requests.update(requests)
        taken.units.update(units)
        return True

    def _requests(self, change: Change) -> Counter[tuple[str, RefreshKind]]:
        price: Counter[tuple[str, RefreshKind]] = Counter()
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
    """Admits of a listing what the share pays for."""

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
            store: where units are booked.
            chooser: fresh; chooses from the listing.
            share: part of each allowance, 0 to 1.
            reserve: the part that is left alone, 0 to 1.
            clock: decides the windows.
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
        """Take from the portion what the share pays for now, in order."""
        await self._room()
        if self.reason:
            return Admitted(0, (), (), None, self.reason)
        while True:
            budget = await self._of_now()
            state = self._chooser.again()
            admitted, taken = self._chooser.choose(portion, budget.left)
            if await self._store.book_share(budget.bookings(taken.units), now=budget.began):
                budget.left.subtract(taken.units)
                self.reason = admitted.reason
                return admitted
            # Another backfill was quicker: choose again from what it left.
            self._chooser.go_back(state)
            self._budget = None

    async def _of_now(self) -> ShareBudget:
        now = self._clock.now()
        if self._budget is None or not self._budget.began <= now < self._budget.ends:
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
