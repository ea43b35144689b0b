"""What targets of this vendor have in common: the key, the client, the search of a task list, and the checks."""

from __future__ import annotations

import math
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from listener.alibaba.access import KeySettings, key_source, require_key
from listener.alibaba.calls import ApiSettings, Request
from listener.alibaba.rates import Window
from listener.alibaba.replies import CLOCK_TOLERANCE_SECONDS, Hints, ReplyError, parse_tasks
from listener.allowances import DAY_SECONDS
from listener.clock import Clock, SystemClock
from listener.contracts import UNLIMITED, Check, CheckState, UnknownOutcome
from listener.egress import proxy_for
from listener.errors import OutcomeUnknown, TargetError, Unavailable
from listener.refresh import QuotaReading, RefreshKind, Task
from listener.text import whole_number
from listener.urls import Spellings

if TYPE_CHECKING:
    from listener.alibaba.client import SignedClient

__all__ = ["ApiTarget"]

HISTORY_MARGIN_SECONDS = 300
"""Kept away from the oldest end of the task list: the CDN's clock decides what is too old."""
NOTABLE_SKEW_SECONDS = 60


class ApiTarget(ABC):
    """An account of a service that signed calls reach, and whose tasks are listed by URL and time."""

    unknown_outcome = UnknownOutcome.TASKS

    def __init__(
        self,
        name: str,
        settings: ApiSettings,
        *,
        version: str,
        hints: Hints,
        calls_per_second: float,
        task_list_calls_per_second: float,
        history_days: int,
        clock: Clock | None,
        randomness: random.Random | None,
        environment: Mapping[str, str] | None,
    ) -> None:
        """Keep the settings; read no key and open no connection before the first call."""
        self.name = name
        self._api_settings = settings
        self._version = version
        self._hints = hints._replace(key=_key_words(settings))
        self._calls_per_second = calls_per_second
        self._history_seconds = history_days * DAY_SECONDS - HISTORY_MARGIN_SECONDS
        self._clock = clock or SystemClock()
        self._environment = os.environ if environment is None else environment
        self._keys = key_source(settings, self._environment)
        self._randomness = randomness or random.Random()  # noqa: S311 - spreads retries
        self._left_seconds: Callable[[], float] = lambda: math.inf
        self._task_list_calls = Window(task_list_calls_per_second, 1.0)

    @abstractmethod
    async def read_quota(self) -> Mapping[str, QuotaReading]:
        """Return the live figures of each allowance that the CDN reports, by its name."""

    @abstractmethod
    async def search_tasks(self, kind: RefreshKind, url: str, span: tuple[int, int]) -> tuple[list[Task], bool]:
        """Return the tasks of a URL in a span of the CDN's clock, and whether these are all."""

    @abstractmethod
    async def reads(self) -> Sequence[Request]:
        """Return a question for each permission to read that is needed besides the quota's."""

    @cached_property
    def client(self) -> SignedClient:
        """What makes the calls."""
        # aiohttp is slow to import, and commands that only read the state file make no call.
        from listener.alibaba.client import SignedClient  # noqa: PLC0415

        return SignedClient(
            self._api_settings,
            version=self._version,
            calls_per_second=self._calls_per_second,
            hints=self._hints,
            keys=self._keys,
            clock=self._clock,
            randomness=self._randomness,
            left_seconds=self._seconds_left,
        )

    def send_while(self, left_seconds: Callable[[], float]) -> None:
        """Take what returns for how long requests may be written."""
        self._left_seconds = left_seconds

    def _seconds_left(self) -> float:
        return self._left_seconds()

    async def require_credentials(self) -> None:
        """Raise :class:`~listener.errors.ConfigurationError` for no usable access key, or a proxy that is none."""
        proxy_for(self._api_settings.endpoint)
        await require_key(self._api_settings, self._environment)

    async def find_tasks(self, kind: RefreshKind, url: str, *, since: float, until: float) -> Sequence[Task]:
        """
        Return the tasks of exactly this URL created in the span (seconds since the epoch), newest first.

        Raises :class:`~listener.errors.OutcomeUnknown` where nothing was found but the list does not
        reach back to ``since``, or was too long to read: that it is absent would not be true.
        """
        # The list speaks of the CDN's clock, which may be minutes from ours.
        ahead = self.client.clock_skew_seconds or 0.0
        since, until, now = since - ahead, until - ahead, self._clock.now() - ahead
        start = max(math.floor(since), math.ceil(now - self._history_seconds))
        end = max(math.ceil(until), math.floor(since) + 1)
        found: list[Task] = []
        complete = False
        if start < end:
            found, complete = await self.search_tasks(kind, url, (start, end))
        spellings = Spellings([url])
        matching = [
            task._replace(url=url) for task in found if task.kind is kind and task.url and spellings.find(task.url)
        ]
        matching = [task for task in matching if task.created_at is None or start <= task.created_at <= end]
        if not matching and (start > math.floor(since) or not complete):
            raise OutcomeUnknown(f"the task list does not show whether {url} was accepted", code="listener.history")
        return sorted(map(self.by_our_clock, matching), key=lambda task: task.created_at or 0.0, reverse=True)

    async def all_pages(self, page_of: Callable[[int], Request], *, size: int, most: int) -> tuple[list[Task], bool]:
        """Return the tasks of all pages of ``size`` rows, up to ``most`` pages, and whether these were all."""
        found: list[Task] = []
        for page in range(1, most + 1):
            await self._task_list_calls.take()
            fields = await self.client.read(page_of(page))
            rows = read_tasks(fields)
            found += rows
            total = whole_number(str(fields.get("TotalCount", "")))
            if page * size >= total if total is not None else len(rows) < size:
                return found, True
        return found, False

    def by_our_clock(self, task: Task) -> Task:
        """Return a task whose creation time is converted from the CDN's clock to this machine's."""
        skew = self.client.clock_skew_seconds
        return task if task.created_at is None or not skew else task._replace(created_at=task.created_at + skew)

    async def check(self) -> Sequence[Check]:
        """
        Probe credentials, quota, clock skew and the permission for each read, without changing anything.

        The probes are in the order in which they stand on one another; without a key there is only the first.
        """
        key = await self.tried("credentials", self._check_credentials)
        if key.state is CheckState.FAILED:
            return [key]
        before = await self.check_before()
        if any(one.state is CheckState.FAILED for one in before):
            return [key, *before]
        quota = await self.tried("quota", self._check_quota)
        if quota.state is CheckState.FAILED and self.client.clock_skew_seconds is None:
            return [key, *before, quota, self._check_clock()]  # nothing answered: other calls would say the same
        reads = [await self.tried(one.action, partial(self._check_read, one)) for one in await self.reads()]
        return [key, *before, quota, self._check_clock(), *reads]

    async def check_before(self) -> Sequence[Check]:
        """Return what all further checks stand on."""
        return []

    async def tried(self, what: str, ask: Callable[[], Awaitable[str]]) -> Check:
        """Return the check of a question: its answer, or the error."""
        subject = f"{self.name}: {what}"
        try:
            return Check(subject, CheckState.OK, await ask())
        except TargetError as error:
            return Check(subject, CheckState.FAILED, str(error), error.hint)

    async def _check_credentials(self) -> str:
        key = await self.client.credentials()
        return f"access key {key.access_key_id[:4]}… from {self._api_settings.credentials}"

    async def _check_quota(self) -> str:
        quota = await self.read_quota()
        limited = {name: reading for name, reading in quota.items() if reading.limit < UNLIMITED}
        left = ", ".join(f"{name} {reading.remaining} of {reading.limit}" for name, reading in limited.items())
        return f"left: {left}" if left else "the CDN reported no quota; using the configured one"

    async def _check_read(self, request: Request) -> str:
        try:
            await self.client.read(request)
        except TargetError as error:
            if not error.code.startswith("InvalidTaskId"):
                raise
        return "permitted"

    def _check_clock(self) -> Check:
        subject, skew = f"{self.name}: clock", self.client.clock_skew_seconds
        if skew is None:
            return Check(subject, CheckState.WARNING, "no response contained the CDN's time")
        direction = "ahead of" if skew >= 0 else "behind"
        message = f"{abs(skew):.0f} s {direction} the CDN's (at most {CLOCK_TOLERANCE_SECONDS} s)"
        if abs(skew) <= NOTABLE_SKEW_SECONDS:
            return Check(subject, CheckState.OK, message)
        state = CheckState.FAILED if abs(skew) > CLOCK_TOLERANCE_SECONDS else CheckState.WARNING
        return Check(subject, state, message, "synchronise the clock of this machine (NTP)")

    async def close(self) -> None:
        """Release connections; safe to call twice."""
        if "client" in vars(self):
            await self.client.close()


def _key_words(settings: KeySettings) -> str:
    """Return where the access key comes from, for hints."""
    if settings.credentials == "default-chain":
        return "which key Alibaba's credential chain gives"
    return f"{settings.environment_prefix}_ACCESS_KEY_ID and {settings.environment_prefix}_ACCESS_KEY_SECRET"


def read_tasks(fields: Mapping[str, Any]) -> list[Task]:
    """Return the tasks of an answer. Raise :class:`~listener.errors.Unavailable` where it is none of tasks."""
    try:
        return parse_tasks(fields)
    except ReplyError as error:
        raise Unavailable(f"the CDN answered with HTTP 200, but {error}") from error
