"""What the target sends is what the vendor's client sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from cloudflare import AsyncCloudflare

from listener.refresh import RefreshKind
from tests.targets.cloudflare.conftest import DIRECTORY, FILE, IGNORE_PARAMS, TOKEN, make_target

ZONE = "0123456789abcdef0123456789abcdef"
ODD = "https://www.example.com/a%20b/%E4%B8%AD~*+,'(x).txt?x=1&y=%2F"


class Recorder:
    """A server that says yes."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[tuple[str, str, str, str, Any]] = []

    async def answer(self, request: web.BaseRequest) -> web.Response:
        body = await request.json() if request.can_read_body else None
        content = request.headers.get("Content-Type", "") if body is not None else ""
        self.received.append((request.method, request.path_qs, request.headers["Authorization"], content, body))
        zone = {"id": ZONE, "name": "example.com", "status": "active"}
        result: Any = [zone] if request.method == "GET" else {"id": ZONE}
        return web.json_response({"success": True, "errors": [], "messages": [], "result": result})


@pytest.fixture
async def recorder() -> AsyncIterator[Recorder]:
    """A server that says yes to everything."""
    made = Recorder()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "urls", "settings", "given"),
    [
        (FILE, [ODD, "http://www.example.com/"], {}, {"files": [ODD, "http://www.example.com/"]}),
        (DIRECTORY, ["https://www.example.com/a/b%20c/"], {}, {"prefixes": ["www.example.com/a/b%20c/"]}),
        (
            DIRECTORY,
            ["https://www.example.com/", "https://example.com:8443/"],
            {},
            {"hosts": ["www.example.com", "example.com:8443"]},
        ),
        (DIRECTORY, ["https://www.example.com/" + 40 * "a/"], {}, {"prefixes": ["www.example.com/" + 30 * "a/"]}),
        (IGNORE_PARAMS, ["https://www.example.com/a.html"], {}, {"prefixes": ["www.example.com/a.html"]}),
        (IGNORE_PARAMS, ["https://www.example.com/"], {}, {"hosts": ["www.example.com"]}),
        (DIRECTORY, ["https://www.example.com/a/", "http://www.example.com/a/"], {"subtree": "tag"}, {"tags": ["/a/"]}),
        (DIRECTORY, ["https://www.example.com/"], {"subtree": "tag"}, {"tags": ["/"]}),
        (
            DIRECTORY,
            ["https://www.example.com/a,b/c/d/"],
            {"subtree": "tag", "tag": "t:{host}{path}", "tag_levels": 2},
            {"tags": ["t:www.example.com/a%2Cb/c/"]},
        ),
    ],
)
@pytest.mark.parametrize("force", [True, False])
async def test_purges(
    recorder: Recorder, kind: RefreshKind, urls: list[str], settings: dict[str, Any], given: dict[str, Any], force: bool
) -> None:
    """Both calls, with each list, are the client's but for its own headers; soft only where that is set, unforced."""
    target = make_target(recorder.url, zones={"example.com": ZONE}, soft=True, **settings)
    await target.submit(kind, urls, force=force, token="0" * 32)
    await target.close()
    sdk = AsyncCloudflare(api_token=TOKEN, base_url=f"{recorder.url}/client/v4")
    call = sdk.cache.purge if force else sdk.cache.invalidate
    await call(zone_id=ZONE, **given)
    await sdk.close()
    assert recorder.received[0] == recorder.received[1]
    assert recorder.received[0][1].endswith("/purge_cache" if force else "/invalidate_cache")


async def test_zones_are_listed(recorder: Recorder) -> None:
    """By name, the longest first."""
    target = make_target(recorder.url)
    await target.submit(FILE, ["https://www.example.com/a"], force=True, token="0" * 32)
    await target.close()
    sdk = AsyncCloudflare(api_token=TOKEN, base_url=f"{recorder.url}/client/v4")
    await sdk.zones.list(per_page=50, name="www.example.com")
    await sdk.close()
    ours, theirs = recorder.received[0], recorder.received[2]
    assert ours[0] == theirs[0] and ours[2:] == theirs[2:]
    assert sorted(ours[1].partition("?")[2].split("&")) == sorted(theirs[1].partition("?")[2].split("&"))
