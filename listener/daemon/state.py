"""
What the daemon runs at this moment, and whether it is well.

The service writes the state; the status page and the notifier read it. Monitors measure whether the event loop runs
and whether the store's writer answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from listener.contracts import HELD_DELETIONS, CheckState, NeedsCredentials, Source, SourceHealth, SourceState, Target
from listener.errors import ConfigurationError, ListenerError, StoreBusy, StoreError, advised
from listener.pipeline import Pipeline, store_options
from listener.plugins import load_sources, load_targets, require_tables
from listener.settings import Settings
from listener.store import Store, open_store
from listener.store.access import time_of
from listener.store.leadership import Leadership, leadership_of

__all__ = [
    "DaemonState",
    "HealthCheck",
    "LoopMonitor",
    "Parts",
    "WriterMonitor",
    "check_sources",
    "health_checks",
    "make_parts",
    "reasons_degraded",
    "reasons_for_people",
    "reasons_not_ready",
    "reopen",
    "store_answers",
    "unusable_credentials",
    "why_not_ready",
]

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

    def leadership(self, store: Store) -> Leadership:
        """Return which accounts this process leads."""
        accounts = {target.account for target in self.targets.values()}
        options = store_options(self.settings, self.targets)
        return leadership_of(store, self.settings.store.url, accounts=accounts, options=options)


LOOP_SECONDS = 20.0
LATE_SECONDS = 5.0
"""A loop this late is blocked: nothing that runs on it takes more than a fraction of a second."""
WRITER_SECONDS = 20.0
STUCK_SECONDS = 30.0
"""A writer that does not answer for so long is stuck: its longest work takes some 50 ms, a slow disk seconds."""


class LoopMonitor:
    """Measures how late the event loop is."""

    def __init__(self) -> None:
        """Start on time."""
        self._last = time.monotonic()
        self.late_seconds = 0.0
        """How late the last measurement was."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            self._last = time.monotonic()
            await asyncio.sleep(LOOP_SECONDS)
            self.late_seconds = max(0.0, time.monotonic() - self._last - LOOP_SECONDS)

    @property
    def ok(self) -> bool:
        """Whether the loop runs."""
        return self.late_seconds < LATE_SECONDS and time.monotonic() - self._last < LATE_SECONDS + LOOP_SECONDS


class WriterMonitor:
    """Measures how long ago the store's writer answered."""

    def __init__(self) -> None:
        """Start as answered."""
        self._answered = time.monotonic()

    async def run(self, store: Callable[[], Store | None]) -> None:
        """Query the current store until cancelled; without a store nothing is wrong."""
        while True:
            present = store()
            if present is None or await store_answers(present, STUCK_SECONDS):
                self._answered = time.monotonic()
            await asyncio.sleep(WRITER_SECONDS)

    @property
    def silent_seconds(self) -> float:
        """For how long the writer has not answered."""
        return max(0.0, time.monotonic() - self._answered - WRITER_SECONDS)

    @property
    def ok(self) -> bool:
        """Whether the store commits."""
        return self.silent_seconds < STUCK_SECONDS


@dataclass(slots=True)
class DaemonState:
    """The running parts; one is None while it does not exist."""

    phase: str = "starting"
    """``starting``, ``running``, ``reloading`` or ``stopping``."""
    parts: Parts | None = None
    store: Store | None = None
    pipeline: Pipeline | None = None
    unusable: Mapping[str, ConfigurationError] = field(default_factory=dict)
    """Which sources and targets have no usable credentials, and why."""
    store_error: StoreError | None = None
    """Why the store is not open yet, while its database is waited for."""
    loop_monitor: LoopMonitor = field(default_factory=LoopMonitor)
    writer_monitor: WriterMonitor = field(default_factory=WriterMonitor)

    def now(self) -> float:
        """Return seconds since the epoch, by the store's clock where it is open."""
        return time_of(self.store)

    def running(self) -> tuple[Parts, Store, Pipeline]:
        """Return the running parts; raise :class:`~listener.errors.ListenerError` while the daemon is not running."""
        if self.parts is None or self.store is None or self.pipeline is None:
            if (error := self.store_error) is not None:
                raise StoreError(f"the daemon is {self.phase}: {error}", hint=error.hint)
            raise ListenerError(f"the daemon is {self.phase}", hint="try again in a moment")
        return self.parts, self.store, self.pipeline


def make_parts(load: Callable[[], Settings]) -> Parts:
    """Read the configuration; raise :class:`~listener.errors.ConfigurationError` for one that cannot run."""
    settings = load()
    require_tables(settings)
    parts = Parts(settings, load_targets(settings))
    parts.sources()  # raises for a wrong table before the pipeline is created
    return parts


async def unusable_credentials(parts: Parts) -> dict[str, ConfigurationError]:
    """Return which sources and targets have no usable credentials, and why."""
    found = {}
    for group, each in (("source", parts.sources()), ("target", parts.targets)):
        for name, part in each.items():
            if isinstance(part, NeedsCredentials):
                try:
                    await part.require_credentials()
                except ConfigurationError as error:
                    found[f"{group} {name}"] = error
    return found


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


class HealthCheck(NamedTuple):
    """One line of ``/healthz``."""

    name: str
    ok: bool
    reason: str


async def store_answers(store: Store, timeout_seconds: float) -> bool:
    """Return whether the store's writer answers; an error is an answer: a restart would not repair a full disk."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await store.look_again([])
    except TimeoutError:
        return False
    except StoreError:
        return True
    return True


def reasons_not_ready(pipeline: Pipeline | None, phase: str, *, waits_for: StoreError | None = None) -> list[str]:
    """Return why changes may be missed at present, a sentence each; ``waits_for`` keeps the store from being opened."""
    error = waits_for if pipeline is None else pipeline.store_trouble
    reasons = [] if error is None else [advised(f"store: {error}", error.hint)]
    if pipeline is None or phase != "running":
        return [phase, *reasons] if waits_for is not None else [phase]
    for name, source in pipeline.intake.sources.items():
        if not source.health.ready and name not in pipeline.intake.finished:
            reasons.append(f"source {name}: {source.health.detail or source.health.state.value}")
    if not reasons and not pipeline.ready:
        reasons.append("starting")
    return reasons


def why_not_ready(state: DaemonState) -> list[str]:
    """Return why changes may be missed, are not sent or are held back at present; empty when none is."""
    reasons = reasons_not_ready(state.pipeline, state.phase, waits_for=state.store_error)
    return [*reasons, *reasons_for_people(state)]


def reasons_for_people(state: DaemonState) -> list[str]:
    """Return what a person must correct or decide before everything that is detected is refreshed."""
    missing = dict.fromkeys(f"{error}; {error.hint}" for error in state.unusable.values())
    if state.pipeline is None:
        return [*missing]
    sources = state.pipeline.intake.sources.items()
    accounts = [one.account for one in state.pipeline.engines]
    return [
        *missing,
        # without credentials an account says the same again
        *(f"account {one.name}: {one.misconfigured}" for one in accounts if one.misconfigured and not missing),
        *(f"source {name}: {source.health.detail}" for name, source in sources if _holds_back(source.health)),
    ]


def _holds_back(health: SourceHealth) -> bool:
    return health.figures.get(HELD_DELETIONS, 0) > 0


def reasons_degraded(pipeline: Pipeline | None) -> list[str]:
    """Return what sources that listen cannot see or do, what the store lost and what is wrong with the instance."""
    if pipeline is None:
        return []
    sources = {name: source.health for name, source in pipeline.intake.sources.items()}
    lost, own = pipeline.lost, pipeline.instance_trouble
    return (
        [f"store: {lost}"] * bool(lost)
        + [f"instance: {own}"] * bool(own)
        + [
            f"source {name}: {health.detail or health.state.value}"
            for name, health in sources.items()
            if health.ready and health.state is SourceState.DEGRADED and not _holds_back(health)
        ]
    )


def health_checks(
    pipeline: Pipeline | None,
    loop: LoopMonitor,
    writer: WriterMonitor,
    phase: str,
    *,
    waits_for: StoreError | None = None,
) -> list[HealthCheck]:
    """Return every check with its reason."""
    found = [
        HealthCheck("loop", loop.ok, f"{loop.late_seconds:.3f} s late"),
        HealthCheck("writer", writer.ok, "answers" if writer.ok else f"silent for {writer.silent_seconds:.0f} s"),
        HealthCheck("phase", phase == "running", phase),
    ]
    if pipeline is None:
        return found if waits_for is None else [*found, HealthCheck("store", ok=False, reason=str(waits_for))]
    error = pipeline.store_trouble
    found.append(HealthCheck("store", error is None, "commits" if error is None else str(error)))
    for name, source in pipeline.intake.sources.items():
        health = source.health
        ok = health.ready and not health.detail
        found.append(HealthCheck(f"source {name}", ok, health.detail or health.state.value))
    if own := pipeline.instance_trouble:
        found.append(HealthCheck("instance", ok=False, reason=own))
    for engine in pipeline.engines:
        reason = engine.account.closed_reason
        found.append(HealthCheck(f"account {engine.account.name}", not reason, reason or "open"))
    return found
