"""What a target must provide, and what it may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from listener.contracts.checks import Check
from listener.refresh import UNLIMITED, Priority, QuotaReading, Receipt, RefreshKind, Task

__all__ = ["ChecksDeadline", "KindLimits", "ReportsTasks", "Target", "TargetBase"]


@dataclass(frozen=True, slots=True)
class KindLimits:
    """The limits of one kind of request."""

    batch_urls: int
    """URLs in one request."""
    batch_domains: int = 10
    batch_bytes: int | None = None
    """Encoded length of all URLs of one request, where the CDN or its transport limits it."""
    slots: int | None = None
    """Requests in flight at once, where the CDN limits them."""


class Target(Protocol):
    """
    An account of a CDN, or a cache.

    ``submit`` raises errors by what the caller can do about them: see :mod:`listener.errors`.
    """

    Settings: ClassVar[type[BaseModel]]
    name: str
    account: str
    """Targets of one account share its quota."""
    limits: Mapping[RefreshKind, KindLimits]
    """The kinds of refresh that it can do, with their limits."""
    forces: bool
    """Whether a directory refresh evicts unchanged objects too, instead of revalidating them."""
    can_force: bool
    """Whether ``submit`` can turn a revalidation into an eviction (``force``)."""
    quota: Mapping[RefreshKind, int]
    """The daily quota to assume until :meth:`read_quota` returns the live one."""

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; open nothing."""
        ...

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """
        Wait until a request of these URLs keeps the rate limits. Called before each :meth:`submit`.

        One that is not ``LIVE`` lets all other requests go first, and leaves them part of each limit.
        """
        ...

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool) -> Receipt:
        """
        Send one request; return once the CDN has accepted it.

        Raise a subclass of :class:`~listener.errors.NotSent` only when it surely was not accepted, and
        :class:`~listener.errors.OutcomeUnknown` when it may have been.
        """
        ...

    async def read_quota(self) -> Mapping[RefreshKind, QuotaReading]:
        """Return the live quota of each kind that the CDN reports; empty where it reports none."""
        ...

    async def check(self) -> Sequence[Check]:
        """Check credentials, permissions, clock and quota, without changing anything."""
        ...

    async def close(self) -> None:
        """Close connections; may be called twice."""
        ...


class TargetBase:
    """What targets have in common, with the defaults of a CDN that has no quota, no rate limit and no tasks."""

    limits: Mapping[RefreshKind, KindLimits]
    forces = True
    can_force = False

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; open nothing."""
        self.name = name
        self.settings = settings
        self.account = name

    @property
    def quota(self) -> Mapping[RefreshKind, int]:
        """No limit for any kind."""
        return dict.fromkeys(self.limits, UNLIMITED)

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Return at once."""

    async def read_quota(self) -> Mapping[RefreshKind, QuotaReading]:
        """Return nothing."""
        return {}

    async def close(self) -> None:
        """Do nothing."""


@runtime_checkable
class ChecksDeadline(Protocol):
    """
    A target that looks once more whether it may send, in the step in which it hands a request to the network.

    Of several instances that share a store one sends for an account, for as long as its lease lasts. Without this
    method the pipeline looks before :meth:`Target.submit`, and cancels what takes longer than the lease.
    """

    def send_while(self, left_seconds: Callable[[], float]) -> None:
        """
        Take what returns for how long requests may be written; called before the first :meth:`Target.submit`.

        Where that is not positive, hand no byte of a request to the network, and raise
        :class:`~listener.errors.SendingEnded`.
        """
        ...


@runtime_checkable
class ReportsTasks(Protocol):
    """
    A target whose CDN accepts a request first and does it later, as a task that can be looked up.

    Without these methods a request counts as done when ``submit`` returns, and one whose outcome is unknown counts as
    spent and is sent again.
    """

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return these tasks; leave out those that the CDN does not list (yet)."""
        ...

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """
        Return the tasks of exactly this URL created in the span (seconds since the epoch), newest first.

        Raise :class:`~listener.errors.OutcomeUnknown` where the list does not reach back that far.
        """
        ...
