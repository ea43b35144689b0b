"""Blackout hours on days when the clock of the zone is put on or back: what it shows decides, minute by minute."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from listener.planner import Arrivals
from listener.router.hours import LOOK_AHEAD_SECONDS, closed_until
from listener.settings import Hours

ZONES = (
    "UTC",
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",  # put on by half an hour
    "America/Sao_Paulo",  # until 2018 midnight itself was left out
    "Asia/Beirut",  # midnight is left out in spring, and comes twice in autumn
    "Africa/Casablanca",  # put back for a month of each year
    "Pacific/Apia",  # left out the whole of 30 December 2011
    "Asia/Kathmandu",
)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
NIGHT = Hours(60, 150)
"""From 01:00 to 02:30: ends within the hour that Berlin leaves out, and has twice."""


def at(text: str, zone: str, *, second: bool = False) -> float:
    """Return a wall clock time of a zone in seconds since the epoch; the second one where it comes twice."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=int(second)).timestamp()


def shows(spans: list[Hours], zone: str, now: float) -> bool:
    """Return whether the clock of the zone shows a time in one of the spans: the definition, naively."""
    local = datetime.fromtimestamp(now, ZoneInfo(zone))
    return any(span.holds(local.hour * 60 + local.minute) for span in spans)


def switches(zone: str) -> list[float]:
    """Return when the clock of the zone was or will be put on or back from 2008 to 2028, to the hour."""
    place, found = ZoneInfo(zone), []
    hours = range(int(at("2008-01-01", "UTC")), int(at("2028-01-01", "UTC")), int(DAY))
    offsets = [datetime.fromtimestamp(hour, place).utcoffset() for hour in hours]
    for number, start in enumerate(hours[:-1]):
        if offsets[number] != offsets[number + 1]:
            found.append(float(start))
    return found or [float(hours[0])]


SWITCHES = {zone: switches(zone) for zone in ZONES}


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, float]:
    """Draw a zone and a moment, mostly near a change of its clock."""
    zone = draw(st.sampled_from(ZONES))
    near = draw(st.sampled_from(SWITCHES[zone]))
    return zone, near + draw(st.floats(-DAY, 2 * DAY, allow_nan=False)) // 0.125 * 0.125


minutes = st.integers(0, 24 * 60 - 1)
spans_drawn = st.lists(
    st.tuples(minutes, minutes).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Hours(*pair)), max_size=4
)


@given(moments(), spans_drawn)
@example(("Europe/Berlin", at("2026-10-25T02:10", "Europe/Berlin", second=True)), [NIGHT])
@example(("Europe/Berlin", at("2026-03-29T01:30", "Europe/Berlin")), [NIGHT])
@example(("Pacific/Apia", at("2011-12-29T23:30", "Pacific/Apia")), [Hours(23 * 60, 60)])
def test_a_blackout_is_what_the_clock_shows(moment: tuple[str, float], spans: list[Hours]) -> None:
    """
    It lasts from now until the first second outside, no minute longer or shorter, and that lies ahead.

    Spans that leave no minute of the day are the exception: it is looked again two days ahead, not never.
    """
    zone, now = moment
    until = closed_until(spans, zone, now)
    assert (until is None) == (not shows(spans, zone, now))
    if until is None:
        return
    assert until > now
    steps = [now, *(now // MINUTE * MINUTE + MINUTE * n for n in range(1, int((until - now) // MINUTE) + 1))]
    assert all(shows(spans, zone, step) for step in steps if step < until)
    assert shows(spans, zone, until - 0.001) or until - 0.001 < now
    if shows(spans, zone, until):
        assert until - now > LOOK_AHEAD_SECONDS
        assert until - now <= LOOK_AHEAD_SECONDS + 2 * DAY
        covered = {minute for minute in range(24 * 60) if any(span.holds(minute) for span in spans)}
        assert len(covered) == 24 * 60


def test_a_span_that_ends_in_the_hour_that_is_left_out_ends_as_that_begins() -> None:
    """At two o'clock Berlin's clock shows three: half an hour before half past two would have been."""
    berlin = "Europe/Berlin"
    assert closed_until([NIGHT], berlin, at("2026-03-29T01:30", berlin)) == at("2026-03-29T03:00", berlin)


def test_a_span_that_ends_in_the_hour_that_comes_twice_ends_twice() -> None:
    """The second time it is not over for half an hour, and never lies behind."""
    berlin = "Europe/Berlin"
    assert closed_until([NIGHT], berlin, at("2026-10-25T02:10", berlin)) == at("2026-10-25T02:30", berlin)
    assert closed_until([NIGHT], berlin, at("2026-10-25T02:40", berlin)) is None
    again = at("2026-10-25T02:10", berlin, second=True)
    assert closed_until([NIGHT], berlin, again) == at("2026-10-25T02:30", berlin, second=True) == again + 20 * MINUTE


def test_half_an_hour_is_enough_for_lord_howe() -> None:
    """Its clock is put on and back by thirty minutes, at two o'clock."""
    lord_howe, span = "Australia/Lord_Howe", [Hours(60, 135)]
    began = at("2026-10-04T01:00", lord_howe)
    assert closed_until(span, lord_howe, began) == began + HOUR
    began = at("2026-04-05T01:00", lord_howe)
    assert closed_until(span, lord_howe, began) == began + 105 * MINUTE  # half past one comes again


def test_a_midnight_that_is_left_out_ends_the_day_before() -> None:
    """São Paulo's clock went from 23:59 to 01:00; Apia's left out a day."""
    paulo = "America/Sao_Paulo"
    began = at("2018-11-03T22:00", paulo)
    assert closed_until([Hours(22 * 60, 30)], paulo, began) == began + 2 * HOUR
    apia = "Pacific/Apia"
    began = at("2011-12-29T23:00", apia)
    assert closed_until([Hours(23 * 60, 60)], apia, began) == at("2011-12-31T01:00", apia) == began + 2 * HOUR


@pytest.mark.parametrize("zone", ZONES)
def test_hours_that_fill_the_day_are_looked_at_again(zone: str) -> None:
    """Nothing opens, and nothing is searched for ever."""
    always = [Hours(0, 12 * 60), Hours(12 * 60, 0)]
    for switch in SWITCHES[zone]:
        until = closed_until(always, zone, switch)
        assert until is not None
        assert LOOK_AHEAD_SECONDS < until - switch <= LOOK_AHEAD_SECONDS + DAY


@given(moments(), st.lists(st.floats(0, 3 * DAY), max_size=30))
def test_arrivals_by_hour_know_no_short_or_long_days(moment: tuple[str, float], later: list[float]) -> None:
    """Hours are learned in UTC: any 24 of them hold each hour once, so the mean of a day is one on every day."""
    _, now = moment
    memory = Arrivals()
    for wait in sorted(later):
        memory = memory.seen(now + wait, 1)
    end = now + max(later, default=0.0)
    assert memory.busyness(end, end + DAY) == pytest.approx(1.0)
    assert sum(memory.by_hour) == pytest.approx(memory.arrivals)
