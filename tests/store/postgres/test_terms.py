"""A term on a real store: each operation of a leader against a take-over, and what a leader left behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from listener.allowances import for_each_kind
from listener.errors import Fenced
from listener.refresh import AttemptState, RefreshKind
from listener.store import NeedInput, Store
from listener.store.charges import charges_of
from listener.store.connection import Connection
from listener.store.postgres.access import PostgresDriver
from listener.store.postgres.connection import PostgresConnection
from listener.store.postgres.keeper import LeaseKeeper
from listener.store.postgres.migrations import SCHEMA
from listener.store.store import StoreOptions
from listener.store.transitions import AttemptRequest
from tests.store.databases import postgres_database as emptied
from tests.store.steps import DAY, FakeClock

pytestmark = pytest.mark.looptime(False)
ALLOWANCES = for_each_kind({RefreshKind.FILE: 10, RefreshKind.DIRECTORY: 10}, DAY)
URL = "https://www.example.com/d/a.txt"
OTHER_URL = "https://www.example.com/d/b.txt"


class Instance:
    """One instance: its store, and what keeps its leases."""

    def __init__(self, url: str, name: str, clock: FakeClock) -> None:
        driver = PostgresDriver(url, instance=name, owner=True, readonly=False)
        self.store = Store(driver, options=StoreOptions(), clock=clock)
        self.keeper = LeaseKeeper(
            self.store,
            PostgresConnection(url, schema=SCHEMA, instance=name),
            schema=SCHEMA,
            instance=name,
            version="1",
            accounts=["main"],
            lease_seconds=600.0,
        )

    async def look(self) -> None:
        """Look once for what is to be led."""
        await self.keeper._do(lambda raw: self.keeper._membership.look(raw, lambda: 0.0))
        self.keeper._publish()

    async def close(self) -> None:
        """End it."""
        await self.keeper.leave()
        await self.store.close()


class Stand:
    """Two instances on one database; the first one leads."""

    def __init__(self, url: str) -> None:
        self.clock = FakeClock()
        self.old = Instance(url, "old", self.clock)
        self.new = Instance(url, "new", self.clock)
        self.observer = PostgresConnection(url, schema=SCHEMA, instance="observer")

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement in a transaction of its own."""
        cursor = self.observer.raw.execute(statement.replace("{}", SCHEMA).encode(), values)
        return cursor.fetchall() if cursor.description else []

    async def take_over(self) -> Any:
        """Let the first instance be taken for dead, and the other one take over; return its term."""
        self.sql("UPDATE {}.instance SET until = '-infinity' WHERE name = 'old'")
        while "main" not in self.new.keeper.terms:
            await self.new.look()
            await asyncio.sleep(0.01)
        term = self.new.keeper.term("main")
        await term.take_over()
        return term

    async def leave(self, store: Store, until: str, url: str = URL, kind: RefreshKind = RefreshKind.FILE) -> int:
        """Bring an attempt so far; return its id."""
        await self.old.store.request([NeedInput("cdn", url), NeedInput("cdn", OTHER_URL)])
        wanted = AttemptRequest("cdn", kind, url, True, "", 0.0)
        (made,) = await store.hold([wanted], account="main", allowances=ALLOWANCES)
        if until != "held":
            await store.mark_sending([made.id])
        if until in ("accepted", "complete"):
            await store.accept({made.id: "7"}, next_look_at=1.0)
        if until == "complete":
            (accepted,) = await store.attempts_in(AttemptState.ACCEPTED)
            await store.complete([accepted])
        return made.id

    async def ledger(self) -> tuple[int, int]:
        """Return what is spent and held of files."""
        budget = await self.new.store.budget("main", ALLOWANCES[0])
        return budget.spent, budget.held


@asynccontextmanager
async def stand_at(url: str) -> AsyncIterator[Stand]:
    """Make the stand, and end it."""
    with emptied(url):
        stand = Stand(url)
        stand.sql("TRUNCATE {}.instance, {}.lease, {}.inherited, {}.late_answer")
        try:
            await stand.old.look()
            yield stand
        finally:
            await stand.old.close()
            await stand.new.close()
            stand.observer.end()


@pytest.fixture
async def stand(store_url: str) -> AsyncIterator[Stand]:
    """Give two instances, the first of which leads."""
    async with stand_at(store_url) as made:
        yield made


class Pause:
    """Stops the old leader's transaction between its fence and its commit."""

    def __init__(self, store: Store) -> None:
        self.passed, self.go_on = threading.Event(), threading.Event()
        proved = store._fence
        assert proved is not None

        def fence(connection: Connection) -> None:
            proved(connection)
            self.passed.set()
            assert self.go_on.wait(20)

        store._fence = fence


Step = Callable[[Store, int], Awaitable[object]]


async def first(store: Store, state: AttemptState) -> Any:
    """Return the attempt in this state."""
    (found,) = await store.attempts_in(state)
    return found


async def reserve(store: Store, _: int) -> object:
    """Reserve another attempt."""
    wanted = AttemptRequest("cdn", RefreshKind.FILE, OTHER_URL, True, "", 0.0)
    return await store.hold([wanted], account="main", allowances=ALLOWANCES)


async def complete(store: Store, _: int) -> object:
    """Complete what was accepted."""
    return await store.complete([await first(store, AttemptState.ACCEPTED)])


async def sweep(store: Store, _: int) -> object:
    """Settle what a complete directory covers."""
    return await store.sweep(await first(store, AttemptState.COMPLETE))


OPERATIONS: Mapping[str, tuple[str, RefreshKind, Step]] = {
    "reserve": ("held", RefreshKind.FILE, reserve),
    "sending": ("held", RefreshKind.FILE, lambda store, i: store.mark_sending([i])),
    "refund": ("held", RefreshKind.FILE, lambda store, i: store.refund([i])),
    "accept": ("sending", RefreshKind.FILE, lambda store, i: store.accept({i: "7"}, next_look_at=1.0)),
    "unknown": ("sending", RefreshKind.FILE, lambda store, i: store.mark_unknown([i], next_look_at=1.0, error="lost")),
    "back to held": ("sending", RefreshKind.FILE, lambda store, i: store.back_to_held([i])),
    "presume spent": ("sending", RefreshKind.FILE, lambda store, i: store.presume_spent([i], error="lost")),
    "complete": ("accepted", RefreshKind.FILE, complete),
    "fail": ("accepted", RefreshKind.FILE, lambda store, i: store.fail([i], retry_at=1.0, error="failed")),
    "park": ("accepted", RefreshKind.FILE, lambda store, i: store.park([i], error="refused")),
    "unconfirm": ("accepted", RefreshKind.FILE, lambda store, i: store.unconfirm([i], next_look_at=1.0, error="late")),
    "sweep": ("complete", RefreshKind.DIRECTORY, sweep),
}
DIRECTORY = "https://www.example.com/d/"


def rows(stand: Stand) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that a leader writes."""
    return {
        "attempt": stand.sql("SELECT * FROM {}.attempt ORDER BY id"),
        "need": stand.sql("SELECT * FROM {}.need ORDER BY directory, name, scope"),
        "ledger": stand.sql("SELECT account, kind, spent, others, held FROM {}.ledger ORDER BY account, kind"),
    }


def held_units(stand: Stand) -> list[tuple[Any, ...]]:
    """Return what the ledger holds for nobody, or attempts have without the ledger."""
    return stand.sql(
        "SELECT account, kind, held, (SELECT count(*) FROM {}.attempt a WHERE a.held = 1 AND a.kind = l.kind)"
        " FROM {}.ledger l WHERE held <> (SELECT count(*) FROM {}.attempt a WHERE a.held = 1 AND a.kind = l.kind)"
    )


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_take_over_waits_for_each_operation_of_a_leader(stand: Stand, operation: str) -> None:
    """Between the fence and the commit of the old leader nobody takes over; then what it did is found whole."""
    until, kind, step = OPERATIONS[operation]
    old = stand.old.keeper.term("main").store
    number = await stand.leave(old, until, DIRECTORY if kind is RefreshKind.DIRECTORY else URL, kind)
    pause = Pause(old)
    running = asyncio.create_task(step(old, number))  # type: ignore[arg-type]
    assert await asyncio.to_thread(pause.passed.wait, 20)
    before = rows(stand)
    stand.sql("UPDATE {}.instance SET until = '-infinity' WHERE name = 'old'")
    for _ in range(3):
        await stand.new.look()
        assert "main" not in stand.new.keeper.terms
    assert rows(stand) == before
    pause.go_on.set()
    await running
    after = rows(stand)
    assert after != before
    term = await stand.take_over()
    assert held_units(stand) == []
    states = [state for (state,) in stand.sql("SELECT state FROM {}.attempt WHERE active = 1")]
    assert not {"held", "sending"} & set(states)
    assert [i for (i,) in stand.sql("SELECT id FROM {}.attempt WHERE state = 'unknown'")] == list(
        term.unknown_seconds
    ) or (operation == "unknown")


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_operation_of_a_leader_does_anything_after_its_term(stand: Stand, operation: str) -> None:
    """Each is refused by the fence, and what the new leader found is as it left it."""
    until, kind, step = OPERATIONS[operation]
    old = stand.old.keeper.term("main").store
    number = await stand.leave(old, until, DIRECTORY if kind is RefreshKind.DIRECTORY else URL, kind)
    prepared = await _prepared(old, operation, number, step)
    await stand.take_over()
    before = rows(stand)
    with pytest.raises(Fenced):
        await prepared
    assert rows(stand) == before


async def _prepared(store: Store, operation: str, number: int, step: Step) -> Awaitable[object]:
    """Return the operation, with what it reads before read now."""
    if operation == "complete":
        return store.complete([await first(store, AttemptState.ACCEPTED)])
    if operation == "sweep":
        return store.sweep(await first(store, AttemptState.COMPLETE))
    return step(store, number)


async def test_what_was_reserved_is_refunded_and_what_was_sent_is_unknown(stand: Stand) -> None:
    """Nothing of the first was written; of the second nobody knows. What was accepted goes on as it is."""
    old = stand.old.keeper.term("main").store
    for number, until in enumerate(("held", "sending", "accepted")):
        await stand.leave(old, until, URL.replace("a.txt", f"{number}.txt"))
    assert await stand.ledger() == (1, 2)
    term = await stand.take_over()
    assert await stand.ledger() == (1, 1)
    states = {state: url[-5] for state, url in stand.sql("SELECT state, url FROM {}.attempt")}
    assert states == {"unknown": "1", "accepted": "2"}
    counts = await stand.new.store.counts()
    assert counts.pending == 2  # with the one that nobody planned
    assert held_units(stand) == []
    assert list(term.unknown_seconds.values()) == [pytest.approx(0.0, abs=5.0)]


async def test_only_the_account_that_is_taken_over_is_sorted_out(stand: Stand) -> None:
    """What other accounts reserve and send belongs to their own leaders."""
    wanted = AttemptRequest("other", RefreshKind.FILE, URL, True, "", 0.0)
    await stand.new.store.request([NeedInput("other", URL)])
    (made,) = await stand.new.store.hold([wanted], account="other", allowances=ALLOWANCES)
    await stand.take_over()
    (kept,) = await stand.new.store.attempts_in(AttemptState.HELD)
    assert kept.id == made.id


async def test_an_outcome_is_unknown_since_the_first_take_over(stand: Stand) -> None:
    """By the database's clock, whatever the one that sent thought; further take-overs do not start it again."""
    old = stand.old.keeper.term("main").store
    number = await stand.leave(old, "sending")
    await stand.take_over()
    stand.sql("UPDATE {}.inherited SET unknown_since = unknown_since - interval '1 hour'")
    again = stand.new.keeper.term("main")
    await again.take_over()
    assert again.unknown_seconds == {number: pytest.approx(3600.0, abs=5.0)}
    await again.store.refund([number])
    await again.take_over()
    assert again.unknown_seconds == {}


async def test_the_age_of_an_unknown_outcome_does_not_count_from_the_start_of_the_transaction(stand: Stand) -> None:
    """A transaction that waited long has begun before the sender was fenced off."""
    old = stand.old.keeper.term("main").store
    number = await stand.leave(old, "sending")
    await stand.take_over()
    stand.sql("TRUNCATE {}.inherited")
    table, raw = stand.new.keeper._table, stand.observer.raw
    with raw.transaction():
        raw.execute("SELECT pg_sleep(0.5)")
        assert 0 <= table.inherit(raw, [number])[number] < 0.4


@pytest.mark.parametrize("state", ["unknown", "adopted", "refunded", "sent again"])
async def test_a_late_answer_is_booked_once(stand: Stand, state: str) -> None:
    """Unknown: it was accepted. Found in the list before: nothing to add. Given up: charged in addition, by others."""
    old_term = stand.old.keeper.term("main")
    number = await stand.leave(old_term.store, "sending")
    term = await stand.take_over()
    charges = charges_of(ALLOWANCES, RefreshKind.FILE, stand.clock.now())
    if state == "adopted":
        await term.store.accept({number: "7"}, next_look_at=1.0, inferred=True)
    elif state != "unknown":
        await term.store.refund([number])
    if state == "sent again":
        wanted = AttemptRequest("cdn", RefreshKind.FILE, URL, True, "", 0.0)
        (again,) = await term.store.hold([wanted], account="main", allowances=ALLOWANCES)
        await term.store.mark_sending([again.id])
        await term.store.accept({again.id: "8"}, next_look_at=1.0)
    with pytest.raises(Fenced):
        await old_term.store.accept({number: "7"}, next_look_at=1.0)
    for _ in range(2):  # the connection may be lost before the answer
        await old_term.note_late_answer({number: "7"}, kind=RefreshKind.FILE, charges=charges)
    assert await term.book_late_answers() == 1
    assert await term.book_late_answers() == 0
    accepted_by_cdn = 2 if state == "sent again" else 1
    assert await stand.ledger() == (accepted_by_cdn, 0)
    if state in ("unknown", "adopted"):
        assert (await first(term.store, AttemptState.ACCEPTED)).task_id == "7"
    assert held_units(stand) == []


async def test_late_answers_are_booked_by_the_leader_of_the_day_only(stand: Stand) -> None:
    """Who was fenced off before it booked them leaves them where they are."""
    first_term = stand.old.keeper.term("main")
    number = await stand.leave(first_term.store, "sending")
    second = await stand.take_over()
    charges = charges_of(ALLOWANCES, RefreshKind.FILE, stand.clock.now())
    await first_term.note_late_answer({number: "7"}, kind=RefreshKind.FILE, charges=charges)
    stand.sql("UPDATE {}.lease SET term = term + 1 WHERE name = 'main'")
    with pytest.raises(Fenced):
        await second.book_late_answers()
    assert stand.sql("SELECT count(*) FROM {}.late_answer") == [(1,)]


@pytest.mark.parametrize(("seconds", "words"), [(600, "600 s ahead of"), (-600, "600 s behind"), (0, "")])
async def test_a_clock_that_differs_from_the_servers_is_reported(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, seconds: float, words: str
) -> None:
    """That of the host, which log lines and signatures of requests have; due times are by the database's."""
    right = time.time
    monkeypatch.setattr("listener.store.postgres.keeper.time.time", lambda: right() + seconds)
    await stand.old.keeper._do(stand.old.keeper._look)
    assert (words in stand.old.keeper.trouble) if words else not stand.old.keeper.trouble


async def test_a_term_ends_with_a_loss_of_commits(stand: Stand) -> None:
    """Ids that its leader remembers may be those of other attempts by now; another term begins with a take-over."""
    term = stand.old.keeper.term("main")
    await term.store.request([NeedInput("cdn", URL)])
    stand.old.keeper._membership.deadline.renewed(1e9)  # the stand's clock does not run
    assert term.may_begin()
    stand.sql("UPDATE {}.instance_count SET recorded = recorded - 1 WHERE name = 'old'")
    with pytest.raises(Fenced, match="lost commits"):
        await stand.leave(term.store, "held")
    assert (term.may_begin(), term.left_seconds() > 0) == (False, False)
    term.end()
    stand.old.keeper._membership._renewed_at = -1e9
    await stand.old.look()
    again = stand.old.keeper.term("main")
    assert again.number == term.number + 1
    await again.take_over()
    assert await stand.leave(again.store, "sending")


async def test_a_file_that_an_older_version_sent_is_settled_once(stand: Stand) -> None:
    """A file refresh always evicts, though leaders of version 14 do not say so: it is not paid for once more."""
    attempt = await stand.leave(stand.old.store, "accepted")
    stand.sql("UPDATE {}.attempt_group SET force = 0, token = ''")
    stand.sql("UPDATE {}.need SET needs_force = 1 WHERE attempt = $1", attempt)
    term = await stand.take_over()
    await term.store.complete([await first(term.store, AttemptState.ACCEPTED)])
    assert [row["state"] for row in await term.store.explain(URL)] == []
    assert stand.sql("SELECT count(*) FROM {}.need WHERE needs_force = 1") == [(0,)]
