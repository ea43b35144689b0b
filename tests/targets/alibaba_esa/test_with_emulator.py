"""The client of ESA and its emulator, each written from the vendor's pages, understand each other."""

from __future__ import annotations

from typing import Any

import pytest

from listener.allowances import costs_of
from listener.contracts import UNLIMITED, CheckState
from listener.errors import BatchRejected, Misconfigured, NotSent, OutcomeUnknown, QuotaExhausted, Unavailable
from listener.refresh import QuotaReading, RefreshKind, TaskState
from listener.targets.alibaba_esa import Settings
from listener.targets.alibaba_esa.requests import TaskName
from tests.targets.alibaba_cdn.recording_api import NOW
from tests.targets.alibaba_esa.conftest import DAY_SECONDS, DIRECTORY, FILE, IGNORE_PARAMS, MakePair, Pair, make_target

A, B = "https://www.example.com/a.html", "https://example.com/b.html"
URLS = {FILE: A, DIRECTORY: "https://www.example.com/news/", IGNORE_PARAMS: A}


@pytest.mark.parametrize("signature", ["acs3-hmac-sha256", "hmac-sha1"])
@pytest.mark.parametrize("site", ["example.com", "EXAMPLE.com", "123456789"])
@pytest.mark.parametrize("kind", URLS)
async def test_a_purge_is_accepted_followed_and_found(
    make_pair: MakePair, signature: str, site: str, kind: RefreshKind
) -> None:
    """By name or id of the site: submitted, looked up, found by its URL, and counted in both windows."""
    pair = await make_pair(signature=signature, site=site)
    before = (await pair.target.read_quota())[kind.value]
    names = await pair.send(kind, URLS[kind])
    pair.clock.time += 5
    (task,) = await pair.target.tasks(names)
    assert (task.task_id, task.url, task.kind, task.state) == (names[0], URLS[kind], kind, TaskState.COMPLETE)
    (found,) = await pair.target.find_tasks(kind, URLS[kind], since=NOW - 10, until=NOW + 10)
    assert TaskName.parse(found.task_id).task_id == TaskName.parse(names[0]).task_id  # type: ignore[union-attr]
    assert await pair.target.tasks([found.task_id]) == [found], "what was found by its URL can be followed"
    assert (await pair.target.read_quota())[kind.value].remaining == before.remaining - 1


async def test_tasks_are_found_among_those_of_others(pair: Pair) -> None:
    """The list knows no ids: it is read for the span in which a task was created, with all of its pages."""
    pages = [f"https://www.example.com/{number}.html" for number in range(120)]
    earlier = await pair.send(FILE, A)
    pair.clock.time += 100
    ours = await pair.send(FILE, *pages)
    theirs = await pair.send(FILE, B)
    directory = await pair.send(DIRECTORY, URLS[DIRECTORY])
    assert len({*earlier, *ours, *theirs, *directory}) == 4
    pair.clock.time += 60
    found = await pair.target.tasks([*earlier, *ours, *directory, "424242", "7.file.1767323045.1767323046"])
    assert {task.task_id for task in found} == {*earlier, *ours, *directory}
    assert sorted(str(task.url) for task in found if task.task_id == ours[0]) == sorted(pages)
    assert [task.url for task in await pair.target.tasks(theirs)] == [B]


@pytest.mark.parametrize("skew_seconds", [-600, 600])
async def test_a_task_is_found_though_the_clocks_differ(make_pair: MakePair, skew_seconds: int) -> None:
    """The span is that of the CDN's clock, known from its answers."""
    pair = await make_pair(f"clock-skew:{max(skew_seconds, 0)}")
    pair.clock.time += min(skew_seconds, 0)
    names = await pair.send(FILE, A)
    (task,) = await pair.target.tasks(names)
    assert task.url == A
    assert task.created_at == pytest.approx(pair.clock.time, abs=1.5)


@pytest.mark.parametrize(("fault", "count"), [("reset:1", 0), ("accept-then-reset:1", 1), ("accept-then-timeout:1", 1)])
async def test_an_unknown_outcome_is_resolved_by_asking(make_pair: MakePair, fault: str, count: int) -> None:
    """The task list reports what the broken connection could not, and nothing was sent twice."""
    pair = await make_pair(f"{fault},action=PurgeCaches")
    with pytest.raises(OutcomeUnknown):
        await pair.send(FILE, A)
    found = await pair.target.find_tasks(FILE, A, since=NOW - 60, until=NOW + 60)
    assert len(found) == count


async def test_an_empty_list_of_long_ago_proves_nothing(pair: Pair) -> None:
    """Where the list does not reach back to the request, it is not reported as never accepted."""
    with pytest.raises(OutcomeUnknown):
        await pair.target.find_tasks(FILE, A, since=NOW - 3 * DAY_SECONDS, until=NOW)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("error500:1", OutcomeUnknown),
        ("quota:1", QuotaExhausted),
        ("malformed:a.html", BatchRejected),
        ("domain-not-found:www.example.com", BatchRejected),
        ("error:Forbidden.RAM:1", Misconfigured),
        ("error:SiteNotFound:1", Misconfigured),
    ],
)
async def test_each_fault_ends_as_its_remedy(make_pair: MakePair, fault: str, error: type[Exception]) -> None:
    """What the emulator is ordered to answer arrives as the error to act on."""
    action = "" if fault.startswith(("malformed", "domain")) else ",action=PurgeCaches"
    pair = await make_pair(f"{fault}{action}")
    with pytest.raises(error):
        await pair.send(FILE, A)


async def test_a_host_of_another_site_is_refused(pair: Pair) -> None:
    """The refusal is about URLs, not about the account, so that the others are sent."""
    with pytest.raises(BatchRejected) as caught:
        await pair.send(FILE, A, "https://www.example.org/a.html")
    assert "site" in caught.value.hint
    assert not pair.emulator.tasks.all()


# -- two windows ------------------------------------------------------------------------------------


async def test_a_purge_takes_a_unit_of_the_day_and_one_of_30_days(pair: Pair) -> None:
    """Each kind has two allowances of its own."""
    for kind in pair.target.limits:
        assert costs_of(pair.target.allowances, kind) == {kind.value: 1, f"{kind.value}-30-days": 1}


async def test_both_windows_are_read(make_pair: MakePair) -> None:
    """What was sent days ago counts in the one and not in the other; a limit of 0 is none."""
    emulated = {"quota": {FILE: 100}, "quota_30_days": {FILE: 150}}
    pair = await make_pair(emulated=emulated)
    await pair.send(FILE, A, B)
    pair.clock.time += 2 * DAY_SECONDS
    await pair.send(FILE, A)
    readings = await pair.target.read_quota()
    assert readings["file"] == QuotaReading(100, 99)
    assert readings["file-30-days"] == QuotaReading(150, 147)
    assert readings["directory"] == QuotaReading(100, 100)
    assert readings["directory-30-days"] == QuotaReading(UNLIMITED, UNLIMITED)
    assert set(readings) == {one.name for one in pair.target.allowances}


async def test_30_days_can_be_used_up_while_the_day_is_not(make_pair: MakePair) -> None:
    """The CDN refuses what exceeds either, and nothing of the request is charged."""
    pair = await make_pair(emulated={"quota": {FILE: 10}, "quota_30_days": {FILE: 12}})
    for day in range(2):
        await pair.send(FILE, *(f"https://example.com/{day}/{number}" for number in range(6)))
        pair.clock.time += DAY_SECONDS
    assert (await pair.target.read_quota())["file"] == QuotaReading(10, 10)
    with pytest.raises(QuotaExhausted):
        await pair.send(FILE, A)
    pair.clock.time += 30 * DAY_SECONDS
    await pair.send(FILE, A)


async def test_limits_to_assume_can_be_set() -> None:
    """Until the live quota is known: for a larger plan, and for 30 days."""
    target = make_target("http://127.0.0.1:1", quota={"file": 50_000}, quota_30_days={"file": 200_000})
    limits = {one.name: one.limit for one in target.allowances}
    assert (limits["file"], limits["file-30-days"], limits["directory-30-days"]) == (50_000, 200_000, UNLIMITED)


# -- the site ---------------------------------------------------------------------------------------


async def test_two_targets_of_a_site_share_its_quota() -> None:
    """And sites have one each, whatever the case of the name."""
    accounts = [
        make_target("http://h", site=site).account for site in ("example.com", "Example.com", "example.org", "12")
    ]
    assert accounts == ["esa:example.com", "esa:example.com", "esa:example.org", "esa:12"]


@pytest.mark.parametrize("site", ["example.net", "424242"])
async def test_an_unknown_site_is_reported(make_pair: MakePair, site: str) -> None:
    """Neither a purge nor a check passes, and the hint names the setting."""
    pair = await make_pair(site=site)
    with pytest.raises(NotSent) as caught:
        await pair.send(FILE, A)
    assert "set site to" in caught.value.hint
    checks = await pair.target.check()
    failed = [check for check in checks if check.state is CheckState.FAILED]
    assert [check.subject for check in failed] == ["esa: site"]
    assert "set site to" in failed[0].hint


@pytest.mark.parametrize("site", ["example.com", "123456789"])
async def test_check_passes_against_the_emulator(make_pair: MakePair, site: str) -> None:
    """A rehearsal passes its own check, which names the site."""
    pair = await make_pair(site=site)
    checks = await pair.target.check()
    assert [check.message for check in checks if check.state is not CheckState.OK] == []
    assert any("example.com, id 123456789, active" in check.message for check in checks)
    (quota,) = [check.message for check in checks if check.subject == "esa: quota"]
    assert quota == "left: file 1000 of 1000, directory 100 of 100, ignore-params 100 of 100"


@pytest.mark.parametrize("site", ["example.com", "123456789"])
async def test_check_warns_of_hosts_of_other_sites(make_pair: MakePair, site: str) -> None:
    """A host that the name does not cover may be a custom one, so that it is no failure."""
    pair = await make_pair(site=site)
    hosts = ("example.com", "www.Example.com:8443", "www.example.org", "notexample.com")
    found = await pair.target.check_urls([f"https://{host}/" for host in hosts])
    assert [(check.subject, check.state) for check in found] == [
        ("esa: www.example.org", CheckState.WARNING),
        ("esa: notexample.com", CheckState.WARNING),
    ]
    assert all("base_urls" in check.hint for check in found)


async def test_a_name_is_looked_up_once(make_pair: MakePair) -> None:
    """A permission that is withdrawn later stops nothing."""
    pair = await make_pair()
    await pair.send(FILE, A)
    pair.order("error:Forbidden.RAM,action=ListSites")
    await pair.send(FILE, B)


async def test_a_missing_permission_names_the_actions(make_pair: MakePair) -> None:
    """Those of ESA."""
    pair = await make_pair("error:Forbidden.RAM")
    with pytest.raises(Misconfigured) as caught:
        await pair.send(FILE, A)
    assert "esa:PurgeCaches" in caught.value.hint


@pytest.mark.parametrize(
    "given",
    [
        {"site": ""},
        {"site": "www.example.com/a"},
        {"site": "https://example.com"},
        {"site": "example.com", "access_key_secret": "s"},
        {"site": "example.com", "limits": {"batch_urls": 1_001}},
        {},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(given: dict[str, Any]) -> None:
    """A URL is no site, and a key never stands in a configuration."""
    with pytest.raises(ValueError, match=r"validation error"):
        Settings.model_validate(given)


async def test_an_unreachable_endpoint_names_the_setting() -> None:
    """Nothing was sent."""
    target = make_target("http://127.0.0.1:1", timeouts={"tries": 1})
    with pytest.raises(Unavailable) as caught:
        await target.submit(FILE, [A], force=False)
    assert "endpoint" in caught.value.hint
    await target.close()
