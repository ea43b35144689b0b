"""Suppression keeps needs from being made and removes none; nothing is left stale by what comes late or twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, reduce
from itertools import count
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from listener.change import Change, ChangeKind, Fingerprint
from listener.coalescer import merge
from listener.settings import CoalescerSettings
from listener.store import NeedInput
from listener.store.batches import Batch, Recorded
from listener.store.filtering import CAME_AND_WENT, OLD_NEWS, SAME_CONTENT, TOKEN_SECONDS, suppressed_of
from listener.store.names import Names
from listener.store.record import Recorder
from listener.store.sqlite.migrations import schema, statements
from tests.store.steps import BASE, Bench, FakeClock


def reported(key: str, order: int | None, etag: str | None, kind: ChangeKind | None = None) -> Change:
    """Return an event of a store with tokens; without an etag the object is gone."""
    kind = kind or (ChangeKind.DELETED if etag is None else ChangeKind.CONTENT)
    token = None if order is None else f"{order:016X}"
    return Change("site", key, kind, None if etag is None else Fingerprint(1, etag=etag), order=token)


@cache
def empty_file() -> sqlite3.Connection:
    """Return a state file in memory with nothing in it, to be copied."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in statements(schema()):
        connection.execute(statement)
    connection.execute("INSERT INTO meta (id, sequence, created_at) VALUES (1, 0, 0)")
    return connection


OPENED: list[sqlite3.Connection] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    """Close what a test opened."""
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture(autouse=True, scope="module")
def _close_empty_file() -> Iterator[None]:
    """Close what all tests copy."""
    yield
    empty_file().close()
    empty_file.cache_clear()


@dataclass
class Written:
    """The recorder on a file in memory, with steps for tests."""

    ignore: bool = False
    now: float = 1_800_000_000.0
    connection: sqlite3.Connection = field(default_factory=lambda: sqlite3.connect(":memory:", isolation_level=None))

    def __post_init__(self) -> None:
        OPENED.append(self.connection)
        empty_file().backup(self.connection)
        self.recorder = Recorder(Names(), timing=CoalescerSettings(), unforced=frozenset(), expand_limit=100)

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


# -- manually ---------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Written:
    """A recorder of a site that does not ask for anything."""
    return Written()


def test_what_was_reported_before_makes_no_need(written: Written) -> None:
    """A redelivered event, and one that its successor overtook, cost nothing and change nothing; both are counted."""
    assert written.record(reported("a", 5, "A")).needs == 1
    assert written.settle() == {"a"}
    for order, etag in ((5, "A"), (3, "B"), (4, None)):
        recorded = written.record(reported("a", order, etag))
        assert (recorded.needs, recorded.suppressed) == (0, 1)
    assert written.settle() == set()
    assert written.index() == {"a": "A"}


def test_what_was_deleted_is_not_brought_back(written: Written) -> None:
    """A creation that comes after its deletion neither returns to the index nor makes a need."""
    written.record(reported("a", 1, "A"))
    written.record(reported("a", 9, None))
    written.settle()
    assert written.record(reported("a", 4, "B")).suppressed == 1
    assert written.index() == {}
    assert written.record(reported("a", 10, "B")).needs == 1
    assert written.index() == {"a": "B"}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ignore", [False, True])
def test_a_batch_is_decided_as_its_changes_are_one_by_one(ignore: bool, seed: int) -> None:
    """Of different keys, with a random history of events, scans and deleted directories: the same needs and tokens."""
    chance, keys = Random(seed), [f"{folder}/{name}" for folder in "ab" for name in range(6)]
    together, single = Written(ignore), Written(ignore)

    def event(key: str) -> Change:
        order = chance.choice([None, *range(1, 9), *range(1, 9)])
        return reported(key, order, chance.choice(["A", "B", "B", None]))

    for _ in range(40):
        batch = [event(key) for key in chance.sample(keys, chance.randint(2, len(keys)))]
        scan = together.sequence() - chance.randint(0, 2) if chance.random() < 0.2 else None
        whole, parts = together.record(*batch, scan=scan), [single.record(one, scan=scan) for one in batch]
        if scan is None:
            assert (whole.needs, whole.suppressed) == (
                sum(one.needs for one in parts),
                sum(one.suppressed for one in parts),
            )
        if chance.random() < 0.15:
            gone = Change("site", chance.choice("ab") + "/", ChangeKind.SUBTREE_DELETED)
            together.record(gone)
            single.record(gone)
        if chance.random() < 0.3:
            assert together.settle() == single.settle()
        for written in (together, single):  # the sequences of both files stay comparable
            written.connection.execute("UPDATE meta SET sequence = (sequence / 1000 + 1) * 1000")
        assert together.index() == single.index()
        tokens = "SELECT key, covered, newest, etag FROM order_token ORDER BY key"
        assert together.connection.execute(tokens).fetchall() == single.connection.execute(tokens).fetchall()


def test_tokens_are_looked_up_for_the_whole_batch() -> None:
    """Reading makes as many statements for three hundred events as for two; each key twice is decided in order."""
    written = Written(ignore=True)
    seen: list[str] = []

    def reads(*changes: Change) -> int:
        seen.clear()
        written.connection.set_trace_callback(seen.append)
        written.record(*changes)
        written.connection.set_trace_callback(None)
        return sum(statement.lstrip().startswith(("SELECT", "WITH")) for statement in seen)

    for order in (1, 2):
        events = [reported(f"a/{number}", order, "A") for number in range(300)]
        few = [reported(f"b/{number}", order, "A") for number in range(2)]
        reads(reported("a/", None, "A"), reported("b/", None, "A"))
        assert reads(*events) == reads(*few)
    recorded = written.record(reported("c", 2, "A"), reported("c", 2, "A"), reported("c", 3, "B"))
    assert (recorded.needs, recorded.suppressed) == (2, 1)
    recorded = written.record(reported("c", 1, "A"), reported("c", 2, "A"), reported("c", 4, "C"))
    assert (recorded.needs, recorded.suppressed) == (1, 2)


def test_what_makes_no_need_leaves_a_trace() -> None:
    """Each URL keeps how many of its changes made no need, when the last was recorded, and why; nothing else does."""
    written = Written(ignore=True)
    written.record(reported("a", 5, "A"), reported("b", 5, "A"), reported("c", 5, "A"))
    written.settle()
    written.record(reported("a", 4, "B"))
    written.now += 60
    written.record(reported("a", 5, "A"))
    written.record(reported("b", 6, "A"))
    assert suppressed_of(written.connection, BASE + "a") == (2, written.now, OLD_NEWS)
    assert suppressed_of(written.connection, BASE + "b") == (1, written.now, SAME_CONTENT)
    assert suppressed_of(written.connection, BASE + "c") is None


def test_what_came_and_went_leaves_a_trace(written: Written) -> None:
    """A file that is deleted before it was refreshed makes no need, and that can be seen."""
    birth = Change("site", "a", ChangeKind.CONTENT, Fingerprint(1), is_birth=True)
    written.record(birth)
    written.record(Change("site", "a", ChangeKind.DELETED))
    assert written.settle() == set()
    assert suppressed_of(written.connection, BASE + "a") == (1, written.now, CAME_AND_WENT)


def test_traces_are_bounded(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URLs whose suppressed changes are oldest go first."""
    monkeypatch.setattr("listener.store.filtering.MOST_SUPPRESSED", 3)
    for key in "abcde":
        written.record(reported(key, 5, "A"))
    for key in "abcdae":
        written.record(reported(key, 5, "A"))
    kept = written.connection.execute("SELECT url, times FROM suppressed ORDER BY at, id").fetchall()
    assert kept == [(BASE + "d", 1), (BASE + "a", 1), (BASE + "e", 1)]


def test_tokens_compare_within_one_key_only(written: Written) -> None:
    """What another key, or the same key of another bucket, was reported says nothing."""
    written.record(reported("a", 9, "A"))
    assert written.record(reported("d/b", 1, "A")).needs == 1
    assert written.record(reported("a", 1, "A")._replace(root="other")).needs == 1


def test_what_has_no_token_is_never_old(written: Written) -> None:
    """Without a token an event that looks the same as the last makes its need."""
    written.record(reported("a", 9, "A"))
    written.settle()
    assert written.record(reported("a", None, "A")).needs == 1
    assert written.record(reported("a", None, "A", ChangeKind.METADATA)).needs == 1


def test_the_same_content_again_makes_a_need_unless_a_site_skips_it(written: Written) -> None:
    """Headers may have changed; only where a site asks are they not looked at."""
    written.record(reported("a", 1, "A"))
    written.settle()
    assert written.record(reported("a", 2, "A")).needs == 1
    asking = Written(ignore=True)
    asking.record(reported("a", 1, "A"))
    asking.settle()
    assert asking.record(reported("a", 2, "A")).suppressed == 1
    assert asking.record(reported("a", 3, "A", ChangeKind.METADATA)).needs == 1
    assert asking.record(reported("a", 5, "B")).needs == 1
    assert asking.record(reported("a", 6, "A")).needs == 1


def test_what_was_in_between_makes_its_need() -> None:
    """A, B, A again, received as A, A, B: a cache may have fetched B, so B is news; and the index stays at A."""
    written = Written(ignore=True)
    written.record(reported("a", 1, "A"))
    written.settle()
    assert written.record(reported("a", 3, "A")).suppressed == 1
    assert written.record(reported("a", 2, "B")).needs == 1
    assert written.index() == {"a": "A"}
    assert written.record(reported("a", 2, "B")).suppressed == 1
    assert written.record(reported("a", 4, "B")).needs == 1


def test_a_need_covers_all_that_was_seen_before_it() -> None:
    """What was fetched for the need of B is not older than A, which was seen at that time: what lies between is old."""
    written = Written(ignore=True)
    written.record(reported("a", 1, "A"))
    assert written.record(reported("a", 9, "A")).suppressed == 1
    assert written.record(reported("a", 3, "B")).needs == 1
    assert written.record(reported("a", 5, "C")).suppressed == 1


def test_what_a_scan_may_know_better_is_not_relied_on() -> None:
    """An event after a scan's finding may be older than that: its content is not what the next is compared with."""
    written = Written(ignore=True)
    written.record(reported("a", 1, "A"))
    written.record(reported("a", None, "B"), scan=written.sequence())
    written.settle()
    assert written.record(reported("a", 2, "A")).needs == 1
    assert written.record(reported("a", 3, "A")).needs == 1
    assert written.record(reported("a", 4, "A")).suppressed == 1


def test_a_scan_goes_by_what_it_saw(written: Written) -> None:
    """Findings of a scan follow the rules of scans, whatever tokens they carry."""
    written.record(reported("a", 5, "A"))
    assert written.record(reported("a", 5, "B"), scan=written.sequence()).needs == 1
    assert written.index() == {"a": "B"}


def test_what_was_merged_with_something_else_makes_its_need() -> None:
    """B and A within one commit are not "A again": the cache may have fetched B."""
    written = Written(ignore=True)
    written.record(reported("a", 1, "A"))
    written.settle()
    assert written.record(merge(reported("a", 2, "B"), reported("a", 3, "A"))).needs == 1
    assert written.record(merge(reported("a", 4, "A"), reported("a", 5, "A"))).suppressed == 1


def test_a_key_twice_in_a_batch_is_not_compared(written: Written) -> None:
    """What waits to be written is not known yet: whatever stands twice in a batch makes its need."""
    written = Written(ignore=True)
    written.record(reported("a", 1, "A"))
    written.settle()
    assert written.record(reported("a", None, "B"), reported("a", 3, "A")).suppressed == 0
    assert written.record(reported("a", 4, "A")).needs == 1


def test_what_somebody_else_found_ends_the_certainty() -> None:
    """After a scan's finding, an event without token or a deleted folder, the same content is not left alone."""
    for meddle in (
        lambda one: one.record(reported("d/b", None, "B"), scan=one.sequence()),
        lambda one: one.record(reported("d/b", None, None), scan=one.sequence()),
        lambda one: one.record(reported("d/b", None, "B", ChangeKind.METADATA)),
        lambda one: one.record(Change("site", "d/", ChangeKind.SUBTREE_DELETED)),
    ):
        written = Written(ignore=True)
        written.record(reported("d/b", 1, "A"))
        meddle(written)
        written.settle()
        assert written.record(reported("d/b", 2, "A")).needs == 1


async def test_old_tokens_are_forgotten(bench: Bench, clock: FakeClock) -> None:
    """Tokens are kept for longer than any queue redelivers, and then removed: what comes later makes a need."""
    await bench.change(reported("a", 5, "A"))
    await bench.store.upkeep(keep_seconds=3600)
    assert bench.sql("SELECT covered FROM order_token") == [(f"{5:016X}",)]
    clock.advance(TOKEN_SECONDS + 1)
    await bench.store.upkeep(keep_seconds=3600)
    assert bench.sql("SELECT covered FROM order_token") == []
    (recorded,) = await bench.store.record([Batch([reported("a", 4, "A")])], lambda _: [NeedInput("cdn", BASE + "a")])
    assert recorded.needs == 1


# -- any interleaving ------------------------------------------------------------------------------

MISSING = object()
State = tuple[str, int] | None
"""Content and headers of an object; ``None`` while there is none."""
EVERY_STATE: list[State] = [("A", 0), ("B", 0), None, ("A", 1)]
STATES = st.sampled_from(EVERY_STATE)
HISTORIES = 5 * settings.default.max_examples


class Interleavings(RuleBasedStateMachine):
    """A storage, events that come late, twice and out of order, a recorder, and a cache that fetches at will."""

    ignore = False

    def __init__(self) -> None:
        super().__init__()
        self.written = Written(ignore=self.ignore)
        self.tokens = count(1)
        self.history: list[State] = [None]
        self.edge: object = MISSING
        self.queue: list[Change] = []
        self.delivered: list[Change] = []
        self.scanning: tuple[int, State, str | None] | None = None
        self.elsewhere = False

    @initialize(known=st.booleans(), received=st.booleans())
    def begin(self, known: bool, received: bool) -> None:
        """The object may be known from a first listing, and from its first event."""
        if known:
            self.history.append(("A", 0))
            one = self.written
            one.connection.execute("BEGIN")
            one.recorder.record(one.connection, Batch([reported("a", None, "A")], seed=True), one.route, now=one.now)
            one.connection.execute("COMMIT")
        if received:
            self.change(("A", 0), fetched=False)
            self.deliver([(0, False)], merging=False, refreshed=True)

    @rule(state=STATES, fetched=st.booleans())
    def change(self, state: State, fetched: bool) -> None:
        """Write or delete the object; a cache may be asked for it right then."""
        self.history.append(state)
        self.queue.append(reported("a", next(self.tokens), None if state is None else state[0]))
        if fetched:
            self.fetch()

    @precondition(lambda self: self.queue or self.delivered)
    @rule(
        picks=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=2),
        merging=st.booleans(),
        refreshed=st.booleans(),
    )
    def deliver(self, picks: list[tuple[int, bool]], merging: bool, refreshed: bool) -> None:
        """Deliver some of what waits, in any order, with some that was delivered before."""
        batch = []
        for at, again in picks:
            if again and self.delivered:
                batch.append(self.delivered[at % len(self.delivered)])
            elif self.queue:
                batch.append(self.queue.pop(at % len(self.queue)))
        self.delivered += batch
        if batch:
            self.written.record(*([reduce(merge, batch)] if merging else batch))
        if refreshed:
            self.refresh()

    def fetch(self) -> None:
        """Somebody asks the cache."""
        if self.edge is MISSING:
            self.edge = self.history[-1]

    def refresh(self) -> None:
        """Everything needed is refreshed."""
        if self.written.settle():
            self.edge = MISSING

    def everything_arrives(self) -> None:
        """Once all events are received and all needs settled, what is cached is what there is."""
        self.queue, late = [], self.queue
        self.delivered += late
        for change in late:
            self.written.record(change)
        self.refresh()
        assert self.edge is MISSING or self._as_cached(self.edge) == self._as_cached(self.history[-1])
        if not self.elsewhere:
            state = self.history[-1]
            assert self.written.index() == ({} if state is None else {"a": state[0]})

    def _as_cached(self, state: object) -> object:
        """Where a site requests it, headers are not looked at."""
        return state[0] if self.ignore and isinstance(state, tuple) else state

    def teardown(self) -> None:
        """Whatever happened, it ends well."""
        self.everything_arrives()
        self.written.connection.close()


class MeddledInterleavings(Interleavings):
    """The same with scans, and with events that have no token."""

    @precondition(lambda self: self.history[-1] is not None)
    @rule(fetched=st.booleans())
    def change_access(self, fetched: bool) -> None:
        """Change what has no token: an ACL."""
        etag, headers = self.history[-1]  # type: ignore[misc]
        self.elsewhere = True
        self.history.append((etag, 1 - headers))
        self.queue.append(reported("a", None, etag, ChangeKind.METADATA))
        if fetched:
            self.fetch()

    @rule()
    def begin_scan(self) -> None:
        """A scan sees the storage as it is now."""
        last = self.queue[-1].order if self.queue else None
        self.scanning = (self.written.sequence(), self.history[-1], last)

    @precondition(lambda self: self.scanning is not None)
    @rule(lost=st.booleans())
    def end_scan(self, lost: bool) -> None:
        """What the scan saw is recorded, where it differs from the index; the event of just that may never come."""
        assert self.scanning is not None
        (sequence, state, last), self.scanning, self.elsewhere = self.scanning, None, True
        seen = {} if state is None else {"a": state[0]}
        if seen != self.written.index():
            recorded = self.written.record(reported("a", None, seen.get("a")), scan=sequence)
            if lost and last is not None and not recorded.outdated:
                self.queue = [change for change in self.queue if change.order != last]


class IgnoringInterleavings(Interleavings):
    """A site that asks that rewrites with the same content be ignored."""

    ignore = True


class IgnoringMeddledInterleavings(MeddledInterleavings):
    """Such a site, with scans and events without token."""

    ignore = True


def play(machine: Interleavings, random: Random) -> None:
    """Drive a machine at random: some changes and deliveries, with what meddles where it may."""
    machine.begin(known=random.random() < 0.2, received=random.random() < 0.8)
    for _ in range(random.randint(3, 9)):
        turn = random.random()
        if isinstance(machine, MeddledInterleavings) and turn < 0.35:
            meddle = random.choice(["access", "begin", "end", "end"])
            if meddle == "access" and machine.history[-1] is not None:
                machine.change_access(fetched=random.random() < 0.5)
            elif meddle == "begin":
                machine.begin_scan()
            elif meddle == "end" and machine.scanning is not None:
                machine.end_scan(lost=random.random() < 0.7)
        elif turn < 0.65 or not (machine.queue or machine.delivered):
            machine.change(random.choice(EVERY_STATE), fetched=random.random() < 0.5)
        else:
            picks = [(random.randint(0, 3), random.random() < 0.2) for _ in range(random.choice([1, 1, 2]))]
            machine.deliver(picks, merging=random.random() < 0.5, refreshed=random.random() < 0.7)
    machine.teardown()


KINDS = (Interleavings, MeddledInterleavings, IgnoringInterleavings, IgnoringMeddledInterleavings)


@pytest.mark.parametrize("kind", KINDS)
def test_many_short_histories_end_well(kind: type[Interleavings]) -> None:
    """What Hypothesis searches in few and long histories holds in many and short ones, where rare meetings are."""
    for seed in range(HISTORIES):
        try:
            play(kind(), Random(seed))
        except AssertionError as error:
            raise AssertionError(f"{kind.__name__}, seed {seed}") from error


TestInterleavings = Interleavings.TestCase
TestMeddledInterleavings = MeddledInterleavings.TestCase
TestIgnoringInterleavings = IgnoringInterleavings.TestCase
TestIgnoringMeddledInterleavings = IgnoringMeddledInterleavings.TestCase
TestInterleavings.settings = TestIgnoringInterleavings.settings = settings(stateful_step_count=8)
TestMeddledInterleavings.settings = TestIgnoringMeddledInterleavings.settings = settings(
    max_examples=2 * settings.default.max_examples, stateful_step_count=10
)


# -- tokens that are ahead of our clock ----------------------------------------------------------------


def timed(key: str, second: float, etag: str | None) -> Change:
    """Return an event whose token is of this second."""
    return reported(key, int(second) << 32, etag)


def test_a_token_of_another_century_orders_nothing(written: Written) -> None:
    """An event dated 2106 is a change like one without a token: the five real changes after it each make a need."""
    assert written.record(timed("a", 0xFFFFFFF0, "forged")).needs == 1
    made = 0
    for second in range(5):
        written.settle()
        written.now += 1
        made += written.record(timed("a", written.now, f"real {second}")).needs
    assert made == 5
    assert written.record(timed("a", 0xFFFFFFF0, "forged")).needs == 1
    assert written.record(timed("a", written.now, "real 4")).suppressed == 1


def test_a_token_of_another_century_in_an_older_state_file_orders_nothing(written: Written) -> None:
    """What an earlier version noted is not believed either."""
    written.record(timed("a", written.now, "A"))
    written.connection.execute("UPDATE order_token SET covered = 'FFFFFFF000000000', newest = 'FFFFFFF000000000'")
    assert written.record(timed("a", written.now + 1, "B")).needs == 1
    assert written.record(timed("a", written.now + 1, "B")).suppressed == 1


def test_a_token_somewhat_ahead_silences_nothing_that_comes_after_it(written: Written) -> None:
    """Nine minutes ahead: taken, and its repetition is old news; but what happens in those minutes makes needs."""
    ahead = timed("a", written.now + 540, "ahead")
    assert written.record(ahead).needs == 1
    assert written.record(ahead).suppressed == 1
    written.now += 60
    assert written.record(timed("a", written.now, "real")).needs == 1
    assert written.record(timed("a", written.now - 120, "older")).suppressed == 1


@pytest.mark.parametrize("ahead_seconds", [2, 4, 540])
def test_a_token_ahead_silences_no_change_seconds_later(written: Written, ahead_seconds: int) -> None:
    """Real changes in each of the next seconds make needs: the one made before is refreshed after a second."""
    assert written.record(timed("a", written.now + ahead_seconds, "ahead")).needs == 1
    made = 0
    for second in range(5):
        written.settle()
        written.now += 1
        made += written.record(timed("a", written.now, f"real {second}")).needs
    assert made == 5
