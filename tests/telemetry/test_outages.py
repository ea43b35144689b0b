"""A failure that lasts is logged when it begins, ever more rarely meanwhile, and when it ends."""

from __future__ import annotations

from itertools import pairwise

from listener.telemetry.outages import FIRST_SECONDS, MOST_REASONS, MOST_SECONDS, Outage


class Clock:
    """Seconds that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def logged_at(outage: Outage, clock: Clock, seconds: int, reason: str = "refused") -> list[int]:
    """Fail each second; return after how many it was to be logged."""
    found = []
    begin = clock.now
    for second in range(seconds):
        clock.now = begin + second
        if outage.is_to_be_logged(reason):
            found.append(second)
    return found


def test_the_distances_grow_to_an_hour() -> None:
    """A day of one failure a second is some thirty lines."""
    clock = Clock()
    lines = logged_at(Outage(clock), clock, 24 * 3600)
    distances = [later - earlier for earlier, later in pairwise(lines)]
    assert lines[0] == 0
    assert distances[:3] == [FIRST_SECONDS, 2 * FIRST_SECONDS, 4 * FIRST_SECONDS]
    assert distances == sorted(distances)
    assert distances[-1] == MOST_SECONDS
    assert len(lines) < 35


def test_another_reason_is_logged_at_once_within_a_bound() -> None:
    """A server that comes up says other things; one that says another thing each time fills no disk."""
    clock = Clock()
    outage = Outage(clock)
    assert logged_at(outage, clock, 10) == [0]
    assert logged_at(outage, clock, 10, "starting up") == [0]
    assert logged_at(outage, clock, 10) == []
    times = sum(outage.is_to_be_logged(f"reason {number}") for number in range(1000))
    assert times == MOST_REASONS - 2


def test_the_end_says_how_long_it_was_and_the_next_starts_from_the_beginning() -> None:
    """Without a failure there is no end."""
    clock = Clock()
    outage = Outage(clock)
    assert outage.end() is None
    logged_at(outage, clock, 301)
    assert outage.end() == 300.0
    assert outage.end() is None
    assert logged_at(outage, clock, 61) == [0, 60]
