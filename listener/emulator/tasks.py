"""
The tasks of an account and the paths that they are for.

A path in a call and the key under which the edge caches an object have one normal form: the host in lower case, and
the target (path and query) with its percent-encoding as RFC 3986 §6.2.2 compares it, that is upper-case hex, and
unreserved characters bare. ``%e6`` and ``%E6`` are one object, so are ``%41`` and ``A``; ``+`` and ``%2B`` are two, as
they are in every cache that keys by the request line.

There is one record per path; paths of one domain, second and kind share one task id, up to 2,000 (prefetches 500). A
path is Pending for a tenth of its time, then Refreshing, then Complete or Failed. A reply shows the task's last update.
Reading a task starts an update ("late status"), which shows after a lag; the lag is zero unless a fault sets it.
"""

from __future__ import annotations

import heapq
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from listener.refresh import RefreshKind

__all__ = [
    "FOREVER",
    "MAX_PATH_CHARACTERS",
    "CacheKey",
    "TaskBook",
    "TaskRecord",
    "cache_key",
    "is_below",
    "normal_target",
]

MAX_PATH_CHARACTERS = 1024
"""The vendor writes it for PushObjectCache; taken for every path."""

_URL = re.compile(r"https?://([A-Za-z0-9._*-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?)(/[!-~]*)?")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")

FOREVER = float("inf")
PATHS_PER_ID = dict.fromkeys(RefreshKind, 2000) | {RefreshKind.PREFETCH: 500}
"""Paths under one task id; the comments of the official SDK for RefreshTaskId and PushTaskId."""
PENDING_PART = 0.1


class CacheKey(NamedTuple):
    """Where the edge keeps an object."""

    host: str
    """Lower case, with the port if the URL has one."""
    target: str
    """Path and query in normal form; starts with ``/``."""

    @property
    def url(self) -> str:
        """The key as a URL, without its scheme: the edge keeps one copy for both."""
        return f"//{self.host}{self.target}"


def normal_target(target: str) -> str:
    """Return path and query in normal form. Raise :class:`ValueError` for a ``%`` that starts no escape."""
    return _ESCAPE.sub(_normal_escape, target) if "%" in target else target


def _normal_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        raise ValueError("a % that is not followed by two hex digits")
    character = chr(int(match[1], 16))
    return character if character in _UNRESERVED else match[0].upper()


def is_below(host: str, domain: str) -> bool:
    """Return whether a host, with or without a port, is a domain or one of its subdomains."""
    bare = host.rpartition(":")[0] if re.search(r":\d+\Z", host) else host
    return bare == domain or bare.endswith(f".{domain}")


def cache_key(url: str) -> CacheKey:
    """Return the key of an absolute URL. Raise :class:`ValueError` when it is none that a client could request."""
    match = _URL.fullmatch(url)
    if match is None or "#" in url or len(url) > MAX_PATH_CHARACTERS:
        raise ValueError("not an absolute http(s) URL of printable ASCII characters")
    return CacheKey(match[1].lower(), normal_target(match[2] or "/"))


@dataclass(slots=True, kw_only=True)
class TaskRecord:
    """One path of one task; times in seconds since the epoch."""

    task_id: str
    path: str
    """As it was submitted."""
    key: CacheKey
    kind: RefreshKind
    force: bool
    created_at: float
    ends_at: float
    visible_at: float
    failure: str = ""
    """The Description that it ends with, when it ends as Failed."""
    shown_at: float
    """The moment that replies describe: the last update."""
    requested_at: float | None = None
    """When the update that is not shown yet was requested."""

    def read(self, now: float, lag_seconds: float) -> None:
        """Show a requested update once its lag is over, and request the next."""
        if self.requested_at is not None and self.requested_at + lag_seconds <= now:
            self.shown_at, self.requested_at = self.requested_at + lag_seconds, None
        if lag_seconds == 0:
            self.shown_at = now
        elif self.requested_at is None:
            self.requested_at = now

    def status(self) -> str:
        """Return the status as answers show it: Pending, Refreshing, Complete or Failed."""
        if self.shown_at >= self.ends_at:
            return "Failed" if self.failure else "Complete"
        return "Refreshing" if self._part() >= PENDING_PART else "Pending"

    def process(self) -> str:
        """Return the progress as answers show it, such as ``37.50%``."""
        if self.shown_at >= self.ends_at and not self.failure:
            return "100%"
        return f"{min(self._part(), 0.99) * 100:.2f}%" if self._part() > 0 else "0%"

    def description(self) -> str:
        """Return why it failed, once it shows as Failed."""
        return self.failure if self.status() == "Failed" else ""

    def _part(self) -> float:
        if self.ends_at == FOREVER:
            return 0.5
        length = self.ends_at - self.created_at
        return 1.0 if length <= 0 else (self.shown_at - self.created_at) / length


class TaskBook:
    """All tasks of the last days, found by id, by path or newest first; time is an argument."""

    def __init__(self, *, history_seconds: float, first_id: int) -> None:
        """Keep each task for ``history_seconds``; ids are decimal, as the vendor's, from ``first_id`` on."""
        self._history_seconds = history_seconds
        self._records: deque[TaskRecord] = deque()
        self._by_id: dict[str, list[TaskRecord]] = {}
        self._by_path: dict[str, list[TaskRecord]] = {}
        self._ids = itertools.count(first_id)
        self._shared: dict[tuple[str, RefreshKind], tuple[str, int]] = {}
        self._shared_second = -1
        self._ending: list[tuple[float, int, Sequence[TaskRecord]]] = []
        self._tie = itertools.count()

    def new_ids(self, domains: Iterable[str], kind: RefreshKind, now: float) -> Iterator[str]:
        """Yield the task id of each path, given the paths' domains in order."""
        if int(now) != self._shared_second:
            self._shared_second = int(now)
            self._shared.clear()
        for domain in domains:
            task_id, left = self._shared.get((domain, kind), ("", 0))
            if not left:
                task_id, left = str(next(self._ids)), PATHS_PER_ID[kind]
            self._shared[domain, kind] = (task_id, left - 1)
            yield task_id

    def add(self, records: Sequence[TaskRecord]) -> None:
        """Take the records of one accepted request."""
        by_end: dict[float, list[TaskRecord]] = {}
        for record in records:
            self._by_id.setdefault(record.task_id, []).append(record)
            self._by_path.setdefault(record.path, []).append(record)
            if record.ends_at != FOREVER:
                by_end.setdefault(record.ends_at, []).append(record)
        self._records.extend(records)
        for ends_at, group in by_end.items():
            heapq.heappush(self._ending, (ends_at, next(self._tie), group))

    def next_end(self) -> float:
        """Return when the next task ends, or :data:`FOREVER`."""
        return self._ending[0][0] if self._ending else FOREVER

    def take_ended(self, now: float) -> list[TaskRecord]:
        """Return each record once, in the order of their ends, when its end has come."""
        ended: list[TaskRecord] = []
        while self._ending and self._ending[0][0] <= now:
            ended.extend(heapq.heappop(self._ending)[2])
        return ended

    def newest_first(self, now: float) -> Iterator[TaskRecord]:
        """Yield what can be seen, the newest first."""
        self.forget(now)
        return (record for record in reversed(self._records) if record.visible_at <= now)

    def by_id(self, task_id: str, now: float) -> list[TaskRecord]:
        """Return what can be seen of one task; nothing when it is not known, or not yet."""
        self.forget(now)
        return [record for record in self._by_id.get(task_id, ()) if record.visible_at <= now]

    def by_path(self, path: str, now: float) -> list[TaskRecord]:
        """Return what can be seen of the tasks of exactly this path, the newest first."""
        self.forget(now)
        return [record for record in reversed(self._by_path.get(path, ())) if record.visible_at <= now]

    def forget(self, now: float) -> None:
        """Drop what is older than the history."""
        while self._records and self._records[0].created_at <= now - self._history_seconds:
            old = self._records.popleft()
            _drop_first(self._by_id, old.task_id)
            _drop_first(self._by_path, old.path)

    def all(self) -> Sequence[TaskRecord]:
        """Return every record that is kept, the oldest first, seen or not: for inspection, from any thread."""
        return list(self._records)


def _drop_first(index: dict[str, list[TaskRecord]], name: str) -> None:
    records = index[name]
    del records[0]
    if not records:
        del index[name]
