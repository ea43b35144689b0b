"""The pipeline without a daemon: run until nothing is left to do, and report what became of what was requested."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from listener.contracts import Source, Target
from listener.errors import StoreBusy
from listener.pipeline import Pipeline, store_options
from listener.refresh import Attempt, AttemptState, Scope, directory_of
from listener.settings import Settings
from listener.store import Store, open_store
from listener.store.staleness import scope_word

__all__ = ["RequestOutcome", "RequestedUrl", "opened", "outcomes", "run_until_idle", "stopping"]

_ACTIVE = (
    AttemptState.HELD,
    AttemptState.SENDING,
    AttemptState.UNKNOWN,
    AttemptState.ACCEPTED,
    AttemptState.FAILED,
    AttemptState.UNCONFIRMED,
    AttemptState.COMPLETE,
)


class RequestedUrl(NamedTuple):
    """What a person asked for: one URL of one target."""

    target: str
    url: str
    scope: Scope


@dataclass(frozen=True, slots=True)
class RequestOutcome:
    """What became of it."""

    wanted: RequestedUrl
    state: str
    """``complete``, ``accepted``, ``sending``, ``deferred``, ``failed``, ``parked`` or ``unconfirmed``; ``pending``
    while a daemon may send it any moment."""
    reason: str = ""
    task_id: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing more happens to it without people."""
        return self.state in ("complete", "parked", "unconfirmed")

    @property
    def put_off(self) -> bool:
        """Whether it was not done, and waits for quota, time or people."""
        return self.state in ("deferred", "failed", "parked", "unconfirmed")


@asynccontextmanager
async def opened(settings: Settings, targets: Mapping[str, Target]) -> AsyncIterator[Store]:
    """
    Open the store: as its owner where nobody else is, otherwise while the daemon owns it (see ``store.owner``).

    The targets are closed in the end, too.
    """
    options = store_options(settings, targets)
    try:
        try:
            store = open_store(settings.store.url, options=options, owner=True)
        except StoreBusy:
            store = open_store(settings.store.url, options=options)
        async with store:
            yield store
    finally:
        for target in targets.values():
            await target.close()


@contextmanager
def stopping(stop: Callable[[], object]) -> Iterator[list[int]]:
    """
    Call ``stop`` at the first SIGINT or SIGTERM, and leave at once at the second.

    Yield a list that holds the signal's number once there was one.
    """
    loop = asyncio.get_running_loop()
    caught: list[int] = []

    def on_signal(number: int) -> None:
        if caught:
            os._exit(128 + number)
        caught.append(number)
        stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield caught
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def run_until_idle(
    settings: Settings,
    store: Store,
    targets: Mapping[str, Target],
    *,
    sources: Mapping[str, Source] | None = None,
    follow: bool,
) -> tuple[Pipeline, bool]:
    """
    Send what is due, as the owner of the store, until what is left waits for quota or people.

    Args:
        settings: the configuration; its sources are left alone.
        store: open, and owned.
        targets: the configured targets.
        sources: where changes come from; they must end.
        follow: wait for tasks to end, too.

    Returns:
        The pipeline that ran, and whether a signal ended it.
    """
    given = dict(sources or {})
    pipeline = Pipeline(settings, store, make_sources=lambda: given, targets=targets)
    with stopping(pipeline.stop) as caught:
        await pipeline.run(until_idle=True, follow=follow)
    return pipeline, bool(caught)


async def outcomes(
    store: Store, wanted: Sequence[RequestedUrl], pipeline: Pipeline | None = None
) -> list[RequestOutcome]:
    """Return what became of each; ``pipeline``, where one ran here, knows why something was deferred."""
    active = await store.attempts_in(*_ACTIVE, limit=100_000)
    return [await _outcome(store, one, active, pipeline) for one in wanted]


async def _outcome(
    store: Store, one: RequestedUrl, active: Sequence[Attempt], pipeline: Pipeline | None
) -> RequestOutcome:
    rows = await store.explain(one.url)
    wanted = one.target, one.url, scope_word(one.scope)
    row = next((row for row in rows if (row["target"], row["url"], row["scope"]) == wanted), None)
    if row is None:
        return RequestOutcome(one, "complete", task_id=await _last(store, one, "task_id"))
    if row["state"] in ("parked", "unconfirmed"):
        return RequestOutcome(one, row["state"], row["reason"] or await _last(store, one, "error"))
    mine = next((attempt for attempt in active if attempt.id == row["attempt"]), None)
    if mine is not None:
        return await _in_flight(store, one, mine)
    if pipeline is None:
        return RequestOutcome(one, "pending")
    return RequestOutcome(one, "deferred", _why(one, pipeline))


async def _in_flight(store: Store, one: RequestedUrl, attempt: Attempt) -> RequestOutcome:
    match attempt.state:
        case AttemptState.ACCEPTED | AttemptState.COMPLETE:
            return RequestOutcome(one, attempt.state.value, task_id=attempt.task_id or "")
        case AttemptState.FAILED | AttemptState.UNCONFIRMED:
            return RequestOutcome(one, attempt.state.value, await _last(store, one, "error"))
        case _:
            return RequestOutcome(one, "sending")


async def _last(store: Store, one: RequestedUrl, column: str) -> str:
    history = await store.history(limit=1, url=one.url)
    return str(history[0][column] or "") if history else ""


def _why(one: RequestedUrl, pipeline: Pipeline) -> str:
    place = directory_of(one.url)
    for engine in pipeline.engines:
        if one.target in engine.account.targets:
            if engine.account.closed_reason:
                return engine.account.closed_reason
            found = (left.reason for left in engine.outcome.deferred if left.directory_url == place)
            return next(found, "the quota of today is used up")
    return "no account can send it"
