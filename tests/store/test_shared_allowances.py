"""Promise 4 where kinds share an allowance, and a kind spends several: never over any of them, refunds exact."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from listener.allowances import DAY_SECONDS, Allowance, Day, Month, Rolling, Total, costs_of
from listener.refresh import Attempt, AttemptState, QuotaReading, RefreshKind
from listener.store.transitions import AttemptRequest
from tests.store.steps import Bench, content, file, folder

FILE, DIRECTORY = RefreshKind.FILE, RefreshKind.DIRECTORY
DAILY = Allowance(name="daily", limit=9, window=Day(8 * 3600), costs={FILE: 1})
ROLLING = Allowance(name="rolling", limit=14, window=Rolling(3), costs={FILE: 1, DIRECTORY: 3})
MONTHLY = Allowance(name="monthly", limit=40, window=Month(), costs={FILE: 1, DIRECTORY: 2})
PACKAGE = Allowance(name="package", limit=150, window=Total(), costs={FILE: 1, DIRECTORY: 1})
ALL = (DAILY, ROLLING, MONTHLY, PACKAGE)


async def ready(bench: Bench, *keys: str) -> list[AttemptRequest]:
    """Make ready needs and return the wishes to refresh them."""
    await bench.change(*(content(key) for key in keys), wait=2.0)
    return [file(key) for key in keys]


async def hold(bench: Bench, allowances: Sequence[Allowance], *wanted: AttemptRequest) -> list[Attempt]:
    """Hold what these allowances pay for."""
    return await bench.store.hold(wanted, account="main", allowances=allowances)


async def used(bench: Bench, *allowances: Allowance) -> list[tuple[int, int]]:
    """Return what is spent and held of each."""
    found = [await bench.store.budget("main", one) for one in allowances]
    return [(one.spent, one.held) for one in found]


async def test_kinds_that_share_an_allowance_hold_no_more_than_it_has(bench: Bench) -> None:
    """In one transaction and in the next: what the first kind takes, the second does not find."""
    few = replace(MONTHLY, limit=5)
    wanted = await ready(bench, *(f"f{n}" for n in range(4)))
    made = await hold(bench, [few], *wanted[:3], folder("a/"), folder("b/"), wanted[3])
    # Four files were wanted first: one unit is left, and a directory takes two.
    assert [one.kind for one in made] == [FILE] * 4
    assert await used(bench, few) == [(0, 4)]
    await bench.store.refund([made[0].id])
    assert [one.kind for one in await hold(bench, [few], folder("a/"), folder("b/"))] == [DIRECTORY]
    assert await used(bench, few) == [(0, 5)]


async def test_a_kind_that_spends_two_allowances_takes_of_both_or_of_none(bench: Bench) -> None:
    """The scarcer decides; what it does not grant is not held in the other either, and a refund gives both back."""
    day, month = replace(DAILY, limit=3), replace(MONTHLY, limit=2)
    wanted = await ready(bench, "a", "b", "c")
    made = await hold(bench, [day, month], *wanted)
    assert len(made) == 2
    assert await used(bench, day, month) == [(0, 2), (0, 2)]
    await bench.store.mark_sending([one.id for one in made])
    await bench.store.accept({made[0].id: "t"}, next_look_at=0.0)
    await bench.store.refund([made[1].id])
    assert await used(bench, day, month) == [(1, 0), (1, 0)]
    bench.clock.advance(DAY_SECONDS)
    assert await used(bench, day, month) == [(0, 0), (1, 0)]
    assert len(await hold(bench, [day, month], *wanted)) == 1


async def test_a_kind_without_an_allowance_is_unlimited(bench: Bench) -> None:
    """It leaves no row in the ledger, whatever becomes of it."""
    wanted = await ready(bench, *(f"f{n}" for n in range(30)))
    made = await hold(bench, [], *wanted)
    assert len(made) == 30
    await bench.store.mark_sending([one.id for one in made])
    ids = [one.id for one in made]
    await bench.store.accept(dict.fromkeys(ids[:10], "t"), next_look_at=0.0)
    await bench.store.refund(ids[10:20])
    await bench.store.presume_spent(ids[20:], error="the outcome is unknown")
    assert bench.sql("SELECT count(*) FROM ledger") == [(0,)]
    await hold(bench, [], *await ready(bench, "held"))
    assert bench.sql("SELECT DISTINCT held FROM attempt_group") == [(0,)]
    bench.assert_counted()


async def test_a_unit_stays_in_the_windows_in_which_it_was_held(bench: Bench) -> None:
    """Accepted a day later it counts for the day before, and where that day has left nothing for the present ones."""
    (made,) = await hold(bench, ALL, *await ready(bench, "a"))
    await bench.store.mark_sending([made.id])
    bench.clock.advance(DAY_SECONDS)
    assert await used(bench, *ALL) == [(0, 0), (0, 1), (0, 1), (0, 1)]
    await bench.store.accept({made.id: "t"}, next_look_at=0.0)
    assert await used(bench, *ALL) == [(0, 0), (1, 0), (1, 0), (1, 0)]
    bench.clock.advance(3 * DAY_SECONDS)
    assert await used(bench, *ALL) == [(0, 0), (0, 0), (1, 0), (1, 0)]
    bench.clock.advance(31 * DAY_SECONDS)
    assert await used(bench, *ALL) == [(0, 0), (0, 0), (0, 0), (1, 0)]


async def read(bench: Bench, allowance: Allowance, remaining: int) -> int:
    """Take a live reading; return what is spent."""
    await bench.store.correct_ledger("main", [allowance], {allowance.name: QuotaReading(allowance.limit, remaining)})
    return (await bench.store.budget("main", allowance)).spent


async def test_what_others_spent_of_a_rolling_window_is_booked_today(bench: Bench) -> None:
    """At once, and once only; it leaves with today. Less is believed when two readings agree, of which day it is."""
    assert await read(bench, ROLLING, 10) == 4
    bench.clock.advance(DAY_SECONDS)
    assert await read(bench, ROLLING, 10) == 4
    assert await read(bench, ROLLING, 8) == 6
    assert await read(bench, ROLLING, 11) == 6
    assert await read(bench, ROLLING, 11) == 3
    assert bench.sql("SELECT others FROM ledger WHERE kind = 'rolling' ORDER BY window_start") == [(3,), (0,)]


async def test_a_reading_does_not_take_back_what_was_given_up_once(bench: Bench) -> None:
    """Presumed units are given up in their own day: when that day leaves, nothing is counted too little for it."""
    (made,) = await hold(bench, [ROLLING], *await ready(bench, "a"))
    await bench.store.mark_sending([made.id])
    await bench.store.presume_spent([made.id], error="the outcome is unknown")
    bench.clock.advance(DAY_SECONDS)
    assert [await read(bench, ROLLING, 14) for _ in range(2)] == [1, 0]
    bench.clock.advance(3 * DAY_SECONDS)
    assert (await bench.store.budget("main", ROLLING)).spent == 0
    assert bench.sql("SELECT others FROM ledger WHERE kind = 'rolling' ORDER BY window_start") == [(-1,), (0,)]


async def test_the_oldest_day_of_a_rolling_window_hides_nothing(bench: Bench) -> None:
    """The CDN may count none of it any more: what others spent since is not taken for less because of that."""
    (made,) = await hold(bench, [ROLLING], *await ready(bench, "a"))
    await bench.store.mark_sending([made.id])
    await bench.store.accept({made.id: "t"}, next_look_at=0.0)
    bench.clock.advance(2 * DAY_SECONDS)
    assert await read(bench, ROLLING, 9) == 5
    bench.clock.advance(DAY_SECONDS)
    # Ours of the first day has left the CDN's window, the four of others have not.
    assert [await read(bench, ROLLING, 10) for _ in range(3)] == [5, 5, 5]
    bench.clock.advance(DAY_SECONDS)
    assert (await bench.store.budget("main", ROLLING)).spent == 4


async def test_the_rest_is_presumed_spent_until_each_reset(bench: Bench) -> None:
    """Each allowance by itself, in its present window."""
    await hold(bench, ALL, *await ready(bench, "a"))
    left = await bench.store.presume_rest_spent("main", [DAILY, MONTHLY])
    assert left == {"daily": 8, "monthly": 39}
    assert await hold(bench, ALL, *await ready(bench, "b")) == []
    bench.clock.advance(DAY_SECONDS)
    found = [await bench.store.budget("main", one) for one in (DAILY, MONTHLY)]
    assert [one.left for one in found] == [9, 0]


@dataclass
class Model:
    """What is charged, held and spent, kept in plain counters."""

    held: Counter[tuple[str, int]] = field(default_factory=Counter)
    spent: Counter[tuple[str, int]] = field(default_factory=Counter)
    charged: list[tuple[float, RefreshKind]] = field(default_factory=list)
    """What the CDN counts: when which request was accepted."""
    under_way: dict[int, tuple[RefreshKind, float, str]] = field(default_factory=dict)
    """By attempt: its kind, when it was held, and whether it was written."""

    def used(self, one: Allowance, now: float) -> tuple[int, int]:
        """Return what is spent and held of an allowance."""
        first, start = one.window.first(now), one.window.start(now)
        spent, held = (
            sum(n for (name, window), n in each.items() if name == one.name and first <= window <= start)
            for each in (self.spent, self.held)
        )
        return spent, held

    def granted(self, kind: RefreshKind, wanted: int, now: float) -> int:
        """Return how many requests of a kind all of its allowances pay for."""
        left = [(one.limit - sum(self.used(one, now))) // one.costs[kind] for one in ALL if kind in one.costs]
        return max(0, min([wanted, *left]))

    def move(self, kind: RefreshKind, at: float, counter: Counter[tuple[str, int]], sign: int) -> None:
        """Add what a request takes to a counter, or take it out, in the windows in which it was held."""
        for one in ALL:
            if kind in one.costs:
                counter[one.name, one.window.start(at)] += sign * one.costs[kind]

    def end(self, number: int, *, is_spent: bool) -> None:
        """End an attempt."""
        kind, at, _ = self.under_way.pop(number)
        self.move(kind, at, self.held, -1)
        if is_spent:
            self.move(kind, at, self.spent, 1)


class Run:
    """Random steps on a store, and on the model."""

    def __init__(self, bench: Bench, chance: random.Random) -> None:
        self.bench = bench
        self.chance = chance
        self.model = Model()
        self.keys = 0

    def some(self, *states: str) -> list[int]:
        """Return some of the attempts in these states."""
        found = [number for number, (_, _, state) in self.model.under_way.items() if state in states]
        return [number for number in found if self.chance.random() < 0.6]

    async def hold(self) -> None:
        """Want some of each kind, files first."""
        model, now = self.model, self.bench.clock
        wanted: list[AttemptRequest] = []
        counts = {FILE: self.chance.randint(0, 6), DIRECTORY: self.chance.randint(0, 3)}
        for kind, count in counts.items():
            for _ in range(count):
                self.keys += 1
                key = f"{self.keys}/" if kind is DIRECTORY else f"{self.keys}"
                below = await ready(self.bench, f"{key}x" if kind is DIRECTORY else key)
                wanted += [folder(key)] if kind is DIRECTORY else below
        made = await hold(self.bench, ALL, *wanted)
        for kind in (FILE, DIRECTORY):
            mine = [one for one in made if one.kind is kind]
            assert len(mine) == model.granted(kind, counts[kind], now.now())
            for one in mine:
                model.under_way[one.id] = (kind, now.now(), "held")
                model.move(kind, now.now(), model.held, 1)

    async def send(self) -> None:
        """Write requests, as the sender does: what was held in a window that is over is refunded."""
        now = self.bench.clock.now()
        past = [
            number
            for number in self.some("held")
            for kind, at, _ in [self.model.under_way[number]]
            if any(kind in one.costs and one.window.start(at) != one.window.start(now) for one in ALL)
        ]
        await self.bench.store.refund(past)
        for number in past:
            self.model.end(number, is_spent=False)
        going = [number for number in self.some("held") if number not in past and self.is_present(number, now)]
        written = await self.bench.store.mark_sending(going)
        for number in going:
            if number in written:
                kind, at, _ = self.model.under_way[number]
                self.model.under_way[number] = (kind, at, "sending")
            else:  # a directory below which nothing is due any more
                self.model.end(number, is_spent=False)

    def is_present(self, number: int, now: float) -> bool:
        """Return whether nothing that an attempt holds is of a window that is over."""
        kind, at, _ = self.model.under_way[number]
        return all(one.window.start(at) == one.window.start(now) for one in ALL if kind in one.costs)

    async def accept(self) -> None:
        """The CDN answers, and counts."""
        numbers = self.some("sending")
        await self.bench.store.accept(dict.fromkeys(numbers, "t"), next_look_at=0.0)
        for number in numbers:
            self.model.charged.append((self.bench.clock.now(), self.model.under_way[number][0]))
            self.model.end(number, is_spent=True)

    async def end_otherwise(self) -> None:
        """Refund, presume, fail and park."""
        for number in self.some("held", "sending", "unknown"):
            how = self.chance.randrange(4)
            if how == 0:
                await self.bench.store.refund([number])
            elif how == 1:
                await self.bench.store.presume_spent([number], error="")
            elif how == 2:
                await self.bench.store.fail([number], retry_at=0.0, error="")
            else:
                await self.bench.store.park([number], error="")
            self.model.end(number, is_spent=how == 1)

    async def crash(self) -> None:
        """What was only held is refunded; what was being written is unknown."""
        await self.bench.store.recover()
        for number, (kind, at, state) in list(self.model.under_way.items()):
            if state == "held":
                self.model.end(number, is_spent=False)
            else:
                self.model.under_way[number] = (kind, at, "unknown")

    async def wait(self) -> None:
        """Some hours, or weeks."""
        answered = self.some("sending")
        await self.bench.store.mark_unknown(answered, next_look_at=0.0, error="")
        for number in answered:
            kind, at, _ = self.model.under_way[number]
            self.model.under_way[number] = (kind, at, "unknown")
        await self.accept()  # an answer comes within seconds
        self.bench.clock.advance(self.chance.choice([3600.0, 20_000.0, DAY_SECONDS, 2 * DAY_SECONDS, 9 * DAY_SECONDS]))

    async def check(self) -> None:
        """The ledger is that of the model, and nothing is over a limit, by our windows and by the CDN's seconds."""
        now = self.bench.clock.now()
        for one in ALL:
            budget = await self.bench.store.budget("main", one)
            assert (budget.spent, budget.held) == self.model.used(one, now)
            assert budget.spent + budget.held <= budget.limit
        counted = sum(costs_of(ALL, kind)["rolling"] for at, kind in self.model.charged if at > now - 3 * DAY_SECONDS)
        assert counted <= ROLLING.limit
        held = [one.id for one in await self.bench.store.attempts_in(AttemptState.HELD)]
        assert held == [number for number, (*_, state) in sorted(self.model.under_way.items()) if state == "held"]


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_of_steps_keeps_every_allowance(bench: Bench, seed: int) -> None:
    """Whatever is held, sent, answered, interrupted and waited for: each allowance equals a plain count."""
    chance = random.Random(seed)
    run = Run(bench, chance)
    steps = [*[run.hold] * 3, *[run.send] * 3, *[run.accept] * 3, run.end_otherwise, run.crash, run.wait]
    for _ in range(80):
        await chance.choice(steps)()
        await run.check()
    assert run.model.charged
    bench.assert_counted()
