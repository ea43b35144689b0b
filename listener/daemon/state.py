"""What the daemon runs at this moment: written by the service, read by the status page and the notifier."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from listener.clock import Clock, SystemClock
from listener.contracts import CheckState, NeedsCredentials, Source, Target
from listener.daemon.health import LoopMonitor, WriterMonitor
from listener.errors import ConfigurationError, ListenerError, StoreBusy
from listener.pipeline import Pipeline, store_options
from listener.plugins import load_sources, load_targets
from listener.settings import Settings
from listener.store import Store, open_store

__all__ = ["DaemonState", "Parts", "check_sources", "make_parts", "reopen", "require_credentials"]

REOPEN_SECONDS = 10.0
"""How long a reload waits for the state file: a command may own it for a moment."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A configuration and its targets; nothing is open yet."""

    settings: Settings
    targets: Mapping[str, Target]

    def sources(self) -> dict[str, Source]:
        """Create the sources."""
        return load_sources(self.settings)

    def open_store(self) -> Store:
        """Open the state file as its owner."""
        return open_store(self.settings.store.url, options=store_options(self.settings, self.targets), owner=True)


@dataclass(slots=True)
class DaemonState:
    """The running parts; one is None while it does not exist."""

    phase: str = "starting"
    """``starting``, ``running``, ``reloading`` or ``stopping``."""
    parts: Parts | None = None
    store: Store | None = None
    pipeline: Pipeline | None = None
    clock: Clock = field(default_factory=SystemClock)
    loop_monitor: LoopMonitor = field(default_factory=LoopMonitor)
    writer_monitor: WriterMonitor = field(default_factory=WriterMonitor)

    def running(self) -> tuple[Parts, Store, Pipeline]:
        """Return the running parts; raise :class:`~listener.errors.ListenerError` while the daemon is not running."""
        if self.parts is None or self.store is None or self.pipeline is None:
            raise ListenerError(f"the daemon is {self.phase}", hint="try again in a moment")
        return self.parts, self.store, self.pipeline


def make_parts(load: Callable[[], Settings]) -> Parts:
    """Read the configuration; raise :class:`~listener.errors.ConfigurationError` for one that cannot run."""
    settings = load()
    for group in ("sources", "targets"):
        if not getattr(settings, group):
            # A file that is being written may be empty for a moment, and must not replace a running configuration.
            what = f"{group}: {settings.origin.path or 'the environment'} has none"
            raise ConfigurationError(what, hint=f"add a [{group}.NAME] table; the README has the smallest file")
    parts = Parts(settings, load_targets(settings))
    parts.sources()  # raises for a wrong table before the pipeline is created
    return parts


async def require_credentials(parts: Parts) -> None:
    """Raise :class:`~listener.errors.ConfigurationError` when a source or target has no usable credentials."""
    for part in (*parts.sources().values(), *parts.targets.values()):
        if isinstance(part, NeedsCredentials):
            await part.require_credentials()


async def check_sources(parts: Parts, old: Parts | None) -> None:
    """
    Raise :class:`~listener.errors.ConfigurationError` for a source that could not listen.

    A source whose table is unchanged is not checked: it waits for what is missing with either configuration.
    """
    known = {} if old is None else old.settings.sources
    for name, source in parts.sources().items():
        if parts.settings.sources[name] == known.get(name):
            continue
        for check in await source.check():
            if check.state is CheckState.FAILED:
                raise ConfigurationError(f"{check.subject}: {check.message}", hint=check.hint)


async def reopen(parts: Parts) -> Store:
    """Open the state file, waiting up to ``REOPEN_SECONDS`` for another owner."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REOPEN_SECONDS):
            while True:
                try:
                    return parts.open_store()
                except StoreBusy:
                    await asyncio.sleep(0.1)
    return parts.open_store()
