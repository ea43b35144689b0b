"""Suppression keeps needs from being made and removes none; nothing is left stale by what comes late or twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from steps_store import BASE, Bench, FakeClock

from listener.change import Change, ChangeKind, Fingerprint
from listener.coalescer import merge
from listener.settings import Coalescer
from listener.store import NeedInput
from listener.store.batches import Batch, Recorded
from listener.store.database import _schema, _statements
from listener.store.heard import HEARD_SECONDS
from listener.store.names import Names
from listener.store.record import Recorder

KEYS = ("a", "d/b")


def told(key: str, order: int | None, etag: str | None, kind: ChangeKind | None = None) -> Change:
    """Return an event of a store with tokens; without an etag the object is gone."""
    kind = kind or (ChangeKind.DELETED if etag is None else ChangeKind.CONTENT)
    token = None if order is None else f"{order:016X}"
    return Change("site", key, kind, None if etag is None else Fingerprint(1, etag=etag), order=token)


@dataclass
class Written:
    """The recorder on a file in memory, with steps for tests."""

    ignore: bool = False
    now: float = 1_800_000_000.0
    connection: sqlite3.Connection = field(default_factory=lambda: sqlite3.connect(":memory:", isolation_level=None))

    def __post_init__(self) -> None:
        for statement in _statements(_schema()):
            self.connection.execute(statement)
        self.connection.execute("INSERT INTO meta (id, sequence, created_at) VALUES (1, 0, 0)")
        self.recorder = Recorder(Names(), timing=Coalescer(), unforced=frozenset(), expand_limit=100)

    def route(self, change: Change) -> Sequence[NeedInput]:
        return [NeedInput("cdn", BASE + change.key, ignore_rewrites=self.ignore)]

    def record(self, *changes: Change, scan: int | None = None) -> Recorded:
        self.connection.execute("BEGIN")
        recorded = self.recorder.record(self.connection, Batch(changes, scan), self.route, now=self.now)
        self.connection.execute("COMMIT")
        return recorded

    def sequence(self) -> int:
        return int(self.connection.execute("SELECT sequence FROM meta").fetchone()[0])

    def index(self) -> dict[str, str | None]:
        rows = "SELECT path || object.name, etag FROM object JOIN tree ON tree.id = object.tree"
        return {
            bytes(key).decode() if isinstance(key, bytes) else key: etag for key, etag in self.connection.execute(rows)
        }

    def settle(self) -> set[str]:
        """Have every need refreshed; return the keys."""
        rows = self.connection.execute(
            "SELECT url || need.name FROM need JOIN directory ON directory.id = need.directory"
        ).fetchall()
        self.connection.execute("DELETE FROM need")
        return {url.removeprefix(BASE) for (url,) in rows}


# -- by hand ---------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Written:
    """A recorder of a site that does not ask for anything."""
    return Written()


def test_what_was_heard_before_makes_no_need(written: Written) -> None:
    """A redelivered event, and one that its successor overtook, cost nothing and change nothing; both are counted."""
    assert written.record(told("a", 5, "A")).needs == 1
    assert written.settle() == {"a"}
    for order, etag in ((5, "A"), (3, "B"), (4, None)):
        recorded = written.record(told("a", order, etag))
        assert (recorded.needs, recorded.suppressed) == (0, 1)
    assert written.settle() == set()
    assert written.index() == {"a": "A"}


def test_what_was_deleted_is_not_brought_back(written: Written) -> None:
    """A creation that comes after its deletion neither returns to the index nor makes a need."""
    written.record(told("a", 1, "A"))
    written.record(told("a", 9, None))
    written.settle()
    assert written.record(told("a", 4, "B")).suppressed == 1
    assert written.index() == {}
    assert written.record(told("a", 10, "B")).needs == 1
    assert written.index() == {"a": "B"}


def test_tokens_compare_within_one_key_only(written: Written) -> None:
    """What another key, or the same key of another bucket, was told says nothing."""
    written.record(told("a", 9, "A"))
    assert written.record(told("d/b", 1, "A")).needs == 1
    assert written.record(told("a", 1, "A")._replace(root="other")).needs == 1


def test_what_has_no_token_is_never_old(written: Written) -> None:
    """Without a token an event that looks the same as the last makes its need."""
    written.record(told("a", 9, "A"))
    written.settle()
    assert written.record(told("a", None, "A")).needs == 1
    assert written.record(told("a", None, "A", ChangeKind.METADATA)).needs == 1


def test_the_same_content_again_makes_a_need_unless_a_site_asks(written: Written) -> None:
    """Headers may have changed; only where a site asks are they not looked at."""
    written.record(told("a", 1, "A"))
    written.settle()
    assert written.record(told("a", 2, "A")).needs == 1
    asking = Written(ignore=True)
    asking.record(told("a", 1, "A"))
    asking.settle()
    assert asking.record(told("a", 2, "A")).suppressed == 1
    assert asking.record(told("a", 3, "A", ChangeKind.METADATA)).needs == 1
    assert asking.record(told("a", 5, "B")).needs == 1
    assert asking.record(told("a", 6, "A")).needs == 1


def test_what_was_in_between_makes_its_need() -> None:
    """A, B, A again, heard as A, A, B: a cache may have fetched B, so B is news; and the index stays at A."""
    written = Written(ignore=True)
    written.record(told("a", 1, "A"))
    written.settle()
    assert written.record(told("a", 3, "A")).suppressed == 1
    assert written.record(told("a", 2, "B")).needs == 1
    assert written.index() == {"a": "A"}
    assert written.record(told("a", 2, "B")).suppressed == 1
    assert written.record(told("a", 4, "B")).needs == 1


def test_what_somebody_else_found_ends_the_certainty() -> None:
    """After a scan's finding, an event without token or a deleted folder, the same content is not left alone."""
    for meddle in (
        lambda one: one.record(told("d/b", None, "B"), scan=one.sequence()),
        lambda one: one.record(told("d/b", None, None), scan=one.sequence()),
        lambda one: one.record(told("d/b", None, "B", ChangeKind.METADATA)),
        lambda one: one.record(Change("site", "d/", ChangeKind.SUBTREE_DELETED)),
    ):
        written = Written(ignore=True)
        written.record(told("d/b", 1, "A"))
        meddle(written)
        written.settle()
        assert written.record(told("d/b", 2, "A")).needs == 1


async def test_old_tokens_are_forgotten(bench: Bench, clock: FakeClock) -> None:
    """Tokens are kept for longer than any queue redelivers, and then removed: what comes later makes a need."""
    await bench.change(told("a", 5, "A"))
    await bench.store.upkeep(keep_seconds=3600)
    assert bench.sql("SELECT told FROM heard") == [(f"{5:016X}",)]
    clock.advance(HEARD_SECONDS + 1)
    await bench.store.upkeep(keep_seconds=3600)
    assert bench.sql("SELECT told FROM heard") == []
    (recorded,) = await bench.store.record([Batch([told("a", 4, "A")])], lambda _: [NeedInput("cdn", BASE + "a")])
    assert recorded.needs == 1


# -- any interleaving ------------------------------------------------------------------------------

MISSING = object()
State = tuple[str, int] | None
"""Content and headers of an object; ``None`` while there is none."""


class Interleavings(RuleBasedStateMachine):
    """A storage, events that come late, twice and out of order, scans, a recorder, and a cache that fetches at will."""

    ignore = False

    def __init__(self) -> None:
        super().__init__()
        self.written = Written(ignore=self.ignore)
        self.tokens = count(1)
        self.history: dict[str, list[State]] = {key: [None] for key in KEYS}
        self.edge: dict[str, object] = dict.fromkeys(KEYS, MISSING)
        self.queue: list[Change] = []
        self.delivered: list[Change] = []
        self.scanning: tuple[int, dict[str, State]] | None = None
        self.elsewhere = False

    @initialize(keys=st.sets(st.sampled_from(KEYS)))
    def begin(self, keys: set[str]) -> None:
        """Some objects are known from a first listing."""
        for key in keys:
            self.history[key].append(("A", 0))
        self.connection_seed(sorted(keys))

    def connection_seed(self, keys: Sequence[str]) -> None:
        one = self.written
        one.connection.execute("BEGIN")
        batch = Batch([told(key, None, "A") for key in keys], seed=True)
        one.recorder.record(one.connection, batch, one.route, now=one.now)
        one.connection.execute("COMMIT")

    def _event(self, key: str, state: State, *, token: bool = True, kind: ChangeKind | None = None) -> None:
        self.history[key].append(state)
        order = next(self.tokens) if token else None
        self.queue.append(told(key, order, None if state is None else state[0], kind))

    @rule(key=st.sampled_from(KEYS), etag=st.sampled_from("AB"), headers=st.integers(0, 1))
    def put(self, key: str, etag: str, headers: int) -> None:
        self._event(key, (etag, headers))

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key: str) -> None:
        self._event(key, None)

    @rule(key=st.sampled_from(KEYS))
    def change_access(self, key: str) -> None:
        """Change what has no token: an ACL."""
        now = self.history[key][-1]
        if now is not None:
            self.elsewhere = True
            self._event(key, (now[0], 1 - now[1]), token=False, kind=ChangeKind.METADATA)

    @precondition(lambda self: self.queue or self.delivered)
    @rule(picks=st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=4), merging=st.booleans())
    def deliver(self, picks: list[tuple[int, bool]], merging: bool) -> None:
        """Deliver some of what waits, in any order, with some that was delivered before."""
        batch = []
        for at, again in picks:
            if again and self.delivered:
                batch.append(self.delivered[at % len(self.delivered)])
            elif self.queue:
                batch.append(self.queue.pop(at % len(self.queue)))
        self.delivered += batch
        self._record(batch, merging)

    def _record(self, batch: list[Change], merging: bool) -> None:
        if merging:
            merged: dict[str, Change] = {}
            for change in batch:
                merged[change.key] = merge(merged[change.key], change) if change.key in merged else change
            batch = list(merged.values())
        if batch:
            self.written.record(*batch)

    @rule()
    def begin_scan(self) -> None:
        self.scanning = (self.written.sequence(), {key: states[-1] for key, states in self.history.items()})

    @precondition(lambda self: self.scanning is not None)
    @rule()
    def end_scan(self) -> None:
        """Record where what the scan saw differs from the index."""
        assert self.scanning is not None
        sequence, seen = self.scanning
        index, self.scanning, self.elsewhere = self.written.index(), None, True
        found = []
        for key, state in seen.items():
            if (key in index) != (state is not None) or (state is not None and index[key] != state[0]):
                found.append(told(key, None, None if state is None else state[0]))
        if found:
            self.written.record(*found, scan=sequence)

    @rule(key=st.sampled_from(KEYS))
    def fetch(self, key: str) -> None:
        """Somebody asks the cache."""
        if self.edge[key] is MISSING:
            self.edge[key] = self.history[key][-1]

    @rule()
    def refresh(self) -> None:
        """Everything needed is refreshed."""
        for key in self.written.settle():
            self.edge[key] = MISSING

    @rule()
    def everything_arrives(self) -> None:
        """Once all events are heard and all needs settled, what is cached is what there is."""
        self.queue, batch = [], self.queue
        self.delivered += batch
        for change in batch:
            self.written.record(change)
        self.refresh()
        for key, cached in self.edge.items():
            assert cached is MISSING or self._as_cached(cached) == self._as_cached(self.history[key][-1]), key
        if not self.elsewhere:
            there = {key: states[-1][0] for key, states in self.history.items() if states[-1] is not None}
            assert self.written.index() == there

    def _as_cached(self, state: object) -> object:
        """Where a site asks for it, headers are not looked at."""
        return state[0] if self.ignore and isinstance(state, tuple) else state

    def teardown(self) -> None:
        self.everything_arrives()
        self.written.connection.close()


class IgnoringInterleavings(Interleavings):
    """The same where the site asks that rewrites with the same content be ignored."""

    ignore = True


TestInterleavings = Interleavings.TestCase
TestIgnoringInterleavings = IgnoringInterleavings.TestCase
TestInterleavings.settings = TestIgnoringInterleavings.settings = settings(
    max_examples=settings.default.max_examples, stateful_step_count=30
)
