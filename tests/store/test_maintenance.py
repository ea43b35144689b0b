"""Care of the state file: a copy while it is in use, a look whether its rows agree, its space given back."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from listener.errors import StoreBusy, StoreError, StoreUnusable
from listener.store import open_store
from listener.store.sqlite import maintenance
from tests.store.steps import Bench, content, file


@pytest.fixture
def bench(sqlite_bench: Bench) -> Bench:
    """Only SQLite: files are backed up, checked and compacted."""
    return sqlite_bench


@pytest.mark.looptime(False)  # the copy is made by a thread while the store commits
async def test_a_backup_is_whole_while_the_store_goes_on(bench: Bench, tmp_path: Path) -> None:
    """It is the file as it was at one instant between begin and end; the store's commits are not lost."""
    for batch in range(20):
        await bench.change(*(content(f"{batch}/{n}") for n in range(100)), wait=0)
    copying = asyncio.create_task(asyncio.to_thread(maintenance.backup, bench.store.path, tmp_path / "copy.db"))
    changed = 20
    while not copying.done():
        await bench.change(*(content(f"{changed}/{n}") for n in range(100)), wait=0)
        changed += 1
    assert await copying == (tmp_path / "copy.db").stat().st_size
    assert maintenance.check(tmp_path / "copy.db") == []
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        (objects,) = copy.execute("SELECT count(*) FROM object").fetchone()
    assert objects % 100 == 0
    assert 2_000 <= objects <= changed * 100
    assert len(bench.index()) == changed * 100
    assert sorted(path.name for path in tmp_path.glob("copy.db*")) == ["copy.db"]
    async with open_store(f"sqlite:///{tmp_path}/copy.db", owner=True) as store:
        assert await store.sequence() >= 20


async def test_a_backup_overwrites_nothing_and_leaves_nothing_half_done(bench: Bench, tmp_path: Path) -> None:
    """A file at the place stays; a place that cannot be written is an error; a draft of an earlier try is replaced."""
    there = tmp_path / "there.db"
    there.write_text("mine")
    with pytest.raises(StoreError, match="already exists"):
        maintenance.backup(bench.store.path, there)
    assert there.read_text() == "mine"
    with pytest.raises(StoreError, match="cannot be written"):
        maintenance.backup(bench.store.path, tmp_path / "no" / "such" / "folder.db")
    (tmp_path / "new.db.part").write_text("of an earlier try")
    maintenance.backup(bench.store.path, tmp_path / "new.db")
    assert not (tmp_path / "new.db.part").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE directory SET ready = ready + 1", "due needs is wrong: https://www.example.com/a/"),
        ("UPDATE tree SET objects = 7", "objects is wrong: a/"),
        ("DELETE FROM directory", "directory that is not there: x"),
        ("UPDATE attempt_group SET active = 0", "attempt that is over: y"),
        ("UPDATE attempt_item SET group_id = 9", "group that is not there: https://www.example.com/a/y"),
        ("UPDATE ledger SET held = 3", "hold what no attempt holds: main file"),
    ],
)
async def test_rows_that_disagree_are_named(bench: Bench, damage: str, said: str) -> None:
    """Each promise that the tables make one another is looked at."""
    await bench.change(content("a/x"), content("a/y"))
    await bench.hold(file("a/y"))
    assert maintenance.check(bench.store.path) == []
    with closing(sqlite3.connect(bench.store.path)) as connection:
        connection.execute(damage)
        connection.commit()
    assert any(said in found for found in maintenance.check(bench.store.path))


async def test_a_damaged_file_is_reported(bench: Bench, tmp_path: Path) -> None:
    """Pages that were overwritten are found, and one that is no state file at all is refused."""
    await bench.change(*(content(f"{n}/x") for n in range(2_000)))
    copy = tmp_path / "copy.db"
    maintenance.backup(bench.store.path, copy)
    raw = bytearray(copy.read_bytes())
    raw[8192 : 8192 + 16 * 4096] = b"\x5a" * (16 * 4096)
    copy.write_bytes(raw)
    with contextlib.suppress(StoreUnusable):  # so damaged, perhaps, that not even the look can be had
        assert maintenance.check(copy) != []
    copy.write_text("not a database, and long enough to look at" * 100)
    with pytest.raises(StoreUnusable):
        maintenance.check(copy)


async def test_compacting_gives_space_back(tmp_path: Path) -> None:
    """What is there stays; a file that a daemon owns is refused."""
    path = tmp_path / "s.db"
    async with open_store(f"sqlite:///{path}", owner=True) as store:
        bench = Bench(store, store.clock)  # type: ignore[arg-type]
        await bench.change(*(content(f"{n % 10}/{'x' * 100}{n}") for n in range(5_000)), wait=0)
        await store._write(lambda connection: connection.execute("DELETE FROM need").rowcount)
        with pytest.raises(StoreBusy):
            maintenance.compact(path)
    done = maintenance.compact(path)
    assert done.after_bytes == path.stat().st_size < done.before_bytes
    assert maintenance.check(path) == []
    async with open_store(f"sqlite:///{path}") as store:
        assert len(await store.directory("www", "3/")) == 500
