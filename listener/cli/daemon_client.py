"""
Commands send a request to the daemon where it runs with the same configuration, and do the work themselves elsewhere.

Both ways call the same function of :mod:`listener.daemon.command_handlers`. A request takes nothing but a socket and
JSON: no configuration model, no state file, no event loop.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from listener.configuration import (
    DEFAULT_STORE,
    Configuration,
    admin_socket_of,
    adopt_credentials,
    command_socket_path,
    group_socket_path,
    level_of,
    read_configuration,
    sqlite_path,
)
from listener.errors import ConfigurationError, ListenerError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from listener.daemon.command_handlers import Context
    from listener.settings import Settings

__all__ = ["call", "call_daemon"]

HANDSHAKE_SECONDS: Final = 1.0
"""A daemon that runs sends its first line at once; one that is stopped, or whose loop hangs, never does."""
RESPONSE_SECONDS: Final = 30.0
"""Longer than a read of the CDN's quota takes; see :class:`listener.alibaba.calls.Timeouts`."""
_LONG: Final = {"check": 600.0}
"""Commands that may take longer."""
_CREDENTIALS: Final = struct.Struct("3i")
"""``struct ucred`` of unix(7): process, user, group."""


def call(command: str, config: Path | None, **arguments: Any) -> Any:
    """
    Return the result of this command of :mod:`listener.daemon.command_handlers`, as plain data.

    Raises :class:`~listener.errors.ListenerError` as that does, and as reading the configuration does.
    """
    read = _read(config)
    found = _call_daemon(read, command, arguments)
    return _here(read, command, arguments) if found is None else found


def call_daemon(command: str, config: Path | None, **arguments: Any) -> Any:
    """Return the daemon's result, as :func:`call` does; None where none runs with this configuration."""
    return _call_daemon(_read(config), command, arguments)


def _read(config: Path | None) -> Configuration:
    level_of(os.environ, "warning")  # raises for a wrong one
    adopt_credentials(config, os.environ)
    return read_configuration(config, os.environ)


def _call_daemon(read: Configuration, command: str, arguments: dict[str, Any]) -> Any:
    for path, users in _sockets(read):
        try:
            response = _response(path, users, read, {"command": command, "arguments": arguments})
        except OSError:
            continue
        if "error" in response:
            raise _as_raised(response["error"])
        if response:
            return response.get("result")
    return None


def _sockets(read: Configuration) -> Iterator[tuple[Path, Path]]:
    """
    Yield where a daemon with this configuration may listen, each with the path whose owner it is.

    Next to the state file that is the owner of the file; next to the admin socket the owner of the directory, in which
    nobody else can put a socket of that user.
    """
    store = read.table.get("store", {})
    url = store.get("url", DEFAULT_STORE) if isinstance(store, dict) else None
    if isinstance(url, str):
        with suppress(ConfigurationError):  # a PostgreSQL store; reading the settings reports what is wrong
            state = sqlite_path(url)
            yield command_socket_path(state), state
    if admin := admin_socket_of(read.table, read.path):
        yield group_socket_path(admin), Path(admin).parent


def _response(path: Path, owned: Path, read: Configuration, request: dict[str, Any]) -> dict[str, Any]:
    """Return the daemon's response; empty where none runs with this configuration. Raise OSError where it is silent."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.settimeout(HANDSHAKE_SECONDS)
        channel.connect(os.fspath(path))
        if not _is_trusted(channel, owned):
            return {}
        with channel.makefile("rb") as lines:
            offer = _line(lines)
            if not set(read.asked_for).intersection(offer.get("accepts", ())):
                return {}
            is_writing = request["command"] in offer.get("writing", ())
            channel.settimeout(_LONG.get(request["command"], RESPONSE_SECONDS))
            channel.sendall(json.dumps(request).encode() + b"\n")
            try:
                response = _line(lines)
            except OSError:
                if not is_writing:
                    raise
                response = {}
        if response or not is_writing:
            return response
        raise ListenerError(
            "the daemon took the request and did not respond: it may have done it, or may still do it",
            hint="see cdn-listener status",
        )


def _is_trusted(channel: socket.socket, owned: Path) -> bool:
    """Return whether the other end is root's, ours, or of the user who owns this path."""
    user = _CREDENTIALS.unpack(channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))[1]
    return user in {0, os.geteuid()} or user == owned.stat().st_uid


def _line(lines: BinaryIO) -> dict[str, Any]:
    """Return the next message; empty at the end, as when the daemon ends, and for what is none."""
    line = lines.readline()
    try:
        found = json.loads(line) if line.endswith(b"\n") else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _as_raised(error: dict[str, Any]) -> ListenerError:
    raised = ListenerError(error["message"], hint=error["hint"])
    raised.exit_status = error["exit_status"]
    return raised


def _here(read: Configuration, command: str, arguments: dict[str, Any]) -> Any:
    """Do it in this process."""
    from listener.cli.common import importing, log_at, run_async

    with importing():
        log_at("warning")  # before any other import of structlog

        from listener.daemon.command_handlers import HANDLERS, WRITING
        from listener.settings.loading import settings_of

    async def handled() -> Any:
        async with _context(settings, writes=command in WRITING) as context:
            return await HANDLERS[command](context, **arguments)

    settings = settings_of(read)
    return run_async(handled())


@asynccontextmanager
async def _context(settings: Settings, *, writes: bool) -> AsyncIterator[Context]:
    """Open what a command needs; its targets are closed in the end."""
    from listener.cli.common import opened_store, owner_of_store
    from listener.daemon.command_handlers import Context
    from listener.plugins import load_targets

    async with opened_store(settings, writes=writes) as store:
        context = Context(settings, store, owner_of_store(settings), lambda: load_targets(settings))
        try:
            yield context
        finally:
            if "targets" in vars(context):
                for target in context.targets.values():
                    await target.close()
