"""
An account as a hosting company has it: hosts, sites, objects with skewed popularity, and how each site publishes.

Everything follows from a seed. Requests are spread by Zipf's law (exponent 1) over sites, over the directories of a
site and over the objects of a directory, scaled so that the mean object weighs 1: the weights say how many times
the mean object's requests an object has.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

HOSTS = 50
SITES = 500
DAY = 86_400.0
START = 1_767_225_600.0 - 8 * 3600.0
"""2026-01-01 00:00 UTC+8: the reset of a quota day."""

PATTERNS = {"editors": 0.70, "rebuild": 0.10, "deploy": 0.15, "import": 0.05}
"""How sites publish: a few objects some times a day; most of the site once a night; a folder of assets and some pages
once a day; a slice of a large catalogue twice a week."""


class Publication(NamedTuple):
    """What one site publishes at one moment."""

    at: float
    site: str
    keys: list[str]


@dataclass(slots=True)
class Directory:
    """Objects of one directory, the most popular first."""

    key: str
    site: str
    objects: int
    requests: float
    """All requests to it."""
    harmonic: float = field(init=False)

    def __post_init__(self) -> None:
        self.harmonic = math.fsum(1.0 / rank for rank in range(1, min(self.objects, 1000) + 1))
        if self.objects > 1000:
            self.harmonic += math.log(self.objects / 1000)

    def weight(self, rank: int) -> float:
        return self.requests / (rank + 1) / self.harmonic


class Account:
    """All sites of one account."""

    def __init__(self, *, objects: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.directories: dict[str, Directory] = {}
        self.patterns: dict[str, str] = {}
        self.sites: dict[str, list[Directory]] = {}
        names = list(PATTERNS)
        sizes = [self.random.paretovariate(1.1) for _ in range(SITES)]
        popularity = [1.0 / rank for rank in range(1, SITES + 1)]
        self.random.shuffle(popularity)
        shares = [part / math.fsum(popularity) for part in popularity]
        for number in range(SITES):
            site = f"h{number % HOSTS:02d}/s{number // HOSTS}/"
            self.patterns[site] = self.random.choices(names, list(PATTERNS.values()))[0]
            here = max(20, int(objects * sizes[number] / math.fsum(sizes)))
            self._lay_out(site, here, shares[number] * objects)

    def _lay_out(self, site: str, objects: int, requests: float) -> None:
        count = max(2, min(2000, objects // 40))
        keys = [site]
        while len(keys) < count:
            keys.append(f"{keys[self.random.randrange(0, 1 + len(keys) // 3)]}d{len(keys)}/")
        parts = [self.random.paretovariate(1.3) for _ in keys]
        popularity = [1.0 / rank for rank in range(1, len(keys) + 1)]
        self.sites[site] = [
            Directory(key, site, max(1, int(objects * part / math.fsum(parts))), requests * p / math.fsum(popularity))
            for key, part, p in zip(keys, parts, popularity, strict=True)
        ]
        self.directories.update({directory.key: directory for directory in self.sites[site]})

    @property
    def objects(self) -> int:
        return sum(directory.objects for directory in self.directories.values())

    def publications(self, days: int) -> list[Publication]:
        """Return what is published in so many days, by time."""
        made = [
            publication
            for site, pattern in self.patterns.items()
            for day in range(days)
            for publication in getattr(self, f"_{pattern}")(site, START + day * DAY)
        ]
        return sorted(made, key=lambda publication: publication.at)

    def _some(self, directory: Directory, count: int) -> list[str]:
        """Choose objects, popular ones more often: half of all edits fall on the upper few ranks."""
        ranks = {int(directory.objects ** self.random.random()) - 1 for _ in range(count)}
        return [f"{directory.key}o{rank}" for rank in sorted(ranks)]

    def _part(self, directory: Directory, part: float) -> list[str]:
        return [f"{directory.key}o{rank}" for rank in range(directory.objects) if self.random.random() < part]

    def _editors(self, site: str, day: float) -> Iterator[Publication]:
        for _ in range(self.random.choice((0, 1, 1, 2, 4))):
            at = day + 3600.0 * min(23.9, max(0.0, self.random.gauss(14.0, 3.5)))
            directory = self.random.choice(self.sites[site])
            yield Publication(at, site, self._some(directory, self.random.choice((1, 1, 2, 5))))

    def _rebuild(self, site: str, day: float) -> Iterator[Publication]:
        keys = [key for directory in self.sites[site][:60] for key in self._part(directory, 0.7)]
        yield Publication(day + 3600.0 * self.random.uniform(1, 6), site, keys)

    def _deploy(self, site: str, day: float) -> Iterator[Publication]:
        assets, pages = self.sites[site][-1], self.sites[site][0]
        yield Publication(
            day + 3600.0 * self.random.uniform(9, 19), site, self._part(assets, 0.95) + self._some(pages, 6)
        )

    def _import(self, site: str, day: float) -> Iterator[Publication]:
        if self.random.random() < 2 / 7:
            chosen = self.random.sample(self.sites[site], max(1, len(self.sites[site]) // 20))
            keys = [key for directory in chosen for key in self._part(directory, 0.3)]
            yield Publication(day + 3600.0 * self.random.uniform(0, 24), site, keys)
