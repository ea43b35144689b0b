"""The target and the emulator: status, limits, keys, and what is wrong."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from botocore.credentials import ReadOnlyCredentials

from listener.contracts import CheckState
from listener.emulator.cloudfront import Distribution
from listener.errors import (
    BatchRejected,
    BatchTooLarge,
    Misconfigured,
    OutcomeUnknown,
    Throttled,
    Unavailable,
    WindowFull,
)
from listener.refresh import Priority, RefreshKind, Task, TaskState
from listener.targets.cloudfront import CloudFront
from tests.targets.cloudfront.conftest import (
    BASE,
    DIRECTORY,
    FILE,
    FIRST,
    IGNORE_PARAMS,
    KEY,
    MakePair,
    Pair,
    make_target,
)

URL = f"{BASE}/a"


async def test_an_invalidation_is_followed_to_its_end(make_pair: MakePair) -> None:
    """One task for all paths of a request; none where CloudFront has forgotten it."""
    pair = await make_pair(emulated={"task_seconds": 10.0})
    receipt = await pair.send(FILE, URL, f"{BASE}/b")
    (task_id,) = receipt.task_ids
    running = Task(task_id, None, FILE, TaskState.REFRESHING, progress="inprogress")
    assert await pair.target.tasks([task_id, "I404"]) == [running]
    pair.emulator.clock.advance(11)
    assert [task.state for task in await pair.target.tasks([task_id])] == [TaskState.COMPLETE]


async def test_a_request_is_charged_once(make_pair: MakePair) -> None:
    """Accepted without an answer, and sent again with its token: the same invalidation, for nothing."""
    for fault in ("accept-then-reset:1", "accept-then-timeout:1"):
        pair = await make_pair(fault)
        with pytest.raises(OutcomeUnknown):
            await pair.send(FILE, URL, f"{BASE}/b")
        receipt = await pair.send(FILE, URL, f"{BASE}/b")
        assert pair.paths == ["/a", "/b"] and pair.charged == 2
        assert receipt.task_ids == (pair.emulator.tasks.all()[0].task_id,)


async def test_limits_are_kept(pair: Pair) -> None:
    """By rate: 150 paths of files a second, a wildcard in one; no request is refused."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(4):
        await pair.send(FILE, *(f"{BASE}/{number}/{one}" for one in range(150)), token=f"{number:032}")
    assert 3 < loop.time() - began < 3.5
    began = loop.time()
    for number in range(4):
        await pair.send(DIRECTORY, f"{BASE}/{number}/", token=f"{number + 10:032}")
    assert 3 < loop.time() - began < 4.7
    assert len(pair.paths) == 604


async def test_distributions_of_an_account_share_its_limits(make_pair: MakePair) -> None:
    """No request of either is refused; files do not wait behind the paths with a *."""
    other = Distribution("E2")
    pair = await make_pair(emulated={"distributions": (FIRST, other)})
    second = make_target(pair.emulator.api_url, distribution=other.id)
    loop = asyncio.get_running_loop()
    began = loop.time()
    ends: list[tuple[str, float]] = []

    async def send(target: CloudFront, kind: RefreshKind, urls: list[str], token: str) -> None:
        await target.admit(kind, urls)
        await target.submit(kind, urls, force=True, token=token * 32)
        ends.append((token, loop.time() - began))

    async with asyncio.TaskGroup() as tasks:
        for target, token in ((pair.target, "1"), (second, "2"), (pair.target, "3")):
            tasks.create_task(send(target, DIRECTORY, [f"{BASE}/{token}/"], token))
        tasks.create_task(send(second, FILE, [URL], "4"))
    await second.close()
    assert [token for token, _ in ends if token != "4"] == ["1", "2", "3"]
    assert dict(ends)["4"] < 0.5 and 2 < dict(ends)["3"] < 3.5
    assert len(pair.paths) == 4


async def test_a_backfill_goes_last(pair: Pair) -> None:
    """A directory of a backfill waits behind those that changed."""
    await pair.send(DIRECTORY, f"{BASE}/0/")
    order: list[int] = []

    async def admit(number: int, priority: Priority) -> None:
        await pair.target.admit(DIRECTORY, [f"{BASE}/{number}/"], priority=priority)
        order.append(number)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(admit(1, Priority.BACKFILL))
        await asyncio.sleep(0.01)
        tasks.create_task(admit(2, Priority.LIVE))
    assert order == [2, 1]


async def test_rates_are_shown_to_the_planner(make_pair: MakePair) -> None:
    """How many paths with a * may go now; nothing before the first, nor where nothing is limited by rate."""
    pair = await make_pair()
    assert not pair.target.rates()
    await pair.send(FILE, URL)
    (rate,) = pair.target.rates()
    assert (rate.left, rate.kinds) == (1, {DIRECTORY, IGNORE_PARAMS})
    await pair.send(IGNORE_PARAMS, URL, token="1" * 32)
    (rate,) = pair.target.rates()
    assert rate.left == 0 and 1 < rate.refills_after_seconds < 1.2
    assert not (await make_pair(limits={"form": "in-progress"})).target.rates()


async def test_places(make_pair: MakePair) -> None:
    """All hosts are one place; of what begins with something a request has one, unless they are limited otherwise."""
    hosts = [f"{BASE}/a", "http://other.example/b", "https://third.example:8443/"]
    target = (await make_pair()).target
    assert {target.place(url) for url in hosts} == {"EDFDVBD6EXAMPLE"}
    assert target.place(f"{BASE}/a*") == f"{BASE}/a*"
    target = (await make_pair(limits={"form": "in-progress"})).target
    assert target.place(f"{BASE}/a*") == "EDFDVBD6EXAMPLE"


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("busy", WindowFull, "HTTP 400 TooManyInvalidationsInProgress"),
        ("throttle", Throttled, "Throttling: Rate exceeded"),
        ("error500", OutcomeUnknown, "InternalError"),
        ("error:BatchTooLarge", BatchTooLarge, "HTTP 413"),
        ("error:InvalidArgument", BatchRejected, "invalid invalidation paths"),
        ("error:InvalidationBatchAlreadyExists", BatchRejected, "caller reference"),
        ("error:ExpiredToken", Misconfigured, "expired"),
        ("error:MissingBody", Misconfigured, "body"),
    ],
)
async def test_refusals(make_pair: MakePair, fault: str, error: type[Exception], words: str) -> None:
    """Each error is of the family that says what to do, and costs nothing."""
    pair = await make_pair(fault)
    with pytest.raises(error, match=words):
        await pair.send(FILE, URL)
    assert not pair.charged


async def test_what_cannot_be_named_is_refused_alone(pair: Pair) -> None:
    """With its URL, before anything is sent."""
    with pytest.raises(BatchRejected, match="cannot be asked for '~'") as refused:
        await pair.send(FILE, URL, f"{BASE}/a~b")
    assert refused.value.urls == {f"{BASE}/a~b"}
    assert not pair.charged
    with pytest.raises(BatchTooLarge):
        await pair.target.submit(DIRECTORY, [f"{BASE}/a/", f"{BASE}/b/"], force=True, token="0" * 32)


@pytest.mark.parametrize(
    ("fault", "settings", "words", "hint"),
    [
        ("", {"distribution": "E404"}, "NoSuchDistribution", "none of the AWS account whose key is used"),
        ("error:AccessDenied", {}, "not authorized", "cloudfront:ListInvalidations on distribution/EDFDVBD6EXAMPLE"),
        ("", {"key": ReadOnlyCredentials("OTHER", "x", None)}, "InvalidClientTokenId", "AWS_ACCESS_KEY_ID"),
        ("", {"key": ReadOnlyCredentials(KEY.id, "x", None)}, "SignatureDoesNotMatch", "AWS_SECRET_ACCESS_KEY"),
        ("clock-skew:2000", {}, "Signature expired", "the clock of this machine"),
    ],
)
async def test_what_is_wrong_is_said_at_once(
    make_pair: MakePair, fault: str, settings: dict[str, Any], words: str, hint: str
) -> None:
    """By the check, and when the daemon starts or a command is to send: it reads the quota then."""
    pair = await make_pair(*([fault] if fault else []), **settings)
    with pytest.raises(Misconfigured, match=words) as wrong:
        await pair.target.read_quota()
    assert hint in wrong.value.hint
    first, *_ = checks = await pair.target.check()
    assert [check.state for check in checks] == [CheckState.FAILED] * (3 if "not authorized" in words else 1)
    assert words in first.message and hint in first.hint


@pytest.mark.parametrize("action", ["CreateInvalidation", "GetInvalidation", "ListInvalidations"])
async def test_each_permission_is_checked(make_pair: MakePair, action: str) -> None:
    """And nothing is invalidated by it."""
    pair = await make_pair(f"error:AccessDenied,action={action}")
    checks = await pair.target.check()
    assert [check.subject.split()[1] for check in checks if check.state is CheckState.FAILED] == [action]
    assert not pair.charged


async def test_an_endpoint_that_is_none(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """The error says what to check; the secret is nowhere."""
    caplog.set_level(logging.DEBUG)
    target = make_target("http://127.0.0.1:1")
    with pytest.raises(Unavailable, match=r"cannot connect to http://127\.0\.0\.1:1") as refused:
        await target.submit(FILE, [URL], force=True, token="0" * 32)
    await target.close()
    assert "endpoint_url" in refused.value.hint
    await pair.send(RefreshKind.FILE, URL)
    assert KEY.secret not in caplog.text
