"""Held against Alibaba's official SDK of ESA, at both ends: its client asks our emulator, and the same as ours asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from alibabacloud_esa20240910 import models
from alibabacloud_esa20240910.client import Client
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.utils import Utils
from alibabacloud_tea_openapi.utils_models import Config

from listener.alibaba.calls import Request
from listener.alibaba.signature import timestamp
from listener.errors import BatchRejected, Misconfigured
from listener.targets.alibaba_esa import AlibabaEsa
from listener.targets.alibaba_esa.requests import (
    purge_request,
    quota_request,
    site_by_id_request,
    site_by_name_request,
    task_list_request,
)
from tests.targets.alibaba_cdn.recording_api import NOW, Answer, Api, refused
from tests.targets.alibaba_cdn.test_sdk import placed
from tests.targets.alibaba_esa.conftest import DIRECTORY, EXAMPLE, FILE, IGNORE_PARAMS, MakePair, make_target

URLS = ["https://www.example.com/a%20b/%E4%B8%AD~*.txt?x=1&y=2", "https://example.com/b+c/"]
DIRECTORIES = ["https://www.example.com/a%20b/", "https://example.com/b+c/"]
SITE = 123456789


def purge(type_: str, force: bool | None = None, **content: Any) -> models.PurgeCachesRequest:
    """Return a purge as the SDK takes it."""
    return models.PurgeCachesRequest(
        site_id=SITE, type=type_, force=force, content=models.PurgeCachesRequestContent(**content)
    )


CASES: dict[str, tuple[Request, Callable[[Client], Any]]] = {
    "file": (
        purge_request(SITE, FILE, URLS, force=True),
        lambda sdk: sdk.purge_caches(purge("file", files=URLS)),
    ),
    "directory": (
        purge_request(SITE, DIRECTORY, DIRECTORIES, force=True),
        lambda sdk: sdk.purge_caches(purge("directory", force=True, directories=DIRECTORIES)),
    ),
    "ignore-params": (
        purge_request(SITE, IGNORE_PARAMS, URLS, force=True),
        lambda sdk: sdk.purge_caches(purge("ignoreParams", force=True, ignore_params=URLS)),
    ),
    "quota": (
        quota_request(SITE, DIRECTORY),
        lambda sdk: sdk.get_purge_quota(models.GetPurgeQuotaRequest(site_id=SITE, type="directory")),
    ),
    "task-list": (
        task_list_request(SITE, "file", page=2, span=(NOW - 60, NOW), url=URLS[0]),
        lambda sdk: sdk.describe_purge_tasks(
            models.DescribePurgeTasksRequest(
                site_id=SITE,
                type="file",
                page_number=2,
                page_size=50,
                start_time="2026-01-02T03:03:05Z",
                end_time="2026-01-02T03:04:05Z",
                content=URLS[0],
            )
        ),
    ),
    "site-by-name": (
        site_by_name_request("example.com"),
        lambda sdk: sdk.list_sites(
            models.ListSitesRequest(site_name="example.com", site_search_type="exact", page_size=50)
        ),
    ),
    "site-by-id": (site_by_id_request(SITE), lambda sdk: sdk.get_site(models.GetSiteRequest(site_id=SITE))),
}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    """A recording server that accepts everything."""
    server = Api()
    server.default = Answer(fields={"RequestId": "R", "TaskId": "1", "Tasks": [], "Sites": [], "SiteModel": {}})
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(autouse=True)
def _vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The SDK listens to proxy variables of the machine, and keeps its connections open."""
    from darabonba.core import DaraCore

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield
    for session in DaraCore._sessions.values():
        session.close()
    DaraCore._sessions.clear()


def sdk_client(address: str, signature: str) -> Client:
    """Return the vendor's own client; ``v2`` names the older signature there."""
    config = Config(access_key_id="testid", access_key_secret="testsecret", endpoint=address, protocol="http")
    if signature == "hmac-sha1":
        config.signature_algorithm = "v2"
    return Client(config)


@pytest.mark.parametrize("signature", ["acs3-hmac-sha256", "hmac-sha1"])
@pytest.mark.parametrize("case", CASES)
async def test_parameters_are_those_of_the_official_client(api: Api, case: str, signature: str) -> None:
    """Method, action, version and parameters; of a purge ours are in the form, and the SDK's in the query."""
    ours, theirs = CASES[case]
    await asyncio.to_thread(theirs, sdk_client(api.address, signature))
    target: AlibabaEsa = make_target(f"http://{api.address}", signature=signature)
    await target.client.read(ours)
    await target.close()
    first, second = (placed(one, anywhere=True) for one in api.received)
    for one in (first, second):
        if "Content" in one["query"] and case != "task-list":
            given = json.loads(one["query"]["Content"])
            one["query"]["Content"] = {name: value for name, value in given.items() if value}  # it adds empty lists
    assert second == first


async def test_a_site_that_is_refused_is_no_urls_fault(api: Api) -> None:
    """Whatever the code: an answer that names SiteId stops the target, and sets no URL aside."""
    api.default = refused("InvalidParameter.ArgValue", message="The specified SiteId is not valid.")
    target = make_target(f"http://{api.address}", site="1")
    with pytest.raises(Misconfigured) as caught:
        await target.submit(FILE, URLS, force=False)
    assert "set site to" in caught.value.hint
    api.default = refused("InvalidParameter.ArgValue", message="The specified Content is not valid.")
    with pytest.raises(BatchRejected):
        await target.submit(FILE, URLS, force=False)
    await target.close()


async def test_every_action(make_pair: MakePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client finds sites, purges in each way, reads the quota and follows tasks."""
    pair = await make_pair(emulated={"quota": {FILE: 1_000}, "quota_30_days": {FILE: 9_000}})
    monkeypatch.setattr(Utils, "get_timestamp", staticmethod(lambda: timestamp(pair.clock.time)))
    sdk = sdk_client(pair.emulator.api_url.removeprefix("http://"), "acs3-hmac-sha256")
    sites = (await sdk.list_sites_async(models.ListSitesRequest(site_name="example.com"))).body
    assert [(site.site_id, site.site_name, site.status) for site in sites.sites] == [(SITE, "example.com", "active")]
    assert (await sdk.get_site_async(models.GetSiteRequest(site_id=SITE))).body.site_model.site_name == EXAMPLE.name
    purged = [
        (await sdk.purge_caches_async(request)).body.task_id
        for request in (
            purge("file", files=URLS),
            purge("directory", force=True, directories=DIRECTORIES),
            purge("ignoreParams", ignore_params=URLS[:1]),
        )
    ]
    assert len(set(purged)) == 3
    pair.clock.time += 5
    asked = models.DescribePurgeTasksRequest(site_id=SITE, type="directory")
    listed = (await sdk.describe_purge_tasks_async(asked)).body
    assert [(task.content, task.type, task.status, task.process, task.task_id) for task in listed.tasks] == [
        (url, "directory", "Complete", "100%", purged[1]) for url in reversed(DIRECTORIES)
    ]
    assert (listed.total_count, listed.page_number, listed.page_size) == (2, 1, 20)
    quota = (await sdk.get_purge_quota_async(models.GetPurgeQuotaRequest(site_id=SITE, type="file"))).body
    assert (quota.quota, quota.usage, quota.quota_30day, quota.usage_30day) == ("1000", "2", "9000", "2")


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (lambda sdk: sdk.purge_caches_async(purge("hostname", hostnames=["www.example.com"])), "InvalidParameter"),
        (lambda sdk: sdk.purge_caches_async(purge("file", directories=DIRECTORIES)), "InvalidParameter"),
        (lambda sdk: sdk.purge_caches_async(purge("file", files=["https://example.org/a"])), "InvalidParameter"),
        (
            lambda sdk: sdk.describe_purge_tasks_async(models.DescribePurgeTasksRequest(site_id=SITE, page_size=51)),
            "InvalidPageSize.ValueNotSupported",
        ),
        (lambda sdk: sdk.describe_purge_tasks_async(models.DescribePurgeTasksRequest()), "MissingParameter"),
        (lambda sdk: sdk.get_purge_quota_async(models.GetPurgeQuotaRequest(site_id=1, type="file")), "SiteNotFound"),
        (lambda sdk: sdk.get_purge_quota_async(models.GetPurgeQuotaRequest(site_id=SITE)), "MissingParameter"),
    ],
)
async def test_refusals_arrive_as_the_sdk_knows_them(
    make_pair: MakePair, monkeypatch: pytest.MonkeyPatch, asked: Callable[[Client], Any], code: str
) -> None:
    """What is not emulated or not of the site, more than 50 rows, no site."""
    pair = await make_pair()
    monkeypatch.setattr(Utils, "get_timestamp", staticmethod(lambda: timestamp(pair.clock.time)))
    with pytest.raises(ClientException) as refused:
        await asked(sdk_client(pair.emulator.api_url.removeprefix("http://"), "acs3-hmac-sha256"))
    assert refused.value.code == code
    assert not pair.emulator.tasks.all()
