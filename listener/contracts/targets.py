"""What a target must provide, and what it may."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel

from listener.allowances import Allowance
from listener.contracts.checks import Check
from listener.refresh import Priority, QuotaReading, Receipt, RefreshKind, Task
from listener.urls import host_of

__all__ = [
    "ChecksDeadline",
    "ChecksUrls",
    "Eviction",
    "FindsTasks",
    "JoinsUrls",
    "KindLimits",
    "Pace",
    "RateLeft",
    "ReportsRates",
    "ReportsTasks",
    "Target",
    "TargetBase",
    "UnknownOutcome",
    "confirms",
    "evicts_directories",
    "token_mark",
]


class Eviction(StrEnum):
    """What a request of one kind does to the copies that it reaches."""

    HARD = "hard"
    """It drops them."""
    SOFT = "soft"
    """It lets caches ask the origin: a copy stays that the origin's answer does not show to be an old one."""
    EITHER = "either"
    """As ``SOFT``, but ``submit`` with ``force`` drops them."""


@dataclass(frozen=True, slots=True)
class KindLimits:
    """One kind of request: its limits, and what it does."""

    batch_urls: int
    """URLs in one request."""
    batch_places: int = 1
    """Places in one request; :meth:`Target.place` says which URLs are of one."""
    batch_bytes: int | None = None
    """Encoded length of all URLs of one request, where the CDN or its transport limits it."""
    slots: int | None = None
    """Requests in flight at once, where the CDN limits them."""
    eviction: Eviction = Eviction.HARD
    """Never ``SOFT`` for files: what needs eviction would be sent again and again."""

    def forces(self, *, on_demand: bool = False) -> bool:
        """Return what ``submit`` gets as ``force``; ``on_demand``: for what needs eviction, or is urgent."""
        return self.eviction is Eviction.HARD or (on_demand and self.eviction is Eviction.EITHER)


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a target is asked, and about what."""

    lanes: int = 4
    """Requests under way at once."""
    first_look_seconds: float | None = None
    """When a task is looked at first after its request was accepted; None: ``verifier.first_seconds``."""
    interval_seconds: float | None = None
    """The least time between two looks at it; None: ``verifier.interval_seconds``."""
    ids_per_look: int = 10
    """Task ids in one call of :meth:`ReportsTasks.tasks`."""
    history_seconds: float = 3 * 86_400.0
    """How long the CDN knows a task: an older one is looked at no more."""
    answer_seconds: float = 0.0
    """
    How long a request may be on its way until the CDN counts it, where no live quota corrects the ledger: none is
    begun so shortly before the reset of an allowance.
    """


@dataclass(frozen=True, slots=True)
class RateLeft:
    """What is left of a rate limit now."""

    name: str
    """For the operator, in the reason of what waits for it."""
    kinds: frozenset[RefreshKind]
    """What it limits."""
    left: float
    """How many URLs of these kinds may be sent now."""
    refills_after_seconds: float
    """When more may be sent, where none is left."""


class UnknownOutcome(StrEnum):
    """How it is settled what became of a request whose answer did not arrive; a target declares one."""

    TASKS = "tasks"
    """
    The CDN lists its tasks (:class:`FindsTasks`): a request that is in the list was accepted. One that is not was not,
    some time later, and its quota is given back; so an empty list is a promise, and a guess would overspend.
    """
    TOKEN = "token"  # noqa: S105 - no secret
    """
    The same request is sent again with the same token: the CDN charges and does it once. Once it would be counted in
    another window of an allowance, or the configuration names another account or :attr:`TargetBase.recipient`, it
    counts as spent instead.
    """
    REPEAT = "repeat"
    """A request that is sent twice costs nothing and does no harm, so it is sent again."""
    SPENT = "spent"
    """Nothing can be learned: the request counts as spent, and its URLs are sent again by another one."""


class Target(Protocol):
    """
    An account of a CDN, or a cache.

    ``submit`` raises errors by what the caller can do about them: see :mod:`listener.errors`.
    """

    Settings: ClassVar[type[BaseModel]]
    name: str
    account: str
    """Targets of one account share its allowances."""
    limits: Mapping[RefreshKind, KindLimits]
    """The kinds of refresh that it can do, with their limits."""
    allowances: Sequence[Allowance]
    """What the account may spend; a kind of request that is in none of them is unlimited."""
    unknown_outcome: UnknownOutcome
    """How an unknown outcome is settled."""
    pace: Pace

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; open nothing."""
        ...

    def place(self, url: str) -> str:
        """Return what URLs of one request have in common: a host, a zone, a distribution; no input or output."""
        ...

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """
        Wait until a request of these URLs keeps the rate limits. Called before each :meth:`submit`.

        One that is not ``LIVE`` lets all other requests go first, and leaves them part of each limit.
        """
        ...

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        """
        Send one request; return once the CDN has accepted it.

        ``token`` names the request: 32 hexadecimal digits, stored before the call, and the same only where a request
        with the same URLs in the same order is sent again (:attr:`UnknownOutcome.TOKEN`).

        Raise a subclass of :class:`~listener.errors.NotSent` only when it surely was not accepted, and
        :class:`~listener.errors.OutcomeUnknown` when it may have been.
        """
        ...

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Return the live figures of each allowance that the CDN reports, by its name; empty where it reports none."""
        ...

    async def check(self) -> Sequence[Check]:
        """Check credentials, permissions, clock and quota, without changing anything."""
        ...

    async def close(self) -> None:
        """Close connections; may be called twice."""
        ...


def confirms(target: Target) -> bool:
    """Return whether the target learns when caches have dropped their copies; without that acceptance has to do."""
    return isinstance(target, ReportsTasks) or bool(getattr(target, "confirms_by_answer", False))


def token_mark(target: Target) -> str:
    """Return how the tokens end of requests that this target sends, by its account and what knows them there."""
    of = f"{target.account}\n{getattr(target, 'recipient', '')}"
    return hashlib.sha256(of.encode()).hexdigest()[:8]


def evicts_directories(target: Target) -> bool:
    """Return whether a directory refresh drops what did not change, too; True without directory refreshes."""
    limits = target.limits.get(RefreshKind.DIRECTORY)
    return limits is None or limits.forces()


class TargetBase:
    """What targets have in common, with the defaults of a CDN that has no quota, no rate limit and no tasks."""

    limits: Mapping[RefreshKind, KindLimits]
    allowances: Sequence[Allowance] = ()
    unknown_outcome = UnknownOutcome.SPENT
    pace = Pace()
    recipient = ""
    """What knows the tokens of requests, where an account has several, such as the id of a zone or a distribution."""
    confirms_by_answer = False
    """Whether :meth:`Target.submit` returns once every cache has dropped its copies; else its answer is acceptance."""

    def __init__(self, name: str, settings: Any) -> None:
        """Keep the settings; open nothing."""
        self.name = name
        self.settings = settings
        self.account = name

    def place(self, url: str) -> str:
        """Return the host, with its port where it has one."""
        return host_of(url)

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Return at once."""

    async def read_quota(self) -> Mapping[str, QuotaReading]:
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
class JoinsUrls(Protocol):
    """
    A target whose CDN drops one copy for several URLs, or cannot be asked for some URLs by name.

    What is the same for the CDN has one address, under which needs and requests are kept: it is requested, and paid,
    once. Both members are of the class, as commands that make no target use them.
    """

    shares_hosts: bool
    """Whether a path is dropped on all hosts: addresses then have the host of the first base URL of the target."""

    @staticmethod
    def nameable(url: str) -> str:
        """
        Return the URL, or the beginning of it that the CDN can be asked for, with a ``*`` behind it.

        ``submit`` gets such a URL as one of a file, and drops all that begins so. Where that is more than the site lets
        be refreshed it gets the URL itself, and refuses it by :class:`~listener.errors.BatchRejected`. No input or
        output; applying it again changes nothing.
        """
        ...


@runtime_checkable
class ReportsRates(Protocol):
    """
    A target with rate limits that are worth planning for.

    Without this method what exceeds a limit is planned all the same, and waits in :meth:`Target.admit`, where it is
    neither merged nor replaced any more.
    """

    def rates(self) -> Sequence[RateLeft]:
        """Return what is left of each limit; no input or output."""
        ...


@runtime_checkable
class ChecksUrls(Protocol):
    """A target that can find out, before anything is sent, whether URLs are its to refresh."""

    async def check_urls(self, urls: Sequence[str]) -> Sequence[Check]:
        """
        Check the base URLs of the sites that it refreshes, without changing anything.

        Called where nothing in :meth:`Target.check` failed.
        """
        ...


@runtime_checkable
class ReportsTasks(Protocol):
    """
    A target whose CDN accepts a request first and does it later, as a task that can be looked up.

    Without this method, and where a receipt names no task, a request counts as done when the receipt says.
    """

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return these tasks; leave out those that the CDN does not list (yet)."""
        ...


@runtime_checkable
class FindsTasks(ReportsTasks, Protocol):
    """A target whose CDN lists its tasks by URL and time, as :attr:`UnknownOutcome.TASKS` demands."""

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """
        Return the tasks of exactly this URL created in the span (seconds since the epoch), newest first.

        None says that the CDN accepted no such request. Raise :class:`~listener.errors.OutcomeUnknown` where the list
        cannot say so, as it does not reach back that far: such a request counts as spent in the end.
        """
        ...
