"""What a backfill is asked to do, what it would do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from listener.backfill.cost import Cost
from listener.backfill.share import ShareBudget
from listener.store.progress import Progress
from listener.store.report import Counts

__all__ = ["ALONE", "BackfillPlan", "Mode", "Outcome"]


class Mode(StrEnum):
    """What a backfill does with each key."""

    REFRESH = "refresh"
    """Its URLs are refreshed, as if it had changed."""
    PREFETCH = "prefetch"
    """Its URLs are fetched into the cache, after any refresh of them."""
    SEED = "seed"
    """The index learns it; nothing is sent."""
    AUDIT = "audit"
    """It is compared with the index; nothing is sent or written."""
    REPAIR = "repair"
    """It is compared with the index, and what differs is refreshed, as if it had changed just now."""


ALONE = frozenset({Mode.SEED, Mode.AUDIT, Mode.REPAIR})
"""Modes that cannot be combined."""


@dataclass(frozen=True, slots=True)
class BackfillPlan:
    """What would be done."""

    cost: Cost
    begun: Progress | None
    """How far an earlier run got that did not finish."""
    budget: ShareBudget | None = None
    """What it may take of the quota; None: all of it."""

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**self.cost.as_json(), "resumes_after": self.begun.after if self.begun else None}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was done."""

    listed: int
    """Keys whose needs are durable, those of earlier runs included."""
    finished: bool
    """Whether the whole listing is durable."""
    interrupted: bool
    sent_here: bool
    """False where a daemon owns the state file and sends."""
    counts: Counts
    troubles: tuple[str, ...] = ()
    stopped: str = ""
    """Why not everything was asked for: the share of today is used up, or deletions are not believed."""
    abandoned: bool = False
    """Whether something waits for a daemon that is gone."""

    @property
    def put_off(self) -> bool:
        """Whether something waits for quota, time or people."""
        counts = self.counts
        left = bool(counts.deferred or counts.failed or counts.parked or counts.unconfirmed)
        return bool(self.stopped) or self.abandoned or (self.sent_here and left)
