"""An aiohttp server behind the connection limiter."""

from __future__ import annotations

import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiohttp import web

from listener.serving.limiter import MAX_HEAD_BYTES, ConnectionLimiter, ConnectionLimits
from listener.serving.listening import Acceptor, shown_address
from listener.serving.requests import Bodies

__all__ = ["WEB_OPTIONS", "HttpServer"]

READ_BUFFER_BYTES: Final = 16 * 1024
KEEPALIVE_SECONDS: Final = 75.0
LINGER_SECONDS: Final = 1.0
"""What a client may take for the rest of a body that is not read."""

_SILENT: Final = logging.getLogger("listener.serving.http")
_SILENT.disabled = True
"""aiohttp logs a traceback for each malformed request; what a client can cause is counted here, and not logged."""

WEB_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,
    "logger": _SILENT,
    "keepalive_timeout": KEEPALIVE_SECONDS,
    "max_line_size": MAX_HEAD_BYTES,
    "max_field_size": MAX_HEAD_BYTES,
    "read_bufsize": READ_BUFFER_BYTES,
    "lingering_time": LINGER_SECONDS,
    "auto_decompress": False,
}
"""How :class:`aiohttp.web.Server`, or a runner that makes one, is set up for :class:`HttpServer`."""


class HttpServer:
    """Listening sockets, the connection limiter, and aiohttp's server that serves requests."""

    def __init__(
        self,
        server: web.Server,
        limits: ConnectionLimits,
        *,
        bodies: Bodies | None = None,
        changed: Callable[[], None] = lambda: None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """
        Take a server that was made with :data:`WEB_OPTIONS`, and what reads bodies for it; open nothing.

        ``changed`` is called whenever there are more or fewer connections.
        """
        self.bodies = Bodies() if bodies is None else bodies
        self.rejected: Counter[int] = Counter()
        """Connections closed before their first request, by status."""
        self._server = server
        self.limiter = ConnectionLimiter(
            limits,
            make_handler=server,
            release_slow_body=self.bodies.release_slowest,
            count_rejected=lambda status: self.rejected.update((status,)),
            changed=changed,
            tls=tls,
        )
        self._acceptor: Acceptor | None = None
        # aiohttp calls this method of the server for each connection that ends, and offers no other way to know.
        setattr(server, "connection_lost", _call_after(server.connection_lost, self.limiter.closed))  # noqa: B010

    def start(self, sockets: Sequence[socket.socket]) -> None:
        """Serve these listening sockets from now on."""
        self._acceptor = Acceptor(sockets, self.limiter, self.limiter.make_room)
        self._acceptor.start()

    def __len__(self) -> int:
        """Return how many connections are open."""
        return len(self.limiter)

    @property
    def address(self) -> str:
        """Where it listens, such as ``127.0.0.1:9181``; empty while it does not."""
        sockets = self._acceptor.sockets if self._acceptor is not None else ()
        return shown_address(sockets[0]) if sockets else ""

    def stop_accepting(self) -> None:
        """Leave new connections to whoever shares the listening sockets."""
        if self._acceptor is not None:
            self._acceptor.stop()

    async def close(self, *, seconds: float) -> None:
        """Close every socket and connection; wait so long for answers to be written; safe to call twice."""
        if self._acceptor is not None:
            await self._acceptor.close()
        self.limiter.close()
        self._server.pre_shutdown()
        await self._server.shutdown(seconds)


def _call_after(call: Callable[..., None], then: Callable[[Any], None]) -> Callable[..., None]:
    def both(handler: Any, exc: BaseException | None = None) -> None:
        call(handler, exc)
        then(handler)

    return both
