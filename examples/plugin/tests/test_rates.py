"""The rate limit of the documentation is what it says."""

from __future__ import annotations

import asyncio
import time

from cdn_listener_example.paced_cache import PacedCache

from listener.refresh import RefreshKind


def test_a_request_waits_until_the_caches_take_it() -> None:
    """Twenty purges go at once; two more wait for two fifths of a second."""

    async def body() -> None:
        target = PacedCache("cache", PacedCache.Settings(caches=["http://127.0.0.1:1"]))
        began = time.monotonic()
        await target.admit(RefreshKind.FILE, ["https://www.example.com/"] * 20)
        assert time.monotonic() - began < 0.3
        (rate,) = target.rates()
        assert rate.left < 2
        await target.admit(RefreshKind.FILE, ["https://www.example.com/"] * 2)
        assert time.monotonic() - began > 0.3

    asyncio.run(body())
