"""How threads and the kernel reach the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from listener.kernel import Kernel

__all__ = ["Readable", "call_in_loop"]


def call_in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Have a function called in the event loop soon; nothing where the loop has ended. May be used in any thread."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(call)


class Readable:
    """Calls a function in the event loop whenever a queue of the kernel can be read, until closed with the queue."""

    def __init__(self, queue: Kernel, call: Callable[[], object]) -> None:
        """Take over the queue; to be called in the event loop, as :meth:`close`."""
        self.queue = queue
        asyncio.get_running_loop().add_reader(queue.descriptor, call)

    def close(self) -> None:
        """Close the queue; safe to call twice."""
        if self.queue.descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self.queue.descriptor)
            self.queue.close()
