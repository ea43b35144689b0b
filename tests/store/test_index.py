"""The index as a batch asks it: the same answers as key by key, in a number of statements that does not grow."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.store.database import prepare
from listener.store.index import IndexWriter, Names

NAMES = ("a", "b", "é", "\udcff", "a b", "")
FOLDERS = ("", "d/", "d/e/", "d/e/f/", "da/", "\udcfe/", "d//")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A state file, in a transaction."""
    connection = prepare(tmp_path / "state.db")
    connection.execute("BEGIN")
    yield connection
    connection.close()


def writer(file: sqlite3.Connection) -> IndexWriter:
    """Return a writer of the index of this file."""
    index = IndexWriter(Names())
    index.begin(file)
    return index


def found(root: str, key: str) -> Change:
    """Return a change of this object, as a scan finds it."""
    return Change(root, key, ChangeKind.CONTENT, Fingerprint(1))


def latest(file: sqlite3.Connection, root: str, key: str) -> int:
    """Return by the rows themselves with which sequence the index learned of one key; -1: never."""
    raw = key_to_bytes(key)
    own = "SELECT path, o.name, o.sequence FROM object o JOIN tree ON tree.id = tree JOIN root ON root.id = root"
    objects = [at for path, name, at in file.execute(f"{own} WHERE root.name = ?", (root,)) if path + name == raw]
    deleted = "SELECT key, below, sequence FROM tombstone JOIN root ON root.id = root WHERE root.name = ?"
    for path, below, at in file.execute(deleted, (root,)):
        if (path == raw and not below) or (below and raw.startswith(path) and (not path or path.endswith(b"/"))):
            objects.append(at)
    return max(objects, default=-1)


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_is_answered_as_its_keys_are_one_by_one(file: sqlite3.Connection, seed: int) -> None:
    """Also of several storages, of names that are no text, below deleted directories and of keys that come twice."""
    chance = random.Random(seed)
    index = writer(file)
    for sequence in range(1, 40):
        root, key = chance.choice(["www", "img"]), chance.choice(FOLDERS) + chance.choice(NAMES)
        action = chance.random()
        if action < 0.6:
            index.put(root, key, Fingerprint(sequence, etag=str(sequence)), sequence)
        elif action < 0.85:
            index.remove(root, key, sequence, 1.0)
        else:
            index.delete_below(root, chance.choice(FOLDERS), known_to=sequence, sequence=sequence, now=1.0)
        index.flush()
    every = [found(root, folder + name) for root in ("www", "img", "new") for folder in FOLDERS for name in NAMES]
    chance.shuffle(every)
    for sequence in (0, 5, 20, 35, 39):
        expected = {change[:2]: at for change in every if (at := latest(file, *change[:2])) > sequence}
        assert index.latest([*every, *every[:3]], after=sequence) == expected
    known = {change[:2]: one for change in every if (one := index.fingerprint(change.root, change.key))}
    assert index.fingerprints(every) == known


def test_what_waits_to_be_flushed_is_not_looked_at(file: sqlite3.Connection) -> None:
    """A scan that reports an object twice in one batch does not call its own first report newer."""
    index = writer(file)
    index.put("www", "a", Fingerprint(1), 7)
    index.remove("www", "b", 7, 1.0)
    changes = [found("www", "a"), found("www", "b")]
    assert index.latest(changes, after=3) == {}
    index.flush()
    assert index.latest(changes, after=3) == {("www", "a"): 7, ("www", "b"): 7}
    assert index.latest(changes, after=7) == {}


def test_the_number_of_statements_does_not_grow_with_the_keys(file: sqlite3.Connection) -> None:
    """One for each 512 keys, in a few sizes that stay compiled; none for objects of directories that are empty."""
    index = writer(file)
    everything = [found("www", f"d{number // 100}/{number}") for number in range(2_000)]
    for change in everything:
        index.put(*change[:2], change.fingerprint, 5)
    index.remove("www", "gone", 5, 1.0)
    index.flush()
    seen: list[str] = []

    def statements(count: int) -> list[str]:
        seen.clear()
        file.set_trace_callback(seen.append)
        assert len(index.latest(everything[:count], after=4)) == count
        file.set_trace_callback(None)
        return seen

    assert len(statements(1)) == len(statements(500)) == 4
    assert len(statements(2_000)) == 2 + 4 + 4
    new = [found("www", f"new/{number}") for number in range(500)]
    assert index.latest(new, after=4) == {}  # makes the directory's id
    file.execute("DELETE FROM tombstone")
    seen.clear()
    file.set_trace_callback(seen.append)
    assert index.latest(new, after=4) == {}
    file.set_trace_callback(None)
    assert len(seen) == 2
