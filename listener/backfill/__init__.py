"""
The one-shot shell: something is listed or requested, sent through the same store and ledger, and over.

========== =====================================================================
module     what it does
========== =====================================================================
choosing   what a person's words mean
lists      a list of keys, as people have them
source     what is listed, or what differs, as a source of the pipeline that ends
share      a part of each day's quota, and no more
popularity what is wanted most, first
audit      a listing compared with the index
edge       a listing compared with what the edge serves
cost       what a backfill would take, before it takes anything
job        one backfill: cost, listing, pipeline, outcome
words      what it is asked to do, would do and did
figures    how far it is, for people and for logs
oneshot    the pipeline without a source, and what became of what was asked for
========== =====================================================================

Where a daemon owns the state file, everything here only adds needs to it: the daemon sends them.
"""

from __future__ import annotations

from listener.backfill.audit import audit
from listener.backfill.choosing import Choice, choose_listing, choose_source, key_lines, parse_modes, parse_moment
from listener.backfill.cost import Cost, cost_of
from listener.backfill.edge import EdgeReport, ask_edge
from listener.backfill.figures import Figures, Watch
from listener.backfill.job import Backfill
from listener.backfill.lists import KeyLines, read_entries
from listener.backfill.oneshot import RequestedUrl, RequestOutcome, opened, outcomes, run_until_idle, stopping
from listener.backfill.popularity import WantedListing, read_popularity
from listener.backfill.source import Feed, RepairFeed
from listener.backfill.types import BackfillPlan, Mode, Outcome

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
    "RequestOutcome",
    "RequestedUrl",
    "WantedListing",
    "Watch",
    "ask_edge",
    "audit",
    "choose_listing",
    "choose_source",
    "cost_of",
    "key_lines",
    "opened",
    "outcomes",
    "parse_modes",
    "parse_moment",
    "read_entries",
    "read_popularity",
    "run_until_idle",
    "stopping",
]
