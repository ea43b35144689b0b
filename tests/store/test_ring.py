"""What was acknowledged lately is kept on local disk: bounded, as it was, and of one database."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, Fingerprint
from listener.refresh import Priority
from listener.store import ring as rings
from listener.store.batches import Batch
from listener.store.ring import Ring, _as_batch, _as_text

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


def keys(ring: Ring, commits: int = 0) -> list[str]:
    """Return the keys that were recorded above this count."""
    return [kept.batch.changes[0].key for kept in ring.after(commits)]


@given(st.lists(CHANGES, max_size=3), st.sampled_from(Priority), st.lists(st.text(max_size=5), max_size=2))
def test_a_batch_comes_back_as_it_was(changes: list[Change], priority: Priority, ids: list[str]) -> None:
    """Keys that are no UTF-8, kinds, fingerprints, order tokens and ids of messages."""
    before = Batch(changes, priority=priority, message_ids=ids)
    after = _as_batch(_as_text(before))
    assert after == before
    assert [type(each) for change in after.changes for each in (change.kind, change.fingerprint)] == [
        type(each) for change in changes for each in (change.kind, change.fingerprint)
    ]


def test_only_what_is_above_the_count_comes_back_also_after_a_restart(tmp_path: Path) -> None:
    """In order; the highest count is remembered; another database's counts mean nothing."""
    path = tmp_path / "ring.db"
    ring = Ring.opened(path, "one", keep_seconds=600)
    for number in range(1, 6):
        ring.add(batch(f"{number}"), number, now=float(number))
    ring.close()
    ring = Ring.opened(path, "one", keep_seconds=600)
    assert keys(ring, 3) == ["4", "5"]
    assert ring.commits == 5
    assert ring.is_complete_after(0)
    for kept in ring.after(3):
        ring.moved(kept, 9)
    ring.lose(3)
    assert (keys(ring, 8), ring.commits) == (["4", "5"], 3)
    ring.close()
    ring = Ring.opened(path, "two", keep_seconds=600)
    assert (keys(ring), ring.commits) == ([], 0)
    ring.close()
    assert path.stat().st_mode & 0o077 == 0


def test_what_is_old_or_too_much_is_dropped_and_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first; above its count the ring is not complete."""
    ring = Ring.opened(None, "one", keep_seconds=10)
    for number in range(1, 5):
        ring.add(batch(f"{number}"), number, now=number * 4.0)
    assert keys(ring) == ["2", "3", "4"]
    assert (ring.is_complete_after(0), ring.is_complete_after(1)) == (False, True)
    size = len(_as_text(batch("1")))
    monkeypatch.setattr(rings, "MOST_BYTES", 2 * size)
    ring.add(batch("5"), 5, now=17.0)
    assert keys(ring) == ["4", "5"]
    assert not ring.is_complete_after(2)
    assert ring._value("SELECT bytes FROM state") == 2 * size
    ring.close()


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    """So is one that another process holds, and one that is no SQLite file."""
    first = Ring.opened(tmp_path / "ring.db", "one", keep_seconds=10)
    first.add(batch("1"), 1, now=0.0)
    with pytest.raises(OSError, match="locked"):
        Ring.opened(tmp_path / "ring.db", "one", keep_seconds=10)
    first._connection.execute("PRAGMA max_page_count = 1")
    with pytest.raises(OSError, match="full"):
        first.add(batch("x" * 100_000), 2, now=0.0)
    assert keys(first) == ["1"]
    first.close()
    (tmp_path / "other.db").write_text("no database, but long enough to be taken for the head of one" * 20)
    with pytest.raises(OSError, match="not a database"):
        Ring.opened(tmp_path / "other.db", "one", keep_seconds=10)
    with pytest.raises(OSError, match="absent"):
        Ring.opened(tmp_path / "absent" / "ring.db", "one", keep_seconds=10)
