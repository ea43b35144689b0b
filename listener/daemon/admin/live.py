"""Live updates of the page: one snapshot serves all watchers, and each gets only the sections that changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from listener.daemon.status_page import PageSnapshot
from listener.errors import ListenerError

__all__ = ["LiveUpdates"]

log = structlog.get_logger()

MOST_WATCHERS = 32
"""Each holds a connection."""
INTERVAL_SECONDS = 0.25
"""The interval between snapshots while anybody watches."""
REST_FACTOR = 4
"""Snapshots take at most a fifth of the time."""
HEARTBEAT_SECONDS = 15.0
"""Something is sent at least this often, so that proxies keep the connection and a dead one is noticed."""
SEND_SECONDS = 10.0
"""A watcher that does not read within this time is disconnected; nothing is buffered for it."""
RETRY_MILLISECONDS = 2000
RETRY_AFTER_SECONDS = 30

Render = Callable[[PageSnapshot], Awaitable[Mapping[str, str]]]
"""Makes the sections of the page (id to HTML) for one watcher."""


class LiveUpdates:
    """The event streams of everybody who watches the page."""

    def __init__(self, load: Callable[[], Awaitable[PageSnapshot]]) -> None:
        """Load snapshots with ``load``, only while somebody watches."""
        self._load = load
        self._snapshot: PageSnapshot | None = None
        self._number = 0
        """The number of the snapshot, raised with each change."""
        self._changed = asyncio.Event()
        self._generation = 0
        """Raised to end all streams."""
        self._loading: asyncio.Task[None] | None = None
        self.watchers = 0

    def disconnect_all(self) -> None:
        """End every stream; browsers that may still watch reconnect by themselves."""
        self._generation += 1
        self._wake()

    async def close(self) -> None:
        """End every stream and stop loading snapshots."""
        self.disconnect_all()
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    async def stream(self, request: web.Request, render: Render) -> web.StreamResponse:
        """Answer with server-sent events until this watcher leaves."""
        if self.watchers >= MOST_WATCHERS:
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            return web.Response(status=503, text="too many watch already\n", headers=headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
        self.watchers += 1
        try:
            await response.prepare(request)
            await self._serve(response, render)
        except (ConnectionError, TimeoutError) as error:
            log.debug("admin.watcher_gone", error=str(error))
        finally:
            self.watchers -= 1
        return response

    async def _serve(self, response: web.StreamResponse, render: Render) -> None:
        loop = asyncio.get_running_loop()
        generation, number, sent_at = self._generation, -1, loop.time()
        shown: Mapping[str, str] = {}
        await _send(response, f"retry: {RETRY_MILLISECONDS}\n\n")
        while generation == self._generation:
            if self._loading is None or self._loading.done():
                self._loading = loop.create_task(self._follow(), name="load page snapshots")
            text = ""
            is_new = await self._newer(number, sent_at + HEARTBEAT_SECONDS)
            if generation != self._generation:
                break
            if is_new and self._snapshot is not None:
                number = self._number
                sections = await self._rendered(self._snapshot, render, shown)
                text, shown = _event_of(shown, sections), sections
            if not text and loop.time() - sent_at >= HEARTBEAT_SECONDS:
                text = ": still here\n\n"
            if text:
                await _send(response, text)
                sent_at = loop.time()

    async def _rendered(self, snapshot: PageSnapshot, render: Render, shown: Mapping[str, str]) -> Mapping[str, str]:
        """Render for one watcher; keep what is shown while nothing can be loaded."""
        try:
            return await render(snapshot)
        except ListenerError as error:
            log.debug("admin.nothing_to_show", error=str(error))
            return shown

    async def _newer(self, number: int, until: float) -> bool:
        """Return whether there is a newer snapshot, waiting for one until that time."""
        if self._snapshot is not None and number != self._number:
            return True
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _follow(self) -> None:
        """Load snapshots while anybody watches."""
        loop = asyncio.get_running_loop()
        while self.watchers:
            began = loop.time()
            await self._load_once()
            await asyncio.sleep(max(INTERVAL_SECONDS, REST_FACTOR * (loop.time() - began)))
        self._snapshot = None

    async def _load_once(self) -> None:
        try:
            snapshot = await self._load()
        except ListenerError as error:
            # During a reload, or while the store fails.
            log.debug("admin.nothing_to_show", error=str(error))
            return
        if snapshot != self._snapshot:
            self._snapshot = snapshot
            self._number += 1
            self._wake()


def _event_of(shown: Mapping[str, str], sections: Mapping[str, str]) -> str:
    """Return the event with the sections that changed; empty where none did."""
    fresh = {name: html for name, html in sections.items() if shown.get(name) != html}
    return f"event: sections\ndata: {json.dumps(fresh)}\n\n" if fresh else ""


async def _send(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await response.write(text.encode())
