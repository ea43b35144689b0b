"""
The sockets through which commands send their requests to the running daemon.

One is next to the state file and, like that file, for the daemon's user alone. The other is next to the admin socket
and has the same access: a user of the daemon's group needs no right to read the state, the configuration's
credentials or anything else.

A command that imports nothing but what it prints is several times faster than one that reads the configuration and the
state itself. It sends a request only where the daemon would read the same configuration; the first line of a connection
names the fingerprints of those, and the commands that must not be repeated without a response. One line of JSON each
way::

    daemon   {"accepts": [fingerprint, …], "writing": [command, …]}
    command  {"command": "status", "arguments": {…}}
    daemon   {"result": …}   {"error": {"message", "hint", "exit_status"}}   {"declined": true}

A command sends nothing before it has read that line, so that a daemon that hangs executes no command later whose user
has given up.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from listener.configuration import command_socket_path, group_socket_path, is_postgres, sqlite_path
from listener.daemon.command_handlers import HANDLERS, WRITING, Context
from listener.daemon.state import DaemonState, why_not_ready
from listener.daemon.status import Known
from listener.errors import ListenerError
from listener.files import PRIVATE
from listener.serving import open_unix_socket
from listener.store.owner import Owner

__all__ = ["CommandSocket"]

log = structlog.get_logger()

MOST_CONNECTIONS: Final = 32
"""Open connections; a further command reads the state file itself."""
MOST_ROWS: Final = 1_000
"""A longer list is left to the command: writing it would block the event loop, and take memory for good."""
LINE_BYTES: Final = 4 * 1024 * 1024
"""Longer than the arguments of a process can be (execve(2): 2 MiB by default)."""
IDLE_SECONDS: Final = 60.0
"""How long a connection may wait for its command, and a response for its reader."""
FINISH_SECONDS: Final = 2.0
"""How long a reload, or the end of the daemon, waits for the requests under way, which may wait for a CDN."""


GROUP_MODE: Final = 0o660
"""Of the socket for commands of the daemon's group, as of the admin socket."""


class _Request(NamedTuple):
    command: str
    arguments: dict[str, Any]


def _request_of(line: bytes) -> _Request:
    """Return the request in a line; raise ValueError where there is none."""
    try:
        found = json.loads(line)
        request = _Request(found["command"], found["arguments"])
        if request.command in HANDLERS and isinstance(request.arguments, dict):
            return request
    except (LookupError, TypeError, RecursionError):
        pass
    raise ValueError("no request of a command")


class CommandSocket:
    """Responds to commands while the daemon runs."""

    def __init__(self, state: DaemonState) -> None:
        """Respond from this state; nothing is open yet."""
        self._state = state
        self._modes: dict[Path, int] = {}
        """The sockets to listen on."""
        self._servers: dict[Path, asyncio.Server] = {}
        self._connections: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.Task[dict[str, Any]]] = set()
        """Those under way."""

    async def listen(self, store_url: str, admin_socket: str = "") -> None:
        """
        Listen next to this state file and this admin socket, unless it listens there already.

        Where no socket can be made, commands read the state themselves; a PostgreSQL store has none next to it.
        """
        modes = {} if is_postgres(store_url) else {command_socket_path(sqlite_path(store_url)): PRIVATE}
        if admin_socket:
            modes[group_socket_path(admin_socket)] = GROUP_MODE
        if modes == self._modes:
            return
        await self.close()
        self._modes = modes
        for path, mode in modes.items():
            try:
                made = await asyncio.to_thread(open_unix_socket, str(path), mode)
            except OSError as error:
                log.info("daemon.no_command_socket", path=str(path), error=str(error))
                continue
            self._servers[path] = await asyncio.start_unix_server(self._accept, sock=made, limit=LINE_BYTES)

    async def close(self) -> None:
        """Close all connections, and remove the sockets."""
        for server in self._servers.values():
            server.close()
        for one in self._connections:
            one.cancel()
        for path in self._servers:
            path.unlink(missing_ok=True)
        self._servers, self._modes = {}, {}

    async def finish(self) -> None:
        """Wait for the requests under way, for two seconds at most: what they use is closed next."""
        late = self._requests
        if late:
            _, late = await asyncio.wait(late, timeout=FINISH_SECONDS)
        for one in late:
            one.cancel()
        if late:
            await asyncio.wait(late)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= MOST_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, ValueError, TimeoutError, asyncio.CancelledError):
            pass  # the command has gone, sent no command, or the daemon ends
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _write(writer, {"accepts": self._fingerprints(), "writing": sorted(WRITING)})
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                line = await reader.readline()
            if not line:
                return
            response = asyncio.create_task(self._response(_request_of(line)))
            self._requests.add(response)
            response.add_done_callback(self._requests.discard)
            await _write(writer, await response)

    def _fingerprints(self) -> Sequence[str]:
        parts = self._state.parts
        return () if parts is None or self._state.phase != "running" else parts.settings.origin.fingerprints

    async def _response(self, request: _Request) -> dict[str, Any]:
        try:
            parts, store, pipeline = self._state.running()
        except ListenerError:
            return {"declined": True}
        if self._state.phase != "running":
            return {"declined": True}  # the parts are closed soon, or already
        if (request.arguments.get("limit") or 0) > MOST_ROWS:
            return {"declined": True}
        owner = Owner(True, os.getpid())
        known = Known.to(pipeline)._replace(is_ready=not why_not_ready(self._state))
        context = Context(parts.settings, store, owner, lambda: parts.targets, known)
        try:
            return {"result": await HANDLERS[request.command](context, **request.arguments)}
        except ListenerError as error:
            return {"error": {"message": str(error), "hint": error.hint, "exit_status": error.exit_status}}
        except Exception:
            log.exception("daemon.command_failed", command=request.command)
            return {"declined": True}


async def _write(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(json.dumps(message, default=str).encode() + b"\n")
    async with asyncio.timeout(IDLE_SECONDS):
        await writer.drain()
