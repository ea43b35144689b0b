"""
A connection to PostgreSQL that runs the operations of the store.

It opens when it is first used, and once more after it was lost. Each transaction sets its own limits, in the message
that begins it: nothing lives in the session, so that a pool in transaction mode may stand in between. What takes longer
than its limit ends with a closed connection, since a commit that is cancelled may report success.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from psycopg.adapt import Dumper
from psycopg.pq import Format, TransactionStatus
from psycopg.types.numeric import Int8BinaryDumper, NumericLoader

from listener.errors import ConfigurationError, StoreError
from listener.store.connection import Cursor
from listener.store.postgres.address import connect, shut
from listener.store.postgres.translation import translate

__all__ = ["LIMITS", "Limits", "PostgresConnection", "UnknownOutcome", "is_lost", "quoted"]


class Limits(NamedTuple):
    """How long a transaction may take."""

    seconds: float
    """The whole, COMMIT included: then the connection is closed."""
    statement_seconds: float
    lock_seconds: float
    idle_seconds: float
    """Between two statements: a process that is frozen there keeps its locks no longer."""

    @property
    def settings(self) -> str:
        """The part of them that the server keeps, as statements."""
        milliseconds = {
            "statement_timeout": self.statement_seconds,
            "lock_timeout": self.lock_seconds,
            "idle_in_transaction_session_timeout": self.idle_seconds,
        }
        return "; ".join(f"SET LOCAL {name} = {round(each * 1000)}" for name, each in milliseconds.items())


LIMITS: Final = Limits(seconds=10.0, statement_seconds=5.0, lock_seconds=1.0, idle_seconds=5.0)
"""Of a transaction that has no others."""


class UnknownOutcome(StoreError):
    """Nobody knows whether a transaction was committed, or whether the commit lasts."""


class _FlagDumper(Dumper):
    """A truth value is a number in the schema, as SQLite has it."""

    format = Format.TEXT
    oid = 20

    def dump(self, obj: bool) -> bytes:
        return b"1" if obj else b"0"


class _Int8TextDumper(Dumper):
    """A number in an array."""

    format = Format.TEXT
    oid = 20

    def dump(self, obj: int) -> bytes:
        return str(obj).encode()


class _Int8Dumper(Int8BinaryDumper):
    """One type for all numbers, so that a statement is prepared once."""

    def dump(self, obj: int) -> Any:
        if not -(2**63) <= obj < 2**63:
            raise OverflowError("the number does not fit into 64 bits")  # as sqlite3 says it
        return super().dump(obj)


class _SumLoader(NumericLoader):
    """A sum of whole numbers is one."""

    def load(self, data: Any) -> Any:
        found = super().load(data)
        return int(found) if found == found.to_integral_value() else float(found)


class _Kind(NamedTuple):
    """How values of one type are written in an array."""

    name: str
    text: Callable[[Any], str]
    column: Callable[[Sequence[Any]], str]
    """The same for many values of exactly this type, none of them missing: an order of magnitude faster."""


def _quoted_text(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _texts(column: Sequence[str]) -> str:
    plain = "".join(column)
    return ",".join(map(_quoted_text, column)) if '"' in plain or "\\" in plain else f'"{_BETWEEN.join(column)}"'


def _blobs(column: Sequence[bytes]) -> str:
    return f'"\\\\x{_BETWEEN_BLOBS.join(map(bytes.hex, column))}"'


def _numbers(column: Sequence[float]) -> str:
    return str(list(column))[1:-1]


_BETWEEN: Final = '","'
_BETWEEN_BLOBS: Final = '","\\\\x'
_NUMBER: Final = _Kind("bigint", lambda value: str(int(value)), _numbers)
_REAL: Final = _Kind("double precision", lambda value: repr(float(value)), _numbers)
_KINDS: Final[Mapping[type, _Kind]] = {
    int: _NUMBER,
    float: _REAL,
    str: _Kind("text", _quoted_text, _texts),
    bytes: _Kind("bytea", lambda value: f'"\\\\x{value.hex()}"', _blobs),
}


def _kind(types: AbstractSet[type]) -> _Kind | None:
    """Return how an array of values of these types is written, None where none of them says any."""
    kinds = {next(kind for each, kind in _KINDS.items() if issubclass(one, each)) for one in types - {type(None)}}
    if kinds == {_NUMBER, _REAL}:
        return _REAL
    if len(kinds) > 1:
        raise TypeError(f"a column of {', '.join(sorted(kind.name for kind in kinds))}")
    return next(iter(kinds), None)


def _array(column: Sequence[Any]) -> tuple[str, str]:
    """Return the type of an array of these values and how PostgreSQL writes it; the driver takes several times as long.

    Both are empty where all values are missing.
    """
    types = set(map(type, column))
    kind = _kind(types)
    if kind is None:
        return "", ""
    if len(types) == 1 and types <= _KINDS.keys():
        return kind.name, f"{{{kind.column(column)}}}"
    text = kind.text
    return kind.name, f"{{{','.join(['NULL' if value is None else text(value) for value in column])}}}"


def is_lost(error: BaseException) -> bool:
    """Return whether this error ends its connection, so that what was not committed is taken back."""
    if not isinstance(error, psycopg.OperationalError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def quoted(name: str) -> str:
    """Return the name of a schema as an identifier in SQL."""
    return sql.Identifier(name).as_string(None)


class PostgresConnection:
    """One connection, used by one thread at a time."""

    def __init__(self, url: str, *, schema: str, instance: str, prepared: bool = True, was_open: bool = False) -> None:
        """
        Take what it needs to connect.

        Args:
            url: of the store.
            schema: in which its tables are.
            instance: the name under which the server lists the connection.
            prepared: whether statements may stay prepared in the session.
            was_open: whether the store was opened with the same URL before, so that what is wrong may pass.
        """
        self._connect = partial(connect, url, instance=instance, prepared=prepared)
        self._schema = quoted(schema)
        self._raw: psycopg.Connection[Any] | None = None
        self._limit = _Limit()
        self._warned = False
        self._begun = False
        self._was_open = was_open
        self.total_changes = 0
        """Rows that were written, whether they were committed or not."""

    @property
    def raw(self) -> psycopg.Connection[Any]:
        """The connection of the driver, opened where need be."""
        if self._raw is None or self._raw.closed:
            raw = self._opened()
            raw.cursor_factory = psycopg.RawCursor
            raw.adapters.register_dumper(bool, _FlagDumper)
            raw.adapters.register_dumper(int, _Int8TextDumper)
            raw.adapters.register_dumper(int, _Int8Dumper)
            raw.adapters.register_loader("numeric", _SumLoader)
            raw.add_notice_handler(self._on_notice)
            self._raw = raw
        return self._raw

    @property
    def _of_transaction(self) -> psycopg.Connection[Any]:
        """The connection of the transaction under way; another one would run the rest of it outside of it."""
        if self._begun and not self.is_open:
            raise psycopg.OperationalError("the connection was lost")
        return self.raw

    def _opened(self) -> psycopg.Connection[Any]:
        try:
            raw = self._connect()
        except ConfigurationError as error:
            if not self._was_open:
                raise
            # The same server was right before: a password may be changed there first, and here later.
            raise StoreError(str(error), hint=error.hint) from None
        self._was_open = True
        return raw

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        self._warned = self._warned or notice.severity_nonlocalized == "WARNING"

    @property
    def is_open(self) -> bool:
        """Whether there is a connection that is not known to be lost."""
        return self._raw is not None and not self._raw.closed

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction was begun and has not ended."""
        return self._raw is not None and self._raw.info.transaction_status != TransactionStatus.IDLE

    def begin(self, limits: Limits | None = None, *, readonly: bool = False) -> None:
        """Begin a transaction: one that writes sees what others commit, one that reads a single instant."""
        raw, limits = self.raw, limits or LIMITS
        self._begun = True
        self._limit.begin(raw, limits.seconds)
        kind = " ISOLATION LEVEL REPEATABLE READ READ ONLY" if readonly else " ISOLATION LEVEL READ COMMITTED"
        # Lower values, in which an acknowledged commit may vanish, could be the role's or the server's default. What
        # writes finds its rows by keys: the planner must not read a table that was small when it looked last.
        writing = "" if readonly else "; SET LOCAL synchronous_commit = on; SET LOCAL enable_seqscan = off"
        # What is done to a few rows takes longer to compile (jit) than to do.
        psycopg.Cursor(raw).execute(
            f"BEGIN{kind}; {limits.settings}; SET LOCAL jit = off{writing}".encode(), prepare=False
        )

    def commit(self, last: str = "") -> Any:
        """
        Commit; return the row of the ``last`` statement, which runs in the same message.

        Raises:
            psycopg.Error: that statement failed, and nothing was committed.
            UnknownOutcome: the server did not answer in time, or gave a warning with its answer: a commit that is
                cancelled while it waits for a synchronous standby succeeds with one, and may vanish.
        """
        self._warned = False
        try:
            cursor = psycopg.Cursor(self._of_transaction).execute(
                f"{last}; COMMIT".removeprefix("; ").encode(), prepare=False
            )
            row = cursor.fetchone() if last else None
        except psycopg.OperationalError as error:
            if self.is_open and self.raw.info.transaction_status == TransactionStatus.INERROR:
                raise
            self.close()
            raise UnknownOutcome(f"PostgreSQL did not confirm a commit: {error}") from error
        finally:
            self._end_transaction()
        if self._warned:
            self.close()
            raise UnknownOutcome("PostgreSQL confirmed a commit with a warning: it may not last")
        return row

    def rollback(self) -> None:
        """Take back what was not committed; a connection that cannot do that is closed."""
        try:
            if not self.is_open:
                self.close()
            elif self.in_transaction:
                self.raw.execute("ROLLBACK", prepare=False)
        except psycopg.Error:
            self.close()
        finally:
            self._end_transaction()

    def _end_transaction(self) -> None:
        self._begun = False
        self._limit.end()

    def close(self) -> None:
        """Close the connection; it opens again when it is used."""
        self._limit.end()
        if self._raw is not None:
            with suppress(psycopg.Error):
                self._raw.close()
            self._raw = None

    def end(self) -> None:
        """Close the connection for good."""
        self.close()
        self._limit.stop()

    @contextmanager
    def limited(self, seconds: float) -> Iterator[psycopg.Connection[Any]]:
        """Give the driver's connection, where each statement is a transaction, and close it after so many seconds."""
        raw = self.raw
        self._limit.begin(raw, seconds)
        try:
            yield raw
        except BaseException:
            self.close()
            raise
        finally:
            self._limit.end()

    def execute(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = (), /) -> Cursor:
        """Run a statement of an operation."""
        translated = translate(statement, self._schema)
        return self._run(translated.text, translated.bind(values))

    def executemany(self, statement: str, rows: Iterable[Sequence[Any] | Mapping[str, Any]], /) -> Cursor:
        """Run a statement that returns nothing once for each row of values, without waiting for each."""
        translated = translate(statement, self._schema)
        bound = list(map(translated.bind, rows))
        cursor = self._of_transaction.cursor()
        if bound:
            cursor.executemany(translated.text.encode(), bound)
        return self._counted(cursor)

    def execute_wanted(
        self, statement: str, rows: Sequence[tuple[Any, ...]], values: Sequence[Any] | Mapping[str, Any] = (), /
    ) -> Cursor:
        """Run a statement that names ``wanted``, a table of these rows with the columns ``column1`` and so on."""
        arrays = [_array(column) for column in zip(*rows, strict=True)]
        translated = translate(statement, self._schema, tuple(kind and f"{kind}[]" for kind, _ in arrays))
        return self._run(translated.text, [*translated.bind(values), *(array for kind, array in arrays if kind)])

    def _run(self, text: str, values: list[Any]) -> Cursor:
        cursor = self._of_transaction.cursor()
        cursor.execute(text.encode(), values)  # our own words; every value is bound
        return self._counted(cursor)

    def _counted(self, cursor: psycopg.Cursor[Any]) -> Cursor:
        if not (cursor.statusmessage or "SELECT").startswith("SELECT"):
            self.total_changes += max(0, cursor.rowcount)
        return cursor


class _Limit:
    """Closes a connection, from a thread of its own, when its transaction takes too long."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._until: float | None = None
        self._raw: psycopg.Connection[Any] | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def begin(self, raw: psycopg.Connection[Any], seconds: float) -> None:
        """Let the connection have so long from now on."""
        with self._lock:
            self._raw, self._until = raw, time.monotonic() + seconds
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="store limit", daemon=True)
            self._thread.start()
        if not self._begun.is_set():
            self._begun.set()

    def end(self) -> None:
        """Let it have as long as it likes."""
        with self._lock:
            self._until = None

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._begun.set()

    def _watch(self) -> None:
        while not self._stopped:
            with self._lock:
                left = None if self._until is None else self._until - time.monotonic()
                if left is None:
                    self._begun.clear()
                elif left <= 0 and self._raw is not None:
                    shut(self._raw)
                    self._until = None
            if left is None:
                self._begun.wait()
            else:
                time.sleep(min(max(left, 0.0), LOOK_SECONDS))


LOOK_SECONDS: Final = 0.25
"""Between two looks at the time that a transaction has taken."""
