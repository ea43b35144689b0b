"""
The edge's cache, and what a refresh does to it. Pure: time is an argument.

A directory refresh puts a mark on its prefix instead of touching what is below. A lookup compares the marks on the path
to the object with the time at which the copy was fetched, so a refresh costs the same for ten objects and ten million.
A fetch that began before a refresh of its object is never kept.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from listener.emulator.paths import CacheKey
from listener.refresh import RefreshKind

__all__ = ["Copy", "CopyState", "EdgeCache", "Flight", "Lifetimes"]


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
MISSING_STATUSES = (404, 410)


class EdgeCache:
    """Copies by key, the least recently used dropped when they grow over ``limit_bytes``."""

    def __init__(self, *, lifetimes: Lifetimes, limit_bytes: int) -> None:
        """Start empty."""
        self._lifetimes = lifetimes
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._held: OrderedDict[CacheKey, _Held] = OrderedDict()
        self._directories: dict[CacheKey, _Mark] = {}
        self._paths: dict[CacheKey, _Mark] = {}
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
        if kind is RefreshKind.FILE:
            self._drop(key)
            for flight in self._flights.get(key, ()):
                flight.spoiled = True
        elif kind is RefreshKind.DIRECTORY:
            self._mark(self._directories, key, force=force)
        elif kind is RefreshKind.IGNORE_PARAMS:
            self._mark(self._paths, _without_query(key), force=force)

    def contents(self, now: float) -> Iterator[tuple[CacheKey, CopyState, Copy]]:
        """Yield everything that could still be served or revalidated."""
        for key, held in self._held.items():
            freshness = self._freshness(key, held, now)
            if freshness is not CopyState.ABSENT:
                yield key, freshness, held.copy

    def _mark(self, marks: dict[CacheKey, _Mark], key: CacheKey, *, force: bool) -> None:
        order = next(self._order)
        marks[key] = _Mark(order, order if force else marks.get(key, NO_MARK).evicted)

    def _freshness(self, key: CacheKey, held: _Held, now: float) -> CopyState:
        path = self._paths.get(_without_query(key), NO_MARK)
        marks = [path, *(self._directories.get(above, NO_MARK) for above in _directories_above(key))]
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


def _directories_above(key: CacheKey) -> Iterator[CacheKey]:
    path = key.target.partition("?")[0]
    end = path.find("/")
    while end != -1:
        yield CacheKey(key.host, path[: end + 1])
        end = path.find("/", end + 1)
