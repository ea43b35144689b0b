"""
The account behind the API: accepts a request completely or not at all, and keeps what was accepted; its quota and
rates.

Pure: time is an argument. A request passes the checks in the order of the code; nothing is spent or kept before the
last one has passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from listener.allowances import ALIBABA_DAY
from listener.emulator.alibaba.faults import Rejection
from listener.emulator.alibaba.parameters import MAX_DOMAINS, parse_paths
from listener.emulator.faults import FaultBook
from listener.emulator.tasks import FOREVER, CacheKey, TaskBook, TaskRecord
from listener.refresh import RefreshKind

__all__ = ["CallRates", "EmulatedAccount", "QuotaLedger", "Submission"]

FAILURE = "Internal Error"
"""One of the three descriptions that the vendor lists for a failed task."""

MINUTE_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One call of RefreshObjectCaches or PushObjectCache."""

    action: str
    kind: RefreshKind
    object_path: str
    """Paths, one a line."""
    force: bool = False
    malformed_code: str = "InvalidObjectPath.Malformed"
    spends: RefreshKind | None = None
    """The quota that it spends, when it is not that of its own kind (API version 2014-11-11)."""


class EmulatedAccount:
    """One account: quota, rates, domains and tasks."""

    def __init__(
        self,
        *,
        quota: Mapping[RefreshKind, int],
        faults: FaultBook,
        per_minute: Mapping[RefreshKind, int],
        tasks: TaskBook,
        task_seconds: float,
        domains: Collection[str] = (),
        most_domains: int = MAX_DOMAINS,
    ) -> None:
        """
        Start with nothing spent; an empty ``domains`` means that every domain belongs to the account.

        ``most_domains`` is what one request may name.
        """
        self.ledger = QuotaLedger(quota)
        self._most_domains = most_domains
        self.tasks = tasks
        self._minutes = MinuteRates(per_minute)
        self._faults = faults
        self._task_seconds = task_seconds
        self._domains = frozenset(domain.lower() for domain in domains)

    def submit(self, submission: Submission, now: float) -> list[TaskRecord]:
        """Accept a request and return its records, one for each path. Raise :class:`Rejection`, having kept nothing."""
        self.lower_limits(now)
        kind = submission.kind
        paths = parse_paths(
            submission.object_path,
            kind,
            malformed_code=submission.malformed_code,
            most_domains=self._most_domains,
        )
        self._check_malformed(submission, paths, now)
        per_domain = Counter(key.host for _, key in paths)
        for domain in per_domain:
            self.check_domain(domain, submission.action, now)
        self._minutes.check(kind, per_domain, now)
        if self._faults.take("quota", now, action=submission.action):
            raise Rejection("QuotaExceeded.Preload" if kind is RefreshKind.PREFETCH else "QuotaExceeded.Refresh")
        self.ledger.spend(submission.spends or kind, len(paths), now)
        self._minutes.count(kind, per_domain)
        records = self._records(submission, paths, now)
        self.tasks.add(records)
        return records

    def lower_limits(self, now: float) -> None:
        """Apply a ``quota-limit`` fault that is due, permanently."""
        while fault := self._faults.take("quota-limit", now):
            self._faults.clear_one(fault)
            if fault.limits:
                self.ledger.limits[RefreshKind.FILE], self.ledger.limits[RefreshKind.DIRECTORY] = fault.limits

    def _check_malformed(self, submission: Submission, paths: Sequence[tuple[str, CacheKey]], now: float) -> None:
        if not self._faults.any("malformed"):
            return
        for path, _ in paths:
            if self._faults.take_containing("malformed", path, now, action=submission.action):
                raise Rejection(submission.malformed_code)

    def check_domain(self, domain: str, action: str, now: float) -> None:
        """Raise :class:`Rejection` for a domain that is not this account's."""
        names = {domain, domain.rpartition(":")[0]}
        lost = self._faults.take("domain-not-found", now, action=action, matches=lambda fault: fault.text in names)
        if lost or (self._domains and not names & self._domains):
            raise Rejection("InvalidDomain.NotFound", domain=domain)

    def _records(self, submission: Submission, paths: Sequence[tuple[str, CacheKey]], now: float) -> list[TaskRecord]:
        visible_at = now + self._faults.seconds("absent", now, action=submission.action)
        ends_at, failure = self._end_of(submission.action, now), self._failure_of(submission.action, now)
        ids = self.new_ids([key.host for _, key in paths], submission.kind, now)
        return [
            TaskRecord(
                task_id=task_id,
                path=path,
                key=key,
                kind=submission.kind,
                force=submission.force,
                created_at=now,
                ends_at=ends_at(path),
                visible_at=visible_at,
                failure=failure(path),
                shown_at=now,
            )
            for (path, key), task_id in zip(paths, ids, strict=True)
        ]

    def new_ids(self, domains: Sequence[str], kind: RefreshKind, now: float) -> Iterable[str]:
        """Return the task id of each path of a request, given the paths' domains in order."""
        return self.tasks.new_ids(domains, kind, now)

    def _end_of(self, action: str, now: float) -> Callable[[str], float]:
        if not self._faults.any("stuck"):
            return lambda _: now + self._task_seconds

        def end(path: str) -> float:
            fault = self._faults.take_containing("stuck", path, now, action=action)
            if fault is None:
                return now + self._task_seconds
            return FOREVER if fault.seconds is None else now + fault.seconds

        return end

    def _failure_of(self, action: str, now: float) -> Callable[[str], str]:
        if not self._faults.any("fail"):
            return lambda _: ""
        return lambda path: FAILURE if self._faults.take_containing("fail", path, now, action=action) else ""


class QuotaLedger:
    """Units accepted per quota day (00:00 UTC+8 to the next) and kind; what is not accepted costs nothing."""

    def __init__(self, limits: Mapping[RefreshKind, int]) -> None:
        """Start with a day's limit for each kind."""
        self.limits = dict(limits)
        self._spent: dict[int, Counter[RefreshKind]] = {}

    def spent(self, kind: RefreshKind, now: float) -> int:
        """Return the units accepted in the quota day that holds ``now``."""
        return self._spent.get(ALIBABA_DAY.start(now), Counter())[kind]

    def remaining(self, kind: RefreshKind, now: float) -> int:
        """Return what is left of the day; never below zero, even when the limit was lowered meanwhile."""
        return max(0, self.limits[kind] - self.spent(kind, now))

    def spend(self, kind: RefreshKind, units: int, now: float) -> None:
        """Take ``units`` from the day, all or none. Raise :class:`Rejection` when more is requested than is left."""
        if units > self.remaining(kind, now):
            raise Rejection("QuotaExceeded.Preload" if kind is RefreshKind.PREFETCH else "QuotaExceeded.Refresh")
        self._spent.setdefault(ALIBABA_DAY.start(now), Counter())[kind] += units

    def windows(self) -> dict[int, dict[str, int]]:
        """Return the units accepted so far: start of the quota day (seconds since the epoch) to kind to units."""
        return {start: {kind.value: units for kind, units in spent.items()} for start, spent in self._spent.items()}


class CallRates:
    """How many calls each action took in the running second."""

    def __init__(self, per_second: Mapping[str, int]) -> None:
        """Keep the calls that each action allows in a second."""
        self._per_second = per_second
        self._second = -1
        self._calls: Counter[str] = Counter()

    def take(self, action: str, now: float) -> None:
        """Count a call. Raise :class:`Rejection` with the rest of the second as ``retry_after_ms`` when full."""
        if int(now) != self._second:
            self._second = int(now)
            self._calls.clear()
        if self._calls[action] >= self._per_second[action]:
            raise Rejection("Throttling.User", action=action, retry_after_ms=max(1, int((1 - now % 1) * 1000)))
        self._calls[action] += 1


class MinuteRates:
    """How many paths of each kind each domain took in the running minute."""

    def __init__(self, per_minute: Mapping[RefreshKind, int]) -> None:
        """Keep the paths that a domain allows in a minute; a kind that is not named has no such limit."""
        self._per_minute = per_minute
        self._minute = -1
        self._paths: Counter[tuple[str, RefreshKind]] = Counter()

    def check(self, kind: RefreshKind, paths_by_domain: Mapping[str, int], now: float) -> None:
        """Raise :class:`Rejection` when one of the domains has no room left in this minute for its paths."""
        if int(now // MINUTE_SECONDS) != self._minute:
            self._minute = int(now // MINUTE_SECONDS)
            self._paths.clear()
        limit = self._per_minute.get(kind)
        for domain, paths in paths_by_domain.items():
            if limit is not None and self._paths[domain, kind] + paths > limit:
                raise Rejection("QuotaPerMinuteExceeded.Refresh", domain=domain)

    def count(self, kind: RefreshKind, paths_by_domain: Mapping[str, int]) -> None:
        """Count paths that were checked and accepted."""
        for domain, paths in paths_by_domain.items():
            self._paths[domain, kind] += paths
