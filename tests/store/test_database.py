"""The state file: what is refused is left as it was, what is migrated arrives whole, and who owns it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from listener.change import Change, ChangeKind, Fingerprint
from listener.configuration import sqlite_path
from listener.errors import ConfigurationError, StoreBusy, StoreError, StoreUnusable
from listener.refresh import AttemptState, RefreshKind
from listener.store import NeedInput, open_store
from listener.store.batches import Batch
from listener.store.ledger import budget
from listener.store.owner import Owner
from listener.store.sqlite import migrations
from listener.store.sqlite.database import connect, prepare, translate
from listener.store.sqlite.maintenance import check
from listener.store.sqlite.ownership import OwnerLock, owner_of
from tests import ROOT
from tests.store.databases import SqliteDatabase, disagreements
from tests.store.steps import ALLOWANCE, BASE, DAY, Bench, FakeClock, content, file, route


@pytest.mark.parametrize("url", ["", "postgresql://h/db", "sqlite://", "sqlite:///", "sqlite://host/x.db", "/var/x.db"])
def test_a_url_that_names_no_store(url: str) -> None:
    """It is refused with the forms that are known."""
    with pytest.raises(ConfigurationError) as caught:
        sqlite_path(url)
    assert "sqlite:////" in caught.value.hint


def test_paths_of_urls() -> None:
    """Three slashes are relative, four absolute; escapes are undone."""
    assert sqlite_path("sqlite:///a/b.db") == Path("a/b.db")
    assert sqlite_path("sqlite:////var/lib/a%20b.db") == Path("/var/lib/a b.db")


def good(path: Path) -> bytes:
    """Make a state file with content and return its bytes."""
    with closing(prepare(path)) as connection:
        connection.executemany("INSERT INTO target (name) VALUES (?)", [(f"t{n:05}",) for n in range(3000)])
    return path.read_bytes()


def refused(path: Path) -> str:
    """Open and expect a refusal that leaves every byte; return the message."""
    before = path.read_bytes()
    with pytest.raises(StoreUnusable) as caught:
        open_store(f"sqlite:///{path}", owner=True)
    assert path.read_bytes() == before
    assert caught.value.hint
    assert {one.name for one in path.parent.iterdir()} <= {path.name, path.name + ".lock"}
    return str(caught.value)


@pytest.mark.parametrize("length", [1, 15, 16, 50, 99, 100, 511, 4095, 4096, 4097, 8192, 20000])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    """Cut off wherever, it is not taken for a new file, and left as it is."""
    path = tmp_path / "s.db"
    path.write_bytes(good(path)[:length])
    refused(path)


@settings(max_examples=30)
@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    """Any other file is refused and left as it is."""
    path = tmp_path_factory.mktemp("garbage") / "s.db"
    path.write_bytes(garbage)
    refused(path)


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
def test_another_programs_file_is_refused(tmp_path: Path, mode: str) -> None:
    """A SQLite file that is not ours is named as such, and left as it is."""
    path = tmp_path / "s.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")
        other.execute("CREATE TABLE theirs (x)")
        other.commit()
    assert "another program" in refused(path)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    """Both versions are named, and nothing is changed."""
    path = tmp_path / "s.db"
    good(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "format 99" in refused(path)


async def test_corruption_inside_is_reported(tmp_path: Path) -> None:
    """Pages overwritten below a good header fail the operation that meets them, with the remedy."""
    path = tmp_path / "s.db"
    whole = good(path)
    path.write_bytes(whole[:4096] + b"\xa5" * (len(whole) - 4096))
    with pytest.raises(StoreUnusable) as caught:
        async with open_store(f"sqlite:///{path}", owner=True) as store:
            await store.recover()
    assert "backup" in caught.value.hint


def test_what_is_no_file_is_reported(tmp_path: Path) -> None:
    """A directory where the file should be is named, with what to do."""
    with pytest.raises(StoreError) as caught:
        open_store(f"sqlite:///{tmp_path}")
    assert "may read and write" in caught.value.hint


def test_errors_by_name(tmp_path: Path) -> None:
    """Every error of SQLite becomes one that says what to do, or at least which file."""
    error = sqlite3.OperationalError("boom")
    assert "boom" in str(translate(error, tmp_path))
    for name, hint in (("SQLITE_FULL", "space"), ("SQLITE_CANTOPEN", "writable"), ("SQLITE_CORRUPT_VTAB", "backup")):
        error.sqlite_errorname = name
        assert hint in translate(error, tmp_path).hint


def test_a_missing_directory_is_reported(tmp_path: Path) -> None:
    """The command that mends it is named; nothing is made."""
    for owner in (True, False):
        with pytest.raises(StoreError) as caught:
            open_store(f"sqlite:///{tmp_path}/no/s.db", owner=owner)
        assert "mkdir -p" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder in which this thread's user may make nothing; root steps down for the while."""
    folder = Path(tempfile.mkdtemp(prefix="store-readonly-"))
    folder.chmod(0o555)
    uid = os.geteuid()
    try:
        if uid == 0:
            os.seteuid(65534)
        yield folder
    finally:
        if uid == 0:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_a_read_only_directory_is_reported() -> None:
    """Owner or not: it is named with what must be writable."""
    with read_only_folder() as folder:
        for owner in (True, False):
            with pytest.raises(StoreError) as caught:
                open_store(f"sqlite:///{folder}/s.db", owner=owner)
            assert "writable" in caught.value.hint
            assert str(folder / "s.db") in str(caught.value)


async def test_one_owner_at_a_time(tmp_path: Path) -> None:
    """A second owner is refused with the first one's number; after the close it may take over."""
    url = f"sqlite:///{tmp_path}/s.db"
    assert owner_of(tmp_path / "s.db") == Owner(False)
    async with open_store(url, owner=True) as store:
        assert store.owner
        with pytest.raises(StoreBusy, match=str(os.getpid())):
            open_store(url, owner=True)
        assert owner_of(tmp_path / "s.db").pid == os.getpid()
    assert owner_of(tmp_path / "s.db") == Owner(False)
    async with open_store(url, owner=True):
        pass


async def test_a_refused_file_frees_the_lock(tmp_path: Path) -> None:
    """Who could not open the file does not go on owning it."""
    path = tmp_path / "s.db"
    path.write_bytes(b"x" * 5000)
    refused(path)
    path.unlink()
    async with open_store(f"sqlite:///{path}", owner=True):
        pass


def test_a_lock_can_be_released_twice(tmp_path: Path) -> None:
    """Releasing what is not held does nothing; an unreadable holder is reported as unknown."""
    lock = OwnerLock(tmp_path / "s.db")
    lock.release()
    lock.acquire()
    (tmp_path / "s.db.lock").write_text("")
    assert owner_of(tmp_path / "s.db") == Owner(True)
    with pytest.raises(StoreBusy, match="unknown"):
        OwnerLock(tmp_path / "s.db").acquire()
    lock.release()
    lock.release()


async def test_others_add_needs_while_an_owner_runs(tmp_path: Path, clock: FakeClock) -> None:
    """Another process records and reads while the owner works, also after the owner removed an empty directory."""
    url = f"sqlite:///{tmp_path}/s.db"
    async with open_store(url, owner=True, clock=clock) as owner, open_store(url, clock=clock) as other:
        here, there = Bench(owner, clock), Bench(other, clock)
        assert not other.owner
        await there.change(content("a/x"))
        await here.finish(await here.send(*[]))
        await other.request([NeedInput("cdn", BASE + "a/y")])
        await owner.discard()
        assert await here.ready() == await there.ready() == {"a/": 2}
        await owner._write(lambda c: c.execute("DELETE FROM need").rowcount)
        await owner.upkeep(keep_seconds=1.0)
        await other.upkeep(keep_seconds=1.0)
        assert here.sql("SELECT count(*) FROM directory") == [(0,)]
        await here.change(content("b/1"), content("c/1"))
        await there.change(content("a/x"))
        assert await here.ready() == {"b/": 1, "c/": 1, "a/": 1}
        there.assert_counted()


def shape(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """Return what the file is made of: tables by their columns, all else by its words."""
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name"
    ).fetchall()
    words = [(name, " ".join(re.sub("--.*", "", sql).split())) for kind, name, sql in rows if kind != "table"]
    tables = [name for kind, name, _ in rows if kind == "table"]
    options = connection.execute("SELECT name, ncol, wr FROM pragma_table_list ORDER BY name").fetchall()
    columns = [(name, *row) for name in tables for row in connection.execute(f"PRAGMA table_xinfo({name})")]
    return [*words, *options, *columns]


def written_by(version: int, path: Path) -> sqlite3.Connection:
    """Write the state file of an older format; return a connection to it."""
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / f"version_{version}.sql").read_text())
    return connection


def test_a_file_of_version_1_is_brought_up(tmp_path: Path) -> None:
    """What it holds stays, and it has the shape of a new one afterwards."""
    old = tmp_path / "old.db"
    with closing(written_by(1, old)) as connection:
        connection.executescript(
            f"PRAGMA application_id = {migrations.APPLICATION_ID}; PRAGMA user_version = 1;"
            "INSERT INTO meta (id, sequence, created_at) VALUES (1, 7, 0); INSERT INTO target (name) VALUES ('cdn');"
            "INSERT INTO need (directory, name, scope, sequence, stale_since, window_first, state, open)"
            " VALUES (1, 'a', 0, 7, 0, 0, 1, 0)"
        )
    with closing(prepare(old)) as brought_up, closing(prepare(tmp_path / "new.db")) as new:
        assert shape(brought_up) == shape(new)
        assert brought_up.execute("PRAGMA user_version").fetchone() == (migrations.VERSION,)
        assert brought_up.execute("SELECT sequence, name FROM meta, target").fetchall() == [(7, "cdn")]
        assert brought_up.execute("SELECT name, priority FROM need").fetchall() == [("a", 0)]


def test_booked_shares_move_to_the_ledger(tmp_path: Path) -> None:
    """What a file of version 11 keeps as progress of made-up listings is booked in its day; true progress stays."""
    path = tmp_path / "s.db"
    with closing(written_by(13, path)) as connection:
        connection.executescript(
            "ALTER TABLE tombstone RENAME TO gone; ALTER TABLE pending_delete RENAME TO doomed;"
            "DROP INDEX need_backfill; ALTER TABLE need RENAME COLUMN priority TO backfill;"
            "ALTER TABLE attempt RENAME COLUMN priority TO backfill; ALTER TABLE ledger DROP COLUMN share_booked;"
            "CREATE INDEX need_backfill ON need (directory) WHERE state = 1 AND backfill = 1;"
            "INSERT INTO ledger (account, kind, window_start, quota, spent) VALUES ('a, b', 'file', 864000, 50, 3);"
            "INSERT INTO backfill (id, after, listed, finished, updated_at) VALUES"
            " ('share of a, b, file, 864000', x'', 7, 1, 0), ('share of a, b, directory, 864000', x'', 2, 1, 0),"
            " ('a-listing', x'61', 5, 0, 0); DROP INDEX order_token_at; ALTER TABLE order_token RENAME TO heard;"
            "ALTER TABLE heard RENAME COLUMN covered TO told; ALTER TABLE heard RENAME COLUMN newest TO seen;"
            "CREATE INDEX heard_at ON heard (at); PRAGMA user_version = 11"
        )
    with closing(prepare(path)) as brought_up, closing(prepare(tmp_path / "new.db")) as new:
        assert shape(brought_up) == shape(new)
        rows = brought_up.execute(
            "SELECT account, kind, window_start, spent, share_booked FROM ledger WHERE account = 'a, b' ORDER BY kind"
        )
        assert rows.fetchall() == [("a, b", "directory", 864_000, 0, 2), ("a, b", "file", 864_000, 3, 7)]
        assert brought_up.execute("SELECT id, listed FROM backfill").fetchall() == [("a-listing", 5)]
        # The limit of the day that has only a booked share is still the one that is assumed.
        assert budget(brought_up, "a, b", ALLOWANCE[RefreshKind.DIRECTORY], now=864_001.0).limit == 10


async def test_a_file_of_version_12_goes_on_with_its_tokens(tmp_path: Path, clock: FakeClock) -> None:
    """Converted from what a daemon of that format wrote: nothing is lost, and a redelivered event is still old news."""
    path = tmp_path / "s.db"
    with closing(written_by(12, path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        before = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
    before["order_token"] = before.pop("heard")
    del before["attempt"]  # see test_attempts_of_a_file_of_version_13_go_on
    with closing(prepare(path)) as brought_up, closing(prepare(tmp_path / "new.db")) as new:
        assert shape(brought_up) == shape(new)
        assert {table: brought_up.execute(f"SELECT * FROM {table}").fetchall() for table in before} == before
        assert len(before["order_token"]) == 3
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        again = Change("site", "a", ChangeKind.CONTENT, Fingerprint(1, etag="A"), order="6B49D1FF00000001")
        (recorded,) = await store.record([Batch([again])], route)
        assert (recorded.needs, recorded.suppressed) == (0, 1)


async def test_attempts_of_a_file_of_version_13_go_on(tmp_path: Path, clock: FakeClock) -> None:
    """Whatever state they were in, every column of theirs stays, and each ends as it would have."""
    path = tmp_path / "s.db"
    shared = (
        "target, kind, force, watermark, state, account, window_start, held, task_id, created_at, sent_at,"
        " accepted_at, finished_at, next_look_at, looks, active, error"
    )
    columns = f"{shared}, id, url, tries, stale_since, covered, urgent, reason, priority"
    with closing(written_by(13, path)) as connection:
        before = connection.execute(f"SELECT {columns} FROM attempt ORDER BY id").fetchall()
        distinct = connection.execute(f"SELECT DISTINCT {shared} FROM attempt").fetchall()
    with closing(prepare(path)) as brought_up, closing(prepare(tmp_path / "new.db")) as new:
        assert shape(brought_up) == shape(new)
        assert brought_up.execute(f"SELECT {columns} FROM attempt ORDER BY id").fetchall() == before
        assert brought_up.execute("SELECT count(*) FROM attempt_group").fetchone() == (len(distinct),)
    assert check(path) == []
    clock.time = 1_800_000_500.0
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        bench = Bench(store, clock)
        await store.recover()
        assert [one.url[len(BASE) :] for one in await store.attempts_in(AttemptState.UNKNOWN)] == ["u1", "u2", "g"]
        assert {state for key in ("h", "w1", "w2") for state in await bench.stale(key)} == {"ready"}
        one, two, lost = await store.attempts_in(AttemptState.UNKNOWN)
        await store.accept({one.id: "task-u"}, next_look_at=clock.now(), inferred=True)
        await store.refund([two.id])
        await store.presume_spent([lost.id], error="unknown")
        accepted = await store.attempts_in(AttemptState.ACCEPTED, AttemptState.UNCONFIRMED)
        assert sorted(one.url[len(BASE) :] for one in accepted) == ["a", "b", "c", "d", "dir/", "u1"]
        await bench.finish(accepted)
        (failed,) = await store.attempts_in(AttemptState.FAILED)
        await store.end_backoff([failed.id])
        keys = "abcdefgh"
        assert {key: state for key in keys for state in await bench.stale(key)} == {
            "e": "ready",
            "f": "parked",
            "g": "ready",
            "h": "ready",
        }
        assert (await bench.budget())[1:] == (8, 0)
        (made,) = await bench.hold(file("h"))
        assert made.id == 15  # 14 was refunded, and is given out no more
    assert check(path) == []


async def test_a_file_of_version_14_goes_on_with_its_attempts(tmp_path: Path, clock: FakeClock) -> None:
    """Nothing of it changes, but that active file refreshes say that they evict, as they always did."""
    path = tmp_path / "s.db"
    with closing(written_by(14, path)) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        before = {table: connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        columns = [row[1] for row in connection.execute("PRAGMA table_info(attempt_group)")]
    kind, force, active = (columns.index(name) for name in ("kind", "force", "active"))
    expected = [
        (*row[:force], 1 if row[kind] == "file" and row[active] else row[force], *row[force + 1 :], "", None)
        for row in before.pop("attempt_group")
    ]
    with closing(prepare(path)) as brought_up, closing(prepare(tmp_path / "new.db")) as new:
        assert shape(brought_up) == shape(new)
        assert {table: brought_up.execute(f"SELECT * FROM {table}").fetchall() for table in before} == before
        assert brought_up.execute("SELECT * FROM attempt_group").fetchall() == expected
        assert {row[force] for row in expected if row[kind] == "file" and row[active]} == {1}
        assert {row[force] for row in expected} == {0, 1}
    assert check(path) == []
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        await store.recover()
        unknown = await store.attempts_in(AttemptState.UNKNOWN)
        assert await store.token_of([one.id for one in unknown]) == ""  # sent before requests had one


async def test_attempts_of_a_file_of_version_15_keep_their_unit(tmp_path: Path, clock: FakeClock) -> None:
    """What was held or being written is refunded and accepted in the window that its own columns name."""
    path, day = tmp_path / "s.db", DAY.start(clock.now())
    with closing(written_by(14, path)) as connection:
        connection.execute("BEGIN")
        migrations.MIGRATIONS[14](connection)
        connection.executescript(
            "PRAGMA user_version = 15; DELETE FROM attempt_item; DELETE FROM attempt_group; DELETE FROM ledger;"
            "UPDATE need SET state = 1, attempt = NULL WHERE attempt IS NOT NULL;"
            "INSERT INTO ledger (account, kind, window_start, quota, spent, held) VALUES"
            f" ('main', 'file', {day}, 100, 3, 3), ('main', 'directory', {day - 86_400}, 10, 0, 1);"
            "INSERT INTO attempt_group (id, target, kind, force, account, window_start, watermark, created_at, state,"
            f" held) VALUES (1, 1, 'file', 1, 'main', {day}, 9, {day}, 'held', 1),"
            f" (2, 1, 'file', 1, 'main', {day}, 9, {day}, 'sending', 1),"
            f" (3, 1, 'directory', 1, 'main', {day - 86_400}, 9, {day - 60}, 'sending', 1);"
            "INSERT INTO attempt_item (id, group_id, url) VALUES (101, 1, 'https://a.test/1'),"
            " (102, 2, 'https://a.test/2'), (103, 2, 'https://a.test/3'), (104, 3, 'https://a.test/');"
        )
    with closing(prepare(path)) as brought_up, closing(prepare(tmp_path / "new.db")) as new:
        assert shape(brought_up) == shape(new)
        assert disagreements(SqliteDatabase(path)) == []
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        await store.recover()
        bench = Bench(store, clock, SqliteDatabase(path))
        assert await bench.budget() == (100, 3, 2)
        await store.accept({102: "t"}, next_look_at=0.0)
        await store.refund([103])
        await store.accept({104: "t"}, next_look_at=0.0)
        assert await bench.budget() == (100, 4, 0)
        assert bench.sql("SELECT spent, held FROM ledger WHERE kind = 'directory'") == [(1, 0)]
        bench.assert_counted()


def test_an_older_file_is_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step runs once and in order; one that fails leaves the file at its old version, unchanged."""
    path = tmp_path / "s.db"
    before = good(path)

    def first(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE target ADD COLUMN one")

    def second(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE target ADD COLUMN two")
        connection.execute("SELECT wrong FROM nowhere")

    now = migrations.VERSION
    monkeypatch.setattr(migrations, "VERSION", now + 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", {now: first, now + 1: second})
    with pytest.raises(StoreError, match="nowhere"):
        prepare(path)
    assert path.read_bytes() == before
    mended = {now: first, now + 1: lambda c: c.execute("ALTER TABLE target ADD COLUMN two")}
    monkeypatch.setattr(migrations, "MIGRATIONS", mended)
    for _ in range(2):
        with closing(prepare(path)) as connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(target)")]
            assert columns == ["id", "name", "one", "two"]
            assert connection.execute("PRAGMA user_version").fetchone() == (now + 2,)


def test_a_step_that_is_missing_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hole in the steps is an error of ours: it surfaces, and the file stays."""
    before = good(tmp_path / "s.db")
    monkeypatch.setattr(migrations, "VERSION", migrations.VERSION + 1)
    with pytest.raises(KeyError):
        prepare(tmp_path / "s.db")
    assert (tmp_path / "s.db").read_bytes() == before


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    """A reading connection refuses to write."""
    good(tmp_path / "s.db")
    with closing(connect(tmp_path / "s.db", readonly=True)) as reader, pytest.raises(sqlite3.OperationalError):
        reader.execute("DELETE FROM target")


FULL = """
import asyncio, json, os, sys
from pathlib import Path
from tests.store.steps import content, route
from listener.errors import StoreError
from listener.store import open_store
from listener.store.batches import Batch

async def main(folder):
    told, refused = [], None
    async with open_store(f"sqlite:///{folder}/s.db", owner=True) as store:
        for n in range(400):
            keys = [f"{n}/{k}" for k in range(50)]
            try:
                await store.record([Batch([content(key) for key in keys])], route)
            except StoreError as error:
                refused = [str(error), error.hint]
                break
            told += keys
        again = None
        if len(sys.argv) > 2:
            Path(folder, "ballast").unlink()
            await store.record([Batch([content("after")])], route)
            told.append("after")
        known = {d + name for d in await store.directories("www") for name in await store.directory("www", d)}
        counts = await store.counts()
    print(json.dumps({"refused": refused, "told": len(told), "same": set(told) == known, "pending": counts.pending}))

asyncio.run(main(sys.argv[1]))
"""


def run_full(*command: str, folder: str, more: tuple[str, ...] = ()) -> dict[str, object]:
    """Run the filler in a process of its own and return what it reports."""
    done = subprocess.run(
        [*command, sys.executable, "-c", FULL, folder, *more],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_a_full_disk_fails_the_commit_and_heals(tmp_path: Path) -> None:
    """What was reported as durable is there, what was refused is not; with space again the store goes on by itself."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    script = 'mount -t tmpfs -o size=6m tmpfs "$0" && head -c 1m /dev/zero > "$0/ballast" && exec "$@"'
    reported = run_full(*unshare, "sh", "-c", script, str(tmp_path), folder=str(tmp_path), more=("heal",))
    assert reported["refused"] is not None
    message, hint = reported["refused"]  # type: ignore[misc]
    assert "the disk is full" in message
    assert "free space" in hint
    assert reported["same"]
    assert reported["told"] == reported["pending"] > 100  # type: ignore[operator]


def test_a_file_that_may_not_grow_fails_the_commit(tmp_path: Path) -> None:
    """A limit on file sizes is like a full disk: refused, reported, nothing half written."""
    reported = run_full("prlimit", "--fsize=3000000", folder=str(tmp_path))
    assert reported["refused"] is not None
    assert reported["same"]
    assert reported["told"] == reported["pending"] > 100  # type: ignore[operator]


STORM = """
import asyncio, sys
from tests.store.steps import content, route
from listener.store import open_store
from listener.store.batches import Batch

async def main(folder):
    async with open_store(f"sqlite:///{folder}/s.db", owner=True) as store:
        await store.recover()
        async def feed(lane):
            for n in range(100000):
                key = f"{lane}/{n}"
                await store.record([Batch([content(key)])], route)
                print(key, flush=True)
        await asyncio.gather(*(feed(lane) for lane in range(5)))

asyncio.run(main(sys.argv[1]))
"""


async def test_what_was_acked_survives_sigkill(tmp_path: Path) -> None:
    """Killed at whatever instant, the next owner finds everything that was reported as durable, and the lock free."""
    acked: set[str] = set()
    for seconds in (0.0, 0.01, 0.03, 0.07, 0.2):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", STORM, str(tmp_path), cwd=ROOT, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        acked.add((await process.stdout.readline()).decode().strip())
        with pytest.raises(StoreBusy):
            open_store(f"sqlite:///{tmp_path}/s.db", owner=True)
        await asyncio.to_thread(lambda pause: __import__("time").sleep(pause), seconds)
        process.send_signal(signal.SIGKILL)
        rest = (await process.stdout.read()).decode()
        acked |= set(rest[: rest.rfind("\n") + 1].split())
        await process.wait()
        async with open_store(f"sqlite:///{tmp_path}/s.db", owner=True) as store:
            assert await store.recover()
            bench = Bench(store, FakeClock())
            assert acked <= set(bench.index())
            urls = {url for (url,) in bench.sql("SELECT d.url || name FROM need JOIN directory d ON d.id = directory")}
            assert {BASE + key for key in acked} <= urls
            assert bench.sql("PRAGMA integrity_check") == [("ok",)]
            bench.assert_counted()
    assert len(acked) > 20
