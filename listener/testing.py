"""
Conformance suites: tests that every source and every target must pass.

Derive a class whose name starts with ``Test`` in a test module of your package, say how to make your plugin and how to
drive what stands behind it, and run pytest. No pytest plugin is needed; every test runs its own event loop::

    class TestJsonLog(SourceConformance):
        def make_source(self, folder): ...
        async def change(self, folder, key): ...

A test whose hook is not overridden passes without doing anything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Protocol, Self

from pydantic import BaseModel

from listener.change import Change, ChangeKind, Fingerprint, ObjectState
from listener.contracts import (
    Check,
    CheckState,
    Delivery,
    DirectoryComparison,
    ProvidesSetup,
    ReportsTasks,
    Source,
    SourceState,
    Target,
    Unreadable,
)
from listener.errors import ConfigurationError, NotSent, OutcomeUnknown, SourceError, TargetError
from listener.refresh import RefreshKind

__all__ = ["Follower", "MemoryIndex", "Service", "SourceConformance", "TargetConformance"]

STOP_SECONDS: Final = 20.0
"""How long a cancelled source may take to end, on a busy machine."""
GONE_NEIGHBOURS: Final = ("gone-too/a.html", "gone.html", "gon/a.html")
"""Keys that begin like the directory that a test deletes, and are outside of it."""


class MemoryIndex:
    """An index in memory, which applies deliveries as the store does; see :class:`listener.contracts.IndexView`."""

    def __init__(self) -> None:
        """Contain nothing."""
        self.rows: dict[str, tuple[Fingerprint, int]] = {}
        self.by_directory: dict[str, dict[str, Fingerprint]] = {}
        self.tombs: dict[str, int] = {}
        self.is_seeded = False
        self.high = 0

    async def sequence(self) -> int:
        """Return the highest sequence."""
        return self.high

    async def directory(self, root: str, directory: str) -> Mapping[str, Fingerprint]:  # noqa: ARG002 - one root
        """Return the objects directly in a directory."""
        return dict(self.by_directory.get(directory, {}))

    async def directory_page(
        self, root: str, directory: str, after: str | None, *, limit: int
    ) -> Sequence[tuple[str, Fingerprint]]:
        """Return the next objects directly in a directory."""
        rows = sorted((await self.directory(root, directory)).items(), key=lambda row: _bytes(row[0]))
        return [row for row in rows if after is None or _bytes(row[0]) > _bytes(after)][:limit]

    async def contents(self, root: str, directories: Sequence[str]) -> Mapping[str, Mapping[str, Fingerprint]]:
        """Return the objects directly in each of these directories."""
        return {name: await self.directory(root, name) for name in directories}

    async def compare(
        self, root: str, listed: Mapping[str, Sequence[ObjectState]]
    ) -> Mapping[str, DirectoryComparison]:
        """Compare what was listed directly in each of these directories with what is known."""
        compared: dict[str, DirectoryComparison] = {}
        for directory, states in listed.items():
            rows = await self.directory(root, directory)
            known = sorted((_bytes(key), *found[:4], found.access) for key, found in rows.items())
            compared[directory] = DirectoryComparison(len(known), known == states)
        return compared

    async def objects(self, root: str, keys: Sequence[str]) -> Mapping[str, Fingerprint]:  # noqa: ARG002
        """Return those of these objects that are known."""
        return {key: self.rows[key][0] for key in keys if key in self.rows}

    async def directories(self, root: str, prefix: str = "") -> Sequence[str]:  # noqa: ARG002
        """Return the directories that contain objects."""
        return [name for name, rows in self.by_directory.items() if rows and name.startswith(prefix)]

    async def seeded(self, root: str) -> bool:  # noqa: ARG002
        """Return whether the first listing is complete."""
        return self.is_seeded

    async def mark_seeded(self, root: str) -> None:  # noqa: ARG002
        """Record that it is."""
        self.is_seeded = True

    def apply(self, delivery: Delivery) -> None:
        """Commit a delivery."""
        for change in delivery.changes:
            self.high += 1
            if delivery.scan_sequence is not None and self._sequence(change.key) > delivery.scan_sequence:
                continue
            if change.kind is ChangeKind.SUBTREE_DELETED:
                for key in [key for key in self.rows if key.startswith(change.key)]:
                    self._remove(key)
            elif change.kind is ChangeKind.DELETED:
                self._remove(change.key)
            elif change.kind is not ChangeKind.SUBTREE:  # which names no object
                self._put(change.key, change.fingerprint or Fingerprint())

    def _sequence(self, key: str) -> int:
        return self.rows[key][1] if key in self.rows else self.tombs.get(key, 0)

    def _put(self, key: str, fingerprint: Fingerprint) -> None:
        self.rows[key] = (fingerprint, self.high)
        cut = key.rfind("/") + 1
        self.by_directory.setdefault(key[:cut], {})[key[cut:]] = fingerprint

    def _remove(self, key: str) -> None:
        self.tombs[key] = self.high
        if self.rows.pop(key, None) is not None:
            cut = key.rfind("/") + 1
            del self.by_directory[key[:cut]][key[cut:]]


class Follower:
    """
    Reads a source as the pipeline does: commits each delivery to the index, then acknowledges it.

    Override :meth:`commit` to record deliveries elsewhere, or to delay it.
    """

    def __init__(self, source: Source, *, index: MemoryIndex | None = None, acknowledges: bool = True) -> None:
        """Follow the source, once entered as an asynchronous context."""
        self.source = source
        self.index = index or MemoryIndex()
        self.deliveries: list[Delivery] = []
        self.changes: list[Change] = []
        """Without those of a first listing."""
        self.unreadable: list[Unreadable] = []
        self.acknowledges = acknowledges
        self.task: asyncio.Task[None] | None = None
        """What reads; None while stopped."""
        self._is_cancelled = False

    async def __aenter__(self) -> Self:
        """Start, and wait until the source is ready."""
        self.start()
        try:
            await self.until(lambda: self.source.health.ready, "the source is ready")
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def start(self) -> None:
        """Start reading, without waiting."""
        self.task = asyncio.create_task(self._follow())
        self._is_cancelled = False

    def cancel(self) -> None:
        """Cancel the source as the pipeline does, without waiting: once, or what it does to end would be broken off."""
        # Not by Task.cancelling(), which a time-out that expires just now sets, too.
        if self.task is not None and not self._is_cancelled:
            self._is_cancelled = True
            self.task.cancel()

    async def stop(self) -> None:
        """Cancel the source and wait for its end; raise what the source raised. Safe to call twice."""
        self.cancel()
        task, self.task = self.task, None
        if task is not None:
            await asyncio.wait([task], timeout=STOP_SECONDS)
            assert task.done(), f"the source did not end within {STOP_SECONDS:g} s"
            if not task.cancelled():
                task.result()

    async def commit(self, delivery: Delivery) -> None:
        """Record a delivery; called before it is acknowledged."""
        self.index.apply(delivery)

    async def _follow(self) -> None:
        deliveries = self.source.deliveries(self.index)
        try:
            async for delivery in deliveries:
                self.deliveries.append(delivery)
                await self.commit(delivery)
                self.unreadable += delivery.unreadable
                if not delivery.seed:
                    self.changes += delivery.changes
                if self.acknowledges:
                    await delivery.ack()
        finally:
            if isinstance(deliveries, AsyncGenerator):
                await deliveries.aclose()

    async def until(self, condition: Callable[[], object], what: str = "the condition", seconds: float = 30.0) -> None:
        """Wait, in real time, until the condition holds; raise what the source raises."""
        end = time.monotonic() + seconds
        while not condition():
            if self.task is not None and self.task.done():
                self.task.result()
            found = f"changes: {self.changes[-20:]}; {self.source.health}"
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}; {found}"
            await asyncio.sleep(0.01)

    async def until_changed(self, key: str) -> Change:
        """Wait for a change of this key; return the last one."""
        await self.until(lambda: any(change.key == key for change in self.changes), f"{key!r} is delivered")
        return [change for change in self.changes if change.key == key][-1]


class SourceConformance:
    """What every source does. Override the first two hooks, and the others where they apply."""

    keys: Sequence[str] = ("index.html", "images/a b.png", "files/50%+ä.txt")
    """Keys that the storage can hold."""

    def make_source(self, folder: Path) -> Source:
        """Return a new source of the storage in, or behind, this empty folder; the same storage at each call."""
        raise NotImplementedError

    async def change(self, folder: Path, key: str) -> None:
        """Change the object with this key in the storage."""
        raise NotImplementedError

    async def delete(self, folder: Path, key: str) -> bool:  # noqa: ARG002 - a hook
        """Delete the object, or everything below a key that ends with ``/``; return False if nothing can be deleted."""
        return False

    async def send_unreadable(self, folder: Path) -> bool:  # noqa: ARG002
        """Let the storage send something that cannot be parsed; return False for a source without messages."""
        return False

    def make_broken_source(self, folder: Path) -> Source | None:  # noqa: ARG002
        """Return a source whose storage cannot be read, such as one with a wrong path or address."""
        return None

    @asynccontextmanager
    async def storage(self, folder: Path) -> AsyncIterator[None]:  # noqa: ARG002
        """Run what must run while a test does: a server, a queue."""
        yield

    # -- the tests -------------------------------------------------------------------------------

    def test_settings_refuse_unknown_keys(self, tmp_path: Path) -> None:
        """A misspelt key is an error."""
        _check_settings(type(self.make_source(tmp_path)))

    def test_making_a_source_opens_nothing(self, tmp_path: Path) -> None:
        """Sources are made outside an event loop, often, and only to be checked."""
        for source in (self.make_source(tmp_path), self.make_source(tmp_path)):
            assert source.name and source.roots, "a source has a name and at least one root"
            assert source.health.state is SourceState.STARTING and not source.health.ready

    def test_a_change_is_delivered_with_its_key(self, tmp_path: Path) -> None:
        """The key is the object's, decoded exactly once, and the root is one of the source's."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                assert follower.source.health.state is SourceState.LISTENING
                for key in self.keys:
                    await self.change(tmp_path, key)
                    assert (await follower.until_changed(key)).root in follower.source.roots

        asyncio.run(body())

    def test_a_change_without_ack_is_delivered_again(self, tmp_path: Path) -> None:
        """The daemon may be killed before the commit: what was not acknowledged comes again after a restart."""
        key = self.keys[0]

        async def body() -> None:
            async with self.storage(tmp_path):
                index = MemoryIndex()
                async with Follower(self.make_source(tmp_path), index=index):
                    pass  # its first listing is complete, and it has acknowledged everything
                before = dict(index.rows)
                killed = Follower(self.make_source(tmp_path), index=index, acknowledges=False)
                async with killed:
                    await self.change(tmp_path, key)
                    await killed.until_changed(key)
                restarted = MemoryIndex()
                restarted.is_seeded = index.is_seeded
                for known, (fingerprint, _) in before.items():
                    restarted.apply(Delivery([Change("", known, fingerprint=fingerprint)]))
                async with Follower(self.make_source(tmp_path), index=restarted) as follower:
                    await follower.until_changed(key)

        asyncio.run(body())

    def test_a_change_while_it_is_stopped_is_not_lost(self, tmp_path: Path) -> None:
        """The storage keeps it, or a scan finds it."""
        key = self.keys[0]

        async def body() -> None:
            async with self.storage(tmp_path):
                index = MemoryIndex()
                async with Follower(self.make_source(tmp_path), index=index):
                    pass
                await self.change(tmp_path, key)
                async with Follower(self.make_source(tmp_path), index=index) as follower:
                    await follower.until_changed(key)

        asyncio.run(body())

    def test_a_deleted_object_is_delivered_as_deleted(self, tmp_path: Path) -> None:
        """Not as changed: a cache must learn that it is gone, and a backfill must not look for it."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                await self._fill(tmp_path, follower)
                if not await self.delete(tmp_path, self.keys[0]):
                    return
                await follower.until(lambda: self.keys[0] not in follower.index.rows, "the deletion is delivered")
                assert follower.index.rows.keys() >= {*self.keys[1:]}, "other objects were deleted"

        asyncio.run(body())

    def test_a_deleted_directory_is_delivered_with_all_that_was_below(self, tmp_path: Path) -> None:
        """As one change of the directory, or as one of each object; what is next to it, and named alike, stays."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                await self._fill(tmp_path, follower)
                if await self.delete(tmp_path, "gone/"):
                    await self._check_only_gone(follower)

        asyncio.run(body())

    def test_a_directory_deleted_while_it_is_stopped_is_delivered(self, tmp_path: Path) -> None:
        """The storage keeps the news, or a scan compares with the index."""

        async def body() -> None:
            async with self.storage(tmp_path):
                async with Follower(self.make_source(tmp_path)) as stopped:
                    await self._fill(tmp_path, stopped)
                if not await self.delete(tmp_path, "gone/"):
                    return
                async with Follower(self.make_source(tmp_path), index=stopped.index) as follower:
                    await self._check_only_gone(follower)

        asyncio.run(body())

    async def _fill(self, folder: Path, follower: Follower) -> None:
        """Make objects below ``gone/`` and next to it, and wait until all are delivered."""
        below = [f"gone/{prefix}{key}" for prefix in ("", "deep/er/") for key in self.keys]
        keys = (*self.keys, *below, *GONE_NEIGHBOURS)
        for key in keys:
            await self.change(folder, key)
        for key in keys:
            await follower.until_changed(key)

    async def _check_only_gone(self, follower: Follower) -> None:
        rows = follower.index.rows
        await follower.until(lambda: not any(key.startswith("gone/") for key in rows), "all below gone/ is deleted")
        assert rows.keys() >= {*self.keys, *GONE_NEIGHBOURS}, "objects outside of gone/ were deleted"

    def test_a_message_that_cannot_be_parsed_does_not_stop_it(self, tmp_path: Path) -> None:
        """It becomes a dead letter, and the next change is delivered."""

        async def body() -> None:
            async with self.storage(tmp_path), Follower(self.make_source(tmp_path)) as follower:
                if not await self.send_unreadable(tmp_path):
                    return
                await self.change(tmp_path, self.keys[0])
                await follower.until_changed(self.keys[0])
                assert follower.unreadable, "it is in no delivery's `unreadable`"
                assert all(one.subject and one.reason for one in follower.unreadable)

        asyncio.run(body())

    def test_it_ends_when_it_is_cancelled(self, tmp_path: Path) -> None:
        """Within 20 seconds, leaving no task behind, and no longer ready."""

        async def body() -> None:
            async with self.storage(tmp_path):
                before = asyncio.all_tasks()
                source = self.make_source(tmp_path)
                async with Follower(source):
                    pass
                assert not source.health.ready
                assert asyncio.all_tasks() <= before, "tasks are left"

        asyncio.run(body())

    def test_check_says_that_all_is_well(self, tmp_path: Path) -> None:
        """Nothing fails, and nothing is changed by it."""

        async def body() -> None:
            async with self.storage(tmp_path):
                _check_passes(await self.make_source(tmp_path).check())

        asyncio.run(body())

    def test_a_broken_storage_is_reported(self, tmp_path: Path) -> None:
        """By ``check``, and by an error of the contract or as degraded; it is never ready."""

        async def body() -> None:
            source = self.make_broken_source(tmp_path)
            if source is None:
                return
            _check_fails(await source.check())
            health, follower = source.health, Follower(source)
            follower.start()
            try:
                await follower.until(
                    lambda: health.ready or (health.state is SourceState.DEGRADED and health.detail),
                    "it raises an error, or is degraded and says why",
                )
                assert not health.ready, "it became ready"
            except (SourceError, ConfigurationError) as error:
                assert str(error), "the error says nothing"
            finally:
                with suppress(SourceError, ConfigurationError):
                    await follower.stop()

        asyncio.run(body())

    def test_setup_is_text_under_headings(self, tmp_path: Path) -> None:
        """What is to be pasted at the other side."""
        source = self.make_source(tmp_path)
        if isinstance(source, ProvidesSetup):
            assert source.setup().startswith("#")


class Service(Protocol):
    """What stands behind a target in a test: a stand-in of its CDN or cache."""

    def make_target(self) -> Target:
        """Return a new target that talks to this service."""
        ...

    def refreshed(self) -> Collection[str]:
        """Return every URL that the service has accepted."""
        ...

    def fail(self, failure: str) -> None:
        """Let every further request fail in this way, a name in :attr:`TargetConformance.failures`."""
        ...


class TargetConformance:
    """What every target does. Override :meth:`service`, :meth:`make_unreachable_target` and :attr:`failures`."""

    base_url: str = "https://www.example.com/"
    """What the URLs of the tests start with."""
    secrets: Collection[str] = ()
    """Secrets of the settings: they are in no error, no check and no ``repr``."""
    failures: Mapping[str, type[TargetError]] = {}
    """How the service can fail, and what ``submit`` then raises."""

    def service(self) -> AbstractAsyncContextManager[Service]:
        """Run a stand-in of the CDN or the cache."""
        raise NotImplementedError

    def make_unreachable_target(self) -> Target:
        """Return a target whose address refuses connections."""
        raise NotImplementedError

    def urls(self, kind: RefreshKind, count: int) -> list[str]:
        """Return URLs for a request of this kind."""
        end = "/" if kind is RefreshKind.DIRECTORY else ".html"
        return [f"{self.base_url}section/{kind}-{number}{end}" for number in range(count)]

    # -- the tests -------------------------------------------------------------------------------

    def test_settings_refuse_unknown_keys(self) -> None:
        """A misspelt key is an error."""
        _check_settings(type(self.make_unreachable_target()))

    def test_making_a_target_opens_nothing(self) -> None:
        """Targets are made outside an event loop, and say what they can do."""
        target = self.make_unreachable_target()
        assert target.name and target.account and target.limits
        for kind, limits in target.limits.items():
            assert limits.batch_urls > 0 and target.quota[kind] >= 0

    def test_each_kind_is_accepted_in_batches(self) -> None:
        """One URL, and several where the limits allow it."""

        async def body(service: Service, target: Target) -> None:
            for kind, limits in target.limits.items():
                for count in {1, min(limits.batch_urls, 20)}:
                    urls = self.urls(kind, count)
                    await target.admit(kind, urls)
                    receipt = await target.submit(kind, urls, force=False)
                    assert receipt.task_ids and all(one and "," not in one for one in receipt.task_ids)
                    assert set(urls) <= set(service.refreshed()), f"{kind}: the service did not get every URL"

        asyncio.run(self._with_target(body))

    def test_each_failure_raises_its_error(self) -> None:
        """``OutcomeUnknown`` when the request may have been accepted, a kind of ``NotSent`` only when it was not."""
        assert OutcomeUnknown in self.failures.values(), "name a failure after which nobody knows the outcome"

        async def body(failure: str, expected: type[TargetError]) -> None:
            async with self.service() as service:
                target = service.make_target()
                service.fail(failure)
                try:
                    await self._submit(target)
                except TargetError as error:
                    assert isinstance(error, expected), f"{failure}: {error!r} is no {expected.__name__}"
                    assert str(error), f"{failure}: the error says nothing"
                    self._check_secrets(str(error), error.hint, repr(target))
                else:
                    raise AssertionError(f"{failure}: submit returned")
                finally:
                    await target.close()

        for failure, expected in self.failures.items():
            asyncio.run(body(failure, expected))

    def test_an_unreachable_service_was_sent_nothing(self) -> None:
        """``submit`` says so, and ``check`` fails."""

        async def body() -> None:
            target = self.make_unreachable_target()
            try:
                checks = await target.check()
                _check_fails(checks)
                self._check_secrets(repr(checks), repr(target))
                await self._submit(target)
            except NotSent as error:
                self._check_secrets(str(error), error.hint)
            else:
                raise AssertionError("submit returned")
            finally:
                await target.close()

        asyncio.run(body())

    def test_check_says_that_all_is_well(self) -> None:
        """Nothing fails, and nothing is refreshed by it."""

        async def body(service: Service, target: Target) -> None:
            checks = await target.check()
            _check_passes(checks)
            self._check_secrets(repr(checks))
            assert not service.refreshed()

        asyncio.run(self._with_target(body))

    def test_tasks_can_be_looked_up(self) -> None:
        """Where the target reports tasks: its own by id, and none for an id that is not its own."""

        async def body(service: Service, target: Target) -> None:  # noqa: ARG001
            if not isinstance(target, ReportsTasks):
                return
            receipt = await self._submit(target)
            assert {task.task_id for task in await target.tasks(receipt.task_ids)} <= set(receipt.task_ids)
            never_sent = f"{self.base_url}never-sent.html"
            assert not await target.find_tasks(RefreshKind.FILE, never_sent, since=time.time() - 60, until=time.time())

        asyncio.run(self._with_target(body))

    def test_the_quota_is_of_kinds_that_it_can_do(self) -> None:
        """And no more is left than there is."""

        async def body(service: Service, target: Target) -> None:  # noqa: ARG001
            readings = await target.read_quota()
            assert set(readings) <= set(target.limits)
            assert all(0 <= reading.remaining <= reading.limit for reading in readings.values())

        asyncio.run(self._with_target(body))

    def test_it_can_be_closed_twice(self) -> None:
        """Also before it has sent anything."""

        async def body(service: Service, target: Target) -> None:  # noqa: ARG001
            await self._submit(target)
            await target.close()
            unused = self.make_unreachable_target()
            await unused.close()
            await unused.close()

        asyncio.run(self._with_target(body))

    async def _with_target(self, body: Callable[[Service, Target], Any]) -> None:
        async with self.service() as service:
            target = service.make_target()
            try:
                await body(service, target)
            finally:
                await target.close()

    async def _submit(self, target: Target) -> Any:
        kind = next(iter(target.limits))
        urls = self.urls(kind, 1)
        await target.admit(kind, urls)
        return await target.submit(kind, urls, force=False)

    def _check_secrets(self, *texts: str) -> None:
        for secret in self.secrets:
            assert not any(secret in text for text in texts), "a secret is shown"


def _check_settings(plugin: type[Any]) -> None:
    model = plugin.Settings
    assert issubclass(model, BaseModel)
    assert model.model_config.get("extra") == "forbid", "derive Settings from listener.settings.Section"


def _check_passes(checks: Sequence[Check]) -> None:
    assert checks, "check returned nothing"
    failed = [check for check in checks if check.state is CheckState.FAILED]
    assert not failed, f"check failed: {failed}"


def _check_fails(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if check.state is CheckState.FAILED]
    assert failed, f"check did not fail: {checks}"
    assert all(check.message and check.hint for check in failed), "a failed check says what is wrong and what to do"


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
