"""What CloudFront charges for invalidations, and how many it takes at once; no input or output."""

from __future__ import annotations

from typing import Final

__all__ = [
    "DOLLARS_PER_PATH",
    "FREE_PATHS",
    "MOST_PATHS_IN_PROGRESS",
    "MOST_WILDCARDS_IN_PROGRESS",
    "PATHS_PER_SECOND",
    "WILDCARDS_PER_SECOND",
]

FREE_PATHS: Final = 1_000
"""Of a calendar month and an AWS account, over all its distributions (AWS's page "Pay for file invalidation")."""
DOLLARS_PER_PATH: Final = 0.005
"""For each path beyond; a path that ends with ``*`` counts as one."""
PATHS_PER_SECOND: Final = 150
WILDCARDS_PER_SECOND: Final = 1
"""Of an account, not adjustable (AWS's page of quotas, autumn 2026)."""
MOST_PATHS_IN_PROGRESS: Final = 3_000
MOST_WILDCARDS_IN_PROGRESS: Final = 15
"""Of a distribution, as older pages have it, and that of the China regions today."""
