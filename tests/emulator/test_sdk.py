"""The vendor's own clients drive every action."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alibabacloud_cdn20180510 import models as m
from alibabacloud_dcdn20180115 import models as d
from alibabacloud_dcdn20180115.client import Client as DcdnClient
from alibabacloud_tea_openapi.exceptions import ClientException, ServerException, ThrottlingException
from aliyunsdkcdn.request.v20180510.DescribeRefreshQuotaRequest import DescribeRefreshQuotaRequest
from aliyunsdkcdn.request.v20180510.DescribeRefreshTaskByIdRequest import DescribeRefreshTaskByIdRequest
from aliyunsdkcdn.request.v20180510.DescribeRefreshTasksRequest import DescribeRefreshTasksRequest
from aliyunsdkcdn.request.v20180510.PushObjectCacheRequest import PushObjectCacheRequest
from aliyunsdkcdn.request.v20180510.RefreshObjectCachesRequest import RefreshObjectCachesRequest
from aliyunsdkcore.acs_exception.exceptions import ServerException as LegacyServerException
from aliyunsdkcore.client import AcsClient

from listener.emulator import DcdnEmulator

BOTH_SIGNATURES = pytest.mark.parametrize("signature", [None, "v2"], ids=["acs3", "v1"])
ODD_PATH = "http://cdn.example/a%20b/%E4%B8%AD%E6%96%87~*+.txt?x=1&y=2"


@pytest.fixture(autouse=True)
def _vendor(monkeypatch: pytest.MonkeyPatch, world: Any) -> Iterator[None]:
    """Let the vendor's clients sign with the emulator's time, and close the connections that they leave open."""
    from alibabacloud_tea_openapi.utils import Utils
    from aliyunsdkcore.utils import parameter_helper
    from darabonba.core import DaraCore

    from listener.alibaba.signature import timestamp

    def now(*_: object) -> str:
        return timestamp(world.clock.time)

    monkeypatch.setattr(Utils, "get_timestamp", staticmethod(now))
    monkeypatch.setattr(parameter_helper, "get_iso_8061_date", now)
    yield
    for session in DaraCore._sessions.values():
        session.close()
    DaraCore._sessions.clear()


class Sync:
    """The blocking half of the vendor's client, in a thread."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            return await asyncio.to_thread(getattr(self._client, name), *arguments)

        return call


class Async:
    """The other half."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._client, f"{name}_async")  # type: ignore[no-any-return]


BOTH_HALVES = pytest.mark.parametrize("half", [Sync, Async], ids=["sync", "async"])


@BOTH_SIGNATURES
@BOTH_HALVES
async def test_every_action(world: Any, half: Any, signature: str | None) -> None:
    """The official SDK refreshes, prefetches, looks at tasks in both ways and reads the quota."""
    client = half(world.sdk(signature=signature))
    paths = f"{ODD_PATH}\r\nhttps://cdn.example/b\n"
    refreshed = (await client.refresh_object_caches(m.RefreshObjectCachesRequest(object_path=paths))).body
    directory = m.RefreshObjectCachesRequest(object_path="http://cdn.example/d/", object_type="Directory", force=True)
    forced = (await client.refresh_object_caches(directory)).body
    pushed = (await client.push_object_cache(m.PushObjectCacheRequest(object_path=ODD_PATH, area="domestic"))).body
    assert len({refreshed.refresh_task_id, forced.refresh_task_id, pushed.push_task_id}) == 3
    assert refreshed.request_id

    world.clock.time += 0.5
    ids = f"{refreshed.refresh_task_id},{forced.refresh_task_id}"
    running = (await client.describe_refresh_task_by_id(m.DescribeRefreshTaskByIdRequest(task_id=ids))).body
    assert [(task.object_path, task.object_type, task.status, task.process) for task in running.tasks] == [
        (ODD_PATH, "file", "Refreshing", "50.00%"),
        ("https://cdn.example/b", "file", "Refreshing", "50.00%"),
        ("http://cdn.example/d/", "directory", "Refreshing", "50.00%"),
    ]
    assert running.total_count == 3
    world.clock.time += 0.5
    listed = (await client.describe_refresh_tasks(m.DescribeRefreshTasksRequest(object_path=ODD_PATH))).body
    assert [(task.object_type, task.status, task.process) for task in listed.tasks.cdntask] == [
        ("preload", "Complete", "100%"),
        ("file", "Complete", "100%"),
    ]
    assert listed.tasks.cdntask[0].creation_time == "2026-01-02T04:00:00Z"
    assert (listed.total_count, listed.page_number, listed.page_size) == (2, 1, 20)

    quota = (await client.describe_refresh_quota(m.DescribeRefreshQuotaRequest())).body
    assert {name: value for name, value in quota.to_map().items() if name != "RequestId"} == {
        "UrlQuota": "10000", "UrlRemain": "9998", "DirQuota": "100", "DirRemain": "99",
        "PreloadQuota": "1000", "PreloadRemain": "999", "PreloadEdgeQuota": "1000", "PreloadEdgeRemain": "999",
        "IgnoreParamsQuota": "100", "IgnoreParamsRemain": "100", "RegexQuota": "20", "RegexRemain": "20",
        "BlockQuota": "300", "BlockRemain": "300",
    }  # fmt: skip


@BOTH_SIGNATURES
@BOTH_HALVES
async def test_every_action_of_dcdn(make_world: Any, half: Any, signature: str | None) -> None:
    """The official SDK of DCDN refreshes, prefetches, looks at tasks in both ways and reads the quota."""
    world = await make_world(emulate=DcdnEmulator)
    client = half(world.sdk(signature=signature, client=DcdnClient))
    paths = f"{ODD_PATH}\r\nhttps://cdn.example/b\n"
    refreshed = (await client.refresh_dcdn_object_caches(d.RefreshDcdnObjectCachesRequest(object_path=paths))).body
    directory = d.RefreshDcdnObjectCachesRequest(
        object_path="http://cdn.example/d/", object_type="Directory", force=True
    )
    forced = (await client.refresh_dcdn_object_caches(directory)).body
    pushed = (await client.preload_dcdn_object_caches(d.PreloadDcdnObjectCachesRequest(object_path=ODD_PATH))).body
    assert len({refreshed.refresh_task_id, forced.refresh_task_id, pushed.preload_task_id}) == 3

    world.clock.time += 1
    ids = f"{refreshed.refresh_task_id},{forced.refresh_task_id}"
    by_id = d.DescribeDcdnRefreshTaskByIdRequest(task_id=ids)
    done = (await client.describe_dcdn_refresh_task_by_id(by_id)).body
    assert [(task.object_path, task.object_type, task.status) for task in done.tasks] == [
        (ODD_PATH, "file", "Complete"),
        ("https://cdn.example/b", "file", "Complete"),
        ("http://cdn.example/d/", "path", "Complete"),
    ]
    listed = (await client.describe_dcdn_refresh_tasks(d.DescribeDcdnRefreshTasksRequest(object_path=ODD_PATH))).body
    assert [task.object_type for task in listed.tasks.task] == ["preload", "file"]
    too_many = d.DescribeDcdnRefreshTasksRequest(page_size=51)
    with pytest.raises(ClientException):
        await client.describe_dcdn_refresh_tasks(too_many)
    quota = (await client.describe_dcdn_refresh_quota(d.DescribeDcdnRefreshQuotaRequest())).body
    assert (quota.url_remain, quota.dir_remain, quota.preload_remain) == ("9998", "99", "999")
    assert "PreloadEdgeQuota" not in quota.to_map()


@BOTH_SIGNATURES
@BOTH_HALVES
async def test_refresh_reaches_the_edge(world: Any, half: Any, signature: str | None) -> None:
    """A refresh sent by the official SDK makes the edge fresh once its task is complete; ``True`` forces."""
    world.write("d/a", "old", mtime=1_767_000_000)
    await world.get("/d/a")
    world.write("d/a", "new", mtime=1_767_000_000)
    request = m.RefreshObjectCachesRequest(object_path=world.url("/d/"), object_type="Directory", force=True)
    await half(world.sdk(signature=signature)).refresh_object_caches(request)
    assert (await world.get("/d/a"))[2] == "old"
    world.clock.time += 1
    assert (await world.get("/d/a"))[2] == "new"


@BOTH_SIGNATURES
@BOTH_HALVES
async def test_errors_arrive_as_the_sdk_knows_them(world: Any, half: Any, signature: str | None) -> None:
    """The official SDK turns rejections into its own exceptions, with code, status and waiting time."""
    client, quota = half(world.sdk(signature=signature)), m.DescribeRefreshQuotaRequest()
    with pytest.raises(ClientException) as refused:
        await client.refresh_object_caches(m.RefreshObjectCachesRequest(object_path="nonsense"))
    assert (refused.value.code, refused.value.status_code) == ("InvalidObjectPath.Malformed", 400)
    await world.control("/faults", method="POST", order=["throttle:1:1.5", "error500:1"])
    with pytest.raises(ThrottlingException) as throttled:
        await client.describe_refresh_quota(quota)
    assert (throttled.value.code, throttled.value.retry_after) == ("Throttling", 1500)
    with pytest.raises(ServerException) as failed:
        await client.describe_refresh_quota(quota)
    assert (failed.value.code, failed.value.status_code) == ("InternalError", 500)


@BOTH_SIGNATURES
@pytest.mark.parametrize(
    ("credentials", "code"),
    [({"secret": "wrong"}, "SignatureDoesNotMatch"), ({"key_id": "stranger"}, "InvalidAccessKeyId.NotFound")],
    ids=["secret", "key"],
)
async def test_wrong_keys(world: Any, signature: str | None, credentials: dict[str, str], code: str) -> None:
    """A wrong secret and an unknown key are told apart, and the secret is in no answer."""
    client = world.sdk(signature=signature, **credentials)
    with pytest.raises(ClientException) as refused:
        await client.describe_refresh_quota_async(m.DescribeRefreshQuotaRequest())
    assert refused.value.code == code
    assert "testsecret" not in str(refused.value.data)


@BOTH_SIGNATURES
@pytest.mark.parametrize(("seconds", "passes"), [(-899, True), (899, True), (-901, False), (901, False)])
async def test_time_window(
    world: Any, signature: str | None, seconds: float, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time stamp may be 15 minutes off, either way, and no more."""
    from alibabacloud_tea_openapi.utils import Utils

    from listener.alibaba.signature import timestamp

    monkeypatch.setattr(Utils, "get_timestamp", staticmethod(lambda: timestamp(world.clock.time + seconds)))
    client = world.sdk(signature=signature)
    if passes:
        assert (await client.describe_refresh_quota_async(m.DescribeRefreshQuotaRequest())).status_code == 200
        return
    with pytest.raises(ClientException) as refused:
        await client.describe_refresh_quota_async(m.DescribeRefreshQuotaRequest())
    assert refused.value.code == "InvalidTimeStamp.Expired"


@BOTH_SIGNATURES
async def test_nonce_passes_once(world: Any, signature: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nonce is good for one call."""
    from alibabacloud_tea_openapi.utils import Utils

    monkeypatch.setattr(Utils, "get_nonce", staticmethod(lambda: "one-and-the-same"))
    client = world.sdk(signature=signature)
    await client.describe_refresh_quota_async(m.DescribeRefreshQuotaRequest())
    with pytest.raises(ClientException) as refused:
        await client.describe_refresh_quota_async(m.DescribeRefreshQuotaRequest())
    assert refused.value.code == "SignatureNonceUsed"


async def test_temporary_keys(make_world: Any) -> None:
    """With a security token set, calls must carry it, in both signatures."""
    from alibabacloud_cdn20180510.client import Client
    from alibabacloud_tea_openapi.models import Config

    from listener.alibaba.signature import Credentials

    world = await make_world(credentials=Credentials("testid", "testsecret", "tok/en+=="))
    for signature in (None, "v2"):
        for token, code in (
            (None, "MissingSecurityToken"),
            ("other", "InvalidSecurityToken.Expired"),
            ("tok/en+==", None),
        ):
            endpoint = world.emulator.api_url.removeprefix("http://")
            config = Config(
                access_key_id="testid", access_key_secret="testsecret", security_token=token,
                signature_algorithm=signature, endpoint=endpoint, protocol="http",
            )  # fmt: skip
            call = Client(config).describe_refresh_quota_async(m.DescribeRefreshQuotaRequest())
            if code is None:
                assert (await call).status_code == 200
                continue
            with pytest.raises(ClientException) as refused:
                await call
            assert refused.value.code == code


# The SDK never closes its sessions.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_legacy_sdk(world: Any) -> None:
    """The vendor's older SDK, with everything signed in the query, drives every action too."""
    client = AcsClient("testid", "testsecret", "cn-hangzhou", auto_retry=False)

    async def call(request: Any, **fields: str) -> Any:
        request.set_endpoint(world.emulator.api_url.removeprefix("http://"))
        request.set_protocol_type("http")
        request.set_accept_format("json")
        for name, value in fields.items():
            getattr(request, f"set_{name}")(value)
        return json.loads(await asyncio.to_thread(client.do_action_with_exception, request))

    refreshed = await call(RefreshObjectCachesRequest(), ObjectPath=f"{ODD_PATH}\nhttp://b.example/", ObjectType="File")
    assert len(refreshed["RefreshTaskId"].split(",")) == 2
    pushed = await call(PushObjectCacheRequest(), ObjectPath=ODD_PATH)
    found = await call(DescribeRefreshTaskByIdRequest(), TaskId=pushed["PushTaskId"])
    assert found["Tasks"][0]["ObjectPath"] == ODD_PATH
    assert (await call(DescribeRefreshTasksRequest(), ObjectPath=ODD_PATH))["TotalCount"] == 2
    assert (await call(DescribeRefreshQuotaRequest()))["UrlRemain"] == "9998"
    with pytest.raises(LegacyServerException) as refused:
        await call(RefreshObjectCachesRequest(), ObjectPath="nonsense")
    assert refused.value.get_error_code() == "InvalidObjectPath.Malformed"
