"""Tasks, task list and quota: read with patience, and never claimed to be absent without being sure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from listener.errors import Misconfigured, OutcomeUnknown, Throttled, Unavailable
from listener.refresh import QuotaReading, RefreshKind, TaskState
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.targets.alibaba_cdn.recording_api import NOW, Answer, Api, Received, refused

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY
URL = "https://www.example.com/a%20b"
MakeTarget = Callable[..., AlibabaCdn]
Elapsed = Callable[..., Any]


def row(task_id: str = "1", **fields: str) -> dict[str, str]:
    """Return a task as the API lists it."""
    reported = {"TaskId": task_id, "ObjectPath": URL, "ObjectType": "file", "Status": "Refreshing", "Process": "10%"}
    return {**reported, "CreationTime": "2026-01-02T03:04:05Z", **fields}


def listed(*rows: dict[str, str], total: int | None = None) -> Answer:
    """Return a page of the task list."""
    return Answer(fields={"Tasks": {"CDNTask": list(rows)}, "TotalCount": len(rows) if total is None else total})


async def test_tasks_are_requested_ten_at_a_time(api: Api, target: AlibabaCdn) -> None:
    """Each id once, ten to a call; one that the CDN does not know yet is simply absent."""
    known = {str(number) for number in range(23)} - {"7"}
    api.default = lambda request: Answer(
        fields={"Tasks": [row(i) for i in dict(request.query)["TaskId"].split(",") if i in known]}
    )
    tasks = await target.tasks([str(number) for number in range(23)] + ["0"])
    assert {task.task_id for task in tasks} == known
    assert [request.action for request in api.received] == ["DescribeRefreshTaskById"] * 3
    assert dict(api.received[0].query)["TaskId"].count(",") == 9


async def test_nothing_to_ask_is_no_call(api: Api, target: AlibabaCdn) -> None:
    """An empty question costs nothing."""
    assert await target.tasks([]) == []
    assert api.received == []


async def test_an_id_that_the_cdn_refuses_does_not_hide_the_others(api: Api, target: AlibabaCdn) -> None:
    """The call is split, and only the refused id stays absent."""

    def judge(request: Received) -> Answer:
        ids = dict(request.query)["TaskId"].split(",")
        return refused("InvalidTaskId.Malformed") if "x" in ids else Answer(fields={"Tasks": [row(i) for i in ids]})

    api.default = judge
    assert [task.task_id for task in await target.tasks(["1", "x", "2"])] == ["1", "2"]


async def test_the_first_api_version_requests_the_list_by_id(api: Api, make_target: MakeTarget) -> None:
    """2014-11-11 has no query by id: the list is asked for each, page by page."""
    api.answers = [listed(*[row("1")] * 50, total=51), listed(row("1"), total=51), listed(row("2", ObjectType="path"))]
    tasks = await make_target(api_version="2014-11-11").tasks(["1", "2"])
    assert len(tasks) == 52
    assert tasks[-1].kind is DIRECTORY
    asked = [dict(request.query) for request in api.received]
    assert {request.action for request in api.received} == {"DescribeRefreshTasks"}
    assert [(one["TaskId"], one["PageNumber"], one["PageSize"]) for one in asked] == [
        ("1", "1", "50"),
        ("1", "2", "50"),
        ("2", "1", "50"),
    ]


@pytest.mark.parametrize(
    ("version", "kind", "reported", "word"),
    [
        ("2018-05-10", FILE, "file", "file"),
        ("2018-05-10", DIRECTORY, "directory", "directory"),
        ("2014-11-11", DIRECTORY, "path", "path"),
        ("2018-05-10", RefreshKind.PREFETCH, "preload", "preload"),
        ("2018-05-10", RefreshKind.IGNORE_PARAMS, "ignoreparams", None),
    ],
)
async def test_a_task_is_found_by_url_and_time(
    api: Api, make_target: MakeTarget, version: str, kind: RefreshKind, reported: str, word: str | None
) -> None:
    """The list is asked for exactly this URL, kind and span, in UTC and whole seconds around it."""
    api.default = listed(
        row("1", ObjectType=reported), row("2", ObjectType=reported, CreationTime="2026-01-02T03:04:07Z")
    )
    found = await make_target(api_version=version).find_tasks(kind, URL, since=NOW - 1.5, until=NOW + 2.5)
    assert [task.task_id for task in found] == ["2", "1"]
    asked = dict(api.received[0].query)
    assert asked.get("ObjectType") == word
    assert asked["ObjectPath"] == URL
    assert (asked["StartTime"], asked["EndTime"]) == ("2026-01-02T03:04:03Z", "2026-01-02T03:04:08Z")


async def test_tasks_of_others_are_not_adopted(api: Api, target: AlibabaCdn) -> None:
    """Another URL, another kind or another time is not ours, whatever the list holds."""
    others = [row(ObjectPath=f"{URL}c"), row(ObjectType="directory"), row(CreationTime="2026-01-02T03:00:00Z")]
    api.default = listed(*others)
    assert await target.find_tasks(FILE, URL, since=NOW - 5, until=NOW + 5) == []


async def test_a_url_that_is_returned_decoded_is_recognised(api: Api, target: AlibabaCdn) -> None:
    """The CDN may list a URL with its escapes undone; the task bears our URL, so that it can be joined."""
    api.default = listed(row(ObjectPath="https://www.example.com/a b"))
    (task,) = await target.find_tasks(FILE, URL, since=NOW - 5, until=NOW + 5)
    assert task.url == URL


async def test_absent_is_not_claimed_beyond_the_memory_of_the_list(api: Api, target: AlibabaCdn) -> None:
    """Three days are kept: what is older cannot be reported absent, and is not even asked when wholly older."""
    api.default = listed()
    with pytest.raises(OutcomeUnknown):
        await target.find_tasks(FILE, URL, since=NOW - 4 * 86400, until=NOW - 3.9 * 86400)
    assert api.received == []
    with pytest.raises(OutcomeUnknown):
        await target.find_tasks(FILE, URL, since=NOW - 4 * 86400, until=NOW)
    assert dict(api.received[0].query)["StartTime"] == "2025-12-30T03:09:05Z"
    api.default = listed(row())
    assert len(await target.find_tasks(FILE, URL, since=NOW - 4 * 86400, until=NOW)) == 1


async def test_absent_is_not_claimed_from_an_endless_list(api: Api, target: AlibabaCdn) -> None:
    """Pages are bounded; what may stand on the next one is not absent."""
    api.default = listed(row(ObjectPath="other"), total=10**8)
    with pytest.raises(OutcomeUnknown):
        await target.find_tasks(FILE, URL, since=NOW - 5, until=NOW + 5)
    assert len(api.received) == 20


async def test_an_unanswered_question_is_not_absence(api: Api, target: AlibabaCdn) -> None:
    """A list that cannot be read raises: nothing is sent again on its account."""
    api.default = Answer(fault="reset")
    with pytest.raises(Unavailable):
        await target.find_tasks(FILE, URL, since=NOW - 5, until=NOW + 5)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(fault="reset"),
        refused("InternalError", 500),
        refused("Throttling", 503),
        Answer(502, raw=b"<html>"),
        Answer(200, raw=b"<html>"),
    ],
)
async def test_reads_are_made_again(api: Api, target: AlibabaCdn, answer: Answer) -> None:
    """Reading spends nothing, so any passing failure is tried again, with growing pauses."""
    api.answers = [answer, answer, answer]
    api.default = Answer(fields={"UrlQuota": "10", "UrlRemain": "9"})
    assert await target.read_quota() == {"file": QuotaReading(10, 9)}
    assert len(api.received) == 4


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(fault="hang"), Unavailable),
        (Answer(fault="reset"), Unavailable),
        (refused("InternalError", 500), Unavailable),
        (refused("Throttling"), Throttled),
    ],
)
async def test_reads_end(
    api: Api, target: AlibabaCdn, elapsed: Elapsed, answer: Answer, error: type[Exception]
) -> None:
    """Tries and time are bounded; a read is never an unknown outcome."""
    api.default = answer
    raised, seconds = await elapsed(target.read_quota())
    assert type(raised) is error
    assert len(api.received) <= 4
    assert seconds <= 65


async def test_a_refused_read_stops_at_once(api: Api, target: AlibabaCdn) -> None:
    """A missing permission does not heal by asking again."""
    api.default = refused("Forbidden.RAM", 403)
    with pytest.raises(Misconfigured) as caught:
        await target.read_quota()
    assert "cdn:DescribeRefresh" in caught.value.hint
    assert len(api.received) == 1


async def test_a_quota_of_a_kind_that_cannot_be_used_is_left_out(api: Api, make_target: MakeTarget) -> None:
    """The first API version has no ignore-params, so it has no quota of it either."""
    api.default = Answer(fields={"DirQuota": 100, "DirRemain": 98, "IgnoreParamsQuota": 5, "IgnoreParamsRemain": 5})
    assert await make_target(api_version="2014-11-11").read_quota() == {"directory": QuotaReading(100, 98)}


async def test_a_task_list_of_another_form_is_not_empty(api: Api, target: AlibabaCdn) -> None:
    """An answer that cannot be read never means that there are no tasks."""
    api.default = Answer(fields={"Tasks": "none"})
    with pytest.raises(Unavailable):
        await target.tasks(["1"])


async def test_states_arrive(api: Api, target: AlibabaCdn) -> None:
    """One task with a failed and a complete path: both are reported, joined by id and URL."""
    api.default = Answer(fields={"Tasks": [row(Status="Complete"), row(ObjectPath="b", Status="Failed")]})
    states = {(task.task_id, task.url): task.state for task in await target.tasks(["1"])}
    assert states == {("1", URL): TaskState.COMPLETE, ("1", "b"): TaskState.FAILED}


async def test_an_answer_without_end_is_cut(api: Api, target: AlibabaCdn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body larger than any true one is not taken into memory; the read fails instead."""
    monkeypatch.setattr("listener.alibaba.client.LARGEST_REPLY_BYTES", 1_000)
    api.default = Answer(raw=b" " * 2_000)
    with pytest.raises(Unavailable, match="more than 1000 bytes"):
        await target.tasks(["1"])


async def test_a_missing_permission_for_tasks_is_reported(api: Api, target: AlibabaCdn) -> None:
    """Only a refused id is split off; anything else that stops is raised at once."""
    api.default = refused("Forbidden.RAM", 403)
    with pytest.raises(Misconfigured):
        await target.tasks(["1", "2"])
    assert len(api.received) == 1
