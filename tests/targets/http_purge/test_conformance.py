"""The target passes the suite of targets, for each preset, before a stand-in of caches; what settings are refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from aiohttp import web
from pydantic import ValidationError

from listener.errors import Misconfigured, OutcomeUnknown, Throttled, Unavailable
from listener.refresh import Receipt, RefreshKind
from listener.targets.http_purge import HttpPurge
from listener.targets.http_purge.presets import purge_request
from listener.testing import TargetConformance

SECRET = "purge-secret"
TOKEN = "0" * 32


class StandIn:
    """Some caches that accept purges, or fail as they are asked to."""

    def __init__(self, preset: str, count: int) -> None:
        self.preset = preset
        self.count = count
        self.addresses: list[str] = []
        self.purged: list[dict[str, int]] = [{} for _ in range(count)]
        self.failure = ""
        self.failing: set[int] = set(range(count))

    def make_target(self) -> HttpPurge:
        settings = HttpPurge.Settings(
            servers=self.addresses,
            preset=self.preset,
            headers={"X-Key": SECRET},
            answer_seconds=0.5,
            ban_method="POST",  # aiohttp's server knows no BAN, and its client repeats a DELETE
        )
        return HttpPurge("edge", settings)

    def refreshed(self) -> list[str]:
        """What each of them dropped."""
        return [url for url in self.purged[0] if all(url in one for one in self.purged)]

    def fail(self, failure: str) -> None:
        self.failure = failure

    async def answer(self, number: int, request: web.BaseRequest) -> web.StreamResponse:
        assert request.headers["X-Key"] == SECRET
        if number in self.failing:
            if self.failure == "dropped":
                request.transport.abort()  # type: ignore[union-attr]
            if self.failure == "ignored":
                return web.Response(headers={"Age": "0"})
            if self.failure.isdigit():
                return web.Response(status=int(self.failure))
            if self.failure == "refused" and "refused" in request.path:
                return web.Response(status=400)
        is_nginx = self.preset == "nginx"
        if request.method in ("PURGE", "POST") and "cdn-listener-check" not in request.path:
            path = request.raw_path.removeprefix("/purge") if is_nginx else request.raw_path
            url = f"https://{request.host}{path}"
            self.purged[number][url] = self.purged[number].get(url, 0) + 1
            if number in self.failing and self.failure == "lost":
                request.transport.abort()  # type: ignore[union-attr]
                if all(url in one for one in self.purged):
                    self.failure = ""
            return web.Response()
        return web.Response(status=200 if self.preset == "varnish" else 404)


@asynccontextmanager
async def stand_in(preset: str, count: int) -> AsyncIterator[StandIn]:
    """Run so many."""
    caches = StandIn(preset, count)
    runners = []
    for number in range(count):

        async def answer(request: web.BaseRequest, number: int = number) -> web.StreamResponse:
            return await caches.answer(number, request)

        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        caches.addresses.append("http://{}:{}".format(*runner.addresses[0][:2]))
        runners.append(runner)
    try:
        yield caches
    finally:
        for runner in runners:
            await runner.cleanup()


class Purges(TargetConformance):
    """What all presets have in common."""

    secrets = (SECRET,)
    lost_answer = "lost"
    refused = "refused"
    preset: ClassVar[str]
    count = 2
    failures: ClassVar = {
        "dropped": OutcomeUnknown,
        "ignored": Misconfigured,
        "403": Misconfigured,
        "405": Misconfigured,
        "302": Misconfigured,
        "429": Throttled,
        "500": Unavailable,
    }

    def service(self) -> Any:
        return stand_in(self.preset, self.count)

    def make_unreachable_target(self) -> HttpPurge:
        return HttpPurge("edge", HttpPurge.Settings(servers=["http://127.0.0.1:1"], headers={"X-Key": SECRET}))


class TestVarnish(Purges):
    """Two of them."""

    preset = "varnish"


class TestNginx(Purges):
    """One, by its purge location."""

    preset = "nginx"
    count = 1


class TestSquid(Purges):
    """Two of them."""

    preset = "squid"


class TestTrafficServer(Purges):
    """Two of them."""

    preset = "trafficserver"


URLS = [f"https://www.example.com/{n}.html" for n in range(30)]


@pytest.mark.looptime(False)
async def test_what_one_cache_does_not_drop_is_unfinished_and_the_others_get_all() -> None:
    """Each reason names the cache."""
    async with stand_in("varnish", 3) as caches:
        caches.failing = {1}
        caches.fail("500")
        target = caches.make_target()
        receipt = await target.submit(RefreshKind.FILE, URLS, force=True, token=TOKEN)
        assert sorted(receipt.unfinished) == sorted(URLS)
        assert all(f"{caches.addresses[1]} answered PURGE with HTTP 500" == why for why in receipt.unfinished.values())
        assert [len(one) for one in caches.purged] == [30, 0, 30]
        await target.close()


@pytest.mark.looptime(False)
async def test_a_url_that_one_cache_rejects_is_rejected() -> None:
    """It is no fault of the cache: the others of the request go on there."""
    async with stand_in("varnish", 2) as caches:
        caches.failing = {0}
        caches.fail("414")
        target = caches.make_target()
        receipt = await target.submit(RefreshKind.FILE, URLS[:2], force=True, token=TOKEN)
        assert receipt == Receipt(
            refused=dict.fromkeys(URLS[:2], f"{caches.addresses[0]} answered PURGE with HTTP 414")
        )
        await target.close()


@pytest.mark.looptime(False)
async def test_a_cache_that_is_away_is_not_waited_for_by_each_request() -> None:
    """After one time-out its purges are unfinished at once, for some seconds."""
    async with stand_in("varnish", 2) as caches:
        caches.failing = {0}
        caches.fail("dropped")
        target = caches.make_target()
        for start in range(0, 30, 10):
            receipt = await target.submit(RefreshKind.FILE, URLS[start : start + 10], force=True, token=TOKEN)
            assert len(receipt.unfinished) == 10
        assert len(caches.purged[1]) == 30
        await target.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"servers": []}, "at least 1"),
        ({"servers": ["10.0.0.5:6081"]}, "URL such as http://10.0.0.5:6081"),
        ({"servers": ["http://a:1/x"]}, "scheme, host and port only"),
        ({"servers": ["http://a:1", "http://a:1/"]}, "named twice"),
        ({"preset": "nginx", "soft": True}, "nginx cannot do that"),
        ({"preset": "squid", "subtree": "ban"}, "squid cannot do that"),
        ({"headers": {"Host": "x"}}, "set for each request"),
        ({"headers": {"X Y": "x"}}, "no name of a header"),
        ({"headers": {"X-Y": "a\r\nb"}}, "no header may have"),
        ({"done": [200]}, "only with preset"),
        ({"preset": "custom", "done": [99]}, "from 200 to 599"),
        ({"path": "/purge"}, "path"),
        ({"method": "PUR GE"}, "method"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    """With what is wrong, and no secret."""
    with pytest.raises(ValidationError, match=message):
        HttpPurge.Settings(**{"servers": ["http://10.0.0.5:6081"], **settings})


@pytest.mark.parametrize(
    ("settings", "kind", "url", "expected"),
    [
        ({}, "file", "http://h:81/a%20b?x=%2F", ("PURGE", "/a%20b?x=%2F", "h:81", {})),
        ({"host": "origin.test"}, "file", "http://h:81/a", ("PURGE", "/a", "origin.test", {})),
        (
            {"host": "origin.test", "subtree": "xkey"},
            *("directory", "http://h/d/", ("PURGEKEYS", "/d/", "origin.test", {"xkey": "origin.test/d/"})),
        ),
        ({"preset": "nginx"}, "file", "http://h/a?b", ("PURGE", "/purge/a?b", "h", {})),
        ({"preset": "nginx", "path": "{path}"}, "file", "http://h/a", ("PURGE", "/a", "h", {})),
        ({"soft": True}, "file", "http://h/a", ("PURGE", "/a", "h", {"X-Soft": "1"})),
        ({}, "directory", "http://h/v1.2/", ("BAN", "/v1.2/", "h", {"X-Ban-Prefix": r"/v1\.2/"})),
        ({"soft": True}, "directory", "http://h/d/", ("BAN", "/d/", "h", {"X-Ban-Prefix": "/d/"})),
        ({}, "ignore-params", "http://h/a", ("BAN", "/a", "h", {"X-Ban-Prefix": r"/a(\?|$)"})),
        ({"subtree": "xkey"}, "directory", "http://h:8/d/", ("PURGEKEYS", "/d/", "h:8", {"xkey": "h:8/d/"})),
        (
            {"preset": "custom", "method": "GET", "headers": {"X-Refresh": "s"}},
            *("file", "http://h/a", ("GET", "/a", "h", {"X-Refresh": "s"})),
        ),
    ],
)
def test_each_kind_is_one_request(settings: dict[str, Any], kind: str, url: str, expected: tuple[Any, ...]) -> None:
    """By preset and settings."""
    made = HttpPurge.Settings(servers=["http://10.0.0.5"], **settings)
    assert tuple(purge_request(made, RefreshKind(kind), url, force=False)) == expected
