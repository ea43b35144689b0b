"""
From events to changes: names are looked at, held while unfinished, guarded against mass deletion, compared by bytes.

Deletions are held until none has come for a moment, and then judged as a whole by the deletion guard: none of a mass
deletion is reported before that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from listener.change import Change, ChangeKind, Fingerprint, key_to_bytes, key_to_text
from listener.contracts import Delivery
from listener.sources.filesystem.deletion_guard import DeletionGuard
from listener.sources.filesystem.known import (
    SETTLE_SECONDS,
    Acks,
    Lives,
    Standing,
    is_proved_same,
    keys_below,
    same_state,
    standing_of,
    with_digest,
)
from listener.sources.filesystem.names import FileStats, StatReader
from listener.sources.filesystem.outstanding import (
    REPLACED,
    Activity,
    HardLinks,
    Rescans,
    Unfinished,
    Unread,
    is_directory_gone,
)
from listener.sources.filesystem.pending_names import Batch, batch_of
from listener.sources.filesystem.settings import Root
from listener.sources.filesystem.walker import find_names, holds_files
from listener.sources.filesystem.watcher import Watcher

__all__ = ["Live"]

_new = tuple.__new__
_CONTENT = ChangeKind.CONTENT
"""A member of an enumeration is slow to look up, which counts for every file of a burst."""
_MOST_BIRTHS = 100_000
_BATCHES_AT_ONCE = 16
"""So that a storm that never ends keeps nothing else from its turn."""


async def _nothing() -> None:
    """Do nothing."""


class Live:
    """The part of a session that turns events into deliveries."""

    def __init__(
        self,
        root: Root,
        *,
        stat_reader: StatReader,
        acks: Acks,
        deletion_guard: DeletionGuard,
        rescans: Rescans,
    ) -> None:
        """Work on one root; :meth:`follow` says what watches it."""
        self.watcher = Watcher()
        self.may_skip = False
        """True once the index is complete, so that changes are compared with it."""
        self.skipped = 0
        """Files that came with the bytes that the index knows."""
        self.transient = 0
        """Names that came and went before anything was reported of them."""
        self.unread = Unread()
        """What could not be looked at, by scans and by looks at what events named."""
        self.activity = Activity()
        """Of looks and of scans."""
        self.before_deleting = _nothing
        """Called before deletions are judged, so that the deletion guard knows what it must."""
        self._more = False
        self._births: set[str] = set()
        """Names that were created since the root is watched, while not everything that was there before is known."""
        self._hints: set[bytes] = set()
        self.unfinished = Unfinished(
            stable_seconds=root.settings.stable_seconds, cap_seconds=root.settings.unfinished_cap_seconds
        )
        self._hard_links = HardLinks()
        self._ignore = root.ignore
        self._links = root.links
        self._name = root.name
        self._root = root.path
        self._settings = root.settings
        self._most_compared_bytes = root.settings.most_compared_bytes
        self._index = root.index
        self.stat_reader = stat_reader
        self._acks = acks
        self._deletion_guard = deletion_guard
        self._rescans = rescans

    @property
    def _lives(self) -> Lives:
        return Lives(self.may_skip, self._births, tuple(one.prefix for one in self._rescans.waiting()))

    def next_due(self, now: float) -> float:
        """Return in how many seconds there is something to do without a new event."""
        if self._more or self._hints:
            return 0.0
        dues = (self.unfinished.next_look(now), self._deletion_guard.next_release(now), self._hard_links.next_due(now))
        return min(due for due in (max(0.0, self.watcher.found_due - now), *dues) if due is not None)

    def follow(self, watcher: Watcher) -> None:
        """Take names from this watcher from now on."""
        self.watcher = watcher

    def look_at(self, paths: Iterable[bytes]) -> None:
        """Look soon at these paths of files and links, relative to the root, of which no event speaks."""
        self._hints.update(paths)

    def search_names(self, files: Mapping[int, int]) -> None:
        """Search soon for those names of these files (:func:`.links.file_number`, number of names) that are unknown."""
        self._hard_links.want(files, time.monotonic())

    async def deliveries(self) -> AsyncIterator[Delivery]:
        """Yield what has come up since the last call, then end."""
        if not self.watcher.has_names and self.next_due(time.monotonic()) > 0:
            return
        with self.activity.reading():
            async for delivery in self._due_deliveries():
                yield delivery

    async def _due_deliveries(self) -> AsyncIterator[Delivery]:
        self._more = False
        for _ in range(_BATCHES_AT_ONCE):
            if not self._hints and not self.watcher.has_names:
                break
            batch, looks = await asyncio.to_thread(self._take, self.watcher)
            self._note_births(batch)
            for prefix, reason in batch.rescans.items():
                self._rescans.want(key_to_text(prefix), reason, time.monotonic())
            for key, error in looks.unknown.items():
                self.unread.note(key, error)
            self._follow_links(looks)
            self.search_names(looks.hard_links)
            looks.gone.extend(await self._gone_unwatched(batch.gaps))
            for delivery in self._deliver(*await self._changes(batch, looks)):
                yield delivery
            if not batch.is_hint and batch.name_count < self._settings.batch_changes:
                break  # all events were taken: what comes meanwhile makes a batch of its own, at the next call
        else:
            self._more = True
        for later in (self._after_searching, self._after_writing, self._after_holding):
            for delivery in self._deliver(*await later()):
                yield delivery

    def _note_births(self, batch: Batch) -> None:
        """
        Add the births that a batch proves.

        Until that is proved of every name, earlier births count on: the events of one short life may come in
        several batches. Not where events were lost: the name may have gone, come again and been visited.
        """
        is_sure = self._lives.is_sure
        if is_sure or batch.rescans or len(self._births) > _MOST_BIRTHS:
            self._births = {key for key in self._births if key in self.unfinished}
        if not is_sure:
            self._births.update(batch.births())

    def _deliver(self, changes: list[Change], learnt: list[Change]) -> list[Delivery]:
        """Make deliveries of changes, and of what only the index is to learn."""
        sides = ((learnt, True), (changes, False))
        return [self._acks.deliver(some, seed=seed) for some, seed in sides if some]

    def _follow_links(self, looks: FileStats) -> None:
        """Have directories behind links compared with the index; what was a file of that name is gone."""
        for key in looks.linked:
            if not self._settings.follow_symlinks:
                looks.gone.append(key.rstrip("/"))
                continue
            # Where the index is complete it knows best whether a file of that name was there before.
            if self._lives.is_complete or not self.watcher.is_known(key_to_bytes(key)):
                looks.gone.append(key.rstrip("/"))
            self._rescans.want(key, "a link to a directory came or was switched", time.monotonic(), prompt=True)

    def _take(self, watcher: Watcher) -> tuple[Batch, FileStats]:
        if self._hints:
            some = [self._hints.pop() for _ in range(min(len(self._hints), self._settings.batch_changes))]
            batch = batch_of(some)
        else:
            batch = watcher.take(self._settings.batch_changes)
        return batch, self.stat_reader.all(batch, time.time_ns(), watcher.is_watched)

    async def _changes(self, batch: Batch, looks: FileStats) -> tuple[list[Change], list[Change]]:
        now = time.monotonic()
        gone = await asyncio.to_thread(self._without_replaced, batch.gone) if batch.gone else ()
        linked = self._unlinked(looks)
        if self.unfinished:
            self.unfinished.end_all([*looks.gone, *looks.finished])
        begin = self.unfinished.begin
        excess = {
            look.key: look.fingerprint
            for look in looks.unfinished
            if not begin(look.key, look.fingerprint, now, from_event=look.from_event)
        }
        subtrees = [
            Change(self._name, key_to_text(prefix), ChangeKind.SUBTREE_DELETED, event_time=time.time())
            for prefix in (*gone, *map(key_to_bytes, linked))
        ]
        finished = {**looks.finished, **excess} if excess else looks.finished
        standing = await self._standing([*looks.gone, *finished])
        ends = self._ends(looks.gone, standing, looks.linked)
        self._deletion_guard.hold([*subtrees, *ends], now, indexed=standing.known)
        return await self._contents(finished, looks.in_place | excess.keys(), standing)

    def _without_replaced(self, gone: Iterable[bytes]) -> list[bytes]:
        """Return the directories that are gone; what stands in place of the others is to be compared with them."""
        absent = [prefix for prefix in gone if is_directory_gone(self._root + prefix, follow=False)]
        for prefix in set(gone).difference(absent):
            self._rescans.want(key_to_text(prefix), REPLACED, time.monotonic(), prompt=True)
        return absent

    def _unlinked(self, looks: FileStats) -> list[str]:
        """Return the directories behind links that went, or were replaced by something else, and unwatch them."""
        if not looks.unlinked and not self.stat_reader.has_links:
            return []
        unlinked = {key + "/" for key in looks.unlinked if self._settings.follow_symlinks}
        dropped = {
            prefix
            for prefix in (*unlinked, *(key + "/" for key in looks.gone))
            if self.watcher.drop_linked(key_to_bytes(prefix))
        }
        return sorted(unlinked | dropped)

    async def _standing(self, keys: Collection[str]) -> Standing:
        return await standing_of(self._index, self._acks, self._name, keys, self._lives)

    def _ends(self, keys: Iterable[str], standing: Standing, linked: Collection[str] = ()) -> list[Change]:
        """Return the ends of names; one that nothing was reported of needs none, and is transient unless ``linked``."""
        new = standing.new(keys)
        ends = [key for key in keys if key not in new]
        self.transient += len(new.difference(key.rstrip("/") for key in linked))
        now = time.time()
        return [Change(self._name, key, ChangeKind.DELETED, event_time=now) for key in ends]

    def _change(self, key: str, found: Fingerprint, *, finished: bool = True, is_birth: bool = False) -> Change:
        moment = None if found.ctime_ns is None else found.ctime_ns / 1e9
        return _new(Change, (self._name, key, _CONTENT, found, moment, None, finished, False, is_birth))

    async def _gone_unwatched(self, gaps: Iterable[bytes]) -> list[str]:
        """Return the known files that went while their directory was not watched: no listing can show them."""
        gone: list[str] = []
        if gaps:
            # What was reported of these directories must be in the index, or its end would be missed.
            await self._acks.settled(SETTLE_SECONDS)
        for directory in map(key_to_text, gaps):
            rows = await self._index.directory(self._name, directory)
            gone.extend(await asyncio.to_thread(self.stat_reader.missing, directory, rows))
        return gone

    # --- deletions ------------------------------------------------------------------------------

    async def _files_in(self, deletions: Collection[Change]) -> int:
        """Return how many known files these deletions stand for, each once; counted no further than what decides."""
        outermost: list[str] = []
        for key in sorted(change.key for change in deletions if change.kind is ChangeKind.SUBTREE_DELETED):
            if not outermost or not key.startswith(outermost[-1]):
                outermost.append(key)
        limit = self._deletion_guard.look_limit
        files = {change.key for change in deletions if change.kind is ChangeKind.DELETED}
        count = len(files) - len(keys_below(files, set(outermost)))
        for top in outermost:
            for directory in await self._index.directories(self._name, top):
                if count >= limit:
                    return count
                count += len(await self._index.directory(self._name, directory))
        return count

    async def _after_holding(self) -> tuple[list[Change], list[Change]]:
        """Judge the deletions that were held, once no more come."""
        guard = self._deletion_guard
        if guard.next_release(time.monotonic()) != 0:
            return [], []
        await self.before_deleting()
        held, indexed = guard.release()
        count = await self._files_in(held)
        if not guard.is_holding_back:
            empty = not await asyncio.to_thread(holds_files, self._root)
            guard.judge_burst(count, time.monotonic(), root_empty=empty)
        if guard.refused:  # what comes while deletions are held back is part of them
            if not guard.suspended:
                self._rescans.want("", "many files are gone at once", time.monotonic())
            return [], []
        true, back = await asyncio.to_thread(self._still_gone, await self._unreported(held, indexed))
        guard.note_passed(await self._files_in(true) if len(true) < len(held) else count, time.monotonic())
        for change in back:
            if change.kind is ChangeKind.SUBTREE_DELETED:
                self._rescans.want(change.key, REPLACED, time.monotonic(), prompt=True)
        return true, []

    async def _unreported(self, held: Collection[Change], indexed: Collection[str]) -> list[Change]:
        """Return the deletions of this list that no scan reported meanwhile: the index has lost what one did."""
        under_way = self._acks.keys_under_way(indexed)
        known = await self._index.objects(self._name, list(indexed)) if indexed else {}
        reported = set(indexed).difference(known, under_way)
        return [change for change in held if change.key not in reported]

    def _still_gone(self, held: Iterable[Change]) -> tuple[list[Change], list[Change]]:
        sides: tuple[list[Change], list[Change]] = ([], [])
        for change in held:
            # A file's name may be a directory's by now, and the other way round.
            if change.kind is ChangeKind.SUBTREE_DELETED:
                is_back = not is_directory_gone(self._root + key_to_bytes(change.key))
            else:
                is_back = not self.stat_reader.is_gone(change.key)
            sides[is_back].append(change)
        return sides

    # --- unfinished and unchanged ----------------------------------------------------------------

    async def _after_writing(self) -> tuple[list[Change], list[Change]]:
        """Look at the files that were being written."""
        keys = self.unfinished.keys(time.monotonic(), self._settings.batch_changes)
        if not keys:
            return [], []
        found = await asyncio.to_thread(self._look_at, keys)
        verdicts = list(self.unfinished.looked(found, time.monotonic()))
        standing = await self._standing([verdict.key for verdict in verdicts])
        gone = self._ends([verdict.key for verdict in verdicts if verdict.fingerprint is None], standing)
        there = {each.key: each.fingerprint for each in verdicts if each.fingerprint is not None}
        in_place = {each.key for each in verdicts if each.from_event}
        changes, learnt = await self._contents(there, in_place, standing)
        if unfinished := {verdict.key for verdict in verdicts if not verdict.finished}:
            changes = [change._replace(finished=change.key not in unfinished) for change in changes]
        self._deletion_guard.hold(gone, time.monotonic(), indexed=standing.known)
        return changes, learnt

    def _look_at(self, keys: Iterable[str]) -> dict[str, Fingerprint | None]:
        """Look at files that were being written; those that cannot be looked at are let go, and noted."""
        found: dict[str, Fingerprint | None] = {}
        self.stat_reader.look_afresh()
        for key in keys:
            try:
                found[key] = self.stat_reader.at(key)
            except OSError as error:
                self.unfinished.end(key)
                self.unread.note(key, error.errno or 0)
        return found

    async def _after_searching(self) -> tuple[list[Change], list[Change]]:
        """Search for the other names of files that were given some, and report those that changed meanwhile."""
        began = time.monotonic()
        wanted = self._hard_links.take(began)
        if not wanted:
            return [], []
        is_watched = self.watcher.is_watched
        there = {} if self.watcher.is_polling else await asyncio.to_thread(self._find_names, wanted, is_watched)
        self._hard_links.searched(began, time.monotonic())
        return await self._contents(there, set(), await self._standing(there))

    def _find_names(self, wanted: Mapping[int, int], is_watched: Callable[[bytes], bool]) -> dict[str, Fingerprint]:
        follow = self._settings.follow_symlinks
        keys = find_names(self._root, self._ignore, self._links, wanted, follow=follow, is_watched=is_watched)
        return self.stat_reader.names(keys, wanted, is_watched)

    async def _contents(
        self, there: Mapping[str, Fingerprint], in_place: AbstractSet[str], standing: Standing
    ) -> tuple[list[Change], list[Change]]:
        """Return what is there as changes, and apart from them the files that are proved to be unchanged."""
        changes: list[Change] = []
        learnt: list[Change] = []
        touched: list[tuple[str, Fingerprint, Fingerprint]] = []
        new, reported = standing.new(there), standing.before()
        for key, found in there.items():
            before = reported.get(key)
            if before is not None and (key not in in_place or self._settings.skip_unchanged == "always"):
                touched.append((key, found, before))
            else:
                changes.append(self._change(key, found, is_birth=key in new))
        self._deletion_guard.note_births(len(new))
        for key, now, before in await asyncio.to_thread(self._compared, touched) if touched else ():
            if not is_proved_same(before, now):
                changes.append(self._change(key, now))
            elif not same_state(before, now):
                learnt.append(self._change(key, now))
                self.skipped += 1
            elif key in in_place:
                changes.append(self._change(key, now))
        return changes, learnt

    def _compared(
        self, touched: Iterable[tuple[str, Fingerprint, Fingerprint]]
    ) -> list[tuple[str, Fingerprint, Fingerprint]]:
        root, most = self._root, self._most_compared_bytes
        return [(key, with_digest(root, key, found, before, most_bytes=most), before) for key, found, before in touched]
