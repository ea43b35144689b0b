"""
The one-shot shell: something is listed or requested, sent through the same store and ledger, and over.

========== =====================================================================
module     what it does
========== =====================================================================
choosing   which source or keys to list, in which order
lists      a list of keys, as people have them
plan       modes, the cost before anything is spent, the progress, the outcome
source     what is listed, or what differs, as a source of the pipeline that ends
share      a part of each allowance, and no more
job        one backfill: cost, listing, pipeline, outcome
probing    one URL or key in the storage, the index, the origin and at each edge
oneshot    the pipeline without a daemon
audit      a listing compared with the index, and with what the edge serves
========== =====================================================================

Where a daemon owns the state file, everything here only adds needs to it: the daemon sends them.
"""

from __future__ import annotations

from listener.backfill.audit import EdgeReport, ask_edge, audit
from listener.backfill.choosing import (
    Choice,
    WantedListing,
    choose_listing,
    choose_source,
    key_lines,
    parse_modes,
    parse_moment,
    read_popularity,
)
from listener.backfill.job import Backfill
from listener.backfill.lists import KeyLines, read_entries
from listener.backfill.oneshot import misconfigured, opened, require_usable, run_until_idle, stopping
from listener.backfill.plan import BackfillPlan, Cost, Figures, Outcome, Watch, cost_of
from listener.backfill.source import Feed, Mode, RepairFeed

__all__ = [
    "Backfill",
    "BackfillPlan",
    "Choice",
    "Cost",
    "EdgeReport",
    "Feed",
    "Figures",
    "KeyLines",
    "Mode",
    "Outcome",
    "RepairFeed",
    "WantedListing",
    "Watch",
    "ask_edge",
    "audit",
    "choose_listing",
    "choose_source",
    "cost_of",
    "key_lines",
    "misconfigured",
    "opened",
    "parse_modes",
    "parse_moment",
    "read_entries",
    "read_popularity",
    "require_usable",
    "run_until_idle",
    "stopping",
]
