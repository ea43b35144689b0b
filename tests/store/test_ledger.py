"""Promise 4: never over quota; each unit leaves the hold once, and the live quota corrects with care."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.allowances import DAY_SECONDS, for_each_kind
from listener.refresh import AttemptState, QuotaReading, RefreshKind, Scope
from listener.store import NeedInput, open_store
from listener.store.batches import Batch
from listener.store.controls import Progress
from listener.store.needs import Snapshot
from listener.store.transitions import AttemptRequest
from tests.store.steps import ALLOWANCE, ALLOWANCES, BASE, DAY, QUOTA, Bench, FakeClock, content, file, folder, route

FILE = RefreshKind.FILE


async def ready(bench: Bench, count: int) -> list[AttemptRequest]:
    """Make so many ready needs and return the wishes to refresh them."""
    await bench.change(*(content(f"f{n}") for n in range(count)))
    return [file(f"f{n}") for n in range(count)]


async def test_no_more_is_held_than_the_quota(bench: Bench) -> None:
    """Of more wishes than units the first ones are granted, and the rest not."""
    wanted = await ready(bench, 120)
    made = await bench.hold(*wanted)
    assert [one.url for one in made] == [one.url for one in wanted[:100]]
    assert await bench.budget() == (100, 0, 100)
    assert await bench.hold(*wanted) == []


async def test_a_need_is_not_booked_twice(bench: Bench) -> None:
    """A wish reported twice, for a file or a directory, holds one unit; nor is one sent that is not ready."""
    wanted = await ready(bench, 1)
    assert len(await bench.hold(*wanted, *wanted, folder("a/"), folder("a/"), file("unknown"))) == 2
    assert await bench.hold(*wanted) == []
    assert await bench.budget() == (100, 0, 1)
    assert await bench.budget(RefreshKind.DIRECTORY) == (10, 0, 1)


async def test_each_unit_leaves_the_hold_once(bench: Bench) -> None:
    """Accept, refund, presume, park and fail each book their unit, and doing it again changes nothing."""
    made = await bench.hold(*await ready(bench, 5))
    await bench.store.mark_sending([one.id for one in made])
    store, (accepted, refunded, presumed, parked, failed) = bench.store, made
    await store.mark_unknown([presumed.id], next_look_at=0.0, error="time-out")
    for _ in range(2):
        await store.accept({accepted.id: "t"}, next_look_at=0.0)
        await store.refund([refunded.id])
        await store.presume_spent([presumed.id], error="nobody can tell")
        await store.park([parked.id], error="Malformed")
        await store.fail([failed.id], retry_at=0.0, error="refused")
    assert await bench.budget() == (100, 2, 0)
    assert await bench.ready() == {"": 2}
    (history,) = await store.history(url=BASE + "f2")
    assert (history["state"], history["error"]) == ("failed", "nobody can tell")
    assert bench.sql("SELECT presumed FROM ledger WHERE kind = 'file'") == [(1,)]


async def test_a_complete_attempt_is_spent(bench: Bench) -> None:
    """Whatever was reported to be complete was accepted, also when nobody said so."""
    (made,) = await bench.hold(*await ready(bench, 1))
    await bench.finish([made])
    assert await bench.budget() == (100, 1, 0)


async def test_sending_goes_back_to_held(bench: Bench) -> None:
    """A definite throttle leaves the unit held for the next try, and the attempt as if never sent."""
    made = await bench.hold(*await ready(bench, 1))
    await bench.store.mark_sending([made[0].id])
    await bench.store.back_to_held([made[0].id])
    (attempt,) = await bench.store.attempts_in(AttemptState.HELD)
    assert attempt.sent_at is None
    assert await bench.budget() == (100, 0, 1)


async def test_recovery_refunds_what_was_not_written(bench: Bench) -> None:
    """Held before the crash: refunded. Sending: unknown, its unit still held. And the crash is reported."""
    _, sending, accepted = await bench.hold(*await ready(bench, 3))
    await bench.store.mark_sending([sending.id, accepted.id])
    await bench.store.accept({accepted.id: "t"}, next_look_at=9.0)
    assert await bench.store.recover()
    assert [one.id for one in await bench.store.attempts_in(AttemptState.UNKNOWN)] == [sending.id]
    assert await bench.budget() == (100, 1, 1)
    assert await bench.ready() == {"": 1}
    await bench.store.mark_clean()
    assert not await bench.store.recover()


async def test_a_unit_is_booked_in_its_day(bench: Bench) -> None:
    """Held before 00:00 UTC+8 and accepted after it: the new day begins with nothing spent."""
    wanted = await ready(bench, 2)
    bench.clock.time = DAY.end(bench.clock.time) - 1.0
    made = await bench.hold(*wanted[:1])
    before = DAY.start(bench.clock.time)
    bench.clock.advance(2)
    assert DAY.start(bench.clock.time) == before + 86400
    assert await bench.budget() == (100, 0, 0)
    await bench.store.accept({made[0].id: "t"}, next_look_at=0.0)
    assert await bench.budget() == (100, 0, 0)
    await bench.hold(*wanted[1:])
    assert bench.sql("SELECT window_start, spent, held FROM ledger ORDER BY 1") == [
        (before, 1, 0),
        (before + 86400, 0, 1),
    ]


async def read(bench: Bench, limit: int, remaining: int) -> tuple[int, int, int]:
    """Take a live reading; return the budget."""
    await bench.store.correct_ledger("main", ALLOWANCES, {"file": QuotaReading(limit, remaining)})
    return await bench.budget()


async def test_a_limit_lowered_at_noon_holds_at_once(bench: Bench) -> None:
    """The live limit replaces the configured one, and tomorrow begins with it; until read, the configuration's does."""
    await bench.send(*await ready(bench, 3))
    found = await bench.store.budget("main", replace(ALLOWANCE[FILE], limit=7))
    assert (found.limit, found.spent, found.left) == (7, 3, 4)
    assert await read(bench, 5, 2) == (5, 3, 0)
    await bench.change(*(content(f"g{n}") for n in range(5)))
    assert len(await bench.hold(*(file(f"g{n}") for n in range(5)))) == 2
    bench.clock.advance(86400)
    assert await bench.budget() == (5, 0, 0)
    assert await read(bench, 5, 5) == (5, 0, 0)
    assert await read(bench, 2, -1) == (2, 3, 0)


async def test_what_others_spent_counts_at_once(bench: Bench) -> None:
    """The live quota corrects downward with the first reading, unknown units left out."""
    made = await bench.send(*(await ready(bench, 3))[:2])
    assert await read(bench, 100, 90) == (100, 10, 0)
    made = await bench.hold(file("f2"))
    await bench.store.mark_unknown([made[0].id], next_look_at=0.0, error="")
    assert await read(bench, 100, 89) == (100, 10, 1)
    assert await read(bench, 100, 80) == (100, 19, 1)


async def test_upward_only_when_two_agree(bench: Bench) -> None:
    """More is left than we think: believed at the second equal reading with nothing moved or unknown between them."""
    wanted = await ready(bench, 4)
    assert await read(bench, 100, 50) == (100, 50, 0)
    assert await read(bench, 100, 90) == (100, 50, 0)
    assert await read(bench, 100, 91) == (100, 50, 0)
    (made,) = await bench.hold(wanted[0])
    await bench.store.refund([made.id])
    assert await read(bench, 100, 91) == (100, 50, 0)
    (made,) = await bench.hold(wanted[0])
    await bench.store.mark_unknown([made.id], next_look_at=0.0, error="")
    assert await read(bench, 100, 91) == (100, 50, 1)
    assert await read(bench, 100, 91) == (100, 50, 1)
    await bench.store.refund([made.id])
    assert await read(bench, 100, 91) == (100, 50, 0)
    assert await read(bench, 100, 91) == (100, 9, 0)


async def test_never_below_what_was_accepted(bench: Bench) -> None:
    """A CDN that counts less than it accepted is not believed; presumed units are given up, accepted ones never."""
    one, two = await bench.hold(*await ready(bench, 2))
    await bench.store.accept({one.id: "t"}, next_look_at=0.0)
    await bench.store.presume_spent([two.id], error="nobody can tell")
    for _ in range(3):
        found = await read(bench, 100, 100)
    assert found == (100, 1, 0)


async def test_what_was_inferred_by_mistake_is_corrected(bench: Bench) -> None:
    """Units booked because a list seemed to show a task are given up when two readings agree that nobody spent them."""
    one, two, three = await bench.hold(*await ready(bench, 3))
    await bench.store.accept({one.id: "t"}, next_look_at=0.0)
    await bench.store.accept({two.id: "t", three.id: "t"}, next_look_at=0.0, inferred=True)
    assert await read(bench, 100, 98) == (100, 3, 0)
    assert await read(bench, 100, 98) == (100, 2, 0)


async def test_a_url_is_not_sent_within_its_interval(bench: Bench) -> None:
    """A need sent a moment ago waits for the interval's end, and only so long."""
    wanted = await ready(bench, 1)
    await bench.finish(await bench.send(*wanted))
    sent = bench.clock.now()
    await bench.change(content("f0", 2), wait=10)
    soon = wanted[0]._replace(min_interval_seconds=30.0)
    assert await bench.hold(soon) == []
    assert await bench.store.next_due() == sent + 30
    bench.clock.advance(20)
    assert (await bench.store.promote_due()).total() == 1
    assert len(await bench.hold(soon)) == 1


async def test_a_newest_change_decides_what_expires(bench: Bench) -> None:
    """A need expires by its newest change: a cache that fetched again before that may hold the old copy."""
    first = bench.clock.now()
    await bench.change(content("x"), content("y"))
    bench.clock.advance(10)
    await bench.change(content("x", 2))
    (load,) = await bench.store.read(Snapshot.loads)
    assert await bench.store.expire(load, before=first + 61) == 1
    assert (await bench.stale("x"), await bench.stale("y")) == (["ready"], [])
    assert await bench.store.expire(load, before=bench.clock.now() + 1) == 1


async def test_a_prefetch_waits_for_the_refresh(bench: Bench) -> None:
    """While a refresh of the URL is due or under way, above it too, a prefetch would bring the old copy back."""
    await bench.store.request([NeedInput("cdn", BASE + "a/x", Scope.PREFETCH)])
    wish = AttemptRequest("cdn", RefreshKind.PREFETCH, BASE + "a/x", False, "test", 0.0)
    await bench.change(content("a/x"))
    assert await bench.hold(wish) == []
    flying = await bench.send(folder("a/"))
    assert await bench.hold(wish) == []
    await bench.finish(flying)
    made = await bench.send(wish)
    assert len(made) == 1
    await bench.finish(made)
    assert (await bench.store.explain(BASE + "a/x")) == []


async def test_ignore_params_settles_the_path(bench: Bench) -> None:
    """An ignore-params attempt settles its own need and every query of that path, and nothing next to it."""
    names = ("x", "x?a=1", "x?b", "x@", "xy")
    await bench.store.request([NeedInput("cdn", BASE + name) for name in names])
    await bench.store.request([NeedInput("cdn", BASE + "x", Scope.ALL_PARAMS)])
    assert sum((await bench.ready()).values()) == 6
    await bench.finish(
        await bench.send(AttemptRequest("cdn", RefreshKind.IGNORE_PARAMS, BASE + "x", True, "test", 0.0))
    )
    assert [bool(await bench.stale(name)) for name in names] == [False, False, False, True, True]


STEP = st.tuples(
    st.sampled_from(["hold", "sending", "accept", "refund", "presume", "fail", "crash", "day"]), st.integers(0, 9)
)


@given(st.lists(STEP, max_size=25))
async def test_any_order_keeps_the_quota(  # noqa: C901, PLR0912 - a step each
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """Whatever is held, sent, booked and interrupted in any order: spent and held equal a plain count."""
    clock = FakeClock()
    path = tmp_path_factory.mktemp("s") / "s.db"
    allowances = for_each_kind({FILE: 6}, DAY)
    days: dict[int, int] = {}
    async with open_store(f"sqlite:///{path}", clock=clock, owner=True) as store:
        await store.recover()
        open_: dict[int, tuple[str, int]] = {}
        for step, (what, n) in enumerate(steps):
            await store.record([Batch([content(f"{step}-{k}") for k in range(n)])], route)
            clock.advance(2)
            await store.promote_due()
            day, picked = DAY.start(clock.now()), list(open_)[: n or None]
            if what == "hold":
                made = await store.hold([file(f"{step}-{k}") for k in range(n)], account="main", allowances=allowances)
                held = sum(1 for _, booked in open_.values() if booked == day)
                assert len(made) == max(0, min(n, 6 - held - days.get(day, 0)))
                open_ |= {one.id: ("held", day) for one in made}
            elif what == "sending":
                await store.mark_sending(picked)
                open_ |= {i: ("sending", open_[i][1]) for i in picked}
            elif what in ("accept", "presume"):
                if what == "accept":
                    await store.accept(dict.fromkeys(picked, "t"), next_look_at=0.0)
                else:
                    await store.presume_spent(picked, error="")
                for i in picked:
                    booked = open_.pop(i)[1]
                    days[booked] = days.get(booked, 0) + 1
            elif what == "refund":
                await store.refund(picked)
                open_ = {i: open_[i] for i in open_ if i not in picked}
            elif what == "fail":
                for one in await store.attempts_in(AttemptState.HELD, AttemptState.SENDING, AttemptState.UNKNOWN):
                    if one.id in picked:
                        await store.fail([one.id], retry_at=0.0, error="")
                        del open_[one.id]
            elif what == "crash":
                await store.recover()
                open_ = {i: ("unknown", d) for i, (state, d) in open_.items() if state != "held"}
            else:
                clock.advance(86400)
            found = await store.budget("main", allowances[0])
            day = DAY.start(clock.now())
            assert found.held == sum(1 for _, booked in open_.values() if booked == day)
            assert found.spent == days.get(day, 0)
            assert found.spent + found.held <= found.limit == 6 != QUOTA[FILE]


@pytest.mark.parametrize("keep_seconds", [0.0, 3600.0, 30 * 86400.0])
async def test_what_the_running_day_spent_is_never_forgotten(bench: Bench, keep_seconds: float) -> None:
    """However short the history is, the day's units count to its end: its ledger, its attempts, and a share's books."""
    bench.clock.advance(DAY.end(bench.clock.now()) - bench.clock.now() + 60)
    made = await bench.send(*await ready(bench, 30))
    await bench.finish(made)
    await bench.store.save_progress("a share", Progress("", 30, finished=True))
    bench.clock.advance(DAY.end(bench.clock.now()) - bench.clock.now() - 1)
    await bench.store.upkeep(keep_seconds=keep_seconds, counted_since=DAY.start(bench.clock.now()))
    assert await bench.budget() == (100, 30, 0)
    assert bench.sql("SELECT count(*) FROM attempt") == [(30,)]
    assert await bench.store.progress("a share") is not None


async def test_a_day_with_units_under_way_is_kept(bench: Bench) -> None:
    """Their answer is booked on the day on which they were held, however late it comes."""
    (made,) = await bench.hold(*await ready(bench, 1))
    await bench.store.mark_sending([made.id])
    await bench.store.mark_unknown([made.id], next_look_at=0.0, error="time-out")
    bench.clock.advance(3 * DAY_SECONDS)
    await bench.store.upkeep(keep_seconds=0.0)
    await bench.store.accept({made.id: "t"}, next_look_at=0.0)
    assert bench.sql("SELECT spent, held FROM ledger WHERE kind = 'file'") == [(1, 0)]
