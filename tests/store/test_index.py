"""The index as a batch asks it: the same answers as key by key, in a number of statements that does not grow."""

from __future__ import annotations

import random
import sqlite3

import pytest

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes
from listener.store import index as index_module
from listener.store.connection import Connection
from listener.store.index import (
    IndexWriter,
    Names,
    compare_directories,
    directory_objects,
    directory_states,
    remove_pending,
)
from tests.store.databases import Database, SqliteDatabase

NAMES = ("a", "b", "é", "\udcff", "a b", "")
FOLDERS = ("", "d/", "d/e/", "d/e/f/", "da/", "\udcfe/", "d//")


@pytest.fixture
def file(database: Database) -> Connection:
    """A store, in a transaction."""
    connection = database.connect()
    connection.execute("BEGIN")
    return connection


@pytest.fixture
def sqlite_file(sqlite: SqliteDatabase) -> sqlite3.Connection:
    """A state file, in a transaction."""
    connection = sqlite.connect()
    connection.execute("BEGIN")
    return connection


def writer(file: Connection) -> IndexWriter:
    """Return a writer of the index of this file."""
    index = IndexWriter(Names())
    index.begin(file)
    return index


def found(root: str, key: str) -> Change:
    """Return a change of this object, as a scan finds it."""
    return Change(root, key, ChangeKind.CONTENT, Fingerprint(1))


def latest(file: Connection, root: str, key: str) -> int:
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
def test_a_batch_is_answered_as_its_keys_are_one_by_one(file: Connection, seed: int) -> None:
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


@pytest.mark.parametrize("seed", range(5))
def test_states_are_those_of_the_fingerprints_in_byte_order(file: Connection, seed: int) -> None:
    """Also below a deleted directory whose rows still stand, and of one that was filled again since."""
    chance = random.Random(seed)
    index = writer(file)
    for sequence in range(1, 60):
        key = chance.choice(FOLDERS) + chance.choice(NAMES)
        if chance.random() < 0.9:
            index.put(
                "www", key, Fingerprint(sequence, *chance.sample(range(9), 3), chance.choice(["e", None])), sequence
            )
        else:
            index.delete_below("www", chance.choice(FOLDERS), known_to=sequence, sequence=sequence, now=1.0)
        index.flush()
    for folder in FOLDERS:
        contents = directory_objects(file, "www", folder)
        rows = [(key_to_bytes(name), *one[:4], one.access) for name, one in contents.items()]
        states = directory_states(file, "www", folder)
        assert states == sorted(rows)
        touched = [*states[:-1], (b"other", *states[-1][1:])] if states else [(b"new", 1, 2, 3, 4, 0)]
        compared = [compare_directories(file, "www", {folder: listed})[folder] for listed in (states, touched)]
        assert compared == [(len(states), True), (len(states), False)]


def test_what_waits_to_be_flushed_is_not_looked_at(file: Connection) -> None:
    """A scan that reports an object twice in one batch does not call its own first report newer."""
    index = writer(file)
    index.put("www", "a", Fingerprint(1), 7)
    index.remove("www", "b", 7, 1.0)
    changes = [found("www", "a"), found("www", "b")]
    assert index.latest(changes, after=3) == {}
    index.flush()
    assert index.latest(changes, after=3) == {("www", "a"): 7, ("www", "b"): 7}
    assert index.latest(changes, after=7) == {}


def test_the_number_of_statements_does_not_grow_with_the_keys(sqlite_file: sqlite3.Connection) -> None:
    """One for each 512 keys, in a few sizes that stay compiled; none for objects of directories that are empty."""
    index = writer(sqlite_file)
    everything = [found("www", f"d{number // 100}/{number}") for number in range(2_000)]
    for change in everything:
        index.put(*change[:2], change.fingerprint, 5)
    index.remove("www", "gone", 5, 1.0)
    index.flush()
    seen: list[str] = []

    def statements(count: int) -> list[str]:
        seen.clear()
        sqlite_file.set_trace_callback(seen.append)
        assert len(index.latest(everything[:count], after=4)) == count
        sqlite_file.set_trace_callback(None)
        return seen

    assert len(statements(1)) == len(statements(500)) == 4
    assert len(statements(2_000)) == 2 + 4 + 4
    new = [found("www", f"new/{number}") for number in range(500)]
    assert index.latest(new, after=4) == {}  # makes the directory's id
    sqlite_file.execute("DELETE FROM tombstone")
    seen.clear()
    sqlite_file.set_trace_callback(seen.append)
    assert index.latest(new, after=4) == {}
    sqlite_file.set_trace_callback(None)
    assert len(seen) == 2


@pytest.mark.parametrize("seed", range(30))
def test_deleted_subtrees_are_removed_and_nothing_else(
    file: Connection, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the slices: what is newer or elsewhere stays, and each directory's count is that of its rows."""
    chance = random.Random(seed)
    monkeypatch.setattr(index_module, "LOOKED_ROWS", chance.choice([1, 3, 10_000]))
    monkeypatch.setattr(index_module, "LOOKED_DIRECTORIES", chance.choice([1, 2, 500]))
    index = writer(file)
    for sequence in range(1, 80):
        root, folder = chance.choice(["www", "img"]), chance.choice(FOLDERS)
        if chance.random() < 0.93:
            index.put(root, folder + chance.choice(NAMES), Fingerprint(sequence), sequence)
        else:
            known_to = chance.randrange(sequence + 1)
            index.delete_below(root, folder, known_to=known_to, sequence=sequence, now=1.0)
        index.flush()
    rows = "SELECT root, path, object.name, object.sequence FROM object JOIN tree ON tree.id = tree"
    pending = file.execute("SELECT root, prefix, sequence FROM pending_delete").fetchall()
    expected = {
        (root, path, name)
        for root, path, name, sequence in file.execute(rows)
        if not any(root == one and path.startswith(prefix) and sequence <= to for one, prefix, to in pending)
    }
    limit = chance.choice([1, 2, 100])
    for _ in range(2_000):
        if not remove_pending(file, limit):
            break
    assert {row[:3] for row in file.execute(rows)} == expected
    assert file.execute("SELECT count(*) FROM pending_delete").fetchone() == (0,)
    wrong = "SELECT path FROM tree WHERE objects <> (SELECT count(*) FROM object WHERE tree = tree.id)"
    assert file.execute(wrong).fetchall() == []


def test_a_slice_of_removal_looks_at_few_rows(sqlite_file: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many objects came to a deleted directory since: the writer is not held until all were looked at."""
    monkeypatch.setattr(index_module, "LOOKED_ROWS", 500)
    index = writer(sqlite_file)
    for number in range(20_000):
        index.put("www", f"d/{number // 50}/{number}", Fingerprint(1), 2)
    index.put("www", "d/9/old", Fingerprint(1), 1)
    index.delete_below("www", "d/", known_to=1, sequence=2, now=1.0)
    index.flush()
    steps = [0]
    sqlite_file.set_progress_handler(lambda: steps.append(steps.pop() + 1), 100)
    slices = []
    while remove_pending(sqlite_file, 500):
        slices.append(steps[0])
        steps[0] = 0
    sqlite_file.set_progress_handler(None, 0)
    assert len(slices) >= 40
    assert max(slices) < 200  # hundreds of instructions; all rows at once take 2,000
    assert index.fingerprint("www", "d/9/old") is None
    assert index.fingerprint("www", "d/9/450") is not None
