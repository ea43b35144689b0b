"""Hours without directory refreshes: by the wall clock of a zone, over midnight and over changes of summer time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from listener.router.hours import closed_until
from listener.router.routing import Sites
from listener.settings import Hours, Site

EVENING, NIGHT = Hours(18 * 60, 23 * 60 + 30), Hours(22 * 60, 6 * 60)


def at(text: str, zone: str = "UTC") -> float:
    """Return a wall clock time of a zone in seconds since the epoch."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-11-22T17:59:59", None),
        ("2026-11-22T18:00:00", "2026-11-23T06:00:00"),
        ("2026-11-22T23:29:59", "2026-11-23T06:00:00"),
        ("2026-11-22T23:30:00", "2026-11-23T06:00:00"),
        ("2026-11-23T05:59:00", "2026-11-23T06:00:00"),
        ("2026-11-23T06:00:00", None),
    ],
)
def test_a_span_holds_its_beginning_and_not_its_end(now: str, until: str | None) -> None:
    """Spans that overlap are one, which ends as the last of them; one may pass midnight."""
    assert closed_until([EVENING, NIGHT], "UTC", at(now)) == (until and at(until))


def test_the_wall_clock_of_the_zone_decides() -> None:
    """Shanghai's evening is London's noon; a night with a change of the clock is an hour shorter or longer."""
    assert closed_until([EVENING], "Asia/Shanghai", at("2026-11-22T10:30:00")) == at("2026-11-22T15:30:00")
    berlin = "Europe/Berlin"
    began = at("2026-03-28T22:00:00", berlin)
    assert closed_until([NIGHT], berlin, began) == at("2026-03-29T06:00:00", berlin) == began + 7 * 3600
    began = at("2026-10-24T22:00:00", berlin)
    assert closed_until([NIGHT], berlin, began) == at("2026-10-25T06:00:00", berlin) == began + 9 * 3600
    assert closed_until([], berlin, began) is None


def test_a_directory_above_a_closed_site_is_closed_too() -> None:
    """It would refresh what lies below it; a neighbour is not."""
    site = Site(source="s", target="cdn", base_urls="http://h/shop/", directory_blackout=["18:00-23:30"])
    closed = Sites([site]).closed(at("2026-11-22T20:00:00"))
    assert closed.until == at("2026-11-22T23:30:00")
    assert [closed.holds(url) for url in ("http://h/", "http://h/shop/", "http://h/shop/a/", "http://h/blog/")] == [
        True,
        True,
        True,
        False,
    ]
    assert Sites([site]).closed(at("2026-11-22T12:00:00")) == ((), None)


@pytest.mark.parametrize("hours", ["18-19", "18:00-24:00", "18:00-18:00", "6:00-7:00", " 18:00-19:00", "18:00-19:60"])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    """With what they should look like."""
    with pytest.raises(ValueError, match=r"18:00-23:30|is empty"):
        Site(source="s", target="cdn", base_urls="http://h/", directory_blackout=[hours])
