"""What is written in sets equals what the model makes of the same changes, one after the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from zlib import crc32

import pytest

from listener.change import Change, ChangeKind, Fingerprint
from listener.refresh import NeedInput, NeedState, Priority, Scope
from listener.router.routing import Sites
from listener.settings import CoalescerSettings, Site
from listener.store.batches import Batch
from listener.store.connection import Connection
from listener.store.names import Names
from listener.store.need_rows import NeedClass, NeedRow, write_needs
from listener.store.record import Recorder
from listener.store.sqlite.database import prepare
from tests.store.databases import Database
from tests.store.need_model import NeedKey, NeedModel, recorded
from tests.store.steps import BASE

NOW = 1_800_000_000.0
TIMING = CoalescerSettings()
SITE = Site(source="www", target="cdn", base_urls=(BASE,))
COLUMNS = ", ".join(field.name for field in fields(NeedModel))


@pytest.fixture
def file(database: Database) -> Connection:
    """A new store's writing connection."""
    connection = database.connect()
    connection.execute("INSERT INTO target (id, name) VALUES (1, 'cdn')")
    connection.execute("INSERT INTO directory (id, target, url) VALUES (1, 1, ?), (2, 1, ?)", (BASE, BASE + "a/"))
    return connection


def need(chance: random.Random, mark: int) -> NeedModel:
    """Return a need as the store may hold it."""
    state = chance.choice([*NeedState, NeedState.WAITING, NeedState.WAITING])
    waits = state is NeedState.WAITING
    since = NOW - chance.choice([1, 20, 29.5, 31, 500])
    return NeedModel(
        sequence=chance.randint(1, 20),
        stale_since=since - 5,
        window_first=since,
        later_since=chance.choice([None, since]) if not waits else None,
        due_at=NOW + chance.choice([-1, 0, 1, 40]) if waits else None,
        state=state,
        open=chance.choice([0, 0, 1, 2]) if waits else 0,
        needs_force=chance.randint(0, 1),
        attempt=7 if state in (NeedState.ATTEMPTED, NeedState.UNCONFIRMED) else None,
        priority=chance.choice(list(Priority)),
        birth=chance.choice([None, mark]) if waits else None,
    )


def insert(file: Connection, needs: dict[NeedKey, NeedModel]) -> None:
    """Put the needs of the model into the file."""
    marks = ", ".join("?" * (3 + len(fields(NeedModel))))
    statement = f"INSERT INTO need (directory, name, scope, {COLUMNS}) VALUES ({marks})"
    file.executemany(statement, [(*key, *astuple(one)) for key, one in needs.items()])


def written(file: Connection) -> dict[NeedKey, NeedModel]:
    """Return the needs of the file as the model has them."""
    rows = file.execute(f"SELECT directory, name, scope, {COLUMNS} FROM need")
    return {row[:3]: NeedModel(*row[3:]) for row in rows}


@pytest.mark.parametrize("seed", range(200))
def test_needs_written_together_are_those_written_one_by_one(file: Connection, seed: int) -> None:
    """Whatever the needs are, whatever the changes have in common, and also where a URL comes twice."""
    chance = random.Random(seed)
    places = [(directory, f"{n}", scope) for directory in (1, 2) for n in range(50) for scope in (0, 0, 1, 3)]
    known = chance.choice([0.0, 0.1, 0.5, 1.0])
    needs = {place: need(chance, chance.randint(1, 2)) for place in places if chance.random() < known}
    insert(file, needs)
    mark = chance.choice([0, 0, 10])
    delay = chance.choice([0.0, 0.0, 35.0])
    of = NeedClass(
        due_seconds=chance.choice([1.0, 10.0]) + delay,
        cap_seconds=chance.choice([30.0, 300.0]) + delay,
        delay_seconds=delay,
        open=2 if delay else chance.choice([0, 0, 1]),
        needs_force=chance.random() < 0.3,
        mark=mark,
        forced_mark=chance.choice([0, mark]),
        priority=chance.choice(list(Priority)),
        is_birth=chance.random() < 0.5,
    )
    rows: list[NeedRow] = [
        (*chance.choice(places), NOW - chance.randint(0, 9), chance.randint(1, 2))
        for _ in range(chance.choice([1, 5, 70, 200]))
    ]
    rows.sort()
    write_needs(file, of, rows, sequence=21, now=NOW)
    assert written(file) == recorded(needs, of, rows, sequence=21, now=NOW)


def aliased(change: Change) -> Sequence[NeedInput]:
    """Route ``n`` and ``also-n`` to one URL."""
    return [NeedInput("cdn", BASE + change.key.removeprefix("also-"), Scope.EXACT)]


def model_of_batch(needs: dict[NeedKey, NeedModel], changes: Sequence[Change]) -> dict[NeedKey, NeedModel]:
    """Return the needs after a batch, in which each key comes once."""
    found = dict(needs)
    rows: dict[tuple[bool, bool], list[NeedRow]] = {}
    gone: dict[tuple[bool, bool], list[NeedRow]] = {}
    for change in changes:
        place, mark = (1, change.key.removeprefix("also-"), 0), crc32(f"www\0{change.key}".encode())
        row, deleted = (*place, NOW, mark), change.kind is ChangeKind.DELETED
        if deleted:
            old = found.get(place)
            if old is None and change.is_birth:
                continue
            if old is not None and old.birth == mark and old.state is NeedState.WAITING and old.open < 2:
                cap = TIMING.unfinished_cap_seconds if old.open else TIMING.cap_seconds
                if old.window_first + cap >= NOW:
                    del found[place]
                    continue
            found.pop((1, place[1], int(Scope.PREFETCH)), None)
            gone.setdefault((change.finished, False), []).append(row)
        else:
            rows.setdefault((change.finished, change.is_birth), []).append(row)
    for kind, more in gone.items():
        rows.setdefault(kind, []).extend(more)
    for (finished, is_birth), these in rows.items():
        due = TIMING.quiet_seconds if finished else TIMING.unfinished_quiet_seconds
        cap = TIMING.cap_seconds if finished else TIMING.unfinished_cap_seconds
        of = NeedClass(min(due, cap), cap, 0.0, int(not finished), False, 0, 0, is_birth=is_birth)
        found = recorded(found, of, these, sequence=21, now=NOW)
    return found


@pytest.mark.parametrize("seed", range(200))
def test_deletions_recorded_together_are_those_recorded_one_by_one(
    database: Database, file: Connection, seed: int
) -> None:
    """What came and went is forgotten where nothing was requested for it, also where two keys share a URL."""
    chance = random.Random(seed)
    names = [f"{n}" for n in range(chance.choice([3, 40]))]
    keys = [*names, *(f"also-{name}" for name in names)]
    needs = {
        (1, name, scope): need(chance, crc32(f"www\0{chance.choice(['', 'also-'])}{name}".encode()))
        for name in names
        for scope in (0, 3)
        if chance.random() < 0.6
    }
    insert(file, needs)
    database.set_sequence(20)
    chance.shuffle(keys)
    changes = [
        Change(
            "www",
            key,
            chance.choice([ChangeKind.CONTENT, ChangeKind.DELETED, ChangeKind.DELETED]),
            finished=chance.random() < 0.7,
            is_birth=chance.random() < 0.5,
        )
        for key in keys[: chance.randint(1, len(keys))]
    ]
    recorder = Recorder(Names(), timing=TIMING, unforced=frozenset(), expand_limit=10)
    recorder.record(file, Batch(changes), aliased, now=NOW)
    assert written(file) == model_of_batch(needs, changes)


KINDS = [ChangeKind.CONTENT, ChangeKind.CONTENT, ChangeKind.METADATA, ChangeKind.DELETED, ChangeKind.SUBTREE_DELETED]
TABLES = ("directory", "need", "tree", "object", "tombstone", "suppressed", "dead_letter", "order_token", "meta")


@pytest.mark.parametrize("seed", range(60))
def test_names_routed_by_folder_are_recorded_like_keys_routed_by_themselves(tmp_path: Path, seed: int) -> None:
    """Every row of every table is the same, for live changes, scans and seedings, with and without order tokens."""
    chance = random.Random(seed)
    batches = [_batch(chance, sequence) for sequence in range(chance.randint(1, 6))]
    sites = Sites([SITE, *([SITE.model_copy(update={"index_documents": ("i",)})] if seed % 4 == 0 else [])])
    unforced = frozenset({"cdn"} if seed % 3 == 0 else set())
    tables = []
    for folders in (sites.folder, None):
        connection = prepare(tmp_path / f"{folders is None}.db")
        connection.execute("PRAGMA synchronous = OFF")
        recorder = Recorder(Names(), timing=TIMING, unforced=unforced, expand_limit=10)
        for at, batch in enumerate(batches):
            extra = {} if folders is None else {"folders": folders}
            recorder.record(connection, batch, sites.route, now=NOW + 20 * at, **extra)  # type: ignore[arg-type]
        tables.append({name: _rows(connection, name) for name in TABLES})
        connection.close()
    assert tables[0] == tables[1]


def _rows(connection: Connection, table: str) -> list[tuple[object, ...]]:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != "created_at"]
    return sorted(connection.execute(f"SELECT {', '.join(columns)} FROM {table}"), key=repr)


def _batch(chance: random.Random, sequence: int) -> Batch:
    with_order = chance.random() < 0.3
    folders = ["", "d/", "d/é/", "d/x y/", "." * 3 + "/"]
    changes = []
    for _ in range(chance.choice([1, 6, 150])):
        kind = chance.choice(KINDS) if chance.random() < 0.5 else ChangeKind.CONTENT
        folder = chance.choice(folders)
        name = chance.choice(["i", "é", "a+b", "..", "x" * 1_100, *map(str, range(30))])
        key = folder or "e/" if kind is ChangeKind.SUBTREE_DELETED else folder + name
        mark = chance.choice([Fingerprint(1, chance.choice([1, 2]) * 10**9, etag=chance.choice([None, "a"])), None])
        changes.append(
            Change(
                "www",
                key,
                kind,
                None if kind in (ChangeKind.DELETED, ChangeKind.SUBTREE_DELETED) else mark,
                chance.choice([None, NOW - 3, NOW + 500, 1.0]),
                f"{int(NOW) - chance.randint(0, 9):08X}0" if with_order and chance.random() < 0.5 else None,
                chance.random() < 0.8,
                is_birth=chance.random() < 0.4,
            )
        )
    kind_of_batch = chance.random()
    scan = max(0, sequence - 1) if kind_of_batch < 0.2 else None
    return Batch(changes, scan, kind_of_batch > 0.9, chance.choice([Priority.LIVE, Priority.LIVE, Priority.BACKFILL]))
