"""Random questions to the planner about accounts with a quota for each kind, the same ones for the same seed."""

from __future__ import annotations

import random
from typing import Any

from listener.planner import Arrivals, DirectoryLoad, Limit, PlanInput, QuotaShare
from listener.refresh import RefreshKind
from tests.planner.budgets import DAY, of_kinds

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY
URLS = [
    *(f"https://a.example/{name}" for name in ("", "x/", "x/y/", "x/z/", "x y/", "w//")),
    "https://b.example/x/",
    "https://b.example:8443/x/q/",
    *(f"https://a.example/{a}/{b}/" for a in "pqr" for b in "stuvw"),
]


def drawn(seed: int) -> PlanInput:
    """Draw a question: up to twenty directories, a history, and now and then shares and limits."""
    rng = random.Random(seed)
    urls = rng.sample(URLS, len(URLS))
    weights = {url: rng.choice([None, rng.randint(0, 50), rng.randint(0, 3000)]) for url in urls}
    depth = rng.choice([3, 3, 4])
    limits, left = _tokens(rng)
    return PlanInput(
        now=0.0,
        loads=[_load(rng, url) for url in urls[: rng.choice([1, 2, 4, 9, 20])]],
        budgets=of_kinds(left, limits=limits, resets_at=rng.uniform(1.0, DAY)),
        kinds=limits.keys(),
        weights=weights.get,
        allowed=lambda url: url.count("/") >= depth,
        reserve=rng.choice([0.0, 0.0, 0.1, 0.5]),
        urgent=rng.random() < 0.2,
        force=rng.random() < 0.7,
        cover_all=rng.random() < 0.1,
        arrivals=_history(rng),
        **(_shares(rng) if rng.random() < 0.4 else {}),
        limits=[Limit(**one) for one in _limits(rng) if rng.random() < 0.3],
    )


def _tokens(rng: random.Random) -> tuple[dict[RefreshKind, int], dict[RefreshKind, int]]:
    others = [kind for kind in (RefreshKind.IGNORE_PARAMS, RefreshKind.PREFETCH) if rng.random() < 0.6]
    sizes = {DIRECTORY: [0, 1, 2, 5, 20, 100]}
    limits = {k: rng.choice(sizes.get(k, [0, 1, 5, 10, 40, 100, 500, 2000])) for k in (FILE, DIRECTORY, *others)}
    return limits, {k: rng.choice([limit, limit, rng.randint(-3, limit)]) for k, limit in limits.items()}


def _load(rng: random.Random, url: str) -> DirectoryLoad:
    return DirectoryLoad(
        target=rng.choice(["cdn", "cdn", "other"]),
        url=url,
        due=rng.randint(0, 300 if rng.random() < 0.3 else 8),
        subtree_due=rng.random() < 0.1,
        oldest=rng.uniform(-90_000.0, 0.0),
        forced_only=rng.random() < 0.1,
        due_all_params=rng.choice([0, 0, 0, 2, 9]),
        objects=rng.choice([None, None, 0, 3]),
        site=rng.choice(["", "www", "shop"]),
        priority=rng.choice([1.0, 1.0, 0.3, 4.0]),
        ttl_seconds=rng.choice([0.0, 0.0, 300.0, 7200.0]),
    )


def _history(rng: random.Random) -> Arrivals:
    known = Arrivals()
    for at in sorted(rng.uniform(-40 * DAY, 0.0) for _ in range(rng.choice([0, 5, 100, 400]))):
        known = known.seen(at, rng.choice([1, 1, 2, 10, 200]))
    return known.until(0.0)


def _shares(rng: random.Random) -> dict[str, Any]:
    shares, spent = {}, {}
    for site in ("www", "shop"):
        for kind in (FILE, DIRECTORY):
            guaranteed = rng.choice([0.0, 0.1, 0.4])
            greatest = max(guaranteed, rng.choice([1.0, 0.5]))
            shares[site, kind] = QuotaShare(guaranteed, greatest)
            spent[site, kind.value] = rng.choice([0, 0, 3])
    return {"shares": shares, "spent": spent}


def _limits(rng: random.Random) -> list[dict[str, Any]]:
    return [
        {"name": "slots", "left": rng.randint(0, 3), "costs": {DIRECTORY: 1.0}, "target": rng.choice(["", "cdn"])},
        {"name": "a rate", "left": rng.randint(0, 30), "costs": {FILE: 1.0}, "resets_at": 50.0},
        {"name": "evictions", "left": rng.randint(0, 300), "eviction_cost": 1.0, "whole": rng.random() < 0.5},
    ]
