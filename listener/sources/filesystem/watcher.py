"""
What watches a tree: one interface for every backend, and the threads of those that read events.

A :class:`Watcher` alone is the backend ``polling``. :class:`~.watches.Watches` (inotify) and
:class:`~.fanotify.FanotifyWatches` are :class:`EventWatcher` s: watchdog's observer over one root, with an emitter that
loses nothing. It has two threads: one only empties the kernel's queue (16,384 events by default, full within a fifth
of a second of an ordinary rsync), the other, watchdog's own emitter thread, works the events through. watchdog's event
queue gets one event per batch, not one object per event: an object costs more than all the rest.
"""

from __future__ import annotations

import os
import select
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import DEFAULT_EMITTER_TIMEOUT, BaseObserver, EventEmitter
from watchdog.utils import BaseThread

from listener.kernel import Kernel
from listener.sources.filesystem.pending_names import Batch

if TYPE_CHECKING:
    from watchdog.observers.api import EventQueue, ObservedWatch

__all__ = ["EventWatcher", "RootIdentity", "Watcher"]

_IDLE_SECONDS = 30.0
"""How long the thread that works events through sleeps without one; what is read, and its end, wake it."""
_MOVE_SECONDS = 0.25
"""And while half of a rename waits for the other half."""
_JOIN_SECONDS = 2.0
_READ_BYTES = 256 * 1024
_GATHER_SECONDS = 0.008
"""Rest after a read that found little: fewer, fuller reads; the kernel's queue holds 20 times what comes meanwhile."""
_MOST_BACKLOG_BYTES = 256 * 1024 * 1024
_POLL_MILLISECONDS = 30_000
"""How long the reading thread sleeps without an event; its end wakes it."""


class RootIdentity:
    """Which directory a path leads to: its device and inode, since a path may be renamed, replaced or unmounted."""

    def __init__(self, path: bytes) -> None:
        """Remember the directory at this path. Raise OSError when there is none that can be read."""
        self._path = path
        self._known = self._look()
        with os.scandir(path):
            pass

    def _look(self) -> tuple[int, int]:
        status = os.stat(self._path)  # noqa: PTH116 - bytes
        return status.st_dev, status.st_ino

    def holds(self) -> bool:
        """Return whether the path still leads to that directory."""
        try:
            return self._look() == self._known
        except OSError:
            return False


class Watcher:
    """
    What a session, its scans and its looks know of a watched tree. Methods may be called from any thread.

    This class watches nothing, and knows of no names: it is the backend ``polling``, where only scans find changes.
    """

    is_polling = True

    def __init__(self) -> None:
        """Touch nothing."""
        self.events = 0
        """How many events were read."""
        self.overflows = 0
        """How often events were lost."""
        self.failed: dict[bytes, int] = {}
        """Directories that could not be watched, each with its errno."""

    def start(self, on_event: Callable[[], None]) -> None:
        """Begin to read events; ``on_event`` is called in a thread, at most once between two takes."""

    def stop(self) -> None:
        """End the threads and give the watches back; blocks for a moment."""

    @property
    def count(self) -> int:
        """How many directories are watched."""
        return 0

    @property
    def has_names(self) -> bool:
        """Whether names that events reported can be taken, now or soon."""
        return False

    @property
    def found_due(self) -> float:
        """When the names that a listing found can be taken, on the monotonic clock; infinity where there are none."""
        return float("inf")

    @property
    def is_healthy(self) -> bool:
        """Whether every thread lives: without one, changes would be missed in silence."""
        return True

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read has been worked through and taken."""
        return True

    def root_may_be_gone(self) -> bool:
        """Return, once for each time, that the root itself may have been moved, deleted or unmounted."""
        return False

    def take(self, limit: int) -> Batch:  # noqa: ARG002 - nothing is pending
        """Take at most ``limit`` names, and everything else that is pending."""
        return Batch((), (), {})

    def enter(self, prefix: bytes) -> bool:  # noqa: ARG002 - nothing is watched
        """Watch the directory at this path, before it is read; return whether it is watched now."""
        return False

    def begin_round(self) -> int:
        """Start a scan: what it does not come by can be forgotten by :meth:`end_round`."""
        return 0

    def end_round(self, prefix: bytes, started: int) -> None:
        """Unwatch what no scan came by below a path since this round."""

    def is_watched(self, prefix: bytes) -> bool:  # noqa: ARG002 - of a tree that is polled
        """Return whether the directory at this path is watched, as far as is known, or scanned because it cannot be."""
        return True

    def is_known(self, prefix: bytes) -> bool:  # noqa: ARG002 - of a tree that is polled
        """Return whether a directory at this path was watched or scanned before."""
        return True

    def is_pending(self, path: bytes) -> bool:  # noqa: ARG002 - nothing is pending
        """Return whether events named this path and were not taken yet."""
        return False

    def drop_linked(self, prefix: bytes) -> bool:  # noqa: ARG002 - nothing is watched
        """Unwatch a directory behind a symbolic link that went away; return whether there was one."""
        return False


class EventWatcher(Watcher):
    """A watcher that reads a queue of the kernel: by watchdog's observer, in threads of its own."""

    is_polling = False

    def __init__(self, root: bytes, kernel: Kernel) -> None:
        """Read from this queue, for the tree at ``root``, which ends with ``/``."""
        super().__init__()
        self.kernel = kernel
        self._root = root
        self._observer: BaseObserver | None = None
        self._emitters: list[InotifyEmitter] = []

    def start(self, on_event: Callable[[], None]) -> None:
        """Start the threads."""
        self._observer = BaseObserver(InotifyEmitter, timeout=_IDLE_SECONDS, watcher=self)
        self._observer.schedule(_Handler(on_event), os.fsdecode(self._root), recursive=True)
        self._emitters = [emitter for emitter in self._observer.emitters if isinstance(emitter, InotifyEmitter)]
        self._observer.start()

    def stop(self) -> None:
        """End the threads and close the queue."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_JOIN_SECONDS)
            for emitter in self._emitters:
                emitter.join(_JOIN_SECONDS)
        self.close()

    @property
    def is_healthy(self) -> bool:
        """Whether every thread lives."""
        observer = self._observer
        return observer is not None and observer.is_alive() and all(each.is_healthy for each in self._emitters)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read has been worked through and taken."""
        return all(emitter.is_idle for emitter in self._emitters)

    @abstractmethod
    def close(self) -> None:
        """Close the queue, and with it all watches."""

    @abstractmethod
    def feed(self, blob: bytes) -> None:
        """Work through whole events as the kernel gave them."""

    @abstractmethod
    def settle(self, should_keep_running: Callable[[], bool]) -> None:
        """Watch and list the directories that came."""

    @property
    @abstractmethod
    def awaits_rename(self) -> bool:
        """Whether :meth:`settle` is to be called soon, although no event may come."""

    @abstractmethod
    def has_news(self) -> bool:
        """Return, once between two takes, whether there is something to take."""

    @abstractmethod
    def overrun(self) -> None:
        """Note that events were thrown away because nobody worked them through."""

    def read(self, size_bytes: int) -> bytes:
        """Return as many whole events as fit, or nothing when none wait."""
        try:
            return os.read(self.kernel.descriptor, size_bytes)
        except BlockingIOError:
            return b""


class _Handler(FileSystemEventHandler):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def dispatch(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - watchdog's signature
        self._call()


@dataclass(unsafe_hash=True)
class PendingEvent(FileSystemEvent):
    """Events below ``src_path`` can be taken from the watcher."""

    event_type = "pending"


class _Reader(BaseThread):
    """Reads the kernel's queue and does nothing else."""

    def __init__(self, watcher: EventWatcher) -> None:
        super().__init__()
        self.name = "inotify-drain"
        self.blobs: deque[bytes] = deque()
        self.arrived = threading.Event()
        self._overran = False
        self._watcher = watcher
        self._ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable once the thread is to end."""
        self._read_bytes = 0
        self._worked_bytes = 0

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._watcher.kernel.descriptor, select.POLLIN)
        poll.register(self._ended, select.POLLIN)
        while self.should_keep_running():
            if poll.poll(_POLL_MILLISECONDS) and self.should_keep_running() and self._read() < _READ_BYTES // 4:
                time.sleep(_GATHER_SECONDS)
        self.arrived.set()

    def on_thread_stop(self) -> None:
        """Wake the thread."""
        os.eventfd_write(self._ended, 1)

    def __del__(self) -> None:
        """Close what only this object knows."""
        os.close(self._ended)

    def _read(self) -> int:
        blob = self._watcher.read(_READ_BYTES)
        if self._read_bytes - self._worked_bytes + len(blob) > _MOST_BACKLOG_BYTES:
            self._overran = True
        elif blob:
            self._read_bytes += len(blob)
            self.blobs.append(blob)
        self.arrived.set()
        return len(blob)

    def next(self) -> bytes | None:
        """Return the oldest blob, or ``None``."""
        try:
            blob = self.blobs.popleft()
        except IndexError:
            return None
        self._worked_bytes += len(blob)
        return blob

    def take_overrun(self) -> bool:
        """Return, once, whether events were thrown away."""
        overran, self._overran = self._overran, False
        return overran


class InotifyEmitter(EventEmitter):
    """Feeds the kernel's events to the watcher; queues a :class:`PendingEvent` when there is something to take."""

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        watcher: EventWatcher,
        timeout: float = DEFAULT_EMITTER_TIMEOUT,
        event_filter: list[type[FileSystemEvent]] | None = None,
    ) -> None:
        """Take watchdog's arguments, and the watcher to feed."""
        super().__init__(event_queue, watch, timeout=timeout, event_filter=event_filter)
        self.name = "inotify-emitter"
        self._watcher = watcher
        self._reader = _Reader(watcher)

    def on_thread_start(self) -> None:
        """Start to read; the directories are watched by the first scan."""
        self._reader.start()

    def on_thread_stop(self) -> None:
        """End the reading thread, and wake this one."""
        self._reader.stop()
        self._reader.arrived.set()

    @property
    def is_healthy(self) -> bool:
        """Whether both threads live."""
        return self.is_alive() and self._reader.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read has been worked through."""
        return not self._reader.blobs

    def join(self, timeout: float | None = None) -> None:
        """Wait for both threads."""
        super().join(timeout)
        if self._reader.ident is not None:
            self._reader.join(timeout)

    def queue_events(self, timeout: float) -> None:
        """Work through what was read, then rest; wait for it first, at most ``timeout`` seconds."""
        has_arrived = self._reader.arrived.wait(_MOVE_SECONDS if self._watcher.awaits_rename else timeout)
        self._reader.arrived.clear()
        while self.should_keep_running() and (blob := self._reader.next()) is not None:
            self._watcher.feed(blob)
            self._watcher.settle(self.should_keep_running)
            self._notify()
        self._watcher.settle(self.should_keep_running)
        if self._reader.take_overrun():
            self._watcher.overrun()
        self._notify()
        if has_arrived:
            time.sleep(_GATHER_SECONDS)

    def _notify(self) -> None:
        if self._watcher.has_news():
            self.queue_event(PendingEvent(self.watch.path))
