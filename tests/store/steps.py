"""The steps that tests of the store take over and over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from listener.allowances import ALIBABA_DAY, for_each_kind
from listener.change import Change, ChangeKind, Fingerprint, key_to_text
from listener.refresh import Attempt, NeedState, RefreshKind, Scope
from listener.store import NeedInput, Store
from listener.store.batches import Batch
from listener.store.connection import Connection
from listener.store.needs import Snapshot
from listener.store.transitions import AttemptRequest
from tests.store.databases import Database, SqliteDatabase, disagreements

BASE = "https://www.example.com/"
QUOTA = {RefreshKind.FILE: 100, RefreshKind.DIRECTORY: 10, RefreshKind.PREFETCH: 10, RefreshKind.IGNORE_PARAMS: 10}
DAY = ALIBABA_DAY
ALLOWANCES = for_each_kind(QUOTA, DAY)
ALLOWANCE = {RefreshKind(one.name): one for one in ALLOWANCES}


class FakeClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += seconds


def route(change: Change) -> Sequence[NeedInput]:
    """One base URL, one target, keys taken as they are."""
    subtree = change.kind in (ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED)
    return [NeedInput("cdn", BASE + change.key, Scope.SUBTREE if subtree else Scope.EXACT)]


def content(key: str, mtime: int = 1, **fields: object) -> Change:
    """A finished write."""
    return Change("www", key, ChangeKind.CONTENT, Fingerprint(1, mtime * 10**9, mtime * 10**9, 1), **fields)  # type: ignore[arg-type]


def deleted(key: str) -> Change:
    """An object that is gone."""
    return Change("www", key, ChangeKind.DELETED)


def subtree(key: str, *, gone: bool = False) -> Change:
    """A folder of which anything may have changed, or which is gone."""
    return Change("www", key, ChangeKind.SUBTREE_DELETED if gone else ChangeKind.SUBTREE)


def file(key: str, **fields: object) -> AttemptRequest:
    """A wish to refresh one file."""
    return AttemptRequest("cdn", RefreshKind.FILE, BASE + key, True, "test", 0.0, **fields)  # type: ignore[arg-type]


def folder(key: str, *, force: bool = True) -> AttemptRequest:
    """A wish to refresh one directory."""
    return AttemptRequest("cdn", RefreshKind.DIRECTORY, BASE + key, force, "test", 0.0)


def add_attempt(connection: Connection, url: str, **columns: object) -> int:
    """Write an attempt as the store keeps it, in a group of its own; return its id."""
    shared: dict[str, object] = {
        "target": 1,
        "kind": "file",
        "force": 0,
        "account": "main",
        "window_start": 0,
        "watermark": 1,
        "created_at": 1.0,
        "state": "complete",
        "held": 0,
    }
    own = {name: columns.pop(name) for name in ("id", "tries", "stale_since", "priority") if name in columns}
    group = _insert(connection, "attempt_group", shared | columns)
    return _insert(connection, "attempt_item", {**own, "group_id": group, "url": url})


def _insert(connection: Connection, table: str, row: Mapping[str, object]) -> int:
    marks = ", ".join("?" * len(row))
    made = connection.execute(
        f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks}) RETURNING id", tuple(row.values())
    )
    return int(made.fetchone()[0])


class Bench:
    """A store with the steps that tests take over and over."""

    def __init__(self, store: Store, clock: FakeClock, database: Database | None = None) -> None:
        self.store = store
        self.clock = clock
        self.database = database or SqliteDatabase(store.path)

    async def change(self, *changes: Change, wait: float = 60.0, scan: int | None = None, seed: bool = False) -> int:
        """Record, and let the quiet time pass."""
        (recorded,) = await self.store.record([Batch(changes, scan, seed)], route)
        if wait:
            self.clock.advance(wait)
            await self.store.promote_due()
        return recorded.sequence

    async def hold(self, *wanted: AttemptRequest) -> list[Attempt]:
        """Hold quota for these."""
        return await self.store.hold(wanted, account="main", allowances=ALLOWANCES)

    async def send(self, *wanted: AttemptRequest) -> list[Attempt]:
        """Hold, send, and have it accepted."""
        made = await self.hold(*wanted)
        await self.store.mark_sending([one.id for one in made])
        await self.store.accept({one.id: f"task-{one.id}" for one in made}, next_look_at=self.clock.now() + 60)
        return made

    async def finish(self, made: Sequence[Attempt]) -> None:
        """The CDN says that these are complete."""
        await self.store.complete(made)
        for one in made:
            if one.kind is RefreshKind.DIRECTORY:
                await self.store.sweep(one)

    async def budget(self, kind: RefreshKind = RefreshKind.FILE) -> tuple[int, int, int]:
        """Return limit, spent and held."""
        found = await self.store.budget("main", ALLOWANCE[kind])
        return found.limit, found.spent, found.held

    async def ready(self) -> dict[str, int]:
        """Return how many needs the planner sees, by directory."""
        loads = await self.store.read(Snapshot.loads)
        return {load.url[len(BASE) :]: load.exact + load.subtree + load.all_params + load.prefetch for load in loads}

    async def stale(self, key: str) -> list[str]:
        """Return the states of the rows of exactly one key's URL."""
        rows = self.sql(
            "SELECT state FROM need JOIN directory d ON d.id = need.directory WHERE d.url || name = ? ORDER BY scope",
            BASE + key,
        )
        return [NeedState(state).name.lower() for (state,) in rows]

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the tables, past the store."""
        return self.database.read(query, *values)

    def index(self) -> dict[str, int]:
        """Return every object in the index: key to the sequence with which it was written."""
        rows = self.sql("SELECT path, object.name, sequence FROM object JOIN tree ON tree.id = object.tree")
        return {key_to_text(path + name): sequence for path, name, sequence in rows}

    def assert_counted(self) -> None:
        """Every directory's aggregates equal its rows, of the index and of the needs."""
        assert disagreements(self.database) == []
