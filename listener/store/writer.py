"""The thread that writes: operations one after the other, each whole or not at all, many to a commit."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from queue import SimpleQueue
from time import perf_counter, sleep, thread_time
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from listener.errors import StoreError
from listener.store.connection import Connection

__all__ = ["GROUP_SECONDS", "Transactions", "Writer", "closed"]


T = TypeVar("T")
Operation = Callable[[Connection], Any]


class Transactions(Protocol):
    """The transactions of a writing connection."""

    @property
    def connection(self) -> Connection:
        """What the operations of one run on."""

    @property
    def total_changes(self) -> int:
        """How many rows were written so far, committed or not."""

    def begin(self) -> None:
        """Begin one."""

    def commit(self) -> None:
        """End it; what it did is durable."""

    def rollback(self) -> None:
        """Take it back, if it has not ended by itself; never raises."""

    def close(self) -> None:
        """Close the connection."""

    def is_in_the_way(self, error: Exception, /) -> bool:
        """Return whether another process was in the way, so that the same once more may succeed."""

    def may_be_committed(self, error: Exception, /) -> bool:
        """Return whether the transaction may be committed in spite of this error."""


class Item(NamedTuple):
    """An operation that waits for its turn."""

    operation: Operation
    future: Future[Any]
    apart: bool


GROUP_SECONDS = 0.01
"""A group takes no further operation once it has worked this long: nothing may hold the writer over 50 ms."""
REPEATS: Final = 5
"""So often an operation is repeated that another process was in the way of."""
REPEAT_SECONDS: Final = 0.005
"""Before the second repetition, doubled with each."""


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
        transactions: Transactions,
        *,
        translated: Callable[[Exception], Exception],
        undone: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """
        Take over the connection.

        Args:
            transactions: of the writing connection.
            translated: returns the error to raise for one that an operation raised.
            undone: called whenever something that an operation did was taken back.
            changed: called after each commit that changed anything, in the writing thread.
        """
        self._transactions = transactions
        self._undone = undone
        self._changed = changed
        self._translated = translated
        self._queue: SimpleQueue[Item | None] = SimpleQueue()
        self._entry = threading.Lock()
        self._closed = False
        self._chore: Item | None = None
        self.longest_group_seconds = 0.0
        self.longest_work_seconds = 0.0
        self.changed_rows = transactions.total_changes
        """Grows with each commit that changed anything."""
        self._thread = threading.Thread(target=self._run, name="store writer", daemon=True)
        self._thread.start()

    async def run(self, operation: Callable[[Connection], T]) -> T:
        """
        Run the operation inside a transaction and return its result once that is durable.

        One whose waiter is cancelled before it began is not run at all; one that has begun is finished.

        Raises:
            StoreError: the commit failed; nothing of the operation remains.
        """
        return await asyncio.wrap_future(self.submit(operation))

    def submit(self, operation: Callable[[Connection], T], *, apart: bool = False) -> Future[T]:
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
        self._transactions.close()

    def _turn(self, item: Item, began: float) -> None:
        """Run the operation with its group, and then what is to run apart."""
        if not item.apart:
            self._group(item, began)
            chore, self._chore = self._chore, None
            if chore is None:
                return
            item = chore
        try:
            item.future.set_result(item.operation(self._transactions.connection))
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._fail(item, error)

    def _group(self, first: Item, began: float) -> None:
        """Commit the operation together with those that wait behind it; when that fails, each by itself."""
        group: list[Item] = []
        error = self._commit(self._gather(first, began), group)
        if error is None:
            return
        if self._transactions.may_be_committed(error):  # to run it once more could do twice what is to be done once
            for item in group or [first]:
                self._fail(item, error)
        elif len(group) > 1:
            for item in group:
                self._alone(item, self._commit([item], []))
        else:
            self._alone(first, error)

    def _alone(self, item: Item, error: Exception | None) -> None:
        """Repeat an operation where another process was in its way; report any other error."""
        tries = 0
        while error is not None and self._transactions.is_in_the_way(error) and tries < REPEATS:
            tries += 1
            sleep(random.uniform(0.5, 1.0) * REPEAT_SECONDS * 2**tries)  # noqa: S311
            error = self._commit([item], [])
        if error is not None:
            self._fail(item, error)

    def _commit(self, items: Iterable[Item], begun: list[Item]) -> Exception | None:
        """Run these operations in one transaction and set their results; return what went wrong instead."""
        results = []
        try:
            self._transactions.begin()
            for item in items:
                begun.append(item)
                results.append(item.operation(self._transactions.connection))
            self._transactions.commit()
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
            self._undo()
            return error
        changed_rows, self.changed_rows = self.changed_rows, self._transactions.total_changes
        for item, result in zip(begun, results, strict=True):
            item.future.set_result(result)
        if changed_rows != self.changed_rows:
            self._changed()
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
        """Take back what is not committed."""
        self._transactions.rollback()
        self._undone()
