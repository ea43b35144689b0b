"""
Who may write to a state file: one owner sends from it, and nobody writes once it is known to be damaged.

The owner holds a lock that the kernel frees at its death. The first proof of damage, wherever it appears, ends all
writing by this process: a damaged file gives wrong answers about what was sent, so that going on could spend quota
twice or forget a change. Only a restart with a sound file ends that.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import structlog

from listener.errors import StoreBusy, StoreError, StoreUnusable
from listener.files import make_private
from listener.store.owner import Owner
from listener.store.sqlite.database import STORE_ERRORS, damaged, translate

__all__ = [
    "SMALL_BYTES",
    "Damage",
    "OwnerLock",
    "lock_path",
    "owner_of",
    "problems_of",
]


def lock_path(path: Path) -> Path:
    """Return the path of a state file's lock file."""
    return path.with_name(path.name + ".lock")


class OwnerLock:
    """The right to send from one state file; held by one process at a time, freed by the kernel at its death."""

    def __init__(self, path: Path) -> None:
        """Take the path of the state file; nothing is locked yet."""
        self._path = lock_path(path)
        self._fd: int | None = None

    def acquire(self) -> None:
        """
        Take the lock.

        Raises:
            StoreBusy: another process holds it; its number is named.
            StoreError: the lock file cannot be opened.
        """
        try:
            make_private(self._path)
            fd = _open_lock(self._path, os.O_RDWR)
        except OSError as error:
            raise StoreError(
                f"state file {self._path.with_suffix('')}: its lock file cannot be opened ({error.strerror})",
                hint="store.url: the directory must exist and be writable for this user only; the lock file is no link",
            ) from error
        try:
            _lock(fd)
        except BlockingIOError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise StoreBusy(
                f"state file {self._path.with_suffix('')}: another process ({holder or 'unknown'}) sends from it",
                hint="stop that process, or give this one another store.url",
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Give the lock back; safe to call twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


LOOK_SECONDS = 0.2
"""For so long :func:`owner_of` in another process may seem to own the file: far longer than its look takes."""


def _lock(fd: int) -> None:
    """Lock it for this process alone; raise OSError when another one holds it for longer than a look."""
    until = time.monotonic() + LOOK_SECONDS
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(LOOK_SECONDS / 10)


def owner_of(path: Path) -> Owner:
    """Return whether a process owns this state file, and which."""
    lock = lock_path(path)
    try:
        fd = _open_lock(lock, os.O_RDONLY)
    except FileNotFoundError:
        return Owner(False)
    except OSError as error:
        return Owner(None, reason=f"{lock} cannot be read: {error.strerror}")
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        words = os.pread(fd, 32, 0).decode("ascii", "replace").split()
        return Owner(True, int(words[1]) if len(words) == 2 and words[1].isdecimal() else None)
    except OSError as error:
        return Owner(None, reason=f"{lock} cannot be locked: {error.strerror}")
    finally:
        os.close(fd)
    return Owner(False)


def _open_lock(path: Path, flags: int) -> int:
    """
    Open a lock file; raise OSError for anything else in its place.

    In a directory that others can write to, it may be a link to a file of ours, or a pipe that is never written to.
    """
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "it is no regular file")
    return fd


log = structlog.get_logger()

SMALL_BYTES: Final = 32 * 1024 * 1024
"""A file up to this size is checked whole before the daemon starts work: about half a second."""
WHOLE_SECONDS: Final = 10.0
"""The start waits no longer than this for that check."""
TABLE_SECONDS: Final = 60.0
"""The check of one table of a larger file ends after this: while it reads, the write-ahead log cannot be reset."""
EXPLAIN_SECONDS: Final = 5.0
"""How long an unexpected error waits for the check that distinguishes damage from a defect."""
EXPLAIN_PAUSE_SECONDS: Final = 60.0
"""Further unexpected errors within this time are reported as they are: the check found nothing just now."""
STEPS: Final = 10_000
"""Steps of SQLite's machine between two looks at the time: some milliseconds."""


def problems_of(connection: sqlite3.Connection, statement: str, until: Callable[[], bool]) -> list[str] | None:
    """Return what a checking PRAGMA finds, at most a few lines; None where it was ended before it was through."""
    connection.set_progress_handler(until, STEPS)
    try:
        found = [str(row[0]) for row in connection.execute(statement)]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorname", "") == "SQLITE_INTERRUPT":
            return None
        raise
    finally:
        connection.set_progress_handler(None, 0)
    return [] if found == ["ok"] else found[:3]


class Damage:
    """What is known of the soundness of one state file. May be used in any thread."""

    def __init__(self, path: Path, connect: Callable[[], sqlite3.Connection]) -> None:
        """Take the file, and how this process opens it for reading."""
        self._path = path
        self._connect = connect
        self._ended = threading.Event()
        self._explained_at = -math.inf
        self.found: StoreUnusable | None = None
        """The first proof of damage; it stays."""

    def translated(self, error: Exception) -> Exception:
        """Return the error to report for this one, and remember it where it proves damage."""
        if isinstance(error, STORE_ERRORS):
            translated: Exception = translate(error, self._path)
        else:
            translated = error
        if isinstance(translated, StoreUnusable):
            return self._remember(translated)
        if _may_be_damage(error) and time.monotonic() - self._explained_at > EXPLAIN_PAUSE_SECONDS:
            self._explained_at = time.monotonic()
            return self._look(EXPLAIN_SECONDS) or translated
        return translated

    def _remember(self, error: StoreUnusable) -> StoreUnusable:
        if self.found is None:
            self.found = error
            log.error("store.damaged", error=str(error), hint=error.hint)
        return error

    def _look(self, seconds: float) -> StoreUnusable | None:
        """Check the whole file for so long; return what was found, if anything."""
        deadline = time.monotonic() + seconds
        return self._check(["PRAGMA integrity_check(3)"], lambda: time.monotonic() > deadline or self._ended.is_set())

    def _check(self, statements: list[str], until: Callable[[], bool]) -> StoreUnusable | None:
        try:
            with closing(self._connect()) as connection:
                for statement in statements:
                    if found := problems_of(connection, statement, until):
                        return self._remember(damaged(self._path, f"damaged ({'; '.join(found)})"))
        except STORE_ERRORS as error:
            translated = translate(error, self._path)
            return self._remember(translated) if isinstance(translated, StoreUnusable) else None
        except StoreUnusable as error:
            return self._remember(error)
        except StoreError:
            return None  # it cannot be looked at now; whoever works with it finds out
        return None

    def check_small(self) -> bool:
        """Check a small file whole; return False, having done nothing, for a larger one."""
        if self._path.stat().st_size > SMALL_BYTES:
            return False
        self._look(WHOLE_SECONDS)
        return True

    def check_large(self) -> None:
        """Check one table after the other, each for a bounded time: some may be left unfinished."""
        try:
            with closing(self._connect()) as connection:
                names = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        except STORE_ERRORS as error:
            self.translated(error)
            return
        except StoreError:
            return
        for name in names:
            deadline = time.monotonic() + TABLE_SECONDS
            quoted = name.replace('"', '""')
            statement = f'PRAGMA quick_check("{quoted}")'
            if self._check([statement], lambda end=deadline: time.monotonic() > end or self._ended.is_set()):  # type: ignore[misc]
                return

    def end(self) -> None:
        """End a check that runs."""
        self._ended.set()


def _may_be_damage(error: Exception) -> bool:
    """Return whether rows that cannot be as they are could have raised this: all that is no error of our own family."""
    if isinstance(error, sqlite3.Error):
        return isinstance(error, sqlite3.IntegrityError)
    return isinstance(error, ValueError | TypeError | LookupError | AttributeError) and not isinstance(
        error, UnicodeEncodeError
    )
