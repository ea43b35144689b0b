"""
What is sent to the API, and how often: actions as requests, and windows that keep the limits.

Parameters stand where the official SDK puts them.

========================= =========================================== ====================
action                    query                                       form
========================= =========================================== ====================
RefreshObjectCaches       -                                           ObjectPath, ObjectType, Force
PushObjectCache           ObjectPath, Area, L2Preload, …              -
DescribeRefresh*          everything                                  -
========================= =========================================== ====================

All are POSTs: no HTTP library sends one again by itself. ``ObjectPath`` is separated by line feeds,
so every URL is looked at once more here, whatever was checked before.

A window holds so many in any span of so many seconds, counted by the event loop's clock.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import NamedTuple
from urllib.parse import urlencode

from listener.alibaba.signature import percent_encode, timestamp
from listener.errors import BatchRejected, BatchTooLarge
from listener.refresh import Priority, RefreshKind
from listener.targets.alibaba_cdn.settings import Prefetch, Settings
from listener.urls import host_of

__all__ = [
    "FORM_TYPE",
    "LONGEST_URL_BYTES",
    "PREFETCH_BATCH_BYTES",
    "DomainWindows",
    "Request",
    "Window",
    "domain_of",
    "quota_request",
    "refresh_request",
    "require_plain",
    "task_list_request",
    "tasks_by_id_request",
]

FORM_TYPE = "application/x-www-form-urlencoded"
LONGEST_URL_BYTES = 1_024
"""The vendor's limit for a prefetched URL; none is written for a refresh, so the same is kept."""
PREFETCH_BATCH_BYTES = 6_000
"""
URLs of one prefetch as the query carries them, each encoded once more, with a separator.

Servers commonly take request lines of 8 KiB (the vendor documents no limit), and a V1 signature
with a temporary key's token takes some 1.5 KiB of it.
"""

_PLAIN_URL = re.compile(r"https?://[!-\[\]-~]+")
_OBJECT_TYPES = {RefreshKind.FILE: "File", RefreshKind.DIRECTORY: "Directory"}


class Request(NamedTuple):
    """One call: its action, and its parameters by place."""

    action: str
    query: Mapping[str, str]
    form: Mapping[str, str] | None = None

    @property
    def body(self) -> bytes:
        """The bytes to hash and to send."""
        return urlencode(self.form).encode() if self.form is not None else b""

    @property
    def content_type(self) -> str | None:
        """The body's type; ``None`` without a body."""
        return FORM_TYPE if self.form is not None else None


def domain_of(url: str) -> str:
    """Return the host, and the port where there is one: what the limits per domain count by."""
    return host_of(url).lower()


def require_plain(kind: RefreshKind, urls: Sequence[str]) -> None:
    """
    Raise :class:`~listener.errors.BatchRejected` for a URL that could become another's request.

    That is one with a blank, a control or non-ASCII character, a backslash or a fragment, of more
    than 1,024 bytes, or a directory without a closing slash or with a query.
    """
    if not urls:
        raise ValueError("no URL to ask for")
    for url in urls:
        if problem := _problem(kind, url):
            raise BatchRejected(f"{url[:200]!r} {problem}; it was not sent", code="listener.url")


def _problem(kind: RefreshKind, url: str) -> str:
    if not _PLAIN_URL.fullmatch(url) or "#" in url:
        return "is no percent-encoded http(s) URL without a fragment"
    if len(url) > LONGEST_URL_BYTES:
        return f"has {len(url)} bytes, more than {LONGEST_URL_BYTES}"
    if kind is RefreshKind.DIRECTORY and (not url.endswith("/") or "?" in url):
        return "is no directory: it must end with / and have no query"
    return ""


def refresh_request(kind: RefreshKind, urls: Sequence[str], *, force: bool, settings: Settings) -> Request:
    """Return the refresh of a batch; a prefetch too. ``Force`` is sent where it means something: not for files."""
    require_plain(kind, urls)
    if kind is RefreshKind.PREFETCH:
        return _prefetch_request(urls, settings.prefetch)
    object_type = _OBJECT_TYPES.get(kind, settings.ignore_params_type)
    forced = {"Force": "true"} if force and kind is not RefreshKind.FILE and not settings.is_first_version else {}
    return Request("RefreshObjectCaches", {}, {"ObjectPath": "\n".join(urls), "ObjectType": object_type, **forced})


def _prefetch_request(urls: Sequence[str], options: Prefetch) -> Request:
    query = {"ObjectPath": "\n".join(urls)}
    if options.area:
        query["Area"] = options.area
    if options.l2_preload:
        query["L2Preload"] = "true"
    if options.query_hash_key:
        query["QueryHashkey"] = "true"
    if options.with_header is not None:
        query["WithHeader"] = json.dumps(options.with_header, separators=(",", ":"), sort_keys=True)
    encoded_bytes = len(percent_encode(query["ObjectPath"]))
    if encoded_bytes > PREFETCH_BATCH_BYTES and len(urls) > 1:
        message = f"{len(urls)} URLs take {encoded_bytes} bytes of a request's URL, more than {PREFETCH_BATCH_BYTES}"
        raise BatchTooLarge(message, code="listener.length")
    return Request("PushObjectCache", query)


def quota_request() -> Request:
    """Return the question for the day's quota."""
    return Request("DescribeRefreshQuota", {})


def tasks_by_id_request(task_ids: Sequence[str]) -> Request:
    """Return the question for up to ten tasks (2018-05-10 only)."""
    return Request("DescribeRefreshTaskById", {"TaskId": ",".join(task_ids)})


def task_list_request(
    *,
    page: int,
    page_size: int,
    task_id: str | None = None,
    url: str | None = None,
    object_type: str | None = None,
    span: tuple[float, float] | None = None,
) -> Request:
    """Return the question for a page of the task list; ``span`` is in seconds since the epoch, sent in whole ones."""
    query = {"PageNumber": str(page), "PageSize": str(page_size)}
    if task_id is not None:
        query["TaskId"] = task_id
    if url is not None:
        query["ObjectPath"] = url
    if object_type is not None:
        query["ObjectType"] = object_type
    if span is not None:
        query |= {"StartTime": timestamp(span[0]), "EndTime": timestamp(span[1])}
    return Request("DescribeRefreshTasks", query)


MINUTE_SECONDS = 60.0
BACKFILL_PART = 0.75
"""Of a domain's minute a backfill takes so much at most: the rest is there for what changes now."""
SHORTEST_SLEEP_SECONDS = 0.001
"""A rounding error must not become a busy loop."""


class Window:
    """
    At most ``limit`` in *any* span of ``span_seconds``, which no fixed window of the CDN can exceed either.

    Waiters are served in the order in which they came. More than the limit at once is let through when
    nothing else is within the span: it can never fit better.
    """

    def __init__(self, limit: float, span_seconds: float) -> None:
        """Start with nothing taken. A limit below one becomes one in a longer span."""
        self.limit = max(limit, 1.0)
        self.span_seconds = span_seconds * self.limit / limit
        self.lock = asyncio.Lock()
        self.users = 0
        """How many hold on to this window: it must not be forgotten under them."""
        self._taken: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def wait_seconds(self, amount: float, now: float, *, part: float = 1.0) -> float:
        """Return how long, at ``now`` of the loop's clock, until the amount fits into that part; 0 when it does."""
        self._forget(now)
        excess = self._sum + amount - self.limit * part
        wait = 0.0
        for at, taken in self._taken:
            if excess <= 0:
                break
            wait, excess = at + self.span_seconds - now, excess - taken
        return wait

    def add(self, amount: float, now: float) -> None:
        """Count the amount as taken now."""
        self._taken.append((now, amount))
        self._sum += amount

    def give_back(self, amount: float) -> None:
        """Count the amount as not taken after all: the CDN did not accept what it was taken for."""
        while amount > 0 and self._taken:
            at, taken = self._taken.pop()
            self._sum -= taken
            if taken > amount:
                self.add(taken - amount, at)
            amount -= taken

    async def take(self, amount: float = 1.0) -> None:
        """Wait until the amount fits, and count it."""
        async with self.lock:
            await self.wait(amount)
            self.add(amount, asyncio.get_running_loop().time())

    async def wait(self, amount: float) -> None:
        """Wait until the amount fits; the caller holds the lock."""
        clock = asyncio.get_running_loop()
        while True:
            wait = self.wait_seconds(amount, clock.time())
            if wait <= 0:
                return
            await asyncio.sleep(max(wait, SHORTEST_SLEEP_SECONDS))

    @property
    def is_idle(self) -> bool:
        """Whether nothing is counted and nobody uses it."""
        return not self._taken and not self.users

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] + self.span_seconds <= now:
            self._sum -= self._taken.popleft()[1]


class DomainWindows:
    """A window a minute for each domain; one without use in the last minute is forgotten."""

    def __init__(self, limit: int) -> None:
        """Keep the limit a domain and minute."""
        self._limit = limit
        self._windows: dict[str, Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    async def take(self, amounts: Mapping[str, int], *, priority: Priority = Priority.LIVE) -> None:
        """
        Wait until the amounts of all these domains fit, and count them together.

        Those of a backfill let everything else go first, and fit only into :data:`BACKFILL_PART` of the limit.
        """
        self._forget_idle()
        # In one order, so that two batches never wait for each other.
        windows = [(self._window(name), amounts[name]) for name in sorted(amounts)]
        try:
            await (self._take_last(windows) if priority is not Priority.LIVE else self._take(windows))
        finally:
            for window, _ in windows:
                window.users -= 1

    def give_back(self, amounts: Mapping[str, int]) -> None:
        """Count these amounts as not taken after all."""
        for name, amount in amounts.items():
            if name in self._windows:
                self._windows[name].give_back(amount)

    def _window(self, name: str) -> Window:
        window = self._windows.setdefault(name, Window(self._limit, MINUTE_SECONDS))
        window.users += 1
        return window

    async def _take(self, windows: Sequence[tuple[Window, int]]) -> None:
        async with AsyncExitStack() as held:
            for window, _ in windows:
                await held.enter_async_context(window.lock)
            for window, amount in windows:
                await window.wait(amount)
            now = asyncio.get_running_loop().time()
            for window, amount in windows:
                window.add(amount, now)

    async def _take_last(self, windows: Sequence[tuple[Window, int]]) -> None:
        """Take without ever holding a lock while waiting: whoever comes meanwhile finds it free."""
        loop = asyncio.get_running_loop()
        while True:
            for window, _ in windows:
                while window.lock.locked():
                    async with window.lock:
                        pass
            now = loop.time()
            wait = max(window.wait_seconds(amount, now, part=BACKFILL_PART) for window, amount in windows)
            if wait <= 0 and not any(window.lock.locked() for window, _ in windows):
                break
            await asyncio.sleep(max(wait, SHORTEST_SLEEP_SECONDS))
        for window, amount in windows:
            window.add(amount, now)

    def _forget_idle(self) -> None:
        now = asyncio.get_running_loop().time()
        for window in self._windows.values():
            window.wait_seconds(0, now)
        self._windows = {name: window for name, window in self._windows.items() if not window.is_idle}
