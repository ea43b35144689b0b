"""Promise 9 on disk: whatever the product writes is for its own user only, under any umask."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from listener.emulator.journal import Journal
from listener.errors import StoreError
from listener.files import create_file, make_private
from listener.store.sqlite.ownership import OwnerLock, owner_of
from tests.stand import Stand, a_stand, until

UMASKS = [0o000, 0o022, 0o077, 0o777]


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run the test, and the processes that it starts, under this umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> str:
    """Return the permissions of a file."""
    return oct(stat.S_IMODE(path.stat().st_mode))


def test_a_file_is_private(tmp_path: Path, umask: int) -> None:
    """Made with its whole mode; what is there already keeps the mode that its operator gave it."""
    os.close(create_file(tmp_path / "one"))
    make_private(tmp_path / "two")
    make_private(tmp_path / "two")
    assert mode(tmp_path / "one") == mode(tmp_path / "two") == "0o600"
    (tmp_path / "two").chmod(0o640)
    make_private(tmp_path / "two")
    assert mode(tmp_path / "two") == "0o640"
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "one")


def test_the_stand_in_s_journal_is_private(tmp_path: Path, umask: int) -> None:
    """It holds the URLs of a site."""
    Journal(tmp_path / "journal").close()
    assert mode(tmp_path / "journal") == "0o600"


@pytest.fixture(params=[0o000, 0o027])
def stand(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Start everything; only the commands run under the umask."""
    with a_stand(tmp_path / "stand") as stand:
        before = os.umask(request.param)
        yield stand
        os.umask(before)


@pytest.mark.looptime(False)
def test_daemon_and_commands_write_private_files(stand: Stand) -> None:
    """State file, log, index, lock, socket, backup; the units of systemd are no secret, and writable by nobody else."""
    with stand.daemon():
        stand.write("a.html")
        until(stand.paths, what="a refresh")
        files = sorted(stand.root.glob("state.db*"))
        endings = ["", "-shm", "-wal", ".lock", ".sock"]
        assert [path.name for path in files] == [f"state.db{ending}" for ending in endings]
        assert {mode(path) for path in files} == {"0o600"}
    assert stand.run("store", "backup", "copy.db")[0] == 0
    assert stand.run("store", "compact")[0] == 0
    assert stand.run("systemd", "install", "--directory", "units")[0] == 0
    assert {mode(path) for path in stand.root.glob("*.db*")} == {"0o600"}
    assert {mode(path) for path in stand.root.glob("units/*.*")} == {"0o644"}
    with closing(sqlite3.connect(stand.root / "copy.db")) as copy:
        assert copy.execute("SELECT count(*) FROM object").fetchone()[0]


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_others_put_in_place_of_the_lock_is_left_alone(tmp_path: Path, kind: str) -> None:
    """In a directory of several users a link leads nowhere, and nobody waits for a pipe."""
    victim, lock = tmp_path / "victim", tmp_path / "state.db.lock"
    victim.write_text("mine")
    if kind == "link":
        lock.symlink_to(victim)
    else:
        os.mkfifo(lock)
    with pytest.raises(StoreError, match="lock file cannot be opened"):
        OwnerLock(tmp_path / "state.db").acquire()
    assert owner_of(tmp_path / "state.db").is_running is None
    assert victim.read_text() == "mine"
