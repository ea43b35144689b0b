"""The pipeline without a daemon: run until nothing is left to do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace

from listener.configuration import is_postgres
from listener.contracts import NeedsCredentials, Source, Target
from listener.errors import ConfigurationError, Misconfigured, StoreBusy, TargetError
from listener.pipeline import Pipeline, store_options
from listener.settings import Settings
from listener.store import Store, open_store
from listener.store.leadership import leadership_of
from listener.store.owner import owner_of
from listener.store.store import StoreOptions

__all__ = ["misconfigured", "opened", "require_usable", "run_until_idle", "stopping"]

ANSWER_SECONDS = 10.0
"""How long to wait for the first answer of an account; one that does not answer may do so later."""


async def require_usable(targets: Mapping[str, Target]) -> None:
    """
    Raise :class:`~listener.errors.ConfigurationError` for an account that can never be sent to as it is configured.

    Credentials that are missing, a wrong key, an account or a permission that does not exist, a wrong clock: found by
    reading the live quota, which spends nothing. An account that cannot be reached may recover, and is no error.
    """
    for name, target in targets.items():
        if isinstance(target, NeedsCredentials):
            await target.require_credentials()
        with suppress(TargetError, TimeoutError):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    await target.read_quota()
            except Misconfigured as error:
                raise ConfigurationError(f"target {name}: {error}", hint=error.hint) from error


def misconfigured(pipeline: Pipeline) -> str:
    """Return why an account of a pipeline that ran can never be sent to, or an empty string."""
    found = [(one.account.name, one.account.misconfigured) for one in pipeline.engines if one.account.misconfigured]
    return "; ".join(f"account {name}: {reason}" for name, reason in found)


def command_options(settings: Settings, targets: Mapping[str, Target]) -> StoreOptions:
    """Return the options of a store that a command opens: as an instance of its own that watches nothing."""
    options = store_options(settings, targets)
    return replace(options, instance=f"{options.instance} (command)", owned=frozenset())


@asynccontextmanager
async def opened(settings: Settings, targets: Mapping[str, Target]) -> AsyncIterator[Store]:
    """
    Open the store: to send where no daemon runs, otherwise while it does (see ``store.owner``).

    In a PostgreSQL store a command that sends is an instance like any other: it leads accounts by leases.

    The targets are closed in the end, too.
    """
    url, options = settings.store.url, command_options(settings, targets)
    sends = not is_postgres(url) or owner_of(url).is_running is False
    try:
        try:
            store = open_store(url, options=options, owner=sends)
        except StoreBusy:
            store = open_store(url, options=options)
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
    accounts = {target.account for target in targets.values()}
    options = command_options(settings, targets)
    leadership = leadership_of(store, settings.store.url, accounts=accounts, options=options)
    pipeline = Pipeline(settings, store, make_sources=lambda: given, targets=targets, leadership=leadership)
    with stopping(pipeline.stop) as caught:
        await pipeline.run(until_idle=True, follow=follow)
    return pipeline, bool(caught)
