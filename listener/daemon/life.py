"""Where the daemon stands: written by the service, read by whoever tells of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from listener.clock import Clock, SystemClock
from listener.contracts import CheckState, NeedsCredentials, Source, Target
from listener.daemon.health import Heart, Pulse
from listener.errors import ConfigurationError, ListenerError, StoreBusy
from listener.pipeline import Pipeline, store_options
from listener.plugins import load_sources, load_targets
from listener.settings import Settings
from listener.store import Store, open_store

__all__ = ["Life", "Parts", "check_sources", "make_parts", "reopen", "require_credentials"]

REOPEN_SECONDS = 10.0
"""After a reload the state file is opened anew; a command that asked for something may own it for a moment."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A configuration with all that was made from it; nothing is open yet."""

    settings: Settings
    targets: Mapping[str, Target]

    def sources(self) -> dict[str, Source]:
        """Make the sources."""
        return load_sources(self.settings)

    def open_store(self) -> Store:
        """Open the state file as its owner."""
        return open_store(self.settings.store.url, options=store_options(self.settings, self.targets), owner=True)


@dataclass(slots=True)
class Life:
    """What runs at this moment; a part is None while there is none."""

    phase: str = "starting"
    """``starting``, ``running``, ``reloading`` or ``stopping``."""
    parts: Parts | None = None
    store: Store | None = None
    pipeline: Pipeline | None = None
    clock: Clock = field(default_factory=SystemClock)
    heart: Heart = field(default_factory=Heart)
    pulse: Pulse = field(default_factory=Pulse)

    def running(self) -> tuple[Parts, Store, Pipeline]:
        """Return what runs; raise :class:`~listener.errors.ListenerError` while nothing does."""
        if self.parts is None or self.store is None or self.pipeline is None:
            raise ListenerError(f"the daemon is {self.phase}", hint="ask again in a moment")
        return self.parts, self.store, self.pipeline


def make_parts(load: Callable[[], Settings]) -> Parts:
    """Read the configuration; raise :class:`~listener.errors.ConfigurationError` where nothing can be done with it."""
    settings = load()
    for group in ("sources", "targets"):
        if not getattr(settings, group):
            # Also what a file that is being written to looks like: an empty one must not replace a running one.
            what = f"{group}: there is none in {settings.origin.path or 'the environment'}, so nothing can be done"
            raise ConfigurationError(what, hint=f"add a [{group}.NAME] table; the README has the smallest file")
    parts = Parts(settings, load_targets(settings))
    parts.sources()  # a wrong table of a source must be found here, not while the pipeline is being made
    return parts


async def require_credentials(parts: Parts) -> None:
    """Raise :class:`~listener.errors.ConfigurationError` when a source or target has no usable credentials."""
    for part in (*parts.sources().values(), *parts.targets.values()):
        if isinstance(part, NeedsCredentials):
            await part.require_credentials()


async def check_sources(parts: Parts, old: Parts | None) -> None:
    """
    Raise :class:`~listener.errors.ConfigurationError` for a source that could not listen.

    A source whose table is that of the old configuration is not checked: it waits for what it misses in either case.
    """
    known = {} if old is None else old.settings.sources
    for name, source in parts.sources().items():
        if parts.settings.sources[name] == known.get(name):
            continue
        for check in await source.check():
            if check.state is CheckState.FAILED:
                raise ConfigurationError(f"{check.subject}: {check.message}", hint=check.hint)


async def reopen(parts: Parts) -> Store:
    """Open the state file, waiting a while for a command that owns it at this moment."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REOPEN_SECONDS):
            while True:
                try:
                    return parts.open_store()
                except StoreBusy:
                    await asyncio.sleep(0.1)
    return parts.open_store()
