"""Which refreshes to send now: the cheapest cover of what is due, within what the quota should spend by this hour."""

from __future__ import annotations

from listener.planner.balances import left_of, limit_of
from listener.planner.forecast import Backlog, Forecast, backlog, forecast
from listener.planner.keys import KeyDeferral, KeyPlan, KeyRefresh, plan_keys
from listener.planner.model import (
    Arrivals,
    Budget,
    Deferral,
    DirectoryLoad,
    Limit,
    Plan,
    PlanInput,
    PlannedDirectory,
    PlannedFiles,
    QuotaShare,
)
from listener.planner.pacing import widest_seconds
from listener.planner.plan import plan

__all__ = [
    "Arrivals",
    "Backlog",
    "Budget",
    "Deferral",
    "DirectoryLoad",
    "Forecast",
    "KeyDeferral",
    "KeyPlan",
    "KeyRefresh",
    "Limit",
    "Plan",
    "PlanInput",
    "PlannedDirectory",
    "PlannedFiles",
    "QuotaShare",
    "backlog",
    "forecast",
    "left_of",
    "limit_of",
    "plan",
    "plan_keys",
    "widest_seconds",
]
