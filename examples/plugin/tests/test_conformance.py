"""The example passes the conformance suites of cdn-listener."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from cdn_listener_example.http_cache import HttpCache
from cdn_listener_example.json_log import JsonLog

from listener.errors import BatchRejected, Misconfigured, OutcomeUnknown, Throttled, Unavailable
from listener.testing import SourceConformance, TargetConformance

TOKEN = "purge-secret"


class TestJsonLog(SourceConformance):
    """The source."""

    def make_source(self, folder: Path) -> JsonLog:
        log = folder / "changes.log"
        log.touch()
        return JsonLog("log", JsonLog.Settings(path=str(log), poll_seconds=0.01))

    def make_broken_source(self, folder: Path) -> JsonLog:
        return JsonLog("log", JsonLog.Settings(path=str(folder / "absent.log")))

    async def change(self, folder: Path, key: str) -> None:
        append(folder, json.dumps({"key": key}))

    async def delete(self, folder: Path, key: str) -> bool:
        if key.endswith("/"):  # the publishing system has no directories: it logs each object that goes
            return False
        append(folder, json.dumps({"key": key, "deleted": True}))
        return True

    async def send_unreadable(self, folder: Path) -> bool:
        append(folder, "no JSON")
        return True


def append(folder: Path, line: str) -> None:
    """Append to the log."""
    with (folder / "changes.log").open("a") as log:
        log.write(line + "\n")


class Cache:
    """A stand-in for the cache: it accepts purges, or fails as it is asked to."""

    def __init__(self) -> None:
        self.address = ""
        self.purged: list[str] = []
        self.failure = ""

    def make_target(self) -> HttpCache:
        return HttpCache("cache", HttpCache.Settings(caches=[self.address], token=TOKEN, timeout_seconds=0.5))

    def refreshed(self) -> list[str]:
        return self.purged

    def fail(self, failure: str) -> None:
        self.failure = failure

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.failure == "dropped":
            request.transport.abort()
        if self.failure.isdigit():
            return web.Response(status=int(self.failure))
        if request.method == "PURGE":
            assert request.headers["Authorization"] == f"Bearer {TOKEN}"
            if self.failure == "refused" and "refused" in request.path:
                return web.Response(status=400)
            self.purged.append(f"https://{request.host}{request.raw_path}".removesuffix("*"))
            if self.failure == "lost":
                self.failure = ""
                request.transport.abort()
        return web.Response()


class TestHttpCache(TargetConformance):
    """The target."""

    secrets = (TOKEN,)
    lost_answer = "lost"
    refused = "refused"
    failures = {
        "dropped": OutcomeUnknown,
        "400": BatchRejected,
        "403": Misconfigured,
        "405": Misconfigured,
        "429": Throttled,
        "503": Throttled,
        "500": Unavailable,
    }

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Cache]:
        cache = Cache()
        runner = web.ServerRunner(web.Server(cache.answer), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        cache.address = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield cache
        finally:
            await runner.cleanup()

    def make_unreachable_target(self) -> HttpCache:
        return HttpCache("cache", HttpCache.Settings(caches=["http://127.0.0.1:1"], token=TOKEN))
