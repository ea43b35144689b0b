"""Which attempts share a request, and when an account may be sent to."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.allowances import ALIBABA_DAY, Allowance, Day, Month, Total, for_each_kind
from listener.contracts import Check, KindLimits, Pace, TargetBase
from listener.pipeline.accounts import RESET_GUARD_SECONDS, Account
from listener.pipeline.sender import into_batches, split
from listener.refresh import Attempt, Receipt, RefreshKind
from listener.urls import host_of

NOON = ALIBABA_DAY.start(1_800_000_000.0) + 12 * 3600.0


def attempts(urls: list[str]) -> list[Attempt]:
    """Return an attempt for each URL."""
    return [
        Attempt(id=number, target="cdn", kind=RefreshKind.FILE, url=url, force=True, watermark=1)
        for number, url in enumerate(urls)
    ]


@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(1, 200)), max_size=300),
    st.integers(1, 40),
    st.integers(1, 10),
    st.none() | st.integers(300, 3000),
)
def test_batches_hold_everything_once_within_every_limit(
    made: list[tuple[int, int]], urls: int, domains: int, size: int | None
) -> None:
    """Whatever is queued goes out exactly once, and no request breaks a limit."""
    limits = KindLimits(batch_urls=urls, batch_places=domains, batch_bytes=size)
    queued = attempts([f"https://h{host}.test/{'x' * length}" for host, length in made])
    batches = list(into_batches(queued, limits))
    assert sorted(one for batch in batches for one in batch.ids) == [one.id for one in queued]
    for batch in batches:
        assert 1 <= len(batch.attempts) <= urls
        assert len({host_of(url) for url in batch.urls}) <= domains
        encoded = sum(len(url.replace(":", "%3A").replace("/", "%2F")) for url in batch.urls)
        assert size is None or len(batch.attempts) == 1 or encoded <= size


def test_a_busy_host_has_requests_of_its_own() -> None:
    """A host with many URLs makes no other host wait for its limits; hosts with few share a request."""
    queued = attempts([f"https://busy.test/{n}" for n in range(60)] + ["https://a.test/1", "https://b.test/1"])
    hosts = [{host_of(url) for url in batch.urls} for batch in into_batches(queued, KindLimits(1000, 10))]
    assert hosts == [{"a.test", "b.test"}, {"busy.test"}]


def test_a_request_is_of_one_place_unless_the_limits_say_otherwise() -> None:
    """What a place is the target says: hosts of one zone share a request, two zones never do."""
    queued = attempts(["https://a.one.test/1", "https://b.one.test/1", "https://a.two.test/1"])
    zones = list(into_batches(queued, KindLimits(1000), place=lambda url: host_of(url).partition(".")[2]))
    assert [batch.ids for batch in zones] == [[0, 1], [2]]
    assert [batch.ids for batch in into_batches(queued, KindLimits(1000))] == [[0], [1], [2]]


def test_a_request_that_is_sent_again_has_its_urls_in_the_same_order() -> None:
    """That of the attempts, whatever the order of places."""
    queued = attempts([f"https://{host}.test/{n}" for n in range(3) for host in "ab"])
    (batch,) = into_batches(queued, KindLimits(1000, 10))
    assert batch.ids == [0, 1, 2, 3, 4, 5]


@given(st.integers(2, 1000))
def test_halves_are_the_whole(count: int) -> None:
    """Splitting loses nothing and both halves are smaller."""
    (whole,) = into_batches(attempts([f"https://h/{n}" for n in range(count)]), KindLimits(batch_urls=1000))
    left, right = split(whole)
    assert left.attempts + right.attempts == whole.attempts
    assert 0 < len(left.attempts) < count


class Unlimited(TargetBase):
    """A target without a daily quota that takes two requests at once."""

    limits: ClassVar = {RefreshKind.FILE: KindLimits(1)}
    pace = Pace(lanes=2)

    async def submit(self, kind: RefreshKind, urls: Sequence[str], *, force: bool, token: str) -> Receipt:
        raise NotImplementedError

    async def check(self) -> Sequence[Check]:
        raise NotImplementedError


def account(*allowances: Allowance) -> Account:
    """Return an account with these allowances, by default a daily quota from 00:00 UTC+8."""
    target = Unlimited("cdn", None)
    target.pace = Pace()
    target.allowances = allowances or for_each_kind({RefreshKind.FILE: 100}, ALIBABA_DAY)
    return Account("main", {"cdn": target})


@pytest.mark.parametrize("before", [-RESET_GUARD_SECONDS + 0.5, -0.001, 0.0, 3.0, RESET_GUARD_SECONDS - 0.5])
def test_nothing_is_sent_around_the_reset(before: float) -> None:
    """Within the guard before and after 00:00 UTC+8 the account opens only when the guard is over."""
    reset = ALIBABA_DAY.start(NOON) + 86400.0
    assert account().open_at(reset + before) == reset + RESET_GUARD_SECONDS
    assert account().open_at(reset + RESET_GUARD_SECONDS) == reset + RESET_GUARD_SECONDS
    assert account().open_at(NOON) == NOON


def test_the_guard_regards_every_allowance_that_has_a_reset() -> None:
    """A month and a day that end together are waited for once; a rolling day and what is never reset have their own."""
    month = Allowance(name="month", limit=1, window=Month(), costs={RefreshKind.FILE: 1})
    total = Allowance(name="total", limit=1, window=Total(), costs={RefreshKind.FILE: 1})
    new_year = Month().end(NOON)
    for one in (account(month), account(month, total), account(month, *for_each_kind({RefreshKind.FILE: 1}, Day()))):
        assert one.open_at(new_year - 1.0) == new_year + RESET_GUARD_SECONDS
        assert one.is_near_reset(new_year)
    assert account(total).open_at(new_year) == new_year
    assert account(total).next_reset(new_year) == math.inf
    assert account(month).open_at(new_year - 86_400.0) == new_year - 86_400.0
    both, midnight = account(month, *for_each_kind({RefreshKind.FILE: 1}, Day())), new_year - 86_400.0
    assert both.is_near_reset(midnight)
    assert both.open_at(midnight - 1.0) == midnight + RESET_GUARD_SECONDS


@pytest.mark.parametrize(("seconds", "answers"), [(44.9, False), (45.1, True)])
def test_what_may_be_counted_late_is_not_begun_before_the_reset(seconds: float, answers: bool) -> None:
    """Where no live quota corrects the ledger, an answer that may take half a minute must be there before it."""
    one = account()
    one.any_target.pace = Pace(answer_seconds=30.0)
    reset = ALIBABA_DAY.start(NOON) + 86400.0
    assert (one.open_at(reset - seconds) == reset - seconds) is answers
    assert one.is_near_reset(reset - seconds) is not answers
    assert one.open_at(reset - 1.0) == one.open_at(reset + 1.0) == reset + RESET_GUARD_SECONDS


def test_an_exhausted_allowance_closes_the_kinds_that_spend_it() -> None:
    """For a time that doubles, until one of them succeeds; another allowance is not concerned."""
    both = Allowance(name="both", limit=9, window=Day(), costs={RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 1})
    own = Allowance(name="own", limit=9, window=Day(), costs={RefreshKind.PREFETCH: 1})
    one = account(both, own)
    assert one.exhausted(["both"], NOON) == 1.0
    assert one.exhausted(["both"], NOON + 1.0) == 2.0
    for kind in (RefreshKind.FILE, RefreshKind.DIRECTORY):
        assert one.closed_until_for(kind) == NOON + 3.0
    assert one.closed_until_for(RefreshKind.PREFETCH) == 0.0
    assert one.is_exhausted(both, NOON + 2.0)
    assert not one.is_exhausted(own, NOON + 2.0)
    one.record_success(RefreshKind.DIRECTORY)
    assert one.closed_until_for(RefreshKind.FILE) == 0.0


def test_of_limits_that_differ_the_lowest_counts() -> None:
    """Targets of one account spend the same; what one of them can do costs what that one says."""
    one, other = (account(Allowance(name="both", limit=n, window=Day(), costs={kind: 1})) for n, kind in LIMITS)
    merged = Account("main", {"one": one.any_target, "other": other.any_target})
    (found,) = merged.allowances
    assert (found.limit, dict(found.costs)) == (3, {RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 1})
    for costs in ((1, 2), (2, 1)):
        two = [account(Allowance(name="n", limit=9, window=Day(), costs={RefreshKind.FILE: n})) for n in costs]
        (found,) = Account("main", {str(n): one.any_target for n, one in enumerate(two)}).allowances
        assert found.costs == {RefreshKind.FILE: 2}


LIMITS = ((9, RefreshKind.FILE), (3, RefreshKind.DIRECTORY))


def test_what_was_reserved_in_a_window_that_is_over_is_past() -> None:
    """Of several allowances one is enough; what is unlimited is never past."""
    month = Allowance(name="month", limit=1, window=Month(), costs={RefreshKind.FILE: 1})
    daily = for_each_kind({RefreshKind.FILE: 1}, Day())
    next_day = Day().end(NOON)
    assert account(month, *daily).is_past(RefreshKind.FILE, NOON, next_day)
    assert not account(month, *daily).is_past(RefreshKind.FILE, NOON, next_day - 1.0)
    assert not account(month).is_past(RefreshKind.FILE, NOON, next_day)
    assert account(month).is_past(RefreshKind.FILE, NOON, Month().end(NOON))
    assert not account(month).is_past(RefreshKind.PREFETCH, NOON, Month().end(NOON))


def test_an_account_without_a_daily_quota_knows_no_reset() -> None:
    """No CDN books its requests in a day."""
    reset = ALIBABA_DAY.start(NOON) + 86400.0
    one = Account("edge", {"edge": Unlimited("edge", None)})
    assert one.open_at(reset) == reset
    assert not one.is_near_reset(reset)


def test_the_target_says_how_many_requests_are_under_way_at_once() -> None:
    """Of several that which takes most; a backfill never takes every lane but the only one."""
    one = Account("edge", {"edge": Unlimited("edge", None)})
    assert (one.lanes, one._slots._value, one._backfill_slots._value) == (2, 2, 1)
    assert account().lanes == Pace().lanes == 4


def test_a_full_window_closes_one_kind() -> None:
    """Until it has room again, or a request of the kind succeeds; it is reported, and the account stays open."""
    one = account()
    one.window_full(RefreshKind.FILE, NOON + 60, "too many", now=NOON)
    one.window_full(RefreshKind.FILE, NOON + 30, "still too many", now=NOON + 10)
    assert one.open_at(NOON) == NOON
    assert one.closed_until_for(RefreshKind.FILE) == NOON + 60
    assert one.closed_until_for(RefreshKind.DIRECTORY) <= NOON
    report = one.report({}, now=NOON + 20)
    assert "file is sent: still too many" in report.problem
    assert (report.since, report.until) == (NOON, NOON + 60)
    assert not one.report({}, now=NOON + 61).problem
    one.record_success(RefreshKind.FILE)
    assert not one.full(NOON)


def test_a_wait_that_ends_before_the_reset_is_moved_behind_it() -> None:
    """A throttle that would end within the guard does not open a door there."""
    one = account()
    reset = ALIBABA_DAY.start(NOON) + 86400.0
    one.close(reset - 5, "throttled", now=NOON)
    assert one.open_at(NOON) == reset + RESET_GUARD_SECONDS


def test_troubles_double_the_wait_up_to_a_bound_and_success_ends_them() -> None:
    """Refusals in a row wait 1, 2, 4 … seconds, never more than the bound; one success starts again."""
    one, now = account(), NOON
    waits: list[float] = []
    for _ in range(80):
        waits.append(one.record_failure(now, "no", first_seconds=1, most_seconds=60))
        now += waits[-1]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[6:]) == {60}
    one.record_success(RefreshKind.FILE)
    assert one.open_at(NOON) == NOON
    assert one.record_failure(NOON, "no", first_seconds=1, most_seconds=60) == 1


def test_requests_that_were_under_way_at_a_failure_do_not_lengthen_the_wait() -> None:
    """Four lanes fail at once where the CDN is away for a second: that is one trouble, not four."""
    one = account()
    for delay in (0.0, 0.1, 0.2, 0.3):
        one.record_failure(NOON + delay, "no", first_seconds=1, most_seconds=60)
    assert one.open_at(NOON) == NOON + 1.3
    assert one.record_failure(NOON + 1.3, "no", first_seconds=1, most_seconds=60) == 2
    one.throttled(NOON + 2, 60.0, "too many")
    one.record_failure(NOON + 2.1, "no", first_seconds=1, most_seconds=60)
    assert one.open_at(NOON + 3) == NOON + 62, "what the CDN demands is kept"


async def test_the_quota_is_read_only_while_nothing_is_sent() -> None:
    """``quiet`` waits for every request under way, and no request begins while it lasts."""
    one = account()
    events: list[Any] = []

    async def send(number: int, seconds: float) -> None:
        async with one.slot():
            events.append(("begin", number))
            await asyncio.sleep(seconds)
            events.append(("end", number))

    async def read() -> None:
        async with one.exclusive():
            events.append("quiet")
            await asyncio.sleep(100)
            events.append("loud")

    senders = [asyncio.create_task(send(number, 10)) for number in range(one.lanes)]
    await asyncio.sleep(1)
    reading = asyncio.create_task(read())
    await asyncio.sleep(1)
    late = asyncio.create_task(send(99, 1))
    await asyncio.gather(*senders, reading, late)
    assert events.index("quiet") > max(events.index(("end", number)) for number in range(one.lanes))
    assert events.index(("begin", 99)) > events.index("loud")
