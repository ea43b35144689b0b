"""The one writing thread: operations that arrive together are committed together, off the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any, TypeVar

from listener.errors import StoreError
from listener.store.database import translate

__all__ = ["GROUP_SECONDS", "Writer"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

GROUP_SECONDS = 0.02
"""A group takes no further operation once it has worked this long: nothing may hold the writer over 50 ms."""


class Writer:
    """Runs operations in order, each whole or not at all, many to a commit; results follow the commit."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, undone: Callable[[], None]) -> None:
        """Take over the connection; call ``undone`` whenever something that an operation did was taken back."""
        self._connection = connection
        self._undone = undone
        self._path = path
        self._queue: SimpleQueue[tuple[Operation, Future[Any]] | None] = SimpleQueue()
        self._closed = False
        self.longest_group_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run the operation inside a transaction and return its result once that is durable.

        Raises:
            StoreError: the commit failed; nothing of the operation remains.
        """
        return await asyncio.wrap_future(self.submit(operation))

    def submit(self, operation: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Queue the operation; the future resolves after its commit."""
        future: Future[T] = Future()
        if self._closed:
            raise StoreError("the store is closed")
        self._queue.put((operation, future))
        return future

    def close(self) -> None:
        """Finish what is queued and close the connection; safe to call twice."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        stop = False
        while not stop:
            item = self._queue.get()
            if item is None:
                break
            stop = self._group(item)
        self._connection.close()

    def _group(self, item: tuple[Operation, Future[Any]] | None) -> bool:
        """Run the first operation and those that wait behind it, commit, then tell all; return whether to stop."""
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        began = perf_counter()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            while item is not None:
                outcomes.append(self._one(*item))
                if self._queue.empty() or perf_counter() - began > GROUP_SECONDS:
                    break
                item = self._queue.get()
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(item, outcomes, error)
            return item is None
        self.longest_group_seconds = max(self.longest_group_seconds, perf_counter() - began)
        for future, result, failure in outcomes:
            _resolve(future, result, failure)
        return item is None

    def _one(self, operation: Operation, future: Future[Any]) -> tuple[Future[Any], Any, BaseException | None]:
        """Run one operation; when it fails take back what it did, and let the others of its group stand."""
        self._connection.execute("SAVEPOINT operation")
        try:
            result = operation(self._connection)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._connection.execute("ROLLBACK TO operation")
            self._connection.execute("RELEASE operation")
            self._undone()
            return future, None, translate(error, self._path) if isinstance(error, sqlite3.Error) else error
        self._connection.execute("RELEASE operation")
        return future, result, None

    def _fail(
        self,
        item: tuple[Operation, Future[Any]] | None,
        outcomes: list[tuple[Future[Any], Any, BaseException | None]],
        error: sqlite3.Error,
    ) -> None:
        """The group did not become durable: undo it and tell everyone in it."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._undone()
        failure = translate(error, self._path)
        futures = [future for future, _, _ in outcomes]
        if item is not None and item[1] not in futures:
            futures.append(item[1])
        for future in futures:
            _resolve(future, None, failure)


def _resolve(future: Future[Any], result: Any, failure: BaseException | None) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if failure is None:
        future.set_result(result)
    else:
        future.set_exception(failure)
