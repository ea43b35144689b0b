"""
The end of the process around a command, within a bound.

Python waits for every thread before it ends. One that reads from a server that never ends its answer
would keep the process until systemd kills it, and a command for ever.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

__all__ = ["bound_exit", "run_to_end"]

EXIT_SECONDS: Final = 20.0
"""An open poll of a queue may take 10 seconds, and gives back what it brings; the unit allows 45 for the whole stop."""


T = TypeVar("T")


class _Pool(ThreadPoolExecutor):
    """The loop's pool, for whose threads the end of the loop does not wait: :func:`bound_exit` does."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002
        """Take no more work; threads end once they are done with what they have."""
        super().shutdown(wait=False, cancel_futures=cancel_futures)


def run_to_end(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine as :func:`asyncio.run` does, without waiting for threads."""

    async def with_pool() -> T:
        asyncio.get_running_loop().set_default_executor(_Pool(thread_name_prefix="asyncio"))
        return await main

    return asyncio.run(with_pool())


def bound_exit(status: int) -> None:
    """End the process with this status after :data:`EXIT_SECONDS`, unless it ends by itself before."""
    threading.Thread(target=_exit_late, args=(status, threading.Event()), daemon=True, name="exit").start()


def _exit_late(status: int, never: threading.Event) -> None:
    never.wait(EXIT_SECONDS)
    import structlog

    log = structlog.get_logger()
    stuck = sorted(thread.name for thread in threading.enumerate() if not thread.daemon)
    log.warning("process.leaves_threads", threads=stuck, waited_seconds=EXIT_SECONDS)
    os._exit(status)
