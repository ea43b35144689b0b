"""Which refreshes to ask for now: the cover of least cost, within what the quota should spend by this hour."""

from __future__ import annotations

from listener.planner.keys import KeyPlan, KeyRefresh, plan_keys
from listener.planner.model import (
    Budget,
    Deferral,
    DirectoryLoad,
    Plan,
    PlanInput,
    PlannedDirectory,
    PlannedFiles,
)
from listener.planner.plan import plan

__all__ = [
    "Budget",
    "Deferral",
    "DirectoryLoad",
    "KeyPlan",
    "KeyRefresh",
    "Plan",
    "PlanInput",
    "PlannedDirectory",
    "PlannedFiles",
    "plan",
    "plan_keys",
]
