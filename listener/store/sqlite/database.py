"""
Opening the state file: what is refused, and which errors an operator reads.

**For writing**, the file is made private, brought up to this version and set to WAL mode; checkpoints are left to a
thread of their own. What is corrupt, foreign or newer is refused and left as it is.

**For reading**, nothing is made or changed, so that it works for any user who may read the file, on a read-only
mount, and on a copy. How SQLite opens it depends on the files next to it:

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
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from listener.errors import StoreError, StoreUnusable
from listener.files import guard, make_private
from listener.store.connection import Connection
from listener.store.sqlite import migrations
from listener.store.sqlite.migrations import pragma, upgrade
from listener.urls import decode_path

__all__ = [
    "INCREMENTAL",
    "STORE_ERRORS",
    "Opened",
    "accept",
    "connect",
    "damaged",
    "format_version",
    "open_reading",
    "open_unlocked",
    "prepare",
    "recognise",
    "set_up",
    "size_bytes",
    "snapshot",
    "translate",
]


_MAGIC = b"SQLite format 3\x00"
_MAY_WRITE = "run this as the daemon's user, or set store.url to a file that this user may read and write"
CACHE_KIBIBYTES = 6 * 1024
"""
SQLite's page cache of the writer; a reader has a quarter. Other pages come from the system's cache. Ten times as much
made changes that are scattered over a million objects up to a tenth cheaper and others not, and was never given back.
"""
LOG_BYTES = 16 * 1024 * 1024
"""What a write-ahead log that grew in a storm is truncated to: so large it may grow before it starts over."""
INCREMENTAL = 2
"""The mode of ``PRAGMA auto_vacuum`` in which free pages are given back when we ask."""
BUSY_SECONDS = 10.0
"""How long a writer waits for another process's commit; ours take milliseconds."""
STORE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's binding raises; the second for text of the file, or in SQLite's message about it, that is no UTF-8."""
DAMAGE_HINT = "restore a backup, or move the file away and start again (the first scan seeds, a backfill refreshes)"


def translate(error: Exception, path: Path) -> StoreError:
    """Return the error that explains to an operator what one of :data:`STORE_ERRORS` means for the state file."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")) or _is_undecodable(error):
        return damaged(path, f"not a usable SQLite file ({error})")
    if name.startswith("SQLITE_FULL"):
        return StoreError(f"state file {path}: the disk is full", hint="free space; deliveries go on by themselves")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return StoreError(
            f"state file {path}: cannot be opened for writing ({error})",
            hint="store.url: the directory must exist and be writable for this user",
        )
    return StoreError(f"state file {path}: {error}")


def damaged(path: Path, what: str) -> StoreUnusable:
    """Return the error of a state file whose content cannot be right, with the remedy."""
    return StoreUnusable(f"state file {path}: {what}; it was left as it is", hint=DAMAGE_HINT)


def _is_undecodable(error: Exception) -> bool:
    # The second is raised by the binding itself, without any code of SQLite, for a text column.
    return isinstance(error, UnicodeDecodeError) or "Could not decode to UTF-8" in str(error)


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """
    Open a connection in autocommit mode, usable from whichever one thread holds it.

    Raises:
        StoreError: the file cannot be opened.
        StoreUnusable: it is no SQLite file.
    """
    # Under WAL a reader must be able to write the -shm file, so "readonly" is a promise, kept by query_only.
    guard(path)
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS)
    except STORE_ERRORS as error:
        raise translate(error, path) from error
    try:
        set_up(connection, readonly=readonly)
    except STORE_ERRORS as error:
        connection.close()
        raise translate(error, path) from error
    return connection


def set_up(connection: sqlite3.Connection, *, readonly: bool) -> None:
    """Set what every connection has in common, and what it may do."""
    connection.execute("PRAGMA foreign_keys = OFF")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES // (4 if readonly else 1)}")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.create_function("object_name", 1, _object_name, deterministic=True)
    if readonly:
        connection.execute("PRAGMA query_only = ON")
    else:
        connection.execute("PRAGMA synchronous = FULL")


def _object_name(url_name: str) -> bytes:
    """Return the name of the object that a URL's last part stands for."""
    return decode_path(url_name.partition("?")[0])


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Let several queries see the file as it was at one instant."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:  # SQLite ends it by itself on some errors
            connection.execute("ROLLBACK")


def size_bytes(connection: Connection) -> int:
    """Return the size of the state file by its own count of pages."""
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def prepare(path: Path) -> sqlite3.Connection:
    """
    Open the file for writing; make it when it is not there, bring it up to this version when it is older.

    Raises:
        StoreUnusable: corrupt, foreign or of a newer version; it was not touched.
        StoreError: it cannot be opened or written.
    """
    if not path.parent.is_dir():
        raise StoreError(f"state file {path}: its directory does not exist", hint=f"mkdir -p {path.parent}")
    recognise(path)
    _make(path)
    connection = connect(path)
    try:
        accept(connection, path)
        # Of a new file; an older one is changed by the next VACUUM. Free pages are given back in slices then.
        if pragma(connection, "auto_vacuum") != INCREMENTAL:  # setting it once more would write to the file
            connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("PRAGMA journal_mode = WAL")
        # A checkpoint within a commit would hold the writer; a thread of its own does it.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        upgrade(connection)
    except STORE_ERRORS as error:
        connection.close()
        raise translate(error, path) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """Make the file private before SQLite sees it: its log and index take over the file's mode."""
    try:
        make_private(path)
    except OSError as error:
        raise StoreError(
            f"state file {path}: cannot be made ({error.strerror})",
            hint="store.url: the directory must exist and be writable for this user",
        ) from error


def recognise(path: Path, *, hint: str = _MAY_WRITE) -> None:
    """Refuse what is no SQLite file; SQLite itself takes a file of one byte for an empty one, and overwrites it."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(
            f"state file {path}: cannot be opened ({error.strerror})",
            hint=hint,
        ) from error
    if head not in (b"", _MAGIC):
        raise translate(_not_sqlite(), path)


def _not_sqlite() -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError("file is not a database")
    error.sqlite_errorname = "SQLITE_NOTADB"
    return error


def accept(connection: sqlite3.Connection, path: Path) -> int:
    """Refuse what is not ours, before anything is written; return the version of what is."""
    application = pragma(connection, "application_id")
    version = pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != migrations.APPLICATION_ID and (application or version or tables):
        raise StoreUnusable(
            f"state file {path}: this SQLite file belongs to another program; it was left as it is",
            hint="store.url: name another file",
        )
    if version > migrations.VERSION:
        raise StoreUnusable(
            f"state file {path}: written by a newer version (format {version},"
            f" this program knows {migrations.VERSION})",
            hint="install that version again, or name another file in store.url",
        )
    return version


_State = tuple[tuple[int, int, int] | None, ...]
"""Inode, size and time of the file, its log and its shared index: whether an unlocked file is still the same."""


def _state(path: Path) -> _State:
    return tuple(_stat(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm"))


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
    return open_unlocked(path, any_version=any_version).connection


def format_version(path: Path) -> int:
    """Return the version of a state file's format; raise as :func:`open_reading` does, but for no version."""
    with closing(open_reading(path, any_version=True)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


class Opened(NamedTuple):
    """A reading connection, and for which content of the file it is good."""

    connection: sqlite3.Connection
    path: Path
    pinned: _State | None = None
    """What the file was like when it was opened without locks; None where SQLite itself keeps readers consistent."""

    @property
    def is_current(self) -> bool:
        """Whether the file is still the one that was opened."""
        return self.pinned is None or self.pinned == _state(self.path)


def open_unlocked(path: Path, *, any_version: bool = False) -> Opened:
    """Open a state file as :func:`open_reading` does; return the connection with what it depends on."""
    recognise(path, hint=_may_read(path))
    state = _state(path)
    parameters = _parameters(state)
    connection = _connect_reading(path, parameters, any_version=any_version)
    return Opened(connection, path, None if parameters == _LIVE else state)


def _connect_reading(path: Path, parameters: str, *, any_version: bool) -> sqlite3.Connection:
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
    if version < migrations.VERSION:
        raise StoreUnusable(
            f"state file {path}: written by an older version (format {version},"
            f" this program reads {migrations.VERSION})",
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
