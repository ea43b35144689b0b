"""What was acknowledged lately is kept on local disk: bounded, as it was, and of one database."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from listener.change import Change, ChangeKind, Fingerprint
from listener.contracts import Unreadable
from listener.refresh import Priority
from listener.store import ring as rings
from listener.store.batches import Batch
from listener.store.durability import CommitMark, Loss
from listener.store.ring import Ring, _as_text, _from_text, ring_path

NUMBERS = st.none() | st.integers(0, 2**63 - 1)
CHANGES = st.builds(
    Change,
    root=st.text(max_size=5),
    key=st.binary(max_size=20).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    kind=st.sampled_from(ChangeKind),
    fingerprint=st.none() | st.builds(Fingerprint, NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.none() | st.text(), NUMBERS),
    event_time=st.none() | st.floats(0, 2e9),
    order=st.none() | st.text(),
    finished=st.booleans(),
    mixed=st.booleans(),
    is_birth=st.booleans(),
)


def batch(key: str) -> Batch:
    """Return a batch of one change."""
    return Batch([Change("queue", key)], message_ids=[key])


class Kept:
    """The ring of one instance, and a clock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ring.db"
        self.time = 1_800_000_000.0
        self.opened: list[Ring] = []

    def open(self, *, identity: str = "one", seconds: float = 600.0) -> Ring:
        """Open it as another process does, after the last one was killed."""
        for ring in self.opened:
            ring._connection.close()
        self.opened.append(Ring.opened(self.path, identity, keep_seconds=seconds))
        return self.opened[-1]

    def add(self, ring: Ring, *commits: int, losses: tuple[Loss, ...] = ()) -> None:
        """Keep a batch for each of these counts, with a key of the same name."""
        for number in commits:
            assert ring.add(batch(str(number)), CommitMark(number, losses), self.time)

    def damage(self, statement: str) -> None:
        """Change the file past the ring."""
        for ring in self.opened:
            ring._connection.close()
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(statement)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    """No file yet."""
    kept = Kept(tmp_path)
    yield kept
    for ring in kept.opened:
        ring._connection.close()


def lost(ring: Ring) -> list[str]:
    """Take out the keys that are to be recorded again."""
    found = []
    while (one := ring.lost()) is not None:
        found.append(one.batch.changes[0].key)
        ring.remove(one.number)
    return found


LETTERS = st.tuples(st.text(max_size=5), st.builds(Unreadable, st.binary(max_size=5), st.binary(max_size=5), st.text()))


@given(
    st.lists(CHANGES, max_size=3),
    st.sampled_from(Priority),
    st.lists(st.text(max_size=5), max_size=2),
    st.lists(LETTERS, max_size=2),
)
def test_a_batch_comes_back_as_it_was(
    changes: list[Change], priority: Priority, ids: list[str], letters: list[tuple[str, Unreadable]]
) -> None:
    """Keys that are no UTF-8, kinds, fingerprints, order tokens, ids of messages, and what could not be read."""
    before = Batch(changes, priority=priority, message_ids=ids)
    after, found = _from_text(_as_text(before, letters))
    assert (after, found) == (before, letters)
    assert [type(each) for change in after.changes for each in (change.kind, change.fingerprint)] == [
        type(each) for change in changes for each in (change.kind, change.fingerprint)
    ]


def test_what_is_above_the_count_of_the_database_is_lost(kept: Kept) -> None:
    """Nothing else; what is recorded again goes on from the lower count, and may be lost once more."""
    ring = kept.open()
    kept.add(ring, 1, 2, 3, 4)
    first = (Loss(4, 2),)
    assert ring.lost() is None
    ring.follow(CommitMark(2, first))
    assert lost(ring) == ["3", "4"]
    kept.add(ring, 3, losses=first)
    ring.follow(CommitMark(1, (*first, Loss(3, 1))))
    assert lost(ring) == ["2", "3"]
    assert ring.is_complete


def test_what_is_kept_after_a_loss_is_not_taken_for_lost(kept: Kept) -> None:
    """The loss is marked first, also where the batch comes before anyone looked."""
    ring = kept.open()
    kept.add(ring, 1, 2, 3)
    kept.add(ring, 3, losses=(Loss(3, 2),))
    assert lost(ring) == ["3"]
    assert ring.lost() is None


def test_a_batch_of_before_a_loss_that_was_marked_is_refused(kept: Kept) -> None:
    """It may be lost and would not be found: it is recorded again."""
    ring = kept.open()
    kept.add(ring, 1, 2)
    ring.follow(CommitMark(1, (Loss(2, 1),)))
    assert not ring.add(batch("late"), CommitMark(2), kept.time)
    assert lost(ring) == ["2"]


def test_count_batches_and_what_is_lost_survive_the_end_of_the_process(kept: Kept) -> None:
    """It may end at any moment: what is written is written before the acknowledgement."""
    ring = kept.open()
    assert ring.commits == 0
    kept.add(ring, 8, 9)
    again = kept.open()
    assert again.commits == 9
    again.follow(CommitMark(8, (Loss(9, 8),)))
    third = kept.open()
    assert third.commits == 8
    assert lost(third) == ["9"]
    third.close(CommitMark(12))
    assert kept.open().commits == 12


def test_what_is_old_or_too_much_is_dropped_and_known(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first; a loss that reaches below is incomplete, and one after it is not."""
    ring = kept.open(seconds=10)
    for number in range(1, 5):
        kept.add(ring, number)
        kept.time += 4
    assert ring._value("SELECT count(*) FROM batch") == 3
    size = len(_as_text(batch("1"), ()))
    monkeypatch.setattr(rings, "MOST_BYTES", 2 * size)
    kept.add(ring, 5)
    assert ring._value("SELECT bytes FROM state") == 2 * size
    ring.follow(CommitMark(3, (Loss(5, 3),)))
    assert (lost(ring), ring.is_complete) == (["4", "5"], True)
    assert ring._value("SELECT bytes FROM state") == 0
    ring.follow(CommitMark(1, (Loss(5, 3), Loss(3, 1))))
    assert not ring.is_complete


def test_what_is_lost_is_not_dropped_before_it_is_recorded_again(kept: Kept) -> None:
    """Whatever its age."""
    ring = kept.open(seconds=10)
    kept.add(ring, 1, 2)
    losses = (Loss(2, 1),)
    ring.follow(CommitMark(1, losses))
    kept.time += 1000
    kept.add(ring, 2, losses=losses)
    assert lost(ring) == ["2"]


def test_nothing_is_kept_where_the_time_is_zero(kept: Kept) -> None:
    """The loss is incomplete then."""
    ring = kept.open(seconds=0)
    kept.add(ring, 1, 2)
    ring.follow(CommitMark(1, (Loss(2, 1),)))
    assert (lost(ring), ring.is_complete) == ([], False)


def test_the_ring_of_another_database_is_not_recorded_again(kept: Kept) -> None:
    """Its counts mean nothing; the name says which one it is of, so that this is a copied file."""
    kept.add(kept.open(), 1, 2)
    ring = kept.open(identity="two")
    assert ring.commits == 0
    ring.follow(CommitMark(0, (Loss(1, 0),)))
    assert lost(ring) == []
    names = {ring_path(Path("/x"), instance="a/b", identity=identity).name for identity in ("1", "2")}
    assert len(names) == 2
    assert all(name.startswith("replay-a_b-") for name in names)


def test_a_damaged_batch_costs_what_is_in_it_and_is_known(kept: Kept) -> None:
    """The others are recorded again."""
    kept.add(kept.open(), 1, 2, 3)
    kept.damage("UPDATE batch SET content = replace(content, '2', '7') WHERE commits = 2")
    ring = kept.open()
    ring.follow(CommitMark(0, (Loss(3, 0),)))
    assert (lost(ring), ring.is_complete) == (["1", "3"], False)


@pytest.mark.parametrize("damage", ["text", "tables", "cut"])
def test_a_file_that_cannot_be_read_is_replaced(kept: Kept, damage: str) -> None:
    """Everything in it is in the database."""
    kept.add(kept.open(), 1, 2)
    if damage == "tables":
        kept.damage("ALTER TABLE batch DROP COLUMN checksum")
    else:
        kept.damage("PRAGMA user_version = 1")
        data = kept.path.read_bytes()
        kept.path.write_bytes(b"no database" * 1000 if damage == "text" else data[: len(data) // 2])
    with capture_logs() as logs:
        ring = kept.open()
    assert [one["event"] for one in logs] == ["replay.damaged"]
    kept.add(ring, 3)
    ring.follow(CommitMark(2, (Loss(3, 2),)))
    assert (lost(ring), ring.is_complete) == (["3"], True)


def test_the_files_are_private_and_no_link_is_followed(kept: Kept) -> None:
    """Whatever the umask."""
    kept.add(kept.open(), 1, 2)
    assert {path.stat().st_mode & 0o777 for path in kept.path.parent.iterdir()} == {0o600}
    kept.path.unlink()
    kept.path.symlink_to(kept.path.parent / "elsewhere")
    with pytest.raises(OSError, match="link"):
        kept.open()


def test_what_does_not_fit_on_the_disk_is_remembered_as_missing(kept: Kept) -> None:
    """An error of the system; a loss that reaches into the gap is incomplete, one above it is not."""
    ring = kept.open()
    kept.add(ring, 1)
    ring._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match="full"):
        ring.add(batch("x" * 100_000), CommitMark(2), kept.time)
    ring._connection.execute("PRAGMA max_page_count = 1000000")
    kept.add(ring, 3)
    ring.follow(CommitMark(2, (Loss(3, 2),)))
    assert (lost(ring), ring.is_complete) == (["3"], True)
    ring.follow(CommitMark(1, (Loss(3, 2), Loss(2, 1))))
    assert not ring.is_complete


def test_a_file_that_is_not_to_be_had_is_an_error_of_the_system(tmp_path: Path) -> None:
    """One that another process holds, and one in no directory."""
    first = Ring.opened(tmp_path / "ring.db", "one", keep_seconds=10)
    first.add(batch("1"), CommitMark(1), now=0.0)
    with pytest.raises(OSError, match="locked"):
        Ring.opened(tmp_path / "ring.db", "one", keep_seconds=10)
    first.close(CommitMark(1))
    with pytest.raises(OSError, match="absent"):
        Ring.opened(tmp_path / "absent" / "ring.db", "one", keep_seconds=10)


def test_what_a_version_without_letters_wrote_is_read(kept: Kept) -> None:
    """An upgrade while commits are lost."""
    ring = kept.open()
    kept.add(ring, 1, 2)
    ((text,),) = ring._connection.execute("SELECT content FROM batch WHERE commits = 2").fetchall()
    old = json.dumps(json.loads(text)[:3])
    ring._connection.execute("UPDATE batch SET content = ?, checksum = ? WHERE commits = 2", (old, crc32(old.encode())))
    assert ring.follow(CommitMark(1, (Loss(2, 1),)))
    found = ring.lost()
    assert found is not None
    assert (found.batch, found.letters) == (batch("2"), [])
