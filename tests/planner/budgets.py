"""Budgets of a day, as the planner takes them."""

from __future__ import annotations

from collections.abc import Mapping

from listener.allowances import Allowance, Day
from listener.planner import Budget
from listener.refresh import RefreshKind

DAY = 86_400.0
HOUR = 3600.0


def of_kinds(
    left: Mapping[RefreshKind, int], *, resets_at: float = DAY, limits: Mapping[RefreshKind, int] | None = None
) -> list[Budget]:
    """Make a daily allowance for each of these kinds, unspent where no limits are given."""
    return [
        Budget(Allowance(name=kind, limit=(limits or left)[kind], window=Day(), costs={kind: 1}), units, resets_at)
        for kind, units in left.items()
    ]
