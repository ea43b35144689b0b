"""Tokens are free while there are plenty, dear when few are left and the reset is far; nothing starves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.planner import (
    Arrivals,
    Budget,
    DirectoryLoad,
    Plan,
    PlanInput,
    backlog,
    forecast,
    plan,
    widest_seconds,
)
from listener.planner.pacing import directory_prices, file_prices
from listener.refresh import RefreshKind, split_reason
from tests.planner.budgets import DAY, HOUR, of_kinds

SITE = "https://a.example/"


def budgets(files: int, directories: int, *, limit: int | None = None) -> list[Budget]:
    """Make budgets that come back after a day."""
    left = {RefreshKind.FILE: files, RefreshKind.DIRECTORY: directories}
    return of_kinds(left, limits=left | {RefreshKind.FILE: files if limit is None else limit})


def load(name: str, due: int, **more: object) -> DirectoryLoad:
    """Make a load of a directory of one site."""
    return DirectoryLoad("cdn", SITE + name, due, **more)  # type: ignore[arg-type]


def busy(per_day: int, days: int = 60) -> Arrivals:
    """Remember so many arrivals of one object a day, up to time 0."""
    known = Arrivals()
    for i in range(days * per_day):
        known = known.seen(-days * DAY + i * DAY / per_day, 1)
    return known.until(0.0)


def singles(made: Plan) -> dict[str, int]:
    """Return how many needs of each directory go as files."""
    return {f.directory_url.removeprefix(SITE): f.take for f in made.files}


def test_plenty_costs_nothing() -> None:
    """With many more tokens than can be missed the first ones are free, so that nothing waits or is evicted."""
    assert file_prices(2000, 20.0, 12.0, 12.0).cost(1000) == 0


@given(left=st.integers(1, 3000), expected=st.floats(1, 1e5), hours=st.floats(0.1, 24))
def test_prices_rise_with_need_and_end_at_waiting(left: int, expected: float, hours: float) -> None:
    """A file token never costs more than waiting, costs more when more is expected, and never less as they go."""
    prices = file_prices(left, expected, hours, hours)
    assert prices.highest <= hours
    assert [p for _, p in prices.steps] == sorted(p for _, p in prices.steps)
    assert prices.cost(left) <= file_prices(left, expected * 2, hours, hours).cost(left) + 1e-6


@given(left=st.integers(1, 200), files=st.integers(0, 3000), expected=st.floats(1, 1e5), hours=st.floats(0.2, 24))
def test_directory_tokens_get_dearer_as_they_go(left: int, files: int, expected: float, hours: float) -> None:
    """The last directory token is the dearest, and each is dearer the fewer files are left and the longer the day."""
    prices = directory_prices(left, files, expected, hours)
    assert prices.limit == left
    assert prices.lowest <= directory_prices(max(1, left - 1), files, expected, hours).lowest + 1e-9
    assert prices.lowest <= directory_prices(left, files // 2, expected, hours).lowest + 1e-9
    assert prices.lowest >= directory_prices(left, files, expected, hours / 2).lowest


def test_last_directory_waits_for_more_and_goes_before_the_reset() -> None:
    """Thirty due needs do not take the last directory token in the morning; what waits is looked at again and goes."""
    loads = [load("a/", 30)]
    day = busy(per_day=60)
    asked = PlanInput(now=0.0, loads=loads, budgets=budgets(0, 1), weights=lambda _: 35, arrivals=day)
    morning = plan(asked)
    assert morning.directories == []
    assert morning.wake_at == 900.0
    decision, numbers = split_reason(morning.deferred[0].reason)
    waits = "Deferred until 00:00 UTC: no file quota left today."
    assert decision == f"{waits} A directory refresh would evict 5 unchanged objects, more than waiting costs."
    assert numbers.startswith("30 due: no file quota left today; 0 file and 1 directory refreshes left, ")
    evening = plan(
        PlanInput(now=DAY - 6 * HOUR, loads=loads, budgets=budgets(0, 1), weights=lambda _: 35, arrivals=day)
    )
    assert [d.url for d in evening.directories] == [SITE + "a/"]


def test_bulk_takes_the_directory_at_once() -> None:
    """Bulk work far beyond what the rest of the day is expected to bring does not wait."""
    made = plan(PlanInput(now=0.0, loads=[load("a/", 500)], budgets=budgets(20, 1), weights=lambda _: 600))
    assert [(d.url, d.collateral) for d in made.directories] == [(SITE + "a/", 100)]


@pytest.mark.parametrize("now", [0.0, DAY / 2, DAY - 1])
def test_quota_of_zero_defers_everything_until_the_reset(now: float) -> None:
    """Without any quota nothing is planned and everything waits, woken at the reset only."""
    made = plan(PlanInput(now=now, loads=[load("a/", 5), load("", 0, subtree_due=True)], budgets=budgets(0, 0)))
    assert (made.files, made.directories) == ([], [])
    assert sum(d.needs for d in made.deferred) == 6
    assert made.wake_at == DAY


def test_no_budget_at_all_defers_without_a_date() -> None:
    """A target whose quota is not known, and that has no kinds, is planned nothing; nothing is raised."""
    made = plan(PlanInput(now=0.0, loads=[load("a/", 5)], budgets=[], kinds=()))
    assert (made.files, made.wake_at) == ([], None)


def test_quota_lowered_at_noon_is_kept_at_once() -> None:
    """When the provider lowers the limit below what was spent, nothing more is planned."""
    left = {RefreshKind.FILE: -50, RefreshKind.DIRECTORY: -1}
    lowered = of_kinds(left, limits={RefreshKind.FILE: 100, RefreshKind.DIRECTORY: 5})
    made = plan(PlanInput(now=DAY / 2, loads=[load("a/", 5)], budgets=lowered))
    assert (made.files, made.directories) == ([], [])


def test_quota_raised_at_noon_is_used_at_once() -> None:
    """When the provider raises the limit, what waited goes."""
    loads = [load("a/", 50)]
    assert singles(plan(PlanInput(now=DAY / 2, loads=loads, budgets=budgets(10, 0)))) == {"a/": 10}
    assert singles(plan(PlanInput(now=DAY / 2, loads=loads, budgets=budgets(90, 0)))) == {"a/": 50}


@pytest.mark.parametrize("now", [-30 * DAY, 2 * DAY, 400 * DAY])
def test_clock_that_jumps_stops_nothing(now: float) -> None:
    """Whatever the clock says, before the day began or long after its reset, plans stay within the budget."""
    known = busy(per_day=20).until(now)
    made = plan(
        PlanInput(now=now, loads=[load("a/", 50)], budgets=budgets(30, 1), weights=lambda _: 60, arrivals=known)
    )
    assert made.spent[RefreshKind.FILE] <= 30
    assert made.spent[RefreshKind.DIRECTORY] + made.spent[RefreshKind.FILE] + len(made.deferred) > 0
    assert made.wake_at is None or made.wake_at > now


def test_clock_that_jumps_back_multiplies_nothing() -> None:
    """Arrivals remembered are the same when the clock jumps back, and only fade when it jumps on again."""
    known = busy(per_day=20)
    back = known.until(-10 * DAY)
    assert back[1:] == known[1:]
    assert known.arrivals / 2 < back.until(0.0).arrivals < known.arrivals


def test_days_without_history_rest_on_a_stated_belief() -> None:
    """Without history ten objects a day are expected, and a month of history replaces that belief."""
    assert Arrivals().expected(0.0, 24.0) == pytest.approx(10.0, rel=0.2)
    assert busy(per_day=200).expected(0.0, 24.0) == pytest.approx(200.0, rel=0.2)


def test_a_busy_day_is_seen_as_one() -> None:
    """Many arrivals within hours raise what is expected; one large arrival is no proof of more of them."""
    usual = busy(per_day=10)
    many = usual
    for i in range(40):
        many = many.seen(i * 60.0, 1)
    assert many.expected(HOUR, 12.0) > 2.5 * usual.expected(HOUR, 12.0)
    assert usual.seen(0.0, 40).expected(HOUR, 12.0) < 1.5 * usual.expected(HOUR, 12.0)


def office_hours(days: int = 40) -> Arrivals:
    """Remember ten arrivals a day, all of them between nine and noon."""
    known = Arrivals()
    for day in range(days):
        for n in range(10):
            known = known.seen((day - days) * DAY + 9 * HOUR + n * HOUR / 4, 5)
    return known.until(0.0)


def test_hours_at_which_nobody_publishes_are_learned() -> None:
    """After a month of mornings a morning promises more than an afternoon, and a quiet night reports nothing."""
    known = office_hours()
    done = known
    for n in range(10):
        done = done.seen(9 * HOUR + n * HOUR / 4, 5)
    assert known.expected(9 * HOUR, 3.0) > 3 * done.expected(13 * HOUR, 3.0)
    assert known.expected(6 * HOUR, 18.0) == pytest.approx(50.0, rel=0.35)


@given(seen=st.lists(st.floats(-40 * DAY, 0.0), max_size=60))
def test_over_a_whole_day_the_hours_weigh_one(seen: list[float]) -> None:
    """However arrivals are spread, a day is as busy as a day; only its hours differ."""
    known = Arrivals()
    for at in sorted(seen):
        known = known.seen(at, 1)
    assert known.busyness(0.0, DAY) == pytest.approx(1.0)
    assert known.busyness(1234.5, DAY + 1234.5) == pytest.approx(1.0)
    assert known.busyness(5.0, 5.0) == 1.0


@given(price=st.floats(0, 1e12))
def test_the_wait_of_a_hot_url_follows_the_price_and_ends(price: float) -> None:
    """Free tokens make nobody wait, dearer ones longer, none longer than an hour."""
    assert widest_seconds(0.0) == 0.0
    assert 0.0 <= widest_seconds(price) <= 3600.0
    assert widest_seconds(price) <= widest_seconds(price * 2 + 1)


def test_a_first_day_is_not_taken_for_every_day() -> None:
    """Five hundred on the first day leave the prior belief nearly as it was; after a month of such days they count."""
    first = Arrivals().seen(0.0, 500)
    assert first.expected(60.0, 24.0) < 12.0
    known = Arrivals()
    for day in range(30):
        known = known.seen(day * DAY, 500)
    assert known.expected(30 * DAY, 24.0) > 300.0


def test_dearer_sites_go_first_and_age_outweighs_priority() -> None:
    """Tokens go by priority, but what waited for days overtakes it: nothing starves."""
    day = budgets(3, 0)
    both = [load("cheap/", 3, priority=0.5, oldest=0.0), load("dear/", 3, oldest=0.0)]
    assert singles(plan(PlanInput(now=0.0, loads=both, budgets=day))) == {"dear/": 3}
    old = [both[0]._replace(oldest=-3 * DAY), both[1]]
    assert singles(plan(PlanInput(now=0.0, loads=old, budgets=day))) == {"cheap/": 3}


def test_dearer_sites_go_first_though_other_tokens_abound() -> None:
    """Tokens of another kind are no reason to take files in any order."""
    day = budgets(3, 0) + of_kinds({RefreshKind.IGNORE_PARAMS: 100})
    both = [load("cheap/", 3, priority=0.5, oldest=0.0), load("dear/", 3, oldest=0.0)]
    assert singles(plan(PlanInput(now=0.0, loads=both, budgets=day))) == {"dear/": 3}


def test_what_expires_by_itself_waits_first() -> None:
    """Objects that a cache drops within minutes anyway give way to those that stay stale until the reset."""
    loads = [load("brief/", 3, ttl_seconds=600.0, oldest=-300.0), load("long/", 3, oldest=0.0)]
    assert singles(plan(PlanInput(now=0.0, loads=loads, budgets=budgets(3, 0)))) == {"long/": 3}


def test_what_expires_by_itself_evicts_nothing() -> None:
    """While tokens are short no directory is refreshed for objects that expire before the reset."""
    brief = [load("brief/", 300, ttl_seconds=600.0, oldest=-300.0)]
    asked = PlanInput(now=0.0, loads=brief, budgets=budgets(3, 4), weights=lambda _: 400)
    assert plan(asked).directories == []
    lasting = [brief[0]._replace(ttl_seconds=0.0)]
    assert len(plan(PlanInput(now=0.0, loads=lasting, budgets=budgets(3, 4), weights=lambda _: 400)).directories) == 1


@settings(max_examples=200, deadline=None)
@given(counts=st.lists(st.integers(0, 80), min_size=1, max_size=30), files=st.integers(1, 40))
def test_nothing_starves(counts: list[int], files: int) -> None:
    """Whatever arrives day by day, no need waits while a younger one of the same site and priority is sent."""
    waiting: dict[str, tuple[float, int]] = {}
    for day, count in enumerate(counts):
        if count:
            waiting[f"{day}/"] = (day * DAY, count)
        loads = [load(name, due, oldest=since) for name, (since, due) in waiting.items()]
        at = of_kinds({RefreshKind.FILE: files}, resets_at=(day + 1) * DAY)
        sent = singles(plan(PlanInput(now=day * DAY, loads=loads, budgets=at, kinds={RefreshKind.FILE})))
        for name, take in sent.items():
            assert all(since >= waiting[name][0] or sent.get(o, 0) == due for o, (since, due) in waiting.items())
            since, due = waiting.pop(name)
            if due > take:
                waiting[name] = (since, due - take)


def of_a_day(left: int) -> Budget:
    """Make what is left of a hundred files."""
    return of_kinds({RefreshKind.FILE: left}, limits={RefreshKind.FILE: 100})[0]


def test_the_forecast_says_when_the_quota_ends() -> None:
    """At the rate so far a budget lasts until a moment before the reset, or past it."""
    assert forecast(of_a_day(left=50), now=6 * HOUR) == (pytest.approx(50 / 6), pytest.approx(12 * HOUR))
    assert forecast(of_a_day(left=90), now=6 * HOUR).lasts_until is None
    assert forecast(of_a_day(left=0), now=6 * HOUR).lasts_until == 6 * HOUR
    assert forecast(of_a_day(left=100), now=0.0) == (0.0, None)


def test_a_backlog_that_cannot_drain_is_reported_with_a_remedy() -> None:
    """When as much arrives as the quota takes, a backlog never drains, and the directory that drains it is named."""
    asked = PlanInput(
        now=0.0, loads=[load("a/", 400), load("b/", 3)], budgets=budgets(0, 2, limit=50),
        weights=lambda url: 5000 if url == SITE else 500, arrivals=busy(per_day=80),
    )  # fmt: skip
    reported = backlog(asked)
    assert (reported.needs, reported.days) == (403, None)
    assert [d.url for d in reported.offer] == [SITE + "a/"]
    calm = backlog(PlanInput(now=0.0, loads=[load("a/", 40)], budgets=budgets(0, 2, limit=50)))
    assert calm.days == pytest.approx(1.0, rel=0.1)
    assert calm.offer == []


def test_a_quota_without_limit_is_planned_at_once() -> None:
    """A cache has no quota: a thousand million tokens have a thousand prices, those of the last as before."""
    many = directory_prices(10**9, 10**9, 10.0, 24.0)
    assert len(many.steps) <= 1_001
    assert many.limit == 10**9
    assert many.steps[1:] == directory_prices(1_000, 10**9, 10.0, 24.0).steps
