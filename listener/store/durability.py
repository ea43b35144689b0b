"""
What an instance knows of its own commits: how many were confirmed, and which of those the database has lost.

A server that is promoted without a synchronous standby lacks commits that were confirmed, and so were acknowledged to
whoever delivered the changes. So each instance counts its transactions in a row of its own, in the transaction itself.
A database that has counted fewer than were confirmed has lost the rest, whatever the reason. A number that is higher
than expected loses nothing: it includes commits whose answer was lost on the way.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CommitCount", "CommitMark", "Loss"]


class Loss(NamedTuple):
    """Commits that were confirmed, and are no longer there."""

    confirmed: int
    """The count of the last one that was confirmed."""
    found: int
    """The count that the database has."""

    @property
    def commits(self) -> int:
        """How many were lost."""
        return self.confirmed - self.found


class CommitMark(NamedTuple):
    """What was confirmed up to one moment."""

    commits: int
    """How many of this instance are confirmed."""
    losses: tuple[Loss, ...] = ()
    """All that this process found, oldest first. The counts of each go on from what was found."""


class CommitCount:
    """The count of one instance; written by the thread that commits, read by any."""

    def __init__(self) -> None:
        """Start without any commit."""
        self.mark: CommitMark | None = None
        """Replaced as a whole; None until the database was asked."""

    def compare(self, found: int) -> Loss | None:
        """Take the count that a new connection, or a new transaction, finds; return what was lost, if anything."""
        mark = self.mark
        if mark is None or found >= mark.commits:
            self.mark = CommitMark(found, mark.losses if mark else ())
            return None
        loss = Loss(mark.commits, found)
        self.mark = CommitMark(found, (*mark.losses, loss))
        return loss

    def confirm(self, count: int) -> Loss | None:
        """Take the count of a confirmed transaction; return what was found to be lost before it, if anything."""
        loss = self.compare(count - 1)
        self.mark = CommitMark(count, self.mark.losses if self.mark else ())
        return loss
