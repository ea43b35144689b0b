"""Fresh, stale or unknown, by what an answer says: each rule, and mixed caches of which the truth is known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Fingerprint
from listener.edge.answers import Answer
from listener.edge.caches import Handling
from listener.edge.verdict import Expected, Verdict, judge, worst
from tests.edge.worlds import World, worlds

NOW = 1_800_000_000.0
CHANGED = NOW - 1000
OURS, OTHER = "0" * 32, "1" * 32
HELD = Fingerprint(10, int(CHANGED * 1e9), etag=OURS)
PLAIN = Fingerprint(10, int(CHANGED * 1e9))
GONE = Expected(HELD, is_deleted=True, changed_at=CHANGED)


def state(held: Fingerprint, answer: Answer, **more: object) -> str:
    """Return what one answer is taken for, of an object that changed when it was modified."""
    return judge(Expected(held, changed_at=CHANGED), answer, now=NOW, **more).state  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("held", "answer", "expected"),
    [
        # status
        (HELD, Answer(404), "stale"),
        (HELD, Answer(410, age_seconds=5000), "stale"),
        (HELD, Answer(301), "unknown"),
        (HELD, Answer(403), "unknown"),
        (HELD, Answer(503, tag=OURS), "unknown"),
        (HELD, Answer(304, tag=OURS), "unknown"),
        (HELD, Answer(416, length=0), "stale"),
        (HELD, Answer(416, length=10), "unknown"),
        (Fingerprint(0), Answer(416, length=0), "unknown"),
        # tags
        (HELD, Answer(200, tag=OURS), "fresh"),
        (HELD, Answer(206, tag=OURS, length=10), "fresh"),
        (HELD, Answer(200, tag=OURS, is_weak=True, is_encoded=True), "fresh"),
        (HELD, Answer(200, tag=f"{OURS}-gzip", is_encoded=True), "fresh"),
        (HELD, Answer(200, tag=f"{OURS}--gzip", is_encoded=True), "fresh"),
        (HELD, Answer(200, tag=f"{OURS}-br", is_weak=True, is_encoded=True), "fresh"),
        (HELD, Answer(200, tag=f"{OURS};gzip", is_encoded=True), "fresh"),
        (HELD, Answer(304, matched=OURS), "fresh"),
        (HELD, Answer(304, matched=OTHER), "unknown"),
        (HELD, Answer(304, matched=OURS, tag=OTHER), "unknown"),
        (HELD, Answer(304, matched=OURS, age_seconds=5000), "stale"),
        (HELD, Answer(200, tag=OTHER), "stale"),
        (HELD, Answer(200, tag=OTHER, modified_at=CHANGED, length=10), "stale"),
        (HELD, Answer(200, tag=OTHER, modified_at=CHANGED, length=10, age_seconds=5), "unknown"),
        (HELD, Answer(200, tag=OTHER, modified_at=CHANGED, length=10, age_seconds=1000), "stale"),
        (HELD, Answer(200, tag=OTHER, is_weak=True), "unknown"),
        (HELD, Answer(200, tag=OTHER, is_encoded=True), "unknown"),
        (HELD, Answer(200, tag=f"{OTHER}-5"), "unknown"),
        (HELD, Answer(200, tag="65f-a", modified_at=CHANGED, length=10), "fresh"),
        # a copy from before the change is stale whatever it contains
        (HELD, Answer(200, tag=OURS, age_seconds=5000), "stale"),
        (HELD, Answer(200, tag=OURS, modified_at=CHANGED, age_seconds=5000), "fresh"),
        (HELD, Answer(200, tag=OURS, age_seconds=1001), "fresh"),
        # length
        (PLAIN, Answer(200, modified_at=CHANGED, length=11), "stale"),
        (Fingerprint(3), Answer(200, length=4), "stale"),
        (Fingerprint(3), Answer(200, length=3), "unknown"),
        # Last-Modified
        (PLAIN, Answer(200, modified_at=CHANGED - 1), "stale"),
        (PLAIN, Answer(200, modified_at=CHANGED), "fresh"),
        (PLAIN, Answer(200, modified_at=CHANGED, length=10, age_seconds=5), "fresh"),
        (PLAIN, Answer(200, modified_at=CHANGED, length=10, age_seconds=1000), "unknown"),
        (PLAIN, Answer(200, modified_at=CHANGED + 1), "fresh"),
        (PLAIN, Answer(200, modified_at=CHANGED + 500), "unknown"),
        # Age and Date
        (PLAIN, Answer(200, age_seconds=2000), "stale"),
        (PLAIN, Answer(200, age_seconds=1003), "stale"),
        (PLAIN, Answer(200, age_seconds=1002), "unknown"),
        (PLAIN, Answer(200, age_seconds=10), "unknown"),
        (PLAIN, Answer(200, modified_at=CHANGED + 500, age_seconds=2000), "stale"),
        (PLAIN, Answer(200, date_at=CHANGED - 61), "stale"),
        (PLAIN, Answer(200, date_at=CHANGED - 59), "unknown"),
        (PLAIN, Answer(200, date_at=CHANGED - 61, age_seconds=5), "unknown"),
        (PLAIN, Answer(200, date_at=CHANGED - 61, handling=Handling.MISS), "unknown"),
        # nothing
        (PLAIN, Answer(200), "unknown"),
        (Fingerprint(), Answer(200, tag="x", modified_at=NOW, length=3), "unknown"),
    ],
)
def test_what_visitors_should_get(held: Fingerprint, answer: Answer, expected: str) -> None:
    """One row or more a rule; what cannot be decided is unknown, and never fresh."""
    assert state(held, answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(404), "fresh"),
        (Answer(410, age_seconds=5000), "fresh"),
        (Answer(302), "unknown"),
        (Answer(500), "unknown"),
        (Answer(304), "unknown"),
        (Answer(200), "stale"),
        (Answer(206, tag=OURS, age_seconds=5), "stale"),
        (Answer(304, matched=OURS), "stale"),
        (Answer(200, modified_at=CHANGED, length=10, is_page=True), "stale"),
        (Answer(200, is_page=True), "unknown"),
        (Answer(200, is_page=True, age_seconds=2000), "stale"),
        (Answer(200, age_seconds=10), "unknown"),
    ],
)
def test_what_was_deleted(answer: Answer, expected: str) -> None:
    """The status counts; a site that answers every URL is not taken for stale."""
    assert judge(GONE, answer, now=NOW).state == expected


def test_a_deletion_that_others_show() -> None:
    """The origin, or the edge itself for a name that never was."""
    page = Answer(200, is_page=True, age_seconds=10)
    assert judge(GONE, page, now=NOW, origin=Answer(404)).state == "stale"
    assert judge(GONE, page, now=NOW, origin=Answer(200)).state == "unknown"
    assert judge(GONE, page, now=NOW, absent=Answer(404)).state == "stale"
    assert judge(GONE, page, now=NOW, absent=Answer(200)).state == "unknown"


def test_nothing_known() -> None:
    """Of neither the object nor its deletion."""
    assert judge(Expected(), Answer(200, tag=OURS), now=NOW).state == "unknown"


def test_a_time_in_the_future_says_nothing() -> None:
    """Neither of the change nor of the file: servers shorten it to the present."""
    ahead = Fingerprint(10, int((NOW + 50) * 1e9))
    assert judge(Expected(ahead, changed_at=NOW + 50), Answer(200, modified_at=NOW), now=NOW).state == "unknown"
    assert judge(Expected(ahead, changed_at=NOW + 50), Answer(200, age_seconds=5), now=NOW).state == "unknown"


def test_a_time_that_the_change_left_as_it_was() -> None:
    """Proves nothing; a copy from before the change is stale all the same."""
    same = Expected(PLAIN, changed_at=NOW - 100, validators_advanced=False)
    assert judge(same, Answer(200, modified_at=CHANGED, length=10), now=NOW).state == "unknown"
    assert judge(same, Answer(200, modified_at=CHANGED, length=10, age_seconds=500), now=NOW).state == "stale"
    kept = Expected(PLAIN, changed_at=NOW - 100)  # as rsync leaves it
    assert judge(kept, Answer(200, modified_at=CHANGED, length=10, age_seconds=500), now=NOW).state == "stale"
    assert judge(kept, Answer(200, modified_at=CHANGED, length=10, age_seconds=50), now=NOW).state == "fresh"


def test_two_versions_of_one_second() -> None:
    """A copy from the very second of the change is proof only where it surely was fetched after the change."""
    answer = Answer(200, modified_at=CHANGED, length=10, age_seconds=998)  # fetched 1 to 2 s after the whole second
    for part, expected in ((0.0, "fresh"), (0.5, "fresh"), (0.999, "fresh")):
        held = Fingerprint(10, int((CHANGED + part) * 1e9))
        assert judge(Expected(held, changed_at=CHANGED + part), answer, now=NOW).state == expected
    answer = answer._replace(age_seconds=999)  # fetched 0 to 1 s after it
    for part in (0.0, 0.5, 0.999):
        held = Fingerprint(10, int((CHANGED + part) * 1e9))
        assert judge(Expected(held, changed_at=CHANGED + part), answer, now=NOW).state == "unknown"
    held = Fingerprint(10, int((CHANGED + 0.3) * 1e9))
    assert judge(Expected(held, changed_at=CHANGED + 0.3), answer, now=NOW + 0.4).state == "fresh"


def test_what_is_known_may_be_old() -> None:
    """Then what is later is unknown, by its tag and length; a copy from before the change is stale all the same."""
    behind = Expected(HELD, changed_at=CHANGED, may_be_behind=True)
    later = Answer(200, tag=OTHER, modified_at=CHANGED + 50, length=11)
    assert judge(behind, later, now=NOW).state == "unknown"
    assert judge(behind._replace(may_be_behind=False), later, now=NOW).state == "stale"
    assert judge(behind, later._replace(age_seconds=5000), now=NOW).state == "stale"
    assert judge(behind, later._replace(tag=OURS), now=NOW).state == "fresh"
    assert judge(behind, later._replace(modified_at=CHANGED - 50), now=NOW).state == "stale"


def test_the_tag_of_an_origin_that_serves_the_change() -> None:
    """Counts as the storage's; of an origin that serves the old copy, or of which nothing is known, it does not."""
    edge = Answer(200, tag="w-7", is_encoded=True)
    assert state(PLAIN, edge) == "unknown"
    assert state(PLAIN, edge, origin=Answer(200, tag="w-7", modified_at=CHANGED)) == "fresh"
    assert state(PLAIN, edge, origin=Answer(200, tag="w-7", modified_at=CHANGED - 9)) == "unknown"
    assert state(PLAIN, edge, origin=Answer(200, tag="w-7")) == "unknown"
    assert state(PLAIN, edge, origin=Answer(200, tag="w-8", modified_at=CHANGED)) == "unknown"


def test_other_variants_are_named() -> None:
    """What is fresh is so for the variant that was requested; the one by compression was requested."""
    fresh = Answer(200, tag=OURS, vary=("accept-encoding", "cookie"))
    assert judge(Expected(HELD), fresh, now=NOW).reason.endswith("(Vary: cookie)")
    assert "Vary" not in judge(Expected(HELD), fresh._replace(vary=("accept-encoding",)), now=NOW).reason


def test_a_redirect_is_named() -> None:
    """With where it leads."""
    moved = Answer(301, evidence=(("location", "/b"),))
    assert judge(Expected(HELD), moved, now=NOW).reason == "answers 301, a redirect to /b, which is not followed"


def test_the_worst_of_several_variants() -> None:
    """One stale variant makes a URL stale, one unknown makes it unknown."""
    fresh, stale, unknown = (Verdict(name, "") for name in ("fresh", "stale", "unknown"))
    assert worst([fresh, stale, unknown]) == stale
    assert worst([fresh, unknown]) == unknown
    assert worst([fresh, fresh]) == fresh


@given(worlds())
def test_no_verdict_is_false(world: World) -> None:
    """Whatever the caches do: what is called stale is, and what is called fresh is."""
    verdict = world.judged()
    assert verdict.state in world.allowed(), (verdict, world)


def test_a_hundred_thousand_answers() -> None:
    """None that is fresh is called stale; what shows that it is old is found; each unknown has a reason."""
    counted = {(truth, found): 0 for truth in ("fresh", "stale") for found in ("fresh", "stale", "unknown")}
    for number in range(100_000):
        world = World.drawn(number)
        verdict = world.judged()
        assert verdict.reason
        counted[world.truth, verdict.state] += 1
    assert counted["fresh", "stale"] == counted["stale", "fresh"] == 0, counted
    assert counted["stale", "stale"] > 5 * counted["stale", "unknown"]
    assert counted["fresh", "fresh"] > 2 * counted["fresh", "unknown"]


@given(
    st.builds(
        Answer,
        st.integers(100, 599),
        st.none() | st.text(max_size=8),
        st.booleans(),
        st.none() | st.floats(0, 4e9),
        st.none() | st.integers(0, 100),
        st.none() | st.integers(0, 2**31 - 2),
        st.none() | st.floats(0, 4e9),
    ),
    st.builds(
        Expected,
        st.none() | st.builds(Fingerprint, st.none() | st.integers(0, 99), st.none() | st.integers(0, 4 * 10**18)),
        st.booleans(),
        st.none() | st.floats(0, 4e9),
        st.booleans(),
    ),
)
def test_any_answer_has_a_verdict(answer: Answer, expected: Expected) -> None:
    """And a reason; nothing raises."""
    verdict = judge(expected, answer, now=NOW)
    assert verdict.state in ("fresh", "stale", "unknown")
    assert verdict.reason
