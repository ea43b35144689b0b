"""A plan in the making: decisions with their reasons, held to tokens and limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from listener.planner.limits import Meter, QuotaPool, room, take, too_many_evictions
from listener.planner.model import Deferral, DirectoryLoad, Limit, PlannedDirectory, PlannedFiles
from listener.planner.reasons import Cause, Reasons
from listener.planner.weigh import Weighed
from listener.refresh import RefreshKind

__all__ = ["Draft"]


@dataclass(slots=True)
class Draft:
    """What the tokens left are spent on."""

    reasons: Reasons
    meters: list[Meter]
    left: dict[RefreshKind, int]
    pool: QuotaPool
    directories: list[PlannedDirectory] = field(default_factory=list)
    files: list[PlannedFiles] = field(default_factory=list)
    deferred: list[Deferral] = field(default_factory=list)
    gap: float = 0.0

    def refresh_directory(self, weighed: Weighed, v: int, *, payer: str) -> Limit | None:
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
        below, subtrees, known = forest.below[v], forest.subtrees[v], weighed.weights[v] is not None
        reason = self.reasons.directory(below, subtrees, evicts, known=known)
        planned = PlannedDirectory(target, url, below + subtrees, evicts, known, reason, forest.oldest[v])
        self.directories.append(planned)
        return None

    def defer_to_directory(self, load: DirectoryLoad, limit: Limit) -> None:
        """Defer a load whose directory has to wait for a limit: tokens spent on its files would be wasted."""
        needs = load.due + load.due_all_params + load.subtree_due
        self._defer(load, needs, self.reasons.directory_waits(limit, needs))

    def send_singles(self, load: DirectoryLoad) -> None:
        """Plan what is affordable of a load that no directory covers, and defer the rest."""
        causes = [self.reasons.subtree_cause(load)] if load.subtree_due else []
        for kind, due in ((RefreshKind.FILE, load.due), (RefreshKind.IGNORE_PARAMS, load.due_all_params)):
            if due:
                causes += self._send(load, kind, due)
        if causes:
            self._defer(load, sum(cause.needs for cause in causes), self.reasons.waits(load, causes))

    def _send(self, load: DirectoryLoad, kind: RefreshKind, due: int) -> list[Cause]:
        """Plan what is affordable of one kind; return what the rest waits for."""
        afforded = min(due, self.left[kind], self.pool.most(load.site, kind))
        allowed, blocking = room(self.meters, kind, load.target, load.url, afforded)
        if allowed:
            self.left[kind] -= allowed
            take(self.meters, kind, load.target, load.url, allowed)
            self.pool.spend(load.site, kind, allowed)
            reason = self.reasons.file(kind, due, allowed)
            self.files.append(PlannedFiles(load.target, load.url, allowed, kind, reason))
        causes = []
        if blocking is not None:
            blocking.waiting = True
            limit = blocking.limit
            causes.append(Cause(f"waiting for {limit.name}", afforded - allowed, limit.resets_at))
        if due > afforded:
            used_up = self.pool.used_up(load.site, kind) if self.left[kind] > 0 else ""
            causes.append(self.reasons.quota_cause(kind, due - afforded, used_up=used_up))
        return causes

    def _defer(self, load: DirectoryLoad, needs: int, reason: str) -> None:
        self.deferred.append(Deferral(load.target, load.url, needs, reason, load.oldest))
