"""Opening the state file for writing: what is refused, what is migrated."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

from listener.errors import ConfigurationError, StoreError, StoreUnusable
from listener.files import make_private
from listener.guarded import guard
from listener.redaction import mask_url
from listener.settings import expanded
from listener.store.letters import bounded_subject, bounded_text

__all__ = [
    "APPLICATION_ID",
    "INCREMENTAL",
    "STORE_ERRORS",
    "VERSION",
    "accept",
    "connect",
    "prepare",
    "recognise",
    "set_up",
    "size_bytes",
    "snapshot",
    "sqlite_path",
    "translate",
]

APPLICATION_ID = 0x43444E4C
"""``CDNL`` in the file's header: tells our file from any other SQLite file."""
VERSION = 12
_MAGIC = b"SQLite format 3\x00"
CACHE_KIBIBYTES = 64 * 1024
LOG_BYTES = 64 * 1024 * 1024
"""What a write-ahead log that grew in a storm is cut back to."""
REWRITTEN_PAGES = 16_384
"""A file up to this size (64 MiB) is rewritten once when it is converted, so that its space can be given back."""
INCREMENTAL = 2
"""The mode of ``PRAGMA auto_vacuum`` in which free pages are given back when we ask."""
BUSY_SECONDS = 10.0
"""How long a writer waits for another process's commit; ours take milliseconds."""
STORE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite's binding raises; the second for text of the file, or in SQLite's message about it, that is no UTF-8."""
DAMAGE_HINT = "restore a backup, or move the file away and start again (the first scan seeds, a backfill refreshes)"


def _add(*names: str) -> Callable[[sqlite3.Connection], None]:
    """Return the step that makes these tables and indexes as the schema has them."""

    def step(connection: sqlite3.Connection) -> None:
        for statement in _statements(_schema()):
            if statement.split()[2] in names:
                connection.execute(statement)

    return step


def _mark_backfills(connection: sqlite3.Connection) -> None:
    for table in ("need", "attempt"):
        connection.execute(f"ALTER TABLE {table} ADD COLUMN priority INTEGER NOT NULL DEFAULT 0")
    _add("need_backfill")(connection)


def _mark_births_and_access(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE need ADD COLUMN birth INTEGER")
    connection.execute("ALTER TABLE object ADD COLUMN access INTEGER")


def _bound_letters(connection: sqlite3.Connection) -> None:
    """Bound what was kept of long subjects and reasons, and find each by a digest of the whole."""
    connection.create_function("digest_of", 1, lambda raw: hashlib.sha256(raw).digest(), deterministic=True)
    connection.create_function("subject_of", 1, bounded_subject, deterministic=True)
    connection.create_function("text_of", 1, bounded_text, deterministic=True)
    connection.execute("ALTER TABLE dead_letter RENAME TO old_letter")
    _add("dead_letter", "dropped")(connection)
    connection.execute(
        "INSERT INTO dead_letter (id, at, source, kind, digest, subject, reason, body)"
        " SELECT id, at, source, kind, digest_of(subject), subject_of(subject), text_of(reason), body FROM old_letter"
    )
    connection.execute("DROP TABLE old_letter")
    _add("dead_letter_kind", "dead_letter_source", "dead_letter_body")(connection)
    connection.execute("DROP INDEX need_aside")
    _add("need_aside")(connection)
    _add("account")(connection)


def _date_troubles(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE source ADD COLUMN trouble_since REAL")


def _date_roots(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE root ADD COLUMN used_at REAL")


def _add_spenders(connection: sqlite3.Connection) -> None:
    """Make the table again: an earlier step made it as the schema has it, and the daemon writes its rows itself."""
    connection.execute("DROP TABLE account")
    _add("account")(connection)


_SHARE = "share of "


def _book_shares_in_ledger(connection: sqlite3.Connection) -> None:
    """Move the booked shares of backfills from made-up rows of progress to the ledger, and rename two tables."""
    connection.execute("ALTER TABLE gone RENAME TO tombstone")
    connection.execute("ALTER TABLE doomed RENAME TO pending_delete")
    for table in ("need", "attempt"):
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if "backfill" in columns:  # a step from before version 4 makes it under its new name
            connection.execute(f"ALTER TABLE {table} RENAME COLUMN backfill TO priority")
    connection.execute("DROP INDEX need_backfill")
    _add("need_backfill")(connection)
    connection.execute(
        "ALTER TABLE ledger ADD COLUMN share_booked INTEGER NOT NULL DEFAULT 0 CHECK (share_booked >= 0)"
    )
    rows = connection.execute("SELECT id, listed FROM backfill WHERE id LIKE ?", (f"{_SHARE}%",)).fetchall()
    for row_id, booked in rows:
        account, kind, window = row_id.removeprefix(_SHARE).rsplit(", ", 2)
        connection.execute(
            "INSERT INTO ledger (account, kind, window_start, quota, share_booked) VALUES (?1, ?2, ?3, 0, ?4)"
            " ON CONFLICT DO UPDATE SET share_booked = ?4",
            (account, kind, int(window), booked),
        )
    connection.execute("DELETE FROM backfill WHERE id LIKE ?", (f"{_SHARE}%",))


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {
    1: _add("control", "audit"),
    2: _add("heard", "heard_at"),
    3: _mark_backfills,
    4: _mark_births_and_access,
    5: _bound_letters,
    6: _date_troubles,
    7: _date_roots,
    8: _add("suppressed"),
    9: _add_spenders,
    10: _add("message"),
    11: _book_shares_in_ledger,
}
"""Version → the step that brings it one version on, inside one transaction."""


_URL_HINT = "write sqlite:////absolute/path.db, or sqlite:///relative/path.db"


def sqlite_path(url: str) -> Path:
    """
    Return the file that a ``sqlite:///`` URL names (three slashes: relative, four: absolute).

    Raises:
        ConfigurationError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(f"store.url: {mask_url(url)!r} is no URL", hint=_URL_HINT) from None
    if parts.scheme != "sqlite" or parts.netloc or len(parts.path) < 2:
        raise ConfigurationError(
            f"store.url: {parts.scheme or mask_url(url)!r} is not a store that this version knows", hint=_URL_HINT
        )
    return expanded(Path(unquote(parts.path[1:])))


def translate(error: Exception, path: Path) -> StoreError:
    """Return the error that tells an operator what one of :data:`STORE_ERRORS` means for the state file."""
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
    if readonly:
        connection.execute("PRAGMA query_only = ON")
    else:
        connection.execute("PRAGMA synchronous = FULL")


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Let several queries see the file as it was at one instant."""
    connection.execute("BEGIN")
    try:
        yield connection
    finally:
        if connection.in_transaction:  # SQLite ends it by itself on some errors
            connection.execute("ROLLBACK")


def size_bytes(connection: sqlite3.Connection) -> int:
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
        if _pragma(connection, "auto_vacuum") != INCREMENTAL:  # setting it once more would write to the file
            connection.execute(f"PRAGMA auto_vacuum = {INCREMENTAL}")
        connection.execute("PRAGMA journal_mode = WAL")
        # A checkpoint within a commit would hold the writer; a thread of its own does it.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        _upgrade(connection)
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


def recognise(path: Path, *, hint: str = "store.url: name a file that this user may read and write") -> None:
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
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreUnusable(
            f"state file {path}: this SQLite file belongs to another program; it was left as it is",
            hint="store.url: name another file",
        )
    if version > VERSION:
        raise StoreUnusable(
            f"state file {path}: written by a newer version (format {version}, this program knows {VERSION})",
            hint="install that version again, or name another file in store.url",
        )
    return version


def _upgrade(connection: sqlite3.Connection) -> None:
    if _pragma(connection, "user_version") == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = version_before = _pragma(connection, "user_version")
        if not version:
            for statement in _statements(_schema()):
                connection.execute(statement)
            connection.execute("INSERT INTO meta (id, sequence, created_at) VALUES (1, 0, ?)", (time.time(),))
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            version = VERSION
        for step in range(version, VERSION):
            MIGRATIONS[step](connection)
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    if version_before and _pragma(connection, "page_count") <= REWRITTEN_PAGES:
        with suppress(sqlite3.OperationalError):  # another process works on it: the next compact does it
            connection.execute("VACUUM")


def _schema() -> str:
    return (files("listener.store") / "schema.sql").read_text("utf-8")


def _statements(script: str) -> list[str]:
    """Split a script at the semicolons that end statements (``executescript`` would commit by itself)."""
    statements, pending = [], ""
    for line in script.splitlines():
        pending += line.partition("--")[0].rstrip() + "\n"
        if sqlite3.complete_statement(pending):
            statements.append(pending)
            pending = ""
    return statements


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
