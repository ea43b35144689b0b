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
        """Take the count that the database has; return what was lost, if anything."""
        mark = self.mark or CommitMark(found)
        if found >= mark.commits:
            self.mark = CommitMark(found, mark.losses)
            return None
        loss = Loss(mark.commits, found)
        self.mark = CommitMark(found, (*mark.losses, loss))
        return loss

    def confirm(self, commits: int) -> None:
        """Take the count of a transaction that was confirmed."""
        self.mark = CommitMark(commits, self.mark.losses if self.mark else ())

    def expect(self, commits: int) -> Loss | None:
        """Take what an earlier process knew as confirmed; return what was lost since, if anything."""
        mark = self.mark or CommitMark(0)
        self.mark = mark._replace(commits=max(commits, mark.commits))
        return self.compare(mark.commits)
