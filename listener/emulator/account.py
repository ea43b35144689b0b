"""
The account behind the API: takes requests whole or not at all, and keeps what was taken.

Pure: time is an argument, faults are a book that it reads. The order of the checks is the order in
which a request meets them; nothing is spent or kept before the last of them has passed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from listener.emulator.faults import FaultBook
from listener.emulator.limits import MinuteRates, QuotaLedger
from listener.emulator.paths import CacheKey, parse_paths
from listener.emulator.rejections import Rejection
from listener.emulator.tasks import FOREVER, TaskBook, TaskRecord
from listener.refresh import RefreshKind

__all__ = ["Account", "Submission"]

FAILURE = "Internal Error"
"""One of the three descriptions that the vendor lists for a failed task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What one call of RefreshObjectCaches or PushObjectCache asks for."""

    action: str
    kind: RefreshKind
    object_path: str
    """Paths, one a line."""
    force: bool = False
    malformed_code: str = "InvalidObjectPath.Malformed"
    spends: RefreshKind | None = None
    """The quota that it spends, when it is not that of its own kind (API version 2014-11-11)."""


class Account:
    """One account: quota, rates, domains and tasks."""

    def __init__(
        self,
        *,
        quota: Mapping[RefreshKind, int],
        faults: FaultBook,
        per_minute: Mapping[RefreshKind, int],
        task_seconds: float,
        history_seconds: float,
        domains: Collection[str] = (),
        first_task_id: int = 1,
    ) -> None:
        """Start with nothing spent; an empty ``domains`` means that every domain belongs to the account."""
        self.ledger = QuotaLedger(quota)
        self.tasks = TaskBook(history_seconds=history_seconds, first_id=first_task_id)
        self._minutes = MinuteRates(per_minute)
        self._faults = faults
        self._task_seconds = task_seconds
        self._domains = frozenset(domain.lower() for domain in domains)

    def submit(self, submission: Submission, now: float) -> list[TaskRecord]:
        """Accept a request and return its records, one for each path. Raise :class:`Rejection`, having kept nothing."""
        self.lower_limits(now)
        kind = submission.kind
        paths = parse_paths(submission.object_path, kind, malformed_code=submission.malformed_code)
        self._check_malformed(submission, paths, now)
        per_domain = Counter(key.host for _, key in paths)
        for domain in per_domain:
            self._check_domain(domain, submission.action, now)
        self._minutes.check(kind, per_domain, now)
        if self._faults.take("quota", now, action=submission.action):
            raise Rejection("QuotaExceeded.Preload" if kind is RefreshKind.PREFETCH else "QuotaExceeded.Refresh")
        self.ledger.spend(submission.spends or kind, len(paths), now)
        self._minutes.count(kind, per_domain)
        records = self._records(submission, paths, now)
        self.tasks.add(records)
        return records

    def lower_limits(self, now: float) -> None:
        """Put a ``quota-limit`` that has come due into force, for good."""
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

    def _check_domain(self, domain: str, action: str, now: float) -> None:
        names = {domain, domain.rpartition(":")[0]}
        lost = self._faults.take("domain-not-found", now, action=action, matches=lambda fault: fault.text in names)
        if lost or (self._domains and not names & self._domains):
            raise Rejection("InvalidDomain.NotFound", domain=domain)

    def _records(self, submission: Submission, paths: Sequence[tuple[str, CacheKey]], now: float) -> list[TaskRecord]:
        visible_at = now + self._faults.seconds("absent", now, action=submission.action)
        ends_at, failure = self._end_of(submission.action, now), self._failure_of(submission.action, now)
        ids = self.tasks.new_ids((key.host for _, key in paths), submission.kind, now)
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
