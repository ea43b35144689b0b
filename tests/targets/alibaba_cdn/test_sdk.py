"""Held against Alibaba's official SDKs: the same question, asked by their clients and by ours, side by side."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import alibabacloud_cdn20180510.client
import alibabacloud_cdn20180510.models
import alibabacloud_dcdn20180115.client
import alibabacloud_dcdn20180115.models
import pytest
from alibabacloud_tea_openapi.utils import Utils
from alibabacloud_tea_openapi.utils_models import Config

from listener.alibaba.calls import Request
from listener.refresh import RefreshKind
from listener.targets.alibaba_cdn import AlibabaCdn, AlibabaDcdn
from listener.targets.alibaba_cdn.requests import quota_request, task_list_request, tasks_by_id_request
from listener.targets.alibaba_cdn.requests import refresh_request as refresh
from tests.keys import KEYS
from tests.targets.alibaba_cdn.recording_api import NOW, Answer, Api, Received

FILE, DIRECTORY, PREFETCH, IGNORE = (
    RefreshKind.FILE,
    RefreshKind.DIRECTORY,
    RefreshKind.PREFETCH,
    RefreshKind.IGNORE_PARAMS,
)
URLS = ["https://www.example.com/a%20b/%E4%B8%AD~*.txt?x=1&y=2", "https://www.example.com/b+c/"]
DIRECTORIES = ["https://www.example.com/a%20b/", "https://www.example.com/b+c/"]
MakeTarget = Callable[..., AlibabaCdn]
OWN_PARAMETERS = {"AccessKeyId", "Signature", "SignatureNonce", "Timestamp"}
PUBLIC = OWN_PARAMETERS | {"Action", "Format", "SecurityToken", "SignatureMethod", "SignatureVersion", "Version"}


@dataclass(frozen=True)
class Sdk:
    """An official SDK, and the target that is held against it."""

    package: Any
    target: type[AlibabaCdn]
    actions: tuple[str, str, str, str, str]
    """Refresh, prefetch, quota, tasks by id, task list."""
    task_rows: str
    refreshes_by_query: bool
    """Where the SDK puts the parameters of a refresh; ours always stand in the form, as the documentation allows."""

    def ask(self, config: Config, number: int, fields: dict[str, Any]) -> None:
        """Call an action."""
        action = self.actions[number]
        request = getattr(self.package.models, f"{action}Request")(**fields)
        method = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", action).lower()
        getattr(self.package.client.Client(config), method)(request)


SDKS = {
    "cdn": Sdk(
        alibabacloud_cdn20180510,
        AlibabaCdn,
        (
            "RefreshObjectCaches",
            "PushObjectCache",
            "DescribeRefreshQuota",
            "DescribeRefreshTaskById",
            "DescribeRefreshTasks",
        ),
        "CDNTask",
        refreshes_by_query=False,
    ),
    "dcdn": Sdk(
        alibabacloud_dcdn20180115,
        AlibabaDcdn,
        (
            "RefreshDcdnObjectCaches",
            "PreloadDcdnObjectCaches",
            "DescribeDcdnRefreshQuota",
            "DescribeDcdnRefreshTaskById",
            "DescribeDcdnRefreshTasks",
        ),
        "Task",
        refreshes_by_query=True,
    ),
}
REFRESH, PUSH, QUOTA, BY_ID, LIST = range(5)


def listing(target: AlibabaCdn) -> Request:
    """Return the question for a page of the task list."""
    service = target.settings.service
    return task_list_request(service, page=2, page_size=50, url=URLS[0], object_type="file", span=(NOW - 60, NOW))


CASES: dict[str, tuple[Callable[[AlibabaCdn], Request], int, dict[str, Any]]] = {
    "file": (
        lambda target: refresh(FILE, URLS, force=True, settings=target.settings),
        REFRESH,
        {"object_path": "\n".join(URLS), "object_type": "File"},
    ),
    "directory": (
        lambda target: refresh(DIRECTORY, DIRECTORIES, force=True, settings=target.settings),
        REFRESH,
        {"object_path": "\n".join(DIRECTORIES), "object_type": "Directory", "force": True},
    ),
    "ignore-params": (
        lambda target: refresh(IGNORE, URLS, force=True, settings=target.settings),
        REFRESH,
        {"object_path": "\n".join(URLS), "object_type": "IgnoreParams", "force": True},
    ),
    "prefetch": (
        lambda target: refresh(PREFETCH, URLS, force=False, settings=target.settings),
        PUSH,
        {
            "object_path": "\n".join(URLS),
            "area": "domestic",
            "l_2preload": True,
            "query_hashkey": True,
            "with_header": '{"Accept-Encoding":["br"]}',
        },
    ),
    "quota": (lambda target: quota_request(target.settings.service), QUOTA, {}),
    "tasks-by-id": (
        lambda target: tasks_by_id_request(target.settings.service, ["1", "2"]),
        BY_ID,
        {"task_id": "1,2"},
    ),
    "task-list": (
        listing,
        LIST,
        {
            "object_path": URLS[0],
            "object_type": "file",
            "start_time": "2026-01-02T03:03:05Z",
            "end_time": "2026-01-02T03:04:05Z",
            "page_number": 2,
            "page_size": 50,
        },
    ),
}
each_case = pytest.mark.parametrize("case", CASES)
each_service = pytest.mark.parametrize("sdk", SDKS.values(), ids=SDKS)


def placed(request: Received, *, anywhere: bool) -> dict[str, Any]:
    """
    Return where a request puts what, its signature's own values aside; the SDK writes booleans as True.

    ``anywhere`` takes a form for a query.
    """

    def plain(pairs: list[tuple[str, str]], without: set[str]) -> dict[str, str]:
        return {name: {"True": "true"}.get(value, value) for name, value in pairs if name not in without}

    query, form = plain(request.query, PUBLIC), plain(request.form, set())
    return {
        "method": request.method,
        "path": request.target.partition("?")[0],
        "action": request.action,
        "version": dict(request.query).get("Version") or request.header("x-acs-version"),
        "query": query | form if anywhere else query,
        "form": {} if anywhere else form,
        "content-type": request.header("content-type") if request.body and not anywhere else None,
    }


@pytest.fixture
def both(api: Api, make_target: MakeTarget) -> Callable[..., Any]:
    """Ask the same through the official client and through ours; return both requests as they came in."""

    async def ask(sdk: Sdk, case: str, signature: str, token: str) -> tuple[Received, Received]:
        ours, number, fields = CASES[case]
        api.default = Answer(fields={"RequestId": "R", "Tasks": [], "RefreshTaskId": "1", "PushTaskId": "1"})
        if case == "task-list":
            api.default = Answer(fields={"RequestId": "R", "Tasks": {sdk.task_rows: []}})
        config = Config(
            access_key_id="testid",
            access_key_secret="testsecret",
            security_token=token or None,
            endpoint=api.address,
            protocol="http",
        )
        if signature == "hmac-sha1":
            config.signature_algorithm = "v2"
        await asyncio.to_thread(sdk.ask, config, number, fields)
        options = {"area": "domestic", "l2_preload": True, "query_hash_key": True}
        target = make_target(
            make=sdk.target,
            signature=signature,
            environment={**KEYS, "ALIBABA_CLOUD_SECURITY_TOKEN": token},
            prefetch={**options, "with_header": {"Accept-Encoding": ["br"]}},
        )
        await target.client.read(ours(target))
        first, second = api.received
        return first, second

    return ask


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK listens to proxy variables of the machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("token", ["", "tok/en+=="], ids=["static", "temporary"])
@pytest.mark.parametrize("signature", ["acs3-hmac-sha256", "hmac-sha1"])
@each_case
@each_service
async def test_parameters_stand_where_the_official_client_puts_them(
    both: Callable[..., Any], sdk: Sdk, case: str, signature: str, token: str
) -> None:
    """Method, path, query and form are the official client's for every action, in both signatures."""
    theirs, ours = await both(sdk, case, signature, token)
    anywhere = sdk.refreshes_by_query and CASES[case][1] == REFRESH
    assert placed(ours, anywhere=anywhere) == placed(theirs, anywhere=anywhere)


@pytest.mark.parametrize("token", ["", "tok/en+=="], ids=["static", "temporary"])
@each_case
@each_service
async def test_the_sdk_would_sign_what_we_sent_the_same(
    both: Callable[..., Any], sdk: Sdk, case: str, token: str
) -> None:
    """From the raw bytes of our request the SDK's signing function gives the Authorization that we sent."""
    _, ours = await both(sdk, case, "acs3-hmac-sha256", token)
    authorization = ours.header("authorization")
    assert authorization is not None
    signed = authorization.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    headers = {name: ours.header(name) for name in signed}
    assert set(headers) == {name.lower() for name, _ in ours.headers if name.lower().startswith("x-acs-")} | {
        "host",
        *(["content-type"] if ours.body else []),
    }
    seen = SimpleNamespace(method="POST", pathname="/", query=dict(ours.query), headers=headers)
    digest = Utils.hash(ours.body, "ACS3-HMAC-SHA256").hex()
    assert authorization == Utils.get_authorization(seen, "ACS3-HMAC-SHA256", digest, "testid", "testsecret")


@pytest.mark.parametrize("token", ["", "tok/en+=="], ids=["static", "temporary"])
@each_case
@each_service
async def test_the_sdk_would_sign_our_v1_requests_the_same(
    both: Callable[..., Any], sdk: Sdk, case: str, token: str
) -> None:
    """From the raw bytes of our request the SDK's signing function gives the Signature that we sent."""
    _, ours = await both(sdk, case, "hmac-sha1", token)
    params = ours.params
    assert params.pop("Signature") == Utils.get_rpcsignature(params, "POST", "testsecret")
    assert params.get("SecurityToken", "") == token
