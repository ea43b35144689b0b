"""
Recording: the index rows and needs of a batch of changes, in one transaction under one sequence (promise 1).

A batch that is too large for one transaction is cut into slices (:mod:`listener.store.batches`). Rows are written in
bulk, many to a statement, in the order of their pages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple
from zlib import crc32

from listener.change import Change, ChangeKind, Fingerprint
from listener.coalescer import due_at
from listener.errors import KeyRejected
from listener.refresh import FolderInputs, NeedInput, NeedState, Scope
from listener.settings import CoalescerSettings
from listener.store.batches import Batch, Recorded
from listener.store.bulk import in_sets_of
from listener.store.connection import Connection
from listener.store.copies import Copies, PendingCopy
from listener.store.filtering import (
    CAME_AND_WENT,
    ENCODED_BYTES,
    MAX_KEY_BYTES,
    OLD_NEWS,
    SAME_BYTES,
    SAME_CONTENT,
    OrderTokens,
    SuppressedWriter,
    add_messages,
    is_plausible,
    raw_key,
    sanitized,
)
from listener.store.index import IndexWriter, next_sequence, select_wanted
from listener.store.letters import add_keys
from listener.store.names import Names, folder_mark, name_start, object_mark, split_key
from listener.store.need_rows import NeedClass, NeedRow, write_needs
from listener.store.needs import directory_attempts

__all__ = ["Recorder", "Route", "RouteFolder", "no_folder"]


Route = Callable[[Change], Sequence[NeedInput]]
RouteFolder = Callable[[str, str], FolderInputs | None]
"""Of a storage and one of its folders."""


def no_folder(_root: str, _folder: str) -> FolderInputs | None:
    """Know no folder: every change is routed by itself."""
    return None


_NO_NAMES = FolderInputs(re.compile(r"(?!)"), 0, ())
"""Of a folder each of whose names is routed by itself."""


OLDEST_EVENT_SECONDS = 30 * 24 * 3600.0
"""An event time older than this counts as a wrong clock."""
LONG_KEY_CHARACTERS = MAX_KEY_BYTES // 4
"""A key of at most this length is not too long in bytes, whatever its characters."""
CHARACTER_BYTES = 4 * ENCODED_BYTES
"""Of a character in a URL, at most."""


_CANCEL_PREFETCH = f"DELETE FROM need WHERE directory = ?1 AND name = ?2 AND scope = {Scope.PREFETCH:d}"
_BIRTHS = f"""
SELECT directory, name, scope, CASE WHEN state = {NeedState.WAITING:d} AND open < 2
  AND window_first + CASE open WHEN 0 THEN ? ELSE ? END >= ? THEN birth END
FROM wanted CROSS JOIN need ON directory = column1 AND name = column2 AND scope = column3
/*! ORDER BY directory, name, scope FOR UPDATE OF need */
"""
"""The needs of these keys; of those whose window is open the object whose birth made them."""
_FORGET = "DELETE FROM need WHERE directory = ? AND name = ? AND scope = ?"
_DELETED = ChangeKind.DELETED
_PLACE, _NAME, _ORDER = itemgetter(0, 1), itemgetter(1), itemgetter(5)
"""Of a change."""
_SUBTREES = (ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED)


class _Kind(NamedTuple):
    """What needs written by one statement have in common."""

    finished: bool
    delay_seconds: float
    needs_force: bool
    mark: int
    forced_mark: int
    is_birth: bool


class Recorder:
    """Writes batches; lives in the writing thread."""

    def __init__(
        self,
        names: Names,
        *,
        timing: CoalescerSettings,
        unforced: frozenset[str],
        expand_limit: int,
        copies: Copies | None = None,
        longest_path_bytes: int | None = None,
    ) -> None:
        """
        Keep what every batch needs.

        Args:
            names: the id cache of the writing thread.
            timing: when changes are due.
            unforced: targets whose directory refreshes only revalidate.
            expand_limit: the most objects for which a deleted subtree becomes exact needs.
            copies: where sources have one tree on each instance.
            longest_path_bytes: how long the path of a URL can be that the database takes; None: as long as any key.
        """
        self._longest_path_bytes = longest_path_bytes
        self._short_characters = (
            LONG_KEY_CHARACTERS if longest_path_bytes is None else longest_path_bytes // CHARACTER_BYTES
        )
        self.copies = copies
        self.names = names
        self.timing = timing
        self.unforced = unforced
        self.expand_limit = expand_limit
        self.index = IndexWriter(names)

    def record(
        self,
        connection: Connection,
        batch: Batch,
        route: Route,
        *,
        now: float,
        folders: RouteFolder = no_folder,
        sanitize: bool = False,
    ) -> Recorded:
        """
        Write index and needs of the batch; return its sequence and what it came to.

        Args:
            connection: the writing connection, inside a transaction.
            batch: what to record.
            route: what a change makes stale.
            now: in seconds since the epoch.
            folders: the same for the plain names of a folder, which saves routing them one by one.
            sanitize: whether what cannot be stored is left out.

        Raises:
            UnicodeError: a text in it cannot be stored; ``sanitize`` rejects that instead.
            OverflowError: a number likewise.
        """
        self.index.begin(connection)
        writer = _BatchWriter(self, connection, batch, (route, folders), now=now)
        changes = batch.changes if self.copies is None else _without_births(batch.changes, self.copies.sources.names)
        sanitize = sanitize or max(map(len, map(_NAME, changes)), default=0) > self._short_characters
        changes = list(sanitized(changes, writer.reject, self._longest_path_bytes)) if sanitize else changes
        if in_sets_of(connection) is not None:  # else names are made one by one, each sooner than a set is built
            self.names.learn(connection, changes, None if batch.seed else route)
        writer.take(changes)
        writer.finish()
        return writer.recorded


def _without_births(changes: Sequence[Change], copied: frozenset[str]) -> Sequence[Change]:
    """Forget which objects are new on this instance: that they went again says nothing of the other copies."""
    return [one._replace(is_birth=False) if one.is_birth and one.root in copied else one for one in changes]


class _Deletion(NamedTuple):
    """A URL of a deleted object."""

    url: str
    of: _Kind
    row: NeedRow
    is_birth: bool
    """Whether the index did not know the object before it came."""


class _Folder(NamedTuple):
    """A folder of a storage, while changes in it are written."""

    root: str
    path: str
    tree: int
    mark: int
    """What the marks of its objects begin with."""
    plain: FolderInputs
    rows: dict[tuple[bool, bool, bool], list[tuple[list[NeedRow], int, int]]]
    """For finished, forced and birth: where to put rows of plain names, with directory and scope."""


_NOWHERE = _Folder("", "/", 0, 0, _NO_NAMES, {})


class _BatchWriter:
    """Writes one batch."""

    def __init__(
        self,
        parts: Recorder,
        connection: Connection,
        batch: Batch,
        routes: tuple[Route, RouteFolder],
        *,
        now: float,
    ) -> None:
        self.connection, self.batch, self.now = connection, batch, now
        self.route, self.route_folder = routes
        self.names, self.index = parts.names, parts.index
        self.timing, self.unforced, self.expand_limit = parts.timing, parts.unforced, parts.expand_limit
        self.recorded = Recorded(next_sequence(connection))
        self.tokens: OrderTokens | None = None
        self.suppressed: SuppressedWriter | None = None
        self.under_way = directory_attempts(connection)
        self.rows: dict[_Kind, list[NeedRow]] = {}
        self.deletions: list[_Deletion] = []
        self.places: dict[tuple[str, str], tuple[int, int, int]] = {}
        """Target and directory URL → its id, and the two watermarks above it."""
        self.here = _NOWHERE
        """The folder of the last change."""
        self.folders: dict[tuple[str, str], _Folder] = {}
        self.rejected: list[tuple[str, bytes, str]] = []
        """Source, key and reason of keys that can never be a URL."""
        self.copies = parts.copies
        self.copied = frozenset() if self.copies is None else self.copies.sources.names
        """Sources whose needs wait for other copies."""
        self.pending: list[PendingCopy] = []
        self._is_each_key_once: bool | None = None
        self._seeded: dict[str, bool] = {}
        """Whether the first listing of a root is finished."""

    def finish(self) -> None:
        """Write what is left, and what goes with the batch."""
        self.flush()
        if self.rejected:
            add_keys(self.connection, self.rejected, now=self.now)
        if self.tokens is not None:
            self.tokens.flush(self.now)
        if self.suppressed is not None:
            self.suppressed.flush(self.connection, self.now)
        if self.batch.message_ids:
            add_messages(self.connection, self.batch.message_ids, now=self.now)

    def take(self, changes: Sequence[Change]) -> None:
        """Take these changes, in order."""
        start = 0
        for at, change in enumerate(changes):
            if change[2] in _SUBTREES:
                self._take_objects(changes[start:at])
                start = at + 1
                self.flush()
                self.subtree(change)
        self._take_objects(changes[start:])

    def _take_objects(self, changes: Sequence[Change]) -> None:
        """Take changes of single objects."""
        listed = self.batch.scan_sequence is not None or self.batch.seed
        is_ordered = not listed and any(map(_ORDER, changes))
        # One look-up for all where none of them can change what is found for another.
        if listed or not (is_ordered or (self.unforced and not self._each_once())):
            self._add(changes)
            return
        together = is_ordered and len(changes) == len(self.batch.changes) and self._each_once()
        if together:
            self._tokens().look_up(changes)
        for change in changes:
            order = change.order
            if order is None or not is_plausible(order, self.now):
                self._add([change])
                continue
            if not together:
                self._tokens().look_up([change])
            self._ordered(change, order)

    def _add(self, changes: Sequence[Change]) -> None:
        """Take changes of single objects, of a scan those of which the index knows nothing newer."""
        if not changes:
            return
        batch = self.batch
        if batch.seed and batch.scan_sequence is not None:
            outdated = self.index.learn(changes, known_to=batch.scan_sequence, sequence=self.recorded.sequence)
            if outdated is not None:
                self.recorded.outdated += outdated
                return
        newer = {} if batch.scan_sequence is None else self.index.latest(changes, after=batch.scan_sequence)
        known = self.index.fingerprints(changes) if self.unforced or (batch.seed and self._compares(changes)) else {}
        for change in changes:
            if newer and change[:2] in newer:
                self.recorded.outdated += 1
                continue
            forced = False
            if known:
                before = known.get(change[:2])
                if batch.seed and _is_rewrite(change, before):
                    self._suppress(change, SAME_BYTES)
                forced = bool(self.unforced) and _validator_stands(change, before)
            # What a cache revalidates may be of another copy, whose times say nothing about this one.
            self._object(change, forced or (bool(self.unforced) and change.root in self.copied))

    def _compares(self, changes: Sequence[Change]) -> bool:
        """Return whether any of these may be a known object that was written again with the same content."""
        return any(
            change.fingerprint is not None and change.fingerprint.etag is not None and self._is_seeded(change.root)
            for change in changes
        )

    def _is_seeded(self, root: str) -> bool:
        if root not in self._seeded:
            self._seeded[root] = self.index.seeded(root)
        return self._seeded[root]

    def _object(self, change: Change, forced: bool) -> None:
        """Have the index follow one object's change, and make its needs unless it was only listed."""
        root, key, kind, fingerprint, event_time, _, finished, _, is_birth = change
        cut = key.rfind("/") + 1
        folder, here = key[:cut], self.here
        if folder != here.path or root != here.root:
            here = self.here = self.folders.get((root, folder)) or self._enter(root, folder)
        name = key[cut:]
        raw = name.encode("utf-8", "surrogateescape")
        if kind is _DELETED:
            self.index.remove(root, key, self.recorded.sequence, self.now)
        else:
            self.index.put_in(here.tree, raw, fingerprint, self.recorded.sequence)
        if self.batch.seed:
            return
        names, longest, inputs = here.plain
        if kind is _DELETED or len(name) > longest or not names.fullmatch(name):
            self._need(change, self._routed(change), forced, kind is _DELETED)
            return
        rows = here.rows.get((finished, forced, is_birth))
        if rows is None:
            rows = here.rows[finished, forced, is_birth] = [
                self._rows_of(one, finished, forced=forced, is_birth=is_birth) for one in inputs
            ]
        since = self.now if event_time is None else self._since(event_time)
        mark = crc32(raw, here.mark)
        for needs, directory, scope in rows:
            needs.append((directory, name, scope, since, mark))

    def _enter(self, root: str, path: str) -> _Folder:
        plain = None if self.batch.seed or root in self.copied else self.route_folder(root, path)
        tree = self.names.tree(self.connection, root, path)
        found = _Folder(root, path, tree, folder_mark(root, path), plain or _NO_NAMES, {})
        self.folders[root, path] = found
        return found

    def _rows_of(
        self, one: NeedInput, finished: bool, *, forced: bool, is_birth: bool
    ) -> tuple[list[NeedRow], int, int]:
        """Return where to put the rows of needs that differ from one of the empty name in their names only."""
        directory, mark, forced_mark = self._place(one.target, one.url)
        of = _Kind(finished, one.delay_seconds, forced and one.target in self.unforced, mark, forced_mark, is_birth)
        return self.rows.setdefault(of, []), directory, int(one.scope)

    def _since(self, event_time: float | None) -> float:
        """Return since when something is stale; a time that cannot be right is none."""
        now = self.now
        return now if event_time is None or not now - OLDEST_EVENT_SECONDS <= event_time <= now else event_time

    def _ordered(self, change: Change, order: str) -> None:
        """Take a change with an order token, unless it is old news or a rewrite with the same content."""
        order_tokens = self._tokens()
        tokens = order_tokens.of(change, self.now)
        if tokens is not None and order_tokens.is_old(change, tokens, order):
            self._suppress(change, OLD_NEWS)
            return
        inputs = self._routed(change)
        contents = bool(inputs) and all(one.ignore_rewrites for one in inputs) and self._each_once()
        if tokens is not None and contents and order_tokens.same_content(change, tokens):
            order_tokens.skip(change, tokens, order)
            self._suppress(change, SAME_CONTENT)
            return
        known = self.index.fingerprint(change.root, change.key) if self.unforced else None
        forced = bool(self.unforced) and _validator_stands(change, known)
        sequence = self.recorded.sequence
        newest = order_tokens.cover(change, tokens, order, sequence=sequence, contents=contents, now=self.now)
        if newest and change.kind is _DELETED:
            self.index.remove(change.root, change.key, sequence, self.now)
        elif newest:
            self.index.put(change.root, change.key, change.fingerprint, sequence)
        self._need(change, inputs, forced, newest and change.kind is _DELETED)

    def _tokens(self) -> OrderTokens:
        if self.tokens is None:
            self.tokens = OrderTokens(self.connection, self.names, self.index)
        return self.tokens

    def _suppress(self, change: Change, reason: str) -> None:
        """Count a change that makes no need, and keep the reason for ``status --url``."""
        self.recorded.suppressed += 1
        with suppress(KeyRejected):
            for one in self.route(change):
                self._note_suppressed(one.url, reason)

    def _note_suppressed(self, url: str, reason: str) -> None:
        if self.suppressed is None:
            self.suppressed = SuppressedWriter()
        self.suppressed.note(url, reason)

    def _each_once(self) -> bool:
        """Return whether every key is in the batch once, so that no change of it still waits to be written."""
        if self._is_each_key_once is None:
            changes = self.batch.changes
            self._is_each_key_once = len(set(map(_PLACE, changes))) == len(changes)
        return self._is_each_key_once

    def _routed(self, change: Change) -> Sequence[NeedInput]:
        try:
            return self.route(change)
        except KeyRejected as error:
            self.reject(change, str(error))
            return ()

    def _need(self, change: Change, inputs: Iterable[NeedInput], forced: bool, deleted: bool) -> None:
        since, mark_of_object = self._since(change.event_time), object_mark(change)
        for target, url, scope, delay, _ in inputs:
            cut = name_start(url)
            place = url[:cut]
            found = self.places.get((target, place))
            directory, mark, forced_mark = found if found is not None else self._place(target, place)
            is_birth = change.is_birth and not deleted
            of = _Kind(change.finished, delay, forced and target in self.unforced, mark, forced_mark, is_birth)
            row = (directory, url[cut:], int(scope), since, mark_of_object)
            if change.root in self.copied:
                self.pending.append((*row[:3], change.root, *split_key(change.key)))
            if deleted:
                self.deletions.append(_Deletion(url, of, row, change.is_birth))
            else:
                self.rows.setdefault(of, []).append(row)

    def _flush_deletions(self) -> None:
        """
        Make the needs of deleted objects; of one that came and went forget the need instead, if nothing was requested.

        Its window is still open (other changes would be merged with the first), also for a process that died since.
        """
        deletions, self.deletions = self.deletions, []
        # Of a key that is in the batch twice, what came earlier is not written yet.
        births = self._births([one.row[:3] for one in deletions]) if self._each_once() else None
        forgotten: list[tuple[int, str, int]] = []
        cancelled: list[tuple[int, str]] = []
        for url, of, row, is_birth in deletions:
            place, mark = row[:3], row[4]
            if births is not None and (births[place] == mark if place in births else is_birth):
                if births.pop(place, None) is not None:
                    forgotten.append(place)
                self.recorded.suppressed += 1
                self._note_suppressed(url, CAME_AND_WENT)
            else:
                self.rows.setdefault(of, []).append(row)
                cancelled.append(row[:2])
        self.connection.executemany(_FORGET, forgotten)
        self.connection.executemany(_CANCEL_PREFETCH, cancelled)

    def _births(self, places: Sequence[tuple[int, str, int]]) -> dict[tuple[int, str, int], int | None]:
        """Return the needs at these places; of those that may be forgotten the mark of the object that was born."""
        caps = (self.timing.cap_seconds, self.timing.unfinished_cap_seconds)
        return {row[:3]: row[3] for row in select_wanted(self.connection, places, _BIRTHS, (*caps, self.now))}

    def _place(self, target: str, url: str) -> tuple[int, int, int]:
        target_id = self.names.target(self.connection, target)
        directory = self.names.directory(self.connection, target_id, url)
        found = self.places[target, url] = (directory, *self.under_way.marks(target_id, url))
        return found

    def flush(self) -> None:
        """Write what was taken so far: a subtree change must find it in the index."""
        self.index.flush()
        self._flush_needs()

    def _flush_needs(self) -> None:
        if self.deletions:
            self._flush_deletions()
        for kind, rows in self.rows.items():
            rows.sort()
            write_needs(self.connection, self._class(kind), rows, sequence=self.recorded.sequence, now=self.now)
            self.recorded.needs += len(rows)
        if self.copies is not None:
            self.copies.note(self.connection, self.pending)
            self.pending = []
        self.rows = {}
        self.folders, self.here = {}, _NOWHERE

    def _class(self, kind: _Kind) -> NeedClass:
        timing, finished, delay = self.timing, kind.finished, kind.delay_seconds
        wait = due_at(first=0.0, last=0.0, finished=finished, settings=timing)
        cap = timing.cap_seconds if finished else timing.unfinished_cap_seconds
        open_ = 2 if delay > 0 else int(not finished)
        return NeedClass(
            wait + delay, cap + delay, delay, open_, *kind[2:5], priority=self.batch.priority, is_birth=kind.is_birth
        )

    def subtree(self, change: Change) -> None:
        """Make exact needs of a small deleted subtree that the index knows, one subtree need of any other."""
        if change.key and not change.key.endswith("/"):
            change = change._replace(key=change.key + "/")
        if change.kind is ChangeKind.SUBTREE_DELETED:
            known = self.index.keys_below(change.root, change.key, most=self.expand_limit)
            if known is not None and (known or self.index.seeded(change.root)):
                self._add([change._replace(key=key, kind=ChangeKind.DELETED, fingerprint=None) for key in known])
                self._flush_needs()  # before those of what is made there again; the index stays as the batch found it
                return
            self._delete_from_index(change)
        if not self.batch.seed:
            self._need(change, self._routed(change), forced=False, deleted=False)
            self.flush()

    def _delete_from_index(self, change: Change) -> None:
        """Have the index delete the subtree later; a scan's finding is about what was known when the scan began."""
        sequence = self.recorded.sequence
        known_to = sequence if self.batch.scan_sequence is None else self.batch.scan_sequence
        self.index.delete_below(change.root, change.key, known_to=known_to, sequence=sequence, now=self.now)
        # What the batch puts there from now on has a higher sequence and stays.
        self.recorded.sequence = next_sequence(self.connection)

    def reject(self, change: Change, reason: str) -> None:
        """Reject a key that can never be a URL; it is kept as a dead letter with the reason."""
        self.recorded.rejected.append((change.key, reason))
        self.rejected.append((change.root, raw_key(change.key), reason))


def _is_rewrite(change: Change, known: Fingerprint | None) -> bool:
    """Return whether a known object was written again with the same content; a first listing knows none."""
    now = change.fingerprint
    return now is not None and now.etag is not None and known is not None and known != now and known.etag == now.etag


def _validator_stands(change: Change, known: Fingerprint | None) -> bool:
    """
    Return whether a revalidation might keep the old copy: Last-Modified (whole seconds) did not advance.

    RFC 9110 §8.8.2.2: a Last-Modified validator is weak within one second, and goes backwards
    when an older file is restored; If-Modified-Since then answers 304.
    """
    now = change.fingerprint
    if now is None or now.mtime_ns is None or change.kind is ChangeKind.DELETED:
        return False
    if known is None or known.mtime_ns is None:
        return False
    return now.mtime_ns // 1_000_000_000 <= known.mtime_ns // 1_000_000_000
