"""A source whose worker makes no progress is reported within a minute, whatever it hangs in (promise 7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import structlog

from listener.contracts import Source, SourceHealth, SourceState

__all__ = ["STALLED_SECONDS", "Stalls", "judged"]

log = structlog.get_logger()

STALLED_SECONDS = 60.0
_LOOK_SECONDS = 5.0
_REPORTED = (SourceState.FAILED, SourceState.STOPPED)


def judged(source: Source) -> Sequence[SourceHealth]:
    """Return the health of each worker of a source: one made of several (``parts``) only joins what they say."""
    return [part.health for part in getattr(source, "parts", (source,))]


class _Before(NamedTuple):
    """What a source said of itself before it was reported."""

    state: SourceState
    ready: bool
    detail: str


class Stalls:
    """
    Looks when each source last made progress (:meth:`~listener.contracts.SourceHealth.progressed`).

    A source that rests or never says so is not judged, nor is one whose delivery is being taken.
    """

    def __init__(self, sources: Callable[[], Mapping[str, Source]], busy: Collection[str]) -> None:
        """Judge these sources, but for those named in ``busy``, which wait for us."""
        self._sources = sources
        self._busy = busy
        self._reported: dict[tuple[str, int], tuple[str, _Before]] = {}

    async def watch(self) -> None:
        """Look at all sources, for ever."""
        while True:
            now = asyncio.get_running_loop().time()
            for name, source in self._sources().items():
                for part, health in enumerate(judged(source)):
                    self._judge((name, part), health, now)
            await asyncio.sleep(_LOOK_SECONDS)

    def _judge(self, worker: tuple[str, int], health: SourceHealth, now: float) -> None:
        name, silent = worker[0], health.silent_seconds(now)
        is_stalled = silent is not None and silent > STALLED_SECONDS - _LOOK_SECONDS and name not in self._busy
        text, before = self._reported.get(worker, ("", _Before(health.state, health.ready, health.detail)))
        if is_stalled and not text and health.state not in _REPORTED:
            text = (
                f"no progress for {silent:.0f} s: a call to a file system, a thread or the network does not return;"
                " look at the mount or the service behind it, then restart the daemon if it stays so"
            )
            self._reported[worker] = (text, before)
            log.error("source.stalled", source=name, silent_seconds=round(silent or 0.0, 1))
            health.state, health.ready, health.detail = SourceState.DEGRADED, False, text
        elif text and not is_stalled:
            del self._reported[worker]
            log.info("source.moves_again", source=name)
            if health.detail == text:
                health.state, health.ready, health.detail = before
