"""The end of a term: no request begins late, none lasts longer, and what the CDN accepted all the same is not lost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from listener.allowances import Day, for_each_kind
from listener.change import Change
from listener.contracts import UnknownOutcome
from listener.errors import Fenced
from listener.pipeline.accounts import CAREFUL_BATCHES, Account
from listener.refresh import AttemptState, QuotaReading, Receipt, RefreshKind
from listener.store import NeedInput, Store
from listener.store.charges import Charge
from listener.store.durability import CommitMark, Loss
from listener.store.leadership import NO_SURPLUS, UPKEEP, SoleOwner, Surplus, Term
from listener.store.transitions import AttemptRequest
from listener.targets.alibaba_cdn import AlibabaCdn
from tests.pipeline.scripted import BASE, Scripted, a_world_of
from tests.pipeline.world import World, a_world, stays
from tests.store.steps import ALLOWANCE

pytestmark = pytest.mark.looptime(False)


class PlayedTerm:
    """A term that ends as the test says."""

    def __init__(self, lead: PlayedLeadership, account: str, store: Store) -> None:
        self._lead = lead
        self.account = account
        self.number = lead.terms[account]
        self.store = store
        self.unknown_seconds = lead.unknown_seconds
        self.late: list[Mapping[int, str]] = []
        self.has_ended = False
        self.took_over = 0

    def left_seconds(self) -> float:
        return self._lead.left()

    def may_begin(self) -> bool:
        return self._lead.may_begin

    async def take_over(self) -> None:
        self.took_over += 1
        self._lead.steps.append(f"take over {self.number}")

    async def note_late_answer(
        self, tasks: Mapping[int, str], *, kind: RefreshKind, charges: tuple[Charge, ...]
    ) -> None:
        assert kind is RefreshKind.FILE
        self.late.append(tasks)

    async def book_late_answers(self) -> int:
        return 0

    def end(self) -> None:
        self.has_ended = True


class PlayedLeadership(SoleOwner):
    """The leadership of one account, as the test says."""

    def __init__(self, store: Store, *, is_sole: bool) -> None:
        super().__init__(store, ["main"])
        self.is_sole = is_sole
        self.terms = self.terms if is_sole else {UPKEEP: 0}
        self._led = store
        self.may_begin = True
        self.left: Callable[[], float] = lambda: math.inf
        self.made: list[PlayedTerm] = []
        self.steps: list[str] = []
        self.unknown_seconds: Mapping[int, float] = {}
        self.given_back: list[Collection[str]] = []
        self._changed: Callable[[], None] = lambda: None

    def term(self, account: str) -> Term:
        self.made.append(PlayedTerm(self, account, self._led))
        return self.made[-1]

    def follow(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def leave(self) -> None:
        self.steps.append("leave")

    async def give_back(self, accounts: Collection[str]) -> None:
        self.given_back.append(accounts)
        self.surplus = NO_SURPLUS
        self.begin(None)

    def begin(self, number: int | None) -> None:
        """Let a term of the account begin, or none."""
        self.terms = {UPKEEP: 0} if number is None else {UPKEEP: 0, "main": number}
        self._changed()


async def led(world: World, *, is_sole: bool = True) -> PlayedLeadership:
    """Restart the world under a leadership that the test plays with."""
    made: list[PlayedLeadership] = []

    def lead(store: Store) -> PlayedLeadership:
        made.append(PlayedLeadership(store, is_sole=is_sole))
        return made[-1]

    await world.stop()
    world.lead = lead
    await world.start()
    return made[0]


async def is_sending(world: World) -> bool:
    """Return whether a request is being written or its answer awaited."""
    return bool(await world.store.attempts_in(AttemptState.SENDING))


async def test_nothing_begins_while_too_little_time_is_left(tmp_path: Path) -> None:
    """It waits for the next renewal, still reserved: no request is written, and none is booked."""
    async with a_world(tmp_path) as world:
        lead = await led(world)
        lead.may_begin = False
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.pipeline.engines[0].sender._waiting)
        await stays(world, seconds=0.3)
        assert await world.store.attempts_in(AttemptState.HELD)
        assert world.accepted == {}
        lead.may_begin = True
        await world.settled()
        assert world.accepted == {"file": 1}


async def test_what_could_not_be_sent_in_time_is_refunded_and_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadline passes between the commit and the bytes: nothing was spent, and the account stays open."""
    failures: list[object] = []
    monkeypatch.setattr(Account, "record_failure", lambda *arguments, **_: failures.append(arguments) or 0.0)
    async with a_world(tmp_path) as world:
        lead = await led(world)
        answers = iter([1.0, 0.0])  # for the time limit of the request, and with its bytes
        lead.left = lambda: next(answers, math.inf)
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        assert next(answers, None) is None
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)
        assert not failures


async def test_a_commit_that_takes_the_rest_of_the_time_begins_no_request(tmp_path: Path) -> None:
    """Time is looked at again after the transaction: the attempt is refunded, not unknown."""
    async with a_world(tmp_path) as world:
        lead = await led(world)
        marked = world.store.mark_sending
        tries = 0

        async def mark_sending(ids: Sequence[int], *, token: str) -> list[int]:
            nonlocal tries
            tries += 1
            lead.may_begin = tries > 1
            return await marked(ids, token=token)

        world.store.mark_sending = mark_sending  # type: ignore[method-assign]
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: tries == 1 and world.pipeline.engines[0].sender._waiting)
        assert world.accepted == {}
        lead.may_begin = True
        await world.settled()
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)


async def test_a_request_lasts_no_longer_than_the_term(tmp_path: Path) -> None:
    """An answer that does not come until the deadline is not awaited: the outcome is unknown, and found out later."""
    async with a_world(tmp_path) as world:
        lead = await led(world)
        lead.left = lambda: 0.3
        world.order("accept-then-timeout:1,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        began = asyncio.get_running_loop().time()

        async def is_unknown() -> Any:
            return await world.store.attempts_in(AttemptState.UNKNOWN)

        await world.until(is_unknown)
        assert asyncio.get_running_loop().time() - began < 1.5  # the target's own limit is two seconds
        lead.left = lambda: math.inf
        await world.settled()
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)


async def test_what_the_cdn_accepted_after_the_term_is_kept_for_the_next_leader(tmp_path: Path) -> None:
    """The transaction is fenced off: the answer is kept, nothing else is cancelled, the leader ends."""
    async with a_world(tmp_path) as world:
        lead = await led(world)
        accept = world.store.book_answer

        async def fenced(*_: Any, **__: Any) -> None:
            raise Fenced("term 0 has ended")

        world.store.book_answer = fenced  # type: ignore[method-assign, assignment]
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: lead.made[0].has_ended)
        (late,) = lead.made[0].late
        assert len(late) == 1
        assert all(late.values())
        assert not world.running.done()
        world.store.book_answer = accept  # type: ignore[method-assign]


@pytest.mark.parametrize(("how", "kept"), [(UnknownOutcome.TOKEN, 0), (UnknownOutcome.TASKS, 2)])
async def test_a_part_that_was_refused_after_the_term_is_left_to_the_next_leader(
    tmp_path: Path, how: UnknownOutcome, kept: int
) -> None:
    """Nothing of it is booked, the leader ends in order; a request that is sent again with its token stays whole."""
    target = Scripted(Receipt(refused={f"{BASE}1.html": "no"}))
    target.unknown_outcome = how
    async with a_world_of(tmp_path, target) as world:
        lead = await led(world)

        async def fenced(*_: Any, **__: Any) -> None:
            raise Fenced("term 0 has ended")

        for name in ("book_answer", "park", "accept"):
            setattr(world.store, name, fenced)
        world.source.deliver(*(Change("www", f"{n}.html") for n in (3, 1, 2)))
        await world.until(lambda: lead.made[0].has_ended)
        assert [len(one) for one in lead.made[0].late] == [kept] * bool(kept)
        assert len(await world.store.attempts_in(AttemptState.SENDING)) == 3
        assert not world.running.done()
        for name in ("book_answer", "park", "accept"):
            delattr(world.store, name)


async def test_a_leader_that_is_fenced_off_while_planning_ends(tmp_path: Path) -> None:
    """No transaction is tried again under a term that is over, and the process goes on."""
    async with a_world(tmp_path) as world:
        lead = await led(world)
        tries = 0

        async def fenced(*_: Any, **__: Any) -> list[Any]:
            nonlocal tries
            tries += 1
            raise Fenced("term 0 has ended")

        world.store.hold = fenced  # type: ignore[method-assign, assignment]
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: lead.made[0].has_ended)
        await stays(world, seconds=0.3)
        assert tries == 1
        assert world.accepted == {}


async def test_nothing_is_planned_before_the_take_over(tmp_path: Path) -> None:
    """Without a term changes are recorded only. With one: take over, read the quota, begin with small batches."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.source.acked == 1)
        await stays(world, seconds=0.3)
        assert world.accepted == {}
        assert not world.pipeline.engines
        read_quota = world.target.read_quota

        async def noted() -> Any:
            lead.steps.append("read the quota")
            assert world.pipeline.engines[0].account.careful == CAREFUL_BATCHES
            return await read_quota()

        world.target.read_quota = noted  # type: ignore[method-assign]
        lead.begin(5)
        await world.until(lambda: world.accepted == {"file": 1})
        assert lead.steps[:2] == ["take over 5", "read the quota"]


async def test_a_new_term_begins_with_an_empty_memory(tmp_path: Path) -> None:
    """What the last leader knew of the account is not used: another one may have sent in between."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        lead.begin(1)
        await world.until(lambda: world.pipeline.engines)
        (old,) = world.pipeline.engines
        old.account.close(world.clock.now() + 3600.0, "closed", now=world.clock.now())
        lead.begin(2)
        await world.until(lambda: world.pipeline.engines and world.pipeline.engines[0] is not old)
        assert not world.pipeline.engines[0].account.closed_reason
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()
        assert world.accepted == {"file": 1}
        assert [made.took_over for made in lead.made] == [1, 1]
        await world.until(lambda: not world.pipeline._leaders._jobs)
        assert [one.get_name() for one in asyncio.all_tasks()].count("dispatch main") == 1


async def test_a_term_that_ended_is_led_no_more(tmp_path: Path) -> None:
    """Its engine, sender and verifier end; what changes from then on is recorded."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        lead.begin(1)
        await world.until(lambda: world.pipeline.engines)
        lead.begin(None)
        await world.until(lambda: not world.pipeline.engines)
        await world.until(
            lambda: not [one for one in asyncio.all_tasks() if one.get_name() in ("dispatch main", "send main")]
        )
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: world.source.acked == 1)
        await stays(world, seconds=0.3)
        assert world.accepted == {}


async def test_what_is_handed_over_is_finished_and_given_back_whole(tmp_path: Path) -> None:
    """Planning ends, what is reserved is refunded, requests are awaited; only then others may lead."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        lead.begin(1)
        await world.until(lambda: world.pipeline.engines)
        world.order("slow:0.5,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: is_sending(world))
        lead.surplus = Surplus(frozenset({"main"}), 1)
        lead._changed()
        await world.until(lambda: lead.given_back)
        assert [list(names) for names in lead.given_back] == [["main"]]
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)
        assert not world.pipeline.engines


async def test_a_stop_leaves_once_everything_has_ended(tmp_path: Path) -> None:
    """Until then the leases are kept: a request under way is awaited and booked."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        lead.begin(1)
        await world.until(lambda: world.pipeline.engines)
        world.order("slow:0.5,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: is_sending(world))
        world.pipeline.stop()
        await world.running
        assert lead.steps[-1] == "leave"
        assert world.accepted == {"file": 1}
        assert await world.ledger() == (1, 0)


async def test_a_stop_ends_a_leader_that_is_about_to_end(tmp_path: Path) -> None:
    """A term that ended just before the stop has requests under way: nothing of its leader keeps the process."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        lead.begin(1)
        await world.until(lambda: world.pipeline.engines)
        world.order("slow:0.5,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: is_sending(world))
        lead.begin(None)
        await world.until(lambda: not world.pipeline.engines)
        world.pipeline.stop()
        await asyncio.wait_for(world.running, 10)
        assert lead.steps[-1] == "leave"


async def test_a_term_begins_once_the_leader_of_the_last_one_has_ended(tmp_path: Path) -> None:
    """A request of an older term never follows one of a newer term, also where both are of this process."""
    async with a_world(tmp_path) as world:
        lead = await led(world, is_sole=False)
        lead.begin(1)
        await world.until(lambda: world.pipeline.engines)
        world.order("slow:0.5,action=RefreshObjectCaches")
        world.source.deliver(world.write("a.html", "new"))
        await world.until(lambda: is_sending(world))
        lead.begin(2)
        await world.until(lambda: len(lead.made) == 2)
        assert world.accepted == {"file": 1}


async def test_an_absence_is_believed_some_time_after_the_take_over_only(tmp_path: Path) -> None:
    """Whoever was sending may have been frozen, and have written the request any time before it was fenced off."""
    async with a_world(tmp_path, extra={"verifier": {"first_seconds": 0.6}}) as world:
        lead = await led(world, is_sole=False)
        url = world.url("a.html")
        await world.store.request([NeedInput("cdn", url)])
        wanted = AttemptRequest("cdn", RefreshKind.FILE, url, True, "", 0.0)
        (made,) = await world.store.hold(
            [wanted], account="main", allowances=for_each_kind({RefreshKind.FILE: 10}, Day())
        )
        world.clock.ahead -= 100.0
        await world.store.mark_sending([made.id])
        world.clock.ahead += 100.0
        await world.store.mark_unknown([made.id], next_look_at=0.0, error="lost")
        lead.unknown_seconds = {made.id: 0.0}
        began = time.monotonic()
        lead.begin(1)

        async def is_refunded() -> bool:
            return not await world.store.attempts_in(AttemptState.UNKNOWN)

        await world.until(is_refunded)
        assert time.monotonic() - began >= 1.2
        await world.settled()
        assert world.accepted == {"file": 1}


async def quota_left(world: World) -> int:
    """Return how much of the file quota is left today."""
    return (await world.store.budget("main", replace(ALLOWANCE[RefreshKind.FILE], limit=1000))).left


async def after_a_loss(world: World, monkeypatch: pytest.MonkeyPatch) -> PlayedLeadership:
    """Begin a term after the database lost commits."""
    lead = await led(world, is_sole=False)
    monkeypatch.setattr(
        Store, "counted", SimpleNamespace(mark=CommitMark(2, (Loss(3, 2),)), save_trouble=lambda *_: None)
    )
    lead.begin(1)
    await world.until(lambda: world.pipeline.engines and not world.pipeline.engines[0].account.needs_quota)
    return lead


async def test_without_a_live_quota_nothing_more_is_spent_of_a_day_that_lost_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was spent may be all that the ledger has left. The next day begins as any other, also after another term."""
    async with a_world(tmp_path) as world:
        world.source.deliver(world.write("before.html", "new"))
        await world.settled()
        monkeypatch.setattr(AlibabaCdn, "read_quota", no_quota)
        lead = await after_a_loss(world, monkeypatch)
        assert await quota_left(world) == 0
        world.source.deliver(world.write("a.html", "new"))
        await stays(world, seconds=0.5)
        assert world.accepted == {"file": 1}
        world.clock.ahead += 86400
        await world.settled()
        assert world.accepted == {"file": 2}
        lead.begin(2)
        await world.until(lambda: [leader.term.number for leader in world.pipeline._leaders.present] == [2])
        world.source.deliver(world.write("b.html", "new"))
        await world.settled()
        assert world.accepted == {"file": 3}
        assert await quota_left(world) == 998


async def test_with_a_live_quota_sending_goes_on_after_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what was spent."""
    async with a_world(tmp_path) as world:
        await after_a_loss(world, monkeypatch)
        assert await quota_left(world) == 1000
        world.source.deliver(world.write("a.html", "new"))
        await world.settled()


async def no_quota(_: AlibabaCdn) -> Mapping[str, QuotaReading]:
    """Report no quota."""
    return {}
