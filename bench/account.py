"""
One account with 50 hosts, 500 sites and a million objects or more, under several quotas and policies.

    python -m bench.account --objects 1000000 --days 3 --json

Both terms of the score are weighted by requests: what an eviction or an hour of staleness costs is the number of
requests that meet it, in multiples of the mean object's. What still waits ten days after the last publication counts
until then. See ``bench/README-planner.md`` for the table, ``bench/planning/workload.py`` for the workload.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from typing import Any

from bench.planning.policies import KINDS, POLICIES, budgets
from bench.planning.replay import Policy
from bench.planning.workload import DAY, SITES, START, Account, Publication
from bench.planning.world import BASE, World, directory_of
from listener.allowances import ALIBABA_DAY
from listener.planner import Arrivals, DirectoryLoad, PlanInput, QuotaShare, plan
from listener.refresh import RefreshKind

QUOTAS = ((10_000, 100), (2_000, 100), (1_000, 40))
"""A newer account's, an older account's, and an older account's with another tool taking its part."""

GUARANTEED = 0.5 / SITES
"""Half of the day's file refreshes are guaranteed, in equal parts."""

DRAIN_DAYS = 10

KNOWN_FACTORS = (0.2, 0.5, 1.0, 2.0)
"""What hindsight multiplies the truth by: the planner's law of demand has a tail that certainty has not."""

Figures = dict[str, Any]


class Hosts(World):
    """A world whose objects have weights, and whose widest directory is a host."""

    def __init__(self, account: Account, files: int, directories: int) -> None:
        super().__init__(files, directories)
        self.account = account
        self.requests: Counter[str] = Counter()
        self.stale_weight: Counter[str] = Counter()
        self.lost_requests = 0.0
        self.stale_requests = 0.0
        self.spent_today: Counter[str] = Counter()
        self.short = 0
        for directory in account.directories.values():
            for above in self.above(directory.key):
                self.requests[above] += directory.requests
                self.below[above] += directory.objects
        self.log = None

    @staticmethod
    def above(directory: str) -> list[str]:
        parts = directory.split("/")
        return ["/".join(parts[:n]) + "/" for n in range(1, len(parts))]

    def weight_of(self, key: str) -> float:
        directory = directory_of(key)
        return self.account.directories[directory].weight(int(key[len(directory) + 1 :]))

    def reset(self) -> None:
        super().reset()
        self.spent_today.clear()

    def publish(self, publication: Publication) -> int:
        """Let what a site published become due; return how many objects had not been due already."""
        before = self.stale_paths
        for key in publication.keys:
            directory = directory_of(key)
            paths = self.stale.setdefault(directory, {})
            if key not in paths:
                paths[key] = publication.at
                self.stale_paths += 1
                self.stale_weight[directory] += self.weight_of(key)
        return self.stale_paths - before

    def loads(self) -> list[DirectoryLoad]:
        made = []
        for directory, paths in self.stale.items():
            weight = self.stale_weight[directory]
            made.append(
                DirectoryLoad(
                    target="cdn",
                    url=BASE + directory,
                    due=len(paths),
                    oldest=min(paths.values()),
                    objects=round(weight),
                    site=self.account.directories[directory].site,
                    priority=max(0.01, weight / len(paths)),
                )
            )
        return made

    def weight(self, url: str) -> int:
        return round(self.requests[url[len(BASE) :]])

    def refresh_directory(self, at: float, directory: str) -> None:
        if not directory:
            for host in sorted({stale[:4] for stale in self.stale}):
                if self.left[1] > 0:
                    self.refresh_directory(at, host)
            return
        self._spend(1, at, "directory", directory)
        healed = 0.0
        for below in [d for d in self.stale if d.startswith(directory)]:
            paths = self.stale.pop(below)
            healed += self.stale_weight.pop(below)
            for key, since in paths.items():
                self._heal_one(at, key, since)
        self.lost_requests += max(0.0, self.requests[directory] - healed)

    def refresh_file(self, at: float, key: str) -> None:
        self._spend(0, at, "file", key)
        directory = directory_of(key)
        self.spent_today[self.account.directories[directory].site] += 1
        paths = self.stale[directory]
        self.stale_weight[directory] -= self.weight_of(key)
        self._heal_one(at, key, paths.pop(key))
        if not paths:
            del self.stale[directory], self.stale_weight[directory]

    def refresh_oldest(self, at: float, directory: str, count: int) -> None:
        """Within one directory the most asked for go first: the store can order by weight as well as by age."""
        paths = self.stale[directory]
        for key in sorted(paths, key=lambda key: (-self.weight_of(key), paths[key]))[:count]:
            self.refresh_file(at, key)

    def _heal_one(self, at: float, key: str, since: float) -> None:
        self.stale_paths -= 1
        self.stale_requests += self.weight_of(key) * (at - since) / 3600.0
        self.late += at - since > 3600.0

    def give_up(self, at: float) -> None:
        for paths in self.stale.values():
            self.unsettled += len(paths)
            for key, since in paths.items():
                self._heal_one(at, key, since)
        self.stale.clear()


class Truth:
    """Arrivals as nobody knows them: what will be published, times a factor that makes it bolder or more careful."""

    def __init__(self, publications: list[Publication], factor: float) -> None:
        self.times = [publication.at for publication in publications]
        self.sums = [0, *accumulate(len(publication.keys) for publication in publications)]
        self.factor = factor

    def seen(self, _at: float, _changes: int) -> Truth:
        return self

    def expected(self, now: float, hours: float) -> float:
        first, end = bisect_right(self.times, now), bisect_right(self.times, now + hours * 3600.0)
        return max(1.0, self.factor * (self.sums[end] - self.sums[first]))


class OursWithShares:
    """The product's planner, with an equal guarantee for every site unless all is to go where it is worth most."""

    def __init__(self, arrivals: Any = None, *, guaranteed: float = GUARANTEED) -> None:
        self.arrivals = arrivals or Arrivals()
        self.guaranteed = guaranteed

    def seen(self, at: float, changes: int) -> None:
        self.arrivals = self.arrivals.seen(at, changes)

    def act(self, world: Hosts, at: float) -> float | None:
        sites = world.account.sites if self.guaranteed else ()
        made = plan(
            PlanInput(
                now=at,
                loads=world.loads(),
                budgets=budgets(world, at),
                kinds=KINDS,
                weights=world.weight,
                allowed=lambda url: len(url) > len(BASE),
                arrivals=self.arrivals,
                shares={(s, RefreshKind.FILE): QuotaShare(self.guaranteed) for s in sites},
                spent={(s, RefreshKind.FILE.value): world.spent_today[s] for s in sites},
            )
        )
        for directory in made.directories:
            world.refresh_directory(at, directory.url[len(BASE) :])
        for files in made.files:
            world.refresh_oldest(at, files.directory_url[len(BASE) :], files.take)
        self._check_guarantees(world)
        return made.wake_at

    @staticmethod
    def _check_guarantees(world: Hosts) -> None:
        due = {world.account.directories[directory].site for directory in world.stale}
        guaranteed = int(GUARANTEED * world.limits[0])
        world.short += sum(world.spent_today[site] < guaranteed for site in due)


def run(account: Account, publications: list[Publication], quota: tuple[int, int], name: str) -> Figures:
    """Run one policy; ``hindsight`` is the best of some that know what will be published, and of ``ours``."""
    if name != "hindsight":
        policy: Policy = OursWithShares() if name == "ours" else POLICIES[name]()
        return play(account, publications, quota, policy, name)
    knowing = [OursWithShares(Truth(publications, factor), guaranteed=0.0) for factor in KNOWN_FACTORS]
    tried = [play(account, publications, quota, policy, name) for policy in (OursWithShares(), *knowing)]
    return min(tried, key=lambda figures: figures["score"])


def play(
    account: Account, publications: list[Publication], quota: tuple[int, int], policy: Policy, name: str
) -> Figures:
    world = Hosts(account, *quota)
    world.reset()
    ends = publications[-1].at + DRAIN_DAYS * DAY
    spent, plans, slowest, wake, now, next_one = 0.0, 0, 0.0, None, START, 0
    while True:
        coming = publications[next_one].at if next_one < len(publications) else ends
        reset = float(ALIBABA_DAY.end(now))
        at = min(coming, *([min(wake or reset, reset)] if world.stale_paths else [coming]))
        if at >= ends or (not world.stale_paths and next_one == len(publications)):
            break
        if ALIBABA_DAY.end(at) != ALIBABA_DAY.end(now):
            world.reset()
        now = at
        if at == coming:
            policy.seen(at, world.publish(publications[next_one]))
            next_one += 1
        if world.stale_paths:
            began = time.perf_counter()
            wake = policy.act(world, at)
            span = time.perf_counter() - began
            spent, slowest, plans = spent + span, max(slowest, span), plans + 1
    world.give_up(ends)
    return {
        "policy": name,
        "files": quota[0],
        "directories": quota[1],
        "score": round(world.lost_requests + world.stale_requests),
        "evicted_requests": round(world.lost_requests),
        "stale_request_hours": round(world.stale_requests),
        "late": world.late,
        "unsettled": world.unsettled,
        "below_guarantee": world.short,
        "file_units": world.units[0],
        "directory_units": world.units[1],
        "plans": plans,
        "planning_seconds": round(spent, 2),
        "slowest_plan_seconds": round(slowest, 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--policy", choices=[*POLICIES, "hindsight"], help="only this one")
    parser.add_argument("--files", type=int, help="only this quota, with --directories")
    parser.add_argument("--directories", type=int)
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    given = parser.parse_args()
    account = Account(objects=given.objects, seed=given.seed)
    publications = account.publications(given.days)
    changes = sum(len(publication.keys) for publication in publications)
    size = f"{account.objects:,} objects in {len(account.directories):,} directories of {len(account.sites)} sites"
    print(f"{size}; {changes:,} changes in {len(publications):,} publications of {given.days} days", file=sys.stderr)
    quotas = [(given.files, given.directories)] if given.files is not None else QUOTAS
    for quota in quotas:
        for name in [given.policy] if given.policy else [*POLICIES, "hindsight"]:
            figures = run(account, publications, quota, name)
            print(json.dumps(figures) if given.json else "  ".join(f"{k}={v}" for k, v in figures.items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
