"""What a look at a task means: complete, failed, unconfirmed, or look again."""

from __future__ import annotations

import pytest

from listener.contracts import Pace
from listener.pipeline.outcomes import Complete, Failed, LookAgain, Unconfirmed, verdict
from listener.refresh import Attempt, AttemptState, RefreshKind, Task, TaskState
from listener.settings import VerifierSettings

NOW = 1_800_000_000.0
SETTINGS = VerifierSettings()


def attempt(age: float, **fields: object) -> Attempt:
    """Return an accepted attempt of this age in seconds."""
    given: dict[str, object] = {
        "id": 1, "target": "cdn", "kind": RefreshKind.FILE, "url": "https://h/a", "force": True, "watermark": 1,
        "state": AttemptState.ACCEPTED, "task_id": "7", "accepted_at": NOW - age, **fields,
    }  # fmt: skip
    return Attempt(**given)  # type: ignore[arg-type]


def task(state: TaskState, **fields: str) -> Task:
    """Return a task in this state."""
    return Task("7", "https://h/a", RefreshKind.FILE, state, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("age", [1, 4000, 10**7])
def test_complete_is_complete_however_late(age: float) -> None:
    """A task that is done settles its attempt, also when nobody believed in it any more."""
    assert verdict(attempt(age), task(TaskState.COMPLETE), now=NOW, settings=SETTINGS) == Complete()


def test_a_failed_task_is_tried_again_with_growing_waits_and_not_for_ever() -> None:
    """The wait doubles from a minute to an hour; the eighth failure in a row is the last."""
    found = [
        verdict(attempt(90, tries=tries), task(TaskState.FAILED), now=NOW, settings=SETTINGS) for tries in range(1, 9)
    ]
    assert all(isinstance(one, Failed) for one in found)
    assert [one.retry_at - NOW for one in found if isinstance(one, Failed)] == [
        60,
        120,
        240,
        480,
        960,
        1920,
        3600,
        3600,
    ]
    assert [one.again for one in found if isinstance(one, Failed)] == [True] * 7 + [False]


def test_looks_come_after_one_minute_around_five_and_then_more_rarely() -> None:
    """From one look to the next the age grows by half, at least the interval and at most ten minutes."""
    age, ages = SETTINGS.first_seconds, []
    while age < SETTINGS.give_up_seconds:
        ages.append(round(age))
        found = verdict(attempt(age), task(TaskState.REFRESHING), now=NOW, settings=SETTINGS)
        assert isinstance(found, LookAgain)
        age += found.at - NOW
    assert ages == [60, 90, 135, 202, 304, 456, 683, 1025, 1538, 2138, 2738, 3338]


@pytest.mark.parametrize("seen", [None, task(TaskState.PENDING), task(TaskState.REFRESHING, progress="99%")])
def test_an_unfinished_task_is_unconfirmed_after_an_hour(seen: Task | None) -> None:
    """Absent, pending or running for an hour: reported, with what the CDN says, and looked at every half hour."""
    found = verdict(attempt(3600), seen, now=NOW, settings=SETTINGS)
    assert isinstance(found, Unconfirmed)
    assert found.next_look_at == NOW + 1800
    assert "60 minutes" in found.error


def test_beyond_the_memory_of_the_cdn_nobody_looks_any_more() -> None:
    """The task list reaches back three days; then the attempt stays unconfirmed until a person or a change decides."""
    found = verdict(attempt(3 * 86400), None, now=NOW, settings=SETTINGS)
    assert isinstance(found, Unconfirmed)
    assert found.next_look_at is None


def test_a_target_may_have_a_pace_of_its_own() -> None:
    """It goes before the settings, for the wait between looks and for how long the CDN knows a task."""
    pace = Pace(interval_seconds=5.0, history_seconds=7200.0)
    found = verdict(attempt(4), None, now=NOW, settings=SETTINGS, pace=pace)
    assert found == LookAgain(NOW + 5)
    late = verdict(attempt(7300), None, now=NOW, settings=SETTINGS, pace=pace)
    assert isinstance(late, Unconfirmed)
    assert late.next_look_at is None
