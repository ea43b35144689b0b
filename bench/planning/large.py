"""Large sites with changes all over them, as the planner gets them."""

from __future__ import annotations

import random

from listener.allowances import Day, for_each_kind
from listener.planner import Budget, DirectoryLoad, PlanInput
from listener.refresh import RefreshKind

DAY = 86_400.0


def site(directories: int, due: int, *, spread: bool, files: int = 2000, tokens: int = 100) -> PlanInput:
    """Make a site of so many directories, eight below each, and changes all over it or in a few hundred of them."""
    rng = random.Random(5)
    urls = ["https://www.example.com/"]
    for v in range(1, directories):
        urls.append(f"{urls[(v - 1) // 8]}d{v}/")
    objects = [int(rng.paretovariate(1.1) * 5) % 3000 + 1 for _ in urls]
    changed = [0] * directories
    places = range(directories) if spread else [rng.randrange(directories) for _ in range(250)]
    for _ in range(due):
        changed[rng.choice(places)] += 1
    objects = [max(pair) for pair in zip(objects, changed, strict=True)]
    for v in range(directories - 1, 0, -1):
        objects[(v - 1) // 8] += objects[v]
    weights = dict(zip(urls, objects, strict=True))
    return PlanInput(
        now=0.0,
        loads=[DirectoryLoad("cdn", url, n, oldest=-rng.random()) for url, n in zip(urls, changed, strict=True) if n],
        budgets=[
            Budget(allowance, allowance.limit, DAY)
            for allowance in for_each_kind({RefreshKind.FILE: files, RefreshKind.DIRECTORY: tokens}, Day())
        ],
        weights=weights.__getitem__,
    )
