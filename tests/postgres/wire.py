"""A wire to a server that tests disturb: it falls silent without closing, slows down, or breaks."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LINGER_NOT = struct.pack("ii", 1, 0)
"""A close with this option sends a reset instead of the rest."""


class Wire:
    """A TCP proxy on loopback, in a thread of its own; its methods may be called from any thread."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.delay_seconds = 0.0
        """Added to each piece in both directions, from the next piece on."""
        self._loop: asyncio.AbstractEventLoop
        self._passing: asyncio.Event
        self._stopping: asyncio.Event
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False

    def cut(self) -> None:
        """Read and answer nothing more, without closing anything: a black hole, for connections to come too."""
        self._call(self._passing.clear)

    def mend(self) -> None:
        """Pass everything again, also what waited meanwhile; accept connections."""

        def mend() -> None:
            self._refusing = False
            self._passing.set()

        self._call(mend)

    def reset(self) -> None:
        """Break the connections that are open; new ones are accepted."""
        self._call(self._reset)

    def refuse(self) -> None:
        """Break the connections that are open and each new one, until it is mended."""

        def refuse() -> None:
            self._refusing = True
            self._reset()

        self._call(refuse)

    async def serve(self, started: threading.Event) -> None:
        """Run until :meth:`stop`."""
        self._loop = asyncio.get_running_loop()
        self._passing, self._stopping = asyncio.Event(), asyncio.Event()
        self._passing.set()
        server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stopping.wait()
        server.close()
        self._refusing = True
        self._passing.set()
        self._reset()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    def stop(self) -> None:
        """End it with all its connections."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    def _call(self, change: object) -> None:
        done = threading.Event()

        def run() -> None:
            change()  # type: ignore[operator]
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10)

    def _reset(self) -> None:
        for writer in self._open:
            connection = writer.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            writer.transport.abort()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        far: asyncio.StreamWriter | None = None
        try:
            await self._passing.wait()
            if self._refusing:
                self._reset()
                return
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._open.add(far)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass(reader, far))
                both.create_task(self._pass(far_reader, writer))
        except* OSError:
            pass
        finally:
            self._tasks.discard(task)
            for end in (writer, far):
                if end is not None:
                    self._open.discard(end)
                    end.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            await self._passing.wait()
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


@contextmanager
def wire(target_port: int) -> Iterator[Wire]:
    """Run a wire to a port of this machine."""
    proxy, started = Wire(target_port), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(started)), name="wire", daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(10)
