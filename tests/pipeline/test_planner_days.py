"""Days of every kind, end to end: small quotas, no history or a busy one, quotas that change, clocks that jump."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from listener.allowances import ALIBABA_DAY, DAY_SECONDS
from listener.change import Change, ChangeKind
from listener.pipeline.accounts import Account
from listener.pipeline.plan_inputs import learned
from listener.refresh import RefreshKind, Scope
from listener.store import NeedInput
from tests.pipeline.world import World, a_world
from tests.store.steps import add_attempt

pytestmark = pytest.mark.looptime(False)  # an HTTP server, a database thread and an edge keep real time


def account_of(world: World) -> Account:
    """Return what the pipeline knows of its only account."""
    return world.pipeline.engines[0].account


def changed(world: World, folder: str, count: int) -> list[Change]:
    """Change so many files of a folder, or of the root."""
    return [world.write(f"{folder}{number}.html", str(time.monotonic())) for number in range(count)]


async def deferred(world: World, count: int) -> None:
    """Wait until so many needs are deferred, the plan that left them is reported, and nothing flies."""

    async def seen() -> bool:
        counts = await world.store.counts()
        reported = sum(one.needs for one in world.pipeline.engines[0].outcome.deferred)
        return (counts.deferred, reported, counts.in_flight) == (count, count, 0)

    await world.until(seen)


async def busy_month(world: World, a_day: int) -> None:
    """Give the account a history: a month of days with so many files each, one after the other."""
    today = ALIBABA_DAY.start(world.clock.now())
    rows = [
        (world.url(f"old/{n}"), today - day * DAY_SECONDS, today - day * DAY_SECONDS + n * 86_000.0 / a_day)
        for day in range(30, 0, -1)
        for n in range(a_day)
    ]
    await world.store._write(lambda c: c.execute("INSERT OR IGNORE INTO target (id, name) VALUES (1, 'cdn')").rowcount)
    await world.store._write(lambda c: [sent(c, *row) for row in rows])


def sent(connection: sqlite3.Connection, url: str, window: float, at: float) -> int:
    """Write a file that was sent then."""
    return add_attempt(connection, url, window_start=window, created_at=at, active=0)


@pytest.mark.parametrize("a_day", [0, 40], ids=["no history", "a busy month"])
async def test_ten_files_left_and_four_due_go(tmp_path: Path, a_day: int) -> None:
    """Whatever the days before were like, files that the quota covers go at once, one by one."""
    async with a_world(tmp_path, quota=(12, 2)) as world:
        if a_day:
            await busy_month(world, a_day)
            await world.stop()
            await world.start()
        world.source.deliver(*[change for n in range(4) for change in changed(world, f"d{n}/", 1)])
        await world.settled()
        assert world.accepted == {"file": 4}
        assert not world.pipeline.engines[0].outcome.deferred


async def test_a_small_quota_is_used_to_its_end_and_the_rest_waits_with_its_reason(tmp_path: Path) -> None:
    """Of nine deletions in three folders five go, all that is there next to the reserve; four wait, and say why."""
    async with a_world(tmp_path, quota=(6, 0)) as world:
        world.source.deliver(*(Change("www", f"d{n % 3}/{n}.html", ChangeKind.DELETED) for n in range(9)))
        await deferred(world, 4)
        assert world.accepted == {"file": 5}
        reasons = {one.reason for one in world.pipeline.engines[0].outcome.deferred}
        assert all("no file quota left today" in reason for reason in reasons)
        world.clock.ahead += DAY_SECONDS
        await world.settled()
        assert world.accepted == {"file": 9}


async def test_with_a_quota_of_zero_everything_waits_and_nothing_spins(tmp_path: Path) -> None:
    """Nothing is asked of the CDN, everything is reported as deferred, and the next look is at the reset."""
    async with a_world(tmp_path, quota=(0, 0)) as world:
        world.source.deliver(*changed(world, "a/", 5), Change("www", "b/", ChangeKind.SUBTREE))
        await deferred(world, 6)
        assert world.accepted == {}
        resets_at = ALIBABA_DAY.start(world.clock.now()) + DAY_SECONDS
        assert world.pipeline.engines[0].outcome.wake_at == resets_at


async def test_a_quota_lowered_at_noon_is_never_exceeded(tmp_path: Path) -> None:
    """After the provider cut the day from a thousand files to six, what is beyond waits; raised again, it goes."""
    async with a_world(tmp_path, quota=(1000, 0), extra={"planner": {"reserve": 0.0}}) as world:
        world.source.deliver(*changed(world, "", 4))
        await world.settled()
        limits = world.emulator.account.ledger.limits
        limits[RefreshKind.FILE] = 6
        world.clock.ahead += 400  # the next reading of the live quota
        world.source.deliver(*changed(world, "d/", 7))
        await deferred(world, 5)
        assert world.accepted == {"file": 6}
        limits[RefreshKind.FILE] = 1000
        world.clock.ahead += 400
        await world.settled()
        assert world.accepted == {"file": 11}


async def test_a_clock_that_jumps_a_day_ahead_lets_what_waited_go(tmp_path: Path) -> None:
    """A machine that was asleep over the reset spends the new day's quota on what waited, once."""
    async with a_world(tmp_path, quota=(3, 0), extra={"planner": {"reserve": 0.0}}) as world:
        world.source.deliver(*changed(world, "", 5))
        await deferred(world, 2)
        world.clock.ahead += 40 * DAY_SECONDS
        await world.settled()
        assert world.accepted == {"file": 5}


async def test_of_a_site_with_no_objects_known_no_directory_is_evicted_for_a_few_files(tmp_path: Path) -> None:
    """Where nothing was ever listed a folder is taken for a large one: thirty deletions rather wait than evict it."""
    async with a_world(tmp_path, quota=(20, 5), extra={"planner": {"reserve": 0.0}}) as world:
        world.source.deliver(*(Change("www", f"a/{n}.html", ChangeKind.DELETED) for n in range(30)))
        await deferred(world, 10)
        assert world.accepted == {"file": 20}


async def test_deletions_do_not_make_a_folder_look_emptier(tmp_path: Path) -> None:
    """Of a hundred files forty are deleted; the directory that covers them evicts the sixty that stay, and says so."""
    async with a_world(tmp_path, quota=(2, 5), extra={"planner": {"reserve": 0.0}}) as world:
        seeding = changed(world, "a/", 100)
        world.source.deliver(*seeding, seed=True)
        await world.store._write(lambda c: c.execute("UPDATE root SET seeded = 1").rowcount)
        world.clock.ahead += 12 * 3600 - (
            world.clock.now() - ALIBABA_DAY.start(world.clock.now())
        )  # noon of the quota day
        world.source.deliver(*(world.remove(f"a/{n}.html") for n in range(40)))
        await world.until(lambda: "directory" in world.accepted)
        (row,) = [row for row in await world.store.history() if row["kind"] == "directory"]
        assert "replaces 40 file refreshes, and evicts 60 unchanged objects" in row["reason"]


async def test_what_expires_by_itself_is_settled_and_costs_nothing(tmp_path: Path) -> None:
    """Once the CDN's copies are over their lifetime a need that waits for quota is settled, a folder's too."""
    async with a_world(tmp_path, quota=(0, 0), site={"max_ttl_seconds": 600.0}) as world:
        world.source.deliver(*changed(world, "a/", 3), Change("www", "b/", ChangeKind.SUBTREE))
        await deferred(world, 4)
        world.clock.ahead += 601
        await world.settled()
        assert world.accepted == {}


async def test_arrivals_are_learned_again_after_a_restart(tmp_path: Path) -> None:
    """What became due counts by its number, what ripens together as one arrival; a restart reads the attempts."""
    async with a_world(tmp_path) as world:
        world.source.deliver(*changed(world, "", 7))
        await world.settled()
        world.clock.ahead += 120
        world.source.deliver(*changed(world, "", 3))
        await world.settled()
        seen = account_of(world).arrivals
        assert (round(seen.arrivals), round(seen.objects)) == (2, 10)
        await world.stop()
        await world.start()
        await world.until(lambda: account_of(world).arrivals.at is not None)
        again = account_of(world).arrivals
        assert (round(again.arrivals), round(again.objects)) == (2, 10)


@pytest.mark.parametrize(("a_day", "refreshes"), [(0, {"file": 60}), (300, {"directory": 1})])
async def test_on_a_busy_account_files_are_spared(tmp_path: Path, a_day: int, refreshes: dict[str, int]) -> None:
    """Sixty changes in a folder of sixty-two go as files where the day has been quiet, as one directory where not."""
    async with a_world(tmp_path, quota=(100, 20), extra={"planner": {"reserve": 0.0}}) as world:
        world.clock.ahead += DAY_SECONDS * 1.5 - (world.clock.now() - ALIBABA_DAY.start(world.clock.now()))
        if a_day:
            await busy_month(world, a_day)
        await world.stop()
        await world.start()
        await world.until(lambda: account_of(world).arrivals.at is not None)
        world.source.deliver(*changed(world, "a/", 62), seed=True)
        world.source.deliver(*changed(world, "a/", 60))
        await world.settled()
        assert world.accepted == refreshes


async def test_a_month_of_history_is_believed_and_a_first_day_is_not(tmp_path: Path) -> None:
    """Forty a day for a month make forty expected; five hundred on the very first day do not make five hundred."""
    async with a_world(tmp_path) as world:
        await busy_month(world, 40)
        now = ALIBABA_DAY.start(world.clock.now())
        reported = await world.store.read(lambda connection: learned(connection, "main", now=now))
        assert reported.expected(now, 24.0) == pytest.approx(40.0, rel=0.25)
        nobody = await world.store.read(lambda connection: learned(connection, "nobody", now=now))
        assert nobody.expected(now, 24.0) == pytest.approx(10.0)
        assert nobody.seen(now, 500).expected(now, 24.0) < 20.0


async def test_a_url_that_changes_on_and_on_is_spaced_while_quota_is_scarce(tmp_path: Path) -> None:
    """Beyond half of the quota each refresh of the same URL waits longer than the last, so that changes merge."""
    site = {"min_interval_seconds": 100.0}
    async with a_world(tmp_path, quota=(20, 0), extra={"planner": {"reserve": 0.0}}, site=site) as world:
        await busy_month(world, 100)
        await world.stop()
        await world.start()
        world.source.deliver(*changed(world, "d/", 10))
        await world.settled()
        for pause in (101, 201, 0):
            world.source.deliver(world.write("hot.html", str(world.clock.now())))
            await world.settled()
            world.clock.ahead += pause
        assert world.accepted == {"file": 13}
        world.source.deliver(world.write("hot.html", "the last"))
        await waits_longer_than(world, 200.0)
        world.clock.ahead += 401
        await world.settled()
        assert world.accepted == {"file": 14}


async def waits_longer_than(world: World, seconds: float) -> None:
    """Wait until the only need is not due for so long."""

    async def seen() -> bool:
        due = await world.store.next_due()
        return due is not None and due > world.clock.now() + seconds

    await world.until(seen)


async def test_a_person_does_not_wait_for_an_interval(tmp_path: Path) -> None:
    """What is asked for manually goes at once though quota is scarce and the URL was just refreshed."""
    async with a_world(tmp_path, quota=(3, 0), extra={"planner": {"reserve": 0.0}}) as world:
        world.source.deliver(*changed(world, "", 2))
        await world.settled()
        await world.store.request([NeedInput("cdn", world.url("0.html"), Scope.EXACT)], reason="now")
        await world.settled()
        assert world.accepted == {"file": 3}
