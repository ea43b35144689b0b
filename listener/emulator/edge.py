"""The caching edge: answers GET and HEAD from its cache or the origin, and shows which in ``X-Cache``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from aiohttp import web

from listener.emulator.cache import Copy, CopyState, EdgeCache
from listener.emulator.faults import FaultBook
from listener.emulator.origin import Fetched, Origin, OriginFailure
from listener.emulator.paths import CacheKey, normal_target

__all__ = ["Edge"]

CACHEABLE: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 410})
"""Statuses that may be kept by default (RFC 9110 §15.1), without those that the edge does not handle."""
VALIDATORS: Final = (("etag", "if-none-match"), ("last-modified", "if-modified-since"))


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
        self._cache = cache
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
            copy, word = await self.obtain(key)
        except OriginFailure as error:
            return web.Response(status=504 if "Timeout" in str(error) else 502, text=f"{error}\n")
        return self._response(copy, word)

    async def obtain(self, key: CacheKey) -> tuple[Copy, str]:
        """Return the object and HIT, MISS or REVALIDATED. Raise :class:`OriginFailure`."""
        self._settle()
        freshness, held = self._cache.lookup(key, self._now())
        if held is not None and freshness is CopyState.FRESH:
            return held, "HIT"
        flight, landed = self._cache.depart(key), None
        try:
            copy, word = await self._fetch(key, held)
            landed = copy if copy.status in CACHEABLE else None
        finally:
            self._cache.land(flight, landed)
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
        return self._copy(fetched), "MISS"

    def _copy(self, fetched: Fetched) -> Copy:
        return Copy(status=fetched.status, headers=fetched.headers, body=fetched.body, fetched_at=self._now())

    def _response(self, copy: Copy, word: str) -> web.Response:
        response = web.Response(status=copy.status, body=copy.body)
        response.headers.update(dict(copy.headers))
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
