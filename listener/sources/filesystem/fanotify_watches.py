"""What fanotify's events mean for a tree: hints at names, whose order is lost where they were merged."""

from __future__ import annotations

from typing import cast

from listener.sources.filesystem import fanotify, kernel
from listener.sources.filesystem.fanotify import EVENT, NEW_NAME, RECORD, Fanotify
from listener.sources.filesystem.names import Ignore
from listener.sources.filesystem.pending_names import BORN, ENDED, OPEN
from listener.sources.filesystem.tree import Node
from listener.sources.filesystem.watches import Watches

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
        if mask & fanotify.OVERFLOW:
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
        if mask & fanotify.ON_DIRECTORY:
            self._on_directory_hint(node, mask, kind, name)
            return
        if mask & fanotify.RENAME:
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
        if mask & ~fanotify.ON_DIRECTORY == kernel.ATTRIB:
            child = parent if name in (b"", b".") else (parent.children or {}).get(name)
            if child is not None:
                self._on_own_attributes(child)
            return
        if mask & kernel.DELETE or (mask & fanotify.RENAME and kind != NEW_NAME):
            self._on_directory_went(parent, name, 0)
        self._on_directory_came(parent, name, 0, renamed=bool(mask & fanotify.RENAME))
