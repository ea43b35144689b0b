"""Promises 1 and 2 in memory: merging loses nothing, and an ack leaves with the last of its delivery's changes."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from listener.change import Change, ChangeKind, Fingerprint
from listener.coalescer import Inbox, Taken
from listener.contracts import Delivery
from listener.refresh import Priority

C, D, S, X = ChangeKind.CONTENT, ChangeKind.DELETED, ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED


class Ack:
    """An ack that knows its delivery's name."""

    def __init__(self, name: int) -> None:
        """Name it."""
        self.name = name

    async def __call__(self) -> None:
        """Do nothing."""


def change(key: str, kind: ChangeKind = C, size: int | None = None) -> Change:
    """Return a change of the one root."""
    return Change("r", key, kind, None if size is None else Fingerprint(size))


def applied(changes: Sequence[Change]) -> tuple[dict[str, Fingerprint | None], set[str]]:
    """Return what an index and a list of stale names hold after these changes: the model."""
    index: dict[str, Fingerprint | None] = {}
    stale: set[str] = set()
    for key, kind, fingerprint in (item[1:4] for item in changes):
        stale.add(f"{kind}:{key}" if kind in (S, X) else key)
        if kind is X:
            index = {name: value for name, value in index.items() if not name.startswith(key)}
        elif kind is D:
            index.pop(key, None)
        elif kind is not S:
            index[key] = fingerprint
    return index, stale


CHANGES = st.builds(
    change,
    st.sampled_from(["a", "d/a", "d/b", "d/e/a"]),
    st.sampled_from([C, C, D, ChangeKind.METADATA]),
    st.integers(0, 99),
) | st.builds(change, st.sampled_from(["d/", "d/e/"]), st.sampled_from([S, X]))


class InboxMachine(RuleBasedStateMachine):
    """Any mix of deliveries and takes, against every change ever added."""

    def __init__(self) -> None:
        """Start with nothing added, taken or owed."""
        super().__init__()
        self.inbox = Inbox(max_changes=8)
        self.added: dict[tuple[bool, int | None], list[Change]] = {}
        self.taken: dict[tuple[bool, int | None], list[Change]] = {}
        self.owed: dict[int, list[tuple[tuple[bool, int | None], int, Change]]] = {}
        self.acked: list[int] = []
        self.deliveries = 0

    @rule(
        changes=st.lists(CHANGES, max_size=4),
        lane=st.sampled_from([(False, None), (False, None), (False, 7), (True, 3)]),
        acked=st.booleans(),
    )
    def add(self, changes: list[Change], lane: tuple[bool, int | None], acked: bool) -> None:
        """A delivery arrives, live or from a scan or a seeding."""
        self.deliveries += 1
        mark = len(self.taken.setdefault(lane, []))
        self.added.setdefault(lane, []).extend(changes)
        if acked:
            self.owed[self.deliveries] = [(lane, mark, item) for item in changes]
            delivery = Delivery(changes, Ack(self.deliveries), scan_sequence=lane[1], seed=lane[0])
        else:
            delivery = Delivery(changes, scan_sequence=lane[1], seed=lane[0])
        self.inbox.add(delivery)

    @precondition(lambda self: not self.inbox.idle)
    @rule(most=st.integers(1, 5))
    def take(self, most: int) -> None:
        """A commit takes some changes; acks that come with it may only be of deliveries that are whole."""
        self.check(self.inbox.take(most), most)

    def check(self, taken: Taken, most: int) -> None:
        """Compare what was taken with what may be."""
        assert len(taken.changes) <= most
        assert taken.changes or taken.acks
        log = self.taken.setdefault((taken.seed, taken.scan_sequence), [])
        log.extend(taken.changes)
        for ack in taken.acks:
            assert isinstance(ack, Ack)
            assert ack.name not in self.acked
            self.acked.append(ack.name)
            for lane, mark, item in self.owed.pop(ack.name):
                assert any(item[:2] == other[:2] for other in self.taken[lane][mark:]), "acked before it was taken"

    @invariant()
    def bounded(self) -> None:
        """What asks to wait does so by what is held."""
        held = len(self.inbox) + self.inbox._acks
        assert self.inbox.full is (held >= 8)
        assert self.inbox._acks == len(self.owed)

    def teardown(self) -> None:
        """Once all is taken, every lane leads to the same index and stale names, and every ack is out."""
        while not self.inbox.idle:
            self.check(self.inbox.take(3), 3)
        assert not self.owed
        assert len(self.inbox) == 0
        assert not self.inbox._lanes
        for lane, changes in self.added.items():
            assert applied(self.taken.get(lane, [])) == applied(changes)


TestInbox = InboxMachine.TestCase


def test_a_storm_on_one_key_is_one_change() -> None:
    """However often a key changes between two commits, it is stored once, as it is last."""
    inbox = Inbox()
    for size in range(1000):
        inbox.add(Delivery([change("a", C, size)]))
    assert inbox.take(10) == Taken([change("a", C, 999)], [])
    assert inbox.idle


def test_a_key_change_after_its_folder_was_deleted_is_not_lost() -> None:
    """Deleted with its folder, then made again: the new file comes after the deletion."""
    inbox = Inbox()
    for item in (change("d/a", C, 1), change("d/", X), change("d/a", C, 2)):
        inbox.add(Delivery([item]))
    assert inbox.take(10).changes == [change("d/a", C, 1), change("d/", X), change("d/a", C, 2)]


def test_a_repeated_subtree_change_is_one_change() -> None:
    """The same subtree reported again and again, with nothing between, is stored once; a key between keeps both."""
    inbox = Inbox()
    for item in (change("d/", S), change("d/", S), change("d/a"), change("d/", S)):
        inbox.add(Delivery([item]))
    assert inbox.take(10).changes == [change("d/", S), change("d/a"), change("d/", S)]


def test_a_subtree_and_a_key_of_one_name_are_two_things() -> None:
    """A folder marker and its subtree share a name and both stand."""
    inbox = Inbox()
    inbox.add(Delivery([change("d/"), change("d/", S)]))
    assert [item.kind for item in inbox.take(10).changes] == [C, S]


def test_an_ack_waits_for_the_last_of_its_changes() -> None:
    """A delivery that is taken in two steps is acked with the second; one that was merged with it, with the first."""
    inbox = Inbox()
    first, second = Ack(1), Ack(2)
    inbox.add(Delivery([change("a"), change("b"), change("a")], first))
    inbox.add(Delivery([change("a", D)], second))
    assert inbox.take(1) == Taken([change("a", D)], [second])
    assert inbox.take(1) == Taken([change("b")], [first])


def test_an_ack_waits_only_for_its_own_changes() -> None:
    """Of keys that came in one delivery, a later delivery waits for the one that it changes, not for the others."""
    inbox = Inbox()
    first, second = Ack(1), Ack(2)
    inbox.add(Delivery([change("a"), change("b")], first))
    inbox.add(Delivery([change("b", D)], second))
    assert inbox.take(1) == Taken([change("a")], [])
    assert inbox.take(1) == Taken([change("b", D)], [first, second])


def test_an_empty_delivery_is_acked() -> None:
    """A message without changes is reported so at the next commit."""
    inbox = Inbox()
    ack = Ack(1)
    inbox.add(Delivery([], ack))
    assert not inbox.idle
    assert inbox.take(1) == Taken([], [ack])
    assert inbox.take(1) == Taken([], [])


def test_scans_and_seedings_are_never_merged_into_live_changes() -> None:
    """One key from four origins is taken four times, each with its own rules, and no origin waits for ever."""
    inbox = Inbox()
    for _ in range(3):
        inbox.add(Delivery([change("a"), change("b")]))
        inbox.add(Delivery([change("a")], scan_sequence=7))
        inbox.add(Delivery([change("a")], scan_sequence=3, seed=True))
        inbox.add(Delivery([change("a")], priority=Priority.BACKFILL))
    lanes = [inbox.take(1)[2:5] for _ in range(5)]
    live, scan, seed, backfill = (None, False, False), (7, False, False), (3, True, False), (None, False, True)
    assert lanes == [live, scan, seed, backfill, live]
    assert inbox.idle


@given(st.integers(1, 50), st.integers(1, 9))
def test_what_arrives_while_a_backlog_leaves_delays_nobody(backlog: int, most: int) -> None:
    """A key that changes at every commit is handed out all the same: the backlog ahead of it only shrinks."""
    inbox = Inbox()
    for number in range(backlog):
        inbox.add(Delivery([change(f"k{number}")]))
    for _ in range(backlog // most + 2):
        inbox.add(Delivery([change("hot")]))
        if change("hot") in inbox.take(most).changes:
            return
    raise AssertionError("the hot key starves")


def test_many_merged_acks_ask_the_feeder_to_wait() -> None:
    """One hot key cannot gather acks without end."""
    inbox = Inbox(max_changes=10)
    for number in range(9):
        assert not inbox.full
        inbox.add(Delivery([change("a")], Ack(number)))
    assert inbox.full
    assert len(inbox.take(1).acks) == 9
    assert not inbox.full


def test_a_message_is_named_with_the_last_of_its_changes() -> None:
    """Not before all that it brought is handed out: noted sooner, its redelivery would be left out after a crash."""
    inbox = Inbox()
    inbox.add(Delivery([change("a"), change("b")], an_ack, message_ids=["m1", "m1"]))
    inbox.add(Delivery([change("a")], an_ack, message_ids=["m2"]))
    assert [inbox.take(1).message_ids for _ in range(2)] == [("m2",), ("m1",)]


async def an_ack() -> None:
    """Acknowledge nothing."""
