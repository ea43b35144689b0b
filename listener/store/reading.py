"""
Reading a state file while its owner runs, or from a place where nothing may be written.

A process that only reads makes and changes nothing, so that it works for any user who may read the file, on a
read-only mount, and on a copy. How SQLite opens it depends on the files next to it:

=============== ============================ ================================================================
``-wal``        ``-shm``                     opened with
=============== ============================ ================================================================
absent          any                          ``mode=ro&immutable=1``: no locks, no new files; read again if the
                                             file changed meanwhile
present         present                      ``mode=ro``: the shared index of the process that writes
present         absent (a copy, a crash)     ``mode=ro&vfs=unix-none``, exclusive: the index in memory
=============== ============================ ================================================================
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from urllib.parse import quote

from listener.errors import StoreError, StoreUnusable
from listener.guarded import guard
from listener.store.database import (
    BUSY_SECONDS,
    STORE_ERRORS,
    VERSION,
    accept,
    connect,
    recognise,
    set_up,
    snapshot,
    translate,
)

__all__ = ["Readers", "format_version", "open_reading"]

T = TypeVar("T")
RACES: Final = 5
"""So often a query is repeated when the file changed under it: a daemon starts or ends once, not for ever."""


_State = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of the file, its log and its shared index: whether an unlocked file is still the same."""


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _state(path: Path) -> _State:
    return tuple(_stat(_beside(path, suffix)) for suffix in ("", "-wal", "-shm"))


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


_LIVE: Final = "mode=ro"


def _parameters(state: _State) -> str:
    """Return how to open the file; the module's table has the reasons."""
    _, log, index = state
    if log is None:
        return f"{_LIVE}&immutable=1"
    return _LIVE if index is not None else f"{_LIVE}&vfs=unix-none"


def open_reading(path: Path, *, any_version: bool = False) -> sqlite3.Connection:
    """
    Open a state file for reading, without making or changing any file.

    Args:
        path: the state file.
        any_version: whether an older version will do, of which only the head can be relied on.

    Raises:
        StoreUnusable: corrupt, foreign, or of another version.
        StoreError: this user may not read it.
    """
    return _open(path, any_version=any_version).connection


def format_version(path: Path) -> int:
    """Return the version of a state file's format; raise as :func:`open_reading` does, but for no version."""
    with closing(open_reading(path, any_version=True)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


class _Opened(NamedTuple):
    connection: sqlite3.Connection
    pinned: _State | None
    """What the file was like when it was opened without locks; None where SQLite itself keeps readers consistent."""


def _open(path: Path, *, any_version: bool = False) -> _Opened:
    recognise(path, hint=_may_read(path))
    state = _state(path)
    parameters = _parameters(state)
    return _Opened(_connect(path, parameters, any_version=any_version), None if parameters == _LIVE else state)


def _connect(path: Path, parameters: str, *, any_version: bool) -> sqlite3.Connection:
    guard(path)
    try:
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{parameters}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_SECONDS,
        )
    except sqlite3.Error as error:
        raise _unreadable(error, path) from error
    try:
        if "vfs" in parameters:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # first: the log's index must not be asked for
        set_up(connection, readonly=True)
        version = accept(connection, path)
        if not any_version:
            _check_version(version, path)
    except STORE_ERRORS as error:
        connection.close()
        raise _unreadable(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _may_read(path: Path) -> str:
    return f"run this as the daemon's user, or let this user read {path.name}, {path.name}-wal and {path.name}-shm"


def _check_version(version: int, path: Path) -> None:
    if version < VERSION:
        raise StoreUnusable(
            f"state file {path}: written by an older version (format {version}, this program reads {VERSION})",
            hint="start the daemon of this version once: it converts the file",
        )


def _unreadable(error: Exception, path: Path) -> StoreError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
        return StoreError(
            f"state file {path}: cannot be read ({error})",
            hint=_may_read(path),
        )
    return translate(error, path)


class Readers:
    """One reading connection for each thread."""

    def __init__(self, path: Path, *, has_writer: bool) -> None:
        """Take the file; ``has_writer``: this process also writes it, so that the shared index is always there."""
        self._path = path
        self._has_writer = has_writer
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []

    def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the file as it is at one instant."""
        for left in reversed(range(RACES)):
            opened = self._opened()
            try:
                with snapshot(opened.connection):
                    result = query(opened.connection)
            except Exception:
                if not left or self._is_same(opened):
                    raise
            else:
                if not left or self._is_same(opened):
                    return result
        raise AssertionError("the last round returns or raises")

    def _is_same(self, opened: _Opened) -> bool:
        return opened.pinned is None or opened.pinned == _state(self._path)

    def _opened(self) -> _Opened:
        opened: _Opened | None = getattr(self._local, "opened", None)
        if opened is not None and not self._is_same(opened):
            self._local.opened = None
            self._all.remove(opened.connection)
            opened.connection.close()
            opened = None
        if opened is None:
            opened = self._local.opened = self._open()
            self._all.append(opened.connection)
        return opened

    def _open(self) -> _Opened:
        return _Opened(connect(self._path, readonly=True), None) if self._has_writer else _open(self._path)

    def close(self) -> None:
        """Close every connection; no query may run any more."""
        for connection in self._all:
            connection.close()
        self._all.clear()
