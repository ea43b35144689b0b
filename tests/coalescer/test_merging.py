"""Two changes of one key become one that says what both said; a need is due when its URL rests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, Fingerprint
from listener.coalescer import due_at, merge
from listener.settings import CoalescerSettings

C, D, M = ChangeKind.CONTENT, ChangeKind.DELETED, ChangeKind.METADATA
SETTINGS = CoalescerSettings(quiet_seconds=1, cap_seconds=30, unfinished_quiet_seconds=5, unfinished_cap_seconds=60)


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [(C, C, C), (C, D, D), (D, C, C), (D, D, D), (M, C, C), (M, D, D), (M, M, M), (C, M, C), (D, M, C)],
)
def test_the_latest_kind_wins_but_headers_undo_nothing(old: ChangeKind, new: ChangeKind, kind: ChangeKind) -> None:
    """The later change reports what the object is; new headers keep new content, and prove that it exists."""
    merged = merge(Change("r", "k", old), Change("r", "k", new, Fingerprint(1)))
    assert (merged.kind, merged.fingerprint) == (kind, Fingerprint(1))


@pytest.mark.parametrize(
    ("old", "new", "kind", "finished"),
    [
        (Change("r", "k", finished=False), Change("r", "k"), C, True),
        (Change("r", "k"), Change("r", "k", finished=False), C, False),
        (Change("r", "k", finished=False), Change("r", "k", M), C, False),
        (Change("r", "k", finished=False), Change("r", "k", D), D, True),
    ],
)
def test_only_the_end_of_a_write_finishes_it(old: Change, new: Change, kind: ChangeKind, finished: bool) -> None:
    """A change of mode or owner during a write does not pass for its end; a deletion does."""
    merged = merge(old, new)
    assert (merged.kind, merged.finished) == (kind, finished)


def test_a_later_change_of_unknown_content_forgets_the_fingerprint() -> None:
    """What is not known of the newest state must not be reported from an older one."""
    assert merge(Change("r", "k", C, Fingerprint(1)), Change("r", "k", C)).fingerprint is None


@pytest.mark.parametrize(
    ("old", "new", "first"), [(2.0, 1.0, 1.0), (1.0, 2.0, 1.0), (None, 3.0, 3.0), (3.0, None, 3.0)]
)
def test_freshness_counts_from_the_first_event(old: float | None, new: float | None, first: float) -> None:
    """The earliest event time stays, whatever the order of arrival."""
    assert merge(Change("r", "k", event_time=old), Change("r", "k", event_time=new)).event_time == first


def test_an_event_that_was_overtaken_does_not_win() -> None:
    """With order tokens the order of the storage counts, not the order of arrival."""
    deleted = Change("r", "k", D, order="0009", event_time=9.0)
    overtaken = Change("r", "k", C, Fingerprint(1), order="0003", event_time=3.0)
    assert merge(deleted, overtaken) == deleted._replace(event_time=3.0, mixed=True)
    assert merge(overtaken, deleted) == deleted._replace(event_time=3.0, mixed=True)


def test_a_token_decides_only_between_changes_that_have_one() -> None:
    """Merged with a change without token, which may be news, an event received before must not make both old news."""
    reported, untold = Change("r", "k", order="0003"), Change("r", "k", M)
    assert merge(reported, untold).order is None
    assert merge(untold, reported).order is None
    assert merge(untold, untold).order is None


@pytest.mark.parametrize(
    ("states", "mixed"), [("AA", False), ("ABA", True), ("AAB", True), ("A-A", True), ("ADA", True), ("??", True)]
)
def test_what_was_something_else_in_between_is_marked_as_mixed(states: str, mixed: bool) -> None:
    """A content, another one and the first again look like nothing happened; a cache may have fetched the other one."""
    etags = {"A": "a", "B": "b", "?": None, "-": "a", "D": None}
    kinds = {"D": D, "-": M}
    changes = [
        Change("r", "k", kinds.get(state, C), Fingerprint(etag=etags[state]), order=f"{at}")
        for at, state in enumerate(states)
    ]
    merged = changes[0]
    for change in changes[1:]:
        merged = merge(merged, change)
    assert merged.mixed is mixed
    assert merged.order == str(len(states) - 1)


TIMES = st.floats(0, 1e6)


@given(TIMES, TIMES, st.booleans())
def test_a_need_is_due_after_quiet_and_never_after_the_cap(first: float, later: float, finished: bool) -> None:
    """Due when it rested, not before, and not later than the cap after its first change."""
    last = first + later
    quiet, cap = (1, 30) if finished else (5, 60)
    due = due_at(first=first, last=last, finished=finished, settings=SETTINGS)
    assert due == min(last + quiet, first + cap)
    assert due <= first + cap


def test_a_hot_file_is_due_at_the_cap() -> None:
    """A file written every half second is due half a minute after its first change."""
    assert due_at(first=100.0, last=129.9, finished=True, settings=SETTINGS) == 130.0
    assert due_at(first=100.0, last=100.0, finished=True, settings=SETTINGS) == 101.0
    assert due_at(first=100.0, last=100.0, finished=False, settings=SETTINGS) == 105.0
