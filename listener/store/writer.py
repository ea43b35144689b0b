"""The one writing thread: operations that arrive together are committed together, off the event loop."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from time import perf_counter, thread_time
from typing import Any, NamedTuple, TypeVar

from listener.errors import StoreError

__all__ = ["GROUP_SECONDS", "Writer", "closed"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]


class Item(NamedTuple):
    """An operation that waits for its turn."""

    operation: Operation
    future: Future[Any]
    apart: bool


GROUP_SECONDS = 0.01
"""A group takes no further operation once it has worked this long: nothing may hold the writer over 50 ms."""


def closed() -> StoreError:
    """Return the error of a call that came after the store was closed."""
    return StoreError("the store is closed")


class Writer:
    """
    Runs operations in order, each whole or not at all, many to a commit; results follow the commit.

    An operation may run twice: when one of its group fails the group is taken back, and each is run by itself.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        translated: Callable[[Exception], Exception],
        undone: Callable[[], None],
    ) -> None:
        """
        Take over the connection.

        Args:
            connection: the writing connection.
            translated: returns the error to raise for one that an operation raised.
            undone: called whenever something that an operation did was taken back.
        """
        self._connection = connection
        self._undone = undone
        self._translated = translated
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._entry = threading.Lock()
        self._closed = False
        self._chore: Item | None = None
        self.longest_group_seconds = 0.0
        self.longest_work_seconds = 0.0
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """
        Run the operation inside a transaction and return its result once that is durable.

        One whose waiter is cancelled before it began is not run at all; one that has begun is finished.

        Raises:
            StoreError: the commit failed; nothing of the operation remains.
        """
        return await asyncio.wrap_future(self.submit(operation))

    def submit(self, operation: Callable[[sqlite3.Connection], T], *, apart: bool = False) -> Future[T]:
        """Queue the operation; the future resolves after its commit. One that runs apart is in no transaction."""
        future: Future[T] = Future()
        with self._entry:
            if self._closed:
                raise closed()
            self._queue.put(Item(operation, future, apart))
        return future

    def close(self) -> None:
        """Finish what is queued and close the connection; safe to call twice."""
        with self._entry:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if item.future.set_running_or_notify_cancel():
                began, worked = perf_counter(), thread_time()
                self._turn(item, began)
                self.longest_group_seconds = max(self.longest_group_seconds, perf_counter() - began)
                self.longest_work_seconds = max(self.longest_work_seconds, thread_time() - worked)
        self._connection.close()

    def _turn(self, item: Item, began: float) -> None:
        """Run the operation with its group, and then what is to run apart."""
        if not item.apart:
            self._group(item, began)
            chore, self._chore = self._chore, None
            if chore is None:
                return
            item = chore
        try:
            item.future.set_result(item.operation(self._connection))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._fail(item, error)

    def _group(self, first: Item, began: float) -> None:
        """Commit the operation together with those that wait behind it; when that fails, each by itself."""
        group: list[Item] = []
        error = self._commit(self._gather(first, began), group)
        if error is not None and len(group) > 1:
            for item in group:
                if (error := self._commit([item], [])) is not None:
                    self._fail(item, error)
        elif error is not None:
            self._fail(first, error)

    def _commit(self, items: Iterable[Item], begun: list[Item]) -> Exception | None:
        """Run these operations in one transaction and set their results; return what went wrong instead."""
        results = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for item in items:
                begun.append(item)
                results.append(item.operation(self._connection))
            self._connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._undo()
            return error
        for item, result in zip(begun, results, strict=True):
            item.future.set_result(result)
        return None

    def _gather(self, first: Item, began: float) -> Iterator[Item]:
        """Yield the first operation, then those that wait, as long as the group has time for them."""
        item: Item | None = first
        while item is not None:
            yield item
            item = self._following(began)

    def _following(self, began: float) -> Item | None:
        """Take the next operation that waits, if the group has time for it."""
        while not self._queue.empty() and perf_counter() - began < GROUP_SECONDS:
            item = self._queue.get()
            if item is None:
                self._queue.put(None)  # nothing can come after it
                return None
            if item.future.set_running_or_notify_cancel():
                if not item.apart:
                    return item
                self._chore = item
                return None
        return None

    def _fail(self, item: Item, error: Exception) -> None:
        item.future.set_exception(self._translated(error))

    def _undo(self) -> None:
        """Take back what is not committed; SQLite may have done so by itself, as on a full disk."""
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._undone()
