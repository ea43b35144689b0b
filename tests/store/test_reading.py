"""Reading a state file: nothing is made or changed, by whoever may read it, while a daemon runs and without one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from listener.errors import StoreError, StoreUnusable
from listener.store import open_store
from listener.store.owner import Owner
from listener.store.sqlite import maintenance, migrations
from listener.store.sqlite.access import Readers
from listener.store.sqlite.database import connect, open_reading, prepare
from listener.store.sqlite.ownership import OwnerLock, owner_of
from tests.store.steps import Bench, FakeClock, content

NOBODY = 65534


@contextmanager
def without_write_permission(folder: Path) -> Iterator[None]:
    """Make a folder and its files read-only for this thread's user; root steps down for the while."""
    modes = {path: path.stat().st_mode for path in (*folder.parents[: len(folder.parents) - 2], folder)}
    for parent in folder.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
            modes[parent] = parent.stat().st_mode
            parent.chmod(modes[parent] | 0o055)
    for path in folder.iterdir():
        path.chmod(0o444)
    folder.chmod(0o555)
    is_root = os.geteuid() == 0
    try:
        if is_root:
            os.seteuid(NOBODY)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


def seen(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything in a folder, so that two looks can be compared."""
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.iterdir())
    }


async def filled(path: Path) -> None:
    """Make a state file with some needs, closed in order."""
    clock = FakeClock()
    async with open_store(f"sqlite:///{path}", owner=True, clock=clock) as store:
        await store.recover()
        await Bench(store, clock).change(content("a/x"), content("a/y"))


async def after_a_crash(path: Path, *suffixes: str) -> None:
    """Make a state file whose changes stand in its log, as it is after a crash or a copy: with these files."""
    other = path.parent / "other"
    other.mkdir(parents=True)
    clock = FakeClock()
    async with open_store(f"sqlite:///{other / path.name}", owner=True, clock=clock) as store:
        await Bench(store, clock).change(content("a/x"), content("a/y"))
        for suffix in ("", *suffixes):
            shutil.copy(other / (path.name + suffix), path.with_name(path.name + suffix))
    shutil.rmtree(other)


@pytest.mark.parametrize("suffixes", [None, ("-wal",), ("-wal", "-shm")], ids=["closed", "copied", "crashed"])
@pytest.mark.parametrize("is_readonly", [True, False])
async def test_reading_makes_and_changes_nothing(
    tmp_path: Path, suffixes: tuple[str, ...] | None, is_readonly: bool
) -> None:
    """Every change that was committed is read, without the right to write and with it; the folder stays as it was."""
    folder = tmp_path / "state"
    folder.mkdir()
    await (filled(folder / "s.db") if suffixes is None else after_a_crash(folder / "s.db", *suffixes))

    async def read() -> None:
        async with open_store(f"sqlite:///{folder}/s.db", readonly=True) as store:
            assert (await store.counts()).pending == 2
            with pytest.raises(StoreError, match="for reading only"):
                await store.retry()
        assert maintenance.check(folder / "s.db") == []

    before = seen(folder)
    if is_readonly:
        with without_write_permission(folder):
            await read()
        after = seen(folder)
        assert {name: one[2] for name, one in after.items()} == {name: one[2] for name, one in before.items()}
    else:
        await read()
        after = seen(folder)
        before.pop("s.db-shm", None), after.pop("s.db-shm", None)  # the lock table of SQLite, rebuilt after a crash
        assert after == before


@pytest.mark.looptime(False)  # the store's threads
async def test_another_user_reads_while_a_daemon_runs(tmp_path: Path) -> None:
    """Who may only read sees what was committed; an unreadable lock makes it unknown whether a daemon runs."""
    folder = tmp_path / "state"
    folder.mkdir()
    async with open_store(f"sqlite:///{folder}/s.db", owner=True) as owner:
        await owner.recover()
        lock = folder / "s.db.lock"
        with without_write_permission(folder):
            assert owner_of(folder / "s.db") == Owner(True, os.getpid())
            async with open_store(f"sqlite:///{folder}/s.db", readonly=True) as reader:
                assert (await reader.counts()).pending == 0
        lock.chmod(0o600)
        if os.geteuid() == 0:
            os.seteuid(NOBODY)
            try:
                found = owner_of(folder / "s.db")
            finally:
                os.seteuid(0)
            assert (found.is_running, found.pid) == (None, None)
            assert "s.db.lock cannot be read: Permission denied" in found.reason


@pytest.mark.parametrize("begin", [prepare, open_reading])
async def test_a_query_never_mixes_two_states(tmp_path: Path, begin: Callable[[Path], object]) -> None:
    """A daemon that starts, commits or ends under a lock-free reader makes the query run again on the new state."""
    path = tmp_path / "s.db"
    with closing(prepare(path)):
        pass
    readers = Readers(path, has_writer=False)
    runs = 0

    def query(connection: object) -> int:
        nonlocal runs
        runs += 1
        (count,) = connection.execute("SELECT count(*) FROM target").fetchone()  # type: ignore[attr-defined]
        if runs == 1:
            with closing(prepare(path)) as writer:
                writer.execute("INSERT INTO target (name) VALUES ('cdn')")
        return int(count)

    assert readers.run(query) == 1
    assert runs == 2
    with closing(prepare(path)) as writer:
        writer.execute("INSERT INTO target (name) VALUES ('cdn2')")
        assert readers.run(query) == 2
        writer.execute("INSERT INTO target (name) VALUES ('cdn3')")
        assert readers.run(query) == 3
    readers.close()


def test_an_older_file_is_not_converted_by_a_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused with what to do, and stays; a file that this user may not read is named with what to allow."""
    path = tmp_path / "s.db"
    with closing(prepare(path)):
        pass
    before = path.read_bytes()
    monkeypatch.setattr("listener.store.sqlite.migrations.VERSION", migrations.VERSION + 1)
    with pytest.raises(StoreUnusable, match="older version") as caught:
        open_reading(path)
    assert "start the daemon" in caught.value.hint
    assert path.read_bytes() == before
    with pytest.raises(StoreError):
        open_reading(tmp_path)


def test_a_reader_of_the_owner_sees_each_commit(tmp_path: Path) -> None:
    """Readers next to the writing connection keep theirs open."""
    with closing(prepare(tmp_path / "s.db")) as writer:
        readers = Readers(tmp_path / "s.db", has_writer=True)
        for count in range(3):
            assert readers.run(lambda c: c.execute("SELECT count(*) FROM target").fetchone()) == (count,)
            writer.execute("INSERT INTO target (name) VALUES (?)", (str(count),))
        readers.close()
        with closing(connect(tmp_path / "s.db")):
            pass


def test_a_lock_on_a_file_system_without_locks_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a lock that another process holds means that one runs."""
    lock = OwnerLock(tmp_path / "s.db")
    lock.acquire()
    lock.release()

    def fail(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", fail)
    assert owner_of(tmp_path / "s.db").is_running is None
    assert "No locks available" in owner_of(tmp_path / "s.db").reason
