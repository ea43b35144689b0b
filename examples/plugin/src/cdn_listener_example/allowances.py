"""What a CDN may let an account spend, as values of a target's ``allowances``."""

from __future__ import annotations

from listener.allowances import Allowance, Day, Month, Rolling, for_each_kind
from listener.refresh import RefreshKind

# 10,000 files and 100 directories a day from 00:00 UTC+8, each by itself; they are called "file" and "directory".
EACH_KIND = for_each_kind({RefreshKind.FILE: 10_000, RefreshKind.DIRECTORY: 100}, Day(8 * 3600))

# Files and directories spend the same 3,000 units of a month: 1,000 are free, each further one costs half a cent.
SHARED = (
    Allowance(
        name="paths",
        limit=3_000,
        window=Month(),
        costs={RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 1},
        free=1_000,
        unit_dollars=0.005,
    ),
)

# A directory takes one unit of a day, and one of thirty days.
TOGETHER = (
    Allowance(name="directory", limit=100, window=Day(), costs={RefreshKind.DIRECTORY: 1}),
    Allowance(name="directory-30-days", limit=1_000, window=Rolling(30), costs={RefreshKind.DIRECTORY: 1}),
)
