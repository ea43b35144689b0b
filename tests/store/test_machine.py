"""Promises 1, 3, 4 and 5 together: any order of steps, against a plain model that asks ``covers``."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from listener.allowances import Allowance, Day, Total, for_each_kind
from listener.change import Change
from listener.refresh import Attempt, AttemptState, Need, NeedState, RefreshKind, Scope, covers
from listener.store import NeedInput, Store, transitions
from listener.store.batches import Batch
from listener.store.store import StoreOptions
from tests.store.coverage_model import assert_readers_agree
from tests.store.databases import Database, PostgresDatabase, SqliteDatabase, empty_schema
from tests.store.steps import BASE, Bench, FakeClock, content, deleted, file, folder, subtree

KEYS = ["a/1", "a/2", "a/b/1", "a/b/", "c/1", "2"]
FOLDERS = ["a/", "a/b/", "c/"]
ALLOWANCES = (
    *for_each_kind({RefreshKind.FILE: 12, RefreshKind.DIRECTORY: 4}, Day()),
    Allowance(name="both", limit=15, window=Total(), costs={RefreshKind.FILE: 1, RefreshKind.DIRECTORY: 3}),
)
KINDS = (RefreshKind.FILE, RefreshKind.DIRECTORY)
SENT = (AttemptState.ACCEPTED, AttemptState.UNCONFIRMED)


@dataclass
class Stale:
    """A changed URL that no completed attempt has covered since: the model's need."""

    sequence: int
    open: bool
    needs_force: bool
    parked: bool = False


@dataclass
class Model:
    """What must be true, kept in dictionaries."""

    stale: dict[tuple[str, Scope], Stale] = field(default_factory=dict)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    accepted: dict[RefreshKind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    presumed: dict[RefreshKind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    sweeping: dict[int, tuple[Attempt, transitions.SweepPosition]] = field(default_factory=dict)

    def need(self, url: str, scope: Scope) -> Need:
        one = self.stale[url, scope]
        return Need("cdn", url, scope, one.sequence, 0.0, one.open, one.needs_force)

    def complete(self, attempt: Attempt) -> None:
        for url, scope in list(self.stale):
            if covers(attempt, self.need(url, scope)):
                del self.stale[url, scope]

    def held(self, kind: RefreshKind) -> int:
        states = (AttemptState.HELD, AttemptState.SENDING, AttemptState.UNKNOWN)
        return sum(1 for one in self.attempts.values() if one.kind is kind and one.state in states)


class StoreMachine(RuleBasedStateMachine):
    """Steps of sources, pipeline, CDN, operator and fate."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.database = self.make_database()
        self.clock = FakeClock()
        self.model = Model()
        self.abandoned: list[Store] = []
        self.delay = 0.0
        self.store = self.open()
        self.run(self.store.recover())

    def make_database(self) -> Database:
        self.folder = Path(tempfile.mkdtemp(prefix="store-machine-"))
        return SqliteDatabase(self.folder / "s.db")

    def remove_database(self) -> None:
        shutil.rmtree(self.folder)

    def release(self) -> None:
        """Let go of what ends with a process."""
        lock = self.store._driver._lock  # type: ignore[attr-defined]
        assert lock is not None
        lock.release()

    def open(self) -> Store:
        options = StoreOptions(expand_limit=2, unforced=frozenset({"cdn"}))
        return self.database.open(clock=self.clock, options=options)

    def run(self, coroutine: Any) -> Any:
        return self.loop.run_until_complete(coroutine)

    @property
    def bench(self) -> Bench:
        return Bench(self.store, self.clock, self.database)

    def teardown(self) -> None:
        for store in [*self.abandoned, self.store]:
            self.run(store.close())
        self.loop.close()
        self.database.close()
        self.remove_database()

    def some(self, n: int, *states: AttemptState) -> list[Attempt]:
        found = [one for one in self.model.attempts.values() if one.state in states]
        return found[n % len(found) :][:2] if found else []

    def turn(self, attempts: list[Attempt], state: AttemptState) -> None:
        for one in attempts:
            self.model.attempts[one.id] = self.model.attempts[one.id]._replace(state=state)

    # -- sources -------------------------------------------------------------------------------

    @initialize()
    def seed(self) -> None:
        changes = [content(key, 5) for key in KEYS]
        self.run(self.store.record([Batch(changes, seed=True)], self.route))

    def route(self, change: Change) -> list[NeedInput]:
        scope = Scope.SUBTREE if change.kind.startswith("subtree") else Scope.EXACT
        return [NeedInput("cdn", BASE + change.key, scope, self.delay)]

    @rule(
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True),
        mtime=st.integers(3, 7),
        finished=st.booleans(),
        gone=st.booleans(),
        delay=st.sampled_from([0.0, 0.0, 20.0]),
    )
    def record(self, keys: list[str], mtime: int, finished: bool, gone: bool, delay: float) -> None:
        self.delay = delay
        changes = [deleted(key) if gone else content(key, mtime, finished=finished) for key in keys]
        (recorded,) = self.run(self.store.record([Batch(changes)], self.route))
        if gone:
            for key in keys:
                self.model.stale.pop((BASE + key, Scope.PREFETCH), None)
        rows = self.rows()
        for key in keys:
            sequence, _, open_, _ = rows[BASE + key, Scope.EXACT]
            assert sequence == recorded.sequence
            assert open_ or (not delay and (finished or gone))
        self.noted(recorded.sequence)

    @rule(key=st.sampled_from(["a/", "a/b/", "c/"]), gone=st.booleans())
    def record_subtree(self, key: str, gone: bool) -> None:
        self.delay = 0.0
        known = [one for one in self.bench.index() if one.startswith(key)]
        (recorded,) = self.run(self.store.record([Batch([subtree(key, gone=gone)])], self.route))
        rows, exact = self.rows(), gone and 0 < len(known) <= 2
        for one in known if exact else ():
            self.model.stale.pop((BASE + one, Scope.PREFETCH), None)
        for place in [(BASE + one, Scope.EXACT) for one in known] if exact else [(BASE + key, Scope.SUBTREE)]:
            assert rows[place][0] >= recorded.sequence - 1
        self.noted(recorded.sequence)

    def noted(self, sequence: int) -> None:
        """Take from the rows which URLs were touched; that each has a row is what recording promises."""
        rows = self.rows()
        for place, (found, _, open_, force) in rows.items():
            old = self.model.stale.get(place)
            if old is None or found > old.sequence:
                assert found <= sequence
                parked = old.parked if old else False
                self.model.stale[place] = Stale(
                    found, bool(open_), bool(force) or bool(old and old.needs_force), parked
                )

    @rule(
        key=st.sampled_from(KEYS),
        scope=st.sampled_from([Scope.EXACT, Scope.ALL_PARAMS, Scope.PREFETCH]),
        urgent=st.booleans(),
    )
    def ask(self, key: str, scope: Scope, urgent: bool) -> None:
        self.run(self.store.request([NeedInput("cdn", BASE + key, scope)], urgent=urgent, reason="manual"))
        place = (BASE + key, scope)
        sequence, _, open_, force = self.rows()[place]
        self.model.stale[place] = Stale(sequence, bool(open_), bool(force))

    # -- pipeline ------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 6.0, 40.0, 100.0]))
    def promote_due(self, seconds: float) -> None:
        self.clock.advance(seconds)
        before = self.rows()
        self.run(self.store.promote_due())
        for place, (sequence, state, open_, _) in self.rows().items():
            if before[place][1] == NeedState.WAITING and state == NeedState.READY:
                one = self.model.stale.get(place)
                if one is not None:
                    assert not open_
                    if one.open:
                        assert all(sequence > a.watermark for a in self.model.attempts.values())
                    one.sequence, one.open = sequence, False

    @rule(
        keys=st.lists(st.sampled_from(KEYS), max_size=3),
        folders=st.lists(st.sampled_from(FOLDERS), max_size=1),
        force=st.booleans(),
    )
    def hold(self, keys: list[str], folders: list[str], force: bool) -> None:
        wanted = [folder(key, force=force) for key in folders] + [file(key) for key in keys]
        made = self.run(self.store.hold(wanted, account="main", allowances=ALLOWANCES))
        self.model.attempts |= {one.id: one for one in made}

    @rule(n=st.integers(0, 5))
    def sending(self, n: int) -> None:
        some = self.some(n, AttemptState.HELD)
        going = self.run(self.store.mark_sending([one.id for one in some]))
        for one in some:
            if one.id not in going:  # it is for nothing any more
                within = str.startswith if one.kind is RefreshKind.DIRECTORY else str.__eq__
                assert not any(within(url, one.url) for url, _ in self.rows())
                del self.model.attempts[one.id]
        self.turn([one for one in some if one.id in going], AttemptState.SENDING)

    @rule(n=st.integers(0, 5))
    def accept(self, n: int) -> None:
        """An answer, or a task found that adopts an unknown outcome."""
        some = self.some(n, AttemptState.SENDING, AttemptState.UNKNOWN)
        self.run(self.store.accept({one.id: "t" for one in some}, next_look_at=0.0))
        self.turn(some, AttemptState.ACCEPTED)
        for one in some:
            self.model.accepted[one.kind] += 1

    @rule(n=st.integers(0, 5))
    def unknown(self, n: int) -> None:
        some = self.some(n, AttemptState.SENDING)
        self.run(self.store.mark_unknown([one.id for one in some], next_look_at=0.0, error="time-out"))
        self.turn(some, AttemptState.UNKNOWN)

    @rule(n=st.integers(0, 5))
    def refund(self, n: int) -> None:
        some = self.some(n, AttemptState.HELD, AttemptState.UNKNOWN)
        self.run(self.store.refund([one.id for one in some]))
        for one in some:
            del self.model.attempts[one.id]

    @rule(n=st.integers(0, 5))
    def presume(self, n: int) -> None:
        some = self.some(n, AttemptState.UNKNOWN)
        self.run(self.store.presume_spent([one.id for one in some], error="nobody can tell"))
        for one in some:
            self.model.presumed[one.kind] += 1
            del self.model.attempts[one.id]

    @rule(n=st.integers(0, 5))
    def park(self, n: int) -> None:
        for one in self.some(n, AttemptState.SENDING)[:1]:
            before = self.rows()
            self.run(self.store.park([one.id], error="Malformed"))
            del self.model.attempts[one.id]
            assert set(self.rows()) == set(before)

    # -- the CDN -------------------------------------------------------------------------------

    @rule(n=st.integers(0, 5))
    def complete(self, n: int) -> None:
        for one in self.some(n, *SENT)[:1]:
            self.run(self.store.complete([one]))
            self.model.complete(one)
            del self.model.attempts[one.id]
            if one.kind is RefreshKind.DIRECTORY:
                self.model.sweeping[one.id] = (one, transitions.SweepPosition())

    @precondition(lambda self: self.model.sweeping)
    @rule(limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        key, (attempt, after) = next(iter(self.model.sweeping.items()))
        count = len(self.rows())
        end = self.run(self.store._write(transitions.sweep, attempt, after, limit))
        assert count - len(self.rows()) <= limit
        self.model.sweeping[key] = (attempt, end)
        if end is None:
            del self.model.sweeping[key]

    @rule(n=st.integers(0, 5))
    def fail(self, n: int) -> None:
        for one in self.some(n, AttemptState.ACCEPTED)[:1]:
            self.run(self.store.fail([one.id], retry_at=self.clock.now() + 10, error="failed"))
            self.turn([one], AttemptState.FAILED)

    @rule(n=st.integers(0, 5))
    def end_backoff(self, n: int) -> None:
        some = self.some(n, AttemptState.FAILED)
        self.run(self.store.end_backoff([one.id for one in some]))
        for one in some:
            del self.model.attempts[one.id]

    @rule(n=st.integers(0, 5))
    def unconfirm(self, n: int) -> None:
        for one in self.some(n, AttemptState.ACCEPTED)[:1]:
            self.run(self.store.unconfirm([one.id], next_look_at=None, error="an hour"))
            self.turn([one], AttemptState.UNCONFIRMED)

    # -- operator and fate ---------------------------------------------------------------------

    @rule()
    def discard(self) -> None:
        gone = {place for place, row in self.rows().items() if row[1] == NeedState.PARKED}
        assert self.run(self.store.discard()) == len(gone)
        for place in gone:
            self.model.stale.pop(place, None)

    @rule()
    def retry(self) -> None:
        self.run(self.store.retry())
        for place, (sequence, *_) in self.rows().items():
            if place in self.model.stale and sequence > self.model.stale[place].sequence:
                self.model.stale[place].sequence, self.model.stale[place].open = sequence, False

    @rule()
    def upkeep(self) -> None:
        self.run(self.store.upkeep(keep_seconds=1e9))
        active = {row[0] for row in self.bench.sql("SELECT id FROM attempt WHERE active = 1")}
        for one in self.some(0, AttemptState.UNCONFIRMED) + self.some(1, AttemptState.UNCONFIRMED):
            if one.id not in active:
                self.model.attempts.pop(one.id, None)
        self.model.attempts = {
            i: one for i, one in self.model.attempts.items() if i in active or one.state is not AttemptState.UNCONFIRMED
        }

    @rule()
    def crash(self) -> None:
        """The process dies without a word; another one takes over."""
        self.release()
        self.abandoned.append(self.store)
        self.store = self.open()
        assert self.run(self.store.recover())
        for one in list(self.model.attempts.values()):
            if one.state is AttemptState.HELD:
                del self.model.attempts[one.id]
            elif one.state is AttemptState.SENDING:
                self.turn([one], AttemptState.UNKNOWN)
        swept = self.run(self.store.attempts_in(AttemptState.COMPLETE))
        assert {one.id for one in swept} == set(self.model.sweeping)
        self.model.sweeping = {one.id: (one, transitions.SweepPosition()) for one in swept}

    # -- what always holds ---------------------------------------------------------------------

    def rows(self) -> dict[tuple[str, Scope], tuple[int, int, int, int]]:
        found = self.bench.sql(
            "SELECT d.url || name, scope, sequence, state, open, needs_force FROM need JOIN directory d"
            " ON d.id = need.directory"
        )
        return {(url, Scope(scope)): tuple(rest) for url, scope, *rest in found}

    @invariant()
    def nothing_is_forgotten(self) -> None:
        """Every URL of the model has its row; every row beyond is covered by a complete attempt not yet swept."""
        rows = self.rows()
        assert set(self.model.stale) <= set(rows)
        for place, one in self.model.stale.items():
            sequence, _, open_, force = rows[place]
            assert (sequence, bool(open_), bool(force)) == (one.sequence, one.open, one.needs_force)
        for url, scope in set(rows) - set(self.model.stale):
            sequence, _, open_, force = rows[url, scope]
            need = Need("cdn", url, scope, sequence, 0.0, bool(open_), bool(force))
            assert any(covers(attempt, need) for attempt, _ in self.model.sweeping.values())

    @invariant()
    def the_ledger_is_right(self) -> None:
        """Spent and held equal the model's, within the quota, and never below what the CDN accepted."""
        for one in ALLOWANCES:
            found = self.run(self.store.budget("main", one))
            assert found.held == sum(units * self.model.held(kind) for kind, units in one.costs.items())
            spent = {kind: self.model.accepted[kind] + self.model.presumed[kind] for kind in KINDS}
            assert found.spent == sum(units * spent[kind] for kind, units in one.costs.items())
            assert found.held + found.spent <= found.limit

    @invariant()
    def every_reader_agrees_with_covers(self) -> None:
        """Status, the page, ``status --url``, the planner's input and ``wait`` answer as the pure rule does."""
        self.bench.assert_counted()
        with self.database.reading() as connection:
            assert_readers_agree(connection, now=self.clock.now())


class PostgresStoreMachine(StoreMachine):
    """The same on PostgreSQL."""

    url = ""

    def make_database(self) -> Database:
        empty_schema(self.url)
        return PostgresDatabase(self.url)

    def remove_database(self) -> None:
        """Leave the schema for the next one."""

    def release(self) -> None:
        """Nothing is held."""


@pytest.fixture(scope="module", autouse=True)
def machine_url(store_url: str) -> None:
    """Have the second machine find its server."""
    PostgresStoreMachine.url = store_url


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestPostgresStoreMachine = PostgresStoreMachine.TestCase
TestPostgresStoreMachine.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
