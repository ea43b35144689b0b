"""watchdog's observer with our emitter over one root: started, judged, stopped."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import BaseObserver

from listener.sources.filesystem.emitter import InotifyEmitter
from listener.sources.filesystem.fanotify_watches import FanotifyWatches
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.watches import Watches

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
