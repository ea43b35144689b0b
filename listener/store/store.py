"""The store as everything else sees it: coroutines whose result is durable, and reads that never wait for a writer."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from listener.allowances import Allowance
from listener.change import Fingerprint, ObjectState
from listener.clock import Clock
from listener.configuration import is_postgres, sqlite_path
from listener.contracts import DirectoryComparison, SourceHealth, Unreadable
from listener.refresh import Attempt, NeedInput, Priority, QuotaReading, RefreshKind
from listener.settings import CoalescerSettings, InstanceSettings
from listener.store import (
    answers,
    attempts,
    controls,
    index,
    ledger,
    letters,
    needs,
    report,
    reserve,
    retention,
    staleness,
    transitions,
)
from listener.store.access import SLICE_ROWS, Access, Driver
from listener.store.batches import Batch, Recorded, joined, slices
from listener.store.connection import Connection
from listener.store.controls import Progress, load_progress, save_progress
from listener.store.copies import CopiedSources, Copies, Difference, copy_root, instance_of, source_of
from listener.store.filtering import Suppressed, add_messages, known_messages, note_redelivered, suppressed_of
from listener.store.index import bounded_text
from listener.store.letters import EVERY_LETTER, DeadLetter, Dropped, LetterFilter
from listener.store.postgres import require_driver
from listener.store.record import Recorder, Route, RouteFolder, no_folder
from listener.store.sqlite.access import SqliteDriver

__all__ = ["Store", "StoreOptions", "open_store"]

RECORD_ROWS = 500
"""Changes that one operation records at most: each may touch pages of its own."""
REMOVE_ROWS = 500
"""Rows that one operation removes at most: they are spread over more pages."""
FIRST_SCAN_DIRECTORIES = 100
"""Directories that are compared with the other copies in one read."""
STEP_MARGIN_SECONDS = 30.0
T = TypeVar("T")


def _parts(these: Sequence[T], size: int = SLICE_ROWS // 2) -> Iterator[Sequence[T]]:
    """Yield attempts in parts that one operation may take: each is several rows, whose writing takes some 10 ms."""
    return (these[start : start + size] for start in range(0, len(these), size))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """What the store needs to know of the configuration."""

    timing: CoalescerSettings = field(default_factory=CoalescerSettings)
    unforced: frozenset[str] = frozenset()
    """Targets whose directory refreshes only revalidate."""
    expand_limit: int = 1_000
    """The most objects for which a deleted subtree becomes exact needs."""
    instance: str = ""
    """The name of this instance, which a PostgreSQL server lists; empty: the host name."""
    lease_seconds: float = 6.0
    """How long an instance leads accounts without a renewal; only in a PostgreSQL store."""
    prepared: bool = True
    """Whether statements may stay prepared in sessions of a PostgreSQL server."""
    copied: CopiedSources | None = None
    """Sources with a copy of their tree on each instance; of a PostgreSQL store only."""
    owned: frozenset[str] = frozenset()
    """Sources that one of the instances reads."""


def open_store(
    url: str,
    *,
    options: StoreOptions | None = None,
    clock: Clock | None = None,
    owner: bool = False,
    readonly: bool = False,
) -> Store:
    """
    Open the store that a URL names, made where there is none.

    Args:
        url: ``sqlite:////absolute/path.db``, ``sqlite:///relative/path.db``, or ``postgresql://…`` as libpq reads it.
        options: what it needs of the configuration.
        clock: the time of day; by default the machine's, in a PostgreSQL store the server's.
        owner: whether this process sends from it; one at a time may.
        readonly: make and change nothing; works without the right to write.

    Raises:
        ConfigurationError: the URL names no store, or the package for it is not installed.
        StoreBusy: another process owns it.
        StoreUnusable: the file is corrupt, foreign or of a newer version; it was left as it is.
        StoreError: the server was not reached.
    """
    options = options or StoreOptions()
    driver = _driver(url, options, owner=owner, readonly=readonly)
    return Store(driver, options=options, clock=clock, copies=_copies(url, options))


def _driver(url: str, options: StoreOptions, *, owner: bool, readonly: bool) -> Driver:
    if not is_postgres(url):
        return SqliteDriver(sqlite_path(url), owner=owner, readonly=readonly)
    require_driver()
    from listener.store.postgres.access import PostgresDriver  # noqa: PLC0415 - an extra

    instance = options.instance or InstanceSettings().effective_name
    idle_seconds = options.lease_seconds / 3 if owner else None
    return PostgresDriver(
        url,
        instance=instance,
        owner=owner,
        readonly=readonly,
        prepared=options.prepared,
        idle_seconds=idle_seconds,
    )


def _copies(url: str, options: StoreOptions) -> Copies | None:
    if options.copied is None or not is_postgres(url):
        return None
    from listener.store.postgres.copies import PostgresCopies  # noqa: PLC0415 - an extra

    return PostgresCopies(options.copied)


class Store(Access):
    """A store, open. Coroutines return once what they did is durable."""

    def __init__(
        self, driver: Driver, *, options: StoreOptions, clock: Clock | None = None, copies: Copies | None = None
    ) -> None:
        """Take over the driver of an open database; use :func:`open_store`."""
        super().__init__(driver, clock=clock, copies=copies)
        self._expand_limit = options.expand_limit
        self._timing = options.timing
        self._recorder = Recorder(
            self._names,
            timing=options.timing,
            unforced=options.unforced,
            expand_limit=options.expand_limit,
            copies=copies,
            longest_path_bytes=driver.longest_path_bytes,
        )

    # -- recording -------------------------------------------------------------------------------

    async def record(self, batches: Sequence[Batch], route: Route, folders: RouteFolder = no_folder) -> list[Recorded]:
        """
        Make index rows and needs of these batches durable; each change's are written in one transaction.

        ``folders`` routes the plain names of a folder at once, to the same needs as ``route``. A large batch is
        committed in slices. When one fails the whole is to be recorded once more: that does no harm.
        """
        sliced = [list(slices(batch, RECORD_ROWS, subtree=self._expand_limit)) for batch in batches]
        recorded = iter(await self._record([part for parts in sliced for part in parts], route, folders))
        whole = [joined([next(recorded) for _ in parts]) for parts in sliced]
        # Of a batch in slices only once all are durable: any one may fail.
        ids = [one for batch, parts in zip(batches, sliced, strict=True) if len(parts) > 1 for one in batch.message_ids]
        if ids:
            await self._write(add_messages, ids, now=self.clock.now())
        return whole

    async def known_messages(self, ids: Sequence[str]) -> frozenset[str]:
        """Return which of these messages of queues were recorded."""
        return await self._read(known_messages, ids)

    async def note_redelivered(self, urls: Sequence[str]) -> None:
        """Keep for each of these URLs that a change of it was delivered again and not recorded."""
        await self._write(note_redelivered, urls, now=self.clock.now())

    async def _record(self, parts: Sequence[Batch], route: Route, folders: RouteFolder) -> list[Recorded]:
        """Queue all parts before waiting for the first, so that no other batch comes between them."""
        try:
            return list(await asyncio.gather(*(self._write(self._record_part, part, route, folders) for part in parts)))
        except (UnicodeError, OverflowError):
            sanitize = (self._write(self._record_part, part, route, folders, sanitize=True) for part in parts)
            return list(await asyncio.gather(*sanitize))

    def _record_part(
        self, connection: Connection, part: Batch, route: Route, folders: RouteFolder, *, sanitize: bool = False
    ) -> Recorded:
        now = self.clock.now()
        return self._recorder.record(connection, part, route, now=now, folders=folders, sanitize=sanitize)

    async def request(
        self,
        inputs: Sequence[NeedInput],
        *,
        urgent: bool = False,
        reason: str | None = None,
        priority: Priority = Priority.LIVE,
    ) -> int:
        """Make needs that are due at once, as a person or a backfill asked; return their sequence."""
        sequence = 0
        for start in range(0, len(inputs), SLICE_ROWS):
            part = inputs[start : start + SLICE_ROWS]
            sequence = await self._write(
                controls.request,
                self._names,
                part,
                now=self.clock.now(),
                urgent=urgent,
                reason=reason,
                priority=priority,
            )
        return sequence

    # -- index -----------------------------------------------------------------------------------

    async def sequence(self) -> int:
        """Return the highest sequence given out."""
        return await self._read(lambda c: int(c.execute("SELECT sequence FROM meta").fetchone()[0]))

    async def revision(self) -> int:
        """Return a number that is another one after whatever a plan may depend on that has no time."""
        return await self._read(index.revision)

    async def note_revision(self) -> None:
        """Let every instance plan again for what is ready."""
        await self._write(index.note_revision)

    async def directory(self, root: str, directory: str) -> Mapping[str, Fingerprint]:
        """Return the objects known directly in a directory of a storage: name to fingerprint."""
        return await self._read(index.directory_objects, self._root(root), directory)

    async def contents(self, root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        """Return the objects known directly in each of these directories, as of one instant."""
        return await self._read(
            lambda c: {each: index.directory_objects(c, self._root(root), each) for each in directories}
        )

    async def compare(
        self, root: str, listed: Mapping[str, Sequence[ObjectState]]
    ) -> Mapping[str, DirectoryComparison]:
        """Compare what was listed directly in each of these directories with the index, as of one instant."""
        return await self._read(index.compare_directories, self._root(root), listed)

    async def objects(self, root: str, keys: Sequence[str]) -> Mapping[str, Fingerprint]:
        """Return those of these objects that are known: key to fingerprint."""
        return await self._read(index.objects_named, self._root(root), keys)

    async def directory_page(
        self, root: str, directory: str, after: str | None, *, limit: int
    ) -> Sequence[tuple[str, Fingerprint]]:
        """Return the next objects known directly in a directory, by the bytes of their names: after one, or all."""
        return await self._read(lambda c: index.directory_page(c, self._root(root), directory, after, limit=limit))

    async def directories(self, root: str, prefix: str = "") -> Sequence[str]:
        """Return every directory of a storage at or below ``prefix`` that holds known objects."""
        return await self._read(index.directories_below, self._root(root), prefix)

    async def seeded(self, root: str) -> bool:
        """Return whether a first listing of this root was finished."""
        return await self._read(index.is_seeded, self._root(root))

    async def mark_seeded(self, root: str) -> None:
        """Note that the first listing of this root is finished; of a copy make the needs that it leads to before."""
        if (copies := self._copies) is not None and root in copies.sources.names:
            await self._record_first_scan(copies, root)
        await self._write(index.mark_seeded, self._names, root)

    async def _record_first_scan(self, copies: Copies, source: str) -> None:
        after: bytes | None = None
        while True:
            changes, after = await self._read(copies.first_scan, source, after=after, limit=FIRST_SCAN_DIRECTORIES)
            if changes:
                await self.record([Batch(changes)], copies.sources.route)
            if after is None:
                return

    def _root(self, root: str) -> str:
        """Return under which name the index has a root: of a source with copies it is that of this instance's."""
        return self._names.own_roots.get(root, root)

    async def different_copies(self, *, limit: int = 100) -> Sequence[Difference]:
        """Return the keys at which copies of one tree on several instances stayed different, the oldest first."""
        return [] if self._copies is None else await self._read(self._copies.differences, limit=limit)

    # -- needs -----------------------------------------------------------------------------------

    async def agenda(self) -> attempts.Agenda:
        """Return what is due next, from one read."""
        return await self._read(attempts.agenda)

    async def next_due(self) -> float | None:
        """Return when the next waiting need is due, in seconds since the epoch."""
        return await self._read(transitions.next_due)

    async def promote_due(self) -> transitions.Promoted:
        """Turn waiting needs that are due to ready ones, in slices; return how many, by target and scope."""
        total: transitions.Promoted = Counter()
        now = self.clock.now()
        # What is due has been looked at, unless another leader just does that.
        while self._copies is not None and await self._write(self._copies.postpone, now=now, limit=SLICE_ROWS):
            pass
        while promoted := await self._write(transitions.promote_due, now=now, limit=SLICE_ROWS):
            total += promoted
        return total

    async def set_back(self, seconds: float) -> None:
        """Follow a clock that was set back by so much: what waits for a time waits no longer than was meant."""
        # What was written since stands at most a little after now, and is left as it is.
        newest = self.clock.now() + seconds - STEP_MARGIN_SECONDS
        await self._write(transitions.set_looks_back, after=newest, seconds=seconds)
        after: float | None = newest
        while after is not None:
            after = await self._write(transitions.set_back, after=after, seconds=seconds, limit=SLICE_ROWS)

    async def expire(self, load: needs.Load, *, before: float) -> int:
        """Settle a directory's ready needs that were stale before then: no cache still holds the old copy."""
        total = 0
        while (count := await self._write(transitions.expire, load, before=before, limit=SLICE_ROWS)) > 0:
            total += count
        return total

    # -- attempts --------------------------------------------------------------------------------

    async def recover(self) -> bool:
        """Sort out what the last owner left; return whether it crashed. The owner's first call."""
        await self._write(transitions.prolong_births, now=self.clock.now(), timing=self._timing)
        return await self._write(attempts.recover, now=self.clock.now())

    async def hold(
        self, wanted: Sequence[transitions.AttemptRequest], *, account: str, allowances: Sequence[Allowance]
    ) -> list[Attempt]:
        """Make the attempts that the account's allowances pay for, and hold their units."""
        made: list[Attempt] = []
        for part in _parts(wanted, SLICE_ROWS):
            made += await self._write(
                reserve.hold, self._names, part, account=account, now=self.clock.now(), allowances=allowances
            )
        return made

    async def mark_sending(self, ids: Sequence[int], *, token: str = "") -> list[int]:
        """Note that the request with these attempts is about to be written; return those that may still go."""
        return await self._write(transitions.mark_sending, ids, now=self.clock.now(), token=token)

    async def token_of(self, ids: Sequence[int]) -> str:
        """Return the token of the request that these attempts were sent in; empty where it has none."""
        return await self._read(attempts.token_of, ids)

    async def back_to_held(self, ids: Sequence[int]) -> None:
        """Note that the CDN surely did not accept these, which stay held for another try."""
        await self._write(attempts.back_to_held, ids)

    async def book_answer(self, answer: answers.Answer) -> None:
        """Book what the answer to a request says of each of its attempts."""
        await self._write(answers.book, answer, now=self.clock.now())

    async def accept(self, task_ids: Mapping[int, str], *, next_look_at: float, inferred: bool = False) -> None:
        """Note that the CDN accepted these attempts (id → task id); ``inferred``: as the task list shows."""
        await self._write(attempts.accept, task_ids, now=self.clock.now(), next_look_at=next_look_at, inferred=inferred)

    async def mark_unknown(self, ids: Sequence[int], *, next_look_at: float, error: str) -> None:
        """Note that nobody knows whether the CDN accepted these."""
        await self._write(attempts.mark_unknown, ids, next_look_at=next_look_at, error=bounded_text(error))

    async def refund(self, ids: Sequence[int]) -> None:
        """Give back the units of attempts that were surely not accepted."""
        await self._write(attempts.refund, ids)

    async def attempts_in(
        self, *states: Any, due_by: float | None = None, targets: Sequence[str] | None = None, limit: int = 10_000
    ) -> list[Attempt]:
        """Return active attempts in these states (of these targets); of those with a next look only such as are due."""
        return await self._read(attempts.attempts_in, states, due_by=due_by, targets=targets, limit=limit)

    async def complete(self, done: Sequence[Attempt]) -> None:
        """Settle what these attempts cover; a directory attempt's needs are then left to :meth:`sweep`."""
        for part in _parts(done):
            await self._write(transitions.complete, part, now=self.clock.now())

    async def sweep(self, attempt: Attempt) -> None:
        """Settle everything below a complete directory attempt, in slices."""
        after: transitions.SweepPosition | None = transitions.SweepPosition()
        while after is not None:
            after = await self._write(transitions.sweep, attempt, after, REMOVE_ROWS)

    async def fail(self, ids: Sequence[int], *, retry_at: float, error: str) -> None:
        """Note that the CDN failed these attempts; their needs are ready again at ``retry_at``."""
        for part in _parts(ids):
            await self._write(attempts.fail, part, now=self.clock.now(), retry_at=retry_at, error=bounded_text(error))

    async def end_backoff(self, ids: Sequence[int]) -> None:
        """Make the needs of failed attempts ready: their back-off is over."""
        await self._write(attempts.end_backoff, ids)

    async def presume_spent(self, ids: Sequence[int], *, error: str) -> None:
        """Book attempts with an unknown outcome as spent, and make their needs ready again."""
        await self._write(attempts.presume_spent, ids, now=self.clock.now(), error=bounded_text(error))

    async def park(self, ids: Sequence[int], *, error: str) -> None:
        """Set aside the URLs of these attempts, which the CDN refused."""
        for part in _parts(ids):
            await self._write(attempts.park, part, now=self.clock.now(), error=bounded_text(error))

    async def unconfirm(self, ids: Sequence[int], *, next_look_at: float | None, error: str) -> None:
        """Note that the task of these attempts never ended."""
        for part in _parts(ids):
            await self._write(attempts.unconfirm, part, next_look_at=next_look_at, error=bounded_text(error))

    async def look_again(self, looks: Sequence[tuple[int, float]]) -> None:
        """Note when each of these attempts (id, seconds since the epoch) is looked at next."""
        await self._write(attempts.look_again, looks)

    async def postpone(self, looks: Sequence[tuple[int, float]]) -> None:
        """Put off the next look at each of these attempts (id, seconds since the epoch)."""
        await self._write(attempts.postpone, looks)

    async def claims_at(
        self,
        urls: Sequence[str],
        *,
        account: str,
        kind: RefreshKind,
        sent_between: tuple[float, float],
        aside: Sequence[int],
    ) -> list[attempts.Claim]:
        """Return the attempts of an account that were, or may have been, sent for these URLs; see there."""
        return await self._read(
            attempts.claims_at, urls, account=account, kind=kind, sent_between=sent_between, aside=aside
        )

    async def held_ids(self) -> frozenset[int]:
        """Return the ids of all reserved attempts."""
        return await self._read(attempts.held_ids)

    # -- ledger ----------------------------------------------------------------------------------

    async def budget(self, account: str, allowance: Allowance) -> ledger.Budget:
        """Return what the account may spend of an allowance now."""
        return await self._read(ledger.budget, account, allowance, now=self.clock.now())

    async def book_share(self, bookings: Sequence[ledger.ShareBooking], *, now: float) -> bool:
        """Book units of the backfills' share where all are left; see :func:`listener.store.ledger.book_share`."""
        return await self._write(ledger.book_share, bookings, now=now)

    async def correct_ledger(
        self, account: str, allowances: Sequence[Allowance], readings: Mapping[str, QuotaReading]
    ) -> None:
        """Take a live reading by allowance, made while nothing of this account was being sent."""
        await self._write(ledger.correct, account, allowances, readings, now=self.clock.now())

    async def presume_rest_spent(self, account: str, allowances: Sequence[Allowance]) -> Mapping[str, int]:
        """Count all that is left of these allowances as spent; return how much that was."""
        return await self._write(ledger.presume_rest_spent, account, allowances, now=self.clock.now())

    # -- upkeep ----------------------------------------------------------------------------------

    async def upkeep(
        self,
        *,
        keep_seconds: float,
        configured: retention.Configured | None = None,
        counted_since: float = math.inf,
    ) -> None:
        """
        Remove, in slices, what is of no more use, and give free space back to the disk.

        Args:
            keep_seconds: for how long history is kept.
            counted_since: the start of the oldest window that counts, in seconds since the epoch: whatever was spent
                since is kept, however short the history.
            configured: the names of the configuration, where what is kept of others is to end, too.
        """
        now = self.clock.now()
        before = now - keep_seconds
        if self._copies is not None:
            await self._write(self._copies.note_use, now=now)
        if configured is not None:
            await self._retire(configured, before=before, now=now)
        await self._write(self._driver.remove_retired)
        while ids := await self._read(retention.unneeded_directory_attempts, before=before, limit=REMOVE_ROWS):
            await self._write(retention.end_directory_attempts, ids, now=now)
        counted = min(before, counted_since)
        while await self._write(retention.remove_old, before=before, counted=counted, now=now, limit=REMOVE_ROWS):
            pass
        key: retention.TombstoneKey | None = retention.FIRST_TOMBSTONE
        while key is not None:
            key = await self._write(retention.remove_old_tombstones, after=key, now=now, limit=REMOVE_ROWS)
        after: int | None = 0 if self.owner else None
        while after is not None:
            after = await self._write(retention.remove_empty, self._names, after=after, limit=SLICE_ROWS)
        while await self._write(letters.bound_letters, now=now):
            pass
        while await self._write(self._driver.give_back):
            pass

    async def _retire(self, configured: retention.Configured, *, before: float, now: float) -> None:
        """Remove what is kept of names that are configured no longer; of copies those of absent instances."""
        if self._copies is not None:
            configured = configured._replace(roots=configured.roots - self._copies.sources.names)
        retire = partial(retention.retire, names=self._names, configured=configured, before=before, now=now)
        while await self._write(lambda connection: retire(connection, limit=REMOVE_ROWS)):
            pass

    async def mark_clean(self) -> None:
        """Note that the owner left in order; its last call."""
        await self._write(lambda c: c.execute("UPDATE meta SET clean = 1").rowcount)

    async def progress(self, listing: str) -> Progress | None:
        """Return how far a backfill of this listing got."""
        return await self._read(load_progress, listing)

    async def save_progress(self, listing: str, progress: Progress) -> None:
        """Keep how far a backfill got."""
        await self._write(save_progress, listing, progress, now=self.clock.now())

    # -- reports ---------------------------------------------------------------------------------

    async def counts(self) -> report.Counts:
        """Count every need by what becomes of it next."""
        return await self._read(report.counts)

    async def history(self, *, limit: int = 50, url: str | None = None) -> list[dict[str, Any]]:
        """Return the latest attempts, newest first."""
        return await self._read(report.history, limit=limit, url=url)

    async def suppressed(self, url: str) -> Suppressed | None:
        """Return what is kept of this URL's changes for which no refresh was made; ``None`` where there were none."""
        return await self._read(suppressed_of, url)

    async def explain(self, url: str) -> list[dict[str, Any]]:
        """Return every need that makes this URL stale, those of directories above it included."""
        return await self._read(staleness.why, url)

    async def sources(self) -> dict[str, dict[str, Any]]:
        """Return what each source said of itself last, on whichever instance."""
        reports = await self.source_reports()
        return {name: max(of.values(), key=lambda row: float(row["told_at"])) for name, of in reports.items()}

    async def source_reports(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what each source said of itself last, by instance; of a state file's owner the name is empty."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for name, row in (await self._read(controls.sources)).items():
            found.setdefault(source_of(name), {})[instance_of(name)] = row
        return found

    async def save_source(self, name: str, health: SourceHealth) -> None:
        """Keep what a source says of itself, on this instance."""
        instance = self._driver.instance
        named = copy_root(name, instance) if instance else name
        await self._write(controls.save_source, named, health, now=self.clock.now())

    async def dead_letters(self, wanted: LetterFilter = EVERY_LETTER, *, limit: int = 1_000) -> list[DeadLetter]:
        """Return what was set aside, rejected URLs first; the next page begins ``after`` the last one's id."""
        return await self._read(letters.letters, wanted, limit=limit)

    async def dead_letter(self, id_: str) -> DeadLetter | None:
        """Return the dead letter of this id, if there is one."""
        return await self._read(letters.letter, id_)

    async def dead_letter_body(self, id_: str) -> bytes | None:
        """Return what was received, of the dead letter of this id; None where nothing was kept."""
        return await self._read(letters.body, id_)

    async def dropped_letters(self) -> list[Dropped]:
        """Return what was dropped for lack of room, by source and kind."""
        return await self._read(letters.dropped)

    async def add_dead_letters(self, source: str, messages: Sequence[Unreadable]) -> None:
        """Set messages aside that cannot be read."""
        for start in range(0, len(messages), letters.SLICE_ROWS):
            part = messages[start : start + letters.SLICE_ROWS]
            await self._write(letters.add_messages, source=source, messages=part, now=self.clock.now())

    async def retry(self, url: str | None = None) -> int:
        """Send rejected URLs once more, or one of them."""
        return await self._write(letters.retry, url=url)

    async def discard(self, subject: str | None = None) -> int:
        """Forget what was set aside, or one of it."""
        return await self._write(letters.discard, subject=subject)

    async def ended(self, *, since: float) -> list[report.Ended]:
        """Return the attempts that ended since then (seconds since the epoch), oldest first."""
        return await self._read(report.ended, since=since)

    async def stale(
        self, given: staleness.Surroundings, *, url: str | None = None, limit: int = staleness.MOST_LISTED
    ) -> list[staleness.StaleNeed]:
        """Return the oldest of what is stale, or everything that makes one URL stale, with reasons."""
        if url is None:
            return await self._read(staleness.oldest_stale, given, limit=limit)
        return await self._read(staleness.stale_at, given, url)

    async def stale_below(
        self, given: staleness.Surroundings, places: Sequence[controls.Place], *, limit: int
    ) -> list[staleness.StaleNeed]:
        """Return the oldest of what is stale at or below these places, with reasons."""
        return await self._read(staleness.stale_below, given, places, limit=limit)

    async def refreshed_last(self, url: str) -> report.Refreshed | None:
        """Return the newest complete refresh of a URL: of its own, or of a directory above it."""
        return await self._read(report.refreshed_last, url)

    async def unsettled(self, place: controls.Place, *, changed_before: float) -> list[staleness.Unsettled]:
        """Return what is still stale there of what changed up to then (seconds since the epoch), prefetches aside."""
        return await self._read(staleness.unsettled, place, changed_before)

    async def accounts(self) -> list[controls.AccountReport]:
        """Return what each account's sender reported last."""
        return await self._read(controls.accounts)

    async def save_account(self, account: controls.AccountReport) -> None:
        """Keep what an account's sender reports."""
        await self._write(controls.save_account, account, now=self.clock.now())
