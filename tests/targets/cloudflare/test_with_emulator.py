"""The target and the emulator: zones, limits, tokens, and what is wrong."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from listener.contracts import CheckState
from listener.emulator.cloudflare import parse_zone
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    ConfigurationError,
    Misconfigured,
    NotInPlan,
    OutcomeUnknown,
    Throttled,
    Unavailable,
    WindowFull,
)
from listener.refresh import Priority, Receipt
from tests.targets.cloudflare.conftest import DIRECTORY, EXAMPLE, FILE, OTHER, TOKEN, MakePair, Pair, make_target

URL = "https://www.example.com/a"
WITH_ZONES = {"example.com": EXAMPLE.id}


async def test_a_purge_settles_after_a_time(pair: Pair) -> None:
    """Nothing can be asked about it: no task, and the time that the setting has."""
    assert await pair.send(FILE, URL) == Receipt(settles_after_seconds=5)
    assert pair.purged == [("files", URL)]


async def test_a_host_is_of_the_nearest_zone(make_pair: MakePair) -> None:
    """A zone of its own, else the one above; found once, then one place for all of its hosts."""
    sub = parse_zone("img.example.com")
    pair = await make_pair(zones=(EXAMPLE, sub, OTHER))
    target = pair.target
    hosts = ("www.example.com", "example.com:8443", "a.img.example.com", "img.example.com", "example.org")
    urls = [f"https://{host}/x" for host in hosts]
    assert [target.place(url) for url in urls] == list(hosts)
    for url in urls:
        await pair.send(FILE, url)
    zones = [EXAMPLE.id, EXAMPLE.id, sub.id, sub.id, OTHER.id]
    assert [target.place(url) for url in urls] == zones
    assert [record.task_id for record in pair.emulator.tasks.all()] == zones
    assert target.place("https://www.example.com/") != zones[0], "a whole host is not purged among prefixes"


async def test_zones_may_be_configured(make_pair: MakePair) -> None:
    """No zone is looked up then: the token need not read them; the nearest domain counts."""
    sub = parse_zone("img.example.com")
    zones = WITH_ZONES | {"img.example.com": sub.id}
    pair = await make_pair("error:9109,action=list_zones+get_zone", zones=(EXAMPLE, sub), keys=None)
    target = make_target(pair.emulator.api_url, zones=zones)
    await target.submit(FILE, [URL], force=True, token="")
    await target.submit(FILE, ["https://img.example.com/a"], force=True, token="")
    assert [record.task_id for record in pair.emulator.tasks.all()] == [EXAMPLE.id, sub.id]
    with pytest.raises(BatchRejected, match=r"www.example.org is in no zone of targets.cdn.zones") as refused:
        await target.submit(FILE, ["https://www.example.org/a"], force=True, token="")
    assert refused.value.urls == {"https://www.example.org/a"}
    await target.close()


async def test_a_host_in_no_zone(pair: Pair) -> None:
    """Its URLs are named; where the token sees no zone at all, the token is wrong."""
    with pytest.raises(BatchRejected, match=r"www.example.net is in no zone that the token sees") as refused:
        await pair.send(FILE, "https://www.example.net/a")
    assert refused.value.urls == {"https://www.example.net/a"}
    assert "base_urls" in refused.value.hint and "Zone Read" in refused.value.hint
    pair.emulator._server._zones = ()  # type: ignore[union-attr]
    with pytest.raises(Misconfigured, match=r"the token sees no zone") as wrong:
        await pair.send(FILE, "https://www.example.net/a")
    assert "Zone Read" in wrong.value.hint
    assert [check.state for check in await pair.target.check()] == [CheckState.FAILED]


async def test_a_host_in_two_zones(make_pair: MakePair) -> None:
    """Both are named, and the setting that decides."""
    pair = await make_pair(zones=(EXAMPLE, parse_zone("example.com=" + 32 * "1")))
    with pytest.raises(Misconfigured, match=rf"www.example.com is in 2 zones .*{EXAMPLE.id}, {32 * '1'}") as wrong:
        await pair.send(FILE, URL)
    assert "targets.cdn.zones" in wrong.value.hint


async def test_a_zone_that_is_none(make_pair: MakePair) -> None:
    """An id that the API does not know is named with the setting."""
    pair = await make_pair(keys=None)
    target = make_target(pair.emulator.api_url, zones={"example.com": 32 * "0"})
    with pytest.raises(Misconfigured, match="HTTP 404") as wrong:
        await target.submit(FILE, [URL], force=True, token="")
    assert 32 * "0" in wrong.value.hint and "zones" in wrong.value.hint
    (check,) = await target.check()
    assert check.state is CheckState.FAILED and "example.com" in check.subject
    await target.close()


async def test_a_url_of_a_foreign_zone_is_named(make_pair: MakePair) -> None:
    """The API names it; the others are not to blame."""
    pair = await make_pair()
    target = make_target(pair.emulator.api_url, zones={"example.com": EXAMPLE.id, "example.org": EXAMPLE.id})
    for kind, wrong in ((FILE, "https://example.org/a"), (DIRECTORY, "https://example.org/a/")):
        with pytest.raises(BatchRejected) as refused:
            await target.submit(kind, [wrong.replace("org", "com"), wrong, f"{wrong}b/"], force=True, token="")
        assert refused.value.urls == {wrong}
    assert not pair.purged
    await target.close()


@pytest.mark.parametrize(
    ("fault", "error", "hint"),
    [
        ("error:10000", Misconfigured, "Cache Purge"),
        ("error:1000", Misconfigured, "CLOUDFLARE_API_TOKEN"),
        ("plan-lacks:prefixes", NotInPlan, 'subtree = "none"'),
        ("error:1094", BatchTooLarge, ""),
        ("error:413", BatchTooLarge, ""),
        ("error:1012", BatchRejected, ""),
        ("error500", Unavailable, ""),
    ],
)
async def test_errors_say_what_to_do(make_pair: MakePair, fault: str, error: type[Any], hint: str) -> None:
    """By the remedy, with the vendor's words and code, and without the token."""
    pair = await make_pair(f"{fault},action=purge_cache" if "lacks" not in fault else fault)
    with pytest.raises(error, match="of 1 prefixes of zone") as raised:
        await pair.send(DIRECTORY, "https://www.example.com/a/")
    assert hint in raised.value.hint
    assert raised.value.code and raised.value.request_id
    assert TOKEN not in str(raised.value)


async def test_limits_are_kept(make_pair: MakePair) -> None:
    """Free: 25 requests by prefix at once, then one in 12 seconds; 800 URLs a second. The CDN never refuses."""
    pair = await make_pair()
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(27):
        await pair.send(DIRECTORY, f"https://www.example.com/{number}/")
    assert 23.9 <= loop.time() - began < 26
    began = loop.time()
    urls = [f"https://www.example.com/{number}" for number in range(100)]
    for _ in range(24):
        await pair.send(FILE, *urls)
    assert 1.9 <= loop.time() - began < 4
    assert pair.emulator.purged["requests"] == 51


async def test_limits_are_those_of_the_plan(make_pair: MakePair) -> None:
    """Enterprise has ten times the URLs; settings may have other figures."""
    pair = await make_pair(plan="enterprise", emulated={"plan": "enterprise"})
    assert pair.target.limits[FILE].batch_urls == 500
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(500):
        await pair.send(DIRECTORY, f"https://www.example.com/{number}/")
    assert loop.time() - began < 5
    lower = make_target(pair.emulator.api_url, limits={"requests_per_second": 0.1, "bucket_requests": 1})
    began = loop.time()
    for _ in range(3):
        await lower.admit(DIRECTORY, ["https://www.example.com/a/"])
    assert 19.9 <= loop.time() - began < 21
    await lower.close()


async def test_what_is_not_accepted_costs_nothing(make_pair: MakePair) -> None:
    """A refusal gives its token back; a full window empties the bucket, as it is empty there."""
    pair = await make_pair("throttle:1:30,action=purge_cache", "error500:40,action=purge_cache")
    loop = asyncio.get_running_loop()
    url = "https://www.example.com/a/"
    with pytest.raises(WindowFull) as full:
        await pair.send(DIRECTORY, url)
    assert full.value.retry_after_seconds == 30
    assert pair.target._requests.left(loop.time()) == 0
    await asyncio.sleep(300)
    began = loop.time()
    for _ in range(40):
        with pytest.raises(Unavailable):
            await pair.send(DIRECTORY, url)
    assert loop.time() - began < 1


async def test_only_what_is_named_is_set_aside(make_pair: MakePair) -> None:
    """Not what the name begins with."""
    pair = await make_pair("malformed:/a/x,b")
    with pytest.raises(BatchRejected) as refused:
        await pair.send(FILE, URL, f"{URL}/x", f"{URL}/x,b", f"{URL}/x,bc")
    assert refused.value.urls == {f"{URL}/x,b"}


async def test_a_request_is_of_one_zone(pair: Pair) -> None:
    """URLs of two zones are split; nothing is purged before."""
    with pytest.raises(BatchTooLarge, match="another zone"):
        await pair.send(FILE, URL, "https://example.org/a")
    assert not pair.purged


async def test_a_backfill_leaves_room(pair: Pair) -> None:
    """It waits with a quarter of the bucket left, and lets everything else go first."""
    loop = asyncio.get_running_loop()
    url = "https://www.example.com/a/"
    for _ in range(18):
        await pair.target.admit(DIRECTORY, [url], priority=Priority.BACKFILL)
    began = loop.time()
    waiting = asyncio.create_task(pair.target.admit(DIRECTORY, [url], priority=Priority.BACKFILL))
    for _ in range(6):
        await pair.target.admit(DIRECTORY, [url])
    assert loop.time() == began
    await waiting
    assert loop.time() - began > 60


async def test_lookups_that_fail(make_pair: MakePair) -> None:
    """Nothing was purged, so each says so; a lookup without an answer is no unknown outcome."""
    faults = ("reset:2", "throttle:1:3", "error500:1", "error:9109:1")
    pair = await make_pair(*(f"{fault},action=list_zones" for fault in faults))
    for error in (Unavailable, Throttled, Unavailable, Misconfigured):
        with pytest.raises(error):
            await pair.send(FILE, URL)
    await pair.send(FILE, URL)
    pair.order("reset:1,action=purge_cache")
    with pytest.raises(OutcomeUnknown):
        await pair.send(FILE, URL)


async def test_a_moved_zone_is_found_again(make_pair: MakePair) -> None:
    """After an error of the zone it is looked up once more."""
    pair = await make_pair()
    await pair.send(FILE, URL)
    moved = parse_zone("example.com=" + 32 * "2")
    pair.emulator._server._zones = (moved,)  # type: ignore[union-attr]
    with pytest.raises(Misconfigured):
        await pair.send(FILE, URL)
    await pair.send(FILE, URL)
    assert pair.emulator.tasks.all()[-1].task_id == moved.id


async def test_check_purges_nothing(make_pair: MakePair) -> None:
    """Each zone is tried; a token that may only read is found."""
    pair = await make_pair()
    checks = await pair.target.check()
    assert [(check.state, check.subject) for check in checks] == [
        (CheckState.OK, "targets.cdn: zone example.com"),
        (CheckState.OK, "targets.cdn: zone example.org"),
    ]
    pair.order("error:10000,action=purge_cache")
    assert {check.state for check in await pair.target.check()} == {CheckState.FAILED}
    assert not pair.purged


async def test_the_token_may_be_rotated(make_pair: MakePair, tmp_path: Path) -> None:
    """It is read from a file too, and read again after it was refused; it is nowhere to be seen."""
    file = tmp_path / "cloudflare_api_token"
    file.write_text("an-old-token")
    pair = await make_pair(keys={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    await pair.target.require_credentials()
    with pytest.raises(Misconfigured) as wrong:
        await pair.send(FILE, URL)
    assert "an-old-token" not in str(wrong.value)
    file.write_text(f"{TOKEN}\n")
    await pair.send(FILE, URL)
    named = make_target(pair.emulator.api_url, keys={"SECOND_API_TOKEN_FILE": str(file)}, environment_prefix="SECOND")
    await named.submit(FILE, [URL], force=True, token="")
    await named.close()
    assert TOKEN not in repr(vars(named)) + repr(vars(named.client).get("_settings"))


@pytest.mark.parametrize("keys", [{}, {"CLOUDFLARE_API_TOKEN": ""}, {"CLOUDFLARE_API_TOKEN": "a b"}])
async def test_without_a_token(keys: dict[str, str]) -> None:
    """The daemon refuses to start; the variable is named, and what may be set instead."""
    target = make_target("http://127.0.0.1:1", keys=keys)
    with pytest.raises(ConfigurationError, match="CLOUDFLARE_API_TOKEN"):
        await target.require_credentials()
    with pytest.raises(Misconfigured, match="CLOUDFLARE_API_TOKEN"):
        await target.submit(FILE, [URL], force=True, token="")
    (check,) = await target.check()
    assert check.state is CheckState.FAILED and check.hint


async def test_nothing_is_logged(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """No log line of a call has the token."""
    with caplog.at_level(logging.DEBUG):
        await pair.send(FILE, URL)
    assert TOKEN not in caplog.text


async def test_check_looks_for_the_zone_of_each_host(make_pair: MakePair) -> None:
    """Before anything is sent: a host of one zone, of none and of two."""
    twice = parse_zone("example.org=" + 32 * "1")
    pair = await make_pair(zones=(EXAMPLE, OTHER, twice))
    urls = [f"https://www.{name}/" for name in ("example.com", "example.net", "example.org")]
    found = await pair.target.check_urls([*urls, "https://www.example.com/news/"])
    assert [(check.subject, check.state) for check in found] == [
        ("targets.cdn: www.example.com", CheckState.OK),
        ("targets.cdn: www.example.net", CheckState.FAILED),
        ("targets.cdn: www.example.org", CheckState.FAILED),
    ]
    assert "base_urls" in found[1].hint and "targets.cdn.zones" in found[2].hint
    assert not pair.purged
