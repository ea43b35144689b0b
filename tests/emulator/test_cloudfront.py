"""The emulated CloudFront, driven by the vendor's own client, and compared with another emulator."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer

from listener.emulator import CloudFrontEmulator, CloudFrontSettings
from listener.emulator.cloudfront import Distribution, key_from_environment, parse_distribution
from listener.emulator.cloudfront.signature import AccessKey
from listener.errors import ConfigurationError
from tests.emulator.conftest import Hand

pytestmark = pytest.mark.looptime(False)  # the vendor's client blocks a thread

KEY = AccessKey("AKIDEXAMPLE", "secret-that-nobody-may-see")
FIRST = Distribution("EDFDVBD6EXAMPLE")


def make_sdk(endpoint: str, *, key: str = KEY.id, secret: str = KEY.secret) -> Any:
    """Return the vendor's client."""
    return boto3.client(
        "cloudfront",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


@dataclass
class Cdn:
    """An emulator, the vendor's client, and a visitor."""

    emulator: CloudFrontEmulator
    sdk: Any
    http: aiohttp.ClientSession

    async def get(self, path: str, host: str = "www.example.com") -> str:
        """Return ``X-Cache`` of the edge's answer."""
        async with self.http.get(self.emulator.edge_url + path, headers={"Host": host}) as response:
            return response.headers["X-Cache"]

    async def call(self, name: str, **given: Any) -> Any:
        return await asyncio.to_thread(getattr(self.sdk, name), **given)

    async def create(self, *paths: str, reference: str = "one", distribution: str = FIRST.id) -> Any:
        batch = {"CallerReference": reference, "Paths": {"Quantity": len(paths), "Items": list(paths)}}
        answer = await self.call("create_invalidation", DistributionId=distribution, InvalidationBatch=batch)
        return answer["Invalidation"]

    async def refused(self, *paths: str, **given: Any) -> tuple[str, int]:
        """Return code and status of a refusal."""
        with pytest.raises(ClientError) as refused:
            await self.create(*paths, **given)
        answer = refused.value.response
        return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]

    async def status(self, invalidation: str) -> str:
        answer = await self.call("get_invalidation", DistributionId=FIRST.id, Id=invalidation)
        return str(answer["Invalidation"]["Status"])

    async def pass_by(self, seconds: float) -> None:
        self.emulator.clock.advance(seconds)
        await self.emulator.settled()


MakeCdn = Callable[..., Awaitable[Cdn]]


@pytest.fixture
async def make_cdn(tmp_path: Path) -> AsyncIterator[MakeCdn]:
    """Start emulators with faults as texts; all are closed at the end."""
    async with AsyncExitStack() as opened:

        async def make(*faults: str, sdk: dict[str, str] | None = None, **settings: Any) -> Cdn:
            given: dict[str, Any] = {
                "origin": str(tmp_path),
                "key": KEY,
                "clock": Hand(time.time()),  # the vendor's client signs with the machine's
                "faults": tuple(map(CloudFrontEmulator.table.parse, faults)),
                **settings,
            }
            made = CloudFrontEmulator(CloudFrontSettings(**given, api_port=0, edge_port=0))
            emulator = await opened.enter_async_context(made)
            http = await opened.enter_async_context(aiohttp.ClientSession())
            client = await asyncio.to_thread(make_sdk, emulator.api_url, **(sdk or {}))
            opened.callback(client.close)
            return Cdn(emulator, client, http)

        yield make


@pytest.fixture
async def cdn(make_cdn: MakeCdn, tmp_path: Path) -> Cdn:
    """An emulator whose edge has copies of some paths."""
    for name in PATHS:
        path = tmp_path / name.partition("?")[0][1:]
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    made = await make_cdn(task_seconds=10.0)
    for path in PATHS:
        assert await made.get(path) == "MISS"
        assert await made.get(path) == "HIT"
    return made


PATHS = ("/a/x", "/a/x?q=1", "/a/xy", "/a~b", "/ab/x")
HITS = dict.fromkeys(PATHS, "HIT")


async def seen(cdn: Cdn) -> dict[str, str]:
    """Return what visitors get of each path, once."""
    return {path: await cdn.get(path) for path in PATHS}


async def test_an_invalidation_is_in_progress_then_completed(cdn: Cdn) -> None:
    """Nothing is dropped before; then a path is dropped on every host."""
    assert await cdn.get("/a/x", "other.example.com") == "MISS"
    made = await cdn.create("/a/x")
    assert made["Status"] == await cdn.status(made["Id"]) == "InProgress"
    assert made["InvalidationBatch"]["Paths"] == {"Quantity": 1, "Items": ["/a/x"]}
    await cdn.pass_by(9.9)
    assert await seen(cdn) == HITS
    await cdn.pass_by(0.2)
    assert await cdn.status(made["Id"]) == "Completed"
    assert await cdn.get("/a/x", "other.example.com") == "MISS"
    assert await seen(cdn) == HITS | {"/a/x": "MISS"}


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("/a/x", ["/a/x"]),
        ("/a/x?q=1", ["/a/x?q=1"]),
        ("/a/x*", ["/a/x", "/a/x?q=1", "/a/xy"]),
        ("/a/*", ["/a/x", "/a/x?q=1", "/a/xy"]),
        ("/a*", list(PATHS)),
        ("/*", list(PATHS)),
        ("/*/x", []),
        ("/a%7Eb", []),
        ("/a/%78", ["/a/x"]),
        ("/A/x", []),
    ],
)
async def test_what_a_path_takes(cdn: Cdn, path: str, gone: list[str]) -> None:
    """A wildcard at the end takes what begins so; elsewhere it is a character. The escape of ~ matches nothing."""
    await cdn.create(path)
    await cdn.pass_by(11)
    assert await seen(cdn) == HITS | dict.fromkeys(gone, "MISS")


async def test_the_same_reference_is_the_same_invalidation(cdn: Cdn) -> None:
    """It costs nothing, in whichever order; with other paths, and another number of one of them, it is refused."""
    first = await cdn.create("/a/x", "/ab/x")
    assert await cdn.create("/ab/x", "/a/x") == first
    assert await cdn.refused("/a/x") == ("InvalidationBatchAlreadyExists", 400)
    assert await cdn.refused("/a/x", "/ab/x", "/ab/x") == ("InvalidationBatchAlreadyExists", 400)
    assert cdn.emulator.account.months.total() == 2
    assert (await cdn.create("/a/x", reference="two"))["Id"] != first["Id"]
    assert cdn.emulator.account.months.total() == 3


async def test_months_and_money(make_cdn: MakeCdn) -> None:
    """A thousand paths of a month are free, over all distributions and both kinds; then each costs half a cent."""
    other = Distribution("E2")
    cdn = await make_cdn(distributions=(FIRST, other), limits="slots")
    await cdn.create(*(f"/{number}" for number in range(998)))
    await cdn.create("/a*", "/a*", "/b", reference="two", distribution=other.id)
    (month,) = cdn.emulator.account.bill()
    assert cdn.emulator.account.bill()[month] == {"paths": 1001, "free": 1000, "dollars": 0.005}
    await cdn.pass_by(32 * 86_400)
    await cdn.create("/a", reference="three")
    (_, (later, bill)) = cdn.emulator.account.bill().items()
    assert later > month and bill == {"paths": 1, "free": 1, "dollars": 0}
    async with cdn.http.get(f"{cdn.emulator.api_url}/_emulator") as response:
        overview = await response.json()
    assert overview["bill"][month]["dollars"] == 0.005 and overview["month"] == later


async def test_limits_by_rate(make_cdn: MakeCdn) -> None:
    """150 paths and one wildcard a second, over all distributions."""
    other = Distribution("E2")
    cdn = await make_cdn(distributions=(FIRST, other))
    await cdn.create(*(f"/{number}" for number in range(149)), "/a*")
    busy = ("TooManyInvalidationsInProgress", 400)
    assert await cdn.refused("/a", reference="two", distribution=other.id) == busy
    await cdn.pass_by(0.9)
    assert await cdn.refused("/a*", reference="two") == busy
    await cdn.create("/a", reference="two")
    await cdn.pass_by(0.2)
    assert await cdn.refused("/a*", "/b*", reference="three") == busy
    await cdn.create("/a*", reference="three")


async def test_limits_in_progress(make_cdn: MakeCdn) -> None:
    """15 wildcards and apart from them 3,000 files at each distribution, until they are completed."""
    other = Distribution("E2")
    cdn = await make_cdn(distributions=(FIRST, other), limits="slots", task_seconds=10.0)
    await cdn.create(*(f"/{number}*" for number in range(15)))
    busy = ("TooManyInvalidationsInProgress", 400)
    assert await cdn.refused("/a*", reference="two") == busy
    await cdn.create("/a*", reference="two", distribution=other.id)
    await cdn.create(*(f"/{number}" for number in range(3000)), reference="three")
    assert await cdn.refused("/a", reference="four") == busy
    assert await cdn.refused(*(f"/{number}" for number in range(3001)), reference="five") == ("BatchTooLarge", 413)
    await cdn.pass_by(11)
    await cdn.create("/a*", "/a", reference="six")


@pytest.mark.parametrize(
    "paths", [["/a~b"], ["/it's"], ["a"], [""], ["/a b"], ["/\u00e9"], [f"/{'a' * 4000}"], ["/ok", "/~"], []]
)
async def test_wrong_paths(make_cdn: MakeCdn, paths: list[str]) -> None:
    """They are refused as a whole, and cost nothing; the answer names none."""
    cdn = await make_cdn()
    assert await cdn.refused(*paths) == ("InvalidArgument", 400)
    assert not cdn.emulator.account.months


async def test_who_may_call(make_cdn: MakeCdn) -> None:
    """A wrong key, a wrong secret, no signature, a clock that is off, and a distribution that nobody has."""
    assert await (await make_cdn(sdk={"key": "AKIDOTHER"})).refused("/a") == ("InvalidClientTokenId", 403)
    assert await (await make_cdn(sdk={"secret": "other"})).refused("/a") == ("SignatureDoesNotMatch", 403)
    assert await (await make_cdn("clock-skew:1000")).refused("/a") == ("SignatureDoesNotMatch", 403)
    cdn = await make_cdn()
    assert await cdn.refused("/a", distribution="E404") == ("NoSuchDistribution", 404)
    with pytest.raises(ClientError, match="NoSuchInvalidation"):
        await cdn.status("I404")
    url = f"{cdn.emulator.api_url}/2020-05-31/distribution/{FIRST.id}/invalidation"
    async with cdn.http.post(url, data=b"x") as response:
        assert response.status == 403 and "MissingAuthenticationToken" in await response.text()
    assert KEY.secret not in repr(cdn.emulator.settings)


async def test_lists_are_in_pages(make_cdn: MakeCdn) -> None:
    """Newest first, as the vendor's client reads them."""
    cdn = await make_cdn()
    made = [(await cdn.create("/a", reference=str(number)))["Id"] for number in range(5)]

    def ids() -> list[str]:
        pages = cdn.sdk.get_paginator("list_invalidations").paginate(
            DistributionId=FIRST.id, PaginationConfig={"PageSize": 2}
        )
        return [one["Id"] for page in pages for one in page["InvalidationList"]["Items"]]

    assert await asyncio.to_thread(ids) == made[::-1]


async def test_distributions_have_their_own_hosts(make_cdn: MakeCdn, tmp_path: Path) -> None:
    """A path is dropped on the hosts of its distribution only."""
    (tmp_path / "a").write_text("a")
    cdn = await make_cdn(distributions=(parse_distribution("E1AB=a.example,b.example"), parse_distribution("E2AB")))
    hosts = ("a.example", "b.example", "c.example")
    assert [await cdn.get("/a", host) for host in hosts] == ["MISS"] * 3
    await cdn.create("/a*", distribution="E1AB")
    await cdn.pass_by(2)
    assert [await cdn.get("/a", host) for host in hosts] == ["MISS", "MISS", "HIT"]
    await cdn.create("/a", distribution="E1AB", reference="two")
    await cdn.pass_by(2)
    assert [await cdn.get("/a", host) for host in hosts] == ["MISS", "MISS", "HIT"]


async def test_faults(make_cdn: MakeCdn, tmp_path: Path) -> None:
    """Each of its own faults; those of every CDN are tested with Alibaba's."""
    journal = tmp_path / "journal"
    faults = ["throttle:1", "busy:1", "error500:1", "error:AccessDenied:1", "malformed:bad", "stuck:slow"]
    cdn = await make_cdn(*faults, journal=journal)
    assert [(await cdn.refused("/a"))[0] for _ in range(4)] == [
        "Throttling",
        "TooManyInvalidationsInProgress",
        "InternalError",
        "AccessDenied",
    ]
    assert (await cdn.refused("/bad"))[0] == "InvalidArgument"
    made = await cdn.create("/slow")
    await cdn.pass_by(86_400)
    assert await cdn.status(made["Id"]) == "InProgress"
    line = json.loads(journal.read_text())
    assert (line["action"], line["paths"], line["caller_reference"]) == ("CreateInvalidation", ["/slow"], "one")


@pytest.mark.parametrize("text", ["", "abc", "E1AB=a b", "e1ab"])
def test_distributions_that_cannot_be_read(text: str) -> None:
    """They are refused with the right form; so is half a key."""
    with pytest.raises(ConfigurationError, match="distribution"):
        parse_distribution(text)
    with pytest.raises(ConfigurationError, match="AWS_SECRET_ACCESS_KEY not set"):
        key_from_environment({"AWS_ACCESS_KEY_ID": "a"})


def _shape(answer: Any) -> Any:
    """Return the form of an answer: names and types."""
    if isinstance(answer, dict):
        return {name: _shape(value) for name, value in sorted(answer.items()) if name != "ResponseMetadata"}
    return [_shape(one) for one in answer] if isinstance(answer, list) else type(answer).__name__


def _answers(sdk: Any, distribution: str) -> Sequence[Any]:
    batch = {"CallerReference": "form", "Paths": {"Quantity": 2, "Items": ["/a", "/b*"]}}
    made = sdk.create_invalidation(DistributionId=distribution, InvalidationBatch=batch)
    found = sdk.get_invalidation(DistributionId=distribution, Id=made["Invalidation"]["Id"])
    try:
        sdk.get_invalidation(DistributionId="ENONE", Id="I1")
    except ClientError as error:
        refused = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    return made, found, sdk.list_invalidations(DistributionId=distribution), refused


async def test_answers_have_the_form_of_another_emulator(make_cdn: MakeCdn) -> None:
    """What the vendor's client makes of the answers of moto and of ours has one form."""
    cdn = await make_cdn()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        theirs = make_sdk(f"http://{host}:{port}")
        distribution = theirs.create_distribution(DistributionConfig=_CONFIG)["Distribution"]["Id"]
        their_answers = await asyncio.to_thread(_answers, theirs, distribution)
    finally:
        server.stop()
    our_answers = await asyncio.to_thread(_answers, cdn.sdk, FIRST.id)
    *ours, our_refusal = our_answers
    *others, _ = their_answers
    assert our_refusal == ("NoSuchDistribution", 404)
    assert [_shape(answer) for answer in ours] == [_shape(answer) for answer in others]


_CONFIG: Any = {
    "CallerReference": "a",
    "Origins": {
        "Quantity": 1,
        "Items": [
            {
                "Id": "o",
                "DomainName": "o.example",
                "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "https-only"},
            }
        ],
    },
    "DefaultCacheBehavior": {"TargetOriginId": "o", "ViewerProtocolPolicy": "allow-all", "MinTTL": 0},
    "Comment": "",
    "Enabled": False,
}
