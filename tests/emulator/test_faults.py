"""Faults: each does what its line of the table says, as often and as long as it was ordered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from listener.emulator import fault_help, parse_fault
from listener.emulator.alibaba.faults import FAULT_KINDS, REJECTIONS
from listener.emulator.faults import FaultBook
from listener.errors import ConfigurationError

MakeWorld = Callable[..., Awaitable[Any]]
PATH = "http://h.example/a"


async def accepted(world: Any) -> int:
    """Return how many paths were accepted so far."""
    return len((await world.control("/accepted"))["accepted"])


async def refresh(world: Any, *paths: str) -> str:
    """Return the code of the answer, or ``accepted``."""
    _, body = await world.call("RefreshObjectCaches", ObjectPath="\n".join(paths or (PATH,)))
    return str(body.get("Code", "accepted"))


async def test_throttle(make_world: MakeWorld) -> None:
    """``throttle`` answers 503 so many times, and says how long to wait."""
    world = await make_world("throttle:2:1.5")
    for _ in range(2):
        assert (await world.call("RefreshObjectCaches", ObjectPath=PATH))[0] == 503
    assert (await refresh(world), await accepted(world)) == ("accepted", 1)


async def test_error500_and_error(make_world: MakeWorld) -> None:
    """``error500`` and ``error`` answer with their codes and accept nothing."""
    world = await make_world("error500:1", "error:ServiceBusy:1")
    assert [await refresh(world) for _ in range(3)] == ["InternalError", "ServiceBusy", "accepted"]
    assert await accepted(world) == 1


@pytest.mark.parametrize("code", REJECTIONS)
async def test_every_code_can_be_ordered(make_world: MakeWorld, code: str) -> None:
    """Any code of the table arrives with its own status, and with words."""
    world = await make_world(f"error:{code}:1")
    status, body = await world.call("DescribeRefreshQuota")
    assert (status, body["Code"]) == (REJECTIONS[code][0], code)
    assert body["Message"]
    assert "{" not in body["Message"]


async def test_reset(make_world: MakeWorld) -> None:
    """``reset`` cuts the connection and accepts nothing; ``accept-then-reset`` cuts it after accepting."""
    world = await make_world("reset:1")
    with pytest.raises(aiohttp.ClientOSError):
        await refresh(world)
    assert await accepted(world) == 0
    await world.control("/faults", method="POST", order=["accept-then-reset:1"])
    with pytest.raises(aiohttp.ClientOSError):
        await refresh(world)
    assert await accepted(world) == 1
    assert await refresh(world) == "accepted"


async def test_accept_then_timeout(make_world: MakeWorld) -> None:
    """``accept-then-timeout`` accepts and never answers; the client's own time-out ends it."""
    world = await make_world("accept-then-timeout:1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(refresh(world), 10)
    assert await accepted(world) == 1
    assert await refresh(world) == "accepted"


async def test_slow(make_world: MakeWorld) -> None:
    """``slow`` delays the answer, in calls of the named actions only."""
    world = await make_world("slow:20:1,action=RefreshObjectCaches")
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert (await world.call("DescribeRefreshQuota"))[0] == 200
    assert loop.time() - before < 20
    assert await refresh(world) == "accepted"
    assert loop.time() - before >= 20


async def test_slow_call_is_dated_when_it_is_taken_up(make_world: MakeWorld) -> None:
    """A slow call belongs to the time, and to the quota day, in which it is accepted."""
    world = await make_world("slow:20:1")
    calling = asyncio.create_task(refresh(world))
    asyncio.get_running_loop().call_later(10, setattr, world.clock, "time", world.clock.time + 86400)
    assert await calling == "accepted"
    [entry] = (await world.control("/accepted"))["accepted"]
    assert entry["at"] == world.clock.time


async def test_quota(make_world: MakeWorld) -> None:
    """``quota`` refuses though quota is left, and spends none."""
    world = await make_world("quota:2")
    assert await refresh(world) == "QuotaExceeded.Refresh"
    _, body = await world.call("PushObjectCache", ObjectPath=PATH)
    assert body["Code"] == "QuotaExceeded.Preload"
    assert (await world.call("DescribeRefreshQuota"))[1]["UrlRemain"] == "10000"
    assert await refresh(world) == "accepted"


async def test_malformed(make_world: MakeWorld) -> None:
    """``malformed`` makes one path of a batch sink the whole, and never names it."""
    world = await make_world("malformed:/bad")
    assert await refresh(world, PATH, "http://h.example/bad.html") == "InvalidObjectPath.Malformed"
    assert (await refresh(world), await accepted(world)) == ("accepted", 1)


async def test_domain_not_found(make_world: MakeWorld) -> None:
    """``domain-not-found`` disowns one host, with its port or without."""
    world = await make_world("domain-not-found:b.example", "domain-not-found:c.example:81")
    for host in ("b.example", "b.example:81", "c.example:81"):
        status, body = await world.call("RefreshObjectCaches", ObjectPath=f"{PATH}\nhttp://{host}/")
        assert (status, body["Message"]) == (404, f"The domain [{host}] does not belong to you.")
    assert await refresh(world, "http://c.example/") == "accepted"


async def statuses(world: Any, task_id: str) -> list[tuple[str, str, str]]:
    """Return the end of each path of a task, its status and its description."""
    _, body = await world.call("DescribeRefreshTaskById", TaskId=task_id)
    return [(task["ObjectPath"][-2:], task["Status"], task["Description"]) for task in body["Tasks"]]


async def test_stuck(make_world: MakeWorld) -> None:
    """``stuck`` keeps a path Refreshing, for a while or for ever, its neighbours not; the edge keeps its copy."""
    world = await make_world("stuck:/b:7200", "stuck:/c")
    for name in "abc":
        world.write(name, "old")
        await world.get(f"/{name}")
        world.write(name, "new!")
    task = await world.refresh("/a", "/b", "/c")
    world.clock.time += 7199
    assert await statuses(world, task) == [("/a", "Complete", ""), ("/b", "Refreshing", ""), ("/c", "Refreshing", "")]
    assert [(await world.get(f"/{name}"))[2] for name in "abc"] == ["new!", "old", "old"]
    world.clock.time += 1
    assert [status for _, status, _ in await statuses(world, task)] == ["Complete", "Complete", "Refreshing"]
    world.clock.time += 100_000
    assert [(await world.get(f"/{name}"))[2] for name in "abc"] == ["new!", "new!", "old"]


async def test_fail(make_world: MakeWorld) -> None:
    """``fail`` ends one path of a shared task as Failed; the edge keeps its copy; the next one passes."""
    world = await make_world("fail:/b")
    for name in "ab":
        world.write(name, "old")
        await world.get(f"/{name}")
        world.write(name, "new!")
    task = await world.refresh("/a", "/b")
    world.clock.time += 1
    assert await statuses(world, task) == [("/a", "Complete", ""), ("/b", "Failed", "Internal Error")]
    assert [(await world.get(f"/{name}"))[2] for name in "ab"] == ["new!", "old"]
    await world.done("/b")
    assert (await world.get("/b"))[2] == "new!"


async def test_failed_prefetch(make_world: MakeWorld) -> None:
    """A prefetch from an origin that is not there ends as Failed."""
    world = await make_world(origin="http://127.0.0.1:9")
    _, body = await world.call("PushObjectCache", ObjectPath=PATH)
    world.clock.time += 1
    assert await statuses(world, body["PushTaskId"]) == [("/a", "Failed", "Internal Error")]


async def test_absent(make_world: MakeWorld) -> None:
    """``absent`` hides a task at first, by id and by path."""
    world = await make_world("absent:60")
    task = await world.refresh(PATH)
    world.clock.time += 59
    assert await statuses(world, task) == []
    assert (await world.call("DescribeRefreshTasks", ObjectPath=PATH))[1]["TotalCount"] == 0
    world.clock.time += 1
    assert await statuses(world, task) == [("/a", "Complete", "")]
    assert (await world.call("DescribeRefreshTasks", ObjectPath=PATH))[1]["TotalCount"] == 1


async def test_late_status(make_world: MakeWorld) -> None:
    """``late-status`` shows what was so when somebody last asked, not what is so now."""
    world = await make_world("late-status:10")
    task = await world.refresh(PATH)
    world.clock.time += 100
    assert await statuses(world, task) == [("/a", "Pending", "")]
    world.clock.time += 9
    assert await statuses(world, task) == [("/a", "Pending", "")]
    world.clock.time += 1
    assert await statuses(world, task) == [("/a", "Complete", "")]


async def test_not_modified(make_world: MakeWorld) -> None:
    """``not-modified`` lets revalidations keep the old copy, whatever has changed; eviction heals."""
    world = await make_world("not-modified:/d/")
    for name in ("d/a", "e/a"):
        world.write(name, "old")
        await world.get(f"/{name}")
        world.write(name, "new!", mtime=1_767_000_000)
    await world.done("/d/", "/e/", kind="Directory")
    assert await world.get("/d/a") == ("REVALIDATED", 200, "old")
    assert await world.get("/e/a") == ("MISS", 200, "new!")
    await world.done("/d/a")
    assert (await world.get("/d/a"))[2] == "new!"


async def test_quota_lowered_at_noon(make_world: MakeWorld) -> None:
    """``quota-limit`` with ``after`` lowers the limits in the middle of the day; nothing left is never below zero."""
    world = await make_world("quota-limit:3,1,after=3600")
    await world.refresh(*(f"http://h.example/{number}" for number in range(5)))
    world.clock.time += 3599
    assert (await world.call("DescribeRefreshQuota"))[1]["UrlRemain"] == "9995"
    world.clock.time += 1
    _, quota = await world.call("DescribeRefreshQuota")
    assert (quota["UrlQuota"], quota["UrlRemain"], quota["DirQuota"], quota["DirRemain"]) == ("3", "0", "1", "1")
    assert await refresh(world) == "QuotaExceeded.Refresh"
    world.clock.time += 86400
    assert await refresh(world) == "accepted"


async def test_clock_skew(world: Any) -> None:
    """``clock-skew`` sets the server's clock wrong: calls expire, and the Date of the answer reports by how much."""
    from listener.alibaba.signature import Credentials, sign_v1

    await world.control("/faults", method="POST", order=["clock-skew:1200"])
    query = sign_v1(
        method="GET", action="DescribeRefreshQuota", version="2018-05-10", query={}, form={},
        credentials=Credentials("testid", "testsecret"), now=world.clock.time, nonce="n",
    )  # fmt: skip
    async with world.http.get(world.emulator.api_url, params=query) as response:
        assert (await response.json())["Code"] == "InvalidTimeStamp.Expired"
        assert response.headers["Date"] == "Fri, 02 Jan 2026 04:20:00 GMT"


async def test_orders_stand_until_withdrawn(world: Any) -> None:
    """Orders are listed, used up, and withdrawn by name or all at once."""
    await world.control("/faults", method="POST", order=["throttle:2", "quota", "absent:5"])
    await refresh(world)
    standing = (await world.control("/faults"))["faults"]
    assert [(order["fault"], order["left"]) for order in standing] == [
        ("throttle:2", 1),
        ("quota", None),
        ("absent:5", None),
    ]
    await world.control("/faults?name=quota", method="DELETE")
    assert [order["fault"] for order in (await world.control("/faults"))["faults"]] == ["throttle:2", "absent:5"]
    await world.control("/faults", method="DELETE")
    assert (await world.control("/faults"))["faults"] == []
    assert (await world.control("/faults"))["help"] == fault_help().splitlines()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("throttle", {"count": None, "seconds": None}),
        ("throttle:3", {"count": 3}),
        ("throttle:3:0.5", {"count": 3, "seconds": 0.5}),
        ("slow:2.5:4", {"seconds": 2.5, "count": 4}),
        ("slow:2,count=4,action=PushObjectCache+DescribeRefreshTasks", {"seconds": 2.0, "count": 4}),
        ("malformed:http://h:80/a,b:c", {"text": "http://h:80/a,b:c", "count": None}),
        ("malformed:x,count=1,after=2", {"text": "x", "count": 1, "after_seconds": 2.0}),
        ("domain-not-found:h:8701", {"text": "h:8701", "count": None}),
        ("stuck:http://h/a:7200", {"text": "http://h/a", "seconds": 7200.0}),
        ("stuck:http://h/a", {"text": "http://h/a", "seconds": None}),
        ("fail:/a", {"text": "/a", "count": 1}),
        ("fail:/a:3", {"text": "/a", "count": 3}),
        ("not-modified", {"text": "", "count": None}),
        ("quota-limit:500,50", {"limits": (500, 50)}),
        ("clock-skew:-1200", {"seconds": -1200.0}),
    ],
)
def test_grammar(spec: str, expected: dict[str, object]) -> None:
    """An order's text is read into exactly what it says."""
    fault = parse_fault(spec)
    assert {name: getattr(fault, name) for name in expected} == expected
    assert fault.name == spec.partition(":")[0]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("nonsense", "No fault is called 'nonsense'"),
        ("slow", "slow:SECONDS[:COUNT]"),
        ("throttle:x", "throttle[:COUNT[:SECONDS]]"),
        ("quota-limit:5", "quota-limit:FILES,DIRECTORIES"),
        ("error:Nonsense", "no error code 'Nonsense'"),
        ("reset,action=Nonsense", "no action is called Nonsense"),
        ("reset,count=x", "invalid literal"),
        ("reset,after=x", "could not convert"),
    ],
)
def test_wrong_orders_are_refused_with_the_right_form(spec: str, reason: str) -> None:
    """A wrong order is refused, and the message says what its form is."""
    with pytest.raises(ConfigurationError) as refused:
        parse_fault(spec)
    assert reason in str(refused.value)
    assert refused.value.hint


def test_each_kind_is_explained_and_dealt_out_by_count() -> None:
    """Every fault has its line in the help, and a count is used up one at a time."""
    assert all(kind.usage in fault_help() and kind.effect in fault_help() for kind in FAULT_KINDS.values())
    book = FaultBook([parse_fault("reset:2,action=PushObjectCache")], now=0)
    taken = [book.take("reset", 0, action=action) is not None for action in ("Other", *["PushObjectCache"] * 3)]
    assert taken == [False, True, True, False]
