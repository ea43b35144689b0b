"""Windows of time and allowances: when a row begins, which rows count, when units come back, what they cost."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.allowances import Allowance, Day, Month, Rolling, Total, Window, costs_of, is_reset_near
from listener.refresh import RefreshKind

EIGHT_HOURS = 8 * 3600
DAY = 86_400


def at(text: str) -> float:
    """Return a time of UTC in seconds since the epoch."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "now", "start", "end"),
    [
        (Day(), "2026-03-29T00:00:00", "2026-03-29T00:00:00", "2026-03-30T00:00:00"),
        (Day(), "2026-03-29T23:59:59.999", "2026-03-29T00:00:00", "2026-03-30T00:00:00"),
        (Day(EIGHT_HOURS), "2026-03-29T15:59:59", "2026-03-28T16:00:00", "2026-03-29T16:00:00"),
        (Day(EIGHT_HOURS), "2026-03-29T16:00:00", "2026-03-29T16:00:00", "2026-03-30T16:00:00"),
        (Day(-5 * 3600), "2026-03-29T04:59:59", "2026-03-28T05:00:00", "2026-03-29T05:00:00"),
        (Month(), "2026-01-31T23:59:59.999", "2026-01-01T00:00:00", "2026-02-01T00:00:00"),
        (Month(), "2026-02-01T00:00:00", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        (Month(), "2028-02-29T12:00:00", "2028-02-01T00:00:00", "2028-03-01T00:00:00"),
        (Month(), "2027-02-28T23:59:59", "2027-02-01T00:00:00", "2027-03-01T00:00:00"),
        (Month(), "2026-12-31T23:59:59.5", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        (Month(), "2000-02-29T00:00:00", "2000-02-01T00:00:00", "2000-03-01T00:00:00"),
    ],
)
def test_a_calendar_window_begins_and_ends_at_its_own_midnight(window: Window, now: str, start: str, end: str) -> None:
    """A calendar window begins and ends at its own midnight."""
    moment = at(now)
    assert (window.start(moment), window.end(moment)) == (at(start), at(end))
    assert window.first(moment) == window.start(moment)


CALENDARS = st.one_of(st.builds(Day, st.integers(-14 * 3600, 14 * 3600)), st.just(Month()))
MOMENTS = st.floats(0, at("2100-01-01"), allow_nan=False)


@given(CALENDARS, MOMENTS)
def test_a_calendar_window_holds_each_of_its_moments_and_the_next_begins_at_its_end(window: Window, now: float) -> None:
    """A calendar window holds each of its moments and the next begins at its end."""
    start, end = window.start(now), window.end(now)
    assert start <= now < end
    assert window.start(start) == start
    assert window.start(end) == end
    assert window.start(end - 0.001) == start


@given(MOMENTS)
def test_a_month_is_as_long_as_the_calendar_says(now: float) -> None:
    """A month is as long as the calendar says."""
    start, end = Month().start(now), Month().end(now)
    began = datetime.fromtimestamp(start, UTC)
    assert (began.day, began.hour, began.minute, began.second) == (1, 0, 0, 0)
    assert (datetime.fromtimestamp(end, UTC) - timedelta(seconds=1)).month == began.month
    assert 28 * DAY <= end - start <= 31 * DAY


@given(st.integers(1, 60), MOMENTS, st.floats(0, 90 * DAY))
def test_a_rolling_window_counts_whatever_a_cdn_that_counts_by_seconds_counts(
    days: int, now: float, later: float
) -> None:
    """A rolling window counts whatever a cdn that counts by seconds counts."""
    window = Rolling(days)
    counts_there = later < days * DAY
    counts_here = window.first(now + later) <= window.start(now) <= window.start(now + later)
    assert counts_here or not counts_there
    assert not counts_here or later < (days + 1) * DAY


def test_a_rolling_window_gives_units_back_when_its_oldest_day_leaves() -> None:
    """A rolling window gives units back when its oldest day leaves."""
    window, spent = Rolling(30), at("2026-01-05T23:59:59")
    assert window.end(spent) == at("2026-01-06")
    assert window.first(at("2026-02-04T23:59:59")) == window.start(spent)
    assert window.first(window.end(at("2026-02-04T23:59:59"))) > window.start(spent)


def test_a_total_never_comes_back() -> None:
    """A total never comes back."""
    window = Total()
    assert window.start(0) == window.first(5e9) == window.start(5e9) == 0
    assert window.end(5e9) == math.inf


def test_near_the_end_of_a_calendar_window_nobody_knows_where_a_unit_is_counted() -> None:
    """Near the end of a calendar window nobody knows where a unit is counted."""
    midnight = at("2026-12-01")
    assert [is_reset_near(Month(), midnight + off, 15.0) for off in (-15.1, -15, 0, 14.9, 15)] == [
        False, True, True, True, False,
    ]  # fmt: skip
    assert not is_reset_near(Month(), at("2026-11-30"), 15.0)
    assert is_reset_near(Day(), at("2026-11-30"), 15.0)
    assert not is_reset_near(Total(), midnight, 15.0)


def paths(**changes: object) -> Allowance:
    """Return a monthly allowance of two kinds, with a price."""
    values: dict[str, object] = {
        "name": "paths",
        "limit": 3_000,
        "window": Month(),
        "costs": {RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 2},
        "free": 1_000,
        "unit_dollars": 0.005,
    }
    return Allowance(**(values | changes))  # type: ignore[arg-type]


def test_units_beyond_the_free_ones_cost_their_price() -> None:
    """Units beyond the free ones cost their price."""
    assert [paths().dollars(units) for units in (0, 1_000, 1_001, 3_000)] == [0, 0, 0.005, 10.0]
    assert paths().is_paid
    assert not paths(free=None, unit_dollars=0.0).is_paid
    assert paths(free=None, unit_dollars=0.0).dollars(10_000) == 0


def test_a_kind_takes_units_of_each_allowance_that_names_it() -> None:
    """A kind takes units of each allowance that names it."""
    day = paths(name="day", window=Day(), costs={RefreshKind.FILE: 1})
    assert costs_of([paths(), day], RefreshKind.FILE) == {"paths": 1, "day": 1}
    assert costs_of([paths(), day], RefreshKind.DIRECTORY) == {"paths": 2}
    assert costs_of([paths(), day], RefreshKind.PREFETCH) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"limit": -1},
        {"free": -1},
        {"unit_dollars": -0.1},
        {"unit_dollars": math.nan},
        {"unit_dollars": math.inf},
        {"free": None},
        {"costs": {}},
        {"costs": {RefreshKind.FILE: 0}},
    ],
)
def test_an_allowance_that_would_not_count_what_is_spent_is_refused(changes: dict[str, object]) -> None:
    """An allowance that would not count what is spent is refused."""
    with pytest.raises(ValueError, match=r"allowance"):
        paths(**changes)


def test_a_rolling_window_has_a_span() -> None:
    """A rolling window has a span."""
    with pytest.raises(ValueError, match="0 days"):
        Rolling(0)
