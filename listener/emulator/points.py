"""Points of presence: each has a cache of its own, gets refreshes in its own time, and has faults of its own."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress

from aiohttp import web

from listener.emulator.edge import Copy, CopyState, Edge, EdgeCache
from listener.emulator.faults import Fault, FaultBook
from listener.emulator.origin import Origin, OriginFailure
from listener.emulator.tasks import FOREVER, CacheKey, TaskRecord

__all__ = ["Point", "Points"]


class Point(Edge):
    """One point of presence."""

    def __init__(
        self,
        name: str,
        cache: EdgeCache,
        origin: Origin,
        *,
        faults: FaultBook,
        now: Callable[[], float],
        settle: Callable[[], None],
    ) -> None:
        """Serve like an edge; ``name`` is that in faults, such as ``pop2``."""
        super().__init__(cache, origin, faults=faults, now=now, settle=settle)
        self.name = name
        self._fetches: dict[CacheKey, asyncio.Task[None]] = {}

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Answer one request, with the faults of this point."""
        if (slow := self.fault("edge-slow")) is not None:
            await asyncio.sleep(slow.seconds or 0.0)
        if self.fault("edge-fails"):
            return web.Response(status=503, text="This point of presence fails.\n")
        if self.fault("edge-redirects"):
            return web.Response(status=302, headers={"Location": f"/moved{request.raw_path}"})
        return await super().handle(request)

    async def obtain_for(self, method: str, key: CacheKey) -> tuple[Copy, str]:
        """Return the object, for HEAD maybe not from the cache. Raise :class:`OriginFailure`."""
        if method == "HEAD" and self.fault("edge-head"):
            return await self._fetch(key, None)
        freshness, held = self.cache.lookup(key, self._now())
        if freshness is not CopyState.STALE or held is None or not self.fault("edge-revalidates"):
            return await super().obtain_for(method, key)
        if key not in self._fetches:
            self._fetches[key] = asyncio.create_task(self._revalidate(key), name=f"revalidate {key.url}")
        return held, "STALE"

    async def _revalidate(self, key: CacheKey) -> None:
        try:
            with suppress(OriginFailure):
                await self.obtain(key)
        finally:
            del self._fetches[key]

    def _response(self, copy: Copy, word: str) -> web.Response:
        response = super()._response(copy, word)
        if self.fault("edge-no-age"):
            del response.headers["Age"]
        if (tag := response.headers.get("ETag")) is not None and self.fault("edge-tags"):
            response.headers["ETag"] = f'W/"{self.name}-{hashlib.sha256(tag.encode()).hexdigest()[:16]}"'
        return response

    def fault(self, name: str) -> Fault | None:
        """Return a fault of this name that applies here, and use it once."""
        return self._faults.take(name, self._now(), matches=lambda one: one.text in ("", self.name))

    async def close(self) -> None:
        """End what still revalidates."""
        for task in list(self._fetches.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class Points:
    """All points of presence of one CDN; the first is the one that most tests look at."""

    def __init__(
        self, points: Sequence[Point], *, apply: Callable[[TaskRecord, EdgeCache], None], now: Callable[[], float]
    ) -> None:
        """Take the points; ``apply`` lets a refresh take effect in one cache."""
        self.all = points
        self._apply = apply
        self._now = now
        self._later: list[tuple[float, int, TaskRecord, Point]] = []
        self._numbers = itertools.count()

    @property
    def first(self) -> Point:
        """The first point."""
        return self.all[0]

    def refresh(self, record: TaskRecord) -> None:
        """Let a refresh take effect at each point, now or later."""
        for point in self.all:
            if point.fault("edge-ignores"):
                continue
            if (lag := point.fault("edge-lags")) is not None:
                at = self._now() + (lag.seconds or 0.0)
                heapq.heappush(self._later, (at, next(self._numbers), record, point))
            else:
                self._refresh_at(point, record)

    def settle(self) -> None:
        """Let take effect what was to come later, and is due."""
        while self._later and self._later[0][0] <= self._now():
            _, _, record, point = heapq.heappop(self._later)
            self._refresh_at(point, record)

    def next_at(self) -> float:
        """Return when the next refresh takes effect that was to come later, in seconds since the epoch."""
        return self._later[0][0] if self._later else FOREVER

    def _refresh_at(self, point: Point, record: TaskRecord) -> None:
        point.cache.is_soft = point.fault("edge-revalidates") is not None
        self._apply(record, point.cache)
        point.cache.is_soft = False

    async def close(self) -> None:
        """End what they still do."""
        for point in self.all:
            await point.close()
