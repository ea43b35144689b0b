"""The emulated Cloudflare, driven by the vendor's own client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import cloudflare
import pytest
from aiohttp import web
from cloudflare import AsyncCloudflare

from listener.emulator import CloudflareEmulator, CloudflareSettings
from listener.emulator.cloudflare import parse_zone
from listener.errors import ConfigurationError
from tests.emulator.conftest import Hand

TOKEN = "token-that-nobody-may-see"
EXAMPLE = parse_zone("example.com")


@dataclass
class Cdn:
    """An emulator, the vendor's client, and a visitor."""

    emulator: CloudflareEmulator
    clock: Hand
    sdk: AsyncCloudflare
    http: aiohttp.ClientSession
    host: str = "www.example.com"

    async def get(self, path: str, host: str | None = None) -> str:
        """Return ``X-Cache`` of the edge's answer."""
        headers = {"Host": host or self.host}
        async with self.http.get(self.emulator.edge_url + path, headers=headers) as response:
            assert "Cache-Tag" not in response.headers
            return response.headers["X-Cache"]

    async def purge(self, **given: Any) -> Any:
        return await self.sdk.cache.purge(zone_id=EXAMPLE.id, **given)

    async def refused(self, **given: Any) -> cloudflare.APIStatusError:
        with pytest.raises(cloudflare.APIStatusError) as refused:
            await self.purge(**given)
        return refused.value


MakeCdn = Callable[..., Awaitable[Cdn]]


@pytest.fixture
async def make_cdn(tmp_path: Path) -> AsyncIterator[MakeCdn]:
    """Start emulators with faults as texts; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def make(*faults: str, token: str = TOKEN, **settings: Any) -> Cdn:
            clock = Hand()
            given: dict[str, Any] = {
                "origin": str(tmp_path),
                "token": TOKEN,
                "zones": (EXAMPLE,),
                "clock": clock,
                "faults": tuple(map(CloudflareEmulator.table.parse, faults)),
                **settings,
            }
            made = CloudflareEmulator(CloudflareSettings(**given, api_port=0, edge_port=0))
            emulator = await opened.enter_async_context(made)
            base = f"{emulator.api_url}/client/v4"
            sdk = await opened.enter_async_context(AsyncCloudflare(api_token=token, base_url=base, max_retries=0))
            return Cdn(emulator, clock, sdk, await opened.enter_async_context(aiohttp.ClientSession()))

        yield make


@pytest.fixture
async def cdn(make_cdn: MakeCdn, tmp_path: Path) -> Cdn:
    """An emulator whose edge has copies of some paths."""
    for name in ("a/x", "a/y", "ab/x", "a/x.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    made = await make_cdn()
    for path in ("/a/x", "/a/x?q=1", "/a/y", "/ab/x"):
        assert await made.get(path) == "MISS"
        assert await made.get(path) == "HIT"
    return made


async def seen(cdn: Cdn) -> dict[str, str]:
    """Return what visitors get of each path, once."""
    return {path: await cdn.get(path) for path in ("/a/x", "/a/x?q=1", "/a/y", "/ab/x")}


HITS = dict.fromkeys(("/a/x", "/a/x?q=1", "/a/y", "/ab/x"), "HIT")


async def test_urls_are_purged(cdn: Cdn) -> None:
    """One URL is one copy, with its query; the id of the answer is the zone's."""
    answer = await cdn.purge(files=["https://www.example.com/a/x"])
    assert answer.id == EXAMPLE.id
    assert await seen(cdn) == HITS | {"/a/x": "MISS"}
    assert await seen(cdn) == HITS


@pytest.mark.parametrize(
    ("prefix", "gone"),
    [
        ("www.example.com/a", ["/a/x", "/a/x?q=1", "/a/y"]),
        ("www.example.com/a/", ["/a/x", "/a/x?q=1", "/a/y"]),
        ("www.example.com/a/x", ["/a/x", "/a/x?q=1"]),
        ("WWW.example.com/", list(HITS)),
    ],
)
async def test_prefixes_end_where_a_path_can(cdn: Cdn, prefix: str, gone: list[str]) -> None:
    """A prefix takes the path, what is below it and any query, and not a longer name."""
    await cdn.purge(prefixes=[prefix])
    assert await seen(cdn) == HITS | dict.fromkeys(gone, "MISS")


async def test_hosts_and_everything(cdn: Cdn) -> None:
    """A host is one host; everything is the zone, with its subdomains."""
    assert await cdn.get("/a/x", "img.example.com") == "MISS"
    await cdn.purge(hosts=["img.example.com"])
    assert await cdn.get("/a/x", "img.example.com") == "MISS"
    assert await seen(cdn) == HITS
    assert await cdn.get("/a/x", "www.example.org") == "MISS"
    await cdn.purge(purge_everything=True)
    assert await seen(cdn) == dict.fromkeys(HITS, "MISS")
    assert await cdn.get("/a/x", "www.example.org") == "HIT"


async def test_invalidation_revalidates(cdn: Cdn) -> None:
    """The newer call marks copies stale; an origin that says 304 keeps them."""
    await cdn.sdk.cache.invalidate(zone_id=EXAMPLE.id, files=["https://www.example.com/a/x"])
    assert await seen(cdn) == HITS | {"/a/x": "REVALIDATED"}
    await cdn.sdk.cache.invalidate(zone_id=EXAMPLE.id, prefixes=["www.example.com/ab/"])
    assert await seen(cdn) == HITS | {"/ab/x": "REVALIDATED"}


async def test_tags_are_of_a_zone(make_cdn: MakeCdn) -> None:
    """What the origin's header says counts, in either case, for hosts of the zone; visitors never see it."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text="x", headers={"Cache-Tag": f"{request.path}, Common"})

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        cdn = await make_cdn(origin=f"http://127.0.0.1:{runner.addresses[0][1]}")
        for host in ("www.example.com", "www.example.org"):
            assert [await cdn.get(path, host) for path in ("/A", "/b")] == ["MISS", "MISS"]
        await cdn.purge(tags=["/a"])
        assert [await cdn.get(path) for path in ("/A", "/b")] == ["MISS", "HIT"]
        await cdn.purge(tags=["COMMON"])
        assert [await cdn.get(path) for path in ("/A", "/b")] == ["MISS", "MISS"]
        assert await cdn.get("/A", "www.example.org") == "HIT"
    finally:
        await runner.cleanup()


async def test_zones_are_listed_by_name(make_cdn: MakeCdn) -> None:
    """As the vendor's client requests them; a token is verified."""
    other = parse_zone("example.org=" + "1" * 32)
    cdn = await make_cdn(zones=(EXAMPLE, other))
    assert [zone.id async for zone in cdn.sdk.zones.list(name="example.org")] == ["1" * 32]
    assert [zone.name async for zone in cdn.sdk.zones.list()] == ["example.com", "example.org"]
    assert not [zone async for zone in cdn.sdk.zones.list(name="www.example.com")]
    found = await cdn.sdk.zones.get(zone_id=other.id)
    assert found is not None and found.name == "example.org"
    verified = await cdn.sdk.user.tokens.verify()
    assert verified is not None and verified.status == "active"


async def test_limits_of_a_plan(make_cdn: MakeCdn) -> None:
    """Free: 25 requests by prefix at once, then one every 12 seconds; 800 URLs a second; 100 of each in a request."""
    cdn = await make_cdn()
    prefixes = [f"www.example.com/{number}" for number in range(100)]
    for _ in range(25):
        await cdn.purge(prefixes=prefixes)
    refused = await cdn.refused(prefixes=prefixes[:1])
    assert refused.status_code == 429 and refused.response.headers["Retry-After"] == "12"
    files = [f"https://{prefix}" for prefix in prefixes]
    for _ in range(8):
        await cdn.purge(files=files)
    assert (await cdn.refused(files=files[:1])).status_code == 429
    cdn.clock.time += 1
    await cdn.purge(files=files)
    cdn.clock.time += 11
    await cdn.purge(prefixes=prefixes)
    assert cdn.emulator.purged == {"prefixes": 2600, "files": 900, "requests": 35}
    assert (await cdn.refused(files=[*files, files[0]])).status_code == 400


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"files": ["https://www.example.org/a"]}, "https://www.example.org/a, which is an invalid URL"),
        ({"files": ["/a"]}, "Unable to purge /a"),
        ({"files": ["https://www.example.com/*"]}, "invalid URL"),
        ({"prefixes": ["www.example.org/a"]}, "www.example.org/a"),
        ({"prefixes": ["www.example.com/a?b"]}, "invalid"),
        ({"prefixes": ["www.example.com" + 32 * "/a"]}, "invalid"),
        ({"hosts": ["example.org"]}, "example.org"),
        ({"tags": ["a,b"]}, "invalid tag"),
        ({"files": []}, "must contain"),
        ({"files": ["https://www.example.com/a"], "tags": ["a"]}, "must contain"),
    ],
)
async def test_wrong_requests(make_cdn: MakeCdn, given: dict[str, Any], words: str) -> None:
    """They are refused as a whole, with what is wrong, and cost nothing."""
    cdn = await make_cdn()
    refused = await cdn.refused(**given)
    assert refused.status_code == 400
    assert words in refused.response.json()["errors"][0]["message"]
    assert not cdn.emulator.purged


async def test_who_may_call(make_cdn: MakeCdn) -> None:
    """A wrong token, and a zone that nobody has."""
    cdn = await make_cdn(token="another")
    assert (await cdn.refused(tags=["a"])).status_code == 401
    cdn = await make_cdn()
    with pytest.raises(cloudflare.NotFoundError):
        await cdn.sdk.cache.purge(zone_id="0" * 32, tags=["a"])
    async with cdn.http.post(f"{cdn.emulator.api_url}/client/v4/zones/{EXAMPLE.id}/purge_cache") as response:
        assert response.status == 400
    assert TOKEN not in repr(cdn.emulator.settings)


async def test_faults(make_cdn: MakeCdn, tmp_path: Path) -> None:
    """Each of its own faults; those of every CDN are tested with Alibaba's."""
    journal = tmp_path / "journal"
    cdn = await make_cdn("throttle:1:7", "error500:1", "error:10000:1", "plan-lacks:tags", journal=journal)
    found = [await cdn.refused(prefixes=["www.example.com/a"]) for _ in range(3)]
    assert [one.status_code for one in found] == [429, 500, 403]
    assert found[0].response.headers["Retry-After"] == "7"
    assert "enterprise" in (await cdn.refused(tags=["a"])).response.text
    await cdn.purge(prefixes=["www.example.com/a"])
    line = json.loads(journal.read_text())
    assert (line["action"], line["kind"], line["paths"]) == ("purge_cache", "prefixes", ["www.example.com/a"])
    async with cdn.http.get(f"{cdn.emulator.api_url}/_emulator") as response:
        overview = await response.json()
    assert overview["accepted"] == {"prefixes": 1, "requests": 1} and overview["left"]["requests"] == 24


@pytest.mark.parametrize("text", ["", "a b", "example.com=1", "example.com/a"])
def test_zones_that_cannot_be_read(text: str) -> None:
    """They are refused with the right form."""
    with pytest.raises(ConfigurationError, match="zone"):
        parse_zone(text)
