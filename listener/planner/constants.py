"""Every constant of the planner's judgement, each with its reason; none was fitted to a trace."""

from __future__ import annotations

__all__ = [
    "COVER_ALL_COST",
    "REVALIDATION_COST",
    "STALE_HOUR_COST",
    "UNKNOWN_WEIGHT",
    "WORTHLESS_HOURS",
]

STALE_HOUR_COST = 1.0
"""One changed object left stale for one hour weighs as much as evicting one unchanged object. The exchange rate
between the two harms; everything else is counted in evicted objects."""

UNKNOWN_WEIGHT = 10_000
"""Objects that a directory of unknown weight is assumed to hold. High, so that the planner errs toward files: four
hundred changes deferred for a whole day weigh about as much."""

REVALIDATION_COST = 0.2
"""What a revalidation weighs against an eviction: a request to the origin without a body."""

WORTHLESS_HOURS = 1.0
"""Waiting is never reckoned at less than this: a refresh takes minutes to take effect, and the first batches after a
reset are small."""

COVER_ALL_COST = 1e9
"""What leaving one object costs where everything is to be covered if it can be: more than any storage holds."""
