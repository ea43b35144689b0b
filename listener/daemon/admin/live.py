"""The page, live: one look serves all who watch, each is sent only what is new to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import web

from listener.daemon.view import Glance
from listener.errors import ListenerError

__all__ = ["Live"]

log = structlog.get_logger()

MOST_WATCHERS = 32
"""Each holds a connection; a room full of people watches one wall."""
LOOK_SECONDS = 0.25
"""How often is looked while anybody watches: with a look's own time well within a second."""
REST = 4
"""Looking takes at most a fifth of the time."""
HEARTBEAT_SECONDS = 15.0
"""So often something is sent at least, so that proxies keep the connection and a dead one is noticed."""
SEND_SECONDS = 10.0
"""Who does not take what is sent within this is let go; nothing is kept for them."""
RETRY_MILLISECONDS = 2000
RETRY_AFTER_SECONDS = 30

Render = Callable[[Glance], Awaitable[Mapping[str, str]]]
"""Makes the sections of the page (id to HTML) for one watcher."""


class Live:
    """Everybody who watches."""

    def __init__(self, look: Callable[[], Awaitable[Glance]]) -> None:
        """Take how to look; nothing is looked at before somebody watches."""
        self._look = look
        self._glance: Glance | None = None
        self._number = 0
        """Raised with everything new."""
        self._news = asyncio.Event()
        self._sitting = 0
        """Raised to let everybody go."""
        self._looking: asyncio.Task[None] | None = None
        self.watchers = 0

    def let_go(self) -> None:
        """End every stream: who may still watch comes back by itself."""
        self._sitting += 1
        self._tell()

    async def end(self) -> None:
        """End every stream, and look no more."""
        self.let_go()
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def stream(self, request: web.Request, render: Render) -> web.StreamResponse:
        """Answer with server-sent events for as long as this watcher stays."""
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
        sitting, number, sent_at = self._sitting, -1, loop.time()
        shown: Mapping[str, str] = {}
        await _send(response, f"retry: {RETRY_MILLISECONDS}\n\n")
        while sitting == self._sitting:
            if self._looking is None or self._looking.done():
                self._looking = loop.create_task(self._follow(), name="look for the page")
            text = ""
            is_new = await self._newer(number, sent_at + HEARTBEAT_SECONDS)
            if sitting != self._sitting:
                break
            if is_new and self._glance is not None:
                number = self._number
                sections = await self._rendered(self._glance, render, shown)
                text, shown = _news(shown, sections), sections
            if not text and loop.time() - sent_at >= HEARTBEAT_SECONDS:
                text = ": still here\n\n"
            if text:
                await _send(response, text)
                sent_at = loop.time()

    async def _rendered(self, glance: Glance, render: Render, shown: Mapping[str, str]) -> Mapping[str, str]:
        """Render for one watcher; where there is nothing to ask at this moment, what is shown stays."""
        try:
            return await render(glance)
        except ListenerError as error:
            log.debug("admin.nothing_to_show", error=str(error))
            return shown

    async def _newer(self, number: int, until: float) -> bool:
        """Wait until there is something else to show than that; False where nothing came until then."""
        if self._glance is not None and number != self._number:
            return True
        try:
            async with asyncio.timeout_at(until):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _follow(self) -> None:
        """Look again and again while anybody watches."""
        loop = asyncio.get_running_loop()
        while self.watchers:
            began = loop.time()
            await self._look_once()
            await asyncio.sleep(max(LOOK_SECONDS, REST * (loop.time() - began)))
        self._glance = None

    async def _look_once(self) -> None:
        try:
            glance = await self._look()
        except ListenerError as error:
            # Between two generations, or the store fails: it shows once it can be read.
            log.debug("admin.nothing_to_show", error=str(error))
            return
        if glance != self._glance:
            self._glance = glance
            self._number += 1
            self._tell()


def _news(shown: Mapping[str, str], sections: Mapping[str, str]) -> str:
    """Return the event that tells what is new; nothing where nothing is."""
    fresh = {name: html for name, html in sections.items() if shown.get(name) != html}
    return f"event: sections\ndata: {json.dumps(fresh)}\n\n" if fresh else ""


async def _send(response: web.StreamResponse, text: str) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await response.write(text.encode())
