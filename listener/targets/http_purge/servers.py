"""One cache: its requests, a few at a time, and whether it is away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from typing import Final

import aiohttp
from yarl import URL

from listener import __version__
from listener.targets.http_purge.presets import Answer, PurgeRequest, Verdict, judge
from listener.targets.http_purge.settings import Settings

__all__ = ["CacheServer", "Reply", "open_session"]

AWAY_SECONDS: Final = 3.0
"""A cache that failed is not asked again for so long: the requests to others do not wait for its time-outs."""
MOST_BODY_BYTES: Final = 1_000_000
"""Of an answer; past that the connection is closed."""

Reply = tuple[int, Mapping[str, str], bytes]
"""Status, headers, and the beginning of the body."""


class CacheServer:
    """One of the caches of a target."""

    def __init__(self, address: str, settings: Settings, session: aiohttp.ClientSession) -> None:
        """Take its address, and a session whose connections it shares with no other cache."""
        self.address = address
        self._settings = settings
        self._session = session
        self._away: tuple[float, Answer] | None = None
        """Until when it is not asked, by the loop's clock, and why."""

    async def purge(self, requests: Mapping[str, PurgeRequest]) -> dict[str, Answer]:
        """Send these requests (by URL); return the answers for those URLs that it may still have."""
        left = iter(requests.items())
        failed: dict[str, Answer] = {}
        lanes = min(self._settings.connections, len(requests))
        await asyncio.gather(*(self._purge_each(left, failed) for _ in range(lanes)))
        return failed

    async def _purge_each(self, left: Iterator[tuple[str, PurgeRequest]], failed: dict[str, Answer]) -> None:
        loop = asyncio.get_running_loop()
        for url, request in left:
            if self._away is not None and loop.time() < self._away[0]:
                failed[url] = self._away[1]
                continue
            answer = await self._ask(request)
            if answer.verdict is Verdict.DONE:
                self._away = None
                continue
            failed[url] = answer
            if answer.verdict is not Verdict.REJECTED:
                self._away = loop.time() + max(AWAY_SECONDS, answer.retry_after_seconds), answer

    async def _ask(self, request: PurgeRequest) -> Answer:
        reply = await self.reply(request)
        return reply if isinstance(reply, Answer) else judge(self._settings, request, *reply[:2])

    async def reply(self, request: PurgeRequest) -> Reply | Answer:
        """Send one request; return its reply, or why there is none."""
        address = URL(self.address + request.path, encoded=True)
        headers = {**request.headers, "Host": request.host}
        try:
            async with self._session.request(
                request.method, address, headers=headers, allow_redirects=False
            ) as response:
                body = await response.content.read(MOST_BODY_BYTES)
                if not response.content.at_eof():
                    response.close()
                return response.status, response.headers, body
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            number = getattr(error, "errno", None)
            why = os.strerror(number) if number else type(error).__name__
            return Answer(Verdict.FAILED, f"cannot be reached: {why}", "start the cache, or correct `servers`")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answer(Verdict.UNKNOWN, f"did not answer: {type(error).__name__}", "see its log")

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()


def open_session(settings: Settings) -> aiohttp.ClientSession:
    """Return a session for one cache."""
    timeout = aiohttp.ClientTimeout(
        total=settings.connect_seconds + settings.answer_seconds, sock_connect=settings.connect_seconds
    )
    connector = aiohttp.TCPConnector(limit=settings.connections)
    agent = {"User-Agent": f"cdn-listener/{__version__}"}
    return aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=agent, cookie_jar=aiohttp.DummyCookieJar()
    )
