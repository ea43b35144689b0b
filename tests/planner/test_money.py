"""Allowances that kinds share, that last a month, that cost money, or that there are several of for one kind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.allowances import Allowance, Day, Month, Rolling, Window
from listener.planner import Arrivals, Budget, DirectoryLoad, PlanInput, plan
from listener.planner.pacing import paced_prices
from listener.planner.prices import Prices
from listener.refresh import RefreshKind, split_reason
from tests.planner.budgets import DAY, HOUR

FILE, DIRECTORY, IGNORE_PARAMS = RefreshKind.FILE, RefreshKind.DIRECTORY, RefreshKind.IGNORE_PARAMS
MONTH = 1_764_547_200.0
"""When December 2025 began, UTC."""
SITE = "https://a.example/"
PATHS = Allowance(
    name="paths", limit=1000, window=Month(), costs={FILE: 1, DIRECTORY: 1, IGNORE_PARAMS: 1}, free=1000,
    unit_dollars=0.005,
)  # fmt: skip


def paths(left: int, *, dollars: float = 0.0, now: float = MONTH) -> Budget:
    """Make the paths of a month of which so many are left."""
    allowance = replace(PATHS, limit=1000 + round(dollars / 0.005))
    return Budget(allowance, left, allowance.window.end(now))


def load(name: str, due: int, **more: object) -> DirectoryLoad:
    """Make a load of a directory."""
    return DirectoryLoad("cdn", SITE + name, due, **{"oldest": MONTH, **more})  # type: ignore[arg-type]


def asked(loads: Sequence[DirectoryLoad], *budgets: Budget, weights: dict[str, int], now: float = MONTH) -> PlanInput:
    """Make a question about a site of these directories."""
    return PlanInput(now=now, loads=loads, budgets=budgets, weights=lambda url: weights[url.removeprefix(SITE)])


NAMES = ["", "a/", "a/b/", "a/c/", "d/"]


@settings(max_examples=600, deadline=None)
@given(
    due=st.lists(st.integers(0, 40), min_size=5, max_size=5),
    unchanged=st.lists(st.integers(0, 60), min_size=5, max_size=5),
    free=st.sampled_from([0, 0, 3, 30, 1000]),
    paid=st.sampled_from([0, 4, 40, 5000]),
)
def test_no_way_to_spend_paths_is_better(due: list[int], unchanged: list[int], free: int, paid: int) -> None:
    """No choice of directories and files costs less in scarce and paid paths, evictions and waiting."""
    own = dict(zip(NAMES, (a + b for a, b in zip(due, unchanged, strict=True)), strict=True))
    weights = {name: sum(n for below, n in own.items() if below.startswith(name)) for name in NAMES}
    loads = [load(name, n) for name, n in zip(NAMES, due, strict=True) if n]
    made = plan(asked(loads, paths(free + paid, dollars=paid * 0.005), weights=weights))
    prices = paced_prices(free, paid, Arrivals().expected(MONTH, 31 * 24.0), price=5.0)
    waiting = 24.0 if free + paid else 31 * 24.0
    units = len(made.directories) + sum(f.take for f in made.files)
    value = made.collateral + prices.cost(units) + waiting * sum(deferral.needs for deferral in made.deferred)
    choices = itertools.product([False, True], repeat=5)
    assert value == pytest.approx(min(cover_cost(chosen, due, unchanged, prices, waiting) for chosen in choices))
    assert made.dollars == pytest.approx(0.005 * max(0, units - free))


def cover_cost(chosen: tuple[bool, ...], due: list[int], unchanged: list[int], prices: Prices, waiting: float) -> float:
    """Return what refreshing these directories costs, and then as many files as is best."""
    picked = [name for name, one in zip(NAMES, chosen, strict=True) if one]
    covered = [any(name.startswith(one) for one in picked) for name in NAMES]
    evicted = sum(n for n, one in zip(unchanged, covered, strict=True) if one)
    files = sum(n for n, one in zip(due, covered, strict=True) if not one)
    costs = (prices.cost(len(picked) + n) + waiting * (files - n) for n in range(files + 1))
    return evicted + min(costs)


@settings(max_examples=300, deadline=None)
@given(
    due=st.lists(st.integers(0, 300), min_size=5, max_size=5),
    params=st.integers(0, 9),
    left=st.integers(-5, 1400),
    dollars=st.sampled_from([0.0, 2.0]),
    at=st.floats(0, 30.9 * DAY),
)
def test_no_path_is_spent_twice_and_no_dollar_beyond_the_budget(
    due: list[int], params: int, left: int, dollars: float, at: float
) -> None:
    """Files, directories and all-params refreshes together stay within the paths; without a budget nothing is paid."""
    budget = paths(min(left, 1000 + round(dollars / 0.005)), dollars=dollars)
    loads = [load(name, n, due_all_params=params) for name, n in zip(NAMES, due, strict=True)]
    made = plan(asked(loads, budget, weights=dict.fromkeys(NAMES, 400), now=MONTH + at))
    units = len(made.directories) + sum(f.take for f in made.files)
    spent = budget.limit - budget.left
    assert units <= max(0, budget.left)
    paid = budget.allowance.dollars(spent + units) - budget.allowance.dollars(spent)
    assert made.dollars == pytest.approx(paid, abs=1e-5)
    assert made.dollars == 0.0 or dollars > 0


def test_a_path_is_bought_for_one_page_at_once() -> None:
    """With a budget a changed page does not wait for the end of the month; without one it does, and both say why."""
    page = [load("a/", 1)]
    made = plan(asked(page, paths(2000, dollars=10), weights={"a/": 50, "": 900}))
    assert made.dollars == 0.005
    reason = split_reason(made.files[0].reason)[0]
    assert reason == "Sent by itself for $0.005: no directory refresh costs less."
    none = plan(asked(page, paths(0), weights={"a/": 50, "": 900}))
    assert (none.files, none.dollars) == ([], 0.0)
    decision, numbers = split_reason(none.deferred[0].reason)
    why = "no paths of the month are left (1,000 are free, and none may be paid)"
    assert decision == f"Deferred until 2026-01-01 00:00 UTC: {why}."
    assert "0 paths of the month left, " in numbers


@pytest.mark.parametrize(("left", "kept"), [(0, ""), (1, " beyond the reserve for urgent refreshes")])
def test_the_reserve_is_named_only_where_there_is_one(left: int, kept: str) -> None:
    """Once nothing at all is left, urgent refreshes wait, too."""
    given = asked([load("a/", 1)], paths(left), weights={"a/": 50, "": 900})
    none = plan(replace(given, reserve=0.1))
    assert f"no paths of the month are left{kept} (1,000 are free" in split_reason(none.deferred[0].reason)[0]


def test_a_directory_is_bought_rather_than_many_files() -> None:
    """Four hundred changed files of four hundred and fifty cost one path and fifty evictions, and not two dollars."""
    made = plan(asked([load("a/", 400)], paths(2000, dollars=10), weights={"a/": 450, "": 9000}))
    assert [(d.url, made.dollars) for d in made.directories] == [(SITE + "a/", 0.005)]
    reason = split_reason(made.directories[0].reason)[0]
    assert reason.startswith("One directory refresh for $0.005 replaces 400 file refreshes, and evicts 50 ")


def test_all_params_refreshes_take_the_same_paths() -> None:
    """What costs a path as a file does counts as one: a directory is bought rather than four hundred of them."""
    needs = [load("a/", 0, due_all_params=400)]
    made = plan(asked(needs, paths(2000, dollars=10), weights={"a/": 450, "": 9000}))
    assert ([d.url for d in made.directories], made.dollars) == ([SITE + "a/"], 0.005)


def test_what_waits_for_dear_paths_is_sent_at_last() -> None:
    """While paths are dear a page waits, but no longer than the path is worth in stale hours."""
    question = asked([load("a/", 1)], paths(40), weights={"a/": 5000, "": 9000}, now=MONTH + 3 * DAY)
    assert plan(replace(question, loads=[load("a/", 1, oldest=MONTH + 2.9 * DAY)])).files == []
    assert len(plan(question).files) == 1


def test_the_paths_of_a_month_last_for_the_month() -> None:
    """When six times as much changes as there are paths, some are left on every day, and every day something goes."""
    known, left, sent = Arrivals(), 1000, []
    for hour in range(-31 * 24, 0):
        known = known.seen(MONTH + hour * HOUR, 8)
    waiting: dict[str, tuple[int, float]] = {}
    for hour in range(31 * 24):
        now = MONTH + hour * HOUR
        known = known.seen(now, 8)
        for name in {f"{hour % 7}/", f"{hour % 5}/x/"}:
            due, oldest = waiting.get(name, (0, now))
            waiting[name] = due + 4, oldest
        loads = [load(name, due, oldest=oldest) for name, (due, oldest) in waiting.items()]
        question = replace(asked(loads, paths(left), weights={}, now=now), arrivals=known, weights=lambda _: 300)
        made = plan(question)
        sent.append(len(made.directories) + sum(f.take for f in made.files))
        left -= sent[-1]
        for name in [name for name in waiting if any((SITE + name).startswith(d.url) for d in made.directories)]:
            del waiting[name]
        for f in made.files:
            due, oldest = waiting.pop(f.directory_url.removeprefix(SITE))
            if due > f.take:
                waiting[f.directory_url.removeprefix(SITE)] = due - f.take, oldest
    days = [sum(sent[24 * day : 24 * day + 24]) for day in range(31)]
    assert min(days) > 0
    assert max(days) < 100
    assert 0 <= left < 100


def test_paths_that_are_kept_are_said_to_be() -> None:
    """What waits though paths are left says for how long those must last."""
    busy = Arrivals()
    for n in range(2000):
        busy = busy.seen(MONTH - 30 * DAY + n * 30 * DAY / 2000, 20)
    question = asked([load("a/", 2)], paths(40), weights={"a/": 5000, "": 9000}, now=MONTH + 12 * DAY)
    made = plan(replace(question, arrivals=busy.until(MONTH + 12 * DAY)))
    assert made.files == []
    decision = split_reason(made.deferred[0].reason)[0]
    kept = "the 40 paths of the month that are left have to last for another 19 days"
    assert decision.startswith(f"Deferred until 2026-01-01 00:00 UTC: {kept}.")
    assert made.wake_at is not None
    assert made.wake_at <= MONTH + 12 * DAY + HOUR


def of(kind: RefreshKind, name: str, window: Window, left: int, limit: int) -> Budget:
    """Make an allowance of one kind."""
    return Budget(Allowance(name=name, limit=limit, window=window, costs={kind: 1}), left, window.end(MONTH))


@pytest.mark.parametrize(("day", "month", "sent"), [(10, 500, 10), (90, 7, 7), (0, 500, 0), (90, 0, 0)])
def test_of_several_allowances_the_scarcest_rules(day: int, month: int, sent: int) -> None:
    """A refresh takes a unit of the day and one of the last thirty days, and is not sent without both."""
    budgets = [of(FILE, "files", Day(), day, 100), of(FILE, "monthly files", Rolling(30), month, 500)]
    made = plan(replace(asked([load("a/", 50)], *budgets, weights={"a/": 60, "": 900}), kinds={FILE}))
    assert sum(f.take for f in made.files) == sent
    short = "no monthly files of the last 30 days are left" if month < day else "no files quota left today"
    assert (short in made.deferred[0].reason) == (sent < 50)


def test_a_kind_in_no_allowance_is_unlimited() -> None:
    """Without an allowance for files all go as files, though directories cost nothing either."""
    made = plan(asked([load("a/", 5_000_000)], weights={"a/": 5_000_001, "": 9_000_000}))
    assert [f.take for f in made.files] == [5_000_000]
    assert "unlimited file and unlimited directory refreshes left" in made.files[0].reason
    scarce = plan(asked([load("a/", 50)], of(DIRECTORY, "directory", Day(), 1, 1), weights={"a/": 50, "": 900}))
    assert [f.take for f in scarce.files] == [50]


@given(free=st.integers(0, 1500), paid=st.integers(0, 5000), expected=st.floats(1, 1e6), price=st.floats(0.01, 1e3))
def test_paced_prices_rise_and_paid_units_cost_their_price(free: int, paid: int, expected: float, price: float) -> None:
    """Prices never fall, a paid unit costs its dollars at least, and there are as many units as are left."""
    prices = paced_prices(free, paid, expected, price=price)
    assert prices.limit == free + paid
    assert [p for _, p in prices.steps] == sorted(p for _, p in prices.steps)
    if paid:
        assert prices.highest >= price
    more = paced_prices(free, paid, expected * 2, price=price)
    assert prices.cost(free + paid) <= more.cost(free + paid) + 1e-6
