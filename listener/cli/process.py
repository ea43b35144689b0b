"""
The process around a command: its standard streams, and its end within a bound.

**Streams** can always be written to, even when nobody reads them (any more).

**The end.** Python waits for every thread before it ends. One that reads from a server that never ends its answer
would keep the process until systemd kills it, and a command for ever.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


__all__ = ["bound_exit", "make_safe", "run_to_end"]

_GONE = {errno.EPIPE, errno.EIO}
"""The reader of a pipe ended; the terminal was closed."""

EXIT_SECONDS: Final = 20.0
"""An open poll of a queue may take 10 seconds, and gives back what it brings; the unit allows 45 for the whole stop."""


class _Lasting(io.FileIO):
    """A descriptor that becomes the null device once its reader has gone, so that the command still does its work."""

    def write(self, data: ReadableBuffer, /) -> int | None:  # type: ignore[override]
        """Write, or drop what nobody reads."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, self.fileno())
            os.close(null)
            return memoryview(data).nbytes


def make_safe() -> None:
    """
    Make stdout and stderr safe to write to, in this process.

    A closed descriptor is first opened as the null device: otherwise the next file opened, such as the state file,
    would take its number and receive the output. A reader that leaves does not end the command, whose exit status
    still reports its own result.
    """
    _occupy()
    sys.stdout = _safe(sys.stdout, sys.__stdout__, 1)
    sys.stderr = _safe(sys.stderr, sys.__stderr__, 2)


def _occupy() -> None:
    """Open the null device in place of each standard descriptor that is closed."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one


def _safe(stream: TextIO | None, original: TextIO | None, descriptor: int) -> TextIO:
    """Return a stream on the descriptor; a stream that replaced it (as in tests) is kept, with escaping added."""
    if stream is not None and (stream is not original or isinstance(getattr(stream, "buffer", None), _Buffer)):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # keys may hold bytes that are no UTF-8
        return stream
    if stream is not None:
        stream.flush()
    raw = _Lasting(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        _Buffer(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="backslashreplace",
        line_buffering=raw.isatty() or descriptor == 2,
    )


class _Buffer(io.BufferedWriter):
    """A buffer of ours."""


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
