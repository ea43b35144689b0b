"""
Every constant of the planner's judgement, in one place, each with its reason.

They are round numbers, each from the reasoning given with it. Some thirty variants of the formulas were compared on the
bundled traces, on the same with the clock shifted by some hours (which parts the days differently), and on made-up
histories; where those disagreed the shifted and made-up ones decided. ``bench/README-planner.md`` shows how little
doubling a constant changes, and what fitting to three traces gives on the fourth.
"""

from __future__ import annotations

__all__ = [
    "AGE_WEIGHT_HOURS",
    "ARRIVAL_SECONDS",
    "COVER_ALL_COST",
    "DIRECTORY_DECAY",
    "EFFECT_HOURS",
    "HISTORY_DAYS",
    "LEND_HOURS",
    "LEND_STEP_SECONDS",
    "LONGEST_HOURS",
    "LONG_REPLAN_FACTOR",
    "MOST_CANDIDATES",
    "NEGLIGIBLE_CHANCE",
    "OBJECT_DOLLARS",
    "PATIENCE_HOURS",
    "PRESENT_HOURS",
    "PRESENT_WEIGHT",
    "PRICE_STEPS",
    "PRIOR_ARRIVALS_PER_HOUR",
    "PRIOR_OBJECTS_PER_ARRIVAL",
    "REPLAN_SECONDS",
    "REVALIDATION_COST",
    "STALE_HOUR_COST",
    "UNKNOWN_WEIGHT",
    "UNLIMITED_HOURS",
    "WIDEST_HOURS",
]

STALE_HOUR_COST = 1.0
"""One changed object left stale for one hour weighs as much as evicting one unchanged object. The exchange rate
between the two harms; everything else is counted in evicted objects."""

UNKNOWN_WEIGHT = 10_000
"""Unchanged objects that a directory of unknown weight is assumed to hold. High, so that the planner errs toward
files: four hundred changes deferred for a whole day weigh about as much."""

REVALIDATION_COST = 0.2
"""What a revalidation weighs against an eviction: a request to the origin, but no body."""

EFFECT_HOURS = 0.1
"""Waiting is never reckoned shorter than this: a refresh takes five to six minutes to take effect anyway."""

LONGEST_HOURS = 31 * 24.0
"""Waiting is never reckoned longer than this: what units that never come back are worth is that of a month's."""

PATIENCE_HOURS = 24.0
"""While units are left, nothing is reckoned to wait for the end of a month: prices fall, and others come that share its
directory. A day, or as long as the oldest has waited already where that is longer: so what waits is sent at last."""

OBJECT_DOLLARS = 0.001
"""What not evicting one unchanged object, or one changed object an hour less stale, is worth in dollars. An evicted
object costs a request to the storage for each cache that had it (S3: 0.0000004 dollars, for a dozen regional caches
0.000005), but that is the least of it: visitors wait for it, and a stale page is worth more to its owner than either.
At a tenth of a cent a CloudFront path of half a cent is bought rather than leaving a page stale for more than five
hours, and a directory rather than files where it evicts fewer than five objects for each path that it saves."""

UNLIMITED_HOURS = 24.0
"""What waits though no allowance limits it (for a rate limit) is reckoned to wait no longer than for a day's quota."""

COVER_ALL_COST = 1e9
"""What leaving one object costs where everything is to be covered if it can be: more than any storage holds."""

ARRIVAL_SECONDS = 30.0
"""What becomes due within half a minute of an arrival's first need belongs to it: URLs become due one by one, although
a publication is one event."""

HISTORY_DAYS = 30.0
"""How long arrivals are remembered for the usual rate: a month holds every weekday four times."""

PRESENT_HOURS = 8.0
"""How long arrivals are remembered for the present rate: a working day."""

PRESENT_WEIGHT = 2.0
"""How many arrivals the usual rate counts for against those of the present: a morning with one arrival more than
usual is no proof of a busy day, one with ten more is."""

PRIOR_ARRIVALS_PER_HOUR = 1.0
"""What is believed of each hour of the day before it was seen, in arrivals: that they are alike. A few dozen arrivals
outweigh it; a handful by chance at one hour do not make that the busy one."""

PRIOR_OBJECTS_PER_ARRIVAL = 10.0
"""What is believed of an account without history: one arrival of ten objects a day, forgotten as days pass."""

NEGLIGIBLE_CHANCE = 0.01
"""A token that will be missed with less than this chance is free: most unused tokens are lost at the reset."""

DIRECTORY_DECAY = 1.5
"""How the price of a directory token falls with their number: between an equal part of what the last one is worth
(1), as if all were needed, and the square (2), as the chance falls that so many are needed."""

PRICE_STEPS = 12
"""In how many steps the rising price of file tokens is expressed; more would not change a decision."""

REPLAN_SECONDS = 900.0
"""While something waits, prices are looked at again so often: they move with the hours left to the reset, and a
quarter is a small part of any wait that a price can cause."""

LONG_REPLAN_FACTOR = 4
"""So many times less often where the reset is more than a day away, and prices move with days."""

AGE_WEIGHT_HOURS = 24.0
"""After so many hours of waiting a need weighs twice, after twice as many three times: nothing starves."""

WIDEST_HOURS = 1.0
"""A URL that changes again and again is not kept waiting for longer than this between two refreshes, however dear
tokens are: the point from which waiting counts as late."""

LEND_HOURS = 0.25
"""In the last quarter of an hour before the reset what a site has not used of its guaranteed share is lent to others,
more and more, as it would lapse; before that it is kept for it, so that a guarantee is one."""

LEND_STEP_SECONDS = 180.0
"""So often it is looked again at what may be lent."""

MOST_CANDIDATES = 5_000
"""How many directories with something due are weighed one by one; of more, those with most due. A day has a few
hundred directory tokens at most, and the directories above the others are still weighed where paths meet."""
