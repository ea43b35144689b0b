"""
The caching edge: answers GET and HEAD from its cache or the origin, and shows which in ``X-Cache``.

The cache is pure: time is an argument. A directory refresh puts a mark on its prefix instead of touching what is below.
A lookup compares the marks on the path to the object with the time at which the copy was fetched, so a refresh costs
the same for ten objects and ten million. A fetch that began before a refresh of its object is never kept.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, NamedTuple

from aiohttp import web

from listener.emulator.faults import FaultBook
from listener.emulator.origin import Origin, OriginFailure
from listener.emulator.tasks import CacheKey, normal_target
from listener.refresh import RefreshKind

__all__ = ["Copy", "CopyState", "Edge", "EdgeCache", "Flight", "Lifetimes"]

MISSING_STATUSES = (404, 410)
CACHEABLE: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 410})
"""Statuses that may be kept by default (RFC 9110 §15.1), without those that the edge does not handle."""
TAG_HEADER: Final = "cache-tag"
"""It reaches no visitor."""
VALIDATORS: Final = (("etag", "if-none-match"), ("last-modified", "if-modified-since"))


class CopyState(Enum):
    """What may be done with a cached copy."""

    FRESH = auto()
    STALE = auto()
    """Must be revalidated; a 304 makes it fresh again."""
    ABSENT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """One object as the origin gave it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    fetched_at: float
    """Seconds since the epoch of the last answer of the origin, a 304 included."""

    def header(self, name: str) -> str | None:
        """Return the value of a header, by its name in lower case."""
        return next((value for found, value in self.headers if found.lower() == name), None)


class Lifetimes(NamedTuple):
    """For how long a copy is fresh, in seconds; ``None`` for ever."""

    found_seconds: float | None
    missing_seconds: float | None
    """Of an answer that says 404 or 410."""


@dataclass(slots=True)
class Flight:
    """A fetch in progress."""

    key: CacheKey
    since: int
    """The order number of its beginning."""
    spoiled: bool = False
    """True once its object was refreshed meanwhile."""


class _Mark(NamedTuple):
    """A directory or a path without its query was refreshed."""

    expired: int
    """Copies fetched before this order number are stale …"""
    evicted: int
    """… and before this one, gone."""


@dataclass(slots=True)
class _Held:
    copy: Copy
    since: int


NO_MARK = _Mark(0, 0)
ANY_HOST: Final = ""
"""In a mark: the CDN does not distinguish hosts."""


class EdgeCache:
    """Copies by key, the least recently used dropped when they grow over ``limit_bytes``."""

    def __init__(self, *, lifetimes: Lifetimes, limit_bytes: int) -> None:
        """Start empty."""
        self.is_soft = False
        """Whether refreshes let copies be revalidated, instead of dropping them."""
        self._lifetimes = lifetimes
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._held: OrderedDict[CacheKey, _Held] = OrderedDict()
        self._directories: dict[CacheKey, _Mark] = {}
        self._paths: dict[CacheKey, _Mark] = {}
        self._objects: dict[CacheKey, _Mark] = {}
        self._tags: dict[CacheKey, _Mark] = {}
        self._prefixes: dict[CacheKey, _Mark] = {}
        self._flights: dict[CacheKey, list[Flight]] = {}
        self._order = itertools.count(1)

    def __len__(self) -> int:
        return len(self._held)

    def lookup(self, key: CacheKey, now: float) -> tuple[CopyState, Copy | None]:
        """Return what may be done with the copy of this key; an evicted one is dropped here."""
        held = self._held.get(key)
        if held is None:
            return CopyState.ABSENT, None
        freshness = self._freshness(key, held, now)
        if freshness is CopyState.ABSENT:
            self._drop(key)
            return CopyState.ABSENT, None
        self._held.move_to_end(key)
        return freshness, held.copy

    def depart(self, key: CacheKey) -> Flight:
        """Note that a fetch of this key begins; each one ends with :meth:`land`."""
        flight = Flight(key, next(self._order))
        self._flights.setdefault(key, []).append(flight)
        return flight

    def land(self, flight: Flight, copy: Copy | None) -> None:
        """Keep what the fetch brought, unless its object was refreshed meanwhile; ``None`` brings nothing."""
        flights = self._flights[flight.key]
        flights.remove(flight)
        if not flights:
            del self._flights[flight.key]
        if copy is not None and not flight.spoiled and len(copy.body) <= self._limit_bytes:
            self._drop(flight.key)
            self._held[flight.key] = _Held(copy, flight.since)
            self._size_bytes += len(copy.body)
            self._shrink()

    def refresh(self, kind: RefreshKind, key: CacheKey, *, force: bool) -> None:
        """Apply a refresh of this kind, whose task is complete."""
        if kind is RefreshKind.FILE and self.is_soft:
            self.expire(key)
        elif kind is RefreshKind.FILE:
            self._drop(key)
            for flight in self._flights.get(key, ()):
                flight.spoiled = True
        elif kind is RefreshKind.DIRECTORY:
            self._mark(self._directories, key, force=force)
        elif kind is RefreshKind.IGNORE_PARAMS:
            self._mark(self._paths, _without_query(key), force=force)

    def expire(self, key: CacheKey) -> None:
        """Have the copy of this key revalidated."""
        self._mark(self._objects, key, force=False)

    def refresh_everywhere(self, target: str, hosts: Collection[str] = (), *, is_prefix: bool) -> None:
        """Drop a path with its query, or all that begin with it, on these hosts; on every host where none is named."""
        for host in hosts or (ANY_HOST,):
            self._mark(self._prefixes if is_prefix else self._objects, CacheKey(host, target), force=True)

    def refresh_tag(self, domain: str, tag: str, *, force: bool) -> None:
        """Refresh what has this tag, in lower case, in a domain and below it; with an empty one everything there."""
        self._mark(self._tags, CacheKey(domain, tag), force=force)

    def contents(self, now: float) -> Iterator[tuple[CacheKey, CopyState, Copy]]:
        """Yield everything that could still be served or revalidated."""
        for key, held in self._held.items():
            freshness = self._freshness(key, held, now)
            if freshness is not CopyState.ABSENT:
                yield key, freshness, held.copy

    def _mark(self, marks: dict[CacheKey, _Mark], key: CacheKey, *, force: bool) -> None:
        order = next(self._order)
        marks[key] = _Mark(order, order if force and not self.is_soft else marks.get(key, NO_MARK).evicted)

    def _freshness(self, key: CacheKey, held: _Held, now: float) -> CopyState:
        marks = [self._paths.get(_without_query(key), NO_MARK), self._objects.get(key, NO_MARK)]
        marks.append(self._objects.get(CacheKey(ANY_HOST, key.target), NO_MARK))
        marks += (self._directories.get(above, NO_MARK) for above in _directories_above(key))
        if self._prefixes:
            marks += (self._prefixes.get(prefix, NO_MARK) for prefix in _prefixes_of(key))
        if self._tags:
            marks += (self._tags.get(tag, NO_MARK) for tag in _tags_of(key, held.copy))
        if any(held.since < mark.evicted for mark in marks):
            return CopyState.ABSENT
        if any(held.since < mark.expired for mark in marks) or self._outlived(held.copy, now):
            return CopyState.STALE
        return CopyState.FRESH

    def _outlived(self, copy: Copy, now: float) -> bool:
        missing = copy.status in MISSING_STATUSES
        lifetime = self._lifetimes.missing_seconds if missing else self._lifetimes.found_seconds
        return lifetime is not None and now - copy.fetched_at >= lifetime

    def _drop(self, key: CacheKey) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._size_bytes -= len(held.copy.body)

    def _shrink(self) -> None:
        while self._size_bytes > self._limit_bytes:
            self._drop(next(iter(self._held)))


def _without_query(key: CacheKey) -> CacheKey:
    return CacheKey(key.host, key.target.partition("?")[0])


def _tags_of(key: CacheKey, copy: Copy) -> Iterator[CacheKey]:
    tags = ["", *(tag.strip().lower() for tag in (copy.header(TAG_HEADER) or "").split(","))]
    labels = key.host.partition(":")[0].split(".")
    for start in range(len(labels)):
        yield from (CacheKey(".".join(labels[start:]), tag) for tag in tags)


def _prefixes_of(key: CacheKey) -> Iterator[CacheKey]:
    for end in range(1, len(key.target) + 1):
        yield from (CacheKey(host, key.target[:end]) for host in (key.host, ANY_HOST))


def _directories_above(key: CacheKey) -> Iterator[CacheKey]:
    path = key.target.partition("?")[0]
    end = path.find("/")
    while end != -1:
        yield CacheKey(key.host, path[: end + 1])
        end = path.find("/", end + 1)


class Edge:
    """One node that answers for every host."""

    def __init__(
        self,
        cache: EdgeCache,
        origin: Origin,
        *,
        faults: FaultBook,
        now: Callable[[], float],
        settle: Callable[[], None],
    ) -> None:
        """Serve from ``cache`` and ``origin``; ``settle`` applies refreshes whose tasks have finished."""
        self.cache = cache
        self._origin = origin
        self._faults = faults
        self._now = now
        self._settle = settle

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request."""
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="Only GET and HEAD are answered.\n", headers={"Allow": "GET, HEAD"})
        try:
            key = CacheKey(request.headers.get("Host", "").lower(), normal_target(_origin_form(request.raw_path)))
        except ValueError as error:
            return web.Response(status=400, text=f"The request line holds {error}.\n")
        try:
            copy, word = await self.obtain_for(request.method, key)
        except OriginFailure as error:
            return web.Response(status=504 if "Timeout" in str(error) else 502, text=f"{error}\n")
        return self._response(copy, word)

    async def obtain_for(self, method: str, key: CacheKey) -> tuple[Copy, str]:
        """Return what :meth:`obtain` does, whatever the method."""
        del method
        return await self.obtain(key)

    async def obtain(self, key: CacheKey) -> tuple[Copy, str]:
        """Return the object and HIT, MISS or REVALIDATED. Raise :class:`OriginFailure`."""
        self._settle()
        freshness, held = self.cache.lookup(key, self._now())
        if held is not None and freshness is CopyState.FRESH:
            return held, "HIT"
        flight, landed = self.cache.depart(key), None
        try:
            copy, word = await self._fetch(key, held)
            landed = copy if copy.status in CACHEABLE else None
        finally:
            self.cache.land(flight, landed)
        return copy, word

    async def prefetch(self, key: CacheKey) -> str:
        """Bring an object into the cache. Return an empty text, or the description of the failure."""
        try:
            copy, _ = await self.obtain(key)
        except OriginFailure as error:
            return str(error)
        return "Origin Return StatusCode 5XX" if copy.status >= 500 else ""

    async def _fetch(self, key: CacheKey, held: Copy | None) -> tuple[Copy, str]:
        if held is not None and self._faults.take_containing("not-modified", key.url, self._now()):
            return replace(held, fetched_at=self._now()), "REVALIDATED"
        validators = {} if held is None else _validators(held)
        fetched = await self._origin.fetch(key.target, validators)
        if held is not None and validators and fetched.status == 304:
            return replace(held, fetched_at=self._now()), "REVALIDATED"
        copy = Copy(status=fetched.status, headers=fetched.headers, body=fetched.body, fetched_at=self._now())
        return copy, "MISS"

    def _response(self, copy: Copy, word: str) -> web.Response:
        response = web.Response(status=copy.status, body=copy.body)
        response.headers.update({name: value for name, value in copy.headers if name.lower() != TAG_HEADER})
        response.headers["X-Cache"] = word
        response.headers["Age"] = str(max(0, int(self._now() - copy.fetched_at)))
        return response


def _origin_form(raw_path: str) -> str:
    if raw_path.startswith("/"):
        return raw_path
    # The absolute form, as a client sends it to a proxy: the host is that of the Host header all the same.
    return "/" + raw_path.partition("://")[2].partition("/")[2]


def _validators(copy: Copy) -> dict[str, str]:
    found = ((request, copy.header(response)) for response, request in VALIDATORS)
    return {request: value for request, value in found if value is not None}
