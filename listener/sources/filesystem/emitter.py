"""
watchdog's emitter for a tree, without its losses.

Two threads: one only empties the kernel's queue (16,384 events by default, full within a fifth
of a second of an ordinary rsync), the other, watchdog's own emitter thread, works the events
through. watchdog's event queue gets one word per batch, not one object per event: an object
costs more than all the rest.
"""

from __future__ import annotations

import select
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from watchdog.events import FileSystemEvent
from watchdog.observers.api import DEFAULT_EMITTER_TIMEOUT, EventEmitter
from watchdog.utils import BaseThread

if TYPE_CHECKING:
    from watchdog.observers.api import EventQueue, ObservedWatch

    from listener.sources.filesystem.watches import Watches

__all__ = ["HeardEvent", "InotifyEmitter"]

_READ_BYTES = 256 * 1024
_GATHER_SECONDS = 0.004
"""Rest after a read that found little: fewer, fuller reads; the kernel's queue holds 40 times what comes meanwhile."""
_MOST_BACKLOG_BYTES = 256 * 1024 * 1024
_POLL_MILLISECONDS = 100


@dataclass(unsafe_hash=True)
class HeardEvent(FileSystemEvent):
    """Events below ``src_path`` can be taken from the watches."""

    event_type = "pending"


class _Drain(BaseThread):
    """Reads the kernel's queue and does nothing else."""

    def __init__(self, watches: Watches) -> None:
        super().__init__()
        self.name = "inotify-drain"
        self.blobs: deque[bytes] = deque()
        self.arrived = threading.Event()
        self.overran = False
        self._watches = watches
        self._read_bytes = 0
        self._worked_bytes = 0

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._watches.kernel.descriptor, select.POLLIN)
        while self.should_keep_running():
            if poll.poll(_POLL_MILLISECONDS) and self._read() < _READ_BYTES // 4:
                time.sleep(_GATHER_SECONDS)
        self.arrived.set()

    def _read(self) -> int:
        blob = self._watches.kernel.read(_READ_BYTES)
        if self._read_bytes - self._worked_bytes + len(blob) > _MOST_BACKLOG_BYTES:
            self.overran = True
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


class InotifyEmitter(EventEmitter):
    """Feeds the kernel's events to the watches; queues a :class:`HeardEvent` when there is something to take."""

    def __init__(
        self,
        event_queue: EventQueue,
        watch: ObservedWatch,
        *,
        watches: Watches,
        timeout: float = DEFAULT_EMITTER_TIMEOUT,
        event_filter: list[type[FileSystemEvent]] | None = None,
    ) -> None:
        """Take watchdog's arguments, and the watches to feed."""
        super().__init__(event_queue, watch, timeout=timeout, event_filter=event_filter)
        self.name = "inotify-emitter"
        self._watches = watches
        self._drain = _Drain(watches)

    def on_thread_start(self) -> None:
        """Start to read; the directories are watched by the first scan."""
        self._drain.start()

    def on_thread_stop(self) -> None:
        """End the reading thread, and wake this one."""
        self._drain.stop()
        self._drain.arrived.set()

    @property
    def healthy(self) -> bool:
        """Whether both threads live."""
        return self.is_alive() and self._drain.is_alive()

    @property
    def idle(self) -> bool:
        """Whether everything that was read has been worked through."""
        return not self._drain.blobs

    def join(self, timeout: float | None = None) -> None:
        """Wait for both threads."""
        super().join(timeout)
        if self._drain.ident is not None:
            self._drain.join(timeout)

    def queue_events(self, timeout: float) -> None:
        """Work through what was read; wait for it first, at most ``timeout`` seconds."""
        self._drain.arrived.wait(timeout)
        self._drain.arrived.clear()
        while self.should_keep_running() and (blob := self._drain.next()) is not None:
            self._watches.feed(blob)
            self._watches.settle(self.should_keep_running)
            self._tell()
        self._watches.settle(self.should_keep_running)
        if self._drain.overran:
            self._drain.overran = False
            self._watches.overrun()
        self._tell()

    def _tell(self) -> None:
        if self._watches.has_news():
            self.queue_event(HeardEvent(self.watch.path))
