"""Tests that every target must pass."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

from listener.contracts import Eviction, FindsTasks, JoinsUrls, ReportsRates, ReportsTasks, Target, UnknownOutcome
from listener.errors import BatchRejected, NotSent, OutcomeUnknown, TargetError, Throttled
from listener.refresh import RefreshKind, TaskState
from listener.testing.checks import check_fails, check_passes, check_questions, check_settings
from listener.testing.killing import kill_before_step

__all__ = ["Service", "TargetConformance"]

TRIES: Final = 20
MOST_SETTLE_SECONDS: Final = 3600.0
"""What settles later was surely meant in another unit."""


class Service(Protocol):
    """What stands behind a target in a test: a stand-in of its CDN or cache."""

    def make_target(self) -> Target:
        """Return a new target that talks to this service."""
        ...

    def refreshed(self) -> Collection[str]:
        """Return every URL that the service has accepted, as often as it has charged it."""
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
    lost_answer: str = ""
    """A failure by which the service accepts the next request, and its answer is lost; only that one."""
    refused: str = ""
    """A failure by which the service refuses each URL that contains ``refused``, and no other."""
    breaks_off: str = ""
    """A failure by which the service accepts the next request and refuses all after it, as a rate limit does."""

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
        """A misspelt key is an error, and a file can hold each secret."""
        check_settings(type(self.make_unreachable_target()))

    def test_what_init_asks_for_is_read(self) -> None:
        """Each question is about one of the settings, and each secret is read from the file that ``init`` writes."""
        check_questions(type(self.make_unreachable_target()))

    def test_making_a_target_opens_nothing(self) -> None:
        """Targets are made outside an event loop, and say what they can do."""
        target = self.make_unreachable_target()
        assert target.name and target.account and target.limits
        for kind, limits in target.limits.items():
            assert limits.batch_urls > 0, f"no request of kind {kind} can have a URL"
        names = [one.name for one in target.allowances]
        assert len(set(names)) == len(names), "two allowances have the same name"
        unknown = {kind for one in target.allowances for kind in one.costs} - set(target.limits)
        assert not unknown, f"allowances of kinds that the target cannot do: {unknown}"

    def test_it_declares_what_it_can_do(self) -> None:
        """What is declared fits together: nothing would be looked up in vain, or be sent again for ever."""
        target = self.make_unreachable_target()
        if target.unknown_outcome is UnknownOutcome.TASKS:
            assert isinstance(target, FindsTasks), "UnknownOutcome.TASKS needs find_tasks"
        is_free = not target.allowances
        assert is_free or target.unknown_outcome is not UnknownOutcome.REPEAT, "a repeated request is paid for twice"
        assert target.pace.lanes > 0 and target.pace.ids_per_look > 0
        for kind, limits in target.limits.items():
            assert limits.batch_places > 0 and all(isinstance(target.place(url), str) for url in self.urls(kind, 2))
        files = target.limits.get(RefreshKind.FILE)
        assert files is None or files.eviction is not Eviction.SOFT, "what needs eviction would be sent for ever"

    def test_an_address_is_its_own(self) -> None:
        """Where the target joins URLs: what it can be asked for stays as it is, all else becomes its beginning."""
        target = self.make_unreachable_target()
        if not isinstance(target, JoinsUrls):
            return
        for name in ("a.html", "a~b", "it's", "a*b", "a*", "x" * 9_000):
            url = f"{self.base_url}section/{name}"
            address = target.nameable(url)
            assert target.nameable(address) == address
            assert address == url or (address.endswith("*") and url.startswith(address[:-1]))

    def test_an_unknown_outcome_can_be_settled_as_declared(self) -> None:
        """A request that was accepted and not answered is in the task list, or may be sent again."""
        if not self.lost_answer:
            is_free = not self.make_unreachable_target().allowances
            assert is_free, "name lost_answer: nothing else shows that an answer that is lost is not paid for twice"
            return

        async def body(kind: RefreshKind, service: Service, target: Target) -> None:
            if kind not in target.limits:
                return
            urls, began = self.urls(kind, 1), time.time()
            before = await self._lose_answer(service, target, kind, urls)
            if target.unknown_outcome is UnknownOutcome.TASKS:
                assert isinstance(target, FindsTasks)
                for url in urls:
                    found = await target.find_tasks(kind, url, since=began - 60, until=time.time() + 60)
                    assert found, f"{url} was accepted, and find_tasks says that it was not: that would overspend"
            elif target.unknown_outcome is not UnknownOutcome.SPENT:
                await self._submit_again(target, kind, urls)
                if target.unknown_outcome is UnknownOutcome.TOKEN:
                    assert list(service.refreshed()).count(urls[0]) == before, "the same token was charged twice"

        for kind in self.make_unreachable_target().limits:
            asyncio.run(self._with_target(partial(body, kind)))

    def test_a_batch_that_breaks_off_is_not_refunded(self) -> None:
        """Units are given back for what was not accepted only: by an error for all URLs, by the receipt for some."""
        if not self.breaks_off:
            return

        async def body(kind: RefreshKind, service: Service, target: Target) -> None:
            if kind not in target.limits:
                return
            urls = self.urls(kind, min(3, target.limits[kind].batch_urls))
            service.fail(self.breaks_off)
            try:
                await target.admit(kind, urls)
                receipt = await target.submit(kind, urls, force=False, token=_token(kind, urls))
                refunded, how = {*receipt.refused, *receipt.unfinished}, repr(receipt)
            except NotSent as error:
                refunded, how = set(urls), repr(error)
            except OutcomeUnknown:
                refunded, how = set(), ""
            accepted = set(urls) & set(service.refreshed())
            assert accepted, f"{self.breaks_off}: the service did not accept the first"
            assert not accepted & refunded, f"{how}, though a part was accepted: it would be paid for twice"

        for kind in self.make_unreachable_target().limits:
            asyncio.run(self._with_target(partial(body, kind)))

    def test_a_refused_url_does_not_sink_the_others(self) -> None:
        """The receipt names it, or the refusal does, or it is found by sending halves."""
        if not self.refused:
            return

        async def body(service: Service, target: Target) -> None:
            kind = next(iter(target.limits))
            good = self.urls(kind, 2)
            bad = good[0].replace("section/", "section/refused-")
            service.fail(self.refused)
            urls = [good[0], bad, good[1]] if target.limits[kind].batch_urls >= 3 else [bad]
            try:
                await target.admit(kind, urls)
                receipt = await target.submit(kind, urls, force=False, token=_token(kind, urls))
            except BatchRejected as error:
                assert error.urls <= {bad}
                for url in good:
                    await target.admit(kind, [url])
                    await target.submit(kind, [url], force=False, token=_token(kind, [url]))
            else:
                assert set(receipt.refused) == {bad} and all(receipt.refused.values())
            assert bad not in service.refreshed()

        asyncio.run(self._with_target(body))

    def test_each_kind_is_accepted_in_batches(self) -> None:
        """One URL, and several where the limits allow it."""

        async def body(service: Service, target: Target) -> None:
            for kind, limits in target.limits.items():
                for count in {1, min(limits.batch_urls, 20)}:
                    urls = self.urls(kind, count)
                    await target.admit(kind, urls)
                    receipt = await target.submit(kind, urls, force=False, token=_token(kind, urls))
                    assert all(one and "," not in one for one in receipt.task_ids)
                    assert not receipt.refused and not receipt.unfinished, f"{kind}: {receipt}"
                    assert receipt.settles_after_seconds >= 0
                    assert set(urls) <= set(service.refreshed()), f"{kind}: the service did not get every URL"

        asyncio.run(self._with_target(body))

    def test_nothing_is_lost_wherever_it_is_killed(self) -> None:
        """
        The whole pipeline with a state file is ended at each step of an attempt's life, and started again.

        Each URL is accepted all the same, as often as ``unknown_outcome`` allows, and never unbooked.
        """
        directory = RefreshKind.DIRECTORY

        async def run(kill_at: int | None) -> Sequence[str]:
            async with self.service() as service:
                with tempfile.TemporaryDirectory() as folder:
                    return await kill_before_step(
                        service.make_target,
                        service.refreshed,
                        {RefreshKind.FILE: self.urls(RefreshKind.FILE, 2), directory: self.urls(directory, 1)},
                        folder=Path(folder),
                        base_url=self.base_url,
                        kill_at=kill_at,
                    )

        for number in range(len(asyncio.run(run(None)))):
            asyncio.run(run(number))

    def test_each_failure_raises_its_error(self) -> None:
        """``OutcomeUnknown`` when the request may have been accepted, a kind of ``NotSent`` only when it was not."""
        assert OutcomeUnknown in self.failures.values(), "name a failure after which nobody knows the outcome"

        async def body(kind: RefreshKind, failure: str, expected: type[TargetError]) -> None:
            async with self.service() as service:
                target = service.make_target()
                service.fail(failure)
                try:
                    await self._submit(target, kind)
                except TargetError as error:
                    assert isinstance(error, expected), f"{kind} {failure}: {error!r} is no {expected.__name__}"
                    was_accepted = isinstance(error, NotSent) and service.refreshed()
                    assert not was_accepted, f"{failure}: {error!r}, though it was accepted: it would be paid for twice"
                    assert str(error), f"{failure}: the error says nothing"
                    assert not isinstance(error, Throttled) or error.retry_after_seconds > 0
                    self._check_secrets(str(error), error.hint, repr(target))
                else:
                    raise AssertionError(f"{failure}: submit returned")
                finally:
                    await target.close()

        for failure, expected in self.failures.items():
            for kind in self.make_unreachable_target().limits:
                asyncio.run(body(kind, failure, expected))

    def test_an_unreachable_service_was_sent_nothing(self) -> None:
        """``submit`` says so, and ``check`` fails."""

        async def body() -> None:
            target = self.make_unreachable_target()
            try:
                checks = await target.check()
                check_fails(checks)
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
            check_passes(checks)
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
            if not isinstance(target, FindsTasks):
                return
            never_sent = f"{self.base_url}never-sent.html"
            assert not await target.find_tasks(RefreshKind.FILE, never_sent, since=time.time() - 60, until=time.time())

        asyncio.run(self._with_target(body))

    def test_the_live_quota_is_of_its_allowances(self) -> None:
        """And no more is left than there is."""

        async def body(service: Service, target: Target) -> None:  # noqa: ARG001
            readings = await target.read_quota()
            assert set(readings) <= {one.name for one in target.allowances}
            assert all(0 <= reading.remaining <= reading.limit for reading in readings.values())

        asyncio.run(self._with_target(body))

    def test_what_it_accepts_ends(self) -> None:
        """At once or at the time that the receipt states, or with tasks that are complete within some seconds."""

        async def body(service: Service, target: Target) -> None:  # noqa: ARG001
            receipt = await self._submit(target)
            if not receipt.task_ids:
                assert receipt.settles_after_seconds <= MOST_SETTLE_SECONDS
                return
            assert isinstance(target, ReportsTasks), "a receipt with task ids needs tasks()"
            for _ in range(TRIES):
                tasks = await target.tasks(receipt.task_ids)
                if {task.task_id for task in tasks if task.state is TaskState.COMPLETE} == set(receipt.task_ids):
                    return
                await asyncio.sleep(0.5)
            raise AssertionError(f"not complete within {TRIES} looks: {tasks}")

        asyncio.run(self._with_target(body))

    def test_rates_are_of_kinds_that_it_can_do(self) -> None:
        """Where the target shows them: before it has sent anything, and afterwards."""

        async def body(service: Service, target: Target) -> None:  # noqa: ARG001
            if not isinstance(target, ReportsRates):
                return
            before = target.rates()
            await self._submit(target)
            for rate in (*before, *target.rates()):
                assert rate.kinds and rate.kinds <= set(target.limits)
                assert rate.name and rate.left >= 0 and rate.refills_after_seconds >= 0

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

    async def _lose_answer(self, service: Service, target: Target, kind: RefreshKind, urls: Sequence[str]) -> int:
        """Lose the answer to a request on a kept connection; return how often the first URL was charged."""
        (*_, other) = self.urls(kind, 2)
        await target.admit(kind, [other])
        await target.submit(kind, [other], force=False, token=_token(kind, [other]))
        service.fail(self.lost_answer)
        await target.admit(kind, urls)
        try:
            await target.submit(kind, urls, force=False, token=_token(kind, urls))
        except OutcomeUnknown:
            count = list(service.refreshed()).count(urls[0])
            assert count, "the service did not accept the request"
            is_free = target.unknown_outcome is UnknownOutcome.REPEAT
            assert is_free or count == 1, f"one call of submit was charged {count} times"
            return count
        raise AssertionError(
            f"{self.lost_answer}: submit returned, though the answer was lost: does the HTTP client send a request"
            " again by itself, as aiohttp does for PUT and DELETE?"
        )

    async def _submit_again(self, target: Target, kind: RefreshKind, urls: Sequence[str]) -> None:
        """Send a request until it is accepted, as the pipeline does after pauses."""
        for _ in range(TRIES):
            await target.admit(kind, urls)
            with suppress(TargetError):
                await target.submit(kind, urls, force=False, token=_token(kind, urls))
                return
            await asyncio.sleep(1.0)
        raise AssertionError(f"not accepted within {TRIES} tries")

    async def _submit(self, target: Target, kind: RefreshKind | None = None) -> Any:
        kind = kind or next(iter(target.limits))
        urls = self.urls(kind, 1)
        await target.admit(kind, urls)
        return await target.submit(kind, urls, force=False, token=_token(kind, urls))

    def _check_secrets(self, *texts: str) -> None:
        for secret in self.secrets:
            assert not any(secret in text for text in texts), "a secret is shown"


def _token(kind: RefreshKind, urls: Sequence[str]) -> str:
    """Return the token of a request: the same only for the same URLs in the same order."""
    return hashlib.sha256("\n".join([kind, *urls]).encode()).hexdigest()[:32]
