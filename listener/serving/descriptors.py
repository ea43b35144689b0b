"""
Divides the open files that this process may have among its listening ports.

A port that took all of them would stop the rest of the process: the state file, calls of the CDN, the watch of a
tree. So a part is reserved, and the ports share what is left.
"""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = [
    "RESERVED_FILES",
    "SLACK",
    "DescriptorBudget",
    "DescriptorShare",
    "fair_shares",
    "files_for",
    "process_budget",
]

RESERVED_FILES: Final = 256
"""Open files for everything but connections that were accepted: state file, watches, calls of clouds, hashing."""
SLACK: Final = 1.25
"""Connections that exist for a moment, in parts of the limit, while evicted ones are being closed."""


def files_for(connections: int) -> int:
    """Return how many open files the process needs for a port with so many connections."""
    return round(connections * SLACK) + RESERVED_FILES


def fair_shares(wanted: Sequence[int], total: int) -> list[int]:
    """Return what each gets of the total: nobody more than it wants, and whoever wants little gets all of that."""
    shares = [0] * len(wanted)
    left = max(0, total)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for done, at in enumerate(order):
        shares[at] = min(wanted[at], left // (len(order) - done))
        left -= shares[at]
    return shares


@dataclass(slots=True, eq=False)
class DescriptorShare:
    """The connections that one port may have; its :class:`DescriptorBudget` sets them."""

    wanted: int
    connections: int


def _soft_limit() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft


class DescriptorBudget:
    """The open files of one process, divided among its ports."""

    def __init__(self, limit: Callable[[], int] = _soft_limit) -> None:
        """Divide what ``limit`` returns; by default ``RLIMIT_NOFILE``."""
        self._limit = limit
        self._members: list[DescriptorShare] = []

    def join(self, wanted: int) -> DescriptorShare:
        """Return the share of a port that wants so many connections; it changes as ports come and go."""
        share = DescriptorShare(wanted, wanted)
        self._members.append(share)
        self._divide()
        return share

    def leave(self, share: DescriptorShare) -> None:
        """Take a share back; safe to call twice."""
        if share in self._members:
            self._members.remove(share)
            self._divide()

    def _divide(self) -> None:
        limit = self._limit()
        if limit == resource.RLIM_INFINITY:
            total = sum(member.wanted for member in self._members)
        else:
            total = int((limit - min(RESERVED_FILES, limit // 2)) / SLACK)
        shares = fair_shares([member.wanted for member in self._members], total)
        for member, connections in zip(self._members, shares, strict=True):
            member.connections = max(1, connections)


process_budget: Final = DescriptorBudget()
"""That of this process."""
