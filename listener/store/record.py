"""Recording: index rows and needs of a batch of changes, in one transaction (promise 1)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from zlib import crc32

from listener.change import Change, ChangeKind
from listener.coalescer import due_at
from listener.errors import KeyRejected
from listener.refresh import Scope
from listener.settings import CoalescerSettings
from listener.store.batches import Batch, NeedInput, Recorded, Route, next_sequence
from listener.store.coverage import DirectoryAttempts, directory_attempts
from listener.store.heard import Heard, is_plausible
from listener.store.index import IndexWriter
from listener.store.letters import add_keys
from listener.store.messages import add_messages
from listener.store.names import Names
from listener.store.rows import NeedClass, NeedRow, Upsert, write_needs
from listener.store.sanitizing import MAX_KEY_BYTES, raw_key, sanitized
from listener.store.suppressed import CAME_AND_WENT, OLD_NEWS, SAME_BYTES, SAME_CONTENT, SuppressedWriter

__all__ = ["Recorder"]

OLDEST_EVENT_SECONDS = 30 * 24 * 3600.0
"""An event time further back than this is taken for a wrong clock."""
LONG_KEY_CHARACTERS = MAX_KEY_BYTES // 4
"""A key up to this length is surely not too long, whatever is in it."""


_CANCEL_PREFETCH = f"DELETE FROM need WHERE directory = ?1 AND name = ?2 AND scope = {Scope.PREFETCH:d}"
_MAY_FORGET = """
SELECT birth = ?4 AND state = 0 AND open < 2 AND window_first + CASE open WHEN 0 THEN ?5 ELSE ?6 END >= ?7
FROM need WHERE directory = ?1 AND name = ?2 AND scope = ?3
"""
_FORGET = "DELETE FROM need WHERE directory = ? AND name = ? AND scope = ?"
_CONTENT, _METADATA = ChangeKind.CONTENT, ChangeKind.METADATA
_SUBTREES = (ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED)


class _Kind(NamedTuple):
    """What needs that are written by one statement have in common."""

    finished: bool
    delay_seconds: float
    needs_force: bool
    mark: int
    forced_mark: int
    is_birth: bool


class Recorder:
    """Writes batches; lives in the writing thread."""

    def __init__(self, names: Names, *, timing: CoalescerSettings, unforced: frozenset[str], expand_limit: int) -> None:
        """
        Keep what every batch needs.

        Args:
            names: the id cache of the writing thread.
            timing: when changes are due.
            unforced: targets whose directory refreshes only revalidate.
            expand_limit: the most objects for which a deleted subtree becomes exact needs.
        """
        self._names = names
        self._timing = timing
        self._unforced = unforced
        self._expand_limit = expand_limit
        self._index = IndexWriter(names)
        self._heard = Heard(names, self._index)
        self._upsert = Upsert()
        self._suppressed = SuppressedWriter()

    def record(
        self, connection: sqlite3.Connection, batch: Batch, route: Route, *, now: float, sanitize: bool = False
    ) -> Recorded:
        """
        Write the batch: index and needs; return its sequence and what it came to.

        Raises:
            UnicodeError: something in it is no text that a file can hold; ``sanitize`` sets that aside.
            OverflowError: a number likewise.
        """
        self._index.begin(connection)
        self._heard.begin(connection)
        self._suppressed = SuppressedWriter()
        work = _Work(
            connection=connection,
            names=self._names,
            timing=self._timing,
            unforced=self._unforced,
            expand_limit=self._expand_limit,
            index=self._index,
            heard=self._heard,
            suppressed=self._suppressed,
            upsert=self._upsert,
            recorded=Recorded(next_sequence(connection)),
            batch=batch,
            route=route,
            now=now,
            flying=directory_attempts(connection),
        )
        sanitize = sanitize or any(len(change[1]) > LONG_KEY_CHARACTERS for change in batch.changes)
        work.take(list(sanitized(batch.changes, work.set_aside)) if sanitize else batch.changes)
        work.flush()
        work.keep_aside()
        self._heard.flush(now)
        self._suppressed.flush(connection, now)
        add_messages(connection, batch.message_ids, now=now)
        return work.recorded


@dataclass(slots=True, kw_only=True)
class _Work:
    """One batch being written."""

    connection: sqlite3.Connection
    names: Names
    timing: CoalescerSettings
    unforced: frozenset[str]
    expand_limit: int
    index: IndexWriter
    heard: Heard
    suppressed: SuppressedWriter
    upsert: Upsert
    recorded: Recorded
    batch: Batch
    route: Route
    now: float
    flying: DirectoryAttempts
    rows: dict[_Kind, list[NeedRow]] = field(default_factory=dict)
    places: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)
    """Target and directory URL → its id, and the two watermarks above it."""
    cancelled: list[tuple[int, str]] = field(default_factory=list)
    aside: list[tuple[str, bytes, str]] = field(default_factory=list)
    """Source, key and reason of what can be no URL."""
    _keys: set[tuple[str, ...]] | None = None
    """What stands in the batch, counted when it is first asked for."""
    _seeded: dict[str, bool] = field(default_factory=dict)
    """Whether the first listing of a root is finished."""

    def take(self, changes: Iterable[Change]) -> None:
        """Take these changes, in order."""
        live = self.batch.scan_sequence is None and not self.batch.seed
        plain = live and not self.unforced
        put, needs, sequence = self.index.put, self._needs, self.recorded.sequence
        for change in changes:
            root, key, kind, fingerprint, _, order, _, _, _ = change
            if order is not None and live and kind not in _SUBTREES and is_plausible(order, self.now):
                self._ordered(change, order)
            elif plain and (kind is _CONTENT or kind is _METADATA):
                put(root, key, fingerprint, sequence)
                needs(change)
            elif kind in _SUBTREES:
                self.flush()
                self.subtree(change)
                sequence = self.recorded.sequence
            else:
                self._add(change)

    def _add(self, change: Change) -> None:
        """Take one object's change by every rule."""
        scan_sequence = self.batch.scan_sequence
        if scan_sequence is not None and self.index.newer(change.root, change.key, scan_sequence):
            self.recorded.outdated += 1
            return
        forced = bool(self.unforced) and self._validator_stands(change)
        if self.batch.seed and self._is_rewrite(change):
            self._suppress(change, SAME_BYTES)
        self._note(change)
        if not self.batch.seed:
            self._needs(change, forced, change.kind is ChangeKind.DELETED)

    def _is_rewrite(self, change: Change) -> bool:
        """Return whether a known object was written again with the same content; a first listing finds none."""
        now = change.fingerprint
        if now is None or now.etag is None or not self._is_seeded(change.root):
            return False
        known = self.index.fingerprint(change.root, change.key)
        return known is not None and known != now and known.etag == now.etag

    def _is_seeded(self, root: str) -> bool:
        if root not in self._seeded:
            self._seeded[root] = self.index.seeded(root)
        return self._seeded[root]

    def _note(self, change: Change) -> None:
        """Have the index follow one object's change."""
        if change.kind is ChangeKind.DELETED:
            self.index.remove(change.root, change.key, self.recorded.sequence, self.now)
        else:
            self.index.put(change.root, change.key, change.fingerprint, self.recorded.sequence)

    def _ordered(self, change: Change, order: str) -> None:
        """Take one object's change that says when it was, unless that is old news, or the same content once more."""
        mark = self.heard.mark(change, self.now)
        if mark is not None and self.heard.is_old(change, mark, order):
            self._suppress(change, OLD_NEWS)
            return
        inputs = self._routed(change)
        contents = bool(inputs) and all(one.ignore_rewrites for one in inputs) and self._each_once()
        if mark is not None and contents and self.heard.same_content(change, mark):
            self.heard.see(change, mark, order)
            self._suppress(change, SAME_CONTENT)
            return
        forced = bool(self.unforced) and self._validator_stands(change)
        newest = self.heard.tell(change, mark, order, sequence=self.recorded.sequence, contents=contents, now=self.now)
        if newest:
            self._note(change)
        self._need(change, inputs, forced, newest and change.kind is ChangeKind.DELETED)

    def _suppress(self, change: Change, reason: str) -> None:
        """Count a change for which no refresh is made, and keep the reason for whoever asks about its URLs."""
        self.recorded.suppressed += 1
        with suppress(KeyRejected):
            for one in self.route(change):
                self.suppressed.note(one.url, reason)

    def _each_once(self) -> bool:
        """Return whether every key stands once in the batch: what waits to be written is not in the index yet."""
        if self._keys is None:
            self._keys = {change[:2] for change in self.batch.changes}
        return len(self._keys) == len(self.batch.changes)

    def _routed(self, change: Change) -> Sequence[NeedInput]:
        try:
            return self.route(change)
        except KeyRejected as error:
            self.set_aside(change, str(error))
            return ()

    def _needs(self, change: Change, forced: bool = False, deleted: bool = False) -> None:
        self._need(change, self._routed(change), forced, deleted)

    def _need(self, change: Change, inputs: Iterable[NeedInput], forced: bool, deleted: bool) -> None:
        now, stale, finished = self.now, change.event_time, change.finished
        mark_of_object = _mark(change)
        if stale is None or not now - OLDEST_EVENT_SECONDS <= stale <= now:
            stale = now
        for target, url, scope, delay, _ in inputs:
            cut = url.rfind("/", 0, url.find("?") if "?" in url else None) + 1
            place = url[:cut]
            found = self.places.get((target, place))
            directory, mark, forced_mark = found if found is not None else self._place(target, place)
            if deleted and self._came_and_went(change, mark_of_object, (directory, url[cut:], int(scope))):
                self.recorded.suppressed += 1
                self.suppressed.note(url, CAME_AND_WENT)
                continue
            is_birth = change.is_birth and not deleted
            of = _Kind(finished, delay, forced and target in self.unforced, mark, forced_mark, is_birth)
            rows = self.rows.get(of)
            if rows is None:
                rows = self.rows[of] = []
            rows.append((directory, url[cut:], int(scope), stale, mark_of_object))
            if deleted:
                self.cancelled.append((directory, url[cut:]))

    def _came_and_went(self, change: Change, mark: int, place: tuple[int, str, int]) -> bool:
        """
        Forget the need of a new object for which nothing was requested; return whether a deletion needs nothing.

        Its window is still open (other changes would be merged with the first), also for a process that died since.
        """
        if not self._each_once():
            return False  # what came earlier in this batch is not written yet
        caps = (self.timing.cap_seconds, self.timing.unfinished_cap_seconds)
        row = self.connection.execute(_MAY_FORGET, (*place, mark, *caps, self.now)).fetchone()
        if row is None:
            return change.is_birth
        if row[0]:
            self.connection.execute(_FORGET, place)
        return bool(row[0])

    def _place(self, target: str, url: str) -> tuple[int, int, int]:
        target_id = self.names.target(self.connection, target)
        directory = self.names.directory(self.connection, target_id, url)
        found = self.places[target, url] = (directory, *self.flying.marks(target_id, url))
        return found

    def flush(self) -> None:
        """Write what was taken so far; a subtree must find it in place."""
        self.index.flush()
        for kind, rows in self.rows.items():
            rows.sort()
            write_needs(
                self.connection,
                self.upsert,
                self._class(kind),
                rows,
                sequence=self.recorded.sequence,
                now=self.now,
            )
            self.recorded.needs += len(rows)
        self.rows = {}
        if self.cancelled:
            self.connection.executemany(_CANCEL_PREFETCH, self.cancelled)
            self.cancelled = []

    def _class(self, kind: _Kind) -> NeedClass:
        timing, finished, delay = self.timing, kind.finished, kind.delay_seconds
        wait = due_at(first=0.0, last=0.0, finished=finished, settings=timing)
        cap = timing.cap_seconds if finished else timing.unfinished_cap_seconds
        open_ = 2 if delay > 0 else int(not finished)
        return NeedClass(
            wait + delay, cap + delay, delay, open_, *kind[2:5], priority=self.batch.priority, is_birth=kind.is_birth
        )

    def subtree(self, change: Change) -> None:
        """Turn a subtree into exact needs where the index knows it and it is small, into one subtree need elsewhere."""
        if change.key and not change.key.endswith("/"):
            change = change._replace(key=change.key + "/")
        if change.kind is ChangeKind.SUBTREE_DELETED:
            known = self.index.keys_below(change.root, change.key, most=self.expand_limit)
            if known is not None and (known or self.index.seeded(change.root)):
                self._expand(change, known)
                return
            self._doom(change)
        if not self.batch.seed:
            self._needs(change)
            self.flush()

    def _expand(self, change: Change, keys: Sequence[str]) -> None:
        for key in keys:
            self._add(change._replace(key=key, kind=ChangeKind.DELETED, fingerprint=None))

    def _doom(self, change: Change) -> None:
        """Have the index forget the subtree; a scan's finding speaks of what was known when the scan began."""
        sequence = self.recorded.sequence
        known_to = sequence if self.batch.scan_sequence is None else self.batch.scan_sequence
        self.index.delete_below(change.root, change.key, known_to=known_to, sequence=sequence, now=self.now)
        # What the batch puts there from now on is above what is to be deleted.
        self.recorded.sequence = next_sequence(self.connection)

    def _validator_stands(self, change: Change) -> bool:
        """
        Whether a revalidation might keep the old copy: Last-Modified (whole seconds) did not advance.

        RFC 9110 §8.8.2.2: a Last-Modified validator is weak within one second, and goes backwards
        when an older file is restored; If-Modified-Since then answers 304.
        """
        if change.fingerprint is None or change.fingerprint.mtime_ns is None or change.kind is ChangeKind.DELETED:
            return False
        old = self.index.fingerprint(change.root, change.key)
        if old is None or old.mtime_ns is None:
            return False
        return change.fingerprint.mtime_ns // 1_000_000_000 <= old.mtime_ns // 1_000_000_000

    def set_aside(self, change: Change, reason: str) -> None:
        """Set aside a key that can never be a URL, with the reason."""
        self.recorded.rejected.append((change.key, reason))
        self.aside.append((change.root, raw_key(change.key), reason))

    def keep_aside(self) -> None:
        """Write what was set aside as dead letters."""
        if self.aside:
            add_keys(self.connection, self.aside, now=self.now)


def _mark(change: Change) -> int:
    """Return a number that stands for the object, the same in every process."""
    return crc32(f"{change.root}\0{change.key}".encode("utf-8", "surrogateescape"))
