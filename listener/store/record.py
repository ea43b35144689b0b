"""Recording: index rows and needs of a batch of changes, in one transaction (promise 1)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from listener.change import Change, ChangeKind, key_to_bytes
from listener.errors import KeyRejected
from listener.refresh import Scope, directory_of
from listener.store.index import IndexWriter
from listener.store.names import Names

__all__ = ["Batch", "NeedInput", "Recorded", "Recorder", "Route", "Timing", "next_sequence"]

OLDEST_EVENT_SECONDS = 30 * 24 * 3600.0
"""An event time further back than this is taken for a wrong clock."""


class NeedInput(NamedTuple):
    """What the router makes of a change: one URL of one target."""

    target: str
    url: str
    scope: Scope = Scope.EXACT
    delay_seconds: float = 0.0
    """How much later than us the origin has the change."""


Route = Callable[[Change], Sequence[NeedInput]]


@dataclass(frozen=True, slots=True)
class Timing:
    """When a change is due, in seconds: after this quiet time, and at the latest after this cap."""

    quiet_seconds: float
    cap_seconds: float
    unfinished_quiet_seconds: float
    unfinished_cap_seconds: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes to be recorded together."""

    changes: Sequence[Change]
    scan_sequence: int | None = None
    seed: bool = False


@dataclass(slots=True)
class Recorded:
    """What recording a batch came to."""

    sequence: int
    needs: int = 0
    outdated: int = 0
    """Findings of a scan that the index knew better."""
    rejected: list[tuple[str, str]] = field(default_factory=list)
    """Keys that can never be a URL, each with the reason."""


def next_sequence(connection: sqlite3.Connection) -> int:
    """Take the next number of the store-wide sequence."""
    return int(connection.execute("UPDATE meta SET sequence = sequence + 1 RETURNING sequence").fetchone()[0])


# One statement for what is new, one for what is there: both are C loops, and a storm is mostly one or the other.
_INSERT = """
INSERT OR IGNORE INTO need
  (directory, name, scope, sequence, stale_since, window_first, due_at, state, open, needs_force)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0, ?9, ?11)
"""
# ?10 is the watermark of a directory attempt that is under way above this need, or 0. What an attempt
# has covered starts a new window; so does a READY need whose object is being written again.
_RESTART = "(state IN (2, 4) OR (state = 1 AND ?9) OR (sequence <= ?10 AND open = 0))"
_UPDATE = f"""
UPDATE need SET
  window_first = CASE WHEN {_RESTART} THEN ?6 ELSE window_first END,
  due_at = CASE WHEN state = 3 OR (state = 1 AND NOT {_RESTART}) THEN NULL
                WHEN {_RESTART} THEN ?7 ELSE min(?7, window_first + ?8) END,
  attempt = CASE WHEN state = 3 THEN attempt END,
  state = CASE WHEN state = 3 THEN 3 WHEN state = 1 AND NOT {_RESTART} THEN 1 ELSE 0 END,
  needs_force = max(needs_force, ?11),
  open = ?9,
  sequence = ?4
WHERE directory = ?1 AND name = ?2 AND scope = ?3 AND sequence <> ?4
"""
_CANCEL_PREFETCH = f"DELETE FROM need WHERE directory = ?1 AND name = ?2 AND scope = {Scope.PREFETCH:d}"

NeedRow = tuple[int, str, int, int, float, float, float, float, bool, int, bool]


class Recorder:
    """Writes batches; lives in the writing thread."""

    def __init__(self, names: Names, *, timing: Timing, unforced: frozenset[str], expand_limit: int) -> None:
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

    def record(self, connection: sqlite3.Connection, batch: Batch, route: Route, *, now: float) -> Recorded:
        """Write the batch: index and needs, each key once; return its sequence and what it came to."""
        recorded = Recorded(next_sequence(connection))
        work = _Work(
            connection=connection,
            names=self._names,
            timing=self._timing,
            unforced=self._unforced,
            expand_limit=self._expand_limit,
            index=IndexWriter(connection, self._names),
            recorded=recorded,
            batch=batch,
            route=route,
            now=now,
            flying=_flying_directories(connection),
        )
        for change in batch.changes:
            if change.kind in (ChangeKind.SUBTREE, ChangeKind.SUBTREE_DELETED):
                work.flush()
                work.subtree(change)
            else:
                work.add(change)
        work.flush()
        return recorded


@dataclass(slots=True, kw_only=True)
class _Work:
    """One batch being written."""

    connection: sqlite3.Connection
    names: Names
    timing: Timing
    unforced: frozenset[str]
    expand_limit: int
    index: IndexWriter
    recorded: Recorded
    batch: Batch
    route: Route
    now: float
    flying: dict[int, list[tuple[str, int]]]
    rows: list[NeedRow] = field(default_factory=list)
    cancelled: list[tuple[int, str]] = field(default_factory=list)

    def add(self, change: Change) -> None:
        """Take one object's change."""
        scan_sequence = self.batch.scan_sequence
        if scan_sequence is not None and self.index.newer(change.root, change.key, scan_sequence):
            self.recorded.outdated += 1
            return
        forced = bool(self.unforced) and self._validator_stands(change)
        if change.kind is ChangeKind.DELETED:
            self.index.remove(change.root, change.key, self.recorded.sequence, self.now)
        else:
            self.index.put(change.root, change.key, change.fingerprint, self.recorded.sequence)
        if not self.batch.seed:
            self._needs(change, forced)

    def _needs(self, change: Change, forced: bool) -> None:
        try:
            inputs = self.route(change)
        except KeyRejected as error:
            self._set_aside(change, str(error))
            return
        now, timing = self.now, self.timing
        stale = change.event_time
        if stale is None or not now - OLDEST_EVENT_SECONDS <= stale <= now:
            stale = now
        quiet = timing.quiet_seconds if change.finished else timing.unfinished_quiet_seconds
        cap = timing.cap_seconds if change.finished else timing.unfinished_cap_seconds
        for target, url, scope, delay in inputs:
            target_id = self.names.target(self.connection, target)
            place = directory_of(url)
            directory = self.names.directory(self.connection, target_id, place)
            self.rows.append(
                (
                    directory,
                    url[len(place) :],
                    int(scope),
                    self.recorded.sequence,
                    stale,
                    now,
                    now + min(quiet, cap) + delay,
                    cap + delay,
                    not change.finished or delay > 0,
                    self._flying_over(target_id, place),
                    forced and target in self.unforced,
                )
            )
            if change.kind is ChangeKind.DELETED:
                self.cancelled.append((directory, url[len(place) :]))

    def flush(self) -> None:
        """Write what was taken so far; a subtree must find it in place."""
        self.index.flush()
        if self.rows:
            rows = sorted(self.rows)
            if self.connection.executemany(_INSERT, rows).rowcount < len(rows):
                self.connection.executemany(_UPDATE, rows)
            self.recorded.needs += len(rows)
            self.rows = []
        if self.cancelled:
            self.connection.executemany(_CANCEL_PREFETCH, self.cancelled)
            self.cancelled = []

    def subtree(self, change: Change) -> None:
        """Turn a subtree into exact needs where the index knows it and it is small, into one subtree need elsewhere."""
        known = self.index.count_below(change.root, change.key)
        deleted = change.kind is ChangeKind.SUBTREE_DELETED
        if deleted and known <= self.expand_limit and (known or self.index.seeded(change.root)):
            for key in self.index.keys_below(change.root, change.key):
                self.add(change._replace(key=key, kind=ChangeKind.DELETED, fingerprint=None))
            return
        if deleted:
            self.index.doom(change.root, change.key, self.recorded.sequence)
        if not self.batch.seed:
            self._needs(change, forced=False)

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

    def _flying_over(self, target: int, place: str) -> int:
        """Return the highest watermark of the directory attempts under way above this place, or 0."""
        return max((mark for url, mark in self.flying.get(target, ()) if place.startswith(url)), default=0)

    def _set_aside(self, change: Change, reason: str) -> None:
        self.recorded.rejected.append((change.key, reason))
        self.connection.execute(
            "INSERT INTO dead_letter (at, source, kind, subject, reason) VALUES (?, ?, 'key', ?, ?)"
            " ON CONFLICT DO UPDATE SET at = excluded.at, reason = excluded.reason",
            (self.now, change.root, key_to_bytes(change.key), reason),
        )


def _flying_directories(connection: sqlite3.Connection) -> dict[int, list[tuple[str, int]]]:
    flying: dict[int, list[tuple[str, int]]] = {}
    rows: Iterable[tuple[int, str, int]] = connection.execute(
        "SELECT target, url, watermark FROM attempt WHERE active = 1 AND kind = 'directory'"
    )
    for target, url, watermark in rows:
        flying.setdefault(target, []).append((url, watermark))
    return flying
