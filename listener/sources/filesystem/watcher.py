"""
What watches a tree: watchdog's observer over one root, with an emitter that loses nothing.

Two threads: one only empties the kernel's queue (16,384 events by default, full within a fifth
of a second of an ordinary rsync), the other, watchdog's own emitter thread, works the events
through. watchdog's event queue gets one event per batch, not one object per event: an object
costs more than all the rest. :class:`FanotifyWatches` reads fanotify in place of inotify.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import DEFAULT_EMITTER_TIMEOUT, BaseObserver, EventEmitter
from watchdog.utils import BaseThread

from listener.sources.filesystem import kernel
from listener.sources.filesystem.kernel import EVENT, NEW_NAME, RECORD, RENAME, Fanotify
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.pending_names import BORN, ENDED, OPEN, Node
from listener.sources.filesystem.watches import Watches

if TYPE_CHECKING:
    from watchdog.observers.api import EventQueue, ObservedWatch


__all__ = ["Listening", "Place", "RootIdentity"]

_OBSERVER_SECONDS = 0.5
_JOIN_SECONDS = 2.0


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


class Place(NamedTuple):
    """A root that was found, and what listens to it (``None`` when it is polled)."""

    identity: RootIdentity
    listening: Listening | None


class _Handler(FileSystemEventHandler):
    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def dispatch(self, event: FileSystemEvent) -> None:  # noqa: ARG002 - watchdog's signature
        self._call()


class Listening:
    """A running observer. ``on_heard`` is called in its thread, at most once between two takes."""

    def __init__(
        self,
        root: bytes,
        ignore: Ignore,
        *,
        bound: int,
        on_heard: Callable[[], None],
        backend: str = "inotify",
        found_seconds: float = 0.0,
    ) -> None:
        """Open the kernel's queue and start the threads. Raise OSError: EMFILE, when no instance is left."""
        kind = FanotifyWatches if backend == "fanotify" else Watches
        self.watches = kind(root, ignore, bound=bound, found_seconds=found_seconds)
        self._observer = BaseObserver(InotifyEmitter, timeout=_OBSERVER_SECONDS, watches=self.watches)
        self._observer.schedule(_Handler(on_heard), os.fsdecode(root), recursive=True)
        self._emitters = list(self._observer.emitters)
        self._observer.start()

    @property
    def healthy(self) -> bool:
        """Whether every thread lives: one that died would be deaf in silence."""
        emitters = [emitter for emitter in self._emitters if isinstance(emitter, InotifyEmitter)]
        return self._observer.is_alive() and all(emitter.healthy for emitter in emitters)

    @property
    def idle(self) -> bool:
        """Whether everything that was read has been worked through and taken."""
        emitters = [emitter for emitter in self._emitters if isinstance(emitter, InotifyEmitter)]
        return all(emitter.idle for emitter in emitters) and not self.watches.pending

    def stop(self) -> None:
        """End the threads and give the watches back; blocks for a moment."""
        self._observer.stop()
        self._observer.join(_JOIN_SECONDS)
        for emitter in self._emitters:
            emitter.join(_JOIN_SECONDS)
        self.watches.close()


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


__all__ = ["FanotifyWatches"]

_WRITTEN = kernel.CREATE | kernel.MODIFY
_TOLD = _WRITTEN | kernel.CLOSE_WRITE | kernel.DELETE | kernel.ATTRIB


class FanotifyWatches(Watches):
    """
    A tree on marked file systems: what :class:`Watches` is for inotify.

    "Watching" a directory is to know its handle. All that was said of watching before listing and
    of directories that lose their watch holds for handles as it does for watches.
    """

    def __init__(self, root: bytes, ignore: Ignore, *, bound: int, found_seconds: float = 0.0) -> None:
        """Open the group; nothing is marked before :meth:`enter`."""
        super().__init__(root, ignore, bound=bound, found_seconds=found_seconds, instance=Fanotify())

    @property
    def _group(self) -> Fanotify:
        return cast("Fanotify", self.kernel)

    def begin_round(self) -> int:
        """Start a scan, which marks each file system again."""
        self._group.doubt_mounts()
        return super().begin_round()

    @staticmethod
    def name_as_reported(name: bytes) -> bytes:
        """Return a name as it is kept: as it is."""
        return name

    def feed(self, blob: bytes) -> None:
        """Work through whole events as the kernel gave them."""
        position, end, events = 0, len(blob), 0
        with self.lock:
            while position < end:
                length, _, _, head, mask, _, _ = EVENT.unpack_from(blob, position)
                self._on_record(mask, blob[position + head : position + length])
                position += length
                events += 1
            self.events += events
            self.pending.keep_bound()

    def _on_record(self, mask: int, records: bytes) -> None:
        if mask & kernel.OVERFLOW:
            self._on_overflow()
        while records:
            kind, length, _, handle_bytes = RECORD.unpack_from(records)
            name_at = RECORD.size + 4 + handle_bytes
            number = self._group.by_handle.get(records[4:name_at])
            if number is not None:
                name = records[name_at:length].partition(b"\0")[0]
                for node in self._bindings.of(number):
                    self._on_hint(node, mask, kind, name)
            records = records[length:]

    def _on_hint(self, node: Node, mask: int, kind: int, name: bytes) -> None:
        if mask & kernel.IS_DIRECTORY:
            self._on_directory_hint(node, mask, kind, name)
            return
        if mask & RENAME:
            mask = kernel.MOVED_TO if kind == NEW_NAME else kernel.MOVED_FROM
        else:
            mask &= _TOLD
        # Merged with its closing, a write may have come after it: then its own closing is still to come.
        is_open = mask & _WRITTEN and not mask & kernel.CLOSE_WRITE
        keep, come = (-1, mask | OPEN) if is_open else (-1 if mask == kernel.ATTRIB else ENDED, mask)
        names = self.pending.names_of(node)
        before = names.get(name)
        if before is None:
            self.pending.count += 1
            # Merged with others, "created" proves nothing: the name may have been written to and removed before.
            before = BORN if mask == kernel.CREATE else 0
        names[name] = before & keep | come

    def _on_directory_hint(self, parent: Node, mask: int, kind: int, name: bytes) -> None:
        """
        Look at a directory's name, whichever event it was: only the tree itself tells which came last.

        Merged, "made" and "removed" may stand for either order; and of three renames to and fro the
        third stands where the first did.
        """
        if mask & ~kernel.IS_DIRECTORY == kernel.ATTRIB:
            child = parent if name in (b"", b".") else (parent.children or {}).get(name)
            if child is not None:
                self._on_own_attributes(child)
            return
        if mask & kernel.DELETE or (mask & RENAME and kind != NEW_NAME):
            self._on_directory_went(parent, name, 0)
        self._on_directory_came(parent, name, 0, renamed=bool(mask & RENAME))
