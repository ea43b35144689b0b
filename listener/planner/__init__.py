"""Which refreshes to ask for now: the cover of least cost, within what the quota should spend by this hour."""

from __future__ import annotations

from listener.planner.arrivals import Arrivals
from listener.planner.forecast import Backlog, Forecast, backlog, forecast
from listener.planner.keys import KeyDeferral, KeyPlan, KeyRefresh, plan_keys
from listener.planner.model import (
    Budget,
    Deferral,
    DirectoryLoad,
    Limit,
    Plan,
    PlanInput,
    PlannedDirectory,
    PlannedFiles,
    Share,
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
    "Share",
    "backlog",
    "forecast",
    "plan",
    "plan_keys",
    "widest_seconds",
]
