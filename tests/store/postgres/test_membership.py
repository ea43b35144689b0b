"""Instances with their leases on a real server in virtual time: killed, frozen, late, in the middle of each other."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from listener.errors import Fenced
from listener.store.leadership import NO_SURPLUS, Surplus
from listener.store.postgres.leases import Holder, LeaseTable
from listener.store.postgres.member import SETTLE_SECONDS, SHARED_LEASES, Membership, share
from tests.postgres.cluster import Cluster
from tests.store.postgres.virtual import (
    SCHEMA,
    VIRTUAL_CLOCK,
    Connection,
    connections,
    create_tables,
    holders,
)

SECONDS = 6.0
ACCOUNTS = ("one", "two", "three", "four", "five")
NAMES = ("a", "b", "c")


class Interrupted(psycopg.Connection[tuple[Any, ...]]):
    """A connection before whose statements something may happen."""

    before: Callable[[], object] = staticmethod(lambda: None)
    after: Callable[[], object] = staticmethod(lambda: None)

    def wait(self, *arguments: Any, **options: Any) -> Any:
        """Let happen what is to happen, then run the statement."""
        self.before()
        try:
            return super().wait(*arguments, **options)
        finally:
            self.after()


class Instance:
    """One process: its memory, its connection, its clock."""

    def __init__(self, name: str, url: str, time: Callable[[], float]) -> None:
        self.name = name
        self.url = url
        self.clock = time
        self.connection = self._connect()
        self.table = LeaseTable(SCHEMA, seconds=SECONDS)
        self.membership = self._begin()
        self.is_alive = True

    def _connect(self) -> Interrupted:
        connection = Interrupted.connect(self.url, autocommit=True)
        connection.execute("SET search_path = virtual, pg_catalog")
        return connection

    def _begin(self) -> Membership:
        return Membership(self.table, self.name, version="1", leases=ACCOUNTS)

    def look(self) -> None:
        """Look, as far as the database allows."""
        with contextlib.suppress(psycopg.errors.LockNotAvailable):
            self.membership.look(self.connection, self.clock)

    def kill(self) -> None:
        """End the process."""
        self.is_alive = False
        self.connection.close()

    def restart(self) -> None:
        """Start it again, with nothing in its memory."""
        self.connection = self._connect()
        self.membership = self._begin()
        self.is_alive = True

    def may_send(self, account: str) -> bool:
        """Return whether it would hand bytes to a socket now."""
        membership = self.membership
        return self.is_alive and account in membership.terms and membership.deadline.left_seconds(self.clock()) > 0


class Fleet:
    """Instances on one database, and what must hold of them at every moment."""

    def __init__(self, url: str, observer: Connection) -> None:
        self.observer = observer
        self.now = 0.0
        self.observer.execute("UPDATE virtual.time SET now = '2026-01-01 00:00:00+00'")
        self.instances = {name: Instance(name, url, lambda: self.now) for name in NAMES}
        self.given: dict[tuple[str, int], str] = {}
        """Who got each term."""

    def close(self) -> None:
        """Close every connection."""
        for one in self.instances.values():
            one.connection.close()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.observer.execute("UPDATE virtual.time SET now = now + make_interval(secs => %s)", (seconds,))

    def check(self) -> None:
        """At most one instance may send for an account; no term is given out twice, none is above the row's."""
        rows = holders(self.observer)
        for account in ACCOUNTS:
            sending = [one.name for one in self.instances.values() if one.may_send(account)]
            assert len(sending) <= 1, (account, sending)
        for one in self.instances.values():
            for account, term in one.membership.terms.items():
                assert self.given.setdefault((account, term), one.name) == one.name
                assert term <= rows[account][1]

    def settle(self, seconds: float) -> None:
        """Let all who live look as often as they do, for so long."""
        until = self.now + seconds
        while self.now < until:
            for one in self.instances.values():
                if one.is_alive:
                    one.look()
                    self.check()
                    names, most = one.membership.surplus
                    one.membership.give_back(one.connection, sorted(names & one.membership.terms.keys())[:most])
                    self.check()
            self.advance(SECONDS / 6)

    def everything_is_led(self) -> None:
        """Each account is led by an instance that lives, and that knows it."""
        rows = holders(self.observer)
        alive = [one for one in self.instances.values() if one.is_alive]
        for account in ACCOUNTS:
            name, term = rows[account]
            assert name is not None and self.instances[name].is_alive, (account, name)
            assert self.instances[name].membership.terms.get(account) == term
            assert self.instances[name].may_send(account)
        for one in alive:
            assert len(one.membership.terms) <= -(-len(ACCOUNTS) // len(alive))


@pytest.fixture
def virtual_database(postgres_database: str) -> Iterator[tuple[str, Connection]]:
    """Give the URL of a database with leases and a clock of its own, and a connection to it."""
    with connections(postgres_database, 1) as (observer,):
        observer.execute(VIRTUAL_CLOCK)
        create_tables(observer)
        yield postgres_database, observer


@pytest.fixture
def fleet(virtual_database: tuple[str, Connection]) -> Iterator[Fleet]:
    """Give three instances, none of which has looked yet."""
    fleet = Fleet(*virtual_database)
    yield fleet
    fleet.close()


def test_the_accounts_of_a_killed_instance_are_led_again_within_the_lease_and_a_round(fleet: Fleet) -> None:
    """The others take them over, each its share; when it returns, it gets its share back."""
    a, b, c = fleet.instances.values()
    fleet.settle(SETTLE_SECONDS + SECONDS)
    fleet.everything_is_led()
    a.kill()
    killed_at = fleet.now
    while not all(b.may_send(account) or c.may_send(account) for account in ACCOUNTS):
        fleet.settle(SECONDS / 6)
        assert fleet.now - killed_at <= SECONDS + 2
    a.restart()
    fleet.settle(SETTLE_SECONDS + SECONDS)
    fleet.everything_is_led()
    assert a.membership.terms


def test_an_instance_that_leaves_is_followed_at_the_next_look(fleet: Fleet) -> None:
    """At an orderly end nobody waits for the end of the lease."""
    a, b, c = fleet.instances.values()
    fleet.settle(SECONDS)
    a.membership.leave(a.connection)
    a.kill()
    b.look()
    c.look()
    b.look()
    fleet.everything_is_led()


def test_a_frozen_instance_sends_nothing_once_another_may(fleet: Fleet) -> None:
    """Its own deadline passes before its lease; back again, it loses every term and registers again."""
    a, b, _ = fleet.instances.values()
    a.look()
    assert set(a.membership.terms) == set(ACCOUNTS)
    fleet.advance(SECONDS * 5 / 6)
    assert not any(a.may_send(account) for account in ACCOUNTS)
    b.look()
    assert not b.membership.terms
    fleet.advance(SECONDS / 6)
    b.look()
    assert set(b.membership.terms) == set(ACCOUNTS)
    a.look()
    assert not a.membership.terms
    fleet.check()


def test_a_slow_renewal_counts_from_when_it_was_sent(fleet: Fleet) -> None:
    """The answer may take the whole lease: the deadline is no later for it."""
    a, b, _ = fleet.instances.values()
    a.look()
    fleet.advance(SECONDS / 3)
    a.connection.after = lambda: fleet.advance(SECONDS - 0.1)
    with contextlib.suppress(Exception):
        a.membership._renew(a.connection, a.membership._member_now(), a.clock)
    a.connection.after = lambda: None
    fleet.advance(0.2)
    b.look()
    assert b.membership.terms
    fleet.check()


def test_a_leader_that_ended_is_followed_by_a_new_term_here(fleet: Fleet) -> None:
    """The heartbeat keeps the lease alive, so that nobody else can take it: the next renewal leads it again."""
    a, *_ = fleet.instances.values()
    a.look()
    term = a.membership.terms["one"]
    a.membership.stopped("one", term)
    assert "one" not in a.membership.terms
    fleet.advance(SECONDS / 3)
    a.look()
    assert a.membership.terms["one"] == term + 1
    a.membership.stopped("one", term)  # of a term that is over
    assert "one" in a.membership.terms
    fleet.check()


def test_a_leader_without_its_row_stops(fleet: Fleet) -> None:
    """Whatever took the row away: the next renewal finds it."""
    a, *_ = fleet.instances.values()
    a.look()
    fleet.observer.execute(f"UPDATE {SCHEMA}.lease SET instance = 'x', term = term + 1 WHERE name = 'one'")
    fleet.advance(SECONDS / 3)
    with_one = dict(a.membership.terms)
    a.membership._renew(a.connection, a.membership._member_now(), a.clock)
    assert a.membership.terms == {name: term for name, term in with_one.items() if name != "one"}


def test_two_instances_of_one_name_both_report_it(fleet: Fleet, virtual_database: tuple[str, Connection]) -> None:
    """Each takes the other's registration away, and sees it at its next renewal; a restart is no such case."""
    a, *_ = fleet.instances.values()
    twin = Instance("a", virtual_database[0], lambda: fleet.now)
    try:
        a.look()
        twin.look()
        assert not (a.membership.shares_name or twin.membership.shares_name)
        for _ in range(4):
            fleet.advance(SECONDS / 3)
            a.look()
            twin.look()
        assert a.membership.shares_name
        assert twin.membership.shares_name
    finally:
        twin.connection.close()
    for _ in range(3):
        fleet.advance(SECONDS / 3)
        a.look()
    assert a.membership.shares_name  # it is reported without a gap while they take turns
    for _ in range(3 * SHARED_LEASES):
        fleet.advance(SECONDS / 3)
        a.look()
    assert not a.membership.shares_name
    a.kill()
    a.restart()
    a.look()
    assert not a.membership.shares_name
    fleet.advance(2 * SECONDS)
    a.look()
    assert not a.membership.shares_name


def test_nothing_is_led_between_a_late_renewal_and_the_next_registration(fleet: Fleet) -> None:
    """The database may go away in between: what was led here is over all the same."""
    a, *_ = fleet.instances.values()
    a.look()
    fleet.advance(2 * SECONDS)
    answers = [True, True]  # the renewal, and the question who has the name

    def before() -> None:
        if not answers or not answers.pop():
            raise psycopg.OperationalError("the server is gone")

    a.connection.before = before
    with pytest.raises(psycopg.OperationalError):
        a.look()
    a.connection.before = lambda: None
    assert not a.membership.terms
    assert not a.membership.is_registered
    a.look()
    assert set(a.membership.terms) == set(ACCOUNTS)


def test_a_lease_that_only_one_instance_knows_is_led(fleet: Fleet) -> None:
    """Accounts may be configured here only: the share does not keep them free, and they are given to nobody."""
    a, b, c = fleet.instances.values()
    b.look()
    a.membership = Membership(a.table, "a", version="1", leases=[*ACCOUNTS, "new", "newer"])
    a.look()
    assert set(a.membership.terms) == {"new", "newer"}
    c.kill()
    fleet.settle(SETTLE_SECONDS + 2 * SECONDS)
    assert {"new", "newer"} < a.membership.terms.keys()
    assert {len(a.membership.terms), len(b.membership.terms)} == {3, 4}
    assert a.membership.surplus == NO_SURPLUS


def test_what_the_instances_with_room_cannot_hold_is_led(fleet: Fleet) -> None:
    """Of overlapping configurations: those that can hold a lease may have their share of others."""
    a, b, c = fleet.instances.values()
    configured = {"a": ["x", "z1", "z2"], "b": ["x", "y1", "y2"], "c": ["y1", "y2", "z1", "z2"]}
    for one in (a, b, c):
        one.membership = Membership(one.table, one.name, version="1", leases=configured[one.name])
    held = set()
    fleet.settle(SETTLE_SECONDS + 3 * SECONDS)
    for one in (a, b, c):
        held |= one.membership.terms.keys()
        assert len(one.membership.terms) <= 2
    assert held == {"x", "y1", "y2", "z1", "z2"}


def test_a_lease_that_nobody_took_in_time_is_balanced_again(fleet: Fleet) -> None:
    """An instance that was late may have seen it free before and after: it counts as any other."""
    a, b, c = fleet.instances.values()
    for one in (a, b, c):
        one.look()
    for _ in range(3):
        for one in (b, c):
            one.kill()
        fleet.advance(SECONDS + 1)
        a.look()
        fleet.advance(SECONDS + 1)
        a.look()
        assert set(a.membership.terms) == set(ACCOUNTS)
        for one in (b, c):
            one.restart()
            one.look()
        fleet.settle(SETTLE_SECONDS + 3 * SECONDS)
        fleet.everything_is_led()


def test_shares_are_enough_for_all() -> None:
    """Rounded up, of what others can hold too."""
    assert share([3, 3, 3, 3, 3]) == 2
    assert share([2, 3, 6]) == 1
    assert share([]) == 0


def test_a_registration_waits_for_no_take_over(fleet: Fleet) -> None:
    """Another instance may be paused in its transaction: the leases that are there need not be made."""
    a, b, _ = fleet.instances.values()
    a.look()
    with a.connection.transaction():
        a.connection.execute(f"UPDATE {SCHEMA}.lease SET term = term + 1".encode())
        b.connection.execute("SET lock_timeout = 200")
        b.table.add(b.connection, ACCOUNTS)


def test_what_was_given_back_is_no_surplus(fleet: Fleet) -> None:
    """Until the next look: what was counted before it would be given back once more."""
    a, *_ = fleet.instances.values()
    a.look()
    a.membership.surplus = Surplus(frozenset(a.membership.terms), 1)
    a.membership.give_back(a.connection, sorted(a.membership.terms)[:1])
    assert a.membership.surplus == NO_SURPLUS


def test_a_holder_frozen_within_a_message_is_ended(postgres_database: str) -> None:
    """For the server a session that waits for the rest of a message is not idle: nothing else ends its transaction."""
    table = LeaseTable(SCHEMA, seconds=0.9)
    with connections(postgres_database, 2) as (heart, keeper), connections(postgres_database, 1) as (frozen,):
        create_tables(heart)
        table.add(heart, ["main"])
        old = table.register(heart, "old", version="1", leases=["main"])
        assert table.take(heart, old, ["main"])
        frozen.execute("SET application_name = 'cdn-listener old'")
        with contextlib.suppress(psycopg.OperationalError), frozen.pipeline() as pipeline, frozen.transaction():
            frozen.execute("SET LOCAL idle_in_transaction_session_timeout = 300")
            pipeline.sync()
            psycopg.Cursor(frozen).execute(f"SELECT 1 FROM {SCHEMA}.lease FOR SHARE", prepare=False)
            frozen.pgconn.send_flush_request()
            frozen.pgconn.flush()
            time.sleep(1.5)
            new = Membership(table, "new", version="1", leases=["main"])
            until = time.monotonic() + 10
            while not new.terms:
                new.look(keeper, time.monotonic)
                time.sleep(0.1)
                assert time.monotonic() < until
        assert new.terms == {"main": 2}


class Leases(RuleBasedStateMachine):
    """Three instances with five accounts: whatever happens, one may send; once it is calm, everything is led."""

    server: Cluster
    template: str

    @initialize()
    def begin(self) -> None:
        self._database = self.server.database(self.template)
        url = self.server.url(self._database.__enter__())
        self._observer = psycopg.connect(url, autocommit=True)
        self.fleet = Fleet(url, self._observer)
        for one in self.fleet.instances.values():
            one.look()

    def teardown(self) -> None:
        if hasattr(self, "fleet"):
            try:
                self._become_calm()
            finally:
                self.fleet.close()
                self._observer.close()
                self._database.__exit__(None, None, None)

    def _become_calm(self) -> None:
        for one in self.fleet.instances.values():
            if not one.is_alive:
                one.restart()
        self.fleet.settle(SETTLE_SECONDS + 3 * SECONDS)
        self.fleet.everything_is_led()

    @rule(name=st.sampled_from(NAMES), seconds=st.floats(0, SECONDS / 3))
    def look(self, name: str, seconds: float) -> None:
        self.fleet.advance(seconds)
        if (one := self.fleet.instances[name]).is_alive:
            one.look()

    @rule(seconds=st.floats(0, SECONDS * 1.5))
    def wait(self, seconds: float) -> None:
        self.fleet.advance(seconds)

    @rule(
        name=st.sampled_from(NAMES),
        other=st.sampled_from(NAMES),
        at=st.integers(0, 8),
        seconds=st.floats(0, SECONDS * 1.2),
    )
    @precondition(lambda self: hasattr(self, "fleet"))
    def look_in_the_middle(self, name: str, other: str, at: int, seconds: float) -> None:
        """One looks; before its n-th statement time passes and another one looks."""
        one, two = self.fleet.instances[name], self.fleet.instances[other]
        if not one.is_alive or not two.is_alive or one is two:
            return
        left = [at]

        def before() -> None:
            left[0] -= 1
            if left[0] == -1:
                self.fleet.advance(seconds)
                two.look()
                self.fleet.check()

        one.connection.before = before
        try:
            one.look()
        finally:
            one.connection.before = lambda: None

    @rule(name=st.sampled_from(NAMES), at=st.integers(0, 8), seconds=st.floats(0, SECONDS * 1.2))
    def answer_late(self, name: str, at: int, seconds: float) -> None:
        """One looks; the answer to its n-th statement takes long."""
        one = self.fleet.instances[name]
        if not one.is_alive:
            return
        left = [at]

        def after() -> None:
            left[0] -= 1
            if left[0] == -1:
                self.fleet.advance(seconds)

        one.connection.after = after
        try:
            one.look()
        finally:
            one.connection.after = lambda: None

    @rule(name=st.sampled_from(NAMES))
    def kill(self, name: str) -> None:
        if self.fleet.instances[name].is_alive:
            self.fleet.instances[name].kill()

    @rule(name=st.sampled_from(NAMES))
    def restart(self, name: str) -> None:
        if not self.fleet.instances[name].is_alive:
            self.fleet.instances[name].restart()

    @rule(name=st.sampled_from(NAMES), account=st.sampled_from(ACCOUNTS))
    def leader_ends(self, name: str, account: str) -> None:
        membership = self.fleet.instances[name].membership
        membership.stopped(account, membership.terms.get(account, 0))

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name: str) -> None:
        one = self.fleet.instances[name]
        if one.is_alive:
            one.membership.leave(one.connection)
            one.kill()

    @rule(name=st.sampled_from(NAMES), account=st.sampled_from(ACCOUNTS))
    def transact(self, name: str, account: str) -> None:
        """The fence passes for the term of the row, and for no other."""
        one = self.fleet.instances[name]
        if not one.is_alive or account not in one.membership.terms:
            return
        term = one.membership.terms[account]
        try:
            with one.table.transaction(one.connection):
                one.table.fence(one.connection, Holder(account, term, name))
            passed = True
        except Fenced:
            passed = False
        assert passed == (holders(self._observer)[account][1] == term)

    @invariant()
    def one_may_send(self) -> None:
        if hasattr(self, "fleet"):
            self.fleet.check()


def test_leases_in_virtual_time(postgres: Cluster) -> None:
    """The machine above, on the shared server."""

    def prepare(url: str) -> None:
        with connections(url, 1) as (connection,):
            connection.execute(VIRTUAL_CLOCK)
            create_tables(connection)

    machine = type("Bound", (Leases,), {"server": postgres, "template": postgres.template("leases", prepare)})
    from hypothesis import settings
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=settings(max_examples=max(5, settings().max_examples // 5)))
