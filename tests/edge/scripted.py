"""An edge that answers as a test says, and remembers what it was asked."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from listener.clock import SystemClock
from listener.edge.prober import Prober

__all__ = ["Script", "Seen", "a_prober", "an_edge"]

Script = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """What a running edge was asked."""

    port: int = 0
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path, headers by name in lower case."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]


@asynccontextmanager
async def an_edge(script: Script, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Seen]:
    """Run one on this machine."""
    seen = Seen()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen.requests.append((request.method, request.raw_path, headers))
        return await script(request)

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        seen.port = runner.addresses[0][1]
        yield seen
    finally:
        await runner.cleanup()


def a_prober(*sites: str, **options: object) -> Prober:
    """Return a prober for these sites, whose limit no test reaches."""
    return Prober(sites=sites, **{"per_minute": 1e6, "clock": SystemClock(), **options})  # type: ignore[arg-type]
