"""
The servers: one for each address, shared by all sources that name it, for as long as one of them needs it.

::

    Servers ──address──▶ Server ──door──▶ aiohttp ──path──▶ Receiver
"""

from __future__ import annotations

import asyncio

from listener.errors import ConfigurationError, SourceUnavailable
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
            SourceUnavailable: the address or a TLS file cannot be had, or the sources that had it are still ending.
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
            elif all(each.draining for each in server.receivers.values()):
                raise SourceUnavailable(f"what listened on {settings.listen} is still ending", hint="wait a moment")
            _check_room(server, receiver)
            server.receivers[settings.path] = receiver
            return server

    async def leave(self, receiver: Receiver) -> None:
        """
        Let the receiver go, and close its server once all have gone; safe to call twice.

        Until then its path answers 503: a successor may come, and a 404 would make a sender give up.
        """
        async with self._lock:
            server = self._servers.get(receiver.settings.listen)
            if server is None or receiver not in server.receivers.values():
                return
            receiver.is_gone = True
            if all(each.is_gone for each in server.receivers.values()):
                await server.close()
                del self._servers[receiver.settings.listen]

    def serves(self, listen: str) -> bool:
        """Return whether this address is served here."""
        return listen in self._servers


def _check_room(server: Server, receiver: Receiver) -> None:
    key, settings = f"sources.{receiver.name}", receiver.settings
    other = server.receivers.get(settings.path)
    if other is not None and not other.draining:
        raise ConfigurationError(
            f"{key}.path: {settings.shown_path} on {settings.listen} is that of sources.{other.name}",
            hint="give each source a path of its own",
        )
    different = [name for name, mine in shared(settings)._asdict().items() if mine != getattr(server.shared, name)]
    if different:
        raise ConfigurationError(
            f"{key}.{different[0]}: differs from that of another source on {settings.listen}",
            hint="sources that share an address share it, or give this one another address",
        )
