"""The API's rules: what it accepts, what it refuses and with which code, and what tasks and quota show."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from listener.refresh import RefreshKind

MakeWorld = Callable[..., Awaitable[Any]]

LONG = "http://h.example/" + "a" * (1024 - len("http://h.example/"))


def lines(count: int, host: str = "h.example") -> str:
    """Return so many paths, a line each."""
    return "\n".join(f"http://{host}/{number}" for number in range(count))


REFUSALS = {
    "no path": ({"ObjectPath": ""}, 400, "MissingParameter"),
    "blank lines": ({"ObjectPath": "\r\n\n"}, 400, "MissingParameter"),
    "no scheme": ({"ObjectPath": "h.example/a"}, 400, "InvalidObjectPath.Malformed"),
    "other scheme": ({"ObjectPath": "ftp://h.example/a"}, 400, "InvalidObjectPath.Malformed"),
    "blank": ({"ObjectPath": "http://h.example/a b"}, 400, "InvalidObjectPath.Malformed"),
    "leading blank": ({"ObjectPath": " http://h.example/a"}, 400, "InvalidObjectPath.Malformed"),
    "not ASCII": ({"ObjectPath": "http://h.example/日"}, 400, "InvalidObjectPath.Malformed"),
    "bare CR": ({"ObjectPath": "http://h.example/a\rb"}, 400, "InvalidObjectPath.Malformed"),
    "user name": ({"ObjectPath": "http://me@h.example/a"}, 400, "InvalidObjectPath.Malformed"),
    "fragment": ({"ObjectPath": "http://h.example/a#b"}, 400, "InvalidObjectPath.Malformed"),
    "no escape": ({"ObjectPath": "http://h.example/a%zz"}, 400, "InvalidObjectPath.Malformed"),
    "too long": ({"ObjectPath": LONG + "a"}, 400, "InvalidObjectPath.Malformed"),
    "commas": ({"ObjectPath": "http://h.example/a, http://h.example/b"}, 400, "InvalidObjectPath.Malformed"),
    "no slash": ({"ObjectPath": "http://h.example/a", "ObjectType": "Directory"}, 400, "InvalidObjectPath.Malformed"),
    "one of many": ({"ObjectPath": lines(999) + "\nnonsense"}, 400, "InvalidObjectPath.Malformed"),
    "many files": ({"ObjectPath": lines(1001)}, 400, "SingleRequest.OverLimit"),
    "many directories": (
        {"ObjectPath": "\n".join(f"http://h.example/{n}/" for n in range(101)), "ObjectType": "Directory"},
        400,
        "SingleRequest.OverLimit",
    ),
    "many domains": (
        {"ObjectPath": "\n".join(f"http://h{n}.example/" for n in range(11))},
        400,
        "SingleRequest.OverLimit",
    ),
    "wildcard": ({"ObjectPath": "http://*.example/a"}, 400, "InvalidExtensiveDomain.ValueNotSupported"),
    "regex": ({"ObjectPath": "http://h.example/", "ObjectType": "Regex"}, 400, "InvalidObjectType.ValueNotSupported"),
    "foreign": ({"ObjectPath": "http://h.example/\nhttp://other.example/"}, 404, "InvalidDomain.NotFound"),
    "quota": ({"ObjectPath": lines(30) + "\n" + lines(21)}, 400, "QuotaExceeded.Refresh"),
}


@pytest.mark.parametrize(("parameters", "status", "code"), REFUSALS.values(), ids=list(REFUSALS))
async def test_refused_whole_and_for_nothing(
    make_world: MakeWorld, parameters: dict[str, str], status: int, code: str
) -> None:
    """A refused refresh has the vendor's code and status, and neither spends quota nor makes a task."""
    world = await make_world(
        quota={RefreshKind.FILE: 50}, domains=("h.example", *(f"h{n}.example" for n in range(20)), "*.example")
    )
    answered, body = await world.call("RefreshObjectCaches", **parameters)
    assert (answered, body["Code"]) == (status, code)
    assert set(body) == {"RequestId", "HostId", "Code", "Message", "Recommend"}
    overview = await world.control()
    assert (overview["accepted"], overview["paths"]) == ({}, 0)


async def test_domain_is_named(make_world: MakeWorld) -> None:
    """The message names the domain that is not the account's, with its port."""
    world = await make_world(domains=("h.example",))
    _, body = await world.call("RefreshObjectCaches", ObjectPath="http://h.example:8701/\nhttp://b.example:1/")
    assert body["Message"] == "The domain [b.example:1] does not belong to you."


async def test_largest_batches_pass(world: Any) -> None:
    """1,000 files, 100 directories, 10 domains and 1,024 characters pass; equal paths count each."""
    assert (await world.call("RefreshObjectCaches", ObjectPath=lines(500) + "\n" + lines(500)))[0] == 200
    directories = "\n".join(f"http://h{n % 10}.example/{n}/" for n in range(100))
    assert (await world.call("RefreshObjectCaches", ObjectPath=directories, ObjectType="Directory"))[0] == 200
    assert (await world.call("RefreshObjectCaches", ObjectPath=LONG))[0] == 200
    assert (await world.control())["remaining"]["file"] == 10_000 - 1001


@pytest.mark.parametrize(
    ("action", "version", "parameters", "status", "code"),
    [
        ("Nonsense", "2018-05-10", {}, 404, "InvalidAction.NotFound"),
        ("DescribeRefreshQuota", "2020-01-01", {}, 404, "InvalidAction.NotFound"),
        ("DescribeRefreshTaskById", "2014-11-11", {"TaskId": "1"}, 404, "InvalidAction.NotFound"),
        ("DescribeRefreshTaskById", "2018-05-10", {}, 400, "MissingParameter"),
        ("DescribeRefreshTaskById", "2018-05-10", {"TaskId": "x"}, 400, "InvalidTaskId.Malformed"),
        ("DescribeRefreshTaskById", "2018-05-10", {"TaskId": ",".join("1" * 11)}, 400, "InvalidTaskId.Malformed"),
        ("DescribeRefreshTasks", "2018-05-10", {"TaskId": "x"}, 400, "InvalidTaskId.Malformed"),
        ("DescribeRefreshTasks", "2018-05-10", {"Status": "Complete"}, 400, "MissingParameter.ObjectType"),
        ("DescribeRefreshTasks", "2018-05-10", {"DomainName": "h"}, 400, "MissingParameter.ObjectType"),
        ("DescribeRefreshTasks", "2018-05-10", {"Status": "Nonsense"}, 400, "InvalidStatus.ValueNotSupported"),
        ("DescribeRefreshTasks", "2018-05-10", {"ObjectType": "x"}, 400, "InvalidObjectType.ValueNotSupported"),
        ("DescribeRefreshTasks", "2018-05-10", {"StartTime": "2026-01-01T00:00:00Z"}, 400, "MissingParameter"),
        ("DescribeRefreshTasks", "2018-05-10", {"EndTime": "2026-01-01T00:00:00Z"}, 400, "MissingParameter"),
        ("DescribeRefreshTasks", "2018-05-10", {"PageSize": "101"}, 400, "InvalidPageSize.ValueNotSupported"),
        ("DescribeRefreshTasks", "2014-11-11", {"PageSize": "51"}, 400, "InvalidPageSize.ValueNotSupported"),
        ("DescribeRefreshTasks", "2018-05-10", {"PageNumber": "0"}, 400, "InvalidPageNumber.ValueNotSupported"),
        ("DescribeRefreshTasks", "2018-05-10", {"PageNumber": "9" * 5000}, 400, "InvalidPageNumber.ValueNotSupported"),
        (
            "DescribeRefreshTasks",
            "2018-05-10",
            {"StartTime": "x", "EndTime": "2026-01-01T00:00:00Z"},
            400,
            "InvalidStartTime.Malformed",
        ),
        (
            "DescribeRefreshTasks",
            "2018-05-10",
            {"StartTime": "2026-01-01T00:00:00Z", "EndTime": "x"},
            400,
            "InvalidEndTime.Malformed",
        ),
        (
            "DescribeRefreshTasks",
            "2018-05-10",
            {"StartTime": "2026-01-01T00:00:00Z", "EndTime": "2026-01-01T00:00:00Z"},
            400,
            "InvalidEndTime.Mismatch",
        ),
        ("PushObjectCache", "2018-05-10", {"ObjectPath": lines(101)}, 400, "SingleRequest.OverLimit"),
        ("PushObjectCache", "2014-11-11", {"ObjectPath": "nonsense"}, 400, "ObjectPath.Malformed"),
        ("RefreshObjectCaches", "2014-11-11", {"ObjectPath": "nonsense"}, 400, "ObjectPath.Malformed"),
        (
            "RefreshObjectCaches",
            "2014-11-11",
            {"ObjectPath": "http://h/", "ObjectType": "IgnoreParams"},
            400,
            "InvalidObjectType.ValueNotSupported",
        ),
    ],
)
async def test_refusals_of_each_action(
    world: Any, action: str, version: str, parameters: dict[str, str], status: int, code: str
) -> None:
    """What an action does not take is answered with the vendor's code, in both versions of the API."""
    answered, body = await world.call(action, version=version, **parameters)
    assert (answered, body["Code"]) == (status, code)


@pytest.mark.parametrize(
    ("headers", "query", "code"),
    [
        ({}, {}, "MissingParameter"),
        ({}, {"Action": "DescribeRefreshQuota"}, "MissingParameter"),
        ({}, {"Action": "DescribeRefreshQuota", "Version": "2018-05-10"}, "MissingParameter"),
        (
            {"Authorization": "Basic eDp5"},
            {"Action": "DescribeRefreshQuota", "Version": "2018-05-10"},
            "IncompleteSignature",
        ),
        (
            {"Authorization": "ACS3-HMAC-SHA256 Credential=testid,SignedHeaders=host,Signature=00"},
            {"Action": "DescribeRefreshQuota", "Version": "2018-05-10"},
            "MissingParameter",
        ),
        (
            {
                "Authorization": "ACS3-HMAC-SHA256 Credential=testid,SignedHeaders=host,Signature=00",
                "x-acs-date": "2026-01-02T04:00:00Z",
                "x-acs-signature-nonce": "n",
                "x-acs-content-sha256": "e3",
            },
            {"Action": "DescribeRefreshQuota", "Version": "2018-05-10"},
            "IncompleteSignature",
        ),
        (
            {
                "Authorization": "ACS3-HMAC-SHA256 Credential=testid,SignedHeaders=host,Signature=00",
                "x-acs-date": "yesterday",
                "x-acs-signature-nonce": "n",
                "x-acs-content-sha256": "e3",
            },
            {"Action": "DescribeRefreshQuota", "Version": "2018-05-10"},
            "InvalidTimeStamp.Format",
        ),
    ],
)
async def test_unsigned_calls(world: Any, headers: dict[str, str], query: dict[str, str], code: str) -> None:
    """A call without action, version, signature or signed headers does not pass."""
    async with world.http.post(world.emulator.api_url, params=query, headers=headers) as response:
        assert (await response.json())["Code"] == code


async def test_ambiguous_v1_parameters_do_not_pass(world: Any) -> None:
    """A parameter given twice, once in the query and once in the form, is refused: what was signed would be unclear."""
    query = {
        "Action": "DescribeRefreshQuota", "Version": "2018-05-10", "AccessKeyId": "testid", "Signature": "x",
        "SignatureNonce": "n", "Timestamp": "2026-01-02T04:00:00Z",
    }  # fmt: skip
    async with world.http.post(world.emulator.api_url, params=query, data={"Version": "2014-11-11"}) as response:
        assert (await response.json())["Code"] == "IncompleteSignature"


async def test_bounded_bodies_and_methods(world: Any) -> None:
    """A body beyond the largest batch is refused unread; methods other than GET and POST are refused."""
    async with world.http.post(world.emulator.api_url, data=io.BytesIO(b"x" * (4 * 1024 * 1024 + 1))) as response:
        assert (response.status, (await response.json())["Code"]) == (413, "RequestEntityTooLarge")
    async with world.http.put(world.emulator.api_url) as response:
        assert (response.status, (await response.json())["Code"]) == (405, "UnsupportedHTTPMethod")


async def test_older_version_of_the_api(world: Any) -> None:
    """2014-11-11, signed the old way in a GET: no Force, prefetches spend files, ``path`` for directories."""
    host = world.host
    world.write("d/a")
    await world.get("/d/a")
    status, body = await world.call_v1(
        "RefreshObjectCaches", ObjectPath=f"http://{host}/d/", ObjectType="Directory", Force="true"
    )
    assert status == 200
    assert (await world.call_v1("PushObjectCache", ObjectPath=f"http://{host}/p"))[0] == 200
    _, tasks = await world.call_v1("DescribeRefreshTasks", TaskId=body["RefreshTaskId"], ObjectType="path")
    assert [task["ObjectType"] for task in tasks["Tasks"]["CDNTask"]] == ["path"]
    _, quota = await world.call_v1("DescribeRefreshQuota")
    assert (quota["UrlRemain"], quota["PreloadRemain"], quota["DirRemain"]) == ("9999", "9999", "99")
    assert "IgnoreParamsQuota" not in quota
    world.clock.time += 1
    assert (await world.get("/d/a"))[0] == "REVALIDATED"


async def test_task_ids_are_shared(world: Any) -> None:
    """Paths of one domain, second and type share an id, across calls too; another of any gets another."""
    first = await world.refresh("http://a.example/1", "http://b.example/1", "http://a.example/2")
    a, b = first.split(",")
    assert await world.refresh("http://b.example/2") == b
    assert await world.refresh("http://a.example/d/", kind="Directory") not in (a, b)
    world.clock.time += 1
    assert await world.refresh("http://a.example/3") not in (a, b)
    _, body = await world.call("DescribeRefreshTaskById", TaskId=f"{b},{a}")
    assert [task["ObjectPath"] for task in body["Tasks"]] == [
        "http://b.example/1", "http://b.example/2", "http://a.example/1", "http://a.example/2",
    ]  # fmt: skip


async def test_shared_ids_hold_2000_paths(world: Any) -> None:
    """The 2,001st path of a second gets a new id."""
    ids = [(await world.call("RefreshObjectCaches", ObjectPath=lines(1000)))[1]["RefreshTaskId"] for _ in range(3)]
    assert ids[0] == ids[1] != ids[2]


async def test_tasks_are_found_by_every_filter(world: Any) -> None:
    """Tasks come newest first, by path, type, status, domain, span and page; unknown ones are absent."""
    await world.done("http://a.example/1")
    await world.done("http://b.example/d/", kind="Directory")
    await world.refresh("http://a.example/1")

    async def found(**query: str) -> list[str]:
        status, body = await world.call("DescribeRefreshTasks", **query)
        assert status == 200, body
        world.clock.time += 0.0001
        return [task["ObjectPath"] + " " + task["Status"] for task in body["Tasks"]["CDNTask"]]

    complete, directory, pending = (
        "http://a.example/1 Complete",
        "http://b.example/d/ Complete",
        "http://a.example/1 Pending",
    )
    assert await found() == [pending, directory, complete]
    assert await found(ObjectPath="http://a.example/1") == [pending, complete]
    assert await found(ObjectPath="http://A.example/1") == []
    assert await found(ObjectType="file", Status="Complete") == [complete]
    assert await found(ObjectType="directory", DomainName="b.example") == [directory]
    assert await found(StartTime="2026-01-02T04:00:01Z", EndTime="2026-01-02T04:00:02Z") == [directory]
    assert await found(PageSize="1", PageNumber="2") == [directory]
    assert await found(PageNumber="2") == []
    assert await found(TaskId="1") == []
    assert (await world.call("DescribeRefreshTaskById", TaskId="1"))[1]["TotalCount"] == 0


async def test_history(world: Any) -> None:
    """Tasks are shown for three days, in the older version of the API for seven, and then forgotten."""
    await world.refresh("http://a.example/1")
    world.clock.time += 3 * 86400 - 1
    assert (await world.call("DescribeRefreshTasks"))[1]["TotalCount"] == 1
    world.clock.time += 1
    assert (await world.call("DescribeRefreshTasks"))[1]["TotalCount"] == 0
    assert (await world.call("DescribeRefreshTasks", version="2014-11-11"))[1]["TotalCount"] == 1
    world.clock.time += 4 * 86400
    assert (await world.call("DescribeRefreshTasks", version="2014-11-11"))[1]["TotalCount"] == 0
    assert (await world.control())["paths"] == 0


@pytest.mark.parametrize(
    ("action", "kind", "code", "parameters"),
    [
        ("RefreshObjectCaches", RefreshKind.FILE, "QuotaExceeded.Refresh", {}),
        ("RefreshObjectCaches", RefreshKind.DIRECTORY, "QuotaExceeded.Refresh", {"ObjectType": "Directory"}),
        ("RefreshObjectCaches", RefreshKind.IGNORE_PARAMS, "QuotaExceeded.Refresh", {"ObjectType": "IgnoreParams"}),
        ("RefreshObjectCaches", RefreshKind.IGNORE_PARAMS, "QuotaExceeded.Refresh", {"ObjectType": "ExQuery"}),
        ("PushObjectCache", RefreshKind.PREFETCH, "QuotaExceeded.Preload", {}),
    ],
)
async def test_quota_by_kind_and_day(
    make_world: MakeWorld, action: str, kind: RefreshKind, code: str, parameters: dict[str, str]
) -> None:
    """Each kind has its quota; a call for more than is left is refused whole; at 00:00 UTC+8 the day begins again."""
    midnight = 1_767_369_600.0
    world = await make_world(now=midnight - 2.5, quota={kind: 3})

    async def ask(count: int) -> str:
        path = "\n".join(f"http://h.example/{number}/" for number in range(count))
        _, body = await world.call(action, ObjectPath=path, **parameters)
        return str(body.get("Code", "accepted"))

    assert [await ask(2), await ask(2), await ask(1), await ask(1)] == ["accepted", code, "accepted", code]
    world.clock.time = midnight - 0.01
    assert await ask(1) == code
    world.clock.time = midnight
    assert [await ask(3), await ask(1)] == ["accepted", code]
    overview = await world.control()
    windows = {str(int(midnight) - 86400): {kind.value: 3}, str(int(midnight)): {kind.value: 3}}
    assert overview["accepted"] == windows
    assert overview["resets_at"] == midnight + 86400


async def test_rate_by_second(make_world: MakeWorld) -> None:
    """Calls beyond an action's rate are throttled, with the rest of the second as waiting time; others are not."""
    world = await make_world(calls_per_second={"RefreshObjectCaches": 2})
    world.clock.time += 0.25
    for _ in range(2):
        await world.refresh("http://h.example/")
    assert (await world.call("RefreshObjectCaches", ObjectPath="http://h.example/"))[1]["Code"] == "Throttling.User"
    assert (await world.call("DescribeRefreshQuota"))[0] == 200
    world.clock.time += 0.75
    await world.refresh("http://h.example/")


async def test_rate_by_domain_and_minute(make_world: MakeWorld) -> None:
    """A domain takes so many URLs and directories a minute; a refused call counts for nothing."""
    world = await make_world(urls_per_domain_minute=3, directories_per_domain_minute=1)
    code = "QuotaPerMinuteExceeded.Refresh"
    assert (await world.call("RefreshObjectCaches", ObjectPath=lines(4)))[1]["Code"] == code
    await world.refresh(*lines(3).split("\n"))
    assert (await world.call("RefreshObjectCaches", ObjectPath="http://b.example/\n" + lines(1)))[1]["Code"] == code
    await world.refresh("http://b.example/")
    await world.refresh("http://h.example/d/", kind="Directory")
    again = {"ObjectPath": "http://h.example/e/", "ObjectType": "Directory"}
    assert (await world.call("RefreshObjectCaches", **again))[1]["Code"] == code
    world.clock.time += 60
    await world.refresh(*lines(3).split("\n"))


async def test_journal(make_world: MakeWorld, tmp_path: Path) -> None:
    """Each accepted request is a line of JSON in the journal before its answer arrives; refused ones are not."""
    import json

    journal = tmp_path / "journal.jsonl"
    world = await make_world(journal=journal)
    task = await world.refresh("http://a.example/d/", kind="Directory", force=True)
    await world.call("RefreshObjectCaches", ObjectPath="nonsense")
    await world.call("DescribeRefreshQuota")
    [line] = [json.loads(text) for text in journal.read_text().splitlines()]
    request_id = line.pop("request_id")
    assert len(request_id) == 36
    assert line == {
        "at": 1_767_326_400.0, "window": 1_767_283_200, "action": "RefreshObjectCaches", "version": "2018-05-10",
        "kind": "directory", "force": True, "task_ids": [task], "paths": ["http://a.example/d/"],
    }  # fmt: skip


async def test_control_endpoints(world: Any) -> None:
    """The control endpoints tell what was accepted, shown and held, and move the clock past the end of tasks."""
    world.write("a")
    await world.get("/a")
    await world.refresh("/a")
    assert [entry["path"] for entry in (await world.control("/accepted"))["accepted"]] == [world.url("/a")]
    assert (await world.control("/accepted?kind=directory"))["accepted"] == []
    assert (await world.control("/accepted?offset=1"))["accepted"] == []
    [held] = (await world.control("/edge"))["objects"]
    assert (held["url"], held["state"], held["size_bytes"]) == (f"//{world.host}/a", "fresh", 3)
    before = (await world.control())["now"]
    assert (await world.control("/clock", method="POST", advance_seconds=5))["now"] == before + 5
    assert (await world.control("/edge"))["objects"] == []
    assert [entry["status"] for entry in (await world.control("/tasks"))["tasks"]] == ["Pending"]


@pytest.mark.parametrize("body", [{}, [], {"advance_seconds": "x"}, {"advance_seconds": -1}, {"advance_seconds": True}])
async def test_control_refuses_what_it_cannot_read(world: Any, body: object) -> None:
    """Wrong bodies, kinds and content types are refused with a reason."""
    url = f"{world.emulator.api_url}/_emulator/"
    async with world.http.post(url + "clock", json=body) as response:
        assert (response.status, list(await response.json())) == (400, ["error"])
    async with world.http.post(url + "clock", data=b"{}") as response:
        assert response.status == 415
    async with world.http.post(url + "faults", json={"order": ["nonsense"]}) as response:
        assert (response.status, list(await response.json())) == (400, ["error", "hint"])
    async with world.http.get(url + "accepted?kind=nonsense") as response:
        assert response.status == 400
