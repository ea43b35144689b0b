"""What is held between receiving and deleting, against a model: nothing deleted before it is durable, nothing lost."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from listener.sources.mns.held import Held
from listener.sources.mns.wire import Message


class Holding(RuleBasedStateMachine):
    """A queue that gives the same messages again and again, a pipeline that commits some, deletions that fail."""

    def __init__(self) -> None:
        """Start with nothing received."""
        super().__init__()
        self.held = Held()
        self.newest: dict[str, str] = {}
        self.handed: list[str] = []
        self.durable: set[str] = set()
        self.deleted: set[str] = set()
        self.taken: list[dict[str, str]] = []
        self.count = 0

    @rule(names=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=16, unique=True))
    def receive(self, names: list[str]) -> None:
        """Whatever was not deleted may come at any time, each time under a new handle."""
        batch = []
        for name in (name for name in names if name not in self.deleted):
            self.count += 1
            self.newest[name] = f"{name}{self.count}"
            batch.append(Message(name, self.newest[name], b"", 1, None))
        fresh = [message.id for message in self.held.receive(batch)]
        assert not set(fresh) & (set(self.handed) | self.durable), "handed out although it is in hand or durable"
        known = set(self.handed) | self.durable
        assert set(fresh) == {message.id for message in batch} - known, "not handed out although it is new"
        self.handed += fresh

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        """Some of what was handed out becomes durable."""
        names = data.draw(st.lists(st.sampled_from(self.handed), min_size=1, unique=True))
        self.held.commit(names)
        self.durable |= set(names)
        self.handed = [name for name in self.handed if name not in names]

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Some of what was handed out is given back instead: with its newest handle, and it may come again."""
        names = data.draw(st.lists(st.sampled_from(self.handed), min_size=1, unique=True))
        assert self.held.release(names) == [self.newest[name] for name in names]
        self.handed = [name for name in self.handed if name not in names]

    @rule(most=st.integers(1, 16))
    def take(self, most: int) -> None:
        """A batch goes to be deleted: durable ones only, by their newest handles."""
        batch = self.held.take_durable(most)
        assert len(batch) <= most
        assert set(batch) <= self.durable
        assert all(handle == self.newest[name] for name, handle in batch.items())
        self.taken.append(batch)

    @precondition(lambda self: self.taken)
    @rule(fails=st.booleans())
    def answer(self, fails: bool) -> None:
        """The oldest batch was deleted, or not."""
        batch = self.taken.pop(0)
        if fails:
            self.held.give_back(batch)
        else:
            self.deleted |= {name for name, handle in batch.items() if handle == self.newest[name]}

    @invariant()
    def counts_are_true(self) -> None:
        """What is not durable is counted, and only that."""
        assert len(self.held) == len(self.handed)


TestHolding = Holding.TestCase


def test_what_was_durable_is_known_for_a_bounded_while() -> None:
    """Memory does not grow with the messages of a life; the oldest are forgotten and would be recorded once more."""
    from listener.sources.mns import held as module

    held = Held()
    total = module.REMEMBERED + 10
    for number in range(total):
        held.receive([Message(str(number), "h", b"", 1, None)])
        held.commit([str(number)])
        held.take_durable(16)
    again = held.receive([Message("0", "new", b"", 2, None), Message(str(total - 1), "new", b"", 2, None)])
    assert [message.id for message in again] == ["0"]
    assert held.take_durable(16) == {str(total - 1): "new"}
