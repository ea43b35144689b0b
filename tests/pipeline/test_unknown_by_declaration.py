"""A target declares how it is settled what became of a request whose answer did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from listener.allowances import Day
from listener.change import Change
from listener.contracts import UnknownOutcome
from listener.errors import BatchRejected, OutcomeUnknown, TargetError, Throttled, Unavailable
from listener.refresh import AttemptState, Priority, Receipt, RefreshKind
from listener.store.controls import ControlKind, Controls, Place
from tests.pipeline.scripted import BASE, Scripted, WithTasks, a_world_of
from tests.pipeline.world import World

pytestmark = pytest.mark.looptime(False)  # a database thread keeps real time


def declaring(outcome: UnknownOutcome, *answers: TargetError | Receipt, base: type[Scripted] = Scripted) -> Scripted:
    """Return a target with this declaration; its first request is not answered."""
    target = base(OutcomeUnknown("no answer"), *answers)
    target.unknown_outcome = outcome
    return target


def unknown(world: World) -> Callable[[], object]:
    """Return what finds the attempts whose outcome is unknown."""
    return lambda: world.store.attempts_in(AttemptState.UNKNOWN)


async def test_an_empty_list_of_a_target_that_does_not_declare_it_proves_nothing(tmp_path: Path) -> None:
    """A target that has ``find_tasks`` for some other reason cannot overspend: the request counts as spent."""
    target = declaring(UnknownOutcome.SPENT, base=WithTasks)
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.settled()
        assert len(target.sent) == 2
        assert await world.ledger() == (2, 0)


async def test_an_empty_list_of_a_target_that_declares_it_gives_the_quota_back(tmp_path: Path) -> None:
    """Not before the list may show it, which is twice the time until the first look."""
    target = declaring(UnknownOutcome.TASKS, base=WithTasks)
    async with a_world_of(tmp_path, target, first_seconds=60.0) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        world.clock.ahead += 100
        await asyncio.sleep(0.5)
        assert len(target.sent) == 1
        assert await world.ledger() == (0, 1)
        world.clock.ahead += 100
        await world.settled()
        assert len(target.sent) == 2
        assert await world.ledger() == (1, 0)


async def test_one_that_declares_tasks_without_having_them_counts_as_spent(tmp_path: Path) -> None:
    """Nothing can be looked up."""
    async with a_world_of(tmp_path, target := declaring(UnknownOutcome.TASKS)) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.settled()
        assert len(target.sent) == 2
        assert await world.ledger() == (2, 0)


async def test_what_may_be_repeated_is_sent_again_after_a_pause(tmp_path: Path) -> None:
    """Nothing counts as spent but what was accepted."""
    async with a_world_of(tmp_path, target := declaring(UnknownOutcome.REPEAT), first_seconds=3600.0) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.settled()
        assert len(target.sent) == 2
        assert target.sent[0].token != target.sent[1].token
        assert await world.ledger() == (1, 0)


@pytest.mark.parametrize("between", [(), (Unavailable("away"),), (OutcomeUnknown("again"), OutcomeUnknown("again"))])
async def test_a_request_is_sent_again_with_its_token(tmp_path: Path, between: tuple[TargetError, ...]) -> None:
    """The same URLs in the same order, until there is an answer; it is paid for once."""
    async with a_world_of(tmp_path, target := declaring(UnknownOutcome.TOKEN, *between)) as world:
        world.source.deliver(*(Change("www", f"{n}.html") for n in (3, 1, 2)))
        await world.until(unknown(world))
        for count in range(2, 3 + len(between)):
            world.clock.ahead += 70 * count
            await world.until(lambda count=count: len(target.sent) == count)  # type: ignore[misc]
        await world.settled()
        assert len(set(target.sent)) == 1
        assert len(target.sent[0].urls) == 3
        assert len(target.sent[0].token) == 32
        assert await world.ledger() == (3, 0)


async def test_a_request_is_not_sent_again_in_another_window(tmp_path: Path) -> None:
    """It would be counted where nothing is reserved: it counts as spent in its own, and another one is sent."""
    patient = {"verifier": {"first_seconds": 0.2, "interval_seconds": 0.1, "give_up_seconds": 86_400.0 * 2}}
    async with a_world_of(tmp_path, target := declaring(UnknownOutcome.TOKEN), extra=patient) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        now = world.clock.now()
        world.clock.ahead += Day().end(now) - now + 60
        await world.settled()
        first, second = target.sent
        assert first.token != second.token
        assert await world.ledger() == (1, 0), "that of the new day"


class Queueing(Scripted):
    """A target at whose rate limits a request may have to wait; a test says what happens meanwhile."""

    meanwhile: Callable[[], None] | None = None

    async def admit(self, kind: RefreshKind, urls: Sequence[str], *, priority: Priority = Priority.LIVE) -> None:
        """Wait."""
        if self.sent and self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None


async def test_a_request_whose_turn_comes_in_another_window_is_not_sent_again(tmp_path: Path) -> None:
    """It was queued before the reset, behind others, and would be counted after it, where nothing is reserved."""
    target = declaring(UnknownOutcome.TOKEN, base=Queueing)
    assert isinstance(target, Queueing)
    patient = {"verifier": {"first_seconds": 0.2, "interval_seconds": 0.1, "give_up_seconds": 86_400.0 * 2}}
    async with a_world_of(tmp_path, target, extra=patient) as world:

        def pass_reset() -> None:
            now = world.clock.now()
            world.clock.ahead += Day().end(now) - now + 60

        target.meanwhile = pass_reset
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        world.clock.ahead += 70
        await world.settled()
        first, second = target.sent
        assert first.token != second.token
        assert await world.ledger() == (1, 0), "that of the new day"


@pytest.mark.parametrize("setting", ["account", "recipient"])
async def test_a_request_is_not_sent_again_to_whom_does_not_know_its_token(tmp_path: Path, setting: str) -> None:
    """Who the configuration names now would charge it once more: it counts as spent where it went; another is sent."""
    target = declaring(UnknownOutcome.TOKEN)
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
    setattr(target, setting, "other")
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.clock.ahead += 6
        await world.settled()
        first, second = target.sent
        assert first.token != second.token
        spent = {name: (await world.store.budget(name, target.allowances[0])).spent for name in ("main", "other")}
        assert spent == ({"main": 1, "other": 1} if setting == "account" else {"main": 2, "other": 0})


async def test_a_restart_sends_a_request_again_at_once(tmp_path: Path) -> None:
    """However long the process before was to wait: it may have died while it waited for the answer."""
    target = declaring(UnknownOutcome.TOKEN, OutcomeUnknown("again"))
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        world.clock.ahead += 1_000
        await world.until(lambda: len(target.sent) == 2)
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.clock.ahead += 1_001  # the next try was to be after 500 seconds
        await world.settled()
        assert len(set(target.sent)) == 1 and len(target.sent) == 3
        assert await world.ledger() == (1, 0)


async def test_a_request_keeps_its_token_over_a_restart(tmp_path: Path) -> None:
    """It is stored before the request is written: who comes after a crash sends the same one."""
    target = declaring(UnknownOutcome.TOKEN)
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.source.deliver(*(Change("www", f"{n}.html") for n in (3, 1, 2)))
        await world.until(unknown(world))
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        world.clock.ahead += 6
        await world.settled()
        first, second = target.sent
        assert first == second
        assert await world.ledger() == (3, 0)


async def test_a_crash_while_an_answer_is_booked_changes_nothing_of_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a part of it was refused: the same URLs are sent again with the token, which would be another request."""
    refused = Receipt(refused={f"{BASE}1.html": "no"})
    target = Scripted(refused, refused)
    target.unknown_outcome = UnknownOutcome.TOKEN
    async with a_world_of(tmp_path, target, first_seconds=3600.0) as world:
        with monkeypatch.context() as patch:

            def killed(*_: object, **__: object) -> None:
                raise RuntimeError("killed")

            patch.setattr("listener.store.attempts.accept", killed)
            world.source.deliver(*(Change("www", f"{n}.html") for n in (3, 1, 2)))
            with pytest.raises(ExceptionGroup):
                await world.running
        await world.store.close()
        await world.start()

        async def is_done() -> bool:
            counts = await world.store.counts()
            return (counts.pending, counts.in_flight, counts.parked) == (0, 0, 1)

        await world.until(is_done)
        first, second = target.sent
        assert first == second and len(first.urls) == 3
        assert await world.ledger() == (2, 0)


async def test_a_request_that_is_refused_when_it_is_sent_again_counts_as_spent(tmp_path: Path) -> None:
    """The refusal says nothing of the first: its URLs are sent by another request, and both are paid for."""
    target = declaring(UnknownOutcome.TOKEN, BatchRejected("no such path"))
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        world.clock.ahead += 70
        await world.settled()
        tokens = [one.token for one in target.sent]
        assert tokens[0] == tokens[1] != tokens[2]
        assert await world.ledger() == (2, 0)


async def test_a_request_is_not_sent_again_for_ever(tmp_path: Path) -> None:
    """After ``verifier.give_up_seconds`` it counts as spent, and its URLs are sent by another one."""
    target = declaring(UnknownOutcome.TOKEN, Throttled("busy", retry_after_seconds=0.1))
    async with a_world_of(tmp_path, target) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        world.clock.ahead += 3700
        await world.settled()
        assert target.sent[0].token != target.sent[-1].token
        assert (await world.ledger())[1] == 0


async def test_a_pause_holds_back_what_would_be_sent_again(tmp_path: Path) -> None:
    """Nothing is sent then, not even with a token."""
    async with a_world_of(tmp_path, target := declaring(UnknownOutcome.TOKEN)) as world:
        world.source.deliver(Change("www", "a.html"))
        await world.until(unknown(world))
        await Controls(world.store).put(ControlKind.PAUSE, [Place("", BASE)], seconds=None)
        world.clock.ahead += 70
        await asyncio.sleep(0.5)
        assert len(target.sent) == 1
        await Controls(world.store).remove(ControlKind.PAUSE, [Place("", BASE)])
        world.clock.ahead += 70
        await world.settled()
        assert len(target.sent) == 2
        assert await world.ledger() == (1, 0)
