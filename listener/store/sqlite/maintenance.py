"""Maintain the state file: back up, check, compact, and give the space of removed rows back to the disk."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from listener.errors import StoreError
from listener.files import create_file, flush
from listener.store.agreement import FINDINGS, disagreements
from listener.store.connection import Connection
from listener.store.sqlite.database import INCREMENTAL, STORE_ERRORS, open_reading, prepare, snapshot, translate
from listener.store.sqlite.ownership import OwnerLock

__all__ = [
    "Compacted",
    "backup",
    "check",
    "compact",
    "give_back",
]


GIVEN_BACK_PAGES = 256
"""Pages (of 4 KiB) that one commit gives back: a MiB, some milliseconds."""


def give_back(connection: Connection) -> bool:
    """Give a slice of the file's free pages back to the disk; return whether to go on. A twentieth stays for reuse."""
    pages, free, mode = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "auto_vacuum")
    )
    if mode != INCREMENTAL or free <= max(GIVEN_BACK_PAGES, pages // 20):
        return False
    for _ in range(GIVEN_BACK_PAGES):  # a cursor runs the pragma to its first page only, however many it names
        connection.execute("PRAGMA incremental_vacuum(1)")
    return True


BACKUP_PAGES: Final = 4_096
"""Pages of one step of a copy: 16 MiB, between which the daemon's commits go on."""


class Compacted(NamedTuple):
    """What compacting came to."""

    before_bytes: int
    after_bytes: int


def backup(path: Path, to: Path) -> int:
    """
    Copy a state file, as it is at one instant, while others go on with it; return the copy's size in bytes.

    Raises:
        StoreError: there is something at ``to`` already, or it cannot be written; nothing is left half done there.
    """
    if to.exists():
        raise StoreError(f"{to}: already exists", hint="name a file that does not exist yet")
    draft = to.with_name(to.name + ".part")
    try:
        draft.unlink(missing_ok=True)
        os.close(create_file(draft))
        with closing(open_reading(path)) as source, closing(sqlite3.connect(draft)) as copy:
            source.backup(copy, pages=BACKUP_PAGES)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log
        flush(draft)
        draft.rename(to)
        flush(to.parent)
    except (OSError, *STORE_ERRORS) as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(f"{to}: cannot be written: {error.strerror}", hint="choose another place") from error
        raise translate(error, to) from error
    return to.stat().st_size


def check(path: Path) -> list[str]:
    """
    Return what is wrong with a state file, a sentence each; nothing is changed, and others may go on with it.

    Raises:
        StoreError: it cannot be read at all.
    """
    with closing(open_reading(path)) as connection:
        try:
            with snapshot(connection):
                found = [row[0] for row in connection.execute(f"PRAGMA integrity_check({FINDINGS})")]
                found = [] if found == ["ok"] else found
                return found + disagreements(connection)
        except STORE_ERRORS as error:
            raise translate(error, path) from error


def compact(path: Path) -> Compacted:
    """
    Rewrite a state file without the space of removed rows.

    Raises:
        StoreBusy: a daemon owns it; it would wait for as long as this takes.
        StoreError: the disk has no room for the copy that this needs.
    """
    lock = OwnerLock(path)
    lock.acquire()
    try:
        before = path.stat().st_size
        with closing(prepare(path)) as connection:
            try:
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            except STORE_ERRORS as error:
                raise translate(error, path) from error
        return Compacted(before, path.stat().st_size)
    finally:
        lock.release()
