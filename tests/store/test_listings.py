"""What a listing only has the index learn is written without a look-up of each object, with the same result."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.settings import CoalescerSettings
from listener.store.batches import Batch
from listener.store.index import IndexWriter, mark_seeded
from listener.store.names import Names
from listener.store.record import Recorder
from listener.store.sqlite.database import prepare

FOLDERS = ("", "d/", "d/e/", "\udcfe/", "new/")
NAMES = ("a", "b", "é", "\udcff", "")
TABLES = (
    (
        "SELECT r.name, path, o.name, size_bytes, mtime_ns, etag, sequence FROM object o JOIN tree t ON t.id = tree"
        " JOIN root r ON r.id = root"
    ),
    "SELECT name, path, objects FROM tree JOIN root ON root.id = root WHERE objects > 0",
    "SELECT name, key, below, sequence FROM tombstone JOIN root ON root.id = root",
)
"""What batches left, by names: ids of directories are given in any order."""


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[sqlite3.Connection]]:
    """Two state files, each in a transaction."""
    connections = [prepare(tmp_path / f"{number}.db") for number in range(2)]
    for connection in connections:
        connection.execute("BEGIN")
    yield connections
    for connection in connections:
        connection.close()


def batches(chance: random.Random) -> Iterator[Batch]:
    """Yield batches of live changes, and listings that began before some of them."""
    for number in range(1, 30):
        keys = [chance.choice(FOLDERS) + chance.choice(NAMES) for _ in range(chance.randrange(1, 12))]
        is_listing = chance.random() < 0.6
        has_digests, deletes = chance.random() < 0.3, not is_listing and chance.random() < 0.1
        yield Batch(
            [
                Change(
                    chance.choice(["www", "img"]),
                    key,
                    ChangeKind.DELETED if deletes and chance.random() < 0.3 else ChangeKind.CONTENT,
                    Fingerprint(number, chance.randrange(3), etag=chance.choice("ab") if has_digests else None),
                )
                for key in keys
            ],
            scan_sequence=max(0, number - chance.randrange(6)) if is_listing else None,
            seed=is_listing and chance.random() < 0.9,
        )


def no_needs(_: Change) -> Sequence[object]:
    """Route nothing."""
    return ()


def recorder() -> Recorder:
    """Return one that has seen nothing."""
    return Recorder(Names(), timing=CoalescerSettings(), unforced=frozenset(), expand_limit=10)


@pytest.mark.parametrize("seed", range(40))
def test_a_listing_is_recorded_as_if_each_object_were_looked_up(
    files: list[sqlite3.Connection], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where live changes, deletions and digests came since it began, and of keys that come twice."""
    learned = 0
    learn = IndexWriter.learn

    def counted(index: IndexWriter, changes: Sequence[Change], *, known_to: int, sequence: int) -> int | None:
        nonlocal learned
        found = learn(index, changes, known_to=known_to, sequence=sequence)
        learned += found is not None
        return found

    recorders = [recorder(), recorder()]
    for connection, each in zip(files, recorders, strict=True):
        mark_seeded(connection, each.names, "www")
    for batch in batches(random.Random(seed)):
        monkeypatch.setattr(IndexWriter, "learn", counted)
        one = recorders[0].record(files[0], batch, no_needs, now=1000.0)  # type: ignore[arg-type]
        monkeypatch.setattr(IndexWriter, "learn", lambda *_, **__: None)
        other = recorders[1].record(files[1], batch, no_needs, now=1000.0)  # type: ignore[arg-type]
        assert one == other
    for query in TABLES:
        assert sorted(files[0].execute(query), key=repr) == sorted(files[1].execute(query), key=repr)
    assert learned or files[0].execute("SELECT count(*) FROM tombstone").fetchone()[0]


def test_a_first_listing_of_an_empty_index_looks_no_object_up(files: list[sqlite3.Connection]) -> None:
    """Whatever the number of files: a few statements for each directory, and none that reads the index of objects."""
    seen: list[str] = []
    files[0].set_trace_callback(seen.append)
    changes = [Change("www", f"d{number // 100}/{number}", fingerprint=Fingerprint(1)) for number in range(500)]
    recorder().record(files[0], Batch(changes, scan_sequence=0, seed=True), no_needs, now=1.0)  # type: ignore[arg-type]
    files[0].set_trace_callback(None)
    assert files[0].execute("SELECT count(*), (SELECT sum(objects) FROM tree) FROM object").fetchone() == (500, 500)
    assert not [one for one in seen if "FROM object" in one or "JOIN object" in one]
    assert len(seen) < 50
