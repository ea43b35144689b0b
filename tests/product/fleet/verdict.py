"""What a storm over a fleet came to, judged by the CDN's own books and the times in the logs of the instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple


class Leads(NamedTuple):
    """An instance began to lead."""

    at: float
    """Seconds since the epoch, as all times here."""
    instance: str
    term: int


class Request(NamedTuple):
    """A request for refreshes arrived at the CDN."""

    at: float
    instance: str


class Loss(NamedTuple):
    """The leader of a term was taken away."""

    at: float
    event: str
    instance: str
    term: int


class Freeze(NamedTuple):
    """A process was stopped for some time."""

    instance: str
    begin: float
    end: float


@dataclass(slots=True)
class Report:
    """What a storm came to."""

    lease_seconds: float
    seed: int = 0
    events: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    accepted: int = 0
    """Units, by the CDN's books."""
    ledger: int = 0
    held: int = 0
    """Units that are still reserved at rest."""
    late: int = 0
    """Units of late answers that no leader has booked yet."""
    loses_commits: bool = False
    """Whether the database may have lost commits: then the ledger may not know some of what was accepted."""
    stale: list[str] = field(default_factory=list)
    over_quota: int = 0
    """Requests that the CDN refused because its quota was used up."""
    below: list[str] = field(default_factory=list)
    """Instants at which the ledger was below what the CDN had accepted, though no sender was frozen before."""
    takeover_seconds: list[float] = field(default_factory=list)
    late_takeovers: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)
    """Requests of an older term after one of a newer term, by a sender that was not frozen."""
    older_frozen: int = 0
    terms: int = 0
    requests: int = 0
    failed_starts: int = 0
    """Starts while the database was away, which were repeated."""
    broken: list[str] = field(default_factory=list)
    """What daemons logged last that ended by themselves."""
    tracebacks: list[str] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def problems(self) -> dict[str, object]:
        """Which promises did not hold, with what shows it."""
        books = f"accepted {self.accepted}, ledger {self.ledger}, late answers {self.late}, held {self.held}"
        agree = self.accepted == self.ledger + self.late and not self.held
        found = {
            "stale": self.stale,
            "over quota": self.over_quota,
            "books": "" if agree or self.loses_commits else books,
            "ledger below": self.below,
            "late takeovers": self.late_takeovers,
            "older terms": self.older,
            "ended by itself": self.broken,
            "tracebacks": self.tracebacks,
        }
        return {name: what for name, what in found.items() if what}


def takeovers(losses: Sequence[Loss], leads: Sequence[Leads]) -> Mapping[Loss, float | None]:
    """
    Return how many seconds after each loss of a leader the next one led, or was taken away itself; None: neither.

    The database gives out a term before its leader has read what it takes over: a loss may come in between.
    """
    return {
        loss: min(
            (one.at - loss.at for one in (*leads, *losses) if one.term > loss.term and one.at > loss.at), default=None
        )
        for loss in losses
    }


def older_requests(
    requests: Sequence[Request], leads: Sequence[Leads], freezes: Sequence[Freeze], *, slack_seconds: float
) -> tuple[list[str], int]:
    """
    Find requests of an older term after one of a newer term.

    Args:
        requests: in the order of their arrival.
        leads: when the terms began; a request is of the last term that its instance had begun.
        freezes: of processes: their sender may write after the end of its term.
        slack_seconds: until a process that goes on has written what it was about to write.

    Returns:
        Those whose sender was not frozen, described; and how many there are whose sender was.
    """
    newest, newest_at, found, frozen = 0, 0.0, [], 0
    for request in requests:
        own = [one.term for one in leads if one.instance == request.instance and one.at <= request.at]
        term = max(own, default=0)
        if term >= newest:
            newest, newest_at = term, request.at
        elif any(
            each.instance == request.instance and each.begin <= request.at and each.end + slack_seconds >= request.at
            for each in freezes
        ):
            frozen += 1
        else:
            found.append(
                f"{request.instance} term {term} at {request.at:.3f}, after one of term {newest} at {newest_at:.3f}"
            )
    return found, frozen


def unordered_terms(leads: Sequence[Leads]) -> list[str]:
    """Return terms that began twice, or after a newer one."""
    return [
        f"{later.instance} began term {later.term} after {earlier.instance} had begun {earlier.term}"
        for earlier, later in pairwise(sorted(leads))
        if later.term <= earlier.term
    ]
