"""
The kernel watches of a tree, and what the kernel's events mean for it.

Three rules keep the picture true while directories come, go and are renamed under our hands:

- a directory is watched *before* it is listed: what is made between is reported or found, or both;
- the latest ``inotify_add_watch`` decides which path an inode has (:class:`Bindings`): a directory
  that thereby loses its watch is watched and listed again;
- whatever was renamed is walked again, and a place that lost its directory is looked at again: an exchange
  is reported as two renames, and renames by two processes may be reported in either order.

Every scan adds the watch of each directory that it enters once more. That costs 3 µs, changes
nothing where all is well, and mends whatever a lost event left wrong.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from listener import kernel
from listener.change import key_to_text
from listener.kernel import Kernel
from listener.sources.filesystem.links import Links, is_cut_off
from listener.sources.filesystem.names import Ignore, of_directory
from listener.sources.filesystem.outstanding import MOUNTED, OPENED, OVERFLOWED, OVERRAN, is_absent, is_directory_gone
from listener.sources.filesystem.pending_names import ARRIVED, EFFECTS, FOUND, Batch, Node, PendingNames, Tree
from listener.sources.filesystem.watcher import EventWatcher

__all__ = ["Watches"]

_MOVE_SECONDS = 0.2
"""Both halves of a rename are queued in one system call; one that stays alone for so long left the tree."""


class Watches(EventWatcher):
    """The backend inotify: one instance over one root."""

    def __init__(
        self,
        root: bytes,
        ignore: Ignore,
        links: Links,
        *,
        bound: int,
        found_seconds: float = 0.0,
        instance: Kernel | None = None,
    ) -> None:
        """Open the instance; nothing is watched before :meth:`enter`."""
        super().__init__(root, instance or kernel.Inotify())
        self.lock = threading.Lock()
        self.tree = Tree()
        self.pending = PendingNames(self.tree, bound=bound, found_seconds=found_seconds)
        self.root_events = 0
        """Raised whenever the root itself may have gone."""
        self._ignore = ignore
        self._links = links
        self._bindings = Bindings(self.kernel, self.tree, root)
        self._moved: dict[int, tuple[Node, float]] = {}
        self._new: list[tuple[Node, int]] = []
        self._places: list[tuple[Node, bytes, int]] = []
        """Where a directory came or went, as parent and name, and the flags of files to be found there."""
        self._round = 0
        self._notified = False
        self._root_notified = 0
        self._root_seen = 0

    @property
    def count(self) -> int:
        """How many directories are watched."""
        return len(self._bindings.nodes)

    @property
    def has_names(self) -> bool:
        """Whether there is anything to take, now or soon."""
        return bool(self.pending or self.pending.waits)

    @property
    def found_due(self) -> float:
        """When the names that a listing found can be taken."""
        return self.pending.found_due

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read has been worked through and taken."""
        return super().is_idle and not self.pending

    @staticmethod
    def name_as_reported(name: bytes) -> bytes:
        """Return a name as events carry it, and as it is kept: ended by NULs up to the next multiple of 16."""
        return name.ljust((len(name) // 16 + 1) * 16, b"\0")

    def close(self) -> None:
        """Give the watches back."""
        with self.lock:
            self.kernel.close()

    def take(self, limit: int) -> Batch:
        """Take pending names; see :meth:`PendingNames.take`."""
        with self.lock:
            self._notified = False
            batch = self.pending.take(limit, awaiting=bool(self._moved))
            for prefix, _ in batch.names:
                self._note_access(prefix)
            return batch

    @property
    def awaits_rename(self) -> bool:
        """Whether half of a rename has come, whose other half may not."""
        return bool(self._moved)

    def has_news(self) -> bool:
        """Return, once between two takes, whether there is something to take."""
        if self._notified or not (self.has_names or self.root_events > self._root_notified):
            return False
        self._notified, self._root_notified = True, self.root_events
        return True

    def root_may_be_gone(self) -> bool:
        """Return, once for each time, that the root itself may have gone."""
        may_be_gone = self.root_events > self._root_seen
        self._root_seen = self.root_events
        return may_be_gone

    def overrun(self) -> None:
        """Note that events were thrown away because nobody worked them through."""
        with self.lock:
            self.overflows += 1
            self.pending.rescan(b"", OVERRAN)

    # --- watching -----------------------------------------------------------------------------

    def is_watched(self, prefix: bytes) -> bool:
        """Return whether the directory at this path is watched, as far as is known, or scanned because it cannot be."""
        with self.lock:
            node = self.tree.find(prefix)
            return (node is not None and node.wd is not None) or prefix in self.failed

    def is_known(self, prefix: bytes) -> bool:
        """Return whether the directory at this path is in the tree."""
        with self.lock:
            return self.tree.find(prefix) is not None

    def is_pending(self, path: bytes) -> bool:
        """Return whether events named this path and were not taken yet."""
        prefix, slash, name = path.rpartition(b"/")
        with self.lock:
            node = self.tree.find(prefix + slash) if self.pending.dirty or self.pending.waits else None
            return node is not None and self.pending.is_pending(node, self.name_as_reported(name))

    def begin_round(self) -> int:
        """Start a scan: what it does not come by can be forgotten by :meth:`end_round`."""
        with self.lock:
            self._round += 1
            return self._round

    def enter(self, prefix: bytes) -> bool:
        """Watch the directory at this path, whatever was known of it; return whether it is watched now."""
        with self.lock:
            node = self.tree.make(prefix)
            node.round = self._round
            is_watched = self._watch(node, prefix)
            node.access = self._access(prefix)
            return is_watched

    def end_round(self, prefix: bytes, started: int) -> None:
        """Unwatch what no scan came by since this round."""
        with self.lock:
            top = self.tree.find(prefix)
            stale = [node for node in self.tree.below(top) if node.round < started] if top else []
            stale = [node for node in stale if node is not self.tree.root and self._is_gone(node)]
            for node in stale:
                if node.parent is not None:
                    self._release(self.tree.take_out(node.parent, node.name))
            self.failed = {path: error for path, error in self.failed.items() if not is_absent(self._root + path)}

    def drop_linked(self, prefix: bytes) -> bool:
        """Unwatch a directory behind a symbolic link that went away; return whether there was one."""
        with self.lock:
            node = self.tree.find(prefix)
            if node is None or node.parent is None or not self._is_gone(node):
                return False
            self._release(self.tree.take_out(node.parent, node.name))
            return True

    def _is_gone(self, node: Node) -> bool:
        prefix = self.tree.prefix_of(node)
        if prefix is None:
            return False
        return is_directory_gone(self._root + prefix) or is_cut_off(self._root, prefix)

    def _watch(self, node: Node, prefix: bytes) -> bool:
        is_root = not prefix
        extra = kernel.DELETE_SELF | kernel.MOVE_SELF if is_root else 0
        try:
            watch = self.kernel.add(self._root + prefix, follow=is_root, extra=extra)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                self.failed.pop(prefix, None)
            else:
                self.failed[prefix] = error.errno or 0
            return False
        if self.failed:
            self.failed.pop(prefix, None)
        displaced = self._bindings.bind(node, watch)
        if displaced is not None:
            self._new.append((displaced, FOUND))
        if node.lost_watch:
            node.lost_watch = False
            self.pending.gaps[node] = None
        return True

    def _access(self, prefix: bytes) -> int | None:
        try:
            return of_directory(os.stat(self._root + prefix))  # noqa: PTH116 - bytes
        except OSError:
            return None  # gone, which an event reports

    def _release(self, node: Node | None) -> None:
        """Unwatch a directory that was taken out, and all below it."""
        for each in self.tree.below(node) if node else ():
            self.pending.forget(each)
            self.pending.gaps.pop(each, None)
            self._bindings.unbind(each)

    # --- hearing ------------------------------------------------------------------------------

    def feed(self, blob: bytes) -> None:
        """Work through whole events as the kernel gave them."""
        unpack, size, effects = kernel.HEADER.unpack_from, kernel.HEADER.size, EFFECTS
        position, end, events, last, names = 0, len(blob), 0, -1, None
        with self.lock:
            by_wd, twins, pending = self._bindings.nodes, self._bindings.twins, self.pending
            while position < end:
                wd, mask, cookie, length = unpack(blob, position)
                start = position + size
                position = start + length
                events += 1
                effect = effects.get(mask)
                if effect is None or (twins and wd in twins):
                    self._feed_slowly(wd, mask, cookie, blob[start:position])
                    names, last = None, -1
                    continue
                if wd != last or names is None:
                    node = by_wd.get(wd)
                    if node is None:
                        continue
                    names, last = pending.names_of(node), wd
                name = blob[start:position]
                flags = names.get(name)
                if flags is None:
                    pending.count += 1
                    names[name] = effect[2]
                else:
                    names[name] = flags & effect[0] | effect[1]
            self.events += events
            pending.keep_bound()

    def _on_overflow(self) -> None:
        self.overflows += 1
        self.pending.rescan(b"", OVERFLOWED)

    def _feed_slowly(self, wd: int, mask: int, cookie: int, name: bytes) -> None:
        if mask & kernel.OVERFLOW:
            self._on_overflow()
            return
        for node in self._bindings.of(wd):
            self._on_event(node, mask, cookie, name)
        if mask & kernel.IGNORED:
            self._bindings.forget(wd)

    def _on_event(self, node: Node, mask: int, cookie: int, name: bytes) -> None:
        if mask & (kernel.UNMOUNT | kernel.DELETE_SELF | kernel.MOVE_SELF | kernel.IGNORED):
            self._on_own_end(node, mask)
        elif not mask & kernel.IS_DIRECTORY:
            keep, come, first = EFFECTS.get(mask, (-1, 0, 0))
            names = self.pending.names_of(node)
            flags = names.get(name)
            self.pending.count += flags is None
            names[name] = first if flags is None else flags & keep | come
        elif mask & (kernel.CREATE | kernel.MOVED_TO):
            self._on_directory_came(node, name.rstrip(b"\0"), cookie)
        elif mask & (kernel.DELETE | kernel.MOVED_FROM):
            self._on_directory_went(node, name.rstrip(b"\0"), cookie)
        elif mask & kernel.ATTRIB and not name:
            self._on_own_attributes(node)

    def _note_access(self, prefix: bytes) -> None:
        """Remember who may enter a directory, and those above it, when names in it are first reported."""
        node = self.tree.find(prefix)
        while node is not None and node.access is None:
            node.access = self._access(self.tree.prefix_of(node) or b"")
            node = node.parent

    def _on_own_attributes(self, node: Node) -> None:
        """Have a directory compared with the index where others may enter it than when names in it were reported."""
        prefix = self.tree.prefix_of(node)
        if prefix is None or node.access is None:
            return
        access = self._access(prefix)
        if access not in (None, node.access):
            node.access = access
            self.pending.rescan(prefix, OPENED)

    def _on_own_end(self, node: Node, mask: int) -> None:
        if node is self.tree.root:
            self.root_events += 1
        elif mask & kernel.UNMOUNT:
            prefix = self.tree.prefix_of(node)
            if prefix is not None:
                self.pending.rescan(prefix, MOUNTED)

    def _on_directory_came(self, parent: Node, name: bytes, cookie: int, *, renamed: bool = False) -> None:
        moved, _ = self._moved.pop(cookie, (None, 0.0)) if cookie else (None, 0.0)
        prefix = self.tree.prefix_of(parent)
        if prefix is None or self._ignore.directory(key_to_text(prefix), key_to_text(name)):
            self._release(moved)
            return
        if moved is not None:
            self._replace(parent, name, moved)
        self._places.append((parent, name, ARRIVED if cookie or renamed else FOUND))

    def _replace(self, parent: Node, name: bytes, moved: Node) -> None:
        """
        Put a renamed directory in place of what was there.

        That may be an empty directory which it replaced, or itself: a scan that came by before the
        rename was reported. So events from there still count.
        """
        before = self.tree.put(parent, name, moved)
        for kept, dropped in self.tree.merge(moved, before) if before else ():
            for key, flags in self.pending.forget(dropped).items():
                self.pending.add(kept, key, flags)
            self.pending.gaps.pop(dropped, None)
            self._bindings.unbind(dropped)
            # What was reported of this place while the other stood for it may have ended since.
            kept.lost_watch = kept.lost_watch or dropped.lost_watch

    def _on_directory_went(self, parent: Node, name: bytes, cookie: int) -> None:
        prefix = self.tree.prefix_of(parent)
        node = self.tree.take_out(parent, name)
        if cookie and node is not None:
            self._moved[cookie] = (node, time.monotonic())
        else:
            self._release(node)
        if prefix is not None and not self._ignore.directory(key_to_text(prefix), key_to_text(name)):
            self.pending.went(prefix + name + b"/")
            self._places.append((parent, name, ARRIVED if cookie else FOUND))

    # --- directories that came -----------------------------------------------------------------

    def settle(self, should_keep_running: Callable[[], bool]) -> None:
        """Watch and list the directories that came, and all below them; the lock is free between any two."""
        if not self._places and not self._new and not self._moved:
            return
        while should_keep_running():
            with self.lock:
                if self._places:
                    self._look_at(*self._places.pop())
                elif self._new:
                    self._take_in(*self._new.pop())
                else:
                    break
        self._expire_moves()

    def _look_at(self, parent: Node, name: bytes, flags: int) -> None:
        """
        Have the directory watched and listed that stands at a place now; a link in its place is not one.

        One that a scan came by meanwhile is listed again: its files may be forgotten with those of the one that went.
        """
        prefix = self.tree.prefix_of(parent)
        if prefix is not None:
            with self._links.targets.verifying(key_to_text(prefix)), suppress(OSError):
                if stat.S_ISDIR(os.lstat(self._root + prefix + name).st_mode):
                    self._new.append((self.tree.child(parent, name), flags))

    def _take_in(self, node: Node, flags: int) -> None:
        prefix = self.tree.prefix_of(node)
        if prefix is not None:
            with self._links.targets.verifying(key_to_text(prefix)):
                self._watch(node, prefix)
                self._list(node, prefix, flags)
            self.pending.keep_bound()

    def _list(self, node: Node, prefix: bytes, flags: int) -> None:
        try:
            with os.scandir(self._root + prefix) as entries:
                found = [(entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries]
        except OSError:
            return  # gone again, which an event reports; or unreadable, which the watch has noted
        text = key_to_text(prefix)
        vanished = set(node.children or ())
        files = [self.name_as_reported(name) for name, is_directory, _ in found if not is_directory]
        if flags == FOUND:
            self.pending.add_found(node, files)
        else:
            for name in files:
                self.pending.add(node, name, flags)
        for name, is_directory, is_link in found:
            if is_directory and not self._ignore.directory(text, key_to_text(name)):
                self._new.append((self.tree.child(node, name), flags))
            if is_directory or is_link:
                vanished.discard(name)
        for name in vanished:
            self._on_directory_went(node, name, 0)

    def _expire_moves(self) -> None:
        with self.lock:
            limit = time.monotonic() - _MOVE_SECONDS
            for cookie, (node, since) in list(self._moved.items()):
                if since < limit:
                    del self._moved[cookie]
                    self._release(node)


class Bindings:
    """
    Watch descriptors to nodes; its owner holds the lock around every call.

    One inode may be reached by several paths (a bind mount, a link to a directory): the others
    are its twins, and receive its events.
    """

    def __init__(self, kernel: Kernel, tree: Tree, root: bytes) -> None:
        """Bind nodes of ``tree``, whose paths are below ``root``."""
        self.nodes: dict[int, Node] = {}
        self.twins: dict[int, list[Node]] = {}
        self._kernel = kernel
        self._tree = tree
        self._root = root

    def of(self, watch: int) -> tuple[Node, ...]:
        """Return every node that this watch stands for."""
        first = self.nodes.get(watch)
        return () if first is None else (first, *self.twins.get(watch, ()))

    def bind(self, node: Node, watch: int) -> Node | None:
        """Bind a watch that was just added at the node's path; return the node that thereby lost it, if one did."""
        before = self.nodes.get(watch)
        if node.wd == watch and before is node:
            return None
        if node.wd is not None and node.wd != watch:
            self.unbind(node)
        node.wd = watch
        if before is None or before is node:
            self.nodes[watch] = node
            return None
        if self._is_twin(before, node):
            twins = self.twins.setdefault(watch, [])
            if node not in twins:
                twins.append(node)
            return None
        self.nodes[watch] = node
        before.wd, before.lost_watch = None, True
        return before

    def unbind(self, node: Node) -> None:
        """Take the node's watch away; the kernel's stays as long as another path leads to the same directory."""
        watch, node.wd = node.wd, None
        if watch is None:
            return
        node.lost_watch = True
        bound = self.of(watch)
        if node not in bound:
            return
        rest = [each for each in bound if each is not node and self._tree.prefix_of(each) is not None]
        self.twins.pop(watch, None)
        if not rest:
            self._kernel.remove(watch)
            del self.nodes[watch]
            return
        self.nodes[watch] = rest[0]
        if rest[1:]:
            self.twins[watch] = rest[1:]

    def forget(self, watch: int) -> None:
        """Note that the kernel has given up a watch: its directory is gone, or unmounted."""
        for node in self.of(watch):
            if node.wd == watch:
                node.wd, node.lost_watch = None, True
        self.nodes.pop(watch, None)
        self.twins.pop(watch, None)

    def _is_twin(self, first: Node, second: Node) -> bool:
        """Return whether both paths lead to one directory just now, rather than one after the other."""
        paths = [self._tree.prefix_of(first), self._tree.prefix_of(second)]
        if None in paths:
            return False
        with suppress(OSError):
            return os.path.samefile(*[self._root + path for path in paths if path is not None])  # noqa: PTH121 - bytes
        return False
