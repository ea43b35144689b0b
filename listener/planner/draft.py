"""A plan in the making: decisions with their reasons, held to tokens and limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from listener.planner.limits import Meter, room, take, too_many_evictions
from listener.planner.model import Deferral, DirectoryLoad, Limit, PlannedDirectory, PlannedFiles
from listener.planner.pacing import Purse
from listener.planner.shares import Pool
from listener.planner.weigh import Weighed
from listener.refresh import RefreshKind

__all__ = ["Draft"]


@dataclass(slots=True)
class Draft:
    """What one purse is spent on."""

    purse: Purse
    meters: list[Meter]
    left: dict[RefreshKind, int]
    allowed: Callable[[str], bool]
    pool: Pool
    directories: list[PlannedDirectory] = field(default_factory=list)
    files: list[PlannedFiles] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)
    gap: float = 0.0
    said: tuple[int, int, str] = (-1, -1, "")

    def refresh_directory(self, weighed: Weighed, v: int, price: float, *, payer: str) -> Limit | None:
        """Plan a directory on a site's share, unless a limit makes it wait: return that."""
        forest, evicts = weighed.forest, weighed.unchanged[v]
        target, url = forest.targets[v], forest.urls[v]
        allowed, blocking = room(self.meters, RefreshKind.DIRECTORY, target, url, 1)
        blocking = blocking if not allowed else too_many_evictions(self.meters, target, url, evicts)
        if blocking is not None:
            blocking.waiting = True
            return blocking.limit
        self.left[RefreshKind.DIRECTORY] -= 1
        take(self.meters, RefreshKind.DIRECTORY, target, url, 1, evictions=evicts)
        self.pool.spend(payer, RefreshKind.DIRECTORY, 1)
        below, subtrees = forest.below[v], forest.subtrees[v]
        known = weighed.weights[v] is not None
        self.directories.append(
            PlannedDirectory(
                target,
                url,
                below + subtrees,
                evicts,
                known,
                self._why(weighed, v, known=known, price=price),
                forest.oldest[v],
            )
        )
        return None

    def _why(self, weighed: Weighed, v: int, *, known: bool, price: float) -> str:
        below, subtrees, evicts = weighed.forest.below[v], weighed.forest.subtrees[v], weighed.unchanged[v]
        needs = f"{subtrees} subtree changes and {below} due" if subtrees else f"{below} due"
        objects = f"{evicts} unchanged" if known or not evicts else f"an unknown number, taken for {evicts},"
        files = self.left[RefreshKind.FILE]
        if self.purse.covers_all:
            return f"covers {needs}, evicts {objects.rstrip(',')}; {files} file tokens beside it"
        return (
            f"covers {needs}, evicts {objects} at a token price of {price:.1f}; "
            f"{files} file tokens for {self.purse.expected:.0f} more expected in {self.purse.hours:.1f} h"
        )

    def hold_back(self, load: DirectoryLoad, limit: Limit) -> None:
        """Defer a load whose directory has to wait for a limit: tokens spent on its files would be wasted."""
        needs = load.due + load.due_all_params + load.subtree_due
        self._defer(load, [(f"its directory's turn in {limit.name}", needs)])

    def send_singles(self, load: DirectoryLoad) -> None:
        """Plan what is affordable of a load that no directory covers, and defer the rest."""
        waiting = [(self._directory_wanted(load), 1)] if load.subtree_due else []
        for kind, due in ((RefreshKind.FILE, load.due), (RefreshKind.IGNORE_PARAMS, load.due_all_params)):
            if not due:
                continue
            afforded = min(due, self.left[kind], self.pool.most(load.site, kind))
            allowed, blocking = room(self.meters, kind, load.target, load.url, afforded)
            if allowed:
                self.left[kind] -= allowed
                take(self.meters, kind, load.target, load.url, allowed)
                self.pool.spend(load.site, kind, allowed)
                stay = "left" if self.purse.covers_all else f"stay for {self.purse.expected:.0f} expected"
                reason = f"{due} due, {self.left[kind]} {kind} tokens {stay}"
                self.files.append(PlannedFiles(load.target, load.url, allowed, kind, reason))
            if blocking is not None:
                blocking.waiting = True
                waiting.append((blocking.limit.name, afforded - allowed))
            if due > afforded:
                share = self.pool.whose(load.site, kind) if self.left[kind] > 0 else "of the day"
                waiting.append((f"{kind} tokens {share}", due - afforded))
        if waiting:
            self._defer(load, waiting)

    def _directory_wanted(self, load: DirectoryLoad) -> str:
        return "a directory token" if self.allowed(load.url) else "a directory, which blast radius or hours forbid"

    def _defer(self, load: DirectoryLoad, waiting: list[tuple[str, int]]) -> None:
        needs = sum(count for _, count in waiting)
        what = ", ".join([f"{count} wait for {name}" for name, count in waiting])
        self.deferred.append(Deferral(load.target, load.url, needs, f"{what}; {self._state_of_tokens()}", load.oldest))

    def _state_of_tokens(self) -> str:
        """Say what is left, and why it is not spent on this; made once for many deferrals."""
        files, directories = self.left[RefreshKind.FILE], self.left[RefreshKind.DIRECTORY]
        if self.said[:2] != (files, directories):
            said = f"{files} file and {directories} directory tokens left" + self._why_not(directories)
            self.said = (files, directories, said)
        return self.said[2]

    def _why_not(self, directories: int) -> str:
        if self.purse.covers_all:
            return ", and no directory that may be refreshed covers them" if directories else ""
        waiting = f"waiting until the reset in {self.purse.hours:.1f} h"
        if not directories:
            return f"; {waiting}"
        return (
            f"; {waiting} weighs as much as evicting {self.purse.defer_cost:.1f} objects for each, "
            f"the next directory token as evicting {self.purse.directories.lowest:.1f} besides what lies below it"
        )
