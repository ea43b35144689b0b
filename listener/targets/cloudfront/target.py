"""The contract of a target, for CloudFront."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple
from urllib.parse import quote
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from listener.allowances import Allowance, Month
from listener.contracts import (
    AWS_KEY,
    Check,
    CheckState,
    KindLimits,
    Pace,
    Questions,
    RateLeft,
    SettingQuestion,
    TargetBase,
    UnknownOutcome,
)
from listener.egress import proxy_for
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    NotSent,
    OutcomeUnknown,
    TargetError,
    WindowFull,
)
from listener.extras import needing
from listener.rates import Bucket
from listener.refresh import Priority, QuotaReading, Receipt, RefreshKind, Task, TaskState
from listener.targets.cloudfront.answers import ACCESS_DENIED, NO_INVALIDATION, Request, Sent
from listener.targets.cloudfront.paths import is_wildcard, nameable, path_of
from listener.targets.cloudfront.prices import DOLLARS_PER_PATH, FREE_PATHS
from listener.targets.cloudfront.settings import KEY_SECONDS, Limits
from listener.targets.cloudfront.settings import Settings as CloudFrontTable
from listener.targets.cloudfront.wire import COMPLETED, batch_document, read_invalidation
from listener.targets.turns import Turns

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

    from listener.targets.cloudfront.client import Client

__all__ = ["CloudFront"]

MOST_PATHS: Final = 1_000
"""In one request: 3,000 is the ceiling that was published; others cut at 1,000."""
LOOK_SECONDS: Final = 5.0
"""AWS names 25 seconds until an invalidation is complete, for 95 of 100 (April 2026)."""
BUSY_SECONDS: Final = 20.0
"""With limits on what is in progress: how often AWS's own clients look whether something is done."""
PACE_PART: Final = 0.9
"""Of the rates: requests do not all take equally long to CloudFront, which counts them there."""
TINY: Final = 1e-9
EMPTY_CODES: Final = frozenset({"InconsistentQuantities", "InvalidArgument", "MissingArgument", "MalformedXML"})
KINDS: Final = (RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS)


class _Rates(NamedTuple):
    """What is left of an account's limits by rate, and whose turn it is."""

    paths: Bucket
    wildcards: Bucket
    turns: Mapping[bool, Turns]
    """By whether a request has a wildcard: files do not wait behind these."""

    @classmethod
    def of(cls, limits: Limits) -> _Rates:
        """Begin with full buckets."""
        return cls(
            Bucket(limits.paths_per_second, limits.paths_per_second * PACE_PART),
            Bucket(max(1.0, limits.wildcards_per_second), limits.wildcards_per_second * PACE_PART),
            {False: Turns(), True: Turns()},
        )


_RATES: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str, Limits], _Rates]]] = WeakKeyDictionary()
"""By account, endpoint and limits."""


class CloudFront(TargetBase):
    """One distribution of an AWS account."""

    Settings: ClassVar[type[BaseModel]] = CloudFrontTable
    questions: ClassVar[Questions] = Questions(
        settings=(
            SettingQuestion(key="distribution", text="Id of the distribution, such as EDFDVBD6EXAMPLE", required=True),
        ),
        credentials=AWS_KEY,
        endpoint_key="endpoint_url",
    )
    unknown_outcome = UnknownOutcome.TOKEN
    shares_hosts = True
    nameable = staticmethod(nameable)
    pace = Pace(lanes=1, first_look_seconds=LOOK_SECONDS, interval_seconds=LOOK_SECONDS)

    def __init__(self, name: str, settings: CloudFrontTable, *, key: ReadOnlyCredentials | None = None) -> None:
        """Keep the settings; read no key and open no connection before the first call."""
        super().__init__(name, settings)
        self.settings: CloudFrontTable = settings
        self.account, self.recipient = settings.account, settings.distribution
        self.pace = replace(self.pace, answer_seconds=KEY_SECONDS + settings.answer_seconds)
        self.limits = _limits(settings)
        self.allowances = (_allowance(settings),)
        self._key = key
        self._sending: tuple[asyncio.AbstractEventLoop, _Rates] | None = None
        """Where it sends, once it does: plans are made in other threads."""

    @cached_property
    def client(self) -> Client:
        """What makes the calls."""
        # botocore is slow to import, and commands that only read the state file make no call.
        with needing("aws", what="a target of type cloudfront"):
            from listener.targets.cloudfront.client import Client  # noqa: PLC0415

        return Client(self.settings, self._key)

    async def require_credentials(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` for no usable key, or a proxy that is none."""
        proxy_for(self.settings.endpoint_url)
        if self._key is None:
            await self.client.require_key()

    def place(self, url: str) -> str:
        """Return the distribution; what begins with something has a request of its own, as few go in a second."""
        return url if self._by_rate and url.endswith("*") else self.settings.distribution

    @property
    def _by_rate(self) -> bool:
        return self.settings.limits.form == "rate"

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Wait until a request of these URLs keeps the limits of the account, where they are by rate."""
        if not self._by_rate:
            return
        amounts = self._amounts(kind, urls)
        await self._rates.turns[len(amounts) > 1].take(amounts, priority)

    @property
    def _rates(self) -> _Rates:
        """Return what is left of the limits, which the distributions of an account have in common."""
        loop = asyncio.get_running_loop()
        if self._sending is None or self._sending[0] is not loop:
            settings = self.settings
            shared = _RATES.setdefault(loop, {})
            key = settings.account, settings.endpoint_url, settings.limits
            self._sending = loop, shared.setdefault(key, _Rates.of(settings.limits))
        return self._sending[1]

    def _amounts(self, kind: RefreshKind, urls: Sequence[str]) -> list[tuple[Bucket, float]]:
        wildcards = sum(is_wildcard(kind, url) for url in urls)
        rates = self._rates
        return [(rates.paths, len(urls)), *([(rates.wildcards, wildcards)] if wildcards else [])]

    def rates(self) -> Sequence[RateLeft]:
        """Return how many paths with a ``*`` may be sent now. Others refill within a second."""
        if not self._by_rate or self._sending is None:
            return ()
        loop, rates = self._sending
        now, bucket = loop.time(), rates.wildcards
        kinds = frozenset(KINDS) - {RefreshKind.FILE}
        name = f"{self.settings.limits.wildcards_per_second:g} paths with a * in a second"
        left = max(0, math.floor(bucket.left(now) + TINY))
        return [RateLeft(name, kinds, left, bucket.wait_seconds(1, now))]

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:  # noqa: ARG002
        """
        Create one invalidation, whose caller reference is the token: CloudFront does and charges it once.

        Raises a :class:`~listener.errors.TargetError` by remedy.
        """
        try:
            one = read_invalidation(await self.client.call(self._creation(kind, urls, token)))
        except WindowFull:
            now = asyncio.get_running_loop().time()
            for bucket, _ in self._amounts(kind, urls):
                bucket.drain(now)
            raise
        except NotSent:
            for bucket, amount in self._amounts(kind, urls):
                bucket.give_back(amount)
            raise
        if one is None:
            raise OutcomeUnknown("CloudFront answered CreateInvalidation with success, but without an invalidation")
        return Receipt(task_ids=(one.id,))

    def _creation(self, kind: RefreshKind, urls: Sequence[str], token: str) -> Request:
        if len(urls) > self.limits[kind].batch_urls:
            raise BatchTooLarge(f"{len(urls)} paths are too many for one request")
        paths, culprits = [], []
        for url in urls:
            try:
                paths.append(path_of(kind, url))
            except BatchRejected as error:
                culprits.append((url, str(error)))
        if culprits:
            raise BatchRejected(culprits[0][1], urls=[url for url, _ in culprits])
        words = f"CreateInvalidation of {len(paths)} paths of {self.settings.distribution}"
        refill = 1.0 if self._by_rate else BUSY_SECONDS
        sent = Sent("CreateInvalidation", self.settings.distribution, words, tuple(urls), refill)
        return Request("POST", "/invalidation", sent, batch_document(token, paths))

    async def tasks(self, task_ids: Sequence[str]) -> Sequence[Task]:
        """Return these invalidations, each for all paths of its request; leave out those that CloudFront lacks."""
        found = [await self._task(task_id) for task_id in task_ids]
        return [task for task in found if task is not None]

    async def _task(self, task_id: str) -> Task | None:
        words = f"GetInvalidation of {task_id}"
        sent = Sent("GetInvalidation", self.settings.distribution, words)
        try:
            one = read_invalidation(await self.client.call(Request("GET", f"/invalidation/{quote(task_id)}", sent)))
        except Misconfigured as error:
            if error.code == NO_INVALIDATION:
                return None
            raise
        if one is None or one.id != task_id:
            return None
        state = TaskState.COMPLETE if one.status == COMPLETED else TaskState.REFRESHING
        return Task(task_id, None, RefreshKind.FILE, state, progress=one.status)

    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Return nothing, as CloudFront reports no figures; but try whether distribution and key are right."""
        await self._try_list()
        return {}

    async def check(self) -> Sequence[Check]:
        """Try the key, the distribution and each permission; nothing is invalidated."""
        found: list[Check] = []
        for action, ask in (
            ("ListInvalidations", self._try_list),
            ("CreateInvalidation", self._try_create),
            ("GetInvalidation", self._try_get),
        ):
            subject = f"targets.{self.name}: {action} of {self.settings.distribution}"
            try:
                await ask()
            except TargetError as error:
                found.append(Check(subject, CheckState.FAILED, str(error), error.hint or "try again in a moment"))
                if error.code != ACCESS_DENIED:
                    break  # the others would say the same
            else:
                found.append(Check(subject, CheckState.OK, "permitted"))
        return found

    async def _try_list(self) -> None:
        distribution = self.settings.distribution
        sent = Sent("ListInvalidations", distribution, f"ListInvalidations of {distribution}")
        await self.client.call(Request("GET", "/invalidation", sent, query="MaxItems=1"))

    async def _try_create(self) -> None:
        """Ask for what is refused as inconsistent where it is permitted: one path is announced, and none is named."""
        sent = Sent("CreateInvalidation", self.settings.distribution, "an empty CreateInvalidation")
        body = batch_document("cdn-listener-check", [], quantity=1)
        try:
            await self.client.call(Request("POST", "/invalidation", sent, body))
        except Misconfigured as error:
            if error.code not in EMPTY_CODES:
                raise

    async def _try_get(self) -> None:
        """Ask for an invalidation that there is not."""
        await self._task("I0")

    async def close(self) -> None:
        """Release connections; safe to call twice."""
        if "client" in vars(self):
            await self.client.close()


def _limits(settings: CloudFrontTable) -> dict[RefreshKind, KindLimits]:
    limits = settings.limits
    if limits.form == "rate":
        wildcards = KindLimits(max(1, math.floor(limits.wildcards_per_second)))
        files = KindLimits(min(MOST_PATHS, limits.paths_per_second))
        return {RefreshKind.FILE: files, RefreshKind.DIRECTORY: wildcards, RefreshKind.IGNORE_PARAMS: wildcards}
    files = KindLimits(min(MOST_PATHS, limits.paths_in_progress), slots=limits.paths_in_progress)
    # Two kinds share them: a third, rounded up, is for paths with any query.
    params = max(1, limits.wildcards_in_progress // 3)
    directories = max(1, limits.wildcards_in_progress - params)
    return {
        RefreshKind.FILE: files,
        RefreshKind.DIRECTORY: KindLimits(directories, slots=directories),
        RefreshKind.IGNORE_PARAMS: KindLimits(params, slots=params),
    }


def _allowance(settings: CloudFrontTable) -> Allowance:
    paid = math.floor(settings.monthly_dollars / DOLLARS_PER_PATH + TINY)
    return Allowance(
        name="paths",
        limit=FREE_PATHS + paid,
        window=Month(),
        costs=dict.fromkeys(KINDS, 1),
        free=FREE_PATHS,
        unit_dollars=DOLLARS_PER_PATH,
    )
