"""Leases on a real server: what a renewal, a take-over and a fence do to each other, each interleaving forced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
import pytest

from listener.errors import Fenced
from listener.store.postgres.leases import Holder, LeaseTable, Member
from tests.store.postgres.virtual import SCHEMA, Connection, connections, create_tables, holders

LEASE_SECONDS = 0.6
LONG_SECONDS = 600.0


GATED = f"""
CREATE SCHEMA gated;
CREATE TABLE gated.gate (is_open boolean NOT NULL);
INSERT INTO gated.gate VALUES (false);
CREATE FUNCTION gated.passes() RETURNS boolean LANGUAGE plpgsql VOLATILE COST 0.0001 AS
  'BEGIN WHILE NOT (SELECT is_open FROM gated.gate) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN true; END';
CREATE VIEW gated.instance AS SELECT * FROM {SCHEMA}.instance WHERE gated.passes();
CREATE VIEW gated.lease AS SELECT * FROM {SCHEMA}.lease;
"""
"""The same tables, of which a statement that has begun reads ``instance`` only once the gate is open."""


class Stand:
    """Connections to one database with leases."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        self.url = url
        self._stack = stack
        self.table = LeaseTable(SCHEMA, seconds=LONG_SECONDS)
        self.short = LeaseTable(SCHEMA, seconds=LEASE_SECONDS)
        self.observer = self.connect()
        create_tables(self.observer)
        self.table.add(self.observer, ["main"])

    def connect(self) -> Connection:
        """Open another connection."""
        (connection,) = self._stack.enter_context(connections(self.url, 1))
        return connection

    def leader(self, name: str, table: LeaseTable | None = None) -> tuple[Connection, Member]:
        """Register an instance that holds the lease."""
        connection, table = self.connect(), table or self.table
        member = table.register(connection, name, version="1", leases=["main"])
        assert table.take(connection, member, ["main"])
        return connection, member

    def kill(self, name: str) -> None:
        """Let an instance's heartbeat be over now."""
        self.observer.execute(f"UPDATE {SCHEMA}.instance SET until = clock_timestamp() WHERE name = %s", (name,))
        self.table.mark_dead(self.observer)

    def waits(self, connection: Connection, condition: str = "wait_event_type = 'Lock'") -> bool:
        """Return whether this connection waits, for a lock if nothing else is given."""
        query = f"SELECT {condition} FROM pg_stat_activity WHERE pid = %s"
        row = self.observer.execute(query, (connection.info.backend_pid,)).fetchone()
        return bool(row and row[0])


@pytest.fixture
def stand(postgres_database: str) -> Iterator[Stand]:
    """Give a database with leases."""
    with ExitStack() as stack:
        yield Stand(postgres_database, stack)


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


class Running:
    """A call in a thread, whose result or error the test fetches."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.error: BaseException | None = None
        self.result: object = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - for the test
            self.error = error

    def get(self) -> object:
        """Return the result, or raise the error."""
        self._thread.join(20)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.result


# -- heartbeat and mark ------------------------------------------------------------------------------


def test_a_renewal_that_comes_too_late_fails(stand: Stand) -> None:
    """An instance whose time is over does not come back by a renewal, marked or not."""
    connection = stand.connect()
    member = stand.short.register(connection, "a", version="1", leases=["main"])
    assert stand.short.renew(connection, member) == {}
    time.sleep(LEASE_SECONDS * 1.1)
    assert stand.short.renew(connection, member) is None
    again = stand.short.register(connection, "a", version="1", leases=["main"])
    assert again.incarnation == member.incarnation + 1
    assert stand.short.renew(connection, member) is None
    assert stand.short.renew(connection, again) == {}


def test_the_clock_is_not_that_of_the_transaction_s_start(stand: Stand) -> None:
    """In a transaction that began before the end of the lease, a renewal after it fails, and the mark sees the end."""
    connection = stand.connect()
    member = stand.short.register(connection, "a", version="1", leases=["main"])
    with connection.transaction():
        connection.execute("SELECT 1")
        time.sleep(LEASE_SECONDS * 1.1)
        assert stand.short.renew(connection, member) is None
        assert stand.short.alive(connection) == {}
        assert stand.short.mark_dead(connection) == ["a"]
        member = stand.short.register(connection, "a", version="1", leases=["main"])
        assert stand.short.renew(connection, member) == {}
    assert stand.short.renew(connection, member) == {}


def test_a_renewal_and_a_mark_never_both_succeed(stand: Stand) -> None:
    """The mark leaves out what is being renewed; the renewal that comes after a mark fails."""
    connection, member = stand.leader("a")
    other = stand.connect()
    with connection.transaction():  # renewed, not committed, at the very end of the lease
        stand.observer.execute(f"UPDATE {SCHEMA}.instance SET until = clock_timestamp() + interval '50 ms'")
        assert stand.table.renew(connection, member) is not None
        time.sleep(0.06)
        assert stand.table.mark_dead(other) == []
        assert stand.table.take(other, stand.table.register(other, "b", version="1", leases=["main"]), ["main"]) == {}
    assert stand.table.mark_dead(other) == []

    stand.kill("a")
    assert stand.table.renew(connection, member) is None


# -- take-over ---------------------------------------------------------------------------------------


def test_only_what_is_free_is_taken_and_each_term_is_new(stand: Stand) -> None:
    """A living holder keeps its lease; a dead, returned or gone one loses it; the term rises each time."""
    _, first = stand.leader("a")
    other = stand.connect()
    second = stand.table.register(other, "b", version="1", leases=["main"])
    assert stand.table.take(other, second, ["main"]) == {}
    assert stand.table.free(other, ["main"]) == []
    stand.kill("a")
    assert stand.table.free(other, ["main"]) == ["main"]
    assert stand.table.take(other, second, ["main"]) == {"main": 2}
    assert stand.table.renew(other, second) == {"main": 2}
    stand.table.give_back(other, second, ["main"])
    assert holders(stand.observer)["main"] == (None, 3)
    assert stand.table.take(other, second, ["main"]) == {"main": 4}
    assert stand.table.begin_new_terms(other, second, ["main"]) == {"main": 5}
    assert stand.table.begin_new_terms(other, first, ["main"]) == {}
    third = stand.table.register(other, "b", version="1", leases=["main"])
    assert stand.table.renew(other, third) == {}
    assert stand.table.take(other, third, ["main"]) == {"main": 6}
    stand.table.leave(other, third)
    assert holders(stand.observer)["main"] == (None, 7)
    assert stand.table.alive(other) == {}


def test_a_holder_that_came_after_the_look_is_not_taken_for_dead(stand: Stand) -> None:
    """Between the look of a take-over and its lock an instance registers and takes the lease: it keeps it."""
    stand.leader("a")
    stand.kill("a")
    late, quick = stand.connect(), stand.connect()
    member = stand.table.register(late, "late", version="1", leases=["main"])
    stand.observer.execute(GATED)
    gated = LeaseTable("gated", seconds=LONG_SECONDS)
    taking = Running(lambda: gated.take(late, member, ["main"]))
    wait_for(lambda: stand.waits(late, "wait_event = 'PgSleep'"))
    second = stand.table.register(quick, "quick", version="1", leases=["main"])
    assert stand.table.take(quick, second, ["main"]) == {"main": 2}
    stand.observer.execute("UPDATE gated.gate SET is_open = true")
    assert taking.get() == {}
    assert holders(stand.observer)["main"] == ("quick", 2)


def test_a_take_over_waits_for_the_transaction_of_a_leader(stand: Stand) -> None:
    """While a transaction holds the fence its lease is not taken; after the take-over no transaction passes."""
    old, _ = stand.leader("a")
    new = stand.connect()
    member = stand.table.register(new, "b", version="1", leases=["main"])
    with stand.table.transaction(old):
        stand.table.fence(old, Holder("main", 1, "a"))
        stand.kill("a")
        assert stand.table.take(new, member, ["main"]) == {}
    assert stand.table.take(new, member, ["main"]) == {"main": 2}
    with pytest.raises(Fenced), stand.table.transaction(old):
        stand.table.fence(old, Holder("main", 1, "a"))
    with stand.table.transaction(new):
        stand.table.fence(new, Holder("main", 2, "b"))


def test_the_same_term_of_another_instance_is_refused(stand: Stand) -> None:
    """A promoted standby may lack the commit of a take-over, and give the term out again."""
    connection, _ = stand.leader("a")
    stand.observer.execute(f"UPDATE {SCHEMA}.lease SET instance = 'b'")
    with pytest.raises(Fenced), stand.table.transaction(connection):
        stand.table.fence(connection, Holder("main", 1, "a"))


def test_a_renewal_does_not_wait_for_the_fence(stand: Stand) -> None:
    """The heartbeat is another row, so that a long transaction of the leader ends no lease."""
    connection, member = stand.leader("a")
    heart = stand.connect()
    with stand.table.transaction(connection):
        stand.table.fence(connection, Holder("main", 1, "a"))
        heart.execute("SET lock_timeout = 1000")
        assert stand.table.renew(heart, member) == {"main": 1}


def test_giving_back_waits_for_the_transaction_of_the_leader(stand: Stand) -> None:
    """A lease is free only once what its leader began is committed."""
    connection, member = stand.leader("a")
    keeper = stand.connect()
    with stand.table.transaction(connection):
        stand.table.fence(connection, Holder("main", 1, "a"))
        giving = Running(lambda: stand.table.give_back(keeper, member, ["main"]))
        wait_for(lambda: stand.waits(keeper))
        assert holders(stand.observer)["main"] == ("a", 1)
    giving.get()
    assert holders(stand.observer)["main"] == (None, 2)


def test_a_holder_frozen_inside_a_transaction_does_not_block_for_ever(stand: Stand) -> None:
    """The database ends its transaction after a third of the lease; meanwhile a take-over takes nothing."""
    frozen, _ = stand.leader("a", stand.short)
    new = stand.connect()
    member = stand.table.register(new, "b", version="1", leases=["main"])
    try:
        with pytest.raises(psycopg.Error), stand.short.transaction(frozen):
            stand.short.fence(frozen, Holder("main", 1, "a"))
            stand.kill("a")
            began = time.monotonic()
            assert stand.table.take(new, member, ["main"]) == {}
            wait_for(lambda: stand.table.take(new, member, ["main"]))
            assert time.monotonic() - began < LEASE_SECONDS
            stand.short.fence(frozen, Holder("main", 1, "a"))
    finally:
        frozen.close()
    assert holders(stand.observer)["main"] == ("b", 2)


def test_a_take_over_gives_up_a_lock_after_half_a_second(stand: Stand) -> None:
    """A row that is locked longer than that is not waited for; the next look comes again."""
    connection, member = stand.leader("a")
    blocker = stand.connect()
    with blocker.transaction():
        blocker.execute(f"SELECT 1 FROM {SCHEMA}.lease FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            stand.table.begin_new_terms(connection, member, ["main"])
