"""
One round of planning, in a reading thread and from one snapshot: what to send, what waits, and until when.

:class:`ActiveOverrides` says which loads wait for a person's order.
"""

from __future__ import annotations

import gc
import heapq
import threading
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from listener import planner
from listener.pipeline.accounts import Account
from listener.pipeline.beginnings import is_beginning, objects_at, with_objects
from listener.pipeline.layers import LOOK_SECONDS, Layers
from listener.pipeline.plan_inputs import (
    PlanInputs,
    directory_request,
    params_are_forced_only,
    requests_for_plan,
    requests_for_scope,
)
from listener.pipeline.sender import Queued
from listener.planner import Deferral
from listener.planner.pacing import meters, room, take, too_many_evictions
from listener.refresh import KIND_OF_SCOPE, SCOPE_OF_KIND, Priority, RefreshKind, Scope
from listener.router.routing import Sites, root_of, share_name
from listener.settings import Approval, PlannerSettings
from listener.store.controls import UNAPPROVED, Control, ControlKind
from listener.store.needs import DueRow, Load, Snapshot
from listener.store.transitions import AttemptRequest
from listener.urls import host_of

__all__ = ["ActiveOverrides", "Overdue", "PlanningResult", "PlanningRound", "gc_paused"]

MOST_REPORTED = 10_000
"""Deferrals that are kept, the oldest first: a long list of them would be walked over on the event loop."""
EXPIRY_SECONDS = 60.0
"""While something waits that expires by itself, it is looked at so often."""


class Overdue(NamedTuple):
    """Needs of one directory that no cache can still serve the old copy of."""

    load: Load
    before: float
    """Those whose newest change is older than this, in seconds since the epoch."""


class PlanningResult(NamedTuple):
    """What a round came to."""

    overdue: Sequence[Overdue] = ()
    """To be settled first; nothing was planned then."""
    wanted: Sequence[AttemptRequest] = ()
    """What is live comes first."""
    evicts: Mapping[tuple[str, str], Sequence[tuple[str, int]]] = {}
    """Of each directory (target and URL) the sites whose origins it concerns, and how many unchanged it evicts."""
    deferred: Sequence[planner.Deferral] = ()
    waiting: int = 0
    """How many deferrals there are, those left out included."""
    wake_at: float | None = None


@dataclass(slots=True)
class _Choice:
    """What one priority's loads come to."""

    wanted: list[AttemptRequest] = field(default_factory=list)
    waits: list[planner.Deferral] = field(default_factory=list)
    wakes: list[float | None] = field(default_factory=list)
    evicts: dict[tuple[str, str], list[tuple[str, int]]] = field(default_factory=dict)

    def add(self, other: _Choice) -> None:
        self.wanted += other.wanted
        self.waits += other.waits
        self.wakes += other.wakes
        self.evicts |= other.evicts

    def reaches(self, load: Load) -> bool:
        """Return whether a directory chosen so far covers the load, or part of it."""
        end = len(load.url)
        while self.evicts and (end := load.url.rfind("/", 0, end)) > 0:
            if (load.target, load.url[: end + 1]) in self.evicts:
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanningRound:
    """All that a round depends on apart from the snapshot; nothing that the event loop changes meanwhile."""

    account: Account
    """A copy."""
    sites: Sites
    settings: PlannerSettings
    overrides: ActiveOverrides
    layers: Layers
    queued: Queued
    now: float
    open_at: float
    """When something may be sent, in seconds since the epoch."""

    def run(self, snapshot: Snapshot) -> PlanningResult:
        """Choose from everything that is due: what is live first, what a backfill requests from what that leaves."""
        with gc_paused():
            last_sequence = snapshot.last_sequence()  # first: of PostgreSQL's it may be ahead of what is read later
            due = snapshot.loads(apart=True, targets=self.account.targets)
            if overdue := self._overdue(snapshot, due):
                return PlanningResult(overdue=overdue)
            inputs = PlanInputs(snapshot, self.account, self.sites, self.settings, now=self.now)
            found = _Choice()
            for priority in Priority:
                mine = [load for load in due if load.priority is priority and not found.reaches(load)]
                made = self._choose(snapshot, inputs, mine, priority, last_sequence)
                evicts = Counter[str]()
                for site, objects in (one for each in made.evicts.values() for one in each):
                    evicts[site] += objects
                inputs.take(made.wanted, evicts)
                found.add(made)
            return self._result(found)

    def _overdue(self, snapshot: Snapshot, due: Sequence[Load]) -> list[Overdue]:
        if not any(site.max_ttl_seconds for site in self.sites.behind(self.account.targets)):
            return []
        loads = {load.directory: load for load in sorted(due, key=lambda load: -load.oldest)}.values()
        found = [Overdue(load, self.now - ttl) for load in loads if (ttl := self._ttl(load))]
        return [one for one in found if snapshot.expires(one.load, before=one.before)]

    def _ttl(self, load: Load) -> float:
        site = self.sites.of(load.target, load.url)
        return 0.0 if site is None else site.max_ttl_seconds

    def _choose(
        self, snapshot: Snapshot, inputs: PlanInputs, mine: Sequence[Load], priority: Priority, last_sequence: int
    ) -> _Choice:
        """Return what to send of the loads of one priority, what waits, and until when."""
        free, waits = self.overrides.part(self._unqueued(mine, priority))
        if not free:
            return _Choice(waits=waits, wakes=[self.overrides.ends_at])
        if self.open_at > self.now:
            why = self.account.closed_reason or "the quota is about to be reset"
            return _Choice(waits=[*waits, *_all_of(free, why)], wakes=[self.open_at])
        free, unable = _what_targets_can(self.account, free)
        free, behind = self.layers.part(snapshot, free)
        made = (
            self._admitted(snapshot, inputs, free)
            if priority is Priority.ADMITTED
            else self._planned(snapshot, inputs, free, priority)
        )
        if self.account.exhausted_until(RefreshKind.PREFETCH) > self.now:
            made.waits += _all_of([load for load in free if load.prefetch], "the CDN refuses for its quota")
        made.wanted, held_up = self.layers.requests(snapshot, made.wanted, last_sequence=last_sequence, now=self.now)
        for one in held_up:
            made.evicts.pop((one.target, one.directory_url), None)
        behind += held_up
        if behind:
            made.wakes.append(self.now + LOOK_SECONDS)
        made.waits += [*waits, *behind, *unable]
        made.wakes += [self.overrides.ends_at, *(self.account.closed_until_for(kind) for kind in RefreshKind)]
        if priority is not Priority.LIVE:
            made.wanted = self._little(made.wanted, priority)
        made.wanted = [self._counted(snapshot, one, made) for one in made.wanted]
        return made

    def _counted(self, snapshot: Snapshot, one: AttemptRequest, made: _Choice) -> AttemptRequest:
        """Count what a request takes besides, where it is for all that begins so."""
        if not is_beginning(self.account, one):
            return one
        objects = objects_at(snapshot, self.sites, one)
        made.evicts[one.target, one.url] = self._evicted(one.url, max(0, objects - 1))
        return with_objects(one, objects)

    def _planned(self, snapshot: Snapshot, inputs: PlanInputs, free: Sequence[Load], priority: Priority) -> _Choice:
        """Let the planner choose between files and directories."""
        made = planner.plan(inputs.given(free, priority, allowed=self._allowed))
        found = _Choice(wakes=[made.wake_at, self.sites.closed(self.now).until])
        found.wakes.append(self._expiry(free) if made.deferred else None)
        targets = {part.target for part in made.files} | {one.target for one in made.directories}
        files = sum(part.take for part in made.files)
        if why := self.overrides.unapproved(files, len(made.directories), targets, self.settings.approve_above):
            found.waits = _all_of(free, why)
        else:
            found.wanted = requests_for_plan(
                snapshot, made, free, account=self.account, sites=self.sites, budgets=inputs.budgets
            )
            found.waits = list(made.deferred)
            found.evicts = {(one.target, one.url): self._evicted(one.url, one.collateral) for one in made.directories}
        forced_only = [load for load in free if params_are_forced_only(self.account, load)]
        why = "a directory refresh would not heal it"
        found.wanted += self._of_scope(snapshot, inputs, forced_only, Scope.ALL_PARAMS, why)
        why = "requested; nothing is left to refresh"
        found.wanted += self._of_scope(snapshot, inputs, [load for load in free if load.prefetch], Scope.PREFETCH, why)
        return found

    def _admitted(self, snapshot: Snapshot, inputs: PlanInputs, free: Sequence[Load]) -> _Choice:
        """Send what was planned against a share before as it is: one attempt for each need, while quota is left."""
        found, why = _Choice(), "within the share of a backfill"
        directories, files = sum(load.subtree for load in free), sum(load.exact for load in free)
        targets = {load.target for load in free}
        if unapproved := self.overrides.unapproved(files, directories, targets, self.settings.approve_above):
            found.waits = _all_of(free, unapproved)
            return found
        found.wanted, found.waits, found.evicts = self._subtrees(inputs, free, why)
        for scope in (Scope.EXACT, Scope.ALL_PARAMS, Scope.PREFETCH):
            made = self._of_scope(snapshot, inputs, free, scope, why)
            due = sum(_units(load, scope) for load in free)
            if len(made) < due:
                first = min(free, key=lambda load: load.oldest)
                left = "no quota is left for what a backfill requests"
                found.waits.append(planner.Deferral(first.target, first.url, due - len(made), left, first.oldest))
            found.wanted += made
        return found

    def _subtrees(
        self, inputs: PlanInputs, free: Sequence[Load], why: str
    ) -> tuple[list[AttemptRequest], list[planner.Deferral], dict[tuple[str, str], list[tuple[str, int]]]]:
        """Return the directories that were admitted, what waits, and what they evict."""
        due = [load for load in free if load.subtree]
        allowed = inputs.allowed({load.url for load in due}, self._allowed)
        held, left = meters(inputs.limits()), inputs.left(RefreshKind.DIRECTORY, reserve=self.settings.reserve)
        wanted: list[AttemptRequest] = []
        waits: list[planner.Deferral] = []
        evicts: dict[tuple[str, str], list[tuple[str, int]]] = {}
        for load in due:
            collateral = max(0, (inputs.weight(load.url) or 0) - load.exact)
            _, full = room(held, RefreshKind.DIRECTORY, load.target, load.url, 1)
            full = full or too_many_evictions(held, load.target, load.url, collateral)
            if len(wanted) >= left or full or not allowed(load.url):
                why_not = f"waits for {full.limit.name}" if full else "waits: no directory refresh is possible"
                waits += _all_of([load], why_not)
                continue
            take(held, RefreshKind.DIRECTORY, load.target, load.url, 1, evictions=collateral)
            wanted.append(directory_request(load, self.account, why))
            evicts[load.target, load.url] = self._evicted(load.url, collateral)
        return wanted, waits, evicts

    def _allowed(self, url: str) -> bool:
        return not (self.sites.closed(self.now).holds(url) or self.overrides.reached(url))

    def _of_scope(
        self, snapshot: Snapshot, inputs: PlanInputs, loads: Sequence[Load], scope: Scope, why: str
    ) -> list[AttemptRequest]:
        left = inputs.left(KIND_OF_SCOPE[scope], reserve=self.settings.reserve)
        loads = [load for load in loads if _units(load, scope)]
        return requests_for_scope(snapshot, loads, scope, left, account=self.account, reason=why)

    def _little(self, wanted: Iterable[AttemptRequest], priority: Priority) -> list[AttemptRequest]:
        """Return only what is soon sent: quota that is reserved for a backfill is kept from what changes meanwhile."""
        room: dict[str, int] = {}
        found: list[AttemptRequest] = []
        for one in wanted:
            host = host_of(one.url)
            left = room.get(host)
            if left is None:
                left = self.queued.room(host, priority)
            room[host] = left - 1
            if left > 0:
                found.append(one._replace(priority=priority))
        return found

    def _unqueued(self, mine: Sequence[Load], priority: Priority) -> list[Load]:
        """Return the loads of hosts that have not enough queued already: what is reserved longer cannot be planned."""
        full: dict[str, bool] = {}
        for load in mine:
            if (root := root_of(load.url)) not in full:
                full[root] = not self.queued.room(host_of(root), priority)
        return [load for load in mine if not full[root_of(load.url)]]

    def _evicted(self, url: str, collateral: int) -> list[tuple[str, int]]:
        """Count a directory against every site that it touches, as its plan did."""
        bounded = [site for site in self.sites.behind(self.account.targets) if site.evictions_per_minute]
        return [(share_name(site), collateral) for site in bounded if url.startswith(self.sites.bases(site))]

    def _expiry(self, free: Iterable[Load]) -> float | None:
        """Return when to look again at what expires by itself."""
        ends = min((load.oldest + ttl for load in free if (ttl := self._ttl(load))), default=None)
        return None if ends is None else max(ends, self.now + EXPIRY_SECONDS)

    def _result(self, found: _Choice) -> PlanningResult:
        waits = found.waits
        if len(waits) > MOST_REPORTED:
            waits = heapq.nsmallest(MOST_REPORTED, waits, key=lambda one: one.oldest)
        wake_at = min((at for at in found.wakes if at is not None and at > self.now), default=None)
        return PlanningResult((), found.wanted, found.evicts, waits, len(found.waits), wake_at)


def _what_targets_can(account: Account, loads: Sequence[Load]) -> tuple[list[Load], list[Deferral]]:
    """Part what may be planned from what the target has no kind of request for; a directory refresh covers files."""
    free: list[Load] = []
    unable: list[Deferral] = []
    for load in loads:
        kinds = [kind for scope, kind in KIND_OF_SCOPE.items() if scope is not Scope.EXACT and _units(load, scope)]
        lacking = [kind for kind in kinds if not account.can(load.target, kind)]
        if not lacking:
            free.append(load)
            continue
        what = " or ".join(NAME_OF_KIND[kind] for kind in lacking)
        why = f"the target {load.target} has no request for {what}: {CANCEL}"
        count = sum(_units(load, SCOPE_OF_KIND[kind]) for kind in lacking)
        unable.append(Deferral(load.target, load.url, count, why, load.oldest))
        without: dict[str, Any] = {_FIELDS[SCOPE_OF_KIND[kind]]: 0 for kind in lacking}
        left = load._replace(**without)
        if any(_units(left, scope) for scope in Scope):
            free.append(left)
    return free, unable


NAME_OF_KIND: Final[Mapping[RefreshKind, str]] = {
    RefreshKind.FILE: "a single URL",
    RefreshKind.DIRECTORY: "a whole directory",
    RefreshKind.IGNORE_PARAMS: "a path with any query",
    RefreshKind.PREFETCH: "a prefetch",
}
CANCEL: Final = "nothing is sent for it; cancel it with cdn-listener cancel"
_FIELDS: Final = ("exact", "all_params", "subtree", "prefetch")


def _units(load: Load, scope: Scope) -> int:
    """Return how many needs of a scope a load has."""
    units: int = getattr(load, _FIELDS[scope])
    return units


def _all_of(these: Sequence[Load], why: str) -> list[planner.Deferral]:
    return [
        planner.Deferral(load.target, load.url, load.exact + load.subtree + load.all_params, why, load.oldest)
        for load in these
    ]


STOPS = (ControlKind.HOLD, ControlKind.PAUSE)


class ActiveOverrides(NamedTuple):
    """The orders that hold while one plan is made."""

    orders: Sequence[Control]

    @property
    def ends_at(self) -> float | None:
        """When the first of them ends by itself, in seconds since the epoch."""
        return min((one.until for one in self.orders if one.until is not None), default=None)

    def part(self, loads: Sequence[Load]) -> tuple[list[Load], list[Deferral]]:
        """Part what may be planned from what waits, each of that with the order's reason."""
        free: list[Load] = []
        waits: list[Deferral] = []
        for load in loads:
            order = self._over(load.target, load.url, STOPS)
            if order is None:
                free.append(load)
            else:
                count = load.exact + load.subtree + load.all_params
                waits.append(Deferral(load.target, load.url, count, _why(order), load.oldest))
        return free, waits

    def manual(self, rows: Sequence[DueRow]) -> list[DueRow]:
        """Return what people requested and may go: a hold is for what changes by itself."""
        kinds = (ControlKind.PAUSE,)
        return [
            row
            for row in rows
            if self._over(row.target, row.url, kinds) is None
            and not (row.scope is Scope.SUBTREE and self.reached(row.url, kinds))
        ]

    def reached(self, directory: str, kinds: Sequence[ControlKind] = STOPS) -> bool:
        """Return whether a directory refresh would reach URLs below it that are to be left alone."""
        return any(one.kind in kinds and one.place.prefix.startswith(directory) for one in self.orders)

    def unapproved(self, files: int, directories: int, targets: Collection[str], most: Approval) -> str:
        """Return why a plan of so many requests waits for a person, or an empty string."""
        if not (0 < most.file < files or 0 < most.directory < directories):
            return ""
        if all(self._over(target, "", (ControlKind.APPROVAL,)) for target in targets):
            return ""
        return (
            f"{UNAPPROVED}: a plan of {files} URLs and {directories} directories is above planner.approve_above;"
            " cdn-listener approve"
        )

    def _over(self, target: str, url: str, kinds: Sequence[ControlKind]) -> Control | None:
        return next((one for one in self.orders if one.kind in kinds and one.place.holds(target, url)), None)


def _why(order: Control) -> str:
    verb = "held" if order.kind is ControlKind.HOLD else "paused"
    until = "" if order.until is None else f" until {datetime.fromtimestamp(order.until, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"{verb}{until}" + (f": {order.reason}" if order.reason else "")


_lock = threading.Lock()
_users: list[bool] = []
"""For each that has it off now, whether it was on before."""


@contextmanager
def gc_paused() -> Iterator[None]:
    """
    Keep the cyclic collector from running, in all threads, until the last that asked for it is done.

    A full pass looks at every container there is and holds the interpreter meanwhile: 60 to 130 ms with the input of
    a plan for a million needs. What a plan makes is freed by its reference counts; it leaves no cycles of note.
    """
    with _lock:
        _users.append(gc.isenabled() if not _users else _users[0])
        gc.disable()
    try:
        yield
    finally:
        with _lock:
            was_on = _users.pop()
            if not _users and was_on:
                gc.enable()
