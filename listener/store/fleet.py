"""The instances that share a store, as their heartbeats and leases have it; a state file has none of these."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Instance", "OldSnapshot"]


class Instance(NamedTuple):
    """One instance that runs, or that died within the last day without saying so."""

    name: str
    version: str
    started_at: float
    """Seconds since the epoch, by the database's clock."""
    is_alive: bool
    left_seconds: float
    """How long its heartbeat lasts unless it is renewed; negative: how long ago it ended."""
    leads: tuple[str, ...]
    """The accounts that it leads."""
    trouble: str = ""
    """What it reports of itself: that its name or clock is wrong, or that the database lost commits."""
    ends_at: float = 0.0
    """When its heartbeat ends unless it is renewed, or ended; seconds since the epoch, by the database's clock."""


class OldSnapshot(NamedTuple):
    """What keeps old rows of the database, so that what changes often becomes slow."""

    holder: str
    since: float | None
    """In seconds since the epoch; not known of replicas."""
    remedy: str
