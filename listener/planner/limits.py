"""Limits beside the day's: what a decision may take of each, before it has to wait."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from listener.planner.model import Limit
from listener.refresh import RefreshKind

__all__ = ["Meter", "meters", "room", "take", "too_many_evictions"]


@dataclass(slots=True)
class Meter:
    """What is left of one limit while a plan is made."""

    limit: Limit
    left: float
    whole: bool
    waiting: bool = False
    """True once something had to wait for it."""

    def holds(self, target: str, url: str) -> bool:
        """Return whether a refresh of this URL takes of it."""
        return self.limit.target in ("", target) and url.startswith(self.limit.host)


def meters(limits: Iterable[Limit]) -> list[Meter]:
    """Return a meter for each limit."""
    return [Meter(limit, limit.left, limit.whole) for limit in limits]


def room(held: Iterable[Meter], kind: RefreshKind, target: str, url: str, wanted: int) -> tuple[int, Meter | None]:
    """Return how many refreshes of this kind below ``url`` the limits leave, and the limit that leaves fewest."""
    allowed, tightest = wanted, None
    for meter in held:
        cost = meter.limit.costs.get(kind, 0.0)
        if cost <= 0 or not meter.holds(target, url):
            continue
        fits = max(0, int(meter.left / cost + 1e-9))
        if fits < allowed:
            allowed, tightest = fits, meter
    return allowed, tightest


def too_many_evictions(held: Iterable[Meter], target: str, url: str, evictions: int) -> Meter | None:
    """Return the limit by which a directory that evicts so many has to wait."""
    for meter in held:
        cost = meter.limit.eviction_cost * evictions
        if cost > meter.left and not meter.whole and meter.holds(target, url):
            return meter
    return None


def take(
    held: Iterable[Meter], kind: RefreshKind, target: str, url: str, refreshes: int, *, evictions: int = 0
) -> None:
    """Spend of every limit that holds for ``url``."""
    for meter in held:
        if meter.holds(target, url):
            spent = meter.limit.costs.get(kind, 0.0) * refreshes + meter.limit.eviction_cost * evictions
            meter.left -= spent
            meter.whole = meter.whole and spent <= 0
