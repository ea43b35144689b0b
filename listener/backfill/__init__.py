"""
The one-shot shell: something is listed or asked for by hand, sent through the same store and ledger, and over.

========== =====================================================================
module     what it does
========== =====================================================================
choosing   what a person's words mean
listing    keys in order, from a tree or a list, from where the last run stopped
source     a listing as a source of the pipeline, which ends
audit      a listing beside the index
cost       what a backfill would take, before it takes anything
job        one backfill: cost, listing, pipeline, outcome
oneshot    the pipeline without a source, and what became of what was asked for
========== =====================================================================

Where a daemon owns the state file, everything here only adds needs to it: the daemon sends them.
"""

from __future__ import annotations

from listener.backfill.audit import Audit, audit
from listener.backfill.choosing import choose_listing, choose_source, parse_modes, parse_moment
from listener.backfill.cost import Cost, cost_of
from listener.backfill.job import Backfill, BackfillPlan, Mode, Outcome
from listener.backfill.listing import KeyList, Listing, TreeListing
from listener.backfill.oneshot import Fate, Wanted, fates, opened, run_until_idle, stopping
from listener.backfill.source import ListingSource

__all__ = [
    "Audit",
    "Backfill",
    "BackfillPlan",
    "Cost",
    "Fate",
    "KeyList",
    "Listing",
    "ListingSource",
    "Mode",
    "Outcome",
    "TreeListing",
    "Wanted",
    "audit",
    "choose_listing",
    "choose_source",
    "cost_of",
    "fates",
    "opened",
    "parse_modes",
    "parse_moment",
    "run_until_idle",
    "stopping",
]
