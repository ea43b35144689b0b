"""``check`` tries everything that the account needs, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from listener.contracts import Check, CheckState
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.targets.alibaba_cdn.recording_api import NOW, Answer, Api, Received, StandingClock, refused

MakeTarget = Callable[..., AlibabaCdn]
QUOTA = Answer(fields={"UrlQuota": "2000", "UrlRemain": "1500", "Tasks": [], "TotalCount": 0})


def states(checks: list[Check]) -> dict[str, CheckState]:
    """Return the state of each probe by what it probes."""
    return {check.subject.partition(": ")[2]: check.state for check in checks}


async def test_an_account_in_order_passes(api: Api, target: AlibabaCdn) -> None:
    """Key, quota, clock and each read are tried; nothing is refreshed."""
    api.default = QUOTA
    checks = list(await target.check())
    assert states(checks) == dict.fromkeys(
        ["credentials", "quota", "clock", "DescribeRefreshTasks", "DescribeRefreshTaskById"], CheckState.OK
    )
    assert "file 1500 of 2000" in checks[1].message
    assert all(request.action.startswith("Describe") for request in api.received)
    assert not any("testsecret" in f"{check}" for check in checks)


async def test_the_first_api_version_is_not_asked_by_id(api: Api, make_target: MakeTarget) -> None:
    """It has no such action."""
    api.default = QUOTA
    checks = await make_target(api_version="2014-11-11").check()
    assert "DescribeRefreshTaskById" not in states(list(checks))


async def test_without_a_key_only_that_is_reported(api: Api, make_target: MakeTarget) -> None:
    """What stands on a missing key is not tried."""
    (check,) = await make_target(environment={}).check()
    assert check.state is CheckState.FAILED
    assert "ALIBABA_CLOUD_ACCESS_KEY_ID" in check.message
    assert check.hint
    assert api.received == []


async def test_a_missing_permission_is_named_by_its_action(api: Api, target: AlibabaCdn) -> None:
    """A refused read fails that probe alone, with the permission to grant; an unknown task is none."""

    def judge(request: Received) -> Answer:
        if request.action == "DescribeRefreshTasks":
            return refused("Forbidden.RAM", 403)
        return refused("InvalidTaskId.Malformed") if request.action == "DescribeRefreshTaskById" else QUOTA

    api.default = judge
    checks = list(await target.check())
    failed = [check for check in checks if check.state is CheckState.FAILED]
    assert [check.subject.partition(": ")[2] for check in failed] == ["DescribeRefreshTasks"]
    assert "cdn:DescribeRefresh" in failed[0].hint


@pytest.mark.parametrize(
    ("skew", "state", "words"),
    [
        (5, CheckState.OK, "5 s ahead"),
        (-200, CheckState.WARNING, "200 s behind"),
        (1000, CheckState.FAILED, "1000 s ahead"),
    ],
)
async def test_the_clock_is_measured(
    api: Api, make_target: MakeTarget, skew: float, state: CheckState, words: str
) -> None:
    """Warned of early, refused where the service would refuse."""
    api.default = QUOTA
    checks = list(await make_target(clock=StandingClock(NOW + skew)).check())
    (clock,) = [check for check in checks if check.subject.endswith("clock")]
    assert clock.state is state
    assert words in clock.message


async def test_an_unreachable_endpoint_is_reported(make_target: MakeTarget) -> None:
    """The probe names the endpoint that does not answer, and the clock stays unknown."""
    checks = list(await make_target(endpoint="http://127.0.0.1:1", timeouts={"tries": 1}).check())
    assert states(checks)["quota"] is CheckState.FAILED
    assert states(checks)["clock"] is CheckState.WARNING
    assert "127.0.0.1:1" in checks[1].message
