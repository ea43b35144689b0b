"""What the service manager hears while the daemon lives."""

from __future__ import annotations

import asyncio

import structlog

from listener.daemon.health import reasons_not_ready, store_answers
from listener.daemon.life import Life
from listener.daemon.notify import Notifier
from listener.pipeline import Pipeline

__all__ = ["Teller"]

log = structlog.get_logger()

TELL_SECONDS = 0.1
MORE_TIME_SECONDS = 30.0


class Teller:
    """Tells when every source listens, and keeps the watchdog quiet while all is well."""

    def __init__(self, life: Life, notifier: Notifier) -> None:
        """Take what is told of, and to whom."""
        self._life = life
        self._notifier = notifier
        self._told: Pipeline | None = None
        self._asked = 0.0

    async def tell(self) -> None:
        """Tell how it goes, for ever."""
        while True:
            if self._life.phase == "running" and self._life.pipeline not in (None, self._told):
                self._tell_start(reasons_not_ready(self._life.pipeline, self._life.phase))
            await asyncio.sleep(TELL_SECONDS)

    def _tell_start(self, reasons: list[str]) -> None:
        now = asyncio.get_running_loop().time()
        if not reasons:
            self._told = self._life.pipeline
            self._notifier.ready()
            self._notifier.status("running: every source is listening")
            log.info("daemon.ready")
        elif now >= self._asked:
            self._asked = now + MORE_TIME_SECONDS / 3
            self._notifier.more_time(MORE_TIME_SECONDS)
            self._notifier.status(f"starting: {'; '.join(reasons)}")

    async def keep_watchdog(self, within_seconds: float) -> None:
        """Keep the watchdog quiet as long as the loop turns and the store's writer answers."""
        pause = within_seconds / 3
        while True:
            store = self._life.store
            if self._life.heart.ok and (store is None or await store_answers(store, pause)):
                self._notifier.alive()
            await asyncio.sleep(pause)
