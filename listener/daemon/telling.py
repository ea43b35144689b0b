"""What the service manager hears while the daemon lives."""

from __future__ import annotations

import asyncio

import structlog

from listener.contracts import SourceState
from listener.daemon.health import reasons_not_ready, store_answers
from listener.daemon.life import Life
from listener.daemon.notify import Notifier
from listener.pipeline import Pipeline

__all__ = ["Teller"]

log = structlog.get_logger()

TELL_SECONDS = 0.1
MORE_TIME_SECONDS = 30.0
DEGRADED_START_SECONDS = 10.0
"""A source that is degraded for so long ends the start all the same: what it waits for may take days to come, and a
boot must not wait for it."""


class Teller:
    """Tells when every source listens, and keeps the watchdog quiet while all is well."""

    def __init__(self, life: Life, notifier: Notifier) -> None:
        """Take what is told of, and to whom."""
        self._life = life
        self._notifier = notifier
        self._told: Pipeline | None = None
        self._reasons: list[str] = []
        self._asked = 0.0
        self._degraded_since: float | None = None

    async def tell(self) -> None:
        """Tell how it goes, for ever."""
        while True:
            pipeline = self._life.pipeline
            if self._life.phase == "running" and pipeline is not None:
                reasons = reasons_not_ready(pipeline, self._life.phase)
                if pipeline is self._told:
                    self._tell_change(reasons)
                else:
                    self._tell_start(pipeline, reasons)
            await asyncio.sleep(TELL_SECONDS)

    def _tell_start(self, pipeline: Pipeline, reasons: list[str]) -> None:
        now = asyncio.get_running_loop().time()
        if not reasons or self._is_degraded_for_long(pipeline, now):
            self._told, self._degraded_since = pipeline, None
            self._notifier.ready()
            self._report(reasons)
        elif now >= self._asked:
            self._asked = now + MORE_TIME_SECONDS / 3
            self._notifier.more_time(MORE_TIME_SECONDS)
            self._notifier.status(f"starting: {'; '.join(reasons)}")

    def _is_degraded_for_long(self, pipeline: Pipeline, now: float) -> bool:
        """Whether all that keeps it from being ready is sources that have been degraded for some time."""
        intake = pipeline.intake
        waiting = [one for name, one in intake.sources.items() if not one.health.ready and name not in intake.finished]
        states = {source.health.state for source in waiting}
        if pipeline.store_trouble is not None or not states or not states <= {SourceState.DEGRADED}:
            self._degraded_since = None
        elif self._degraded_since is None:
            self._degraded_since = now
        return self._degraded_since is not None and now - self._degraded_since >= DEGRADED_START_SECONDS

    def _tell_change(self, reasons: list[str]) -> None:
        if reasons != self._reasons:
            self._report(reasons, is_news=bool(reasons) != bool(self._reasons))

    def _report(self, reasons: list[str], *, is_news: bool = True) -> None:
        self._reasons = reasons
        text = f"degraded: {'; '.join(reasons)}" if reasons else "running: every source is listening"
        self._notifier.status(text)
        if is_news and reasons:
            log.warning("daemon.degraded", reasons=reasons)
        elif is_news:
            log.info("daemon.ready")

    async def keep_watchdog(self, within_seconds: float) -> None:
        """Keep the watchdog quiet as long as the loop turns and the store's writer answers."""
        pause = within_seconds / 3
        while True:
            store = self._life.store
            if self._life.heart.ok and (store is None or await store_answers(store, pause)):
                self._notifier.alive()
            await asyncio.sleep(pause)
