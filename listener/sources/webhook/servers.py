"""
The servers: one for each address, shared by all sources that name it, for as long as one of them needs it.

::

    Servers ──address──▶ Server ──door──▶ aiohttp ──path──▶ Receiver
"""

from __future__ import annotations

import asyncio

from listener.errors import ConfigurationError
from listener.sources.webhook.receiver import Receiver
from listener.sources.webhook.server import Server, shared

__all__ = ["Servers"]


class Servers:
    """The servers of one event loop, by address; sources come and go, and the last one turns off the light."""

    def __init__(self) -> None:
        """Hold none."""
        self._servers: dict[str, Server] = {}
        self._lock = asyncio.Lock()

    async def join(self, receiver: Receiver) -> Server:
        """
        Return the server of the receiver's address, started where need be, with the receiver at its path.

        Raises:
            ConfigurationError: the path is taken, what is shared differs, or TLS files are wrong.
            SourceUnavailable: the address cannot be had.
        """
        settings = receiver.settings
        async with self._lock:
            server = self._servers.get(settings.listen)
            if server is None:
                server = Server(settings)
                try:
                    await server.start()
                except BaseException:
                    await server.close()
                    raise
                self._servers[settings.listen] = server
            _check_room(server, receiver)
            server.receivers[settings.path] = receiver
            return server

    async def leave(self, receiver: Receiver) -> None:
        """Take the receiver from its server, and close that where it was the last; safe to call twice."""
        settings = receiver.settings
        async with self._lock:
            server = self._servers.get(settings.listen)
            if server is None or server.receivers.get(settings.path) is not receiver:
                return
            del server.receivers[settings.path]
            if not server.receivers:
                del self._servers[settings.listen]
                await server.close()

    def serves(self, listen: str) -> bool:
        """Tell whether this address is served here."""
        return listen in self._servers


def _check_room(server: Server, receiver: Receiver) -> None:
    key, settings = f"sources.{receiver.name}", receiver.settings
    other = server.receivers.get(settings.path)
    if other is not None:
        raise ConfigurationError(
            f"{key}.path: {settings.path} on {settings.listen} is that of sources.{other.name}",
            hint="give each source a path of its own",
        )
    different = [name for name, mine in shared(settings)._asdict().items() if mine != getattr(server.shared, name)]
    if different:
        raise ConfigurationError(
            f"{key}.{different[0]}: differs from that of another source on {settings.listen}",
            hint="sources that share an address share it, or give this one another address",
        )
