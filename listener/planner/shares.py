"""Shares of a day's quota: what is guaranteed to a site is kept for it, the rest is everybody's."""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from listener.planner.constants import LEND_HOURS
from listener.planner.model import DirectoryLoad, PlanInput, PlannedDirectory, PlannedFiles, Share
from listener.planner.pacing import NO_BUDGET, hours_to_reset
from listener.refresh import RefreshKind

__all__ = ["Pool"]

_EVERYBODY = Share()


class Pool:
    """
    The tokens left, parted into what is kept for single sites and what is free for all.

    A guarantee that is not used is kept until shortly before the reset, and then lent more and more. A site with
    something due takes from its guarantee first.
    """

    def __init__(self, given: PlanInput, left: Mapping[RefreshKind, int]) -> None:
        """Part what is left, by the shares and the hour."""
        self.given = given
        self.left = dict(left)
        self._kept_part = min(1.0, hours_to_reset(given) / LEND_HOURS)
        self._site_of = _sorted_in_slices([(load.target, load.url, load.site) for load in given.loads])
        self._due = {load.site for load in given.loads}
        self.kept = {(site, kind): self._kept(site, kind) for site, kind in given.shares}

    def _kept(self, site: str, kind: RefreshKind) -> int:
        share = self.given.shares[site, kind]
        unused = share.guaranteed * self._limit(kind) - share.spent
        return max(0, int(unused if site in self._due else unused * self._kept_part))

    def _limit(self, kind: RefreshKind) -> int:
        return self.given.budgets.get(kind, NO_BUDGET).limit

    def _free(self, kind: RefreshKind) -> int:
        """Return what is left of a kind beyond all that is kept."""
        return max(0, self.left[kind] - sum(kept for (_, other), kept in self.kept.items() if other is kind))

    def joint_left(self) -> dict[RefreshKind, int]:
        """Return what the sites that have something due may spend together."""
        kept = Counter(dict.fromkeys(self.left, 0))
        for (site, kind), tokens in self.kept.items():
            kept[kind] += 0 if site in self._due else tokens
        return {kind: max(0, left - kept[kind]) for kind, left in self.left.items()}

    def allotment(self, site: str) -> tuple[dict[RefreshKind, int], float]:
        """Return what a site may spend of each kind, and the part that its file tokens are of all left."""
        allotted = {kind: self._most(site, kind) for kind in self.left}
        files = self.left[RefreshKind.FILE]
        return allotted, allotted[RefreshKind.FILE] / files if files else 1.0

    def _most(self, site: str, kind: RefreshKind) -> int:
        share = self.given.shares.get((site, kind), _EVERYBODY)
        greatest = int(share.greatest * self._limit(kind)) - share.spent
        own = min(self.kept.get((site, kind), 0), self.left[kind])
        return max(0, min(greatest, own + self._free(kind)))

    def admits(self, directories: Sequence[PlannedDirectory], files: Sequence[PlannedFiles]) -> bool:
        """Tell whether a plan of all sites keeps every share."""
        spent = self._spent(directories, files)
        beyond: Counter[RefreshKind] = Counter()
        for (site, kind), tokens in spent.items():
            if tokens > self._most(site, kind):
                return False
            beyond[kind] += max(0, tokens - self.kept.get((site, kind), 0))
        return all(tokens <= self._free(kind) for kind, tokens in beyond.items())

    def _spent(
        self, directories: Sequence[PlannedDirectory], files: Sequence[PlannedFiles]
    ) -> Counter[tuple[str, RefreshKind]]:
        spent: Counter[tuple[str, RefreshKind]] = Counter()
        for directory in directories:
            spent[self._site(directory.target, directory.url), RefreshKind.DIRECTORY] += 1
        for single in files:
            spent[self._site(single.target, single.directory_url), single.kind] += single.take
        return spent

    def _site(self, target: str, url: str) -> str:
        """Return the site of the first load at or below a directory."""
        return self._site_of[bisect_left(self._site_of, (target, url, ""))][2]

    def sites(self) -> list[tuple[str, list[DirectoryLoad]]]:
        """Return the loads of each site, the site that waits longest first."""
        by_site: dict[str, list[DirectoryLoad]] = {}
        oldest: dict[str, float] = {}
        for load in self.given.loads:
            by_site.setdefault(load.site, []).append(load)
            oldest[load.site] = min(load.oldest, oldest.get(load.site, math.inf))
        return sorted(by_site.items(), key=lambda item: oldest[item[0]])

    def spend(self, site: str, directories: Sequence[PlannedDirectory], files: Sequence[PlannedFiles]) -> None:
        """Take what a site's plan spends from what is left, its guarantee first."""
        for (_, kind), tokens in self._spent(directories, files).items():
            self.left[kind] -= tokens
            if (site, kind) in self.kept:
                self.kept[site, kind] = max(0, self.kept[site, kind] - tokens)


def _sorted_in_slices(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Sort without one long call that would keep the interpreter to itself."""
    size = 4096
    return list(heapq.merge(*(sorted(rows[i : i + size]) for i in range(0, len(rows), size))))
